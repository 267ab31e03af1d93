"""A small pair model and random pairs; as a program, what each of two ranks does for `test_pair_objectives.py`."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from internvl.data.batch import PairBatch
from internvl.models.config import PairConfig
from internvl.models.pair import PairModel
from internvl.training.config import Aim
from internvl.training.pair_objectives import PairLoss
from internvl.training.world import World, start_world
from tests.models.tiny import LLAMA, VISION, shake

PRETRAIN = Aim(kind="pretrain_pair")
RETRIEVAL = Aim(kind="retrieval", captioning=0.0)
AIMS = {
    "first stage": replace(PRETRAIN, matching=0.0, captioning=0.0),
    "second stage": replace(PRETRAIN, matching=0.0, label_smoothing=0.1),
    "retrieval": RETRIEVAL,
}
"""Which rows of `pretrain_pair` are matched with another's text depends on how rows are divided (the first half of each
batch), so that matching is left out there."""
SPLIT = 4
"""Of six rows the first rank has four."""


def pair_model(queries: int = 4, seed: int = 0) -> PairModel:
    config = PairConfig(
        vision=VISION, text=replace(LLAMA, kv_heads=4), embed_dim=24, pool_heads=4, queries=queries, cross_every=2
    )
    return shake(PairModel(config), seed)


def batch_of(rows: int, seed: int = 0, *, empty: tuple[int, ...] = ()) -> PairBatch:
    """Random pictures and texts of random lengths; rows 0 and 1 show one picture."""
    draw = torch.Generator().manual_seed(seed)

    def texts(first: int) -> Tensor:
        ids = torch.randint(3, 95, (rows, 9), generator=draw)
        ids[torch.arange(9) >= torch.randint(3, 10, (rows, 1), generator=draw)] = 0
        ids[:, 0] = first
        return ids

    captions, generation = texts(1), texts(1)
    for row in empty:
        captions[row, 2:] = 0
    return PairBatch(
        tiles=torch.randint(0, 256, (rows, 56, 56, 3), generator=draw, dtype=torch.uint8),
        summary=texts(1),
        caption=captions,
        negative=texts(1),
        generation=generation,
        generation_targets=generation.where((generation != 0) & (torch.arange(9) > 1), -100),
        image_ids=torch.arange(rows).clamp(min=1),
        positions=tuple(range(rows)),
    )


def part(batch: PairBatch, rows: slice) -> PairBatch:
    names = ("tiles", "summary", "caption", "negative", "generation", "generation_targets", "image_ids", "positions")
    return PairBatch(**{name: getattr(batch, name)[rows] for name in names})


def learn(world: World, folder: Path) -> None:
    """This rank's share of every loss, and the gradients of all ranks added up."""
    for name, aim in AIMS.items():
        model, objective = pair_model(), PairLoss(aim, world)
        own = part(batch_of(6, empty=(4,)), slice(0, SPLIT) if world.rank == 0 else slice(SPLIT, 6))
        totals = world.sum(objective.totals(own))
        loss = objective.loss(model, own, totals)
        loss.value.backward()
        told = world.sum({"loss": loss.value.item(), **{key: float(value) for key, value in loss.metrics.items()}})
        found = {f"told.{key}": torch.tensor(value) for key, value in told.items()}
        found |= {f"totals.{key}": torch.tensor(value) for key, value in totals.items()}
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                found[f"grad.{key}"] = parameter.grad
        if world.rank == 0:
            save_file(found, folder / f"{name}.safetensors")


if __name__ == "__main__":
    with start_world("cpu") as here:
        learn(here, Path(sys.argv[1]))

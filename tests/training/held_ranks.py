"""What each of two ranks does for `test_held_on_ranks.py`: steps in bf16 with frozen weights in fp32 and in bf16."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from internvl.models.chat import ChatModel
from internvl.training.checkpoint import Saver, latest, restore
from internvl.training.config import Learn, Optim, Parallel, Start
from internvl.training.held import widen_learning
from internvl.training.learn import choose
from internvl.training.loop import autocast
from internvl.training.optim import adamw
from internvl.training.parallel import World, gathered, parallelise, reduce_gradients, start_world
from internvl.training.start import begin
from tests.conftest import golden
from tests.models.tiny import random_ids

SHARDS = ("none", "full")
LEARNS = {
    "lora": Learn(vision=False, language=False, language_lora=4, lora_dropout=0.0),
    "projector": Learn(vision=False, language=False),
    "dora": Learn(vision=False, projector=False, language=False, vision_lora=2, lora_dropout=0.0, dora=True),
}


def begun(how: str, shard: str, narrow: bool, world: World) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = begin(Start(model=str(golden("checkpoints/qwen2-v2_5-bf16"))), narrow=narrow).model
    choose(model, LEARNS[how], seed=1)
    widen_learning(model)
    model = parallelise(model, Parallel(shard=shard), world, dtype="bf16")
    return model.train(), adamw(model, Optim(lr=1e-2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> float:
    """One step on four rows, each with a picture, divided over the ranks."""
    assert isinstance(model, ChatModel)
    rows = [row for row in range(4) if row % world.size == world.rank]
    words = random_ids(4, 12, seed=3)[rows]
    slots = torch.full((len(rows), model.config.slots_per_tile), model.config.image_token)
    ids = torch.cat((words[:, :2], slots, words[:, 2:]), dim=1)
    size = model.config.tile_size
    pixels = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))[rows]
    with autocast(world.device, "bf16"):
        loss = -model.token_logprobs(ids, ids.masked_fill(ids == model.config.image_token, -100), pixels).sum() / 44
    optimizer.zero_grad()
    loss.backward()
    reduce_gradients(model, world)
    optimizer.step()
    return world.sum({"loss": loss.item()})["loss"]


def run(out: Path, world: World) -> dict[str, list[float]]:
    """Losses of three steps; then those of two steps more, twice: going on, and restored. And what an answer is."""
    found: dict[str, list[float]] = {}
    for how in LEARNS:
        for shard in SHARDS:
            for narrow in (False, True):
                name = f"{how} {shard} {'narrow' if narrow else 'wide'}"
                model, optimizer = begun(how, shard, narrow, world)
                found[f"{name} held"] = [sum(_own(p).nbytes for p in model.parameters() if not p.requires_grad)]
                found[name] = [step(model, optimizer, world) for _ in range(3)]
                Saver(out / name, keep=1, world=world).save(3, model, optimizer, {}, wait=True)
                found[f"{name} on"] = [step(model, optimizer, world) for _ in range(2)]
                again, other = begun(how, shard, narrow, world)
                folder = latest(out / name)
                assert folder is not None
                restore(folder, again, other, world)
                found[f"{name} again"] = [step(again, other, world) for _ in range(2)]
                with gathered(model.eval()), autocast(world.device, "bf16"), torch.no_grad():
                    found[f"{name} says"] = model(random_ids(1, 9, seed=5))[0, -1, :5].tolist()
    return found


def _own(parameter: torch.Tensor) -> torch.Tensor:
    from torch.distributed.tensor import DTensor

    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with start_world("cpu") as here:
        told = run(place, here)
        if here.rank == 0:
            (place / "told.json").write_text(json.dumps(told))

"""A few steps of training on any number of ranks, with the smallest loss that is exact: what every proof here runs."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from internvl.models.chat import ChatModel
from internvl.training.config import Parallel
from internvl.training.model_folder import reshard, whole_tensors
from internvl.training.pair_objectives import PairLoss
from internvl.training.parallel import World, clip, last_backward, parallelise, reduce_gradients
from internvl.weights import adapters
from tests.models.tiny import IMAGE, VISIONS, chat_config, random_ids, shake
from tests.training.test_pair_objectives import RETRIEVAL, batch_of, pair_model

ALONE = World()
EAGER = Parallel(shard="none", checkpoint_language=False, checkpoint_vision=False)
SAMPLES = (0, 1, 2, 3)
"""Two ranks that take every second one: all pictures are on one of them, the other has only text."""


LOSS, WEIGHT = 2e-6, 1e-5
"""Two ranks and one add the same gradients in another order; a compiled function too. Worst
seen: 6e-7 and 1.3e-6."""


@dataclass
class Ran:
    losses: list[float]
    norms: list[float]
    weights: dict[str, Tensor]

    def far_from(self, other: "Ran") -> tuple[float, float]:
        """The largest difference of losses and norms, and of weights. AdamW does not see a factor on all gradients."""
        ours, theirs = self.losses + self.norms, other.losses + other.norms
        losses = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        assert self.weights.keys() == other.weights.keys()
        return losses, max(float((self.weights[n] - other.weights[n]).abs().max()) for n in self.weights)


def sample(number: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids, targets, tiles: even ones have a picture, odd ones are text alone."""
    ids = random_ids(1, 9 + number % 3, seed=number)
    if number % 2 == 0:
        ids[0, 1:5] = IMAGE
    targets = ids.clone()
    targets[:, : 5 + number % 2] = -100
    draw = torch.Generator().manual_seed(number)
    return ids, targets, torch.randn(1, 3, 56, 56, generator=draw) if number % 2 == 0 else None


def tiny(text: str = "qwen2", *, rank: int = 0, drop: float = 0.0, seed: int = 0) -> ChatModel:
    """A chat model of three layers and blocks; with adapters (of this rank) only they and the projector learn."""
    vision = replace(VISIONS["300m"], drop_path=drop, dropout=drop / 2, attention_dropout=drop / 2)
    model = ChatModel(replace(chat_config(text), vision=vision))
    if rank:
        adapters.attach(model, {"language_model.": rank, "vision_model.": rank})
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name or name.startswith("mlp1."))
    return shake(model, seed).train()


def optimizer_of(model: nn.Module) -> torch.optim.AdamW:
    """`eps` is large: where the true gradient is 0 (a bias of keys), AdamW would make steps of rounding errors."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": found, "foreach": sharded}
        for sharded in (False, True)
        if (found := [p for p in learnt if isinstance(p, DTensor) is sharded])
    ]
    return torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.05, eps=1e-4)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    world: World = ALONE,
    *,
    steps: Sequence[int] = (0, 1, 2),
    dtype: torch.dtype | None = None,
    largest: float = 1.0,
    samples: Sequence[int] = SAMPLES,
) -> Ran:
    """Every step has the same samples, this rank's share of them one by one; random numbers go on by themselves."""
    losses, norms = [], []
    own = [sample(number) for number in samples[world.rank :: world.size]]
    total = world.sum({"tokens": float(sum(int((targets >= 0).sum()) for _, targets, _ in own))})["tokens"]
    for _ in steps:
        optimizer.zero_grad()
        value = 0.0
        for place, (ids, targets, tiles) in enumerate(own):
            with last_backward(model, world, last=place == len(own) - 1):
                with nullcontext() if dtype is None else torch.autocast("cpu", dtype):
                    loss = -model.token_logprobs(ids, targets, tiles).sum() / total
                loss.backward()
                value += float(loss.detach())
        reduce_gradients(model, world)
        norms.append(clip(model.parameters(), largest, world))
        optimizer.step()
        losses.append(world.sum({"loss": value})["loss"])
    reshard(model)
    return Ran(losses, norms, whole_tensors(model, keep=True))


def pair_trained(parallel: Parallel, world: World = ALONE) -> Ran:
    """Three steps of retrieval, whose rows look for their counterparts on all ranks."""
    model = parallelise(pair_model().train(), parallel, world, dtype="fp32")
    optimizer, objective = optimizer_of(model), PairLoss(RETRIEVAL, world)
    whole, losses, norms = batch_of(6), [], []
    own = {
        f.name: getattr(whole, f.name)[world.rank * 2 :][: 6 if world.size == 1 else 2 + 2 * world.rank]
        for f in fields(whole)
    }  # two rows of one rank, four of the other
    batch = replace(whole, **own)
    totals = world.sum(objective.totals(batch))
    for _ in range(3):
        optimizer.zero_grad()
        with last_backward(model, world, last=True):
            loss = objective.loss(model, batch, totals).value
            loss.backward()
        reduce_gradients(model, world)
        norms.append(clip(model.parameters(), 1.0, world))
        optimizer.step()
        losses.append(world.sum({"loss": float(loss.detach())})["loss"])
    reshard(model)
    return Ran(losses, norms, whole_tensors(model, keep=True))


def trained(text: str, parallel: Parallel, world: World = ALONE, *, rank: int = 0, dtype: str = "fp32") -> Ran:
    """Three steps of a new model."""
    model = parallelise(tiny(text, rank=rank), parallel, world, dtype=dtype)
    kind = {"fp32": None, "bf16": torch.bfloat16}[dtype]
    return train(model, optimizer_of(model), world, dtype=kind)


def same(a: Ran, b: Ran) -> bool:
    """Bit for bit."""
    return a.losses == b.losses and a.norms == b.norms and a.far_from(b) == (0.0, 0.0)

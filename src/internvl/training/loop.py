"""The training loop: the only one.

for every step
    the micro-batches of the step are drawn
    what their losses are divided by is summed over micro-batches and ranks      -> exact, however they are divided
    each is run forward and backward; gradients add up
    the norm of all gradients is measured and clipped, the optimiser steps

A step draws its random numbers (drop path, dropout) from the seed, its number and the rank, so that a run that was
interrupted goes on as if it had not been.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import Tensor, nn

from internvl.data.batch import Batch, ChatBatch
from internvl.data.encode import NOT_LEARNT
from internvl.errors import DataError, TrainingError
from internvl.training.config import Dtype, Optim
from internvl.training.learn import train_mode
from internvl.training.objective import Objective
from internvl.training.optim import Scaler, rate_at, set_rate
from internvl.training.parallel import World, clip, last_backward, reduce_gradients

MOST_SKIPPED = 3
"""Steps in a row whose gradients may be infinite or no numbers; fp16 finds its scale that way and may need more."""
MOST_SKIPPED_FP16 = 30
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Step:
    """What one optimiser step did; sums are over all ranks."""

    number: int
    progress: float
    loss: float
    metrics: Mapping[str, float]
    lr: float
    """The highest of all groups."""
    norm: float
    """Of all gradients together, before clipping."""
    samples: int
    tokens: int
    learnt: int
    tiles: int
    seconds: float
    waited: float
    """Seconds of these in which the step waited for data."""
    memory: int
    """Most bytes in use so far on this device; on a CPU, of this process."""
    skipped: bool = False
    """The gradients were not finite and the weights stayed as they were."""


@dataclass
class Trainer:
    """What a loop works on. All of it but the model and the optimiser is small."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    optim: Optim
    scaler: Scaler
    world: World = field(default_factory=World)
    dtype: Dtype = "fp32"
    accumulate: int = 1
    """Micro-batches of one step on this rank."""
    seed: int = 0
    number: int = 0
    """Steps made so far."""
    done: float = 0.0
    """The share of the run that these are."""

    @property
    def steps_in_a_row(self) -> int:
        return MOST_SKIPPED_FP16 if self.dtype == "fp16" else MOST_SKIPPED


def steps(trainer: Trainer, batches: Iterator[Batch], progress: Callable[[int], float]) -> Iterator[Step]:
    """Train until the batches of all ranks are used up; yields after every step.

    `progress(step)` is the share of the run that is done when that step, counted from 1, is; it is asked after the
    step's batches were drawn. A step has the rate of its middle.
    """
    skipped, last = 0, None
    while True:
        began = time.perf_counter()
        drawn: list[Batch] = list(islice(batches, trainer.accumulate))
        waited = time.perf_counter() - began
        last = drawn[-1] if drawn else last
        if not _goes_on(trainer, drawn, last):
            return
        # At the end of the data a rank may have fewer micro-batches than others; they still meet in every collective.
        idle = [blank(last)] * (trainer.accumulate - len(drawn)) if isinstance(last, ChatBatch) else []
        step = _step(trainer, [*drawn, *idle], progress)
        skipped = skipped + 1 if step.skipped else 0
        if skipped >= trainer.steps_in_a_row:
            raise TrainingError(
                f"{skipped} steps in a row up to step {step.number} had gradients that are not finite (loss "
                f"{step.loss}); lower optim.lr, or train in bf16 or fp32. The last checkpoint is from before"
            )
        yield replace(step, seconds=time.perf_counter() - began, waited=waited)


def _goes_on(trainer: Trainer, drawn: Sequence[Batch], last: Batch | None) -> bool:
    """Whether there is another step. Pairs are compared with those of all ranks: without a full step, there is none."""
    world = trainer.world
    if not world.any(bool(drawn)):
        return False
    if last is None:
        raise DataError(
            f"rank {world.rank} has nothing to learn from: there are fewer batches than ranks; use fewer ranks, more "
            "data or smaller batches"
        )
    return isinstance(last, ChatBatch) or not world.any(len(drawn) < trainer.accumulate)


def blank(batch: ChatBatch) -> ChatBatch:
    """The batch as one that teaches nothing."""
    nothing = torch.full_like(batch.targets, NOT_LEARNT)
    return replace(batch, targets=nothing, weights=torch.zeros_like(batch.weights), positions=())


def _step(trainer: Trainer, batches: Sequence[Batch], progress: Callable[[int], float]) -> Step:
    trainer.number += 1
    world, model, number = trainer.world, trainer.model, trainer.number
    totals, counts = _sums(trainer, batches)
    if not any(totals.values()):
        raise DataError(
            f"step {number} has no trained token: nothing in {counts['samples']:.0f} samples is learnt; check the "
            "template and the answers with `internvl lint`"
        )
    before, trainer.done = trainer.done, progress(number)
    middle = (before + trainer.done) / 2  # neither the first step nor the last has a rate of 0
    lr = set_rate(trainer.optimizer, rate_at(middle, number, trainer.optim))
    seed_step(trainer.seed, number, world.rank)
    train_mode(model)
    parts: dict[str, float] = defaultdict(float)
    trainer.optimizer.zero_grad(set_to_none=True)
    for place, batch in enumerate(batches):
        with last_backward(model, world, last=place == len(batches) - 1):
            for name, value in _learn(trainer, to_device(batch, world.device), totals).items():
                parts[name] += value
    reduce_gradients(model, world)
    norm, skipped = _apply(trainer)
    sums = world.sum(parts)
    return Step(
        number=number,
        progress=trainer.done,
        loss=sums.pop("loss"),
        metrics=sums,
        lr=lr,
        norm=norm,
        samples=int(counts["samples"]),
        tokens=int(counts["tokens"]),
        learnt=int(counts["learnt"]),
        tiles=int(counts["tiles"]),
        seconds=0.0,
        waited=0.0,
        memory=memory_used(world.device),
        skipped=skipped,
    )


def _sums(trainer: Trainer, batches: Sequence[Batch]) -> tuple[dict[str, float], dict[str, float]]:
    """What losses are divided by, and how much there is, over micro-batches and ranks."""
    both: dict[str, float] = defaultdict(float)
    for name in ("samples", "tokens", "learnt", "tiles"):
        both[f"count/{name}"] = 0.0
    for batch in batches:
        for name, value in trainer.objective.totals(batch).items():
            both[f"total/{name}"] += value
        if batch.samples:  # a blank one is only there to meet the other ranks
            counted = (batch.samples, batch.tokens, batch.learnt, len(batch.tiles))
            for name, value in zip(("samples", "tokens", "learnt", "tiles"), counted, strict=True):
                both[f"count/{name}"] += value
    summed = trainer.world.sum(both)
    totals, counts = ({}, {})
    for name, value in summed.items():
        kind, _, key = name.partition("/")
        (totals if kind == "total" else counts)[key] = value
    return totals, counts


def _learn(trainer: Trainer, batch: Batch, totals: Mapping[str, float]) -> dict[str, float]:
    """Forward and backward of one micro-batch."""
    with autocast(trainer.world.device, trainer.dtype):
        loss = trainer.objective.loss(trainer.model, batch, totals)
    (loss.value * trainer.scaler.scale).backward()
    return {"loss": float(loss.value.detach()), **{name: float(value) for name, value in loss.metrics.items()}}


def _apply(trainer: Trainer) -> tuple[float, bool]:
    """Unscale, clip, step: the norm, and whether the step was skipped because it was not finite."""
    learnt = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    scale = trainer.scaler.scale
    norm = clip(learnt, trainer.optim.clip * scale, trainer.world)
    finite = norm == norm and abs(norm) != float("inf")
    if finite:
        if scale != 1.0:
            for parameter in learnt:
                if parameter.grad is not None:
                    parameter.grad.div_(scale)
        trainer.optimizer.step()
    trainer.scaler.update(finite)
    return norm / scale, not finite


@torch.no_grad()
def held_out_loss(trainer: Trainer, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
    """Loss and metrics over batches that are not learnt from, exactly normalised over all of them and all ranks.

    The batches are made twice, first to count what their losses are divided by: they are never all in memory.
    """
    model, world = trainer.model, trainer.world
    totals: dict[str, float] = defaultdict(float)
    own = 0
    for batch in batches():
        own += 1
        for name, value in trainer.objective.totals(batch).items():
            totals[name] += value
    totals = world.sum(totals)
    if not any(totals.values()):
        raise DataError("the held-out rows have no trained token; check data.held_out with `internvl lint`")
    if world.any(not own):
        raise DataError("a rank has no held-out batch; set a larger data.held_out_rows, or use fewer ranks")
    rounds = max(int(value) for value in world.gather_json(own))
    parts: dict[str, float] = defaultdict(float)
    before = trainer.objective.state()
    model.eval()
    last: Batch | None = None
    for place, batch in zip(range(rounds), chain(batches(), repeat(None)), strict=False):
        last = batch or last
        assert last is not None
        shown = last if batch is not None or not isinstance(last, ChatBatch) else blank(last)
        with autocast(world.device, trainer.dtype):
            loss = trainer.objective.loss(model, to_device(shown, world.device), totals)
        if place < own:
            for name, value in {"loss": loss.value, **loss.metrics}.items():
                parts[name] += float(value)
    trainer.objective.restore(before)  # a running mean learns from what is trained on alone
    train_mode(model)
    return world.sum(parts)


# --- small things -----------------------------------------------------------------------------------------------------


def seed_step(seed: int, step: int, rank: int) -> None:
    """All random numbers of a step follow from these three."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % (1 << 63)
    torch.manual_seed(mixed)


def autocast(device: torch.device, dtype: Dtype) -> AbstractContextManager[Any]:
    """Products in 16 bit, weights and sums in fp32."""
    kind = AUTOCAST.get(dtype)
    return nullcontext() if kind is None else torch.autocast(device.type, kind)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    moved = {
        entry.name: value.to(device, non_blocking=True)
        for entry in fields(batch)
        if isinstance(value := getattr(batch, entry.name), Tensor)
    }
    return replace(batch, **moved)


def memory_used(device: torch.device) -> int:
    """The most bytes in use so far: of the accelerator's allocator, or resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""This process among all that train together: who it is, and what they tell each other."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from internvl.errors import TrainingError, UsageError

PATIENCE = timedelta(minutes=30)
"""How long one rank waits for the slowest: the first batch, an evaluation, a checkpoint of a large model."""


@dataclass(frozen=True)
class World:
    """This process among all. Without torchrun it is alone, and every sum is the value itself.

    What is exchanged here is small and passes over the CPU as JSON, never as a pickle. Every rank must call the same
    methods in the same order.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    node_size: int = 1
    """Ranks on this machine."""

    def gather_json(self, value: Any, *, group: dist.ProcessGroup | None = None) -> list[Any]:
        """The value of every rank, in their order; `group` is another one of all ranks, for another thread.

        >>> World().gather_json({"row": 3})
        [{'row': 3}]
        """
        text = json.dumps(value).encode()
        if self.size == 1:
            return [json.loads(text)]
        rows = _exchange(torch.frombuffer(bytearray(text), dtype=torch.uint8), group)
        return [json.loads(row.numpy().tobytes()) for row in rows]

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sums over all ranks, added in the order of the ranks: the same bits everywhere. A missing key is 0.

        >>> World().sum({"tokens": 2.0})
        {'tokens': 2.0}
        """
        told = self.gather_json(dict(values))
        keys = dict.fromkeys(key for each in told for key in each)
        return {key: sum(each.get(key, 0.0) for each in told) for key in keys}

    def mean(self, value: float) -> float:
        """The mean over all ranks."""
        return sum(self.gather_json(value)) / self.size

    def any(self, flag: bool) -> bool:
        """Whether one of the ranks says so."""
        return any(self.gather_json(bool(flag)))

    def barrier(self) -> None:
        """Until all ranks are here."""
        self.gather_json(None)

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of all ranks, (N, ...) from (n, ...) of each, in their order; n may differ.

        Differentiable: the gradient of a row is the sum of what the losses of *all* ranks say about it, so that losses
        that are shares of one whole, added over the ranks, have the gradient of the whole.
        """
        return tensor if self.size == 1 else _Gather.apply(tensor)


@contextmanager
def start_world(device: str | None = None, *, patience: timedelta = PATIENCE) -> Generator[World]:
    """Join the other ranks as torchrun says (RANK, WORLD_SIZE, LOCAL_RANK), and leave them at the end.

    device None: CUDA, or else the CPU (alone also MPS). Each rank has the GPU of its LOCAL_RANK. Tensors on GPUs are
    exchanged by NCCL, those in host memory by gloo. Without torchrun there is one rank, and no process group.

    >>> with start_world("cpu") as world:
    ...     world.size
    1
    """
    rank, size, local, node_size = _from_torchrun()
    joins = "RANK" in os.environ
    where = _device(device, local, alone=size == 1)
    if not joins:
        yield World(device=where)
        return
    on_gpu = where.type == "cuda"
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=patience)
    try:
        yield World(rank, size, where, node_size)
    finally:
        dist.destroy_process_group()


def _from_torchrun() -> tuple[int, int, int, int]:
    """Rank, number of ranks, rank on this machine, ranks on this machine."""
    names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    told = {name: os.environ.get(name, default) for name, default in names.items()}
    if wrong := [f"{name}={value!r}" for name, value in told.items() if not value.isdecimal()]:
        raise UsageError(f"{', '.join(wrong)} in the environment; expected numbers, as torchrun sets them")
    rank, size, local, node_size = map(int, told.values())
    if not rank < size or not local < node_size <= size:
        raise UsageError(
            f"the environment says rank {rank} of {size}, and {local} of {node_size} on this machine; start with "
            "torchrun, or unset RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE"
        )
    return rank, size, local, node_size


def _device(device: str | None, local: int, *, alone: bool) -> torch.device:
    if device is None:
        mps = alone and torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        where = torch.device(device)
    except RuntimeError:
        raise UsageError(f"there is no device {device!r}; choose cpu, cuda or mps") from None
    if where.type == "mps" and not alone:
        raise UsageError("several ranks cannot share an MPS device; use device cpu, or a single process")
    if where.type != "cuda":
        return where
    found = torch.cuda.device_count()
    index = local if not alone or ":" not in device else where.index
    if index >= found:
        raise UsageError(
            f"rank {local} of this machine needs GPU {index}, but there are {found}; start at most that many ranks "
            "(torchrun --nproc-per-node), or use device cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _exchange(rows: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """The tensors of all ranks; they may differ in their number of rows."""
    size = dist.get_world_size()
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    try:
        dist.all_gather(counts, torch.tensor([len(rows)]), group=group)
        most = max(int(count) for count in counts)
        padded = torch.cat((rows, rows.new_zeros(most - len(rows), *rows.shape[1:])))
        found = [torch.empty_like(padded) for _ in range(size)]
        dist.all_gather(found, padded, group=group)
    except RuntimeError as error:  # its end of the line was closed, or it did not answer in time
        raise TrainingError(
            f"another rank of this run has ended or hangs ({str(error).splitlines()[0]:.120}); its own message says "
            "why. The same command goes on from the last checkpoint"
        ) from None
    return [each[: int(count)] for each, count in zip(found, counts, strict=True)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        found = _exchange(tensor.contiguous())
        rank = dist.get_rank()
        ctx.start = sum(len(each) for each in found[:rank])
        ctx.rows = len(tensor)
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.rows]

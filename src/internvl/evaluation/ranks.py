"""Processes that answer together, as torchrun starts them; nothing passes between them but that they wait."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from internvl.errors import UsageError

PATIENCE = timedelta(days=14)
"""How long processes wait for each other; the slowest part decides."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that answer together."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @staticmethod
    def here() -> Ranks:
        """As torchrun says; alone without it."""
        values = [os.environ.get(name, str(default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1))]
        values.append(os.environ.get("LOCAL_RANK", "0"))
        if not all(value.isdecimal() for value in values):
            raise UsageError(
                f"RANK, WORLD_SIZE and LOCAL_RANK are {', '.join(values)}; expected numbers, as of torchrun"
            )
        return Ranks(*map(int, values))

    def part(self, count: int) -> range:
        """The samples of this process: contiguous parts, the first ones a sample longer where they cannot be equal.

        >>> [len(Ranks(rank, 4).part(10)) for rank in range(4)]
        [3, 3, 2, 2]
        """
        size, left = divmod(count, self.world)
        start = self.rank * size + min(self.rank, left)
        return range(start, start + size + (self.rank < left))

    @contextmanager
    def joined(self) -> Generator[None]:
        """Between these lines `wait` works; processes find each other as torchrun told them."""
        if self.world == 1:
            yield
            return
        import torch  # who is alone need not wait for it

        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()

    def wait(self, fine: bool = True) -> bool:
        """Until all processes are here; whether all of them say that they are fine."""
        if self.world == 1:
            return fine
        import torch

        told = torch.tensor([int(fine)])
        try:
            torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MIN)
        except RuntimeError:  # its end of the line was closed
            raise UsageError(
                "another process of this run has ended; what was answered is kept, and the same command goes on there"
            ) from None
        return bool(told.item())

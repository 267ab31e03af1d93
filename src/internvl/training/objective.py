"""What every objective answers: the sums it divides by, and the loss of one micro-batch.

The loop adds the totals of all micro-batches of a step over all ranks *before* the first forward pass. Each loss is
divided by these, so that adding gradients, over accumulation and over ranks, gives the gradient of the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from internvl.data.batch import Batch


@dataclass(frozen=True)
class Loss:
    """A share of the step's loss: shares of all micro-batches and ranks add up. So do the metrics."""

    value: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """One way to learn. `batch` is on the model's device."""

    @property
    def losses(self) -> frozenset[str]:
        """Which of its figures are the better the smaller: `loss`, and the terms among its metrics."""
        ...

    def totals(self, batch: Batch) -> dict[str, float]:
        """What sums are divided by: learnt weight, pairs, rows; the same keys for every batch, 0 for an empty one."""
        ...

    def loss(self, model: nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """The share of this micro-batch in a step whose totals over everything are `totals`."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it (JSON values): the running mean of BCO."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...

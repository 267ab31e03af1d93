"""Many ranks as one: the process group, sharding, and the sums that make the objective exact."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class World:
    """This process among all. Without torchrun it is alone, and every sum is the value itself."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

"""Low-rank adapters of a model that trains, through `peft` (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn

from internvl.errors import ConfigError
from internvl.training.config import Learn


def put(model: nn.Module, learn: Learn, *, seed: int = 0) -> frozenset[str]:
    """Put the adapters that are asked for on the model; the parts that have some."""
    if learn.vision_lora or learn.language_lora:
        raise ConfigError("adapters are not here yet")
    return frozenset()


@contextmanager
def without_adapters(model: nn.Module) -> Generator[None]:
    """The model as it was before its adapters, for as long as the block lasts."""
    yield

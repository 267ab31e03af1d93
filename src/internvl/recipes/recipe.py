"""What a recipe is: a function that returns a `TrainConfig`, and what is known of the run that it follows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from internvl.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of a table of recipes."""

    make: Callable[[], TrainConfig]
    script: str = ""
    """How the first code base calls it; it is found by that name too."""
    gpus: int | None = None
    """Of the original run; None where that is not known, or there was none."""
    prepare: Callable[[TrainConfig], None] | None = None
    """Writes what the run reads by itself, where that is not there yet: drawn pictures, a model of random weights. Not
    called under torchrun, where every rank would."""

    @property
    def text(self) -> str:
        """The docstring of its function: what it reproduces, and what is different here."""
        function: Any = self.make
        while isinstance(function, partial):
            function = function.func
        return inspect.getdoc(function) or ""

    @property
    def about(self) -> str:
        """In one line."""
        return self.text.partition("\n\n")[0].replace("\n", " ")


def finished(name: str) -> str:
    """Where the run of another recipe leaves its model: what a later stage begins with."""
    return f"runs/{name}/model"

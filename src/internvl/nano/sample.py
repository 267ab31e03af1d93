"""What the world hands out: pictures with everything that is known of them.

    draw: (rng, kit) -> Sample          every drawer of the world; the same seed draws the same pixels

One sample serves every stage of training: its label a tower that learns classes, its caption a contrastive pair, its
turns fine-tuning, and a wrong answer beside the right one preference training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True)
class Kit:
    """What drawers draw with."""

    fonts: tuple[Path, ...] = ()
    """Of printed text; none: the one inside Pillow."""
    plain: tuple[Path, ...] = ()
    """Those of `fonts` that most printed text looks like."""
    words: tuple[str, ...] = ("total", "cash", "apple", "river", "Monday", "garden")


@dataclass(frozen=True)
class Sample:
    """Pictures (or none) and the turns of a conversation about them.

    >>> Sample("lines", (Image.new("RGB", (8, 8)),), (("How often do they cross?", "2"),), label="2 crossings").turns
    (('How often do they cross?', '2'),)
    """

    skill: str
    """The row of the world's table that it belongs to."""
    pictures: tuple[Image.Image, ...]
    turns: tuple[Turn, ...]
    """`<image>` in the first question places a picture; without any, the pictures come first. Regions are written
    `<ref>name</ref><box>[[x1, y1, x2, y2]]</box>`, in thousandths of the picture's width and height."""
    label: str | None = None
    """The one class that it belongs to, out of at most some hundred a skill."""
    caption: str | None = None
    """What the first picture shows, in a sentence or a name."""
    wrong: str | None = None
    """A worse answer to the first question: plausible, and false."""
    facts: dict[str, str] = field(default_factory=dict[str, str])
    """What tests and tables may ask for: which shop, which style."""


Drawer = Callable[[random.Random, Kit], Sample]

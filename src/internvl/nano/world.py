"""The world that nano learns from: every skill by name, and how to draw any number of samples of it.

    world = World.of(Path("../shared/data"))
    world.draw("clock", seed=1, number=7)          # the same Sample for ever

Drawn skills need nothing; real ones need the folder `shared/data`. Training draws with seeds from 1 on, seed 0 is kept
for measuring.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from internvl.errors import DataError, find
from internvl.nano import (
    blindtest,
    cells,
    charts,
    clocks,
    compare,
    digits,
    lines,
    locate,
    motion,
    papers,
    real,
    shapes,
    statements,
    sudoku,
    tables,
    talk,
)
from internvl.nano.corpus import Corpus
from internvl.nano.fonts import LEARNT, PLAIN, find_fonts
from internvl.nano.sample import Drawer, Kit, Sample
from internvl.nano.vocab import WORDS

WIDE_TILES = 6
EXAM_SEED = 0
"""Never drawn for training."""


@dataclass(frozen=True, kw_only=True)
class Skill:
    """One thing to learn."""

    draw: Drawer | None = None
    """None: it is drawn out of real pictures, see `internvl.nano.real`."""
    rows: int
    """Samples of the world at scale 1."""
    max_tiles: int = 1
    """Of one picture, without the thumbnail."""
    wide: float = 0.0
    """The share of conversations that is seen once more with up to `WIDE_TILES` tiles."""


SKILLS: Mapping[str, Skill] = {
    # ---- real pictures ----
    "photo": Skill(rows=24_000, wide=0.1),
    "trash": Skill(rows=12_000, wide=0.1),
    "flag": Skill(rows=16_000, wide=0.1),
    "icon": Skill(rows=30_000, wide=0.05),
    "absent": Skill(rows=10_000, wide=0.15),
    "mosaic": Skill(rows=6_000),
    "nlvr": Skill(rows=4_000, max_tiles=4),
    "receipt_lines": Skill(rows=12_000, max_tiles=4),
    "receipt_fields": Skill(rows=2_000, max_tiles=12),
    "sudoku_photo": Skill(rows=1_500, max_tiles=4),
    # ---- drawn ----
    "shape": Skill(draw=shapes.draw_shape, rows=12_000),
    "scene": Skill(draw=shapes.draw_scene, rows=16_000, wide=0.1),
    "locate": Skill(draw=locate.draw_locate, rows=8_000),
    "crossings": Skill(draw=blindtest.draw_lines, rows=12_000, wide=0.2),
    "two_circles": Skill(draw=blindtest.draw_circles_touch, rows=10_000, wide=0.2),
    "circled_letter": Skill(draw=blindtest.draw_circled_letter, rows=12_000, max_tiles=4),
    "rings": Skill(draw=blindtest.draw_rings, rows=10_000, wide=0.2),
    "squares": Skill(draw=blindtest.draw_nested_squares, rows=6_000, wide=0.2),
    "grid": Skill(draw=blindtest.draw_grid, rows=10_000, wide=0.2),
    "subway": Skill(draw=blindtest.draw_subway, rows=10_000, wide=0.2),
    "statement": Skill(draw=statements.draw_statement, rows=14_000, max_tiles=4),
    "compare": Skill(draw=compare.draw_compare, rows=6_000),
    "motion": Skill(draw=motion.draw_motion, rows=4_000),
    "clock": Skill(draw=clocks.draw_clock, rows=10_000, wide=0.1),
    "digits": Skill(draw=digits.draw_digits, rows=8_000),
    "cells": Skill(draw=cells.draw_cell_grid, rows=6_000),
    "sudoku": Skill(draw=sudoku.draw_sudoku, rows=6_000, max_tiles=4),
    "chart": Skill(draw=charts.draw_chart, rows=8_000, max_tiles=4),
    "table": Skill(draw=tables.draw_table, rows=6_000, max_tiles=4),
    "character": Skill(draw=lines.draw_character, rows=10_000),
    "line": Skill(draw=lines.draw_line, rows=30_000, wide=0.1),
    "block": Skill(draw=lines.draw_block, rows=8_000, max_tiles=4),
    "receipt": Skill(draw=papers.draw_receipt, rows=4_000, max_tiles=12),
    "invoice": Skill(draw=papers.draw_invoice, rows=1_500, max_tiles=12),
    "form": Skill(draw=papers.draw_form, rows=1_500, max_tiles=12),
    "talk": Skill(draw=talk.draw_talk, rows=1_000),
}
"""Skills in the order of the card."""


@dataclass(frozen=True)
class World:
    """What drawers draw with, and the real pictures, if there are any."""

    kit: Kit
    data: Path | None = None
    """The folder with caltech101, emoji, flags, nlvr, sroie, sudoku and trashnet."""

    @classmethod
    def of(cls, data: Path | None = None, *, families: Sequence[str] = LEARNT) -> World:
        """The world in the installed fonts of these families, with the words and pictures of `data`."""
        fonts = find_fonts(families)
        plain = tuple(path for path in fonts if path.stem in PLAIN)
        words = tuple(WORDS.split()) if data is None else corpus_of(data).words
        return cls(Kit(fonts, plain, words), data)

    @property
    def skills(self) -> tuple[str, ...]:
        """Those that can be drawn."""
        return tuple(name for name, skill in SKILLS.items() if skill.draw is not None or self.data is not None)

    def draw(self, skill: str, *, seed: int, number: int) -> Sample:
        """Sample `number` of an endless row of them.

        Raises UsageError for a name that is no skill, DataError for a real one without pictures.

        >>> World(Kit()).draw("clock", seed=1, number=7).skill
        'clock'
        """
        drawer = find("skill", skill, SKILLS).draw or self._real(skill)
        return drawer(random.Random(f"{skill} {seed} {number}"), self.kit)

    def _real(self, skill: str) -> Drawer:
        if self.data is None:
            raise DataError(f"{skill} is drawn out of real pictures; give the folder of shared/data")
        return real_drawers(self.data)[skill]


@functools.lru_cache(maxsize=1)
def corpus_of(data: Path) -> Corpus:
    """The real pictures, read once a process."""
    return Corpus.read(data)


@functools.lru_cache(maxsize=1)
def real_drawers(data: Path) -> Mapping[str, Drawer]:
    """By skill."""
    return real.drawers(corpus_of(data))

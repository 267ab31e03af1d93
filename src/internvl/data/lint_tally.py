"""Numbers of a whole dataset: how they are spread, and which rows repeat each other."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from internvl.data.lint_row import Seen

BARS = 24
PERCENTS = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class Bar:
    """How many numbers lie from `low` up to, not including, `high`; None: and above."""

    low: float
    high: float | None
    count: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a number is spread over the rows."""

    name: str
    title: str
    count: int
    least: float
    mean: float
    most: float
    total: float
    percentiles: dict[int, float]
    bars: tuple[Bar, ...]
    limit: float | None = None
    over: int = 0
    """How many are above the limit."""


def spread(name: str, title: str, numbers: Sequence[int], *, unit: float = 1.0, limit: float | None = None) -> Spread:
    """The spread of whole numbers of a unit. A number of which there are q percent below or at it is percentile q.

    >>> spread("tiles", "tiles", [1, 1, 2, 12]).percentiles[50]
    1.0
    """
    found = np.asarray(numbers, dtype=np.int64)
    percents = np.percentile(found, PERCENTS, method="inverted_cdf")
    return Spread(
        name=name,
        title=title,
        count=len(found),
        least=_plain(found.min(), unit),
        mean=round(float(found.mean()) * unit, 6),
        most=_plain(found.max(), unit),
        total=_plain(found.sum(), unit),
        percentiles={percent: _plain(value, unit) for percent, value in zip(PERCENTS, percents, strict=True)},
        bars=tuple(_bars(found, unit)),
        limit=limit,
        over=0 if limit is None else int((found * unit > limit).sum()),
    )


def _plain(value: np.integer, unit: float) -> float:
    return round(float(value) * unit, 6)


def _bars(found: np.ndarray, unit: float) -> Iterator[Bar]:
    """At most `BARS` bars of one round width; what is far above nearly all others shares the last one."""
    low, high = int(found.min()), int(found.max())
    end = min(high, 2 * int(np.percentile(found, 99, method="inverted_cdf")))
    width = _round((end - low + 1) / BARS)
    start = low // width * width
    count = (end - start) // width + 1
    edges = [start + place * width for place in range(count + 1)]
    counts = np.bincount(np.minimum((found - start) // width, count), minlength=count + 1)
    for place in range(count):
        yield Bar(_plain(np.int64(edges[place]), unit), _plain(np.int64(edges[place + 1]), unit), int(counts[place]))
    if counts[count]:
        yield Bar(_plain(np.int64(edges[count]), unit), None, int(counts[count]))


def _round(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, …"""
    power = 10 ** max(0, math.floor(math.log10(max(1.0, width))))
    return next(int(step * power) for step in (1, 2, 5, 10) if step * power >= width)


class Twice:
    """Which rows are the same, contradict each other, or show one picture under several names."""

    def __init__(self) -> None:
        self._rows = tuple(array("Q") for _ in range(3))
        self._media = tuple(array("Q") for _ in range(3))
        self._count = 0

    def add(self, seen: Seen) -> None:
        for column, value in zip(self._rows, (seen.key, seen.question, seen.answer), strict=True):
            column.append(value)
        for name, content in seen.media:
            for column, value in zip(self._media, (content, name, self._count), strict=True):
                column.append(value)
        self._count += 1

    def faults(self) -> Iterator[tuple[str, int, int | None]]:
        """Rule, the number of a row in the order of `add`, and that of an earlier row it goes with."""
        keys, questions, answers = (np.frombuffer(column, np.uint64) for column in self._rows)
        again: set[int] = set()
        for first, *others in _groups(keys):
            again.update(others)
            yield from (("duplicate-row", other, first) for other in others)
        for group in _groups(questions):
            said = {int(answers[group[0]])}
            for other in group[1:]:
                if int(answers[other]) not in said and other not in again:
                    said.add(int(answers[other]))
                    yield "contradiction", other, group[0]
        contents, names, rows = (np.frombuffer(column, np.uint64) for column in self._media)
        for group in _groups(contents):
            known = {int(names[group[0]])}
            for other in group[1:]:
                if int(names[other]) not in known:
                    known.add(int(names[other]))
                    yield "duplicate-picture", int(rows[other]), int(rows[group[0]])


def _groups(values: np.ndarray) -> Iterator[list[int]]:
    """Places of equal values, in order, where there are several; 0 is no value."""
    if not len(values):
        return
    order = np.argsort(values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order])) + 1
    sizes = np.diff(np.concatenate(([0], ends, [len(values)])))
    starts = np.concatenate(([0], ends))
    several = [
        order[start : start + size].tolist()
        for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True)
        if values[order[start]]
    ]
    yield from sorted(several)

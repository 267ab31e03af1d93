"""A run to look at: its curves and figures as one HTML file that stands alone, written from `log.jsonl`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from internvl.errors import MissingExtra
from internvl.training.logs import read_log

WIDTH, HEIGHT = 480, 160
MOST_POINTS = 600
"""Of one line: more are thinned out."""
NOISY = 50
"""From so many steps on, a figure is drawn with the mean of the steps around each."""
SHOWN = 20
"""Answers of the last evaluation."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a plot, in the plot's own units."""

    name: str
    style: str
    """`faint`, `strong` or `held` (dots, joined)."""
    points: str
    dots: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Plot:
    """A figure over the steps of a run."""

    title: str
    lines: tuple[Line, ...]
    low: float
    high: float
    first: float
    last: float


def write_report(folder: Path, *, title: str | None = None) -> Path:
    """`report.html` beside the log; needs jinja2 (extra `train`).

    >>> write_report(Path("runs/a"))  # doctest: +SKIP
    PosixPath('runs/a/report.html')
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("the report of a run needs jinja2; pip install 'internvl[train]'") from error
    log = read_log(folder)
    template = resources.files("internvl.training").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    config = folder / "config.txt"
    settings = config.read_text(encoding="utf-8") if config.exists() else ""
    page = environment.from_string(template).render(
        title=title or folder.name,
        plots=plots(log),
        notes=[line["text"] for line in log if line["kind"] == "note"],
        held_out=[line for line in log if line["kind"] == "held_out"],
        steps=[line for line in log if line["kind"] == "step"],
        answers=_answers(folder),
        config=settings,
        told=[
            line for line in settings.splitlines() if line.startswith(("start.model=", "data.path=", "objective.kind="))
        ],
        width=WIDTH,
        height=HEIGHT,
    )
    path = folder / "report.html"
    new = path.with_suffix(".tmp")
    new.write_text(page, encoding="utf-8")
    os.replace(new, path)
    return path


def plots(log: Sequence[dict[str, Any]]) -> list[Plot]:
    """What there is to draw: the loss with its held-out figure first, then every other figure that changes."""
    steps = [line for line in log if line["kind"] == "step"]
    held = [line for line in log if line["kind"] == "held_out"]
    left_out = {
        "kind",
        "number",
        "progress",
        "memory",
        "seconds",
        "waited",
        "skipped",
        "samples",
        "tokens",
        "learnt",
        "tiles",
    }
    names = [name for name in dict.fromkeys(name for line in (*steps, *held) for name in line) if name not in left_out]
    found: list[Plot] = []
    for name in names:
        one = plot(name, _series(steps, name), _series(held, name))
        if one is not None and all(one.lines != other.lines for other in found):  # `nll` is often `loss`
            found.append(one)
    return found


def plot(title: str, steps: Sequence[Point], held: Sequence[Point]) -> Plot | None:
    """Lines of one figure; None where there is nothing to see."""
    everything = [*steps, *held]
    if len(everything) < 2:
        return None
    # A first step may be far above all others: the scale is that of the middle 98 %.
    values = sorted(value for _, value in everything)
    cut = len(values) // 100
    low, high = values[cut], values[-1 - cut]
    first, last = everything[0][0], max(x for x, _ in everything)
    if high <= low:
        return None

    def place(point: Point) -> Point:
        x = (point[0] - first) / max(last - first, 1) * WIDTH
        y = HEIGHT - (min(max(point[1], low), high) - low) / (high - low) * HEIGHT
        return round(x, 1), round(y, 1)

    lines: list[Line] = []
    noisy, around = len(steps) >= NOISY and title != "lr", max(2, len(steps) // 40)
    for name, style, points in (
        ("each step", "faint" if noisy else "strong", steps),
        (f"mean of {2 * around + 1} around it", "strong", _smooth(steps, around) if noisy else []),
        ("held out", "held", held),
    ):
        if points:
            placed = [place(point) for point in _thin(points)]
            text = " ".join(f"{x},{y}" for x, y in placed)
            lines.append(Line(name, style, text, tuple(placed) if style == "held" else ()))
    return Plot(title, tuple(lines), low, high, first, last)


def _series(lines: Sequence[dict[str, Any]], name: str) -> list[Point]:
    found = ((line["number"], line.get(name)) for line in lines)
    return [(x, float(y)) for x, y in found if isinstance(y, int | float) and math.isfinite(y)]


def _smooth(points: Sequence[Point], around: int) -> list[Point]:
    smooth: list[Point] = []
    for at, (x, _) in enumerate(points):
        reach = min(around, at, len(points) - 1 - at)  # as many before as after, so that a slope stays where it is
        near = [y for _, y in points[at - reach : at + reach + 1]]
        smooth.append((x, sum(near) / len(near)))
    return smooth


def _answers(folder: Path) -> list[dict[str, Any]]:
    """What was answered at the last evaluation, if questions were asked."""
    last = max((folder / "held-out").glob("step-*.jsonl"), default=None)
    lines = [] if last is None else last.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:SHOWN]]


def _thin(points: Sequence[Point]) -> list[Point]:
    every = -(-len(points) // MOST_POINTS)
    return [*points[::every], points[-1]] if every > 1 else list(points)

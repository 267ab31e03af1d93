"""Plots of a load run, placed on paper: what the page of `report.html` draws without a thought."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from internvl.bench.load import Measured

WIDTH, HEIGHT = 480, 190
MOST_POINTS = 400
"""Of one line."""
MOST_DOTS = 2000
"""Of one plot."""
BINS = 60
"""Parts of a run, for what happens in a second."""

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line, in the plot's own units; `style` is how the page colours it."""

    name: str
    style: str
    points: str


@dataclass(frozen=True, kw_only=True)
class Dots:
    """Requests of one kind."""

    name: str
    style: str
    places: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One plot; ticks are (place, text), rules are (place, text) of bounds that were set."""

    title: str
    across: str
    """What the horizontal axis is."""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...] = ()
    dots: tuple[Dots, ...] = ()
    x_rules: tuple[tuple[float, str], ...] = ()
    y_rules: tuple[tuple[float, str], ...] = ()
    remark: str = ""


def shown(seconds: float | None) -> str:
    """A time for people.

    >>> shown(0.01234), shown(1.5), shown(75), shown(0), shown(None)
    ('12.3 ms', '1.5 s', '75 s', '0', '-')
    """
    if seconds is None:
        return "-"
    if seconds == 0:
        return "0"
    return (
        f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s" if seconds < 999 else f"{seconds:.0f} s"
    )


def plots(run: Measured, bounds: Mapping[str, float]) -> list[Plot]:
    """What there is to draw of a run."""
    taken = [outcome for outcome in run.outcomes if outcome.is_timed]
    firsts = [outcome.first for outcome in taken if outcome.first is not None]
    gaps = [gap for outcome in taken for gap in outcome.gaps]
    wholes = {"whole answer": [outcome.whole for outcome in taken]}
    found = [
        _when(run, bounds.get("ttft")),
        _in_flight(run),
        _shares("Time to first token", {"time to first token": firsts}, bounds.get("ttft")),
        _shares("Time between tokens", {"time between tokens": gaps}, bounds.get("itl")),
        _shares("Time to the end of the answer", wholes, bounds.get("e2e")),
        _pace(run),
    ]
    return [plot for plot in found if plot is not None]


def ticks(top: float, write: Callable[[float], str], span: float) -> tuple[tuple[float, str], ...]:
    """Round numbers from 0 to `top`, placed on a span; at most six.

    >>> ticks(10.0, "{:g}".format, 100.0)
    ((0.0, '0'), (20.0, '2'), (40.0, '4'), (60.0, '6'), (80.0, '8'), (100.0, '10'))
    """
    raw = top / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999999)
    count = math.floor(top / step * 1.000001)
    return tuple((round(number * step / top * span, 1), write(number * step)) for number in range(count + 1))


class _Paper:
    """From values to places: x from the left, y from the top."""

    def __init__(self, right: float, top: float) -> None:
        self.right, self.top = max(right, 1e-9), max(top, 1e-9)

    def x(self, value: float) -> float:
        return round(min(max(value / self.right, 0.0), 1.0) * WIDTH, 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - min(max(value / self.top, 0.0), 1.0) * HEIGHT, 1)

    def line(self, points: Iterable[Point]) -> str:
        return " ".join(f"{self.x(x):g},{self.y(y):g}" for x, y in points)

    def x_ticks(self, write: Callable[[float], str] = shown) -> tuple[tuple[float, str], ...]:
        return ticks(self.right, write, WIDTH)

    def y_ticks(self, write: Callable[[float], str] = shown) -> tuple[tuple[float, str], ...]:
        return tuple((HEIGHT - place, text) for place, text in ticks(self.top, write, HEIGHT))


def _when(run: Measured, bound: float | None) -> Plot:
    """Time to first token of each request, where it was planned; failed ones and empty answers stand on the floor."""
    every = -(-len(run.outcomes) // MOST_DOTS)
    outcomes = run.outcomes[::every]
    top = max((outcome.first or 0.0 for outcome in outcomes), default=0.0) * 1.05
    paper = _Paper(max(outcome.planned for outcome in run.outcomes), top)
    dots: list[Dots] = []
    for state, style in (("answered", "own"), ("cancelled", "late"), ("empty", "late"), ("failed", "bad")):
        places = tuple(
            (paper.x(one.planned), paper.y((one.first or 0.0) if one.is_timed else 0.0))
            for one in outcomes
            if one.state == state
        )
        if places:
            dots.append(Dots(name=state, style=style, places=places))
    return Plot(
        title="Time to first token, as the run went on",
        across="when the request was planned",
        x_ticks=paper.x_ticks(),
        y_ticks=paper.y_ticks(),
        dots=tuple(dots),
        y_rules=((paper.y(bound), f"bound {shown(bound)}"),) if bound is not None and bound <= paper.top else (),
        remark="" if every == 1 else f"one of {every} requests is drawn",
    )


def _in_flight(run: Measured) -> Plot:
    """How many requests were waiting for an answer, at each moment."""
    changes = sorted([(one.planned, 1) for one in run.outcomes] + [(one.ended, -1) for one in run.outcomes])
    at, steps = 0, [(0.0, 0.0)]
    for when, change in changes:
        steps.append((when, float(at)))
        at += change
        steps.append((when, float(at)))
    paper = _Paper(run.seconds, max(level for _, level in steps) * 1.05)
    points = steps if len(steps) <= 2 * MOST_POINTS else _highest(steps, run.seconds)
    return Plot(
        title="Requests on their way",
        across="time",
        x_ticks=paper.x_ticks(),
        y_ticks=paper.y_ticks(_count),
        lines=(Line(name="on their way", style="own", points=paper.line(points)),),
    )


def _highest(steps: Sequence[Point], seconds: float) -> list[Point]:
    """The highest level in each small part of the run."""
    highest: dict[int, float] = {}
    for when, level in steps:
        place = min(int(when / seconds * MOST_POINTS), MOST_POINTS - 1)
        highest[place] = max(highest.get(place, 0.0), level)
    return [((place + 0.5) / MOST_POINTS * seconds, level) for place, level in sorted(highest.items())]


def _shares(title: str, series: Mapping[str, Sequence[float]], bound: float | None) -> Plot | None:
    """The share of values up to each time."""
    right = max((max(values) for values in series.values() if values), default=0.0)
    if right <= 0:
        return None
    paper = _Paper(right * 1.02, 1.0)
    lines: list[Line] = []
    for place, (name, values) in enumerate((name, sorted(values)) for name, values in series.items() if values):
        count = min(len(values), MOST_POINTS)
        chosen = [round(number * (len(values) - 1) / max(count - 1, 1)) for number in range(count)]
        points = [(values[0], 0.0), *((values[index], (index + 1) / len(values)) for index in chosen), (right, 1.0)]
        lines.append(Line(name=name, style=("own", "other")[place % 2], points=paper.line(points)))
    return Plot(
        title=title,
        across="time; upwards the share that took at most so long",
        x_ticks=paper.x_ticks(),
        y_ticks=paper.y_ticks("{:.0%}".format),
        lines=tuple(lines),
        x_rules=((paper.x(bound), f"bound {shown(bound)}"),) if bound is not None and bound <= paper.right else (),
    )


def _pace(run: Measured) -> Plot | None:
    """Output tokens of a second; the tokens of an answer spread evenly over its pieces."""
    size, tokens = run.seconds / BINS, [0.0] * BINS
    for outcome in run.outcomes:
        if outcome.state == "answered":
            for piece in outcome.pieces:
                tokens[min(int(piece / size), BINS - 1)] += outcome.output_tokens / len(outcome.pieces) / size
    if not any(tokens):
        return None
    paper = _Paper(run.seconds, max(tokens) * 1.05)
    points = [((place + 0.5) * size, value) for place, value in enumerate(tokens)]
    return Plot(
        title="Output tokens a second",
        across="time",
        x_ticks=paper.x_ticks(),
        y_ticks=paper.y_ticks(_count),
        lines=(Line(name="of answered requests", style="own", points=paper.line(points)),),
    )


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.3g}"

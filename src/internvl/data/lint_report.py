"""What `internvl lint` found, as one HTML file that stands alone: figures, spreads, and the rows at fault.

The page has no script and asks nothing of any other place; its Content-Security-Policy says so to the browser. What
stands in a dataset is text in it, whatever it spells. It is bounded: some rows of each rule, small pictures, long texts
cut.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from internvl.data.image import to_rgb
from internvl.data.lint import Example, Finding, Report
from internvl.data.lint_row import Examiner, Look
from internvl.data.lint_rules import RULES, SEVERITIES, Severity
from internvl.data.lint_tally import Spread
from internvl.data.media import open_image, open_video
from internvl.data.mixture import Source
from internvl.data.prepare import allowing, placed
from internvl.data.records import Conversation, Labelled, Media, Pair, Preference, Record
from internvl.errors import InternVLError, MissingExtra

SYMBOLS: Mapping[Severity, str] = {
    "error": "\N{BALLOT X}",
    "warning": "\N{BLACK UP-POINTING TRIANGLE}",
    "note": "\N{BLACK CIRCLE}",
}
WIDTH, HEIGHT = 480, 150
"""Of a plot, in its own units."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much the page shows of a dataset."""

    pictures: int = 4
    """Of one row."""
    side: int = 224
    """Pixels of the longer side of a picture."""
    bytes: int = 6_000_000
    """Of all pictures together."""
    characters: int = 700
    """Of one text."""
    turns: int = 8
    """Of one conversation."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data address, or why there is none."""

    name: str
    address: str | None
    size: tuple[int, int] = (0, 0)
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A row as it is shown."""

    anchor: str
    origin: str
    source: str
    faults: tuple[tuple[Severity, str, str], ...]
    """Severity, rule, and what was found."""
    said: tuple[tuple[str, str], ...]
    thumbnails: tuple[Thumbnail, ...]
    more_pictures: int


@dataclass(frozen=True)
class Column:
    """One bar of a plot, in its units."""

    x: float
    y: float
    width: float
    height: float
    title: str
    over: bool


@dataclass(frozen=True)
class Plot:
    """A spread as it is drawn: columns, where the limit stands, and what is written under the axis."""

    spread: Spread
    columns: tuple[Column, ...]
    ticks: tuple[tuple[float, str], ...]
    limit: float | None


def write_report(
    path: Path, report: Report, sources: Sequence[Source], look: Look, *, facts: Mapping[str, str]
) -> None:
    """Write the page; `facts` stand in its head. MissingExtra without Jinja2."""
    page = report_html(report, sources, look, facts=facts)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def report_html(
    report: Report, sources: Sequence[Source], look: Look, *, facts: Mapping[str, str], bounds: Bounds | None = None
) -> str:
    """The page as text."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise MissingExtra("an HTML report needs the package jinja2 (pip install 'internvl[train]')") from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    text = resources.files("internvl.data").joinpath("lint_report.html").read_text("utf-8")
    cards = list(_cards(report, sources, look, bounds or Bounds()))
    anchors = {(card.origin, card.source): card.anchor for card in cards}
    return (
        environment.from_string(text)
        .render(
            report=report,
            facts=facts,
            rules=RULES,
            symbols=SYMBOLS,
            counts={severity: report.count(severity) for severity in SEVERITIES},
            plots=[plot(spread) for spread in report.spreads],
            sections=[
                (finding, [card for card in cards if card.faults[0][1] == finding.rule]) for finding in report.findings
            ],
            anchor=lambda example: anchors.get((example.origin, _name(sources[example.source]))),
        )
        .lstrip()
    )


def number(value: float) -> str:
    """For people.

    >>> number(1234567), number(3.14159), number(0.0)
    ('1,234,567', '3.14', '0')
    """
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


# ---- plots -----------------------------------------------------------------------------------------------------------


def plot(spread: Spread) -> Plot:
    """Where each bar stands. Bars with something in them are at least two units high."""
    tallest = max(bar.count for bar in spread.bars)
    step = WIDTH / len(spread.bars)
    columns: list[Column] = []
    for place, bar in enumerate(spread.bars):
        height = max(2.0, HEIGHT * bar.count / tallest) if bar.count else 0.0
        until = "and more" if bar.high is None else f"to {number(bar.high)}"
        title = f"{number(bar.low)} {until}: {bar.count:,}"
        over = spread.limit is not None and bar.low >= spread.limit
        columns.append(Column(place * step, HEIGHT - height, min(60.0, max(1.0, step - 1.5)), height, title, over))
    every = max(1, round(len(spread.bars) / 6))
    ticks = [(place * step, number(spread.bars[place].low)) for place in range(0, len(spread.bars), every)]
    if spread.bars[-1].high is None:
        last = len(spread.bars) - 1
        ticks = [tick for tick in ticks if tick[0] < (last - every / 2) * step]
        ticks.append((last * step, f"{number(spread.bars[-1].low)}+"))
    return Plot(spread, tuple(columns), tuple(ticks), _limit_at(spread, step))


def _limit_at(spread: Spread, step: float) -> float | None:
    """Where the limit stands among the bars; None outside of them."""
    for place, bar in enumerate(spread.bars):
        if spread.limit is not None and bar.high is not None and bar.low <= spread.limit <= bar.high:
            return step * (place + (spread.limit - bar.low) / (bar.high - bar.low))
    return None


# ---- rows ------------------------------------------------------------------------------------------------------------


def _cards(report: Report, sources: Sequence[Source], look: Look, bounds: Bounds) -> Iterator[Card]:
    """The example rows, each once, with everything that was found in it."""
    found: dict[tuple[int, int], list[tuple[Finding, Example]]] = {}
    for finding in report.findings:
        for example in finding.examples:
            if example.row >= 0:
                found.setdefault((example.source, example.row), []).append((finding, example))
    examiner, space = Examiner(sources, look), [bounds.bytes]
    for place, ((source, row), faults) in enumerate(found.items(), start=1):
        record: Record | None = None
        with contextlib.suppress(InternVLError):  # that is the fault
            record = examiner.record(source, row)
        media = [] if record is None else _media(record)
        yield Card(
            anchor=f"row-{place}",
            origin=faults[0][1].origin,
            source=_name(sources[source]),
            faults=tuple((finding.severity, finding.rule, example.text) for finding, example in faults),
            said=tuple(_said(record, examiner, source, row, bounds)),
            thumbnails=tuple(
                _thumbnail(medium, sources[source].root, record, look, bounds, space)
                for medium in media[: bounds.pictures]
            ),
            more_pictures=max(0, len(media) - bounds.pictures),
        )


def _name(source: Source) -> str:
    return source.name or source.annotation


def _media(record: Record) -> Sequence[Media]:
    if isinstance(record, Pair | Labelled):
        return [record.image]
    one = record.chosen if isinstance(record, Preference) else record
    return one.images if one.video is None else [one.video]


def _said(
    record: Record | None, examiner: Examiner, source: int, row: int, bounds: Bounds
) -> Iterator[tuple[str, str]]:
    """Who said what, or the row as it is."""
    most = bounds.characters
    if record is None:
        with contextlib.suppress(InternVLError):  # no row at all: what was found says so
            yield "row", shortened(repr(dict(examiner.rows(source)[row])), most)
    elif isinstance(record, Conversation):
        for role, text in record.turns[: bounds.turns]:
            yield role, shortened(text, most)
        if len(record.turns) > bounds.turns:
            yield "", f"and {len(record.turns) - bounds.turns} more turns"
    elif isinstance(record, Preference):
        yield "question", shortened(record.chosen.turns[0][1], most)
        yield "chosen", shortened(record.chosen.turns[-1][1], most)
        yield "rejected", shortened(record.rejected.turns[-1][1], most)
    elif isinstance(record, Pair):
        yield "caption", shortened(record.caption, most)
    else:
        yield "label", str(record.label)


def _thumbnail(
    medium: Media, root: str, record: Record | None, look: Look, bounds: Bounds, space: list[int]
) -> Thumbnail:
    name = medium if isinstance(medium, str) else "a picture in the file"
    one = record.chosen if isinstance(record, Preference) else record
    place, limits = placed(medium, root), allowing(root, look.limits)
    try:
        if isinstance(one, Conversation) and one.video is not None:
            photo = to_rgb(open_video(place, limits, frames=1, bound=one.clip).frames[0]).copy()
        else:
            photo = to_rgb(open_image(place, limits)).copy()
        photo.thumbnail((bounds.side, bounds.side))
        file = io.BytesIO()
        photo.save(file, "WEBP", quality=70, method=2)
    except (InternVLError, OSError) as error:
        return Thumbnail(name, None, why=shortened(str(error).removeprefix(f"{place}: "), 160))
    if file.tell() > space[0]:
        return Thumbnail(name, None, why="left out: the page holds no more pictures")
    space[0] -= file.tell()
    address = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Thumbnail(name, address, photo.size)


def shortened(text: str, most: int) -> str:
    """The beginning of a long text, and how long it is.

    >>> shortened("abcdef", 3)
    'abc\u2026 (6 characters)'
    """
    return text if len(text) <= most else f"{text[:most]}\N{HORIZONTAL ELLIPSIS} ({len(text):,} characters)"

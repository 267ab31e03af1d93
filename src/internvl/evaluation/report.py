"""A run as one HTML file that stands alone: figures beside published ones, and answers with their pictures.

    write_report(result)        # runs/NAME/report.html

The page asks nothing of any other place: no script, style, font or picture from outside, and its Content-Security-
Policy says so to the browser. What a model or a dataset wrote is text in it, whatever it spells. It is bounded: some
answers of each kind and benchmark, small pictures, long texts cut; everything is in `answers.jsonl`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from internvl.data.image import to_rgb
from internvl.data.media import open_image, open_video
from internvl.errors import InternVLError, MissingExtra
from internvl.evaluation.benchmark import Marked, Published, Sample
from internvl.evaluation.failures import told_of
from internvl.evaluation.results import Interval, RunResult, TaskResult
from internvl.evaluation.store import write_whole

Verdict = Literal["right", "wrong", "withheld"]
VERDICTS: Mapping[Verdict, str] = {"right": "\N{CHECK MARK}", "wrong": "\N{BALLOT X}", "withheld": "\N{EN DASH}"}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much of a run its page shows."""

    answers: int = 12
    """Of each benchmark: so many that are right, wrong, and without a mark; evenly from all."""
    pictures: int = 4
    """Of one question."""
    side: int = 288
    """Pixels of the longer side of a picture."""
    bytes: int = 8_000_000
    """Of all pictures together, shared by the benchmarks."""
    characters: int = 2000
    """Of a prompt, an answer or a truth."""
    groups: int = 60
    """Bars of one plot."""
    open_groups: int = 20
    """A plot of more bars is folded."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data address, or why there is none."""

    name: str
    address: str | None
    why: str = ""
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One answer as it is shown."""

    id: str
    verdict: Verdict
    score: float | None
    category: str
    prompt: str
    answer: str
    truth: str
    parsed: str | None
    parts: Mapping[str, float]
    thumbnails: tuple[Thumbnail, ...]
    more_pictures: int


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One score of a benchmark."""

    name: str
    value: float
    interval: Interval | None
    over_seeds: Interval | None
    by_seed: tuple[float, ...]

    @property
    def largest(self) -> float:
        """Of all numbers of its row."""
        return max(map(abs, (self.value, *(self.interval or ()), *(self.over_seeds or ()), *self.by_seed)))


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One group of a plot; `share` in percent of the longest possible bar."""

    label: str
    value: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Section:
    """One benchmark as it is shown."""

    task: TaskResult
    figures: tuple[Figure, ...]
    samples: int
    counts: Mapping[Verdict, int]
    how: tuple[str, ...]
    """What must be known of the score: rule, judge, seeds."""
    beside: Published | None
    """The published score that stands beside it in the table: of the same model, where there is one."""
    same_model: bool
    plots: Mapping[str, tuple[Bar, ...]]
    cards: tuple[Card, ...]


@dataclass
class Space:
    """Bytes that are left for pictures."""

    left: int


def write_report(result: RunResult, path: Path | None = None, *, bounds: Bounds | None = None) -> Path:
    """Write the page, into the folder of the run if nothing else is said."""
    path = path or result.folder / "report.html"
    write_whole(path, report_html(result, bounds=bounds))
    return path


def report_html(result: RunResult, *, bounds: Bounds | None = None) -> str:
    """The page as text. MissingExtra without Jinja2."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise MissingExtra("a report needs the package jinja2 (pip install 'internvl[eval]')") from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figure": shown_figure, "csp_hash": csp_hash, "pretty": pretty}
    page = environment.from_string(resources.files("internvl.evaluation").joinpath("report.html").read_text("utf-8"))
    bounds = bounds or Bounds()
    sections = list(_sections(result, bounds))
    return page.render(
        run=result,
        model=_model_name(result.manifest),
        facts=[
            *_facts(result.manifest),
            *((f"{name}, not shown", shortened(left.why, 200)) for name, left in result.left_out.items()),
        ],
        manifest=pretty({key: value for key, value in result.manifest.items() if key != "tasks"}),
        sections=sections,
        categories=sorted({card.category for section in sections for card in section.cards} - {""}),
        symbols=VERDICTS,
        bounds=bounds,
    ).lstrip()


# ---- figures ---------------------------------------------------------------------------------------------------------


def _sections(result: RunResult, bounds: Bounds) -> Iterator[Section]:
    """What one benchmark leaves of its share of the bytes, the next ones may use."""
    left, model = bounds.bytes, _model_name(result.manifest)
    for place, task in enumerate(result.tasks):
        share = left // (len(result.tasks) - place)
        space = Space(share)
        yield _section(task, model, bounds, space)
        left -= share - space.left


def _section(task: TaskResult, model: str, bounds: Bounds, space: Space) -> Section:
    seed, rows = next(iter(task.rows.items()), (0, ()))
    groups = task.scores.groups
    fact = max(groups, key=lambda name: len(groups[name]), default="category")  # the one that tells most apart
    cards = tuple(_card(row, fact, bounds, space) for row in _chosen(rows, bounds.answers))
    beside, same = _beside(task, model)
    return Section(
        task=task,
        figures=tuple(
            Figure(
                name=name,
                value=value,
                interval=task.intervals.get(name),
                over_seeds=task.intervals.get(f"{name}, over seeds"),
                by_seed=tuple(values[name] for values in task.by_seed.values() if name in values),
            )
            for name, value in task.scores.values.items()
        ),
        samples=len(rows),
        counts={verdict: sum(verdict_of(row) == verdict for row in rows) for verdict in VERDICTS},
        how=tuple(_how(task, seed)),
        beside=beside,
        same_model=same,
        plots={name: _bars(found, bounds.groups) for name, found in task.scores.groups.items() if len(found) > 1},
        cards=cards,
    )


def _how(task: TaskResult, seed: int) -> Iterator[str]:
    if task.asked.get("samples") != task.asked.get("of"):
        yield f"{task.asked.get('samples')} of {task.asked.get('of')} samples"
    yield from told_of(task.rows)
    if task.marked_by == "fallback":
        yield "marked by a rule that stands in for a judge, because it was asked for; no published score is comparable"
    if task.compat is not None:
        yield f'scored with compat="{task.compat}": the rule that the published scores were computed with'
    if task.judge:
        yield "judge: " + ", ".join(
            f"{key} {value}" for key, value in task.judge.items() if value not in ("", [], None)
        )
    if len(task.rows) > 1:
        yield f"figures are means over the seeds {', '.join(map(str, task.rows))}; answers are those of seed {seed}"


def _beside(task: TaskResult, model: str) -> tuple[Published | None, bool]:
    """The published score of the same figure: of this model, or else of the first that is listed."""
    figure = next(iter(task.scores.values), None)
    published = task.benchmark.published
    published = [one for one in published if one.metric == figure] or published
    own = next((one for one in published if one.model.casefold() == model.casefold()), None)
    return (own, True) if own else (next(iter(published), None), False)


def _model_name(manifest: Mapping[str, Any]) -> str:
    """The last part of a hub id or path, as published scores name models."""
    model = manifest.get("model")
    name = model.get("name") if isinstance(model, Mapping) else model
    return str(name).rstrip("/").rpartition("/")[2] if name else "a model without a name"


def _facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What stands in the head of the page: the parts of `run.json`, each on one line."""
    loose = {key: value for key, value in manifest.items() if isinstance(value, str | int | float)}
    parts = {key: value for key, value in manifest.items() if isinstance(value, Mapping) and key != "tasks"}
    parts["run"] = {key: value for key, value in loose.items() if key not in ("format", "begun")}
    for part, values in parts.items():
        told = [
            f"{key} {shortened(readable(value), 100)}" for key, value in values.items() if value not in (None, "", [])
        ]
        if told:
            yield part, ", ".join(told)


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)


def _bars(values: Mapping[str, float], most: int) -> tuple[Bar, ...]:
    """In the order of the groups; the longest possible bar is 100, or the largest value if that is more."""
    longest = max(100.0 if max(values.values()) > 1 else 1.0, *values.values())
    return tuple(
        Bar(label=label, value=value, share=round(100 * max(0.0, value) / longest, 1))
        for label, value in list(values.items())[:most]
    )


def shown_figure(value: float | None, largest: float = 0.0) -> str:
    """As papers print: 71.2, 1648.1, 0.793; all in one row with the digits of the `largest` among them.

    >>> shown_figure(71.234), shown_figure(0.7934), shown_figure(0.7934, 71.234), shown_figure(None)
    ('71.2', '0.793', '0.8', '-')
    """
    if value is None:
        return "-"
    return f"{value:.1f}" if max(abs(value), largest) >= 5 or value == 0 else f"{value:.3f}".rstrip("0").rstrip(".")


# ---- answers ---------------------------------------------------------------------------------------------------------


def verdict_of(row: Marked) -> Verdict:
    """More than half right is right: an answer that three of ten people gave is worth 0.9."""
    return "withheld" if row.mark.score is None else "right" if row.mark.score >= 0.5 else "wrong"


def _chosen(rows: Sequence[Marked], most: int) -> list[Marked]:
    """At most so many of each kind, evenly from the whole set, in its order."""
    chosen: set[int] = set()
    for verdict in VERDICTS:
        places = [place for place, row in enumerate(rows) if verdict_of(row) == verdict]
        step = max(1.0, len(places) / most) if most else 1.0
        chosen |= {places[int(number * step)] for number in range(min(most, len(places)))}
    return [rows[place] for place in sorted(chosen)]


def _card(row: Marked, fact: str, bounds: Bounds, space: Space) -> Card:
    sample, most = row.sample, bounds.characters
    known = sample.facts.get(fact, "")
    pictures = tuple(_thumbnails(sample, bounds, space))
    return Card(
        id=sample.id,
        verdict=verdict_of(row),
        score=row.mark.score,
        category=f"{fact}: {known}" if isinstance(known, bool) else str(known),
        prompt=shortened(sample.prompt, most),
        answer=shortened(row.answer if row.failed is None else f"(not answered: {row.failed.why})", most),
        truth=shortened(readable(sample.answer), most),
        parsed=None if row.mark.parsed is None else shortened(row.mark.parsed, most),
        parts=row.mark.parts,
        thumbnails=pictures,
        more_pictures=max(0, len(sample.pictures) - bounds.pictures),
    )


def _thumbnails(sample: Sample, bounds: Bounds, space: Space) -> Iterator[Thumbnail]:
    for picture in sample.pictures[: bounds.pictures]:
        yield _thumbnail(picture.name, picture, bounds, space)
    if sample.footage is not None:
        yield _thumbnail(sample.footage.name, sample.footage, bounds, space)


def _thumbnail(name: str, source: Any, bounds: Bounds, space: Space) -> Thumbnail:
    try:
        if hasattr(source, "read"):
            photo = to_rgb(open_image(source.read()))
        else:
            photo = open_video(source.path, frames=1, bound=source.bound).frames[0]
        photo = photo.copy()
        photo.thumbnail((bounds.side, bounds.side))
        data = io.BytesIO()
        photo.save(data, "WEBP", quality=70, method=2)
    except (InternVLError, OSError) as error:  # data may have moved since; a report is made all the same
        return Thumbnail(name, None, f"cannot be shown: {shortened(str(error), 200)}")
    if data.tell() > space.left:
        return Thumbnail(name, None, "left out: the page holds no more pictures")
    space.left -= data.tell()
    return Thumbnail(name, f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}", size=photo.size)


def shortened(text: str, most: int) -> str:
    """The beginning of a long text, and how long it is.

    >>> shortened("abcdef", 3)
    'abc\u2026 (6 characters)'
    """
    return text if len(text) <= most else f"{text[:most]}\N{HORIZONTAL ELLIPSIS} ({len(text):,} characters)"


def readable(value: Any) -> str:
    """A truth for people: answers of several humans with their number, everything else as it is or as JSON.

    >>> readable(["red", "red", "dark red"]), readable(None), readable({"box": [1, 2]})
    ('red (2), dark red', 'not known here', '{"box": [1, 2]}')
    """
    if value is None:
        return "not known here"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return ", ".join(f"{one} ({count})" if count > 1 else one for one, count in Counter(value).items())
    return json.dumps(value, ensure_ascii=False, default=str)


def csp_hash(script: str) -> str:
    """What a Content-Security-Policy calls exactly this script, so that no other runs.

    >>> csp_hash("")
    'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"

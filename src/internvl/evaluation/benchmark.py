"""What a benchmark is: values. Data, prompt, settings and scorer; nothing here opens a file or asks a model.

    data folder --Source.read--> Sample --ask--> answer --Benchmark.mark--> Mark --Benchmark.summarise--> Scores

A new benchmark is a new value in one of the files of `evaluation/tasks`, never a new program.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from internvl.evaluation.folder import Folder
from internvl.evaluation.material import File, Footage, Picture

Compat = Literal["original"] | None
"""None: the rule of the paper. "original": what the published scores were computed with, quirks included."""


# ---- what is asked ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question. `prompt` is all that the model reads, the instruction included.

    Its `<image>` are the places of `pictures`, in order, and `<video>` that of the footage; without placeholders they
    come first. `answer` is what the scorer compares with; None: the benchmark keeps it secret.
    """

    id: str
    """Unique in its benchmark and the same at every reading."""
    prompt: str
    pictures: tuple[Picture, ...] = ()
    footage: Footage | None = None
    answer: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else is known of it: category, options, the row's own id. Plain JSON values."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a benchmark's questions are asked. What a run changes is written into its report."""

    max_new_tokens: int = 100
    min_new_tokens: int = 1
    max_tiles: int = 6
    """Of one picture, thumbnail not counted; several pictures of a question share it, at least one each."""
    together: int | None = None
    """Tiles that all pictures of a question share, where that is another number than `max_tiles`."""
    frames: int = 16
    frame_line: str = "Frame{}: <image>\n"
    """How each frame of a video is introduced; `{}` is its number, from 1."""
    temperature: float = 0.0
    top_p: float | None = None
    system: str | None = None
    """None: the checkpoint's own system message."""


# ---- what comes back -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """What one answer is worth. `score` None: this rule cannot tell (a judge is needed, or the truth is secret)."""

    score: float | None
    parsed: str | None = None
    """What the scorer took the answer to say."""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further figures of this answer: `iou`, `edit_distance`."""


@dataclass(frozen=True)
class Failure:
    """Why a question has no answer, though it was asked: `context` is too long for the model, `refused` by a server."""

    kind: Literal["context", "refused"]
    why: str
    """On one line, as the model or the server said it."""


@dataclass(frozen=True)
class Marked:
    """A sample with its answer and mark."""

    sample: Sample
    answer: str
    """Nothing where `failed` says why."""
    mark: Mark
    failed: Failure | None = None
    max_tiles: int | None = None
    """Where it was asked again with another number of tiles than the run's."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The figures of a benchmark. The first of `values` is the one that papers print, in the unit that they print."""

    values: Mapping[str, float]
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    """By a fact of the samples: {"category": {"ocr": 71.2, ...}}."""
    withheld: Mapping[str, str] = field(default_factory=dict[str, str])
    """Figures that are not given, and why: {"SPICE": "Java is not installed"}."""
    means: Mapping[str, float] = field(default_factory=dict[str, float])
    """Which of `values` are the mean of the marks of all rows, and times what: {"accuracy": 100.0}. Their intervals
    are those of a mean; any other figure has the jackknife's."""


Summarise = Callable[[Sequence[Marked]], Scores]


def mean_score(name: str = "accuracy", *, by: Sequence[str] = (), scale: float = 100.0) -> Summarise:
    """The mean of the marks times `scale`, over all samples and by each of these facts. Unmarked samples withhold it.

    >>> rows = [Marked(Sample(id=str(i), prompt=""), "", Mark(score)) for i, score in enumerate((1.0, 0.0))]
    >>> mean_score()(rows).values
    {'accuracy': 50.0}
    """

    def summarise(rows: Sequence[Marked]) -> Scores:
        scores = [row.mark.score for row in rows if row.mark.score is not None]
        if len(scores) < len(rows) or not rows:
            why = f"{len(rows) - len(scores)} of {len(rows)} answers have no mark" if rows else "there is no answer"
            return Scores(values={}, withheld={name: why})
        groups: dict[str, dict[str, float]] = {}
        for fact in by:
            members: dict[str, list[float]] = defaultdict(list)
            for row, score in zip(rows, scores, strict=True):
                if fact in row.sample.facts:
                    members[str(row.sample.facts[fact])].append(score)
            if members:
                groups[fact] = {key: scale * sum(found) / len(found) for key, found in sorted(members.items())}
        return Scores(values={name: scale * sum(scores) / len(scores)}, groups=groups, means={name: scale})

    return summarise


# ---- the benchmark ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """One form in which people have a benchmark's data."""

    layout: Literal["original", "vlmevalkit", "huggingface", "shared"]
    """The original repository's files; a VLMEvalKit table; parquet files; this project's zip and JSON lines."""
    files: tuple[File, ...]
    read: Callable[[Folder], Iterator[Sample]] = field(repr=False)


class Marker(Protocol):
    """From a question and its answer to a mark; a pure function."""

    def __call__(self, sample: Sample, answer: str, *, compat: Compat) -> Mark: ...


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How a judge is asked about an answer, and what its verdict means."""

    version: str
    """Changed whenever prompt or parsing changes; written into the report."""
    prompt: Callable[[Sample, str], str]
    parse: Callable[[Sample, str], Mark]
    """From (sample, what the judge wrote); a mark without score where the verdict cannot be read."""
    system: str | None = None
    """The judge's system message; None: its own."""
    published: str = ""
    """The judge that the published scores were given by."""
    max_new_tokens: int = 1024
    temperature: float = 0.0
    failed: Mark = Mark(0.0)
    """What a question is worth that was not answered; no judge is asked about it."""


@dataclass(frozen=True)
class Published:
    """A score that somebody printed. It was not computed by this project unless `ours` says so."""

    model: str
    """A name of the zoo where it has one: `InternVL2-8B`."""
    value: float
    metric: str
    """A key of `Scores.values`."""
    source: str
    """Where it stands, short: `InternVL 2.0 documentation`, `arXiv:2412.05271, table 6`."""
    options: str = ""
    """Options of `internvl eval` that it needs besides the benchmark's own settings: `--max-tiles 24`."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark as a value.

    mark gives each answer its mark, `summarise` makes the figures. judging: for what no rule can mark; then `mark`
    is the rule-based fallback, used only where asked for. submission: for a truth that a server keeps, the text of
    the file that it wants, and its name.
    """

    name: str
    """As on the command line: `chartqa-human`."""
    title: str
    paper: str
    """arXiv:… or an address."""
    group: str
    """Where it stands in lists: captions, vqa, documents, grounding, general, hallucination, reasoning, perception,
    code, multi-image, video, long-context, domains, embeddings, own."""
    sources: tuple[Source, ...]
    """The first whose files are all there is read."""
    mark: Marker
    summarise: Summarise = field(default_factory=mean_score)
    settings: Settings = Settings()
    judging: Judging | None = None
    submission: tuple[str, Callable[[Sequence[Marked]], bytes]] | None = None
    published: tuple[Published, ...] = ()
    note: str = ""
    """What a reader of the score must know: a part of the set only, a judge of another version."""

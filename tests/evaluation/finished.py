"""Finished runs, made by hand: benchmarks of a few samples with the marks that a test wants."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from internvl.evaluation.benchmark import Benchmark, Mark, Marked, Picture, Published, Sample, mean_score
from internvl.evaluation.results import RunResult, TaskResult
from internvl.metrics.statistics import bootstrap_mean


def photo(colour: str = "teal", size: tuple[int, int] = (640, 480)) -> bytes:
    """A picture as bytes of a PNG file."""
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return data.getvalue()


def picture(name: str, colour: str = "teal", size: tuple[int, int] = (640, 480)) -> Picture:
    return Picture(name, lambda: photo(colour, size))


def rows(marks: Mapping[str, float | None], **sample) -> list[Marked]:
    """A row for each (id, score)."""
    given = {"prompt": "Which colour?", "answer": "teal", **sample}
    return [Marked(Sample(id=id, **given), "Teal", Mark(score, "teal")) for id, score in marks.items()]


def task(by_seed: Mapping[int, Sequence[Marked]] | Sequence[Marked], *, name="colours", summarise=None, **given):
    """A scored benchmark of these rows; `given` are fields of TaskResult or of the benchmark."""
    seeds = by_seed if isinstance(by_seed, Mapping) else {0: by_seed}
    benchmark = Benchmark(
        name=name, title=given.pop("title", name.title()), paper="arXiv:2312.14238", group="own", sources=(),
        mark=lambda sample, answer, *, compat: Mark(float(answer.lower() == sample.answer)),
        summarise=summarise or mean_score(by=("category",)), published=given.pop("published", ()),
        note=given.pop("note", ""),
    )  # fmt: skip
    scored = {seed: benchmark.summarise(marked) for seed, marked in seeds.items()}
    first = next(iter(scored.values()))
    scores = [100 * row.mark.score for row in next(iter(seeds.values())) if row.mark.score is not None]
    intervals = {key: bootstrap_mean(scores) for key in first.values} if scores else {}
    fields = {"asked": {"settings": {"max_tiles": 6}}, "compat": None, "marked_by": "rule", **given}
    return TaskResult(benchmark=benchmark, rows=seeds, scores=first, intervals=intervals,
                      by_seed={seed: found.values for seed, found in scored.items()}, **fields)  # fmt: skip


def run(*tasks: TaskResult, name: str = "monday", **manifest) -> RunResult:
    told = {"model": {"name": "InternVL2-8B", "hash": "sha256:12ab"}, "packages": {"torch": "2.13"}, **manifest}
    return RunResult(folder=Path("runs") / name, manifest=told, tasks=tasks)


PUBLISHED = (
    Published("InternVL2-8B", 83.3, "accuracy", "InternVL 2.0 documentation", "--max-tiles 12"),
    Published("InternVL2-2B", 76.2, "accuracy", "InternVL 2.0 documentation"),
)

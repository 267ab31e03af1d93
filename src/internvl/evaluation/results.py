"""What a finished run is: what was asked and answered, and what it came to. The report reads nothing else.

A run is one folder; only `answers` cannot be made again from the rest:

    runs/NAME/
      run.json               what is needed to repeat the run: model and its hash, packages, machine, and for each task
                             its data, settings, seeds and sample
      TASK/answers*.jsonl    one line an answer, appended as it comes; one file a process
      TASK/judged.jsonl      one line a verdict of a judge, appended as it comes
      scores.json            the figures
      report.html            the same to look at; stands alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from internvl.evaluation.benchmark import Benchmark, Compat, Marked, Scores

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One benchmark of a run, scored."""

    benchmark: Benchmark
    asked: Mapping[str, Any]
    """What `run.json` says of this task."""
    rows: Mapping[int, Sequence[Marked]]
    """By seed; greedy runs have the one seed 0."""
    scores: Scores
    """Means over the seeds."""
    intervals: Mapping[str, Interval]
    """95 % of each figure: over samples by the bootstrap, and over seeds where there are several."""
    by_seed: Mapping[int, Mapping[str, float]]
    compat: Compat
    marked_by: Literal["rule", "judge", "fallback"]
    """fallback: the rule that stands in for a judge, because it was asked for."""
    judge: Mapping[str, Any] | None = None
    """The judge that was asked, and the version of its prompt."""


@dataclass(frozen=True)
class LeftOut:
    """A benchmark of the run that could not be scored again with the others."""

    why: str
    before: Mapping[str, Any] | None
    """What `scores.json` said of it."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A run, scored."""

    folder: Path
    manifest: Mapping[str, Any]
    """`run.json`."""
    tasks: tuple[TaskResult, ...]
    left_out: Mapping[str, LeftOut] = field(default_factory=dict[str, LeftOut])

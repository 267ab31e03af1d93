"""From the answers of a run to its figures; nothing is asked of the model again.

runs/NAME --read, mark, judge, summarise--> RunResult --> scores.json, report.html, submission files
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from internvl.errors import DataError, InternVLError
from internvl.evaluation import judge as judging
from internvl.evaluation.benchmark import Benchmark, Compat, Judging, Mark, Marked, Sample, Scores
from internvl.evaluation.comparison import together
from internvl.evaluation.failures import failed_of, told_of, worth
from internvl.evaluation.lookup import asked_before
from internvl.evaluation.manifest import read_manifest
from internvl.evaluation.planning import Subset, digest, read_samples
from internvl.evaluation.results import Interval, LeftOut, RunResult, TaskResult
from internvl.evaluation.store import Key, read_answers, write_whole
from internvl.metrics.statistics import bootstrap_mean, jackknife, over_seeds, wilson

Rows = Mapping[int, Sequence[Marked]]
Find = Callable[[str, Mapping[str, Any], Path | None], Benchmark]
"""(name, what `run.json` says of it, the data folder) -> the benchmark."""

MANY = 2000
"""Samples from which on fewer parts are left out in turn: figures such as CIDEr take their time."""
FINE, COARSE = 100, 20


@dataclass(frozen=True, kw_only=True)
class Rules:
    """By which rules a run is scored."""

    compat: Compat = None
    judge: judging.Judge | None = None
    fallback: bool = False
    """Where a judge is needed and there is none: the rule that stands in for it."""


def score_run(
    folder: Path,
    *,
    rules: Rules | None = None,
    data: Path | None = None,
    only: Sequence[str] = (),
    find: Find = asked_before,
) -> RunResult:
    """Score all benchmarks of a run.

    data: where the samples are now, if not where they were. only: these of its benchmarks. What a benchmark's
    unanswered, unjudged or secret samples keep from being told is in `Scores.withheld`.
    """
    manifest, rules = read_manifest(folder), rules or Rules()
    names = [name for name in manifest["tasks"] if not only or name in only]
    results = [
        _score(folder, find(name, manifest["tasks"][name], data), manifest["tasks"][name], rules, data)
        for name in names
    ]
    return RunResult(folder=folder, manifest=manifest, tasks=tuple(results))


def score_folder(
    folder: Path,
    names: Sequence[str],
    *,
    rules: Rules | None = None,
    data: Path | None = None,
    find: Find = asked_before,
) -> RunResult:
    """Score these benchmarks of a run by these rules, and its others as they were scored the last time.

    A judge is asked about none of the others; what it wrote is read again. One whose data is not where it was keeps the
    figures that it had, and is in `left_out`.
    """
    manifest, rules = read_manifest(folder), rules or Rules()
    before = _scored_before(folder)
    tasks: list[TaskResult] = []
    left_out: dict[str, LeftOut] = {}
    for name, asked in manifest["tasks"].items():
        mine = name in names
        try:
            how = rules if mine else _rules_before(before.get(name, {}))
            place = data if mine else None
            tasks.append(_score(folder, find(name, asked, place), asked, how, place))
        except InternVLError as error:
            if mine:
                raise
            left_out[name] = LeftOut(str(error), before.get(name))
    return RunResult(folder=folder, manifest=manifest, tasks=tuple(tasks), left_out=left_out)


class _Silent:
    """A judge that was asked before, and is not asked again."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, prompts: Sequence[str], judging: Judging) -> Iterator[tuple[int, str]]:
        return iter(())


def _scored_before(folder: Path) -> dict[str, dict[str, Any]]:
    """The benchmarks of `scores.json`; none where it is not there, or is no such file."""
    try:
        found = json.loads((folder / "scores.json").read_bytes())
        scores = found["scores"] if found["format"] == 1 else {}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return {name: task for name, task in scores.items() if isinstance(task, dict)} if isinstance(scores, dict) else {}


def _rules_before(task: Mapping[str, Any]) -> Rules:
    name = (task.get("judge") or {}).get("judge")
    return Rules(
        compat="original" if task.get("rules") == "original" else None,
        judge=_Silent(name) if isinstance(name, str) else None,
        fallback=task.get("marked by") == "fallback",
    )


def write_scores(result: RunResult) -> None:
    """`scores.json`, and what benchmarks want handed in."""
    for task in result.tasks:
        if task.benchmark.submission is not None:
            name, make = task.benchmark.submission
            for seed, rows in task.rows.items():
                place = name if len(task.rows) == 1 else f"seed-{seed}-{name}"
                if rows:
                    write_whole(result.folder / task.benchmark.name / place, make([_handed_in(row) for row in rows]))
    write_whole(result.folder / "scores.json", json.dumps(as_json(result), ensure_ascii=False, indent=1) + "\n")


def _handed_in(row: Marked) -> Marked:
    """A server is sent something for every question: of one without an answer the empty text."""
    return row if row.failed is None else replace(row, answer="", mark=replace(row.mark, parsed=""))


def as_json(result: RunResult) -> dict[str, Any]:
    """The figures and how they were made, as plain JSON values."""
    return {
        "format": 1,
        "run": result.manifest,
        "scores": {
            task.benchmark.name: {
                "title": task.benchmark.title,
                "values": dict(task.scores.values),
                "intervals": {name: list(interval) for name, interval in task.intervals.items()},
                "groups": {name: dict(values) for name, values in task.scores.groups.items()},
                "withheld": dict(task.scores.withheld),
                "by seed": {str(seed): dict(values) for seed, values in task.by_seed.items()},
                "answers": sum(map(len, task.rows.values())),
                "failed": failed_of(task.rows),
                "told": told_of(task.rows),
                "rules": "original" if task.compat == "original" else "paper",
                "marked by": task.marked_by,
                "judge": None if task.judge is None else dict(task.judge),
                "note": task.benchmark.note,
            }
            for task in result.tasks
        }
        | {name: {**left.before, "left out": left.why} for name, left in result.left_out.items() if left.before},
    }


# ---- one benchmark ---------------------------------------------------------------------------------------------------


def _score(folder: Path, benchmark: Benchmark, asked: Mapping[str, Any], rules: Rules, data: Path | None) -> TaskResult:
    samples = _samples(folder, benchmark, asked, data)
    seeds: list[int] = asked["seeds"]
    answers = {found.key: found for found in read_answers(folder / benchmark.name)}
    unknown = answers.keys() - {Key(sample.id, seed) for sample in samples for seed in seeds}
    if unknown:
        raise DataError(
            f"{folder / benchmark.name}: {len(unknown)} answers to questions that were not asked: {min(unknown).id}"
        )
    bare: Rows = {
        seed: [
            Marked(sample, found.answer, Mark(None), found.failed, found.max_tiles)
            for sample in samples
            if (found := answers.get(Key(sample.id, seed))) is not None
        ]
        for seed in seeds
    }
    absent = len(samples) * len(seeds) - len(answers)
    how = _marked(folder, benchmark, bare, rules, complete=not absent)
    reason = f"{absent} of {len(samples) * len(seeds)} questions have no answer yet" if absent else how.withheld
    by_seed = {seed: _figures(benchmark, how.counted[seed], reason) for seed in seeds}
    scores = _mean(list(by_seed.values()))
    return TaskResult(
        benchmark=benchmark,
        asked=asked,
        rows=how.rows,
        scores=scores,
        intervals=_intervals(benchmark, how.counted, scores, by_seed),
        by_seed={seed: found.values for seed, found in by_seed.items()},
        compat=rules.compat,
        marked_by=how.by,
        judge=how.judge,
    )


def _samples(folder: Path, benchmark: Benchmark, asked: Mapping[str, Any], data: Path | None) -> list[Sample]:
    """The samples that were asked, read from the data again."""
    place = Path(asked["data"]["folder"]) if data is None else data
    _, every = read_samples(benchmark, place)
    samples = Subset(**asked["subset"]).of(every)
    if digest(samples) != asked["questions"]:
        raise DataError(
            f"{folder}: {benchmark.name} in {place} is not what was asked (prompts, ids or pictures differ); score it "
            "with the same data (--data) and version, or run it again"
        )
    return samples


@dataclass(frozen=True, kw_only=True)
class _How:
    rows: Rows
    counted: Rows
    """Those that the figures are made of: all, but for verdicts that nobody can read."""
    by: Literal["rule", "judge", "fallback"]
    withheld: str | None = None
    judge: Mapping[str, Any] | None = None


def _marked(folder: Path, benchmark: Benchmark, bare: Rows, rules: Rules, *, complete: bool) -> _How:
    """The rows with their marks: by the benchmark's rule, by a judge, or by what stands in for one."""
    if benchmark.judging is not None and not rules.fallback:
        if rules.judge is None:
            return _How(rows=bare, counted=bare, by="judge", withheld=judging.without_judge(benchmark.judging))
        file = folder / benchmark.name / "judged.jsonl"
        answered: Rows = {seed: [row for row in given if row.failed is None] for seed, given in bare.items()}
        if complete:  # a judge costs money: it is asked when all answers are there
            judging.ask_judge(benchmark.judging, answered, rules.judge, file)
        judged = judging.read_verdicts(benchmark.judging, answered, rules.judge.name, file)
        return _How(
            rows=_with_failed(benchmark, bare, judged.rows),
            counted=_with_failed(benchmark, bare, judged.readable),
            by="judge",
            withheld=judged.withheld if any(answered.values()) else None,
            judge=judged.about,
        )
    rows = {seed: [_by_rule(benchmark, row, rules.compat) for row in given] for seed, given in bare.items()}
    return _How(rows=rows, counted=rows, by="rule" if benchmark.judging is None else "fallback")


def _by_rule(benchmark: Benchmark, row: Marked, compat: Compat) -> Marked:
    if row.failed is not None:
        return replace(row, mark=worth(benchmark, row.sample, compat=compat, judged=False))
    return replace(row, mark=benchmark.mark(row.sample, row.answer, compat=compat))


def _with_failed(benchmark: Benchmark, bare: Rows, judged: Rows) -> Rows:
    """What a judge was asked about, and what has no answer to judge, in the order of the samples."""
    merged: dict[int, list[Marked]] = {}
    for seed, given in bare.items():
        known = {row.sample.id: row for row in judged[seed]}
        for row in given:
            if row.failed is not None:
                mark = worth(benchmark, row.sample, compat=None, judged=True)
                known[row.sample.id] = replace(row, mark=mark)
        merged[seed] = [known[row.sample.id] for row in given if row.sample.id in known]
    return merged


def _figures(benchmark: Benchmark, rows: Sequence[Marked], withheld: str | None) -> Scores:
    if withheld is not None:
        return Scores(values={}, withheld={_name(benchmark): withheld})
    return benchmark.summarise(rows)


def _name(benchmark: Benchmark) -> str:
    """What a score is called that is not there."""
    return benchmark.published[0].metric if benchmark.published else "score"


def _mean(found: Sequence[Scores]) -> Scores:
    """Over the seeds; what one of them withholds is withheld."""
    withheld = {name: why for scores in found for name, why in scores.withheld.items()}
    values = _mean_of([scores.values for scores in found])
    groups = {
        name: _mean_of([scores.groups.get(name, {}) for scores in found]) for name in (found[0].groups if found else ())
    }
    told = found[0].means if found else {}
    means = {name: scale for name, scale in told.items() if all(one.means.get(name) == scale for one in found)}
    return Scores(values=values, groups=groups, withheld=withheld, means=means)


def _mean_of(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure that all have."""
    shared = [name for name in found[0] if all(name in values for values in found)] if found else []
    return {name: math.fsum(values[name] for values in found) / len(found) for name in shared}


# ---- how sure it is --------------------------------------------------------------------------------------------------


def _intervals(benchmark: Benchmark, rows: Rows, scores: Scores, by_seed: Mapping[int, Scores]) -> dict[str, Interval]:
    """95 % of each figure. Over samples: Wilson's for a share of rights, the bootstrap for another mean of marks, the
    jackknife for anything else. Several seeds add `NAME, over seeds`."""
    if not scores.values:
        return {}
    groups = _together(rows)
    means = [math.fsum(marks) / len(marks) for marks in map(_marks, groups) if marks is not None]
    alone = len(means) == len(groups) == len({_cluster(group) for group in groups})
    intervals: dict[str, Interval] = {}
    for name in scores.values:
        scale = scores.means.get(name) if alone else None
        if scale is not None:
            shares = {*means} <= {0.0, 1.0}
            low, high = wilson(math.fsum(means), len(means)) if shares else bootstrap_mean(means)
            intervals[name] = scale * low, scale * high
    if len(intervals) < len(scores.values):
        parts = FINE if len(groups) <= MANY else COARSE
        others = jackknife(groups, lambda drawn: _of_some(benchmark, drawn), parts=parts, cluster=_cluster)
        # No figure is below 0; and that all samples agree does not make it exact.
        told = {name: (max(low, 0.0), high) for name, (low, high) in others.items() if name in scores.values}
        intervals = {name: (low, high) for name, (low, high) in told.items() if low < high} | intervals
    if len(by_seed) > 1:
        for name in scores.values:
            _, interval = over_seeds([found.values[name] for found in by_seed.values()])
            intervals[f"{name}, over seeds"] = interval
    return intervals


def _together(rows: Rows) -> list[tuple[Marked, ...]]:
    """Each sample's answers, one for each seed."""
    found: dict[str, list[Marked]] = {}
    for given in rows.values():
        for row in given:
            found.setdefault(row.sample.id, []).append(row)
    return [tuple(group) for group in found.values() if len(group) == len(rows)]


def _marks(group: Sequence[Marked]) -> list[float] | None:
    scores = [row.mark.score for row in group if row.mark.score is not None]
    return scores if len(scores) == len(group) else None


def _cluster(group: Sequence[Marked]) -> Hashable:
    return together(group[0].sample)


def _of_some(benchmark: Benchmark, groups: Sequence[Sequence[Marked]]) -> dict[str, float]:
    """The figures of some of the samples, over seeds."""
    return _mean_of([benchmark.summarise(rows).values for rows in zip(*groups, strict=True)])

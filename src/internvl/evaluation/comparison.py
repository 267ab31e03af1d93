"""Two runs side by side: the difference, how sure it is, and the samples that changed sides.

    found = compare(before, after)
    print(as_text(found)); json.dumps(as_json(found))

Only like is compared with like: the same samples with the same truth, scored by the same rule. What else was different
(prompt, tiles, checkpoint) is what one compares, and is listed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from textwrap import wrap
from typing import Any

from internvl.errors import UsageError
from internvl.evaluation.benchmark import Marked, Sample
from internvl.evaluation.results import Interval, RunResult, TaskResult
from internvl.metrics.statistics import bootstrap_mean, holm, jackknife, mcnemar, paired_permutation

LONGEST = 40
"""Letters of a value in a line."""
SHOWN = 5
"""Names that an error or a line of the table lists."""


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """One benchmark in both runs. `difference` is b - a, in the unit of the figure."""

    task: str
    figure: str
    """The first of the benchmark's figures, which papers print."""
    samples: int
    a: float
    b: float
    difference: float
    interval: Interval | None
    """95 % of the difference over samples; None where the figure of a part of them cannot be made."""
    p: float | None
    """Paired permutation test of the marks; None where some sample has none."""
    p_corrected: float | None
    """The same after Holm's correction for all benchmarks that are compared."""
    p_sides: float | None
    """McNemar's exact test; only where every answer is right or wrong and was given once."""
    better_in_a: tuple[str, ...]
    """Samples with a higher mark in a."""
    better_in_b: tuple[str, ...]
    asked: Mapping[str, tuple[Any, Any]]
    """What `run.json` says otherwise of this task: {"settings.max_tiles": (6, 12)}."""
    prompts_differ: int
    """Samples whose prompts are not the same letters."""
    failed: tuple[int, int] = (0, 0)
    """Questions without an answer in a and in b; they count as wrong answers."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs: the benchmarks of both, and those of one alone."""

    a: str
    b: str
    tasks: tuple[TaskComparison, ...]
    run: Mapping[str, tuple[Any, Any]] = field(default_factory=dict[str, tuple[Any, Any]])
    """What `run.json` says otherwise of the model, the machine and the packages."""
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    withheld: Mapping[str, str] = field(default_factory=dict[str, str])
    """Benchmarks without a figure in one of the runs, and why."""


def compare(a: RunResult, b: RunResult, *, seed: int = 0) -> Comparison:
    """Every benchmark that is in both runs. UsageError where there is none, or where like is not compared with like."""
    of_a = {task.benchmark.name: task for task in a.tasks}
    of_b = {task.benchmark.name: task for task in b.tasks}
    both = [name for name in of_a if name in of_b]
    if not both:
        raise UsageError(
            f"{a.folder.name} has {_listed(of_a)} and {b.folder.name} has {_listed(of_b)}: no benchmark is in both "
            "runs; ask the same one in both"
        )
    found: list[TaskComparison] = []
    withheld: dict[str, str] = {}
    for name in both:
        _check_rules(of_a[name], of_b[name])
        pairs = _pairs(of_a[name], of_b[name])
        missing = [task for task in (of_a[name], of_b[name]) if not task.scores.values]
        if missing:
            reasons = missing[0].scores.withheld.values()
            withheld[name] = next(iter(reasons), "it has no figure")
        else:
            found.append(_compare(of_a[name], of_b[name], pairs, seed))
    return Comparison(
        a=a.folder.name,
        b=b.folder.name,
        tasks=_corrected(found),
        run=_otherwise(*({**run.manifest, "tasks": None, "begun": None} for run in (a, b))),
        only_a=tuple(name for name in of_a if name not in of_b),
        only_b=tuple(name for name in of_b if name not in of_a),
        withheld=withheld,
    )


# ---- like with like --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """A sample with its answers in both runs, one for each seed."""

    a: tuple[Marked, ...]
    b: tuple[Marked, ...]

    @property
    def sample(self) -> Sample:
        return self.a[0].sample


def _check_rules(a: TaskResult, b: TaskResult) -> None:
    rules = [(f"compat={task.compat!r}", f"marked by {task.marked_by}", _judge(task)) for task in (a, b)]
    for one, other in zip(*rules, strict=True):
        if one != other:
            raise UsageError(
                f"{a.benchmark.name}: one run is scored with {one}, the other with {other}; score both the same way "
                "(internvl score) and compare again"
            )


def _judge(task: TaskResult) -> str:
    judge = task.judge or {}
    return f"judge {judge.get('judge')!r}, version {judge.get('version')!r}" if judge else "no judge"


def _pairs(a: TaskResult, b: TaskResult) -> list[_Pair]:
    """Samples of both, in the order of a; refuses two different sets of samples."""
    name, of_a, of_b = a.benchmark.name, _by_id(a), _by_id(b)
    if not of_a:
        raise UsageError(f"{name}: there is no answer to compare")
    if of_a.keys() != of_b.keys():
        alone_a, alone_b = [id for id in of_a if id not in of_b], [id for id in of_b if id not in of_a]
        alone = [*alone_a, *alone_b]
        raise UsageError(
            f"{name}: the runs did not answer the same samples ({len(of_a)} and {len(of_b)}; {len(alone)} are in one "
            f"run only, such as {alone[0]!r}); run both on the same data and subset"
        )
    for id, rows in of_a.items():
        if rows[0].sample.answer != of_b[id][0].sample.answer:
            raise UsageError(
                f"{name}: the truth of sample {id!r} is {_brief(rows[0].sample.answer)} in one run and "
                f"{_brief(of_b[id][0].sample.answer)} in the other; run both on the same data"
            )
    return [_Pair(rows, of_b[id]) for id, rows in of_a.items()]


def _by_id(task: TaskResult) -> dict[str, tuple[Marked, ...]]:
    found: dict[str, tuple[Marked, ...]] = {}
    for seed, rows in task.rows.items():
        for row in rows:
            found[row.sample.id] = (*found.get(row.sample.id, ()), row)
        if len(rows) != len(found) or any(len(given) != len(found[rows[0].sample.id]) for given in found.values()):
            raise UsageError(f"{task.benchmark.name}: seed {seed} answered other samples than the seeds before it")
    return found


# ---- the comparison --------------------------------------------------------------------------------------------------


def _compare(a: TaskResult, b: TaskResult, pairs: Sequence[_Pair], seed: int) -> TaskComparison:
    figure = next(iter(a.scores.values))
    if figure not in b.scores.values:
        raise UsageError(f"{a.benchmark.name}: the figure {figure!r} is in one run only; score both again")
    of_a, of_b = [_mean(pair.a) for pair in pairs], [_mean(pair.b) for pair in pairs]
    marks = [(x, y) for x, y in zip(of_a, of_b, strict=True) if x is not None and y is not None]
    scores_a, scores_b = [x for x, _ in marks], [y for _, y in marks]
    complete = len(marks) == len(pairs)
    value_a, value_b = a.scores.values[figure], b.scores.values[figure]
    alone = complete and len({together(pair.sample) for pair in pairs}) == len(pairs)
    scale = a.scores.means.get(figure) if alone else None
    if scale is None:
        found = jackknife(
            pairs, lambda some: _difference(a, some, figure), seed=seed, cluster=lambda pair: together(pair.sample)
        )
        interval = found.get(figure)
    else:
        interval = bootstrap_mean([scale * (y - x) for x, y in marks], seed=seed, samples=2000)
    once = all(len(pair.a) == len(pair.b) == 1 for pair in pairs)
    better = [[pair.sample.id for pair, x, y in zip(pairs, one, other, strict=True) if _higher(x, y)]
              for one, other in ((of_a, of_b), (of_b, of_a))]  # fmt: skip
    return TaskComparison(
        task=a.benchmark.name,
        figure=figure,
        samples=len(pairs),
        a=value_a,
        b=value_b,
        difference=value_b - value_a,
        interval=interval,
        p=paired_permutation(scores_b, scores_a, seed=seed) if complete else None,
        p_corrected=None,
        p_sides=mcnemar(len(better[0]), len(better[1]))
        if complete and once and {*scores_a, *scores_b} <= {0.0, 1.0}
        else None,
        better_in_a=tuple(better[0]),
        better_in_b=tuple(better[1]),
        asked=_otherwise(a.asked, b.asked),
        prompts_differ=sum(pair.sample.prompt != pair.b[0].sample.prompt for pair in pairs),
        failed=(_failed(pair.a for pair in pairs), _failed(pair.b for pair in pairs)),
    )


def _otherwise(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs, by its keys: `settings.max_tiles`."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in {**a, **b}:
        one, other = a.get(key), b.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found |= {f"{key}.{inner}": pair for inner, pair in _otherwise(one, other).items()}
        elif one != other:
            found[key] = one, other
    return found


def _mean(rows: Sequence[Marked]) -> float | None:
    scores = [row.mark.score for row in rows if row.mark.score is not None]
    return math.fsum(scores) / len(scores) if len(scores) == len(rows) else None


def _failed(rows: Iterable[Sequence[Marked]]) -> int:
    return sum(row.failed is not None for given in rows for row in given)


def _higher(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and one > other + 1e-9


def _difference(task: TaskResult, pairs: Sequence[_Pair], figure: str) -> dict[str, float]:
    """The figure's difference over some of the samples; nothing where these few do not make one."""
    values: list[float] = []
    for side in ([pair.a for pair in pairs], [pair.b for pair in pairs]):
        by_seed: list[float] = []
        for rows in zip(*side, strict=True):
            found = task.benchmark.summarise(rows).values
            if figure not in found:
                return {}
            by_seed.append(found[figure])
        values.append(math.fsum(by_seed) / len(by_seed))
    return {figure: values[1] - values[0]}


def together(sample: Sample) -> Hashable:
    """What samples have in common that are marked together, or are about the same pictures: they stand or fall as one.

    A pair of MMVP, the rotations of a question of MMBench, the questions about one picture; else the sample itself.
    """
    facts = sample.facts
    if "pair" in facts or isinstance(facts.get("question"), int):
        return str(facts.get("pair", facts.get("question")))
    return tuple(picture.name for picture in sample.pictures) or sample.id


def _corrected(found: Sequence[TaskComparison]) -> tuple[TaskComparison, ...]:
    corrected = iter(holm([task.p for task in found if task.p is not None]))
    return tuple(task if task.p is None else replace(task, p_corrected=next(corrected)) for task in found)


# ---- to read ---------------------------------------------------------------------------------------------------------

HEADINGS = ("benchmark", "figure", "samples", "a", "b", "b - a", "95 %", "p", "p (Holm)", "better in a | b")


def as_text(found: Comparison, *, width: int = 100) -> str:
    """A table for the terminal. Where the interval does not hold 0 and p is small, the difference is more than luck."""
    rows = [HEADINGS, *(_cells(task) for task in found.tasks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [f"a = {found.a}, b = {found.b}", ""]
    for row in rows:
        cells = [cell.ljust(width) if column < 2 else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    lines += ["", *_differences(found.run, width)]
    for task in found.tasks:
        lines += _differences({f"{task.task}, {key}": pair for key, pair in task.asked.items()}, width)
        if task.prompts_differ:
            lines.append(f"{task.task}: {task.prompts_differ} of {task.samples} prompts differ")
        if any(task.failed):
            lines.append(f"{task.task}: not answered, counted as wrong: {task.failed[0]} in a, {task.failed[1]} in b")
    lines += [f"{name}: withheld, {why}" for name, why in found.withheld.items()]
    for side, names in (("a", found.only_a), ("b", found.only_b)):
        lines += [f"only in {side}: {', '.join(names)}"] if names else []
    return "\n".join(lines).rstrip()


def _differences(found: Mapping[str, tuple[Any, Any]], width: int) -> list[str]:
    """What differs, one key a line under each other; what only one of the runs says of itself is named together."""
    both = {key: pair for key, pair in found.items() if None not in pair}
    rows = [(key, _brief(one), _brief(other)) for key, (one, other) in both.items()]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    lines = [f"{key:<{widths[0]}}  {one:<{widths[1]}} in a, {other} in b" for key, one, other in rows]
    for side, place in (("a", 0), ("b", 1)):
        alone = [
            f"{key} {_brief(pair[place])}" for key, pair in found.items() if None in pair and pair[place] is not None
        ]
        lines += wrap(f"only {side} says: {', '.join(alone)}", width, subsequent_indent="  ") if alone else []
    return lines


def _cells(task: TaskComparison) -> tuple[str, ...]:
    interval = f"{task.interval[0]:+.2f} .. {task.interval[1]:+.2f}" if task.interval else "-"
    p, corrected = (_p(value) for value in (task.p, task.p_corrected))
    changed = f"{len(task.better_in_a)} | {len(task.better_in_b)}"
    return (task.task, task.figure, str(task.samples), f"{task.a:.2f}", f"{task.b:.2f}", f"{task.difference:+.2f}",
            interval, p, corrected, changed)  # fmt: skip


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def as_json(found: Comparison) -> dict[str, Any]:
    """All of it as plain JSON values, the names of the samples that changed sides included."""
    return asdict(found)


def _listed(names: Mapping[str, object]) -> str:
    shown = ", ".join(list(names)[:SHOWN]) or "no benchmark"
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."

"""What `internvl eval` and `internvl score` share: their options, the judge, and the table at the end."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from internvl.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from internvl.evaluation.benchmark import Benchmark, Published
    from internvl.evaluation.judge import Judge
    from internvl.evaluation.results import RunResult, TaskResult
    from internvl.evaluation.scoring import Rules

MOST_FIGURES = 6
"""Of one benchmark in the table; all are in scores.json."""

Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the benchmarks' files. Default: data.")]
Compat = Annotated[Literal["original"] | None, typer.Option(help="Score as the original code did, quirks included.")]
JudgeName = Annotated[
    str | None, typer.Option("--judge", metavar="URL|M", help="Who judges what no rule can mark: a server or a model.")
]
JudgeModel = Annotated[str | None, typer.Option(metavar="NAME", help="The judge's model, where --judge is a server.")]
Fallback = Annotated[bool, typer.Option("--rules", help="Without a judge: the rule that stands in for it.")]
AsJson = Annotated[bool, typer.Option("--json", help="The figures as one JSON object.")]


def is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def check_needed(judge: str | None, fallback: bool, benchmarks: Sequence[Benchmark]) -> None:
    """Refuse a judge, and what stands in for one, where every benchmark has a rule."""
    if (judge is not None) != fallback and not any(one.judging for one in benchmarks):
        raise UsageError(f"{'--rules' if judge is None else '--judge'}: no benchmark here needs a judge; leave it out")


def rules_of(compat: Literal["original"] | None, judge: str | None, judge_model: str | None, fallback: bool) -> Rules:
    """By which rules to score; opens the judge."""
    from internvl.evaluation.scoring import Rules

    if judge is None and judge_model is not None:
        raise UsageError(f"--judge-model {judge_model} without --judge; give the server: --judge http://...")
    if judge is not None and fallback:
        raise UsageError("--judge and --rules: an answer is marked by a judge or by the rule; give one of them")
    return Rules(compat=compat, judge=None if judge is None else _judge(judge, judge_model), fallback=fallback)


def _judge(name: str, model: str | None) -> Judge:
    from internvl.evaluation.responders import EndpointJudge, LocalJudge

    if is_address(name):
        from internvl.inference.remote import Remote

        return EndpointJudge(Remote(name, model=model))
    if model is not None:
        raise UsageError(f"--judge-model {model} belongs to a server; --judge {name} is a model already")
    from internvl import Chat
    from internvl.evaluation.responders import fingerprint
    from internvl.weights.load import resolve

    path = resolve(name)
    # Its verdicts are kept by its name: a folder that holds another model by now is another judge.
    return LocalJudge(Chat.load(path), f"{name} ({fingerprint(path)[:31]})")


def finish_run(out: Path, rules: Rules, tasks: Sequence[str], *, as_json: bool) -> None:
    """Score what `internvl eval` was asked for, and show it; the files hold all benchmarks of the run."""
    from internvl.evaluation.scoring import score_folder

    finish(score_folder(out, tasks, rules=rules), tasks, as_json=as_json)


def finish(result: RunResult, names: Sequence[str], *, as_json: bool) -> None:
    """Write scores and report of the run, and print the table of these benchmarks."""
    import json
    from dataclasses import replace

    from internvl.evaluation import scoring
    from internvl.evaluation.report import write_report

    scoring.write_scores(result)
    try:
        report = f"{write_report(result)} shows the answers"
    except MissingExtra as error:  # the figures are there without it
        report = str(error)
    asked = tuple(task for task in result.tasks if task.benchmark.name in names)
    shown = replace(result, tasks=asked, left_out={})
    if as_json:
        typer.echo(json.dumps({"folder": str(result.folder), **scoring.as_json(shown)}, ensure_ascii=False))
        return
    typer.echo(table(shown, width=terminal_width()))
    for name, left in result.left_out.items():
        kept = "keeps the figures that it had" if left.before else "has no figures"
        typer.echo(f"\n{name} {kept}, as it cannot be scored again: {left.why}")
    others = len(result.tasks) - len(asked)
    more = f" (and of {others} more benchmark{'s' * (others > 1)} of this run)" if others else ""
    typer.echo(f"\n{result.folder / 'scores.json'} has every figure{more}; {report}.")


def terminal_width() -> int | None:
    """Columns of the terminal that is written to; None: a file or a pipe, where lines stay whole."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else None


def table(result: RunResult, *, width: int | None = None) -> str:
    """The figures, each with its interval and the published score; notes are wrapped at `width`."""
    from textwrap import wrap

    from internvl.evaluation.failures import told_of

    rows = [("benchmark", "figure", "score", "95 %", "published")]
    notes: list[str] = []
    for task in result.tasks:
        model, name = str(result.manifest.get("model", {}).get("name", "")), task.benchmark.name
        rows += _rows(task, model)
        shown = [published(task.benchmark, figure, model) for figure in task.scores.values]
        options = dict.fromkeys(one.options for one in shown if one is not None and one.options)
        notes += [f"{name}: the published score was made with {option}" for option in options]
        notes += [f"{name}: {figure} is withheld: {why}" for figure, why in task.scores.withheld.items()]
        subset = task.asked.get("samples"), task.asked.get("of")
        notes += [f"{name}: {subset[0]} of {subset[1]} samples"] if subset[0] != subset[1] else []
        notes += [f"{name}: {said}" for said in (*told_of(task.rows), *_how(task))]
        notes += [f"{name}: {task.benchmark.note}"] if task.benchmark.note else []
    if width is not None:
        notes = [line for note in notes for line in wrap(note, width, subsequent_indent="  ", break_long_words=False)]
    return "\n".join([columns(rows), *([""] if notes else []), *notes])


def _how(task: TaskResult) -> list[str]:
    """What else a reader of the figures must know: rules, judge, seeds."""
    told: list[str] = []
    if task.compat == "original":
        told.append("scored by the rules of the original code")
    if task.judge is not None:
        told.append(f"judged by {task.judge['judge']}")
    if task.marked_by == "fallback":
        told.append("by the rule that stands in for a judge")
    if len(task.by_seed) > 1:
        figure = next(iter(task.scores.values), None)
        low, high = task.intervals.get(f"{figure}, over seeds", (None, None))
        spread = "" if low is None or high is None else f"; 95 % of {figure} over seeds: {low:.1f} .. {high:.1f}"
        told.append(f"means over the {len(task.by_seed)} seeds {', '.join(map(str, task.by_seed))}{spread}")
    return told


def _rows(task: TaskResult, model: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    shown = list(task.scores.values.items())
    for figure, value in shown[:MOST_FIGURES]:
        low, high = task.intervals.get(figure, (None, None))
        interval = "" if low is None or high is None else f"{low:.1f} .. {high:.1f}"
        printed = published(task.benchmark, figure, model)
        beside = "" if printed is None else f"{printed.value:g} ({printed.model})"
        rows.append((task.benchmark.name if not rows else "", figure, f"{value:.2f}", interval, beside))
    if len(shown) > MOST_FIGURES:
        rows.append(("", f"and {len(shown) - MOST_FIGURES} more", "", "", ""))
    return rows or [(task.benchmark.name, "", "-", "", "")]


def published(benchmark: Benchmark, figure: str, model: str) -> Published | None:
    """What somebody printed of this model, or else of the first one that is listed."""
    found = [one for one in benchmark.published if one.metric == figure]
    key = model.rpartition("/")[2].casefold()
    return next((one for one in found if one.model.casefold() == key), found[0] if found else None)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Cells under each other."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)

"""`internvl score`: the figures of a run, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from internvl.cli.scores import (
    AsJson,
    Compat,
    Data,
    Fallback,
    JudgeModel,
    JudgeName,
    check_needed,
    finish,
    rules_of,
    terminal_width,
)
from internvl.errors import UsageError


def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `internvl eval` wrote.")],
    against: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Another run, which this one is compared with.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Only this benchmark of the run.")] = None,
    data: Data = None,
    compat: Compat = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    fallback: Fallback = False,
    as_json: AsJson = False,
) -> None:
    """Score the answers of a run again, by the rules you name; no model is asked again.

    internvl score runs/nano

    internvl score runs/new --against runs/old      (a paired test for each benchmark)
    """
    from internvl.evaluation.manifest import read_manifest
    from internvl.evaluation.scoring import score_folder, score_run
    from internvl.evaluation.tasks import TABLE

    for folder in (run, against):
        known = {} if folder is None else read_manifest(folder)["tasks"]
        absent = [name for name in task or [] if folder is not None and name not in known]
        if absent:
            raise UsageError(f"{folder} has no {absent[0]}; it has: {', '.join(known)}")
    names = task or read_manifest(run)["tasks"]
    check_needed(judge, fallback, [TABLE[name] for name in names if name in TABLE])
    rules = rules_of(compat, judge, judge_model, fallback)
    if against is None:
        finish(score_folder(run, list(names), rules=rules, data=data), list(names), as_json=as_json)
        return
    result = score_run(run, rules=rules, data=data, only=task or ())
    import json

    from internvl.evaluation.comparison import as_json as compared
    from internvl.evaluation.comparison import as_text, compare

    found = compare(score_run(against, rules=rules, data=data, only=task or ()), result)
    typer.echo(
        json.dumps(compared(found), ensure_ascii=False) if as_json else as_text(found, width=terminal_width() or 100)
    )

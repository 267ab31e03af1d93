"""From what a person calls a benchmark to the benchmark: a name of the table, or a VLMEvalKit table of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internvl.errors import DataError, UsageError, find
from internvl.evaluation.benchmark import Benchmark


def named(word: str, data: Path) -> tuple[Benchmark, Path]:
    """A benchmark and its data folder: `data`, or the folder in which a table stands that is named by its path."""
    from internvl.evaluation.tasks import TABLE

    if not word.lower().endswith(".tsv"):
        return find("benchmark", word, TABLE, hint="`internvl eval --list` shows all."), data
    path = Path(word).expanduser()
    if not path.is_file():
        raise UsageError(f"{word}: there is no such table")
    return _table(path), path.parent


def asked_before(name: str, asked: Mapping[str, Any], data: Path | None) -> Benchmark:
    """The benchmark that a run asked. asked: what `run.json` says of it; data: where its files are now."""
    from internvl.evaluation.tasks import TABLE

    if name in TABLE:
        return TABLE[name]
    path = (data or Path(asked["data"]["folder"])) / asked["data"]["files"][0]
    if path.suffix.lower() != ".tsv":
        return find("benchmark", name, TABLE, hint="The run was made by a version that had it.")
    if not path.is_file():
        raise DataError(f"{path} is not there; say with --data in which folder the table is now")
    return _table(path)


def _table(path: Path) -> Benchmark:
    from internvl.evaluation.tasks import any_table

    return any_table.benchmark(path)

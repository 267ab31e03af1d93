"""From what a person calls a benchmark to the benchmark: a name of the table, a suite, or a TSV table of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from internvl.errors import DataError, UsageError, find
from internvl.evaluation.benchmark import Benchmark
from internvl.evaluation.tasks import TABLE, any_table

SUITES: Mapping[str, tuple[str, ...]] = {
    "nano-exam": (
        "receipts-unseen", "receipts-lines", "receipts-lines-all", "blindtest-part", "sudoku", "caltech101", "trashnet",
        "flags", "flags-rendered", "emoji", "nlvr", "absent",
    ),
}  # fmt: skip
"""Benchmarks that are asked together, by one name."""


def spelt_out(words: Iterable[str]) -> list[str]:
    """Each benchmark once, those of a suite in its place.

    >>> spelt_out(["sudoku", "nano-exam"])[:3]
    ['sudoku', 'receipts-unseen', 'receipts-lines']
    """
    return list(dict.fromkeys(name for word in words for name in SUITES.get(word, (word,))))


def named(word: str, data: Path, *, rule: str | None = None) -> tuple[Benchmark, Path]:
    """A benchmark and its data folder: `data`, or the folder in which a table stands that is named by its path.

    rule: by which open questions of such a table are marked.
    """
    if not word.lower().endswith(".tsv"):
        if rule is not None:
            raise UsageError(f"{word} is marked by its own rule; rule {rule!r} is for open questions of a TSV file")
        return find("benchmark", word, TABLE, hint="`internvl eval --list` shows all."), data
    path = Path(word).expanduser()
    if not path.is_file():
        raise UsageError(f"{word}: there is no such table")
    return any_table.benchmark(path, rule=rule), path.parent


def asked_before(name: str, asked: Mapping[str, Any], data: Path | None) -> Benchmark:
    """The benchmark that a run asked. asked: what `run.json` says of it; data: where its files are now."""
    if name in TABLE:
        return TABLE[name]
    files = asked["data"]["files"]
    path = (data or Path(asked["data"]["folder"])) / (files[0] if files else name)
    if path.suffix.lower() != ".tsv":
        return find("benchmark", name, TABLE, hint="The run was made by a version that had it.")
    if not path.is_file():
        raise DataError(f"{path} is not there; say with --data in which folder the table is now")
    return any_table.benchmark(path, rule=asked.get("rule"))

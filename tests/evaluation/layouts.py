"""Data folders in the published layouts of benchmarks, made of a few rows, and their tasks asked and scored by hand."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from internvl.evaluation.benchmark import Benchmark, Compat, Marked, Sample, Scores
from internvl.evaluation.folder import Folder


def png(shade: int = 0) -> bytes:
    """A picture of four grey pixels."""
    data = io.BytesIO()
    Image.new("L", (2, 2), shade).save(data, "PNG")
    return data.getvalue()


IMAGE = base64.b64encode(png(7)).decode()
"""A picture as a table has it."""


def put(root: Path, name: str, content: str | None = None) -> None:
    """A file in the folder; without content a picture."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png() if content is None else content.encode())


def lines(*rows: dict) -> str:
    """JSON lines."""
    return "\n".join(json.dumps(row) for row in rows)


def table(*rows: dict) -> str:
    """Tab-separated values with the columns of the first row; fields must need no quotation marks."""
    columns = list(rows[0])
    return "\n".join(
        "\t".join(line) for line in [columns, *([str(row.get(key, "")) for key in columns] for row in rows)]
    )


def samples(task: Benchmark, root: Path) -> list[Sample]:
    """The rows of the first source whose files are all there."""
    folder = Folder(root)
    source = next(source for source in task.sources if all(folder.has(file) for file in source.files))
    rows = list(source.read(folder))
    assert len({row.id for row in rows}) == len(rows)
    return rows


def answered(task: Benchmark, rows: Sequence[Sample], answers: Iterable[str], compat: Compat = None) -> list[Marked]:
    """The rows with answers, marked by rule."""
    return [Marked(row, said, task.mark(row, said, compat=compat)) for row, said in zip(rows, answers, strict=True)]


def judged(task: Benchmark, rows: Sequence[Sample], verdicts: Iterable[str]) -> list[Marked]:
    """The rows with marks from what a judge wrote."""
    return [Marked(row, "It is.", task.judging.parse(row, said)) for row, said in zip(rows, verdicts, strict=True)]


def scores(task: Benchmark, rows: Sequence[Sample], answers: Iterable[str], compat: Compat = None) -> Scores:
    return task.summarise(answered(task, rows, answers, compat))


def check_lists(tasks: Sequence[Benchmark], group: str) -> None:
    """Every task has what a list of tasks shows, and every file can be got or says where it is got."""
    assert len({task.name for task in tasks}) == len(tasks)
    for task in tasks:
        assert task.title
        assert task.paper.startswith(("arXiv:", "https://")), task.name
        assert task.group == group, task.name
        for file in (file for source in task.sources for file in source.files):
            assert file.checksum if file.url else file.hint, (task.name, file)
        for score in task.published:
            assert score.source, score

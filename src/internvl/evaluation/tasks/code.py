"""Charts to code: ChartMimic. Programs that a model wrote are put into files; nobody here runs them.

Its scores compare a chart that the program draws with the given one, so a program that a model wrote would have to run
on this machine. Whoever wants them takes the files to the authors' own evaluation, in a place of its own.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial

from internvl.evaluation.benchmark import Benchmark, Compat, File, Mark, Marked, Sample, Scores, Settings, Source
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks.choice import table_file

WHY = "the program that the model wrote would have to run, and this package never runs one; see the files written"
BLOCK = re.compile(r"```python(.*?)```", re.DOTALL)
A_DAY = (1980, 1, 1, 0, 0, 0)
"""The same answers make the same archive, byte for byte."""


def read(folder: Folder, *, name: str) -> Iterator[Sample]:
    """The table names its pictures; they are in `images/ChartMimic`, where VLMEvalKit unpacks them."""
    for row in folder.table(name):
        figure = row.text("input_figure")
        yield Sample(
            id=str(row["index"]),
            prompt=row.text("question"),
            pictures=(folder.picture(f"images/ChartMimic/{figure}", row=row),),
            facts={"task": row.text("task"), "figure": figure},
        )


def code_of(answer: str) -> str:
    """The first block of Python in an answer; empty where there is none.

    >>> code_of("Here:\\n```python\\nprint(1)\\n```")
    'print(1)\\n'
    """
    found = BLOCK.search(answer)
    return "" if found is None else found[1].lstrip("\n")


def unmarked(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del sample, compat
    return Mark(None, parsed=code_of(answer) or None)


def written(rows: Sequence[Marked]) -> Scores:
    """No score, and why; how many answers have a program in them is said."""
    withheld: dict[str, str] = {"low level": WHY, "high level": WHY}
    if not rows:
        return Scores(values={}, withheld=withheld)
    share = 100 * sum(row.mark.parsed is not None for row in rows) / len(rows)
    return Scores(values={"answers with a program": share}, withheld=withheld)


def archive(rows: Sequence[Marked]) -> bytes:
    """A zip with `INDEX.py` for each answer that has a program and `INDEX.txt`, as it is, for each that has none."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as files:
        for row in rows:
            name = re.sub(r"[^\w-]", "_", row.sample.id)
            program = code_of(row.answer)
            entry = zipfile.ZipInfo(f"{name}.py" if program else f"{name}.txt", A_DAY)
            files.writestr(entry, program or row.answer)
    return content.getvalue()


TABLES = {
    "direct": ("ChartMimic_v2_direct_1800", "340331019c7eaa56cc02080656b66c3c"),
    "customized": ("ChartMimic_v2_customized_1800", "a6cf57807c07d328689872a77c9f847a"),
}


def chartmimic(kind: str) -> Benchmark:
    name, md5 = TABLES[kind]
    pictures = File(
        "images/ChartMimic/v2",
        hint="unpack dataset-iclr.tar.gz of the data set ChartMimic/ChartMimic of the Hugging Face hub there",
    )
    return Benchmark(
        name=f"chartmimic-{kind}",
        title=f"ChartMimic ({kind})",
        paper="arXiv:2406.09961",
        group="code",
        sources=(Source("vlmevalkit", (table_file(name, md5), pictures), partial(read, name=f"{name}.tsv")),),
        mark=unmarked,
        summarise=written,
        settings=Settings(max_new_tokens=4096, max_tiles=6),
        submission=(f"chartmimic-{kind}.zip", archive),
        note="No score is given: " + WHY + ".",
    )


TASKS = (chartmimic("direct"), chartmimic("customized"))

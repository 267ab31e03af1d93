"""MMBench and CCBench: every question with its options rotated, right only if right each time.

The truth of the test sets is kept by a server, which takes a spreadsheet.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from internvl.errors import MissingExtra
from internvl.evaluation.benchmark import (
    Benchmark,
    File,
    Marked,
    Published,
    Sample,
    Scores,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks.choice import choice_sample, mark_choice, table_file
from internvl.evaluation.tasks.published import version_1_5, version_2
from internvl.metrics.choices import ROTATION, circular, letter

DROPPED = {  # columns that the original leaves out of what it hands in, and where it puts the prediction
    "mmbench": (("hint", "category", "source", "image", "comment", "l2-category"), 6),
    "ccbench": (("category", "image"), 8),
}


def read(folder: Folder, *, name: str, chinese: bool | None, family: str) -> Iterator[Sample]:
    dropped, _ = DROPPED[family]
    for row in folder.table(name):
        sample = choice_sample(row, chinese=chinese)
        index = row.number("index")
        handed_in = {key: row[key] for key in row if key not in dropped}
        question = row.number("g_index") if row.filled("g_index") else index % ROTATION
        yield replace(sample, facts={**sample.facts, "index": index, "question": question, "row": handed_in})


def summarise(rows: Sequence[Marked]) -> Scores:
    """Circular accuracy, and beside it that of the first rotations alone."""
    plain = mean_score()(rows)
    if plain.withheld:
        return plain
    hits = {row.sample.facts["index"]: row.mark.score == 1 for row in rows}
    questions = {row.sample.facts["index"]: row.sample.facts["question"] for row in rows}
    right = circular(hits.items(), question=questions.__getitem__)
    first = [row for row in rows if row.sample.facts["index"] in right]
    if not first:
        return Scores(values={}, withheld={"accuracy": "no question was asked with its options in their first order"})
    whole = [replace(row, mark=replace(row.mark, score=float(right[row.sample.facts["index"]]))) for row in first]
    scores = mean_score(by=("l2-category", "category"))(whole)
    once = 100 * sum(hits[row.sample.facts["index"]] for row in first) / len(first)
    return replace(scores, values={**scores.values, "first order alone": once}, means={})  # not all rows count


def spreadsheet(rows: Sequence[Marked], *, family: str) -> bytes:
    """What the original hands in: the table without its long columns, and the letters by the original's rule.

    Raises MissingExtra without openpyxl.
    """
    try:
        from openpyxl import Workbook
    except ModuleNotFoundError:
        raise MissingExtra(
            "openpyxl is not installed, and the server of MMBench takes spreadsheets; pip install 'internvl[eval]'"
        ) from None
    _, place = DROPPED[family]
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    columns = list(rows[0].sample.facts["row"]) if rows else []
    sheet.append([*columns[:place], "prediction", *columns[place:]])
    for number, row in enumerate(rows, start=2):
        values: Mapping[str, object] = row.sample.facts["row"]
        prediction = letter(row.answer, row.sample.facts["options"], compat="original")
        cells = [values.get(column) for column in columns]
        for at, value in enumerate([*cells[:place], prediction, *cells[place:]], start=1):
            if value in (None, ""):
                continue
            text = CONTROL.sub("", str(value))
            number_of_row = columns[0] == "index" and at == 1 and text.isdigit()
            cell = sheet.cell(number, at, int(text) if number_of_row else text)
            if not number_of_row:
                cell.data_type = "s"  # "=A1" is what a model wrote, not a formula
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Characters that a spreadsheet cannot hold."""

PAPER = "arXiv:2307.06281"
SERVER = "https://mmbench.opencompass.org.cn/mmbench-submission"
OPENMMLAB = "https://download.openmmlab.com/mmclassification/datasets/mmbench/"


def source(layout: str, file: File, *, chinese: bool | None, family: str = "mmbench") -> Source:
    reader = partial(read, name=file.path, chinese=chinese, family=family)
    return Source("original" if layout == "original" else "vlmevalkit", (file,), reader)


def mmbench(
    split: str, language: str, *, version: str = "1.0", old: str = "", md5: str, scores: tuple[Published, ...] = ()
) -> Benchmark:
    """old: the file of the original repository's evaluation, for version 1.0."""
    suffix = "_V11" if version == "1.1" else ""
    table = table_file(f"MMBench_{split.upper()}_{language.upper()}{suffix}", md5, at="benchmarks/MMBench")
    sources = [source("vlmevalkit", table, chinese=None)]
    if old:
        file = File(f"mmbench/{old}", hint=f"{OPENMMLAB}{old}")
        sources.insert(0, source("original", file, chinese=language == "cn"))
    return Benchmark(
        name=f"mmbench-{split}-{language}{'-v1.1' if suffix else ''}",
        title=f"MMBench v{version} {split} {language.upper()}",
        paper=PAPER,
        group="general",
        sources=tuple(sources),
        mark=mark_choice,
        summarise=summarise,
        settings=Settings(max_new_tokens=100),
        submission=("mmbench.xlsx", partial(spreadsheet, family="mmbench")) if split == "test" else None,
        published=scores,
        note=f"The truth is kept by a server that takes the spreadsheet: {SERVER}" if split == "test" else "",
    )


TASKS: tuple[Benchmark, ...] = (
    mmbench(
        "dev",
        "en",
        old="mmbench_dev_20230712.tsv",
        md5="b6caf1133a01c6bb705cf753bb527ed8",
    ),
    mmbench("dev", "cn", old="mmbench_dev_cn_20231003.tsv", md5="08b8fc3324a5ed74155350f57be69fbd"),
    mmbench(
        "test",
        "en",
        old="mmbench_test_en_20231003.tsv",
        md5="6939fadb0ce626fefc0bdc9c64efc528",
        scores=(*version_2("accuracy", 65.4, 73.2, 78.6, 81.7, 83.4, 86.8, 86.5), version_1_5("accuracy", 82.17)),
    ),
    mmbench(
        "test",
        "cn",
        old="mmbench_test_cn_20231003.tsv",
        md5="7e1239baf0ee4c8b513e19705a0f317e",
        scores=(*version_2("accuracy", 60.7, 70.9, 73.9, 81.2, 82.0, 86.5, 86.3), version_1_5("accuracy", 81.95)),
    ),
    mmbench("dev", "en", version="1.1", md5="30c05be8f2f347a50be25aa067248184"),
    mmbench("dev", "cn", version="1.1", md5="593f9b5f6bea453d870a798b34ae4f37"),
    mmbench("test", "en", version="1.1", md5="8d1a704e791df6f5d9fb3ef782b65365"),
    mmbench("test", "cn", version="1.1", md5="156e6569f9547afb16603eca16e85373"),
    Benchmark(
        name="ccbench-dev",
        title="CCBench dev",
        paper=PAPER,
        group="general",
        sources=(
            source(
                "original",
                File("mmbench/CCBench_legacy.tsv", hint="http://opencompass.openxlab.space/utils/MMBench/"),
                chinese=True,
                family="ccbench",
            ),
            source(
                "vlmevalkit",
                table_file("CCBench", "f5dde47f24dc5a6fb6e595b409b466ac"),
                chinese=None,
                family="ccbench",
            ),
        ),
        mark=mark_choice,
        summarise=summarise,
        submission=("ccbench.xlsx", partial(spreadsheet, family="ccbench")),
        published=(*version_2("accuracy", 75.7, 74.7, 66.5, 75.9, 73.5, 80.6, 81.0), version_1_5("accuracy", 70.0)),
    ),
)

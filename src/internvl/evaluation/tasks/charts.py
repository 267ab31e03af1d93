"""Questions about charts: ChartQA and CharXiv."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from internvl.errors import DataError
from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Judging,
    Mark,
    Marked,
    Sample,
    Scores,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks.choice import table_file
from internvl.evaluation.tasks.published import version_1_5, version_2, version_2_5
from internvl.evaluation.tasks.vqa import (
    converted,
    from_lines,
    from_table,
    golds_in_table,
)
from internvl.metrics.documents import relaxed_match
from internvl.metrics.vqa import exact_match

# ---- ChartQA ---------------------------------------------------------------------------------------------------------

PARTS = ("human", "augmented")


def chart_file(part: str) -> File:
    return converted(f"chartqa/test_{part}.jsonl", f"chartqa/test_{part}.jsonl")


def read_chartqa(folder: Folder, *, parts: Sequence[str]) -> Iterator[Sample]:
    """The lines of these parts; ids are the place in the part, with its name before it."""
    for part in parts:
        for sample in from_lines(folder, name=chart_file(part).path, key=None):
            yield replace(sample, id=f"{part}-{sample.id}", facts={**sample.facts, "part": part})


def read_chartqa_table(folder: Folder, *, parts: Sequence[str]) -> Iterator[Sample]:
    """VLMEvalKit's table, whose column `split` says which part a row is of."""
    for sample in from_table(folder, name="ChartQA_TEST.tsv"):
        said = str(sample.facts.get("split"))
        part = next((part for part in PARTS if part in said), None)
        if part is None:
            raise DataError(f"ChartQA_TEST.tsv, index {sample.id}: `split` is {said!r}; expected human or augmented")
        if part in parts:
            yield replace(sample, facts={**sample.facts, "part": part})


def mark_relaxed(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    return Mark(relaxed_match(answer, sample.answer, compat=compat), answer.strip())


def both_parts(rows: Sequence[Marked]) -> Scores:
    """The mean of the accuracies on the two parts, which weighs every question alike only if both are all there."""
    scores = mean_score("mean", by=("part",))(rows)
    if scores.withheld:
        return scores
    found = scores.groups["part"]
    if set(found) != set(PARTS):
        absent = ", ".join(part for part in PARTS if part not in found)
        return Scores(values=found, groups=scores.groups, withheld={"mean": f"no question of the part {absent}"})
    values = {"mean": sum(found.values()) / len(found)} | {part: found[part] for part in PARTS}
    return Scores(values=values, groups=scores.groups)


def chartqa(name: str, parts: Sequence[str], title: str, **more: Any) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        paper="arXiv:2203.10244",
        group="documents",
        sources=(
            Source("original", tuple(chart_file(part) for part in parts), partial(read_chartqa, parts=parts)),
            Source(
                "vlmevalkit",
                (table_file("ChartQA_TEST", "c902e0aa9be5582a7aad6dcf52734b42"),),
                partial(read_chartqa_table, parts=parts),
            ),
        ),
        mark=mark_relaxed,
        settings=Settings(max_new_tokens=100, max_tiles=12),
        note='The tolerance of the published scores is 5 % of the answer, not of the truth: compat="original".',
        **more,
    )


# ---- CharXiv ---------------------------------------------------------------------------------------------------------

_KINDS = {
    "Information Extraction": range(1, 8),
    "Enumeration": (8, 9, 13, 14, 15),
    "Pattern Recognition": (11, 16, 18),
    "Counting": (10, 12, 19),
    "Compositionality": (17,),
}
DESCRIPTIVE = {number: kind for kind, numbers in _KINDS.items() for number in numbers}
REASONING = {1: "Text-in-Chart", 2: "Text-in-General", 3: "Number-in-Chart", 4: "Number-in-General"}
PREDICTION = "{PREDICTION}"


def read_charxiv(folder: Folder, *, name: str, column: str) -> Iterator[Sample]:
    """VLMEvalKit's table: each row brings the judge's prompt, with a place for the answer."""
    kinds = DESCRIPTIVE if column == "qid" else REASONING
    for row in folder.table(name):
        grading = row.text("grading_query")
        if PREDICTION not in grading:
            raise row.wrong("grading_query", f"a prompt with {PREDICTION}")
        number = int(row.number(column))
        if number not in kinds:
            raise row.wrong(column, f"a number from 1 to {len(kinds)}")
        yield Sample(
            id=str(row["index"]),
            prompt=row.text("question"),
            pictures=row.pictures(),
            answer=golds_in_table(row) if row.filled("answer") else None,
            facts={"category": kinds[number], "grading": grading},
        )


def mark_charxiv(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """The fallback: the very answer of the authors, but for case and white space. Far stricter than the judge."""
    del compat
    return Mark(None if sample.answer is None else exact_match(answer, sample.answer), answer.strip())


def ask_about_charxiv(sample: Sample, answer: str) -> str:
    return str(sample.facts["grading"]).replace(PREDICTION, answer)


def read_verdict(sample: Sample, verdict: str) -> Mark:
    """{"extracted_answer": …, "score": 0 or 1}, alone or in a fence of a code block."""
    del sample
    start, end = verdict.find("{"), verdict.rfind("}")
    try:
        said: Any = json.loads(verdict[start : end + 1])
        score, extracted = said["score"], said["extracted_answer"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return Mark(None)
    return Mark(float(score) if score in (0, 1) else None, str(extracted))


def charxiv(part: str, column: str, md5: str) -> Benchmark:
    table = table_file(f"CharXiv_{part}_val", md5)
    return Benchmark(
        name=f"charxiv-{part}",
        title=f"CharXiv, {part} questions, val",
        paper="arXiv:2406.18521",
        group="documents",
        sources=(Source("vlmevalkit", (table,), partial(read_charxiv, name=table.path, column=column)),),
        mark=mark_charxiv,
        summarise=mean_score(by=("category",)),
        settings=Settings(max_new_tokens=1024),
        judging=Judging(
            version="1", prompt=ask_about_charxiv, parse=read_verdict, published="gpt-4o", max_new_tokens=256
        ),
        note="The question is asked as the table has it, as by the authors' code; VLMEvalKit adds an instruction.",
    )


# ---- the table -------------------------------------------------------------------------------------------------------

HUMAN = version_2("accuracy", 53.92, 59.52, 69.92, 72.88, 75.28, 77.2, 81.6)
AUGMENTED = version_2("accuracy", 91.84, 92.96, 93.04, 93.68, 94.48, 95.2, 95.2)

TASKS: tuple[Benchmark, ...] = (
    chartqa(
        "chartqa",
        PARTS,
        "ChartQA test, mean of its two parts",
        published=(
            *version_2_5("mean", {"1B": 75.9, "2B": 79.2, "8B": 84.8, "78B": 88.3}),
            *version_2("mean", 72.88, 76.24, 81.48, 83.28, 84.88, 86.2, 88.4),
            *(replace(score, metric="human") for score in HUMAN),
            *(replace(score, metric="augmented") for score in AUGMENTED),
            version_1_5("human", 73.6),
            version_1_5("augmented", 94.08),
        ),
        summarise=both_parts,
    ),
    chartqa(
        "chartqa-human",
        ("human",),
        "ChartQA test, questions by people",
        published=(*HUMAN, version_1_5("accuracy", 73.6)),
    ),
    chartqa(
        "chartqa-augmented",
        ("augmented",),
        "ChartQA test, questions by a program",
        published=(*AUGMENTED, version_1_5("accuracy", 94.08)),
    ),
    charxiv("descriptive", "qid", "8507c3740f8ddaedcb6b5c1cfcb3fa06"),
    charxiv("reasoning", "inst_category", "6fc1a522ad32c2e3d72a89857b8cf10b"),
)

"""Questions about diagrams and documents: AI2D, DocVQA, InfographicVQA, MP-DocVQA."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from internvl.errors import DataError
from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Mark,
    Marked,
    Sample,
    Scores,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.choice import against, mark_choice_always_official
from internvl.evaluation.tasks.choice import table_source as choice_source
from internvl.evaluation.tasks.instructions import SHORT, numbered
from internvl.evaluation.tasks.published import CARD_2_5, printed, version_1_5, version_2, version_2_5
from internvl.evaluation.tasks.vqa import (
    from_lines,
    hand_in,
    mark_secret,
    table_source,
)
from internvl.metrics.choices import letter
from internvl.metrics.documents import anls
from internvl.metrics.vqa import exact_match

# ---- AI2D ------------------------------------------------------------------------------------------------------------

LETTERS = dict.fromkeys("ABCD", "")
"""The options where a question does not have them a line each: then the answer must be a letter."""
_OPTION = re.compile(r"^([A-Z])\. ?(.*)$", re.MULTILINE)


def read_ai2d(folder: Folder, *, name: str) -> Iterator[Sample]:
    """The original's lines, whose question has the options and the instruction in it."""
    for place, row in enumerate(folder.jsonl(name)):
        question = row.text("question")
        yield Sample(
            id=str(place),
            prompt=question,
            pictures=(folder.picture(row.text("image").removeprefix("data/"), row=row),),
            answer=str(row["answer"]),
            facts={"question_id": row.get("question_id"), "options": dict(_OPTION.findall(question)) or LETTERS},
        )


def mark_ai2d(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """The option that the answer names; "original": the answer must be the letter alone."""
    if compat == "original":
        return Mark(exact_match(answer, sample.answer), answer.strip().upper())
    return against(sample, letter(answer, sample.facts["options"]))


# ---- ANLS ------------------------------------------------------------------------------------------------------------

TYPES = ("answer_type", "evidence", "operation/reasoning")
"""What InfographicVQA says of its questions; a question may have several of each."""


def official_answers(folder: Folder, name: str) -> dict[str, Row]:
    return {str(row["questionId"]): row for row in folder.json_rows(name, "data")}


def read_with_answers(folder: Folder, *, name: str, answers: str) -> Iterator[Sample]:
    """The original's lines with the official answer file."""
    official = official_answers(folder, answers)
    for sample in from_lines(folder, name=name, answered=False):
        row = official.get(sample.id)
        if row is None:
            raise DataError(f"{name}: question {sample.id} is not in {answers}; get both of the same version")
        types = {key: row.items_of(key) for key in TYPES if row.filled(key)}
        yield replace(sample, answer=row.items_of("answers"), facts={**sample.facts, **types})


def mark_anls(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    return Mark(anls(answer, sample.answer, compat=compat), " ".join(answer.lower().split()))


def anls_by_type(rows: Sequence[Marked]) -> Scores:
    """ANLS over all questions, and over those of each type."""
    scores = mean_score("ANLS")(rows)
    groups: dict[str, dict[str, float]] = {}
    for key in TYPES if not scores.withheld else ():
        members: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            for kind in row.sample.facts.get(key, ()):
                members[kind].append(row.mark.score or 0.0)
        if members:
            groups[key] = {kind: 100 * sum(found) / len(found) for kind, found in sorted(members.items())}
    return replace(scores, groups=groups)


FIRST = "Image-1: <image>\n"


def pages(folder: Folder, *, name: str, answered: bool) -> Iterator[Sample]:
    """MP-DocVQA's own file. Every page that it names is shown, and numbered, also where there is one."""
    for place, row in enumerate(folder.json_rows(name, "data")):
        names = row.items_of("page_ids")
        yield Sample(
            id=str(row["questionId"]),
            prompt=f"{numbered(len(names), alone=FIRST)}{row.text('question')} {SHORT}",
            pictures=tuple(folder.picture(f"mpdocvqa/images/{page}.jpg", row=row) for page in names),
            answer=row.items_of("answers") if answered else None,
            facts={"question_id": row["questionId"], "question": row.text("question"), "place": place},
        )


def read_documents(name: str, title: str, paper: str, tiles: int, *sources: Source, **more: Any) -> Benchmark:
    """A benchmark scored by ANLS, or, if its name says test, by the server that takes the answers."""
    secret = name.endswith("-test")
    shared = 'Published scores divide by the lengths of the texts as written: compat="original".'
    return Benchmark(
        name=name,
        title=title,
        paper=paper,
        group="documents",
        sources=sources,
        mark=mark_secret if secret else mark_anls,
        summarise=mean_score("ANLS") if secret else anls_by_type,
        settings=Settings(max_new_tokens=100, max_tiles=tiles, together=64 if name.startswith("mp") else None),
        submission=(f"{name}.json", partial(hand_in, id_key="questionId")) if secret else None,
        note="" if secret else shared,
        **more,
    )


def lines(path: str, hint: str, answers: str = "") -> Source:
    files = (File(path, hint=hint), *([File(answers, hint="the answers of rrc.cvc.uab.es/?ch=17")] if answers else ()))
    if answers:
        return Source("original", files, partial(read_with_answers, name=path, answers=answers))
    return Source("original", files, partial(from_lines, name=path, answered=False))


def mpdocvqa(split: str) -> Source:
    path = f"mpdocvqa/{split}.json"
    files = (File(path, hint="rrc.cvc.uab.es/?ch=17, task 4"), File("mpdocvqa/images", hint="the same place"))
    return Source("original", files, partial(pages, name=path, answered=split == "val"))


# ---- the table -------------------------------------------------------------------------------------------------------

DOCVQA_LINES = "docvqa of the Qwen-VL evaluation files; pictures of rrc.cvc.uab.es/?ch=17"
INFOVQA_LINES = "infographicsvqa_{}.jsonl of huggingface.co/OpenGVLab/InternVL; pictures of rrc.cvc.uab.es/?ch=17"

TASKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="ai2d-test",
        title="AI2D test, labels of the diagram covered by letters",
        paper="arXiv:1603.07396",
        group="documents",
        sources=(
            Source(
                "original",
                (
                    File("ai2diagram/test_vlmevalkit.jsonl", hint="ai2d_test_vlmevalkit.jsonl of OpenGVLab/InternVL"),
                    File("ai2diagram/AI2D_TEST", hint="AI2D_TEST.zip of huggingface.co/OpenGVLab/InternVL"),
                ),
                partial(read_ai2d, name="ai2diagram/test_vlmevalkit.jsonl"),
            ),
            choice_source("AI2D_TEST", "0f593e0d1c7df9a3d69bf1f947e71975"),
        ),
        mark=mark_ai2d,
        summarise=mean_score(by=("category",)),
        settings=Settings(max_new_tokens=10),
        published=(
            *version_2_5("accuracy", {"1B": 69.3, "2B": 74.9, "8B": 84.5, "78B": 89.1}),
            *version_2("accuracy", 64.09, 74.09, 78.89, 83.78, 84.46, 87.11, 87.63),
            version_1_5("accuracy", 80.73),
        ),
    ),
    Benchmark(
        name="ai2d-test-no-mask",
        title="AI2D test, labels of the diagram to be read",
        paper="arXiv:1603.07396",
        group="documents",
        sources=(choice_source("AI2D_TEST_NO_MASK", "fd8f463634d4fe9fbd23b876e8eea5be"),),
        mark=mark_choice_always_official,
        summarise=mean_score(by=("category",)),
        settings=Settings(max_new_tokens=100),
        published=(
            *version_2_5("accuracy", {"1B": 77.8, "2B": 83.5, "8B": 92.8, "78B": 95.7}),
            *printed("accuracy", CARD_2_5, {"InternVL2-1B": 70.5, "InternVL2-2B": 82.3, "InternVL2-8B": 91.7}),
        ),
    ),
    read_documents(
        "docvqa-val",
        "DocVQA val",
        "arXiv:2007.00398",
        18,
        lines("docvqa/val.jsonl", DOCVQA_LINES, "docvqa/val/val_v1.0.json"),
        table_source("DocVQA_VAL", "d5ee77e1926ff10690d469c56b73eabf"),
        published=(
            *version_2("ANLS", 79.99, 85.90, 88.09, 90.81, 92.12, 93.73, 94.17),
            version_1_5("ANLS", 90.49),
        ),
    ),
    read_documents(
        "docvqa-test",
        "DocVQA test",
        "arXiv:2007.00398",
        18,
        lines("docvqa/test.jsonl", DOCVQA_LINES),
        table_source("DocVQA_TEST", "6a2f28cac26ef2d3447374e8c6f6c8e9", key=None),
        published=(
            *version_2_5("ANLS", {"1B": 84.8, "2B": 88.7, "8B": 93.0, "78B": 95.1}),
            *version_2("ANLS", 81.7, 86.9, 89.2, 91.6, 92.9, 93.9, 94.1),
            version_1_5("ANLS", 90.9),
        ),
    ),
    read_documents(
        "infovqa-val",
        "InfographicVQA val",
        "arXiv:2104.12756",
        24,
        lines(
            "infographicsvqa/val.jsonl",
            INFOVQA_LINES.format("val"),
            "infographicsvqa/infographicsVQA_val_v1.0_withQT.json",
        ),
        table_source("InfoVQA_VAL", "2342e9c225222f0ef4dec545ebb126fe"),
        published=(
            *version_2("ANLS", 50.18, 57.66, 66.25, 72.60, 76.01, 78.51, 80.21),
            version_1_5("ANLS", 72.35),
        ),
    ),
    read_documents(
        "infovqa-test",
        "InfographicVQA test",
        "arXiv:2104.12756",
        24,
        lines("infographicsvqa/test.jsonl", INFOVQA_LINES.format("test")),
        table_source("InfoVQA_TEST", "df535bf51b88dc9718252c34131a6227", key=None),
        published=(
            *version_2_5("ANLS", {"8B": 77.6, "78B": 84.1}),
            *version_2("ANLS", 50.9, 58.9, 67.0, 74.8, 75.9, 78.7, 82.0),
            version_1_5("ANLS", 72.5),
        ),
    ),
    read_documents("mpdocvqa-val", "MP-DocVQA val", "arXiv:2212.05935", 18, mpdocvqa("val")),
    read_documents("mpdocvqa-test", "MP-DocVQA test", "arXiv:2212.05935", 18, mpdocvqa("test")),
)

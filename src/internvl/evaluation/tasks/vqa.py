"""Questions about photographs: VQAv2, OK-VQA, TextVQA, VizWiz, GQA, OCR-VQA.

The question comes first, the instruction behind a space on the same line: what the published scores were made with,
whichever form the data has. (VLMEvalKit puts a line break there.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from internvl.errors import DataError
from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Mark,
    Marked,
    Sample,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.choice import table_file
from internvl.evaluation.tasks.instructions import SHORT
from internvl.evaluation.tasks.published import version_1_5, version_2, version_2_5
from internvl.metrics.vqa import exact_match, gqa_match, normalise, soft_accuracy

UNANSWERABLE = f"When the provided information is insufficient, respond with 'Unanswerable'. {SHORT}"
QWEN = "https://ofasys-wlcb.oss-cn-wulanchabu.aliyuncs.com/Qwen-VL/evaluation"


# ---- what the tasks on pictures and documents share ------------------------------------------------------------------


def converted(name: str, at: str, hint: str = "") -> File:
    """A JSON-lines file of the original repository's data folder and where its guide downloads it."""
    return File(name, hint=hint or f"{QWEN}/{at}")


def in_data(path: str) -> str:
    """A picture's path in the original's files starts at the folder above `data`."""
    return path.removeprefix("./").removeprefix("data/")


def golds_of(row: Row, key: str = "answer") -> list[str]:
    """One answer, or the list of those that are right."""
    return row.items_of(key) if isinstance(row[key], list) else [str(row[key])]


def golds_in_table(row: Row, key: str = "answer") -> list[str]:
    """The same in a table, where a list is written as text; what only looks like one is an answer."""
    text = str(row[key])
    if text.startswith("[") and text.endswith("]"):
        try:
            return row.items_of(key)
        except DataError:
            pass
    return [text]


def from_lines(
    folder: Folder, *, name: str, instruction: str = SHORT, key: str | None = "question_id", answered: bool = True
) -> Iterator[Sample]:
    """The original's JSON lines: {image, question, question_id, answer}. key None: the id is the row's place."""
    for place, row in enumerate(folder.jsonl(name, unique=key)):
        yield Sample(
            id=str(place if key is None else row[key]),
            prompt=f"{row.text('question')} {instruction}",
            pictures=(folder.picture(in_data(row.text("image")), row=row),),
            answer=golds_of(row) if answered else None,
            facts={"question_id": row.get("question_id"), "question": row.text("question")},
        )


def from_table(folder: Folder, *, name: str, instruction: str = SHORT, key: str | None = "answer") -> Iterator[Sample]:
    """A VLMEvalKit table of questions; key: the column of the answers, None where they are secret."""
    for row in folder.table(name):
        question = str(row["question"])
        yield Sample(
            id=str(row["index"]),
            prompt=f"{question} {instruction}",
            pictures=row.pictures(),
            answer=None if key is None else golds_in_table(row, key),
            facts={"question_id": row.get("questionId", row["index"]), "question": question}
            | {fact: str(row[fact]) for fact in ("split", "category") if row.filled(fact)},
        )


def table_source(name: str, md5: str, *, instruction: str = SHORT, key: str | None = "answer") -> Source:
    reader = partial(from_table, name=f"{name}.tsv", instruction=instruction, key=key)
    return Source("vlmevalkit", (table_file(name, md5),), reader)


def mark_secret(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """No score: the truth is on a server."""
    del sample, compat
    return Mark(None, answer)


def hand_in(rows: Sequence[Marked], *, id_key: str) -> bytes:
    """The JSON list that evaluation servers take: an id and an answer for each question."""
    listed = [{id_key: row.sample.facts["question_id"], "answer": row.answer} for row in rows]
    return json.dumps(listed, ensure_ascii=False).encode()


# ---- ten people answered ---------------------------------------------------------------------------------------------


def from_annotations(folder: Folder, *, name: str, annotations: str, instruction: str = SHORT) -> Iterator[Sample]:
    """The original's lines with the official annotation file, which has the answers of ten people."""
    people: dict[str, Row] = {str(row["question_id"]): row for row in folder.json_rows(annotations, "annotations")}
    for place, sample in enumerate(from_lines(folder, name=name, instruction=instruction, answered=False), start=1):
        row = people.get(sample.id)
        if row is None:
            raise DataError(f"{name}, question {place}: `question_id` {sample.id} is not in {annotations}")
        kinds = {"answer_type": row.text("answer_type")} if row.filled("answer_type") else {}
        yield Sample(
            id=sample.id,
            prompt=sample.prompt,
            pictures=sample.pictures,
            answer=_said(row),
            facts={**sample.facts, **kinds},
        )


def _said(row: Row) -> list[str]:
    answers: Any = row["answers"]
    try:
        return [str(answer["answer"]) for answer in answers]
    except (TypeError, KeyError):
        raise row.wrong("answers", "a list of objects with `answer`") from None


def mark_soft(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    return Mark(soft_accuracy(answer, sample.answer, compat=compat), normalise(answer, compat=compat))


def ten_people(name: str, title: str, paper: str, *, lines: File, people: File, **more: Any) -> Benchmark:
    """A benchmark of the VQA family in the original's layout; `more` is of the benchmark."""
    instruction = more.pop("instruction", SHORT)
    tables: tuple[Source, ...] = more.pop("tables", ())
    reader = partial(from_annotations, name=lines.path, annotations=people.path, instruction=instruction)
    return Benchmark(
        name=name,
        title=title,
        paper=paper,
        group="vqa",
        sources=(Source("original", (lines, people), reader), *tables),
        mark=mark_soft,
        summarise=mean_score(by=("answer_type",)),
        settings=Settings(max_new_tokens=10),
        **more,
    )


def secret(name: str, title: str, paper: str, *, lines: File, instruction: str = SHORT, **more: Any) -> Benchmark:
    """A test set whose answers a server keeps."""
    reader = partial(from_lines, name=lines.path, instruction=instruction, answered=False)
    return Benchmark(
        name=name,
        title=title,
        paper=paper,
        group="vqa",
        sources=(Source("original", (lines,), reader),),
        mark=mark_secret,
        settings=Settings(max_new_tokens=10),
        **more,
    )


def vizwiz_submission(rows: Sequence[Marked]) -> bytes:
    """By the name of the picture alone; what the file calls `question_id` is its path."""
    listed = [{"image": Path(str(row.sample.facts["question_id"])).name, "answer": row.answer} for row in rows]
    return json.dumps(listed, ensure_ascii=False).encode()


# ---- GQA and OCR-VQA -------------------------------------------------------------------------------------------------


def read_gqa(folder: Folder, *, name: str, questions: str) -> Iterator[Sample]:
    """The lines, with the answers and types of the official question file."""
    official: Any = folder.json(questions)
    if not isinstance(official, dict):
        raise DataError(f"{questions}: is no JSON object; expected the questions by their id")
    for sample in from_lines(folder, name=name, answered=False):
        known = official.get(sample.id)
        if not isinstance(known, dict) or not isinstance(known.get("answer"), str):
            raise DataError(f"{name}: question {sample.id} has no `answer` in {questions}; expected its official entry")
        types: Any = known.get("types")
        kind = types.get("structural") if isinstance(types, dict) else None
        yield Sample(
            id=sample.id,
            prompt=sample.prompt,
            pictures=sample.pictures,
            answer=[known["answer"]],
            facts={**sample.facts, **({"type": kind} if isinstance(kind, str) else {})},
        )


def mark_gqa(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    return Mark(gqa_match(answer, sample.answer[0], compat=compat), answer.strip().rstrip(".").lower())


def mark_exact(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat  # the original has no rule of its own
    return Mark(exact_match(answer, sample.answer), answer.strip().lower())


def ocrvqa(split: str, *tables: Source) -> Benchmark:
    lines = converted(f"ocrvqa/ocrvqa_{split}.jsonl", f"ocrvqa/ocrvqa_{split}.jsonl")
    return Benchmark(
        name=f"ocrvqa-{split}",
        title=f"OCR-VQA {split}",
        paper="https://ocr-vqa.github.io",
        group="vqa",
        sources=(Source("original", (lines,), partial(from_lines, name=lines.path, key=None)), *tables),
        mark=mark_exact,
        settings=Settings(max_new_tokens=100),
    )


# ---- the table -------------------------------------------------------------------------------------------------------

TEXTVQA_PEOPLE = converted("textvqa/textvqa_val_annotations.json", "textvqa/textvqa_val_annotations.json")

TASKS: tuple[Benchmark, ...] = (
    ten_people(
        "vqav2-val",
        "VQAv2 val",
        "arXiv:1612.00837",
        lines=converted("vqav2/vqav2_val.jsonl", "vqav2/vqav2_val.jsonl"),
        people=File("vqav2/v2_mscoco_val2014_annotations.json", hint="v2_Annotations_Val_mscoco.zip of visualqa.org"),
    ),
    secret(
        "vqav2-testdev",
        "VQAv2 test-dev",
        "arXiv:1612.00837",
        lines=converted("vqav2/vqav2_testdev.jsonl", "vqav2/vqav2_testdev.jsonl"),
        submission=("vqav2-testdev.json", partial(hand_in, id_key="question_id")),
    ),
    ten_people(
        "okvqa-val",
        "OK-VQA val",
        "arXiv:1906.00067",
        lines=converted("okvqa/okvqa_val.jsonl", "okvqa/okvqa_val.jsonl"),
        people=File(
            "okvqa/mscoco_val2014_annotations.json", hint="mscoco_val2014_annotations.json.zip of okvqa.allenai.org"
        ),
        published=(*version_2("accuracy", 48.5, 53.2, 60.1, 62.9, 65.9, 66.4, 68.3), version_1_5("accuracy", 62.0)),
    ),
    ten_people(
        "textvqa-val",
        "TextVQA val",
        "arXiv:1904.08920",
        lines=converted("textvqa/textvqa_val.jsonl", "", "textvqa_val.jsonl of huggingface.co/OpenGVLab/InternVL"),
        people=TEXTVQA_PEOPLE,
        tables=(table_source("TextVQA_VAL", "b233b31f551bbf4056f2f955da3a92cd"),),
        published=(
            *version_2_5("accuracy", {"1B": 72.0, "2B": 74.3, "8B": 79.1, "78B": 83.4}),
            *version_2("accuracy", 70.5, 73.4, 74.4, 77.4, 82.3, 83.0, 84.4),
            version_1_5("accuracy", 80.6, "--max-tiles 24"),
        ),
    ),
    ten_people(
        "textvqa-val-ocr",
        "TextVQA val, words of the picture given",
        "arXiv:1904.08920",
        lines=converted(
            "textvqa/textvqa_val_llava.jsonl", "", "textvqa_val_llava.jsonl of huggingface.co/OpenGVLab/InternVL"
        ),
        people=TEXTVQA_PEOPLE,
        note="The question says what an older OCR program read in the picture.",
    ),
    ten_people(
        "vizwiz-val",
        "VizWiz val",
        "arXiv:1802.08218",
        instruction=UNANSWERABLE,
        lines=converted("vizwiz/vizwiz_val.jsonl", "vizwiz/vizwiz_val.jsonl"),
        people=converted("vizwiz/vizwiz_val_annotations.json", "vizwiz/vizwiz_val_annotations.json"),
        tables=(table_source("VizWiz", "fa4ac4164467563ed2fac6eac6631bd0", instruction=UNANSWERABLE, key="answers"),),
        published=(*version_2("accuracy", 53.1, 47.4, 62.2, 62.9, 68.4, 65.2, 67.7), version_1_5("accuracy", 63.5)),
    ),
    secret(
        "vizwiz-test",
        "VizWiz test",
        "arXiv:1802.08218",
        instruction=UNANSWERABLE,
        lines=converted("vizwiz/vizwiz_test.jsonl", "vizwiz/vizwiz_test.jsonl"),
        submission=("vizwiz-test.json", vizwiz_submission),
    ),
    Benchmark(
        name="gqa-testdev",
        title="GQA test-dev, balanced",
        paper="arXiv:1902.09506",
        group="vqa",
        sources=(
            Source(
                "original",
                (
                    File(
                        "gqa/llava_gqa_testdev_balanced_qwen_format.jsonl",
                        hint="https://github.com/OpenGVLab/InternVL/releases/tag/data",
                    ),
                    File(
                        "gqa/testdev_balanced_questions.json",
                        hint="the questions of cs.stanford.edu/people/dorarad/gqa",
                    ),
                ),
                partial(
                    read_gqa,
                    name="gqa/llava_gqa_testdev_balanced_qwen_format.jsonl",
                    questions="gqa/testdev_balanced_questions.json",
                ),
            ),
            table_source("GQA_TestDev_Balanced", "99b62f22e224d9b2f32dcbe41359d1c9"),
        ),
        mark=mark_gqa,
        summarise=mean_score(by=("type",)),
        settings=Settings(max_new_tokens=10),
        published=(
            *version_2("accuracy", 59.77, 61.03, 62.07, 63.23, 64.89, 64.89, 65.22),
            version_1_5("accuracy", 65.76),
        ),
    ),
    ocrvqa("val"),
    ocrvqa("test", table_source("OCRVQA_TEST", "ca46a6d74b403e9d6c0b670f6fc00db9")),
)

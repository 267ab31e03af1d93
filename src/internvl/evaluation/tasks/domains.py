"""Domains that Mini-InternVL (arXiv:2410.16261) was adapted to: driving (DriveLM), pictures from the air (RSVQA)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

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
from internvl.evaluation.tasks.grounding import DOMAINS
from internvl.evaluation.tasks.instructions import SHORT
from internvl.metrics.boxes import camera_coordinates
from internvl.metrics.vqa import rsvqa_match

HINT = f"huggingface.co/datasets/OpenGVLab/{DOMAINS}"

# ---- DriveLM ---------------------------------------------------------------------------------------------------------


def read_drivelm(folder: Folder, *, name: str) -> Iterator[Sample]:
    """Conversations of one question and answer about six cameras stitched into one picture."""
    for place, row in enumerate(folder.jsonl(name)):
        question, answer = said(row)
        yield Sample(
            id=str(place),
            prompt=question,
            pictures=(folder.picture(f"{DOMAINS}/images/drivelm/stitch/{row.text('image')}", row=row),),
            answer=answer,
            facts={"id": row["id"], "question_old": row.text("question_old")},
        )


def said(row: Row) -> tuple[str, str]:
    turns: Any = row["conversations"]
    try:
        question, answer = (str(turn["value"]).strip() for turn in turns[:2])
    except (TypeError, KeyError, ValueError):
        raise row.wrong("conversations", "two turns with `value`") from None
    return question, answer


def mark_drivelm(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """No score: the challenge's server asks a judge of its own. Parsed is what it is sent."""
    del sample
    return Mark(None, camera_coordinates(answer, compat=compat))


def for_the_challenge(rows: Sequence[Marked]) -> bytes:
    """The file that the original writes: points in the pixels of the camera that they name."""
    listed = [
        {
            "question": row.sample.facts["question_old"],
            "answer": camera_coordinates(row.answer, compat="original"),
            "gt_answers": row.sample.answer,
            "id": row.sample.facts["id"],
        }
        for row in rows
    ]
    return json.dumps(listed, indent=4).encode()


# ---- RSVQA -----------------------------------------------------------------------------------------------------------

APART = ("count", "area")
"""Types of question that the headline leaves out."""


def read_rsvqa(folder: Folder, *, name: str, pictures: str) -> Iterator[Sample]:
    """A JSON list of {id, image, question, gt_answer, type}."""
    for place, row in enumerate(folder.json_rows(name)):
        yield Sample(
            id=str(place),
            prompt=f"{row.text('question')}\n{SHORT}",
            pictures=(folder.picture(f"{pictures}/{row.text('image')}", row=row),),
            answer=str(row["gt_answer"]),
            facts={"index": row["id"], "type": row.text("type")},
        )


def mark_rsvqa(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    return Mark(rsvqa_match(answer, sample.answer, sample.facts["type"], compat=compat), answer.strip())


def without_numbers(rows: Sequence[Marked]) -> Scores:
    """The accuracy on all questions but those for a count or an area, which papers print, and beside it on all."""
    scores = mean_score("all questions", by=("type",))(rows)
    rest = mean_score()([row for row in rows if row.sample.facts["type"] not in APART])
    if scores.withheld or rest.withheld:
        return replace(scores, withheld={**rest.withheld, **scores.withheld})
    return replace(scores, values={**rest.values, **scores.values})


def rsvqa(name: str, title: str, lines: str, pictures: str) -> Benchmark:
    path, folder = f"{DOMAINS}/val/{lines}", f"{DOMAINS}/images/{pictures}"
    return Benchmark(
        name=name,
        title=title,
        paper="arXiv:2003.07333",
        group="domains",
        sources=(
            Source(
                "original",
                (File(path, hint=HINT), File(folder, hint=HINT)),
                partial(read_rsvqa, name=path, pictures=folder),
            ),
        ),
        mark=mark_rsvqa,
        summarise=without_numbers,
        settings=Settings(max_new_tokens=50),
        note="The original's keys rsvqa-lr and rsvqa-hr-test2 read each other's questions; here each reads its own.",
    )


# ---- the table -------------------------------------------------------------------------------------------------------

DRIVELM = f"{DOMAINS}/val/drivelm_val.jsonl"

TASKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="drivelm",
        title="DriveLM, challenge of 2024",
        paper="arXiv:2312.14150",
        group="domains",
        sources=(
            Source(
                "original",
                (File(DRIVELM, hint=HINT), File(f"{DOMAINS}/images/drivelm/stitch", hint=HINT)),
                partial(read_drivelm, name=DRIVELM),
            ),
        ),
        mark=mark_drivelm,
        settings=Settings(max_new_tokens=200, max_tiles=12),
        submission=("drivelm.json", for_the_challenge),
        note="Scored by the challenge's server.",
    ),
    rsvqa("rsvqa-lr", "RSVQA, low resolution", "rsvqa_l_test_instruct.json", "RSVQA_L/Images_LR"),
    rsvqa("rsvqa-hr-test1", "RSVQA, high resolution, test 1", "rsvqa_h_test_1_instruct.json", "RSVQA-H/Data"),
    rsvqa("rsvqa-hr-test2", "RSVQA, high resolution, test 2", "rsvqa_h_test_2_instruct.json", "RSVQA-H/Data"),
)

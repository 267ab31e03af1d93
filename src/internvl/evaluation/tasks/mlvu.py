"""MLVU: long videos, multiple choice and descriptions. A judge gives points to descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Judging,
    Mark,
    Marked,
    Sample,
    Scores,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks.clips import KIT, bracketed, place_of
from internvl.evaluation.tasks.judged import no_rule
from internvl.evaluation.tasks.published import reported
from internvl.metrics.matching import mlvu_match
from internvl.metrics.mathematics import by_letter

MLVU_WATCH = "Carefully watch this video and pay attention to every detail. Based on your observations, "
MLVU_CHOICES = {
    "plotQA": "1_plotQA", "needle": "2_needle", "ego": "3_ego", "count": "4_count", "order": "5_order",
    "anomaly_reco": "6_anomaly_reco", "topic_reasoning": "7_topic_reasoning",
}  # fmt: skip
MLVU_TEXTS = {"sub_scene": "8_sub_scene", "summary": "9_summary"}
MLVU_HINT = "the data set MLVU/MVLU of the Hugging Face hub, whose folder MLVU holds json/ and video/"


def read_mlvu(folder: Folder) -> Iterator[Sample]:
    for task, name in MLVU_CHOICES.items():
        for at, row in enumerate(folder.json_rows(f"MLVU/json/{name}.json")):
            options = by_letter(row.items_of("candidates"))
            asked = bracketed(row.text("question"), options)
            yield Sample(
                id=f"{task}-{at}",
                prompt=f"<video>{MLVU_WATCH}select the best option that accurately addresses the question."
                f"{asked}\nOnly give the best option.",
                footage=folder.footage(f"MLVU/video/{name}/{row.text('video')}", row=row),
                answer=place_of(row, str(row["answer"]), options),
                facts={"task": task, "options": options},
            )


def read_mlvu_texts(folder: Folder) -> Iterator[Sample]:
    for task, name in MLVU_TEXTS.items():
        for at, row in enumerate(folder.json_rows(f"MLVU/json/{name}.json")):
            points = row.get("scoring_points") or ""
            yield Sample(
                id=f"{task}-{at}",
                prompt=f"<video>{MLVU_WATCH}answer the given questions.{row.text('question')}",
                footage=folder.footage(f"MLVU/video/{name}/{row.text('video')}", row=row),
                answer=row.text("answer"),
                facts={"task": task, "question": row.text("question"), "points": str(points)},
            )


def mark_mlvu(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat  # the published scores are VLMEvalKit's
    return Mark(mlvu_match(answer, sample.answer, sample.facts["options"]))


def summarise_mlvu(rows: Sequence[Marked]) -> Scores:
    """M-Avg of the paper is the mean over the tasks; VLMEvalKit prints the mean over all questions under that name."""
    scores = mean_score("all questions", by=("task",))(rows)
    if scores.withheld:
        return Scores(values={}, withheld={"M-Avg": scores.withheld["all questions"]})
    tasks = scores.groups["task"]
    return replace(scores, values={"M-Avg": sum(tasks.values()) / len(tasks), **scores.values})


def summarise_mlvu_texts(rows: Sequence[Marked]) -> Scores:
    """G-Avg: the mean over both tasks of a judge's points, 2 to 10."""
    scores = mean_score("G-Avg", by=("task",), scale=10)(rows)
    if scores.withheld:
        return scores
    tasks = scores.groups["task"]
    return Scores(values={"G-Avg": sum(tasks.values()) / len(tasks)}, groups=scores.groups)


MLVU = Benchmark(
    name="mlvu",
    title="MLVU (multiple choice)",
    paper="arXiv:2406.04264",
    group="video",
    sources=(
        Source(
            "original",
            (
                *(File(f"MLVU/json/{name}.json", hint=MLVU_HINT) for name in MLVU_CHOICES.values()),
                File("MLVU/video", hint=MLVU_HINT),
            ),
            read_mlvu,
        ),
    ),
    mark=mark_mlvu,
    summarise=summarise_mlvu,
    settings=KIT,
    published=reported("MLVU", "all questions"),
    note="The published scores are called M-Avg, but VLMEvalKit, which they come from, means all questions by it. They "
    "are the best of runs with 16, 32, 48 and 64 frames.",
)


# ---- the judge of descriptions ---------------------------------------------------------------------------------------

ASPECTS = {"sub_scene": ("accuracy", "relevance"), "summary": ("completeness", "reliability")}

CRITERIA = {
    "accuracy": "Go through the scoring points one by one: 1 if the answer misses it, 3 if it touches it without "
    "being right, 5 if it states it correctly. The figure is the mean over all points.",
    "relevance": "How far the answer keeps to the question, right or not: 1 is off the topic, 2 mostly beside it, "
    "3 on it but unsure of itself, 4 on it and fairly sure, 5 on it throughout and sure.",
    "completeness": "How much of the main content of the standard answer is covered: 1 hardly any, 2 some, 3 most, "
    "4 nearly all, 5 all.",
    "reliability": "Whether what is said is true and clear: 1 several errors or contradictions, 2 some, 3 small ones, "
    "4 negligible ones, 5 none. Details that the standard answer lacks but does not contradict are no errors.",
}
"""The scales of the authors, in our words."""


def judge_prompt(sample: Sample, answer: str) -> str:
    first, second = ASPECTS[sample.facts["task"]]
    if sample.facts["task"] == "sub_scene":
        given = f"Question: {sample.facts['question']}\nScoring points: {sample.facts['points']}"
    else:
        given = f"Standard answer: {sample.answer}"
    return (
        "Rate an answer about a video in two respects, each from 1 to 5. Explain first, briefly.\n"
        f"{first}: {CRITERIA[first]}\n{second}: {CRITERIA[second]}\n\n"
        f"{given}\nAnswer to rate: {answer}\n\n"
        f'End with one line of JSON: {{"score_{first}": …, "score_{second}": …}}'
    )


def judged(sample: Sample, verdict: str) -> Mark:
    """The sum of both figures, 2 to 10, as a tenth; no mark where one is missing or out of range."""
    parts: dict[str, float] = {}
    for aspect in ASPECTS[sample.facts["task"]]:
        found = re.findall(rf"score_{aspect}['\"]?\s*:\s*(\d+(?:\.\d+)?)", verdict)
        if not found or not 1 <= float(found[-1]) <= 5:
            return Mark(None)
        parts[aspect] = float(found[-1])
    return Mark(sum(parts.values()) / 10, parts=parts)


MLVU_GENERATION = Benchmark(
    name="mlvu-generation",
    title="MLVU (descriptions)",
    paper="arXiv:2406.04264",
    group="video",
    sources=(
        Source(
            "original",
            (
                *(File(f"MLVU/json/{name}.json", hint=MLVU_HINT) for name in MLVU_TEXTS.values()),
                File("MLVU/video", hint=MLVU_HINT),
            ),
            read_mlvu_texts,
        ),
    ),
    mark=no_rule,
    summarise=summarise_mlvu_texts,
    settings=KIT,
    judging=Judging(version="1", prompt=judge_prompt, parse=judged, published="gpt-4-0125-preview"),
    note="The judge is asked in this project's words; points given by another prompt differ.",
)

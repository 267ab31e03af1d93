"""The parts of published test sets that `shared/data` holds: NLVR, MATH-Vision, PuzzleVQA, DynaMath and BlindTest.

About four fifths of each; a figure on a part says so. Nobody may train on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    Mark,
    Marked,
    Published,
    Sample,
    Scores,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks.mathematics import BOXED, mark_mathvision
from internvl.evaluation.tasks.nlvr import ASKED, label, mark_truth
from internvl.evaluation.tasks.own import files, picture
from internvl.evaluation.tasks.perception import mark_blindtest
from internvl.evaluation.tasks.problems import WISHES, dynamath_prompt, mark_dynamath
from internvl.evaluation.tasks.published import DOCUMENTATION_2, version_2
from internvl.evaluation.tasks.science import PUZZLE
from internvl.metrics.mathematics import (
    by_letter,
    puzzlevqa_match,
)

# ---- NLVR ------------------------------------------------------------------------------------------------------------


def read_nlvr(folder: Folder) -> Iterator[Sample]:
    """The statements of split `dev`, with the three boxes in the first of their six orders."""
    for row in folder.jsonl("nlvr/test.jsonl", unique="id"):
        if row.text("split") == "dev":
            yield Sample(
                id=row.text("id"),
                prompt=ASKED.format(subject="picture", sentence=row.text("sentence")),
                pictures=(picture(folder, "nlvr", row, row.items_of("images")[0]),),
                answer=label(row),
                facts={"agree": row.get("agree")},
            )


NLVR = Benchmark(
    name="nlvr-dev",
    title="NLVR (dev)",
    paper="https://aclanthology.org/P17-2034",
    group="own",
    sources=(Source("shared", files("nlvr", "test.jsonl", "images.zip"), read_nlvr),),
    mark=mark_truth,
    settings=Settings(max_new_tokens=10),
    note="794 of the 990 official examples, each asked once. The wording of the question is this project's, that of "
    "`nlvr`, which asks the public test.",
)


# ---- MATH-Vision -----------------------------------------------------------------------------------------------------

REASONED = Settings(max_new_tokens=2048)


def read_mathvision(folder: Folder) -> Iterator[Sample]:
    for row in folder.jsonl("mathvision/test.jsonl", unique="id"):
        options = row.items_of("options")
        listed = "" if options == list("ABCDE") else "".join(f"({k}) {v}\n" for k, v in by_letter(options).items())
        yield Sample(
            id=row.text("id"),
            prompt=f"{BOXED}{row.text('question')}\n{listed}",
            pictures=(picture(folder, "mathvision", row),),
            answer=row.text("answer"),
            facts={"options": options, "subject": row.text("subject"), "level": row["level"],
                   "question_type": row.text("question_type")},
        )  # fmt: skip


MATHVISION = Benchmark(
    name="mathvision-part",
    title="MATH-Vision, without test-mini",
    paper="arXiv:2402.14804",
    group="own",
    sources=(Source("shared", files("mathvision", "test.jsonl", "images.zip"), read_mathvision),),
    mark=mark_mathvision,
    summarise=mean_score(by=("subject", "level", "question_type")),
    settings=REASONED,
    published=version_2(
        "accuracy", 12.17, 15.79, 17.76, 20.39, 23.36, 21.38, 23.68, source=f"{DOCUMENTATION_2}, on test-mini"
    ),
    note="2,734 of 3,040 problems: all but test-mini, on which the published figures are. Prompt of the authors.",
)

# ---- PuzzleVQA -------------------------------------------------------------------------------------------------------

SINGLE = frozenset({
    "triangle", "grid_number", "venn", "color_grid", "color_hexagon", "color_overlap_squares", "shape_reflect",
    "shape_morph", "size_cycle", "size_grid",
})  # fmt: skip
"""The ten kinds with one concept; the other ten join two."""


def read_puzzlevqa(folder: Folder) -> Iterator[Sample]:
    for row in folder.jsonl("puzzlevqa/test.jsonl", unique="id"):
        options, puzzle = row.items_of("options"), row.text("puzzle")
        listed = "\n".join(f"({key}) {option}" for key, option in by_letter(options).items())
        yield Sample(
            id=row.text("id"),
            prompt=f"{row.text('question')}\nOptions:\n{listed}\n{PUZZLE}",
            pictures=(picture(folder, "puzzlevqa", row),),
            answer=row.text("answer"),
            facts={"options": options, "puzzle": puzzle, "concepts": "single" if puzzle in SINGLE else "dual"},
        )


def mark_puzzlevqa(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat
    return Mark(float(puzzlevqa_match(answer, sample.answer, sample.facts["options"])))


def summarise_puzzles(rows: Sequence[Marked]) -> Scores:
    """Over all, and beside it the single and the dual concepts, which papers print."""
    scores = mean_score(by=("concepts", "puzzle"))(rows)
    return replace(scores, values={**scores.values, **scores.groups.get("concepts", {})})


README = "README of declare-lab/LLM-PuzzleTest"
PUZZLEVQA = Benchmark(
    name="puzzlevqa-part",
    title="PuzzleVQA, four fifths",
    paper="arXiv:2403.13315",
    group="own",
    sources=(Source("shared", files("puzzlevqa", "test.jsonl", "images.zip"), read_puzzlevqa),),
    mark=mark_puzzlevqa,
    summarise=summarise_puzzles,
    settings=REASONED,
    published=(
        Published("GPT-4V", 46.4, "single", README),
        Published("Claude 3 Opus", 39.4, "single", README),
        Published("Gemini Pro", 34.5, "single", README),
        Published("LLaVA-13B", 27.5, "single", README),
        Published("GPT-4V", 45.5, "dual", README),
        Published("Claude 3 Opus", 43.7, "dual", README),
        Published("LLaVA-13B", 31.1, "dual", README),
    ),
    note="1,602 of 2,000 puzzles, with VLMEvalKit's prompt; the published figures were made with the authors'.",
)

# ---- DynaMath --------------------------------------------------------------------------------------------------------


def read_dynamath(folder: Folder) -> Iterator[Sample]:
    for row in folder.jsonl("dynamath/test.jsonl", unique="id"):
        if row["answer_type"] not in WISHES:
            raise row.wrong("answer_type", f"one of {', '.join(WISHES)}")
        yield Sample(
            id=row.text("id"),
            prompt=dynamath_prompt(row.text("question"), row.text("answer_type")),
            pictures=(picture(folder, "dynamath", row),),
            answer=row.text("answer"),
            facts={fact: row.text(fact) for fact in ("answer_type", "subject", "level")},
        )


TRIAL = "result tables of DynaMath/DynaMath, first trial, all 501 questions"
DYNAMATH = Benchmark(
    name="dynamath-part",
    title="DynaMath, first trial",
    paper="arXiv:2411.00836",
    group="own",
    sources=(Source("shared", files("dynamath", "test.jsonl", "images.zip"), read_dynamath),),
    mark=mark_dynamath,
    summarise=mean_score(by=("subject", "level", "answer_type")),
    settings=REASONED,
    published=(
        Published("InternVL2-8B", 39.9, "accuracy", TRIAL),
        Published("InternVL2-26B", 43.9, "accuracy", TRIAL),
        Published("InternVL2-40B", 41.9, "accuracy", TRIAL),
        Published("InternVL2-Llama3-76B", 55.3, "accuracy", TRIAL),
        Published("LLaVA-1.5-7B", 17.6, "accuracy", TRIAL),
        Published("GPT-4o", 64.5, "accuracy", TRIAL),
    ),
    note="421 of the 501 questions, in the first of the ten drawings of each; no worst case over drawings. A response "
    "that is not in the form asked for is read by a language model in the original, and is wrong here.",
)

# ---- BlindTest -------------------------------------------------------------------------------------------------------

COLUMNS = {
    "LineIntersection": "lines", "TouchingCircle": "two circles", "CircledWord": "circled letter",
    "CountingCircles": "circles", "NestedSquares": "squares", "CountingRowsAndColumns": "grids", "SubwayMap": "paths",
}  # fmt: skip
"""The figures of the paper by task; CountingCircles is two, as some of its pictures show pentagons."""


def read_blindtest(folder: Folder) -> Iterator[Sample]:
    """Every picture with both published wordings."""
    for row in folder.jsonl("blindtest/test.jsonl", unique="id"):
        if row["task"] not in COLUMNS:
            raise row.wrong("task", f"one of {', '.join(COLUMNS)}")
        asked, answers = row.items_of("questions"), row.items_of("answers")
        if len(asked) != len(answers):
            raise row.wrong("answers", "one for each question")
        column = "pentagons" if "pentagons" in asked[0] else COLUMNS[row.text("task")]
        for number, (question, answer) in enumerate(zip(asked, answers, strict=True)):
            yield Sample(
                id=f"{row.text('id')}-{number}",
                prompt=question,
                pictures=(picture(folder, "blindtest", row),),
                answer=answer,
                facts={"task": row.text("task"), "column": column, "wording": number},
            )


def summarise_blindtest(rows: Sequence[Marked]) -> Scores:
    """The mean of the tasks, then each; every task counts the same."""
    scores = mean_score(by=("column", "wording"))(rows)
    columns = scores.groups.get("column", {})
    mean = {"accuracy": sum(columns.values()) / len(columns)} if columns else {}
    return replace(scores, values={**mean, **columns}, means={})  # `accuracy` is here a mean of tasks


BLIND = "README of anguyen8/vision-llms-are-blind"
FIGURES = {
    "lines": (48.7, 69.7, 77.3), "two circles": (72.7, 92.8, 91.7), "circled letter": (70.2, 92.8, 89.2),
    "circles": (42.5, 20.8, 44.2), "pentagons": (19.2, 9.2, 75.8), "squares": (48.3, 80.0, 87.5),
    "grids": (39.6, 39.4, 74.3), "paths": (45.9, 40.0, 50.2),
}  # fmt: skip
BLINDTEST = Benchmark(
    name="blindtest-part",
    title="BlindTest: what vision-language models do not see",
    paper="arXiv:2407.06581",
    group="own",
    sources=(Source("shared", files("blindtest", "test.jsonl", "images.zip"), read_blindtest),),
    mark=mark_blindtest,
    summarise=summarise_blindtest,
    settings=Settings(max_new_tokens=200),
    published=tuple(
        Published(model, value, column, BLIND)
        for column, values in FIGURES.items()
        for model, value in zip(("GPT-4o", "Gemini 1.5 Pro", "Claude 3.5 Sonnet"), values, strict=True)
    ),
    note="878 pictures, balanced over the answers of each task, of 768 pixels at most, so that hair lines are thinner; "
    "the published figures are on the full sets with pictures of up to 2,000 pixels.",
)

TASKS: tuple[Benchmark, ...] = (NLVR, MATHVISION, PUZZLEVQA, DYNAMATH, BLINDTEST)

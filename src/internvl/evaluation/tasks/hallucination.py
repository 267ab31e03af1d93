"""Whether a model sees what is not there: POPE, HallusionBench, CRPE, MMHal-Bench."""

from __future__ import annotations

import base64
import binascii
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from internvl.errors import DataError
from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Judging,
    Mark,
    Marked,
    Picture,
    Published,
    Sample,
    Scores,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.choice import table_file
from internvl.evaluation.tasks.instructions import COT, SHORT
from internvl.evaluation.tasks.judge_prompts import MMHAL
from internvl.evaluation.tasks.judged import no_rule
from internvl.evaluation.tasks.published import MPO, model_card, version_1_5, version_2
from internvl.metrics.mathematics import cot_answer
from internvl.metrics.yes_no import Judged, confusion, hallusion_accuracies, pope_verdict, spoken

# ---- POPE ------------------------------------------------------------------------------------------------------------

CATEGORIES = ("random", "popular", "adversarial")


def read_pope(folder: Folder) -> Iterator[Sample]:
    """The questions as LLaVA hands them out; the truth of each category stands in the authors' files, in that order."""
    truths = {category: folder.jsonl(f"pope/coco/coco_pope_{category}.json") for category in CATEGORIES}
    for row in folder.jsonl("pope/llava_pope_test.jsonl", unique="question_id"):
        category = row.text("category")
        if category not in truths:
            raise row.wrong("category", f"one of {', '.join(CATEGORIES)}")
        truth = next(truths[category], None)
        question = row.text("text").removesuffix(SHORT).strip()
        if truth is None or (truth.text("image"), truth.text("text")) != (row.text("image"), question):
            found = "nothing" if truth is None else f"{truth.text('image')}: {truth.text('text')}"
            raise DataError(f"{row.where}: coco_pope_{category}.json has {found} in its place; get both files again")
        yield Sample(
            id=str(row["question_id"]),
            prompt=row.text("text"),
            pictures=(folder.picture(f"pope/val2014/{row.text('image')}", row=row),),
            answer=truth.text("label"),
            facts={"categories": [category]},
        )


def read_pope_table(folder: Folder, *, name: str) -> Iterator[Sample]:
    """A question that several categories ask stands in the table once."""
    for row in folder.table(name):
        yield Sample(
            id=str(row["index"]),
            prompt=row.text("question"),
            pictures=row.pictures(),
            answer=row.text("answer").lower(),
            facts={"categories": row.text("category").split(",")},
        )


def mark_pope(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """The authors' rule, which is the original's too."""
    del compat
    verdict = pope_verdict(answer)
    return Mark(float(verdict == sample.answer), verdict)


def read_pope_cot(folder: Folder) -> Iterator[Sample]:
    """The same questions, to be thought about first."""
    for sample in read_pope(folder):
        yield replace(sample, prompt=COT.format(question=sample.prompt.replace(SHORT, "").strip()))


def mark_pope_cot(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    return mark_pope(sample, cot_answer(answer), compat=compat)


def summarise_pope(rows: Sequence[Marked]) -> Scores:
    """The mean of the F1 scores of the three categories, each of them, and what else the authors print."""
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        for category in row.sample.facts["categories"]:
            pairs[category].append((row.sample.answer, row.mark.parsed or "other"))
    counts = {category: confusion(pairs[category]) for category in CATEGORIES if category in pairs}
    groups = {
        "F1": {category: 100 * count.f1 for category, count in counts.items()},
        "accuracy": {category: 100 * count.accuracy for category, count in counts.items()},
        "precision": {category: 100 * count.precision for category, count in counts.items()},
        "recall": {category: 100 * count.recall for category, count in counts.items()},
        "yes ratio": {category: 100 * count.yes_ratio for category, count in counts.items()},
    }
    if len(counts) < len(CATEGORIES):
        absent = ", ".join(category for category in CATEGORIES if category not in counts)
        return Scores(values={}, groups=groups, withheld={"F1": f"no answer of {absent}"})
    each = {f"F1 {category}": score for category, score in groups["F1"].items()}
    return Scores(values={"F1": sum(each.values()) / len(each), **each}, groups=groups)


COCO_POPE = "https://github.com/AoiDragon/POPE/tree/e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco"
LLAVA_POPE = "https://github.com/OpenGVLab/InternVL/releases/download/data/llava_pope_test.jsonl"
POPE_TABLE = table_file("POPE", "c12f5acb142f2ef1f85a26ba2fbe41d5")
POPE_FILES = (
    File("pope/llava_pope_test.jsonl", hint=LLAVA_POPE),
    *(File(f"pope/coco/coco_pope_{category}.json", hint=COCO_POPE) for category in CATEGORIES),
    File("pope/val2014", hint="http://images.cocodataset.org/zips/val2014.zip"),
)
POPE = Benchmark(
    name="pope",
    title="POPE",
    paper="arXiv:2305.10355",
    group="hallucination",
    sources=(
        Source(
            "original",
            POPE_FILES,
            read_pope,
        ),
        Source("vlmevalkit", (POPE_TABLE,), partial(read_pope_table, name=POPE_TABLE.path)),
    ),
    mark=mark_pope,
    summarise=summarise_pope,
    published=(
        *version_2("F1 random", 88.82, 89.87, 89.04, 88.11, 88.93, 89.67, 90.10),
        *version_2("F1 popular", 87.50, 88.30, 87.11, 86.90, 87.90, 88.09, 88.94),
        *version_2("F1 adversarial", 85.74, 86.77, 85.35, 85.85, 87.06, 87.41, 88.04),
        version_1_5("F1 random", 89.30),
        version_1_5("F1 popular", 88.43),
        version_1_5("F1 adversarial", 87.36),
        Published("InternVL2-8B", 86.9, "F1", MPO),
        Published("InternVL2-8B-MPO", 88.1, "F1", MPO),
    ),
)
POPE_COT = replace(
    POPE,
    name="pope-cot",
    title="POPE, thought about first",
    sources=(Source("original", POPE_FILES, read_pope_cot),),
    mark=mark_pope_cot,
    settings=Settings(max_new_tokens=4096),
    published=(),
)

# ---- HallusionBench --------------------------------------------------------------------------------------------------


def read_hallusion(folder: Folder, *, name: str) -> Iterator[Sample]:
    """The questions with a picture, as VLMEvalKit takes them. Numbers of set, figure and question are in the index."""
    for row in folder.table(name):
        if not (row.filled("image") or row.filled("image_path")):
            continue
        numbers = row.text("index").split("_")
        if len(numbers) != 6:
            raise row.wrong("index", "category_subcategory_visual_set_figure_question")
        facts = {fact: row.text(fact) for fact in ("category", "l2-category")}
        yield Sample(
            id=row.text("index"),
            prompt=f"{row.text('question')} Please answer yes or no. {SHORT}",
            pictures=row.pictures(),
            answer=row.text("answer").lower(),
            facts={**facts, "set": numbers[3], "figure": numbers[4], "question": numbers[5]},
        )


def mark_hallusion(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """VLMEvalKit's rule, by which the scores are published, in both modes."""
    del compat
    verdict = spoken(answer)
    return Mark(float(verdict == sample.answer), verdict)


def summarise_hallusion(rows: Sequence[Marked]) -> Scores:
    """aAcc, fAcc, qAcc and first their mean, which the InternVL reports print; each by category and subcategory."""
    if not rows:
        return Scores(values={}, withheld={"average": "there is no answer"})
    members: dict[str, list[Judged]] = defaultdict(list)
    for row in rows:
        facts = row.sample.facts
        judged = Judged(row.mark.score == 1, facts["l2-category"], facts["set"], facts["figure"], facts["question"])
        for name in ("", facts["category"], facts["l2-category"]):
            members[name].append(judged)
    figures = {name: hallusion_accuracies(found) for name, found in sorted(members.items())}
    whole = figures.pop("")
    groups = {key: {name: found[key] for name, found in figures.items()} for key in whole}
    return Scores(values={"average": sum(whole.values()) / len(whole), **whole}, groups=groups)


HALLUSION_TABLE = table_file("HallusionBench", "0c23ac0dc9ef46832d7a24504f2a0c7c")
HALLUSION = Benchmark(
    name="hallusionbench",
    title="HallusionBench",
    paper="arXiv:2310.14566",
    group="hallucination",
    sources=(Source("vlmevalkit", (HALLUSION_TABLE,), partial(read_hallusion, name=HALLUSION_TABLE.path)),),
    mark=mark_hallusion,
    summarise=summarise_hallusion,
    published=(
        model_card("InternVL2-8B", "average", 45.2),
        version_1_5("average", 49.3),
        version_1_5("aAcc", 66.77),
        version_1_5("fAcc", 40.17),
        version_1_5("qAcc", 40.88),
    ),
    note="An answer that has neither or both of yes and no counts as wrong, as VLMEvalKit's `exact_matching` has it",
)

# ---- CRPE ------------------------------------------------------------------------------------------------------------

OPTION = re.compile(r"^\(?([A-D])[.)] ?(.*)$", re.MULTILINE)
TURNS = 4
"""Each question of CRPE stands four times in a row, its options rotated."""


def read_crpe(folder: Folder, *, part: str) -> Iterator[Sample]:
    """The authors' lines; pictures relative to the folder `crpe`."""
    rows = folder.jsonl(f"crpe/crpe_{part}.jsonl", unique="question_id")
    for number, row in enumerate(rows):
        pictures = (folder.picture(f"crpe/{row.text('image')}", row=row),)
        truth = row.text("correct_option")
        yield _crpe(row, number, str(row["question_id"]), row.text("text"), truth, pictures)


def read_crpe_table(folder: Folder, *, name: str) -> Iterator[Sample]:
    for number, row in enumerate(folder.table(name)):
        yield _crpe(row, number, str(row["index"]), row.text("question"), row.text("answer"), row.pictures())


def _crpe(row: Row, number: int, name: str, question: str, truth: str, pictures: tuple[Picture, ...]) -> Sample:
    """truth: a letter, or the letter with its text."""
    options = dict(OPTION.findall(question))
    found = OPTION.match(truth)
    key = found[1] if found else truth.strip()
    if key not in tuple("ABCD"):
        raise row.wrong("correct_option" if "correct_option" in row else "answer", "an option of A to D")
    text = found[2] if found and found[2] else options.get(key, "")
    facts = {"category": row.text("category"), "group": number // TURNS, "text": text.strip()}
    return Sample(id=name, prompt=question, pictures=pictures, answer=key, facts=facts)


def mark_crpe(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """VLMEvalKit's rule, by which the scores are published: the first character, if it is A to D; else the answer is
    right if the text of the true option is in it. (Its own code finds an empty text in every answer; here in none.)"""
    del compat
    said = answer.strip()
    if said[:1] in tuple("ABCD"):
        return Mark(float(said[0] == sample.answer), said[0])
    text = sample.facts["text"].lower()
    right = bool(text) and text in said.lower()
    return Mark(float(right), sample.answer if right else None)


def summarise_crpe(rows: Sequence[Marked]) -> Scores:
    """A question is right if all four of its turns are; those that were not all asked are left out."""
    turns: dict[int, list[Marked]] = defaultdict(list)
    for row in rows:
        turns[row.sample.facts["group"]].append(row)
    whole = [found for found in turns.values() if len(found) == TURNS]
    if not whole:
        return Scores(values={}, withheld={"accuracy": "no question was answered in all of its four turns"})
    merged = [replace(found[0], mark=Mark(float(all(row.mark.score == 1 for row in found)))) for found in whole]
    return replace(mean_score(by=("category",))(merged), means={})  # not of the marks, of which a question has four


def _crpe_benchmark(part: str, md5: str, published: tuple[Published, ...] = ()) -> Benchmark:
    name = f"CRPE_{part.upper()}"
    url = f"https://huggingface.co/datasets/petter12321/crpe_vlmevalkit/resolve/main/{name}.tsv"
    data = "https://huggingface.co/datasets/OpenGVLab/CRPE"
    return Benchmark(
        name=f"crpe-{part}",
        title=f"CRPE {part}",
        paper="arXiv:2402.19474",
        group="hallucination",
        sources=(
            Source(
                "vlmevalkit",
                (File(f"{name}.tsv", url, f"md5:{md5}"), File(f"images/{name}", hint=f"the pictures of {data}")),
                partial(read_crpe_table, name=f"{name}.tsv"),
            ),
            Source("original", (File(f"crpe/crpe_{part}.jsonl", hint=data),), partial(read_crpe, part=part)),
        ),
        mark=mark_crpe,
        summarise=summarise_crpe,
        published=published,
    )


CRPE = (
    _crpe_benchmark("exist", "315584e23ac1ff7f8719ed3b7ad90f08"),
    _crpe_benchmark(
        "relation",
        "bad7094cde0b572288f4b119c2d0c656",
        (Published("InternVL2-8B", 75.5, "accuracy", MPO), Published("InternVL2-8B-MPO", 75.4, "accuracy", MPO)),
    ),
)

# ---- MMHal-Bench -----------------------------------------------------------------------------------------------------


def read_mmhal(folder: Folder) -> Iterator[Sample]:
    for number, row in enumerate(folder.jsonl("mm-halbench/mmhal-bench_with_image.jsonl")):
        facts = {key: row.text(key) for key in ("question_type", "question_topic") if row.filled(key)}
        yield Sample(
            id=str(row.get("question_id", number)),
            prompt=row.text("question"),
            pictures=(Picture(row.where, partial(_decoded, row.text("image"), row.where)),),
            answer=row.text("gt_answer"),
            facts={**facts, "question": row.text("question"), "contents": row.items_of("image_content")},
        )


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: bad base64 ({error}); get the file again") from None


def mmhal_prompt(sample: Sample, answer: str) -> str:
    contents = ", ".join(sample.facts["contents"])
    return MMHAL.format(contents, sample.facts["question"], sample.answer, answer)


RATINGS = range(7)
FIRST_WITHOUT_HALLUCINATION = 3


def mmhal_verdict(sample: Sample, verdict: str) -> Mark:
    """The one of `Rating: 0` to `Rating: 6` that is in it. Without one, or with several, it cannot be read; the
    authors' script then counts 0."""
    del sample
    found = [rating for rating in RATINGS if f"rating: {rating}" in verdict.lower()]
    if len(found) != 1:
        return Mark(None)
    [rating] = found
    parts = {"rating": float(rating), "hallucination": float(rating < FIRST_WITHOUT_HALLUCINATION)}
    return Mark(rating / RATINGS[-1], str(rating), parts)


def summarise_mmhal(rows: Sequence[Marked]) -> Scores:
    """The mean rating, from 0 to 6, and the share of answers with hallucinations; by type of question."""
    scores = mean_score("score", by=("question_type", "question_topic"), scale=float(RATINGS[-1]))(rows)
    if scores.withheld:
        return scores
    hallucination = 100 * sum(row.mark.parts["hallucination"] for row in rows) / len(rows)
    return replace(scores, values={**scores.values, "hallucination": hallucination})


MMHAL_BENCH = Benchmark(
    name="mmhal",
    title="MMHal-Bench",
    paper="arXiv:2309.14525",
    group="hallucination",
    sources=(
        Source(
            "original",
            (
                File(
                    "mm-halbench/mmhal-bench_with_image.jsonl",
                    hint="https://huggingface.co/OpenGVLab/InternVL/resolve/main/mmhal-bench_with_image.jsonl",
                ),
            ),
            read_mmhal,
        ),
    ),
    mark=no_rule,
    summarise=summarise_mmhal,
    settings=Settings(max_new_tokens=1024),
    judging=Judging(
        version="MMHal-Bench, 1",
        prompt=mmhal_prompt,
        parse=mmhal_verdict,
        published="gpt-4o",
        failed=Mark(0.0, parts={"rating": 0.0, "hallucination": 1.0}),  # as the authors count what cannot be read
    ),
    published=(Published("InternVL2-8B", 3.3, "score", MPO), Published("InternVL2-8B-MPO", 3.5, "score", MPO)),
    note="The authors judged with GPT-4-0314, the InternVL reports with GPT-4o",
)

TASKS: tuple[Benchmark, ...] = (POPE, POPE_COT, HALLUSION, *CRPE, MMHAL_BENCH)

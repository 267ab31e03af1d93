"""General abilities by multiple choice or a short answer: SEED-Bench, MMStar, MMT-Bench, RealWorldQA, Tiny-LVLM."""

from __future__ import annotations

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
from internvl.evaluation.tasks.choice import (
    against,
    mark_choice_always_official,
    read_choices,
    table_file,
    table_source,
)
from internvl.evaluation.tasks.instructions import SHORT
from internvl.evaluation.tasks.published import model_card, version_1_5, version_2
from internvl.metrics.choices import letter
from internvl.metrics.vqa import contains_answer

# ---- SEED-Bench ------------------------------------------------------------------------------------------------------

OPTION = re.compile(r"^([A-H])\. (.*)$", re.MULTILINE)
VIDEO_TYPES = range(10, 13)
"""Question types that are about a video; the original shows one frame of it."""


def read_seed(folder: Folder) -> Iterator[Sample]:
    """The original repository's questions, which hold options and instruction, with the authors' list of types."""
    names, types = _seed_types(folder)
    for row in folder.jsonl("SEED/seed.jsonl", unique="question_id"):
        kind = types.get(str(row["question_id"]))
        if kind is None:
            raise DataError(f"{row.where}: question {row['question_id']!r} is not in SEED/SEED-Bench.json")
        text = row.text("text")
        facts = {"kind": "video" if kind in VIDEO_TYPES else "image", "category": names.get(kind, str(kind))}
        yield Sample(
            id=str(row["question_id"]),
            prompt=text,
            pictures=(folder.picture(f"SEED/{row.text('image')}", row=row),),
            answer=row.text("answer"),
            facts={**facts, "options": dict(OPTION.findall(text))},
        )


def _seed_types(folder: Folder) -> tuple[dict[int, str], dict[str, int]]:
    """(name of each type, type of each question)."""
    name = "SEED/SEED-Bench.json"
    listed = Row(folder.json(name), name)["question_type"]
    names = {int(number): str(title) for title, number in listed.items()}
    types = {
        str(row["question_id"]): int(row.number("question_type_id")) for row in folder.json_rows(name, "questions")
    }
    return names, types


def read_seed_table(folder: Folder, *, name: str) -> Iterator[Sample]:
    for sample in read_choices(folder, name=name):
        yield replace(sample, facts={**sample.facts, "kind": "image"})


def mark_seed(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """compat="original": the first character of the answer is its letter."""
    if compat == "original":
        return against(sample, answer[:1])
    return against(sample, letter(answer, sample.facts["options"]))


def summarise_seed(rows: Sequence[Marked]) -> Scores:
    """The mean over questions about pictures, over those about videos, and over all."""
    scores = mean_score("total", by=("kind", "category"))(rows)
    if scores.withheld:
        return Scores(values={}, withheld={"image": next(iter(scores.withheld.values()))})
    kinds = scores.groups["kind"]
    total = scores.values if len(kinds) > 1 else {}
    values = {kind: kinds[kind] for kind in ("image", "video") if kind in kinds}
    means = scores.means if total else dict.fromkeys(values, 100.0)  # of one kind alone its mean is that of all
    return Scores(values={**values, **total}, groups={"category": scores.groups["category"]}, means=means)


SEED_TABLE = table_file("SEEDBench_IMG", "68017231464752261a2526d6ca3a10c0", at="benchmarks/SEEDBench")
SEED_HINT = "https://huggingface.co/OpenGVLab/InternVL/resolve/main/"
SEED = Benchmark(
    name="seed",
    title="SEED-Bench",
    paper="arXiv:2307.16125",
    group="general",
    sources=(
        Source(
            "original",
            (
                File("SEED/seed.jsonl", hint=f"{SEED_HINT}seed.jsonl"),
                File("SEED/SEED-Bench.json", hint="https://huggingface.co/datasets/AILab-CVC/SEED-Bench"),
                File("SEED/SEED-Bench-image", hint=f"{SEED_HINT}SEED-Bench-image.zip"),
            ),
            read_seed,
        ),
        Source("vlmevalkit", (SEED_TABLE,), partial(read_seed_table, name=SEED_TABLE.path)),
    ),
    mark=mark_seed,
    summarise=summarise_seed,
    published=(
        *version_2("image", 65.62, 71.55, 73.67, 76.15, 76.79, 78.15, 78.17),
        *version_2("total", 60.76, 66.56, 69.34, 70.72, 72.45, 74.65, 74.46),
        *version_2("video", 42.35, 47.67, 52.94, 50.17, 56.03, 61.38, 60.42),
        version_1_5("image", 75.99),
        version_1_5("total", 69.99),
        version_1_5("video", 47.27),
    ),
    note="Of a video one frame is shown; the table of VLMEvalKit has the questions about pictures alone",
)


# ---- tables ----------------------------------------------------------------------------------------------------------


def summarise_mmt(rows: Sequence[Marked]) -> Scores:
    """The mean over all samples; a subject of MMT-Bench (`l2-category`) is the mean of its tasks, as in VLMEvalKit."""
    scores = mean_score(by=("category", "split"))(rows)
    if scores.withheld:
        return scores
    subjects: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        facts = row.sample.facts
        if "category" in facts and "l2-category" in facts:
            subjects[facts["l2-category"]].add(facts["category"])
    tasks = scores.groups["category"]
    means = {subject: sum(tasks[task] for task in of) / len(of) for subject, of in sorted(subjects.items())}
    return replace(scores, groups={"l2-category": means, **scores.groups})


def _table(name: str, title: str, paper: str, source: Source, **more: object) -> Benchmark:
    made = Benchmark(
        name=name,
        title=title,
        paper=paper,
        group="general",
        sources=(source,),
        mark=mark_choice_always_official,
        summarise=mean_score(by=("l2-category", "category")),
        settings=Settings(max_new_tokens=100),
        note="An answer that names no option by rule counts as wrong, as VLMEvalKit's `exact_matching` has it",
    )
    return replace(made, **more)


def _mmt(name: str, table: str, md5: str, title: str) -> Benchmark:
    source = table_source(table, md5, at="benchmarks/MMT-Bench")
    return _table(
        name,
        title,
        "arXiv:2404.16006",
        source,
        summarise=summarise_mmt,
        settings=Settings(max_new_tokens=100, together=64),
    )


TABLES = (
    _table(
        "seed-2-plus",
        "SEED-Bench-2-Plus",
        "arXiv:2404.16790",
        table_source("SEEDBench2_Plus", "e32d3216dc4f452b0fe497a52015d1fd", at="benchmarks/SEEDBench"),
        published=(model_card("InternVL2_5-78B", "accuracy", 71.3),),
    ),
    _table("mmstar", "MMStar", "arXiv:2403.20330", table_source("MMStar", "e1ecd2140806c1b1bbf54b43372efb9e")),
    _mmt("mmt-bench", "MMT-Bench_ALL", "b273a2f4c596fe4f2605de0494cd632f", "MMT-Bench"),
    _mmt("mmt-bench-mi", "MMT-Bench_ALL_MI", "5272157097e19cdd7cb41e412ab3b7c7", "MMT-Bench, several pictures"),
    _mmt("mmt-bench-val", "MMT-Bench_VAL", "8dd4b730f53dbf9c3aed90ca31c928e0", "MMT-Bench val"),
    _mmt("mmt-bench-val-mi", "MMT-Bench_VAL_MI", "c7d7b998eb5cd9aa36c7d4f721472462", "MMT-Bench val, several pictures"),
    _table(
        "realworldqa",
        "RealWorldQA",
        "https://huggingface.co/datasets/xai-org/RealworldQA",
        table_source("RealWorldQA", "4de008f55dc4fd008ca9e15321dc44b7"),
        published=(
            model_card("InternVL2-8B", "accuracy", 64.4),
            model_card("InternVL2-26B", "accuracy", 68.3, of="InternVL2-40B"),
            model_card("InternVL2-40B", "accuracy", 71.8),
            version_1_5("accuracy", 66.0),
        ),
    ),
)


# ---- Tiny-LVLM -------------------------------------------------------------------------------------------------------

TINY = "tiny_lvlm/updated_datasets"
TINY_TASKS = (
    "Visual_Reasoning",
    "Visual_Perception",
    "Visual_Knowledge_Acquisition",
    "Visual_Commonsense",
    "Object_Hallucination",
)


def read_tiny(folder: Folder) -> Iterator[Sample]:
    for task in TINY_TASKS:
        for number, row in enumerate(folder.json_rows(f"{TINY}/{task}/dataset.json")):
            truth = row["gt_answers"]
            yield Sample(
                id=f"{task}/{number}",
                prompt=f"{row.text('question')} {SHORT}",
                pictures=(folder.picture(f"{TINY}/{task}/{row.text('image_path')}", row=row),),
                answer=row.items_of("gt_answers") if isinstance(truth, list) else [str(truth)],
                facts={"task": task},
            )


def mark_tiny(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right if a true answer occurs as whole words, both normalised as by the VQA scorer; one rule in both modes."""
    del compat
    return Mark(contains_answer(answer, sample.answer), answer)


def summarise_tiny(rows: Sequence[Marked]) -> Scores:
    """The sum of the accuracies of the five tasks, from 0 to 5, as papers print it."""
    scores = mean_score(by=("task",), scale=1.0)(rows)
    if scores.withheld:
        return Scores(values={}, withheld={"sum": next(iter(scores.withheld.values()))})
    absent = [task for task in TINY_TASKS if task not in scores.groups["task"]]
    if absent:
        return Scores(values={}, groups=scores.groups, withheld={"sum": f"no answer of {', '.join(absent)}"})
    return Scores(values={"sum": sum(scores.groups["task"].values())}, groups=scores.groups)


TINY_LVLM = Benchmark(
    name="tiny-lvlm",
    title="Tiny-LVLM-eHub",
    paper="arXiv:2308.03729",
    group="general",
    sources=(
        Source("original", (File(TINY, hint=f"{SEED_HINT}updated_datasets.zip, unpacked into tiny_lvlm"),), read_tiny),
    ),
    mark=mark_tiny,
    summarise=summarise_tiny,
    settings=Settings(max_new_tokens=30),
    published=(*version_2("sum", 3.254, 3.295, 3.367, 3.418, 3.579, 3.584, 3.629), version_1_5("sum", 3.583)),
    note="The sum of five accuracies, at most 5",
)

TASKS: tuple[Benchmark, ...] = (SEED, *TABLES, TINY_LVLM)

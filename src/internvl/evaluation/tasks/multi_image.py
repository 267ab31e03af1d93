"""Questions about several pictures: Mantis-Eval, MIRB, MMIU, MuirBench, NLVR2 and NLVR."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from internvl.errors import DataError
from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Mark,
    Marked,
    Picture,
    Sample,
    Scores,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.choice import choice_prompt, mark_choice, mark_choice_always_official, table_file
from internvl.evaluation.tasks.instructions import LETTER, SHORT, numbered
from internvl.evaluation.tasks.nlvr import NLVR, NLVR2
from internvl.evaluation.tasks.published import reported
from internvl.metrics.matching import mantis_match, mirb_match

IMAGE = "<image>"
ALONE = f"{IMAGE}\n"


def pictures_of(row: Row, key: str) -> tuple[Picture, ...]:
    """The pictures of a column that holds a list of them, or one."""
    value = row[key]
    if isinstance(value, Picture):
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(item, Picture) for item in value):
        raise DataError(f"{row.where}: `{key}` holds no pictures; expected an image column")
    return tuple(value)


# ---- Mantis-Eval -----------------------------------------------------------------------------------------------------


def read_mantis(folder: Folder) -> Iterator[Sample]:
    """The authors' parquet. A run of `<image>` for all pictures is left out, any other becomes the picture's number."""
    for row in folder.parquet("Mantis-Eval/**/test-*.parquet"):
        pictures, question = pictures_of(row, "images"), row.text("question")
        question = question.replace(" ".join([IMAGE] * len(pictures)), "").strip()
        for at in range(1, len(pictures) + 1):
            question = question.replace(IMAGE, f"Image-{at}", 1)
        choice = row.text("question_type") == "multi-choice"
        listed = [text.strip() for text in row.items_of("options")]
        lines = [question, "\n".join(listed), LETTER] if choice else [question, SHORT]
        yield Sample(
            id=str(row["id"]),
            prompt=numbered(len(pictures), alone=ALONE) + "\n".join(lines).strip(),
            pictures=pictures,
            answer=row.text("answer"),
            facts={
                "kind": "multiple choice" if choice else "short answer",
                "options": dict(zip(string.ascii_uppercase, listed, strict=False)) if choice else {},
            },
        )


def mark_mantis(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    return Mark(mantis_match(answer, sample.answer, sample.facts["options"], compat=compat))


MANTIS = Benchmark(
    name="mantis",
    title="Mantis-Eval",
    paper="arXiv:2405.01483",
    group="multi-image",
    sources=(
        Source(
            "huggingface",
            (
                File(
                    "Mantis-Eval/**/test-*.parquet",
                    hint="the data set TIGER-Lab/Mantis-Eval of the Hugging Face hub, as Mantis-Eval/",
                ),
            ),
            read_mantis,
        ),
    ),
    mark=mark_mantis,
    summarise=mean_score(by=("kind",)),
    settings=Settings(max_new_tokens=50, max_tiles=6),
    published=reported("Mantis-Eval"),
    note="The published scores have the original's rule (compat original).",
)


# ---- MIRB ------------------------------------------------------------------------------------------------------------

MIRB_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Knowledge": ("food", "sightseeing"),
    "Reasoning": ("codeu", "plot_code", "analogy", "3d_scene"),
    "Perception": ("image_jigsaw", "count", "attribute"),
    "Multi-Hop": ("visual_chain", "arxiv"),
}


def mirb_instruction(task: str) -> str:
    """What follows the question; tasks of which all pictures are joined in one (`_concat`) ask as the others do."""
    plain = task.removesuffix("_concat").removesuffix("_text")
    if plain in ("codeu", "food", "image_jigsaw"):
        return "Answer with the option symbol."
    if plain == "arxiv":
        return "Answer with the paper title."
    if plain == "count":
        return "Answer with a single number."
    if plain == "3d_scene":
        return "The following images are different views of the same 3D scene. Answer with a single number."
    return "Answer with a single word."


def read_mirb(folder: Folder) -> Iterator[Sample]:
    """One list a task; the tasks that the score is made of. The others are variants of them."""
    for task in (task for group in MIRB_GROUPS.values() for task in group):
        for at, row in enumerate(folder.json_rows(f"MIRB/{task}.json")):
            names = row.items_of("images")
            yield Sample(
                id=f"{task}-{at}",
                prompt=f"{numbered(len(names), alone=ALONE)}{row.text('questions')}\n{mirb_instruction(task)}",
                pictures=tuple(folder.picture(f"MIRB/{name}", row=row) for name in names),
                answer=str(row["answers"]),
                facts={"task": task},
            )


def mark_mirb(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat  # the original has the authors' rule
    return Mark(mirb_match(sample.facts["task"], answer, sample.answer))


def summarise_mirb(rows: Sequence[Marked]) -> Scores:
    """The mean of four groups, each the mean of its tasks."""
    scores = mean_score("all questions", by=("task",))(rows)
    tasks = scores.groups.get("task", {})
    missing = sorted(task for group in MIRB_GROUPS.values() for task in group if task not in tasks)
    if missing:
        reason = scores.withheld.get("all questions") or f"no question of {', '.join(missing)} was asked"
        return replace(scores, withheld={"accuracy": reason})
    groups = {name: sum(tasks[task] for task in group) / len(group) for name, group in MIRB_GROUPS.items()}
    mean = sum(groups.values()) / len(groups)
    return replace(scores, values={"accuracy": mean, **scores.values}, groups={"group": groups, **scores.groups})


MIRB_HINT = "the data set VLLMs/MIRB of the Hugging Face hub with images.zip unpacked, as MIRB/"
MIRB = Benchmark(
    name="mirb",
    title="MIRB",
    paper="arXiv:2406.12742",
    group="multi-image",
    sources=(
        Source(
            "original",
            (
                *(File(f"MIRB/{task}.json", hint=MIRB_HINT) for group in MIRB_GROUPS.values() for task in group),
                File("MIRB/images", hint=MIRB_HINT),
            ),
            read_mirb,
        ),
    ),
    mark=mark_mirb,
    summarise=summarise_mirb,
    settings=Settings(max_new_tokens=512, max_tiles=6),
    published=reported("MIRB"),
)


# ---- MMIU ------------------------------------------------------------------------------------------------------------

MMIU_TASKS = frozenset((
    "point_tracking", "ravens_progressive_matrices", "single_object_tracking", "threed_cad_recognition",
    "threed_indoor_recognition", "Egocentric_Video_QuestionAnswering", "Homography_estimation",
    "Icon_Question_Answering_with_Spatial_Context", "Image_Captioning_with_Spatial_Context",
    "Image_Spatial_Transformation_Estimation", "Image_text_retrieval_with_Spatial_Context",
    "Multiview_Action_Recognition", "Multiview_reasoning", "jigsaw_puzzle_solving", "threeD_Depth_Estimation",
    "threeD_Object_Detection", "threeD_Object_Tracking", "threeD_Pose_Estimation", "threeD_Scene_Reconstruction",
    "threeD_question_answering",
))  # fmt: skip
"""The spatial tasks, of which the published scores of the family are the mean."""


def read_mmiu(folder: Folder) -> Iterator[Sample]:
    for at, row in enumerate(folder.jsonl("mmiu/mmiu.jsonl")):
        asked = Row(row["input"] if isinstance(row["input"], dict) else {}, f"{row.where}, `input`")
        truth = Row(row["output"] if isinstance(row["output"], dict) else {}, f"{row.where}, `output`")
        names = asked.items_of("input_image_path")
        options = {
            key: text.strip().removeprefix(f"{key}:").strip()
            for key, text in zip(string.ascii_uppercase, row.text("options").split("\n"), strict=False)
        }
        yield Sample(
            id=str(at),
            prompt=f"{numbered(len(names))}{asked.text('question')}\n{asked.text('context')}\n{LETTER}",
            pictures=tuple(folder.picture(f"mmiu/{name.removeprefix('./')}", row=row) for name in names),
            answer=truth.text("output_text"),
            facts={"task": row.text("task"), "options": options},
        )


def summarise_mmiu(rows: Sequence[Marked]) -> Scores:
    """The mean over the spatial tasks; beside it the mean over all tasks that were asked."""
    scores = mean_score("all questions", by=("task",))(rows)
    if scores.withheld:
        return Scores(values={}, withheld={"accuracy": scores.withheld["all questions"]})
    tasks = scores.groups["task"]
    spatial = [figure for task, figure in tasks.items() if task in MMIU_TASKS]
    every = {"all tasks": sum(tasks.values()) / len(tasks)}
    if not spatial:
        reason = "no question of its spatial tasks was asked"
        return Scores(values=every, groups=scores.groups, withheld={"accuracy": reason})
    return Scores(values={"accuracy": sum(spatial) / len(spatial), **every}, groups=scores.groups)


MMIU = Benchmark(
    name="mmiu",
    title="MMIU (spatial tasks)",
    paper="arXiv:2408.02718",
    group="multi-image",
    sources=(
        Source(
            "original",
            (
                File("mmiu/mmiu.jsonl", hint="eval/mmiu/mmiu.jsonl of the original repository"),
                File(
                    "mmiu/2D-spatial", hint="unpack 2D-spatial.zip of the Hugging Face hub's MMIUBenchmark/MMIU there"
                ),
                File(
                    "mmiu/3D-spatial", hint="unpack 3D-spatial.zip of the Hugging Face hub's MMIUBenchmark/MMIU there"
                ),
            ),
            read_mmiu,
        ),
    ),
    mark=mark_choice,
    summarise=summarise_mmiu,
    settings=Settings(max_new_tokens=100, max_tiles=12),
    published=reported("MMIU"),
    note="The published scores have the original's letter rule (compat original); a question that did not fit into "
    "memory was counted there as answered with A.",
)


# ---- MuirBench -------------------------------------------------------------------------------------------------------


def muir_prompt(text: str, count: int) -> str:
    """As VLMEvalKit's InternVL wrapper asks: pictures first, and `<Image-2>` where one stands in the text."""
    text = text.replace(" ".join([IMAGE] * count), "")
    for at in range(1, count + 1):
        text = text.replace(IMAGE, f"<Image-{at}>", 1)
    return numbered(count, alone=f"Image-1: {IMAGE}\n") + text


def read_muir_table(folder: Folder) -> Iterator[Sample]:
    for row in folder.table("MUIRBench.tsv"):
        pictures = row.pictures()
        task = next((str(row[key]) for key in ("category", "task") if row.filled(key)), "")
        yield Sample(
            id=str(row["index"]),
            prompt=muir_prompt(choice_prompt(row), len(pictures)),
            pictures=pictures,
            answer=str(row["answer"]),
            facts={"options": row.options(), **({"category": task} if task else {})},
        )


def read_muir(folder: Folder) -> Iterator[Sample]:
    for row in folder.parquet("MUIRBENCH/**/test-*.parquet"):
        pictures = pictures_of(row, "image_list")
        options = dict(zip(string.ascii_uppercase, row.items_of("options"), strict=False))
        lines = [row.text("question"), *(f"{key}. {text}" for key, text in options.items()), LETTER]
        yield Sample(
            id=str(row["idx"]),
            prompt=muir_prompt("\n".join(lines), len(pictures)),
            pictures=pictures,
            answer=row.text("answer"),
            facts={"options": options, "category": row.text("task")},
        )


MUIR = Benchmark(
    name="muirbench",
    title="MuirBench",
    paper="arXiv:2406.09411",
    group="multi-image",
    sources=(
        Source("vlmevalkit", (table_file("MUIRBench", "2e5e6fd7699761b08a7cb3ab8c0c2ec8"),), read_muir_table),
        Source(
            "huggingface",
            (
                File(
                    "MUIRBENCH/**/test-*.parquet",
                    hint="the data set MUIRBENCH/MUIRBENCH of the Hugging Face hub, as MUIRBENCH/",
                ),
            ),
            read_muir,
        ),
    ),
    mark=mark_choice_always_official,
    summarise=mean_score(by=("category",)),
    settings=Settings(max_new_tokens=1024, max_tiles=6, together=64),
    published=reported("MuirBench"),
    note="Answers that no rule can read count as wrong; VLMEvalKit may ask a judge about them.",
)


TASKS = (MANTIS, MIRB, MMIU, MUIR, NLVR2, NLVR)

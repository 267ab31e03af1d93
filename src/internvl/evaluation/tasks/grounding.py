"""Where is it? RefCOCO, RefCOCO+, RefCOCOg, and DIOR-RSVG seen from the air."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
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
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.published import version_2
from internvl.evaluation.tasks.vqa import converted, in_data
from internvl.metrics.boxes import Box, clip, iou, parse_box, parse_listed_box

WHERE = "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>"
DETECT = "Detect {}"
HIT = 0.5


def numbers(row: Row, key: str, count: int) -> tuple[float, ...]:
    """A list of that many numbers."""
    value: Any = row[key]
    if not isinstance(value, list) or len(value) != count or not all(type(item) in (int, float) for item in value):
        raise row.wrong(key, f"a list of {count} numbers")
    return tuple(float(item) for item in value)


def box_of(row: Row) -> tuple[float, ...]:
    """`bbox`: left, top, right, bottom in pixels."""
    x1, y1, x2, y2 = numbers(row, "bbox", 4)
    if x2 <= x1 or y2 <= y1:
        raise row.wrong("bbox", "left, top, right, bottom with left < right and top < bottom")
    return x1, y1, x2, y2


def as_text(box: Box | None) -> str | None:
    return None if box is None else ", ".join(f"{corner:.1f}" for corner in box)


# ---- RefCOCO ---------------------------------------------------------------------------------------------------------

SPLITS = {  # our name -> the original's file, the evaluation files of Qwen-VL
    "refcoco-val": "refcoco_val",
    "refcoco-testA": "refcoco_testA",
    "refcoco-testB": "refcoco_testB",
    "refcoco+-val": "refcoco+_val",
    "refcoco+-testA": "refcoco+_testA",
    "refcoco+-testB": "refcoco+_testB",
    "refcocog-val": "refcocog_val",
    "refcocog-test": "refcocog_test",
}


def split_file(split: str) -> File:
    name = SPLITS[split]
    return converted(f"refcoco/{name}.jsonl", f"{name.split('_')[0]}/{name}.jsonl".replace("+", "%2B"))


def read_refcoco(folder: Folder, *, splits: Sequence[str]) -> Iterator[Sample]:
    """The lines {image, sent, bbox, width, height} of these splits; ids are the place in the split."""
    for split in splits:
        for place, row in enumerate(folder.jsonl(split_file(split).path)):
            yield Sample(
                id=str(place) if len(splits) == 1 else f"{split}-{place}",
                prompt=WHERE.format(row.text("sent")),
                pictures=(folder.picture(in_data(row.text("image")), row=row),),
                answer=box_of(row),
                facts={"size": [row.number("width"), row.number("height")], "split": split},
            )


def mark_refcoco(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """A hit if the box overlaps the true one by half or more."""
    width, height = sample.facts["size"]
    box = parse_box(answer, (width, height), compat=compat)
    x1, y1, x2, y2 = sample.answer
    overlap = 0.0 if box is None else iou(box, (x1, y1, x2, y2))
    return Mark(float(overlap >= HIT), as_text(box), {"iou": overlap})


def all_splits(rows: Sequence[Marked]) -> Scores:
    """Each split's precision and the mean of the eight, whatever their sizes."""
    scores = mean_score("mean", by=("split",))(rows)
    if scores.withheld:
        return scores
    found = {split: scores.groups["split"][split] for split in SPLITS if split in scores.groups["split"]}
    if len(found) < len(SPLITS):
        absent = ", ".join(split for split in SPLITS if split not in found)
        return Scores(values=found, withheld={"mean": f"no question of {absent}"})
    return Scores(values={"mean": sum(found.values()) / len(found), **found})


# Of InternVL 2.0 in the order of SPLITS, and their mean.
PRECISION: dict[str, tuple[float, ...]] = {
    "InternVL2-1B": (83.6, 88.7, 79.8, 76.0, 83.6, 67.7, 80.2, 79.9, 79.9),
    "InternVL2-2B": (82.3, 88.2, 75.9, 73.5, 82.8, 63.3, 77.6, 78.3, 77.7),
    "InternVL2-4B": (88.5, 91.2, 83.9, 81.2, 87.2, 73.8, 84.6, 84.6, 84.4),
    "InternVL2-8B": (87.1, 91.1, 80.7, 79.8, 87.9, 71.4, 82.7, 82.7, 82.9),
    "InternVL2-26B": (91.2, 93.3, 87.4, 86.8, 91.0, 81.2, 88.5, 88.6, 88.5),
    "InternVL2-40B": (93.0, 94.7, 89.2, 88.5, 92.8, 83.6, 90.3, 90.6, 90.3),
    "InternVL2-Llama3-76B": (92.2, 94.8, 88.4, 88.8, 93.1, 82.8, 89.5, 90.3, 90.0),
}


def precision(column: int, metric: str) -> tuple[Published, ...]:
    return version_2(metric, *(scores[column] for scores in PRECISION.values()))


def refcoco(name: str, title: str, splits: Sequence[str], published: tuple[Published, ...], **more: Any) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        paper="arXiv:1511.02283" if "refcocog" in name else "arXiv:1608.00272",
        group="grounding",
        sources=(
            Source("original", tuple(split_file(split) for split in splits), partial(read_refcoco, splits=splits)),
        ),
        mark=mark_refcoco,
        settings=Settings(max_new_tokens=100),
        published=published,
        **more,
    )


# ---- DIOR-RSVG -------------------------------------------------------------------------------------------------------

DOMAINS = "InternVL-Domain-Adaptation-Data"


def read_dior(folder: Folder, *, name: str) -> Iterator[Sample]:
    """A JSON list of {image, prompt, bbox, size}, size being width and height."""
    for place, row in enumerate(folder.json_rows(name)):
        yield Sample(
            id=str(place),
            prompt=DETECT.format(row.text("prompt")),
            pictures=(folder.picture(f"{DOMAINS}/images/{row.text('image')}", row=row),),
            answer=box_of(row),
            facts={"size": list(numbers(row, "size", 2))},
        )


def mark_dior(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """A hit if the box, cut off at the picture's edges, overlaps the true one by more than half, corners included."""
    width, height = sample.facts["size"]
    size = (width, height)
    if compat == "original":
        box = parse_listed_box(answer, size)
    else:
        found = parse_box(answer, size)
        box = None if found is None else clip(found, size)
    x1, y1, x2, y2 = sample.answer
    overlap = 0.0 if box is None else iou(box, (x1, y1, x2, y2), inclusive=True)
    return Mark(float(overlap > HIT), as_text(box), {"iou": overlap})


# ---- the table -------------------------------------------------------------------------------------------------------

TASKS: tuple[Benchmark, ...] = (
    refcoco(
        "refcoco",
        "RefCOCO, RefCOCO+ and RefCOCOg, mean of eight splits",
        tuple(SPLITS),
        (
            *precision(len(SPLITS), "mean"),
            *(score for column, split in enumerate(SPLITS) for score in precision(column, split)),
        ),
        summarise=all_splits,
    ),
    *(
        refcoco(
            split,
            split.replace("refcocog", "RefCOCOg").replace("refcoco", "RefCOCO").replace("-", " "),
            (split,),
            precision(column, "P@1"),
            summarise=mean_score("P@1"),
        )
        for column, split in enumerate(SPLITS)
    ),
    Benchmark(
        name="dior-rsvg",
        title="DIOR-RSVG test",
        paper="arXiv:2210.12634",
        group="grounding",
        sources=(
            Source(
                "original",
                (
                    File(
                        f"{DOMAINS}/val/dior_rsvg_test.json",
                        hint=f"huggingface.co/datasets/OpenGVLab/{DOMAINS}",
                    ),
                ),
                partial(read_dior, name=f"{DOMAINS}/val/dior_rsvg_test.json"),
            ),
        ),
        mark=mark_dior,
        summarise=mean_score("Acc@0.5"),
        settings=Settings(max_new_tokens=200),
        note="A model that was not adapted to the set answers these prompts in its own way.",
    ),
)

"""What the embedded model never saw, made out of the sets of `own`: flags in four renderings, receipts of shops kept
apart, and questions about things that are not there.
"""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
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
from internvl.evaluation.tasks import own
from internvl.evaluation.tasks.instructions import SHORT
from internvl.metrics.yes_no import confusion, spoken

# ---- flags -----------------------------------------------------------------------------------------------------------

RENDERINGS = ("waved", "photographed", "blurred", "cropped")


def read_renderings(folder: Folder) -> Iterator[Sample]:
    """Every flat flag four times; what was drawn for a flag depends on its code alone."""
    for row in folder.jsonl("flags/train.jsonl", unique="code"):
        flat, code = own.picture(folder, "flags", row), row.text("code")
        for rendering in RENDERINGS:
            name = f"{flat.name}, {rendering}"
            yield Sample(
                id=f"{code}-{rendering}",
                prompt=own.FLAG,
                pictures=(Picture(name, partial(rendered, flat, rendering, f"{code} {rendering}")),),
                answer=row.text("country"),
                facts={"code": code, "rendering": rendering, "region": row["region"]},
            )


def rendered(flat: Picture, rendering: str, seed: str) -> bytes:
    """A flag in one of the renderings, as PNG; the same seed gives the same pixels."""
    from internvl.data.media import open_image  # tasks are listed without Pillow
    from internvl.evaluation.tasks.flag_renderings import render

    out = io.BytesIO()
    render(rendering, open_image(flat.read()), random.Random(seed)).save(out, "PNG")
    return out.getvalue()


FLAGS = Benchmark(
    name="flags-rendered",
    title="Flags waved, photographed, blurred and cropped",
    paper=own.NOTO,
    group="own",
    sources=(Source("shared", own.files("flags", "train.jsonl", "images.zip"), read_renderings),),
    mark=own.mark_name,
    summarise=own.mean_of_parts("mentioned", by=("rendering", "region")),
    settings=own.BRIEF,
    note="189 flags that the embedded model learnt flat, each drawn four times by this benchmark. No published figure. "
    "Flags that differ in a shade only (Romania and Chad) are asked about as any other.",
)

# ---- receipts --------------------------------------------------------------------------------------------------------


def read_unseen_receipts(folder: Folder) -> Iterator[Sample]:
    return (sample for sample in own.read_receipts(folder) if sample.facts["held_out"])


def summarise_keys(rows: Sequence[Marked]) -> Scores:
    """The mean of the four keys, then each; every key counts the same."""
    keys = mean_score(by=("key",))(rows).groups.get("key", {})
    if not keys:
        return mean_score()(rows)
    return Scores(values={"accuracy": sum(keys.values()) / len(keys), **keys}, groups={"key": keys})


RECEIPTS = replace(
    own.RECEIPTS,
    name="receipts-unseen",
    title="SROIE receipts of shops kept apart: shop, date, address and total",
    sources=(replace(own.RECEIPTS.sources[0], read=read_unseen_receipts),),
    summarise=summarise_keys,
    note="The receipts of every seventh shop of the official training split, which the embedded model never saw; the "
    "published figure is an F1 on the official test split, whose pictures are not in the folder.",
)

LINES = replace(
    own.LINES,
    name="receipts-lines-all",
    title="SROIE receipts: lines of any length read",
    sources=(replace(own.LINES.sources[0], read=partial(own.read_lines, longest=200)),),
    settings=replace(own.LINES.settings, max_new_tokens=80),
    note="All lines of two characters or more from every seventh shop of the official training split, cut out by their "
    "boxes, but for a few that are too low or stand upright.",
)

# ---- things that are not there ---------------------------------------------------------------------------------------

MOST = 10
"""So many of the most frequent kinds are what `popular` asks about."""
RELATED = (
    ("chair", "windsor chair", "wheelchair"), ("cougar body", "cougar face", "wild cat", "leopards"),
    ("crocodile", "crocodile head"), ("flamingo", "flamingo head"), ("lotus", "water lilly"),
    ("ketch", "schooner", "ferry"), ("lamp", "chandelier", "ceiling fan", "menorah"), ("crayfish", "lobster", "crab"),
    ("pagoda", "buddha", "minaret"), ("brontosaurus", "stegosaurus"), ("electric guitar", "mandolin"),
    ("euphonium", "saxophone", "gramophone"), ("ewer", "cup"), ("bonsai", "joshua tree"), ("rooster", "pigeon"),
)  # fmt: skip
"""Kinds of which one may be, or be called, another: none of them is said not to be there where another is."""


def read_absent(folder: Folder) -> Iterator[Sample]:
    """Of each photograph what it shows, and a thing that it does not: any (`random`) or a frequent one (`popular`)."""
    rows = list(folder.jsonl("caltech101/test.jsonl", unique="id"))
    sizes = Counter(row.text("name") for row in rows)
    kinds = {"random": sorted(sizes), "popular": sorted(sorted(sizes), key=lambda name: -sizes[name])[:MOST]}
    for row in rows:
        rng, name = random.Random(f"absent {row.text('id')}"), row.text("name")
        category = rng.choice(tuple(kinds))
        near = {name}.union(*(group for group in RELATED if name in group))
        others = [other for other in kinds[category] if other not in near]
        if not others:
            raise row.wrong("name", "one of several kinds of things")
        for answer, thing in (("yes", name), ("no", rng.choice(others))):
            article = "an" if thing[0] in "aeiou" else "a"
            yield Sample(
                id=f"{row.text('id')}-{answer}",
                prompt=f"Is there {article} {thing} in the image?\n{SHORT}",
                pictures=(own.picture(folder, "caltech101", row),),
                answer=answer,
                facts={"column": "present" if answer == "yes" else "absent", "category": category, "thing": thing},
            )


def mark_absent(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right if the answer says the one of yes and no that is true, and not the other."""
    del compat  # the rule is this project's own
    verdict = spoken(answer)
    return Mark(float(verdict == sample.answer), verdict)


def summarise_absent(rows: Sequence[Marked]) -> Scores:
    """All, those about absent and about present things, how often yes was said, and F1 with yes as positive. An answer
    that says neither is no yes, and always wrong."""
    scores = mean_score(by=("column", "category"))(rows)
    if scores.withheld:
        return scores
    count = confusion([(row.sample.answer, "yes" if row.mark.parsed == "yes" else "no") for row in rows])
    said = {"yes ratio": 100 * count.yes_ratio, "F1": 100 * count.f1}
    return replace(scores, values={**scores.values, **scores.groups.get("column", {}), **said})


ABSENT = Benchmark(
    name="absent",
    title="Caltech-101, is it there or not",
    paper="https://doi.org/10.22002/D1.20086",
    group="own",
    sources=(Source("shared", own.files("caltech101", "test.jsonl", "images.zip"), read_absent),),
    mark=mark_absent,
    summarise=summarise_absent,
    settings=Settings(max_new_tokens=10, max_tiles=1),
    note="Asked as POPE asks, with names as they stand in the set, about a thing that is there and one that is not; "
    "half of the latter by chance, half out of the ten most frequent kinds. A thing that resembles the one shown is "
    "never asked about in vain. No published figure.",
)

TASKS: tuple[Benchmark, ...] = (FLAGS, RECEIPTS, LINES, ABSENT)

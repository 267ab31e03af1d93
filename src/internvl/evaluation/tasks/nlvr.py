"""NLVR2 and NLVR: is a statement true of two photographs, or of a drawn picture with three boxes?"""

from __future__ import annotations

from collections.abc import Iterator

from internvl.evaluation.benchmark import Benchmark, Compat, File, Mark, Picture, Sample, Settings, Source
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.instructions import numbered
from internvl.metrics.matching import truth_value

PART = "this project's own copy, as a zip with JSON lines"
ASKED = "Is this statement true of the {subject}? Answer with True or False.\n{sentence}"
"""Our own: no score of the family on these two was published."""


def label(row: Row) -> bool:
    said = row["label"]
    if isinstance(said, bool):
        return said
    if not isinstance(said, str) or said.lower() not in ("true", "false"):
        raise row.wrong("label", "true or false")
    return said.lower() == "true"


def read_nlvr2(folder: Folder) -> Iterator[Sample]:
    """test1.json of the authors, JSON lines; `test1-0-1-0` asks about `test1-0-1-img0.png` and `-img1.png`."""
    for row in folder.jsonl("nlvr2/test1.json"):
        identifier = row.text("identifier")
        stem = identifier.rpartition("-")[0]
        yield Sample(
            id=identifier,
            prompt=numbered(2) + ASKED.format(subject="two pictures", sentence=row.text("sentence")),
            pictures=tuple(folder.picture(f"nlvr2/test1/{stem}-img{side}.png", row=row) for side in range(2)),
            answer=label(row),
        )


def read_nlvr(folder: Folder) -> Iterator[Sample]:
    """test.json of the authors, JSON lines; of the six orders of the boxes in a picture the first is shown."""
    for row in folder.jsonl("nlvr/test/test.json"):
        identifier, place = row.text("identifier"), str(row["directory"])
        yield _nlvr(row, identifier, folder.picture(f"nlvr/test/images/{place}/test-{identifier}-0.png", row=row))


def read_nlvr_shared(folder: Folder) -> Iterator[Sample]:
    for row in folder.jsonl("nlvr/test.jsonl"):
        if row.text("split") == "test":
            first = folder.member(f"nlvr/{row.text('zip')}", row.items_of("images")[0], row=row)
            yield _nlvr(row, row.text("id"), first)


def _nlvr(row: Row, identifier: str, picture: Picture) -> Sample:
    prompt = ASKED.format(subject="picture", sentence=row.text("sentence"))
    return Sample(id=identifier, prompt=prompt, pictures=(picture,), answer=label(row))


def mark_truth(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat  # the original never ran it
    said = truth_value(answer)
    return Mark(float(said == sample.answer), None if said is None else str(said))


NLVR2 = Benchmark(
    name="nlvr2",
    title="NLVR2 (public test)",
    paper="arXiv:1811.00491",
    group="multi-image",
    sources=(
        Source(
            "original",
            (
                File("nlvr2/test1.json", hint="nlvr2/data/test1.json of the repository lil-lab/nlvr"),
                File("nlvr2/test1", hint="the pictures, of which the page of the authors says how to get them"),
            ),
            read_nlvr2,
        ),
    ),
    mark=mark_truth,
    settings=Settings(max_new_tokens=10, max_tiles=6, together=12),
    note="The wording of the question is this project's.",
)
NLVR = Benchmark(
    name="nlvr",
    title="NLVR (public test)",
    paper="https://aclanthology.org/P17-2034",
    group="multi-image",
    sources=(
        Source(
            "original",
            (
                File("nlvr/test/test.json", hint="folder nlvr of the repository lil-lab/nlvr"),
                File("nlvr/test/images", hint="folder nlvr of the repository lil-lab/nlvr"),
            ),
            read_nlvr,
        ),
        Source("shared", (File("nlvr/test.jsonl", hint=PART), File("nlvr/images.zip", hint=PART)), read_nlvr_shared),
    ),
    mark=mark_truth,
    settings=Settings(max_new_tokens=10, max_tiles=6),
    note="The wording of the question is this project's.",
)

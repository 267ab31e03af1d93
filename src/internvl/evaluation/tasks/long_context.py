"""Long contexts: MM-NIAH, needles of text and of pictures in documents of both, of a thousand to 64 thousand tokens."""

from __future__ import annotations

import io
import json
import string
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

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
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.code import A_DAY
from internvl.evaluation.tasks.instructions import LETTER, SHORT
from internvl.metrics.needles import by_length, needle_match

KINDS = tuple(f"{task}-{needle}" for task in ("retrieval", "counting", "reasoning") for needle in ("text", "image"))


def read(folder: Folder, *, split: str) -> Iterator[Sample]:
    """The six files of a split. `<image>` in context and question are the places of `images_list`."""
    root = f"MM-NIAH/mm_niah_{split}"
    for kind in KINDS:
        for row in folder.jsonl(f"{root}/annotations/{kind}.jsonl", unique="id"):
            meta = Row(row["meta"] if isinstance(row["meta"], dict) else {}, f"{row.where}, `meta`")
            names, question = row.items_of("images_list"), row.text("question")
            texts, pictures = (
                meta.items_of(key) if meta.filled(key) else [] for key in ("choices", "choices_image_path")
            )
            options = texts or ["<image>"] * len(pictures)
            names += [] if texts else pictures
            listed = "".join(f"\n{key}. {text}" for key, text in zip(string.ascii_uppercase, options, strict=False))
            yield Sample(
                id=f"{kind}-{row['id']}",
                prompt=f"{row.text('context')}\n{question}{listed}\n{LETTER if options else SHORT}",
                pictures=tuple(folder.picture(f"{root}/images/{name}", row=row) for name in names),
                answer=truth(row, kind),
                facts={
                    "kind": kind,
                    "id": row["id"],
                    "question": question,
                    "context_length": meta.number("context_length"),
                    "placed_depth": meta["placed_depth"],
                },
            )


def truth(row: Row, kind: str) -> str | int | list[int] | None:
    """A number for a choice, a list for counts (some files have it as text), a text otherwise; None: kept secret."""
    if row.get("answer") in (None, ""):
        return None
    found: Any = row["answer"]
    if kind.startswith("counting"):
        found = [int(item) for item in row.items_of("answer") if item.lstrip("-").isdecimal()]
        if len(found) != len(row.items_of("answer")):
            raise row.wrong("answer", "a list of counts")
    elif not isinstance(found, str | int) or isinstance(found, bool):
        raise row.wrong("answer", "a text, or the place of an option")
    return found


def mark(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat  # the rule is that of the family's own authors
    return Mark(None if sample.answer is None else needle_match(answer, sample.answer))


def depth(facts: Mapping[str, Any]) -> float:
    """Where the needle lies, from 0 to 1; of several the mean."""
    found = facts["placed_depth"]
    if isinstance(found, list):
        places = cast("list[float]", found)
        return sum(places) / len(places)
    return float(found)


def summarise(rows: Sequence[Marked]) -> Scores:
    """Of each kind the mean over context ranges, of each range that over depths; overall the mean over the six kinds.

    Where a kind is missing the overall score is withheld. Contexts below 1000 tokens are not counted.
    """
    secret = sum(row.mark.score is None for row in rows)
    if secret:
        return Scores(values={}, withheld={"overall": f"{secret} of {len(rows)} answers have no mark"})
    lengths: dict[str, Mapping[str, float]] = {}
    for kind in KINDS:
        cells = [
            (row.sample.facts["context_length"], depth(row.sample.facts), row.mark.score or 0.0)
            for row in rows
            if row.sample.facts["kind"] == kind
        ]
        if found := by_length(cells):
            lengths[kind] = {length: 100 * figure for length, figure in found.items()}
    kinds = {kind: sum(found.values()) / len(found) for kind, found in lengths.items()}
    missing = [kind for kind in KINDS if kind not in kinds]
    groups: dict[str, Mapping[str, float]] = dict(lengths)
    if missing:
        return Scores(
            values=kinds, groups=groups, withheld={"overall": f"no question of {', '.join(missing)} was asked"}
        )
    ranges = {length for found in lengths.values() for length in found}
    groups["context length"] = {
        length: sum(figures) / len(figures)
        for length in sorted(ranges, key=lambda name: int(name[:-1]))
        if (figures := [found[length] for found in lengths.values() if length in found])
    }
    return Scores(values={"overall": sum(kinds.values()) / len(kinds), **kinds}, groups=groups)


def handed_in(rows: Sequence[Marked], *, split: str) -> bytes:
    """A zip with one JSON-lines file for each kind, in the form that the authors' script and leaderboard take."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as files:
        for kind in KINDS:
            lines = [
                json.dumps(
                    {
                        "question_id": row.sample.facts["id"],
                        "question": row.sample.facts["question"],
                        "answer": row.sample.answer,
                        "response": row.answer,
                        "context_length": row.sample.facts["context_length"],
                        "placed_depth": row.sample.facts["placed_depth"],
                    },
                    ensure_ascii=False,
                )
                for row in rows
                if row.sample.facts["kind"] == kind
            ]
            files.writestr(zipfile.ZipInfo(f"internvl_{kind}-{split}.jsonl", A_DAY), "".join(f"{x}\n" for x in lines))
    return content.getvalue()


def mm_niah(split: str) -> Benchmark:
    root, hint = f"MM-NIAH/mm_niah_{split}", "the data set OpenGVLab/MM-NIAH of the Hugging Face hub, as MM-NIAH/"
    return Benchmark(
        name=f"mm-niah-{split}",
        title=f"MM-NIAH ({split})",
        paper="arXiv:2406.07230",
        group="long-context",
        sources=(
            Source(
                "original",
                (
                    *(File(f"{root}/annotations/{kind}.jsonl", hint=hint) for kind in KINDS),
                    File(f"{root}/images", hint=hint),
                ),
                partial(read, split=split),
            ),
        ),
        mark=mark,
        summarise=summarise,
        settings=Settings(max_new_tokens=32, max_tiles=1),
        submission=(f"mm-niah-{split}.zip", partial(handed_in, split=split)),
        note="The authors give 16 new tokens to all but counting; here all have 32. They count an empty cell of length "
        "and depth as 0, here it is left out.",
    )


TASKS = (mm_niah("val"), mm_niah("test"))

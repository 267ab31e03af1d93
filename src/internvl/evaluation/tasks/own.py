"""The project's own tasks: receipts, Sudoku, photographs, rubbish, flags and icons of the folder `shared/data`.

Questions are those that the embedded model learnt, word for word: one benchmark measures it and any other model. What
it never saw is told by a hash of names (`share`), no list is needed: the lines of every seventh shop, and one
drawing of every eighth emoji and of every sixth flag whose other drawing it knows.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Mark,
    Marked,
    Picture,
    Published,
    Sample,
    Scores,
    Settings,
    Source,
    Summarise,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.instructions import SHORT
from internvl.metrics.edits import levenshtein
from internvl.metrics.vqa import contains_answer, stvqa_match


def share(key: str, one_in: int) -> bool:
    """Whether a hash of the key falls into the first of so many equal parts."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % one_in == 0


def files(folder: str, *names: str) -> tuple[File, ...]:
    return tuple(File(f"{folder}/{name}", hint="a set of the folder shared/data of this project") for name in names)


def picture(folder: Folder, kind: str, row: Row, name: str | None = None) -> Picture:
    """The picture of a row: in the zip that it names."""
    return folder.member(f"{kind}/{row.text('zip')}", name or row.text("image"), row=row)


def mean_of_parts(*parts: str, by: Sequence[str] = ()) -> Summarise:
    """`mean_score`, and after it the mean of each of these parts of the marks, in percent."""

    def summarise(rows: Sequence[Marked]) -> Scores:
        scores = mean_score(by=by)(rows)
        if scores.withheld:
            return scores
        means = {part: 100 * sum(row.mark.parts[part] for row in rows) / len(rows) for part in parts}
        return replace(scores, values={**scores.values, **means})

    return summarise


def mark_name(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right if the answer is the name, but for case, articles and punctuation. Part: whether it mentions the name."""
    del compat  # the rule is this project's own
    return Mark(stvqa_match(answer, sample.answer), answer, {"mentioned": contains_answer(answer, [sample.answer])})


NAMED = mean_of_parts("mentioned", by=("held_out", "style", "group"))
BRIEF = Settings(max_new_tokens=40, max_tiles=1)
"""One tile holds these small pictures, and is what the embedded model learnt with."""

# ---- receipts --------------------------------------------------------------------------------------------------------

KEYS = {
    "company": "Which shop is this receipt from?",
    "date": "What is the date of this receipt?",
    "address": "What is the address of the shop?",
    "total": "What is the total of this receipt?",
}


def read_receipts(folder: Folder) -> Iterator[Sample]:
    """Four questions about each receipt; one receipt has no address, and is not asked about it."""
    for row in folder.jsonl("sroie/train.jsonl", unique="id"):
        known = Row(row["key"], row.where)
        for key, question in KEYS.items():
            if known.filled(key):
                facts = {"key": key, "shop": row.text("group"), "held_out": share(row.text("group"), 7)}
                yield Sample(
                    id=f"{row.text('id')}-{key}",
                    prompt=f"{question}\n{SHORT}",
                    pictures=(picture(folder, "sroie", row),),
                    answer=known.text(key),
                    facts=facts,
                )


def mark_key(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right if the answer is what the receipt says, but for case and white space."""
    del compat
    said = " ".join(answer.split())
    return Mark(float(said.casefold() == " ".join(sample.answer.split()).casefold()), said)


def summarise_receipts(rows: Sequence[Marked]) -> Scores:
    """Over all four keys, and each."""
    scores = mean_score(by=("key", "held_out"))(rows)
    return replace(scores, values={**scores.values, **scores.groups.get("key", {})})


RECEIPTS = Benchmark(
    name="receipts",
    title="SROIE receipts: shop, date, address and total",
    paper="https://rrc.cvc.uab.es/?ch=13",
    group="own",
    sources=(Source("shared", files("sroie", "train.jsonl", "images.zip"), read_receipts),),
    mark=mark_key,
    summarise=summarise_receipts,
    settings=Settings(max_tiles=12),
    published=(Published("a student entry (zzzDavid)", 75.58, "accuracy", "README of zzzDavid/ICDAR-2019-SROIE"),),
    note="523 receipts of the official training split; the published figure is an F1 on the official test split, whose "
    "pictures are not in the folder. Whole shops are kept apart from training by the fact `held_out`.",
)

MARGIN = 3
"""Pixels around a line; the embedded model saw lines with as many."""


def read_lines(folder: Folder, *, longest: int = 20) -> Iterator[Sample]:
    """Single lines, printed from left to right, of 2 to so many characters, from the shops that are held out."""
    for row in folder.jsonl("sroie/train.jsonl", unique="id"):
        if not share(row.text("group"), 7):
            continue
        whole = picture(folder, "sroie", row)
        for number, value in enumerate(row["lines"]):
            line = Row(value, f"{row.where}, line {number}")
            x1, y1, x2, y2 = line["box"]
            text = line.text("text").strip()
            if 2 <= len(text) <= longest and text.isascii() and 10 <= y2 - y1 < x2 - x1:
                box = (max(0, x1 - MARGIN), max(0, y1 - MARGIN), x2 + MARGIN, y2 + MARGIN)
                name = f"{whole.name}, line {number}"
                yield Sample(
                    id=f"{row.text('id')}-{number}",
                    prompt="Read the text.",
                    pictures=(Picture(name, partial(cut, whole, box)),),
                    answer=text,
                    facts={"shop": row.text("group"), "length": len(text)},
                )


def cut(whole: Picture, box: tuple[int, int, int, int]) -> bytes:
    """A part of a picture, as PNG."""
    from internvl.data.media import open_image  # tasks are listed without Pillow

    out = io.BytesIO()
    open_image(whole.read()).crop(box).save(out, "PNG")
    return out.getvalue()


def mark_line(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right if it is the same text; parts: edits, and characters of the truth."""
    del compat
    said, truth = answer.strip(), str(sample.answer)
    return Mark(float(said == truth), said, {"edits": levenshtein(said, truth), "characters": len(truth)})


def summarise_lines(rows: Sequence[Marked]) -> Scores:
    """Whole lines, and the character error rate: edits in percent of the characters that are printed."""
    scores = mean_score()(rows)
    if scores.withheld:
        return scores
    edits, characters = (sum(row.mark.parts[part] for row in rows) for part in ("edits", "characters"))
    return replace(scores, values={**scores.values, "character error rate": 100 * edits / characters})


LINES = Benchmark(
    name="receipts-lines",
    title="SROIE receipts: single lines read",
    paper="https://rrc.cvc.uab.es/?ch=13",
    group="own",
    sources=(Source("shared", files("sroie", "train.jsonl", "images.zip"), read_lines),),
    mark=mark_line,
    summarise=summarise_lines,
    settings=Settings(max_new_tokens=40, max_tiles=4),
    note="Lines of up to 20 characters from every seventh shop of the official training split, cut out by their boxes.",
)

# ---- Sudoku ----------------------------------------------------------------------------------------------------------

CELLS = re.compile(r"[0-9._]")


def read_sudoku(folder: Folder) -> Iterator[Sample]:
    for row in folder.jsonl("sudoku/test.jsonl", unique="id"):
        grid = row.text("grid")
        if not re.fullmatch(r"([0-9]{9}/){8}[0-9]{9}", grid):
            raise row.wrong("grid", "nine rows of nine digits, joined by /")
        yield Sample(
            id=row.text("id"),
            prompt="Read this Sudoku. Write nine lines of nine digits, with 0 for an empty cell.",
            pictures=(picture(folder, "sudoku", row),),
            answer=grid,
            facts={"puzzle": row.text("puzzle"), "puzzle_in_train": row["puzzle_in_train"]},
        )


def grid_in(answer: str) -> str | None:
    """Nine rows of nine digits as `123…/456…`: the lines with nine cells, or else all cells if they are 81.

    A dot or an underscore is an empty cell.

    >>> grid_in("Here you are:\\n" + "5 3 . | . 7 . | . . .\\n" * 9)[:20]
    '530070000/530070000/'
    """
    found = [re.sub("[._]", "0", "".join(CELLS.findall(line))) for line in re.split(r"[\n/]", answer)]
    rows = [row for row in found if len(row) == 9]
    if len(rows) != 9:
        everything = "".join(found)
        rows = [everything[start : start + 9] for start in range(0, 81, 9)] if len(everything) == 81 else []
    return "/".join(rows) or None


def mark_sudoku(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right if the whole grid is. Parts: the share of the 81 cells, and of the printed digits, that is right."""
    del compat
    grid, truth = grid_in(answer), str(sample.answer)
    pairs = [pair for pair in zip(grid or "x" * len(truth), truth, strict=True) if pair[1] != "/"]
    printed = [pair for pair in pairs if pair[1] != "0"]
    shares = {
        part: sum(a == b for a, b in of) / max(1, len(of)) for part, of in (("cells", pairs), ("digits", printed))
    }
    return Mark(float(grid == truth), grid, shares)


SUDOKU = Benchmark(
    name="sudoku",
    title="Sudoku photographs: the grid read",
    paper="https://github.com/wichtounet/sudoku_dataset",
    group="own",
    sources=(Source("shared", files("sudoku", "test.jsonl", "images.zip"), read_sudoku),),
    mark=mark_sudoku,
    summarise=mean_of_parts("cells", "digits", by=("puzzle_in_train",)),
    settings=Settings(max_new_tokens=300),
    published=(Published("Wicht and Hennebert 2014", 82.5, "accuracy", "README of wichtounet/sudoku_dataset, V2"),),
    note="22 of the official test photographs. Most show a puzzle that others in the training split show too: see the "
    "groups of `puzzle_in_train`. Published is the share of puzzles with an error, 17.5 %.",
)

# ---- photographs -----------------------------------------------------------------------------------------------------


def read_photographs(folder: Folder) -> Iterator[Sample]:
    for row in folder.jsonl("caltech101/test.jsonl", unique="id"):
        yield Sample(
            id=row.text("id"),
            prompt="What is in the picture?",
            pictures=(picture(folder, "caltech101", row),),
            answer=row.text("name"),
            facts={"label": row.text("label")},
        )


CALTECH = Benchmark(
    name="caltech101",
    title="Caltech-101, named without options",
    paper="https://doi.org/10.22002/D1.20086",
    group="own",
    sources=(Source("shared", files("caltech101", "test.jsonl", "images.zip"), read_photographs),),
    mark=mark_name,
    summarise=mean_of_parts("mentioned", by=("label",)),
    settings=BRIEF,
    note="97 of the 101 kinds, with a published 2:1 split that is not the protocol of the authors; fourteen "
    "pictures are also in its training part. Of a model that answers in sentences look at `mentioned`.",
)

RUBBISH = ("cardboard", "glass", "metal", "paper", "plastic", "trash")


def read_rubbish(folder: Folder) -> Iterator[Sample]:
    for row in folder.jsonl("trashnet/test.jsonl", unique="id"):
        if row.text("label") not in RUBBISH:
            raise row.wrong("label", f"one of {', '.join(RUBBISH)}")
        yield Sample(
            id=row.text("id"),
            prompt=f"Which is it: {', '.join(RUBBISH[:-1])} or {RUBBISH[-1]}?\n{SHORT}",
            pictures=(picture(folder, "trashnet", row),),
            answer=row.text("label"),
            facts={"label": row.text("label")},
        )


def mark_rubbish(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right if the answer has the true word and none of the other five."""
    del compat
    words = re.findall(r"[a-z]+", answer.lower())
    named = [label for label in RUBBISH if label in words]
    return Mark(float(named == [sample.answer]), ", ".join(named) or None)


TRASHNET = Benchmark(
    name="trashnet",
    title="TrashNet: six kinds of rubbish",
    paper="https://github.com/garythung/trashnet",
    group="own",
    sources=(Source("shared", files("trashnet", "test.jsonl", "images.zip"), read_rubbish),),
    mark=mark_rubbish,
    summarise=mean_score(by=("label",)),
    settings=BRIEF,
    published=(Published("a network trained from scratch", 75.0, "accuracy", "README of garythung/trashnet, about"),),
    note="338 of the authors' test photographs; the published figure is of another split, 70 / 13 / 17.",
)

# ---- flags and icons -------------------------------------------------------------------------------------------------

FLAG, ICON = "Which country's flag is this?", "What emoji is this?"


def country_code(code: str) -> str:
    """The ISO letters that an emoji of two regional indicators spells: `1f1ef-1f1f5` is JP; else nothing."""
    letters = re.findall(r"1f1([ef][0-9a-f])(?:-|$)", code) if len(code) == 11 else []
    return "".join(chr(int(f"1f1{letter}", 16) - 0x1F1E6 + ord("A")) for letter in letters) if len(letters) == 2 else ""


def read_flags(folder: Folder, *, everything: bool) -> Iterator[Sample]:
    """Flags as emoji show them; with everything also the flat ones that the embedded model learnt."""
    flat = {row.text("code"): row for row in folder.jsonl("flags/train.jsonl", unique="code")}
    rows = [(row, "flags", code, "flat") for code, row in flat.items()] if everything else []
    for row in folder.jsonl("emoji/train.jsonl", unique="id"):
        code = country_code(row.text("code"))
        if code in flat and row.text("name").startswith("flag: "):
            rows.append((row, "emoji", code, row.text("style")))
    for row, kind, code, style in rows:
        held_out = style != "flat" and share(f"flag {code}", 6)
        if held_out or everything:
            yield Sample(
                id=f"{style}-{code}",
                prompt=FLAG,
                pictures=(picture(folder, kind, row),),
                answer=flat[code].text("country"),
                facts={"code": code, "style": style, "held_out": held_out, "region": flat[code]["region"]},
            )


def read_icons(folder: Folder, *, everything: bool) -> Iterator[Sample]:
    """Emoji but for flags. Held out are drawings of style `two`, of codes that style `noto` has too."""
    rows = list(folder.jsonl("emoji/train.jsonl", unique="id"))
    other = {row.text("code") for row in rows if row.text("style") == "noto"}
    for row in rows:
        code, style = row.text("code"), row.text("style")
        held_out = style == "two" and code in other and share(f"icon {code}", 8)
        if (held_out or everything) and not row.text("name").startswith("flag: "):
            yield Sample(
                id=row.text("id"),
                prompt=ICON,
                pictures=(picture(folder, "emoji", row),),
                answer=row.text("name"),
                facts={"code": code, "style": style, "held_out": held_out, "group": row.text("group")},
            )


EMOJI = files("emoji", "train.jsonl", "images_noto.zip", "images_two.zip")
FLAGS = (*files("flags", "train.jsonl", "images.zip"), *EMOJI)
SEEN = "Most of these drawings are learnt by the embedded model; the groups of `held_out` tell them apart."
UNSEEN = "Drawings that the embedded model never saw, of things whose other drawing it did. No published figure."


def drawings(name: str, title: str, paper: str, *, everything: bool) -> Benchmark:
    is_flags = name.startswith("flags")
    reader = partial(read_flags if is_flags else read_icons, everything=everything)
    return Benchmark(
        name=name,
        title=title,
        paper=paper,
        group="own",
        sources=(Source("shared", FLAGS if is_flags else EMOJI, reader),),
        mark=mark_name,
        summarise=NAMED,
        settings=BRIEF,
        note=SEEN if everything else UNSEEN,
    )


NOTO = "https://github.com/googlefonts/noto-emoji"
TASKS: tuple[Benchmark, ...] = (
    RECEIPTS,
    LINES,
    SUDOKU,
    CALTECH,
    TRASHNET,
    drawings("flags", "Flags in another drawing", NOTO, everything=False),
    drawings("flags-all", "Flags in every drawing", NOTO, everything=True),
    drawings("emoji", "Emoji in another drawing", NOTO, everything=False),
    drawings("emoji-all", "Emoji in every drawing", NOTO, everything=True),
)

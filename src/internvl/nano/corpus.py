"""The real pictures of `shared/data`: photographs, rubbish, flags, icons, receipts, Sudoku and statements.

    corpus = Corpus.read(Path("../shared/data"))
    corpus.training["flag"], corpus.held_out["flag"]        # items; no held-out picture is ever trained on

Only rows are read; a picture is decoded when it is asked for. Held out are the official test splits, and, by a hash of
their name, the receipts of some shops and one drawing of some emoji and flags whose other drawing is learnt.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from internvl.errors import DataError
from internvl.nano.leaks import without_twins

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Item:
    """One picture as it is stored, and what is known of it."""

    skill: str
    id: str
    name: str
    """What it is called: accordion, glass, France, grinning face, the shop; nothing for Sudoku and statements."""
    archive: Path
    member: str
    facts: Mapping[str, Any]
    """By skill, and the same for each item of it; what is not known is an empty text.

    - flag: code, capital, region, country_zh, style (`flat`, `noto` or `two`)
    - icon: code, group, style
    - receipt: shop (by which they are held out), lines (each with box and text), key
    - sudoku: grid
    - nlvr: sentence, label, members (the six orders of the boxes, the picture is the first), split
    """
    weight: float = 1.0
    """How often it is to be drawn, beside the others."""

    @property
    def picture(self) -> Image.Image:
        """RGB. It is shared with whoever asks next: change a copy."""
        return decoded(self.archive, self.member)


@dataclass(frozen=True)
class Corpus:
    training: Mapping[str, tuple[Item, ...]]
    held_out: Mapping[str, tuple[Item, ...]]
    """The photographs among them are compared with all learnt ones when first asked for, which takes a while."""
    words: tuple[str, ...]
    """Words that occur in names, tags and receipts: what drawn lines are made of."""

    @classmethod
    def read(cls, data: Path) -> Corpus:
        """Read what is known of the pictures of `shared/data` that nano uses, 14,000 or so.

        Raises DataError where one of the sets is missing.
        """
        flags, icons, receipts = (split(items) for items in (read_flags(data), read_icons(data), read_receipts(data)))
        photos = tuple(read_named(data, "photo", "caltech101/train.jsonl"))
        training = {"photo": photos, "trash": tuple(read_named(data, "trash", "trashnet/train.jsonl"))}
        held_out = {"photo": tuple(read_named(data, "photo", "caltech101/test.jsonl")),
                    "trash": tuple(read_named(data, "trash", "trashnet/test.jsonl"))}  # fmt: skip
        for name, (learnt, kept) in {"flag": flags, "icon": icons, "receipt": receipts}.items():
            training[name], held_out[name] = learnt, kept
        for name, reader in {"sudoku": read_sudoku, "nlvr": read_statements}.items():
            training[name], held_out[name] = tuple(reader(data, "train")), tuple(reader(data, "test"))
        return cls(training, HeldOut(held_out, photos), collect_words(data))


class HeldOut(Mapping[str, tuple[Item, ...]]):
    """Items by skill, without the photographs that are among the learnt ones: those are looked for when asked."""

    def __init__(self, items: Mapping[str, tuple[Item, ...]], photos: tuple[Item, ...]) -> None:
        self._items = items
        self._learnt = photos

    @functools.cached_property
    def photos(self) -> tuple[Item, ...]:
        return without_twins(self._items["photo"], self._learnt)

    def __getitem__(self, skill: str) -> tuple[Item, ...]:
        return self.photos if skill == "photo" else self._items[skill]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


# --- what is held out ---------------------------------------------------------------------------------------------


def share(key: str, one_in: int) -> bool:
    """Whether a hash of the key falls into one of `one_in` equal parts: a split that needs no list."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % one_in == 0


def is_held_out(item: Item) -> bool:
    """Flags as emoji draw them, of every sixth country whose flat one is learnt; emoji of style two, every eighth
    code; receipts of every seventh shop."""
    if item.skill == "flag":
        known = bool(item.facts["region"])
        return item.facts["style"] != "flat" and known and share(f"flag {item.facts['code']}", 6)
    if item.skill == "icon":
        return item.facts["style"] == "two" and share(f"icon {item.facts['code']}", 8)
    return item.skill == "receipt" and share(item.facts["shop"], 7)


def split(items: Iterable[Item]) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Learnt and held out; an icon is held out only if the other drawing of the same thing is learnt."""
    everything = tuple(items)
    other = {item.facts["code"] for item in everything if item.facts.get("style") == "noto"}
    kept = {i.id for i in everything if is_held_out(i) and (i.skill != "icon" or i.facts["code"] in other)}
    return tuple(i for i in everything if i.id not in kept), tuple(i for i in everything if i.id in kept)


# --- the sets -----------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[Row]:
    """What a file of rows holds. Raises DataError where it is missing."""
    if not path.is_file():
        raise DataError(f"there is no {path}; real pictures are read from the folder shared/data of this project")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_named(data: Path, skill: str, file: str) -> Iterator[Item]:
    """Pictures that have a name and nothing else: photographs and rubbish."""
    for row in rows(data / file):
        yield _item(skill, data / file, row, row.get("name", row["label"]), {"label": row["label"]})


def read_flags(data: Path) -> Iterator[Item]:
    """Flat flags, and those that are among the emoji, of which some countries have no flat one."""
    file = data / "flags" / "train.jsonl"
    flat = {row["code"]: row for row in rows(file)}
    for code, row in flat.items():
        yield _item("flag", file, row | {"id": f"flat-{code}"}, row["country"], flag_facts(code, flat, "flat"))
    file = data / "emoji" / "train.jsonl"
    for row in rows(file):
        if row["name"].startswith("flag: "):
            code = country_code(row["code"])
            name = flat[code]["country"] if code in flat else plain_country(row["name"].removeprefix("flag: "))
            yield _item("flag", file, row, name, flag_facts(code, flat, row["style"]))


def flag_facts(code: str, flat: Mapping[str, Row], style: str) -> dict[str, str]:
    """What is asked about a flag; of a country without a flat one, only its code is known."""
    row: Mapping[str, Any] = flat.get(code, {})
    capital = (row.get("capital") or [""])[0]
    known = {"capital": capital, "region": row.get("region", ""), "country_zh": row.get("country_zh", "")}
    return {"code": code, "style": style, **known}


def read_icons(data: Path) -> Iterator[Item]:
    """Emoji but for flags. People and signs are many, and much the same: they weigh less."""
    file = data / "emoji" / "train.jsonl"
    for row in rows(file):
        if not row["name"].startswith("flag: "):
            weight = {"People & Body": 0.3, "Symbols": 0.3}.get(row["group"], 1.0)
            yield _item("icon", file, row, row["name"], {k: row[k] for k in ("code", "group", "style")}, weight)


def read_receipts(data: Path) -> Iterator[Item]:
    file = data / "sroie" / "train.jsonl"
    for row in rows(file):
        facts = {"shop": row["group"], "lines": row["lines"], "key": row["key"]}
        yield _item("receipt", file, row, row["key"]["company"], facts)


def read_sudoku(data: Path, part: str) -> Iterator[Item]:
    file = data / "sudoku" / f"{part}.jsonl"
    for row in rows(file):
        yield _item("sudoku", file, row, "", {"grid": row["grid"]})


def read_statements(data: Path, part: str) -> Iterator[Item]:
    """NLVR: the former hidden test is learnt, the development and the public test splits are held out.

    Boxes that are held out too, in whatever order, are not learnt from: a few statements share a scene.
    """
    file = data / "nlvr" / f"{part}.jsonl"
    kept = set() if part == "test" else {_boxes(row) for row in rows(file.with_name("test.jsonl"))}
    for row in rows(file):
        if _boxes(row) in kept:
            continue
        members = tuple(row["images"])
        facts = {"sentence": row["sentence"], "label": row["label"], "members": members, "split": row["split"]}
        yield _item("nlvr", file, row | {"image": members[0]}, "", facts)


def _boxes(row: Row) -> tuple[str, ...]:
    """What is in the three boxes, whatever their order and that of the things in them."""
    return tuple(sorted(json.dumps(sorted(box)) for box in row["scene"]))


def _item(
    skill: str, file: Path, row: Row, name: str, facts: Mapping[str, Any], weight: float = 1.0
) -> Item:  # fmt: skip
    return Item(skill, row["id"], name, file.parent / row["zip"], row["image"], facts, weight)


def country_code(code: str) -> str:
    """ISO 3166 letters of a pair of regional indicators: `1f1ef-1f1f5` is JP; anything else is itself."""
    points = code.split("-")
    if len(points) == 2 and all(re.fullmatch(r"1f1[ef][0-9a-f]", p) for p in points):
        return "".join(chr(int(p, 16) - 0x1F1E6 + ord("A")) for p in points)
    return code


def plain_country(name: str) -> str:
    """`St. Lucia` -> `Saint Lucia`, `Myanmar (Burma)` -> `Myanmar`, `Congo - Kinshasa` -> `DR Congo`."""
    special = {"Congo - Kinshasa": "DR Congo", "Congo - Brazzaville": "Republic of the Congo",
               "Côte d’Ivoire": "Ivory Coast", "Palestinian Territories": "Palestine",
               "Hong Kong SAR China": "Hong Kong", "Macao SAR China": "Macau"}  # fmt: skip
    name = special.get(name, name)
    return re.sub(r" \(.*\)$", "", name).replace(" & ", " and ").replace("St. ", "Saint ")


def collect_words(data: Path) -> tuple[str, ...]:
    """Those of held-out shops left out."""
    found: set[str] = set()
    for row in rows(data / "emoji" / "train.jsonl"):
        found.update(re.findall(r"[A-Za-z]{2,12}", " ".join([row["name"], *row["tags"]])))
    for row in rows(data / "flags" / "train.jsonl"):
        found.update(re.findall(r"[A-Za-z]{2,12}", " ".join([row["country"], *row["capital"]])))
    for row in rows(data / "sroie" / "train.jsonl"):
        if not share(row["group"], 7):
            found.update(w.lower() for line in row["lines"] for w in re.findall(r"[A-Z]{3,12}", line["text"]))
    return tuple(sorted(found))


# --- pictures -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=32)
def decoded(archive: Path, member: str) -> Image.Image:
    """A picture out of an archive, RGB; the same object for the last few that were asked for."""
    return Image.open(io.BytesIO(opened(archive, os.getpid()).read(member))).convert("RGB")


@functools.lru_cache(maxsize=16)
def opened(archive: Path, process: int) -> zipfile.ZipFile:
    """Kept open; each process opens its own, for a shared one would move under the other's hands."""
    del process
    return zipfile.ZipFile(archive)

"""The real pictures of `shared/data` as samples: photographs, icons, flags and lines of receipts.

    corpus = Corpus.read(Path("../shared/data"))
    corpus.training, corpus.held_out        # items by task; no held-out picture is ever trained on

Held out are, by a hash of their name, one drawing of some emoji and flags whose other drawing is learnt, and the
receipts of some shops; and the official test split of Caltech-101.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from internvl.nano import augment
from internvl.nano.world import READ, Sample, Turn

Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One picture as it is stored, and what is known of it."""

    task: str
    id: str
    picture: Image.Image
    name: str
    facts: tuple[tuple[str, str], ...] = ()
    """Flags: capital and region. Icons: group and style."""
    weight: float = 1.0

    def fact(self, key: str) -> str | None:
        return dict(self.facts).get(key)


@dataclass(frozen=True)
class Corpus:
    training: dict[str, list[Item]]
    held_out: dict[str, list[Item]]
    words: tuple[str, ...]
    """Words that occur in names, tags and receipts: what drawn lines are made of."""

    @classmethod
    def read(cls, data: Path) -> Corpus:
        """Read the pictures of `shared/data` that nano uses, 7,000 or so, all of them into memory."""
        training: dict[str, list[Item]] = {"photo": [], "icon": [], "flag": [], "receipt": []}
        held_out: dict[str, list[Item]] = {"photo": [], "icon": [], "flag": [], "receipt": []}
        for item in photos(data, "train"):
            training["photo"].append(item)
        held_out["photo"] = without_twins(photos(data, "test"), training["photo"])
        flat = {row["code"]: row for row in rows(data / "flags" / "train.jsonl")}
        for item in flat_flags(data, flat):
            training["flag"].append(item)
        for item in icons(data, flat):
            (held_out if is_held_out(item, flat) else training)[item.task].append(item)
        # An icon is held out only if the other drawing of the same thing is learnt.
        known = {item.id.split("-", 1)[1] for item in training["icon"]}
        unknown = [item for item in held_out["icon"] if item.id.split("-", 1)[1] not in known]
        training["icon"] += unknown
        held_out["icon"] = [item for item in held_out["icon"] if item not in unknown]
        for item in receipt_lines(data):
            (held_out if share(item.fact("shop") or "", 7) else training)["receipt"].append(item)
        return cls(training, held_out, collect_words(data))


def without_twins(items: Iterable[Item], learnt: Iterable[Item]) -> list[Item]:
    """Leave out photographs that are, but for their encoding, among the learnt ones: the official split has four."""
    known: dict[int, list[np.ndarray]] = defaultdict(list)
    for item in learnt:
        known[perceptual_hash(item.picture)].append(thumbnail(item.picture))

    def is_twin(item: Item) -> bool:
        own = thumbnail(item.picture)
        return any(np.abs(own - other).mean() < 4 for other in known[perceptual_hash(item.picture)])

    return [item for item in items if not is_twin(item)]


def share(key: str, one_in: int) -> bool:
    """Whether a hash of the key falls into one of `one_in` equal parts: a split that needs no list."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % one_in == 0


def is_held_out(item: Item, flat: dict[str, Row]) -> bool:
    """One drawing of every eighth emoji (style two) and of every sixth flag that is also there as a flat one."""
    if item.task == "flag":
        return item.fact("code") in flat and share(f"flag {item.fact('code')}", 6)
    return item.fact("style") == "two" and share(f"icon {item.id.split('-', 1)[1]}", 8)


def rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def pictures(folder: Path, table: list[Row]) -> Iterator[tuple[Row, Image.Image]]:
    """Every row with its picture, decoded."""
    for name in sorted({row["zip"] for row in table}):
        with zipfile.ZipFile(folder / name) as archive:
            for row in table:
                if row["zip"] == name:
                    yield row, Image.open(io.BytesIO(archive.read(row["image"]))).convert("RGB")


# --- the sets -----------------------------------------------------------------------------------------------------


def photos(data: Path, split: str) -> Iterator[Item]:
    folder = data / "caltech101"
    for row, picture in pictures(folder, rows(folder / f"{split}.jsonl")):
        yield Item("photo", f"{split}-{row['id']}", picture, row["name"])


def flat_flags(data: Path, flat: dict[str, Row]) -> Iterator[Item]:
    for row, picture in pictures(data / "flags", list(flat.values())):
        yield Item("flag", f"flat-{row['code']}", picture, row["country"], _flag_facts(row["code"], flat))


def icons(data: Path, flat: dict[str, Row]) -> Iterator[Item]:
    """Emoji; those that are flags of a country or region are asked about as flags."""
    for row, picture in pictures(data / "emoji", rows(data / "emoji" / "train.jsonl")):
        code = country_code(row["code"])
        if row["name"].startswith("flag: "):
            name = flat[code]["country"] if code in flat else plain_country(row["name"].removeprefix("flag: "))
            yield Item("flag", row["id"], picture, name, _flag_facts(code, flat), weight=1.0)
        else:
            facts = (("group", row["group"]), ("style", row["style"]))
            weight = {"People & Body": 0.3, "Symbols": 0.3}.get(row["group"], 1.0)
            yield Item("icon", row["id"], picture, row["name"], facts, weight)


def _flag_facts(code: str, flat: dict[str, Row]) -> tuple[tuple[str, str], ...]:
    facts = [("code", code)]
    if code in flat:
        row = flat[code]
        facts.append(("region", row["region"]))
        if row["capital"]:
            facts.append(("capital", row["capital"][0]))
    return tuple(facts)


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


def receipt_lines(data: Path) -> Iterator[Item]:
    """Crops of single lines, printed from left to right, of 2 to 20 characters."""
    folder = data / "sroie"
    for row, picture in pictures(folder, rows(folder / "train.jsonl")):
        for number, line in enumerate(row["lines"]):
            x1, y1, x2, y2 = line["box"]
            text = line["text"].strip()
            if 2 <= len(text) <= 20 and text.isascii() and 10 <= y2 - y1 < x2 - x1:
                pad = 3
                crop = picture.crop((max(0, x1 - pad), max(0, y1 - pad), x2 + pad, y2 + pad))
                yield Item("receipt", f"{row['id']}-{number}", crop, text, (("shop", row["group"]),))


def collect_words(data: Path) -> tuple[str, ...]:
    found: set[str] = set()
    for row in rows(data / "emoji" / "train.jsonl"):
        found.update(re.findall(r"[A-Za-z]{2,12}", " ".join([row["name"], *row["tags"]])))
    for row in rows(data / "flags" / "train.jsonl"):
        found.update(re.findall(r"[A-Za-z]{2,12}", " ".join([row["country"], *row["capital"]])))
    for row in rows(data / "sroie" / "train.jsonl"):
        if not share(row["group"], 7):
            found.update(w.lower() for line in row["lines"] for w in re.findall(r"[A-Z]{3,12}", line["text"]))
    return tuple(sorted(found))


# --- questions ----------------------------------------------------------------------------------------------------

WHAT = (
    "What is this?", "What is in the picture?", "What does the picture show?", "What do you see?", "Name this.",
    "What is in this image?", "What is shown here?", "Describe the image.", "Describe this picture.", "what is this",
    "What can you see in the image?", "Please describe the image shortly.", "Name what you see.",
)  # fmt: skip
WHAT_ICON = (
    "What emoji is this?", "Which emoji is this?", "Name this emoji.", "What does this icon show?",
    "What is this emoji called?", "Name the icon.", "What icon is this?", "What does this emoji show?",
)  # fmt: skip
WHAT_PHOTO = (
    "What object is this?", "Name the object.", "What is in the photo?", "What kind of thing is this?",
    "What is the main object in the photo?", "Which object is in the picture?",
)  # fmt: skip
WHAT_FLAG = (
    "Which country's flag is this?", "What flag is this?", "Which flag is this?", "Whose flag is this?",
    "Which country does this flag belong to?", "What country is this flag from?", "Which country is this?",
    "Name the country of this flag.", "Which country or territory has this flag?", "What country's flag is this?",
)  # fmt: skip
CAPITAL = ("What is the capital of this country?", "What is its capital?", "Which city is the capital?")
REGION = ("Which continent is it in?", "On which continent is this country?", "What continent is this country in?")
BRIEF = ("", "", "", "", " Answer briefly.", " Answer with a word or phrase.", " Answer in one word.", " Be brief.")


def ask(rng: random.Random, item: Item, names: list[str]) -> Sample:
    """A changed copy of the picture with one to three turns about it; `names` are the wrong choices."""
    if item.task == "receipt":
        return Sample("receipt", item.picture, ((rng.choice(READ), item.name),))
    turns = [(naming(rng, item), item.name)]
    if item.task == "flag":
        turns += flag_turns(rng, item)
        picture = augment.flag(rng, item.picture) if item.id.startswith("flat-") else icon_like(rng, item)
    elif item.task == "icon":
        turns += [choice_turn(rng, item.name, names)] if rng.random() < 0.4 else []
        picture = icon_like(rng, item)
    else:
        turns += [choice_turn(rng, item.name, names)] if rng.random() < 0.6 else []
        picture = augment.photo(rng, item.picture)
    if rng.random() < 0.3:
        rng.shuffle(turns)
    return Sample(item.task, picture, tuple(turns), name=item.name)


def plain(item: Item) -> Sample:
    """The unchanged picture with the first question of its task: what is measured."""
    question = {"photo": "What is in the picture?", "icon": "What emoji is this?", "receipt": "Read the text.",
                "flag": "Which country's flag is this?"}[item.task]  # fmt: skip
    return Sample(item.task, item.picture, ((question, item.name),), name=item.name)


def naming(rng: random.Random, item: Item) -> str:
    own = {"icon": WHAT_ICON, "photo": WHAT_PHOTO, "flag": WHAT_FLAG}[item.task]
    if item.task == "flag":
        return rng.choice(own) + rng.choice(BRIEF)
    return rng.choice(own if rng.random() < 0.6 else WHAT) + rng.choice(BRIEF)


def flag_turns(rng: random.Random, item: Item) -> list[Turn]:
    turns: list[Turn] = []
    capital, region = item.fact("capital"), item.fact("region")
    if capital and rng.random() < 0.5:
        turns.append((rng.choice(CAPITAL), capital))
    if region and rng.random() < 0.4:
        turns.append((rng.choice(REGION), region))
    if rng.random() < 0.15:
        turns.append((rng.choice(WHAT), f"the flag of {item.name}"))
    return turns


def choice_turn(rng: random.Random, name: str, names: list[str]) -> Turn:
    """Yes or no, or one of three."""
    wrong = [n for n in rng.sample(names, 4) if n != name]
    if rng.random() < 0.5:
        asked = name if rng.random() < 0.5 else wrong[0]
        frame = rng.choice(("Is this: {}?", "Is there a {} in the picture?", "Does the picture show: {}?"))
        return frame.format(asked), "Yes" if asked == name else "No"
    options = [name, *wrong[:2]]
    rng.shuffle(options)
    return f"Which is it: {options[0]}, {options[1]} or {options[2]}?", name


SIDES = re.compile(r"left|right|clockwise|o.clock|thirty|button|keycap|arrow|bubble")


def icon_like(rng: random.Random, item: Item) -> Image.Image:
    mirror = item.task == "icon" and item.fact("group") != "Symbols" and not SIDES.search(item.name)
    return augment.icon(rng, item.picture, mirror=mirror, colours=0.15 if item.task == "flag" else 0.5)


# --- no picture twice ---------------------------------------------------------------------------------------------


def exact_hash(picture: Image.Image) -> str:
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()


def thumbnail(picture: Image.Image) -> np.ndarray:
    """(32, 32, 3) float32, to compare two pictures by."""
    return np.asarray(picture.resize((32, 32), Image.Resampling.LANCZOS), np.float32)


def perceptual_hash(picture: Image.Image) -> int:
    """64 bits: whether each of 8 x 8 places is brighter than its right neighbour; survives scaling and re-encoding."""
    small = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS), np.int16)
    bits = (small[:, 1:] > small[:, :-1]).flatten()
    return int("".join("1" if b else "0" for b in bits), 2)

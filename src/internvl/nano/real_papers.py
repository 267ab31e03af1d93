"""Real papers as samples: lines and fields of receipts, Sudoku photographs, and statements about drawn boxes (NLVR).

Each function binds a drawer to the learnt items of a corpus; questions are worded as the tasks of evaluation ask them.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from PIL import Image

from internvl.nano.asking import SHORT
from internvl.nano.corpus import Corpus, Item, decoded
from internvl.nano.lines import READ
from internvl.nano.sample import Drawer, Kit, Sample, Turn
from internvl.nano.sudoku import real_sudoku_variants

KEYS = {
    "company": "Which shop is this receipt from?",
    "date": "What is the date of this receipt?",
    "address": "What is the address of the shop?",
    "total": "What is the total of this receipt?",
}
CHINESE_KEYS = {"date": "这张收据的日期是什么？", "total": "这张收据的总金额是多少？"}
TRUE_OR_FALSE = "Is this statement true of the picture? Answer with True or False.\n{}"
LARGEST = (448, 1344)
"""A whole receipt is shrunk to this, in pixels."""
LINES = 6
"""Most lines of a block."""


def receipt_lines(corpus: Corpus) -> Drawer:
    """A line of a receipt as it was scanned, or a block of two to six that stand one under the other."""
    receipts = [item for item in corpus.training["receipt"] if any(map(_is_printed, item.facts["lines"]))]

    def draw(rng: random.Random, kit: Kit) -> Sample:
        item = rng.choice(receipts)
        lines = [line for line in item.facts["lines"] if _is_printed(line)]
        first = rng.randrange(len(lines))
        block = lines[first : first + (1 if rng.random() < 0.7 else rng.randint(2, LINES))]
        if any(below["box"][1] < above["box"][3] - 4 for above, below in pairwise(block)):
            block = block[:1]  # side by side, or in no order
        picture = _cut(rng, item.picture, block)
        question = "Read the text." if rng.random() < 0.5 else rng.choice(READ)
        text = "\n".join(line["text"].strip() for line in block)
        return Sample("receipt_lines", (picture,), ((question, text),), facts={"shop": item.facts["shop"]})

    return draw


def _is_printed(line: dict[str, Any]) -> bool:
    x1, y1, x2, y2 = line["box"]
    text = line["text"].strip()
    return 2 <= len(text) <= 40 and text.isascii() and 10 <= y2 - y1 < x2 - x1


def _cut(rng: random.Random, page: Image.Image, block: list[dict[str, Any]]) -> Image.Image:
    pad = [rng.randint(0, 7) for _ in range(4)]
    boxes = [line["box"] for line in block]
    left, top = min(b[0] for b in boxes) - pad[0], min(b[1] for b in boxes) - pad[1]
    right, bottom = max(b[2] for b in boxes) + pad[2], max(b[3] for b in boxes) + pad[3]
    return page.crop((max(0, left), max(0, top), min(page.width, right), min(page.height, bottom)))


def receipt_fields(corpus: Corpus) -> Drawer:
    """A whole receipt and one to three of its shop, date, address and total."""
    receipts = corpus.training["receipt"]

    def draw(rng: random.Random, kit: Kit) -> Sample:
        item = rng.choice(receipts)
        picture = item.picture.copy()
        picture.thumbnail(LARGEST)
        if rng.random() < 0.4:
            picture = picture.rotate(rng.uniform(-2, 2), Image.Resampling.BILINEAR, fillcolor=(255, 255, 255))
        light = rng.uniform(0.8, 1.1)
        picture = picture.point([min(255, round(value * light)) for value in range(256)] * 3)
        known = [key for key in KEYS if item.facts["key"].get(key, "").strip()]
        turns: list[Turn] = []
        for key in rng.sample(known, min(len(known), rng.randint(1, 3))):
            question = f"{KEYS[key]}\n{SHORT}"
            if key in CHINESE_KEYS and rng.random() < 0.15:
                question = CHINESE_KEYS[key]
            turns.append((question, item.facts["key"][key].strip()))
        wrong = rng.choice([line["text"].strip() for line in item.facts["lines"]])
        return Sample(
            "receipt_fields", (picture,), tuple(turns), wrong=None if wrong == turns[0][1] else wrong,
            facts={"shop": item.facts["shop"]},
        )  # fmt: skip

    return draw


def sudoku_photo(corpus: Corpus) -> Drawer:
    """A photograph of a newspaper's Sudoku, cut and lit anew."""
    items = corpus.training["sudoku"]

    def draw(rng: random.Random, kit: Kit) -> Sample:
        item = rng.choice(items)
        return real_sudoku_variants(rng, item.picture, item.facts["grid"])

    return draw


def nlvr(corpus: Corpus) -> Drawer:
    """What people wrote about three boxes, which stand in one of their six orders; true or false."""
    items = corpus.training["nlvr"]

    def draw(rng: random.Random, kit: Kit) -> Sample:
        item = rng.choice(items)
        answer, wrong = ("True", "False") if item.facts["label"] else ("False", "True")
        turn = TRUE_OR_FALSE.format(item.facts["sentence"]), answer
        return Sample("nlvr", (_some_order(rng, item),), (turn,), wrong=wrong)

    return draw


def _some_order(rng: random.Random, item: Item) -> Image.Image:
    return decoded(item.archive, rng.choice(item.facts["members"]))

"""Several real pictures on one page: what is where, how many there are, whether something is among them, and boxes.

mosaic(corpus)(random.Random(7), Kit()).turns       # (("What is at the top left?", "accordion"), ...)
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from PIL import Image

from internvl.nano.asking import some_language, yes
from internvl.nano.corpus import Corpus, Item
from internvl.nano.sample import Drawer, Kit, Sample, Turn

GRIDS = ((1, 2), (2, 1), (2, 2))
"""Rows and columns."""
CELL = 110
PLACES = {
    (1, 2): (("on the left", "左边"), ("on the right", "右边")),
    (2, 1): (("at the top", "上面"), ("at the bottom", "下面")),
    (2, 2): (("at the top left", "左上角"), ("at the top right", "右上角"), ("at the bottom left", "左下角"),
             ("at the bottom right", "右下角")),
}  # fmt: skip
GROUNDING = "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>"


def mosaic(corpus: Corpus) -> Drawer:
    """Two or four photographs, icons or flags with different names on one page."""
    skills = ("photo", "icon", "flag")

    def draw(rng: random.Random, kit: Kit) -> Sample:
        grid = rng.choice(GRIDS)
        items: list[Item] = []
        while len(items) < grid[0] * grid[1]:
            item = rng.choice(corpus.training[rng.choice(skills)])
            if item.name not in {other.name for other in items}:
                items.append(item)
        others = [rng.choice(corpus.training[rng.choice(skills)]).name for _ in range(4)]
        absent = next((name for name in others if name not in {item.name for item in items}), "unicorn")
        picture, boxes = _page(rng, items, grid)
        turns = _ask(rng, items, boxes, grid, absent)
        return Sample("mosaic", (picture,), turns)

    return draw


def _page(rng: random.Random, items: Sequence[Item], grid: tuple[int, int]) -> tuple[Image.Image, list[list[int]]]:
    """The page, and where each picture is, in thousandths of its sides."""
    rows, columns = grid
    shade = rng.choice((255, 255, 235, 60))
    page = Image.new("RGB", (columns * CELL, rows * CELL), (shade, shade, shade))
    boxes = []
    for number, item in enumerate(items):
        picture = item.picture.copy()
        side = round(CELL * rng.uniform(0.7, 0.97))
        scale = side / max(picture.size)
        picture = picture.resize([max(8, round(edge * scale)) for edge in picture.size], Image.Resampling.BILINEAR)
        x = number % columns * CELL + rng.randint(0, CELL - picture.width)
        y = number // columns * CELL + rng.randint(0, CELL - picture.height)
        page.paste(picture, (x, y))
        corners = (x, y, x + picture.width, y + picture.height)
        boxes.append([round(1000 * at / side) for at, side in zip(corners, page.size * 2, strict=True)])
    return page, boxes


def _ask(
    rng: random.Random, items: Sequence[Item], boxes: Sequence[list[int]], grid: tuple[int, int], absent: str
) -> tuple[Turn, ...]:
    language = some_language(rng)
    at = rng.randrange(len(items))
    where, name = language.say(PLACES[grid][at]), items[at].name
    if language.chinese:
        turns = [("有几张图？", str(len(items))), (f"{where}是什么？", name)]
        return tuple(rng.sample(turns, rng.choice((1, 2))))
    present = rng.random() < 0.5
    asked = items[rng.randrange(len(items))].name if present else absent
    article = "an" if asked[0].lower() in "aeiou" else "a"
    turns = [
        (rng.choice((f"What is {where}?", f"What is the picture {where}?", f"Name what is {where}.")), name),
        (rng.choice(("How many pictures are there?", "How many images are shown?")), str(len(items))),
        (f"Is there {article} {asked}?", language.say(yes(present)[0])),
        (rng.choice((f"Where is: {name}?", f"Where is the {name}?")), where),
        (GROUNDING.format(name), f"<ref>{name}</ref><box>[{boxes[at]}]</box>"),
    ]
    return tuple(rng.sample(turns, rng.choice((2, 3))))

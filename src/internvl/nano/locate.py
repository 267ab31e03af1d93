"""Finding things: boxes around shapes, characters and words, and what is inside of a box.

    draw_locate(random.Random(7), Kit()).turns
    (("Where is the red star?", "<ref>red star</ref><box>[[120, 300, 240, 430]]</box>"),)

Boxes are in thousandths of the picture's width and height, as `internvl.data.boxes` reads and checks them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from internvl.data.boxes import Corners, format_box
from internvl.nano.asking import Asked, Asker, Both, Wordings, some_language, yes
from internvl.nano.lines import DIGITS, LETTERS, font, pick_font
from internvl.nano.sample import Kit, Sample
from internvl.nano.shapes import COLOUR_NAMES, COLOURS, RGB, add_noise, ground_for, paint_with_boxes, place_shapes

PUBLISHED = "Please provide the bounding box coordinate of the region this sentence describes: <ref>{thing}</ref>"
"""How the family's models are asked for a box."""
FIND: Wordings = (
    (*(PUBLISHED,) * 5, "Where is the {thing}?", "Where is the {thing}? Answer with a box.", "Find the {thing}.",
     "Locate the {thing}.", "Give the bounding box of the {thing}.", "Give the box of <ref>{thing}</ref>.",
     "Detect the {thing}.", "Draw a box around the {thing}."),
    ("框出{thing}。", "请给出{thing}的边界框。", "找出{thing},用方框回答。", "<ref>{thing}</ref>在哪里?请给出方框。"),
)  # fmt: skip
FIND_ALL: Wordings = (
    ("Find all {thing}.", "Give the boxes of all {thing}.", "Where are the {thing}? Answer with boxes.",
     "Locate every one of the {thing}.", "Detect all {thing}."),
    ("框出所有{thing}。", "找出所有{thing},用方框回答。"),
)  # fmt: skip
WHAT_IS_IN: Wordings = (
    ("What is in {box}?", "What is inside {box}?", "What does the region {box} show?", "Name what is in {box}.",
     "Please provide a short description of this region: {box}", "Describe the region {box}."),
    ("{box}里是什么?", "这个区域是什么:{box}", "描述这个区域:{box}"),
)  # fmt: skip
IS_IT_IN: Wordings = (
    ("Is the {thing} in {box}?", "Can the {thing} be seen in {box}?", "Does {box} show the {thing}?",
     "Is it the {thing} that {box} shows?"),
    ("{box}里是{thing}吗?", "{thing}在{box}里吗?"),
)  # fmt: skip
ROUGH: tuple[tuple[tuple[int, int], Both], ...] = (
    ((-1, -1), ("top left", "左上")), ((1, -1), ("top right", "右上")),
    ((-1, 1), ("bottom left", "左下")), ((1, 1), ("bottom right", "右下")),
)  # fmt: skip
QUARTER: Wordings = (
    ("In which corner of the image is the {thing}: top left, top right, bottom left or bottom right?",
     "Which quarter of the picture is the {thing} in: top left, top right, bottom left or bottom right?"),
    ("{thing}在图的哪个角?",),
)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """What is to be found, and (left, top, right, bottom) in pixels."""

    name: Both
    box: Corners


def draw_locate(rng: random.Random, kit: Kit) -> Sample:
    """One to seven things that do not touch, one to three questions about where they are."""
    asker = some_language(rng)
    style = rng.choice(("shapes", "shapes", "characters", "words"))
    if style == "shapes":
        shapes = place_shapes(rng, rng.randint(1, 7))
        picture, boxes = paint_with_boxes(rng, shapes)
        things = [Thing(shape.name, box) for shape, box in zip(shapes, boxes, strict=True)]
    else:
        picture, things = paint_texts(rng, kit, letters=style == "characters")
    asked = ask_where(rng, asker, things, picture.size)
    if rng.random() < 0.2:
        picture = add_noise(rng, picture, rng.uniform(2, 10))
    name = things[0].name[0]
    caption = f"{'an' if name[0] in 'aeiou' else 'a'} {name}" if len(things) == 1 and style == "shapes" else None
    facts = {f"box {number}": f"{thing.name[0]} {thing.box}" for number, thing in enumerate(things)}
    return Sample(
        "locate", (picture,), tuple(a.turn for a in asked), caption=caption, wrong=asked[0].wrong, facts=facts
    )


def paint_texts(rng: random.Random, kit: Kit, *, letters: bool) -> tuple[Image.Image, list[Thing]]:
    """Coloured letters and digits, or words under each other, none of them twice."""
    count = rng.randint(1, 6)
    width, height = rng.choice((112, 160, 224, 224, 256, 300)), rng.choice((112, 160, 224, 224, 256))
    if letters:
        said = rng.sample([sign for sign in LETTERS.upper() + DIGITS if sign not in "O01I"], count)
        side = 2 if count <= 4 else 3
        cells = [(i / side, j / side, 1 / side, 1 / side) for i in range(side) for j in range(side)]
    else:
        said = rng.sample(sorted({word for word in kit.words if 2 < len(word) < 10}), min(count, 6))
        cells = [(0.0, i / 6, 1.0, 1 / 6) for i in range(6)]
    colours = rng.choices(list(COLOURS), k=len(said)) if letters else [rng.choice(list(COLOURS))] * len(said)
    picture = Image.new("RGB", (width, height), ground_for(rng, [COLOURS[colour] for colour in colours]))
    path, things = pick_font(rng, kit), list[Thing]()
    for text, colour, cell in zip(said, colours, rng.sample(cells, len(said)), strict=True):
        left, top, wide, tall = (part * size for part, size in zip(cell, (width, height) * 2, strict=True))
        room = (left, top, left + wide, top + tall)
        box = _put(rng, picture, text, room, COLOURS[colour], path=path)
        if letters:
            sort = ("letter", "字母") if text.isalpha() else ("digit", "数字")
            name = (f"{colour} {sort[0]} {text}", f"{COLOUR_NAMES[colour][1]}的{sort[1]}{text}")
        else:
            name = (f'word "{text}"', f"单词“{text}”")
        things.append(Thing(name, box))
    return picture, things


def _put(
    rng: random.Random, picture: Image.Image, text: str, room: Corners, colour: RGB, *, path: Path | None
) -> Corners:
    """Print a text inside of a room, as large as it allows or somewhat smaller; returns where its ink is."""
    left, top, right, bottom = room
    size = max(9, round((bottom - top) * rng.uniform(0.6, 0.95)))
    face = font(path, size)
    x1, y1, x2, y2 = face.getbbox(text)
    while size > 7 and (x2 - x1 > right - left - 4 or y2 - y1 > bottom - top - 3):
        size = round(size * 0.9) if size > 10 else size - 1
        face = font(path, size)
        x1, y1, x2, y2 = face.getbbox(text)
    x = rng.uniform(left + 1, max(left + 1, right - 2 - (x2 - x1)))
    y = rng.uniform(top + 1, max(top + 1, bottom - 2 - (y2 - y1)))
    x, y = round(x), round(y)
    ImageDraw.Draw(picture).text((x - x1, y - y1), text, fill=colour, font=face)
    return float(x), float(y), min(picture.width, x + x2 - x1), min(picture.height, y + y2 - y1)


# ---- questions -------------------------------------------------------------------------------------------------------


def ask_where(rng: random.Random, asker: Asker, things: Sequence[Thing], size: tuple[int, int]) -> tuple[Asked, ...]:
    """Where one is, first for every second picture; what is in a box; whether it is in there; which quarter."""
    names = [thing.name for thing in things]
    single = [thing for thing in things if names.count(thing.name) == 1]
    several = sorted({name for name in names if names.count(name) > 1})
    asked: list[Asked] = []
    if single:
        asked.append(_find(rng, asker, rng.choice(single), things, size))
    if several and (not single or rng.random() < 0.5):
        asked.append(_find_all(rng, asker, rng.choice(several), things, size))
    rng.shuffle(asked)
    further = [_what(rng, asker, rng.choice(things), things, size), _is_it(rng, asker, things, size)]
    if single and (quarter := _quarter(rng, asker, rng.choice(single), size)):
        further.append(quarter)
    asked = [*asked[: rng.choice((1, 1, 2))], *rng.sample(further, rng.choice((0, 1, 1, 2)))]
    if rng.random() < 0.5:
        rng.shuffle(asked)
    return tuple({a.question: a for a in asked}.values())


def _find(rng: random.Random, asker: Asker, thing: Thing, things: Sequence[Thing], size: tuple[int, int]) -> Asked:
    others = [other.box for other in things if other is not thing] + [moved(rng, thing.box, size)]
    name = asker.say(thing.name)
    right, wrong = (format_box(name, [box], size) for box in (thing.box, rng.choice(others)))
    return asker.ask(rng, FIND, right, wrong, brief=False, thing=thing.name)


def _find_all(rng: random.Random, asker: Asker, name: Both, things: Sequence[Thing], size: tuple[int, int]) -> Asked:
    """From left to right."""
    boxes = sorted(thing.box for thing in things if thing.name == name)
    said = (name[0] + ("es" if name[0].endswith("s") else "s"), name[1])
    right, wrong = (format_box(asker.say(said), some, size) for some in (boxes, boxes[:-1]))
    return asker.ask(rng, FIND_ALL, right, wrong, brief=False, thing=said)


def _what(rng: random.Random, asker: Asker, thing: Thing, things: Sequence[Thing], size: tuple[int, int]) -> Asked:
    names = sorted({other.name for other in things} - {thing.name})
    wrong = rng.choice(names) if names else ("nothing", "没有")
    return asker.ask(rng, WHAT_IS_IN, thing.name, wrong, box=format_box(None, [thing.box], size))


def _is_it(rng: random.Random, asker: Asker, things: Sequence[Thing], size: tuple[int, int]) -> Asked:
    """One that is there in its own box, in the box of another, or in a box of bare ground."""
    thing, true = rng.choice(things), rng.random() < 0.5
    box = thing.box
    if not true:
        others = [other.box for other in things if other.name != thing.name]
        free = [empty for _ in range(20) if (empty := moved(rng, box, size)) and not touches(empty, things)]
        boxes = others + free[:1]
        if not boxes:
            true, boxes = True, [box]
        box = rng.choice(boxes)
    return asker.ask(rng, IS_IT_IN, *yes(true), thing=thing.name, box=format_box(None, [box], size))


def _quarter(rng: random.Random, asker: Asker, thing: Thing, size: tuple[int, int]) -> Asked | None:
    """Only of what lies wholly in one."""
    sides: list[int] = []
    for low, high, whole in ((thing.box[0], thing.box[2], size[0]), (thing.box[1], thing.box[3], size[1])):
        sides.append(-1 if high < 0.49 * whole else 1 if low > 0.51 * whole else 0)
    right = dict(ROUGH).get((sides[0], sides[1]))
    if right is None:
        return None
    return asker.ask(rng, QUARTER, right, rng.choice([name for _, name in ROUGH if name != right]), thing=thing.name)


def moved(rng: random.Random, box: Corners, size: tuple[int, int]) -> Corners:
    """A box as large as this one somewhere else, which may still lie over a part of it."""
    wide, tall = box[2] - box[0], box[3] - box[1]
    for _ in range(10):
        left, top = rng.uniform(0, size[0] - wide), rng.uniform(0, size[1] - tall)
        if abs(left - box[0]) > wide / 2 or abs(top - box[1]) > tall / 2:
            return left, top, left + wide, top + tall
    return 0.0, 0.0, float(size[0]), float(size[1])


def touches(box: Corners, things: Sequence[Thing]) -> bool:
    """Whether a box has a part in common with any of the things."""
    return any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
        for other in (thing.box for thing in things)
    )

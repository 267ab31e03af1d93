"""Two pictures of coloured shapes: are they the same, what is different, which has more, how many together."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from internvl.nano.asking import Asked, Asker, Both, Wordings, some_language, yes
from internvl.nano.sample import Kit, Sample
from internvl.nano.shapes import COLOUR_NAMES, COLOURS, KIND_NAMES, NUMBERS, RGB, SHAPES, plural

# ---- pieces on a ground, also of clips -------------------------------------------------------------------------------

KINDS_ZH = {kind: names[1] for kind, names in KIND_NAMES.items()}
COLOURS_ZH = {colour: names[1] for colour, names in COLOUR_NAMES.items()}


@dataclass(frozen=True)
class Piece:
    """A shape in the unit square, turned by so many radians."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float
    turn: float = 0.0

    @property
    def name(self) -> Both:
        return f"{self.colour} {self.kind}", f"{COLOURS_ZH[self.colour]}的{KINDS_ZH[self.kind]}"


@dataclass(frozen=True)
class Look:
    """How pieces are painted: alike in all pictures of a sample."""

    size: tuple[int, int]
    ground: RGB
    shades: Mapping[str, RGB]
    outlined: bool
    smooth: bool

    def paint(self, pieces: Sequence[Piece]) -> Image.Image:
        """Each piece is as wide as its radius times the shorter side."""
        times = 2 if self.smooth else 1
        width, height = self.size[0] * times, self.size[1] * times
        picture = Image.new("RGB", (width, height), self.ground)
        pen = ImageDraw.Draw(picture)
        for piece in pieces:
            r, cos, sin = piece.radius * min(width, height), math.cos(piece.turn), math.sin(piece.turn)
            corners = [
                (piece.x * width + r * (cos * x - sin * y), piece.y * height + r * (sin * x + cos * y))
                for x, y in SHAPES[piece.kind]
            ]
            shade = self.shades[piece.colour]
            if self.outlined:
                pen.line([*corners, *corners[:2]], fill=shade, width=max(3 * times, round(r * 0.3)), joint="curve")
            else:
                pen.polygon(corners, fill=shade)
        return picture.reduce(2) if self.smooth else picture


def some_look(rng: random.Random, colours: Sequence[str], sides: Sequence[int]) -> Look:
    """A ground that none of these colours hides in."""
    side, aspect = rng.choice(sides), rng.choice((1.0, 1.0, 1.0, 1.25, 0.8))
    size = round(side * min(1.0, aspect)), round(side * min(1.0, 1 / aspect))
    shades: dict[str, RGB] = {}
    for colour in sorted(set(colours)):
        red, green, blue = (min(255, max(0, c + rng.randint(-14, 14))) for c in COLOURS[colour])
        shades[colour] = (red, green, blue)
    return Look(size, some_ground(rng, tuple(shades.values())), shades, rng.random() < 0.15, rng.random() < 0.6)


def some_ground(rng: random.Random, shades: Sequence[RGB]) -> RGB:
    for _ in range(8):
        base, tint = rng.choice((255, 255, 248, 225, 200, 60, 15)), rng.randint(0, 35)
        red, green, blue = (min(255, max(0, base + rng.randint(-tint, tint))) for _ in range(3))
        if all(abs(red - s[0]) + abs(green - s[1]) + abs(blue - s[2]) > 170 for s in shades):
            return red, green, blue
    return 255, 255, 255


def with_noise(rng: random.Random, picture: Image.Image, strength: float) -> Image.Image:
    """Gray noise of this standard deviation."""
    noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(picture.size[::-1], np.float32)
    pixels = np.asarray(picture, np.float32) + strength * noise[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


Pieces = tuple[Piece, ...]

# ---- two pictures ----------------------------------------------------------------------------------------------------

MOST = 6
"""Shapes in one picture."""

NUMBERED = "Image-1: <image>\nImage-2: <image>\n"
FIRST: Both = ("the first", "第一张")
SECOND: Both = ("the second", "第二张")
NEITHER: Both = ("the same", "一样多")
NOTHING: Both = ("nothing", "没有不同")

SAME: Wordings = (
    ("Are the two pictures the same?", "Are both pictures the same?", "Are the two images identical?",
     "Do the two pictures show the same?", "Is the first picture the same as the second?",
     "Are these two pictures the same?", "Is <Image-1> the same as <Image-2>?", "Do both images show the same thing?"),
    ("两张图片一样吗?", "这两张图相同吗?", "第一张图片和第二张图片一样吗?", "两张图完全相同吗?"),
)  # fmt: skip
DIFFERENT: Wordings = (
    ("What is different?", "What has changed?", "What is different in the second picture?", "Spot the difference.",
     "What is the difference between the two pictures?", "What changed from the first picture to the second?",
     "Find the difference.", "How does the second picture differ from the first?"),
    ("有什么不同?", "哪里不一样?", "第二张图片有什么变化?", "找出不同之处。"),
)  # fmt: skip
MORE: Wordings = (
    ("Which picture has more {noun}, the first or the second?", "Which picture has more {noun}?",
     "Which image shows more {noun}, the first or the second?", "In which picture are there more {noun}?",
     "Where are more {noun}, in the first or in the second picture?"),
    ("哪张图片的{noun}更多?", "第一张和第二张, 哪张有更多的{noun}?", "哪一张图里{noun}比较多?"),
)  # fmt: skip
FEWER: Wordings = (
    ("Which picture has fewer {noun}, the first or the second?", "Which picture has fewer {noun}?",
     "In which picture are there fewer {noun}?", "Which image shows fewer {noun}?"),
    ("哪张图片的{noun}更少?", "第一张和第二张, 哪张的{noun}更少?", "哪一张图里{noun}比较少?"),
)  # fmt: skip
TOGETHER: Wordings = (
    ("How many {noun} are there in both together?", "How many {noun} are there in both pictures together?",
     "How many {noun} do the two pictures show in total?", "Count the {noun} in both pictures.",
     "What is the total number of {noun} in the two images?", "How many {noun} are there altogether?"),
    ("两张图片一共有几个{noun}?", "两张图里总共有多少个{noun}?", "两张图片加起来有多少个{noun}?"),
)  # fmt: skip
COUNT: Wordings = (
    ("How many {noun} are in {which} picture?", "How many {noun} are there in {which} picture?",
     "How many {noun} does {which} image show?", "Count the {noun} in {which} picture."),
    ("{which}图片里有几个{noun}?", "{which}图中有多少个{noun}?", "数一数{which}图片里的{noun}。"),
)  # fmt: skip
WHICH: Wordings = (
    ("Which picture shows the {noun}, the first or the second?", "Which picture has the {noun}?",
     "In which picture is the {noun}?", "Which image contains the {noun}?"),
    ("哪张图片里有{noun}?", "{noun}在哪张图里?", "哪一张图有{noun}?"),
)  # fmt: skip
COLOUR: Wordings = (
    ("What colour is the {noun} in {which} picture?", "What color is the {noun} in {which} picture?",
     "Which colour does the {noun} in {which} image have?"),
    ("{which}图片里的{noun}是什么颜色?", "{which}图中的{noun}是什么颜色的?"),
)  # fmt: skip


def draw_compare(rng: random.Random, kit: Kit) -> Sample:
    """Two pictures that are the same but for one thing, or not at all, or altogether."""
    del kit
    asker = some_language(rng)
    label = None
    if rng.random() < 0.55:
        asked, first, second = _spot(rng, asker)
        label = "same" if first == second else "different"
    else:
        asked, first, second = _count(rng, asker)
    look = some_look(rng, [piece.colour for piece in (*first, *second)], (112, 112, 128, 160, 224))
    pictures = [look.paint(first), look.paint(second)]
    if rng.random() < 0.25:  # noise is no difference
        pictures = [with_noise(rng, picture, rng.uniform(2, 8)) for picture in pictures]
    question = asked[0].question if rng.random() < 0.3 else NUMBERED + asked[0].question
    turns = ((question, asked[0].answer), *(a.turn for a in asked[1:]))
    return Sample("compare", tuple(pictures), turns, label, caption(first), asked[0].wrong)


def caption(pieces: Sequence[Piece]) -> str:
    """What a picture shows, shapes of one name together.

    >>> caption((Piece("star", "red", 0.5, 0.5, 0.2), Piece("star", "red", 0.2, 0.5, 0.2)))
    'two red stars'
    """
    names = sorted({(p.colour, p.kind) for p in pieces})
    parts = []
    for colour, kind in names:
        count = sum((p.colour, p.kind) == (colour, kind) for p in pieces)
        number = "an" if count == 1 and colour[0] in "aeiou" else NUMBERS[count]
        parts.append(f"{number} {colour} {kind if count == 1 else plural(kind)}")
    return " and ".join([", ".join(parts[:-1])] * (len(parts) > 1) + parts[-1:])


def some_side(rng: random.Random, most: int) -> int:
    """Of a grid that leaves a cell free beside so many pieces."""
    return 2 if most <= 3 and rng.random() < 0.5 else 3


def scatter(rng: random.Random, names: Sequence[tuple[str, str]], side: int) -> Pieces:
    """Pieces of these kinds and colours, one a cell of a grid so that no two touch."""
    cells = rng.sample([(i, j) for i in range(side) for j in range(side)], len(names))
    return tuple(
        _in_cell(rng, Piece(*name, 0, 0, _radius(rng, side)), cell, side)
        for name, cell in zip(names, cells, strict=True)
    )


def _radius(rng: random.Random, side: int) -> float:
    return rng.uniform(0.28, 0.42) / side


def _in_cell(rng: random.Random, piece: Piece, cell: tuple[int, int], side: int) -> Piece:
    slack = max(0.0, 0.46 / side - piece.radius)
    x, y = ((at + 0.5) / side + rng.uniform(-slack, slack) for at in cell)
    return replace(piece, x=x, y=y)


def _elsewhere(rng: random.Random, piece: Piece, pieces: Pieces, side: int) -> Piece:
    """The piece in a cell where nothing is."""
    taken = {(int(p.x * side), int(p.y * side)) for p in pieces}
    free = [(i, j) for i in range(side) for j in range(side) if (i, j) not in taken]
    return _in_cell(rng, piece, rng.choice(free), side)


def _names(rng: random.Random, count: int, kinds: Sequence[str] = ()) -> list[tuple[str, str]]:
    kinds = kinds or rng.sample(list(KINDS_ZH), rng.randint(1, 3))
    colours = rng.sample(list(COLOURS_ZH), rng.randint(1, 3))
    return [(rng.choice(kinds), rng.choice(colours)) for _ in range(count)]


# ---- the same but for one thing --------------------------------------------------------------------------------------


def _spot(rng: random.Random, asker: Asker) -> tuple[list[Asked], Pieces, Pieces]:
    """As often the same as not."""
    count = rng.randint(2, MOST - 1)
    side = some_side(rng, count)
    first = scatter(rng, _names(rng, count), side)
    same = rng.random() < 0.5
    what: Both | None = NOTHING
    second = first
    if not same and rng.random() < 0.2:
        other = rng.randint(2, MOST - 1)
        second, what = scatter(rng, _names(rng, other), some_side(rng, other)), None
    elif not same:
        second, what = change(rng, first, side)
    asked = [asker.ask(rng, SAME, *yes(same))]
    if what is not None and rng.random() < (0.25 if same else 0.9):
        _, false = change(rng, first, side)
        asked.append(asker.ask(rng, DIFFERENT, what, false if false != what else NOTHING, brief=False))
        if rng.random() < 0.5:
            asked.reverse()
    if rng.random() < 0.4:
        asked.append(_together(rng, asker, first, second))
    return asked, first, second


def change(rng: random.Random, pieces: Pieces, side: int) -> tuple[Pieces, Both]:
    """The pieces with one change, and what it was. What changes is the only one of its name."""
    names = [(p.kind, p.colour) for p in pieces]
    single = [i for i, name in enumerate(names) if names.count(name) == 1]
    how = rng.choice(("colour", "kind", "place", "gone", "new")) if single else "new"
    if how == "new":
        name = rng.choice([(k, c) for k in KINDS_ZH for c in COLOURS_ZH if (k, c) not in names])
        new = _elsewhere(rng, Piece(*name, 0, 0, _radius(rng, side)), pieces, side)
        return (*pieces, new), (f"there is a new {new.name[0]}", f"多了一个{new.name[1]}")
    at = rng.choice(single)
    old, before, after = pieces[at], pieces[:at], pieces[at + 1 :]
    name, name_zh = old.name
    if how == "gone":
        return before + after, (f"the {name} is missing", f"{name_zh}不见了")
    if how == "place":
        new, what = _elsewhere(rng, old, pieces, side), (f"the {name} has moved", f"{name_zh}移动了")
    elif how == "colour":
        new = replace(old, colour=rng.choice([c for c in COLOURS_ZH if c != old.colour]))
        what = f"the {name} is {new.colour}", f"{name_zh}变成了{COLOURS_ZH[new.colour]}"
    else:
        new = replace(old, kind=rng.choice([k for k in KINDS_ZH if k != old.kind]))
        what = f"the {name} is a {new.kind}", f"{name_zh}变成了{KINDS_ZH[new.kind]}"
    return (*before, new, *after), what


# ---- two of their own ------------------------------------------------------------------------------------------------

SHAPES_NOUN: Both = ("shapes", "图形")


def _count(rng: random.Random, asker: Asker) -> tuple[list[Asked], Pieces, Pieces]:
    """How many of one kind, or of all; the first has more, the second, or neither."""
    kind = rng.choice(list(KINDS_ZH)) if rng.random() < 0.6 else None
    noun = SHAPES_NOUN if kind is None else (plural(kind), KINDS_ZH[kind])
    fewest = 0 if kind else 1
    low, high = sorted(rng.sample(range(fewest, MOST), 2))
    outcome = rng.choices((FIRST, SECOND, NEITHER), (2, 2, 1))[0]
    numbers = {FIRST: (high, low), SECOND: (low, high), NEITHER: (high, high)}[outcome]
    pictures = [_with(rng, number, kind) for number in numbers]
    fewer = rng.random() < 0.35
    right = outcome if not fewer or outcome == NEITHER else SECOND if outcome == FIRST else FIRST
    wrong = SECOND if right == FIRST else FIRST
    asked = [asker.ask(rng, FEWER if fewer else MORE, right, wrong, noun=noun)]
    asked.append(_number(rng, asker, TOGETHER, sum(numbers), noun=noun))
    at = rng.randrange(2)
    asked.append(_number(rng, asker, COUNT, numbers[at], noun=noun, which=(FIRST, SECOND)[at]))
    asked += _of_one(rng, asker, pictures)
    rng.shuffle(asked)
    return asked[: rng.randint(1, 3)], pictures[0], pictures[1]


def _with(rng: random.Random, number: int, kind: str | None) -> Pieces:
    """So many of the kind among some of other kinds, or so many of any."""
    if kind is None:
        names = _names(rng, number)
    else:
        others = [k for k in KINDS_ZH if k != kind]
        more = rng.randint(0 if number else 1, max(1, MOST - number - 1))
        names = _names(rng, number, (kind,)) + _names(rng, more, rng.sample(others, rng.randint(1, 2)))
    return scatter(rng, names, some_side(rng, len(names)))


def _number(
    rng: random.Random, asker: Asker, wordings: Wordings, number: int, *, noun: Both, which: Both = FIRST
) -> Asked:
    wrong = rng.choice([n for n in (number - 2, number - 1, number + 1, number + 2) if n >= 0])
    return asker.ask(rng, wordings, str(number), str(wrong), noun=noun, which=which)


def _together(rng: random.Random, asker: Asker, first: Pieces, second: Pieces) -> Asked:
    return _number(rng, asker, TOGETHER, len(first) + len(second), noun=SHAPES_NOUN)


def _of_one(rng: random.Random, asker: Asker, pictures: Sequence[Pieces]) -> list[Asked]:
    """Which picture has this one, and of which colour is the only one of its kind."""
    asked: list[Asked] = []
    at = rng.randrange(2)
    here, there = pictures[at], {p.name for p in pictures[1 - at]}
    one_only = sorted({p.name for p in here if p.name not in there})
    where = (FIRST, SECOND)
    if one_only:
        asked.append(asker.ask(rng, WHICH, where[at], where[1 - at], noun=rng.choice(one_only)))
    kinds = [p.kind for p in here]
    lonely = [p for p in here if kinds.count(p.kind) == 1]
    if lonely:
        piece = rng.choice(lonely)
        false = rng.choice([c for c in COLOURS_ZH if c != piece.colour])
        colour, wrong = (piece.colour, COLOURS_ZH[piece.colour]), (false, COLOURS_ZH[false])
        noun = (piece.kind, KINDS_ZH[piece.kind])
        asked.append(asker.ask(rng, COLOUR, colour, wrong, noun=noun, which=where[at]))
    return asked

"""Coloured shapes on a plain ground: how many, which colour, where, left of what, larger than what, overlapping or not.

draw_shape(random.Random(7), Kit()).turns       # (("What colour is the star?", "red"), ...)
draw_scene(random.Random(7), Kit()).turns       # (("How many circles are there?", "3"), ...)
shapes = place_shapes(random.Random(7), 5)      # five that do not touch, in the unit square
paint_scene(random.Random(7), shapes)           # their picture
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from internvl.nano.asking import Both, some_language
from internvl.nano.sample import Kit, Sample

RGB = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, RGB] = {
    "red": (220, 30, 35), "green": (30, 150, 60), "blue": (35, 80, 215), "yellow": (245, 205, 25),
    "orange": (245, 130, 20), "purple": (130, 50, 170), "pink": (245, 120, 180), "brown": (125, 75, 35),
    "black": (15, 15, 15), "gray": (135, 135, 135),
}  # fmt: skip

SHAPES: dict[str, tuple[Point, ...]] = {
    "circle": tuple((math.cos(a * math.pi / 20), math.sin(a * math.pi / 20)) for a in range(40)),
    "square": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": ((0, -1), (0.95, 0.75), (-0.95, 0.75)),
    "star": tuple(
        ((1.0, 0.42)[i % 2] * math.sin(i * math.pi / 5), -(1.0, 0.42)[i % 2] * math.cos(i * math.pi / 5))
        for i in range(10)
    ),
    "cross": ((-0.3, -0.9), (0.3, -0.9), (0.3, -0.3), (0.9, -0.3), (0.9, 0.3), (0.3, 0.3),
              (0.3, 0.9), (-0.3, 0.9), (-0.3, 0.3), (-0.9, 0.3), (-0.9, -0.3), (-0.3, -0.3)),
}  # fmt: skip
"""Corners of each kind in units of its radius."""

COLOUR_NAMES: dict[str, Both] = {
    "red": ("red", "红色"), "green": ("green", "绿色"), "blue": ("blue", "蓝色"), "yellow": ("yellow", "黄色"),
    "orange": ("orange", "橙色"), "purple": ("purple", "紫色"), "pink": ("pink", "粉色"), "brown": ("brown", "棕色"),
    "black": ("black", "黑色"), "gray": ("gray", "灰色"),
}  # fmt: skip
KIND_NAMES: dict[str, Both] = {
    "circle": ("circle", "圆形"), "square": ("square", "正方形"), "triangle": ("triangle", "三角形"),
    "star": ("star", "星形"), "cross": ("cross", "十字"),
}  # fmt: skip
PLURAL = {"cross": "crosses"}
NUMBERS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MAX_SHAPES = 9
INNER = {"circle": 1.0, "square": 0.8, "triangle": 0.47, "star": 0.34, "cross": 0.42}
"""Radius of a disc that each kind covers."""
OUTER = {"circle": 1.0, "square": 1.14, "triangle": 1.22, "star": 1.0, "cross": 0.96}
"""Radius of a disc that covers each kind."""


@dataclass(frozen=True)
class Shape:
    """One in the unit square; its radius is a part of the picture's shorter side."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> Both:
        colour, kind = COLOUR_NAMES[self.colour], KIND_NAMES[self.kind]
        return f"{colour[0]} {kind[0]}", f"{colour[1]}的{kind[1]}"


def plural(kind: str) -> str:
    return PLURAL.get(kind, kind + "s")


def draw_scene(rng: random.Random, kit: Kit) -> Sample:
    """0 to 9 shapes that do not touch, or two large ones that may overlap, with one to three questions.

    >>> draw_scene(random.Random(1), Kit()).skill
    'scene'
    """
    del kit
    from internvl.nano.shape_questions import ask_overlap, ask_scene  # asks about the shapes defined here

    asker = some_language(rng)
    if rng.random() < 0.08:
        shapes, overlap = place_two(rng)
        asked = ask_overlap(rng, asker, shapes, overlap)
    else:
        shapes = place_shapes(rng, rng.randint(0, MAX_SHAPES))
        asked = ask_scene(rng, asker, shapes)
    picture = paint_scene(rng, shapes)
    if rng.random() < 0.2:
        picture = add_noise(rng, picture, rng.uniform(2, 10))
    return Sample(
        "scene",
        (picture,),
        tuple(a.turn for a in asked),
        label=count_name(len(shapes)),
        caption=describe(shapes),
        wrong=asked[0].wrong,
    )


def draw_shape(rng: random.Random, kit: Kit) -> Sample:
    """One shape, with two questions of its colour, its kind, and whether it is there: the first lesson.

    >>> draw_shape(random.Random(1), Kit()).skill
    'shape'
    """
    del kit
    from internvl.nano.shape_questions import ask_shape  # asks about the shapes defined here

    asker = some_language(rng)
    radius = rng.uniform(0.2, 0.38)
    x, y = (rng.uniform(radius * 1.25, 1 - radius * 1.25) for _ in range(2))
    shape = Shape(rng.choice(list(SHAPES)), rng.choice(list(COLOURS)), x, y, radius)
    asked = ask_shape(rng, asker, shape)
    return Sample(
        "shape",
        (paint_scene(rng, [shape]),),
        tuple(a.turn for a in asked),
        label=shape.name[0],
        caption=describe([shape]),
        wrong=asked[0].wrong,
    )


def count_name(count: int) -> str:
    """The class of a picture of `count` shapes."""
    return f"{count} shapes"


def describe(shapes: Sequence[Shape]) -> str:
    """What there is, by colour and kind.

    >>> describe([Shape("circle", "red", 0, 0, 1), Shape("star", "blue", 1, 1, 1), Shape("circle", "red", 0, 1, 1)])
    'two red circles and a blue star'
    """
    counts: dict[tuple[str, str], int] = {}
    for shape in shapes:
        key = (shape.colour, shape.kind)
        counts[key] = counts.get(key, 0) + 1
    parts: list[str] = []
    for (colour, kind), count in counts.items():
        number = "an" if count == 1 and colour == "orange" else NUMBERS[count]
        parts.append(f"{number} {colour} {kind if count == 1 else plural(kind)}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) or "no shapes"


# ---- where they stand ------------------------------------------------------------------------------------------------


def place_shapes(rng: random.Random, count: int) -> tuple[Shape, ...]:
    """Shapes in the unit square, one a cell of a grid so that no two touch."""
    side = 2 if count <= 4 and rng.random() < 0.4 else 3 if rng.random() < 0.65 else 4
    cells = rng.sample([(i, j) for i in range(side) for j in range(side)], count)
    uniform = rng.random() < 0.2
    kinds = rng.sample(list(SHAPES), 1 if uniform else rng.randint(1, 5))
    colours = rng.sample(list(COLOURS), 1 if uniform else rng.randint(1, 6))
    same_size = rng.random() < 0.3
    size = rng.uniform(0.25, 0.42)
    shapes: list[Shape] = []
    for i, j in cells:
        radius = (size if same_size else rng.uniform(0.22, 0.42)) / side
        slack = max(0.0, 0.46 / side - radius)
        x = (i + 0.5) / side + rng.uniform(-slack, slack)
        y = (j + 0.5) / side + rng.uniform(-slack, slack)
        shapes.append(Shape(rng.choice(kinds), rng.choice(colours), x, y, radius))
    return tuple(shapes)


def place_two(rng: random.Random) -> tuple[tuple[Shape, Shape], bool]:
    """Two shapes of different colours, and whether they overlap: half of them clearly do, half clearly do not."""
    overlap = rng.random() < 0.5
    kinds, colours = rng.choices(list(SHAPES), k=2), rng.sample(list(COLOURS), 2)
    if overlap:
        radii = [rng.uniform(0.15, 0.24) for _ in kinds]
        apart = rng.uniform(0.4, 0.85) * sum(r * INNER[kind] for r, kind in zip(radii, kinds, strict=True))
    else:
        radii = [rng.uniform(0.1, 0.17) for _ in kinds]
        apart = rng.uniform(1.15, 1.4) * sum(r * OUTER[kind] for r, kind in zip(radii, kinds, strict=True))
    angle = rng.uniform(0, 2 * math.pi)
    dx, dy = apart * math.cos(angle), apart * math.sin(angle)
    room = [max(r * 1.25 for r in radii) + abs(d) / 2 for d in (dx, dy)]
    x, y = (rng.uniform(min(0.5, r), max(0.5, 1 - r)) for r in room)
    places = ((x - dx / 2, y - dy / 2), (x + dx / 2, y + dy / 2))
    first, second = (
        Shape(kind, colour, *place, radius)
        for kind, colour, place, radius in zip(kinds, colours, places, radii, strict=True)
    )
    return (first, second), overlap


# ---- the picture -----------------------------------------------------------------------------------------------------


def paint_scene(rng: random.Random, shapes: Sequence[Shape]) -> Image.Image:
    """The shapes on a ground that none of them hides in."""
    return paint_with_boxes(rng, shapes)[0]


def paint_with_boxes(
    rng: random.Random, shapes: Sequence[Shape]
) -> tuple[Image.Image, list[tuple[float, float, float, float]]]:
    """The picture, and (left, top, right, bottom) of each shape in its pixels."""
    size = rng.choice((112, 128, 160, 192, 224, 224, 256, 300))
    wide = rng.choice((1.0, 1.0, 1.0, 1.25, 0.8))
    width, height = round(size * min(1.0, wide)), round(size * min(1.0, 1 / wide))
    times = rng.choice((1, 2, 2))
    picture = Image.new("RGB", (width * times, height * times), ground_for(rng, [COLOURS[s.colour] for s in shapes]))
    pen = ImageDraw.Draw(picture)
    outlined, turned = rng.random() < 0.2, rng.random() < 0.3
    boxes: list[tuple[float, float, float, float]] = []
    for shape in shapes:
        points = corners(shape, (width, height), rng.uniform(-0.4, 0.4) if turned else 0.0)
        colour = shade(rng, COLOURS[shape.colour], 12)
        stroke = max(1.5, shape.radius * min(width, height) * 0.22) if outlined else 0.0
        scaled = [(x * times, y * times) for x, y in points]
        if outlined:
            pen.line([*scaled, *scaled[:2]], fill=colour, width=round(stroke * times), joint="curve")
        else:
            pen.polygon(scaled, fill=colour)
        xs, ys = [x for x, _ in points], [y for _, y in points]
        half = stroke / 2
        boxes.append((max(0.0, min(xs) - half), max(0.0, min(ys) - half),
                      min(width, max(xs) + half), min(height, max(ys) + half)))  # fmt: skip
    return picture.resize((width, height), Image.Resampling.BOX) if times > 1 else picture, boxes


def corners(shape: Shape, size: tuple[int, int], turn: float) -> list[Point]:
    """Of a shape turned by so many radians, in the pixels of a picture of that (width, height)."""
    width, height = size
    cos, sin, r = math.cos(turn), math.sin(turn), shape.radius * min(width, height)
    return [
        (shape.x * width + r * (cos * x - sin * y), shape.y * height + r * (sin * x + cos * y))
        for x, y in SHAPES[shape.kind]
    ]


def shade(rng: random.Random, colour: RGB, by: int) -> RGB:
    """A colour that is off by at most so much."""
    red, green, blue = (min(255, max(0, c + rng.randint(-by, by))) for c in colour)
    return red, green, blue


def ground_for(rng: random.Random, colours: Sequence[RGB]) -> RGB:
    """White, light or dark, and far from all of these colours."""
    for _ in range(8):
        light = rng.choice((255, 255, 255, 245, 230, 20))
        ground = shade(rng, (light, light, light), 10 if light < 255 else 0)
        if all(sum(abs(a - b) for a, b in zip(ground, colour, strict=True)) > 150 for colour in colours):
            return ground
    return (255, 255, 255)


def add_noise(rng: random.Random, picture: Image.Image, strength: float) -> Image.Image:
    """Gray noise with so large a standard deviation."""
    pixels = np.asarray(picture, np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(pixels.shape[:2], np.float32)
    return Image.fromarray((pixels + strength * noise[..., None]).clip(0, 255).astype(np.uint8))

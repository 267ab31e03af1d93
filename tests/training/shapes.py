"""Drawn pictures of coloured shapes with captions: the smallest world in which picture and text can meet."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
from PIL import Image, ImageDraw

from internvl.data.records import Pair

COLOURS = {
    "red": (210, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 210), "yellow": (230, 210, 50),
    "black": (25, 25, 25), "white": (240, 240, 240),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross")
SIZE = 56

CAPTIONS = tuple(
    f"a {colour} {shape} on {ground}" for shape, colour, ground in product(SHAPES, COLOURS, COLOURS) if colour != ground
)
"""All 120 of them."""


def draw(caption: str, dice: np.random.Generator) -> Image.Image:
    """A picture of it: the shape anywhere, of any size, in colours that vary, under noise."""
    _, colour, shape, _, ground = caption.split()
    picture = Image.new("RGB", (SIZE, SIZE), _near(COLOURS[ground], dice))
    pen, radius = ImageDraw.Draw(picture), int(dice.integers(9, 17))
    x, y = (int(place) for place in dice.integers(radius + 2, SIZE - radius - 2, size=2))
    left, top, right, bottom = x - radius, y - radius, x + radius, y + radius
    ink = _near(COLOURS[colour], dice)
    match shape:
        case "circle":
            pen.ellipse((left, top, right, bottom), fill=ink)
        case "square":
            pen.rectangle((left, top, right, bottom), fill=ink)
        case "triangle":
            pen.polygon(((x, top), (left, bottom), (right, bottom)), fill=ink)
        case _:
            third = radius // 3
            pen.rectangle((x - third, top, x + third, bottom), fill=ink)
            pen.rectangle((left, y - third, right, y + third), fill=ink)
    noise = dice.normal(0, 8, (SIZE, SIZE, 3))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def pair_of(caption: str, dice: np.random.Generator, name: str) -> Pair:
    """A row of it, with the picture as the bytes of a file; every picture is another one."""
    file = io.BytesIO()
    draw(caption, dice).save(file, "PNG")
    return Pair(name, file.getvalue(), caption)


def _near(colour: tuple[int, int, int], dice: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(min(255, max(0, value + dice.integers(-15, 16)))) for value in colour)
    return red, green, blue

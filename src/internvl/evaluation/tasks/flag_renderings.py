"""Flags as they are met outside of a table of flags: waved, photographed, blurred, cropped; a seed decides how.

    render("waved", flag, random.Random(7))

It shares nothing with the pictures that the embedded model learns from, so that it asks for flags and not for a way of
drawing them.
"""

from __future__ import annotations

import io
import math
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

WIDTH = 224
"""Of a flag before it is changed, in pixels."""
Floats = NDArray[np.float64]


def render(rendering: str, flag: Image.Image, rng: random.Random) -> Image.Image:
    """One of `RENDERINGS`; KeyError for any other."""
    size = WIDTH, max(32, round(WIDTH * flag.height / flag.width))
    return RENDERINGS[rendering](flag.convert("RGB").resize(size, Image.Resampling.LANCZOS), rng)


def waved(flag: Image.Image, rng: random.Random) -> Image.Image:
    """Cloth in the wind, held at the left by a pole, before a sky: its folds grow with the distance and run askew."""
    margin = 34
    width, height = flag.width + 2 * margin, flag.height + 2 * margin
    y, x = np.mgrid[0:height, 0:width].astype(float)
    along = np.clip((x - margin) / flag.width, 0.0, 1.0)
    angle = 2 * math.pi * rng.uniform(1.0, 1.9) * along + rng.uniform(0.2, 0.9) * y / height + rng.uniform(0, 6.3)
    depth = rng.uniform(0.05, 0.09) * flag.height * np.sqrt(along)
    at_x, at_y = x - margin, y - margin - depth * np.sin(angle) - rng.uniform(-0.06, 0.14) * flag.height * along
    light = 1 + rng.uniform(0.12, 0.28) * np.cos(angle) * np.sqrt(along)
    page = _sky(width, height, rng)
    inside = (at_x >= 0) & (at_x <= flag.width - 1) & (at_y >= 0) & (at_y <= flag.height - 1)
    cloth = _sample(np.asarray(flag, float), at_x, at_y) * light[..., None]
    picture = _picture(np.where(inside[..., None], cloth, page))
    ImageDraw.Draw(picture).rectangle((margin - 7, margin // 2, margin - 1, height), fill=rng.choice(POLES))
    return picture.filter(ImageFilter.GaussianBlur(0.6))


def photographed(flag: Image.Image, rng: random.Random) -> Image.Image:
    """Hung on a wall of bricks or boards and seen from the side, under uneven light of some colour, as JPEG."""
    width, height = round(flag.width * rng.uniform(1.35, 1.7)), round(flag.height * rng.uniform(1.35, 1.8))
    page = _wall(width, height, rng)
    left, top = rng.uniform(0.06, 0.3) * width, rng.uniform(0.06, 0.3) * height
    right, bottom = left + rng.uniform(0.9, 1.0) * flag.width, top + rng.uniform(0.9, 1.0) * flag.height
    give = 0.09 * flag.height
    corners = [(x + rng.uniform(-give, give), y + rng.uniform(-give, give))
               for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]  # fmt: skip
    cloth = flag.transform((width, height), Image.Transform.PERSPECTIVE, _perspective(flag.size, corners),
                           Image.Resampling.BICUBIC)  # fmt: skip
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    shadow = mask.transform(mask.size, Image.Transform.AFFINE, (1, 0, -4, 0, 1, -5))
    shadow = shadow.filter(ImageFilter.GaussianBlur(4)).point(_third)
    page.paste((0, 0, 0), (0, 0), shadow)
    page.paste(cloth, (0, 0), mask.filter(ImageFilter.GaussianBlur(0.7)))
    return _through_a_lens(page, rng)


def blurred(flag: Image.Image, rng: random.Random) -> Image.Image:
    """Out of focus, or moved while the shutter was open."""
    page = Image.new("RGB", (flag.width + 24, flag.height + 24), rng.choice(GREYS))
    page.paste(flag, (12, 12))
    if rng.random() < 0.5:
        return page.filter(ImageFilter.GaussianBlur(rng.uniform(0.012, 0.025) * flag.width))
    steps, angle = 15, rng.uniform(0, math.pi)
    reach = rng.uniform(0.03, 0.06) * flag.width
    moved = [page.transform(page.size, Image.Transform.AFFINE,
                            (1, 0, reach * (step / (steps - 1) - 0.5) * math.cos(angle),
                             0, 1, reach * (step / (steps - 1) - 0.5) * math.sin(angle)), Image.Resampling.BILINEAR)
             for step in range(steps)]  # fmt: skip
    whole = np.mean([np.asarray(one, float) for one in moved], axis=0)
    reach = math.ceil(reach / 2)
    return _picture(whole).crop((reach, reach, page.width - reach, page.height - reach))


def cropped(flag: Image.Image, rng: random.Random) -> Image.Image:
    """Seven to nine tenths of each side."""
    width, height = (round(rng.uniform(0.7, 0.9) * side) for side in flag.size)
    left, top = rng.randint(0, flag.width - width), rng.randint(0, flag.height - height)
    return flag.crop((left, top, left + width, top + height))


RENDERINGS = {"waved": waved, "photographed": photographed, "blurred": blurred, "cropped": cropped}
POLES = ((70, 70, 74), (214, 214, 210), (120, 84, 50))
GREYS = ((250, 250, 250), (205, 205, 205), (128, 128, 128), (60, 62, 66))
WALLS = ((150, 84, 66), (186, 170, 148), (104, 112, 120), (132, 100, 70))

# ---- what is around a flag -------------------------------------------------------------------------------------------


def _sky(width: int, height: int, rng: random.Random) -> Floats:
    """Blue that pales towards the ground, with soft clouds."""
    fall = np.linspace(0, 1, height)[:, None, None]
    top = np.array([rng.uniform(70, 130), rng.uniform(130, 180), rng.uniform(200, 240)])
    page = np.broadcast_to(top * (1 - fall) + np.array([215.0, 225.0, 235.0]) * fall, (height, width, 3))
    clouds = _smooth(width, height, rng).clip(0.5, 1.0) * 2 - 1
    return page * (1 - clouds[..., None]) + 250 * clouds[..., None]


def _wall(width: int, height: int, rng: random.Random) -> Image.Image:
    """Rows of bricks, or boards, no two of the same shade."""
    colour, bricks = rng.choice(WALLS), rng.random() < 0.5
    page = Image.new("RGB", (width, height), tuple(round(0.6 * value) for value in colour))
    pen, tall, wide = ImageDraw.Draw(page), rng.randint(14, 30), rng.randint(40, 70) if bricks else width
    for row, y in enumerate(range(0, height, tall)):
        for x in range(-(row % 2) * wide // 2, width, wide):
            shade = rng.uniform(0.85, 1.1)
            fill = tuple(round(min(255, shade * value)) for value in colour)
            pen.rectangle((x, y, x + wide - 3, y + tall - 3), fill=fill)
    return page.filter(ImageFilter.GaussianBlur(1.0))


def _through_a_lens(page: Image.Image, rng: random.Random) -> Image.Image:
    """Uneven light, a cast of colour, grain, a little out of focus, and what JPEG leaves of it."""
    noise = np.random.default_rng(rng.getrandbits(64))
    pixels = np.asarray(page.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9))), float)
    light = 0.7 + 0.5 * _smooth(page.width, page.height, rng)
    cast = np.array([rng.uniform(0.9, 1.08) for _ in range(3)])
    pixels = pixels * light[..., None] * cast + noise.normal(0, rng.uniform(2, 7), pixels.shape)
    file = io.BytesIO()
    _picture(pixels).save(file, "JPEG", quality=rng.randint(55, 85))
    return Image.open(file).convert("RGB")


# ---- arithmetic ------------------------------------------------------------------------------------------------------


def _third(value: int) -> float:
    return value / 3


def _picture(pixels: Floats) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _smooth(width: int, height: int, rng: random.Random) -> Floats:
    """Values from 0 to 1 that change slowly over a picture."""
    coarse = np.array([[rng.randint(0, 255) for _ in range(5)] for _ in range(4)], np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), float) / 255


def _sample(pixels: Floats, x: Floats, y: Floats) -> Floats:
    """The pixels at these places, each from the four around it; places outside take those at the edge."""
    x, y = x.clip(0, pixels.shape[1] - 1), y.clip(0, pixels.shape[0] - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, below = np.minimum(left + 1, pixels.shape[1] - 1), np.minimum(top + 1, pixels.shape[0] - 1)
    u, v = (x - left)[..., None], (y - top)[..., None]
    upper = pixels[top, left] * (1 - u) + pixels[top, right] * u
    return upper * (1 - v) + (pixels[below, left] * (1 - u) + pixels[below, right] * u) * v


def _perspective(size: tuple[int, int], corners: list[tuple[float, float]]) -> tuple[Any, ...]:
    """Pillow's eight numbers that put a picture's corners (from the top left, clockwise) onto these."""
    width, height = size
    rows, known = [], []
    for (x, y), (u, v) in zip(corners, ((0, 0), (width, 0), (width, height), (0, height)), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        known += [u, v]
    return tuple(np.linalg.solve(np.array(rows, float), np.array(known, float)).tolist())

"""Drawn pictures as a telephone photographs them: tilted, bent, unevenly lit, blurred, on a page among other print.

    picture = photograph(rng, picture)                   # a little of everything, as strong as `strength` says
    page = newsprint(rng, (300, 400), kit)               # a ground of paper with lines of small print
    picture = warp(picture, (224, 224), some_tilt(rng, 0.2))

Nothing is mirrored and nothing is turned far: what could be read stays readable, and rows stay rows.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from internvl.nano.sample import Kit

RGB = tuple[int, int, int]
Point = tuple[float, float]
SQUARE: tuple[Point, ...] = ((0, 0), (1, 0), (1, 1), (0, 1))
"""The corners of a picture whose sides are 1, clockwise from the upper left."""


@functools.lru_cache(maxsize=4096)
def font_at(path: Path | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of this height; None: the one inside Pillow."""
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(str(path), size)


def some_font(rng: random.Random, kit: Kit) -> Path | None:
    """Two times of three a plain one."""
    fonts = kit.plain if kit.plain and rng.random() < 2 / 3 else kit.fonts
    return rng.choice(fonts) if fonts else None


# ---- place -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tilt:
    """Where a picture lies in another: its corners as shares of the other's width and height, and how it is bent.

    >>> Tilt().source(0.25, 0.5)
    (0.25, 0.5)
    """

    corners: tuple[Point, ...] = SQUARE
    """Upper left, upper right, lower right, lower left."""
    curl: float = 0.0
    """How far the middle lies above the edges, as a share of the height; below 0 it lies under them."""
    across: float = 0.0
    """The same of the columns, as a share of the width."""

    @functools.cached_property
    def matrix(self) -> np.ndarray:
        """From the other's places to the picture's own, in homogeneous coordinates."""
        rows, wanted = [], []
        for (x, y), (u, v) in zip(self.corners, SQUARE, strict=True):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
            wanted += [u, v]
        return np.append(np.linalg.solve(np.array(rows, float), np.array(wanted, float)), 1.0).reshape(3, 3)

    def target(self, u: float, v: float) -> Point:
        """Where a place of the picture comes to lie in the other, as shares, but for what it is bent."""
        x, y, w = (float(row) for row in np.linalg.inv(self.matrix) @ (u, v, 1.0))
        return x / w, y / w

    def source(self, x: float, y: float) -> Point:
        """What is seen at this place of the other: where in the picture itself, as shares."""
        u, v, w = (float(row) for row in self.matrix @ (x, y, 1.0))
        u, v = u / w, v / w
        return u + self.across * math.sin(math.pi * v), v + self.curl * math.sin(math.pi * u)


def some_tilt(rng: random.Random, strength: float, margin: float = 0.0) -> Tilt:
    """Seen from the side, turned and bent; at strength 1 a corner moves by up to a tenth of the side."""
    angle = math.radians(rng.gauss(0, 4) * strength)
    cos, sin = math.cos(angle), math.sin(angle)
    corners = []
    for u, v in SQUARE:
        x, y = (u - 0.5) * (1 - 2 * margin), (v - 0.5) * (1 - 2 * margin)
        x, y = cos * x - sin * y + 0.5, sin * x + cos * y + 0.5
        corners.append((x + rng.uniform(-0.1, 0.1) * strength, y + rng.uniform(-0.1, 0.1) * strength))
    bent = rng.random() < 0.5
    curl, across = (rng.gauss(0, 0.02) * strength if bent else 0.0 for _ in range(2))
    return Tilt(tuple(corners), curl, across)


def warp(
    picture: Image.Image, size: tuple[int, int], tilt: Tilt, *, fill: RGB | None = (255, 255, 255), steps: int = 6
) -> Image.Image:
    """The picture laid into another of this size; what it does not reach is `fill`, or black without."""
    width, height = size
    xs = [round(i * width / steps) for i in range(steps + 1)]
    ys = [round(i * height / steps) for i in range(steps + 1)]
    points = {}
    for x in xs:
        for y in ys:
            u, v = tilt.source(x / width, y / height)
            points[x, y] = (u * picture.width, v * picture.height)
    mesh = []
    for left, right in itertools.pairwise(xs):
        for top, bottom in itertools.pairwise(ys):
            corners = ((left, top), (left, bottom), (right, bottom), (right, top))  # as Pillow wants them
            mesh.append(((left, top, right, bottom), tuple(c for corner in corners for c in points[corner])))
    return picture.transform(
        size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR, fillcolor=fill if picture.mode == "RGB" else 0
    )


# ---- light -----------------------------------------------------------------------------------------------------------


def uneven_light(rng: random.Random, picture: Image.Image, strength: float = 1.0) -> Image.Image:
    """Brighter on one side, a colour cast, sometimes the shadow of a hand or of the page's fold."""
    width, height = picture.size
    ys, xs = np.mgrid[0:1:9j, 0:1:9j].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    along = (xs - 0.5) * math.cos(angle) + (ys - 0.5) * math.sin(angle)
    light = 1 - 0.12 * strength + rng.uniform(0, 0.45) * strength * along
    if rng.random() < 0.35:  # darker towards the corners
        light -= rng.uniform(0.1, 0.5) * strength * ((xs - 0.5) ** 2 + (ys - 0.5) ** 2)
    if rng.random() < 0.3:  # a shadow with a soft edge
        turn, at = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.45)
        edge = (xs - 0.5) * math.cos(turn) + (ys - 0.5) * math.sin(turn) - at
        light *= 1 - rng.uniform(0.15, 0.45) * strength / (1 + np.exp(-edge * rng.uniform(8, 40)))
    cast = np.array([1 + rng.gauss(0, 0.07) * strength for _ in range(3)], np.float32)
    light = light.clip(0.4)
    field = (255 * light[..., None] * cast / max(1.0, float(cast.max()))).clip(0, 255).astype(np.uint8)
    shade = Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC)
    return ImageChops.multiply(picture, shade)


def faded(rng: random.Random, picture: Image.Image, least: float = 0.35) -> Image.Image:
    """Less contrast: black is printed gray, and white is paper in a room."""
    low = rng.uniform(0, 90)
    high = rng.uniform(max(150.0, low + 255 * least), 255)
    table = [round(low + (high - low) * value / 255) for value in range(256)]
    return picture.point(table * len(picture.getbands()))


def grain(rng: random.Random, picture: Image.Image, strength: float) -> Image.Image:
    """Noise of this standard deviation, the same in all colours."""
    noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(picture.size[::-1], np.float32)
    pixels = np.asarray(picture.convert("RGB"), np.float32) + strength * noise[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def squeezed(rng: random.Random, picture: Image.Image, least: int = 25) -> Image.Image:
    """As a JPEG file of some quality gives it back."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=rng.randint(least, 85))
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def blurred(rng: random.Random, picture: Image.Image, radius: float) -> Image.Image:
    """Out of focus, or shaken: a blur of up to this radius in pixels."""
    if rng.random() < 0.25 and radius >= 1:
        middle, weights = 2, [0.0] * 25
        step = rng.choice(((1, 0), (0, 1), (1, 1), (1, -1)))
        for i in (-1, 0, 1):
            weights[(middle + i * step[1]) * 5 + middle + i * step[0]] = 1.0
        return picture.filter(ImageFilter.Kernel((5, 5), weights))
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, max(0.2, radius))))


def photograph(rng: random.Random, picture: Image.Image, strength: float = 1.0, *, tilt: bool = True) -> Image.Image:
    """The picture as a telephone takes it: any of tilt, blur, light, pale colours, grain and JPEG, at random."""
    if tilt and rng.random() < 0.8:
        picture = warp(picture, picture.size, some_tilt(rng, 0.5 * strength), fill=edge_colour(picture))
    if rng.random() < 0.6:
        picture = blurred(rng, picture, min(1.6, max(picture.size) / 160) * strength)
    if rng.random() < 0.4:
        picture = faded(rng, picture, 0.6 - 0.2 * min(1.0, strength))
    if rng.random() < 0.8:
        picture = uneven_light(rng, picture, strength)
    if rng.random() < 0.5:
        picture = grain(rng, picture, rng.uniform(1, 9) * strength)
    if rng.random() < 0.4:
        picture = squeezed(rng, picture)
    return picture


def edge_colour(picture: Image.Image) -> RGB:
    """The mean of the four corners."""
    width, height = picture.size
    found = [picture.getpixel((x, y)) for x in (0, width - 1) for y in (0, height - 1)]
    red, green, blue = (sum(c[i] for c in found) // 4 for i in range(3))  # type: ignore[index, misc]
    return red, green, blue


# ---- paper -----------------------------------------------------------------------------------------------------------


def paper_colour(rng: random.Random) -> RGB:
    """White to newspaper gray, with a hint of a colour."""
    base = rng.choice((255, 250, 240, 225, 205))
    red, green, blue = (min(255, max(0, base + rng.randint(-10, 6))) for _ in range(3))
    return red, green, blue


SHEETS, SHEET_SIDE = 32, 640


@functools.lru_cache(maxsize=SHEETS)
def sheet(kit: Kit, number: int) -> Image.Image:
    """One of the masks that all print is cut out of: lines of words in one font, in columns. Text costs time."""
    rng = random.Random(number)
    mask = Image.new("L", (SHEET_SIDE, SHEET_SIDE), 0)
    height = 7 + number % 8 * 2
    pen, font = ImageDraw.Draw(mask), font_at(some_font(rng, kit), height)
    columns = 1 + number // 8
    wide, gap = SHEET_SIDE / columns, height * rng.uniform(1.1, 1.5)
    letters = max(4, round(wide * 0.95 / (0.52 * height)))
    for column in range(columns):
        for row in range(int((SHEET_SIDE - height) / gap)):
            line = " ".join(rng.choice(kit.words) for _ in range(2 + letters // 4))[:letters]
            if rng.random() < 0.12:  # the last line of a paragraph
                line = line[: rng.randint(1, letters)]
            pen.text((column * wide, row * gap), line, 255, font)
    return mask


def print_lines(
    rng: random.Random, page: Image.Image, kit: Kit, box: Sequence[float], ink: RGB, strength: float = 1.0
) -> None:
    """Fills a box of the page with small print, left aligned; a strength below 1 shines through paper, mirrored."""
    left, top, right, bottom = (round(v) for v in box)
    if right - left < 4 or bottom - top < 4:
        return
    y = rng.randint(0, max(0, SHEET_SIDE - (bottom - top)))
    mask = sheet(kit, rng.randrange(SHEETS)).crop((0, y, right - left, y + bottom - top))
    if strength < 1:
        mask = mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT).point([round(v * strength) for v in range(256)])
    page.paste(ink, (left, top), mask)


def newsprint(
    rng: random.Random, size: tuple[int, int], kit: Kit, *, ink: RGB = (40, 40, 40), paper: RGB | None = None
) -> Image.Image:
    """A page of columns of small print, sometimes with the other side shining through."""
    page = Image.new("RGB", size, paper or paper_colour(rng))
    if rng.random() < 0.25:
        print_lines(rng, page, kit, (0, 0, *size), ink, rng.uniform(0.08, 0.2))
    print_lines(rng, page, kit, (rng.randint(-40, 0), 0, *size), ink)
    return page

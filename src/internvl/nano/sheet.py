"""Rows of text set on a sheet of paper and scanned: what receipts, invoices and forms are painted with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from internvl.nano.lines import font, pick_font
from internvl.nano.sample import Kit
from internvl.nano.shapes import RGB, add_noise

LEFT, MIDDLE, RIGHT = 0.0, 0.5, 1.0
SMALLEST = 8.0
"""Pixels that letters are never made smaller than."""


@dataclass(frozen=True)
class Part:
    """A text whose left end, middle or right end stands at a place across the sheet: for `at` 0.4 and `side` RIGHT it
    ends at 0.4 of the width."""

    text: str
    at: float
    side: float
    boxed: bool = False
    """With a frame around it, as in forms."""


@dataclass(frozen=True)
class Row:
    """One line of print, or a rule, or nothing."""

    parts: tuple[Part, ...] = ()
    rule: str = ""
    """"-" or "=" is printed all across, "_" is a drawn line."""
    scale: float = 1.0
    bold: bool = False

    @property
    def text(self) -> str:
        """What it says, from left to right."""
        return " ".join(part.text for part in self.parts)


def left(text: str, *, scale: float = 1.0) -> Row:
    return Row((Part(text, 0.0, LEFT),), scale=scale)


def middle(text: str, *, scale: float = 1.0, bold: bool = False) -> Row:
    return Row((Part(text, 0.5, MIDDLE),), scale=scale, bold=bold)


def ends(first: str, last: str, *, bold: bool = False, scale: float = 1.0) -> Row:
    """One text on the left and one on the right."""
    return Row((Part(first, 0.0, LEFT), Part(last, 1.0, RIGHT)), bold=bold, scale=scale)


@dataclass(frozen=True)
class Print:
    """How a sheet is printed."""

    width: int
    regular: Path | None
    bold: Path | None
    size: float
    """Of the letters, in pixels; rows that do not fit make it smaller."""
    pitch: float
    """Between rows, in sizes."""
    ink: RGB
    paper: RGB


SCANNED = ("DejaVuSansMono", "LiberationMono-Regular", "LiberationSans-Regular", "FreeMono", "NotoSansMono-Regular",
           "LiberationSansNarrow-Regular", "Inconsolata-Regular", "DejaVuSansCondensed", "LiberationSerif-Regular",
           "RobotoCondensed-Regular", "FreeSans", "Hack-Regular", "texgyrecursor-regular")  # fmt: skip
"""Fonts that look like those of tills."""


def pick_print(rng: random.Random, kit: Kit, *, width: int, letters: float) -> Print:
    """Dark gray on nearly white; two of three in a font of tills, if the kit has them."""
    tills = [path for path in kit.fonts if path.stem in SCANNED]
    path = rng.choice(tills) if tills and rng.random() < 0.67 else pick_font(rng, kit)
    heavy = [] if path is None else [p for p in kit.fonts if p.stem in bold_names(path.stem)]
    ink = rng.choice((0, rng.randint(0, 70), rng.randint(40, 130)))
    paper = rng.choice((255, rng.randint(225, 255)))
    tint = rng.choice((0, 0, rng.randint(0, 14)))
    return Print(width, path, heavy[0] if heavy else path, letters * width / 224, rng.uniform(1.12, 1.4),
                 (ink, ink, ink + rng.choice((0, 0, 25))), (paper, paper, paper - tint))  # fmt: skip


def bold_names(stem: str) -> tuple[str, ...]:
    """What the bold font of the same family may be called."""
    base = stem.removesuffix("-Regular").removesuffix("-regular")
    return f"{base}-Bold", f"{base}Bold", f"{base}-bold"


def set_rows(rows: Sequence[Row], look: Print) -> Image.Image:
    """The sheet as printed, as high as its rows."""
    margin = max(3, round(look.width * 0.025))
    inner = look.width - 2 * margin
    while look.size > SMALLEST and any(crowded(row, look, inner) for row in rows):
        look = replace(look, size=look.size * 0.94)
    step = look.size * look.pitch
    height = round(2 * margin + sum(step * (row.scale if row.parts or row.rule else 0.6) for row in rows))
    picture = Image.new("RGB", (look.width, height), look.paper)
    pen = ImageDraw.Draw(picture)
    y = float(margin)
    for row in rows:
        down = step * (row.scale if row.parts or row.rule else 0.6)
        if row.rule:
            _rule(pen, row.rule, (margin, look.width - margin, y + down / 2), look)
        for part, (start, end) in zip(row.parts, spans(row, look, inner), strict=True):
            pen.text((margin + start, y), part.text, fill=look.ink, font=_face(row, look))
            if part.boxed:
                pen.rectangle((margin + start - 3, y, margin + end + 3, y + down - 1), outline=look.ink)
        y += down
    return picture


def _face(row: Row, look: Print) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return font(look.bold if row.bold else look.regular, max(7, round(look.size * row.scale)))


def spans(row: Row, look: Print, inner: float) -> list[tuple[float, float]]:
    """From where to where each part goes across the sheet; one that would leave it is moved inside."""
    face, found = _face(row, look), list[tuple[float, float]]()
    for part in row.parts:
        long = face.getlength(part.text)
        start = max(0.0, min(part.at * inner - part.side * long, inner - long))
        found.append((start, start + long))
    return found


def crowded(row: Row, look: Print, inner: float) -> bool:
    """Whether a part leaves the sheet or stands too near to the next."""
    found = spans(row, look, inner)
    near = any(a[1] + 0.4 * look.size > b[0] for a, b in pairwise(found))
    return near or any(end > inner for _, end in found)


def _rule(pen: ImageDraw.ImageDraw, sign: str, place: tuple[float, float, float], look: Print) -> None:
    first, last, y = place
    if sign == "_":
        pen.line((first, y, last, y), fill=look.ink)
        return
    face = font(look.regular, max(7, round(look.size)))
    count = int((last - first) / face.getlength(sign))
    pen.text((first, y - look.size * 0.55), sign * count, fill=look.ink, font=face)


def scan(rng: random.Random, picture: Image.Image, look: Print) -> Image.Image:
    """On a scanner: a little turned, unevenly lit, faint in places, noisy, marked by hand."""
    if rng.random() < 0.5:
        border = rng.randint(2, 16), rng.randint(2, 24)
        wide = Image.new("RGB", (picture.width + 2 * border[0], picture.height + 2 * border[1]), look.paper)
        wide.paste(picture, border)
        picture = wide
    if rng.random() < 0.15:
        tick(rng, picture)
    if rng.random() < 0.3:
        picture = picture.rotate(rng.uniform(-1.2, 1.2), Image.Resampling.BILINEAR, fillcolor=look.paper)
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.6)))
    if rng.random() < 0.3:
        picture = fade(rng, picture)
    return add_noise(rng, picture, rng.uniform(2, 9)) if rng.random() < 0.4 else picture


def tick(rng: random.Random, picture: Image.Image) -> None:
    """A stroke or a ring of a pen near the edge."""
    pen = ImageDraw.Draw(picture)
    x, y = rng.uniform(0.78, 0.95) * picture.width, rng.uniform(0.05, 0.95) * picture.height
    size = rng.uniform(6, 14)
    colour = rng.choice(((30, 30, 30), (40, 60, 160), (170, 40, 40)))
    if rng.random() < 0.5:
        pen.line((x - size, y, x - size / 3, y + size * 0.7, x + size, y - size), fill=colour, width=1)
    else:
        pen.ellipse((x - 2 * size, y - size * 0.7, x + size, y + size * 0.7), outline=colour)


def fade(rng: random.Random, picture: Image.Image) -> Image.Image:
    """Brighter or darker towards one side, by a fifth at most."""
    pixels = np.asarray(picture, np.float32)
    amount = rng.uniform(-0.15, 0.2)
    along = np.linspace(0, 1, pixels.shape[rng.randrange(2)], dtype=np.float32)
    light = along[:, None, None] if len(along) == pixels.shape[0] else along[None, :, None]
    faded = pixels + (255 - pixels) * amount * light if amount > 0 else pixels * (1 + amount * light)
    return Image.fromarray(faded.clip(0, 255).astype(np.uint8))

"""Small bar, line and pie charts, legible at 224 pixels across, the plain ones at 112."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from internvl.nano.asking import some_language
from internvl.nano.chart_questions import KINDS, Chart, Kind, ask_chart, some_chart
from internvl.nano.compare import with_noise
from internvl.nano.sample import Kit, Sample
from internvl.nano.shapes import COLOURS, RGB

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[float, float, float, float]


@functools.lru_cache(maxsize=4096)
def font_of(path: Path | None, size: int) -> Font:
    """None: the font inside Pillow."""
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(str(path), size)


def some_font(rng: random.Random, kit: Kit) -> Path | None:
    """A plain one most of the time."""
    fonts = kit.plain if kit.plain and rng.random() < 0.7 else kit.fonts
    return rng.choice(fonts) if fonts and rng.random() < 0.95 else None


@dataclass(frozen=True)
class Style:
    """How a chart is drawn."""

    size: tuple[int, int]
    font: Path | None
    text: int
    """Height of letters in pixels."""
    paper: RGB
    ink: RGB
    grid: RGB | None
    shades: Mapping[str, RGB]
    fill: float
    """Part of its room that a bar takes."""
    edged: bool
    lying: bool
    """Bars from left to right."""
    legend: bool
    """Of a pie: colours are explained beside it, not written on the slices."""
    framed: bool
    double: bool
    """Drawn twice as large, then halved: soft edges."""


def some_style(rng: random.Random, kit: Kit, chart: Chart, *, plain: bool) -> Style:
    """Bright paper as a rule; letters grow with the picture, which is large enough to be cut into tiles."""
    width = rng.randint(160 if plain else 200, 320)
    aspect = rng.choice((1.0, 1.2, 1.3, 1.4)) if rng.random() < 0.85 else rng.choice((0.9, 1.8))
    text = width * (rng.uniform(0.085, 0.1) if plain else rng.uniform(0.052, 0.064))
    if aspect > 1.5:
        text *= 1.2
    dark = rng.random() < 0.1
    tint = rng.choice((0, 0, 0, 12))
    base = 30 if dark else 255 - tint
    paper = base, min(255, base + rng.randint(-tint, tint)), min(255, base + rng.randint(-tint, tint))
    ink = rng.randint(0, 70)
    gray = rng.randint(190, 230)
    shades: dict[str, RGB] = {}
    for colour in chart.colours:
        red, green, blue = (min(255, max(0, c + rng.randint(-15, 15))) for c in COLOURS[colour])
        shades[colour] = (red, green, blue)
    if dark and "black" in shades:
        dark, paper = False, (255, 255, 255)
    return Style(
        size=(width, round(width / aspect)),
        font=some_font(rng, kit),
        text=max(9, round(text)),
        paper=paper,
        ink=(255 - ink, 255 - ink, 255 - ink) if dark else (ink, ink, ink),
        grid=None if rng.random() < 0.35 else (80, 80, 80) if dark else (gray, gray, gray),
        shades=shades,
        fill=rng.uniform(0.4, 0.85),
        edged=rng.random() < 0.25,
        lying=chart.kind == "bar" and rng.random() < 0.3,
        legend=rng.random() < 0.5,
        framed=rng.random() < 0.25,
        double=rng.random() < 0.5,
    )


def draw_chart(rng: random.Random, kit: Kit) -> Sample:
    """Bars, a line or two, or a pie, and one to three questions."""
    return draw_kind(rng, kit, rng.choices(("bar", "line", "pie"), (5, 3, 3))[0])


PATIENCE = 6
"""Styles that are tried before a chart is given up."""


def draw_kind(rng: random.Random, kit: Kit, kind: Kind) -> Sample:
    """A chart of one kind."""
    asker, plain = some_language(rng), rng.random() < 0.25
    chart, picture = _fitting(rng, kit, kind, plain=plain)
    if rng.random() < 0.15:
        picture = with_noise(rng, picture, rng.uniform(2, 7))
    asked = ask_chart(rng, asker, chart)
    names = ", ".join(chart.names[:-1]) + f" and {chart.names[-1]}"
    caption = f"a {KINDS[kind][0]} of {names}" + (f", titled {chart.title}" if chart.title else "")
    label = f"{KINDS[kind][0]}, {len(chart.names)}"
    return Sample("chart", (picture,), tuple(a.turn for a in asked), label, caption, asked[0].wrong)


def _fitting(rng: random.Random, kit: Kit, kind: Kind, *, plain: bool) -> tuple[Chart, Image.Image]:
    """A chart in a style that has room for it."""
    while True:
        chart = some_chart(rng, kit, kind, most=3 if plain else 6)
        for _ in range(PATIENCE):
            picture = paint(chart, some_style(rng, kit, chart, plain=plain))
            if picture is not None:
                return chart, picture


# ---- painting --------------------------------------------------------------------------------------------------------


class Crowded(Exception):
    """A text has no room."""


class Sheet:
    """A picture in the making. Coordinates are pixels of the finished one."""

    def __init__(self, style: Style) -> None:
        self.style = style
        self.times = 2 if style.double else 1
        self.width, self.height = style.size
        self.picture = Image.new("RGB", (self.width * self.times, self.height * self.times), style.paper)
        self.pen = ImageDraw.Draw(self.picture)
        self.font = font_of(style.font, style.text * self.times)

    def wide(self, text: str) -> float:
        return self.font.getbbox(text)[2] / self.times

    def write(self, at: tuple[float, float], text: str, anchor: str, *, room: float, ink: RGB | None = None) -> None:
        """Text around this point; raises Crowded where it is wider than its room, or leaves the picture."""
        wide, z = self.wide(text), self.times
        left = at[0] - wide * {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]]
        if wide > room or left < 0 or left + wide > self.width:
            raise Crowded(text)
        left_top = (left * z, (at[1] - self.style.text * {"t": 0.0, "m": 0.5, "b": 1.0}[anchor[1]]) * z)
        drop = self.font.getbbox("x0X")
        lift = (self.style.text * z - (drop[3] - drop[1])) / 2 - drop[1]
        self.pen.text((left_top[0], left_top[1] + lift), text, fill=ink or self.style.ink, font=self.font)

    def box(self, box: Box, fill: RGB, *, edged: bool = False) -> None:
        left, top, right, bottom = (round(at * self.times) for at in box)
        self.pen.rectangle((left, top, right - 1, bottom - 1), fill, self.style.ink if edged else None, self.times)

    def line(self, *points: tuple[float, float], fill: RGB, width: float = 1.0) -> None:
        scaled = [(x * self.times, y * self.times) for x, y in points]
        self.pen.line(scaled, fill=fill, width=max(1, round(width * self.times)), joint="curve")

    def disc(self, at: tuple[float, float], radius: float, fill: RGB) -> None:
        x, y, r = at[0] * self.times, at[1] * self.times, radius * self.times
        self.pen.ellipse((x - r, y - r, x + r, y + r), fill)

    def done(self) -> Image.Image:
        return self.picture.reduce(2) if self.style.double else self.picture


def paint(chart: Chart, style: Style) -> Image.Image | None:
    """The picture, or None where its texts would not fit."""
    sheet = Sheet(style)
    gap = style.text
    left, top, right, bottom = 0.5 * gap, 0.5 * gap, sheet.width - 0.5 * gap, sheet.height - 0.4 * gap
    try:
        if chart.title:
            sheet.write((sheet.width / 2, top), chart.title, "mt", room=right - left)
            top += 1.5 * gap
        if len(chart.series) > 1:
            top = _legend_line(sheet, chart, (left, top, right))
        area = (left, top, right, bottom)
        if chart.kind == "pie":
            _paint_pie(sheet, chart, area)
        elif style.lying:
            _paint_lying(sheet, chart, area)
        else:
            _paint_standing(sheet, chart, area)
    except Crowded:
        return None
    return sheet.done()


def _legend_line(sheet: Sheet, chart: Chart, place: tuple[float, float, float]) -> float:
    """Both series beside each other; returns where it ends."""
    gap, (x, y, right) = sheet.style.text, place
    for name, colour in zip(chart.series, chart.colours, strict=True):
        sheet.box((x, y + 0.1 * gap, x + 0.8 * gap, y + 0.9 * gap), sheet.style.shades[colour])
        sheet.write((x + 1.1 * gap, y), name, "lt", room=right - x - 1.1 * gap)
        x += 2.0 * gap + sheet.wide(name)
    return y + 1.6 * gap


def _ticks(chart: Chart) -> list[int]:
    return list(range(0, chart.top + 1, chart.step))


def _paint_standing(sheet: Sheet, chart: Chart, area: Box) -> None:
    """Axis, grid and names, then bars or lines."""
    style, gap = sheet.style, sheet.style.text
    ticks = [chart.text(tick) for tick in _ticks(chart)]
    left, top = (
        area[0] + max(sheet.wide(t) for t in ticks) + 0.4 * gap,
        area[1] + (1.1 * gap if chart.labelled else 0.5 * gap),
    )
    right, bottom = area[2], area[3] - 1.3 * gap
    scale = (bottom - top) / chart.top
    if scale * chart.step < 1.05 * gap:
        raise Crowded("ticks")
    for tick, text in zip(_ticks(chart), ticks, strict=True):
        y = bottom - tick * scale
        sheet.write((left - 0.4 * gap, y), text, "rm", room=left)
        if style.grid and tick:
            sheet.line((left, y), (right, y), fill=style.grid)
    room = (right - left) / len(chart.names)
    for at, name in enumerate(chart.names):
        sheet.write((left + (at + 0.5) * room, bottom + 0.3 * gap), name, "mt", room=0.95 * room)
    if style.framed:
        sheet.line((left, top), (right, top), (right, bottom), fill=style.ink)
    sheet.line((left, top), (left, bottom), (right, bottom), fill=style.ink)
    (_lines if chart.kind == "line" else _bars)(sheet, chart, (left, bottom, room, scale))


def _bars(sheet: Sheet, chart: Chart, axes: Box) -> None:
    style, gap, (left, bottom, room, scale) = sheet.style, sheet.style.text, axes
    wide = room * style.fill / len(chart.series)
    for row, values in enumerate(chart.values):
        for at, value in enumerate(values):
            x = left + (at + 0.5) * room + wide * (row - len(chart.series) / 2)
            shade = style.shades[chart.colours[at if chart.one_colour_each else row]]
            sheet.box((x, bottom - value * scale, x + wide, bottom), shade, edged=style.edged)
            if chart.labelled:
                most = room / len(chart.series)
                sheet.write((x + wide / 2, bottom - value * scale - 0.1 * gap), chart.text(value), "mb", room=most)


def _lines(sheet: Sheet, chart: Chart, axes: Box) -> None:
    style, gap, (left, bottom, room, scale) = sheet.style, sheet.style.text, axes
    thick = max(1.5, gap * 0.18)
    if chart.labelled and len(chart.series) > 1:  # the numbers of two lines would lie on each other
        raise Crowded("two lines")
    for values, colour in zip(chart.values, chart.colours, strict=True):
        points = [(left + (at + 0.5) * room, bottom - value * scale) for at, value in enumerate(values)]
        sheet.line(*points, fill=style.shades[colour], width=thick)
        for at, (x, y) in enumerate(points):
            sheet.disc((x, y), thick * (1.6 if style.edged else 1.1), style.shades[colour])
            valley = all(values[n] > values[at] for n in (at - 1, at + 1) if 0 <= n < len(values))
            if chart.labelled and valley and y + 1.4 * gap < bottom:
                sheet.write((x, y + 0.4 * gap), chart.text(values[at]), "mt", room=room)
            elif chart.labelled:
                sheet.write((x, y - 0.3 * gap), chart.text(values[at]), "mb", room=room)


def _paint_lying(sheet: Sheet, chart: Chart, area: Box) -> None:
    """Names to the left, the first on top, bars to the right of them."""
    style, gap = sheet.style, sheet.style.text
    left = area[0] + max(sheet.wide(name) for name in chart.names) + 0.4 * gap
    text = [chart.text(tick) for tick in _ticks(chart)]
    right = area[2] - sheet.wide(text[-1]) * (1.1 if chart.labelled else 0.5)
    top, bottom = area[1], area[3] - 1.3 * gap
    room, scale = (bottom - top) / len(chart.names), (right - left) / chart.top
    if room < 1.1 * len(chart.series) * gap or left > 0.45 * sheet.width:
        raise Crowded("rows")
    for tick, number in zip(_ticks(chart), text, strict=True):
        x = left + tick * scale
        sheet.write((x, bottom + 0.3 * gap), number, "mt", room=0.85 * chart.step * scale)
        if style.grid and tick:
            sheet.line((x, top), (x, bottom), fill=style.grid)
    high = room * style.fill / len(chart.series)
    for at, name in enumerate(chart.names):
        sheet.write((left - 0.4 * gap, top + (at + 0.5) * room), name, "rm", room=left)
        for row, values in enumerate(chart.values):
            y = top + (at + 0.5) * room + high * (row - len(chart.series) / 2)
            shade = style.shades[chart.colours[at if chart.one_colour_each else row]]
            end = left + values[at] * scale
            sheet.box((left, y, end, y + high), shade, edged=style.edged)
            if chart.labelled:
                sheet.write((end + 0.2 * gap, y + high / 2), chart.text(values[at]), "lm", room=sheet.width)
    sheet.line((left, top), (left, bottom), (right, bottom), fill=style.ink)


def _paint_pie(sheet: Sheet, chart: Chart, area: Box) -> None:
    """Clockwise from the top; names beside it with their colours, or around it."""
    style, gap, z = sheet.style, sheet.style.text, sheet.times
    left, top, right, bottom = area
    names = [f"{n} {chart.text(v)}" if chart.labelled else n for n, v in zip(chart.names, chart.values[0], strict=True)]
    if style.legend:
        legend = right - max(sheet.wide(name) for name in names) - 1.1 * gap
        if bottom - top < 1.3 * gap * len(names):
            raise Crowded("legend")
        y = (top + bottom) / 2 - 0.65 * gap * len(names)
        for name, colour in zip(names, chart.colours, strict=True):
            sheet.box((legend, y + 0.1 * gap, legend + 0.8 * gap, y + 0.9 * gap), style.shades[colour])
            sheet.write((legend + 1.1 * gap, y), name, "lt", room=right)
            y += 1.3 * gap
        right = legend - 0.5 * gap
    radius = min(right - left, bottom - top) / 2 - (0 if style.legend else 1.3 * gap)
    if radius < 0.2 * sheet.width:
        raise Crowded("pie")
    x, y = (left + right) / 2, (top + bottom) / 2
    box = ((x - radius) * z, (y - radius) * z, (x + radius) * z, (y + radius) * z)
    start = -90.0
    for name, value, colour in zip(names, chart.values[0], chart.colours, strict=True):
        end = start + 3.6 * value
        sheet.pen.pieslice(box, start, end, style.shades[colour], style.ink if style.edged else style.paper, z)
        if not style.legend:
            _beside(sheet, (x, y, radius), math.radians((start + end) / 2), name)
        start = end
    if style.framed:  # a ring
        sheet.disc((x, y), radius * 0.45, style.paper)


def _beside(sheet: Sheet, circle: tuple[float, float, float], angle: float, text: str) -> None:
    """Outside of the circle, in this direction."""
    x, y, radius = circle
    gap, far = sheet.style.text, radius + 0.3 * sheet.style.text
    at = x + far * math.cos(angle), y + (far + 0.4 * gap) * math.sin(angle)
    across = "l" if math.cos(angle) > 0.15 else "r" if math.cos(angle) < -0.15 else "m"
    sheet.write(at, text, across + "m", room=sheet.width)

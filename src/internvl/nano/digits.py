"""Numbers of one to five digits: printed, written by hand, on meters, price tags and doors; and pips."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from internvl.nano.asking import Asker, Wordings, some_language, yes
from internvl.nano.clocks import paint_segments, some_figures
from internvl.nano.pips import draw_card, draw_dice, draw_domino
from internvl.nano.sample import Kit, Sample
from internvl.nano.warp import RGB, font_at, paper_colour, photograph, some_font

NUMBER: Wordings = (
    ("What number is this?", "Which number do you see?", "What number is shown?", "Read the number.",
     "What is the number in the image?", "What number is written here?", "Which number is in the picture?",
     "What does it say?", "What is written in the image?"),
    ("这是什么数字?", "图中的数字是多少?", "读出这个数字。", "图片里写的是什么数?"),
)  # fmt: skip
DIGIT: Wordings = (
    ("Which digit is this?", "What digit is shown?", "What digit do you see?", "What number is this?",
     "Which digit is in the picture?", "Name the digit."),
    ("这是哪个数字?", "图中是数字几?", "这是几?"),
)  # fmt: skip
PRICE: Wordings = (
    ("What is the price?", "How much does it cost?", "What price is on the tag?", "What does the price tag say?",
     "Which price is shown?"),
    ("价格是多少?", "标签上的价格是多少?", "多少钱?"),
)  # fmt: skip
HOUSE: Wordings = (
    ("What is the house number?", "Which house number is it?", "What number is on the house?", "What number is this?"),
    ("门牌号是多少?", "这是几号?"),
)  # fmt: skip
METER: Wordings = (
    ("What does the meter read?", "Read the meter.", "What is the reading of the meter?",
     "Which number does the meter show?", "What number is on the display?"),
    ("表的读数是多少?", "仪表显示的数字是多少?", "读出表上的数字。"),
)  # fmt: skip
LENGTH: Wordings = (
    ("How many digits does the number have?", "How many digits are there?", "Count the digits."),
    ("这个数有几位?", "一共有几个数字?"),
)
FIRST: Wordings = (
    ("What is the first digit?", "Which digit comes first?", "What does the number start with?"),
    ("第一位数字是几?", "第一个数字是什么?"),
)
LAST: Wordings = (
    ("What is the last digit?", "Which digit comes last?", "What does the number end with?"),
    ("最后一位数字是几?", "最后一个数字是什么?"),
)
CONTAINS: Wordings = (
    ("Is there a {digit} in the number?", "Does the number contain a {digit}?", "Do you see the digit {digit}?"),
    ("这个数里有{digit}吗?", "图中有数字{digit}吗?"),
)


def draw_digits(rng: random.Random, kit: Kit) -> Sample:
    """A number on something, dice, a domino or a card, with one to three questions.

    >>> draw_digits(random.Random(1), Kit()).skill
    'digits'
    """
    asker = some_language(rng)
    draw = rng.choices((_number, draw_dice, draw_domino, draw_card), (14, 3, 1.5, 1.5))[0]
    return draw(rng, kit, asker)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _number(rng: random.Random, kit: Kit, asker: Asker) -> Sample:
    """A third of them a single digit."""
    kind = rng.choices(list(SURFACES), (4, 4, 2, 2, 2, 2))[0]
    length = 1 if rng.random() < 0.33 and kind != "price" else rng.randint(2, 5)
    text = "".join(str(rng.randrange(10)) for _ in range(length))
    paint, wordings = SURFACES[kind]
    if kind == "price":
        text = f"{rng.randrange(10 ** rng.randint(1, 3))}.{rng.choice((99, 95, 50, 0, rng.randrange(100))):02d}"
    elif kind == "house":
        text = str(rng.randint(1, 9)) + text[1:]
    picture = paint(rng, kit, text)
    if rng.random() < 0.4:
        picture = photograph(rng, picture, 0.7)
    single = len(text) == 1
    asked = [asker.ask(rng, DIGIT if single and rng.random() < 0.7 else wordings, text, _other_number(rng, text))]
    figures = [c for c in text if c.isdigit()]
    absent = [c for c in "0123456789" if c not in figures]
    if not single:
        size, there = len(figures), rng.random() < 0.5
        digit = rng.choice(figures if there or not absent else absent)
        further = [
            asker.ask(rng, LENGTH, str(size), str(size + rng.choice((-1, 1)))),
            asker.ask(rng, FIRST, figures[0], rng.choice([c for c in "0123456789" if c != figures[0]])),
            asker.ask(rng, LAST, figures[-1], rng.choice([c for c in "0123456789" if c != figures[-1]])),
            asker.ask(rng, CONTAINS, *yes(digit in figures), digit=digit),
        ]
        asked += rng.sample(further, rng.choice((0, 1, 2)))
        if rng.random() < 0.2:
            rng.shuffle(asked)
    label = f"digit {text}" if single else f"{len(figures)} digits"
    caption = f"the {'digit' if single else 'number'} {text}"
    turns = tuple(one.turn for one in asked)
    return Sample("digits", (picture,), turns, label, caption, asked[0].wrong, {"kind": kind, "text": text})


def _other_number(rng: random.Random, text: str) -> str:
    """One digit is another, or two neighbours are exchanged."""
    places = [i for i, c in enumerate(text) if c.isdigit()]
    swaps = [i for i in places if i + 1 in places and text[i] != text[i + 1]]
    if swaps and rng.random() < 0.3:
        i = rng.choice(swaps)
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    i = rng.choice(places)
    return text[:i] + rng.choice([c for c in "0123456789" if c != text[i]]) + text[i + 1 :]


def _inks(rng: random.Random) -> tuple[RGB, RGB]:
    """Ink and paper that differ enough."""
    dark: RGB = rng.choice(
        ((0, 0, 0), (0, 0, 0), (30, 40, 120), (140, 20, 30), (20, 90, 50), (70, 40, 20), (80, 30, 110))
    )
    light = paper_colour(rng) if rng.random() < 0.6 else rng.choice(((255, 240, 170), (200, 225, 250), (210, 240, 205)))
    return (light, dark) if rng.random() < 0.2 else (dark, light)


def _canvas(rng: random.Random, ground: RGB, wide: float = 1.0) -> Image.Image:
    """Twice the size of the picture, wider for longer numbers."""
    side = 2 * rng.choice((112, 112, 128, 160))
    return Image.new("RGB", (side, round(side / wide)), ground)


def _fitting(rng: random.Random, kit: Kit, text: str, size: tuple[float, float]) -> tuple[object, float]:
    """A font in which the text fills at most this width and height, and its size."""
    path, height = some_font(rng, kit), size[1]
    length = font_at(path, 100).getlength(text) / 100
    height = max(10.0, min(height, size[0] / max(0.1, length)))
    return font_at(path, round(height)), height


def _print(rng: random.Random, kit: Kit, page: Image.Image, text: str, ink: RGB, share: float = 0.85) -> None:
    """Into the middle of the page, or somewhere on it."""
    width, height = page.size
    fill = rng.uniform(0.5, 1.0) * share
    font, size = _fitting(rng, kit, text, (width * fill, height * fill))
    wide = font.getlength(text)  # type: ignore[attr-defined]
    x = width / 2 + rng.uniform(-0.5, 0.5) * max(0.0, width * 0.96 - wide)
    y = height / 2 + rng.uniform(-0.5, 0.5) * max(0.0, height * 0.96 - size)
    ImageDraw.Draw(page).text((x, y), text, ink, font, "mm")  # type: ignore[arg-type]


def _wide(text: str) -> float:
    return max(1.0, min(2.5, len(text) / 2))


def paint_printed(rng: random.Random, kit: Kit, text: str) -> Image.Image:
    ink, paper = _inks(rng)
    page = _canvas(rng, paper, rng.choice((1.0, _wide(text))))
    _print(rng, kit, page, text, ink)
    return page.reduce(2)


def paint_segment_display(rng: random.Random, kit: Kit, text: str) -> Image.Image:
    """Seven segments, as on a clock or a counter."""
    screen, figures = some_figures(rng)
    page = _canvas(rng, screen, rng.choice((1.0, _wide(text))))
    width, height = page.size
    wide = min(width * 0.9, height * 0.5 * len(text)) * rng.uniform(0.7, 1.0)
    high = min(height * 0.9, 2.2 * wide / len(text)) * rng.uniform(0.75, 1.0)
    x, y = (width - wide) * rng.uniform(0.2, 0.8), (height - high) * rng.uniform(0.2, 0.8)
    paint_segments(ImageDraw.Draw(page), text, (x, y, x + wide, y + high), figures)
    return page.reduce(2)


def paint_meter(rng: random.Random, kit: Kit, text: str) -> Image.Image:
    """Wheels of a counter: each digit in a window of its own."""
    page = _canvas(
        rng, rng.choice(((60, 60, 65), (200, 200, 200), (235, 235, 230), (30, 60, 90))), rng.choice((1.0, 1.5))
    )
    width, height = page.size
    cell = min(width * 0.92 / len(text), height * 0.6)
    high = min(height * 0.9, cell * rng.uniform(1.2, 1.7))
    x, y = (width - cell * len(text)) / 2, (height - high) * rng.uniform(0.2, 0.8)
    pen, font = ImageDraw.Draw(page), font_at(some_font(rng, kit), round(min(cell * 1.2, high * 0.75)))
    black = rng.random() < 0.7
    for i, digit in enumerate(text):
        window: RGB = (15, 15, 15) if black else (245, 245, 240)
        ink: RGB = (245, 245, 245) if black else (10, 10, 10)
        if i == len(text) - 1 and len(text) > 2 and rng.random() < 0.3:
            window, ink = (190, 30, 30), (255, 255, 255)
        pen.rectangle(
            (x + i * cell + cell * 0.04, y, x + (i + 1) * cell - cell * 0.04, y + high), window, (120, 120, 120), 2
        )
        shift = rng.uniform(-0.06, 0.06) * high
        pen.text((x + (i + 0.5) * cell, y + high / 2 + shift), digit, ink, font, "mm")
    return page.reduce(2)


def paint_price(rng: random.Random, kit: Kit, text: str) -> Image.Image:
    """A tag with a hole, on a ground; the currency before or after the figures, now and then."""
    page = _canvas(
        rng, rng.choice(((200, 205, 210), (120, 90, 60), (90, 120, 110), (235, 235, 235))), rng.choice((1.0, 1.4))
    )
    width, height = page.size
    ink: RGB = rng.choice(((0, 0, 0), (190, 20, 30), (20, 40, 110)))
    paper: RGB = rng.choice(((255, 255, 255), (255, 225, 60), (250, 245, 220), (255, 250, 250)))
    x, y = width * rng.uniform(0.02, 0.08), height * rng.uniform(0.1, 0.28)
    pen = ImageDraw.Draw(page)
    corners = [
        (x, height / 2),
        (x + width * 0.12, y),
        (width - x, y),
        (width - x, height - y),
        (x + width * 0.12, height - y),
    ]
    pen.polygon(corners, paper, (120, 120, 120))
    hole = width * 0.02
    pen.ellipse((x + width * 0.07 - hole, height / 2 - hole, x + width * 0.07 + hole, height / 2 + hole), (90, 90, 90))
    shown = rng.choice(("{}", "{}", "${}", "{} EUR", "RM {}", "£{}")).format(text)
    font, _ = _fitting(rng, kit, shown, (width * 0.68, height * 0.5))
    pen.text((x + width * 0.15 + width * 0.36, height / 2), shown, ink, font, "mm")  # type: ignore[arg-type]
    return page.reduce(2)


def paint_house(rng: random.Random, kit: Kit, text: str) -> Image.Image:
    """A plate on a wall of bricks or plaster."""
    wall: RGB = rng.choice(((165, 85, 65), (190, 180, 165), (220, 215, 205), (120, 110, 100)))
    page = _canvas(rng, wall, rng.choice((1.0, 1.3)))
    width, height = page.size
    pen = ImageDraw.Draw(page)
    if rng.random() < 0.5:
        joint, step = tuple(min(255, v + 40) for v in wall), height / rng.randint(5, 9)
        for row in range(10):
            pen.line((0, row * step, width, row * step), joint, 3)  # type: ignore[arg-type]
            for column in range(-1, 6):
                x = (column + row % 2 / 2) * 2.2 * step
                pen.line((x, row * step, x, (row + 1) * step), joint, 3)  # type: ignore[arg-type]
    plate: RGB = rng.choice(((25, 60, 140), (255, 255, 255), (30, 30, 30), (20, 90, 60), (240, 235, 215)))
    ink: RGB = (255, 255, 255) if sum(plate) < 400 else (15, 15, 20)
    font, high = _fitting(rng, kit, text, (width * rng.uniform(0.45, 0.75), height * rng.uniform(0.35, 0.6)))
    wide = font.getlength(text) / 2 + high * 0.3  # type: ignore[attr-defined]
    x, y = width * rng.uniform(0.45, 0.55), height * rng.uniform(0.42, 0.58)
    box = (x - wide, y - high * 0.7, x + wide, y + high * 0.7)
    pen.rounded_rectangle(box, high * rng.choice((0.0, 0.15, 0.5)), plate, ink, rng.choice((0, 0, 4)))
    pen.text((x, y), text, ink, font, "mm")  # type: ignore[arg-type]
    return page.reduce(2)


STROKES: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "0": (((0.5, 0), (0.1, 0.25), (0.08, 0.7), (0.45, 1), (0.85, 0.75), (0.88, 0.3), (0.5, 0)),),
    "1": (((0.25, 0.25), (0.55, 0), (0.55, 1)),),
    "2": (((0.12, 0.25), (0.4, 0), (0.8, 0.15), (0.75, 0.45), (0.1, 1), (0.9, 0.98)),),
    "3": (((0.15, 0.1), (0.55, 0), (0.8, 0.2), (0.4, 0.46), (0.85, 0.7), (0.55, 1), (0.1, 0.9)),),
    "4": (((0.6, 0), (0.1, 0.65), (0.92, 0.65)), ((0.68, 0.35), (0.66, 1))),
    "5": (((0.82, 0), (0.25, 0.02), (0.2, 0.42), (0.6, 0.38), (0.86, 0.65), (0.6, 0.97), (0.12, 0.92)),),
    "6": (((0.7, 0), (0.25, 0.35), (0.12, 0.75), (0.45, 1), (0.8, 0.8), (0.6, 0.52), (0.18, 0.65)),),
    "7": (((0.1, 0.03), (0.88, 0), (0.4, 1)),),
    "8": (((0.75, 0.12), (0.4, 0), (0.2, 0.22), (0.78, 0.7), (0.5, 1), (0.18, 0.78), (0.75, 0.28), (0.75, 0.12)),),
    "9": (((0.82, 0.2), (0.45, 0), (0.15, 0.25), (0.45, 0.5), (0.8, 0.22), (0.78, 0.6), (0.6, 1)),),
}
"""How figures are written: the places that a pen passes, in a box of 1 by 1."""


def paint_written(rng: random.Random, kit: Kit, text: str) -> Image.Image:
    """By hand: strokes that are bent, slanted and joined anew in every figure, sometimes on lines."""
    ink, paper = _inks(rng)
    page = _canvas(rng, paper, rng.choice((1.0, _wide(text))))
    width, height = page.size
    pen = ImageDraw.Draw(page)
    if rng.random() < 0.25:
        step = height / rng.randint(4, 9)
        faint = tuple(round(p + (i - p) * 0.25) for i, p in zip(ink, paper, strict=True))
        for row in range(1, 10):
            pen.line((0, row * step, width, row * step), faint, 2)  # type: ignore[arg-type]
    cell = min(width * 0.9 / len(text), height * 0.7)
    high = min(height * 0.85, cell * rng.uniform(1.1, 1.6)) * rng.uniform(0.6, 1.0)
    x = (width - cell * len(text)) * rng.uniform(0.2, 0.8)
    y = (height - high) * rng.uniform(0.2, 0.8)
    thick, slant, shaky = max(3, round(high * rng.uniform(0.05, 0.13))), rng.uniform(-0.1, 0.3), rng.uniform(0.01, 0.05)
    for i, digit in enumerate(text):
        wide, lift = cell * rng.uniform(0.6, 0.8), rng.uniform(-0.05, 0.05) * high
        for stroke in STROKES[digit]:
            points = [(u + rng.gauss(0, shaky), v + rng.gauss(0, shaky)) for u, v in stroke]
            line = curve(points) if digit not in "147" or rng.random() < 0.3 else points
            placed = [
                (x + i * cell + cell * 0.12 + u * wide + slant * (0.5 - v) * high * 0.5, y + lift + v * high)
                for u, v in line
            ]
            pen.line(placed, ink, thick, "curve")
            for px, py in (placed[0], placed[-1]):
                pen.ellipse((px - thick / 2, py - thick / 2, px + thick / 2, py + thick / 2), ink)
    return page.reduce(2)


def curve(points: Sequence[tuple[float, float]], steps: int = 6) -> list[tuple[float, float]]:
    """A smooth line through the points (Catmull and Rom 1974)."""
    ends = [points[0], *points, points[-1]]
    line = []
    for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        for i in range(steps):
            t = i / steps
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
            x, y = (sum(w * p[k] for w, p in zip(weights, (a, b, c, d), strict=True)) / 2 for k in (0, 1))
            line.append((x, y))
    return [*line, points[-1]]


SURFACES: dict[str, tuple[Callable[[random.Random, Kit, str], Image.Image], Wordings]] = {
    "printed": (paint_printed, NUMBER), "written": (paint_written, NUMBER), "segments": (paint_segment_display, METER),
    "meter": (paint_meter, METER), "price": (paint_price, PRICE), "house": (paint_house, HOUSE),
}  # fmt: skip

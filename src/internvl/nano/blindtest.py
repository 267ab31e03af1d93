"""Pictures whose answer is plain to see: crossing lines, two circles, a circled letter, rings, squares, grids.

The drawers imitate the pictures of 'Vision language models are blind' (arXiv 2407.06581) in two draws out of three,
and vary beyond them in the third. Everything is drawn three times as large as it is given out. `facts` hold the
geometry, in fractions of the side.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from internvl.nano.paths import TAB, Asks, ask, draw_grid, draw_subway, font, off_white
from internvl.nano.sample import Kit, Sample
from internvl.nano.shapes import RGB

__all__ = [
    "draw_circled_letter", "draw_circles_touch", "draw_grid", "draw_lines", "draw_nested_squares", "draw_rings",
    "draw_subway",
]  # fmt: skip

Point = tuple[float, float]
BLACK: RGB = (0, 0, 0)
STRONG: dict[str, RGB] = {
    "red": (225, 25, 30), "blue": (25, 60, 225), "green": (20, 140, 50), "orange": (245, 130, 15), "black": BLACK,
    "purple": (130, 40, 170), "magenta": (232, 0, 255), "brown": (125, 75, 35), "gray": (120, 120, 120),
}  # fmt: skip
CHINESE = {
    "red": "红色", "blue": "蓝色", "green": "绿色", "orange": "橙色", "black": "黑色", "purple": "紫色",
    "magenta": "品红色", "brown": "棕色", "gray": "灰色",
}  # fmt: skip


def _sheet(rng: random.Random, free: bool) -> Image.Image:
    side = rng.choice((672, 768))
    return Image.new("RGB", (side, side), off_white(rng) if free else (255, 255, 255))


def _is_free(rng: random.Random) -> bool:
    return rng.random() < 1 / 3


def _number_asks(count: int, published: Sequence[str], own: Sequence[str], chinese: Sequence[str]) -> Asks:
    answer = str(count)
    return [(q, answer) for q in published], [(q, answer) for q in own], [(q, answer) for q in chinese]


def _numbers(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.4f},{y:.4f}" for x, y in points)


# ---- two lines -------------------------------------------------------------------------------------------------------


def draw_lines(rng: random.Random, kit: Kit) -> Sample:
    """Two lines of straight pieces, blue and red as in the benchmark: they cross never, once or twice."""
    del kit
    count, free = rng.randrange(3), _is_free(rng)
    knots, first, second = _two_lines(rng, count, free)
    names = rng.sample(list(STRONG), 2) if free and rng.random() < 0.5 else ["blue", "red"]
    inks = [STRONG[n] for n in names] if free else [(0, 0, 255), (255, 0, 0)]
    picture = _sheet(rng, free)
    side, pen = picture.width, ImageDraw.Draw(picture)
    width = round(side * (rng.uniform(0.006, 0.022) if free else rng.choice((0.0052, 0.0105))))
    turned = free and rng.random() < 0.3
    for heights, ink in zip((first, second), inks, strict=True):
        points = [(x * side, y * side) for x, y in zip(knots, heights, strict=True)]
        pen.line([p[::-1] for p in points] if turned else points, fill=ink, width=width, joint="curve")
    a, b = names
    wrong = rng.choice([n for n in range(3) if n != count])
    turns, false = ask(rng, _line_asks(count, a, b), _line_asks(wrong, a, b))
    caption = f"two lines that {('never cross', 'cross once', 'cross twice')[count]}"
    facts = {
        a: _numbers(list(zip(knots, first, strict=True))),
        b: _numbers(list(zip(knots, second, strict=True))),
    }
    return Sample(
        "crossings", (picture.reduce(3),), turns, label=f"{count} crossings", caption=caption, wrong=false, facts=facts
    )


def _two_lines(rng: random.Random, count: int, free: bool) -> tuple[list[float], list[float], list[float]]:
    """Heights of two lines over common knots, which are never close at a knot, so that they cross in between."""
    while True:
        if free:
            pieces, margin = rng.randint(1, 4), rng.choice((0.0, rng.uniform(0.03, 0.2)))
            inner = sorted(rng.uniform(margin + 0.1, 0.9 - margin) for _ in range(pieces - 1))
            knots = [margin, *inner, 1 - margin]
            first, second = ([rng.uniform(margin, 1 - margin) for _ in knots] for _ in range(2))
        else:
            knots = [0.0, 0.5, 1.0]
            first, second = ([rng.randint(0, 12) / 12 for _ in knots] for _ in range(2))
        apart = [a - b for a, b in zip(first, second, strict=True)]
        wide = all(b - a > 0.12 for a, b in itertools.pairwise(knots))
        changes = sum(a * b < 0 for a, b in itertools.pairwise(apart))
        if wide and changes == count and min(map(abs, apart)) > 0.06:
            return knots, [0.005 + 0.99 * y for y in first], [0.005 + 0.99 * y for y in second]


def _line_asks(count: int, a: str, b: str) -> Asks:
    published = (
        f"How many times do the {a} and {b} lines touch each other? Answer with a number.",
        f"Count the intersection points where the {a} and {b} lines meet.",
    )
    own = (
        "How many times do the lines cross?", "How many times do the two lines cross?", "How often do the lines meet?",
        f"How many times does the {a} line cross the {b} line?", "In how many points do the lines intersect?",
        "Count the crossings.", "How many intersections are there?", f"How often do the {b} and the {a} line cross?",
        "What is the number of crossings of the two lines?", "How many crossing points do you see?",
    )  # fmt: skip
    chinese = (
        "两条线相交几次?", "这两条线有几个交点?", f"{CHINESE[a]}线和{CHINESE[b]}线相交多少次?", "图中有几个交点?",
        "数一数两条线的交点。",
    )  # fmt: skip
    return _number_asks(count, published, own, chinese)


# ---- two circles -----------------------------------------------------------------------------------------------------

ASK_OVERLAP = {"overlapping": 0.7, "touching": 0.15, "close": 0.3, "apart": 0.3}
"""How often it is asked of which circles whether they overlap, so that yes and no are about as frequent."""


def draw_circles_touch(rng: random.Random, kit: Kit) -> Sample:
    """Two circles that overlap, touch in a point, nearly touch or are apart; touching is said of the first two."""
    del kit
    relation, free = rng.choice(list(ASK_OVERLAP)), _is_free(rng)
    picture = _sheet(rng, free)
    side, pen = picture.width, ImageDraw.Draw(picture)
    if free:
        radii = [rng.uniform(0.06, 0.17)] * 2 if rng.random() < 0.5 else [rng.uniform(0.06, 0.17) for _ in range(2)]
        names, angle = rng.sample(list(STRONG), 2), rng.uniform(0, 2 * math.pi)
    else:
        radii = [0.5 / rng.choice((4, 5, 6, 7))] * 2
        names, angle = ["blue", "magenta"], rng.choice((0, -math.pi / 4, math.pi / 4, -math.pi / 2))
    gap = _gap(rng, relation, free) * 2 * min(radii)
    distance = gap + sum(radii)
    reach = [(distance * abs(f) + 2 * max(radii)) / 2 for f in (math.cos(angle), math.sin(angle))]
    middle = [0.5 + (rng.uniform(-1, 1) * max(0.0, 0.49 - r) if free else 0) for r in reach]
    inks = [STRONG[n] for n in names] if free else [(0, 117, 255), (232, 0, 255)]
    outline = max(5, round(side * rng.uniform(0.008, 0.02))) if free and rng.random() < 0.4 else 0
    circles: list[tuple[float, float, float]] = []
    for sign, radius, ink in zip((-0.5, 0.5), radii, inks, strict=True):
        x, y = middle[0] + sign * distance * math.cos(angle), middle[1] + sign * distance * math.sin(angle)
        circles.append((x, y, radius))
        box = [(x - radius) * side, (y - radius) * side, (x + radius) * side - 1, (y + radius) * side - 1]
        pen.ellipse(box, outline=ink if outline else None, fill=None if outline else ink, width=outline or 1)
    right, false = _circle_asks(rng, relation)
    turns, wrong = ask(rng, right, false)
    caption = {
        "overlapping": "two circles that overlap", "touching": "two circles that touch in one point",
        "close": "two circles that nearly touch", "apart": "two circles apart",
    }[relation]  # fmt: skip
    facts = {f"circle {i}": " ".join(f"{v:.5f}" for v in c) for i, c in enumerate(circles)}
    return Sample(
        "two_circles", (picture.reduce(3),), turns[:1], label=relation, caption=caption, wrong=wrong, facts=facts
    )


def _gap(rng: random.Random, relation: str, free: bool) -> float:
    """In diameters."""
    if relation == "touching":
        return 0.0
    if free:
        low, high = {"overlapping": (-0.6, -0.06), "close": (0.06, 0.2), "apart": (0.25, 1.0)}[relation]
        return rng.uniform(low, high)
    steps = {"overlapping": (-15, -10, -5), "close": (5, 10, 15, 20), "apart": (25, 30, 35, 40, 45, 50)}[relation]
    return rng.choice(steps) / 100


def _circle_asks(rng: random.Random, relation: str) -> tuple[Asks, Asks]:
    if rng.random() < ASK_OVERLAP[relation]:
        true = relation == "overlapping"
        published = ("Are the two circles overlapping? Answer with Yes/No.",)
        own = (
            "Are the circles overlapping?", "Do the circles overlap?", "Do the two circles overlap?",
            "Is one circle partly over the other?", "Do the circles share an area?", "Do these circles overlap?",
        )  # fmt: skip
        chinese = ("两个圆重叠吗?", "这两个圆有重叠部分吗?")
    else:
        true = relation in ("overlapping", "touching")
        published = ("Are the two circles touching each other? Answer with Yes/No.",)
        own = (
            "Are the circles touching?", "Do the two circles touch?", "Are the two circles touching each other?",
            "Do the circles touch each other?", "Does one circle touch the other?", "Are the circles in contact?",
        )  # fmt: skip
        chinese = ("两个圆接触吗?", "这两个圆碰到了吗?")

    def answered(yes: bool) -> Asks:
        english, other = ("Yes" if yes else "No"), ("是" if yes else "否")
        return [(q, english) for q in published], [(q, english) for q in own], [(q, other) for q in chinese]

    return answered(true), answered(not true)


# ---- a letter in an oval ---------------------------------------------------------------------------------------------

LONG = (
    "Acknowledgement", "Subdermatoglyphic", "tHyUiKaRbNqWeOpXcZvM", "Uncopyrightable", "Dermatoglyphics",
    "Neighbourhood", "Thunderstorm", "Jeopardizing", "Watermelon", "Bewilderment", "Questionable",
    "Extravagance", "Zookeeper",
    "Lumberjack", "Backyard", "Microphone", "Vexingly", "Hydroplaning", "Ambidextrously", "Troublemaking",
)  # fmt: skip
COMMON = "etaoinsrhldcumfpgwybvkxjqz"
"""The letters from common to rare: of two places the rarer letter is circled, so that no letter is asked too often."""


def draw_circled_letter(rng: random.Random, kit: Kit) -> Sample:
    """A word or letters in no order, one of them in a red oval."""
    free = _is_free(rng)
    word = _some_word(rng, kit)
    place = max(rng.choices(range(len(word)), k=2), key=lambda i: COMMON.find(word[i].lower()))
    side = rng.choice((672, 768, 900))
    height = round(side * rng.uniform(0.3, 1)) if free else side
    picture = Image.new("RGB", (side, height), off_white(rng) if free else (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    plain = [p for p in kit.fonts if p.stem in ("OpenSans-Regular", "LiberationSans-Regular", "texgyreheros-regular")]
    path = rng.choice(plain) if plain and not free else rng.choice(kit.fonts) if kit.fonts else None
    wanted = side * rng.uniform(0.6, 0.95)
    size = min(round(100 * wanted / font(path, 100).getlength(word)), height // 3, side // (6 if free else 8))
    written = font(path, size)
    length = written.getlength(word)
    left, base = (side - length) / 2, height / 2 + size * 0.35
    if free:
        left, base = rng.uniform(0.1, 0.9) * (side - length), rng.uniform(size * 1.1, height - size * 0.4)
    pen.text((left, base), word, fill=BLACK if not free else rng.choice((BLACK, (60, 60, 60), (20, 20, 90))),
             font=written, anchor="ls")  # fmt: skip
    start = left + written.getlength(word[: place + 1]) - written.getlength(word[place])
    x1, y1, x2, y2 = written.getbbox(word[place], anchor="ls")
    stretch = rng.uniform(1.15, 1.5)
    half_x, half_y = (x2 - x1) / 2 * stretch + size * 0.06, (y2 - y1) / 2 * stretch * 0.95 + size * 0.04
    x, y = start + (x1 + x2) / 2, base + (y1 + y2) / 2
    ink = rng.choice(((255, 0, 0), (255, 0, 0), (0, 90, 255), (0, 150, 60))) if free else (255, 0, 0)
    width = max(3, round(size * rng.choice((0.05, 0.07, 0.1))))
    pen.ellipse((x - half_x, y - half_y, x + half_x, y + half_y), outline=ink, width=width)
    letter = word[place]
    wrong = rng.choice([c for c in word[max(0, place - 2) : place + 3] if c.lower() != letter.lower()] or ["X"])
    red = ink == (255, 0, 0)
    turns, false = ask(rng, _letter_asks(letter, red), _letter_asks(wrong, red))
    facts = {"word": word, "oval": f"{x / side:.4f} {y / height:.4f}", "place": str(place)}
    caption = f"the letter {letter} in an oval"
    return Sample(
        "circled_letter", (picture.reduce(3),), turns, label=letter, caption=caption, wrong=false, facts=facts
    )


def _some_word(rng: random.Random, kit: Kit) -> str:
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(LONG)
    if kind < 0.65:
        words = [w for w in rng.choices(kit.words, k=12) if w.isascii() and w.isalpha() and len(w) > 2]
        return rng.choice((str.title, str.lower, str.upper, str.title))(rng.choice(words or list(LONG)))
    signs = rng.choices(COMMON, k=rng.randint(3, 20))
    mixed = "".join(rng.choice((c, c.upper())) for c in signs)
    return rng.choice((mixed, mixed, mixed.lower(), mixed.upper()))


def _letter_asks(letter: str, red: bool) -> Asks:
    oval = "a red oval" if red else "an oval"
    published = ("Which letter is being circled?", f"Which character is being highlighted with {oval}?")
    own = (
        "Which letter is circled?", "What is the circled letter?", f"Which letter is in {oval}?",
        "Name the circled letter.", "Around which letter is the oval?", "Which character is circled?",
        "What letter has a circle around it?", "Which letter does the oval mark?", "The circled letter is?",
    )  # fmt: skip
    chinese = ("哪个字母被圈出来了?", "圈里的字母是什么?", "被圈住的是哪个字母?", "椭圆里是哪个字母?")
    return _texts(letter, published), _texts(letter, own), _texts(letter, chinese)


def _texts(answer: str, questions: Sequence[str]) -> list[tuple[str, str]]:
    return [(q, answer) for q in questions]


# ---- rings and pentagons ---------------------------------------------------------------------------------------------


def draw_rings(rng: random.Random, kit: Kit) -> Sample:
    """Five to nine circles or pentagons in two rows, interlocked as the rings of the Olympic games."""
    del kit
    count, free = rng.randint(5, 9), _is_free(rng)
    noun, corners = rng.choice((("circles", 0), ("pentagons", 5)))
    picture = _sheet(rng, free)
    side, pen = picture.width, ImageDraw.Draw(picture)
    radius, centres = _chain(rng, count, noun, free)
    width = round(side * rng.uniform(0.004, 0.014)) if free else rng.choice((1, 2, 3, 3))
    inks = rng.sample([*TAB.values()], count) if rng.random() < 0.5 else [BLACK] * count
    for (x, y), ink in zip(centres, inks, strict=True):
        if corners:
            turns = [2 * math.pi * i / corners for i in range(corners + 1)]
            points = [((x + radius * math.sin(t)) * side, (y - radius * math.cos(t)) * side) for t in turns]
            pen.line([*points, points[1]], fill=ink, width=width, joint="curve")
        else:
            box = ((x - radius) * side, (y - radius) * side, (x + radius) * side, (y + radius) * side)
            pen.ellipse(box, outline=ink, width=width)
    wrong = rng.choice([n for n in (count - 1, count + 1) if 5 <= n <= 9])
    asked, false = ask(rng, _ring_asks(count, noun), _ring_asks(wrong, noun))
    caption = f"{count} overlapping {noun}"
    facts = {"radius": f"{radius:.4f}", "centres": _numbers(centres)}
    return Sample(
        "rings", (picture.reduce(3),), asked, label=f"{count} {noun}", caption=caption, wrong=false, facts=facts
    )


def _chain(rng: random.Random, count: int, noun: str, free: bool) -> tuple[float, list[Point]]:
    """Radius and centres; the upper row may be the longer or the shorter one, and even ones lean to a side."""
    step, drop = (2.1, 1.0) if noun == "circles" else (2.06, 1.14)
    if free:
        step, drop = step * rng.uniform(0.9, 1.05), drop * rng.uniform(0.9, 1.05)
    upper = count // 2 if count % 2 == 0 else (count + rng.choice((-1, 1))) // 2
    shift = -0.5 if 2 * upper < count else 0.5 if 2 * upper > count else rng.choice((-0.5, 0.5))
    places = [(i, 0.0) for i in range(upper)] + [(i + shift, 1.0) for i in range(count - upper)]
    first, last = min(x for x, _ in places), max(x for x, _ in places)
    radius = rng.choice((1 / 24, 1 / 22, 1 / 20, 1 / 16, 1 / 14))
    if free:
        radius = rng.uniform(0.045, 0.95 / ((last - first) * step + 2))
    half_x, half_y = ((last - first) * step + 2) * radius / 2, (drop + 2) * radius / 2
    x, y = 0.5 + rng.uniform(-0.04, 0.04), 0.43
    if free:
        x, y = (rng.uniform(0.01 + half, 0.99 - half) for half in (half_x, half_y))
    return radius, [
        (x + (i - (first + last) / 2) * step * radius, y + (j - 0.5) * drop * radius) for i, j in places
    ]  # fmt: skip


def _ring_asks(count: int, noun: str) -> Asks:
    published = (
        f"How many {noun} are in the image? Answer with only the number in numerical format.",
        f"Count the {noun} in the image.",
    )
    own = (
        f"How many {noun} are there?", f"How many {noun} do you see?", f"Count the {noun}.", f"How many {noun}?",
        f"How many {noun} can you count?", f"What is the number of {noun}?", "How many shapes are interlocked here?",
        f"How many overlapping {noun} are drawn?",
    )  # fmt: skip
    name = "圆" if noun == "circles" else "五边形"
    chinese = (f"图中有多少个{name}?", f"有几个{name}?", f"数一数{name}。", f"一共画了几个{name}?")
    return _number_asks(count, published, own, chinese)


# ---- squares in squares ----------------------------------------------------------------------------------------------


def draw_nested_squares(rng: random.Random, kit: Kit) -> Sample:
    """Two to five squares, each inside the one before."""
    del kit
    count, free = rng.randint(2, 5), _is_free(rng)
    picture = _sheet(rng, free)
    side, pen = picture.width, ImageDraw.Draw(picture)
    sizes = [rng.uniform(0.35, 0.9) if free else rng.uniform(0.2, 0.45)]
    while len(sizes) < count:
        sizes.append(sizes[-1] * rng.uniform(0.55, 0.75))
    gap = min((a - b) / 2 for a, b in itertools.pairwise(sizes))
    width = round(side * rng.uniform(0.004, 0.012)) if free else rng.choice((2, 3, 4))
    width = max(2, min(width, round(side * gap / 2.5)))  # no two of them run together
    edge = sizes[0] / 2 + (0.02 if free else 0.1)
    x, y = (rng.uniform(edge, 1 - edge) for _ in range(2))
    ink = rng.choice(list(STRONG.values())) if free else BLACK
    squares: list[tuple[float, float, float]] = []
    for size, inner in zip(sizes, [*sizes[1:], 0.0], strict=True):
        squares.append((x, y, size))
        box = [(v + half * size / 2) * side for half in (-1, 1) for v in (x, y)]
        pen.rectangle(box, outline=rng.choice(list(STRONG.values())) if free and ink != BLACK else ink, width=width)
        slack = max(0.0, (size - inner) / 2 - max(0.035 * size, 1.5 * width / side + 0.004))
        x, y = x + rng.uniform(-slack, slack), y + rng.uniform(-slack, slack)
    wrong = rng.choice([n for n in (count - 1, count + 1) if 2 <= n <= 5])
    turns, false = ask(rng, _square_asks(count), _square_asks(wrong))
    facts = {f"square {i}": " ".join(f"{v:.4f}" for v in s) for i, s in enumerate(squares)}
    return Sample(
        "squares", (picture.reduce(3),), turns, label=f"{count} squares", caption=f"{count} nested squares",
        wrong=false, facts=facts,
    )  # fmt: skip


def _square_asks(count: int) -> Asks:
    published = (
        "How many squares are in the image? Answer with a number.", "Count total number of squares in the image.",
    )  # fmt: skip
    own = (
        "How many squares are there?", "How many squares do you see?", "Count the squares.", "How many squares?",
        "How many squares lie inside one another?", "What is the number of squares?",
        "How many nested squares are there?",
    )  # fmt: skip
    return _number_asks(count, published, own, ("图中有多少个正方形?", "有几个正方形?", "数一数正方形。"))

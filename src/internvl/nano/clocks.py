"""Clocks with hands and clocks with figures, in many styles, and what time they show."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from internvl.nano.asking import Asked, Asker, Wordings, some_language, yes
from internvl.nano.sample import Kit, Sample
from internvl.nano.warp import RGB, font_at, photograph, some_font

TIME: Wordings = (
    ("What time is it?", "What time is it?", "What time does the clock show?", "What is the time?", "Read the clock.",
     "What time is shown?", "What time is shown on the clock?", "What's the time?", "Tell me the time.",
     "Which time does this clock show?", "What does the clock say?", "What time is displayed in the image?",
     "What is the time shown in the picture?"),
    ("现在几点?", "现在是几点?", "钟表显示的时间是几点?", "这个时钟显示几点?", "图中的时间是多少?"),
)  # fmt: skip
HOUR: Wordings = (
    ("What hour is it?", "Which hour does the clock show?", "What is the hour?", "What is the hour on the clock?"),
    ("时钟显示的小时数是多少?", "现在是几点钟过了?", "小时是多少?"),
)
MINUTES: Wordings = (
    ("How many minutes past the hour is it?", "How many minutes does the clock show?", "What are the minutes?",
     "How many minutes have passed since the full hour?"),
    ("现在过了几分钟?", "时钟显示多少分钟?", "分钟数是多少?"),
)  # fmt: skip
POINTS: Wordings = (
    ("Which number does the minute hand point to?", "Where does the minute hand point?",
     "What number is the long hand pointing at?"),
    ("分针指向数字几?", "长针指着几?"),
)  # fmt: skip
RIGHT: Wordings = (
    ("Is it {time}?", "Does the clock show {time}?", "Is the time {time}?", "Does this clock say {time}?"),
    ("现在是{time}吗?", "时钟显示的是{time}吗?"),
)
KIND: Wordings = (
    ("Is this clock analogue or digital?", "Is it an analogue or a digital clock?", "What kind of clock is this?"),
    ("这是指针式时钟还是数字时钟?", "这是什么类型的时钟?"),
)
KINDS = (("analogue", "指针式"), ("digital", "数字"))

ROMAN = ("XII", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI")

# ---- the time --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Time:
    """Of a clock: hour 0 to 23, on a dial 1 to 12."""

    hour: int
    minute: int

    def moved(self, minutes: int) -> Time:
        """On a dial, later or earlier."""
        total = (self.hour * 60 + self.minute + minutes) % 720
        return Time(total // 60 or 12, total % 60)

    def __str__(self) -> str:
        return f"{self.hour}:{self.minute:02d}"


def some_time(rng: random.Random) -> Time:
    """Three times of four the minute is a multiple of five."""
    minute = 5 * rng.randrange(12) if rng.random() < 0.75 else rng.randrange(60)
    return Time(rng.randint(1, 12), minute)


def mistaken(rng: random.Random, time: Time) -> Time:
    """A time that the dial could be taken for: the next hour, some minutes off, or the hands exchanged."""
    exchanged = Time(time.minute // 5 or 12, time.hour % 12 * 5)
    others = [time.moved(shift) for shift in (-60, 60, -60, 60, -5, 5, -10, 10)] + [exchanged, exchanged]
    return rng.choice([other for other in others if other != time])


def draw_clock(rng: random.Random, kit: Kit) -> Sample:
    """A clock, a quarter of them digital, and one to three questions about its time.

    >>> draw_clock(random.Random(1), Kit()).skill
    'clock'
    """
    asker = some_language(rng)
    if rng.random() < 0.25:
        return _digital(rng, kit, asker)
    time = some_time(rng)
    picture = paint_dial(rng, kit, time)
    asked = [asker.ask(rng, TIME, str(time), str(mistaken(rng, time)))]
    further = _further(rng, asker, time, str(time), str(mistaken(rng, time)))
    if time.minute % 5 == 0:
        far = str((time.minute // 5 + rng.randint(1, 11)) % 12 or 12)
        further.append(asker.ask(rng, POINTS, str(time.minute // 5 or 12), far))
    further.append(asker.ask(rng, KIND, *KINDS))
    return _sample(rng, picture, asked + further, f"clock {time.hour}", f"a clock that shows {time}", "analogue")


def _further(rng: random.Random, asker: Asker, time: Time, shown: str, other: str) -> list[Asked]:
    true = rng.random() < 0.5
    hour = time.hour % 12 or 12
    return [
        asker.ask(rng, RIGHT, *yes(true), time=shown if true else other),
        asker.ask(rng, RIGHT, *yes(not true), time=other if true else shown),
        asker.ask(rng, HOUR, str(time.hour), str(hour % 12 + 1 if rng.random() < 0.5 else (hour + 10) % 12 + 1)),
        asker.ask(rng, MINUTES, str(time.minute), str((time.minute + rng.choice((-10, -5, 5, 10))) % 60)),
    ]


def _sample(
    rng: random.Random, picture: Image.Image, asked: Sequence[Asked], label: str, caption: str, style: str
) -> Sample:
    """The time is asked first, or now and then after or without anything else."""
    chosen = [asked[0], *rng.sample(asked[1:], rng.choice((0, 0, 1, 1, 2)))]
    if rng.random() < 0.2:
        rng.shuffle(chosen)
    if rng.random() < 0.1:
        chosen = [rng.choice(asked[1:])]
    turns = tuple(one.turn for one in chosen)
    return Sample("clock", (picture,), turns, label, caption, chosen[0].wrong, {"style": style})


# ---- dials -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dial:
    """How a clock with hands looks. Lengths are shares of its radius."""

    face: RGB
    ink: RGB
    rim: RGB
    rim_width: float
    outline: str
    """round, square or octagon."""
    numerals: str
    """arabic, roman, quarters (12, 3, 6 and 9) or none."""
    ticks: str
    """hours, minutes, dots or none."""
    hands: str
    """bar, taper, arrow or lozenge."""
    short: float
    long: float
    thick: float
    hour_colour: RGB
    minute_colour: RGB
    second_colour: RGB | None
    """None: it has no second hand."""
    turn: float
    """Of the whole clock, in radians."""


GROUNDS: tuple[RGB, ...] = ((255, 255, 255), (255, 255, 255), (238, 236, 228), (200, 210, 220), (120, 150, 180),
                            (70, 90, 80), (40, 40, 50), (190, 150, 110), (235, 200, 205))  # fmt: skip
BRIGHT: tuple[RGB, ...] = ((200, 25, 30), (25, 60, 200), (20, 120, 60), (120, 40, 150), (225, 110, 10))
DARK: tuple[RGB, ...] = ((0, 0, 0), (0, 0, 0), (25, 25, 30), (45, 30, 20), (20, 30, 80))


def some_dial(rng: random.Random) -> Dial:
    """Any look whose hands stand out from the face and from each other."""
    dark_face = rng.random() < 0.2
    light = tuple(rng.randint(228, 255) for _ in range(3)) if rng.random() < 0.6 else (255, 255, 255)
    dark = rng.choice(DARK)
    face, ink = (dark, light) if dark_face else (light, dark)
    one_colour = rng.random() < 0.6
    bright: Sequence[RGB] = ((255, 90, 80), (255, 200, 60), (120, 200, 255)) if dark_face else BRIGHT
    hour_colour = ink if one_colour else rng.choice((ink, *bright))
    minute_colour = hour_colour if one_colour else rng.choice((ink, *bright))
    short = rng.uniform(0.42, 0.56)
    numerals = rng.choices(("arabic", "roman", "quarters", "none"), (5, 2, 2, 2))[0]
    ticks = rng.choices(("hours", "minutes", "dots", "none"), (3, 4, 1, 2 if numerals != "none" else 0))[0]
    return Dial(
        face=face,  # type: ignore[arg-type]
        ink=ink,  # type: ignore[arg-type]
        rim=rng.choice((ink, ink, (150, 150, 155), (170, 130, 60), *bright)),  # type: ignore[arg-type]
        rim_width=rng.choice((0.0, 0.02, 0.04, 0.07, 0.12)),
        outline=rng.choices(("round", "square", "octagon"), (7, 2, 1))[0],
        numerals=numerals,
        ticks=ticks,
        hands=rng.choice(("bar", "bar", "taper", "arrow", "lozenge")),
        short=short,
        long=min(0.95, short * rng.uniform(1.45, 1.85)),
        thick=rng.uniform(0.05, 0.11),
        hour_colour=hour_colour,  # type: ignore[arg-type]
        minute_colour=minute_colour,  # type: ignore[arg-type]
        second_colour=rng.choice(bright) if rng.random() < 0.25 else None,
        turn=rng.uniform(-0.1, 0.1) if numerals != "none" and rng.random() < 0.2 else 0.0,
    )


def paint_dial(rng: random.Random, kit: Kit, time: Time) -> Image.Image:
    """A clock of some look on a plain ground, a third of them as photographs."""
    size = rng.choice((112, 128, 160, 224))
    times = 2 if rng.random() < 0.8 else 1
    aspect = rng.choice((1.0, 1.0, 1.0, 1.25, 0.8))
    width, height = round(size * times * min(1.0, aspect)), round(size * times * min(1.0, 1 / aspect))
    picture = Image.new("RGB", (width, height), rng.choice(GROUNDS))
    radius = min(width, height) * (rng.uniform(0.42, 0.48) if rng.random() < 0.6 else rng.uniform(0.3, 0.44))
    x = width / 2 + rng.uniform(-1, 1) * max(0.0, width / 2 - radius * 1.02)
    y = height / 2 + rng.uniform(-1, 1) * max(0.0, height / 2 - radius * 1.02)
    dial = some_dial(rng)
    pen = ImageDraw.Draw(picture)
    paint_face(rng, pen, dial, (x, y), radius, kit)
    second = rng.randrange(60)
    paint_hands(pen, dial, (x, y), radius, time, second)
    if times == 2:
        picture = picture.reduce(2)
    return photograph(rng, picture, 0.7) if rng.random() < 0.35 else picture


def around(centre: tuple[float, float], radius: float, angle: float) -> tuple[float, float]:
    """A place on the circle, `angle` radians clockwise from the top."""
    return centre[0] + radius * math.sin(angle), centre[1] - radius * math.cos(angle)


def paint_face(
    rng: random.Random, pen: ImageDraw.ImageDraw, dial: Dial, centre: tuple[float, float], radius: float, kit: Kit
) -> None:
    sides = {"round": 72, "square": 4, "octagon": 8}[dial.outline]
    reach = {"round": 1.0, "square": math.sqrt(2) * 0.98, "octagon": 1.04}[dial.outline]
    start = dial.turn + (math.pi / sides if sides < 72 else 0)
    for share, colour in ((1.0, dial.rim), (1 - dial.rim_width, dial.face)):
        corners = [around(centre, radius * reach * share, start + i * 2 * math.pi / sides) for i in range(sides)]
        pen.polygon(corners, fill=colour)
    outer = radius * (1 - dial.rim_width) * 0.97
    for i in range(60):
        if dial.ticks == "none" or (i % 5 and dial.ticks != "minutes"):
            continue
        angle, hour = dial.turn + i * math.pi / 30, i % 5 == 0
        if dial.ticks == "dots":
            x, y = around(centre, outer * 0.96, angle)
            pen.ellipse([v + d * radius * 0.03 for d in (-1, 1) for v in (x, y)], fill=dial.ink)
            continue
        inner = outer * ((0.88 if i % 15 else 0.84) if hour else 0.94)
        wide = max(1, round(radius * (0.035 if hour else 0.012)))
        pen.line([around(centre, inner, angle), around(centre, outer, angle)], fill=dial.ink, width=wide)
    if dial.numerals == "none":
        return
    font = font_at(some_font(rng, kit), max(7, round(radius * rng.uniform(0.17, 0.26))))
    at = outer * (0.84 if dial.ticks == "none" else 0.73)
    for hour in range(12):
        if dial.numerals != "quarters" or hour % 3 == 0:
            text = ROMAN[hour] if dial.numerals == "roman" else str(hour or 12)
            pen.text(around(centre, at, dial.turn + hour * math.pi / 6), text, dial.ink, font, "mm")


def paint_hands(
    pen: ImageDraw.ImageDraw, dial: Dial, centre: tuple[float, float], radius: float, time: Time, second: int
) -> None:
    """The hour hand moves on between the hours, the minute hand jumps."""
    minute = dial.turn + time.minute * math.pi / 30
    hour = dial.turn + (time.hour % 12 + time.minute / 60) * math.pi / 6
    reach = radius * (1 - dial.rim_width)
    paint_hand(pen, dial.hands, centre, (hour, reach * dial.short, radius * dial.thick), dial.hour_colour)
    paint_hand(pen, dial.hands, centre, (minute, reach * dial.long, radius * dial.thick * 0.7), dial.minute_colour)
    if dial.second_colour is not None:
        angle = dial.turn + second * math.pi / 30
        ends = [around(centre, -0.2 * reach, angle), around(centre, reach * 0.9, angle)]
        pen.line(ends, fill=dial.second_colour, width=max(1, round(radius * 0.015)))
    knob = radius * max(0.035, dial.thick * 0.7)
    box = [centre[0] - knob, centre[1] - knob, centre[0] + knob, centre[1] + knob]
    pen.ellipse(box, fill=dial.second_colour or dial.hour_colour)


def paint_hand(
    pen: ImageDraw.ImageDraw, form: str, centre: tuple[float, float], hand: tuple[float, float, float], colour: RGB
) -> None:
    """One hand: its angle, length and thickness."""
    angle, length, thick = hand
    outline = {  # along the hand and to its side
        "bar": ((-0.12, 0.5), (1, 0.5)),
        "taper": ((-0.15, 0.75), (1, 0.12)),
        "arrow": ((-0.12, 0.4), (0.72, 0.4), (0.72, 1.2), (1, 0)),
        "lozenge": ((-0.1, 0.25), (0.55, 0.85), (1, 0)),
    }[form]
    points = []
    for side, part in ((1, outline), (-1, outline[::-1])):
        for along, beside in part:
            x, y = around(centre, along * length, angle)
            points.append((x + side * beside * thick * math.cos(angle), y + side * beside * thick * math.sin(angle)))
    pen.polygon(points, fill=colour)


# ---- figures ---------------------------------------------------------------------------------------------------------

SEGMENTS = {
    "0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd", "6": "afgedc", "7": "abc",
    "8": "abcdefg", "9": "abcdfg", "-": "g", " ": "",
}  # fmt: skip
"""The lit segments of a figure: a is the top one, b to f follow clockwise, g is the middle one."""
ENDS = {"a": ((0, 0), (1, 0)), "b": ((1, 0), (1, 1)), "c": ((1, 1), (1, 2)), "d": ((0, 2), (1, 2)),
        "e": ((0, 1), (0, 2)), "f": ((0, 0), (0, 1)), "g": ((0, 1), (1, 1))}  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """How seven segments look: colours lit and unlit, thickness as a share of the height, and slant."""

    lit: RGB
    unlit: RGB | None = None
    thick: float = 0.12
    slant: float = 0.0


def paint_segments(pen: ImageDraw.ImageDraw, text: str, box: Sequence[float], look: Figures) -> None:
    """Figures, colons, points and minus signs, filling the box from left to right."""
    left, top, right, bottom = box
    height = bottom - top
    shares = [0.4 if c in ":." else 1.0 for c in text]
    step = (right - left - look.slant * height) / sum(shares)
    thick = min(look.thick * height, step * 0.25)
    x = left
    for c, share in zip(text, shares, strict=True):
        wide = step * share
        if c in ":.":
            for y in (top + height * 0.3, top + height * 0.7) if c == ":" else (bottom - thick / 2,):
                middle = x + wide / 2 + look.slant * (bottom - y)
                pen.rectangle((middle - thick / 2, y - thick / 2, middle + thick / 2, y + thick / 2), fill=look.lit)
        else:
            for name, ends in ENDS.items():
                colour = look.lit if name in SEGMENTS[c] else look.unlit
                if colour is not None:
                    _segment(pen, ends, (x + step * 0.1, top, step * 0.8, height), thick, (look.slant, colour))
        x += wide


def _segment(
    pen: ImageDraw.ImageDraw, ends: tuple[tuple[int, int], tuple[int, int]], box: tuple[float, float, float, float],
    thick: float, style: tuple[float, RGB],
) -> None:  # fmt: skip
    x, y, width, height = box
    slant, colour = style
    half = thick / 2
    (ax, ay), (bx, by) = ((x + half + i * (width - thick), y + half + j * (height - thick) / 2) for i, j in ends)
    if ay == by:
        points = [(ax + 1, ay), (ax + half, ay - half), (bx - half, ay - half), (bx - 1, by), (bx - half, ay + half),
                  (ax + half, ay + half)]  # fmt: skip
    else:
        points = [(ax, ay + 1), (ax + half, ay + half), (ax + half, by - half), (bx, by - 1), (ax - half, by - half),
                  (ax - half, ay + half)]  # fmt: skip
    pen.polygon([(px + slant * (y + height - py), py) for px, py in points], fill=colour)


def some_figures(rng: random.Random) -> tuple[RGB, Figures]:
    """A screen and the segments on it: a lamp that shines, or dark crystals on gray."""
    if rng.random() < 0.6:
        screen: RGB = rng.choice(((0, 0, 0), (15, 12, 12), (10, 20, 15), (25, 25, 40)))
        lit: RGB = rng.choice(((255, 40, 30), (60, 255, 90), (70, 160, 255), (255, 170, 30), (240, 240, 240)))
    else:
        screen = rng.choice(((190, 200, 180), (205, 205, 200), (170, 190, 160), (230, 230, 230)))
        lit = rng.choice(((20, 25, 20), (40, 40, 45), (0, 0, 0)))
    mixed = [round(s + (c - s) * 0.08) for s, c in zip(screen, lit, strict=True)]
    unlit = (mixed[0], mixed[1], mixed[2]) if rng.random() < 0.35 else None
    return screen, Figures(lit, unlit, rng.uniform(0.09, 0.16), rng.choice((0.0, 0.0, 0.08, 0.14)))


def _digital(rng: random.Random, kit: Kit, asker: Asker) -> Sample:
    dial = some_time(rng)
    half = rng.choice((0, 12)) if rng.random() < 0.5 else 0
    time = Time((dial.hour % 12) + 12 if half else dial.hour, dial.minute)
    form = "{0.hour:02d}:{0.minute:02d}" if rng.random() < 0.5 else "{0}"
    shown = form.format(time)
    picture = _paint_digital(rng, kit, shown)
    other = Time(mistaken(rng, dial).hour, rng.choice((time.minute, rng.randrange(60))))
    other = Time(other.hour % 12 + 12 if half else other.hour, other.minute)
    wrong = form.format(other if other != time else time.moved(60))
    asked = [asker.ask(rng, TIME, shown, wrong), *_further(rng, asker, time, shown, wrong)]
    asked.append(asker.ask(rng, KIND, *KINDS[::-1]))
    label = f"clock {time.hour % 12 or 12}"
    return _sample(rng, picture, asked, label, f"a digital clock that shows {shown}", "digital")


def _paint_digital(rng: random.Random, kit: Kit, shown: str) -> Image.Image:
    side, times = rng.choice((112, 128, 160, 224)), 2
    width, height = side * times, round(side * times * rng.uniform(0.45, 1.0))
    picture = Image.new("RGB", (width, height), rng.choice(GROUNDS))
    pen = ImageDraw.Draw(picture)
    screen, figures = some_figures(rng)
    wide = width * rng.uniform(0.65, 0.95)
    high = min(height * 0.9, wide * rng.uniform(0.32, 0.5))
    x, y = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    case: RGB = rng.choice(((60, 60, 65), (20, 20, 20), (220, 220, 220), (150, 60, 50), screen))
    pen.rounded_rectangle((x, y, x + wide, y + high), high * rng.uniform(0, 0.2), fill=case)
    edge = high * rng.uniform(0.02, 0.1)
    pen.rectangle((x + edge, y + edge, x + wide - edge, y + high - edge), fill=screen)
    inner = (x + wide * 0.1, y + high * 0.2, x + wide * 0.9, y + high * 0.8)
    if rng.random() < 0.75:
        paint_segments(pen, shown, inner, figures)
    else:
        path = some_font(rng, kit)
        size = round(high * 0.7)
        while size > 8 and font_at(path, size).getlength(shown) > wide * 0.85:
            size = round(size * 0.9)
        pen.text((x + wide / 2, y + high / 2), shown, figures.lit, font_at(path, size), "mm")
    picture = picture.reduce(times)
    return photograph(rng, picture, 0.7) if rng.random() < 0.35 else picture

"""Pips to count: dice, dominoes and playing cards."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from internvl.nano.asking import Asked, Asker, Both, Wordings
from internvl.nano.sample import Kit, Sample
from internvl.nano.warp import RGB, font_at, photograph, some_font

DIE: Wordings = (
    ("What number does the die show?", "How many pips does the die show?", "What did the die roll?",
     "How many dots are on the die?", "Which number is on the die?"),
    ("骰子是几点?", "骰子显示的点数是多少?"),
)  # fmt: skip
DICE: Wordings = (
    ("What is the sum of the dice?", "How many pips do the dice show together?", "What do the dice add up to?",
     "What is the total of all dice?", "How many dots are there on the dice?"),
    ("骰子的点数之和是多少?", "所有骰子一共多少点?"),
)  # fmt: skip
HOW_MANY_DICE: Wordings = (
    ("How many dice are there?", "How many dice do you see?", "Count the dice."), ("有几个骰子?", "图中有多少个骰子?"),
)  # fmt: skip
EACH: Wordings = (
    ("What do the dice show, from left to right?", "Read the dice from left to right.",
     "Which numbers do the dice show from left to right?"),
    ("从左到右骰子各是几点?", "从左到右读出骰子的点数。"),
)  # fmt: skip
DOMINO: Wordings = (
    ("How many pips does the domino have?", "How many dots are on the domino?", "What is the sum of the domino?"),
    ("这张多米诺骨牌一共有几个点?", "骨牌上有多少个点?"),
)
HALVES: Wordings = (
    ("How many pips are on the {side} half?", "How many dots does the {side} half of the domino have?"),
    ("{side}半边有几个点?", "骨牌的{side}半有多少个点?"),
)
CARD: Wordings = (
    ("Which card is this?", "What playing card is this?", "Name the card.", "Which playing card do you see?"),
    ("这是什么牌?", "这张扑克牌是什么?"),
)
SUIT: Wordings = (
    ("What suit is the card?", "Which suit is this card?", "What is the suit?"), ("这张牌是什么花色?", "花色是什么?"),
)  # fmt: skip

PIPS: dict[int, tuple[tuple[int, int], ...]] = {
    0: (), 1: ((0, 0),), 2: ((-1, -1), (1, 1)), 3: ((-1, -1), (0, 0), (1, 1)), 4: ((-1, -1), (1, -1), (-1, 1), (1, 1)),
    5: ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)), 6: ((-1, -1), (-1, 0), (-1, 1), (1, -1), (1, 0), (1, 1)),
}  # fmt: skip
"""Where the pips of a face are, in steps from its middle."""
GROUNDS: tuple[RGB, ...] = (
    (255, 255, 255),
    (30, 110, 60),
    (190, 200, 210),
    (120, 80, 50),
    (40, 50, 90),
    (235, 225, 205),
)
FACES: tuple[tuple[RGB, RGB], ...] = (
    ((252, 252, 248), (10, 10, 10)), ((252, 252, 248), (10, 10, 10)), ((200, 30, 35), (255, 255, 255)),
    ((20, 20, 25), (250, 250, 250)), ((40, 80, 190), (255, 255, 255)), ((245, 235, 200), (120, 20, 25)),
)  # fmt: skip
"""Colours of faces and of their pips."""


def _other(rng: random.Random, number: int, least: int = 0) -> str:
    return str(rng.choice([n for n in (number - 1, number + 1, number + 2) if n >= least]))


def _finish(
    rng: random.Random, page: Image.Image, asked: Sequence[Asked], label: str, caption: str, kind: str
) -> Sample:
    picture = page.reduce(2)
    if rng.random() < 0.35:
        picture = photograph(rng, picture, 0.7)
    turns = tuple(one.turn for one in asked)
    return Sample("digits", (picture,), turns, label, caption, asked[0].wrong, {"kind": kind})


# ---- dice ------------------------------------------------------------------------------------------------------------


def draw_dice(rng: random.Random, kit: Kit, asker: Asker) -> Sample:
    """One to four dice from above, half of the time a single one."""
    del kit
    count = rng.choices((1, 2, 3, 4), (5, 2, 2, 1))[0]
    faces = [rng.randint(1, 6) for _ in range(count)]
    side = 2 * rng.choice((112, 112, 128, 160))
    columns = count if count < 4 else 2
    ground = rng.choice(GROUNDS)
    page = Image.new(
        "RGB", (side, round(side * rng.choice((1.0, 1.0, 0.7 if count > 1 and count < 4 else 1.0)))), ground
    )
    cell = min(side / columns, page.height / (2 if count == 4 else 1))
    edge = cell * rng.uniform(0.5, 0.66)
    face, pip = rng.choice(
        [pair for pair in FACES if sum(abs(a - b) for a, b in zip(pair[0], ground, strict=True)) > 60]
    )
    for i, number in enumerate(faces):
        slack = max(0.0, cell * 0.48 - edge * 0.7)
        x = (i % columns + 0.5) * side / columns + rng.uniform(-slack, slack)
        y = (i // columns + 0.5) * page.height / (2 if count == 4 else 1) + rng.uniform(-slack, slack)
        turn = rng.uniform(-math.pi / 4, math.pi / 4) if rng.random() < 0.6 else 0.0
        paint_face(page, (x, y), (edge, turn), number, (face, pip))
    total = sum(faces)
    number = asker.ask(rng, HOW_MANY_DICE, str(count), _other(rng, count, 1))
    if count == 1:
        asked = [asker.ask(rng, DIE, str(total), str(rng.choice([n for n in range(1, 7) if n != total])))]
        return _finish(rng, page, asked, f"die {total}", f"a die that shows {total}", "die")
    asked = [asker.ask(rng, DICE, str(total), _other(rng, total, count)), number]
    if count < 4:
        false = [*faces[1:], faces[0]] if len(set(faces)) > 1 else [*faces[1:], faces[0] % 6 + 1]
        row, wrong = (", ".join(map(str, f)) for f in (faces, false))
        asked.append(asker.ask(rng, EACH, row, wrong))
    asked = rng.sample(asked, rng.randint(1, len(asked)))
    return _finish(rng, page, asked, f"{count} dice", f"{count} dice that show {total} in all", "dice")


def paint_face(
    page: Image.Image, at: tuple[float, float], shape: tuple[float, float], number: int, colours: tuple[RGB, RGB]
) -> None:
    """A square with rounded corners and its pips; `shape` is its edge and how far it is turned."""
    edge, turn = shape
    pen, cos, sin = ImageDraw.Draw(page), math.cos(turn), math.sin(turn)

    def place(u: float, v: float) -> tuple[float, float]:
        return at[0] + edge * (cos * u - sin * v), at[1] + edge * (sin * u + cos * v)

    corner, outline = 0.1, []
    for i, (u, v) in enumerate(((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))):
        for step in range(5):
            angle = math.pi * (1 + i / 2 + step / 8)
            outline.append(
                place(
                    u - math.copysign(corner, u) + corner * math.cos(angle),
                    v - math.copysign(corner, v) + corner * math.sin(angle),
                )
            )
    pen.polygon(outline, colours[0])
    pen.line([*outline, outline[0]], (90, 90, 90), 2)
    radius = edge * 0.095
    for u, v in PIPS[number]:
        x, y = place(u * 0.27, v * 0.27)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), colours[1])


# ---- dominoes --------------------------------------------------------------------------------------------------------

SIDES: dict[bool, tuple[Both, Both]] = {
    True: (("upper", "上"), ("lower", "下")),
    False: (("left", "左"), ("right", "右")),
}


def draw_domino(rng: random.Random, kit: Kit, asker: Asker) -> Sample:
    """One domino, standing or lying."""
    del kit
    halves, standing = (rng.randint(0, 6), rng.randint(0, 6)), rng.random() < 0.5
    side, ground = 2 * rng.choice((112, 112, 128, 160)), rng.choice(GROUNDS)
    page = Image.new("RGB", (side, side), ground)
    edge = side * rng.uniform(0.32, 0.46)
    slack = side / 2 - edge * 1.02
    x, y = side / 2 + rng.uniform(-slack, slack), side / 2 + rng.uniform(-slack, slack)
    face, pip = rng.choice(
        [pair for pair in FACES if sum(abs(a - b) for a, b in zip(pair[0], ground, strict=True)) > 60]
    )
    for number, way in zip(halves, (-0.5, 0.5), strict=True):
        at = (x, y + way * edge) if standing else (x + way * edge, y)
        paint_face(page, at, (edge, 0.0 if standing else math.pi / 2), number, (face, pip))
    total, which = sum(halves), rng.randrange(2)
    asked = [
        asker.ask(rng, DOMINO, str(total), _other(rng, total)),
        asker.ask(rng, HALVES, str(halves[which]), _other(rng, halves[which]), side=SIDES[standing][which]),
    ]
    asked = rng.sample(asked, rng.randint(1, 2))
    return _finish(rng, page, asked, f"domino {total}", f"a domino with {halves[0]} and {halves[1]} pips", "domino")


# ---- cards -----------------------------------------------------------------------------------------------------------

SUITS: tuple[Both, ...] = (("hearts", "红桃"), ("diamonds", "方块"), ("clubs", "梅花"), ("spades", "黑桃"))
RANKS: tuple[tuple[str, Both], ...] = (
    ("A", ("ace", "A")), *((str(n), (str(n), str(n))) for n in range(2, 11)),
    ("J", ("jack", "J")), ("Q", ("queen", "Q")), ("K", ("king", "K")),
)  # fmt: skip


def paint_suit(pen: ImageDraw.ImageDraw, suit: int, at: tuple[float, float], size: float, colour: RGB) -> None:
    """A sign of about this height."""
    x, y = at
    r = size * 0.26
    if suit == 1:
        pen.polygon([(x, y - size / 2), (x + size * 0.38, y), (x, y + size / 2), (x - size * 0.38, y)], colour)
        return
    way = 1 if suit == 0 else -1  # a spade is a heart upside down, with a foot
    if suit in (0, 3):
        for side in (-1, 1):
            cx, cy = x + side * r * 0.9, y - way * size * 0.18
            pen.ellipse((cx - r, cy - r, cx + r, cy + r), colour)
        tip, base = y + way * size * 0.5, y - way * size * 0.08
        pen.polygon([(x - 1.82 * r, base), (x + 1.82 * r, base), (x, tip)], colour)
    else:
        for cx, cy in ((x, y - size * 0.24), (x - r, y + size * 0.08), (x + r, y + size * 0.08)):
            pen.ellipse((cx - r, cy - r, cx + r, cy + r), colour)
    if suit >= 2:
        pen.polygon([(x, y), (x + r * 0.7, y + size / 2), (x - r * 0.7, y + size / 2)], colour)


def draw_card(rng: random.Random, kit: Kit, asker: Asker) -> Sample:
    """A playing card with its rank in two corners and its signs, or one large sign, in the middle."""
    suit, (sign, rank) = rng.randrange(4), rng.choice(RANKS)
    side, ground = 2 * rng.choice((112, 112, 128, 160)), rng.choice(GROUNDS)
    page = Image.new("RGB", (side, side), ground)
    high = side * rng.uniform(0.8, 0.96)
    wide = high * rng.uniform(0.66, 0.74)
    left, top = rng.uniform(0.02, 0.98) * (side - wide), (side - high) / 2
    pen = ImageDraw.Draw(page)
    colour: RGB = (205, 20, 30) if suit < 2 else (10, 10, 10)
    pen.rounded_rectangle((left, top, left + wide, top + high), high * 0.05, (253, 253, 250), (110, 110, 110), 2)
    corner = high * 0.17
    font = font_at(some_font(rng, kit), round(corner))
    for turned in (False, True):
        part = Image.new("RGB", (round(wide * 0.22), round(high * 0.34)), (253, 253, 250))
        own = ImageDraw.Draw(part)
        own.text((part.width / 2, corner * 0.65), sign, colour, font, "mm")
        paint_suit(own, suit, (part.width / 2, corner * 1.55), corner * 0.7, colour)
        if turned:
            part = part.transpose(Image.Transpose.ROTATE_180)
        at = (left + wide * 0.76, top + high * 0.64) if turned else (left + wide * 0.03, top + high * 0.03)
        page.paste(part, (round(at[0]), round(at[1])))
    _fill_card(pen, suit, sign, (left, top, wide, high), colour)
    false = rng.choice([s for s in range(4) if s != suit])
    name = (f"{rank[0]} of {SUITS[suit][0]}", f"{SUITS[suit][1]}{rank[1]}")
    asked = [
        asker.ask(rng, CARD, name, (f"{rank[0]} of {SUITS[false][0]}", f"{SUITS[false][1]}{rank[1]}")),
        asker.ask(rng, SUIT, SUITS[suit], SUITS[false]),
    ]
    asked = rng.sample(asked, rng.randint(1, 2))
    return _finish(rng, page, asked, f"card {sign}", f"the {name[0]}", "card")


def _fill_card(
    pen: ImageDraw.ImageDraw, suit: int, sign: str, box: tuple[float, float, float, float], colour: RGB
) -> None:
    left, top, wide, high = box
    if not sign.isdigit():
        paint_suit(pen, suit, (left + wide / 2, top + high / 2), high * 0.3, colour)
        return
    count = int(sign)
    pairs, single = divmod(count, 2)
    rows = [(v + 0.5) / pairs for v in range(pairs)]
    places = [(u, v) for v in rows for u in (0.36, 0.64)]
    if single:
        places.append((0.5, 0.5) if pairs % 2 == 0 else (0.5, 0.5 + 0.5 / pairs))
    for u, v in places:
        paint_suit(pen, suit, (left + wide * u, top + high * (0.1 + 0.8 * v)), high * 0.12, colour)

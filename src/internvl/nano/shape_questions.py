"""Questions about coloured shapes, with true answers and false ones; as many answers yes as no."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from internvl.nano.asking import Asked, Asker, Both, Wordings, yes
from internvl.nano.shapes import COLOUR_NAMES, COLOURS, KIND_NAMES, SHAPES, Shape, plural

HOW_MANY: Wordings = (
    ("How many {noun} are there?", "How many {noun} are in the picture?", "Count the {noun}.",
     "How many {noun} do you see?", "How many {noun} can you see in the image?", "What is the number of {noun}?",
     "How many {noun} are shown?", "Count the {noun} in the image."),
    ("有几个{noun}?", "图中有多少个{noun}?", "数一数有几个{noun}。", "一共有几个{noun}?", "{noun}有几个?"),
)  # fmt: skip
IS_THERE: Wordings = (
    ("Is there {a} {noun}?", "Is there {a} {noun} in the image?", "Is there {a} {noun} in the picture?",
     "Does the picture show {a} {noun}?", "Can you see {a} {noun}?", "Do you see {a} {noun} here?"),
    ("有{noun}吗?", "图中有没有{noun}?", "图片里有{noun}吗?", "你能看到{noun}吗?"),
)  # fmt: skip
WHAT_COLOUR: Wordings = (
    ("What colour is the {noun}?", "What color is the {noun}?", "Which colour does the {noun} have?",
     "Name the color of the {noun}.", "What is the color of the {noun}?"),
    ("{noun}是什么颜色?", "{noun}的颜色是什么?"),
)  # fmt: skip
WHAT_KIND: Wordings = (
    ("What shape is the {noun} one?", "What is the shape of the {noun} object?", "Which shape is {noun}?",
     "What shape is {noun}?"),
    ("{noun}的是什么形状?", "{noun}的图形是什么?"),
)  # fmt: skip
WHERE: Wordings = (
    ("Where is the {noun}?", "Where in the picture is the {noun}?", "In which part of the image is the {noun}?",
     "In which part of the picture is the {noun}?"),
    ("{noun}在哪里?", "{noun}在图中的什么位置?"),
)  # fmt: skip
WHAT_AT: Wordings = (
    ("What is {place}?", "Which shape is {place}?", "What is {place} of the picture?", "Name the shape {place}."),
    ("{place}是什么?", "{place}有什么图形?"),
)
FURTHEST: Wordings = (
    ("Which shape is furthest {way}?", "What is furthest {way}?", "Which shape is the furthest {way}?"),
    ("最{way}的是什么?", "哪个图形在最{way}?"),
)
RELATION: Wordings = (
    ("Is the {one} {relation} the {other}?", "Is the {one} {relation} the {other} in the picture?",
     "Does the {one} lie {relation} the {other}?", "Do you see the {one} {relation} the {other}?"),
    ("{one}在{other}的{relation}吗?", "{one}是不是在{other}的{relation}?"),
)  # fmt: skip
LARGER: Wordings = (
    ("Which is larger, the {one} or the {other}?", "Which is bigger, the {one} or the {other}?",
     "What is larger: the {one} or the {other}?"),
    ("{one}和{other}哪个大?", "哪个更大,{one}还是{other}?"),
)  # fmt: skip
IS_LARGER: Wordings = (
    ("Is the {one} larger than the {other}?", "Is the {one} bigger than the {other}?",
     "Does the {one} look larger than the {other}?"),
    ("{one}比{other}大吗?",),
)  # fmt: skip
MORE: Wordings = (
    ("Are there more {one} than {other}?", "Do you see more {one} than {other}?",
     "Does the picture show more {one} than {other}?"),
    ("{one}比{other}多吗?", "{one}是不是比{other}多?"),
)  # fmt: skip
OVERLAP: Wordings = (
    ("Do the two shapes overlap?", "Do the shapes overlap?", "Does the {one} overlap the {other}?",
     "Does the {one} cover a part of the {other}, or the other way round?", "Do the {one} and the {other} touch?",
     "Is the {one} touching the {other}?", "Do the shapes touch each other?"),
    ("两个图形重叠吗?", "{one}和{other}重叠吗?", "{one}和{other}碰到了吗?"),
)  # fmt: skip

PLACES: dict[tuple[int, int], Both] = {
    (-1, -1): ("top left", "左上"), (0, -1): ("top", "上方"), (1, -1): ("top right", "右上"),
    (-1, 0): ("left", "左边"), (0, 0): ("middle", "中间"), (1, 0): ("right", "右边"),
    (-1, 1): ("bottom left", "左下"), (0, 1): ("bottom", "下方"), (1, 1): ("bottom right", "右下"),
}  # fmt: skip
WAYS: tuple[tuple[Both, str, int], ...] = (
    (("left of", "左边"), "x", -1), (("right of", "右边"), "x", 1),
    (("above", "上面"), "y", -1), (("below", "下面"), "y", 1),
    (("to the left of", "左侧"), "x", -1), (("to the right of", "右侧"), "x", 1),
    (("higher than", "上方"), "y", -1), (("lower than", "下方"), "y", 1),
)  # fmt: skip
ENDS: tuple[tuple[Both, str, int], ...] = (
    (("to the left", "左边"), "x", -1), (("to the right", "右边"), "x", 1), (("up", "上面"), "y", -1),
    (("down", "下面"), "y", 1),
)  # fmt: skip
CLEAR = 0.12
"""Parts of the picture by which one shape must be further on than another to be called so."""

Question = Callable[[random.Random, Asker, Sequence[Shape]], Asked | None]


def ask_scene(rng: random.Random, asker: Asker, shapes: Sequence[Shape]) -> tuple[Asked, ...]:
    """How many, for every second scene first, and others that this scene allows; three at most."""
    questions = rng.sample(FURTHER, len(FURTHER))
    found = [asked for question in questions if (asked := question(rng, asker, shapes))]
    total = count_all(rng, asker, shapes)
    found = [total, *found[: rng.randint(0, 2)]] if rng.random() < 0.45 or not found else found[: rng.randint(1, 3)]
    if rng.random() < 0.4:
        rng.shuffle(found)
    return tuple({asked.question: asked for asked in found}.values())


def ask_shape(rng: random.Random, asker: Asker, shape: Shape) -> tuple[Asked, ...]:
    """Two of: its colour, its kind, whether it is there."""
    found = (question(rng, asker, [shape]) for question in rng.sample((colour_of, kind_of, is_there), 2))
    return tuple(asked for asked in found if asked)


def ask_overlap(rng: random.Random, asker: Asker, shapes: Sequence[Shape], overlap: bool) -> tuple[Asked, ...]:
    """Whether two shapes overlap, and sometimes another question."""
    one, other = rng.sample(shapes, 2)
    asked = [asker.ask(rng, OVERLAP, *yes(overlap), one=one.name, other=other.name)]
    further = count_all(rng, asker, shapes) if rng.random() < 0.5 else colour_of(rng, asker, shapes)
    return tuple(asked + ([further] if further and rng.random() < 0.5 else []))


# ---- how many --------------------------------------------------------------------------------------------------------


def _count(rng: random.Random, asker: Asker, noun: Both, count: int) -> Asked:
    near = [other for other in (count - 1, count + 1, count + 2) if other >= 0]
    return asker.ask(rng, HOW_MANY, str(count), str(rng.choice(near)), noun=noun)


def count_all(rng: random.Random, asker: Asker, shapes: Sequence[Shape]) -> Asked:
    kinds = {s.kind for s in shapes}
    noun = rng.choice((("shapes", "图形"), ("shapes", "图形"), ("objects", "物体")))
    if len(kinds) == 1 and rng.random() < 0.6:
        kind = next(iter(kinds))
        noun = (plural(kind), KIND_NAMES[kind][1])
    return _count(rng, asker, noun, len(shapes))


def count_some(rng: random.Random, asker: Asker, shapes: Sequence[Shape]) -> Asked:
    """Of one kind, of one colour, or of both; one time in five such as may not be there at all."""
    seen = rng.choice(shapes) if shapes and rng.random() < 0.8 else Shape(*_any(rng), 0, 0, 0)
    kind, colour = seen.kind, seen.colour
    which = rng.randrange(3)
    if which == 0:
        return _count(rng, asker, (plural(kind), KIND_NAMES[kind][1]), sum(s.kind == kind for s in shapes))
    if which == 1:
        noun = (f"{colour} shapes", f"{COLOUR_NAMES[colour][1]}的图形")
        return _count(rng, asker, noun, sum(s.colour == colour for s in shapes))
    noun = (f"{colour} {plural(kind)}", seen.name[1])
    return _count(rng, asker, noun, sum((s.colour, s.kind) == (colour, kind) for s in shapes))


def more(rng: random.Random, asker: Asker, shapes: Sequence[Shape]) -> Asked | None:
    """Whether there are more of one kind, or colour, than of another; never as many of both."""
    by_kind = rng.random() < 0.5
    counts: dict[str, int] = {}
    for shape in shapes:
        key = shape.kind if by_kind else shape.colour
        counts[key] = counts.get(key, 0) + 1
    pairs = [(a, b) for a in counts for b in counts if counts[a] > counts[b]]
    if not pairs:
        return None
    true = rng.random() < 0.5
    one, other = rng.choice(pairs) if true else rng.choice(pairs)[::-1]

    def noun(key: str) -> Both:
        return (plural(key), KIND_NAMES[key][1]) if by_kind else (f"{key} shapes", f"{COLOUR_NAMES[key][1]}的图形")

    return asker.ask(rng, MORE, *yes(true), one=noun(one), other=noun(other))


# ---- what ------------------------------------------------------------------------------------------------------------


def _any(rng: random.Random) -> tuple[str, str]:
    return rng.choice(list(SHAPES)), rng.choice(list(COLOURS))


def is_there(rng: random.Random, asker: Asker, shapes: Sequence[Shape]) -> Asked | None:
    """One that is there, or one whose kind and colour are there but not together, or any other."""
    if not shapes:
        return None
    there = {(s.kind, s.colour) for s in shapes}
    true = rng.random() < 0.5
    kind, colour = rng.choice(sorted(there))
    if not true:
        mixed = [(k, c) for k in sorted({k for k, _ in there}) for c in sorted({c for _, c in there})]
        absent = [pair for pair in mixed if pair not in there]
        if not absent or rng.random() < 0.4:
            absent = [(k, c) for k in SHAPES for c in COLOURS if (k, c) not in there]
        kind, colour = rng.choice(absent)
    noun = Shape(kind, colour, 0, 0, 0).name
    return asker.ask(rng, IS_THERE, *yes(true), noun=noun, a="an" if colour == "orange" else "a")


def colour_of(rng: random.Random, asker: Asker, shapes: Sequence[Shape]) -> Asked | None:
    """Of the only one of its kind."""
    single = [s for s in shapes if sum(t.kind == s.kind for t in shapes) == 1]
    if not single:
        return None
    shape = rng.choice(single)
    wrong = rng.choice([colour for colour in COLOURS if colour != shape.colour])
    return asker.ask(rng, WHAT_COLOUR, COLOUR_NAMES[shape.colour], COLOUR_NAMES[wrong], noun=KIND_NAMES[shape.kind])


def kind_of(rng: random.Random, asker: Asker, shapes: Sequence[Shape]) -> Asked | None:
    """Of the only one of its colour."""
    single = [s for s in shapes if sum(t.colour == s.colour for t in shapes) == 1]
    if not single:
        return None
    shape = rng.choice(single)
    wrong = rng.choice([kind for kind in SHAPES if kind != shape.kind])
    return asker.ask(rng, WHAT_KIND, KIND_NAMES[shape.kind], KIND_NAMES[wrong], noun=COLOUR_NAMES[shape.colour])


# ---- where -----------------------------------------------------------------------------------------------------------


def unique(shapes: Sequence[Shape]) -> list[Shape]:
    """Those that colour and kind together tell from all others."""
    return [s for s in shapes if sum((t.kind, t.colour) == (s.kind, s.colour) for t in shapes) == 1]


def place_of(shape: Shape) -> tuple[int, int] | None:
    """(-1, -1) is the top left, (0, 0) the middle; None on a border between two places."""

    def third(value: float) -> int | None:
        return -1 if value < 0.3 else 0 if 0.4 < value < 0.6 else 1 if value > 0.7 else None

    across, down = third(shape.x), third(shape.y)
    return None if across is None or down is None else (across, down)


def where(rng: random.Random, asker: Asker, shapes: Sequence[Shape]) -> Asked | None:
    """Where one is, or what is in that place if it is alone there."""
    known = [(s, place) for s in unique(shapes) if (place := place_of(s)) is not None]
    if not known:
        return None
    shape, place = rng.choice(known)
    if rng.random() < 0.5:
        wrong = rng.choice([other for other in PLACES if other != place])
        return asker.ask(rng, WHERE, PLACES[place], PLACES[wrong], noun=shape.name)
    x, y = (0.5 + side / 3 for side in place)
    if any(s is not shape and abs(s.x - x) < 0.26 and abs(s.y - y) < 0.26 for s in shapes):
        return None
    article = ("in" if place == (0, 0) else "on" if place[1] == 0 else "at") + " the "
    said = (article + PLACES[place][0], PLACES[place][1])
    return asker.ask(rng, WHAT_AT, shape.name, _other_name(rng, shape, shapes), place=said)


def furthest(rng: random.Random, asker: Asker, shapes: Sequence[Shape]) -> Asked | None:
    """Which of several is clearly the last one on a side."""
    way, axis, sign = rng.choice(ENDS)
    order = sorted(shapes, key=lambda s: -sign * getattr(s, axis))
    if len(order) < 2 or sign * (getattr(order[0], axis) - getattr(order[1], axis)) < CLEAR:
        return None
    edges = [sign * getattr(s, axis) + s.radius for s in order]
    if edges[0] < max(edges[1:]):
        return None
    return asker.ask(rng, FURTHEST, order[0].name, _other_name(rng, order[0], shapes), way=way)


def _other_name(rng: random.Random, shape: Shape, shapes: Sequence[Shape]) -> Both:
    names = sorted({s.name for s in shapes} - {shape.name})
    return rng.choice(names) if names else ("none", "没有")


def relation(rng: random.Random, asker: Asker, shapes: Sequence[Shape]) -> Asked | None:
    """Whether one is left or right of another, above or below it."""
    way, axis, sign = rng.choice(WAYS)
    known = unique(shapes)
    pairs = [(a, b) for a in known for b in known if sign * (getattr(a, axis) - getattr(b, axis)) > CLEAR]
    if not pairs:
        return None
    true = rng.random() < 0.5
    one, other = rng.choice(pairs) if true else rng.choice(pairs)[::-1]
    return asker.ask(rng, RELATION, *yes(true), one=one.name, other=other.name, relation=way)


def larger(rng: random.Random, asker: Asker, shapes: Sequence[Shape]) -> Asked | None:
    """Which of two is larger, by so much that area and width both say it."""
    known = unique(shapes)
    pairs = [(a, b) for a in known for b in known if a.radius > 1.3 * b.radius and area(a) > 1.3 * area(b)]
    if not pairs:
        return None
    big, small = rng.choice(pairs)
    first, second = (big, small) if rng.random() < 0.5 else (small, big)
    if rng.random() < 0.5:
        return asker.ask(rng, LARGER, big.name, small.name, one=first.name, other=second.name)
    return asker.ask(rng, IS_LARGER, *yes(first is big), one=first.name, other=second.name)


def area(shape: Shape) -> float:
    """In parts of the square on the picture's shorter side."""
    points = SHAPES[shape.kind]
    following = (*points[1:], points[0])
    whole = sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(points, following, strict=True))
    return abs(whole) / 2 * shape.radius**2


FURTHER: tuple[Question, ...] = (
    count_some, count_some, is_there, colour_of, kind_of, where, where, furthest, furthest, relation, relation,
    relation, larger, larger, larger, more,
)  # fmt: skip
"""Those that many scenes do not allow stand there several times."""

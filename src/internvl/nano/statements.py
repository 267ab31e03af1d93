"""Statements about three boxes of shapes, true or false: every picture has as many of either kind.

The pictures imitate those of NLVR (Suhr et al., ACL 2017), and the statements the manner of its human sentences.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from internvl.nano.blocks import (
    INKS,
    KINDS,
    Box,
    Claim,
    Family,
    Item,
    Scene,
    all_items,
    amounts,
    boxes_with,
    many,
    number,
    of_colour,
    paint,
    some_colour,
    some_shapes,
    some_towers,
    there_are,
)
from internvl.nano.sample import Kit, Sample, Turn
from internvl.nano.towers import TOWERS

# ---- statements about boxes of anything ------------------------------------------------------------------------------

THINGS = ("item", "item", "object")


def items_counted(rng: random.Random) -> Claim:
    """'There is 1 box with exactly 3 items.'"""
    n, form = rng.randint(1, 5), rng.choice(("", "exactly ", "only ", "at least ", "at most ", "less than "))
    n += form == "less than "
    tests = {"at least ": lambda k: k >= n, "at most ": lambda k: k <= n, "less than ": lambda k: k < n}
    fits = tests.get(form, lambda k: k == n)
    amount = f"{form}{number(rng, n)} {many(n, rng.choice(THINGS))}"
    if rng.random() < 0.3:
        return f"One of the grey square contains {amount}", lambda s: _one(fits(len(b)) for b in s)
    return boxes_with(rng, "box", f" with {amount}", lambda b: bool(fits(len(b))))


def _one(found: Iterable[bool]) -> bool | None:
    """'One of ...' is true of one, false of none, and of more people disagree."""
    count = sum(found)
    return None if count > 1 else count == 1


def colour_counted(rng: random.Random) -> Claim:
    n, colour = rng.randint(1, 3), some_colour(rng)
    form = rng.choice(("", "", "exactly ", "at least "))
    tail = f" with {form}{number(rng, n)} {colour} {many(n, rng.choice(THINGS))}"
    return boxes_with(rng, "box", tail, lambda b: amounts(form, n, of_colour(b, colour)))


def only_colour(rng: random.Random) -> Claim:
    a, b = rng.sample(list(INKS), 2)
    if rng.random() < 0.5:
        tail = rng.choice((f" with only {a} items", f" with items of only {a} color"))
        return boxes_with(rng, "box", tail, lambda x: {i.colour for i in x} == {a})
    tail = rng.choice((f" with only {a} and {b} items", f" with items of only {a} and {b} color"))
    return boxes_with(rng, "box", tail, lambda x: {i.colour for i in x} == {a, b})


def colours_counted(rng: random.Random) -> Claim:
    n, k = rng.randint(2, 5), rng.choice((2, 2, 3))
    kinds = "all 3 different" if k == 3 else f"{number(rng, k)} different"
    tail = rng.choice((f" with {number(rng, n)} items of {kinds} colors", f" with items of {kinds} colors"))
    any_number = "items of" in tail and tail.startswith(" with items")
    return boxes_with(rng, "box", tail, lambda b: len({i.colour for i in b}) == k and (any_number or len(b) == n))


def part_coloured(rng: random.Random) -> Claim:
    """'There is a box with 4 items of which 1 is blue.'"""
    n, colour = rng.randint(2, 5), some_colour(rng)
    k = rng.randint(1, n - 1)
    least = rng.random() < 0.3
    part = f"{'at least ' * least}{number(rng, k)} {'is' if k == 1 else 'are'} {colour}"
    tail = f" with {number(rng, n)} items of which {part}"

    def of(box: Box) -> bool | None:
        found = of_colour(box, colour)
        return len(box) == n and (found >= k if least else None if found > k else found == k)

    return boxes_with(rng, "box", tail, of)


def as_many(rng: random.Random) -> Claim:
    a, b = rng.sample(list(INKS), 2)
    return boxes_with(
        rng, "box", f" with the same number of {a} and {b} items",
        lambda x: None if of_colour(x, a) == of_colour(x, b) == 0 else of_colour(x, a) == of_colour(x, b),
    )  # fmt: skip


def total_colour(rng: random.Random) -> Claim:
    colour = some_colour(rng)
    return there_are(rng, f"{colour} {rng.choice(THINGS)}", "", lambda s: of_colour(all_items(s), colour), 6)


def each_box(rng: random.Random) -> Claim:
    n, colour = rng.choice((1, 1, 2)), some_colour(rng)
    things = f"at least {number(rng, n)} {colour} {many(n, 'item')}"
    said = rng.choice(
        (
            "Each box has {}",
            f"There {'is' if n == 1 else 'are'} {{}} in every box",
            "Each grey square has {}",
            "Every box has {}",
        )
    )
    return said.format(things), lambda s: all(of_colour(b, colour) >= n for b in s)


ANY: tuple[Family, ...] = (
    items_counted, colour_counted, only_colour, colours_counted, part_coloured, as_many, total_colour, each_box,
)  # fmt: skip

# ---- statements about scattered shapes -------------------------------------------------------------------------------


def total_kind(rng: random.Random) -> Claim:
    colour, kind = some_colour(rng), rng.choice(KINDS)
    return there_are(rng, f"{colour} {kind}", "", lambda s: len(_those(all_items(s), colour, kind)), 3)


def _those(items: Sequence[Item], colour: str, kind: str) -> list[Item]:
    """Of a colour and a kind; an empty word means any."""
    return [i for i in items if colour in ("", i.colour) and kind in ("", i.kind)]


def two_totals(rng: random.Random) -> Claim:
    a, b = ((some_colour(rng), rng.choice(KINDS)) for _ in range(2))
    n, k = rng.randint(1, 2), rng.randint(1, 2)
    if a == b:
        return total_kind(rng)

    def test(scene: Scene) -> bool | None:
        found = len(_those(all_items(scene), *a)), len(_those(all_items(scene), *b))
        return True if found == (n, k) else False if found[0] < n or found[1] < k else None

    return (
        f"There {'is' if n == 1 else 'are'} {n} {' '.join(a)}{'s' * (n > 1)} and {k} {' '.join(b)}{'s' * (k > 1)}",
        test,
    )


def kind_counted(rng: random.Random) -> Claim:
    n, kind = rng.randint(1, 3), rng.choice(KINDS)
    colour = rng.choice(("", some_colour(rng)))
    form = rng.choice(("", "", "exactly ", "at least "))
    tail = f" with {form}{number(rng, n)} {colour}{' ' * bool(colour)}{many(n, kind)}"
    return boxes_with(rng, "box", tail, lambda b: amounts(form, n, len(_those(b, colour, kind))))


def kind_and_colour(rng: random.Random) -> Claim:
    """'There is a box with a blue square and at least 2 black items.'"""
    colour, kind = some_colour(rng), rng.choice(KINDS)
    other, n = rng.choice([c for c in INKS if c != colour]), rng.randint(1, 2)
    amount = f"at least {number(rng, n)} {other} {many(n, 'item')}" if rng.random() < 0.5 else f"a {other} item"
    least = n if "least" in amount else 1
    form = rng.choice((" with a {} {} and {}", " that has a {} {} and {}", ", which has a {} {} and {}"))
    return boxes_with(
        rng, "box", form.format(colour, kind, amount),
        lambda b: bool(_those(b, colour, kind)) and of_colour(b, other) >= least,
    )  # fmt: skip


def one_kind(rng: random.Random) -> Claim:
    n, kind = rng.randint(2, 4), rng.choice(KINDS)
    tail, test = rng.choice((
        (f" with only {kind}s", lambda b: {i.kind for i in b} == {kind} if len(b) > 1 else None),
        (" with items of the same shape", lambda b: None if len(b) == 1 else len({i.kind for i in b}) == 1),
        (f" with only {n} items of the same shape", lambda b: len(b) == n and len({i.kind for i in b}) == 1),
        (" with all three shapes", lambda b: len({i.kind for i in b}) == 3),
        (f" with no {kind}", lambda b: not _those(b, "", kind)),
    ))  # fmt: skip
    return boxes_with(rng, "box", tail, test)


EDGES = (
    (" touching the wall", ""), (" touching the edge", ""), (" touching the side", ""), (" touching an edge", ""),
    (" touching the base", "bottom"), (" closely touching the bottom of a box", "bottom"),
    (" touching the bottom edge", "bottom"), (" closely touching right wall of a box", "right"),
    (" touching the left wall of a box", "left"), (" touching the top of a box", "top"),
    (" touching a corner", "corner"), (" closely touching a corner of a box", "corner"), (" in the corner", "corner"),
    (" not touching any edge", "none"), (" not touching the edge", "none"),
)  # fmt: skip


def at_wall(item: Item, where: str) -> bool:
    """Whether it touches the wall; no name means any wall."""
    if where in ("none", "corner"):
        return len(item.sides) == (0 if where == "none" else 2)
    return bool(item.sides) if not where else where in item.sides


def touching(rng: random.Random) -> Claim:
    """'There are exactly two blue triangles not touching the edge.'"""
    colour, kind = rng.choice(("", some_colour(rng), some_colour(rng))), rng.choice(("", *KINDS))
    tail, where = rng.choice(EDGES)
    noun = " ".join(w for w in (colour, kind or rng.choice(THINGS)) if w)
    return there_are(rng, noun, tail, lambda s: sum(at_wall(i, where) for i in _those(all_items(s), colour, kind)), 3)


def box_touching(rng: random.Random) -> Claim:
    colour, kind = rng.choice(("", some_colour(rng))), rng.choice(("", *KINDS))
    tail, where = rng.choice(EDGES[:13])
    noun = " ".join(w for w in (colour, kind or "item") if w)
    extra = rng.choice(("", "", some_colour(rng)))
    said = f" with a {noun}{tail.replace(' of a box', '')}" + (
        f" and a {extra} item not touching the edge" if extra else ""
    )
    return boxes_with(
        rng, "box", said,
        lambda b: any(at_wall(i, where) for i in _those(b, colour, kind))
        and (not extra or any(at_wall(i, "none") for i in _those(b, extra, ""))),
    )  # fmt: skip


def none_touching(rng: random.Random) -> Claim:
    colour, (tail, where) = some_colour(rng), rng.choice(EDGES[:7])

    def test(scene: Scene) -> bool | None:
        these = _those(all_items(scene), colour, "")
        return not any(at_wall(i, where) for i in these) if these else None

    return f"None of the {colour} objects are{tail}", test


def all_touching(rng: random.Random) -> Claim:
    kind = rng.randrange(3)
    said = ("Items of all 3 colors are touching the wall", "Each grey square has at least one object touching the wall",
            "Each box has an item touching the bottom edge")[kind]  # fmt: skip
    return said, (
        lambda s: {i.colour for i in all_items(s) if i.sides} == set(INKS),
        lambda s: all(any(i.sides for i in b) for b in s),
        lambda s: all(any("bottom" in i.sides for i in b) for b in s),
    )[kind]


def sized(rng: random.Random) -> Claim:
    (word, size), colour = rng.choice((("small", 10), ("big", 30), ("large", 30))), some_colour(rng)
    kind = rng.choice(KINDS)
    return there_are(
        rng, f"{word} {colour} {kind}", "", lambda s: sum(i.size == size for i in _those(all_items(s), colour, kind)), 2
    )


SHAPES: tuple[Family, ...] = (
    total_kind, total_kind, two_totals, kind_counted, kind_counted, kind_and_colour, one_kind, touching, touching,
    touching, box_touching, none_touching, all_touching, sized,
)  # fmt: skip

# ---- pictures with statements ----------------------------------------------------------------------------------------

ASKED = "Is this statement true of the picture? Answer with True or False.\n{}"
TRUTH = (
    ASKED, ASKED, ASKED, ASKED, ASKED, "Is this statement true of the image? Answer with True or False.\n{}",
    "True or false? {}", "{} True or False?", "Statement: {}\nIs it true or false?",
)  # fmt: skip
AGREE = (
    "Is this right? {}", "Does the picture agree with this sentence? {}", "{}\nAnswer yes or no.",
    "Is it so that: {} Please answer yes or no.",
)  # fmt: skip
CHINESE = ("这句话对吗?{}", "根据图片判断对错:{}请回答是或否。", "图片是否符合这句话?{}")
BANK = 16
"""Scenes that are drawn to know how often a statement is true."""


def draw_statement(rng: random.Random, kit: Kit) -> Sample:
    """Three boxes, with one to three statements that are as often true as false whatever they say."""
    del kit
    towers = rng.random() < 0.6
    bank = [(some_towers if towers else some_shapes)(rng) for _ in range(BANK)]
    families = (*TOWERS, *ANY) if towers else (*SHAPES, *SHAPES, *ANY)
    chinese = rng.random() < 0.15
    said, scene, truth = _first(rng, bank, families, chinese)
    turns = [_turn(rng, said, truth, chinese)]
    wrong = _swap(turns[0][1])
    for _ in range(0 if chinese else rng.choice((0, 1, 1, 2))):
        more = _further(rng, bank, families, scene)
        if more and more[0] != said:
            turns.append(_turn(rng, *more, False))
    facts = {f"box {i}": "; ".join(f"{o.kind} {o.colour} {o.x} {o.y} {o.size}" for o in b) for i, b in enumerate(scene)}
    return Sample("statement", (paint(rng, scene),), tuple(turns), wrong=wrong, facts=facts)


def _first(
    rng: random.Random, bank: Sequence[Scene], families: Sequence[Family], chinese: bool
) -> tuple[str, Scene, bool]:
    """A statement that is true of a scene of the bank and false of another, and one of the two by chance."""
    while True:
        said, test = _in_chinese(rng) if chinese else rng.choice(families)(rng)
        judged = [(scene, test(scene)) for scene in bank]
        either = [[scene for scene, truth in judged if truth is wanted] for wanted in (False, True)]
        if all(either):
            truth = rng.random() < 0.5
            return said, rng.choice(either[truth]), truth


def _further(
    rng: random.Random, bank: Sequence[Scene], families: Sequence[Family], scene: Scene
) -> tuple[str, bool] | None:
    """Another statement about this scene; the likelier a truth is in the bank, the less often it is taken."""
    for _ in range(6):
        said, test = rng.choice(families)(rng)
        truth = test(scene)
        judged = [t for t in map(test, bank) if t is not None]
        if truth is None or len(set(judged)) < 2:
            continue
        share = judged.count(truth) / len(judged)
        if rng.random() < (1 - share) / share:
            return said, truth
    return None


def _turn(rng: random.Random, said: str, truth: bool, chinese: bool) -> Turn:
    if chinese:
        return rng.choice(CHINESE).format(said), "是" if truth else "否"
    if rng.random() < 0.25:
        said = said[0].lower() + said[1:]
    if rng.random() < 0.6:
        said += "."
    if rng.random() < 0.2:
        return rng.choice(AGREE).format(said), "Yes" if truth else "No"
    return rng.choice(TRUTH).format(said), "True" if truth else "False"


def _swap(answer: str) -> str:
    pairs = {"True": "False", "Yes": "No", "是": "否"}
    return {**pairs, **{b: a for a, b in pairs.items()}}[answer]


INKS_ZH = {"yellow": "黄色", "blue": "蓝色", "black": "黑色"}


def _in_chinese(rng: random.Random) -> Claim:
    colour, n = some_colour(rng), rng.randint(1, 3)
    zh = INKS_ZH[colour]
    return rng.choice((
        (f"图中正好有{n}个{zh}的图形。", lambda s: of_colour(all_items(s), colour) == n),
        (f"图中至少有{n + 2}个{zh}的图形。", lambda s: of_colour(all_items(s), colour) >= n + 2),
        (f"每个方框里都有{zh}的图形。", lambda s: all(of_colour(b, colour) for b in s)),
        (f"有一个方框里只有{zh}的图形。", lambda s: any(of_colour(b, colour) == len(b) for b in s)),
        (f"没有一个方框正好有{n}个图形。", lambda s: all(len(b) != n for b in s)),
        (f"至少有一个方框里有{n}个{zh}的图形。", lambda s: any(of_colour(b, colour) == n for b in s)),
    ))  # fmt: skip

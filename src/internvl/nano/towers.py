"""Statements about towers of blocks, in the manner of NLVR's human sentences, each with its test of scenes."""

from __future__ import annotations

import random

from internvl.nano.blocks import (
    INKS,
    Box,
    Claim,
    Family,
    Scene,
    amounts,
    boxes_with,
    many,
    number,
    of_colour,
    some_colour,
)


def _end(rng: random.Random) -> tuple[str, int]:
    return rng.choice((("top", -1), ("base", 0), ("bottom", 0), ("base", 0)))


def tower_end(rng: random.Random) -> Claim:
    colour, (end, i) = some_colour(rng), _end(rng)
    tail = rng.choice((" with a {} block at the {}", " with {} block at the {}", " which has a {} block at the {}"))
    return boxes_with(rng, "tower", tail.format(colour, end), lambda b: b[i].colour == colour)


def tower_height(rng: random.Random) -> Claim:
    n, form = rng.randint(1, 4), rng.choice((" with {}", " with exactly {}", " with only {}", " with at least {}"))
    more = "least" in form
    tail = form.format(f"{number(rng, n)} {many(n, 'block')}")
    return boxes_with(rng, "tower", tail, lambda b: len(b) >= n if more else len(b) == n)


def tower_count(rng: random.Random) -> Claim:
    n, colour = rng.randint(1, 3), some_colour(rng)
    form = rng.choice(("", "exactly ", "at least "))
    tail = f" with {form}{number(rng, n)} {colour} {many(n, 'block')}"
    return boxes_with(rng, "tower", tail, lambda b: amounts(form, n, of_colour(b, colour)))


def tower_order(rng: random.Random) -> Claim:
    over, under = some_colour(rng), some_colour(rng)
    word = rng.choice(("above", "on", "over"))
    return boxes_with(rng, "tower", f" with a {over} block {word} a {under} block", lambda b: _above(b, over, under))


def _above(box: Box, over: str, under: str) -> bool | None:
    """None: above, and not upon."""
    places = [(i, j) for i, a in enumerate(box) for j, b in enumerate(box) if a.colour == over and b.colour == under]
    return True if any(i == j + 1 for i, j in places) else None if any(i > j for i, j in places) else False


def block_order(rng: random.Random) -> Claim:
    over, under = some_colour(rng), some_colour(rng)
    kind = rng.randrange(4)
    upper, lower = f"{over} block", f"{under} block"
    said = (f"There is a {upper} on a {lower}", f"There is a {upper} above a {lower}",
            f"There is a {lower} under a {upper}", f"There is no {upper} on a {lower}")  # fmt: skip

    def test(scene: Scene) -> bool | None:
        found = [_above(b, over, under) for b in scene]
        here = True if True in found else None if None in found else False
        return here if kind < 3 or here is None else not here

    return said[kind], test


def tower_one_colour(rng: random.Random) -> Claim:
    colour, form = some_colour(rng), rng.randrange(3)
    if form == 0:
        return boxes_with(rng, f"{colour} tower", "", lambda b: of_colour(b, colour) == len(b))
    if form == 1:
        tail = f" with blocks of {colour} color only"
        return boxes_with(rng, "tower", tail, lambda b: {i.colour for i in b} == {colour})
    tail = rng.choice((" with blocks of the same color", " with all the blocks of a single color"))
    return boxes_with(rng, "tower", tail, lambda b: None if len(b) == 1 else len({i.colour for i in b}) == 1)


def tower_colours(rng: random.Random) -> Claim:
    if rng.random() < 0.4:
        tail = rng.choice((" having the blocks of all three colors", " with blocks of 3 different colors"))
        return boxes_with(rng, "tower", tail, lambda b: len({i.colour for i in b}) == 3)
    a, b = rng.sample(list(INKS), 2)
    return boxes_with(rng, "tower", f" with only {a} and {b} blocks", lambda box: {i.colour for i in box} == {a, b})


def tower_middle(rng: random.Random) -> Claim:
    a, b = some_colour(rng), some_colour(rng)
    if rng.random() < 0.5:
        return boxes_with(rng, "tower", f" with a {a} block in the middle",
                           lambda t: None if len(t) == 4 else len(t) == 3 and t[1].colour == a)  # fmt: skip
    wanted = (b, a, b)
    return boxes_with(rng, "tower", f" which has a {a} block in between two {b} blocks",
                       lambda t: any(tuple(i.colour for i in t[k : k + 3]) == wanted for k in range(2)))  # fmt: skip


def tower_stacked(rng: random.Random) -> Claim:
    n, colour = rng.choice((2, 2, 3)), some_colour(rng)

    def of(box: Box) -> bool | None:
        together = any(all(i.colour == colour for i in box[k : k + n]) for k in range(len(box) - n + 1))
        return None if together and of_colour(box, colour) > n else together

    return boxes_with(rng, "tower", f" with {number(rng, n)} {colour} blocks stacked together", of)


def tower_both_ends(rng: random.Random) -> Claim:
    a, b = some_colour(rng), some_colour(rng)
    tail = f" with {a} as a base and {b} as a top block" if a != b else f" with {a} block at the top and at the base"
    return boxes_with(rng, "tower", tail, lambda t: None if len(t) == 1 else (t[0].colour, t[-1].colour) == (a, b))


def block_as_end(rng: random.Random) -> Claim:
    """'There is a blue block as the top of a tower with at least two blocks.'"""
    colour, (end, i), n = some_colour(rng), _end(rng), rng.randint(1, 4)
    form = rng.choice(("exactly ", "", "only ", "at least "))
    none = rng.random() < 0.3
    said = f"There is {'no' if none else 'a'} {colour} block as the {end} of a tower"
    said += f" with {form}{number(rng, n)} {many(n, 'block')}"

    def test(scene: Scene) -> bool:
        fit = [b for b in scene if (len(b) >= n if "least" in form else len(b) == n)]
        return any(b[i].colour == colour for b in fit) != none

    return said, test


def the_tower(rng: random.Random) -> Claim:
    """Said of the only tower of a height."""
    n, colour, (end, i) = rng.randint(1, 4), some_colour(rng), _end(rng)
    second = n > 1 and rng.random() < 0.3
    height = f"tower with {rng.choice(('', 'exactly '))}{number(rng, n)} {many(n, 'block')}"
    said = f"The {height} has a {colour} block at the {end}"
    if second:
        said, i = f"The second block from the base of the {height} is {colour}", 1

    def test(scene: Scene) -> bool | None:
        fit = [b for b in scene if len(b) == n]
        return fit[0][i].colour == colour if len(fit) == 1 else None

    return said, test


def every_tower(rng: random.Random) -> Claim:
    colour, n = some_colour(rng), rng.choice((1, 1, 2))
    said = rng.choice(("All 3 towers have", "Every tower has", "Each tower has", "All the towers have"))
    more = rng.choice(("at least ", "at least ", "exactly "))
    return f"{said} {more}{number(rng, n)} {colour} {many(n, 'block')}", lambda s: all(
        of_colour(b, colour) >= n if "least" in more else of_colour(b, colour) == n for b in s
    )


def ends_alike(rng: random.Random) -> Claim:
    end, i = _end(rng)
    kind = rng.randrange(4)
    said = (f"The {end}s of the three towers are the same in color",
            f"All the towers have the same color at the {end}",
            f"One tower has a different {end} color",
            f"The {end}s of the 3 towers are all of different colors")  # fmt: skip
    wanted = (1, 1, 2, 3)[kind]
    return said[kind], lambda s: len({b[i].colour for b in s}) == wanted


def ends_listed(rng: random.Random) -> Claim:
    (end, i), n = _end(rng), rng.choice((1, 2, 2, 3))
    a, b = rng.sample(list(INKS), 2)
    if n < 3 and rng.random() < 0.4:
        said, wanted = f"The {end}s of the three towers are two {a} and one {b}", {a: 2, b: 1}
        return said, lambda s: all(sum(t[i].colour == c for t in s) == k for c, k in wanted.items())
    said = f"{number(rng, n).capitalize()} of the three towers {'has' if n == 1 else 'have'} a {a} {end}"
    return said, lambda s: sum(t[i].colour == a for t in s) == n


def same_height(rng: random.Random) -> Claim:
    said, wanted = rng.choice((
        ("Two towers have the same height", 2), ("All three towers have the same height", 1),
        ("All the towers have a different height", 3), ("No two towers have the same number of blocks", 3),
        ("There are exactly two towers of the same height", 2),
    ))  # fmt: skip
    return said, lambda s: None if wanted == 2 and len({len(b) for b in s}) == 1 else len({len(b) for b in s}) == wanted


TOWERS: tuple[Family, ...] = (
    tower_end, tower_end, tower_height, tower_height, tower_count, tower_order, block_order, tower_one_colour,
    tower_colours, tower_middle, tower_stacked, tower_both_ends, block_as_end, block_as_end, the_tower, every_tower,
    ends_alike, ends_listed, same_height,
)  # fmt: skip
"""Said more often by people: listed twice."""

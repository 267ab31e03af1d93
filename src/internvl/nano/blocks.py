"""Three grey boxes with towers or scattered shapes: scenes, how they are painted, and the words of statements.

The pictures imitate those of NLVR (Suhr et al., ACL 2017), and the statements the manner of its human sentences.
Every statement comes with a test of scenes; a scene on which people would disagree about it is not asked about.
A plain number ("There are 2 black blocks") means no fewer and no more, as in the sentences of people.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from internvl.nano.shapes import RGB

SIDE = 100
"""Of a box, in pixels; boxes stand half a side apart."""
INKS: dict[str, RGB] = {"yellow": (255, 255, 0), "blue": (0, 153, 255), "black": (0, 0, 0)}
KINDS = ("circle", "square", "triangle")


@dataclass(frozen=True)
class Item:
    """A shape in a box; `x` and `y` are its left and upper edge."""

    kind: str
    colour: str
    x: int
    y: int
    size: int

    @property
    def sides(self) -> frozenset[str]:
        """The walls of the box that it touches."""
        touched = {"left": self.x <= 0, "right": self.x + self.size >= SIDE, "top": self.y <= 0}
        return frozenset(s for s, yes in {**touched, "bottom": self.y + self.size >= SIDE}.items() if yes)


Box = tuple[Item, ...]
"""Of a tower the base comes first."""
Scene = tuple[Box, ...]
Test = Callable[[Scene], bool | None]
"""Whether a statement is true of a scene; None where people would disagree."""
Claim = tuple[str, Test]
Of = Callable[[Box], bool | None]
Family = Callable[[random.Random], Claim]

# ---- scenes ----------------------------------------------------------------------------------------------------------


def some_towers(rng: random.Random) -> Scene:
    """A tower of one to four blocks in each box."""
    return tuple(
        tuple(Item("square", c, 40, 80 - 21 * i, 20) for i, c in enumerate(_colours(rng, rng.randint(1, 4))))
        for _ in range(3)
    )


def _colours(rng: random.Random, count: int) -> list[str]:
    palette = rng.sample(list(INKS), rng.choices((1, 2, 3), (2, 3, 5))[0])
    return [rng.choice(palette) for _ in range(count)]


def some_shapes(rng: random.Random) -> Scene:
    """One to seven shapes of three sizes scattered in each box, some of them against its walls."""
    return tuple(_scatter(rng) for _ in range(3))


WALLS = ("", "b", "r", "l", "t", "br", "bl", "tr", "tl")
OFTEN = (40, 22, 11, 8, 8, 4, 3, 2, 2)


def _scatter(rng: random.Random) -> Box:
    count = rng.choice((1, 2, 3, 3, 4, 4, 5, 6, 7))
    kinds = rng.sample(KINDS, rng.choices((1, 2, 3), (1, 2, 5))[0])
    items: list[Item] = []
    for colour in _colours(rng, count):
        for _ in range(12):
            size, walls = rng.choice((10, 20, 30)), rng.choices(WALLS, OFTEN)[0]
            x = 0 if "l" in walls else SIDE - size if "r" in walls else rng.randint(4, SIDE - size - 4)
            y = 0 if "t" in walls else SIDE - size if "b" in walls else rng.randint(4, SIDE - size - 4)
            if all(abs(2 * x + size - 2 * o.x - o.size) > size + o.size + 3
                   or abs(2 * y + size - 2 * o.y - o.size) > size + o.size + 3 for o in items):  # fmt: skip
                items.append(Item(rng.choice(kinds), colour, x, y, size))
                break
    return tuple(items)


def paint(rng: random.Random, scene: Scene) -> Image.Image:
    """As published in three draws of four; else in other shades and sizes. Drawn three times as large, and shrunk."""
    free = rng.random() < 0.25
    times = 3
    shades = {n: tuple(min(255, max(0, v + rng.randint(-25, 25))) if free else v for v in c) for n, c in INKS.items()}
    light, dark = (rng.randint(190, 255), rng.randint(90, 160)) if free else (211, 128)
    picture = Image.new("RGB", (4 * SIDE * times, SIDE * times), (dark,) * 3)
    pen = ImageDraw.Draw(picture)
    for i, box in enumerate(scene):
        left = i * SIDE * 3 // 2 * times
        pen.rectangle((left, 0, left + SIDE * times - 1, SIDE * times - 1), fill=(light,) * 3)
        for item in box:
            x1, y1, size = left + item.x * times, item.y * times, item.size * times
            x2, y2 = x1 + size - 1, y1 + size - 1
            if item.kind == "circle":
                pen.ellipse((x1, y1, x2, y2), fill=shades[item.colour])
            elif item.kind == "square":
                pen.rectangle((x1, y1, x2, y2), fill=shades[item.colour])
            else:
                pen.polygon(((x1, y2), (x2, y2), ((x1 + x2) / 2, y1)), fill=shades[item.colour])
    if free:
        size = rng.choice((300, 400, 400, 480))
        return picture.resize((size, size // 4), Image.Resampling.BOX)
    return picture.reduce(times)


# ---- words -----------------------------------------------------------------------------------------------------------

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")


def number(rng: random.Random, value: int) -> str:
    return rng.choice((str(value), NUMBERS[value]))


def some_colour(rng: random.Random) -> str:
    return rng.choice(list(INKS))


def many(value: int, noun: str) -> str:
    return noun if value == 1 else noun + "es" if noun.endswith("x") else noun + "s"


def _how_many(rng: random.Random, most: int = 3) -> tuple[str, int, Callable[[int], bool | None]]:
    """Words for an amount, the number in them, and the test of a count."""
    n = rng.randint(1, most)
    said = number(rng, n)
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(("at least ", "at least ", "atleast ")) + said, n, lambda k: k >= n
    if kind in (1, 2):
        return f"exactly {said}", n, lambda k: k == n
    if kind == 3:
        return f"only {said}", n, lambda k: k == n
    if kind == 4:
        return "no", 1, lambda k: k == 0
    if kind == 5:
        return "a", 1, lambda k: k > 0
    return said, n, lambda k: amounts("", n, k)


def amounts(form: str, n: int, count: int) -> bool | None:
    """Whether a count is 'at least', 'exactly' or plainly `n`; of more than a plain number people disagree."""
    if "least" in form:
        return count >= n
    return count == n if form or count < n else True if count == n else None


def there_are(rng: random.Random, noun: str, tail: str, count: Callable[[Scene], int | None], most: int = 3) -> Claim:
    """'There is exactly one tower with ...', and the like."""
    said, n, fits = _how_many(rng, most)

    def test(scene: Scene) -> bool | None:
        counted = count(scene)
        return None if counted is None else fits(counted)

    return f"There {'is' if n == 1 else 'are'} {said} {many(n, noun)}{tail}", test


def boxes_with(rng: random.Random, noun: str, tail: str, of: Of) -> Claim:
    def count(scene: Scene) -> int | None:
        found = [of(box) for box in scene]
        return None if None in found else sum(map(bool, found))

    return there_are(rng, noun, tail, count, 2)


def of_colour(items: Iterable[Item], colour: str) -> int:
    return sum(i.colour == colour for i in items)


def all_items(scene: Scene) -> list[Item]:
    return [i for box in scene for i in box]

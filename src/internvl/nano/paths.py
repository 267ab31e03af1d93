"""Subway maps, with paths of one colour from station to station, and grids, empty or with words.

Both imitate pictures of 'Vision language models are blind' (arXiv 2407.06581), and vary beyond them.
Here is also how the questions of such pictures are chosen.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from internvl.nano.sample import Kit, Sample, Turn
from internvl.nano.shapes import RGB

Asks = tuple[Sequence[Turn], Sequence[Turn], Sequence[Turn]]
"""What may be asked of one picture: in the published words, in our own, and in Chinese."""
TAB: dict[str, RGB] = {
    "blue": (31, 119, 180), "orange": (255, 127, 14), "green": (44, 160, 44), "red": (214, 39, 40),
    "purple": (148, 103, 189), "brown": (140, 86, 75), "pink": (227, 119, 194), "gray": (127, 127, 127),
    "olive": (188, 189, 34), "cyan": (23, 190, 207),
}  # fmt: skip
"""The ten colours that a well-known plotting library begins with."""


def ask(rng: random.Random, right: Asks, false: Asks) -> tuple[tuple[Turn, ...], str]:
    """One or two questions and a wrong answer to the first: `false` asks the same, of something that is not so."""
    chosen = rng.random()
    group = 2 if chosen < 0.15 else 0 if chosen < 0.55 else 1
    places = rng.sample(range(len(right[group])), min(len(right[group]), rng.choice((1, 1, 2))))
    return tuple(right[group][i] for i in places), false[group][places[0]][1]


@functools.lru_cache(maxsize=1024)
def font(path: Path | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(str(path), size)


def named(kit: Kit, *stems: str) -> Path | None:
    """The first font of the kit with one of these names, else any that most text looks like."""
    found = [p for stem in stems for p in kit.fonts if p.stem == stem]
    return (found or [*kit.plain] or [*kit.fonts] or [None])[0]


def off_white(rng: random.Random) -> RGB:
    shade = rng.randint(225, 255)
    return tuple(min(255, shade + rng.randint(-8, 8)) for _ in range(3))  # type: ignore[return-value]


# ---- the lattice that paths are laid on ------------------------------------------------------------------------------

CELLS = 14
Node = tuple[int, int]
PAIRS = ("AB", "AC", "AD", "BC", "BD", "CD")


def draw_subway(rng: random.Random, kit: Kit) -> Sample:
    """Four stations, each with one to three paths that end there; none to three of them lead from A to C.

    The facts hold every path: colour, stations and corners on a lattice of 14 x 14.
    """
    direct = rng.randrange(4)
    each = rng.randint(max(1, direct), 3)
    ends = _pairs(rng, each, direct)
    paths = _lay(rng, ends, each)
    free = rng.random() < 1 / 3
    colours = rng.sample(list(TAB), len(paths)) if free else list(TAB)[: len(paths)]
    pair = "AC" if rng.random() < 0.6 else rng.choice(PAIRS)
    count = sum(e == pair for e in ends)
    wrong = rng.choice([n for n in (count - 1, count + 1) if 0 <= n <= 3])
    turns, false = ask(rng, _subway_asks(pair, count), _subway_asks(pair, wrong))
    facts = {
        f"{colour} {a}-{b}": " ".join(f"{x},{y}" for x, y in path)
        for colour, (a, b), path in zip(colours, ends, paths, strict=True)
    }
    return Sample(
        "subway", (_paint(rng, kit, paths, colours, free),), turns, label=f"{direct} from A to C", wrong=false,
        caption=f"a subway map with {len(paths)} paths, {direct} of them from A to C", facts=facts,
    )  # fmt: skip


def _subway_asks(pair: str, count: int) -> Asks:
    a, b = pair
    of = f"from {a} to {b}"
    published = (
        f"How many single-colored paths go {of}? Answer with a number in curly brackets, e.g., {{3}}",
        f"Count the one-colored routes that go {of}. Answer with a number in curly brackets, e.g., {{3}}",
    )
    own = (
        f"How many paths of one colour go {of}?", f"How many lines lead {of}?", f"Count the paths {of}.",
        f"How many routes connect {a} and {b}?", f"How many coloured lines run {of}?",
        f"In how many ways can I travel {of} without changing lines?", f"How many single-colored paths go {of}?",
        f"Number of lines between {a} and {b}?", f"How many paths join {a} to {b}? Answer with a number.",
    )  # fmt: skip
    chinese = (
        f"从{a}到{b}有几条单色路线?", f"有几条同色的线从{a}通到{b}?", f"{a}和{b}之间有多少条单色路径?",
        f"数一数从{a}到{b}的路线。",
    )  # fmt: skip
    return [(q, f"{{{count}}}") for q in published], [(q, str(count)) for q in own], [(q, str(count)) for q in chinese]


def _pairs(rng: random.Random, each: int, direct: int) -> list[str]:
    """Which stations the paths join, so that every station ends `each` and `direct` lead from A to C."""
    rest = each - direct
    cut = rng.randint(0, rest)
    counts = {"AC": direct, "BD": direct, "AB": cut, "AD": rest - cut, "BC": rest - cut, "CD": cut}
    pairs = [pair for pair, count in counts.items() for _ in range(count)]
    return rng.sample(pairs, len(pairs))  # so that no colour says which stations


def _lay(rng: random.Random, ends: Sequence[str], each: int) -> list[list[Node]]:
    """Paths along the lattice that never share a piece of it; they may cross and touch at corners."""
    while True:
        ports = {s: rng.sample((-1, 0, 1), each) for s in "ABCD"}
        used: set[frozenset[Node]] = set()
        paths: list[list[Node]] = []
        for a, b in ends:
            first, second = _port(a, ports[a].pop()), _port(b, ports[b].pop())
            over = (rng.randint(2, CELLS - 2), rng.randint(2, CELLS - 2))
            stops = [first[1], over, second[1]] if rng.random() < 0.6 else [first[1], second[1]]
            path = _route(rng, stops, used)
            if not path:
                break
            paths.append([first[0], *path, second[0]])
        else:
            return paths


def _port(station: str, offset: int) -> tuple[Node, Node]:
    """Where a path leaves the station, and the first node inside."""
    middle, last = CELLS // 2 + offset, CELLS
    return {
        "A": ((middle, 0), (middle, 1)), "C": ((middle, last), (middle, last - 1)),
        "D": ((0, middle), (1, middle)), "B": ((last, middle), (last - 1, middle)),
    }[station]  # fmt: skip


def _route(rng: random.Random, stops: Sequence[Node], used: set[frozenset[Node]]) -> list[Node]:
    """A path of least weight past the stops, pieces weighing at random; none if the used ones leave no way."""
    whole = [stops[0]]
    for start, goal in itertools.pairwise(stops):
        leg = _leg(rng, start, goal, used)
        if start != goal and not leg:
            return []
        used.update(frozenset(step) for step in zip([start, *leg], leg, strict=False))
        whole += leg
    return whole


def _leg(rng: random.Random, start: Node, goal: Node, used: set[frozenset[Node]]) -> list[Node]:
    came: dict[Node, Node] = {}
    best = {start: 0.0}
    heap = [(0.0, start)]
    while heap:
        weight, node = heapq.heappop(heap)
        if node == goal:
            leg = [node]
            while leg[-1] != start:
                leg.append(came[leg[-1]])
            return leg[-2::-1]
        x, y = node
        for near in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if not (1 <= near[0] < CELLS and 1 <= near[1] < CELLS) or frozenset((node, near)) in used:
                continue
            further = weight + 0.15 + rng.random() ** 2
            if further < best.get(near, 1e9):
                best[near], came[near] = further, node
                heapq.heappush(heap, (further, near))
    return []


def _paint(
    rng: random.Random, kit: Kit, paths: Sequence[Sequence[Node]], colours: Sequence[str], free: bool
) -> Image.Image:
    side = rng.choice((672, 768))
    margin = side * (rng.uniform(0.08, 0.13) if free else 0.107)
    cell = (side - 2 * margin) / CELLS
    picture = Image.new("RGB", (side, side), off_white(rng) if free else (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    width = round(side * (rng.uniform(0.006, 0.017) if free else rng.choice((0.0065, 0.015))))
    half = width // 2
    for path, colour in zip(paths, colours, strict=True):
        points = [(round(margin + x * cell), round(margin + y * cell)) for x, y in path]
        for (x1, y1), (x2, y2) in itertools.pairwise(points):  # as bars, so that corners have no notch
            box = (
                min(x1, x2) - half,
                min(y1, y2) - half,
                max(x1, x2) + width - half - 1,
                max(y1, y2) + width - half - 1,
            )
            pen.rectangle(box, fill=TAB[colour])
    written = font(named(kit, "DejaVuSans-Bold", "LiberationSans-Bold"), round(side * 0.075))
    near, far, middle = margin * 0.52, side - margin * 0.52, side / 2
    places = {"A": (middle, near), "B": (far, middle), "C": (middle, far), "D": (near, middle)}
    for station, place in places.items():
        pen.text(place, station, fill=(0, 0, 0), font=written, anchor="mm")
    return picture.reduce(3)


# ---- grids -----------------------------------------------------------------------------------------------------------

SHORT_WORDS = (
    "apple", "book", "car", "door", "earth", "fruit", "game", "house", "lamp", "moon", "night", "orange", "pen",
    "queen", "rain", "ship", "tree", "voice", "water", "zebra", "army", "baby", "cake", "dance", "flag", "green",
    "idea", "king", "lion", "mouse", "north", "plant", "robot", "stone", "tiger", "world", "youth", "dream", "bread",
    "heart", "lemon", "march", "ocean", "peace", "track", "wind", "angle", "river", "sun", "bird", "fish", "milk",
    "salt", "gold", "iron", "hand", "leaf", "snow", "ring", "road", "rope", "seed", "shoe", "silk", "song", "star",
    "tea", "town", "wall", "wolf", "wood", "wool", "bell", "boat", "bone",
)  # fmt: skip


def draw_grid(rng: random.Random, kit: Kit) -> Sample:
    """A table of 3 to 10 rows and columns, which fills the picture as in the benchmark; its cells empty or of words."""
    free = rng.random() < 1 / 3
    rows = rng.randint(3, 10)
    columns = rng.choice([n for n in range(3, 11) if free or abs(n - rows) <= 1])
    wide, high = (rng.choice((672, 768)),) * 2
    margin_x = margin_y = 0
    if free and rng.random() < 0.7:
        wide, high = (3 * rng.randint(130, 260) for _ in range(2))
    if free:
        margin_x, margin_y = (round(rng.uniform(0, 0.15) * v) for v in (wide, high))
    picture = Image.new("RGB", (wide, high), off_white(rng) if free else (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    width = max(2, round(wide * (rng.uniform(0.004, 0.013) if free else rng.choice((0.0052, 0.0105)))))
    ink = tuple(rng.randint(0, 120) for _ in range(3)) if free and rng.random() < 0.5 else (0, 0, 0)
    xs = [margin_x + (wide - 2 * margin_x - width) * i / columns + width / 2 for i in range(columns + 1)]
    ys = [margin_y + (high - 2 * margin_y - width) * i / rows + width / 2 for i in range(rows + 1)]
    for x in xs:
        pen.line((x, ys[0] - width / 2, x, ys[-1] + width / 2), fill=ink, width=width)
    for y in ys:
        pen.line((xs[0] - width / 2, y, xs[-1] + width / 2, y), fill=ink, width=width)
    if rng.random() < 0.5:
        _fill(rng, kit, pen, xs, ys)
    wrong = list(rng.choice(((rows - 1, columns), (rows + 1, columns), (rows, columns - 1), (rows, columns + 1))))
    turns, false = ask(rng, _grid_asks(rows, columns), _grid_asks(*wrong))
    if false == turns[0][1]:  # asked of the other side only
        false = str(int(false) + 1)
    facts = {"columns": " ".join(f"{x:.1f}" for x in xs), "rows": " ".join(f"{y:.1f}" for y in ys)}
    return Sample(
        "grid", (picture.reduce(3),), turns, label=f"grid {rows} x {columns}", wrong=false,
        caption=f"a table of {rows} rows and {columns} columns", facts=facts,
    )  # fmt: skip


def _fill(rng: random.Random, kit: Kit, pen: ImageDraw.ImageDraw, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Words in the middle of the cells."""
    cell_x, cell_y = xs[1] - xs[0], ys[1] - ys[0]
    written = font(named(kit, "LiberationSans-Regular"), max(8, round(min(cell_x * 0.2, cell_y * 0.3))))
    words = rng.sample(SHORT_WORDS, len(SHORT_WORDS))
    cells = [(x, y) for y in ys[:-1] for x in xs[:-1]]
    for i, (x, y) in enumerate(cells):
        pen.text((x + cell_x / 2, y + cell_y / 2), words[i % len(words)], fill=(0, 0, 0), font=written, anchor="mm")


def _grid_asks(rows: int, columns: int) -> Asks:
    published = (
        ("How many rows and columns are in the table? Answer with only the numbers in a pair (row, column), e.g., "
         "(5,6)", f"({rows},{columns})"),
        ("Count the number of rows and columns and answer with numbers in curly brackets. For example, rows={5} "
         "columns={6}", f"rows={{{rows}}} columns={{{columns}}}"),
    )  # fmt: skip
    both, of = f"{rows} rows and {columns} columns", f"{rows} x {columns}"
    own = (
        ("How many rows are there?", str(rows)), ("How many columns are there?", str(columns)),
        ("How many rows does the table have?", str(rows)), ("How many columns does the grid have?", str(columns)),
        ("How many rows and columns are there?", both), ("What is the size of the grid, rows x columns?", of),
        ("How large is the table? Answer as rows x columns.", of), ("Count the rows and the columns.", both),
        ("Count the rows.", str(rows)), ("Count the columns of the table.", str(columns)),
    )  # fmt: skip
    chinese = (
        ("表格有几行?", str(rows)), ("表格有几列?", str(columns)), ("这个表格有几行几列?", f"{rows}行{columns}列"),
    )  # fmt: skip
    return published, own, chinese

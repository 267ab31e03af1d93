"""Sudoku, drawn clean or like a photograph of a newspaper, and variants of real photographs.

    sample = draw_sudoku(rng, kit)          # nine lines of nine digits, 0 for an empty cell
    sample = real_sudoku_variants(rng, photograph, "000700080/...")

Small grids to begin with are in `internvl.nano.cells`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from internvl.nano.asking import Wordings, some_language
from internvl.nano.cells import Grid, ask_part, draw_cell_grid, misread, print_grid, read_cells, some_grid_look, written
from internvl.nano.sample import Kit, Sample
from internvl.nano.warp import (
    RGB,
    Tilt,
    blurred,
    edge_colour,
    faded,
    font_at,
    newsprint,
    paper_colour,
    photograph,
    print_lines,
    some_font,
    some_tilt,
    uneven_light,
    warp,
)

__all__ = ["draw_cell_grid", "draw_sudoku", "real_sudoku_variants"]

PROMPT = "Read this Sudoku. Write nine lines of nine digits, with 0 for an empty cell."
"""As the benchmark `sudoku` asks."""
READ: Wordings = (
    (PROMPT, PROMPT, PROMPT, PROMPT, PROMPT, PROMPT, "Read the Sudoku, with 0 for an empty cell.",
     "Write down this Sudoku: nine lines of nine digits, 0 where a cell is empty.",
     "Transcribe the Sudoku grid. Empty cells are 0.", "Which digits does this Sudoku have? Write 0 for empty cells."),
    ("读出这个数独。写九行, 每行九个数字, 空格写0。", "请把这个数独写成九行九列的数字, 空格用0表示。"),
)  # fmt: skip


# ---- puzzles ---------------------------------------------------------------------------------------------------------


def some_puzzle(rng: random.Random) -> Grid:
    """20 to 40 digits of a full grid; no row, column or box has one twice."""
    digits = rng.sample(range(1, 10), 9)
    order = [[3 * band + line for band in rng.sample(range(3), 3) for line in rng.sample(range(3), 3)] for _ in "ab"]
    full = [[digits[(3 * (r % 3) + r // 3 + c) % 9] for c in order[1]] for r in order[0]]
    kept: set[tuple[int, int]] = set()
    number = round(min(40, max(20, rng.gauss(28, 4))))
    cells = rng.sample([(r, c) for r in range(9) for c in range(9)], 81)
    symmetric = rng.random() < 0.5
    for r, c in cells:
        if len(kept) < number:
            kept |= {(r, c), (8 - r, 8 - c)} if symmetric and len(kept) < number - 1 else {(r, c)}
    return tuple(tuple(full[r][c] if (r, c) in kept else 0 for c in range(9)) for r in range(9))


def draw_sudoku(rng: random.Random, kit: Kit) -> Sample:
    """A puzzle, in one draw of four clean, in one on a page, else as a newspaper photographed by hand.

    It imitates the photographs of the Sudoku dataset of Wicht and Hennebert that the benchmark `sudoku` reads.
    """
    grid = some_puzzle(rng)
    style = rng.choices(("clean", "page", "photograph"), (3, 3, 6))[0]
    picture = {"clean": paint_clean, "page": paint_page, "photograph": paint_photograph}[style](rng, kit, grid)
    turns, wrong = ask_sudoku(rng, grid)
    return Sample("sudoku", (picture,), turns, None, "a Sudoku puzzle", wrong, {"style": style})


def ask_sudoku(rng: random.Random, grid: Grid) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """Three times of four the whole grid, else two or three of its parts; the turns, and a wrong first answer."""
    asker = some_language(rng)
    if rng.random() < 0.75:
        asked = [asker.ask(rng, READ, written(grid), written(misread(rng, grid)), brief=False)]
        if rng.random() < 0.15:
            asked.append(ask_part(rng, asker, grid))
    else:
        asked = [ask_part(rng, asker, grid) for _ in range(rng.randint(2, 3))]
    return tuple(one.turn for one in asked), asked[0].wrong


# ---- grids on paper --------------------------------------------------------------------------------------------------


def paint_clean(rng: random.Random, kit: Kit, grid: Grid) -> Image.Image:
    """A square grid that fills the picture."""
    side, margin = rng.choice((224, 224, 240, 256)), rng.randint(3, 16)
    page = Image.new("RGB", (2 * side, 2 * side), (255, 255, 255) if rng.random() < 0.6 else paper_colour(rng))
    inner = 2 * (side - margin)
    print_grid(rng, page, kit, (2 * margin, 2 * margin, inner, inner), grid, some_grid_look(rng))
    return page.reduce(2)


def paint_page(rng: random.Random, kit: Kit, grid: Grid) -> Image.Image:
    """A grid with a margin, a title or some print, a little tilted and aged."""
    page, box = _page(rng, kit, grid, (rng.choice((240, 256, 280)), rng.choice((224, 240, 260))), busy=0.4)
    if rng.random() < 0.7:
        page = warp(page, page.size, tilt_around(rng, box, 0.4), fill=edge_colour(page))
    return photograph(rng, page, 0.6, tilt=False)


def paint_photograph(rng: random.Random, kit: Kit, grid: Grid) -> Image.Image:
    """A part of a newspaper page, lying on something dark now and then, taken from the hand."""
    size = rng.choices(((300, 225), (225, 300), (260, 260), (180, 300)), (7, 3, 1, 0.4))[0]
    page, box = _page(rng, kit, grid, size, busy=1.0)
    dark = rng.random() < 0.4
    fill: RGB = rng.choice(((25, 25, 30), (60, 45, 35), (15, 15, 15), (70, 80, 95))) if dark else edge_colour(page)
    picture = warp(page, size, tilt_around(rng, box, rng.uniform(0.3, 0.8), rng.uniform(0, 0.03)), fill=fill)
    if rng.random() < 0.5:
        picture = uneven_light(rng, faded(rng, blurred(rng, picture, 1.2), 0.5), rng.uniform(0.3, 1.0))
        return uneven_light(rng, picture, rng.uniform(0, 0.7))
    return photograph(rng, picture, rng.uniform(0.6, 1.0), tilt=False)


def tilt_around(rng: random.Random, box: Sequence[float], strength: float, margin: float = 0.0) -> Tilt:
    """Some tilt that leaves the box, given in shares of the page, inside the picture."""
    x1, y1, x2, y2 = box
    for part in (1.0, 0.8, 0.6, 0.4, 0.2):
        tilt = some_tilt(rng, strength * part, margin)
        bent = abs(tilt.curl), abs(tilt.across)
        ends = [tilt.target(x, y) for x in (x1, x2) for y in (y1, y2)]
        if all(bent[1] <= x <= 1 - bent[1] and bent[0] <= y <= 1 - bent[0] for x, y in ends):
            return tilt
    return Tilt()


def _page(
    rng: random.Random, kit: Kit, grid: Grid, size: tuple[int, int], busy: float
) -> tuple[Image.Image, Sequence[float]]:
    """The grid with a free margin among print, titles and other puzzles; and where it is, in shares of the page."""
    width, height = size[0] * 2, size[1] * 2
    wide = min(width, height) * (rng.uniform(0.78, 0.93) if width >= height else rng.uniform(0.7, 0.93))
    high = min(height * 0.93, wide * rng.uniform(0.92, 1.08))
    x, y = rng.uniform(0.03, 0.97) * (width - wide), rng.uniform(0.2, 0.8) * (height - high)
    ink: RGB = rng.choice(((30, 30, 30), (60, 60, 60), (20, 20, 40)))
    paper = paper_colour(rng)
    ground = paper if rng.random() < 0.8 else paper_colour(rng)
    if rng.random() < busy:
        page = newsprint(rng, (width, height), kit, ink=ink, paper=ground)
    else:
        page = Image.new("RGB", (width, height), ground)
    pen, look, cell = ImageDraw.Draw(page), some_grid_look(rng), wide / 9
    gap = cell * rng.uniform(0.3, 0.9)
    right, bottom = x + wide, y + high
    pen.rectangle((x - gap, y - gap, right + gap, bottom + gap), fill=paper)
    if rng.random() < 0.45 * busy:  # another puzzle beside it or under it, cut off
        shift = (wide + gap, 0.0) if width - right > height - bottom else (0.0, high + gap)
        box = (x + shift[0], y + shift[1], right + shift[0], bottom + shift[1])
        pen.rectangle([v + d * gap / 2 for v, d in zip(box, (-1, -1, 1, 1), strict=True)], fill=paper)
        print_grid(rng, page, kit, box, some_puzzle(rng), look)
    if rng.random() < 0.5 * busy:  # a title on a bar
        colour: RGB = rng.choice(((190, 30, 40), (230, 110, 60), (30, 70, 140), (40, 120, 70), (0, 0, 0)))
        bar = (x, y - gap - 1.1 * cell, right if rng.random() < 0.5 else x + wide / 2, y - gap)
        filled = rng.random() < 0.6
        pen.rectangle(bar, fill=colour if filled else paper)
        text = rng.choice(("SUDOKU", "Sudoku", "LES JEUX", "Sudoku Facile", "mittel", "Puzzle 225", "Grid No 3404"))
        at, fill = (x + 0.3 * cell, y - gap - 0.55 * cell), paper if filled else colour
        pen.text(at, text, fill, font_at(some_font(rng, kit), round(cell * 0.8)), "lm")
    elif rng.random() < 0.4 * busy:
        print_lines(rng, page, kit, (right + gap, y, width, bottom), ink)
    print_grid(rng, page, kit, (x, y, right, bottom), grid, look)
    return page.reduce(2), (x / width, y / height, right / width, bottom / height)


# ---- photographs -----------------------------------------------------------------------------------------------------

LONGEST = 320
"""Pixels of a variant's longer side; its tiles have 224."""


def real_sudoku_variants(rng: random.Random, picture: Image.Image, grid: str) -> Sample:
    """A photograph cut, tilted and lit anew; where its grid is found, sometimes only that, or a part of it.

    `grid` is as the rows of the set have it: nine rows of nine digits, joined by /.
    """
    cells: Grid = tuple(tuple(map(int, row)) for row in grid.split("/"))
    picture = picture.convert("RGB")
    corners = find_grid(picture)
    if corners is not None and agreement(picture, corners, cells) < 0.9:
        corners = None
    style = "whole" if corners is None else rng.choices(("whole", "straight", "part"), (6, 2, 2))[0]
    if style == "whole" or corners is None:
        picture = _around(rng, picture, corners)
    elif style == "straight":
        margin = rng.uniform(0.0, 0.06)
        picture = straight(picture, corners, rng.choice((224, 256, 300)), margin)
    else:
        r, c, rows, columns = (rng.randint(0, 6), rng.randint(0, 6), rng.randint(2, 5), rng.randint(2, 5))
        cells = tuple(row[c : c + columns] for row in cells[r : r + rows])
        page = straight(picture, corners, 9 * 48, 0.0)
        size = (48 * len(cells[0]), 48 * len(cells))
        picture = page.crop((48 * c, 48 * r, 48 * c + size[0], 48 * r + size[1]))
    picture = _relit(rng, picture)
    if style == "part":
        asker = some_language(rng)
        asked = [read_cells(rng, asker, cells), ask_part(rng, asker, cells)][:: rng.choice((1, -1))]
        turns, wrong = tuple(one.turn for one in asked), asked[0].wrong
    else:
        turns, wrong = ask_sudoku(rng, cells)
    return Sample("sudoku_photo", (picture,), turns, None, "a Sudoku puzzle", wrong, {"style": style})


def _around(rng: random.Random, picture: Image.Image, corners: Sequence[tuple[float, float]] | None) -> Image.Image:
    """Whatever is around the grid cut off more or less, or the photograph moved away, and a little tilt."""
    width, height = picture.size
    x1, y1, x2, y2 = 0.03, 0.03, 0.97, 0.97
    if corners is not None:
        xs, ys = zip(*corners, strict=True)
        x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    if rng.random() < 0.7:
        cut = [rng.random() * (1 if rng.random() < 0.7 else 0) for _ in range(4)]
        left, top = max(0.0, x1 - 0.02) * cut[0], max(0.0, y1 - 0.02) * cut[1]
        right, bottom = 1 - max(0.0, 0.98 - x2) * cut[2], 1 - max(0.0, 0.98 - y2) * cut[3]
        picture = picture.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
        x1, x2 = ((x - left) / (right - left) for x in (x1, x2))
        y1, y2 = ((y - top) / (bottom - top) for y in (y1, y2))
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.BILINEAR)
    if rng.random() < 0.7:
        box = max(0.0, x1), max(0.0, y1), min(1.0, x2), min(1.0, y2)
        tilt = tilt_around(rng, box, rng.uniform(0.2, 0.6), rng.uniform(0, 0.04))
        picture = warp(picture, picture.size, tilt, fill=edge_colour(picture))
    return picture


def _relit(rng: random.Random, picture: Image.Image) -> Image.Image:
    draw = rng.random()
    if draw < 0.6:
        picture = uneven_light(rng, picture, rng.uniform(0.2, 0.8))
    if draw < 0.3:
        picture = faded(rng, picture, 0.7)
    if 0.2 < draw < 0.4 and picture.width > 200:
        picture = blurred(rng, picture, 0.6)
    return picture if draw < 0.8 else photograph(rng, picture, 0.4, tilt=False)


LEAST = 300
"""Pixels of a web that may be a grid, in a picture of 320."""


def find_grid(picture: Image.Image) -> tuple[tuple[float, float], ...] | None:
    """The corners of the largest web of dark lines, as shares, clockwise from the upper left; None without one."""
    scale = 320 / max(picture.size)
    gray = picture.convert("L").resize((round(picture.width * scale), round(picture.height * scale)))
    dark = np.asarray(gray, np.int16) < np.asarray(gray.filter(ImageFilter.BoxBlur(8)), np.int16) - 6
    labels = webs(dark)
    best, found = 0.0, None
    for label in np.flatnonzero(np.bincount(labels.ravel())[1:] >= LEAST) + 1:
        ys, xs = np.nonzero(labels == label)
        ends = [int(np.argmin(v)) for v in (xs + ys, ys - xs, -xs - ys, xs - ys)]
        quad = [(xs[i] + 0.5, ys[i] + 0.5) for i in ends]
        pairs = zip(quad, [*quad[1:], quad[0]], strict=True)
        area = abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs)) / 2
        if area > best:
            best, found = area, quad
    if found is None or best < 0.12 * dark.size:
        return None
    return tuple((float(x) / dark.shape[1], float(y) / dark.shape[0]) for x, y in found)


def webs(mask: np.ndarray) -> np.ndarray:
    """A number for every pixel of the mask, equal where pixels hang together by their sides; 0 outside."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        before = labels
        for _ in range(2):
            labels = _spread(labels).T
        if (before == labels).all():
            return labels


def _spread(labels: np.ndarray) -> np.ndarray:
    """Every run within a row gets the largest number in it."""
    flat = np.pad(labels, ((0, 0), (0, 1))).ravel()
    starts = np.flatnonzero(np.diff(flat > 0, prepend=~(flat[:1] > 0)))
    highest = np.maximum.reduceat(flat, starts)
    runs = np.repeat(highest, np.diff(starts, append=len(flat)))
    return runs.reshape(labels.shape[0], -1)[:, :-1]


def straight(
    picture: Image.Image, corners: Sequence[tuple[float, float]], side: int, margin: float = 0.0
) -> Image.Image:
    """The square whose corners these are, seen from above."""
    width, height = picture.size
    (x1, y1), (x2, y2), (x3, y3), (x4, y4) = corners
    points = []
    for u, v in ((0, 0), (0, 1), (1, 1), (1, 0)):
        u, v = u + (2 * u - 1) * margin, v + (2 * v - 1) * margin
        x = (1 - u) * (1 - v) * x1 + u * (1 - v) * x2 + u * v * x3 + (1 - u) * v * x4
        y = (1 - u) * (1 - v) * y1 + u * (1 - v) * y2 + u * v * y3 + (1 - u) * v * y4
        points += [x * width, y * height]
    return picture.transform(
        (side, side), Image.Transform.QUAD, points, Image.Resampling.BILINEAR, fillcolor=edge_colour(picture)
    )


def agreement(picture: Image.Image, corners: Sequence[tuple[float, float]], grid: Grid) -> float:
    """The share of the printed digits that are among as many of the darkest cells."""
    page = straight(picture, corners, 9 * 20).convert("L")
    near = np.asarray(page.filter(ImageFilter.BoxBlur(10)), np.float32) - np.asarray(page, np.float32)
    ink = near.clip(8).reshape(9, 20, 9, 20)[:, 5:15, :, 5:15].mean((1, 3)).ravel()
    given = {i for i, digit in enumerate(itertools.chain(*grid)) if digit}
    darkest = np.argsort(-ink, kind="stable")[: len(given)]
    return len(given & set(map(int, darkest))) / max(1, len(given))

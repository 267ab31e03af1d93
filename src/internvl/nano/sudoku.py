"""Sudoku, drawn clean or like a photograph of a newspaper, and real ones; small grids of digits, letters or colours.

sample = draw_sudoku(rng, kit)          # nine lines of nine digits, 0 for an empty cell
sample = draw_cell_grid(rng, kit)       # 2 to 5 rows and columns of digits, letters or colours
sample = real_sudoku_variants(rng, photograph, "000700080/...")
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from internvl.nano.asking import Asked, Asker, Both, Wordings, some_language, yes
from internvl.nano.sample import Kit, Sample
from internvl.nano.shapes import COLOURS
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

Grid = tuple[tuple[int, ...], ...]
"""Rows of digits, 0 for an empty cell."""

PROMPT = "Read this Sudoku. Write nine lines of nine digits, with 0 for an empty cell."
"""As the benchmark `sudoku` asks."""
READ: Wordings = (
    (PROMPT, PROMPT, PROMPT, PROMPT, PROMPT, PROMPT, "Read the Sudoku, with 0 for an empty cell.",
     "Write down this Sudoku: nine lines of nine digits, 0 where a cell is empty.",
     "Transcribe the Sudoku grid. Empty cells are 0.", "Which digits does this Sudoku have? Write 0 for empty cells."),
    ("读出这个数独。写九行, 每行九个数字, 空格写0。", "请把这个数独写成九行九列的数字, 空格用0表示。"),
)  # fmt: skip
ROW: Wordings = (
    ("Read row {row}, with 0 for an empty cell.", "Write the digits of row {row}, 0 for an empty cell.",
     "What is in row {row}? Write 0 for an empty cell.", "Read row {row} of the grid. Empty cells are 0."),
    ("读出第{row}行, 空格写0。", "写出第{row}行的数字, 空格用0表示。"),
)  # fmt: skip
CELL: Wordings = (
    ("Which digit is in row {row}, column {column}?", "What is in row {row}, column {column}?",
     "What does the cell in row {row} and column {column} say?", "Row {row}, column {column}: which digit is it?",
     "Which digit do you see in column {column} of row {row}?"),
    ("第{row}行第{column}列是什么数字?", "第{row}行第{column}列的格子里是几?"),
)  # fmt: skip
HOLDS: Wordings = (
    ("What is in row {row}, column {column}?", "What does the cell in row {row} and column {column} show?",
     "Row {row}, column {column}: what is there?", "What do you see in column {column} of row {row}?"),
    ("第{row}行第{column}列是什么?", "第{row}行第{column}列的格子里有什么?"),
)  # fmt: skip
FREE: Wordings = (
    ("Is the cell in row {row}, column {column} empty?", "Is row {row}, column {column} empty?"),
    ("第{row}行第{column}列是空的吗?", "第{row}行第{column}列的格子是空格吗?"),
)
GIVEN: Wordings = (
    ("How many digits does row {row} have?", "How many digits are in row {row}?", "Count the digits in row {row}.",
     "How many cells of row {row} have a digit?"),
    ("第{row}行有几个数字?", "第{row}行填了多少个数字?"),
)  # fmt: skip
EMPTY: Both = ("empty", "空")


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


def written(grid: Grid) -> str:
    """A line a row, as answers have it."""
    return "\n".join("".join(map(str, row)) for row in grid)


def misread(rng: random.Random, grid: Grid) -> Grid:
    """The grid with one to three mistakes: a digit taken for another, overlooked, or in the next column."""
    rows = [list(row) for row in grid]
    places = [(r, c) for r, row in enumerate(grid) for c, digit in enumerate(row) if digit]
    for r, c in rng.sample(places, min(len(places), rng.randint(1, 3))):
        old, how = grid[r][c], rng.random()
        if how < 0.5:
            rows[r][c] = rng.choice([d for d in range(1, 10) if d != old])
            continue
        rows[r][c] = 0
        free = [i for i in (c - 1, c + 1) if 0 <= i < len(rows[r]) and rows[r][i] == grid[r][i] == 0]
        if how < 0.8 and free:
            rows[r][rng.choice(free)] = old
    return tuple(map(tuple, rows))


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
            asked.append(_of_part(rng, asker, grid))
    else:
        asked = [_of_part(rng, asker, grid) for _ in range(rng.randint(2, 3))]
    return tuple(one.turn for one in asked), asked[0].wrong


def _of_part(rng: random.Random, asker: Asker, grid: Grid) -> Asked:
    r = rng.randrange(len(grid))
    row, number = grid[r], str(r + 1)
    draw = rng.random()
    if draw < 0.3:
        line, false = ("".join(map(str, g[r])) for g in (grid, misread(rng, grid)))
        if false == line:
            false = "".join(map(str, (*row[1:], row[0]))) if len(set(row)) > 1 else "1" + line[1:]
        return asker.ask(rng, ROW, line, false, brief=False, row=number)
    if draw < 0.45:
        count = sum(digit > 0 for digit in row)
        wrong = count + 1 if count == 0 or (count < len(row) and rng.random() < 0.5) else count - 1
        return asker.ask(rng, GIVEN, str(count), str(wrong), row=number)
    filled = rng.random() < (0.5 if draw < 0.6 else 0.8)
    places = [(r, c) for r, row in enumerate(grid) for c, d in enumerate(row) if (d > 0) == filled]
    r, c = rng.choice(places or [(0, 0)])
    digit, place = grid[r][c], {"row": str(r + 1), "column": str(c + 1)}
    if draw < 0.6:
        return asker.ask(rng, FREE, *yes(digit == 0), brief=True, **place)
    other = str(rng.choice([d for d in range(1, 10) if d != digit]))
    wrong = EMPTY if digit and rng.random() < 0.3 else other
    return asker.ask(rng, CELL, str(digit) if digit else EMPTY, wrong, brief=True, **place)


# ---- grids on paper --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """How a grid is printed. Widths and sizes are shares of a cell."""

    ink: RGB = (0, 0, 0)
    digits: RGB = (0, 0, 0)
    thin: RGB = (0, 0, 0)
    thin_width: float = 0.03
    thick_width: float = 0.08
    size: float = 0.7
    tint: RGB | None = None
    """Of boxes, or of some cells."""
    checked: bool = False
    """Tinted is every second box, else the middle of some row."""


def some_grid_look(rng: random.Random) -> Look:
    dark = rng.randint(0, 60)
    ink = (dark, dark, dark)
    coloured: RGB = rng.choice(((200, 60, 60), (40, 60, 160), (20, 110, 60), (90, 40, 110)))
    shade = rng.choice((dark, dark, min(170, dark + 80), 150))
    tints: tuple[RGB, ...] = ((215, 215, 215), (190, 215, 240), (205, 230, 195), (245, 225, 190))
    return Look(
        ink=coloured if rng.random() < 0.07 else ink,
        digits=coloured if rng.random() < 0.2 else ink,
        thin=(shade, shade, shade),
        thin_width=rng.uniform(0.02, 0.06),
        thick_width=rng.choice((rng.uniform(0.07, 0.14), rng.uniform(0.05, 0.09))),
        size=rng.uniform(0.6, 0.9),
        tint=rng.choice(tints) if rng.random() < 0.25 else None,
        checked=rng.random() < 0.5,
    )


def print_grid(
    rng: random.Random, page: Image.Image, kit: Kit, box: Sequence[float], grid: Grid, look: Look,
    every: int = 3, signs: str = "",
) -> None:  # fmt: skip
    """The grid into the box of the page; thick lines after `every` cells. Zeros are empty, or a sign if there are any."""
    left, top, right, bottom = box
    rows, columns = len(grid), len(grid[0])
    wide, high = (right - left) / columns, (bottom - top) / rows
    cell = min(wide, high)
    pen = ImageDraw.Draw(page)
    if look.tint is not None:
        middle = rng.randrange(rows)
        for r in range(rows):
            for c in range(columns):
                if (r // 3 + c // 3) % 2 if look.checked else r == middle and c // 3 == 1:
                    x, y = left + c * wide, top + r * high
                    pen.rectangle((x, y, x + wide, y + high), fill=look.tint)
    for thick in (False, True):
        width = max(1, round(cell * (look.thick_width if thick else look.thin_width)))
        for i in range(rows + 1):
            if thick == (i % every == 0 or i == rows):
                y = top + i * high
                pen.line(
                    (left - width // 2 * thick, y, right + width // 2 * thick, y),
                    look.ink if thick else look.thin,
                    width,
                )
        for i in range(columns + 1):
            if thick == (i % every == 0 or i == columns):
                pen.line((left + i * wide, top, left + i * wide, bottom), look.ink if thick else look.thin, width)
    font = font_at(some_font(rng, kit), max(6, round(cell * look.size)))
    dx, dy = rng.uniform(-0.05, 0.05) * wide, rng.uniform(-0.05, 0.05) * high
    side = round(cell * 1.1)
    stamps: dict[int, Image.Image] = {}  # a figure is drawn once
    for r, row in enumerate(grid):
        for c, digit in enumerate(row):
            if not digit and not signs:
                continue
            if digit not in stamps:
                stamps[digit] = Image.new("L", (side, side))
                sign = signs[digit] if signs else str(digit)
                ImageDraw.Draw(stamps[digit]).text((side / 2, side / 2), sign, 255, font, "mm")
            at = left + (c + 0.5) * wide + dx - side / 2, top + (r + 0.5) * high + dy - side / 2
            page.paste(look.digits, (round(at[0]), round(at[1])), stamps[digit])


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


# ---- small grids -----------------------------------------------------------------------------------------------------

COLOUR_NAMES: tuple[Both, ...] = (
    ("red", "红色"), ("green", "绿色"), ("blue", "蓝色"), ("yellow", "黄色"), ("orange", "橙色"),
    ("purple", "紫色"), ("pink", "粉色"), ("brown", "棕色"), ("black", "黑色"), ("gray", "灰色"),
)  # fmt: skip
READ_CELLS: Wordings = (
    ("Read the grid: a line a row, with 0 for an empty cell.", "Write the digits of the grid, 0 for an empty cell.",
     "Read this grid. Write one line for each row, with 0 for an empty cell.",
     "Transcribe the grid row by row. Empty cells are 0."),
    ("读出这个表格, 每行写一行, 空格写0。", "逐行写出格子里的数字, 空格用0表示。"),
)  # fmt: skip
READ_LETTERS: Wordings = (
    ("Read the grid: a line a row.", "Write the letters of the grid, one line for each row.",
     "Read the letters row by row.", "Which letters are in the grid? Write a line a row."),
    ("逐行读出格子里的字母。", "读出表格中的字母, 每行写一行。"),
)  # fmt: skip
READ_COLOURS: Wordings = (
    ("Name the colours of the grid, a line a row.", "Which colours do the cells have? Write a line a row.",
     "List the colors of the cells row by row."),
    ("逐行说出格子的颜色。", "格子都是什么颜色? 每行写一行。"),
)  # fmt: skip
COLOUR: Wordings = (
    ("What colour is the cell in row {row}, column {column}?", "Which color does row {row}, column {column} have?",
     "What is in row {row}, column {column}?", "Row {row}, column {column}: what colour is it?"),
    ("第{row}行第{column}列是什么颜色?", "第{row}行第{column}列的格子是什么颜色?"),
)  # fmt: skip
SIZE: Wordings = (
    ("How many rows does the grid have?", "How many rows are there?"), ("有几行?", "这个表格有多少行?"),
)  # fmt: skip
SIZE_ACROSS: Wordings = (
    ("How many columns does the grid have?", "How many columns are there?"), ("有几列?", "这个表格有多少列?"),
)  # fmt: skip


def draw_cell_grid(rng: random.Random, kit: Kit) -> Sample:
    """A grid of 2 to 5 rows and columns: digits, letters or colours to read or to find by row and column."""
    asker = some_language(rng)
    rows, columns = rng.randint(2, 5), rng.randint(2, 5)
    kind = rng.choices(("digits", "letters", "colours"), (6, 2, 2))[0]
    if kind == "digits":
        full = rng.choice((0.3, 0.5, 0.7, 1.0))
        grid = tuple(tuple(rng.randint(1, 9) * (rng.random() < full) for _ in range(columns)) for _ in range(rows))
        picture = _paint_cells(rng, kit, grid)
        asked = [asker.ask(rng, READ_CELLS, written(grid), written(_one_other(rng, grid, range(10))), brief=False)]
        asked += [_of_part(rng, asker, grid) for _ in range(2)]
    elif kind == "letters":
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if rng.random() < 0.7 else "abcdefghijklmnopqrstuvwxyz"
        grid = tuple(tuple(rng.randrange(26) for _ in range(columns)) for _ in range(rows))
        picture = _paint_cells(rng, kit, grid, letters)
        false = _one_other(rng, grid, range(26))
        right, wrong = ("\n".join("".join(letters[i] for i in row) for row in g) for g in (grid, false))
        asked = [asker.ask(rng, READ_LETTERS, right, wrong, brief=False)]
        asked += [_of_place(rng, asker, HOLDS, grid, [(c, c) for c in letters]) for _ in range(2)]
    else:
        grid = tuple(tuple(rng.randrange(10) for _ in range(columns)) for _ in range(rows))
        picture = _paint_colours(rng, grid)
        right, wrong = (
            "\n".join(", ".join(asker.say(COLOUR_NAMES[i]) for i in row) for row in g)
            for g in (grid, _one_other(rng, grid, range(10)))
        )
        asked = [asker.ask(rng, READ_COLOURS, right, wrong, brief=False)]
        asked += [_of_place(rng, asker, COLOUR, grid, COLOUR_NAMES) for _ in range(2)]
    along = rng.random() < 0.5
    number = rows if along else columns
    size = asker.ask(rng, SIZE if along else SIZE_ACROSS, str(number), str(number + rng.choice((-1, 1))))
    chosen = rng.choices((asked, asked[1:], [size, *asked[:1]]), (5, 4, 1))[0]
    turns = tuple(one.turn for one in chosen)
    facts = {"kind": kind, "grid": "/".join(" ".join(map(str, row)) for row in grid)}
    return Sample("cells", (picture,), turns, f"{rows} x {columns}", f"a grid of {kind}", chosen[0].wrong, facts)


def _one_other(rng: random.Random, grid: Grid, values: Sequence[int]) -> Grid:
    rows = [list(row) for row in grid]
    r, c = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    rows[r][c] = rng.choice([v for v in values if v != rows[r][c]])
    return tuple(map(tuple, rows))


def _of_place(rng: random.Random, asker: Asker, wordings: Wordings, grid: Grid, names: Sequence[Both]) -> Asked:
    r, c = rng.randrange(len(grid)), rng.randrange(len(grid[0]))
    other = rng.choice([name for i, name in enumerate(names) if i != grid[r][c]])
    return asker.ask(rng, wordings, names[grid[r][c]], other, brief=True, row=str(r + 1), column=str(c + 1))


def _cells_page(rng: random.Random, grid: Grid) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """A ground of twice the size, and where the grid comes on it."""
    side = 2 * rng.choice((112, 112, 128, 160))
    cell = side * rng.uniform(0.75, 0.97) / max(len(grid), len(grid[0]))
    wide, high = cell * len(grid[0]), cell * len(grid)
    page = Image.new("RGB", (side, side), (255, 255, 255) if rng.random() < 0.5 else paper_colour(rng))
    x, y = (side - wide) * rng.uniform(0.1, 0.9), (side - high) * rng.uniform(0.1, 0.9)
    return page, (x, y, x + wide, y + high)


def _paint_cells(rng: random.Random, kit: Kit, grid: Grid, letters: str = "") -> Image.Image:
    page, box = _cells_page(rng, grid)
    print_grid(rng, page, kit, box, grid, some_grid_look(rng), rng.choice((3, 9)), letters)
    page = page.reduce(2)
    return photograph(rng, page, 0.7) if rng.random() < 0.4 else page


def _paint_colours(rng: random.Random, grid: Grid) -> Image.Image:
    page, (left, top, right, bottom) = _cells_page(rng, grid)
    pen = ImageDraw.Draw(page)
    wide, high = (right - left) / len(grid[0]), (bottom - top) / len(grid)
    gap = rng.choice((0.0, 0.0, rng.uniform(1, 0.1 * wide)))
    edge = rng.choice(((0, 0, 0), (90, 90, 90), (255, 255, 255)))
    for r, row in enumerate(grid):
        for c, value in enumerate(row):
            red, green, blue = (min(255, max(0, v + rng.randint(-12, 12))) for v in COLOURS[COLOUR_NAMES[value][0]])
            x, y = left + c * wide, top + r * high
            box = (x + gap, y + gap, x + wide - gap, y + high - gap)
            pen.rectangle(box, (red, green, blue), edge, rng.choice((2, 4)))
    return page.reduce(2)

"""Grids of cells: small ones of digits, letters or colours, and how any is printed and asked about."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from internvl.nano.asking import Asked, Asker, Both, Wordings, some_language, yes
from internvl.nano.sample import Kit, Sample
from internvl.nano.shapes import COLOUR_NAMES, COLOURS
from internvl.nano.warp import RGB, font_at, paper_colour, photograph, some_font

Grid = tuple[tuple[int, ...], ...]
"""Rows of digits, 0 for an empty cell."""

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


# ---- what can be asked -----------------------------------------------------------------------------------------------


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


def ask_part(rng: random.Random, asker: Asker, grid: Grid) -> Asked:
    """About a row or a cell of a grid of digits."""
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
    free = draw < 0.6 and len({digit > 0 for row in grid for digit in row}) == 2  # as often yes as no
    filled = rng.random() < (0.5 if free else 0.8)
    places = [(r, c) for r, row in enumerate(grid) for c, d in enumerate(row) if (d > 0) == filled]
    r, c = rng.choice(places or [(0, 0)])
    digit, place = grid[r][c], {"row": str(r + 1), "column": str(c + 1)}
    if free:
        return asker.ask(rng, FREE, *yes(digit == 0), brief=True, **place)
    other = str(rng.choice([d for d in range(1, 10) if d != digit]))
    wrong = EMPTY if digit and rng.random() < 0.3 else other
    return asker.ask(rng, CELL, str(digit) if digit else EMPTY, wrong, brief=True, **place)


# ---- print -----------------------------------------------------------------------------------------------------------


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
    """The grid into the box of the page; thick lines after `every` cells. Without signs, 0 is an empty cell."""
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


# ---- small grids -----------------------------------------------------------------------------------------------------

PAINTS: tuple[Both, ...] = tuple(COLOUR_NAMES.values())
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
        asked = [read_cells(rng, asker, grid)]
        asked += [ask_part(rng, asker, grid) for _ in range(2)]
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
            "\n".join(", ".join(asker.say(PAINTS[i]) for i in row) for row in g)
            for g in (grid, _one_other(rng, grid, range(10)))
        )
        asked = [asker.ask(rng, READ_COLOURS, right, wrong, brief=False)]
        asked += [_of_place(rng, asker, COLOUR, grid, PAINTS) for _ in range(2)]
    along = rng.random() < 0.5
    number = rows if along else columns
    size = asker.ask(rng, SIZE if along else SIZE_ACROSS, str(number), str(number + rng.choice((-1, 1))))
    chosen = rng.choices((asked, asked[1:], [size, *asked[:1]]), (5, 4, 1))[0]
    turns = tuple(one.turn for one in chosen)
    facts = {"kind": kind, "grid": "/".join(" ".join(map(str, row)) for row in grid)}
    return Sample("cells", (picture,), turns, f"{rows} x {columns}", f"a grid of {kind}", chosen[0].wrong, facts)


def read_cells(rng: random.Random, asker: Asker, grid: Grid) -> Asked:
    """All digits of a grid."""
    return asker.ask(rng, READ_CELLS, written(grid), written(_one_other(rng, grid, range(10))), brief=False)


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
            red, green, blue = (min(255, max(0, v + rng.randint(-12, 12))) for v in COLOURS[PAINTS[value][0]])
            x, y = left + c * wide, top + r * high
            box = (x + gap, y + gap, x + wide - gap, y + high - gap)
            pen.rectangle(box, (red, green, blue), edge, rng.choice((2, 4)))
    return page.reduce(2)

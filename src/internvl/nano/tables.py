"""Small printed tables: what stands where, what is largest, how many rows, and totals."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw

from internvl.nano.asking import Asked, Asker, Both, Wordings, some_language, yes
from internvl.nano.chart_questions import DAYS, MONTHS, NAMED
from internvl.nano.charts import font_of, some_font
from internvl.nano.compare import with_noise
from internvl.nano.sample import Kit, Sample
from internvl.nano.shapes import RGB

# ---- what a table says -----------------------------------------------------------------------------------------------

FIRST_COLUMNS = {
    "fruit": ("Fruit", "Item", "Product"), "country": ("Country", "Team", "Land"), "animal": ("Animal", "Pet"),
    "sport": ("Sport", "Club"), "person": ("Name", "Player", "Student"), "city": ("City", "Place"),
    "drink": ("Drink", "Item"), "school": ("Subject", "Course"),
}  # fmt: skip
SALES, SCORES = ("Price", "Qty", "Stock", "Sold", "Cost"), ("Gold", "Silver", "Points", "Wins", "Goals", "Rank")
OTHER_COLUMNS = {
    "fruit": SALES, "country": SCORES, "animal": ("Age", "Weight", "Wins", "Price"), "sport": SCORES,
    "person": ("Age", "Points", "Score", "Goals", "Hours", "Wins"), "city": ("Rank", "Rain", "Hotels", "Parks", "Bars"),
    "drink": SALES, "school": ("Hours", "Points", "Score", "Rooms", "Tests"),
}  # fmt: skip
RANGES = {"Age": (8, 80), "Price": (1, 40), "Cost": (1, 40), "Rank": (1, 50)}
"""Of whole numbers, or of what stands before the point; elsewhere up to some hundreds."""


@dataclass(frozen=True)
class Table:
    """Texts in rows under a header. The first column names the rows; the numbers of every other column differ."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def first(self) -> Both:
        """What the rows are, inside of a question."""
        return self.header[0].lower(), self.header[0]

    def column(self, at: int) -> list[str]:
        return [row[at] for row in self.rows]


def some_table(rng: random.Random) -> Table:
    """Two to five rows, two to four columns."""
    theme = rng.choice(list(FIRST_COLUMNS))
    count, others = rng.randint(2, 5), rng.randint(1, 3)
    names = rng.sample(NAMED[theme], count)
    if rng.random() < 0.35:
        calendar = rng.choice((MONTHS, DAYS, ("2018", "2019", "2020", "2021", "2022"), ("Q1", "Q2", "Q3", "Q4")))
        start = rng.randint(0, len(calendar) - others)
        heads = list(calendar[start : start + others])
    else:
        heads = rng.sample(OTHER_COLUMNS[theme], others)
    limit = rng.choice((10, 20, 100, 100, 1000))
    columns = [_numbers(rng, head, count, limit) for head in heads]
    rows = tuple(zip(names, *columns, strict=True))
    return Table((rng.choice(FIRST_COLUMNS[theme]), *heads), rows)


def _numbers(rng: random.Random, head: str, count: int, limit: int) -> list[str]:
    low, high = RANGES.get(head, (0 if rng.random() < 0.3 else 1, limit - 1))
    whole = rng.sample(range(low, high + 1), count)
    if head not in ("Price", "Cost"):
        return [str(number) for number in whole]
    cents = rng.choice(("00", "50", "")) or None
    return [f"{number}.{cents or f'{rng.randrange(0, 100, 5):02d}'}" for number in whole]


# ---- how it looks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """Lengths in pixels."""

    kind: Literal["ruled", "zebra", "plain"]
    font: Path | None
    bold: Path | None
    """Of the header."""
    text: int
    high: int
    """Of a row."""
    pad: int
    margin: tuple[int, int]
    paper: RGB
    ink: RGB
    band: RGB
    """Behind the header, and behind every other row of a zebra."""
    head_band: bool
    to_right: bool
    """Numbers end below each other."""
    thick: int


def some_style(rng: random.Random, kit: Kit) -> Style:
    text = rng.randint(11, 19)
    font = some_font(rng, kit)
    bold = None if font is None else font.with_name(font.name.replace("-Regular", "-Bold"))
    if bold is None or bold not in kit.fonts:
        bold = font
    tint = rng.choice((0, 0, 0, 10))
    ink = rng.randint(0, 80)
    red, green, blue = (rng.randint(190, 235) for _ in range(3))
    return Style(
        kind=rng.choice(("ruled", "zebra", "plain")),
        font=font,
        bold=bold,
        text=text,
        high=round(text * rng.uniform(1.4, 2.0)),
        pad=round(text * rng.uniform(0.4, 1.0)),
        margin=(rng.randint(2, 2 + text), rng.randint(2, 2 + text)),
        paper=(255, 255 - rng.randint(0, tint), 255 - rng.randint(0, tint)),
        ink=(ink, ink, ink) if rng.random() < 0.7 else (ink // 2, ink // 2, ink + 60),
        band=(red, green, blue),
        head_band=rng.random() < 0.5,
        to_right=rng.random() < 0.5,
        thick=rng.choice((1, 1, 2)),
    )


def paint(table: Table, style: Style) -> Image.Image:
    """As large as its texts need."""
    fonts = [font_of(style.bold, style.text)] + [font_of(style.font, style.text)] * len(table.rows)
    lines = (table.header, *table.rows)
    widths = [
        round(max(font.getbbox(line[at])[2] for font, line in zip(fonts, lines, strict=True))) + 2 * style.pad
        for at in range(len(table.header))
    ]
    left, top = style.margin
    right, bottom = left + sum(widths), top + style.high * len(lines)
    picture = Image.new("RGB", (right + left, bottom + top), style.paper)
    pen = ImageDraw.Draw(picture)
    for number in range(len(lines)):
        if (number == 0 and style.head_band) or (style.kind == "zebra" and number % 2 == 1):
            y = top + number * style.high
            pen.rectangle((left, y, right, y + style.high), style.band)
    if style.kind == "ruled":
        for number in range(len(lines) + 1):
            y = top + number * style.high
            pen.line((left, y, right, y), style.ink, style.thick)
        for at in range(len(widths) + 1):
            x = left + sum(widths[:at])
            pen.line((x, top, x, bottom), style.ink, style.thick)
    elif style.kind == "plain":
        pen.line((left, top + style.high, right, top + style.high), style.ink, style.thick)
    middle = fonts[0].getbbox("x0X")
    for number, (font, line) in enumerate(zip(fonts, lines, strict=True)):
        y = top + number * style.high + (style.high - (middle[3] - middle[1])) / 2 - middle[1]
        for at, text in enumerate(line):
            x = left + sum(widths[:at]) + style.pad
            if at and style.to_right:
                x = left + sum(widths[: at + 1]) - style.pad - font.getbbox(text)[2]
            pen.text((x, y), text, style.ink, font)
    return picture


def legible(picture: Image.Image, style: Style) -> bool:
    """Whether its text is tall enough in tiles of 112 pixels: one for a small picture, else at most two abreast."""
    across = 112 if picture.width * picture.height < 2 * 112 * 112 else 224
    return style.text * across / max(picture.size) >= 8.5


def draw_table(rng: random.Random, kit: Kit) -> Sample:
    """A table of names and numbers, and one to three questions."""
    asker = some_language(rng)
    table, style = some_table(rng), some_style(rng, kit)
    picture = paint(table, style)
    while not legible(picture, style):
        if rng.random() < 0.1:  # nothing helps
            table = some_table(rng)
        style = some_style(rng, kit)
        picture = paint(table, style)
    if rng.random() < 0.2:
        picture = with_noise(rng, picture, rng.uniform(2, 8))
    asked = ask_table(rng, asker, table)
    label = f"table {len(table.rows)} x {len(table.header)}"
    caption = f"a table of {', '.join(table.header[:-1])} and {table.header[-1]}"
    return Sample("table", (picture,), tuple(a.turn for a in asked), label, caption, asked[0].wrong)


# ---- questions -------------------------------------------------------------------------------------------------------

VALUE: Wordings = (
    ("What is the {column} of {name}?", "What is the value of {column} for {name}?", "What is {name}'s {column}?",
     "What does the table say for {name} under {column}?", "Read the {column} of {name}.",
     "What is in the row {name} and the column {column}?", "How much is the {column} of {name}?"),
    ("{name}的{column}是多少?", "表格中{name}的{column}是多少?", "{name}这一行{column}一列的数值是多少?"),
)  # fmt: skip
LARGEST: Wordings = (
    ("Which {first} has the largest {column}?", "Which {first} has the highest {column}?",
     "Who or what has the largest {column}?", "Which row has the largest value in the column {column}?",
     "Which {first} has the greatest {column}?", "Which {first} is first in {column}, from high to low?"),
    ("哪个{first}的{column}最大?", "{column}最大的是哪一个?", "{column}一列中数值最大的是谁?"),
)  # fmt: skip
SMALLEST: Wordings = (
    ("Which {first} has the smallest {column}?", "Which {first} has the lowest {column}?",
     "Who or what has the smallest {column}?", "Which row has the smallest value in the column {column}?",
     "Which {first} has the least {column}?"),
    ("哪个{first}的{column}最小?", "{column}最小的是哪一个?", "{column}一列中数值最小的是谁?"),
)  # fmt: skip
ROWS: Wordings = (
    ("How many rows are there, without the header?", "How many rows does the table have below the header?",
     "How many rows of data does the table have?", "How many {first} rows are there?",
     "Count the rows of the table without its header."),
    ("表格有几行数据?", "除了表头, 表格有几行?", "不算表头有多少行?"),
)  # fmt: skip
COLUMNS: Wordings = (
    ("How many columns are there?", "How many columns does the table have?", "Count the columns of the table.",
     "What is the number of columns?"),
    ("表格有几列?", "一共有多少列?", "这张表有几列?"),
)  # fmt: skip
TOTAL: Wordings = (
    ("What is the total of {column}?", "What is the sum of the column {column}?", "Add up the column {column}.",
     "What do the numbers in the column {column} add up to?", "What is the {column} of all together?"),
    ("{column}的总和是多少?", "{column}一列加起来是多少?", "{column}总共是多少?"),
)  # fmt: skip
WHO: Wordings = (
    ("Which {first} has the {column} {value}?", "Which row has {value} in the column {column}?",
     "Whose {column} is {value}?", "For which {first} is the {column} {value}?"),
    ("哪个{first}的{column}是{value}?", "{column}为{value}的是哪一个?"),
)  # fmt: skip
LISTED: Wordings = (
    ("Is {name} in the table?", "Does the table have a row for {name}?", "Is {name} listed?",
     "Does {name} appear in the table?"),
    ("表格里有{name}吗?", "表中有{name}这一行吗?"),
)  # fmt: skip
GREATER: Wordings = (
    ("Is the {column} of {name} greater than that of {other}?", "Does {name} have a larger {column} than {other}?",
     "Is the {column} of {name} higher than that of {other}?"),
    ("{name}的{column}比{other}大吗?", "{name}的{column}高于{other}吗?"),
)  # fmt: skip
HEADER: Wordings = (
    ("What is the header of column {number}?", "What is column {number} called?"),
    ("第{number}列的表头是什么?", "第{number}列叫什么?"),
)  # fmt: skip


def ask_table(rng: random.Random, asker: Asker, table: Table) -> list[Asked]:
    """One to three questions, no two of one kind."""
    ways: list[Callable[[random.Random, Asker, Table], Asked]] = [
        _value, _value, _value, _value, _extreme, _extreme, _size, _total, _who, _listed, _greater, _header,
    ]  # fmt: skip
    rng.shuffle(ways)
    return [way(rng, asker, table) for way in list(dict.fromkeys(ways))[: rng.randint(1, 3)]]


def _value(rng: random.Random, asker: Asker, table: Table) -> Asked:
    row, at = rng.randrange(len(table.rows)), rng.randrange(1, len(table.header))
    wrong = rng.choice([text for text in table.column(at) if text != table.rows[row][at]])
    return asker.ask(rng, VALUE, table.rows[row][at], wrong, name=table.rows[row][0], column=table.header[at])


def _extreme(rng: random.Random, asker: Asker, table: Table) -> Asked:
    at, largest = rng.randrange(1, len(table.header)), rng.random() < 0.5
    ranked = sorted(table.rows, key=lambda row: float(row[at]), reverse=largest)
    wordings = LARGEST if largest else SMALLEST
    return asker.ask(
        rng, wordings, ranked[0][0], ranked[1][0], first=table.first, column=table.header[at]
    )  # fmt: skip


def _size(rng: random.Random, asker: Asker, table: Table) -> Asked:
    """Of rows twice as often as of columns."""
    rows = rng.random() < 2 / 3
    right = len(table.rows) if rows else len(table.header)
    return asker.ask(
        rng, ROWS if rows else COLUMNS, str(right), str(right + rng.choice((-1, 1))), first=table.first
    )  # fmt: skip


def _total(rng: random.Random, asker: Asker, table: Table) -> Asked:
    at = rng.randrange(1, len(table.header))
    places = 2 if "." in table.rows[0][at] else 0
    right = sum(round(float(text) * 100) for text in table.column(at)) / 100
    wrong = right + rng.choice((1, 2, 10))
    return asker.ask(rng, TOTAL, f"{right:.{places}f}", f"{wrong:.{places}f}", column=table.header[at])


def _who(rng: random.Random, asker: Asker, table: Table) -> Asked:
    at = rng.randrange(1, len(table.header))
    row, other = rng.sample(table.rows, 2)
    return asker.ask(
        rng, WHO, row[0], other[0], first=table.first, column=table.header[at], value=row[at]
    )  # fmt: skip


def _listed(rng: random.Random, asker: Asker, table: Table) -> Asked:
    """As often there as not; what is absent is of the same sort."""
    theme = next(names for names in NAMED.values() if set(table.column(0)) <= set(names))
    there = rng.random() < 0.5
    name = rng.choice([n for n in theme if (n in table.column(0)) == there])
    return asker.ask(rng, LISTED, *yes(there), name=name)


def _greater(rng: random.Random, asker: Asker, table: Table) -> Asked:
    at = rng.randrange(1, len(table.header))
    a, b = rng.sample(table.rows, 2)
    right, wrong = yes(float(a[at]) > float(b[at]))
    return asker.ask(rng, GREATER, right, wrong, column=table.header[at], name=a[0], other=b[0])


def _header(rng: random.Random, asker: Asker, table: Table) -> Asked:
    at, other = rng.sample(range(len(table.header)), 2)
    return asker.ask(rng, HEADER, table.header[at], table.header[other], number=str(at + 1))

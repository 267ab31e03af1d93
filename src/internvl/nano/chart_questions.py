"""What small charts show, and questions about it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from internvl.nano.asking import Asked, Asker, Both, Wordings, yes
from internvl.nano.compare import COLOURS_ZH
from internvl.nano.sample import Kit

Kind = Literal["bar", "line", "pie"]

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ORDERED: dict[str, tuple[str, ...]] = {
    "month": MONTHS, "day": DAYS, "quarter": ("Q1", "Q2", "Q3", "Q4"),
    "year": tuple(str(year) for year in range(1996, 2026)),
}  # fmt: skip
NAMED: dict[str, tuple[str, ...]] = {
    "fruit": ("Apple", "Pear", "Plum", "Kiwi", "Fig", "Lemon", "Mango", "Grape", "Peach", "Melon", "Banana", "Cherry"),
    "country": ("China", "India", "Japan", "Spain", "Italy", "Peru", "Chile", "Egypt", "Kenya", "Cuba", "USA", "UK",
                "France", "Brazil", "Norway", "Iran", "Mali", "Nepal"),
    "animal": ("Cat", "Dog", "Cow", "Horse", "Sheep", "Pig", "Duck", "Bird", "Fish", "Goat", "Fox", "Bear", "Rabbit"),
    "sport": ("Golf", "Judo", "Polo", "Tennis", "Rugby", "Chess", "Boxing", "Soccer", "Hockey", "Yoga", "Surf"),
    "person": ("Anna", "Ben", "Carl", "Dora", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jack", "Kim", "Leo", "Mia",
               "Noah", "Olga", "Paul", "Rosa", "Sam", "Tom", "Uma"),
    "city": ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Tokyo", "Delhi", "Seoul", "Bern", "Kyiv", "Berlin", "London"),
    "letter": ("A", "B", "C", "D", "E", "F", "G", "H"),
    "drink": ("Tea", "Milk", "Water", "Juice", "Coffee", "Cola", "Beer", "Wine", "Cocoa"),
    "school": ("Maths", "Music", "Art", "Sport", "Latin", "Drama", "French", "Spanish", "Biology"),
}  # fmt: skip
TITLES = (
    "Sales", "Visitors", "Rain", "Votes", "Points", "Exports", "Users", "Hours", "Books read", "Tickets sold",
    "Orders", "Goals", "Stock", "Budget", "Results", "Profit", "Members", "Income", "Output", "Survey",
)  # fmt: skip
PAIRS = (("Men", "Women"), ("Boys", "Girls"), ("Old", "New"), ("2019", "2020"), ("East", "West"), ("Plan", "Real"),
         ("Shop", "Web"), ("North", "South"), ("In", "Out"), ("Day", "Night"))  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """Values of categories, for one series or two. All values of a series differ."""

    kind: Kind
    title: str
    """Empty: none is drawn."""
    names: tuple[str, ...]
    series: tuple[str, ...]
    """One empty name for a single series."""
    values: tuple[tuple[int, ...], ...]
    """Of each series, in the order of the names."""
    colours: tuple[str, ...]
    """One for each series, or for each name of a single series."""
    step: int
    """Between two ticks of the axis, which starts at 0."""
    top: int
    """The last tick."""
    labelled: bool
    """Whether values are written beside what shows them."""
    unit: str = ""
    timed: bool = False
    """The names are points in time."""

    @property
    def one_colour_each(self) -> bool:
        return len(self.series) == 1 and len(self.colours) == len(self.names) > 1

    def text(self, value: int) -> str:
        """As it is written in the chart and in answers."""
        return f"${value}" if self.unit == "$" else f"{value}{self.unit}"


MANY_RATHER = (2, 2, 4, 6, 7)
"""How often two, three, ... six names: of many, more have no room and are drawn anew."""


def some_chart(rng: random.Random, kit: Kit, kind: Kind, *, most: int) -> Chart:
    """Values for two to `most` names."""
    timed = kind == "line" or (kind == "bar" and rng.random() < 0.3)
    count = rng.choices(range(2, most + 1), MANY_RATHER[: most - 1])[0]
    if timed:
        names = _run(rng, rng.choice(list(ORDERED.values())), max(count, 3) if kind == "line" else count)
    else:
        names = tuple(rng.sample(rng.choice(list(NAMED.values())), count))
    two = kind != "pie" and len(names) <= 4 and most > 3 and rng.random() < 0.25
    series = rng.choice(PAIRS) if two else ("",)
    if kind == "pie":
        step, top, labelled, unit = 5, 100, rng.random() < 0.75, "%"
        names = names if labelled else names[:4]
        values = (_shares(rng, len(names), 1 if labelled else 5),)
    else:
        step = rng.choice((1, 2, 5, 10, 10, 20, 50, 100))
        top, labelled, unit = (
            step * max(len(names), rng.randint(4, 6)),
            rng.random() < 0.5,
            rng.choice(("", "", "", "", "$", "%")),
        )
        unit = "" if unit == "%" and top > 100 else unit
        grain = 1 if labelled and rng.random() < 0.7 else step if step % 2 or rng.random() < 0.6 else step // 2
        values = tuple(_heights(rng, len(names), top, grain) for _ in series)
    each = kind == "pie" or (kind == "bar" and not two and rng.random() < 0.45)
    colours = tuple(rng.sample(list(COLOURS_ZH)[:9], len(names) if each else len(series)))
    title = "" if rng.random() < 0.35 else some_title(rng, kit)
    return Chart(kind, title, names, series, values, colours, step, top, labelled, unit, timed)


def some_title(rng: random.Random, kit: Kit) -> str:
    if rng.random() < 0.65:
        return rng.choice(TITLES)
    words = [w for w in rng.sample(kit.words, min(8, len(kit.words))) if 2 < len(w) < 9 and w.isascii()]
    return " ".join(words[: rng.randint(1, 2)]).capitalize() or rng.choice(TITLES)


def _run(rng: random.Random, names: tuple[str, ...], count: int) -> tuple[str, ...]:
    count = min(count, len(names))
    first = rng.randint(0, len(names) - count)
    return names[first : first + count]


def _heights(rng: random.Random, count: int, top: int, grain: int) -> tuple[int, ...]:
    least = max(1, top // (10 * grain))
    return tuple(grain * at for at in rng.sample(range(least, top // grain + 1), count))


def _shares(rng: random.Random, count: int, grain: int) -> tuple[int, ...]:
    """Percents that differ and are 100 together."""
    while True:
        cuts = sorted(rng.sample(range(1, 100 // grain), count - 1))
        shares = [grain * (b - a) for a, b in zip([0, *cuts], [*cuts, 100 // grain], strict=True)]
        if min(shares) >= 5 and len(set(shares)) == count:
            return tuple(shares)


# ---- questions -------------------------------------------------------------------------------------------------------

VALUE: Wordings = (
    ("What is the value of {name}?", "What is the value for {name}?", "How much is {name}?", "What value has {name}?",
     "What number does {name} have?", "Read the value of {name}.", "What does the chart show for {name}?",
     "What is the {name} value?"),
    ("{name}的值是多少?", "{name}是多少?", "图中{name}的数值是多少?", "{name}对应的数值是多少?"),
)  # fmt: skip
VALUE_OF_TWO: Wordings = (
    ("What is the value of {series} for {name}?", "What is the {series} value in {name}?",
     "How much is {series} at {name}?", "What is the value of {series} at {name}?"),
    ("{name}的{series}值是多少?", "{series}在{name}的数值是多少?"),
)  # fmt: skip
LARGEST: Wordings = (
    ("Which has the largest value?", "Which one is the largest?", "Which {thing} is the largest?", "Which is highest?",
     "Which {thing} has the highest value?", "What has the greatest value?", "Which category has the maximum value?",
     "Which {thing} is the biggest?"),
    ("哪个最大?", "哪一项的值最大?", "数值最高的是哪个?", "最大的是哪一项?"),
)  # fmt: skip
SMALLEST: Wordings = (
    ("Which has the smallest value?", "Which one is the smallest?", "Which {thing} is the smallest?",
     "Which {thing} has the lowest value?", "What has the least value?", "Which category has the minimum value?",
     "Which is lowest?"),
    ("哪个最小?", "哪一项的值最小?", "数值最低的是哪个?", "最小的是哪一项?"),
)  # fmt: skip
HIGHEST: Wordings = (
    ("What is the largest value?", "What is the highest value in the chart?", "What is the maximum value?",
     "How much is the highest one?"),
    ("最大值是多少?", "图中最高的数值是多少?"),
)  # fmt: skip
LOWEST: Wordings = (
    ("What is the smallest value?", "What is the lowest value in the chart?", "What is the minimum value?",
     "How much is the lowest one?"),
    ("最小值是多少?", "图中最低的数值是多少?"),
)  # fmt: skip
ABOVE: Wordings = (
    ("How many {things} are above {value}?", "How many {things} are higher than {value}?",
     "How many values are greater than {value}?", "How many {things} are more than {value}?"),
    ("有几个{things}高于{value}?", "大于{value}的数值有几个?"),
)  # fmt: skip
DIFFERENCE: Wordings = (
    ("What is the difference between {name} and {other}?", "By how much do {name} and {other} differ?",
     "What is the difference between the values of {name} and {other}?",
     "How much more is {name} than {other}?"),
    ("{name}和{other}相差多少?", "{name}比{other}多多少?", "{name}与{other}的差是多少?"),
)  # fmt: skip
SUM: Wordings = (
    ("What is the sum of {name} and {other}?", "How much are {name} and {other} together?",
     "What is the total of {name} and {other}?", "Add the values of {name} and {other}."),
    ("{name}和{other}的总和是多少?", "{name}和{other}加起来是多少?", "{name}加{other}等于多少?"),
)  # fmt: skip
HOW_MANY: Wordings = (
    ("How many {things} are there?", "How many {things} does the chart have?", "How many {things} are in the chart?",
     "Count the {things}.", "How many {things} are shown?"),
    ("有几个{things}?", "图中有多少个{things}?", "一共有几个{things}?"),
)  # fmt: skip
COLOUR: Wordings = (
    ("What colour is {name}?", "What color is {name}?", "What is the colour of {name}?", "Which colour has {name}?",
     "What is the color of the {thing} of {name}?"),
    ("{name}是什么颜色?", "{name}用什么颜色表示?", "代表{name}的颜色是什么?"),
)  # fmt: skip
BY_COLOUR: Wordings = (
    ("What does the {colour} {thing} stand for?", "What does the {colour} {thing} show?", "Which one is {colour}?",
     "What does {colour} represent?"),
    ("{colour}代表什么?", "{colour}的是哪一项?"),
)  # fmt: skip
TITLE: Wordings = (
    ("What is the title?", "What is the title of the chart?", "What is the chart called?", "Read the title.",
     "What does the title say?", "What is the heading of the chart?"),
    ("标题是什么?", "图表的标题是什么?", "这张图叫什么?"),
)  # fmt: skip
GREATER: Wordings = (
    ("Is {name} greater than {other}?", "Is the value of {name} larger than that of {other}?",
     "Is {name} higher than {other}?", "Is {name} more than {other}?"),
    ("{name}比{other}大吗?", "{name}的值高于{other}吗?"),
)  # fmt: skip
RISE: Wordings = (
    ("Did it rise from {name} to {other}?", "Is the value in {other} higher than in {name}?",
     "Did the value increase from {name} to {other}?", "Does the chart go up from {name} to {other}?"),
    ("从{name}到{other}上升了吗?", "{other}比{name}高吗?", "从{name}到{other}是增长的吗?"),
)  # fmt: skip
TYPE: Wordings = (
    ("What kind of chart is this?", "What type of chart is it?", "Which kind of chart is shown?"),
    ("这是什么图?", "这是哪种图表?"),
)  # fmt: skip
KINDS: dict[Kind, Both] = {
    "bar": ("bar chart", "柱状图"),
    "line": ("line chart", "折线图"),
    "pie": ("pie chart", "饼图"),
}
THINGS: dict[Kind, tuple[Both, Both]] = {
    "bar": (("bar", "柱子"), ("bars", "柱子")), "line": (("point", "点"), ("points", "点")),
    "pie": (("slice", "部分"), ("slices", "部分")),
}  # fmt: skip


def ask_chart(rng: random.Random, asker: Asker, chart: Chart) -> list[Asked]:
    """One to three questions, no two of one kind."""
    readable = chart.kind != "pie" or chart.labelled
    ways: list[Callable[[random.Random, Asker, Chart], Asked]] = [_value, _value, _value] if readable else []
    if len(chart.series) == 1:
        ways += [_extreme, _extreme, _greater, _number]
        ways += [_two, _extreme_value, _above] if readable else []
        ways += [_rise] * (2 * chart.timed)
    ways += [_title] if chart.title else []
    ways += [_colour] if chart.one_colour_each or len(chart.series) > 1 else []
    ways += [_type] if rng.random() < 0.2 else []
    rng.shuffle(ways)
    return [way(rng, asker, chart) for way in list(dict.fromkeys(ways))[: rng.randint(1, 3)]]


def _value(rng: random.Random, asker: Asker, chart: Chart) -> Asked:
    series, at = rng.randrange(len(chart.series)), rng.randrange(len(chart.names))
    value, others = chart.values[series][at], {v for row in chart.values for v in row}
    others = sorted(others - {value}) or [value + chart.step]
    wordings = VALUE if len(chart.series) == 1 else VALUE_OF_TWO
    right, wrong = chart.text(value), chart.text(rng.choice(others))
    return asker.ask(rng, wordings, right, wrong, name=chart.names[at], series=chart.series[series])


def _extreme(rng: random.Random, asker: Asker, chart: Chart) -> Asked:
    ranked = sorted(zip(chart.values[0], chart.names, strict=True), reverse=rng.random() < 0.5)
    wordings = LARGEST if ranked[0] > ranked[1] else SMALLEST
    return asker.ask(rng, wordings, ranked[0][1], ranked[1][1], thing=THINGS[chart.kind][0])


def _extreme_value(rng: random.Random, asker: Asker, chart: Chart) -> Asked:
    ranked = sorted(chart.values[0], reverse=rng.random() < 0.5)
    wordings = HIGHEST if ranked[0] > ranked[-1] else LOWEST
    return asker.ask(rng, wordings, chart.text(ranked[0]), chart.text(ranked[1]))


def _above(rng: random.Random, asker: Asker, chart: Chart) -> Asked:
    """Above a tick that no value lies on, if there is one; the highest value is mostly above it."""
    values = chart.values[0]
    ticks = [tick for tick in range(chart.step, max(values) + chart.step, chart.step) if tick not in values]
    ticks = ticks or [chart.step]
    tick = rng.choice(ticks)
    count = sum(value > tick for value in values)
    wrong = count + rng.choice((-1, 1) if count else (1, 2))
    return asker.ask(rng, ABOVE, str(count), str(wrong), things=THINGS[chart.kind][1], value=chart.text(tick))


def _two(rng: random.Random, asker: Asker, chart: Chart) -> Asked:
    """Sum or difference of two."""
    a, b = rng.sample(range(len(chart.names)), 2)
    if chart.values[0][a] < chart.values[0][b]:
        a, b = b, a
    high, low = chart.values[0][a], chart.values[0][b]
    add = rng.random() < 0.5
    right = high + low if add else high - low
    wrong = right + rng.choice((-1, 1)) * rng.choice((1, chart.step))
    text = chart.text(right), chart.text(wrong if wrong > 0 else right + chart.step)
    return asker.ask(rng, SUM if add else DIFFERENCE, *text, name=chart.names[a], other=chart.names[b])


def _greater(rng: random.Random, asker: Asker, chart: Chart) -> Asked:
    a, b = rng.sample(range(len(chart.names)), 2)
    values = chart.values[0]
    return asker.ask(rng, GREATER, *yes(values[a] > values[b]), name=chart.names[a], other=chart.names[b])


def _rise(rng: random.Random, asker: Asker, chart: Chart) -> Asked:
    """Up as often as down, where there is a choice."""
    values, count = chart.values[0], len(chart.names)
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    up = rng.random() < 0.5
    a, b = rng.choice([p for p in pairs if (values[p[0]] < values[p[1]]) == up] or pairs)
    return asker.ask(rng, RISE, *yes(values[a] < values[b]), name=chart.names[a], other=chart.names[b])


def _number(rng: random.Random, asker: Asker, chart: Chart) -> Asked:
    count = len(chart.names)
    wrong = count + rng.choice((-1, 1))
    return asker.ask(rng, HOW_MANY, str(count), str(wrong), things=THINGS[chart.kind][1])


def _title(rng: random.Random, asker: Asker, chart: Chart) -> Asked:
    return asker.ask(rng, TITLE, chart.title, rng.choice([t for t in TITLES if t != chart.title]), brief=False)


def _colour(rng: random.Random, asker: Asker, chart: Chart) -> Asked:
    """From name to colour or back."""
    names = chart.names if chart.one_colour_each else chart.series
    a, b = rng.sample(range(len(names)), 2)
    colour, other = ((chart.colours[at], COLOURS_ZH[chart.colours[at]]) for at in (a, b))
    thing = THINGS[chart.kind][0] if chart.kind != "line" else ("line", "线")
    if rng.random() < 0.6:
        return asker.ask(rng, COLOUR, colour, other, name=names[a], thing=thing)
    return asker.ask(rng, BY_COLOUR, names[a], names[b], colour=colour, thing=thing)


def _type(rng: random.Random, asker: Asker, chart: Chart) -> Asked:
    wrong = rng.choice([name for kind, name in KINDS.items() if kind != chart.kind])
    return asker.ask(rng, TYPE, KINDS[chart.kind], wrong)

"""Charts: what is painted is to scale, read as a person would, and every answer follows from the values."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageDraw

from internvl.nano.asking import Asker
from internvl.nano.chart_questions import KINDS, TITLES, Chart, ask_chart, some_chart
from internvl.nano.charts import Style, draw_chart, draw_kind, paint
from internvl.nano.compare import COLOURS_ZH
from internvl.nano.sample import Kit

KIT = Kit()
RED, BLUE, GREEN = (220, 30, 35), (35, 80, 215), (30, 150, 60)
STYLE = Style(
    size=(260, 200), font=None, text=13, paper=(255, 255, 255), ink=(0, 0, 0), grid=(210, 210, 210),
    shades={"red": RED, "blue": BLUE, "green": GREEN}, fill=0.6, edged=False, lying=False, legend=True, framed=False,
    double=False,
)  # fmt: skip


@pytest.fixture
def written(monkeypatch):
    """Every text that is written, with the middle of its letters."""
    texts: list[tuple[str, float, float]] = []
    text = ImageDraw.ImageDraw.text

    def spy(pen, at, words, **rest):
        box = rest["font"].getbbox(words)
        texts.append((words, at[0] + (box[0] + box[2]) / 2, at[1] + (box[1] + box[3]) / 2))
        return text(pen, at, words, **rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    return texts


def where(picture, colour) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of this very colour."""
    return np.nonzero((np.asarray(picture) == np.array(colour)).all(-1))


def chart(kind, values, **changes) -> Chart:
    made = Chart(
        kind=kind, title="", names=("Fig", "Kiwi", "Pear"), series=("",), values=(values,),
        colours=("red",) if kind == "line" else ("red", "blue", "green"), step=10, top=50, labelled=False,
    )  # fmt: skip
    return replace(made, **changes)


def read_axis(ticks: list[tuple[int, float]], at: float) -> float:
    """The value that a place on the axis stands for, from two of its numbers."""
    (low, low_at), (high, high_at) = ticks[0], ticks[-1]
    return low + (high - low) * (at - low_at) / (high_at - low_at)


@pytest.mark.parametrize("seed", range(12))
def test_standing_bars_end_where_the_axis_says(written, seed):
    values = tuple(random.Random(seed).sample(range(5, 51), 3))
    picture = paint(chart("bar", values), STYLE)
    assert picture is not None
    ticks = [(int(text), y) for text, _, y in written if text.isdigit()]
    assert [tick for tick, _ in ticks] == [0, 10, 20, 30, 40, 50]
    names = {text: x for text, x, _ in written if text.isalpha()}
    for name, value, colour in zip(("Fig", "Kiwi", "Pear"), values, (RED, BLUE, GREEN), strict=True):
        rows, columns = where(picture, colour)
        assert read_axis(ticks, rows.min()) == pytest.approx(value, abs=0.8)
        assert columns.mean() == pytest.approx(names[name], abs=2)


@pytest.mark.parametrize("seed", range(6))
def test_lying_bars_end_where_the_axis_says(written, seed):
    values = tuple(random.Random(seed).sample(range(5, 51), 3))
    picture = paint(chart("bar", values), replace(STYLE, lying=True))
    assert picture is not None
    ticks = [(int(text), x) for text, x, _ in written if text.isdigit()]
    names = {text: y for text, _, y in written if text.isalpha()}
    for name, value, colour in zip(("Fig", "Kiwi", "Pear"), values, (RED, BLUE, GREEN), strict=True):
        rows, columns = where(picture, colour)
        assert read_axis(ticks, columns.max()) == pytest.approx(value, abs=0.8)
        assert rows.mean() == pytest.approx(names[name], abs=3)


@pytest.mark.parametrize("seed", range(6))
def test_a_line_passes_through_its_values(written, seed):
    values = tuple(random.Random(seed).sample(range(5, 51), 3))
    picture = paint(chart("line", values), STYLE)
    assert picture is not None
    ticks = [(int(text), y) for text, _, y in written if text.isdigit()]
    names = {text: x for text, x, _ in written if text.isalpha()}
    rows, columns = where(picture, RED)
    for name, value in zip(("Fig", "Kiwi", "Pear"), values, strict=True):
        here = rows[abs(columns - names[name]) < 1.5]
        assert min(abs(read_axis(ticks, y) - value) for y in (here.min(), here.max())) < 3


@pytest.mark.parametrize("values", [(60, 30, 10), (20, 35, 45), (5, 15, 80)])
@pytest.mark.parametrize("legend", [True, False])
def test_slices_are_as_large_as_their_share(values, legend):
    style = replace(STYLE, legend=legend)
    picture = paint(chart("pie", values, unit="%"), style)
    assert picture is not None
    key = (0.8 * STYLE.text) ** 2 if legend else 0
    areas = [len(where(picture, colour)[0]) - key for colour in (RED, BLUE, GREEN)]
    for area, value in zip(areas, values, strict=True):
        assert 100 * area / sum(areas) == pytest.approx(value, abs=2)


def test_value_labels_are_written_beside_their_bars(written):
    picture = paint(chart("bar", (17, 42, 23), labelled=True), STYLE)
    assert picture is not None
    labels = {text: (x, y) for text, x, y in written}
    for value, colour in ((17, RED), (42, BLUE), (23, GREEN)):
        rows, columns = where(picture, colour)
        x, y = labels[str(value)]
        assert x == pytest.approx(columns.mean(), abs=2)
        assert 0 < rows.min() - y < 16


def test_a_chart_without_room_is_refused():
    long = chart("bar", (10, 20, 30), names=("United Kingdom",) * 3)
    assert paint(long, STYLE) is None
    assert paint(chart("bar", (10, 20, 30)), replace(STYLE, text=40)) is None


# ---- questions -------------------------------------------------------------------------------------------------------


def truth(question: str, made: Chart) -> str | None:
    """The answer from the words of the question and the values."""
    question = re.sub(r"\s(Please answer|Answer the question).*", "", question, flags=re.DOTALL)
    rows = [dict(zip(made.names, row, strict=True)) for row in made.values]
    values = rows[0]
    named = sorted(
        (n for n in made.names if re.search(rf"(?<![A-Za-z]){n}(?![a-z])", question)), key=question.index
    )  # fmt: skip
    if named == ["A"] and re.search(r"\bAdd\b", question):
        named = []
    if re.search("kind of chart|type of chart", question):
        return f"{made.kind} chart"
    if re.search("title|called|heading", question):
        return made.title
    colours = [c for c in COLOURS_ZH if re.search(rf"\b{c}\b", question)]
    if colours and re.search("stand for|represent|Which one is|does the .* show", question):
        return (made.names if made.one_colour_each else made.series)[made.colours.index(colours[0])]
    if re.search("colou?r", question):
        names = made.names if made.one_colour_each else made.series
        return next(
            c for n, c in zip(names, made.colours, strict=True) if re.search(rf"(?<![A-Za-z]){n}(?![a-z])", question)
        )
    limit = re.search(r"(?:above|higher than|greater than|more than) \$?(\d+)%?\?$", question)
    if limit and question.startswith("How many") and not re.search(r"How much", question):
        return str(sum(v > int(limit[1]) for v in values.values()))
    if re.search("How many|Count the", question):
        return str(len(made.names))
    if re.search("rise|increase|go up", question):
        return "Yes" if values[named[0]] < values[named[1]] else "No"
    if question.startswith("Is "):
        return "Yes" if values[named[0]] > values[named[1]] else "No"
    if re.search("difference|differ|How much more", question):
        return made.text(abs(values[named[0]] - values[named[1]]))
    if re.search("sum|together|total|Add", question) and len(named) == 2:
        return made.text(values[named[0]] + values[named[1]])
    if re.search("larg|high|great|max|biggest", question) and not named:
        best = max(values, key=values.__getitem__)
        return made.text(values[best]) if re.search("^What is the .*value|How much", question) else best
    if re.search("small|low|least|min", question) and not named:
        best = min(values, key=values.__getitem__)
        return made.text(values[best]) if re.search("^What is the .*value|How much", question) else best
    series = next((i for i, s in enumerate(made.series) if s and s in question), 0)
    return made.text(rows[series][named[0]])


def test_answers_are_true():
    asked = Counter()
    for seed in range(600):
        rng = random.Random(f"chart {seed}")
        made = some_chart(rng, KIT, rng.choice(("bar", "line", "pie")), most=6)
        for one in ask_chart(rng, Asker(chinese=False), made):
            assert one.answer == truth(one.question, made), (one.question, made)
            assert one.wrong not in (None, one.answer)
            asked[one.answer if one.answer in ("Yes", "No") else "other"] += 1
    assert 0.4 < asked["Yes"] / (asked["Yes"] + asked["No"]) < 0.6


def test_chinese_questions_are_answered_in_chinese_or_numbers_that_follow_from_the_values():
    for seed in range(200):
        rng = random.Random(seed)
        made = some_chart(rng, KIT, "bar", most=6)
        one = ask_chart(random.Random(seed), Asker(chinese=True), made)[0]
        assert not one.question.isascii()
        if one.answer.isascii() and one.answer not in (made.title, *made.names, *made.series):
            sums = {a + b for row in made.values for a in row for b in row} | {a for row in made.values for a in row}
            sums |= {abs(a - b) for row in made.values for a in row for b in row} | set(range(7))
            assert int(re.sub(r"[$%]", "", one.answer)) in sums
        elif not one.answer.isascii():
            assert one.answer in ("是", "否", "柱状图", *COLOURS_ZH.values())


def test_values_are_told_apart_and_readable():
    for seed in range(400):
        rng = random.Random(seed)
        made = some_chart(rng, KIT, rng.choice(("bar", "line", "pie")), most=6)
        assert 2 <= len(made.names) <= 6
        assert len(set(made.names)) == len(made.names)
        for row in made.values:
            assert len(set(row)) == len(row) == len(made.names)
            assert all(0 < value <= made.top for value in row)
            if made.kind == "pie":
                assert sum(row) == 100
            elif not made.labelled:  # on a line of the grid or half way to the next
                assert all(2 * value % made.step == 0 for value in row)
        assert len(set(made.colours)) == len(made.colours)
        questions = [one.question for one in ask_chart(rng, Asker(chinese=False), made)]
        if made.kind == "pie" and not made.labelled:
            assert not any(re.search("(What is|Read) the value|How much|sum of|differ", q) for q in questions)


def test_the_same_seed_draws_the_same_sample():
    for seed in range(12):
        one, two = draw_chart(random.Random(seed), KIT), draw_chart(random.Random(seed), KIT)
        assert (one.turns, one.label, one.wrong) == (two.turns, two.label, two.wrong)
        assert one.pictures[0].tobytes() == two.pictures[0].tobytes()


def test_samples_keep_to_their_sizes_and_kinds():
    kinds, titles = Counter(), Counter()
    for seed in range(300):
        sample = draw_chart(random.Random(seed), KIT)
        width, height = sample.pictures[0].size
        assert 160 <= width <= 330
        assert 88 <= height <= 370
        assert sample.label is not None
        kinds[sample.label.split(",")[0]] += 1
        titles["titled" in (sample.caption or "")] += 1
        assert 1 <= len(sample.turns) <= 3
    assert set(kinds) == {"bar chart", "line chart", "pie chart"}
    assert min(kinds.values()) > 45
    assert titles[True] > 100
    assert titles[False] > 60
    assert len(TITLES) == len(set(TITLES))


def test_each_drawer_draws_its_kind():
    for kind in KINDS:
        drawn = {str(draw_kind(random.Random(seed), KIT, kind).label).split(",")[0] for seed in range(8)}
        assert drawn == {f"{kind} chart"}

"""Tables: every text is printed in its cell, and every answer follows from the rows."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from internvl.nano.asking import Asker
from internvl.nano.sample import Kit
from internvl.nano.tables import Table, ask_table, draw_table, legible, paint, some_style, some_table

KIT = Kit()


@pytest.fixture
def written(monkeypatch):
    """Every text that is printed, with the box of its letters."""
    texts: list[tuple[str, tuple[float, float, float, float]]] = []
    text = ImageDraw.ImageDraw.text

    def spy(pen, at, words, fill, font):
        left, top, right, bottom = font.getbbox(words)
        texts.append((words, (at[0] + left, at[1] + top, at[0] + right, at[1] + bottom)))
        return text(pen, at, words, fill, font)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    return texts


def test_every_text_is_printed_in_its_cell(written):
    """Reading the printed texts by where they stand gives the table back."""
    for seed in range(150):
        written.clear()
        rng = random.Random(seed)
        table, style = some_table(rng), some_style(rng, KIT)
        picture = paint(table, style)
        lines = sorted({round((box[1] - style.margin[1]) // style.high) for _, box in written})
        rows = [[] for _ in lines]
        for text, box in written:
            rows[lines.index(round((box[1] - style.margin[1]) // style.high))].append((box, text))
            assert box[0] >= 0
            assert box[2] <= picture.width
            assert box[3] <= picture.height
        read = [tuple(text for _, text in sorted(row)) for row in rows]
        assert read == [table.header, *table.rows]
        for row in rows:
            boxes = sorted(box for box, _ in row)
            assert all(a[2] < b[0] for a, b in itertools.pairwise(boxes)), "texts touch"


def test_ruled_tables_have_a_line_around_every_cell():
    table = Table(("Name", "Age", "Wins"), (("Ida", "12", "3"), ("Leo", "9", "41")))
    style = replace(
        some_style(random.Random(0), KIT), kind="ruled", head_band=False, thick=1, ink=(0, 0, 0), paper=(255,) * 3
    )
    dark = np.asarray(paint(table, style).convert("L")) < 128
    assert sum(dark[:, style.margin[0] + 2 : -style.margin[0] - 2].all(1)) == 4
    assert sum(dark[style.margin[1] + 2 : -style.margin[1] - 2].all(0)) == 4


def truth(question: str, table: Table) -> str:
    question = re.sub(r"\s(Please answer|Answer the question).*", "", question, flags=re.DOTALL)
    named = sorted((n for n in table.column(0) if re.search(rf"\b{n}\b", question)), key=question.index)
    heads = [h for h in table.header[1:] if re.search(rf"\b{h}\b", question)]
    number = re.search(r"column (\d+)( called)?\?$", question)
    if number and re.search("header|name|called", question) and not heads:
        return table.header[int(number[1]) - 1]
    if re.search("listed|in the table|appear|a row for", question) and question[:3] in ("Is ", "Doe"):
        return "Yes" if named else "No"
    if re.search("columns", question):
        return str(len(table.header))
    if re.search("How many|Count the rows", question):
        return str(len(table.rows))
    column = {row[0]: row[table.header.index(heads[-1])] for row in table.rows}
    if len(named) == 2:
        return "Yes" if float(column[named[0]]) > float(column[named[1]]) else "No"
    if re.search("largest|highest|greatest|from high to low", question):
        return max(column, key=lambda name: float(column[name]))
    if re.search("smallest|lowest|least", question):
        return min(column, key=lambda name: float(column[name]))
    if len(named) == 1:
        return column[named[0]]
    value = re.search(r"\d+(\.\d\d)?", re.sub(rf"\b({'|'.join(table.header)})\b", "", question))
    if value:
        (name,) = (name for name, text in column.items() if text == value[0])
        return name
    places = 2 if "." in next(iter(column.values())) else 0
    return f"{sum(int(text.replace('.', '')) for text in column.values()) / 10**places:.{places}f}"


def test_answers_are_true():
    yes, asked = Counter(), Counter()
    for seed in range(1000):
        rng = random.Random(f"table {seed}")
        table = some_table(rng)
        for one in ask_table(rng, Asker(chinese=False), table):
            assert one.answer == truth(one.question, table), (one.question, table)
            assert one.wrong not in (None, one.answer)
            yes[one.answer] += one.answer in ("Yes", "No")
            asked[" ".join(one.question.split()[:3])] += 1
    assert 0.4 < yes["Yes"] / yes.total() < 0.6
    assert len(asked) > 20


def test_numbers_of_a_column_differ():
    for seed in range(300):
        table = some_table(random.Random(seed))
        assert 2 <= len(table.rows) <= 5
        assert 2 <= len(table.header) <= 4
        assert len(set(table.header)) == len(table.header)
        for at in range(len(table.header)):
            assert len(set(table.column(at))) == len(table.rows)


def test_chinese_questions_are_answered_in_numbers_names_or_chinese():
    for seed in range(200):
        rng = random.Random(seed)
        table = some_table(rng)
        texts = {*table.header, *(text for row in table.rows for text in row)}
        for one in ask_table(rng, Asker(chinese=True), table):
            assert not one.question.isascii()
            assert one.answer in {*texts, "是", "否"} or re.fullmatch(r"\d+(\.\d\d)?", one.answer)


def test_the_same_seed_draws_the_same_sample():
    for seed in range(15):
        one, two = draw_table(random.Random(seed), KIT), draw_table(random.Random(seed), KIT)
        assert (one.turns, one.label, one.wrong) == (two.turns, two.label, two.wrong)
        assert one.pictures[0].tobytes() == two.pictures[0].tobytes()


def test_text_is_tall_enough_in_tiles():
    style = replace(some_style(random.Random(0), KIT), text=10)
    assert not legible(Image.new("RGB", (150, 150)), style), "one tile: 7.5 pixels"
    assert legible(Image.new("RGB", (200, 200)), style), "four tiles: 11 pixels"
    assert not legible(Image.new("RGB", (300, 100)), style)


def test_all_sizes_are_alike_frequent():
    labels = Counter(draw_table(random.Random(seed), KIT).label for seed in range(600))
    assert len(labels) == 12
    assert max(labels.values()) < 2.5 * min(labels.values())

"""Small grids: what is asked is answered from what is printed, which is read again from the pixels."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from internvl.nano import cells
from internvl.nano.cells import Look, draw_cell_grid, misread, print_grid
from internvl.nano.sample import Kit
from internvl.nano.shapes import COLOUR_NAMES, COLOURS

KIT = Kit()
NAMES = list(COLOUR_NAMES)
ENGLISH = {chinese: english for english, chinese in COLOUR_NAMES.values()}
SAID = {"Yes": "yes", "是": "yes", "No": "no", "否": "no", "空": "empty"}


@pytest.fixture(scope="module")
def drawn():
    return [draw_cell_grid(random.Random(f"cells {i}"), KIT) for i in range(500)]


def test_the_same_seed_draws_the_same_sample():
    for seed in range(40):
        one, two = (draw_cell_grid(random.Random(seed), KIT) for _ in range(2))
        assert (one.turns, one.label, one.wrong, one.facts) == (two.turns, two.label, two.wrong, two.facts)
        assert one.pictures[0].tobytes() == two.pictures[0].tobytes()


def contents(sample, letters: str) -> list[list[str]]:
    """Rows of what the cells hold, in words of English."""
    rows = [[int(value) for value in row.split()] for row in sample.facts["grid"].split("/")]
    kind = sample.facts["kind"]
    if kind == "digits":
        return [[str(v) if v else "empty" for v in row] for row in rows]
    return [[NAMES[v] if kind == "colours" else letters[v] for v in row] for row in rows]


def truth(question: str, rows: list[list[str]], kind: str) -> str:
    asked = question.split("\n")[0]
    place = re.search(r"[Rr]ow (\d)\D+column (\d)", asked) or re.search(r"第(\d)行第(\d)列", asked)
    turned = re.search(r"column (\d) of row (\d)", asked)
    if place or turned:
        r, c = (int(place[1]), int(place[2])) if place else (int(turned[2]), int(turned[1]))  # type: ignore[index]
        held = rows[r - 1][c - 1]
        return ("yes" if held == "empty" else "no") if re.search("empty|空", asked) else held
    line = re.search(r"row (\d)", asked) or re.search(r"第(\d)行", asked)
    if line:
        row = rows[int(line[1]) - 1]
        if re.search("How many|Count|几个|多少个", asked):
            return str(sum(held != "empty" for held in row))
        return "".join("0" if held == "empty" else held for held in row)
    if re.search("How many rows|几行|多少行", asked):
        return str(len(rows))
    if re.search("How many columns|几列|多少列", asked):
        return str(len(rows[0]))
    between = ", " if kind == "colours" else ""
    return "\n".join(between.join("0" if held == "empty" else held for held in row) for row in rows)


def plain(answer: str) -> str:
    for chinese, english in ENGLISH.items():
        answer = answer.replace(chinese, english)
    return SAID.get(answer, {"Yes": "yes", "No": "no"}.get(answer, answer))


def test_answers_are_true(drawn):
    kinds = Counter()
    for sample in drawn:
        kind = sample.facts["kind"]
        lower = any(a.isascii() and a.replace("\n", "").islower() for q, a in sample.turns) and kind == "letters"
        rows = contents(sample, "abcdefghijklmnopqrstuvwxyz" if lower else "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        for question, answer in sample.turns:
            assert plain(answer) == truth(question, rows, kind), (question, answer, sample.facts)
        assert sample.label == f"{len(rows)} x {len(rows[0])}"
        assert sample.wrong not in (None, sample.turns[0][1])
        kinds[kind] += 1
    assert min(kinds.values()) > 60
    assert kinds["digits"] > kinds["letters"]


def test_digits_are_printed_in_their_cells():
    """Ink is where digits are, and nowhere else; two different digits are two different pictures."""
    rng = random.Random(2)
    for _ in range(40):
        rows, columns = rng.randint(2, 9), rng.randint(2, 9)
        grid = tuple(tuple(rng.randint(1, 9) * (rng.random() < 0.5) for _ in range(columns)) for _ in range(rows))
        page = Image.new("RGB", (columns * 40 + 20, rows * 40 + 20), "white")
        box = (10, 10, columns * 40 + 10, rows * 40 + 10)
        print_grid(rng, page, KIT, box, grid, Look())
        gray = np.asarray(page.convert("L"))[10:-10, 10:-10].reshape(rows, 40, columns, 40)
        assert ((gray[:, 6:34, :, 6:34].min((1, 3)) < 128) == (np.array(grid) > 0)).all()
        looks: dict[int, list[np.ndarray]] = {}
        for r in range(rows):
            for c in range(columns):
                looks.setdefault(grid[r][c], []).append(gray[r, 6:34, c, 6:34])
        for digit, same in looks.items():
            assert all(np.abs(one.astype(int) - same[0]).mean() < 12 for one in same)
            assert all(np.abs(same[0].astype(int) - o[0]).mean() > 3 for other, o in looks.items() if other != digit)


def test_colours_are_where_the_grid_says():
    seen = 0
    for seed in range(80):
        rng = random.Random(seed)
        grid = tuple(tuple(rng.randrange(10) for _ in range(4)) for _ in range(3))
        picture = cells._paint_colours(random.Random(seed), grid)
        page, (left, top, right, bottom) = cells._cells_page(random.Random(seed), grid)
        assert page.size[0] == 2 * picture.width
        for r, row in enumerate(grid):
            for c, value in enumerate(row):
                x, y = left + (c + 0.5) * (right - left) / 4, top + (r + 0.5) * (bottom - top) / 3
                pixel = picture.getpixel((round(x / 2), round(y / 2)))
                nearest = min(
                    COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], pixel, strict=True))
                )
                assert nearest == NAMES[value]
                seen += 1
    assert seen == 960


def test_a_misread_grid_is_another():
    rng = random.Random(3)
    for _ in range(200):
        grid = tuple(tuple(rng.randint(0, 9) for _ in range(5)) for _ in range(4))
        other = misread(rng, grid)
        assert 1 <= sum(a != b for p, q in zip(grid, other, strict=True) for a, b in zip(p, q, strict=True)) <= 6


def test_labels_and_answers_are_balanced(drawn):
    labels = Counter(sample.label for sample in drawn)
    assert len(labels) == 16
    assert min(labels.values()) >= 12
    said = Counter(SAID[a] for s in drawn for _, a in s.turns if SAID.get(a) in ("yes", "no"))
    assert said.total() > 40
    assert 0.33 < said["yes"] / said.total() < 0.67


def test_sizes_and_languages(drawn):
    assert {p.size for s in drawn for p in s.pictures} == {(112, 112), (128, 128), (160, 160)}
    assert 0.08 < sum(bool(re.search("[一-龥]", s.turns[0][0])) for s in drawn) / len(drawn) < 0.22

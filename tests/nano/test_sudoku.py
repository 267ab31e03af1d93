"""Sudoku: puzzles keep the rules, answers are those of the grid that is printed, and what is printed can be found."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from internvl.evaluation.tasks.own import grid_in
from internvl.nano import sudoku
from internvl.nano.sample import Kit, Sample
from internvl.nano.sudoku import (
    PROMPT,
    agreement,
    draw_sudoku,
    find_grid,
    paint_clean,
    paint_photograph,
    real_sudoku_variants,
    some_puzzle,
    straight,
    tilt_around,
    webs,
)

KIT = Kit()
SAID = {"Yes": True, "是": True, "No": False, "否": False, "empty": "0", "空": "0"}
Rows = Sequence[Sequence[int]]


def test_puzzles_keep_the_rules():
    numbers = []
    for seed in range(300):
        grid = np.array(some_puzzle(random.Random(seed)))
        boxes = grid.reshape(3, 3, 3, 3).swapaxes(1, 2).reshape(9, 9)
        for line in (*grid, *grid.T, *boxes):
            given = line[line > 0]
            assert len(set(given)) == len(given)
        numbers.append(int((grid > 0).sum()))
    assert 20 <= min(numbers) < 24
    assert 34 < max(numbers) <= 41


def test_puzzles_are_many():
    assert len({some_puzzle(random.Random(seed)) for seed in range(300)}) == 300
    digits = Counter(d for seed in range(300) for row in some_puzzle(random.Random(seed)) for d in row if d)
    assert max(digits.values()) < 1.3 * min(digits.values())


def test_the_same_seed_draws_the_same_sample():
    for seed in range(15):
        one, two = (draw_sudoku(random.Random(seed), KIT) for _ in range(2))
        assert (one.turns, one.wrong, one.facts) == (two.turns, two.wrong, two.facts)
        assert one.pictures[0].tobytes() == two.pictures[0].tobytes()


def truth(question: str, grid: Rows) -> str | bool:
    """What a question about a grid of digits should get; answers are compared after `SAID`."""
    asked = question.split("\n")[0]
    place = re.search(r"[Rr]ow (\d)\D+column (\d)", asked) or re.search(r"第(\d)行第(\d)列", asked)
    if not place and (turned := re.search(r"column (\d) of row (\d)", asked)):
        place = re.match(r"(\d) (\d)", f"{turned[2]} {turned[1]}")
    if place:
        digit = grid[int(place[1]) - 1][int(place[2]) - 1]
        return digit == 0 if re.search("empty|空", asked) else str(digit)
    line = re.search(r"row (\d)", asked) or re.search(r"第(\d)行", asked)
    if line:
        row = grid[int(line[1]) - 1]
        if re.search("How many|Count|几个|多少个", asked):
            return str(sum(digit > 0 for digit in row))
        return "".join(map(str, row))
    return "\n".join("".join(map(str, row)) for row in grid)


def check(sample: Sample, grid: Rows) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for question, answer in sample.turns:
        expected = truth(question, grid)
        assert SAID.get(answer, answer) == expected, (question, answer)
        kinds["yes or no" if isinstance(expected, bool) else "all" if "\n" in expected else "part"] += 1
    assert sample.wrong is not None
    assert sample.wrong != sample.turns[0][1]
    return kinds


@pytest.fixture
def printed(monkeypatch):
    """The grids that are printed; the last is the one that is asked about."""
    grids: list[Rows] = []
    print_grid = sudoku.print_grid

    def spy(rng, page, kit, box, grid, *further):
        grids.append(grid)
        return print_grid(rng, page, kit, box, grid, *further)

    monkeypatch.setattr(sudoku, "print_grid", spy)
    return grids


def test_answers_are_what_is_printed(printed):
    kinds: Counter[str] = Counter()
    for i in range(100):
        sample = draw_sudoku(random.Random(f"sudoku {i}"), KIT)
        kinds += check(sample, printed[-1])
        kinds[sample.facts["style"]] += 1
        width, height = sample.pictures[0].size
        assert 180 <= width <= 300
        assert 224 <= height <= 300
    assert kinds["all"] > 60
    assert kinds["part"] > 20
    assert kinds["yes or no"] > 2
    assert kinds["photograph"] > kinds["clean"] > 10


def test_whole_grids_are_asked_and_answered_as_the_benchmark_wants_it():
    questions = Counter()
    for i in range(60):
        asked = sudoku.ask_sudoku(random.Random(i), some_puzzle(random.Random(i)))[0]
        for question, answer in asked:
            questions[question] += 1
            if "\n" in answer:
                assert re.fullmatch(r"([0-9]{9}\n){8}[0-9]{9}", answer)
                assert grid_in(answer) == answer.replace("\n", "/")
    assert questions[PROMPT] > 15


def as_rows(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, row)) for row in text.split("/"))


def drawn_photograph(seed: int) -> tuple[Image.Image, str]:
    grid = some_puzzle(random.Random(seed))
    picture = paint_photograph(random.Random(f"photograph {seed}"), KIT, grid)
    return picture, "/".join("".join(map(str, row)) for row in grid)


def test_what_is_printed_is_where_the_grid_says():
    """On clean grids the darkest cells are those with a digit; of another grid they are not."""
    found, others = [], []
    for seed in range(20):
        grid = some_puzzle(random.Random(seed))
        picture = paint_clean(random.Random(seed), KIT, grid)
        corners = find_grid(picture)
        assert corners is not None
        found.append(agreement(picture, corners, grid))
        others.append(agreement(picture, corners, some_puzzle(random.Random(seed + 1000))))
        mirrored = tuple(row[::-1] for row in grid)
        assert mirrored == grid or agreement(picture, corners, mirrored) <= found[-1]
    assert np.mean(np.array(found) > 0.9) > 0.8
    assert max(others) < 0.75


def test_drawn_photographs_keep_their_grid():
    """The grid is found again in most, no digit cut off: half of what fails is too pale for a threshold."""
    agreements = []
    for seed in range(30):
        picture, grid = drawn_photograph(seed)
        corners = find_grid(picture)
        agreements.append(0.0 if corners is None else agreement(picture, corners, as_rows(grid)))
    assert np.mean(np.array(agreements) > 0.9) > 0.6


def test_the_grid_stays_inside():
    rng = random.Random(4)
    for _ in range(100):
        box = rng.uniform(0, 0.1), rng.uniform(0, 0.1), rng.uniform(0.9, 1), rng.uniform(0.9, 1)
        tilt = tilt_around(rng, box, 0.8)
        for x, y in ((box[i], box[j]) for i in (0, 2) for j in (1, 3)):
            u, v = tilt.target(x, y)
            assert -0.001 <= u <= 1.001
            assert -0.001 <= v <= 1.001


def test_webs_hang_together():
    mask = np.zeros((6, 7), bool)
    mask[0, :3] = mask[:4, 2] = mask[3, 2:6] = True  # one that turns twice
    mask[5, 0] = mask[1, 6] = True  # two dots; a corner is no side
    mask[4, 6] = True
    labels = webs(mask)
    assert (labels > 0).tolist() == mask.tolist()
    assert len(np.unique(labels[mask])) == 4
    assert len({labels[0, 0], labels[2, 2], labels[3, 5]}) == 1


def test_straight_undoes_a_tilt():
    page = Image.new("RGB", (90, 90), "white")
    for i, colour in enumerate(("red", "green", "blue", "black")):
        page.paste(colour, (45 * (i % 2), 45 * (i // 2), 45 + 45 * (i % 2), 45 + 45 * (i // 2)))
    corners = ((0.2, 0.1), (0.9, 0.2), (0.8, 0.9), (0.1, 0.8))
    seen = sudoku.warp(page, (200, 160), sudoku.Tilt(corners))
    again = straight(seen, corners, 90)
    places = [(22, 22), (67, 22), (22, 67), (67, 67)]
    assert [again.getpixel(p) for p in places] == [page.getpixel(p) for p in places]


def test_variants_of_a_photograph_are_answered_truly():
    styles: Counter[str] = Counter()
    for seed in range(60):
        picture, grid = drawn_photograph(seed % 12)
        before = picture.tobytes()
        sample = real_sudoku_variants(random.Random(seed), picture, grid)
        styles[sample.facts["style"]] += 1
        assert picture.tobytes() == before, "what is given is not changed"
        assert max(sample.pictures[0].size) <= 320
        if sample.facts["style"] == "part":
            parts = [answer for _, answer in sample.turns if "\n" in answer]
            assert len(parts) == 1
            part = [tuple(map(int, row)) for row in parts[0].split("\n")]
            assert any(
                part == [row[c : c + len(part[0])] for row in as_rows(grid)[r : r + len(part)]]
                for r in range(9)
                for c in range(9)
            )
            check(sample, part)
        else:
            check(sample, as_rows(grid))
    assert styles["whole"] > 20
    assert min(styles["straight"], styles["part"]) >= 3


def test_a_part_shows_what_is_read(monkeypatch):
    """The digits of a part, cut out of a clean page, are where its answer has them."""
    monkeypatch.setattr(sudoku, "_relit", lambda rng, picture: picture)
    seen = 0
    for seed in range(100):
        grid = some_puzzle(random.Random(seed % 10))
        picture = paint_clean(random.Random(seed % 10), KIT, grid)
        sample = real_sudoku_variants(random.Random(seed), picture, "/".join("".join(map(str, row)) for row in grid))
        if sample.facts["style"] != "part":
            continue
        part = np.array([list(map(int, row)) for row in max((a for _, a in sample.turns), key=len).split("\n")])
        gray = np.asarray(sample.pictures[0].convert("L"), float)
        cells = gray.reshape(part.shape[0], 48, part.shape[1], 48)[:, 12:36, :, 12:36]
        spread = cells.max((1, 3)) - cells.min((1, 3))
        if 0 < (part > 0).sum() < part.size:
            assert spread[part > 0].min() > spread[part == 0].max()
            seen += 1
    assert seen >= 8


def test_without_a_grid_a_photograph_stays_whole():
    blank = Image.new("RGB", (200, 150), (200, 200, 190))
    assert find_grid(blank) is None
    grid = "/".join("".join(map(str, row)) for row in some_puzzle(random.Random(1)))
    assert {real_sudoku_variants(random.Random(i), blank, grid).facts["style"] for i in range(10)} == {"whole"}


def test_a_wrong_grid_is_noticed():
    picture, _ = drawn_photograph(3)
    grid = "/".join("".join(map(str, row)) for row in some_puzzle(random.Random(99)))
    assert {real_sudoku_variants(random.Random(i), picture, grid).facts["style"] for i in range(12)} == {"whole"}


def test_wrong_grids_are_near():
    for seed in range(100):
        grid = some_puzzle(random.Random(seed))
        turns, wrong = sudoku.ask_sudoku(random.Random(seed), grid)
        if "\n" in turns[0][1]:
            changed = [a != b for a, b in zip(turns[0][1], wrong or "", strict=True)]
            assert 1 <= sum(changed) <= 6
            assert all(len(line) == 9 for line in (wrong or "").split("\n"))


def test_orders_of_rows_differ():
    """No row of the base pattern stays in place, so that position says nothing."""
    first = Counter(some_puzzle(random.Random(seed))[0][0] for seed in range(400))
    assert len(first) == 10
    assert all(a != b for a, b in pairwise(some_puzzle(random.Random(seed)) for seed in range(50)))

"""Pictures in the manner of BlindTest: what is asked of them is worked out again from what is painted."""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from internvl.metrics.matching import blindtest_match
from internvl.nano import blindtest, paths
from internvl.nano.blindtest import CHINESE, STRONG
from internvl.nano.paths import TAB
from internvl.nano.sample import Drawer, Kit, Sample

DRAWS = 200
TASKS = {
    "draw_lines": "LineIntersection", "draw_circles_touch": "TouchingCircle", "draw_circled_letter": "CircledWord",
    "draw_rings": "CountingCircles", "draw_nested_squares": "NestedSquares", "draw_grid": "CountingRowsAndColumns",
    "draw_subway": "SubwayMap",
}  # fmt: skip
DRAWERS: dict[str, Drawer] = {name: getattr(blindtest, name) for name in TASKS}


@functools.cache
def samples(name: str) -> list[Sample]:
    return [DRAWERS[name](random.Random(f"{name} {i}"), Kit()) for i in range(DRAWS)]


def number(answer: str) -> int:
    return int(re.fullmatch(r"\{?(\d+)\}?", answer)[1])  # type: ignore[index]


def floats(text: str) -> list[float]:
    return [float(v) for v in re.split(r"[ ,]", text)]


def grey(picture: Image.Image) -> np.ndarray:
    """How far each pixel is from the ground, which the upper left corner shows."""
    pixels = np.asarray(picture, np.int32)
    return np.abs(pixels - pixels[1, 1]).max(-1)


def runs(dark: np.ndarray) -> int:
    """Stretches of True in a row."""
    return int(dark[0]) + int((dark[1:] & ~dark[:-1]).sum())


# ---- all seven -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_draws_the_same(name):
    one, two, other = (DRAWERS[name](random.Random(seed), Kit()) for seed in (5, 5, 6))
    assert (one.turns, one.label, one.caption, one.facts) == (two.turns, two.label, two.caption, two.facts)
    assert one.pictures[0].tobytes() == two.pictures[0].tobytes() != other.pictures[0].tobytes()


@pytest.mark.parametrize("name", TASKS)
def test_sizes_languages_and_wrong_answers(name):
    drawn = samples(name)
    assert all(60 <= min(s.pictures[0].size) <= max(s.pictures[0].size) <= 300 for s in drawn)
    assert {s.pictures[0].mode for s in drawn} == {"RGB"}
    assert 0.05 < sum(not s.turns[0][0].isascii() for s in drawn) / DRAWS < 0.27
    for sample in drawn:
        assert sample.wrong not in (None, "", sample.turns[0][1])
        assert sample.caption
        assert 1 <= len(sample.turns) <= 2


@pytest.mark.parametrize("name", TASKS)
def test_the_benchmark_reads_the_answers(name):
    """Asked in the published words, the right answer scores and the wrong one does not."""
    published = 0
    for sample in samples(name):
        question, answer = sample.turns[0]
        if re.search(r"Answer with|answer with|being|touch each other|lines meet|total number|one-colored", question):
            published += 1
            assert blindtest_match(TASKS[name], answer, answer) == 1
            assert blindtest_match(TASKS[name], sample.wrong or "", answer) == 0
    assert published > DRAWS / 8


@pytest.mark.parametrize("name", TASKS)
def test_labels_are_balanced(name):
    counted = Counter(s.label for s in samples(name))
    if name in ("draw_circled_letter", "draw_grid"):
        assert len(counted) >= 36
        assert max(counted.values()) < DRAWS * 0.1
    else:
        even = DRAWS / len(counted)
        assert even * 0.5 < min(counted.values()) <= max(counted.values()) < even * 1.6


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_crossings_by_walking_along_the_lines():
    steps = np.linspace(0, 1, 4001)
    for sample in samples("draw_lines"):
        (ax, ay), (bx, by) = (np.reshape(floats(points), (-1, 2)).T for points in sample.facts.values())
        apart = np.interp(steps, ax, ay) - np.interp(steps, bx, by)
        inside = apart[(steps > ax[0]) & (steps < ax[-1]) & (apart != 0)]
        crossings = int((np.diff(np.sign(inside)) != 0).sum())
        assert {number(answer) for _, answer in sample.turns} == {crossings}
        assert sample.label == f"{crossings} crossings"


def test_lines_are_painted_where_the_facts_say():
    for sample in samples("draw_lines")[:60]:
        ink = grey(sample.pictures[0]) > 20
        side = ink.shape[0]
        found = [0, 0]
        for points in sample.facts.values():
            for (x1, y1), (x2, y2) in itertools.pairwise(np.reshape(floats(points), (-1, 2)).tolist()):
                x, y = (round(min(0.99, max(0.01, (u + v) / 2)) * (side - 1)) for u, v in ((x1, x2), (y1, y2)))
                for i, (row, column) in enumerate(((y, x), (x, y))):  # upright, or turned by a quarter
                    found[i] += ink[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].any()
        pieces = sum(len(points.split()) - 1 for points in sample.facts.values())
        assert max(found) == pieces


# ---- circles ---------------------------------------------------------------------------------------------------------


def relation(sample: Sample) -> str:
    (x1, y1, r1), (x2, y2, r2) = (floats(circle) for circle in sample.facts.values())
    gap = float(np.hypot(x2 - x1, y2 - y1)) - r1 - r2
    if abs(gap) < 5e-4:
        return "touching"
    return "overlapping" if gap < 0 else "close" if gap < 0.22 * 2 * min(r1, r2) else "apart"


def test_circles_by_their_radii():
    for sample in samples("draw_circles_touch"):
        (question, answer), true = sample.turns[0], relation(sample)
        assert sample.label == true
        overlap = re.search("overlap|share an area|over the other|重叠", question)
        expected = true == "overlapping" if overlap else true in ("overlapping", "touching")
        assert answer == (("Yes", "是") if expected else ("No", "否"))[not question.isascii()]


def test_circles_by_their_pixels():
    for sample in samples("draw_circles_touch")[:50]:
        away = grey(sample.pictures[0])
        together = sample.label in ("overlapping", "touching")
        shown = Image.fromarray((away > (20 if together else 100)).astype(np.uint8) * 255)
        shown = shown.filter(ImageFilter.MaxFilter(3)) if together else shown  # a contact may be thinner than a pixel
        y, x = (int(v[0]) for v in np.nonzero(np.asarray(shown)))
        ImageDraw.floodfill(shown, (x, y), 100)
        assert (np.asarray(shown) == 255).any() != together, sample.label


def test_yes_is_as_frequent_as_no_whatever_is_asked():
    asked: dict[bool, list[bool]] = {True: [], False: []}
    for sample in samples("draw_circles_touch"):
        question, answer = sample.turns[0]
        asked[bool(re.search("overlap|share|over the|重叠", question))].append(answer in ("Yes", "是"))
    for said in asked.values():
        assert 0.38 < sum(said) / len(said) < 0.62


# ---- letters ---------------------------------------------------------------------------------------------------------


def test_the_oval_is_around_the_letter():
    """Where the red pixels are along the word, beside where the letter stands in the same word set larger."""
    checked = 0
    large = paths.font(None, 100)
    for sample in samples("draw_circled_letter"):
        pixels = np.asarray(sample.pictures[0], np.int32)
        red = pixels[..., 0] - pixels[..., 1:].max(-1) > 120
        dark = pixels.max(-1) < 90
        if not red.any() or not dark.any():
            continue
        word, place = sample.facts["word"], int(sample.facts["place"])
        assert {sample.label, *(answer for _, answer in sample.turns)} == {word[place]}
        columns, reds = np.nonzero(dark.any(0))[0], np.nonzero(red.any(0))[0]
        if len(columns) < 20:  # in another ink than black
            continue
        left, _, right, _ = large.getbbox(word)
        start, end = (float(large.getlength(word[:i])) for i in (place, place + 1))
        expected = ((start + end) / 2 - left) / (right - left)
        found = ((reds[0] + reds[-1]) / 2 - columns[0]) / (columns[-1] - columns[0])
        assert abs(found - expected) < 0.5 * (end - start) / (right - left) + 0.01, word
        checked += 1
    assert checked > DRAWS / 2


# ---- rings and squares -----------------------------------------------------------------------------------------------


def test_as_many_rings_as_asked_and_no_ink_beside_them():
    for sample in samples("draw_rings")[:60]:
        centres, radius = np.reshape(floats(sample.facts["centres"]), (-1, 2)), float(sample.facts["radius"])
        count, noun = (sample.label or "").split()
        assert len(np.unique(centres.round(3), axis=0)) == int(count)
        assert {number(answer) for _, answer in sample.turns} == {int(count)}
        for question, _ in sample.turns:
            assert re.search({"circles": "circle|圆", "pentagons": "pentagon|五边形"}[noun] + "|shapes", question)
        ink = grey(sample.pictures[0]) > 12
        side = ink.shape[0]
        left = ink.copy()
        for x, y in centres:
            at = np.hypot(*(np.indices(ink.shape)[::-1] + 0.5 - side * np.array([x, y])[:, None, None])) / side
            edge = (at < radius + 0.016) & (at > radius * (0.8 if noun == "pentagons" else 1) - 0.018)
            assert (ink & edge).sum() > radius * side * 2
            left &= ~edge
        assert not left.any()


def test_squares_counted_from_the_innermost_outwards():
    for sample in samples("draw_nested_squares"):
        squares = [floats(square) for square in sample.facts.values()]
        assert {number(answer) for _, answer in sample.turns} == {len(squares)}
        assert sample.label == f"{len(squares)} squares"
        for (x, y, size), (x2, y2, inner) in itertools.pairwise(squares):
            assert max(abs(x - x2), abs(y - y2)) + inner / 2 < size / 2
        if squares[-1][2] > 0.05:
            away = grey(sample.pictures[0])
            x, y = (round(v * len(away)) for v in squares[-1][:2])
            rays = (away[y, x:], away[y, x::-1], away[y:, x], away[y::-1, x])
            assert max(runs(ray > 40) for ray in rays) == len(squares)


# ---- grids -----------------------------------------------------------------------------------------------------------


def test_grids_by_the_lines_of_ink():
    for sample in samples("draw_grid"):
        _, rows, _, columns = (sample.label or "").split()
        light = np.asarray(sample.pictures[0].convert("L"), np.float32)
        found = []
        for axis in (1, 0):
            dark = np.percentile(light.max() - light, 33, axis)  # of a row of words, less than two thirds are ink
            found.append(runs(dark > 0.3 * dark.max()) - 1)
        assert found == [int(rows), int(columns)]
        for question, answer in sample.turns:
            asked = [int(n) for n in re.findall(r"\d+", answer)]
            of_rows, of_columns = re.search("row|行", question), re.search("column|列", question)
            both = bool(of_rows and of_columns) or "How large" in question
            assert asked == (found if both else found[:1] if of_rows else found[1:])


# ---- subway maps -----------------------------------------------------------------------------------------------------


def station(node: tuple[int, int]) -> str:
    x, y = node
    return "A" if y == 0 else "C" if y == paths.CELLS else "D" if x == 0 else "B" if x == paths.CELLS else ""


def test_subway_paths_by_a_search_of_the_lattice():
    for sample in samples("draw_subway"):
        joined: Counter[str] = Counter()
        used: set[frozenset[tuple[int, int]]] = set()
        ports: set[tuple[int, int]] = set()
        for path in sample.facts.values():
            nodes = [(int(x), int(y)) for x, y in (node.split(",") for node in path.split())]
            steps = [frozenset(step) for step in itertools.pairwise(nodes)]
            assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in map(tuple, steps))
            assert len(set(steps)) == len(steps)
            assert not used & set(steps)
            used |= set(steps)
            assert not ports & {nodes[0], nodes[-1]}
            ports |= {nodes[0], nodes[-1]}
            joined["".join(sorted(reached(nodes[0], steps)))] += 1
        assert sample.label == f"{joined['AC']} from A to C"
        for question, answer in sample.turns:
            pair = "".join(sorted(re.findall(r"(?<![A-Za-z])[A-D](?![A-Za-z])", question)))
            assert number(answer) == joined[pair]


def reached(start: tuple[int, int], steps: list[frozenset[tuple[int, int]]]) -> set[str]:
    """The stations that can be come to along the steps of one colour."""
    seen, front = {start}, [start]
    while front:
        node = front.pop()
        for step in steps:
            if node in step:
                new = step - {node} - seen
                seen |= new
                front += new
    return {station(node) for node in seen} - {""}


def test_subway_paths_are_painted_and_no_colour_tells_the_stations():
    blue: Counter[str] = Counter()
    for sample in samples("draw_subway"):
        pixels = np.asarray(sample.pictures[0], np.int32)
        cell = (1 - 2 * 0.107) / paths.CELLS * len(pixels)
        for colour, path in sample.facts.items():
            name, ends = colour.split()
            blue[ends] += name == "blue"
            if pixels[0, 0].min() < 255:
                continue
            near = np.abs(pixels - np.array(TAB[name])).max(-1) < 120
            places = [[round(0.107 * len(pixels) + int(v) * cell) for v in n.split(",")] for n in path.split()]
            found = sum(near[y - 2 : y + 3, x - 2 : x + 3].any() for x, y in places)
            assert found > 0.7 * len(places)
    assert len(blue) == 6
    assert max(blue.values()) < 0.45 * sum(blue.values())


# ---- what would be caught --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "check", "fault"),
    [
        ("_two_lines", test_crossings_by_walking_along_the_lines, lambda r, c, f: ([0.0, 1.0], [0.1, 0.9], [0.9, 0.1])),
        ("_gap", test_circles_by_their_radii, lambda rng, relation, free: 0.1),
        ("_letter_asks", test_the_oval_is_around_the_letter, lambda letter, red: ([("Which letter?", "#")],) * 3),
    ],
)
def test_a_planted_fault_is_caught(monkeypatch, name: str, check: Callable[[], None], fault):
    samples.cache_clear()
    monkeypatch.setattr(blindtest, name, fault)
    try:
        with pytest.raises(AssertionError):
            check()
    finally:
        samples.cache_clear()


def test_all_colours_have_a_chinese_name():
    assert set(CHINESE) == set(STRONG)

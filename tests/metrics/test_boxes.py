"""Boxes: the original's table, reading them out of answers, overlap, and points of six cameras."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.metrics.boxes import CAMERAS, camera_coordinates, clip, iou, parse_box, parse_listed_box

sides = st.integers(0, 50)
boxes = st.tuples(sides, sides, sides, sides).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 1, max(b[1], b[3]) + 1)
)


def test_golden(golden):
    with golden("metrics/refcoco.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][1:]
    assert len(rows) > 40
    for row in rows:
        height, width = row["hw"]
        box = parse_box(row["answer"], (width, height), compat="original")
        # The original computes in single precision: seen at most 2.4e-5 pixels apart.
        assert box == pytest.approx(row["predicted_box"], abs=1e-4), row
        overlap = iou(box, tuple(row["gt_bbox"]))
        assert overlap == pytest.approx(row["iou"], abs=1e-6), row
        assert (overlap >= 0.5) == row["correct"], row


def test_by_default_the_golden_boxes_hit_and_miss_alike_but_for_swapped_corners(golden):
    with golden("metrics/refcoco.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][1:]
    for row in rows:
        height, width = row["hw"]
        box = parse_box(row["answer"], (width, height))
        x1, y1, x2, y2 = row["predicted_box"]
        if x1 <= x2 and y1 <= y2:
            assert (box is not None and iou(box, tuple(row["gt_bbox"])) >= 0.5) == row["correct"], row


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "paper", "original"),
    [
        ("<ref>it</ref><box>[[100, 200, 300, 400]]</box>", (20, 20, 60, 40), (20, 20, 60, 40)),
        ("[100,200,300,400]", (20, 20, 60, 40), (20, 20, 60, 40)),
        ("[0.1, 0.2, 0.3, 0.4]", (20, 20, 60, 40), (20, 20, 60, 40)),
        (
            "[1, 1, 1, 1]",
            (200, 100, 200, 100),
            (0.2, 0.1, 0.2, 0.1),
        ),  # fractions; by their sum, thousandths
        ("[0, 0, 1, 2]", (0, 0, 0.2, 0.2), (0, 0, 200, 200)),  # and the other way round
        ("[300, 400, 100, 200]", (20, 20, 60, 40), (60, 40, 20, 20)),  # corners in the wrong order
        ("[a, b, c, d] [100, 200, 300, 400]", (20, 20, 60, 40), (0, 0, 0, 0)),  # only the first brackets
        ("[100, 200, 300]", None, (0, 0, 0, 0)),
        ("[100, 200, 300, 400, 500]", None, (0, 0, 0, 0)),
        ("nothing", None, (0, 0, 0, 0)),
        ("", None, (0, 0, 0, 0)),
        ("[100, 200, 300, 400", None, (0, 0, 0, 0)),
        ("[1e2, 200, 300, 400]", None, (20, 20, 60, 40)),
        ("[100, 200,\n300, 400]", (20, 20, 60, 40), (0, 0, 0, 0)),  # the original reads one line
    ],
)
def test_parse_box(text, paper, original):
    found = parse_box(text, (200, 100))
    assert (found is None) == (paper is None)
    assert found is None or found == pytest.approx(paper)
    assert parse_box(text, (200, 100), compat="original") == pytest.approx(original)


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(lambda n: max(n) > 1))
def test_what_the_family_writes_is_read(numbers):
    box = parse_box(f"<box>[{numbers}]</box>", (1000, 1000))
    xs, ys = sorted(numbers[0::2]), sorted(numbers[1::2])
    assert box == pytest.approx((xs[0], ys[0], xs[1], ys[1]))


def test_long_nonsense_is_read_in_time():
    for text in ("[" * 50_000, "[1," * 5_000, "1" * 50_000, "[" + "1" * 50_000, "[1" + " " * 50_000):
        start = time.process_time()
        parse_box(text, (10, 10))
        parse_box(text, (10, 10), compat="original")
        assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[100, 200, 300, 400]]", (80, 160, 240, 320)),
        ("Here: [[100, 200, 300, 400]].", (80, 160, 240, 320)),
        ("[[-50, 200, 1100, 400]]", (0, 160, 800, 320)),
        ("[100, 200, 300, 400]", None),
        ("[[100, 200, 300, x]]", None),
        ("[[[100, 200, 300, 400]]]", None),
        ("no", None),
    ],
)
def test_parse_listed_box(text, expected):
    found = parse_listed_box(text, (800, 800))
    assert found == expected or found == pytest.approx(expected)


# ---- overlap ---------------------------------------------------------------------------------------------------------


@given(boxes, boxes)
def test_overlap_counted_pixel_by_pixel(a, b):
    def pixels(box):
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    expected = len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b))
    assert iou(a, b) == pytest.approx(expected, abs=1e-12)
    last = [(x1, y1, x2 - 1, y2 - 1) for x1, y1, x2, y2 in (a, b)]
    assert iou(*last, inclusive=True) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (math.nan, 0, 1, 1), (0, 0, math.inf, 1)])
def test_boxes_without_extent_overlap_nothing(box):
    assert iou(box, (0, 0, 0, 0)) == 0
    assert iou(box, (0, 0, 10, 10)) == 0


def test_clip():
    assert clip((-5, 2, 30, 40), (20, 10)) == (0, 2, 20, 10)


# ---- cameras ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("camera", "cell"), CAMERAS.items())
def test_the_middle_of_each_cell_is_the_middle_of_its_camera(camera, cell):
    x, y = (cell[0] + 0.5) * 1000 / 3, (cell[1] + 0.5) * 1000 / 2
    assert camera_coordinates(f"<c2,{camera},[{x:.4f},{y:.4f}]>") == f"<c2,{camera},800.0,450.0>"


@pytest.mark.parametrize(
    ("text", "paper", "original"),
    [
        ("Watch <c1,CAM_FRONT,[500,250]>. ", "Watch <c1,CAM_FRONT,800.0,450.0>.", "Watch <c1,CAM_FRONT,800.0,450.0>."),
        ("<c1,CAM_FRONT,[0,0]>", "<c1,CAM_FRONT,0,0>", "<c1,CAM_FRONT,0,0>"),  # left of its cell: cut off
        ("<c1, CAM_FRONT, [500, 250]>", "<c1,CAM_FRONT,800.0,450.0>", "<c1, CAM_FRONT, [500, 250]>"),
        ("<c1,CAM_SIDE,[500,250]>", "<c1,CAM_SIDE,[500,250]>", "<c1,CAM_SIDE,[500,250]>"),
        ("<c1,CAM_FRONT,500,250>", "<c1,CAM_FRONT,500,250>", "<c1,CAM_FRONT,500,250>"),
        (
            "<c1,CAM_FRONT,[500,250]> <c1,CAM_FRONT,[500,250]>",
            "<c1,CAM_FRONT,800.0,450.0> <c1,CAM_FRONT,800.0,450.0>",
            "<c1,CAM_FRONT,800.0,450.0> <c1,CAM_FRONT,800.0,450.0>",
        ),
    ],
)
def test_camera_coordinates(text, paper, original):
    assert camera_coordinates(text) == paper
    assert camera_coordinates(text, compat="original") == original


def test_numbers_too_large_for_a_picture_are_no_box():
    assert parse_listed_box(f"[[1{'0' * 400}, 2, 3, 4]]", (800, 800)) is None
    assert parse_box(f"[1{'0' * 400}, 2, 3, 4]", (800, 800)) is not None

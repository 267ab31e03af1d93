"""Regions in text: there and back, the forms that models answer in, and what is no region."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.data.boxes import Box, check, format_box, format_quad, parse
from internvl.errors import DataError

SIZE = (2000, 1000)
BUS = Box("bus", (200.0, 200.0, 600.0, 400.0))
HERE = BUS.xyxy

sides = st.integers(1, 20000)
labels = st.text(max_size=20).filter(lambda text: "<" not in text)


@st.composite
def pictures_with_boxes(draw):
    width, height = draw(sides), draw(sides)
    xs, ys = (st.lists(st.floats(0, side), min_size=2, max_size=2).map(sorted) for side in (width, height))
    boxes = draw(st.lists(st.tuples(xs, ys), min_size=1, max_size=4))
    return (width, height), [(x[0], y[0], x[1], y[1]) for x, y in boxes]


@given(pictures_with_boxes(), st.none() | labels)
def test_there_and_back(picture, label):
    """A box survives to within half a thousandth of the picture, unless it is the corner that reads as a fraction."""
    size, boxes = picture
    back = parse(format_box(label, boxes, size), size)
    assert [box.label for box in back] == [label] * len(boxes)
    for box, found in zip(boxes, back, strict=True):
        if max(round(value / size[n % 2] * 1000) for n, value in enumerate(box)) > 1:
            assert all(
                abs(a - b) <= size[n % 2] / 2000 * 1.0001 for n, (a, b) in enumerate(zip(box, found.xyxy, strict=True))
            )


@given(st.text(st.sampled_from('<>/refboxquad[](){},.0123456789- \n"lab:_2d'), max_size=80))
def test_no_text_is_an_error_and_no_box_leaves_the_picture(text):
    for box in parse(text, SIZE):
        left, top, right, bottom = box.xyxy
        assert 0 <= left <= right <= 2000
        assert 0 <= top <= bottom <= 1000


@pytest.mark.parametrize("text", [
    "<ref>bus</ref><box>[[100, 200, 300, 400]]</box>",
    "A <ref>bus</ref> <box>[100,200,300,400]</box> stops.",
    "<ref>bus</ref><box>(100,200),(300,400)</box>",
    "<ref>bus</ref><box>[[0.1, 0.2, 0.3, 0.4]]</box>",
    "<ref>bus</ref><box>[[300, 400, 100, 200]]</box>",
    '```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "bus"}]\n```',
    '{"name": "bus", "bbox": [[100, 200, 300, 400]], "score": 0.9}',
])  # fmt: skip
def test_forms_that_models_answer_in(text):
    [box] = parse(text, SIZE)
    assert box.label == "bus"
    assert box.xyxy == pytest.approx(HERE)


@pytest.mark.parametrize("text", ["<box>[[100, 200, 300, 400]]</box>", "the bus[[100, 200, 300, 400]] there"])
def test_boxes_without_words(text):
    assert parse(text, SIZE) == [Box(None, HERE)]


def test_several():
    text = (
        "```\n<ref>bus</ref><box>[[100, 200, 300, 400], [0, 0, 1000, 1000]]</box><box>[[0, 0, 500, 500]]</box>\n"
        "<ref>cat</ref><box>[[1, 2, 3, 4]]</box>\n```"
    )
    assert parse(text, SIZE) == [
        BUS,
        Box("bus", (0, 0, 2000, 1000)),
        Box("bus", (0, 0, 1000, 500)),
        Box("cat", (2.0, 2.0, 6.0, 4.0)),
    ]


def test_the_whole_picture_in_fractions():
    assert parse("<box>[[0, 0, 1, 1]]</box>", SIZE) == [Box(None, (0, 0, 2000, 1000))]
    assert parse("<box>[[0, 0, 1, 2]]</box>", SIZE) == [Box(None, (0, 0, 2, 2))]


def test_quads():
    text = format_quad("sign", [[(0, 0), (1000, 100), (1000, 600), (0, 500)]], SIZE)
    assert text == "<ref>sign</ref><quad>[[0, 0, 500, 100, 500, 600, 0, 500]]</quad>"
    assert parse(text, SIZE) == [Box("sign", (0, 0, 1000, 600), ((0, 0), (1000, 100), (1000, 600), (0, 500)))]


@pytest.mark.parametrize("text", [
    "", "no box", "<ref>bus</ref>", "<box>[[x1, y1, x2, y2]]</box>", "<box></box>", "<box>[[1, 2, 3]]</box>",
    "<box>[[100, 200, 300, 4", "<box>[[100, 200, 1920, 1080]]</box>", "<box>[[-5, 0, 10, 10]]</box>",
    "[100, 200, 300, 400]", '{"bbox": "100"}', '{"label": "bus"}', "{" * 2000, "[" * 2000, "[[1, 2, 3, 4], [5, 6]]",
])  # fmt: skip
def test_what_is_no_region(text):
    assert parse(text, SIZE) == []


@pytest.mark.parametrize(("boxes", "said"), [
    ([(0, 0, 2001, 10)], "not inside a picture of 2000x1000"),
    ([(-1, 0, 10, 10)], "not inside"),
    ([(10, 0, 5, 10)], "left <= right"),
    ([], "at least one"),
])  # fmt: skip
def test_boxes_that_cannot_be_written(boxes, said):
    with pytest.raises(DataError, match=said):
        format_box("bus", boxes, SIZE)


def test_labels_and_quads_that_cannot_be_written():
    with pytest.raises(DataError, match="spells a tag"):
        format_box("a</ref>b", [HERE], SIZE)
    with pytest.raises(DataError, match="four corners"):
        format_quad("a", [[(0, 0), (1, 1)]], SIZE)


@pytest.mark.parametrize(("text", "said"), [
    ("<box>[[1, 2, 3]]</box>", "4 numbers"),
    ("<quad>[[1, 2, 3, 4]]</quad>", "8 numbers"),
    ("<box>[[x1, y1, x2, y2]]</box>", "4 numbers"),
    ("<box>[[0.1, 0.2, 0.3, 0.4]]</box>", "in fractions"),
    ("<box>[[10, 20, 1920, 1080]]</box>", "not in integers from 0 to 1000"),
    ("<box>[[10.5, 20, 30, 40]]</box>", "not in integers"),
    ("<box>[[30, 20, 10, 40]]</box>", "turned around"),
    ("<box>[[30, 20, 30, 40]]</box>", "empty"),
    ("<box>[[1, 2, 3, 4]]", "never closed"),
    ("<ref>a<box>[[1, 2, 3, 4]]</box></ref>", "<box> follows <ref>"),
    ("</box>", "</box> follows no open tag"),
])  # fmt: skip
def test_what_may_not_be_trained_on(text, said):
    with pytest.raises(DataError, match=said):
        check(text)


@given(st.lists(st.tuples(*[st.integers(0, 499)] * 2, *[st.integers(500, 1000)] * 2), min_size=1), labels)
def test_what_may_be_trained_on(boxes, label):
    check(f"Look: <ref>{label}</ref><box>{json.dumps([list(box) for box in boxes])}</box>")


DIGITS = "1" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        f"<box>{DIGITS}!</box>", f"<box>[[{DIGITS}, 2, 3, 4]]</box>", f"<box>{'1.1' * 100_000}!</box>",
        f"<box>{'1 ' * 100_000}!</box>", f"[[{DIGITS}", f"[[{'1,' * 100_000}", f"[[1, 2, 3, 4{' ' * 100_000}!",
        "[[1, 2, 3, 4], " * 10_000, "[" * 100_000, f'{{"bbox_2d": {DIGITS}}}', "<ref>a</ref>" * 10_000,
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_is_no_region_is_seen_at_once(text):
    """Measured: below 0.1 s each; what backtracks through the digits takes hours."""
    started = time.perf_counter()
    assert parse(text, SIZE) == []
    assert time.perf_counter() - started < 5

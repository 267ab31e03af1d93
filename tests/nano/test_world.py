"""What the world draws: the same from the same seed, and its answers are true of the pixels."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.nano.world import (
    COLOURS,
    SHAPES,
    Sample,
    Shape,
    Style,
    ask_scene,
    draw_line,
    draw_scene,
    paint_scene,
    place_shapes,
    plural,
    talk,
    write,
)

WORDS = ("total", "cash", "thank", "you", "table", "lamp")


def pixels(sample: Sample) -> bytes:
    assert sample.picture is not None
    return sample.picture.tobytes()


@pytest.mark.parametrize("draw", [draw_scene, lambda rng: draw_line(rng, Style(), words=WORDS)])
def test_the_same_seed_draws_the_same_sample(draw):
    for seed in range(5):
        first, second = draw(random.Random(seed)), draw(random.Random(seed))
        assert (pixels(first), first.turns) == (pixels(second), second.turns)


def truth(question: str, shapes: tuple[Shape, ...]) -> str:
    """The answer, worked out from the words of the question alone."""
    kinds = [k for k in SHAPES if re.search(rf"\b({k}|{plural(k)})\b", question)]
    colours = [c for c in COLOURS if re.search(rf"\b{c}\b", question)]
    meant = [s for s in shapes if (not kinds or s.kind in kinds) and (not colours or s.colour in colours)]
    if question.startswith("Is there"):
        return "Yes" if meant else "No"
    if question.startswith("What colour"):
        return meant[0].colour
    return str(len(meant))


@given(seed=st.integers(0, 10**6), count=st.integers(1, 9))
def test_answers_about_shapes_are_true(seed, count):
    rng = random.Random(seed)
    shapes = place_shapes(rng, count)
    assert len(shapes) == count
    for question, answer in ask_scene(rng, shapes):
        assert answer == truth(question, shapes), question


@given(seed=st.integers(0, 10**6))
def test_every_shape_stands_alone_on_its_ground(seed):
    """As many separate patches of ink as shapes: none touch, none leave the picture, none hide in the ground."""
    rng = random.Random(seed)
    shapes = place_shapes(rng, rng.randint(1, 9))
    picture = np.asarray(paint_scene(rng, shapes), np.int16)
    ground = picture[0, 0]
    ink = np.abs(picture - ground).sum(-1) > 30
    assert islands(ink) == len(shapes)


def islands(ink: np.ndarray) -> int:
    """Connected patches, corners included."""
    left = {(int(y), int(x)) for y, x in np.argwhere(ink)}
    count = 0
    while left:
        count += 1
        stack = [left.pop()]
        while stack:
            y, x = stack.pop()
            near = {(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)} & left
            left -= near
            stack += near
    return count


@given(seed=st.integers(0, 10**6), limit=st.integers(4, 20))
def test_lines_keep_to_their_length_and_say_where_letters_stand(seed, limit):
    rng = random.Random(seed)
    text = write(rng, WORDS, limit)
    assert 0 < len(text) <= limit
    sample = draw_line(rng, Style(max_length=limit, clean=True), words=WORDS, text=text)
    assert sample.turns[0][1] == text
    assert "".join(c for c, _, _ in sample.letters) == text.replace(" ", "")
    assert all(-0.05 <= a < b <= 1.05 for _, a, b in sample.letters)


def test_ink_is_where_the_letters_are():
    sample = draw_line(random.Random(3), Style(clean=True), words=WORDS, text="I I")
    assert sample.picture is not None
    gray = np.asarray(sample.picture.convert("L"), np.float32)
    ink = np.abs(gray - gray[0, 0]).sum(0)
    for _, left, right in sample.letters:
        assert ink[round(left * len(ink)) : round(right * len(ink))].sum() > 0


def test_talk_has_no_picture():
    sample = talk(random.Random(0))
    assert sample.picture is None
    assert sample.turns

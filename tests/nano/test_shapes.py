"""Coloured shapes: every answer is worked out again from the words of its question, and none can be guessed."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw

from internvl.data.boxes import Corners
from internvl.nano import shape_questions as asks
from internvl.nano import shapes as module
from internvl.nano.asking import Asked, Asker, Wordings
from internvl.nano.sample import Kit
from internvl.nano.shapes import (
    COLOUR_NAMES,
    COLOURS,
    KIND_NAMES,
    SHAPES,
    Shape,
    add_noise,
    corners,
    describe,
    draw_scene,
    draw_shape,
    paint_scene,
    paint_with_boxes,
    place_shapes,
    place_two,
    plural,
)

KIT = Kit()
YES_NO = {"Yes": True, "是": True, "No": False, "否": False}


def scenes(count: int, start: int = 0) -> Iterator[tuple[random.Random, bool, tuple[Shape, ...]]]:
    for seed in range(start, start + count):
        rng = random.Random(f"scene {seed}")
        yield rng, seed % 4 == 0, place_shapes(rng, rng.randint(0, 9))


# ---- answers worked out again ----------------------------------------------------------------------------------------


def found(wordings: Wordings, question: str, chinese: bool) -> dict[str, str] | None:
    """What a question puts into the gaps of one of these wordings."""
    said = re.split(r"\n| Please answer yes", question)[0]
    for wording in wordings[chinese]:
        gap = ".+" if chinese else ".+?"  # a Chinese name may hold the sign that follows it
        pattern = re.sub(r"\\\{(\w+)\\\}", rf"(?P<\1>{gap})", re.escape(wording))
        if not chinese:
            ways = "|".join(way[0] for way, _, _ in asks.WAYS)
            pattern = pattern.replace("(?P<relation>.+?)", f"(?P<relation>{ways})")
        if match := re.fullmatch(pattern, said):
            return match.groupdict()
    return None


def meant(noun: str, shapes: Sequence[Shape]) -> list[Shape]:
    """The shapes that a noun such as `red stars` means."""
    kinds = [k for k in SHAPES if re.search(rf"\b({k}|{plural(k)})\b", noun) or KIND_NAMES[k][1] in noun]
    colours = [c for c in COLOURS if re.search(rf"\b{c}\b", noun) or COLOUR_NAMES[c][1] in noun]
    return [s for s in shapes if (not kinds or s.kind in kinds) and (not colours or s.colour in colours)]


def pixels(shape: Shape, side: int = 400) -> np.ndarray:
    mask = Image.new("1", (side, side))
    ImageDraw.Draw(mask).polygon(corners(shape, (side, side), 0.0), fill=1)
    return np.asarray(mask)


def the(noun: str, shapes: Sequence[Shape]) -> Shape:
    (shape,) = meant(noun, shapes)
    return shape


def nearest_place(shape: Shape, chinese: bool) -> str:
    column, row = (min((-1, 0, 1), key=lambda side: abs(0.5 + side / 3 - v)) for v in (shape.x, shape.y))
    english = {(0, 0): "middle"}.get((column, row))
    english = english or " ".join(("top", "", "bottom")[row + 1].split() + ("left", "", "right")[column + 1].split())
    return dict(asks.PLACES.values())[english] if chinese else english


def is_true(question: str, answer: str, shapes: Sequence[Shape], chinese: bool) -> bool:
    """Whether an answer is right, from the coordinates and pixels of the shapes."""
    if gaps := found(asks.MORE, question, chinese):
        return YES_NO[answer] == (len(meant(gaps["one"], shapes)) > len(meant(gaps["other"], shapes)))
    if gaps := found(asks.IS_THERE, question, chinese):
        return YES_NO[answer] == bool(meant(gaps["noun"], shapes))
    colours = [names[chinese] for names in COLOUR_NAMES.values()]
    if (gaps := found(asks.WHAT_KIND, question, chinese)) and gaps["noun"] in colours:
        return answer == KIND_NAMES[the(gaps["noun"], shapes).kind][chinese]
    if gaps := found(asks.WHAT_COLOUR, question, chinese):
        return answer == COLOUR_NAMES[the(gaps["noun"], shapes).colour][chinese]
    if gaps := found(asks.IS_LARGER, question, chinese):
        return YES_NO[answer] == (pixels(the(gaps["one"], shapes)).sum() > pixels(the(gaps["other"], shapes)).sum())
    if gaps := found(asks.LARGER, question, chinese):
        pair = [the(gaps[key], shapes) for key in ("one", "other")]
        return answer == max(pair, key=lambda s: pixels(s).sum()).name[chinese]
    if gaps := found(asks.RELATION, question, chinese):
        one, other = (the(gaps[key], shapes) for key in ("one", "other"))
        return YES_NO[answer] == beyond(gaps["relation"], one, other)
    if gaps := found(asks.FURTHEST, question, chinese):
        best = [s for s in shapes if all(t is s or beyond(gaps["way"], s, t) for t in shapes)]
        return [s.name[chinese] for s in best] == [answer]
    if gaps := found(asks.WHERE, question, chinese):
        return answer == nearest_place(the(gaps["noun"], shapes), chinese)
    if gaps := found(asks.HOW_MANY, question, chinese):
        return answer == str(len(meant(gaps["noun"], shapes)))
    if gaps := found(asks.WHAT_AT, question, chinese):
        named = re.sub("^(in|on|at) the | of the picture$", "", gaps["place"])
        return [s.name[chinese] for s in shapes if nearest_place(s, chinese) == named] == [answer]
    raise AssertionError(question)


def beyond(way: str, one: Shape, other: Shape) -> bool:
    if re.search("left|左", way):
        return one.x < other.x
    if re.search("right|右", way):
        return one.x > other.x
    return one.y < other.y if re.search("above|up|higher|上", way) else one.y > other.y


def asked_of(count: int) -> Iterator[tuple[Asked, tuple[Shape, ...], bool]]:
    for rng, chinese, shapes in scenes(count):
        for asked in asks.ask_scene(rng, Asker(chinese), shapes):
            yield asked, shapes, chinese


def test_every_answer_is_true_and_every_wrong_one_false():
    kinds = Counter[str]()
    for asked, shapes, chinese in asked_of(1500):
        assert is_true(asked.question, asked.answer, shapes, chinese), (asked, shapes)
        assert asked.wrong is not None
        if asked.wrong not in ("none", "没有"):
            assert not is_true(asked.question, asked.wrong, shapes, chinese), (asked, shapes)
        kinds[next(n for n in ("HOW_MANY", "IS_THERE", "WHERE", "RELATION", "LARGER", "IS_LARGER", "MORE", "FURTHEST",
                               "WHAT_AT", "WHAT_COLOUR", "WHAT_KIND")
                   if found(getattr(asks, n), asked.question, chinese))] += 1  # fmt: skip
    assert len(kinds) >= 10
    assert min(kinds.values()) > 15


@pytest.mark.parametrize("chinese", [False, True])
def test_yes_is_as_frequent_as_no_whatever_the_wording(chinese):
    said: dict[str, Counter[bool]] = defaultdict(Counter)
    for rng, _, shapes in scenes(3000):
        for question in (asks.is_there, asks.more, asks.relation, asks.larger):
            asked = question(rng, Asker(chinese), shapes)
            if asked and asked.answer in YES_NO:
                said[question.__name__][YES_NO[asked.answer]] += 1
                said[re.split(r"[\n红绿蓝黄橙紫粉棕黑灰]| (red|green|blue|yellow|orange|purple|pink|brown|black|gray)|"
                              "Please", asked.question)[0]][YES_NO[asked.answer]] += 1  # fmt: skip
    shares = {key: yes[True] / yes.total() for key, yes in said.items() if yes.total() > 300}
    assert len(shares) >= 6
    assert all(0.42 < share < 0.58 for share in shares.values()), shares


def test_two_shapes_overlap_in_half_of_the_draws_and_clearly():
    answers = Counter[bool]()
    for seed in range(300):
        rng = random.Random(seed)
        shapes, overlap = place_two(rng)
        one, other = (pixels(shape) for shape in shapes)
        common = (one & other).sum()
        assert common > 30 if overlap else common == 0, shapes
        assert all(0 <= x <= 400 and 0 <= y <= 400 for shape in shapes for x, y in corners(shape, (400, 400), 0.0)), (
            shapes
        )
        asked = asks.ask_overlap(rng, Asker(seed % 2 == 0), shapes, overlap)
        assert YES_NO[asked[0].answer] == overlap
        answers[overlap] += 1
    assert 120 < answers[True] < 180


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_sample():
    for seed in range(8):
        first, second = (draw_scene(random.Random(seed), KIT) for _ in range(2))
        assert first == second
        assert first.pictures[0].tobytes() == second.pictures[0].tobytes()
    assert draw_scene(random.Random(0), KIT).turns != draw_scene(random.Random(1), KIT).turns


def islands(ink: np.ndarray) -> list[Corners]:
    """The (left, top, right, bottom) of connected patches, corners included."""
    left, boxes = {(int(y), int(x)) for y, x in np.argwhere(ink)}, []
    while left:
        stack = [left.pop()]
        x1, y1, x2, y2 = 10**6, 10**6, 0, 0
        while stack:
            y, x = stack.pop()
            x1, y1, x2, y2 = min(x1, x), min(y1, y), max(x2, x + 1), max(y2, y + 1)
            near = {(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)} & left
            left -= near
            stack += near
        boxes.append((x1, y1, x2, y2))
    return boxes


def test_shapes_stand_alone_and_their_boxes_hold_their_ink():
    for seed in range(25):
        rng = random.Random(seed)
        shapes = place_shapes(rng, rng.randint(0, 9))
        picture, boxes = paint_with_boxes(rng, shapes)
        painted = np.asarray(picture, np.int16)
        seen = islands(np.abs(painted - painted[0, 0]).sum(-1) > 60)
        assert len(seen) == len(shapes)
        for box, ink in zip(sorted(boxes), sorted(seen), strict=True):
            nearest = min(seen, key=lambda other: max(abs(a - b) for a, b in zip(box, other, strict=True)))
            assert max(abs(a - b) for a, b in zip(box, nearest, strict=True)) <= 2.5, (box, ink)


def test_colours_are_those_that_are_named():
    for seed in range(60):
        rng = random.Random(seed)
        (shape,) = place_shapes(rng, 1)
        picture = np.asarray(paint_scene(rng, [shape]), np.int16)
        far = np.abs(picture - picture[0, 0]).sum(-1)
        ink = picture[far > 0.9 * far.max()].mean(0)
        nearest = min(COLOURS, key=lambda colour: float(np.abs(ink - np.array(COLOURS[colour])).sum()))
        assert nearest == shape.colour


def test_samples_have_sizes_labels_and_captions():
    labels = Counter[str]()
    chinese = 0
    for seed in range(600):
        sample = draw_scene(random.Random(f"sample {seed}"), KIT)
        (picture,) = sample.pictures
        assert 88 <= min(picture.size) <= max(picture.size) <= 300
        assert 1 <= len(sample.turns) <= 3
        assert sample.label is not None
        assert sample.caption
        labels[sample.label] += 1
        chinese += bool(re.search("[\u4e00-\u9fff]", sample.turns[0][0]))
    assert set(labels) == {f"{count} shapes" for count in range(10)}
    assert min(labels.values()) > 30
    assert 55 < chinese < 125


def test_a_lesson_of_one_shape_is_true_and_balanced(monkeypatch):
    painted: list[Shape] = []
    paint = paint_scene
    monkeypatch.setattr(module, "paint_scene", lambda rng, shapes: (painted.extend(shapes), paint(rng, shapes))[1])
    answers = Counter[str]()
    for seed in range(1500):
        sample = draw_shape(random.Random(f"lesson {seed}"), KIT)
        shape = painted.pop()
        assert not painted
        assert sample.label == f"{shape.colour} {shape.kind}"
        assert len(sample.turns) == 2
        for question, answer in sample.turns:
            assert is_true(question, answer, [shape], bool(re.search("[\u4e00-\u9fff]", question))), (question, shape)
            answers[answer] += 1
        assert sample.wrong != sample.turns[0][1]
    assert set(COLOURS) | set(SHAPES) <= set(answers)
    assert 0.9 < answers["Yes"] / answers["No"] < 1.1
    assert min(answers[word] for word in COLOURS) > 50
    assert min(answers[word] for word in SHAPES) > 120


def test_a_caption_counts_what_is_alike():
    shapes = [Shape(kind, colour, 0, 0, 1) for kind, colour in (("star", "red"), ("cross", "orange"), ("star", "red"))]
    assert describe(shapes) == "two red stars and an orange cross"
    assert describe([]) == "no shapes"


def test_the_label_is_the_number_of_shapes_that_are_painted(monkeypatch):
    painted: list[int] = []
    paint = paint_scene
    monkeypatch.setattr(module, "paint_scene", lambda rng, shapes: (painted.append(len(shapes)), paint(rng, shapes))[1])
    labels = [draw_scene(random.Random(seed), KIT).label for seed in range(50)]
    assert labels == [f"{count} shapes" for count in painted]


def test_noise_is_as_strong_as_asked():
    gray = Image.new("RGB", (100, 100), (128, 128, 128))
    noisy = np.asarray(add_noise(random.Random(1), gray, 10.0), np.float32)
    assert 9 < noisy.std() < 11

"""Numbers and pips: figures are read again from pixels, pips are counted in them, and answers follow."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw

from internvl.nano import digits, pips
from internvl.nano.asking import Asker
from internvl.nano.clocks import Figures, paint_segments
from internvl.nano.digits import draw_digits, paint_written
from internvl.nano.pips import draw_dice, draw_domino, paint_face, paint_suit
from internvl.nano.sample import Kit, Sample

KIT = Kit()
SAID = {"Yes": True, "是": True, "No": False, "否": False}


def samples(count: int) -> Iterator[Sample]:
    return (draw_digits(random.Random(f"digits {i}"), KIT) for i in range(count))


@pytest.fixture(scope="module")
def drawn():
    return list(samples(700))


def test_the_same_seed_draws_the_same_sample():
    for seed in range(40):
        one, two = (draw_digits(random.Random(seed), KIT) for _ in range(2))
        assert (one.turns, one.label, one.wrong) == (two.turns, two.label, two.wrong)
        assert one.pictures[0].tobytes() == two.pictures[0].tobytes()


@pytest.fixture
def painted(monkeypatch):
    """What each surface was given to paint."""
    texts: list[str] = []

    def spy(paint):
        def paint_and_note(rng, kit, text):
            texts.append(text)
            return paint(rng, kit, text)

        return paint_and_note

    surfaces = {kind: (spy(paint), wordings) for kind, (paint, wordings) in digits.SURFACES.items()}
    monkeypatch.setattr(digits, "SURFACES", surfaces)
    return texts


def expected(question: str, text: str) -> str | bool:
    asked, figures = question.split("\n")[0], re.sub(r"\D", "", text)
    contained = re.search(r"(?:a|digit|有|数字)\s?(\d)( in|\?|吗)", asked)
    if contained:
        return contained[1] in figures
    if re.search("How many|Count|几位|几个数字", asked):
        return str(len(figures))
    if re.search("first|start with|第一", asked):
        return figures[0]
    if re.search("last|end with|最后", asked):
        return figures[-1]
    return text


def test_answers_are_what_is_painted(painted):
    kinds = Counter()
    for sample in samples(350):
        if sample.facts["kind"] not in digits.SURFACES:
            continue
        text = painted.pop()
        for question, answer in sample.turns:
            right = expected(question, text)
            assert SAID.get(answer, answer) == right, (question, answer, text)
            kinds[type(right).__name__] += 1
        figures = re.sub(r"\D", "", text)
        assert sample.label == (f"digit {text}" if len(text) == 1 else f"{len(figures)} digits")
        assert text in sample.caption
    assert min(kinds["bool"], kinds["str"]) > 15


@pytest.mark.parametrize("text", ["8", "105"])
def test_every_digit_is_in_a_place_of_its_own(text):
    """Columns with ink fall into as many groups as there are digits, from left to right."""
    page = Image.new("RGB", (300, 150))
    paint_segments(ImageDraw.Draw(page), text, (0, 0, 300, 150), Figures((255, 255, 255)))
    inked = np.asarray(page.convert("L")).max(0) > 0
    assert np.diff(inked.astype(int), prepend=0).clip(0).sum() == len(text)


def test_strokes_are_ten_different_figures():
    """Written anew, each is nearest to the mean of itself."""

    def written(digit: str, seed: int) -> np.ndarray:
        rng = random.Random(seed)
        picture = paint_written(rng, KIT, digit).convert("L")
        pixels = np.abs(np.asarray(picture, float) - np.asarray(picture, float)[0, 0])
        ys, xs = np.nonzero(pixels > 60)
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        return np.asarray(Image.fromarray(pixels.astype(np.uint8)).crop(box).resize((16, 24)), float) > 60

    mean = {digit: np.mean([written(digit, seed) for seed in range(12)], 0) for digit in "0123456789"}
    right = 0
    for digit in mean:
        for seed in range(300, 306):
            one = written(digit, seed)
            right += min(mean, key=lambda other: float(((mean[other] - one) ** 2).sum())) == digit
    assert right >= 50, "of 60"


def islands(mask: np.ndarray) -> int:
    """How many pieces the mask has, by flooding one after the other."""
    left, count = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}, 0
    while left:
        count, todo = count + 1, [left.pop()]
        while todo:
            y, x = todo.pop()
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            todo += near
    return count


def test_pips_can_be_counted():
    for number in range(7):
        for turn in (0.0, 0.6, -0.3):
            page = Image.new("RGB", (100, 100), "green")
            paint_face(page, (50, 50), (64, turn), number, ((255, 255, 255), (255, 0, 0)))
            assert islands((np.asarray(page) == (255, 0, 0)).all(-1)) == number


def test_dice_and_dominoes_are_answered_truly(monkeypatch):
    faces: list[tuple[float, float, int]] = []
    paint = pips.paint_face

    def spy(page, at, shape, number, colours):
        faces.append((*at, number))
        return paint(page, at, shape, number, colours)

    monkeypatch.setattr(pips, "paint_face", spy)
    seen = Counter()
    for i in range(240):
        rng = random.Random(f"pips {i}")
        sample = rng.choice((draw_dice, draw_domino))(rng, KIT, Asker(chinese=i % 5 == 0))
        kind, shown = sample.facts["kind"], list(faces)
        faces.clear()
        total = sum(number for *_, number in shown)
        for question, answer in sample.turns:
            if re.search("left to right|从左到右", question):
                truth = ", ".join(str(number) for _, _, number in sorted(shown))
            elif re.search("How many dice|Count the dice|几个骰子|多少个骰子", question):
                truth = str(len(shown))
            elif re.search("upper|left|上半|左半", question):
                truth = str(min(shown, key=lambda face: face[0] + face[1])[2])
            elif re.search("lower|right|下半|右半", question):
                truth = str(max(shown, key=lambda face: face[0] + face[1])[2])
            else:
                truth = str(total)
            assert answer == truth, (question, answer, shown)
            seen[kind] += 1
        assert sample.label == {"die": f"die {total}", "dice": f"{len(shown)} dice", "domino": f"domino {total}"}[kind]
    assert min(seen[kind] for kind in ("die", "dice", "domino")) > 20


def test_cards_are_named_by_their_sign(drawn):
    seen = set()
    for sample in drawn:
        if sample.facts["kind"] == "card":
            name = re.fullmatch(r"the (\w+) of (\w+)", sample.caption)
            assert name is not None
            assert sample.label == "card " + (name[1] if name[1].isdigit() else name[1][0].upper())
            pixels = np.asarray(sample.pictures[0], int)
            seen.add(name[2])
            for question, answer in sample.turns:
                if re.search("suit|花色", question):
                    assert answer == name[2] or not answer.isascii()
                elif answer.isascii():
                    assert answer == f"{name[1]} of {name[2]}"
            assert pixels.std() > 5
    assert seen == {"hearts", "diamonds", "clubs", "spades"}


def test_signs_of_cards_differ():
    shapes = []
    for suit in range(4):
        page = Image.new("RGB", (60, 60))
        paint_suit(ImageDraw.Draw(page), suit, (30, 30), 50, (255, 0, 0))
        shapes.append(np.asarray(page)[..., 0] > 0)
    assert all((a != b).mean() > 0.05 for i, a in enumerate(shapes) for b in shapes[:i])
    heart = shapes[0]
    assert heart[:30].sum() > heart[30:].sum(), "a heart stands on its tip"


def test_digits_are_balanced(drawn):
    single = Counter(s.label for s in drawn if s.label.startswith("digit "))
    assert len(single) == 10
    assert min(single.values()) >= 5
    assert Counter(s.facts["kind"] for s in drawn).keys() == {*digits.SURFACES, "die", "dice", "domino", "card"}


def test_wrong_answers_are_wrong(drawn):
    assert all(s.wrong is not None and s.wrong != s.turns[0][1] for s in drawn)


def test_yes_is_as_common_as_no(drawn):
    said = [SAID[a] for s in drawn for _, a in s.turns if a in SAID]
    assert len(said) > 80
    assert 0.38 < sum(said) / len(said) < 0.62


def test_sizes_and_languages(drawn):
    assert all(min(p.size) >= 40 and max(p.size) <= 160 and p.mode == "RGB" for s in drawn for p in s.pictures)
    assert 0.08 < sum(bool(re.search("[一-龥]", s.turns[0][0])) for s in drawn) / len(drawn) < 0.22

"""Two pictures to compare: their questions are answered truly, and no answer can be guessed from the question."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from internvl.nano import compare
from internvl.nano.compare import COLOURS_ZH, KINDS_ZH, Look, Piece, caption, change, draw_compare, scatter, with_noise
from internvl.nano.sample import Kit, Sample
from internvl.nano.shapes import COLOURS, SHAPES, plural

KIT = Kit()
DRAWS = 400


@pytest.fixture
def seen(monkeypatch):
    """What is painted, instead of the noise after it."""
    painted: list[tuple[Piece, ...]] = []
    paint = Look.paint

    def spy(look, pieces):
        painted.append(tuple(pieces))
        return paint(look, pieces)

    monkeypatch.setattr(Look, "paint", spy)
    monkeypatch.setattr(compare, "with_noise", lambda rng, picture, strength: picture)
    return painted


def samples(count: int = DRAWS) -> Iterator[Sample]:
    return (draw_compare(random.Random(f"compare {i}"), KIT) for i in range(count))


def test_the_same_seed_draws_the_same_sample():
    for seed in range(20):
        one, two = (draw_compare(random.Random(seed), KIT) for _ in range(2))
        assert one.turns == two.turns
        assert [p.tobytes() for p in one.pictures] == [p.tobytes() for p in two.pictures]


def words_of(text: str) -> tuple[list[str], list[str]]:
    """Kinds and colours that a question names, in English or Chinese."""
    kinds = [k for k in KINDS_ZH if re.search(rf"\b({k}|{plural(k)})\b", text) or KINDS_ZH[k] in text]
    colours = [c for c in COLOURS_ZH if re.search(rf"\b{c}\b", text) or COLOURS_ZH[c] in text]
    return kinds, colours


def meant(question: str, pieces) -> list[Piece]:
    kinds, colours = words_of(question)
    return [p for p in pieces if (not kinds or p.kind in kinds) and (not colours or p.colour in colours)]


def truth(question: str, first, second) -> str | None:
    """The answer out of the words of the question; None for what is different."""
    pair = first, second
    numbers = [len(meant(question, pieces)) for pieces in pair]
    at = (
        1
        if re.search(r"in the second picture|the second image|the second picture\?|第二张(图片里|图中)", question)
        else 0
    )
    if re.search(r"same|identical|一样吗|相同", question):
        return "Yes" if first == second else "No"
    if re.search(r"both|two (pictures|images)|altogether|一共|总共|加起来", question) and re.search(
        "many|number|Count|个", question
    ):
        return str(sum(numbers))
    if re.search(r"\b(more|fewer)\b|更多|更少|比较", question):
        if numbers[0] == numbers[1]:
            return "the same"
        more = not re.search("fewer|更少|比较少", question)
        return ("the first", "the second")[(numbers[0] < numbers[1]) == more]
    if re.search(r"How many|Count|几个|多少|数一数", question):
        return str(numbers[at])
    if re.search(r"colou?r|颜色", question):
        (piece,) = meant(question, pair[at])
        return piece.colour
    if re.search(r"shows the|has the|is the .* \w+\?|contains the|哪张图|哪一张", question):
        assert min(numbers) == 0 < max(numbers), question
        return ("the first", "the second")[numbers[0] == 0]
    return None


ENGLISH = {"是": "Yes", "否": "No", "第一张": "the first", "第二张": "the second", "一样多": "the same"} | {
    chinese: english for english, chinese in COLOURS_ZH.items()
}
DIFFERENCE = re.compile(r"differ|chang|不同|不一样|变化")


def wording(question: str) -> str:
    question = question.removeprefix(compare.NUMBERED)
    return re.sub(r"\s(Please answer|Answer the question).*", "", question, flags=re.DOTALL)


def test_answers_are_true(seen):
    for sample in samples():
        first, second = seen[-2:]
        for number, (question, answer) in enumerate(sample.turns):
            question = wording(question)
            if DIFFERENCE.search(question):
                assert difference_holds(answer, first, second), (question, answer)
                continue
            right = truth(question, first, second)
            assert ENGLISH.get(answer, answer) == right, question
            if number == 0:
                assert sample.wrong is not None
                assert ENGLISH.get(sample.wrong, sample.wrong) != right


def difference_holds(answer: str, first, second) -> bool:
    gone, new = ([p for p in a if p not in b] for a, b in ((first, second), (second, first)))
    if answer in ("nothing", "没有不同"):
        return not gone and not new
    kinds, colours = words_of(answer)
    if re.search("new|多了", answer):
        return not gone and [(p.kind, p.colour) for p in new] == [(kinds[0], colours[0])]
    (old,) = gone
    assert old.kind in kinds
    assert old.colour in colours
    assert sum((p.kind, p.colour) == (old.kind, old.colour) for p in first) == 1, "named, but not the only one"
    if re.search("missing|不见", answer):
        return not new
    (now,) = new
    if re.search("moved|移动", answer):
        far = ((now.x - old.x) ** 2 + (now.y - old.y) ** 2) ** 0.5
        return (now.kind, now.colour) == (old.kind, old.colour) and far > 0.1
    same_place = (now.x, now.y) == (old.x, old.y)
    changed = {old.colour, now.colour} == set(colours) if len(colours) == 2 else {old.kind, now.kind} == set(kinds)
    return same_place and changed and (len(colours) == 2) == (old.kind == now.kind)


def test_pictures_are_the_same_where_the_answer_says_so(seen):
    """In pixels: without noise, a pair is equal exactly where it is called so."""
    del seen
    called = Counter()
    for sample in samples():
        if sample.label is not None:
            one, two = (np.asarray(p, int) for p in sample.pictures)
            changed = int((abs(one - two).sum(-1) > 40).sum())
            assert (changed == 0) == (sample.label == "same")
            assert changed == 0 or changed > 40, "a difference that nobody sees"
            called[sample.label] += 1
    assert min(called.values()) > 0.4 * sum(called.values())


def test_what_moves_moves_far_and_touches_nothing():
    for seed in range(300):
        rng = random.Random(seed)
        first = scatter(rng, [(rng.choice(list(KINDS_ZH)), rng.choice(list(COLOURS_ZH))) for _ in range(5)], 3)
        second, _ = change(rng, first, 3)
        for pieces in (first, second):
            boxes = [(p.x - p.radius, p.y - p.radius, p.x + p.radius, p.y + p.radius) for p in pieces]
            for i, a in enumerate(boxes):
                assert min(a) >= 0
                assert max(a) <= 1
                assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes[:i])


def test_a_piece_is_painted_where_it_is_in_its_colour():
    look = Look((120, 100), (255, 255, 255), {"red": (220, 30, 35), "blue": (35, 80, 215)}, outlined=False, smooth=True)
    picture = look.paint([Piece("square", "red", 0.25, 0.5, 0.2), Piece("circle", "blue", 0.75, 0.5, 0.2)])
    pixels = np.asarray(picture, int)
    for colour, x in ((look.shades["red"], 30), (look.shades["blue"], 90)):
        rows, columns = np.nonzero(abs(pixels - np.array(colour)).sum(-1) < 30)
        assert abs(columns.mean() - x) < 1.5
        assert abs(rows.mean() - 50) < 1.5
    area = (abs(pixels - np.array(look.shades["blue"])).sum(-1) < 150).sum()
    assert area == pytest.approx(3.14159 * 20**2, rel=0.06)


def test_answers_are_balanced():
    yes, more, asked = Counter(), Counter(), Counter()
    for sample in samples(2000):
        for question, answer in sample.turns:
            chinese = not wording(question).isascii()
            asked[chinese] += 1
            if ENGLISH.get(answer, answer) in ("Yes", "No"):
                yes[ENGLISH.get(answer, answer)] += 1
            if re.search(r"\b(more|fewer)\b", wording(question)):
                more[answer] += 1
    assert 0.45 < yes["Yes"] / yes.total() < 0.55
    assert 0.7 < more["the first"] / more["the second"] < 1.4
    assert 0.1 < more["the same"] / more.total() < 0.3
    assert 0.11 < asked[True] / asked.total() < 0.19


def test_the_first_question_places_both_pictures_or_none():
    placed = Counter(sample.turns[0][0].count("<image>") for sample in samples())
    assert set(placed) == {0, 2}
    assert placed[2] > placed[0]
    for sample in samples(50):
        assert all("<image>" not in question for question, _ in sample.turns[1:])
        assert len(sample.pictures) == 2
        assert all(80 <= side <= 224 for picture in sample.pictures for side in picture.size)


def test_captions_count():
    three = [Piece("cross", "red", 0.2, 0.2, 0.1)] * 2 + [Piece("star", "orange", 0.7, 0.7, 0.1)]
    assert caption(three) == "an orange star and two red crosses"


def test_noise_is_seeded_and_of_the_strength_asked_for():
    picture = Look((100, 100), (128, 128, 128), {}, outlined=False, smooth=False).paint([])
    one, two = (np.asarray(with_noise(random.Random(3), picture, 10), float) for _ in range(2))
    assert (one == two).all()
    assert one.std() == pytest.approx(10, rel=0.1)


def test_every_kind_and_colour_has_a_chinese_name():
    assert set(KINDS_ZH) <= set(SHAPES)
    assert set(COLOURS_ZH) <= set(COLOURS)

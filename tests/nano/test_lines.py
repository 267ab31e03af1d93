"""Printed text: the answer is what is printed, where it is printed, and one mistake away from the wrong one."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from internvl.metrics.edits import levenshtein
from internvl.nano import lines, talk
from internvl.nano.fonts import LEARNT, UNSEEN, find_fonts
from internvl.nano.sample import Kit, Sample

WORDS = ("total", "cash", "thank", "you", "table", "lamp", "Monday", "river", "garden", "rounding")
KIT = Kit(words=WORDS)
DRAWERS = (lines.draw_character, lines.draw_line, lines.draw_block)


@pytest.fixture
def printed(monkeypatch):
    """All texts that are printed on what pictures show, from top to bottom, and no noise after it."""
    said: list[tuple[float, str]] = []
    text = ImageDraw.ImageDraw.text

    def spy(pen, place, what, **style):
        said.append((place[1], what))
        return text(pen, place, what, **style)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    return said


@pytest.mark.parametrize("draw", [*DRAWERS, talk.draw_talk])
def test_the_same_seed_draws_the_same_sample(draw):
    for seed in range(10):
        first, second = draw(random.Random(seed), KIT), draw(random.Random(seed), KIT)
        assert first == second
        assert [p.tobytes() for p in first.pictures] == [p.tobytes() for p in second.pictures]
    assert len({draw(random.Random(seed), KIT).turns for seed in range(10)}) > 5


def test_a_line_says_what_is_printed(printed):
    lengths = Counter[bool]()
    for seed in range(400):
        printed.clear()
        sample = lines.draw_line(random.Random(seed), KIT)
        answer = sample.turns[0][1]
        assert printed[0][1] == answer
        assert 0 < len(answer) <= 30
        assert sample.label is None
        assert sample.caption == (answer if len(answer.split()) <= 3 else None)
        lengths[len(answer) <= 12] += 1
    assert lengths[True] > 2 * lengths[False] > 0


def test_a_block_says_its_lines_from_top_to_bottom(printed):
    counts = Counter[int]()
    for seed in range(200):
        printed.clear()
        sample = lines.draw_block(random.Random(seed), KIT)
        texts = [text for _, text in sorted(printed)]
        counts[len(texts)] += 1
        for question, answer in sample.turns:
            check_block(question, answer, texts)
        assert max(sample.pictures[0].size) <= 260
    assert set(counts) == set(range(3, 9))


ORDER = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "sixth": 5, "seventh": 6, "eighth": 7,
         "last": -1, "第一": 0, "第二": 1, "第三": 2, "第四": 3, "第五": 4, "第六": 5, "第七": 6, "第八": 7,
         "最后": -1}  # fmt: skip


def check_block(question: str, answer: str, texts: list[str]) -> None:
    place = next((ORDER[word] for word in ORDER if word in question), None)
    if place is not None:
        assert answer == texts[place], question
    elif re.search("How many|Count|几行", question):
        assert answer == str(len(texts))
    else:
        assert answer == "\n".join(texts), question


def test_a_whole_line_is_inside_the_picture(monkeypatch):
    """Before it is aged, the letters of a line lie within the picture, and fill a good part of a narrow one."""
    places: list[tuple[float, float, float, float]] = []
    text = ImageDraw.ImageDraw.text

    def spy(pen, place, what, **style):
        left, top, right, bottom = style["font"].getbbox(what)
        places.append((place[0] + left, place[1] + top, place[0] + right, place[1] + bottom))
        return text(pen, place, what, **style)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    monkeypatch.setattr(lines, "age", lambda rng, picture, paper: picture)
    for seed in range(200):
        places.clear()
        rng = random.Random(seed)
        said = lines.write(rng, WORDS, 20)
        picture = lines.paint_line(rng, KIT, said)
        left, top, right, bottom = places[0]
        assert left >= 0
        assert top >= 0
        assert right <= picture.width
        assert bottom <= picture.height
        if len(said) > 12:
            assert right - left > 0.8 * picture.width


def test_characters_are_balanced_and_readable_classes():
    labels = Counter[str]()
    for seed in range(2500):
        sample = lines.draw_character(random.Random(f"c{seed}"), KIT)
        sign = sample.turns[0][1]
        assert sample.label == f"char {sign}"
        assert sample.wrong != sign
        labels[sign] += 1
        for question, answer in sample.turns[1:]:
            sort = {"Lu": 0, "Ll": 0, "Nd": 1}.get(unicodedata.category(sign), 2)
            assert answer == (("letter", "digit", "sign"), ("字母", "数字", "符号"))["字母" in question][sort]
    assert len(labels) >= 62
    assert not set(labels) & set("cosvwxzl")
    assert max(labels.values()) < 4 * min(labels.values())


def test_a_character_is_printed_where_its_picture_is():
    for seed in range(80):
        sample = lines.draw_character(random.Random(seed), KIT)
        gray = np.asarray(sample.pictures[0].convert("L"), np.int16)
        ink = np.abs(gray - np.median(gray)) > 40
        assert 2 <= ink.sum() < 0.7 * ink.size, sample.label


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 30))
def test_texts_keep_to_their_length(seed, limit):
    text = lines.write(random.Random(seed), WORDS, limit)
    assert 0 < len(text) <= limit
    assert text == text.strip()
    assert "\n" not in text


@given(seed=st.integers(0, 10**6), text=st.text("ABC abc 0158.,/-xyz", min_size=1).filter(str.strip))
def test_a_wrong_reading_is_one_mistake_away(seed, text):
    text = " ".join(text.split())
    wrong = lines.misread(random.Random(seed), text)
    assert wrong != text
    assert 1 <= levenshtein(wrong, text) <= 2


@pytest.mark.parametrize("draw", DRAWERS)
def test_wrong_answers_and_languages(draw):
    chinese = 0
    exact = 0
    for seed in range(300):
        sample: Sample = draw(random.Random(seed), KIT)
        assert sample.wrong not in (None, sample.turns[0][1])
        chinese += bool(re.search("[\u4e00-\u9fff]", sample.turns[0][0]))
        exact += any(question == "Read the text." for question, _ in sample.turns)
    assert 20 < chinese < 75
    assert exact > 20


def test_a_text_too_wide_loses_its_end():
    face = lines.font(None, 20)
    assert lines.fit("short", face, 500) == "short"
    cut = lines.fit("a very long line of text", face, 80)
    assert "a very long line of text".startswith(cut)
    assert face.getlength(cut) <= 80 < face.getlength("a very long line of text")


def test_talk_has_no_picture_and_answers_in_the_language_asked():
    for seed in range(200):
        sample = talk.draw_talk(random.Random(seed), KIT)
        assert sample.pictures == ()
        assert sample.turns
    greeted = [turn for seed in range(300) for turn in talk.talk(random.Random(seed)).turns]
    for question, answer in greeted:
        assert bool(re.search("[\u4e00-\u9fff]", question)) == bool(re.search("[\u4e00-\u9fff]", answer))
    for seed in range(100):
        ((question, answer),) = talk.echo(random.Random(seed), KIT).turns
        assert question.endswith(answer)


def test_fonts_kept_for_measuring_are_not_learnt(tmp_path: Path, monkeypatch):
    for name in ("DejaVuSans.ttf", "Lato-Hairline.ttf", "Carlito-Bold.ttf", "Hack-Regular.ttf"):
        (tmp_path / name).touch()
    monkeypatch.setattr("internvl.nano.fonts.FOLDERS", (tmp_path,))
    assert [p.name for p in find_fonts(LEARNT)] == ["DejaVuSans.ttf", "Hack-Regular.ttf"]
    assert [p.name for p in find_fonts(UNSEEN)] == ["Carlito-Bold.ttf"]


def test_ageing_keeps_the_picture_readable():
    for seed in range(40):
        picture = Image.new("RGB", (120, 40), "white")
        ImageDraw.Draw(picture).rectangle((40, 10, 80, 30), fill="black")
        aged = np.asarray(lines.age(random.Random(seed), picture, (255, 255, 255)).convert("L"), np.float32)
        middle = aged[aged.shape[0] // 2, aged.shape[1] // 2]
        assert middle < 90
        assert aged[2, 2] > 180

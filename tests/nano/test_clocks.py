"""Clocks: the time is read again from the hands and segments that are painted, and answers follow from it."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from internvl.nano import clocks
from internvl.nano.clocks import Figures, Time, draw_clock, mistaken, paint_hands, paint_segments, some_dial
from internvl.nano.sample import Kit, Sample

KIT = Kit()


def samples(count: int) -> Iterator[Sample]:
    return (draw_clock(random.Random(f"clock {i}"), KIT) for i in range(count))


@pytest.fixture(scope="module")
def drawn():
    return list(samples(600))


def test_the_same_seed_draws_the_same_sample():
    for seed in range(30):
        one, two = (draw_clock(random.Random(seed), KIT) for _ in range(2))
        assert one.turns == two.turns
        assert one.wrong == two.wrong
        assert one.pictures[0].tobytes() == two.pictures[0].tobytes()


def direction(pixels: np.ndarray, colour: tuple[int, int, int], centre: float) -> float:
    """Of what has this colour, seen from the centre: turns clockwise from the top, by its farthest pixels."""
    ys, xs = np.nonzero((pixels == colour).all(-1))
    x, y = xs - centre, ys - centre
    far = np.hypot(x, y) > 0.8 * np.hypot(x, y).max()
    return math.atan2(x[far].mean(), -y[far].mean()) / (2 * math.pi) % 1


def read_dial(pixels: np.ndarray, centre: float) -> tuple[int, int]:
    hour, minute = direction(pixels, (255, 0, 0), centre), direction(pixels, (0, 0, 255), centre)
    minutes = round(minute * 60) % 60
    return round(hour * 12 - minutes / 60) % 12 or 12, minutes


@pytest.mark.parametrize("form", ["bar", "taper", "arrow", "lozenge"])
def test_hands_point_to_the_time(form):
    rng = random.Random(form)
    dial = replace(some_dial(rng), hands=form, hour_colour=(255, 0, 0), minute_colour=(0, 0, 255), second_colour=None,
                   rim_width=0.0, turn=0.0, short=0.5, long=0.9, thick=0.06)  # fmt: skip
    for hour, minute in [(rng.randint(1, 12), rng.randrange(60)) for _ in range(60)]:
        if abs((hour % 12 + minute / 60) * 5 - minute) % 60 < 3:
            continue  # one hides the other
        page = Image.new("RGB", (401, 401), "white")
        paint_hands(ImageDraw.Draw(page), dial, (200, 200), 195, Time(hour, minute), 0)
        assert read_dial(np.asarray(page), 200) == (hour, minute)


LIT = {"0": "1110111", "1": "0010010", "2": "1011101", "3": "1011011", "4": "0111010", "5": "1101011",
       "6": "1101111", "7": "1010010", "8": "1111111", "9": "1111011"}  # fmt: skip
"""Top, upper left, upper right, middle, lower left, lower right, bottom: as data sheets of displays list them."""
SPOTS = ((0.5, 0.06), (0.14, 0.28), (0.86, 0.28), (0.5, 0.5), (0.14, 0.72), (0.86, 0.72), (0.5, 0.94))


def test_segments_are_those_of_the_figure():
    for digit, lit in LIT.items():
        page = Image.new("RGB", (100, 200))
        paint_segments(ImageDraw.Draw(page), digit, (0, 0, 100, 200), Figures((255, 255, 255)))
        seen = "".join(str(int(page.getpixel((round(x * 100), round(y * 200))) != (0, 0, 0))) for x, y in SPOTS)
        assert seen == lit, digit


@pytest.fixture
def painted(monkeypatch):
    """The time that each picture shows."""
    shown: list[tuple[int, int]] = []
    dial, digital = clocks.paint_hands, clocks._paint_digital

    def spy_dial(pen, look, centre, radius, time, second):
        shown.append((time.hour, time.minute))
        return dial(pen, look, centre, radius, time, second)

    def spy_digital(rng, kit, text):
        shown.append(tuple(map(int, text.split(":"))))  # type: ignore[arg-type]
        return digital(rng, kit, text)

    monkeypatch.setattr(clocks, "paint_hands", spy_dial)
    monkeypatch.setattr(clocks, "_paint_digital", spy_digital)
    return shown


def truth(question: str, hour: int, minute: int, style: str) -> str | int | bool | tuple[int, int]:
    """What the question should get: a time, a number, yes or no, or a word."""
    asked = question.split("\n")[0]
    time = re.search(r"(\d+):(\d\d)", asked)
    if time:
        return (int(time[1]), int(time[2])) == (hour, minute)
    if "analogue" in asked or "kind of clock" in asked or "类型" in asked or "指针式" in asked:
        return style
    if any(w in asked for w in ("minute hand", "long hand", "分针", "长针")):
        assert minute % 5 == 0
        return minute // 5 or 12
    if "minutes" in asked or "分钟" in asked:
        return minute
    if re.search(r"\bhour\b", asked) or "小时" in asked or "几点钟过了" in asked:
        return hour
    assert "time" in asked.lower() or "clock" in asked or "几点" in asked or "时间" in asked, asked
    return hour, minute


WORDS = {"Yes": True, "是": True, "No": False, "否": False, "指针式": "analogue", "数字": "digital"}


def test_answers_are_true(painted):
    kinds = Counter()
    for sample in samples(300):
        hour, minute = painted.pop()
        for question, answer in sample.turns:
            expected = truth(question, hour, minute, sample.facts["style"])
            said = tuple(map(int, answer.split(":"))) if ":" in answer else WORDS.get(answer, answer)
            assert said == (str(expected) if type(expected) is int else expected), (question, answer, hour, minute)
            kinds[type(expected).__name__] += 1
        assert sample.label == f"clock {hour % 12 or 12}"
        assert sample.turns[0][1] in sample.caption or ":" not in sample.turns[0][1]
    assert min(kinds.values()) > 25
    assert len(kinds) == 4


def test_a_time_is_not_mistaken_for_itself():
    rng = random.Random(1)
    for _ in range(500):
        time = Time(rng.randint(1, 12), rng.randrange(60))
        other = mistaken(rng, time)
        assert other != time
        assert 1 <= other.hour <= 12
        assert 0 <= other.minute < 60


def test_wrong_answers_are_wrong_and_alike(drawn):
    for sample in drawn:
        right = sample.turns[0][1]
        assert sample.wrong not in (None, right)
        assert (":" in right) == (":" in sample.wrong)
        assert len(right.split(":")[0]) == 2 or ":" not in right or not sample.wrong.startswith("0")


def test_hours_are_balanced_and_fives_are_most_common(drawn):
    labels = Counter(sample.label for sample in drawn)
    assert len(labels) == 12
    assert max(labels.values()) < 2.5 * min(labels.values())
    minutes = [int(found[1]) for s in drawn if (found := re.search(r":(\d\d)", s.caption))]
    assert 0.7 < sum(m % 5 == 0 for m in minutes) / len(minutes) < 0.9
    assert len(set(minutes)) > 40


def test_yes_is_as_common_as_no(drawn):
    answers = Counter(WORDS.get(a) for s in drawn for _, a in s.turns)
    assert answers[True] + answers[False] > 150
    assert 0.4 < answers[True] / (answers[True] + answers[False]) < 0.6


def test_sizes_and_languages(drawn):
    assert all(min(p.size) >= 50 and 112 <= max(p.size) <= 224 and p.mode == "RGB" for s in drawn for p in s.pictures)
    chinese = sum(bool(re.search("[一-龥]", s.turns[0][0])) for s in drawn) / len(drawn)
    assert 0.08 < chinese < 0.22
    assert 0.15 < sum(s.facts["style"] == "digital" for s in drawn) / len(drawn) < 0.35

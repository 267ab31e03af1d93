"""Boxes: they hold the ink of what they name, and are written as the family writes them."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from internvl.data.boxes import check, parse
from internvl.nano import locate
from internvl.nano.asking import Asker
from internvl.nano.locate import PUBLISHED, Thing, draw_locate, moved, paint_texts
from internvl.nano.sample import Kit, Sample
from internvl.nano.shapes import COLOURS

KIT = Kit(words=("total", "cash", "apple", "river", "Monday", "garden", "lamp", "coffee"))
BOX = re.compile(r"<box>\[\[(\d+), (\d+), (\d+), (\d+)\]\]</box>")


def samples(count: int) -> list[Sample]:
    return [draw_locate(random.Random(f"locate {seed}"), KIT) for seed in range(count)]


def things_of(sample: Sample) -> list[tuple[str, tuple[float, ...]]]:
    """English names and boxes as the drawer noted them."""
    noted = (re.fullmatch(r"(.+) \((.+)\)", value) for value in sample.facts.values())
    return [(match[1], tuple(map(float, match[2].split(", ")))) for match in noted if match]


def close(first: tuple[float, ...], second: tuple[float, ...], size: tuple[int, int]) -> bool:
    """The same but for rounding to thousandths."""
    return all(abs(a - b) <= 0.0006 * max(size) for a, b in zip(first, second, strict=True))


def test_the_same_seed_draws_the_same_sample():
    assert samples(20) == samples(20)
    assert [s.pictures[0].tobytes() for s in samples(20)] == [s.pictures[0].tobytes() for s in samples(20)]


def test_regions_are_written_as_the_family_writes_them():
    asked = Counter[bool]()
    for sample in samples(600):
        assert sample.wrong not in (None, sample.turns[0][1])
        for text in (*sample.turns[0], *sample.turns[-1], sample.wrong or ""):
            check(text)
        for question, answer in sample.turns:
            if match := re.fullmatch(re.escape(PUBLISHED).replace(r"\{thing\}", "(.+)"), question):
                assert answer.startswith(f"<ref>{match[1]}</ref><box>")
                asked[True] += 1
    assert asked[True] > 60


def test_a_box_is_that_of_the_thing_it_names():
    found = Counter[str]()
    for sample in samples(600):
        (picture,), things = sample.pictures, things_of(sample)
        for question, answer in sample.turns:
            regions = parse(answer, picture.size)
            if re.search("[\u4e00-\u9fff]", question):
                continue
            if regions:
                named = re.match("<ref>(.+?)</ref>", answer)
                assert named
                assert named[1] in question
                true = [box for name, box in things if name == named[1] or name == re.sub("(?<=s)es$|s$", "", named[1])]
                assert len(true) == len(regions), (question, answer, things)
                for region, box in zip(regions, sorted(true), strict=True):
                    assert close(region.xyxy, box, picture.size), (question, answer, things)
                found["several" if len(regions) > 1 else "one"] += 1
            elif match := BOX.search(question):
                box = tuple(int(n) * side / 1000 for n, side in zip(match.groups(), picture.size * 2, strict=True))
                inside = [name for name, other in things if close(box, other, picture.size)]
                if answer in ("Yes", "No"):
                    assert (answer == "Yes") == any(name in question for name in inside), (question, answer, things)
                    found[answer] += 1
                else:
                    assert answer in inside
                    found["name"] += 1
            else:
                (box,) = (box for name, box in things if name in question)
                x, y = (box[0] + box[2]) / 2 / picture.width, (box[1] + box[3]) / 2 / picture.height
                assert answer == f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
                found["quarter"] += 1
    assert set(found) == {"one", "several", "Yes", "No", "name", "quarter"}
    assert min(found.values()) > 30
    assert 0.4 < found["Yes"] / (found["Yes"] + found["No"]) < 0.6


def test_the_wrong_box_is_another():
    for sample in samples(300):
        wrong, right = (parse(text, sample.pictures[0].size) for text in (sample.wrong or "", sample.turns[0][1]))
        if right:
            assert wrong
            assert [region.xyxy for region in wrong] != [region.xyxy for region in right]
            assert {region.label for region in wrong} == {region.label for region in right}


@pytest.mark.parametrize("letters", [True, False])
def test_ink_is_inside_of_its_box_and_fills_it(letters):
    for seed in range(80):
        picture, things = paint_texts(random.Random(seed), KIT, letters=letters)
        pixels = np.asarray(picture, np.int16)
        ink = np.abs(pixels - pixels[-1, -1]).sum(-1) > 100
        outside = ink.copy()
        for thing in things:
            left, top, right, bottom = (round(v) for v in thing.box)
            here = ink[top:bottom, left:right]
            assert here.any(0).mean() > 0.6, (seed, thing)
            assert here.any(1).mean() > 0.6, (seed, thing)
            outside[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
        assert not outside.any(), seed
        assert len({thing.name for thing in things}) == len(things)


def test_letters_have_the_colour_they_are_named_by():
    for seed in range(60):
        picture, things = paint_texts(random.Random(seed), KIT, letters=True)
        pixels = np.asarray(picture, np.int16)
        for thing in things:
            left, top, right, bottom = (round(v) for v in thing.box)
            part = pixels[top:bottom, left:right].reshape(-1, 3)
            far = np.abs(part - pixels[-1, -1]).sum(-1)
            ink = part[far > 0.9 * far.max()].mean(0)
            nearest = min(COLOURS, key=lambda colour: float(np.abs(ink - np.array(COLOURS[colour])).sum()))
            assert nearest == thing.name[0].split()[0], (seed, thing)


def test_the_wording_does_not_tell_yes_from_no():
    said: dict[str, Counter[str]] = defaultdict(Counter)
    things = [
        Thing(("red star", "红色的星形"), (10, 10, 40, 40)),
        Thing(("blue cross", "蓝色的十字"), (60, 60, 90, 90)),
    ]
    for seed in range(2000):
        rng = random.Random(seed)
        asked = locate._is_it(rng, Asker(seed % 2 == 0), things, (112, 112))
        said[re.sub(r"\[\[.*\]\]|red star|blue cross|红色的星形|蓝色的十字|\n.*| Please.*", "", asked.question)][
            asked.answer
        ] += 1
    shares = [max(counts.values()) / counts.total() for counts in said.values()]
    assert len(shares) == 6
    assert max(shares) < 0.62


def test_a_moved_box_is_as_large_and_elsewhere():
    for seed in range(200):
        box = moved(random.Random(seed), (20, 30, 50, 50), (112, 100))
        assert (round(box[2] - box[0], 6), round(box[3] - box[1], 6)) == (30, 20)
        assert 0 <= box[0] <= 82
        assert 0 <= box[1] <= 80
        assert abs(box[0] - 20) > 15 or abs(box[1] - 30) > 10


def test_sizes():
    for sample in samples(200):
        assert 88 <= min(sample.pictures[0].size) <= max(sample.pictures[0].size) <= 300
        assert 1 <= len(sample.turns) <= 4

"""Statements about three boxes: read and judged again by rules of their own, as people judged such sentences."""

from __future__ import annotations

import functools
import json
import random
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from internvl.evaluation.tasks.nlvr import ASKED
from internvl.metrics.matching import truth_value
from internvl.nano import blocks, statements, towers
from internvl.nano.sample import Kit, Sample
from internvl.nano.statements import draw_statement

DRAWS = 800
KIT = Kit()
Shape = tuple[str, str, int, int, int]
"""Kind, colour, left, upper edge, size."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
HUES = {"yellow": (255, 255, 0), "blue": (0, 153, 255), "black": (0, 0, 0)}


@functools.cache
def samples() -> list[Sample]:
    return [draw_statement(random.Random(f"statement {i}"), KIT) for i in range(DRAWS)]


def scene(sample: Sample) -> list[list[Shape]]:
    boxes: list[list[Shape]] = []
    for box in sample.facts.values():
        words = [item.split() for item in box.split("; ")]
        boxes.append([(kind, colour, int(x), int(y), int(size)) for kind, colour, x, y, size in words])
    return boxes


# ---- another reading of the sentences --------------------------------------------------------------------------------

COLOUR, AMOUNT = r"(yellow|blue|black)", r"(at ?least |exactly |only |)(no|a|\d|one|two|three|four|five|six)"


def whole(word: str) -> int:
    return 1 if word == "a" else 0 if word == "no" else int(word) if word.isdecimal() else NUMBERS.index(word)


def agrees(form: str, word: str, count: int) -> bool:
    if word == "a" or "least" in form.replace(" ", ""):
        return count >= whole(word)
    return count == whole(word)


def walls(shape: Shape) -> str:
    _, _, x, y, size = shape
    touched = ("left" * (x == 0), "right" * (x + size == 100), "top" * (y == 0), "bottom" * (y + size == 100))
    return " ".join(w for w in touched if w)


def towards(boxes: list[list[Shape]], end: str) -> list[str]:
    """The colours of the tops or of the bases: the highest or the lowest block."""
    pick = min if end == "top" else max
    return [pick(box, key=lambda s: s[3])[1] for box in boxes]


def of_ends(m: re.Match[str], boxes: list[list[Shape]]) -> bool:
    return agrees(m[1], m[2], towards(boxes, m[4]).count(m[3]))


def of_heights(m: re.Match[str], boxes: list[list[Shape]]) -> bool:
    return agrees(m[1], m[2], sum(agrees(m[3], m[4], len(box)) for box in boxes))


def of_shapes(m: re.Match[str], boxes: list[list[Shape]]) -> bool:
    return agrees(m[1], m[2], sum(s[1] == m[3] and m[4] in (s[0], "item", "object", "block") for b in boxes for s in b))


def of_walls(m: re.Match[str], boxes: list[list[Shape]]) -> bool:
    colour, kind, where = m[3], m[4], "bottom" if re.search("bottom|base", m[6]) else ""
    found = [walls(s) for b in boxes for s in b if colour in (None, s[1]) and kind in (s[0], "item", "object")]
    touching = [w for w in found if (where in w if where else w)]
    return agrees(m[1], m[2], len(found) - len(touching) if m[5] else len(touching))


def of_orders(m: re.Match[str], boxes: list[list[Shape]]) -> bool:
    pairs = {(a[1], b[1]) for box in boxes for a in box for b in box if b[3] - a[3] == 21}
    over, under = (m[2], m[4]) if m[3] != "under" else (m[4], m[2])
    return ((over, under) in pairs) == (m[1] == "a")


def of_only(m: re.Match[str], boxes: list[list[Shape]]) -> bool:
    return agrees(m[1], m[2], sum({s[1] for s in box} == set(filter(None, (m[3], m[4]))) for box in boxes))


def of_block_ends(m: re.Match[str], boxes: list[list[Shape]]) -> bool:
    fit = [b for b in boxes if agrees(m[4], m[5], len(b))]
    return (m[2] in towards(fit, m[3])) == (m[1] == "a")


def of_every(m: re.Match[str], boxes: list[list[Shape]]) -> bool:
    return all(agrees(m[1], m[2], sum(s[1] == m[3] for s in box)) for box in boxes)


RULES: dict[str, Callable[[re.Match[str], list[list[Shape]]], bool]] = {
    rf"there (?:is|are) {AMOUNT} towers? (?:with|which has) (?:a )?{COLOUR} block at the (top|base|bottom)": of_ends,
    rf"there (?:is|are) {AMOUNT} towers? with {AMOUNT} blocks?": of_heights,
    rf"there (?:is|are) {AMOUNT} boxe?s? with {AMOUNT} (?:item|object)s?": of_heights,
    rf"there (?:is|are) {AMOUNT} {COLOUR} (item|object|block|circle|square|triangle)s?": of_shapes,
    rf"there (?:is|are) {AMOUNT} (?:{COLOUR} )?(item|object|circle|square|triangle)s? (not )?(?:closely )?touching "
    r"(the wall|the edge|the side|an edge|any edge|the base|the bottom of a box|the bottom edge)": of_walls,
    rf"there is (a|no) {COLOUR} block (above|on|under) a {COLOUR} block": of_orders,
    rf"there (?:is|are) {AMOUNT} (?:tower|box|boxes|towers) with only {COLOUR}(?: and {COLOUR})? "
    "(?:block|item)s": of_only,
    rf"there is (a|no) {COLOUR} block as the (top|base|bottom) of a tower with {AMOUNT} blocks?": of_block_ends,
    rf"(?:all 3 towers have|every tower has|each tower has|each box has|every box has|all the towers have) {AMOUNT} "
    rf"{COLOUR} (?:block|item)s?": of_every,
}  # fmt: skip


def judged(sentence: str, boxes: list[list[Shape]]) -> tuple[str, bool] | None:
    """The rule that reads a sentence, and what it says; None: no rule reads it."""
    text = sentence.lower().strip(" .")
    for rule, judge in RULES.items():
        if m := re.fullmatch(rule, text):
            return rule, judge(m, boxes)
    return None


def sentence_of(question: str) -> str:
    return re.sub(
        r"^.*Answer with True or False\.\n|^True or false\? | True or False\?$|^Statement: |\nIs it true or false\?$|"
        r"^Is this right\? |^Does the picture agree with this sentence\? |\nAnswer yes or no\.$|^Is it so that: |"
        r" Please answer yes or no\.$", "", question,
    )  # fmt: skip


def test_statements_are_judged_the_same_by_other_rules():
    read: Counter[str] = Counter()
    for sample in samples():
        for question, answer in sample.turns:
            if question.isascii() and (found := judged(sentence_of(question), scene(sample))):
                assert found[1] is (answer in ("True", "Yes")), (question, sample.facts)
                read[found[0]] += 1
    assert set(read) == set(RULES)
    assert read.total() > DRAWS / 3


def test_people_judged_their_sentences_so(shared):
    """The rules above, which judge ours, on the sentences of NLVR's split `hidden`."""
    lines = (shared / "data/nlvr/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    right = wrong = 0
    for row in rows:
        boxes = [[(k, "blue" if c == "#0099ff" else c, x, y, s) for k, c, x, y, s in box] for box in row["scene"]]
        if found := judged(row["sentence"], boxes):
            right, wrong = right + (found[1] is row["label"]), wrong + (found[1] is not row["label"])
    assert right > 150
    assert wrong <= 0.03 * right


def test_a_planted_fault_is_caught(monkeypatch):
    monkeypatch.setattr(blocks.Item, "sides", property(lambda item: frozenset({"top"} if item.y < 40 else ())))
    samples.cache_clear()
    try:
        with pytest.raises(AssertionError):
            test_statements_are_judged_the_same_by_other_rules()
    finally:
        samples.cache_clear()


# ---- pictures and balance --------------------------------------------------------------------------------------------


def test_a_seed_draws_the_same():
    one, two, other = (draw_statement(random.Random(seed), KIT) for seed in (3, 3, 4))
    assert (one.turns, one.facts, one.wrong) == (two.turns, two.facts, two.wrong)
    assert one.pictures[0].tobytes() == two.pictures[0].tobytes() != other.pictures[0].tobytes()


def test_the_scene_is_what_is_painted():
    """At the middle of every item is a colour nearer to its own than to the others, and no item covers another."""
    for sample in samples()[:300]:
        pixels = np.asarray(sample.pictures[0], np.int32)
        assert pixels.shape[1] == 4 * pixels.shape[0]
        unit = pixels.shape[0] / 100
        for i, box in enumerate(scene(sample)):
            for kind, colour, x, y, size in box:
                height = y + size * (0.6 if kind == "triangle" else 0.5)
                pixel = pixels[int(height * unit), int((i * 150 + x + size / 2) * unit)]
                near = {name: np.abs(pixel - hue).sum() for name, hue in HUES.items()}
                assert min(near, key=lambda name: near[name]) == colour
                corner = pixels[int((y + 1) * unit), int((i * 150 + x + 1) * unit)]
                assert (np.abs(corner - pixel).sum() < 60) == (kind == "square")
                assert 0 <= min(x, y) <= max(x, y) + size <= 100


def test_published_words_and_answers():
    asked = Counter[bool]()
    for sample in samples():
        question, answer = sample.turns[0]
        assert (
            sample.wrong == {"True": "False", "False": "True", "Yes": "No", "No": "Yes", "是": "否", "否": "是"}[answer]
        )
        start = ASKED.format(subject="picture", sentence="")
        asked[question.startswith(start)] += 1
        for question, answer in sample.turns:
            if question.isascii():
                assert truth_value(answer) is (answer in ("True", "Yes"))
                assert re.search("[Yy]es or no|agree|right", question) if answer in ("Yes", "No") else "rue" in question
    assert asked[True] > 0.3 * DRAWS
    assert 0.08 < sum(not s.turns[0][0].isascii() for s in samples()) / DRAWS < 0.23


def test_no_word_gives_the_answer_away():
    said: dict[str, list[bool]] = {}
    for sample in samples():
        for question, answer in sample.turns:
            for word in set(re.findall("[a-z0-9]+", sentence_of(question).lower())):
                said.setdefault(word, []).append(answer in ("True", "Yes"))
    often = {word: sum(truths) / len(truths) for word, truths in said.items() if len(truths) > 80}
    assert len(often) > 20
    # The most telling, seen over 4,000 pictures: "3", true in 40 % of 678 sentences.
    assert all(0.3 < share < 0.7 for share in often.values()), often


def test_there_are_many_families():
    families = {*towers.TOWERS, *statements.ANY, *statements.SHAPES}
    assert len(families) >= 30
    for family in families:
        make = blocks.some_towers if family in towers.TOWERS else blocks.some_shapes
        seen = {family(random.Random(i))[1](make(random.Random(f"scene {i}"))) for i in range(150)}
        assert {True, False} <= seen, family

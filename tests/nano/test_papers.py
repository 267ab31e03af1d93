"""Receipts, invoices and forms: answers are read again from what is printed, and sums add up."""

from __future__ import annotations

import random
import re
from collections import Counter
from decimal import Decimal

import numpy as np
import pytest
from PIL import Image, ImageDraw

from internvl.evaluation.tasks.own import KEYS
from internvl.nano import papers, purchase
from internvl.nano.fonts import LEARNT, find_fonts
from internvl.nano.papers import draw_form, draw_invoice, draw_receipt
from internvl.nano.purchase import make_purchase, money
from internvl.nano.sample import Kit, Sample
from internvl.nano.sheet import Part, Print, Row, crowded, ends, left, middle, pick_print, scan, set_rows, spans

KIT = Kit(words=("bread", "coffee", "apple", "river", "lamp", "garden", "paper", "brush", "noodle", "Monday"))
DRAWERS = (draw_receipt, draw_invoice, draw_form)
LOOK = Print(224, None, None, 13.0, 1.2, (0, 0, 0), (255, 255, 255))


@pytest.mark.parametrize("draw", DRAWERS)
def test_the_same_seed_draws_the_same_sample(draw):
    for seed in range(6):
        first, second = draw(random.Random(seed), KIT), draw(random.Random(seed), KIT)
        assert first == second
        assert first.pictures[0].tobytes() == second.pictures[0].tobytes()


@pytest.fixture
def unpainted(monkeypatch):
    """Papers without their picture, which takes most of the time."""
    monkeypatch.setattr(papers, "set_rows", lambda rows, look: Image.new("RGB", (4, 4)))
    monkeypatch.setattr(papers, "scan", lambda rng, picture, look: picture)


@pytest.fixture
def printed(monkeypatch):
    """Where texts are printed."""
    said: list[tuple[float, float, str]] = []
    text = ImageDraw.ImageDraw.text

    def spy(pen, place, what, **style):
        said.append((place[1], place[0], what))
        return text(pen, place, what, **style)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    return said


def rows_of(printed: list[tuple[float, float, str]]) -> list[str]:
    """Printed texts row by row, each from left to right; rules left out."""
    rows: dict[float, list[tuple[float, str]]] = {}
    for y, x, text in printed:
        if text.strip("-="):
            rows.setdefault(y, []).append((x, text))
    return [" ".join(text for _, text in sorted(rows[y])) for y in sorted(rows)]


@pytest.mark.parametrize("draw", DRAWERS)
def test_the_lines_are_those_that_are_printed(draw, printed):
    for seed in range(20):
        printed.clear()
        sample = draw(random.Random(seed), KIT)
        assert rows_of(printed) == sample.facts["lines"].split("\n")
        for question, answer in sample.turns:
            if re.search("^Read the lines|^Read this|Transcribe|Read all|逐行|读出票", question):
                assert answer == sample.facts["lines"]
            elif match := re.search(r"irst (\d) lines|前(\d)行", question):
                assert answer.split("\n") == sample.facts["lines"].split("\n")[: int(match[1] or match[2])]


PRINTED_TOTAL = re.compile(
    r"^(?:(?:GRAND |NET |ROUNDED )?TOTAL|AMOUNT DUE|NET AMT|Total|Amount due)(?! EXCL).*?([\d.]+)$"
)


@pytest.mark.parametrize("draw", [draw_receipt, draw_invoice])
@pytest.mark.usefixtures("unpainted")
def test_the_four_fields_stand_on_the_paper(draw):
    """The total is what the line says that calls itself so, and is what the goods cost with tax and rounding."""
    for seed in range(300):
        sample = draw(random.Random(f"{draw.__name__} {seed}"), KIT)
        said, facts = sample.facts["lines"].split("\n"), sample.facts
        assert " ".join(facts["company"].split()) in " ".join(said)
        assert facts["address"] in " ".join(said)
        assert any(facts["date"] in line for line in said)
        (total,) = {match[1] for line in said if (match := PRINTED_TOTAL.search(line))}
        assert total == facts["total"], said


def test_sums_add_up():
    for seed in range(500):
        bought = make_purchase(random.Random(seed), KIT, 1 + seed % 5)
        goods = sum(Decimal(money(item.price)) * item.quantity for item in bought.items)
        assert Decimal(money(bought.total)) == goods + Decimal(money(bought.tax)) + Decimal(money(bought.rounding))
        assert abs(bought.rounding) <= 2
        if bought.rounding:
            assert bought.total % 5 == 0
        if bought.tax:
            assert abs(Decimal(money(bought.tax)) - goods * Decimal("0.06")) <= Decimal("0.005")
        assert bought.cash >= bought.total > 0
        assert len({item.name for item in bought.items}) == len(bought.items) == 1 + seed % 5


def purchases(monkeypatch: pytest.MonkeyPatch) -> list[purchase.Purchase]:
    """Those that are made from now on."""
    made: list[purchase.Purchase] = []
    make = make_purchase
    monkeypatch.setattr(papers, "make_purchase", lambda *a, **k: (made.append(make(*a, **k)), made[-1])[1])
    return made


@pytest.mark.parametrize("draw", [draw_receipt, draw_invoice])
@pytest.mark.usefixtures("unpainted")
def test_answers_are_true(draw, monkeypatch):
    made, asked = purchases(monkeypatch), Counter[str]()
    for seed in range(400):
        sample = draw(random.Random(f"answers {seed}"), KIT)
        bought = made[-1]
        for question, answer in sample.turns:
            kind = check(question, answer, sample, bought)
            asked[kind] += 1
        wrong, (question, answer) = sample.wrong, sample.turns[0]
        assert wrong not in (None, answer), question
    assert {"total", "date", "company", "address", "price", "quantity", "has", "count"} <= set(asked)
    assert min(asked[key] for key in ("total", "date", "company", "address")) > 60


def check(question: str, answer: str, sample: Sample, bought: purchase.Purchase) -> str:
    """Whether an answer is right, by key words of the question; returns what it asked for."""
    item = max((i for i in bought.items if i.name in question), key=lambda i: len(i.name), default=None)
    amounts = {"change": bought.cash - bought.total, "cash": bought.cash, "tax": bought.tax}
    kind = next(kind for kind, pattern in KINDS.items() if re.search(pattern, question))
    if kind in KEYS:
        assert answer == sample.facts[kind], question
    elif kind in amounts:
        assert Decimal(answer) * 100 == amounts[kind], question
        assert answer in sample.facts["lines"]
    elif kind == "price":
        assert item
        assert item.quantity == 1
        assert answer == money(item.amount)
    elif kind == "quantity":
        assert item
        assert answer == str(item.quantity)
    elif kind == "has":
        named = re.split(r"Is | on this|Was | bought|Does the \w+ list |\?|有|吗|买了", question.split("\n")[0])
        assert (answer in ("Yes", "是")) == bool(set(named) & {i.name for i in bought.items}), question
    elif kind == "count":
        assert answer == str(len(bought.items))
    elif kind == "list":
        assert answer.split(", ") == [i.name for i in bought.items]
    elif kind == "dearest":
        assert {i.name: i.amount for i in bought.items}[answer] == max(i.amount for i in bought.items)
    elif kind in ("phone", "number"):
        assert answer == getattr(bought, kind)
        assert answer in sample.facts["lines"]
    elif kind == "buyer":
        assert answer == sample.facts["buyer"]
        assert answer in sample.facts["lines"]
    return kind


KINDS = {
    "lines": r"^Read|ranscribe|first \d|逐行|读出", "phone": r"phone|电话", "number": r"number|单号|编号",
    "company": r"[Ww]hich shop|name of the shop|ompany|Who issued|哪家店|店名|公司",
    "buyer": r"Who is the|To whom|Who has|客户|发票开给", "date": r"date|When was|日期|哪一天",
    "address": r"ddress|Where is|地址", "dearest": r"highest|expensive|金额最高",
    "count": r"different items|How many items|Count the|有几种",
    "list": r"What was bought|List the|Which items|买了什么|列出", "has": r"^Is |^Was |^Does |有.+吗|买了.+吗",
    "quantity": r"How many of|quantity|买了几个|数量", "change": r"change|找零|找了",
    "cash": r"[cC]ash (was|amount)|in cash|现金", "tax": r"[tT]ax\b|GST|税额",
    "total": r"total|总额|总计|一共", "price": r"How much|price|cost|多少钱|价格",
}  # fmt: skip
"""What a question asks for, by the first pattern that it has."""


@pytest.mark.usefixtures("unpainted")
def test_forms_answer_from_their_fields():
    ticks = Counter[str]()
    for seed in range(400):
        sample = draw_form(random.Random(seed), KIT)
        fields = {key.removeprefix("field "): value for key, value in sample.facts.items() if key.startswith("field ")}
        ticked = re.search(r"\[[XxV]\] (\w+)", sample.facts["lines"])
        for question, answer in sample.turns:
            if re.search(r"[tT]icked|[cC]hecked|[mM]arked|选中|打勾", question):
                assert ticked
                if not re.search("Which|哪一项", question):
                    assert (answer in ("Yes", "是")) == bool(
                        re.search(rf"\b{ticked[1]}\b|^{ticked[1]}|项{ticked[1]}", question)
                    )
                    ticks[answer] += 1
                else:
                    assert answer == ticked[1]
            elif "\n" not in answer:
                asked = [name for name in fields if name.lower() in question.lower()]
                assert answer == fields[max(asked, key=len)], question
        assert sample.wrong not in (None, sample.turns[0][1])
    yes = ticks["Yes"] + ticks["是"]
    assert 0.35 < yes / ticks.total() < 0.65


@pytest.mark.usefixtures("unpainted")
def test_wordings_of_the_task_come_often():
    asked = Counter(
        turn[0].split("\n")[0] for seed in range(400) for turn in draw_receipt(random.Random(seed), KIT).turns
    )
    assert all(asked[question] > 20 for question in KEYS.values())


@pytest.mark.parametrize("draw", DRAWERS)
def test_sizes_and_languages(draw):
    chinese = 0
    for seed in range(60):
        sample = draw(random.Random(seed), KIT)
        assert 200 <= sample.pictures[0].width <= 380
        assert 90 <= sample.pictures[0].height <= 1000
        chinese += bool(re.search("[\u4e00-\u9fff]", sample.turns[0][0]))
    assert 2 < chinese < 20


# ---- the sheet -------------------------------------------------------------------------------------------------------


def test_rows_are_made_smaller_until_their_parts_stand_apart():
    row = ends("A LONG NAME OF A SHOP", "1234567.00")
    assert crowded(row, LOOK, 214)
    assert not crowded(left("SHORT"), LOOK, 214)
    assert crowded(left("MUCH TOO LONG " * 5), LOOK, 214)
    wide = np.asarray(set_rows([row], LOOK).convert("L"))
    assert (wide[:, :3] == 255).all()
    assert (wide[:, -3:] == 255).all()


def test_parts_stand_where_they_should():
    first, last = spans(ends("LEFT", "RIGHT"), LOOK, 200)
    assert first[0] == 0
    assert last[1] == pytest.approx(200)
    ((start, end),) = spans(middle("MIDDLE"), LOOK, 200)
    assert start + end == pytest.approx(200)
    assert Row((Part("1", 0, 0), Part("TEA", 0.2, 0))).text == "1 TEA"


def test_a_scan_keeps_ink_and_paper_apart():
    for seed in range(30):
        rng = random.Random(seed)
        look = pick_print(rng, KIT, width=240, letters=14)
        picture = np.asarray(scan(rng, set_rows([left("TOTAL 60.30 CASH")] * 4, look), look).convert("L"), np.float32)
        assert np.median(picture) - np.percentile(picture, 1) > 60


@pytest.mark.skipif(not find_fonts(LEARNT), reason="no fonts are installed")
def test_letters_stay_readable_in_tiles():
    """At least 8 pixels high where two tiles of 112 pixels stand side by side, for nine papers of ten."""
    fonts = find_fonts(LEARNT)
    heights: list[float] = []
    for seed in range(40):
        rng = random.Random(seed)
        sample = draw_receipt(rng, Kit(fonts=fonts, words=KIT.words))
        longest = max(map(len, sample.facts["lines"].split("\n")))
        assert longest <= 40, sample.facts["lines"]
        heights.append(
            sample.pictures[0].height / sample.pictures[0].width * 224 / (sample.facts["lines"].count("\n") + 1)
        )
    assert np.percentile(heights, 10) > 13  # pixels from line to line

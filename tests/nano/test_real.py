"""Real pictures as samples: what is said of them is true, for a corpus of drawn ones that stands in for them."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from internvl.nano import names
from internvl.nano.corpus import Corpus, Item
from internvl.nano.real import BINS, MAIN, Deck, drawers
from internvl.nano.sample import Kit, Sample

KIT = Kit()
COLOURS = {"accordion": "red", "anchor": "blue", "ant": "green", "barrel": "yellow"}
COUNTRIES = {"France": "法国", "Japan": "日本", "Chad": "乍得"}
SENTENCES = [("There is a yellow block.", True), ("There is no box.", False)]
FIELDS = {"company": ("Which shop",), "date": ("date", "日期"), "total": ("total", "总金额")}
GRID = "/".join(["120000000"] * 9)


def painted(colour: str, size: tuple[int, int] = (120, 90)) -> bytes:
    file = io.BytesIO()
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).rectangle((20, 20, size[0] - 20, size[1] - 20), fill=colour)
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    archive = tmp_path_factory.mktemp("sets") / "images.zip"
    with zipfile.ZipFile(archive, "w") as pictures:
        for colour in ("red", "blue", "green", "yellow", "gray"):
            pictures.writestr(f"{colour}.png", painted(colour))
        pictures.writestr("receipt.png", painted("black", (400, 600)))
        for order in range(6):
            pictures.writestr(f"{order}.png", painted("red", (400 + order, 100)))

    def item(skill: str, name: str, member: str, **facts: object) -> Item:
        return Item(skill, f"{skill}-{name}", name, archive, member, facts)

    lines = [{"box": [30, 40 + 30 * i, 30 + 12 * len(text), 60 + 30 * i], "text": text}
             for i, text in enumerate(("SHOP SDN BHD", "TOTAL 12.50", "25/12/2018", "THANK YOU"))]  # fmt: skip
    key = {"company": "SHOP SDN BHD", "date": "25/12/2018", "address": "", "total": "12.50"}
    orders = tuple(f"{i}.png" for i in range(6))
    training = {
        "photo": tuple(item("photo", name, f"{colour}.png") for name, colour in COLOURS.items()),
        "trash": tuple(item("trash", name, "gray.png") for name in names.RUBBISH),
        "flag": tuple(
            item("flag", name, "red.png", code=name[:2], capital=f"{name} City", region="Earth", country_zh=zh,
                 style="flat" if name != "Chad" else "noto")
            for name, zh in COUNTRIES.items()
        ),
        "icon": tuple(
            item("icon", name, "blue.png", group="Objects", style="two", code="1")
            for name in ("key", "bell", "left arrow")
        ),
        "receipt": (item("receipt", "shop", "receipt.png", shop="shop", lines=lines, key=key),),
        "sudoku": (item("sudoku", "", "gray.png", grid=GRID),),
        "nlvr": tuple(
            item("nlvr", text, "0.png", sentence=text, label=true, members=orders, split="hidden")
            for text, true in SENTENCES
        ),
    }  # fmt: skip
    return Corpus(training, {}, ("word",))


def drawn(corpus: Corpus, skill: str, count: int = 150) -> list[Sample]:
    draw = drawers(corpus)[skill]
    return [draw(random.Random(f"{skill} {number}"), KIT) for number in range(count)]


def test_every_drawer_is_a_function_of_its_seed(corpus):
    for skill in drawers(corpus):
        for one, other in zip(drawn(corpus, skill, 3), drawn(corpus, skill, 3), strict=True):
            assert one.turns == other.turns
            assert [p.tobytes() for p in one.pictures] == [p.tobytes() for p in other.pictures]
            assert one.skill == skill


def test_stored_pictures_stay_as_they_are(corpus):
    before = {item.id: item.picture.tobytes() for items in corpus.training.values() for item in items}
    for skill in drawers(corpus):
        drawn(corpus, skill, 20)
    assert before == {item.id: item.picture.tobytes() for items in corpus.training.values() for item in items}


@pytest.mark.parametrize("skill", ["photo", "icon", "flag"])
def test_names(corpus, skill):
    samples = drawn(corpus, skill)
    known = {item.name: item for item in corpus.training[skill]}
    for sample in samples:
        name = sample.label.removeprefix(f"{skill}: ")
        item = known[name]
        translated = item.facts.get("country_zh") if skill == "flag" else names.PHOTOS.get(name)
        assert sample.turns[0][1] in (name, translated)
        assert sample.wrong not in (name, translated, None)
        assert name in sample.caption
        for question, answer in sample.turns[1:]:
            if question.startswith("Which is it"):
                options = question.removeprefix("Which is it: ").removesuffix("?").replace(" or ", ", ").split(", ")
                assert sorted(set(options)) == sorted(options)
                assert answer == name in options
            elif answer in ("Yes", "No"):
                assert answer == ("Yes" if f"a {name}" in question or f"an {name}" in question else "No")
            else:
                assert answer in (item.facts.get("capital"), item.facts.get("region"), f"the flag of {name}")
    asked = Counter(sample.turns[0][0] for sample in samples)
    assert asked[MAIN[skill]] > len(samples) / 5
    assert len(asked) > 8
    assert len({sample.label for sample in samples}) == len(known)


def test_rubbish(corpus):
    samples = drawn(corpus, "trash", 300)
    counts = Counter(sample.label for sample in samples)
    assert set(counts) == {f"trash: {name}" for name in names.RUBBISH}
    assert min(counts.values()) > 25  # the bins come up alike, though their pictures are not alike many
    for sample in samples:
        name = sample.label.removeprefix("trash: ")
        assert sample.turns[0][1] in (name, names.RUBBISH[name])
        assert sample.wrong not in (name, names.RUBBISH[name])
    assert sum(BINS[0] in sample.turns[0][0] for sample in samples) > 80


def test_absence_cannot_be_told_from_the_question(corpus):
    samples = drawn(corpus, "absent", 600)
    answers = Counter(sample.turns[0][1] for sample in samples)
    assert abs(answers["Yes"] - answers["No"]) < 100
    by_start = Counter((sample.turns[0][0].split(" a")[0], sample.turns[0][1]) for sample in samples)
    for (start, _), count in by_start.items():
        both = by_start[start, "Yes"] + by_start[start, "No"]
        assert count > both / 4, start
    for sample in samples:
        assert {sample.turns[0][1], sample.wrong} == {"Yes", "No"}


def test_a_large_class_is_drawn_by_the_root_of_its_size():
    items = [Item("photo", f"{i}", "many" if i < 90 else "few", Path("x.zip"), "x", {}) for i in range(100)]
    deck = Deck(items)
    rng = random.Random(0)
    counts = Counter(deck.draw(rng).name for _ in range(4000))
    assert counts["many"] / counts["few"] == pytest.approx(3.0, rel=0.15)  # roots of 90 and 10
    assert deck.another(rng, "few") == "many"


def test_statements_in_any_of_six_orders(corpus):
    samples = drawn(corpus, "nlvr")
    truth = dict(SENTENCES)
    for sample in samples:
        question, answer = sample.turns[0]
        assert truth[question.rpartition("\n")[2]] == (answer == "True")
        assert {answer, sample.wrong} == {"True", "False"}
    assert {sample.pictures[0].width for sample in samples} == set(range(400, 406))


def test_lines_of_receipts(corpus):
    lines = {line["text"]: line["box"] for line in corpus.training["receipt"][0].facts["lines"]}
    several = 0
    for sample in drawn(corpus, "receipt_lines"):
        read = sample.turns[0][1].split("\n")
        several += len(read) > 1
        boxes = [lines[text] for text in read]
        width, height = sample.pictures[0].size
        assert 0 <= width - (max(b[2] for b in boxes) - min(b[0] for b in boxes)) <= 14
        assert 0 <= height - (boxes[-1][3] - boxes[0][1]) <= 14
    assert several > 15


def test_fields_of_receipts(corpus):
    key = corpus.training["receipt"][0].facts["key"]
    for sample in drawn(corpus, "receipt_fields"):
        assert 1 <= len(sample.turns) <= 3
        assert sample.pictures[0].width <= 448
        for question, answer in sample.turns:
            field = next(field for field, words in FIELDS.items() if any(word in question for word in words))
            assert answer == key[field]
        assert sample.wrong != sample.turns[0][1]


def test_mosaics(corpus):
    known = {item.name for skill in ("photo", "icon", "flag") for item in corpus.training[skill]}
    boxes = absent = 0
    for sample in drawn(corpus, "mosaic", 300):
        width, height = sample.pictures[0].size
        cells = (width // 110) * (height // 110)
        for question, answer in sample.turns:
            if question.startswith("How many") or question == "有几张图？":
                assert answer == str(cells)
            elif "<ref>" in question:
                name, box = answer.removeprefix("<ref>").removesuffix("</box>").split("</ref><box>")
                ((x1, y1, x2, y2),) = json.loads(box)
                assert name in known
                assert 0 <= x1 < x2 <= 1000
                assert 0 <= y1 < y2 <= 1000
                part = sample.pictures[0].crop(
                    (x1 * width // 1000, y1 * height // 1000, x2 * width // 1000, y2 * height // 1000)
                )
                assert part.convert("L").getextrema()[0] < part.convert("L").getextrema()[1]  # there is something in it
                boxes += 1
            elif question.startswith("Is there"):
                absent += answer == "No"
            elif question.startswith("Where"):
                assert answer.startswith(("at", "on"))
            else:
                assert answer in known
    assert boxes > 40
    assert absent > 20


def test_a_sudoku_is_asked_about_its_grid(corpus):
    sample = drawn(corpus, "sudoku_photo", 1)[0]
    assert set(sample.turns[0][1].replace("\n", "")) <= set("0123456789") or len(sample.turns[0][1]) < 12

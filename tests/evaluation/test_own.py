"""The project's own tasks: what is asked, what counts, and that the embedded model never saw what is held out."""

from __future__ import annotations

import functools
import io
import json
import random
import zipfile

import pytest
from PIL import Image

from internvl.errors import DataError
from internvl.evaluation.benchmark import Marked
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks.own import TASKS, grid_in, share
from internvl.evaluation.tasks.own_puzzles import TASKS as PUZZLES
from internvl.evaluation.tasks.problems import GUIDE
from internvl.nano import real
from internvl.nano.corpus import Corpus
from internvl.nano.sample import Kit

OWN = {task.name: task for task in (*TASKS, *PUZZLES)}


def write(root, kind, *rows, name="test.jsonl", archive="images.zip", size=(40, 30)):
    folder = root / kind
    folder.mkdir(exist_ok=True)
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, "PNG")
    full = [{"id": str(n), "split": "test", "zip": archive, "image": f"{n}.webp"} | row for n, row in enumerate(rows)]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in full), encoding="utf-8")
    with zipfile.ZipFile(folder / archive, "w") as zipped:
        for image in {image for row in full for image in row.get("images", [row["image"]])}:
            zipped.writestr(image, out.getvalue())
    return Folder(root)


def read(folder, name):
    [source] = OWN[name].sources
    return list(source.read(folder))


def marked(name, sample, answer):
    return Marked(sample, answer, OWN[name].mark(sample, answer, compat=None))


def score(name, sample, answer):
    return marked(name, sample, answer).mark.score


HELD, KNOWN = (next(f"SHOP{n}" for n in range(99) if share(f"SHOP{n}", 7) is held) for held in (True, False))


def receipt(shop=HELD, **more):
    key = {"company": "A & B", "date": "1/2/2018", "address": "", "total": "RM9.00"}
    boxes = [([2, 2, 30, 14], "TOTAL 9.00"), ([2, 2, 30, 14], "x"), ([2, 2, 10, 20], "UPRIGHT")]
    return {"group": shop, "key": key, "lines": [{"box": box, "text": text} for box, text in boxes]} | more


def test_receipts(tmp_path):
    folder = write(tmp_path, "sroie", receipt(), receipt(KNOWN), name="train.jsonl")
    samples = read(folder, "receipts")
    assert [s.id for s in samples] == ["0-company", "0-date", "0-total", "1-company", "1-date", "1-total"]
    total = samples[2]
    assert total.prompt == "What is the total of this receipt?\nAnswer the question using a single word or phrase."
    assert [s.facts["held_out"] for s in samples] == [True] * 3 + [False] * 3
    assert score("receipts", total, " rm9.00\n") == 1
    assert score("receipts", total, "9.00") == 0
    rows = [marked("receipts", s, "a &  b") for s in samples]
    assert OWN["receipts"].summarise(rows).values == {
        "accuracy": pytest.approx(100 / 3), "company": 100, "date": 0, "total": 0}  # fmt: skip


def test_lines_of_receipts(tmp_path):
    folder = write(tmp_path, "sroie", receipt(), receipt(KNOWN), name="train.jsonl")
    [sample] = read(folder, "receipts-lines")
    assert (sample.id, sample.prompt, sample.answer) == ("0-0", "Read the text.", "TOTAL 9.00")
    picture = Image.open(io.BytesIO(sample.pictures[0].read()))
    assert picture.size == (33, 17)  # three pixels around the box, none above and left of the picture
    assert sample.pictures[0].name == "sroie/images.zip/0.webp, line 0"
    right, wrong = (marked("receipts-lines", sample, answer) for answer in ("TOTAL 9.00", "TOTAL 8.0"))
    assert OWN["receipts-lines"].summarise([right, wrong]).values == {"accuracy": 50, "character error rate": 10}


GRID = "/".join(["530070000"] * 9)


def test_sudoku(tmp_path):
    folder = write(tmp_path, "sudoku", {"grid": GRID, "puzzle": "p", "puzzle_in_train": True},
                   {"grid": GRID, "puzzle": "q", "puzzle_in_train": False})  # fmt: skip
    one, two = read(folder, "sudoku")
    assert one.prompt == "Read this Sudoku. Write nine lines of nine digits, with 0 for an empty cell."
    for answer in (
        GRID,
        GRID.replace("/", "\n"),
        "The 9x9 grid:\n" + "|5|3|.|.|7|_|.|.|.|\n" * 9,
        GRID.replace("/", ""),
    ):
        assert score("sudoku", one, answer) == 1
    near = marked("sudoku", two, GRID.replace("5", "6", 1)).mark
    assert (near.score, near.parts["cells"], near.parts["digits"]) == (0, 80 / 81, 26 / 27)
    assert marked("sudoku", two, "I cannot see it.").mark.parts == {"cells": 0, "digits": 0}
    rows = [marked("sudoku", one, GRID), marked("sudoku", two, "no")]
    scores = OWN["sudoku"].summarise(rows)
    assert scores.values == {"accuracy": 50, "cells": 50, "digits": 50}
    assert scores.groups == {"puzzle_in_train": {"False": 0, "True": 100}}


def test_a_grid_is_not_made_up():
    assert grid_in("123") is None
    assert grid_in("\n".join(["123456789"] * 8)) is None
    assert grid_in("1" * 82) is None


def test_photographs(tmp_path):
    folder = write(tmp_path, "caltech101", {"label": "sea_horse", "name": "sea horse"})
    [sample] = read(folder, "caltech101")
    assert sample.prompt == "What is in the picture?"
    assert score("caltech101", sample, "A Sea horse.") == 1
    wordy = marked("caltech101", sample, "The picture shows a sea horse.").mark
    assert (wordy.score, wordy.parts) == (0, {"mentioned": 1})
    assert score("caltech101", sample, "a horse") == 0


def test_rubbish(tmp_path):
    folder = write(tmp_path, "trashnet", {"label": "paper"})
    [sample] = read(folder, "trashnet")
    assert sample.prompt == (
        "Which is it: cardboard, glass, metal, paper, plastic or trash?\n"
        "Answer the question using a single word or phrase."
    )
    answers = {"Paper.": 1, "It is paper": 1, "paper or cardboard": 0, "glass": 0, "wallpaper": 0, "": 0}
    assert {answer: score("trashnet", sample, answer) for answer in answers} == answers


def code_of(country):
    return "-".join(f"{0x1F1E6 + ord(letter) - ord('A'):x}" for letter in country)


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PAIRS = [a + b for a in LETTERS for b in LETTERS]
HELD_FLAG, KNOWN_FLAG = (next(p for p in PAIRS if share(f"flag {p}", 6) is held) for held in (True, False))
HELD_ICON, KNOWN_ICON = (
    next(c for c in (f"1f{n}" for n in range(600, 999)) if share(f"icon {c}", 8) is held) for held in (True, False)
)


def test_flags_and_icons(tmp_path):
    flats = [{"code": c, "country": f"Land {c}", "region": "Asia"} for c in (HELD_FLAG, KNOWN_FLAG)]
    write(tmp_path, "flags", *flats, name="train.jsonl")
    emoji = [
        {"id": f"{style}-{code}", "style": style, "code": code, "name": name, "group": "Objects"}
        for style in ("noto", "two")
        for code, name in ((code_of(HELD_FLAG), "flag: H"), (code_of(KNOWN_FLAG), "flag: K"),
                           (code_of("QQ"), "flag: Q"), (HELD_ICON, "spoon"), (KNOWN_ICON, "fork"))
    ]  # fmt: skip
    lonely = {"id": "two-x", "style": "two", "code": "2764", "name": "lonely", "group": "Objects"}
    folder = write(tmp_path, "emoji", *emoji, lonely, name="train.jsonl")
    assert [(s.id, s.answer) for s in read(folder, "flags")] == [
        (f"{style}-{HELD_FLAG}", f"Land {HELD_FLAG}") for style in ("noto", "two")
    ]
    assert [(s.id, s.prompt) for s in read(folder, "emoji")] == [(f"two-{HELD_ICON}", "What emoji is this?")]
    every = read(folder, "flags-all")
    assert [s.id.split("-")[0] for s in every] == ["flat", "flat", "noto", "noto", "two", "two"]
    assert {s.prompt for s in every} == {"Which country's flag is this?"}
    assert [s.facts["held_out"] for s in every] == [False, False, True, False, True, False]
    assert len(read(folder, "emoji-all")) == 5
    rows = [marked("flags-all", s, f"Land {HELD_FLAG}") for s in every]
    assert OWN["flags-all"].summarise(rows).groups["held_out"] == {"False": 25, "True": 100}


# ---- parts of published sets -----------------------------------------------------------------------------------------


def test_nlvr(tmp_path):
    images = {"images": [f"{n}.webp" for n in range(6)], "sentence": "there is a tower", "agree": None}
    folder = write(
        tmp_path, "nlvr", {"split": "dev", "label": False} | images, {"split": "test", "label": True} | images
    )
    [sample] = read(folder, "nlvr-dev")
    assert sample.prompt.endswith("there is a tower")
    assert sample.pictures[0].name == "nlvr/images.zip/0.webp"
    assert [score("nlvr-dev", sample, answer) for answer in ("False.", "True", "maybe")] == [1, 0, 0]


def test_mathvision(tmp_path):
    more = {"level": 2, "subject": "algebra"}
    folder = write(
        tmp_path,
        "mathvision",
        {"question": "How many?\n<image1>", "options": [], "answer": "60", "question_type": "free"} | more,
        {"question": "Which?", "options": ["3", "4", "5", "6", "7"], "answer": "B", "question_type": "choice"} | more,
        {"question": "Which?", "options": list("ABCDE"), "answer": "B", "question_type": "choice"} | more,
    )
    free, choice, letters = read(folder, "mathvision-part")
    head = ('Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a multiple choice '
            'question, only one letter is allowed in the "\\boxed{}".\n')  # fmt: skip
    assert free.prompt == head + "How many?\n<image1>\n"
    assert choice.prompt == head + "Which?\n(A) 3\n(B) 4\n(C) 5\n(D) 6\n(E) 7\n"
    assert letters.prompt == head + "Which?\n"
    assert score("mathvision-part", free, "So \\boxed{60}.") == 1
    assert [score("mathvision-part", choice, f"\\boxed{{{said}}}") for said in "B4A"] == [1, 1, 0]
    assert score("mathvision-part", letters, "\\boxed{C}") == 0


def test_puzzlevqa(tmp_path):
    asked = {"question": "What?", "options": ["6", "3", "4"], "answer": "4"}
    rows = [{"puzzle": puzzle} | asked for puzzle in ("venn", "polygon_sides_color")]
    one, two = read(write(tmp_path, "puzzlevqa", *rows), "puzzlevqa-part")
    assert one.prompt.startswith("What?\nOptions:\n(A) 6\n(B) 3\n(C) 4\nSolve the multiple-choice question and then")
    assert (one.facts["concepts"], two.facts["concepts"]) == ("single", "dual")
    marks = [marked("puzzlevqa-part", one, "They grow. Answer: C"), marked("puzzlevqa-part", two, "Answer: A")]
    assert OWN["puzzlevqa-part"].summarise(marks).values == {"accuracy": 50, "single": 100, "dual": 0}


def test_dynamath(tmp_path):
    more = {"subject": "algebra", "level": "high school"}
    rows = [{"question": "Period?", "answer": "2.0944", "answer_type": "float"},
            {"question": "Greater? (A) yes (B) no", "answer": "A", "answer_type": "multiple choice"}]  # fmt: skip
    folder = write(tmp_path, "dynamath", *[row | more for row in rows])
    number, choice = read(folder, "dynamath-part")
    assert number.prompt == (
        f"## Question\n Period?{GUIDE}Format the answer as a three-digit floating-point number and provide it in the "
        "'short answer' key.\n\nExample of expected JSON response format:\n\n{\n"
        '    "solution": "[Detailed step-by-step explanation]",\n    "short answer": "[Concise Answer]"\n}'
    )
    assert score("dynamath-part", number, '{"solution": "", "short answer": "2.094"}') == 1
    assert score("dynamath-part", choice, '{"short answer": "B"}') == 0
    write(tmp_path, "dynamath", rows[0] | more | {"answer_type": "__import__('os')"})
    with pytest.raises(DataError, match=r"dynamath/test.jsonl:1: `answer_type` is .* expected one of multiple choice"):
        read(folder, "dynamath-part")


def test_blindtest(tmp_path):
    rows = [{"task": "CountingCircles", "questions": [f"How many {what}?", f"Count the {what}."], "answers": ["5", "5"]}
            for what in ("circles", "pentagons")]  # fmt: skip
    samples = read(write(tmp_path, "blindtest", *rows), "blindtest-part")
    assert [s.id for s in samples] == ["0-0", "0-1", "1-0", "1-1"]
    assert [s.facts["column"] for s in samples] == ["circles", "circles", "pentagons", "pentagons"]
    marks = [marked("blindtest-part", s, answer) for s, answer in zip(samples, ("5", "five", "5", "6"), strict=True)]
    assert OWN["blindtest-part"].summarise(marks).values == {"accuracy": 75, "circles": 100, "pentagons": 50}


# ---- bad data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "kind", "row", "said"), [
    ("sudoku", "sudoku", {"puzzle": "p", "puzzle_in_train": True}, "`grid` is missing"),
    ("sudoku", "sudoku", {"grid": "123", "puzzle": "p", "puzzle_in_train": True}, "`grid` is '123'; expected"),
    ("trashnet", "trashnet", {"label": "glass", "image": "gone.webp", "images": []}, "'gone.webp' is not in"),
    ("trashnet", "trashnet", {"label": "glass", "zip": "../x.zip"}, "leads out of the data folder"),
    ("trashnet", "trashnet", {"label": "gold"}, "`label` is 'gold'; expected one of"),
    ("caltech101", "caltech101", {"label": "x", "name": 3}, "`name` is 3; expected text"),
    ("blindtest-part", "blindtest", {"task": "SubwayMap", "questions": ["a"], "answers": []}, "`answers` is"),
    ("puzzlevqa-part", "puzzlevqa", {"puzzle": "venn", "question": "?", "answer": "4",
                                     "options": "__import__('os').system('touch PWNED')"}, "`options` is"),
])  # fmt: skip
def test_bad_rows_are_refused_with_file_and_row(tmp_path, monkeypatch, task, kind, row, said):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path, kind, row)
    with pytest.raises(DataError) as error:
        read(folder, task)
    assert str(error.value).startswith(f"{kind}/test.jsonl:1: ")
    assert said in str(error.value)
    assert not (tmp_path / "PWNED").exists()


def test_an_id_twice(tmp_path):
    folder = write(tmp_path, "trashnet", {"label": "glass"}, {"label": "glass", "id": "0"})
    with pytest.raises(DataError, match=r"trashnet/test.jsonl:2: `id` is '0' a second time"):
        read(folder, "trashnet")


# ---- the real data ---------------------------------------------------------------------------------------------------


COUNTS = {"receipts": 2091, "receipts-lines": 1432, "sudoku": 22, "caltech101": 2078, "trashnet": 338, "flags": 24,
          "emoji": 109, "emoji-all": 2176, "nlvr-dev": 794, "mathvision-part": 2734, "puzzlevqa-part": 1602,
          "dynamath-part": 421, "blindtest-part": 1756}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_the_real_data(shared, name):
    folder = Folder(shared / "data")
    samples = read(folder, name)
    assert all(folder.has(file) for file in OWN[name].sources[0].files)
    assert len({sample.id for sample in samples}) == len(samples) == COUNTS.get(name, len(samples))
    for sample in samples[:: len(samples) // 5]:
        for picture in sample.pictures:
            assert min(Image.open(io.BytesIO(picture.read())).size) >= 10
    truths = [marked(name, sample, str(sample.answer)).mark.score for sample in samples]
    if name not in ("mathvision-part", "dynamath-part", "puzzlevqa-part"):  # there a bare truth is not always the form
        assert sum(map(bool, truths)) == len(samples)
    wrong = [marked(name, sample, "qqq").mark.score for sample in samples]
    assert not any(wrong)


LEARNT_AS = {"caltech101": "photo", "trashnet": "trash", "flags": "flag", "emoji": "icon", "receipts": "receipt_fields",
             "receipts-lines": "receipt_lines", "sudoku": "sudoku_photo", "nlvr-dev": "nlvr"}  # fmt: skip


@pytest.mark.parametrize("name", LEARNT_AS)
def test_questions_are_those_that_the_embedded_model_learnt(shared, name):
    """Word for word, in at least a tenth of what its training draws. What is held out is compared in test_corpus."""
    samples = [sample for sample in read(Folder(shared / "data"), name) if sample.facts.get("held_out", True)]
    prompts = {sample.prompt for sample in samples}
    drawer = real.drawers(learnt(shared / "data"))[LEARNT_AS[name]]
    asked = [question for seed in range(60) for question, _ in drawer(random.Random(seed), Kit()).turns]
    if name == "nlvr-dev":  # the statements differ, and must
        prompts, asked = {prompt.split("\n")[0] for prompt in prompts}, [question.split("\n")[0] for question in asked]
    assert len(prompts) == (4 if name == "receipts" else 1)
    for prompt in prompts:
        assert asked.count(prompt) >= len(asked) / 10 / len(prompts), prompt


@functools.cache
def learnt(data):
    return Corpus.read(data)

"""Tables that have no task of their own: what they are taken for, how they are asked and marked."""

from __future__ import annotations

import base64
import csv
import io

import pytest
from PIL import Image

from internvl.errors import DataError, NoSuchName, UsageError
from internvl.evaluation.benchmark import Marked
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks.any_table import RULES, benchmark


def picture(colour="red"):
    out = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def write(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerows([list(rows[0]), *[list(row.values()) for row in rows]])
    return path


def read(found, path):
    return list(found.sources[0].read(Folder(path.parent)))


def score(found, samples, *answers):
    rows = [Marked(s, a, found.mark(s, a, compat=None)) for s, a in zip(samples, answers, strict=True)]
    return [row.mark.score for row in rows], found.summarise(rows)


CHOICE = {"index": 1, "image": picture(), "hint": "", "question": "What colour?", "A": "red", "B": "blue", "C": "",
          "answer": "A", "category": "colour", "split": "dev"}  # fmt: skip


def test_multiple_choice(tmp_path):
    second = CHOICE | {"index": 2, "hint": "Look.", "answer": "B", "category": "x"}
    third = CHOICE | {"index": 3, "question": "什么颜色?", "image": str([picture(), picture("blue")])}
    path = write(tmp_path / "My Table_v2.tsv", CHOICE, second, third)
    found = benchmark(path)
    assert (found.name, found.title) == ("my-table-v2", "My Table_v2")
    samples = read(found, path)
    assert samples[0].prompt == (
        "<image>\nWhat colour?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."
    )
    assert samples[1].prompt.startswith("<image>\nLook.\nWhat colour?\nA. red")
    assert samples[2].prompt == "Image-1: <image>\nImage-2: <image>\n什么颜色?\nA. red\nB. blue\n请直接回答选项字母。"
    assert len(samples[2].pictures) == 2
    marks, scores = score(found, samples, "A.", "red", "(A)")
    assert marks == [1, 0, 1]
    assert scores.values == {"accuracy": pytest.approx(200 / 3)}
    assert scores.groups == {
        "category": {"colour": 100, "x": 0},
        "split": {"dev": pytest.approx(200 / 3)},
    }


def test_places_in_the_question(tmp_path):
    row = CHOICE | {"question": "Is <image> like <image>?", "image": str([picture(), picture("blue")])}
    path = write(tmp_path / "t.tsv", row)
    [sample] = read(benchmark(path), path)
    assert sample.prompt.startswith("Image-1: <image>\nImage-2: <image>\nIs <Image-1> like <Image-2>?\nA. red")


def test_circular(tmp_path):
    rotated = CHOICE | {"A": "blue", "B": "red", "answer": "B", "image": "7"}
    path = write(tmp_path / "t.tsv", CHOICE | {"index": 7}, rotated | {"index": 1_000_007}, CHOICE | {"index": 8},
                 rotated | {"index": 1_000_008})  # fmt: skip
    found = benchmark(path)
    samples = read(found, path)
    assert [s.pictures[0].name for s in samples] == [f"t.tsv, row {n}" for n in (1, 2, 3, 4)]
    _, scores = score(found, samples, "A", "A", "A", "B")
    assert scores.values == {"accuracy": 50, "first order alone": 100}
    named = {"g_index": 5}
    path = write(path, CHOICE | {"index": 5} | named, rotated | {"index": 6, "image": "5"} | named)
    assert score(found, read(found, path), "A", "A")[1].values["accuracy"] == 0


def test_numbers_that_only_look_rotated(tmp_path):
    path = write(tmp_path / "t.tsv", CHOICE | {"index": 2_000_001}, CHOICE | {"index": 3_000_001})
    found = benchmark(path)
    assert score(found, read(found, path), "A", "B")[1].values == {"accuracy": 50}


OPEN = {"index": "a", "image": picture(), "question": "What colour?", "answer": "Red"}


def test_yes_or_no(tmp_path):
    path = write(tmp_path / "t.tsv", OPEN | {"answer": "Yes"}, OPEN | {"index": "b", "answer": "no"})
    found = benchmark(path)
    samples = read(found, path)
    assert samples[0].prompt == "<image>\nWhat colour?\nAnswer the question using a single word or phrase."
    assert score(found, samples, "Yes, it is.", "yes")[0] == [1, 0]
    with pytest.raises(UsageError, match=r"t.tsv is yes or no, which has a rule of its own"):
        benchmark(path, rule="exact")


def test_open_questions_need_a_rule(tmp_path):
    path = write(tmp_path / "t.tsv", OPEN, OPEN | {"index": "b", "answer": "['rot', 'red']"})
    with pytest.raises(UsageError, match=r"say by which rule they are marked \(--mark-by\): exact, vqa, anls, relaxed"):
        benchmark(path)
    with pytest.raises(NoSuchName, match="Did you mean 'exact'"):
        benchmark(path, rule="exat")
    for rule, answer, mark in (
        ("exact", "the red", 0),
        ("vqa", "the red", 1),
        ("anls", "redd", 0.75),
        ("relaxed", "red", 1),
    ):
        found = benchmark(path, rule=rule)
        assert score(found, read(found, path), answer, answer)[0] == [mark, mark]


def test_ten_people(tmp_path):
    path = write(tmp_path / "t.tsv", OPEN | {"answer": str(["red"] * 2 + ["blue"] * 8)})
    found = benchmark(path, rule="vqa")
    assert score(found, read(found, path), "red")[0] == [pytest.approx(0.6)]


def test_secret_answers(tmp_path):
    path = write(tmp_path / "t.tsv", {key: CHOICE[key] for key in CHOICE if key != "answer"})
    found = benchmark(path)
    marks, scores = score(found, read(found, path), "A")
    assert marks == [None]
    assert scores.withheld == {"accuracy": "1 of 1 answers have no mark"}


def test_rows_without_a_picture_are_left_out(tmp_path):
    path = write(tmp_path / "t.tsv", CHOICE, CHOICE | {"index": 2, "image": ""})
    assert [s.id for s in read(benchmark(path), path)] == ["1"]


def test_a_table_of_text(tmp_path):
    path = write(tmp_path / "t.tsv", {key: CHOICE[key] for key in CHOICE if key != "image"})
    [sample] = read(benchmark(path), path)
    assert (sample.pictures, sample.prompt[:12]) == ((), "What colour?")


@pytest.mark.parametrize(("rows", "said"), [
    ([{"index": 1, "A": "x", "B": "y"}], "no rows with `index` and `question`"),
    ([{"question": "x"}], "no rows with `index` and `question`"),
    ([{"index": 1, "video": "x.mp4", "question": "?", "A": "x", "B": "y"}], "a table of videos"),
    ([CHOICE, CHOICE], "row 2: `index` is '1' a second time"),
    ([CHOICE | {"image": "5"}], "row 1: `image` is '5', the index of a row that is not in the table"),
    ([{"index": 1, "image_path": "gone.png", "question": "?", "A": "x", "B": "y", "answer": "A"}], "row 1: .*gone.png"),
    ([{"index": 1, "image_path": "['__import__']+[]", "question": "?", "A": "x", "B": "y"}], "row 1: `image_path` is"),
])  # fmt: skip
def test_what_is_refused(tmp_path, rows, said):
    path = write(tmp_path / "t.tsv", *rows)
    with pytest.raises(DataError, match=f"t.tsv.*{said}"):
        read(benchmark(path), path)


def test_bad_base64_is_refused_when_the_picture_is_looked_at(tmp_path):
    path = write(tmp_path / "t.tsv", CHOICE, CHOICE | {"index": 2, "image": "no base64, " * 20})
    *_, sample = read(benchmark(path), path)
    with pytest.raises(DataError, match=r"t.tsv, row 2: bad base64"):
        sample.pictures[0].read()


def test_code_is_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "__import__('os').system('touch PWNED')"
    path = write(tmp_path / "t.tsv", CHOICE | {"A": code, "question": code, "answer": code})
    found = benchmark(path)
    samples = read(found, path)
    assert f"A. {code}\n" in samples[0].prompt
    score(found, samples, code)
    for rule in RULES:
        path = write(tmp_path / "t.tsv", OPEN | {"answer": f"[{code}]"})
        found = benchmark(path, rule=rule)
        score(found, read(found, path), code)
    assert not (tmp_path / "PWNED").exists()

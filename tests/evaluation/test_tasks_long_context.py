"""MM-NIAH: what is asked, to the letter, from rows in the published layout; marks, figures, files to hand in."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from internvl.errors import DataError
from internvl.evaluation.tasks.long_context import KINDS, TASKS
from tests.evaluation.layouts import answered, check_lists, lines, put, samples, scores

VAL, TEST = TASKS
LETTER = "Answer with the option's letter from the given choices directly."
SHORT = "Answer the question using a single word or phrase."
ANSWERS = {
    "retrieval-text": "oak", "retrieval-image": 1, "counting-text": [1, 2],
    "counting-image": "[3, 4]", "reasoning-text": "blue", "reasoning-image": 0,
}  # fmt: skip
RIGHT = {
    "retrieval-text": "An oak.", "retrieval-image": "B", "counting-text": "[1, 2]",
    "counting-image": "[3, 4]", "reasoning-text": "Blue", "reasoning-image": "A",
}  # fmt: skip


def row(kind, number=0, **changes):
    meta = {
        "placed_depth": [0.1, 0.3] if kind.startswith("counting") else 0.5,
        "context_length": 1500,
        "choices": ["a cat", "a dog"] if kind == "retrieval-image" else None,
        "choices_image_path": ["a.jpg", "b.jpg"] if kind == "reasoning-image" else None,
    }
    asked = {"id": number, "images_list": ["x/1.jpg"], "context": "A long <image> way.", "question": "What?"}
    return asked | {"answer": ANSWERS[kind], "meta": meta} | changes


def folder_of(root, split="val", **changes):
    for kind in KINDS:
        put(root, f"MM-NIAH/mm_niah_{split}/annotations/{kind}.jsonl", lines(row(kind, **changes)))
    for name in ("x/1.jpg", "a.jpg", "b.jpg"):
        put(root, f"MM-NIAH/mm_niah_{split}/images/{name}")


def test_lists():
    check_lists(TASKS, "long-context")


def test_questions(tmp_path):
    folder_of(tmp_path)
    prompts = {found.facts["kind"]: found for found in samples(VAL, tmp_path)}
    assert prompts["retrieval-text"].prompt == f"A long <image> way.\nWhat?\n{SHORT}"
    assert prompts["retrieval-image"].prompt == f"A long <image> way.\nWhat?\nA. a cat\nB. a dog\n{LETTER}"
    assert prompts["reasoning-image"].prompt == f"A long <image> way.\nWhat?\nA. <image>\nB. <image>\n{LETTER}"
    assert [picture.name for picture in prompts["reasoning-image"].pictures] == [
        f"MM-NIAH/mm_niah_val/images/{name}" for name in ("x/1.jpg", "a.jpg", "b.jpg")
    ]
    assert prompts["counting-image"].answer == [3, 4]
    assert VAL.settings.max_tiles == 1


def test_scores(tmp_path):
    folder_of(tmp_path)
    rows = samples(VAL, tmp_path)
    said = [RIGHT[found.facts["kind"]] for found in rows]
    found = scores(VAL, rows, said)
    assert found.values == {"overall": 100, **dict.fromkeys(KINDS, 100)}
    assert found.groups["context length"] == {"1k": 100}
    said[KINDS.index("counting-text")] = "[1, 3]"
    found = scores(VAL, rows, said)
    assert found.values["counting-text"] == 50
    assert found.values["overall"] == pytest.approx(550 / 6)
    part = scores(VAL, rows[:5], said[:5])
    assert part.withheld == {"overall": "no question of reasoning-image was asked"}
    assert VAL.summarise([]).withheld


def test_a_secret_truth_is_handed_in(tmp_path):
    folder_of(tmp_path, "test", answer=None)
    rows = samples(TEST, tmp_path)
    marked = answered(TEST, rows, ["x"] * 6)
    assert TEST.summarise(marked).withheld == {"overall": "6 of 6 answers have no mark"}
    name, write = TEST.submission
    assert name == "mm-niah-test.zip"
    with zipfile.ZipFile(io.BytesIO(write(marked))) as files:
        assert len(files.namelist()) == 6
        [line] = files.read("internvl_counting-text-test.jsonl").decode().splitlines()
    assert json.loads(line) == {
        "question_id": 0, "question": "What?", "answer": None, "response": "x",
        "context_length": 1500, "placed_depth": [0.1, 0.3],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": 1.5}, r"retrieval-text\.jsonl:1: `answer` is 1\.5; expected a text"),
        ({"meta": 3}, r"retrieval-text\.jsonl:1, `meta`: `context_length` is missing"),
        ({"images_list": ["../../x.jpg"]}, r"retrieval-text\.jsonl:1: .* leads out of the data folder"),
        ({"images_list": ["no.jpg"]}, r"retrieval-text\.jsonl:1: 'MM-NIAH/mm_niah_val/images/no\.jpg' is not in"),
    ],
)
def test_bad_rows_are_named(tmp_path, changes, said):
    folder_of(tmp_path, **changes)
    with pytest.raises(DataError, match=said):
        samples(VAL, tmp_path)


def test_counts_must_be_counts(tmp_path):
    folder_of(tmp_path)
    put(tmp_path, "MM-NIAH/mm_niah_val/annotations/counting-text.jsonl", lines(row("counting-text", answer=["x"])))
    with pytest.raises(DataError, match=r"counting-text\.jsonl:1: `answer` is \['x'\]; expected a list of counts"):
        samples(VAL, tmp_path)

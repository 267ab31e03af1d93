"""RefCOCO and DIOR-RSVG: rows in their published forms, asked and marked."""

from __future__ import annotations

import json

import pytest

from internvl.errors import DataError
from internvl.evaluation.tasks.grounding import PRECISION, SPLITS, TASKS
from tests.evaluation.layouts import answered, check_lists, lines, png, put, samples, scores

TABLE = {task.name: task for task in TASKS}
ROW = {
    "image": "data/coco/train2014/COCO_train2014_000000581857.jpg",
    "sent": "the lady with the blue shirt",
    "bbox": [20.0, 20.0, 60.0, 40.0],
    "width": 200,
    "height": 100,
}
HIT, MISS = "<ref>it</ref><box>[[100, 200, 300, 400]]</box>", "[[500, 500, 900, 900]]"


@pytest.fixture
def data(tmp_path):
    put(tmp_path, "coco/train2014/COCO_train2014_000000581857.jpg")
    for file in SPLITS.values():
        put(tmp_path, f"refcoco/{file}.jsonl", lines(ROW, {**ROW, "sent": "man"}))
    return tmp_path


def test_lists():
    check_lists(TASKS, "grounding")
    splits = [task for task in TASKS if task.name in SPLITS]
    assert len(splits) == 8
    for task in splits:
        assert [score.metric for score in task.published] == ["P@1"] * 7


def test_published_means_are_means_of_the_published_splits():
    for *splits, mean in PRECISION.values():
        assert mean == pytest.approx(sum(splits) / 8, abs=0.0501)


def test_addresses_of_the_files():
    (file,) = TABLE["refcoco+-testA"].sources[0].files
    assert file.path == "refcoco/refcoco+_testA.jsonl"
    assert file.hint.endswith("/refcoco%2B/refcoco%2B_testA.jsonl")


def test_one_split(data):
    task = TABLE["refcoco+-testB"]
    found = samples(task, data)
    asked = "Please provide the bounding box coordinate of the region this sentence describes: "
    assert found[0].prompt == f"{asked}<ref>the lady with the blue shirt</ref>"
    assert found[0].pictures[0].read() == png()
    rows = answered(task, found, [HIT, MISS])
    assert [row.mark.score for row in rows] == [1, 0]
    assert rows[0].mark.parts["iou"] == pytest.approx(1)
    assert rows[0].mark.parsed == "20.0, 20.0, 60.0, 40.0"
    assert task.summarise(rows).values == {"P@1": 50}
    assert task.settings.max_new_tokens == 100


def test_what_is_no_box_misses(data):
    task = TABLE["refcoco-val"]
    found = samples(task, data)[:1]
    for compat in (None, "original"):
        for said in ("", "no", "[1, 2, 3]", "[a, b, c, d]", "[[nan, nan, nan, nan]]"):
            assert scores(task, found, [said], compat).values == {"P@1": 0}, said
    swapped = "[[300, 400, 100, 200]]"
    assert scores(task, found, [swapped]).values == {"P@1": 100}
    assert scores(task, found, [swapped], "original").values == {"P@1": 0}


def test_half_an_overlap_is_a_hit(data):
    task = TABLE["refcoco-val"]
    (mark,) = (row.mark for row in answered(task, samples(task, data)[:1], ["[[100, 200, 300, 300]]"]))
    assert (mark.parts["iou"], mark.score) == (pytest.approx(0.5), 1)


def test_all_splits(data):
    put(data, "refcoco/refcocog_test.jsonl", lines(ROW))
    task = TABLE["refcoco"]
    found = samples(task, data)
    assert [found[0].id, found[1].id, found[-1].id] == ["refcoco-val-0", "refcoco-val-1", "refcocog-test-0"]
    figures = scores(task, found, [HIT, MISS] * 7 + [HIT])
    assert figures.values["mean"] == pytest.approx((7 * 50 + 100) / 8)  # splits weigh alike, not questions
    assert list(figures.values) == ["mean", *SPLITS]
    figures = scores(task, found[:2], [HIT, MISS])
    assert figures.values == {"refcoco-val": 50}
    assert "refcocog-test" in figures.withheld["mean"]


@pytest.mark.parametrize("bbox", [None, [1, 2, 3], ["1", 2, 3, 4], [60, 20, 20, 40], [1, 2, 1, 4], "1, 2, 3, 4"])
def test_a_true_box_that_is_none_is_named(data, bbox):
    put(data, "refcoco/refcoco_val.jsonl", lines(ROW, {**ROW, "bbox": bbox}))
    with pytest.raises(DataError, match=r"refcoco_val.jsonl:2: `bbox` is"):
        samples(TABLE["refcoco-val"], data)


def test_dior_rsvg(tmp_path):
    root = "InternVL-Domain-Adaptation-Data"
    put(tmp_path, f"{root}/images/dior/1.jpg")
    row = {
        "image": "dior/1.jpg",
        "prompt": "<ref>A vehicle on the left</ref>",
        "bbox": [80, 160, 240, 320],
        "size": [800, 800],
    }
    put(tmp_path, f"{root}/val/dior_rsvg_test.json", json.dumps([row, row, row]))
    task = TABLE["dior-rsvg"]
    found = samples(task, tmp_path)
    assert found[0].prompt == "Detect <ref>A vehicle on the left</ref>"
    said = ["<box>[[100, 200, 300, 400]]</box>", "[100, 200, 300, 400]", "[[0.1, 0.2, 0.3, 0.4]]"]
    assert [row.mark.score for row in answered(task, found, said)] == [1, 1, 1]
    assert [row.mark.score for row in answered(task, found, said, "original")] == [1, 0, 0]
    # Half and no more: 161 x 161 pixels, of which 161 x 80 are covered, and then 161 x 81.
    said = ["[[100, 200, 300, 298.75]]", "[[100, 200, 300, 300]]", ""]
    assert [row.mark.score for row in answered(task, found, said)] == [0, 1, 0]
    assert task.summarise(answered(task, found, said)).values == {"Acc@0.5": pytest.approx(100 / 3)}
    assert task.settings.max_new_tokens == 200

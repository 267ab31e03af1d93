"""DriveLM and RSVQA: rows in their published forms, asked and marked."""

from __future__ import annotations

import json

import pytest

from internvl.errors import DataError
from internvl.evaluation.tasks.domains import TASKS
from tests.evaluation.layouts import answered, check_lists, lines, put, samples, scores

TABLE = {task.name: task for task in TASKS}
ROOT = "InternVL-Domain-Adaptation-Data"


def test_lists():
    check_lists(TASKS, "domains")


DRIVE = {
    "id": "scene_frame_0",
    "image": "scene/frame.jpg",
    "question_old": "What is <c1,CAM_BACK,1088.3,497.5> doing?",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is <c1,CAM_BACK,[560,776]> doing? "},
        {"from": "gpt", "value": "Going ahead. "},
    ],
}


def test_drivelm(tmp_path):
    put(tmp_path, f"{ROOT}/images/drivelm/stitch/scene/frame.jpg")
    put(tmp_path, f"{ROOT}/val/drivelm_val.jsonl", lines(DRIVE, DRIVE))
    task = TABLE["drivelm"]
    found = samples(task, tmp_path)
    assert found[0].prompt == "<image>\nWhat is <c1,CAM_BACK,[560,776]> doing?"
    assert found[0].answer == "Going ahead."
    assert (task.settings.max_tiles, task.settings.max_new_tokens) == (12, 200)
    rows = answered(task, found, ["<c1,CAM_BACK,[500,750]> turns.", "<c1, CAM_BACK, [500,750]>"])
    assert [row.mark.score for row in rows] == [None, None]
    assert rows[1].mark.parsed == "<c1,CAM_BACK,800.0,450.0>"
    assert task.summarise(rows).values == {}
    name, build = task.submission
    assert name == "drivelm.json"
    expected = {"question": DRIVE["question_old"], "gt_answers": "Going ahead.", "id": "scene_frame_0"}
    assert json.loads(build(rows)) == [
        {**expected, "answer": "<c1,CAM_BACK,800.0,450.0> turns."},
        {**expected, "answer": "<c1, CAM_BACK, [500,750]>"},  # as the original writes it
    ]


@pytest.mark.parametrize("turns", [None, [], [{"value": "only one"}], [{"from": "human"}, {"from": "gpt"}], "text"])
def test_a_conversation_that_is_none_is_named(tmp_path, turns):
    put(tmp_path, f"{ROOT}/images/drivelm/stitch/scene/frame.jpg")
    put(tmp_path, f"{ROOT}/val/drivelm_val.jsonl", lines({**DRIVE, "conversations": turns}))
    with pytest.raises(DataError, match=r"drivelm_val.jsonl:1: `conversations` is .*expected two turns"):
        samples(TABLE["drivelm"], tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ("rsvqa-lr", "rsvqa_l_test_instruct.json", "RSVQA_L/Images_LR"),
        ("rsvqa-hr-test1", "rsvqa_h_test_1_instruct.json", "RSVQA-H/Data"),
        ("rsvqa-hr-test2", "rsvqa_h_test_2_instruct.json", "RSVQA-H/Data"),
    ],
)
def test_rsvqa(tmp_path, name, file, folder):
    put(tmp_path, f"{ROOT}/images/{folder}/1.tif")
    kinds = [("presence", "yes"), ("comp", "no"), ("count", "90"), ("area", "20m2")]
    rows = [
        {"id": i, "image": "1.tif", "question": f"{kind}?", "gt_answer": gold, "type": kind}
        for i, (kind, gold) in enumerate(kinds)
    ]
    put(tmp_path, f"{ROOT}/val/{file}", json.dumps(rows))
    task = TABLE[name]
    found = samples(task, tmp_path)
    assert found[0].prompt == "presence?\nAnswer the question using a single word or phrase."
    assert task.settings.max_new_tokens == 50
    figures = scores(task, found, ["Yes", "yes", "12", "13m2"])
    assert figures.values == {"accuracy": 50, "all questions": 75}
    assert next(iter(figures.values)) == "accuracy"
    assert figures.groups == {"type": {"presence": 100, "comp": 0, "count": 100, "area": 100}}
    figures = scores(task, found, ["Yes", "yes", "7", "13m2"], "original")
    assert figures.groups["type"] == {"presence": 100, "comp": 0, "count": 100, "area": 0}
    figures = scores(task, found[2:], ["90", "20"])
    assert figures.values == {"all questions": 100}
    assert figures.withheld == {"accuracy": "there is no answer"}

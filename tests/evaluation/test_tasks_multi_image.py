"""Benchmarks with several pictures: prompts to the letter, from rows in their published layouts; marks and figures."""

from __future__ import annotations

import json

import pytest

from internvl.errors import DataError
from internvl.evaluation.tasks.multi_image import (
    MANTIS,
    MIRB,
    MIRB_GROUPS,
    MMIU,
    MMIU_TASKS,
    MUIR,
    TASKS,
    mirb_instruction,
)
from internvl.evaluation.tasks.nlvr import NLVR, NLVR2
from internvl.metrics.matching import MIRB_KINDS
from tests.evaluation.layouts import IMAGE, answered, check_lists, lines, png, put, samples, scores, table

ASK_LETTER = "Answer with the option's letter from the given choices directly."
TWO = "Image-1: <image>\nImage-2: <image>\n"


def marks(task, rows, answers, compat=None):
    return [row.mark.score for row in answered(task, rows, answers, compat)]


def parquet_file(path, columns):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table(columns), path)


def test_lists():
    check_lists(TASKS, "multi-image")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_no_answers_no_score(task):
    assert task.summarise([]).withheld
    assert not task.summarise([]).values


def test_mantis(tmp_path):
    picture = {"bytes": png(), "path": None}
    parquet_file(tmp_path / "Mantis-Eval/mantis_eval/test-00000-of-00001.parquet", {
        "id": ["mantis_eval_1", "mantis_eval_2", "mantis_eval_3"],
        "question_type": ["multi-choice", "short-answer", "short-answer"],
        "question": ["<image> <image> Which is red? ", "Does <image> show more than <image>?", "<image> How many?"],
        "images": [[picture, picture], [picture, picture], [picture]],
        "options": [["(A) the first ", "(B) the second"], [], []],
        "answer": ["B", "yes", "three"],
        "data_source": ["x", "x", "x"],
        "category": ["", "", ""],
    })  # fmt: skip
    rows = samples(MANTIS, tmp_path)
    assert rows[0].prompt == f"{TWO}Which is red?\n(A) the first\n(B) the second\n{ASK_LETTER}"
    short = "Answer the question using a single word or phrase."
    assert rows[1].prompt == f"{TWO}Does Image-1 show more than Image-2?\n{short}"
    assert rows[2].prompt == f"<image>\nHow many?\n{short}"
    said = ["(B)", "Yes", "Three."]
    assert marks(MANTIS, rows, said) == [1, 1, 1]
    assert marks(MANTIS, rows, said, "original") == [1, 1, 0]
    found = scores(MANTIS, rows, said, "original")
    assert found.values == {"accuracy": pytest.approx(200 / 3)}
    assert found.groups["kind"] == {"multiple choice": 100, "short answer": 50}


TRUTHS = {"count": 3, "3d_scene": 2, "visual_chain": 4, "analogy": "Yes", "attribute": "no", "sightseeing": "Paris"}


def mirb_folder(root):
    for task in (task for group in MIRB_GROUPS.values() for task in group):
        truth = TRUTHS.get(task, "A")
        row = {
            "questions": f"About {task}?",
            "answers": truth,
            "images": [f"images/{task}/1.png", f"images/{task}/2.png"],
        }
        put(root, f"MIRB/{task}.json", json.dumps([row]))
        for number in (1, 2):
            put(root, f"MIRB/images/{task}/{number}.png")


def test_mirb(tmp_path):
    mirb_folder(tmp_path)
    rows = samples(MIRB, tmp_path)
    assert len(rows) == 11
    by_task = {row.facts["task"]: row for row in rows}
    assert by_task["count"].prompt == f"{TWO}About count?\nAnswer with a single number."
    assert by_task["3d_scene"].prompt.endswith(
        "\nThe following images are different views of the same 3D scene. Answer with a single number."
    )
    right = {"count": "three", "analogy": "yes, they are", "attribute": "they differ", "sightseeing": "It is in paris"}
    said = [right.get(row.facts["task"], row.answer) for row in rows]
    assert scores(MIRB, rows, said).values == {"accuracy": 100, "all questions": 100}
    said[0] = "B"  # food, one of two tasks of one of four groups
    found = scores(MIRB, rows, said)
    assert found.values["accuracy"] == 87.5
    assert found.groups["group"] == {"Knowledge": 50, "Reasoning": 100, "Perception": 100, "Multi-Hop": 100}
    part = scores(MIRB, rows[1:], said[1:])
    assert part.withheld == {"accuracy": "no question of food was asked"}
    assert part.values == {"all questions": 100}


def test_instructions_of_mirb():
    asked = {task: mirb_instruction(task) for task in MIRB_KINDS}
    assert asked["arxiv_text"] == asked["arxiv"] == "Answer with the paper title."
    assert asked["codeu_text"] == asked["food"] == "Answer with the option symbol."
    assert asked["plot_text"] == asked["image_needles_concat"] == asked["analogy"] == "Answer with a single word."
    assert asked["count_concat"] == "Answer with a single number."


def test_mmiu(tmp_path):
    def row(task, names, truth):
        asked = {"input_image_path": names, "question": "What moved?", "context": "Choose.\nA: left\nB: right\n"}
        return {"task": task, "input": asked, "options": "A: left\nB: right", "output": {"output_text": truth}}

    names = ["./2D-spatial/a_0.jpg", "./2D-spatial/a_1.jpg"]
    put(tmp_path, "mmiu/mmiu.jsonl", lines(
        row("point_tracking", names, "B"), row("point_tracking", names[:1], "A"), row("forensic_detection", names, "A")
    ))  # fmt: skip
    put(tmp_path, "mmiu/3D-spatial/x.jpg")
    for name in names:
        put(tmp_path, f"mmiu/{name}")
    rows = samples(MMIU, tmp_path)
    assert rows[0].prompt == f"{TWO}What moved?\nChoose.\nA: left\nB: right\n\n{ASK_LETTER}"
    assert rows[1].prompt == f"What moved?\nChoose.\nA: left\nB: right\n\n{ASK_LETTER}"
    assert rows[0].facts["options"] == {"A": "left", "B": "right"}
    said = ["it went right", "B", "A"]
    assert marks(MMIU, rows, said) == marks(MMIU, rows, said, "original") == [1, 0, 1]
    found = scores(MMIU, rows, said)
    assert found.values == {"accuracy": 50, "all tasks": 75}
    assert "spatial" in scores(MMIU, rows[2:], said[2:]).withheld["accuracy"]
    assert len(MMIU_TASKS) == 20


def test_mmiu_names_the_row_of_bad_data(tmp_path):
    put(tmp_path, "mmiu/mmiu.jsonl", lines({"task": "point_tracking", "input": "x", "options": "", "output": {}}))
    put(tmp_path, "mmiu/2D-spatial/x.jpg")
    put(tmp_path, "mmiu/3D-spatial/x.jpg")
    with pytest.raises(DataError, match=r"mmiu\.jsonl:1, `input`: `input_image_path` is missing"):
        samples(MMIU, tmp_path)


def test_muirbench(tmp_path):
    put(tmp_path, "MUIRBench.tsv", table(
        {"index": 0, "image": f"['{IMAGE}', '{IMAGE}']", "question": "<image> <image> Which is older?",
         "A": "the first", "B": "the second", "answer": "A", "category": "Ordering"},
        {"index": 1, "image": f"['{IMAGE}', '{IMAGE}']", "question": "Which is like this? <image>",
         "A": "<image>", "B": "None of these", "answer": "B", "category": "Similarity"},
    ))  # fmt: skip
    rows = samples(MUIR, tmp_path)
    assert rows[0].prompt == f"{TWO} Which is older?\nA. the first\nB. the second\n{ASK_LETTER}"
    assert rows[1].prompt == f"{TWO}Which is like this? <Image-1>\nA. <Image-2>\nB. None of these\n{ASK_LETTER}"
    assert scores(MUIR, rows, ["A", "(B)"]).values == {"accuracy": 100}


def test_muirbench_parquet(tmp_path):
    picture = {"bytes": png(), "path": None}
    parquet_file(tmp_path / "MUIRBENCH/data/test-00000-of-00001.parquet", {
        "idx": ["1"], "task": ["Ordering"], "question": ["<image>Which?"], "options": [["<image>", "neither"]],
        "answer": ["A"], "image_list": [[picture, picture]],
    })  # fmt: skip
    [row] = samples(MUIR, tmp_path)
    assert row.prompt == f"{TWO}<Image-1>Which?\nA. <Image-2>\nB. neither\n{ASK_LETTER}"
    assert len(row.pictures) == 2


def test_nlvr2(tmp_path):
    put(tmp_path, "nlvr2/test1.json", lines(
        {"sentence": "There are two dogs.", "label": "True", "identifier": "test1-0-1-0", "writer": "1"},
        {"sentence": "There is a cat.", "label": "False", "identifier": "test1-0-1-1", "writer": "1"},
    ))  # fmt: skip
    for side in (0, 1):
        put(tmp_path, f"nlvr2/test1/test1-0-1-img{side}.png")
    rows = samples(NLVR2, tmp_path)
    question = "Is this statement true of the two pictures? Answer with True or False."
    assert rows[0].prompt == f"{TWO}{question}\nThere are two dogs."
    assert [picture.name[-8:] for picture in rows[1].pictures] == ["img0.png", "img1.png"]
    assert marks(NLVR2, rows, ["True", "True"]) == [1, 0]
    assert marks(NLVR2, rows, ["perhaps", "No."]) == [0, 1]
    put(tmp_path, "nlvr2/test1.json", lines({"sentence": "x", "label": "yes", "identifier": "test1-0-1-0"}))
    with pytest.raises(DataError, match=r"test1\.json:1: `label` is 'yes'; expected true or false"):
        samples(NLVR2, tmp_path)


def test_nlvr(tmp_path):
    row = {"sentence": "There is a tower.", "label": "true", "identifier": "102-0", "directory": "0"}
    put(tmp_path, "nlvr/test/test.json", lines(row))
    put(tmp_path, "nlvr/test/images/0/test-102-0-0.png")
    [sample] = samples(NLVR, tmp_path)
    question = "Is this statement true of the picture? Answer with True or False."
    assert (sample.id, sample.prompt) == ("102-0", f"{question}\nThere is a tower.")
    assert scores(NLVR, [sample], ["true"]).values == {"accuracy": 100}


def test_nlvr_of_the_shared_data(shared):
    rows = samples(NLVR, shared / "data")
    assert len(rows) == 789
    assert 50 < 100 * sum(row.answer for row in rows) / len(rows) < 60
    assert rows[0].pictures[0].read()

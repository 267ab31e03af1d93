"""VQAv2, OK-VQA, TextVQA, VizWiz, GQA and OCR-VQA: rows in their published forms, asked and marked."""

from __future__ import annotations

import json

import pytest

from internvl.errors import DataError
from internvl.evaluation.tasks.vqa import TASKS
from tests.evaluation.layouts import IMAGE, answered, check_lists, lines, png, put, samples, table

TABLE = {task.name: task for task in TASKS}
SHORT = " Answer the question using a single word or phrase."
UNSURE = " When the provided information is insufficient, respond with 'Unanswerable'." + SHORT


def people(*answers):
    return [{"answer": answer, "answer_id": number} for number, answer in enumerate(answers, start=1)]


@pytest.fixture
def vqav2(tmp_path):
    put(tmp_path, "vqav2/val2014/COCO_val2014_000000000042.jpg")
    rows = [
        {"image": "data/vqav2/val2014/COCO_val2014_000000000042.jpg", "question": q, "question_id": i, "answer": "x"}
        for i, q in ((42000, "What colour is it?"), (42001, "How many are there?"))
    ]
    put(tmp_path, "vqav2/vqav2_val.jsonl", lines(*rows))
    noted = [
        {"question_id": 42001, "answer_type": "number", "answers": people(*["2"] * 2, *["3"] * 8)},
        {"question_id": 42000, "answer_type": "other", "answers": people(*["red"] * 10)},
    ]
    put(tmp_path, "vqav2/v2_mscoco_val2014_annotations.json", json.dumps({"annotations": noted}))
    return tmp_path


def test_vqav2(vqav2):
    task = TABLE["vqav2-val"]
    found = samples(task, vqav2)
    assert [sample.id for sample in found] == ["42000", "42001"]
    assert found[0].prompt == "What colour is it?" + SHORT
    assert found[0].pictures[0].read() == png()
    assert found[1].answer == ["2"] * 2 + ["3"] * 8
    rows = answered(task, found, ["Red.", "two"])
    assert [row.mark.score for row in rows] == [1, 0.6]
    assert rows[1].mark.parsed == "2"
    scores = task.summarise(rows)
    assert scores.values == {"accuracy": pytest.approx(80)}
    assert scores.groups == {"answer_type": {"number": pytest.approx(60), "other": 100}}
    assert task.settings.max_new_tokens == 10
    assert task.settings.max_tiles == 6


def test_a_question_without_people_is_named(vqav2):
    put(vqav2, "vqav2/v2_mscoco_val2014_annotations.json", json.dumps({"annotations": []}))
    with pytest.raises(DataError, match=r"vqav2_val.jsonl, question 1: `question_id` 42000 is not in vqav2/v2_"):
        samples(TABLE["vqav2-val"], vqav2)


@pytest.mark.parametrize("answers", [None, "red", ["red"], [{"text": "red"}]])
def test_answers_of_another_form_are_named(vqav2, answers):
    noted = [{"question_id": i, "answers": answers} for i in (42000, 42001)]
    put(vqav2, "vqav2/v2_mscoco_val2014_annotations.json", json.dumps({"annotations": noted}))
    with pytest.raises(DataError, match=r"annotations.json.*`answers` is .*expected a list of objects with `answer`"):
        samples(TABLE["vqav2-val"], vqav2)


def test_a_question_twice_is_refused(vqav2):
    path = vqav2 / "vqav2/vqav2_val.jsonl"
    path.write_text("\n".join([path.read_text(encoding="utf-8").splitlines()[0]] * 2), encoding="utf-8")
    with pytest.raises(DataError, match=r"vqav2_val.jsonl:2: `question_id`.*a second time"):
        samples(TABLE["vqav2-val"], vqav2)


def test_a_missing_picture_is_named(vqav2):
    (vqav2 / "vqav2/val2014/COCO_val2014_000000000042.jpg").unlink()
    with pytest.raises(DataError, match=r"vqav2_val.jsonl:1: .*COCO_val2014_000000000042.jpg.*put it at"):
        samples(TABLE["vqav2-val"], vqav2)


def test_secret_answers_are_handed_in(tmp_path):
    put(tmp_path, "vqav2/test2015/a.jpg")
    row = {"image": "data/vqav2/test2015/a.jpg", "question": "Who?", "question_id": 7}
    put(tmp_path, "vqav2/vqav2_testdev.jsonl", lines(row))
    task = TABLE["vqav2-testdev"]
    found = samples(task, tmp_path)
    assert found[0].answer is None
    rows = answered(task, found, ["a man"])
    assert rows[0].mark.score is None
    assert task.summarise(rows).values == {}
    assert "accuracy" in task.summarise(rows).withheld
    name, build = task.submission
    assert name == "vqav2-testdev.json"
    assert json.loads(build(rows)) == [{"question_id": 7, "answer": "a man"}]


@pytest.mark.parametrize(
    ("name", "file", "annotations", "ending"),
    [
        ("okvqa-val", "okvqa/okvqa_val.jsonl", "okvqa/mscoco_val2014_annotations.json", SHORT),
        ("textvqa-val", "textvqa/textvqa_val.jsonl", "textvqa/textvqa_val_annotations.json", SHORT),
        ("textvqa-val-ocr", "textvqa/textvqa_val_llava.jsonl", "textvqa/textvqa_val_annotations.json", SHORT),
        ("vizwiz-val", "vizwiz/vizwiz_val.jsonl", "vizwiz/vizwiz_val_annotations.json", UNSURE),
    ],
)
def test_the_family_of_vqa(tmp_path, name, file, annotations, ending):
    put(tmp_path, "coco/a.jpg")
    question = "What is this?\nReference OCR token: STOP" if name.endswith("ocr") else "What is this?"
    put(tmp_path, file, lines({"image": "data/coco/a.jpg", "question": question, "question_id": "q1", "answer": "x"}))
    noted = [{"question_id": "q1", "answers": people(*["stop sign"] * 3, *["sign"] * 7)}]
    put(tmp_path, annotations, json.dumps({"annotations": noted}))
    task = TABLE[name]
    found = samples(task, tmp_path)
    assert found[0].prompt == question + ending
    rows = answered(task, found, ["Stop-sign"])
    assert rows[0].mark.score == pytest.approx(0.9)
    assert "answer_type" not in task.summarise(rows).groups


def test_textvqa_table(tmp_path):
    answers = ["nokia"] * 9 + ["it's"]
    row = {"index": "34602", "image": IMAGE, "question": "What brand?", "answer": answers}
    put(tmp_path, "TextVQA_VAL.tsv", table(row))
    task = TABLE["textvqa-val"]
    (sample,) = samples(task, tmp_path)
    assert (sample.id, sample.prompt) == ("34602", "What brand?" + SHORT)
    assert sample.pictures[0].read() == png(7)
    assert sample.answer == answers
    assert task.mark(sample, "Nokia", compat=None).score == 1


def test_vizwiz_table_and_test(tmp_path):
    row = {"index": 0, "image": IMAGE, "question": "Which?", "answers": ["unanswerable"] * 10}
    put(tmp_path, "VizWiz.tsv", table(row))
    (sample,) = samples(TABLE["vizwiz-val"], tmp_path)
    assert sample.prompt == "Which?" + UNSURE
    assert TABLE["vizwiz-val"].mark(sample, "Unanswerable", compat="original").score == 1

    path = "data/vizwiz/test/VizWiz_test_00000000.jpg"
    put(tmp_path, path.removeprefix("data/"))
    put(tmp_path, "vizwiz/vizwiz_test.jsonl", lines({"image": path, "question": "Which?", "question_id": path}))
    task = TABLE["vizwiz-test"]
    found = samples(task, tmp_path)
    assert found[0].prompt == "Which?" + UNSURE
    handed_in = json.loads(task.submission[1](answered(task, found, ["7up"])))
    assert handed_in == [{"image": "VizWiz_test_00000000.jpg", "answer": "7up"}]


def test_gqa(tmp_path):
    put(tmp_path, "gqa/images/n1.jpg")
    file = "gqa/llava_gqa_testdev_balanced_qwen_format.jsonl"
    row = {"image": "data/gqa/images/n1.jpg", "question": "Is it overcast?", "question_id": "201307251"}
    put(tmp_path, file, lines(row))
    official = {"201307251": {"answer": "no", "imageId": "n1", "types": {"structural": "verify"}}}
    put(tmp_path, "gqa/testdev_balanced_questions.json", json.dumps(official))
    task = TABLE["gqa-testdev"]
    found = samples(task, tmp_path)
    assert found[0].prompt == "Is it overcast?" + SHORT
    assert task.mark(found[0], "No.", compat=None).score == 1
    assert task.mark(found[0], " No", compat=None).score == 1
    assert task.mark(found[0], " No", compat="original").score == 0
    assert task.mark(found[0], "Not", compat=None).score == 0
    assert task.summarise(answered(task, found, ["no"])).groups == {"type": {"verify": 100}}
    put(tmp_path, "gqa/testdev_balanced_questions.json", json.dumps({"201307251": {}}))
    with pytest.raises(DataError, match="question 201307251 has no `answer`"):
        samples(task, tmp_path)


def test_gqa_table(tmp_path):
    task = TABLE["gqa-testdev"]
    put(tmp_path, "GQA_TestDev_Balanced.tsv", table({"index": 1, "image": IMAGE, "question": "Sky?", "answer": "no"}))
    (sample,) = samples(task, tmp_path)
    assert task.mark(sample, "No", compat="original").score == 1


def test_ocrvqa(tmp_path):
    put(tmp_path, "ocrvqa/images/1.jpg")
    row = {"image": "data/ocrvqa/images/1.jpg", "question": "What genre?", "question_id": 5, "answer": "Law"}
    listed = {**row, "answer": ["Law", "Crime & law"]}
    bracketed = {**row, "answer": "['Law']"}
    put(tmp_path, "ocrvqa/ocrvqa_val.jsonl", lines(row, listed, bracketed))
    task = TABLE["ocrvqa-val"]
    found = samples(task, tmp_path)
    assert [sample.id for sample in found] == ["0", "1", "2"]  # the file has the same id for several questions
    rows = answered(task, found, [" law", "crime & law", "Law"])
    assert [row.mark.score for row in rows] == [1, 1, 0]  # in JSON, what looks like a list is a text
    assert task.summarise(rows).values == {"accuracy": pytest.approx(200 / 3)}


def test_ocrvqa_table(tmp_path):
    row = {"index": 0, "image": IMAGE, "question": "What genre?", "answer": "['Law', 'Crime']"}
    put(tmp_path, "OCRVQA_TEST.tsv", table(row, {**row, "index": 1, "answer": "[brackets]"}))
    found = samples(TABLE["ocrvqa-test"], tmp_path)
    assert [sample.answer for sample in found] == [["Law", "Crime"], ["[brackets]"]]


def test_lists():
    check_lists(TASKS, "vqa")
    for task in TASKS:
        assert all(score.metric == "accuracy" and 20 < score.value < 100 for score in task.published), task.name

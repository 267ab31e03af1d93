"""Benchmarks that a judge marks: what is asked, what the judge is told to the letter, what its words are worth."""

from __future__ import annotations

import hashlib
import json

import pytest

from internvl.errors import DataError
from internvl.evaluation.tasks.judge_prompts import LLAVA_BENCH, MM_VET, MM_VET_V2, MMHAL
from internvl.evaluation.tasks.judged import TASKS as ALL
from tests.evaluation import layouts
from tests.evaluation.layouts import IMAGE, check_lists, lines, put, table

TASKS = {task.name: task for task in ALL}


def samples(task, root):
    return layouts.samples(TASKS[task], root)


def test_lists():
    check_lists(ALL, "general")
    for task in ALL:
        assert task.judging.version
        assert task.judging.published


@pytest.mark.parametrize(
    ("prompt", "digest"),
    [
        (MM_VET, "d1b3e0a5b4e72c88"),
        (MM_VET_V2, "037f83092095d21f"),
        (LLAVA_BENCH, "2ce22b562d600886"),
        (MMHAL, "2c73d8c50f1740d0"),
    ],
)  # of the text in the benchmark's own repository
def test_what_judges_are_told_is_exact(prompt, digest):
    assert hashlib.sha256(prompt.encode()).hexdigest()[:16] == digest


def mmvet_folder(root):
    put(root, "mm-vet/images/v1_0.png")
    put(root, "mm-vet/llava-mm-vet.jsonl", lines({"question_id": 0, "image": "v1_0.png", "text": "What is x?"}))
    known = {
        "question": "What is x?",
        "answer": "-1<AND>-5<OR>five",
        "capability": ["ocr", "math"],
        "imagename": "v1_0.png",
    }
    put(root, "mm-vet/mm-vet.json", json.dumps({"v1_0": known}))


def test_mmvet_and_its_judge(tmp_path):
    mmvet_folder(tmp_path)
    [row] = samples("mmvet", tmp_path)
    task = TASKS["mmvet"]
    assert (row.id, row.prompt) == ("v1_0", "What is x? ")
    told = task.judging.prompt(row, "x = -1")
    assert told == f"{MM_VET}\nWhat is x? | -1 <AND> -5 <OR> five | x = -1 | "
    assert MM_VET.startswith("Compare the ground truth and prediction from AI models")
    assert MM_VET.count("\n") == 11
    found = task.summarise(layouts.judged(task, [row, row], ["0.5", "1.0 |"]))
    assert found.values == {"total": 75.0}
    assert found.groups["capability"] == {"math": 75.0, "ocr": 75.0}
    name, write = task.submission
    assert (name, json.loads(write(layouts.judged(task, [row], ["1"])))) == ("mmvet.json", {"v1_0": "It is."})


@pytest.mark.parametrize("verdict", ["", "good", "1.5", "-0.1", "nan", "Correctness: 0.5"])
def test_mmvet_verdicts_that_cannot_be_read(tmp_path, verdict):
    mmvet_folder(tmp_path)
    task, rows = TASKS["mmvet"], samples("mmvet", tmp_path)
    assert task.summarise(layouts.judged(task, rows, [verdict])).withheld
    assert not task.summarise(layouts.judged(task, rows, ["0.0"])).withheld


@pytest.mark.parametrize(("answer", "share"), [("-1 and -5", 1.0), ("-1", 0.5), ("FIVE", 1.0), ("two", 0.0)])
def test_the_rule_that_stands_in_for_the_judge_of_mmvet(tmp_path, answer, share):
    mmvet_folder(tmp_path)
    [row] = samples("mmvet", tmp_path)
    assert TASKS["mmvet"].mark(row, answer, compat=None).score == share


def test_mmvet_as_a_table_and_without_its_truth(tmp_path):
    row = {"index": 3, "question": "What?", "answer": "a", "category": "rec,ocr", "image": IMAGE}
    put(tmp_path / "table", "MMVet.tsv", table(row))
    [sample] = samples("mmvet", tmp_path / "table")
    assert (sample.prompt, sample.facts["capabilities"]) == ("What?", ["rec", "ocr"])
    mmvet_folder(tmp_path)
    put(tmp_path, "mm-vet/mm-vet.json", "{}")
    with pytest.raises(DataError, match=r"mm-vet\.json: `v1_0` is missing"):
        samples("mmvet", tmp_path)


def test_mmvet_v2_has_pictures_between_its_words(tmp_path):
    asked = {
        "v2_0": {"question": "Which is\nolder?<IMG>a.jpg<IMG>or this?<IMG>b.png", "answer": "a<OR>b\nc"},
        "v2_1": {"question": "What?<IMG>a.jpg", "answer": "a"},
    }
    known = {key: {**row, "capability": ["rec"], "added_in": "v2"} for key, row in asked.items()}
    put(tmp_path, "mm-vet-v2/mm-vet-v2.json", json.dumps(known))
    for name in ("a.jpg", "b.png"):
        put(tmp_path, f"mm-vet-v2/images/{name}")
    several, one = samples("mmvet-v2", tmp_path)
    assert several.prompt == "Which is\nolder?<image>or this?<image> Answer this question in detail."
    assert (len(several.pictures), one.prompt) == (2, "What? Answer this question in detail.")
    first, _ = samples("mmvet-v2-first", tmp_path)
    assert (len(first.pictures), first.prompt) == (1, "Which is\nolder? Answer this question in detail.")
    told = TASKS["mmvet-v2"].judging.prompt(several, "this\none")
    assert told == f"{MM_VET_V2}| Which is<br>older?<image>or this?<image> | a <OR> b<br>c | this<br>one | "
    put(tmp_path, "mm-vet-v2/mm-vet-v2.json", json.dumps({"v2_0": {**known["v2_0"], "question": "Why?"}}))
    with pytest.raises(DataError, match="v2_0: `question` names no picture"):
        samples("mmvet-v2", tmp_path)


def llava_folder(root):
    home = "llava-bench-in-the-wild"
    questions = [
        {"question_id": n, "image": "1.jpg", "text": "What is it?", "category": category}
        for n, category in enumerate(("conv", "detail"))
    ]
    put(root, f"{home}/questions.jsonl", lines(*questions))
    put(root, f"{home}/context.jsonl", lines({"id": 0, "image": "1.jpg", "caption": ["A bus.", "It is red."]}))
    put(root, f"{home}/answers_gpt4.jsonl", lines({"question_id": 0, "text": "A"}, {"question_id": 1, "text": "B"}))
    put(root, f"{home}/images/1.jpg")


def test_llava_bench_and_its_judge(tmp_path):
    llava_folder(tmp_path)
    rows = samples("llava-bench", tmp_path)
    task = TASKS["llava-bench"]
    assert rows[0].prompt == "What is it? Please give a detailed answer."
    assert task.judging.prompt(rows[1], "A red bus.") == (
        "[Context]\nA bus.\nIt is red.\n\n[Question]\nWhat is it?\n\n[Assistant 1]\nB\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\nA red bus.\n\n[End of Assistant 2]\n\n[System]\n{LLAVA_BENCH}\n\n"
    )
    assert LLAVA_BENCH.startswith("We would like to request your feedback")
    found = task.summarise(layouts.judged(task, rows, ["8 4\nBecause", "9, 9"]))
    assert found.values == {"relative": pytest.approx(100 * 13 / 17), "answer": 65.0, "reference": 85.0}
    assert found.groups["category"] == {"conv": 50.0, "detail": 100.0}
    assert task.mark(rows[0], "A bus", compat=None).score is None


@pytest.mark.parametrize("verdict", ["", "8", "8 9 7", "Assistant 1: 8", "0 5", "8 11"])
def test_llava_verdicts_that_cannot_be_read(tmp_path, verdict):
    llava_folder(tmp_path)
    task, rows = TASKS["llava-bench"], samples("llava-bench", tmp_path)
    assert task.summarise(layouts.judged(task, rows, [verdict, "8 8"])).withheld


def test_llava_bench_as_a_table_and_without_a_reference(tmp_path):
    row = {"index": 0, "question": "What?", "caption": "A bus.", "gpt4_ans": "A", "category": "conv", "image": IMAGE}
    put(tmp_path / "table", "LLaVABench.tsv", table(row))
    [sample] = samples("llava-bench", tmp_path / "table")
    assert sample.prompt == "What?\nAnswer this question in detail."
    llava_folder(tmp_path)
    put(tmp_path, "llava-bench-in-the-wild/answers_gpt4.jsonl", lines({"question_id": 0, "text": "A"}))
    with pytest.raises(DataError, match=r"questions\.jsonl:2: there is no reference answer to 1"):
        samples("llava-bench", tmp_path)

"""General benchmarks: rows in their published layouts, what is asked to the letter, what answers are worth."""

from __future__ import annotations

import builtins
import io
import json
from dataclasses import replace

import pytest

from internvl.errors import DataError, MissingExtra
from internvl.evaluation.tasks import TABLE, general, mmbench, mme, mme_realworld
from tests.evaluation import layouts
from tests.evaluation.layouts import IMAGE, check_lists, lines, png, put, table

MODULES = (general, mmbench, mme, mme_realworld)
TASKS = {task.name: task for module in MODULES for task in module.TASKS}
LETTER = "Answer with the option's letter from the given choices directly."
SHORT = "Answer the question using a single word or phrase."


def test_lists():
    check_lists(list(TASKS.values()), "general")
    assert len(TASKS) == sum(len(module.TASKS) for module in MODULES)


def samples(task, root):
    return layouts.samples(TASKS[task], root)


def answered(task, rows, answers, compat=None):
    return layouts.answered(TASKS[task], rows, answers, compat)


def scores(task, rows, answers, compat=None):
    return layouts.scores(TASKS[task], rows, answers, compat)


# ---- MMBench ---------------------------------------------------------------------------------------------------------


def rotations(question, options, truth, **more):
    """A question of MMBench with its options rotated, as in its tables."""
    letters = "ABCD"[: len(options)]
    for turn in range(len(options)):
        turned = options[turn:] + options[:turn]
        yield {
            "index": question + turn * 1_000_000,
            "question": f"Which {question}?",
            "hint": more.get("hint", ""),
            **dict(zip("ABCD", [*turned, "", "", ""], strict=False)),
            "answer": letters[turned.index(truth)] if truth else "",
            "category": more.get("category", "ocr"),
            "image": IMAGE,
            "source": "web",
            "l2-category": "fine",
            "comment": "",
            "split": "dev",
        }  # fmt: skip


def bench_rows():
    return [
        *rotations(5, ["red", "blue"], "blue", hint="Look."),
        *rotations(6, ["one", "two", "three"], "one", category="count"),
    ]


def test_mmbench_is_asked_as_the_original_and_the_toolkit_ask(tmp_path):
    put(tmp_path, "mmbench/mmbench_dev_20230712.tsv", table(*bench_rows()))
    rows = samples("mmbench-dev-en", tmp_path)
    assert rows[0].prompt == f"Look.\nWhich 5?\nA. red\nB. blue\n{LETTER}"
    assert rows[2].prompt == f"Which 6?\nA. one\nB. two\nC. three\n{LETTER}"
    assert [row.id for row in rows] == ["5", "1000005", "6", "1000006", "2000006"]
    assert [row.answer for row in rows] == ["B", "A", "A", "C", "B"]
    assert rows[0].pictures[0].read() == png(7)
    put(tmp_path, "mmbench/mmbench_dev_cn_20231003.tsv", table(*bench_rows()))
    assert samples("mmbench-dev-cn", tmp_path)[0].prompt.endswith("\n请直接回答选项字母。")


def test_the_table_of_the_toolkit_says_its_language_itself(tmp_path):
    row = next(rotations(5, ["红", "蓝"], "蓝"))
    put(tmp_path, "MMBench_DEV_EN.tsv", table(row, *rotations(6, ["one", "two"], "one")))
    asked = [sample.prompt.splitlines()[-1] for sample in samples("mmbench-dev-en", tmp_path)]
    assert asked == ["请直接回答选项字母。", LETTER, LETTER]


def test_mmbench_counts_what_is_right_in_every_rotation(tmp_path):
    put(tmp_path, "MMBench_DEV_EN_V11.tsv", table(*bench_rows()))
    rows = samples("mmbench-dev-en-v1.1", tmp_path)
    found = scores("mmbench-dev-en-v1.1", rows, ["B", "A.", "A", "(C)", "A"])
    assert found.values == {"accuracy": 50.0, "first order alone": 100.0}
    assert found.groups == {"l2-category": {"fine": 50.0}, "category": {"count": 0.0, "ocr": 100.0}}
    # The original reads no letter in "(C)" and does not need one in "blue it is".
    assert (
        scores("mmbench-dev-en-v1.1", rows, ["blue it is", "A", "A", "(C)", "B"], "original").values["accuracy"] == 50
    )
    assert scores("mmbench-dev-en-v1.1", rows[1:2], ["A"]).withheld  # only a later rotation was asked


def test_a_column_may_say_which_question_a_row_belongs_to(tmp_path):
    grouped = [{**row, "index": at, "g_index": 2 * (at // 2)} for at, row in enumerate(rotations(0, ["a", "b"], "a"))]
    put(tmp_path, "MMBench_DEV_EN.tsv", table(*grouped))
    rows = samples("mmbench-dev-en", tmp_path)
    assert scores("mmbench-dev-en", rows, ["A", "A"]).values == {"accuracy": 0.0, "first order alone": 100.0}


def test_the_test_set_is_handed_in_as_a_spreadsheet(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    secret = [
        {key: value for key, value in row.items() if key != "answer"} for row in rotations(5, ["red", "blue"], None)
    ]
    put(tmp_path, "mmbench/mmbench_test_en_20231003.tsv", table(*secret))
    rows = samples("mmbench-test-en", tmp_path)
    marked = answered("mmbench-test-en", rows, ["=B\x01", "It is blue"])
    assert [row.mark.score for row in marked] == [None, None]
    assert "2 of 2" in TASKS["mmbench-test-en"].summarise(marked).withheld["accuracy"]
    name, write = TASKS["mmbench-test-en"].submission
    assert name.endswith(".xlsx")
    sheet = openpyxl.load_workbook(io.BytesIO(write(marked))).active
    cells = [[cell.value for cell in row] for row in sheet.iter_rows()]
    assert cells[0] == ["index", "question", "A", "B", "C", "D", "prediction", "split"]
    assert cells[1] == [5, "Which 5?", "red", "blue", None, None, "=B", "dev"]
    assert cells[2][:1] + cells[2][6:] == [1_000_005, "A", "dev"]
    assert {sheet.cell(2, 7).data_type} == {"s"}  # what a model wrote is never a formula


def test_without_openpyxl_the_spreadsheet_says_how_to_get_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "openpyxl":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtra, match=r"internvl\[eval\]"):
        TASKS["mmbench-test-en"].submission[1]([])


def test_ccbench_is_asked_in_chinese_and_drops_two_columns(tmp_path):
    put(tmp_path, "mmbench/CCBench_legacy.tsv", table(*bench_rows()))
    rows = samples("ccbench-dev", tmp_path)
    assert rows[0].prompt == "Look.\nWhich 5?\nA. red\nB. blue\n请直接回答选项字母。"
    assert list(rows[0].facts["row"])[:8] == ["index", "question", "hint", "A", "B", "C", "D", "answer"]


# ---- MME -------------------------------------------------------------------------------------------------------------


def mme_release(root):
    for task in mme.TASK_NAMES:
        home = f"mme/MME_Benchmark_release_version/{task}"
        inner = ("images/", "questions_answers_YN/") if task in ("celebrity", "posters") else ("", "")
        put(root, f"{home}/{inner[0]}1.jpg")
        put(root, f"{home}/{inner[1]}1.txt", "Is it? Please answer yes or no.\tYes\nIs it not?\tNo\n")


def test_mme_in_the_authors_release(tmp_path):
    mme_release(tmp_path)
    rows = samples("mme", tmp_path)
    assert len(rows) == 28
    assert rows[0].prompt == f"Is it? Please answer yes or no. {SHORT}"
    assert (rows[0].answer, rows[1].answer, rows[0].facts["task"]) == ("yes", "no", "existence")
    assert TASKS["mme"].settings.max_new_tokens == 20
    found = scores("mme", rows, ["Yes", "No"] * 14)
    assert found.values == {"total": 2800.0, "perception": 2000.0, "cognition": 800.0}
    found = scores("mme", rows, ["Yes", "No", "yes", "是"] * 7)  # every other task: half right, no picture right
    assert found.groups["score"]["existence"] == 200
    assert (found.groups["acc"]["count"], found.groups["acc+"]["count"]) == (50, 0)
    assert scores("mme", rows, ["是", "否"] * 14, "original").values["total"] == 2800


def test_mme_asked_in_part_has_no_sums(tmp_path):
    mme_release(tmp_path)
    rows = samples("mme", tmp_path)
    found = scores("mme", rows[:-1], ["Yes", "No"] * 13 + ["Yes"])
    assert found.values == {"perception": 2000.0}
    assert "code_reasoning" in found.withheld["cognition"]
    assert "total" in found.withheld


def test_mme_by_the_originals_lists_and_as_a_table(tmp_path):
    mme_release(tmp_path)
    for task in mme.TASK_NAMES:
        put(tmp_path, f"mme/Your_Results/{task}.txt", "1.jpg\tIs it?\tYes\n1.jpg\tIs it not?\tNo\n")
    rows = samples("mme", tmp_path)
    assert rows[0].prompt == f"Is it? {SHORT}"
    assert len(rows) == 28
    put(tmp_path, "mme/Your_Results/count.txt", "1.jpg\tIs it?\tPerhaps\n")
    with pytest.raises(DataError, match=r"count\.txt:1: the answer is 'Perhaps'"):
        samples("mme", tmp_path)
    one = {
        "index": 1,
        "category": "OCR",
        "image_path": "OCR/1.jpg",
        "question": "Is it?",
        "answer": "Yes",
        "image": IMAGE,
    }
    put(tmp_path / "tables", "MME.tsv", table(one, {**one, "index": 2, "answer": "No"}))
    rows = samples("mme", tmp_path / "tables")
    assert (rows[1].prompt, rows[1].answer) == (f"Is it? {SHORT}", "no")
    assert scores("mme", rows, ["Yes", "Yes"]).groups["score"] == {"OCR": 50.0}


def test_mme_with_a_picture_missing(tmp_path):
    mme_release(tmp_path)
    (tmp_path / "mme/MME_Benchmark_release_version/count/1.jpg").unlink()
    with pytest.raises(DataError, match=r"count/1\.txt: the picture 1\.jpg is not in"):
        samples("mme", tmp_path)


# ---- SEED, tables, Tiny-LVLM -----------------------------------------------------------------------------------------


def test_seed_in_the_originals_layout(tmp_path):
    text = f"Where?\nA. here\nB. there\n{LETTER}"
    asked = [{"question_id": n, "image": f"SEED-Bench-image/{n}.png", "text": text, "answer": "A"} for n in (1, 2, 3)]
    put(tmp_path, "SEED/seed.jsonl", lines(*asked))
    types = {"Scene": 1, "Action": 10}
    questions = [{"question_id": n, "question_type_id": kind, "answer": "A"} for n, kind in ((1, 1), (2, 1), (3, 10))]
    put(tmp_path, "SEED/SEED-Bench.json", json.dumps({"question_type": types, "questions": questions}))
    for n in (1, 2, 3):
        put(tmp_path, f"SEED/SEED-Bench-image/{n}.png")
    rows = samples("seed", tmp_path)
    assert rows[0].prompt == text
    assert rows[0].facts["options"] == {"A": "here", "B": "there"}
    answers = ["A. here", "it is here", "Apparently"]
    assert scores("seed", rows, answers).values == {"image": 100.0, "video": 0.0, "total": pytest.approx(200 / 3)}
    original = scores("seed", rows, answers, "original")  # the first character, whatever it begins
    assert original.values == {"image": 50.0, "video": 100.0, "total": pytest.approx(200 / 3)}
    assert original.groups["category"] == {"Action": 100.0, "Scene": 50.0}
    put(tmp_path, "SEED/seed.jsonl", lines(*asked, {**asked[0], "question_id": 9}))
    with pytest.raises(DataError, match=r"seed\.jsonl:4: question 9 is not in"):
        samples("seed", tmp_path)


@pytest.mark.parametrize(("task", "file"), [
    ("seed", "SEEDBench_IMG"), ("seed-2-plus", "SEEDBench2_Plus"), ("mmstar", "MMStar"),
    ("realworldqa", "RealWorldQA"), ("mmt-bench", "MMT-Bench_ALL"), ("mmt-bench-val-mi", "MMT-Bench_VAL_MI"),
])  # fmt: skip
def test_tables_of_choices(tmp_path, task, file):
    one = {"index": 0, "question": "Which?", "A": "red", "B": "blue", "answer": "B", "category": "c", "image": IMAGE}
    two = {**one, "index": 1, "image": json.dumps([IMAGE, IMAGE]).replace('"', "'"), "category": "d"}
    put(tmp_path, f"{file}.tsv", table({**one, "l2-category": "x"}, {**two, "l2-category": "x"}))
    first, second = samples(task, tmp_path)
    assert first.prompt == f"Which?\nA. red\nB. blue\n{LETTER}"
    assert second.prompt == f"Image-1: <image>\nImage-2: <image>\n{first.prompt}"
    assert len(second.pictures) == 2
    found = scores(task, [first, second], ["The answer is (B)", "either"])
    assert next(iter(found.values.values())) == 50
    assert found.groups["category"] == {"c": 100.0, "d": 0.0}


def test_several_pictures_of_mmt_have_six_tiles_each_as_with_vlmevalkit():
    settings = TABLE["mmt-bench-val-mi"].settings
    assert (settings.max_tiles, settings.together) == (6, 64)


def test_a_subject_of_mmt_is_the_mean_of_its_tasks(tmp_path):
    row = {"question": "Which?", "A": "red", "B": "blue", "answer": "B", "image": IMAGE, "l2-category": "ocr"}
    asked = [{"index": n, **row, "category": category} for n, category in enumerate("aaab")]
    put(tmp_path, "MMT-Bench_VAL.tsv", table(*asked))
    found = scores("mmt-bench-val", samples("mmt-bench-val", tmp_path), ["B", "B", "B", "A"])
    assert found.values == {"accuracy": 75.0}
    assert found.groups["l2-category"] == {"ocr": 50.0}


def test_tiny_lvlm_is_a_sum(tmp_path):
    for task in general.TINY_TASKS:
        home = f"tiny_lvlm/updated_datasets/{task}"
        put(tmp_path, f"{home}/1.png")
        asked = [
            {"image_path": "1.png", "question": "What?", "gt_answers": truth}
            for truth in ("red bus", ["dog house", "cat"])
        ]
        put(tmp_path, f"{home}/dataset.json", json.dumps(asked))
    rows = samples("tiny-lvlm", tmp_path)
    assert (rows[0].prompt, rows[0].answer, rows[1].answer) == (f"What? {SHORT}", ["red bus"], ["dog house", "cat"])
    assert scores("tiny-lvlm", rows, ["A red bus.", "dog"] * 5).values == {"sum": 2.5}
    assert "Object_Hallucination" in scores("tiny-lvlm", rows[:8], ["bus", "cat"] * 4).withheld["sum"]


# ---- MME-RealWorld ---------------------------------------------------------------------------------------------------

CHOICES = ["(A) red", "(B) blue", "(C) green", "(D) grey", "(E) The image does not say."]


def realworld_json(root):
    home = "InternVL-Domain-Adaptation-Data/MME-RealWorld"
    row = {
        "Question_id": "m/1", "Image": "m/1.png", "Text": "Which?", "Answer choices": CHOICES, "Ground truth": "B",
        "Category": "color", "Subtask": "Monitoring", "Task": "Perception", "Question Type": "Multiple Choice",
    }  # fmt: skip
    put(root, f"{home}/val/MME_RealWorld.json", json.dumps([row, {**row, "Question_id": "m/2", "Task": "Reasoning"}]))
    put(root, f"{home}/images/MME-RealWorld/data/m/1.png")


def test_realworld_in_the_authors_json_and_as_the_original_asked(tmp_path):
    realworld_json(tmp_path)
    rows = samples("mme-realworld", tmp_path)
    said = (
        "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter "
        "(A, B, C, D, or E) of the correct option. \nThe best answer is:"
    )
    assert rows[0].prompt == "Which? The choices are listed below:\n" + "\n".join(CHOICES) + "\n" + said
    found = scores("mme-realworld", rows, ["(B)", "The best answer is: A"])
    assert found.values == {"accuracy": 50.0}
    assert found.groups["task / subtask"] == {"Perception / Monitoring": 100.0, "Reasoning / Monitoring": 0.0}
    swapped = samples("mme—realworld", tmp_path)
    broken = said.replace("image. Respond", "image." + 13 * " " + "Respond")
    assert swapped[0].prompt == "Which?选项如下所示:\n" + "\n".join(CHOICES) + "\n" + broken


def test_realworld_tables(tmp_path):
    row = {
        "index": 0, "image": IMAGE, "question": "Which?", "multi-choice options": str(CHOICES), "answer": "B",
        "category": "Perception/Monitoring", "l2-category": "color",
    }  # fmt: skip
    put(tmp_path, "MME-RealWorld-Lite.tsv", table(row))
    [lite] = samples("mme-realworld-lite", tmp_path)
    assert lite.prompt.startswith("Which? The choices are listed below:\n(A) red\n(B) blue\n")
    assert (lite.facts["subtask"], lite.facts["options"]["E"]) == ("Monitoring", "The image does not say.")
    whole = '"' + "选项如下所示:\n" + "\n".join(CHOICES) + '"'
    put(tmp_path, "MME-RealWorld-CN.tsv", table({**row, "multi-choice options": whole}))
    [chinese] = samples("mme-realworld-cn", tmp_path)
    assert chinese.prompt.startswith("Which? 选项如下所示:\n(A) red\n")
    assert chinese.prompt.endswith("\n最佳答案为：")
    put(tmp_path, "MME-RealWorld-Lite.tsv", table({**row, "multi-choice options": "__import__('os')"}))
    with pytest.raises(DataError, match="row 1: `multi-choice options` is"):
        samples("mme-realworld-lite", tmp_path)


def test_a_mark_needs_no_more_than_the_sample(tmp_path):
    realworld_json(tmp_path)
    row = samples("mme-realworld", tmp_path)[0]
    assert TASKS["mme-realworld"].mark(replace(row, pictures=()), "blue", compat=None).parsed == "B"

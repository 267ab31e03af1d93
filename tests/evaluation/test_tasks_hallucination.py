"""Hallucination benchmarks: rows in their published layouts, what is asked to the letter, what answers are worth."""

from __future__ import annotations

import json

import pytest

from internvl.errors import DataError
from internvl.evaluation.tasks.hallucination import TASKS as ALL
from tests.evaluation import layouts
from tests.evaluation.layouts import IMAGE, check_lists, lines, png, put, table

TASKS = {task.name: task for task in ALL}
SHORT = "Answer the question using a single word or phrase."
CATEGORIES = ("random", "popular", "adversarial")


def samples(task, root):
    return layouts.samples(TASKS[task], root)


def scores(task, rows, answers):
    first, second = (layouts.scores(TASKS[task], rows, answers, compat) for compat in (None, "original"))
    assert first == second  # what is published of these follows one rule
    return first


def test_lists():
    check_lists(ALL, "hallucination")


# ---- POPE ------------------------------------------------------------------------------------------------------------


def pope_folder(root):
    """Two questions a category; those of a category do not stand together."""
    put(root, "pope/val2014/1.jpg")
    asked = [
        {"question_id": 10 * at + n, "image": "1.jpg", "text": f"Is there a {what}?\n{SHORT}", "category": category}
        for n, what in enumerate(("dog", "cat"))
        for at, category in enumerate(CATEGORIES)
    ]
    put(root, "pope/llava_pope_test.jsonl", lines(*asked))
    for category in CATEGORIES:
        truths = [
            {"question_id": n, "image": "1.jpg", "text": f"Is there a {what}?", "label": label}
            for n, (what, label) in enumerate((("dog", "yes"), ("cat", "no")), start=1)
        ]
        put(root, f"pope/coco/coco_pope_{category}.json", lines(*truths))


def test_pope_in_the_originals_layout(tmp_path):
    pope_folder(tmp_path)
    rows = samples("pope", tmp_path)
    assert rows[0].prompt == f"Is there a dog?\n{SHORT}"
    assert [row.answer for row in rows] == ["yes"] * 3 + ["no"] * 3
    assert rows[1].facts == {"categories": ["popular"]}
    found = scores("pope", rows, ["Yes", "No", "It is.", "Yes, a cat", "There is not a cat", "no"])
    assert found.values == {
        "F1": pytest.approx((200 / 3 + 0 + 100) / 3),
        "F1 random": pytest.approx(200 / 3),
        "F1 popular": 0.0,
        "F1 adversarial": 100.0,
    }
    assert found.groups["yes ratio"] == {"random": 100.0, "popular": 0.0, "adversarial": 50.0}
    assert found.groups["accuracy"]["popular"] == 50
    assert "popular, adversarial" in scores("pope", rows[:1], ["yes"]).withheld["F1"]


def test_pope_thought_about_first(tmp_path):
    pope_folder(tmp_path)
    rows = samples("pope-cot", tmp_path)
    assert rows[0].prompt.startswith("Your task is to answer the question below.")
    assert rows[0].prompt.endswith("Question:\n\nIs there a dog?")
    thought = "There is no cat.\nFinal answer: {}"
    found = scores("pope-cot", rows, [thought.format(said) for said in ["Yes"] * 3 + ["No"] * 3])
    assert found.values["F1"] == 100


def test_pope_refuses_truths_that_belong_to_other_questions(tmp_path):
    pope_folder(tmp_path)
    one = {"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}
    put(tmp_path, "pope/coco/coco_pope_popular.json", lines(one, {**one, "text": "Is there a cow?"}))
    with pytest.raises(
        DataError, match=r"llava_pope_test\.jsonl:5: coco_pope_popular\.json has 1\.jpg: Is there a cow"
    ):
        samples("pope", tmp_path)
    put(tmp_path, "pope/coco/coco_pope_popular.json", lines(one))
    with pytest.raises(DataError, match=r"llava_pope_test\.jsonl:5: coco_pope_popular\.json has nothing"):
        samples("pope", tmp_path)


def test_pope_as_a_table(tmp_path):
    row = {"index": 0, "image": IMAGE, "question": "Is it? Please answer yes or no.", "answer": "Yes"}
    shared = {**row, "category": "random,popular,adversarial"}
    put(tmp_path, "POPE.tsv", table(shared, {**shared, "index": 1, "answer": "No", "category": "popular"}))
    rows = samples("pope", tmp_path)
    assert (rows[0].prompt, rows[0].pictures[0].read()) == ("Is it? Please answer yes or no.", png(7))
    assert scores("pope", rows, ["Yes", "Yes"]).values["F1 popular"] == pytest.approx(200 / 3)


# ---- HallusionBench --------------------------------------------------------------------------------------------------


def hallusion_rows():
    for figure in (0, 1):
        for question in (0, 1):
            yield {
                "index": f"VD_illusion_1_0_{figure}_{question}",
                "question": f"Is it {question}?",
                "answer": "Yes" if figure == question else "No",
                "category": "VD",
                "l2-category": "VD_illusion",
                "image": IMAGE,
            }
    unseen = {"index": "VS_chart_0_0_0_0", "question": "Is it so?", "answer": "No", "category": "VS"}
    yield {**unseen, "l2-category": "VS_chart"}


def test_hallusionbench(tmp_path):
    put(tmp_path, "HallusionBench.tsv", table(*hallusion_rows()))
    rows = samples("hallusionbench", tmp_path)
    assert len(rows) == 4  # the question without a picture is not asked
    assert rows[0].prompt == f"Is it 0? Please answer yes or no. {SHORT}"
    found = scores("hallusionbench", rows, ["Yes.", "no", "No", "Yes and no"])
    assert found.values == {"average": pytest.approx(175 / 3), "aAcc": 75.0, "fAcc": 50.0, "qAcc": 50.0}
    assert found.groups["fAcc"] == {"VD": 50.0, "VD_illusion": 50.0}


def test_hallusionbench_wants_its_numbers(tmp_path):
    put(tmp_path, "HallusionBench.tsv", table({**next(hallusion_rows()), "index": "VD_illusion_1"}))
    with pytest.raises(DataError, match="row 1: `index` is 'VD_illusion_1'; expected category_"):
        samples("hallusionbench", tmp_path)


# ---- CRPE ------------------------------------------------------------------------------------------------------------


def crpe_rows(truth):
    """Two questions of four turns; the options are rotated, so that each turn has another true letter."""
    options = ["on top of", "under", "beside", "inside"]
    for number in range(8):
        turned = options[number % 4 :] + options[: number % 4]
        listed = "\n".join(f"{key}. {text}" for key, text in zip("ABCD", turned, strict=True))
        key = "ABCD"[turned.index("under")]
        yield {
            "index": number,
            "question": f"Where?\n{listed}",
            "answer": truth.format(key=key),
            "category": "predicate" if number < 4 else "object",
            "image_path": "a.png",
        }


def quoted(row):
    return {**row, "question": f'"{row["question"]}"'}


@pytest.mark.parametrize("truth", ["{key}", "{key}. under", "({key}) under"])
def test_crpe_as_a_table(tmp_path, truth):
    put(tmp_path, "CRPE_RELATION.tsv", table(*map(quoted, crpe_rows(truth))))
    put(tmp_path, "images/CRPE_RELATION/a.png")
    rows = samples("crpe-relation", tmp_path)
    assert rows[0].prompt.startswith("Where?\nA. on top of\nB. under\n")
    assert [row.answer for row in rows] == list("BADC") * 2
    found = scores("crpe-relation", rows, ["B", "A. under", "It is under", "C", *"BADD"])
    assert found.values == {"accuracy": 50.0}
    assert found.groups["category"] == {"object": 0.0, "predicate": 100.0}
    assert scores("crpe-relation", rows[:6], "BADCBA").values == {"accuracy": 100.0}  # the second was asked in part
    assert scores("crpe-relation", rows[:3], "BAD").withheld


def test_crpe_in_the_authors_lines(tmp_path):
    asked = [
        {
            "question_id": n,
            "image": "a.png",
            "text": row["question"],
            "category": "exist",
            "correct_option": row["answer"],
        }
        for n, row in enumerate(crpe_rows("{key}"))
    ]
    put(tmp_path, "crpe/crpe_exist.jsonl", lines(*asked))
    put(tmp_path, "crpe/a.png")
    rows = samples("crpe-exist", tmp_path)
    assert scores("crpe-exist", rows, "BADC" * 2).values == {"accuracy": 100.0}
    assert scores("crpe-exist", rows, ["it is not there"] * 8).values == {"accuracy": 0.0}
    put(tmp_path, "crpe/crpe_exist.jsonl", lines({**asked[0], "correct_option": "F"}))
    with pytest.raises(DataError, match=r"crpe_exist\.jsonl:1: `correct_option` is 'F'"):
        samples("crpe-exist", tmp_path)


# ---- MMHal-Bench -----------------------------------------------------------------------------------------------------


def mmhal_row(**more):
    return {
        "question_type": "counting", "question_topic": "food", "image": IMAGE, "image_content": ["Cat", "Lynx"],
        "question": "How many {cats}?", "gt_answer": "Two.", **more,
    }  # fmt: skip


def test_mmhal_and_its_judge(tmp_path):
    put(tmp_path, "mm-halbench/mmhal-bench_with_image.jsonl", lines(mmhal_row(), mmhal_row(question_type="other")))
    rows = samples("mmhal", tmp_path)
    task = TASKS["mmhal"]
    assert (rows[0].prompt, rows[0].pictures[0].read()) == ("How many {cats}?", png(7))
    asked = task.judging.prompt(rows[0], "There are {two}.")
    assert asked.startswith("Please act as an impartial and objective judge")
    assert asked.endswith(
        "### Image Contents\nCat, Lynx\n\n### Question\nHow many {cats}?\n\n"
        "### Standard Human-Generated Answer\nTwo.\n\n### LMM Response to Evaluate\nThere are {two}.\n"
    )
    marked = layouts.judged(
        task, rows, ["It is right.\nRating: 6, very informative", "So - Rating: 2, with hallucination"]
    )
    found = task.summarise(marked)
    assert found.values == {"score": 4.0, "hallucination": 50.0}
    assert found.groups["question_type"] == {"counting": 6.0, "other": 2.0}


@pytest.mark.parametrize("verdict", ["", "I like it", "Rating: 3 or rather Rating: 4"])
def test_a_verdict_that_cannot_be_read_is_no_mark(tmp_path, verdict):
    put(tmp_path, "mm-halbench/mmhal-bench_with_image.jsonl", lines(mmhal_row()))
    rows = samples("mmhal", tmp_path)
    task = TASKS["mmhal"]
    assert task.summarise(layouts.judged(task, rows, [verdict])).withheld
    assert task.mark(rows[0], "Two.", compat=None).score is None  # no rule stands in for the judge


def test_mmhal_with_damaged_base64(tmp_path):
    put(tmp_path, "mm-halbench/mmhal-bench_with_image.jsonl", json.dumps(mmhal_row(image="!!!!")))
    [row] = samples("mmhal", tmp_path)
    with pytest.raises(DataError, match=r"mmhal-bench_with_image\.jsonl:1: bad base64"):
        row.pictures[0].read()

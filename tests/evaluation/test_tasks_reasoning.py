"""Benchmarks of reasoning: rows in their published layouts, what is asked to the letter, what answers are worth."""

from __future__ import annotations

import json

import pytest

from internvl.errors import DataError
from internvl.evaluation.benchmark import Marked
from internvl.evaluation.tasks import TABLE, mathematics, mmmu, problems, science
from internvl.metrics.mmmu import SUBJECTS
from tests.evaluation import layouts
from tests.evaluation.layouts import IMAGE, check_lists, lines, png, put, table

MODULES = (mmmu, mathematics, problems, science)
TASKS = {task.name: task for module in MODULES for task in module.TASKS}
LETTER = "Answer with the option's letter from the given choices directly."
SHORT = "Answer the question using a single word or phrase."


def test_lists():
    check_lists(list(TASKS.values()), "reasoning")
    assert len(TASKS) == sum(len(module.TASKS) for module in MODULES)


def samples(task, root):
    return layouts.samples(TASKS[task], root)


def answered(task, rows, answers, compat=None):
    return layouts.answered(TASKS[task], rows, answers, compat)


def marks(task, rows, answers, compat=None):
    return [row.mark.score for row in answered(task, rows, answers, compat)]


def scores(task, rows, answers, compat=None):
    return layouts.scores(TASKS[task], rows, answers, compat)


def parquet(root, name, rows):
    """A parquet file of the hub; pictures are structs {bytes, path}."""
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_table(pyarrow.Table.from_pylist(rows), path)


def picture(shade):
    return {"bytes": png(shade), "path": f"{shade}.png"}


# ---- MMMU ------------------------------------------------------------------------------------------------------------


def mmmu_row(identifier, **more):
    return {
        "id": identifier, "question": " Which of <image 1> and <image 2>? ", "options": "['red ', 'it\\'s blue']",
        "answer": "B", "question_type": "multiple-choice", "topic_difficulty": "Easy", "image_1": picture(1),
        "image_2": picture(2), **{f"image_{number}": None for number in range(3, 8)}, **more,
    }  # fmt: skip


def mmmu_folder(root, *, split="validation", answer="B"):
    """All thirty subjects; Math has an open question too."""
    for name in SUBJECTS:
        rows = [mmmu_row(f"{split}_{name}_1", answer=answer)]
        if name == "Math":
            open_question = {"options": "[]", "question_type": "open", "answer": "['7', 'seven']", "image_2": None}
            rows.append(mmmu_row(f"{split}_{name}_2", **open_question))
        parquet(root, f"MMMU/{name}/{split}-00000-of-00001.parquet", rows)


def test_mmmu_is_asked_as_the_original_asks(tmp_path):
    mmmu_folder(tmp_path)
    rows = samples("mmmu-val", tmp_path)
    assert len(rows) == 31
    assert rows[0].id == "validation_Accounting_1"
    assert rows[0].prompt == f"Which of <image 1> and <image 2>?\nA. red\nB. it's blue\n{LETTER}"
    assert [(each.enlarge, each.max_tiles, each.read()) for each in rows[0].pictures] == [
        (2, None, png(1)),
        (1, 1, png(2)),
    ]
    assert rows[0].facts["domain"] == "Business"
    number = next(row for row in rows if row.id == "validation_Math_2")
    assert number.prompt == f"Which of <image 1> and <image 2>?\n{SHORT}"
    assert number.answer == ["7", "seven"]
    settings = TASKS["mmmu-val"].settings
    assert (settings.max_new_tokens, settings.max_tiles) == (10, 6)
    assert settings.together >= 6 * len(rows[0].pictures)  # the first has all six tiles, whatever else there is


def test_mmmu_is_scored_by_subject_and_domain(tmp_path):
    mmmu_folder(tmp_path)
    rows = samples("mmmu-val", tmp_path)
    answers = ["The result is 7.0" if row.id.endswith("_2") else "B" for row in rows]
    right = scores("mmmu-val", rows, answers)
    assert right.values == {"accuracy": 100.0}
    assert right.groups["subject"]["Math"] == 100.0
    answers = ["6" if row.id.endswith("_2") else "(B)" for row in rows]
    found = scores("mmmu-val", rows, answers)
    assert found.values["accuracy"] == pytest.approx(3000 / 31)
    assert found.groups["domain"]["Science"] == pytest.approx(500 / 6)
    assert scores("mmmu-val", rows, answers, "original").values["accuracy"] == 0  # `(B)` is not B there


def test_mmmu_test_is_for_the_server(tmp_path):
    mmmu_folder(tmp_path, split="test", answer="?")
    rows = samples("mmmu-test", tmp_path)
    found = answered("mmmu-test", rows[:2], ["B.", "A"])
    assert [row.mark.score for row in found] == [None, None]
    name, write = TASKS["mmmu-test"].submission
    assert name == "mmmu_test.json"
    assert json.loads(write(found)) == {"test_Accounting_1": "B", "test_Agriculture_1": "A"}


def test_mmmu_as_the_toolkit_asks(tmp_path):
    images = f"['{IMAGE}', '{IMAGE}']"
    first = {"index": 1, "question": "Which of <image 1> and <image 2>?", "A": "red", "B": "blue", "answer": "B",
             "split": "validation", "category": "Math", "image": images}  # fmt: skip
    number = {**first, "index": 2, "question": "How many?", "A": "", "B": "", "answer": "seven", "image": IMAGE}
    put(tmp_path, "MMMU_DEV_VAL.tsv", table(first, number, {**first, "index": 3, "split": "dev"}))
    rows = samples("mmmu-val-vlmevalkit", tmp_path)
    assert [row.id for row in rows] == ["1", "2"]
    numbered = "Image-1: <image>\nImage-2: <image>\n"
    assert rows[0].prompt == f"{numbered}Which of <image 1> and <image 2>?\nA. red\nB. blue\n{LETTER}"
    assert rows[1].prompt == "How many?\nAnswer the question directly."
    assert [each.enlarge for each in rows[0].pictures] == [2, 1]
    assert marks("mmmu-val-vlmevalkit", rows, ["The answer is B", "There are seven of them"]) == [1, 1]
    assert marks("mmmu-val-vlmevalkit", rows, ["red", "eight"]) == [0, 0]
    assert TASKS["mmmu-val-vlmevalkit"].settings.together == 64
    assert [row.id for row in samples("mmmu-dev-vlmevalkit", tmp_path)] == ["3"]


def pro_row(**more):
    return {
        "id": "test_Math_1", "question": "See <image 2>, then <image 1>, then <image 2>.", "options": "['one', 'two']",
        "answer": "B", "subject": "Math", "topic_difficulty": "Hard",
        **{f"image_{number}": picture(number) if number < 4 else None for number in range(1, 8)}, **more,
    }  # fmt: skip


def test_mmmu_pro_places_its_pictures_where_they_are_mentioned(tmp_path):
    parquet(tmp_path, "MMMU_Pro/standard (10 options)/test-00000-of-00001.parquet", [pro_row()])
    (row,) = samples("mmmu-pro-std10", tmp_path)
    assert row.prompt == (
        "<image>\nSee <image>, then <image>, then <image>.\nA. one\nB. two\n"
        "Answer with the option letter from the given choices directly."
    )
    assert [each.read() for each in row.pictures] == [png(3), png(2), png(1), png(2)]
    (thinking,) = samples("mmmu-pro-std10-cot", tmp_path)
    assert thinking.prompt.endswith(
        "\nB. two\nAnswer the preceding multiple choice question. The last line of your response should be of the "
        "following format: 'Answer: $LETTER' (without quotes) where LETTER is one of options. Think step by step "
        "before answering."
    )
    assert marks("mmmu-pro-std10", [row] * 2, ["Not A.\nAnswer: B", "A."]) == [1, 0]


def test_mmmu_pro_in_the_picture(tmp_path):
    shown = {"id": "test_Art_1", "image": picture(5), "answer": "C", "subject": "Art"}
    rows = [{**shown, "options": "['a', 'b', 'c']"}, {**shown, "id": "test_Art_2", "options": "['a, 'b']"}]
    parquet(tmp_path, "MMMU_Pro/vision/test-00000-of-00001.parquet", rows)
    found = samples("mmmu-pro-vision", tmp_path)
    assert found[0].prompt == (
        "Answer with the option letter from the given choices directly. The last line of your response should be of "
        "the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of options."
    )
    assert found[0].pictures[0].read() == png(5)
    assert marks("mmmu-pro-vision", found, ["Answer: C", "Answer: C"]) == [1, 1]
    assert found[1].facts["options"].keys() == set("ABCDEFGHIJ")  # its list is no list, but its letters are known


# ---- MathVista -------------------------------------------------------------------------------------------------------


def vista_rows():
    about = {"category": "math", "context": "table", "grade": "high school", "language": "english", "source": "X",
             "task": "math word problem"}  # fmt: skip
    free = {"pid": "1", "query": "Hint: an integer.\nQuestion: How many?", "decoded_image": picture(1), "choices": None,
            "precision": None, "answer": "7", "question_type": "free_form", "answer_type": "integer",
            "metadata": {**about, "skills": ["arithmetic", "logic"]}}  # fmt: skip
    choice = {**free, "pid": "2", "query": "Which?", "choices": ["red", "blue"], "answer": "blue",
              "question_type": "multi_choice", "answer_type": "text",
              "metadata": {**about, "skills": ["arithmetic"]}}  # fmt: skip
    decimal = {**free, "pid": "3", "query": "Share?", "precision": 2.0, "answer": "0.33", "answer_type": "float"}
    return [free, choice, decimal]


def test_mathvista_by_rule(tmp_path):
    parquet(tmp_path, "MathVista/data/testmini-00000-of-00001-725687bf7a18d64b.parquet", vista_rows())
    rows = samples("mathvista-testmini", tmp_path)
    assert rows[0].prompt == "Hint: an integer.\nQuestion: How many?"
    assert rows[1].facts["choices"] == ["red", "blue"]
    thinking = samples("mathvista-testmini-cot", tmp_path)
    assert thinking[1].prompt.endswith('the format "Final answer: .."\n\nQuestion:\n\nWhich?')
    assert TASKS["mathvista-testmini-cot"].judging is None
    found = scores("mathvista-testmini-cot", thinking, ["Final answer: 7", "Final answer: (B)", "Final answer: 1/3"])
    assert found.values["accuracy"] == pytest.approx(200 / 3)
    assert found.groups["skills"] == {"arithmetic": pytest.approx(200 / 3), "logic": 50.0}
    assert found.groups["answer_type"] == {"float": 0.0, "integer": 100.0, "text": 100.0}


def test_mathvista_by_a_judge(tmp_path):
    parquet(tmp_path, "MathVista/data/testmini-00000-of-00001.parquet", vista_rows())
    rows, judging = samples("mathvista-testmini", tmp_path), TASKS["mathvista-testmini"].judging
    asked = judging.prompt(rows[0], "I see {question} seven.")
    assert "Question: Hint: an integer.\nQuestion: How many?\nWritten: I see {question} seven.\nFinal answer:" in asked
    found = layouts.judged(TASKS["mathvista-testmini"], rows, ["7", "Final answer: B\n", "0.333"])
    assert [row.mark.score for row in found] == [1, 1, 1]
    assert judging.parse(rows[0], "").score == 0  # the judge says that there is no answer


def test_mathvista_test_keeps_its_truth(tmp_path):
    secret = [{**row, "answer": ""} for row in vista_rows()]
    parquet(tmp_path, "MathVista/data/test-00000-of-00002.parquet", secret)
    rows = samples("mathvista-test", tmp_path)
    found = answered("mathvista-test", rows[:1], ["Answer: 7"])
    assert found[0].mark.score is None
    assert json.loads(TASKS["mathvista-test"].submission[1](found)) == {
        "1": {"response": "Answer: 7", "extraction": "7"}
    }


def test_mathvista_as_a_table(tmp_path):
    row = {"index": 4, "question": "Hint: a letter. Which?", "answer": "blue", "question_type": "multi_choice",
           "answer_type": "text", "choices": "['red', 'blue']", "skills": "['logic']", "task": "geometry",
           "image": IMAGE}  # fmt: skip
    share = {**row, "index": 5, "answer": "0.3", "question_type": "free_form", "answer_type": "float", "choices": ""}
    put(tmp_path, "MathVista_MINI.tsv", table(row, share))
    rows = samples("mathvista-testmini", tmp_path)
    assert [row.id for row in rows] == ["4", "5"]
    assert marks("mathvista-testmini", rows, ["Answer: B", "Answer: 0.33"]) == [1, 1]


# ---- MATH-Vision and MathVerse ---------------------------------------------------------------------------------------


def test_mathvision_in_its_repository(tmp_path):
    problem = {"id": "3", "question": "Which?\n<image1>", "options": ["1", "2", "3", "4", "5"], "answer": "C",
               "level": 2, "subject": "logic", "image": "images/3.jpg"}  # fmt: skip
    free = {**problem, "id": "4", "options": [], "answer": "60"}
    bare = {**problem, "id": "5", "options": list("ABCDE")}
    put(tmp_path, "MATH-V/data/testmini.jsonl", lines(problem, free, bare))
    put(tmp_path, "MATH-V/images/3.jpg")
    rows = samples("mathvision-mini", tmp_path)
    start = (
        'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a multiple choice '
        'question, only one letter is allowed in the "\\boxed{}".\nWhich?\n<image1>\n'
    )
    assert rows[0].prompt == start + "(A) 1\n(B) 2\n(C) 3\n(D) 4\n(E) 5\n"
    assert rows[1].prompt == rows[2].prompt == start
    found = scores("mathvision-mini", rows, ["\\boxed{3}", "The answer is 60.", "\\boxed{B}"])
    assert found.values["accuracy"] == pytest.approx(200 / 3)
    assert found.groups == {
        "subject": {"logic": pytest.approx(200 / 3)},
        "level": {"2": pytest.approx(200 / 3)},
    }
    judged = layouts.judged(TASKS["mathvision-mini-judged"], rows, ["C", "60.0", "none"])
    assert [row.mark.score for row in judged] == [1, 1, 0]


def test_mathvision_as_a_table(tmp_path):
    row = {"index": 3, "question": "Hint: a letter.\\nQuestion: Which?", "choices": "['1', '2', '3', '4', '5']",
           "answer": "C", "category": "logic", "image": IMAGE}  # fmt: skip
    put(tmp_path, "MathVision.tsv", table(row))
    (found,) = samples("mathvision", tmp_path)
    assert found.facts == {"subject": "logic", "options": ["1", "2", "3", "4", "5"]}
    assert marks("mathvision", [found] * 3, ["(C)", "The answer is 3", "2"]) == [1, 1, 0]


def verse_row(**more):
    return {
        "sample_index": "1", "problem_index": "1", "problem_version": "Text Dominant", "question": "Find x.",
        "image": "images_version_1-4/image_1.png", "answer": "A", "question_type": "multi-choice",
        "metadata": {"split": "testmini", "subject": "Plane Geometry", "subfield": "Angle"},
        "query_wo": "Please directly answer the question and provide the correct option letter.\nFind x.",
        "query_cot": "Please first conduct reasoning.\nFind x.", "question_for_eval": "Find x.", **more,
    }  # fmt: skip


def test_mathverse(tmp_path):
    free = verse_row(sample_index="2", problem_version="Vision Only", question_type="free-form", answer="0.5")
    put(tmp_path, "MathVerse/testmini.json", json.dumps([verse_row(), free]))
    put(tmp_path, "MathVerse/images/images_version_1-4/image_1.png")
    rows = samples("mathverse", tmp_path)
    assert samples("mathverse-cot", tmp_path)[0].prompt == "Please first conduct reasoning.\nFind x."
    asked = TASKS["mathverse"].judging.prompt(rows[1], "half {truth}")
    assert asked.endswith("Question: Find x.\nTrue answer: 0.5\nWritten: half {truth}\n")
    found = layouts.judged(TASKS["mathverse"], rows, ["Extracted: B\nJudgement: 0", "Extracted: 1/2\nJudgement: 1"])
    assert [(row.mark.score, row.mark.parsed) for row in found] == [(0, "B"), (1, "1/2")]
    assert TASKS["mathverse"].judging.parse(rows[0], "I cannot tell.").score is None
    assert TASKS["mathverse"].summarise(found).groups["problem_version"] == {"Text Dominant": 0.0, "Vision Only": 100.0}
    assert marks("mathverse", rows, ["Answer: A", "\\boxed{\\frac{1}{2}}"]) == [1, 1]
    assert marks("mathverse", rows, ["An apple", "2"]) == [0, 0]


def test_mathverse_as_a_table_without_the_wish_for_a_direct_answer(tmp_path):
    row = verse_row(index=9, query_cot="Think.", metadata="{'split': 'testmini', 'subject': 'Functions'}", image=IMAGE)
    row |= {"question": "Hint: please directly answer the question and provide the letter.", "query_wo": "Find x."}
    put(tmp_path, "MathVerse_MINIV.tsv", table(row))
    (found,) = samples("mathverse", tmp_path)
    assert found.prompt == "Hint: please provide the letter."
    assert found.facts["subject"] == "Functions"


# ---- DynaMath and OlympiadBench --------------------------------------------------------------------------------------


def test_dynamath_average_and_worst(tmp_path):
    rows = [
        {"index": number, "qid": number % 2, "varid": 1 + number // 2, "question": "Period?", "answer": "1.5",
         "answer_type": "float", "subject": "algebra", "knowledge_level": "high school", "image": IMAGE}
        for number in range(4)
    ]  # fmt: skip
    put(tmp_path, "DynaMath.tsv", table(*rows))
    found = samples("dynamath", tmp_path)
    assert found[0].prompt == (
        "## Question\n Period?\n## Answer Instruction Please provide an answer to the question outlined above. Your "
        "response should adhere to the following JSON format, which includes two keys: 'solution' and 'short answer'. "
        "The 'solution' key can contain detailed steps needed to solve the question, and the 'short answer' key should "
        "provide a concise response. Format the answer as a three-digit floating-point number and provide it in the "
        "'short answer' key.\n\nExample of expected JSON response format:\n\n"
        '{\n    "solution": "[Detailed step-by-step explanation]",\n    "short answer": "[Concise Answer]"\n}'
    )
    right, wrong = '{"short answer": "1.500"}', '{"short answer": "1.6"}'
    assert scores("dynamath", found, [right, right, right, wrong]).values == {"average": 75.0, "worst": 50.0}


def olympiad_row(**more):
    return {
        "id": 7, "question": "Find v of <image_1>.", "context": "A ball.", "final_answer": ["$2\\sqrt{3}$"],
        "is_multiple_answer": False, "unit": "m/s", "answer_type": "Numerical", "error": None, "image_1": picture(1),
        **more,
    }  # fmt: skip


def test_olympiadbench(tmp_path):
    several = olympiad_row(
        id=8,
        final_answer=["1", "2"],
        is_multiple_answer=True,
        unit=None,
        error="1e-1,",
        answer_type="Numerical,Expression",
    )
    for part in problems.PARTS:
        first = olympiad_row() if "physics" in part else olympiad_row(unit=None)
        parquet(tmp_path, f"OlympiadBench/{part}/{part}.parquet", [first, several])
    rows = {row.id: row for row in samples("olympiadbench", tmp_path)}
    assert len(rows) == 20
    assert rows["OE_MM_physics_en_COMP-7"].prompt == (
        "The following is an open-ended problem from an International Physics competition. The answer of The problem "
        "should be a numerical value. Please calculate the answer according to the given requirements and the "
        "information provided. Please use LaTeX format to represent the variables and formulas used in the solution "
        'process and results. Please end your solution with "So the final answer is \\boxed{answer}(unit)." and give '
        "the result explicitly, note that the unit of the answer should not be included in \\boxed{}.\nA ball.\n"
        "Find v of <image_1>."
    )
    assert rows["OE_MM_maths_zh_CEE-8"].prompt == (
        "以下是中国数学竞赛中的解答题，题目有多个答案，答案类型分别为数值、表达式。请根据题目的要求和所提供的信息计算得出答案。"
        "解答过程和结果中使用的变量和公式请使用LaTeX格式表示。请在最后以"
        '"所以最终答案是\\boxed{用英文逗号连接的多个答案}。"显式给出结果。\nFind v of <image_1>.'
    )
    both = [rows["OE_MM_maths_en_COMP-7"], rows["OE_MM_maths_en_COMP-8"]]
    answers = ["So the final answer is \\boxed{\\sqrt{12}}.", "So the final answer is \\boxed{2, 1.05}."]
    assert marks("olympiadbench", both, answers) == [1, 1]
    assert marks("olympiadbench", both, ["\\boxed{3}", "\\boxed{2.05, 1}"]) == [0, 0]
    assert samples("olympiadbench-plain", tmp_path)[0].prompt == "Find v of <image_1>."
    found = scores("olympiadbench", both, [answers[0], "?"])
    assert found.groups["part"] == {"OE_MM_maths_en_COMP": 50.0}


def test_olympiadbench_as_a_table(tmp_path):
    row = {"index": 1, "source": "OE_TO_maths_en_COMP", "question": "Find x.", "final_answer": "['$x=2$']",
           "is_multiple_answer": "False", "unit": "", "answer_type": "Numerical", "error": "",
           "image": IMAGE}  # fmt: skip
    put(tmp_path, "OlympiadBench.tsv", table(row, {**row, "index": 2, "final_answer": "__import__('os').getcwd()"}))
    with pytest.raises(DataError, match=r"OlympiadBench.tsv.*final_answer.*expected a list of texts"):
        samples("olympiadbench", tmp_path)
    put(tmp_path, "OlympiadBench.tsv", table(row))
    rows = samples("olympiadbench", tmp_path)
    assert marks("olympiadbench", rows, ["So the final answer is $2$"]) == [1]


# ---- ScienceQA, M3CoT, PuzzleVQA -------------------------------------------------------------------------------------


def test_scienceqa_both_ways(tmp_path):
    row = {"image": "data/scienceqa/images/1.png", "question": "Which is a solid?", "hint": "Look.",
           "choices": ["water", "ice"], "answer": 1}  # fmt: skip
    put(tmp_path, "scienceqa/scienceqa_test_img.jsonl", lines(row, {**row, "hint": ""}))
    put(tmp_path, "scienceqa/images/1.png")
    rows = samples("scienceqa", tmp_path)
    assert rows[0].prompt == f"Look.\nWhich is a solid?\nA. water\nB. ice\n{LETTER}"
    assert rows[1].prompt == f"Which is a solid?\nA. water\nB. ice\n{LETTER}"
    thinking = samples("scienceqa-cot", tmp_path)
    assert thinking[1].prompt.endswith("Question:\n\nWhich is a solid?\nA. water\nB. ice")
    assert TASKS["scienceqa-cot"].settings.max_new_tokens == 4096
    assert marks("scienceqa", rows, ["B. ice", "(B)"]) == [1, 1]
    assert marks("scienceqa", rows, ["Because", "ice or water"], "original") == [1, 0]
    assert marks("scienceqa", rows, ["Because", "ice or water"]) == [0, 0]
    assert marks("scienceqa-cot", thinking, ["A flows.\nFinal answer: B", "Final answer: ice"]) == [1, 1]
    put(tmp_path, "scienceqa/scienceqa_test_img.jsonl", lines({**row, "answer": 2}))
    with pytest.raises(DataError, match=r"scienceqa_test_img.jsonl:1: `answer` is 2; expected the place"):
        samples("scienceqa", tmp_path)


def test_m3cot_from_the_hub(tmp_path):
    row = {"id": "a-1", "question": "Which?", "choices": ["x", "y"], "context": "Here.", "answer": "A",
           "domain": "science", "topic": "physics", "image": picture(1)}  # fmt: skip
    parquet(tmp_path, "M3CoT/data/test-00000-of-00001.parquet", [row, {**row, "id": "a-2", "image": None}])
    rows = samples("m3cot", tmp_path)
    assert [row.id for row in rows] == ["a-1"]  # the other has no picture
    assert rows[0].prompt == f"Here.\nWhich?\nA. x\nB. y\n{LETTER}"
    assert scores("m3cot", rows, ["A"]).groups["domain"] == {"science": 100.0}


def test_puzzlevqa(tmp_path):
    row = {"index": 1, "question": "What is missing?", "options": "[6, 3, 4, 2]", "answer": 4, "category": "venn",
           "image": IMAGE}  # fmt: skip
    put(tmp_path, "PuzzleVQA.tsv", table(row))
    rows = samples("puzzlevqa", tmp_path)
    assert rows[0].prompt == (
        "What is missing?\nOptions:\n(A) 6\n(B) 3\n(C) 4\n(D) 2\nSolve the multiple-choice question and then answer "
        "with the option letter from the given choices. The last line of your response should be of the following "
        "format:'Answer: $LETTER' (without quotes) where LETTER is one of options. Think step by step before answering."
    )
    assert marks("puzzlevqa", rows * 3, ["Answer: C", "Answer: D", "It is 4"]) == [1, 0, 0]


# ---- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TASKS))
def test_marks_depend_on_nothing_but_sample_and_answer(name, tmp_path):
    """No answer, an empty one, and a long one all have a mark, twice the same."""
    facts = {"options": {"A": "red", "B": "blue"}, "question_type": "free_form", "answer_type": "float", "choices": []}
    facts |= {"precision": 1.0, "tolerances": [], "chinese": False, "skills": []}
    if name.startswith(("mathvision", "puzzle")):
        facts["options"] = ["red", "blue"]
    sample = layouts.Sample(id="1", prompt="?", answer="B", facts=facts)
    for answer in ("", "\n", "B" * 10_000, "{}", "Answer:"):
        first = Marked(sample, answer, TASKS[name].mark(sample, answer, compat=None))
        assert first.mark.score in (0, 1)
        assert first.mark == TASKS[name].mark(sample, answer, compat=None)


def test_mmmu_pro_as_papers_print_it_is_the_mean_of_its_settings(tmp_path):
    parquet(tmp_path, "MMMU_Pro/standard (10 options)/test-00000-of-00001.parquet", [pro_row()])
    shown = {"image": picture(5), "answer": "C", "subject": "Art", "options": "['a', 'b', 'c']"}
    rows = [{**shown, "id": f"test_Art_{number}"} for number in (1, 2)]
    parquet(tmp_path, "MMMU_Pro/vision/test-00000-of-00001.parquet", rows)
    found = samples("mmmu-pro", tmp_path)
    assert [sample.id.partition("/")[0] for sample in found] == ["std10", "vision", "vision"]
    assert len({sample.id for sample in found}) == 3
    given = [
        Marked(sample, answer, TABLE["mmmu-pro"].mark(sample, answer, compat=None))
        for sample, answer in zip(found, ["Answer: B", "Answer: A", "Answer: C"], strict=True)
    ]
    assert TABLE["mmmu-pro"].summarise(given).values == {"overall": 75.0, "std10": 100.0, "vision": 50.0}
    alone = TABLE["mmmu-pro"].summarise(given[:1])
    assert "overall" not in alone.values
    assert alone.withheld["overall"] == "one of the two settings was not asked"

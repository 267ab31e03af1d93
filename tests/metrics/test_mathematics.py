"""MathVista, MATH-Vision, DynaMath, PuzzleVQA: golden tables, the published scorers' quirks, hostile texts."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.metrics.mathematics import (
    cot_answer,
    dynamath_answer,
    dynamath_match,
    extracted_match,
    mathvision_answer,
    mathvision_equal,
    mathvision_match,
    mathvista_extract,
    mathvista_normalise,
    puzzlevqa_match,
)
from tests.conftest import golden


def rows(name):
    found = [json.loads(line) for line in golden(f"metrics/{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in found if "_about" not in row]


# ---- golden ----------------------------------------------------------------------------------------------------------


def test_golden_final_answers():
    for row in rows("extract_final_answer"):
        assert cot_answer(row["text"]) == row["expected"], row


def test_golden_extraction():
    for row in rows("mathvista_extract"):
        if "text" in row:
            assert cot_answer(row["text"]) == row["expected"], row
        else:
            kinds = {key: row[key] for key in ("question_type", "answer_type", "choices")}
            assert mathvista_extract(row["response"], quick=False, **kinds) == row["expected"], row


def test_golden_normalisation():
    for row in rows("mathvista_normalise"):
        expected = row.pop("expected")
        assert mathvista_normalise(**row) == expected, row


def test_what_needs_a_judge():
    kinds = {"question_type": "free_form", "answer_type": "integer", "choices": None}
    assert mathvista_extract("There are 7.", quick=False, **kinds) is None
    assert mathvista_extract("There are 7.", **kinds) == "There are 7."
    assert mathvista_extract("Hm.\nAnswer: 7", **kinds) == "7"


# ---- MATH-Vision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"We get \boxed{5}. No: \boxed{x = 6}.", "6"),
        ("The answer is 42.", "42"),
        ("The answer should be (C). I am sure", "c"),
        ("(D)\nbecause it is the largest", "d"),
        ("D", "d"),
        ("I choose B.", "b"),
        ("It is 3.50", "3.50"),
        (r"\boxed{\text{(E)}}", "e"),
        (r"$\boxed{60^{\circ}}$", "60"),
        (r"\boxed{\dfrac{1}{2}} or so", r"\frac{1}{2}"),
        ("3/4", r"\frac{3}{4}"),
        ("03/4", "03/4"),
        (r"\boxed{\frac12}", r"\frac12"),
        (r"\boxed{\frac12\sqrt3}", r"\frac{1}{2}\sqrt{3}"),
        (r"\boxed{12\text{ units}}", "12"),
        ("", ""),
    ],
)
def test_final_answers_of_mathvision(response, answer):
    assert mathvision_answer(response) == answer


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        ("60", "60.0", True),
        ("60", "60.004", True),
        ("60", "60.02", False),
        (r"\frac{1}{2}", "0.5", True),
        ("(2,3)", "(2,3.0)", True),
        ("(2,3)", "[2,3]", False),
        (r"(0,\infty)", r"(0,\infty)", True),
        ("2:3", r"\frac{2}{3}", True),
        # What the parser of the authors' scorer does not read is wrong, and it stops where a formula ends.
        ("42%", r"$42 \%$", False),
        ("3√2", r"$3\sqrt{2}$", False),
        ("40", r"$40^{\circ}$", False),
        (r"\frac12", r"\frac{1}{2}", False),
        ("5.so the rest", "5", True),
        ("3,5,7", "3", False),
        ("-1", "-1<x", False),
        ("0", r"\frac{7^3}{2^{12} 13^2}", True),
        (r"\frac{1}{3}", r"$\frac{3^{1008}-1}{3^{1009}}$", True),
        ("x", "2x", False),
        (" ", "", False),
    ],
)
def test_equality_of_mathvision(said, truth, right):
    assert mathvision_equal(said, truth) == right
    assert mathvision_equal(truth, said) == right


def test_an_option_is_right_by_letter_and_by_text():
    options = ["$10$", "$12$", "$14$", "$16$", "$18$"]
    assert mathvision_match("The answer is 12", "B", options)
    assert mathvision_match("(B)", "B", options)
    assert not mathvision_match("The answer is 14", "B", options)
    assert not mathvision_match("", "B", options)
    assert not mathvision_match("b c", "B")


def test_every_truth_of_the_set_is_right(shared):
    lines = (shared / "data/mathvision/test.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) > 2000
    wrong = [
        row["id"] for row in found if not mathvision_match(f"\\boxed{{{row['answer']}}}", row["answer"], row["options"])
    ]
    # Four truths stand in a box themselves, one is an angle, one has a letter: nobody can answer these, nor by the
    # authors' own functions.
    assert wrong == ["2804", "2828", "2833", "2866", "2875", "2877"]


def test_what_a_judge_extracted():
    assert extracted_match("B", "B", "choice", ["3", "4"])
    assert extracted_match("4", "B", "choice", ["3", "4"])
    assert not extracted_match("3 or 4", "B", "choice", ["3", "4"])
    assert extracted_match("14", "14", "integer")
    assert not extracted_match("14.0", "14", "integer")
    assert extracted_match("0.60", "0.6", "float")
    assert not extracted_match("about 0.6", "0.6", "float")
    assert extracted_match(r"\frac{1}{8}", "0.125", "text")
    assert not extracted_match("0.12", "0.125", "text")
    assert extracted_match("[1, 2]", "[1, 2]", "text")


# ---- DynaMath and PuzzleVQA ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "truth", "kind", "right"),
    [
        ('```json\n{"solution": "…", "short answer": "2.094"}\n```', "2.0944", "float", True),
        ('{"short answer": 2.1}', "2.0944", "float", False),
        ('{"short answer": 2.095}', "2.0944", "float", True),
        ("2.0944 seconds", "2.0944", "float", True),
        ("about 2.0944", "2.0944", "float", False),
        ('{"short answer": "2π"}', str(2 * math.pi), "float", True),
        ('{"short answer": "B"}', "B", "multiple choice", True),
        ('{"short answer": "(b)"}', "B", "multiple choice", True),
        ("A or B", "B", "multiple choice", False),
        ("b: BAD", "B", "multiple choice", True),  # one of the first three characters
        ('{"short answer": "sep"}', "Sep", "text", True),
        ('{"short answer": ""}', "Sep", "text", False),
        ("It is Sep", "Sep", "text", False),
        ("nan", "2.0", "float", False),
    ],
)
def test_dynamath(answer, truth, kind, right):
    assert dynamath_match(answer, truth, kind) == right


def test_a_number_in_pi():
    assert dynamath_answer("π", "float") is None
    assert dynamath_answer('{"short answer": "1.5"}', "float") == 1.5


def test_puzzles():
    options = ["6", "3", "4", "2"]
    assert puzzlevqa_match("Answer: A. No, answer: c", "4", options)
    assert not puzzlevqa_match("Answer: A", "4", options)
    assert puzzlevqa_match("It must be (C)", "4", options)
    assert not puzzlevqa_match("It must be (C)", "4", options, strict=True)
    assert not puzzlevqa_match("", "4", options)
    assert not puzzlevqa_match("Answer: Z", "4", options)


# ---- nothing is evaluated, nothing takes long ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hostile",
    [
        "__import__('os').system('touch /tmp/caught')",
        "9^{9^{9^{9^9}}}",
        "9^9^9^9^9^9",
        "99999!!!!",
        "(" * 5000,
        r"\sqrt{" * 200 + "2" + "}" * 200,
        "\\frac" * 5000,
        "{" * 100_000,
        "[" * 100_000,
        '{"short answer": ' + "[" * 100_000,
        "oxed{" * 10_000,
        "1," * 50_000 + "1",
        "is " * 50_000,
        "1/0",
        "²⅓٣",
    ],
)
def test_hostile_answers_are_wrong_and_quick(hostile):
    began = time.process_time()  # no measure of speed: what is unbounded takes hours
    assert not mathvision_match(hostile, "7")
    assert not mathvision_match("7", hostile)
    assert not dynamath_match(hostile, "7.5", "float")
    assert not extracted_match(hostile, "7", "text")
    assert time.process_time() - began < 20


@given(st.text(alphabet="0123456789+-*/^_{}()[]|!%.,:\\ $abceginopqrtx²π√", max_size=40))
def test_any_text_is_compared(text):
    assert mathvision_match(text, "A", ["1", "2", "3", "4", "5"]) in (True, False)
    assert mathvision_equal(text, text) == bool(text.replace(" ", ""))
    assert extracted_match(text, text, "text")

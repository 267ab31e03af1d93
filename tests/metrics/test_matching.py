"""Rules of single benchmarks: golden rows of the original, its quirks, and answers that one would expect."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.errors import DataError, NoSuchName
from internvl.metrics.choices import letter
from internvl.metrics.matching import (
    BLINDTEST_KINDS,
    FORMULAS,
    MIRB_KINDS,
    blindtest_match,
    capital_letter,
    mantis_match,
    mirb_match,
    mlvu_match,
    mvbench_match,
    ocrbench_match,
    truth_value,
)
from internvl.metrics.needles import by_length, needle_match
from internvl.metrics.vcr import tokens, vcr_match
from tests.conftest import golden

RED = {"A": "blue", "B": "red"}


def rows(name):
    first, *rest = golden(f"metrics/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert "_about" in first
    return [json.loads(line) for line in rest]


def test_golden_mirb():
    found = rows("mirb")
    assert len(found) > 100
    for row in found:
        assert mirb_match(row["dataset"], row["prediction"], row["answers"]) == row["expected"], row


def test_golden_mvbench():
    found = rows("mvbench_check")
    assert len(found) > 30
    for row in found:
        assert mvbench_match(row["pred"], row["gt"], compat="original") == row["expected"], row


@pytest.mark.parametrize("script", ["mmiu", "mmvp"])
def test_golden_letters(script):
    for row in rows(f"option_post_process_{script}"):
        said = letter(row["prediction"], row["options"], compat="original")
        assert said == row.get("expected", ""), row  # an empty answer stopped the script


def test_mvbench_without_quirks():
    assert mvbench_match("", "(A) a cat") == mvbench_match(".", "(A) a cat") == mvbench_match(" ( ", "(A) a cat") == 0
    assert mvbench_match("", "(A) a cat", compat="original") == 1
    assert mvbench_match("(A) a cat", "(A) a cat") == mvbench_match("a", "(A) a cat") == 1
    assert mvbench_match("(B)", "(A) a cat") == 0
    assert mvbench_match("Answer: (A)", "(A) a cat") == 0


@given(st.sampled_from(sorted(MIRB_KINDS)), st.text(), st.sampled_from(["3", "yes", "no", "A", "Paris"]))
def test_mirb_takes_any_answer(task, answer, truth):
    assert mirb_match(task, answer, truth) in (0.0, 1.0)


def test_mirb_names():
    with pytest.raises(NoSuchName, match="Did you mean 'count'"):
        mirb_match("counts", "3", "3")


def test_mantis():
    options = {"A": "(A) a car", "B": "(B) a bus"}
    assert (
        mantis_match("(B)", "B", options, compat="original") == mantis_match("B", "B", options, compat="original") == 1
    )
    assert mantis_match("(B) a bus", "B", options, compat="original") == 1
    assert mantis_match("B.", "B", options, compat="original") == 0
    assert mantis_match("B.", "B", options) == mantis_match("a bus", "B", options) == 1
    assert mantis_match("Yes", "yes", {}, compat="original") == 1
    assert mantis_match("Yes.", "yes", {}, compat="original") == 0
    assert mantis_match("Yes.", "yes", {}) == 1
    assert mantis_match("No", "yes", {}) == 0


def test_truth_value():
    assert truth_value("True") is truth_value("yes, it is") is True
    assert truth_value("It is false") is truth_value("no") is False
    assert truth_value("untrue") is truth_value("") is None


def test_capital_letter():
    assert capital_letter("The answer is (C) because A is wrong", "ABCD") == "C"
    assert capital_letter("E", "ABCD") == capital_letter("none", "ABCD") == ""
    assert capital_letter("E", "ABCDE") == "E"
    assert capital_letter("Because", "ABCD") == "B"
    assert capital_letter("The correct option is A", "ABCD", compat="original") == "A"
    assert capital_letter("Best answer: C", "ABCD", compat="original") == "B"
    assert capital_letter("Best answer: C", "ABCD") == "C"


def test_mlvu():
    assert mlvu_match("(B)", "B", RED) == mlvu_match("B", "B", RED) == mlvu_match("It is red", "B", RED) == 1
    assert mlvu_match("(A) blue", "B", RED) == mlvu_match("", "B", RED) == mlvu_match(")", "B", RED) == 0


def test_ocrbench():
    assert ocrbench_match("the word is\nCENTRE", ["other", "is centre"], "Scene Text-centric VQA") == 1
    assert ocrbench_match("cent", ["centre"], "Scene Text-centric VQA") == 0
    assert ocrbench_match(r"\frac { a } { b }", [r"\frac {a} {b}"], FORMULAS) == 1
    assert ocrbench_match("X ^ 2", ["x ^ 2"], FORMULAS) == 0


@pytest.mark.parametrize(
    ("task", "truth", "right", "wrong"),
    [
        ("LineIntersection", "0", ["0", "They touch 0 times", "zero", "{0}"], ["10", "{1}", "", "never"]),
        ("CountingCircles", "10", ["10", "ten circles", "There are 10."], ["1", "100"]),
        ("NestedSquares", "3", ["{3}", "3", "In all, {3} of 4"], ["{4} of 3", "33"]),
        ("TouchingCircle", "No", ["No", "no.", "No, they are apart"], ["Yes", "cannot tell", ""]),
        ("CircledWord", "h", ["h", "{h}", 'It is "H".', "The circled letter is h."], ["k", "the", ""]),
        ("CircledWord", "A", ["a", "A red oval is around the letter A"], ["A red oval is around the letter c"]),
        ("CountingRowsAndColumns", "(5,6)", ["(5, 6)", "rows={5} columns={6}", "5 rows and 6 columns"], ["(6,5)", "5"]),
        ("CountingRowsAndColumns", "rows={5} columns={6}", ["columns: 6, rows: 5", "6 columns, 5 rows"], ["rows={6}"]),
        ("Counting Grid - Word Grids", "4,4", ["(4,4)", "rows={4} columns={4}"], ["(4,5)"]),
        ("SubwayMap", "2", ["{2}", "There are {2} paths among 3 stations", "two"], ["{3}", "none"]),
    ],
)
def test_blindtest(task, truth, right, wrong):
    assert [blindtest_match(task, answer, truth) for answer in right] == [1.0] * len(right)
    assert [blindtest_match(task, answer, truth) for answer in wrong] == [0.0] * len(wrong)


def test_blindtest_knows_the_truths_of_its_data(shared):
    for line in (shared / "data/blindtest/test.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for truth in row["answers"]:
            assert blindtest_match(row["task"], truth, truth) == 1, row


@given(st.sampled_from(sorted(BLINDTEST_KINDS)), st.text())
def test_blindtest_takes_any_answer(task, answer):
    truth = {"number": "3", "yes": "Yes", "letter": "q", "pair": "(3,4)"}[BLINDTEST_KINDS[task]]
    assert blindtest_match(task, answer, truth) in (0.0, 1.0)


def test_blindtest_refuses_a_truth_of_another_kind():
    with pytest.raises(DataError, match="'many'; expected a number"):
        blindtest_match("NestedSquares", "3", "many")


# ---- VCR -------------------------------------------------------------------------------------------------------------


def test_tokens():
    assert tokens("don't can't it’s the dogs' cannot", "en") == [
        "do", "n't", "ca", "n't", "it", "’s", "the", "dogs", "'", "can", "not",
    ]  # fmt: skip
    assert tokens("In 1,000 (U.S.) dollars, e.g. $5.50!", "en") == [
        "In", "1,000", "(", "U.S.", ")", "dollars", ",", "e.g.", "$", "5.50", "!",
    ]  # fmt: skip
    assert tokens("", "en") == tokens(" ", "zh") == []


def test_vcr():
    assert vcr_match("Assistant: the city of Rome, Italy", "city of Rome", "en") == (1.0, 1.0)
    assert vcr_match("the town of Rome", "city of Rome", "en") == (0.0, 0.5)
    assert vcr_match("nothing alike", "city of Rome", "en") == (0.0, 0.0)
    assert vcr_match("Rome", "city of Rome", "en") == (0.0, 0.0)  # shorter than what is looked for
    assert vcr_match("Sorry, city of Rome", "city of Rome", "en") == (0.0, 0.0)
    assert vcr_match("他出生在北京市", "出生在北京", "zh") == (1.0, 1.0)
    exact, alike = vcr_match("他出生在南京市", "出生在北京", "zh")
    assert (exact, alike) == (0.0, pytest.approx(4 / 6))
    assert vcr_match("抱歉，出生在北京", "出生在北京", "zh") == (0.0, 0.0)
    assert vcr_match("a-b", "a b", "en", cut=lambda text, language: text.split("-" if "-" in text else " ")) == (
        1.0,
        1.0,
    )


# ---- needles ---------------------------------------------------------------------------------------------------------


def test_choice_of_a_needle():
    for answer in ("B", "b.", "**B**", "The answer is B", "B. the cat", "1"):
        assert needle_match(answer, 1) == 1, answer
    for answer in ("A", "None", "(B)", "B or C", "", "²"):
        assert needle_match(answer, 1) == 0, answer
    assert needle_match("The camera is moving left", 0) == needle_match("the camera is moving right.", 1) == 1


def test_counts_of_needles():
    assert needle_match("```json\n[1, 2]\n```", [1, 2]) == needle_match('{"a": [1], "b": [2]}', [1, 2]) == 1
    assert needle_match("[1, 3, 2]", [1, 2]) == 0.5
    for answer in ("1, 2", "[1", "12", '{"a": 1}', "", "[" * 100_000):
        assert needle_match(answer, [1, 2]) == 0, answer[:9]


def test_text_of_a_needle():
    assert needle_match("An oak.", "oak") == needle_match("It was in room twenty.", "20") == 1
    assert needle_match("oaks", "oak") == 0


def test_by_length():
    assert by_length([]) == {}
    cells = [(1000, 0.0, 1.0), (1999, 1.0, 0.0), (2000, 0.5, 1.0), (70_000, 0.99, 1.0), (999, 0.2, 1.0)]
    assert by_length(cells) == {"1k": 0.5, "2k": 1.0, "64k": 1.0}


def test_more_digits_than_python_reads_are_a_wrong_number():
    digits = "1" * 5000
    assert needle_match(digits, 1) == 0
    assert blindtest_match("SubwayMap", digits, "2") == 0
    assert blindtest_match("CountingRowsAndColumns", f"{digits} rows, {digits} columns", "(5,6)") == 0


def test_a_word_of_many_thousand_letters_is_not_cut():
    assert tokens("'s" * 600, "en") == ["'s" * 600]
    assert vcr_match("n't" * 20_000, "in the city of", "en") == (0.0, 0.0)

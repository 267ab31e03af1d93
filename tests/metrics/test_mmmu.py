"""MMMU and MMMU-Pro: the golden tables of the published scorers, both rules, and what the tables do not show."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.metrics import mmmu
from tests.conftest import golden

OPTIONS = {"A": "red bus", "B": "blue kite", "C": "green lamp", "D": "42"}


def rows(name):
    found = [json.loads(line) for line in golden(f"metrics/{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in found if "_about" not in row]


@pytest.mark.parametrize(("name", "pro"), [("mmmu_parse_multi_choice", False), ("mmmu_pro_parse_multi_choice", True)])
def test_golden_choices(name, pro):
    found = rows(name)
    assert len(found) > 50
    for row in found:
        chosen = mmmu.choice(row["response"], row["index2ans"], pro=pro, seed=row["seed_before_call"])
        assert chosen == row["expected"], row
        if row["random_choice_used"]:
            assert mmmu.choice(row["response"], row["index2ans"], pro=pro, seed=None) is None, row


def test_golden_open_answers():
    for row in rows("mmmu_parse_open"):
        if "response" in row:
            found = sorted(map(repr, mmmu.open_answers(row["response"])))
        elif "normalise" in row:
            found = sorted(map(repr, mmmu.normalise(row["normalise"])))
        elif "is_number" in row:
            found = mmmu.is_number(row["is_number"])
        else:
            found = mmmu.numbers(row["numbers"])
        assert found == row["expected"], row


def test_golden_verdicts():
    for row in rows("mmmu_eval"):
        if "choice" in row:
            right = mmmu.choice_match(row["choice"], row["gold"])
        else:
            right = mmmu.open_match(row["response"], row["gold"])
        assert right == row["expected"], row


def test_the_original_never_guesses_but_looks_into_short_answers():
    assert mmmu.choice("a red bus", OPTIONS, seed=None) is None  # three words are too few for the official rule
    assert mmmu.choice("a red bus", OPTIONS, compat="original") == "A"
    assert mmmu.choice("(B)", OPTIONS) == "B"
    assert mmmu.choice("(B)", OPTIONS, compat="original") == "(B)"
    assert mmmu.choice("", OPTIONS, compat="original") == ""


def test_a_guess_is_the_same_each_time_and_differs_between_questions():
    guesses = [mmmu.choice("?", OPTIONS, seed=f"question {number}") for number in range(60)]
    assert guesses == [mmmu.choice("?", OPTIONS, seed=f"question {number}") for number in range(60)]
    assert set(guesses) == set(OPTIONS)
    assert mmmu.choice("?", OPTIONS, seed=42) == random.Random(42).choice("ABCD")
    assert mmmu.choice("?", {}) is None


def test_the_pro_rule_takes_the_last_announcement_and_only_a_single_letter():
    assert mmmu.choice("Answer: A. No.\nAnswer: $B", OPTIONS, pro=True) == "B"
    assert mmmu.choice("Answer: A or B (C)", OPTIONS, pro=True) == "C"  # two letters: the general rule
    assert mmmu.choice("C. because", OPTIONS, pro=True) == "C"
    assert mmmu.choice("C. because", OPTIONS, seed=None) is None


def test_the_longest_matching_option_does_not_win_but_the_last():
    assert mmmu.choice("the blue kite is here and not the red bus", OPTIONS) == "A"


def test_open_answers_of_lines():
    assert mmmu.open_answers("x = 4") == {4.0}
    assert mmmu.open_answers("x = 4\nThat is all") == {"all"}  # `=` counts in the last line only
    assert mmmu.open_match("so the answer is 1,234.567", "1234.57")
    assert not mmmu.open_match("the answer is 12", ["1", "2"])
    assert not mmmu.open_match("red", "d")  # a single letter needs a space beside it
    assert mmmu.open_match("d or e", "d")


def test_subjects():
    assert len(mmmu.SUBJECTS) == len(set(mmmu.SUBJECTS)) == 30
    assert mmmu.subject("validation_Diagnostics_and_Laboratory_Medicine_3") == "Diagnostics_and_Laboratory_Medicine"
    assert mmmu.domain("Diagnostics_and_Laboratory_Medicine") == "Health and Medicine"
    assert mmmu.domain("Cooking") is None


@given(st.text(max_size=60))
def test_any_text_is_read(text):
    assert mmmu.choice(text, OPTIONS) in OPTIONS
    assert mmmu.choice(text, OPTIONS, pro=True) in OPTIONS
    assert mmmu.open_answers(text)

"""Short answers: the original's tables, the rule of the paper, and where the two differ."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.errors import DataError
from internvl.metrics import vqa

words = st.text(alphabet="ab1 .,'-!THEthe", max_size=20)


def rows_of(golden, name):
    with golden(f"metrics/{name}.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][1:]
    assert len(rows) > 30
    return rows


# ---- the tables ------------------------------------------------------------------------------------------------------


def test_normalise_golden(golden):
    for row in rows_of(golden, "vqa_answer_normalise"):
        assert vqa.normalise(row["input"], compat="original") == row["expected"], row


def test_normalise_golden_differs_by_default_only_beyond_32_full_stops(golden):
    differing = [
        row["input"]
        for row in rows_of(golden, "vqa_answer_normalise")
        if vqa.normalise(row["input"]) != row["expected"]
    ]
    assert differing
    assert all(text.count(".") > 32 for text in differing)


def test_soft_accuracy_golden(golden):
    refused = 0
    for row in rows_of(golden, "vqa_accuracy"):
        if "error" in row:
            refused += 1
            with pytest.raises(DataError):
                vqa.soft_accuracy(row["pred_answer"], row["gt_answers"], compat="original")
        else:
            found = vqa.soft_accuracy(row["pred_answer"], row["gt_answers"], compat="original")
            assert found == pytest.approx(row["expected"], abs=1e-12), row
    assert refused


def test_stvqa_golden(golden):
    for row in rows_of(golden, "stvqa_accuracy"):
        assert vqa.stvqa_match(row["pred_answer"], row["gt_answers"], compat="original") == row["expected"], row


def test_exact_match_golden(golden):
    for row in rows_of(golden, "exact_match_accuracy"):
        assert vqa.exact_match(row["answer"], row["annotation"]) == row["expected"], row


def test_tiny_lvlm_golden(golden):
    for row in rows_of(golden, "tiny_lvlm"):
        assert vqa.contains_answer(row["answer"], row["gt_answers"]) == row["expected"], row
        assert vqa.reciprocal_rank(row["answer"], row["gt_answers"]) == row["mrr"], row


def test_post_process_golden(golden):
    for row in rows_of(golden, "vqa_post_process"):
        assert vqa.post_process(row["input"]) == row["expected"], row


# ---- normalising -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Answer", "answer"),
        ("none", "0"),
        ("couldntve", "couldntve"),  # not in the table
        ("youre", "you're"),
        ("bob's", "bob 's"),
        ("1,000", "1000"),
        ("1 . 5", "1 5"),
        ("12:30", "12:30"),
        ("well-known", "well known"),
        ("well -known", "well known"),
        ("a-b c -d", "ab c d"),  # a dash beside a space deletes every dash
    ],
)
@pytest.mark.parametrize("compat", [None, "original"])
def test_normalise(text, expected, compat):
    assert vqa.normalise(text, compat=compat) == expected


def test_normalise_removes_every_full_stop_by_default():
    text = "x. " * 40
    assert "." not in vqa.normalise(text)
    assert vqa.normalise(text, compat="original").count(".") == 8


@given(words)
def test_normalising_ignores_case_and_space_around(text):
    assert vqa.normalise(text) == vqa.normalise(f" {text.swapcase()}\n")


# ---- soft accuracy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("people", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)])
def test_soft_accuracy_by_how_many_said_it(people, expected):
    humans = ["bus"] * people + [f"other{i}" for i in range(10 - people)]
    assert vqa.soft_accuracy("bus", humans) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.sampled_from(["2", "two", "the dog", "dog", "cat"]), min_size=10, max_size=10), st.randoms())
def test_soft_accuracy_leaves_each_person_out(humans, random):
    """The definition of the paper, counted out; and the order of the people does not matter."""
    plain = [vqa.normalise(human) for human in humans]
    for answer in ("2", "dog"):
        each = [min(1, (plain[:i] + plain[i + 1 :]).count(answer) / 3) for i in range(10)]
        assert vqa.soft_accuracy(answer, humans) == pytest.approx(sum(each) / 10, abs=1e-12)
        shuffled = random.sample(humans, 10)
        assert vqa.soft_accuracy(answer, shuffled) == vqa.soft_accuracy(answer, humans)


@pytest.mark.parametrize("count", [0, 1, 9, 11])
def test_other_than_ten_people_are_refused(count):
    with pytest.raises(DataError, match=f"has {count} human answers; expected 10"):
        vqa.soft_accuracy("a", ["a"] * count)


# ---- the others ------------------------------------------------------------------------------------------------------


def test_exact_match_takes_one_gold_or_several():
    assert vqa.exact_match("A", "a") == vqa.exact_match("A", ["b", "a"]) == 1
    assert vqa.exact_match("ab", ["a", "b"]) == 0


def test_contains_answer_wants_whole_words():
    assert vqa.contains_answer("The cat sat.", "cat") == 1
    assert vqa.contains_answer("The cats sat.", "cat") == 0
    assert vqa.contains_answer("2 dogs", "two dogs") == 1


def test_gqa():
    assert vqa.gqa_match("Left.", "left") == vqa.gqa_match("Left.", "left", compat="original") == 1
    assert vqa.gqa_match(" left ", "left") == 1
    assert vqa.gqa_match(" left ", "left", compat="original") == 0
    assert vqa.gqa_match("to the left", "left") == 0


@pytest.mark.parametrize(
    ("answer", "gold", "kind", "paper", "original"),
    [
        ("yes", "Yes", "presence", 1, 1),
        ("yes.", "yes", "presence", 1, 0),
        ("", "yes", "presence", 0, 0),
        ("no", "yes", "comp", 0, 0),
        ("0", "0", "count", 1, 1),
        ("1", "0", "count", 0, 0),
        ("10", "1", "count", 1, 1),
        ("11", "10", "count", 0, 1),
        ("100", "101", "count", 0, 0),
        ("1000", "101", "count", 1, 1),
        ("1001", "99999", "count", 1, 1),
        ("many", "5", "count", 0, 0),
        ("-1", "-1", "count", 0, 0),
        ("50", "60m2", "area", 1, 1),
        ("50m2", "60m2", "area", 1, 0),
        ("5m2", "60m2", "area", 0, 0),
    ],
)
def test_rsvqa(answer, gold, kind, paper, original):
    assert vqa.rsvqa_match(answer, gold, kind) == paper
    assert vqa.rsvqa_match(answer, gold, kind, compat="original") == original


@pytest.mark.parametrize(
    "match", [vqa.exact_match, vqa.stvqa_match, vqa.contains_answer, vqa.reciprocal_rank], ids=lambda f: f.__name__
)
def test_no_gold_is_never_right(match):
    assert match("a", []) == 0

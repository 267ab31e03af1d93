"""ANLS and relaxed accuracy: the original's tables, the papers' rules, and where the two differ."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.errors import DataError
from internvl.metrics.documents import anls, relaxed_match

words = st.text(alphabet="abC 1", max_size=8)


def rows_of(golden, name):
    with golden(f"metrics/{name}.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][1:]
    assert len(rows) > 80
    return rows


def test_anls_golden(golden):
    for row in rows_of(golden, "anls"):
        found = anls(row["prediction"], row["answers"], threshold=row["threshold"], compat="original")
        assert found == pytest.approx(row["expected"], abs=1e-12), row


def test_anls_golden_differs_by_default_only_where_white_space_is_spare(golden):
    differing = [
        row
        for row in rows_of(golden, "anls")
        if abs(anls(row["prediction"], row["answers"], threshold=row["threshold"]) - row["expected"]) > 1e-12
    ]
    for row in differing:
        assert any(text != " ".join(text.split()) for text in (row["prediction"], *row["answers"])), row


def test_relaxed_golden(golden):
    for row in rows_of(golden, "relaxed_accuracy"):
        assert relaxed_match(row["answer"], row["annotation"], compat="original") == row["expected"], row


def test_relaxed_golden_differs_by_default_only_for_numbers(golden):
    differing = [
        row
        for row in rows_of(golden, "relaxed_accuracy")
        if relaxed_match(row["answer"], row["annotation"]) != row["expected"]
    ]
    assert differing
    for row in differing:
        golds = row["annotation"] if isinstance(row["annotation"], list) else [row["annotation"]]
        assert any(float(gold.rstrip("%")) for gold in golds), row


# ---- ANLS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "golds", "paper", "original"),
    [
        ("abcd", ["abcd"], 1, 1),
        ("ABCD", ["abcd"], 1, 1),
        ("abce", ["abcd"], 0.75, 0.75),
        ("abxy", ["abcd"], 0.5, 0.5),  # the threshold itself counts
        ("axyz", ["abcd"], 0, 0),
        ("abce", ["zzzz", "abcd"], 0.75, 0.75),  # the nearest gold
        ("  abce  ", ["abcd"], 0.75, 0.875),  # spare white space makes the letter cheaper
        ("a  b", ["a b"], 1, 1),
        ("", [""], 1, 1),
        ("  ", [""], 1, 1),
        ("", ["a"], 0, 0),
    ],
)
def test_anls(answer, golds, paper, original):
    assert anls(answer, golds) == pytest.approx(paper, abs=1e-12)
    assert anls(answer, golds, compat="original") == pytest.approx(original, abs=1e-12)


@given(words, words)
def test_anls_is_0_or_from_half_to_1(a, b):
    for compat in (None, "original"):
        found = anls(a, [b], compat=compat)
        assert found == 0 or 0.5 <= found <= 1


@given(words, words)
def test_the_switch_changes_nothing_without_spare_white_space(a, b):
    a, b = " ".join(a.split()), " ".join(b.split())
    assert anls(a, b) == anls(a, b, compat="original")


@given(words, words, words)
def test_one_more_gold_never_hurts(answer, a, b):
    assert anls(answer, [a, b]) >= anls(answer, [a])


# ---- relaxed accuracy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "paper", "original"),
    [
        ("105", "100", 1, 1),
        ("95", "100", 1, 0),  # 5 % of 95 is less than 5
        ("105.2", "100", 0, 1),  # 5 % of 105.2 is more than 5.2
        ("106", "100", 0, 0),
        ("-100", "100", 0, 0),
        ("12%", "0.12", 1, 1),
        ("12", "12%", 0, 0),
        ("0", "0", 1, 1),
        ("0.0", "0", 0, 0),  # a gold of 0 is text; so is, originally, an answer of 0
        ("0.01", "0", 0, 0),  # originally |0 - 0.01| / 0.01 = 1
        ("Yes", "yes", 1, 1),
        (" yes ", "yes", 1, 1),
        ("yes", "yes ", 0, 0),
        ("yess", "yes", 0, 0),
        ("1,000", "1000", 0, 0),
        ("nan", "5", 0, 0),
    ],
)
def test_relaxed(answer, gold, paper, original):
    assert relaxed_match(answer, gold) == paper
    assert relaxed_match(answer, gold, compat="original") == original


@given(st.floats(1, 1e6), st.floats(0.5, 2))
def test_changing_places_is_the_whole_quirk(gold, factor):
    answer = gold * factor
    assert relaxed_match(str(answer), str(gold), compat="original") == relaxed_match(str(gold), str(answer))


@given(st.floats(1, 1e6), st.floats(1e-6, 0.2))  # a narrower one is lost where the number is written down
def test_tolerance(gold, tolerance):
    assert relaxed_match(str(gold * (1 + 0.99 * tolerance)), str(gold), tolerance=tolerance) == 1
    assert relaxed_match(str(gold * (1.01 + 1.01 * tolerance)), str(gold), tolerance=tolerance) == 0


@pytest.mark.parametrize("metric", [anls, relaxed_match])
def test_no_gold_is_refused(metric):
    with pytest.raises(DataError, match="no gold answer"):
        metric("a", [])

"""Edit distance: against the original's table, and what any distance must hold."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from internvl.metrics.edits import levenshtein

words = st.text(alphabet="abé你 ", max_size=8)


def test_golden(golden):
    with golden("metrics/levenshtein.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][1:]
    assert len(rows) > 40
    for row in rows:
        assert levenshtein(row["a"], row["b"]) == row["expected"], row


@given(words, words, words)
def test_it_is_a_distance(a, b, c):
    assert levenshtein(a, b) == levenshtein(b, a)
    assert (levenshtein(a, b) == 0) == (a == b)
    assert levenshtein(a, c) <= levenshtein(a, b) + levenshtein(b, c)


@given(words, words)
def test_bounds(a, b):
    assert abs(len(a) - len(b)) <= levenshtein(a, b) <= max(len(a), len(b))


@given(words, st.integers(0, 8), st.sampled_from("xyz"))
def test_one_insertion_is_one_edit(text, place, letter):
    assert levenshtein(text, text[:place] + letter + text[place:]) == 1


def test_a_swap_of_neighbours_is_two_edits():
    assert levenshtein("ab", "ba") == 2

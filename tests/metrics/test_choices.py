"""Multiple choice: the golden tables of the first code base's scripts, and where the official rule differs."""

from __future__ import annotations

import json

import pytest

from internvl.metrics.choices import circular, letter, realworld_letter
from tests.conftest import golden

COLOURS = {"A": "red bus", "B": "blue kite", "C": "green lamp", "D": "yes"}


@pytest.mark.parametrize("script", ["mmbench", "mmiu", "mmmu", "mmvp", "scienceqa"])
def test_golden_letters(script):
    lines = golden(f"metrics/option_post_process_{script}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "_about" not in row]
    assert rows
    for row in rows:
        ours = letter(row["prediction"], row["options"], compat="original", bracketed=script == "scienceqa")
        # Where the script stopped ("" and, for ScienceQA, "(A"), the answer stays what it was.
        assert ours == row.get("expected", row["prediction"].strip()), row


@pytest.mark.parametrize(
    ("answer", "official", "original"),
    [
        ("B", "B", "B"),
        (" B. ", "B", "B"),
        ("(B)", "B", "(B)"),
        ("**C**", "C", "**C**"),
        ("Because it is", None, "B"),
        ("BLUE KITE", "B", "B"),
        ("a Blue Kite", "B", "a Blue Kite"),
        ("red bus or blue kite", None, "A"),
        ("A or B", None, "A"),
        ("E", None, "E"),
        ("", None, ""),
        ("Z", None, "Z"),
        ("The correct answer is **B**. A look at the sky, the string and the tail of the thing tells so", "B", None),
        ("The answer is a green thing", None, "The answer is a green thing"),
        ("B is what I would say after looking at it for long", None, "B"),
        ("I can't process this file. A", None, "I can't process this file. A"),
        ("blue kite " * 20, None, "B"),
    ],
)
def test_both_rules(answer, official, original):
    assert letter(answer, COLOURS) == official
    if original is not None:
        assert letter(answer, COLOURS, compat="original") == original


def test_a_letter_counts_only_near_the_end():
    assert letter("A man, a plan", COLOURS) == "A"  # the second a is no letter of an option
    assert letter("A man with a plan and a canal", COLOURS) is None


def test_circular_needs_every_rotation():
    hits = {3: (True, True), 4: (True, False), 5: (False, True)}
    rows = [(index + turn * 1_000_000, right) for index, turns in hits.items() for turn, right in enumerate(turns)]
    assert circular(rows) == circular(reversed(rows)) == {3: True, 4: False, 5: False}
    assert circular([(1_000_009, True)]) == {}  # its first rotation was not asked


@pytest.mark.parametrize(
    ("answer", "official", "original"),
    [
        ("The best answer is: (C)", "C", "C"),
        ("The best option is A", "A", "A"),
        ("Best option: none", "", ""),
        ("red", "A", "A"),
        ("the answer", "", ""),
        ("it may be any of them, i cannot say for sure at all", "", ""),
        ("", "A", "A"),  # nothing is a part of every option
    ],
)
def test_realworld(answer, official, original):
    options = {"A": "red", "B": "blue"}
    assert realworld_letter(answer, options) == official
    assert realworld_letter(answer, options, compat="original") == original


def test_realworld_phrases_that_stay_in_the_first_code_base():
    options = {"A": "cat", "B": "dog"}
    assert realworld_letter("The best option isdog", options) == "B"
    assert realworld_letter("The best option isdog", options, compat="original") == ""

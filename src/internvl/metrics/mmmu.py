"""MMMU (arXiv:2311.16502) and MMMU-Pro (arXiv:2409.02813): what an answer says, and whether it is right.

The rules are those of the authors' `eval_utils.py`, which the original code base took over. What differed there is
named `compat="original"`: its choices went through its own letter rule first, so that no answer was ever guessed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from internvl.metrics.choices import letter

DOMAINS: Mapping[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
"""The thirty subjects by domain, as they are called in the data set."""

SUBJECTS = tuple(subject for subjects in DOMAINS.values() for subject in subjects)

_EDGES = ",.!?;:'"
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?(?<!\d)\d++(?:\.\d++)?[eE][+-]?\d+",
    r"-?(?:(?<!\d)\d++\.\d++|\.\d++|(?<!\d)\d++\b)(?![eE][+-]?\d+)(?![,\d])",
)
"""With commas; scientific; plain. What the authors' patterns find, but that none is tried inside a row of digits, where
it fails if it failed at the row's beginning; so time is linear."""


def domain(subject: str) -> str | None:
    """The domain of a subject.

    >>> domain("Art_Theory")
    'Art and Design'
    """
    return next((name for name, subjects in DOMAINS.items() if subject in subjects), None)


def subject(identifier: str) -> str:
    """The subject that the id of a question names.

    >>> subject("validation_Art_Theory_12")
    'Art_Theory'
    """
    return "_".join(identifier.split("_")[1:-1])


# ---- multiple choice -------------------------------------------------------------------------------------------------


def choice(
    answer: str,
    options: Mapping[str, str],
    *,
    pro: bool = False,
    seed: int | str | None = 42,
    compat: Literal["original"] | None = None,
) -> str | None:
    """The letter that an answer chooses, by the authors' rule.

    `(A)` counts before ` A `, and that before the text of an option, which is looked for in answers of more than five
    words; of several the last. Where nothing is found the authors' scorer takes an option at random: `seed` makes that
    the same each time (give each question another one), and None leaves it out.

    pro: MMMU-Pro's rule. First what stands after the last "Answer:", if exactly one option letter is in it; then also
    `A ` without a space before it, and `A.`. MMMU-Pro is in the original what it is at its authors'.

    compat="original", for MMMU: the letter rule of its scripts; what it does not find stays the answer as it is.

    >>> choice("maybe (C), no (A)", {"A": "red", "B": "blue", "C": "green"})
    'A'
    >>> choice("Neither A nor C.\\nAnswer: B.", {"A": "red", "B": "blue"}, pro=True)
    'B'
    >>> choice("who knows", {"A": "red", "B": "blue"}, seed=None)
    """
    if compat == "original" and not pro:
        return letter(answer, options, compat="original")
    if pro and "Answer:" in answer:
        announced = answer.rsplit("Answer:", 1)[1]
        held = [key for key in options if key in announced]
        if len(held) == 1:
            return held[0]
    for edge in _EDGES:
        answer = answer.strip(edge)
    answer = f" {answer} "
    for form, place in (("({})", "({})"), *((("{} ", " {} "), ("{}.", " {} ")) if pro else ((" {} ", " {} "),))):
        found = [key for key in options if form.format(key) in answer]
        if found:  # of several `A.` MMMU-Pro's scorer asks where ` A ` was last, which may be nowhere: then the first
            return max(found, key=lambda key: answer.rfind(place.format(key)))
    said = answer.lower()
    if len(answer.split()) > 5:
        found = [key for key, text in options.items() if text.lower() in said]
        if found:
            return max(found, key=lambda key: said.rfind(options[key].lower()))
    return random.Random(seed).choice(list(options)) if options and seed is not None else None


def choice_match(chosen: str | None, truth: str | Sequence[str]) -> bool:
    """Whether the chosen letter is the right one, or one of the right ones; `a` is not `A`.

    >>> choice_match("A", ["A", "C"]), choice_match("a", "A"), choice_match(None, "A")
    (True, False, False)
    """
    return chosen is not None and chosen in ([truth] if isinstance(truth, str) else truth)


# ---- open answers ----------------------------------------------------------------------------------------------------


def is_number(text: str) -> bool:
    """Whether a text is nothing but a number; commas in it are passed over.

    >>> is_number("10,00"), is_number("5%")
    (True, False)
    """
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


def normalise(text: str) -> list[float | str]:
    """A text in the forms in which it is compared: a number, rounded to two places; or lower-cased.

    A single character becomes two strings, with a space before and after it, so that it is not found in every word.

    >>> normalise("1,234.567"), normalise("Red"), normalise("x")
    ([1234.57], ['red'], [' x', 'x '])
    """
    text = text.strip()
    if is_number(text):
        return [round(float(text.replace(",", "")), 2)]
    text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def numbers(text: str) -> list[str]:
    """Every number in a text as it is written: first those with commas, then scientific ones, then plain ones.

    The plain ones are also looked for inside the others, and some are found there.

    >>> numbers("12 or .5 or 1,000")
    ['1,000', '12', '.5', '000']
    """
    return [found for pattern in _NUMBERS for found in re.findall(pattern, text)]


def open_answers(response: str) -> set[float | str]:
    """Everything that a response to an open question may mean, normalised.

    Of each line the shortest tail after "is ", "so ", "answer " and their like (and in the last line after `=`), and
    all numbers in these tails; where no line has such a tail, the whole response. The authors also split sentences
    where a capital follows, but only after lower-casing, so that none does.

    >>> sorted(open_answers("The answer is 42."))
    [42.0]
    """
    response = response.strip().strip(".").lower()
    lines = response.split("\n")
    tails: list[str] = []
    for place, line in enumerate(lines):
        indicators = (*_INDICATORS, "=") if place == len(lines) - 1 else _INDICATORS
        ends = [line.rsplit(indicator, 1)[1].strip() for indicator in indicators if indicator in line]
        tail = ""
        for end in ends:  # an empty end is replaced by the next one, whatever its length
            if not tail or len(end) < len(tail):
                tail = end
        if tail and tail not in _EDGES:
            tails.append(tail)
    tails = tails or [response]
    found = tails + [number for tail in tails for number in numbers(tail)]
    return {form for text in found for form in normalise(text)}


def open_match(response: str, truth: str | Sequence[str]) -> bool:
    """Whether a response to an open question is right: one of the truths is in it as text, or is one of its numbers.

    >>> open_match("The area is 12.50 cm", "12.5"), open_match("So it is blue", ["blue", "azure"])
    (True, True)
    """
    truths = [truth] if isinstance(truth, str) else truth
    wanted = [form for text in truths for form in normalise(text)]
    texts = [form for form in wanted if isinstance(form, str)]
    return any(
        any(text in said for text in texts) if isinstance(said, str) else said in wanted
        for said in open_answers(response)
    )

"""Rules that belong to one benchmark each: when an answer counts as right there, and nowhere else.

All of them take texts and give 1.0 or 0.0, or what they took the answer to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from internvl.errors import DataError, find
from internvl.metrics.choices import REALWORLD_PREFIXES, letter

Compat = Literal["original"] | None

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
LONGEST_NUMBER = 1000
"""Digits of a number that is still read: Python refuses to read a few thousand."""
_VALUES = {word: n for n, word in enumerate(NUMBER_WORDS)} | {word: n for n, word in enumerate(ORDINALS, start=1)}


def whole(digits: str) -> int:
    """Digits as a number; a row of more digits than any question asks for, some thousand of them, as -1."""
    return int(digits) if len(digits) <= LONGEST_NUMBER else -1


# ---- several pictures ------------------------------------------------------------------------------------------------

MIRB_KINDS: Mapping[str, Literal["number", "text", "yes", "inside"]] = {
    **dict.fromkeys(("count", "visual_chain", "3d_scene", "image_needles"), "number"),
    **dict.fromkeys(("count_concat", "visual_chain_concat", "3d_scene_concat", "image_needles_concat"), "number"),
    **dict.fromkeys(("codeu", "food", "image_jigsaw", "arxiv", "plot_code", "plot_text"), "text"),
    **dict.fromkeys(("arxiv_text", "codeu_text"), "text"),
    **dict.fromkeys(("analogy", "attribute"), "yes"),
    "sightseeing": "inside",
}
"""How each task of MIRB compares."""


def mirb_match(task: str, answer: str, truth: str) -> float:
    """Whether an answer to MIRB (arXiv:2406.12742) is right.

    Of the answer counts what stands before its first line break, else before its first full stop. Counting tasks
    compare its first whole number, or the one number word that it consists of; `analogy` and `attribute` ask whether
    it has "yes" in it or not; `sightseeing` whether the truth is in it; the others want equality. Case is ignored.

    >>> mirb_match("count", "There are 12. Or 13", "12"), mirb_match("analogy", "I doubt it", "no")
    (1.0, 1.0)
    """
    kind = find("task of MIRB", task, MIRB_KINDS)
    said, wanted = _first_part(answer).lower(), truth.lower()
    if kind == "yes" or (kind == "inside" and wanted in ("yes", "no")):
        return float(wanted in ("yes", "no") and ("yes" in said) == (wanted == "yes"))
    if kind == "inside":
        return float(wanted in said)
    if kind == "number":
        number = re.search(r"\d+", said)
        said = number[0] if number else str(_VALUES.get(said, ""))
    return float(said == wanted)


def _first_part(answer: str) -> str:
    answer = answer.strip()
    cut = answer.find("\n")
    if cut <= 0:
        cut = answer.find(".")
    return answer[:cut] if cut > 0 else answer


def mantis_match(answer: str, truth: str, options: Mapping[str, str], *, compat: Compat = None) -> float:
    """Whether an answer to Mantis-Eval (arXiv:2405.01483) is right; without options it is a short answer.

    Of a choice, the letter that the answer names counts; short answers are equal without regard to case, outer spaces
    and a final full stop. compat="original" wants the letter itself, `(B)`, or the option's text as it stands in the
    data, `(B) a bus`; short answers are equal without regard to case alone.

    >>> mantis_match("The answer is B.", "B", {"A": "(A) a car", "B": "(B) a bus"})
    1.0
    >>> mantis_match("The answer is B.", "B", {"A": "(A) a car", "B": "(B) a bus"}, compat="original")
    0.0
    """
    if compat == "original":
        if not options:
            return float(answer.lower() == truth.lower())
        bare = answer[1:-1] if len(answer) == 3 and answer[0] == "(" and answer[-1] == ")" else answer
        return float(bare in (options.get(truth), truth))
    if options:
        texts = {key: re.sub(r"^\([A-Z]\)\s*", "", text) for key, text in options.items()}
        return float(letter(answer, texts) == truth)
    return float(answer.strip().rstrip(".").lower() == truth.strip().rstrip(".").lower())


def truth_value(answer: str) -> bool | None:
    """What an answer to a statement says: its first word among true, yes, false and no; None if it has none.

    >>> truth_value("True."), truth_value("No, there is no tower."), truth_value("Maybe")
    (True, False, None)
    """
    word = re.search(r"\b(true|yes|false|no)\b", answer.lower())
    return word[1] in ("true", "yes") if word else None


# ---- videos ----------------------------------------------------------------------------------------------------------


def mvbench_match(answer: str, truth: str, *, compat: Compat = None) -> float:
    """Whether an answer to MVBench (arXiv:2311.17005) is right; the truth is written `(A) what it says`.

    The rule of its authors looks only at the first word of either, in lower case: the answer's without full stops is
    part of the truth's, or the truth's is part of the answer's. So an empty answer was always right; here an answer
    whose first word has no letter or digit is wrong. compat="original": it is right, and "Answer: " is removed first.

    >>> mvbench_match("(A) a cat", "(A) a cat"), mvbench_match("A.", "(A) a cat"), mvbench_match("", "(A) a cat")
    (1.0, 1.0, 0.0)
    >>> mvbench_match("Answer: (A)", "(A) a cat", compat="original"), mvbench_match("", "(A) a cat", compat="original")
    (1.0, 1.0)
    """
    if compat == "original":
        answer = answer.replace("Answer: ", "")
    else:
        answer, truth = answer.strip(), truth.strip()
    said, wanted = (text.lower().split(" ")[0] for text in (answer, truth))
    if compat is None and not any(sign.isalnum() for sign in said):
        return 0.0
    return float(said.replace(".", "") in wanted or wanted in said)


CAPITAL_PREFIXES = (*REALWORLD_PREFIXES, "Answer:", "Option:")
"""What the scorers of Video-MME and LongVideoBench take away from an answer before they look for a letter."""


def capital_letter(answer: str, letters: str, *, compat: Compat = None) -> str:
    """The first of these capitals in an answer, after phrases such as "The best answer is"; empty if there is none.

    The rule of Video-MME (arXiv:2405.21075), which LongVideoBench took over. It reads "Because" as B.
    compat="original": as the published scores had it, two commas are missing in the list of phrases, so that "The best
    option is", "The correct option is", "Best answer:" and "Best option:" stay and their own capitals count.

    >>> capital_letter("Best option: (C)", "ABCD"), capital_letter("Best option: (C)", "ABCD", compat="original")
    ('C', 'B')
    """
    phrases = CAPITAL_PREFIXES
    if compat == "original":
        phrases = (*phrases[:4], phrases[4] + phrases[5], phrases[6] + phrases[7], *phrases[8:])
    said = answer.strip()
    for phrase in phrases:
        said = said.replace(phrase, "")
    found = re.search(f"[{letters}]", said)
    return found[0] if found else ""


def mlvu_match(answer: str, truth: str, options: Mapping[str, str]) -> float:
    """Whether a multiple-choice answer to MLVU (arXiv:2406.04264) is right; the truth is a letter.

    The letter before the first closing bracket, or the answer as it is; where that is not the truth, the letter that
    `choices.letter` finds.

    >>> mlvu_match("(B) red", "B", {"A": "blue", "B": "red"}), mlvu_match("red", "B", {"A": "blue", "B": "red"})
    (1.0, 1.0)
    """
    at = answer.find(")")
    said = answer[max(0, at - 1) : at] if at >= 0 else answer
    return float(said == truth or letter(answer, options) == truth)


# ---- reading and seeing ----------------------------------------------------------------------------------------------

FORMULAS = "Handwritten Mathematical Expression Recognition"


def ocrbench_match(answer: str, golds: list[str], kind: str) -> float:
    """Whether one of the golds stands in an answer to OCRBench (arXiv:2305.07895).

    Case, outer spaces and line breaks do not count; of formulas no space counts, but case does.

    >>> ocrbench_match("It says CENTRE.", ["Centre"], "Regular Text Recognition")
    1.0
    """
    if kind == FORMULAS:
        said = answer.strip().replace("\n", " ").replace(" ", "")
        return float(any(gold.strip().replace("\n", " ").replace(" ", "") in said for gold in golds))
    said = answer.lower().strip().replace("\n", " ")
    return float(any(gold.lower().strip().replace("\n", " ") in said for gold in golds))


BLINDTEST_KINDS: Mapping[str, Literal["number", "yes", "letter", "pair"]] = {
    "LineIntersection": "number", "Line Plot Intersections": "number",
    "TouchingCircle": "yes", "Touching Circles": "yes",
    "CircledWord": "letter", "Circled Letter": "letter",
    "CountingCircles": "number", "Olympic Counting - Circles": "number", "Olympic Counting - Pentagons": "number",
    "NestedSquares": "number", "Nested Squares": "number",
    "CountingRowsAndColumns": "pair", "Counting Grid - Blank Grids": "pair", "Counting Grid - Word Grids": "pair",
    "SubwayMap": "number", "Subway Connections": "number",
}  # fmt: skip
"""What is asked in each task, by the names of the authors' folders and by those of their published table."""


def blindtest_match(task: str, answer: str, truth: str) -> float:
    """Whether an answer to BlindTest (Vision language models are blind, arXiv:2407.06581) is right.

    Answers and truths may use the forms that the questions ask for: `{3}`, `(5,6)`, `rows={5} columns={6}`, Yes/No.
    What stands in curly brackets comes first. Without them a number is the first whole number or number word, a letter
    the one in quotation marks or else the last that stands alone; two numbers are rows and columns as they are named,
    else in this order. The case of a letter does not count: no word of the benchmark has a letter in both cases.

    >>> blindtest_match("SubwayMap", "There are {2}, not 3", "2"), blindtest_match("NestedSquares", "Five.", "5")
    (1.0, 1.0)
    >>> blindtest_match("CountingRowsAndColumns", "columns={6} rows={5}", "(5,6)")
    1.0
    """
    kind = find("task of BlindTest", task, BLINDTEST_KINDS)
    read = {"number": _number, "yes": truth_value, "letter": _lone_letter, "pair": _rows_columns}[kind]
    wanted = read(truth)
    if wanted is None:
        raise DataError(f"the truth of a question of {task} is {truth!r}; expected a {kind}")
    return float(read(answer) == wanted)


def _number(text: str) -> int | None:
    inside = re.search(r"\{\s*(\w+)\s*\}", text)
    word = re.search(rf"\b(\d+|{'|'.join(NUMBER_WORDS)})\b", (inside[1] if inside else text).lower())
    return None if word is None else whole(word[1]) if word[1].isdecimal() else NUMBER_WORDS.index(word[1])


def _lone_letter(text: str) -> str | None:
    for pattern in (
        r"\{\s*([A-Za-z])\s*\}",
        r"[\"'“‘`*]([A-Za-z])[\"'”’`*]",
        r"(?<![A-Za-z'’])([A-Za-z])(?![A-Za-z'’])",
    ):
        if found := re.findall(pattern, text):
            return found[-1].lower()
    return None


def _rows_columns(text: str) -> tuple[int, int] | None:
    named = [re.search(rf"\b{name}s?\b[^\d]{{0,12}}?(\d+)", text, re.IGNORECASE) for name in ("row", "column")]
    if named[0] and named[1] and named[0].start(1) != named[1].start(1):
        return whole(named[0][1]), whole(named[1][1])
    counted = [re.search(rf"(?<!\d)(\d++)\s++{name}s?\b", text, re.IGNORECASE) for name in ("row", "column")]
    if counted[0] and counted[1]:
        return whole(counted[0][1]), whole(counted[1][1])
    numbers = re.findall(r"\d+", text)
    return (whole(numbers[0]), whole(numbers[1])) if len(numbers) >= 2 else None

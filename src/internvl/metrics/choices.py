"""Multiple choice: which option an answer names, and questions that count only when every rotation is right.

MMBench (arXiv:2307.06281) made both rules; its evaluator lives on in VLMEvalKit (arXiv:2407.11691), from where SEED,
MMStar, MMT-Bench and most later sets have them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
    "Failed to obtain answer via API",
)
"""What closed models write instead of an answer; it names no option, whatever words it has."""

_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANNOUNCED = re.compile(r"(?i:answer\s+is)\s+\**([A-D])(?!\w)")


def letter(
    answer: str, options: Mapping[str, str], *, compat: Literal["original"] | None = None, bracketed: bool = False
) -> str | None:
    """The letter of the option that an answer names, or None.

    VLMEvalKit's heuristic matching: without `.()[],:;!*#{}` exactly one option letter is a word of the answer, and it
    is among the last four words; else a letter that stands after "answer is"; else, in an answer at most twice as long
    as all options together, the only option whose text is in it, in any case. One thing is stricter than there: after
    "answer is" the letter must be a capital that stands alone, so that "the answer is a bus" is not option A.

    compat="original" is what the first code base's scripts did before they wrote a submission: the only character; or
    the first, if it is an option's letter; or the first option whose text is in the answer, in its case; or else the
    answer as it is. `bracketed` adds, as the script of ScienceQA and M3CoT has it, `X.` and `(X)`. An empty answer
    stopped most of these scripts; here it stays empty.

    >>> letter("The answer is (B).", {"A": "red", "B": "blue"}), letter("a blue one", {"A": "red", "B": "blue"})
    ('B', 'B')
    >>> letter("Because it is red.", {"A": "red", "B": "blue"}, compat="original")
    'B'
    """
    if compat == "original":
        return _as_first_published(answer, options, bracketed)
    if any(refusal in answer for refusal in REFUSALS):
        return None
    words = answer.translate(_MARKS).split()
    named = [key for key in options if key in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:
        return named[0]
    if not named and "Z" in words:  # the letter that judges are told to write for "none of these"
        return None
    announced = _ANNOUNCED.search(answer)
    if announced and announced[1] in options:
        return announced[1]
    if len(answer) > 2 * sum(len(text) for text in options.values()):
        return None
    said = answer.lower()
    held = [key for key, text in options.items() if text.lower() in said]
    return held[0] if len(held) == 1 else None


def _as_first_published(answer: str, options: Mapping[str, str], bracketed: bool) -> str:
    answer = answer.strip()
    if len(answer) < 2:
        return answer
    if answer[0] in options:
        return answer[0]
    for key, text in options.items():
        if text in answer:
            return key
    if bracketed and answer[1] == ".":
        return answer[0]
    if bracketed and len(answer) > 2 and answer[0] == "(" and answer[2] == ")":
        return answer[1]
    return answer


ROTATION = 1_000_000
"""MMBench numbers the rotations of question i as i, i + 1,000,000, i + 2,000,000, ..."""


def circular(
    hits: Iterable[tuple[int, bool]], *, question: Callable[[int], int] = lambda index: index % ROTATION
) -> dict[int, bool]:
    """Circular evaluation: by question, whether all rotations of its options were answered rightly.

    hits: (index, right) of each row. question: the question that an index belongs to, in tables that have a column
    `g_index` for it. A group without its first rotation, the row whose index is its question's own, is not counted.

    >>> circular([(7, True), (1_000_007, False), (8, True), (1_000_008, True), (1_000_009, True)])
    {7: False, 8: True}
    """
    rotations: dict[int, dict[int, bool]] = defaultdict(dict)
    for index, right in hits:
        rotations[question(index)][index] = right
    return {first: all(found.values()) for first, found in rotations.items() if first in found}


REALWORLD_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)
"""What MME-RealWorld's scorer takes away from an answer before it looks for a letter."""


def realworld_letter(answer: str, options: Mapping[str, str], *, compat: Literal["original"] | None = None) -> str:
    """The letter that an answer to MME-RealWorld (arXiv:2408.13257) names; empty where there is none.

    The authors' rule: phrases such as "The best answer is" are removed, then the first capital of A to E counts; an
    answer without one counts as the first option of whose text (`(A) red`) it is a part, if it has at most ten words.
    compat="original": the list of phrases lacks a comma, so that "The best option is" and "The correct option is" stay.

    >>> realworld_letter("The best answer is (C).", {"A": "red", "C": "green"}), realworld_letter("red", {"A": "red"})
    ('C', 'A')
    """
    merged = ("The best option isThe correct option is",)
    said = answer.strip()
    for phrase in REALWORLD_PREFIXES if compat is None else (*REALWORLD_PREFIXES[:4], *merged, *REALWORLD_PREFIXES[6:]):
        said = said.replace(phrase, "")
    found = re.search("[ABCDE]", said)
    if found:
        return found[0]
    if len(said.split()) > 10:
        return ""
    return next((key for key, text in options.items() if said.lower() in f"({key}) {text}".lower()), "")

"""MM-NIAH: needles in long documents of text and pictures (Needle In A Multimodal Haystack, arXiv:2406.07230)."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, cast

from internvl.metrics.matching import whole
from internvl.metrics.vqa import contains_answer

LENGTHS = (1000, 2000, 4000, 8000, 12000, 16000, 24000, 32000, 40000, 48000, 64000)
"""Tokens from which the context ranges go; shorter contexts are not counted."""
DEPTHS = 5
"""Equal parts of a context in which a needle may lie."""

_TEENS = "eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty"
_TENS = "thirty|forty|fifty|sixty|seventy|eighty|ninety"
_WORDS = {
    **{word: str(n) for n, word in enumerate(_TEENS.split("|"), start=11)},
    **{word: str(n) for n, word in zip(range(30, 100, 10), _TENS.split("|"), strict=True)},
}


def needle_match(answer: str, truth: str | int | list[int]) -> float:
    """What an answer is worth, 0 to 1, by the kind of the truth; the rule of the authors.

    A number is the place of the right option, from 0: the answer is that number or the option's letter alone, after
    "the answer is", asterisks and everything behind a full stop are taken away. A list holds the counts of several
    needles: the answer must be a JSON list (or an object of lists), and the share of right places counts. A text must
    stand in the answer as whole words, after the normalisation of VQA.

    >>> needle_match("**B**", 1), needle_match("[1, 2, 3]", [1, 2, 4]), needle_match("It was an oak.", "oak")
    (1.0, 0.6666666666666666, 1.0)
    """
    answer = answer.strip(".")
    if isinstance(truth, int):
        return float(_option(answer) == truth)
    if isinstance(truth, list):
        return _counts(answer, truth)
    return contains_answer(_in_digits(answer), [_in_digits(truth)])


def _option(answer: str) -> int | None:
    if re.fullmatch("[0-9]+", answer):
        return whole(answer)
    said = answer.lower().replace("the answer is", "").replace("*", "")
    if "." in said:
        said = said.split(".")[0].replace(",", "")
    said = said.strip()
    if said == "none":
        return None
    for direction, option in (("left", "a"), ("right", "b")):  # two options that models like to write out
        if f"the camera is moving {direction}" in said:
            said = option
            break
    return ord(said) - ord("a") if len(said) == 1 else None


def _counts(answer: str, truth: list[int]) -> float:
    try:
        found: object = json.loads(answer.replace("json", "").replace("```", "").strip())
    except (ValueError, RecursionError):
        return 0.0
    if isinstance(found, dict):
        lists = list(cast("dict[str, object]", found).values())
        if not all(isinstance(each, list) for each in lists):
            return 0.0
        found = [item for each in lists for item in cast("list[object]", each)]
    if not isinstance(found, list) or not truth:
        return 0.0
    return sum(said == wanted for said, wanted in zip(cast("list[Any]", found), truth, strict=False)) / len(truth)


def _in_digits(text: str) -> str:
    """Number words above ten as digits; those up to ten belong to the normalisation of VQA."""
    return re.sub(r"[A-Za-z]+", lambda word: _WORDS.get(word[0].lower(), word[0]), text)


def by_length(cells: Iterable[tuple[float, float, float]]) -> Mapping[str, float]:
    """By context range (`1k` to `64k`), the mean over the depths at which a needle lay of the mean score there.

    cells: (tokens of the context, depth of the needle from 0 to 1, score) of each question. Depths are taken in fifths.
    The authors count a fifth without questions as 0; here it is left out, which is the same on the whole set as long
    as no fifth is empty.

    >>> by_length([(1500, 0.1, 1.0), (1600, 0.15, 0.0), (1700, 0.9, 1.0), (900, 0.5, 0.0)])
    {'1k': 0.75}
    """
    found: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for tokens, depth, score in cells:
        if at := bisect_right(LENGTHS, tokens):
            found[at - 1][min(DEPTHS - 1, int(depth * DEPTHS))].append(score)
    means = {at: [sum(scores) / len(scores) for scores in depths.values()] for at, depths in sorted(found.items())}
    return {f"{LENGTHS[at] // 1000}k": sum(each) / len(each) for at, each in means.items()}

"""VCR: text that is covered in a picture is to be restored (Visual Caption Restoration, arXiv:2406.06462).

The answer is searched for the run of words that is most like the covered text. Its authors cut words with spaCy
(`en_core_web_sm`, `zh_core_web_sm`); here they are cut by a few rules of our own, so that no model has to be
downloaded: English as spaCy's tokenizer cuts it but for its list of abbreviations, Chinese one character a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Literal

Language = Literal["en", "zh"]

REFUSALS = ("I can't", "I cannot", "无法", "抱歉")
"""An answer with one of these, or with "sorry" in any case, restores nothing."""

_HAN = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_CHINESE = re.compile(rf"[{_HAN}]|[^\s{_HAN}]+")
_CONTRACTED = re.compile(r"(?i)^(.+?)(n['’]t|['’](?:s|re|ve|ll|d|m))$")
_OPENING, _CLOSING = "\"'“”‘’`([{<*$£€#&", "\"'“”‘’`)]}>*,;:!?%"
_INSIDE = re.compile(
    r"(?<=[a-zA-Z])(,)(?=[a-zA-Z])|(?<=[a-zA-Z0-9])([:<>=/]|--+|[-–—~])(?=[a-zA-Z])|(?<=\d)([-+*^])(?=[\d-])"
    r"|(\.\.+|…)|(?<=[a-z])(\.)(?=[A-Z])"
)
_UNIT = re.compile(r"(?<=\d)(km²|km|cm|mm|m|kg|g|mg|kPa|Pa|hPa|mbar|mb|MB|GB|TB|KB|kb|t|%)$")
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+")
_TWO_WORDS = {"cannot": 3, "Cannot": 3, "gonna": 3, "Gonna": 3, "gotta": 3, "Gotta": 3}
"""Words that are cut in two, and where."""
LONGEST_WORD = 1000
"""Characters; what is longer and has no space is no English, and is not cut."""
_SHORT = "mr mrs ms dr st jr sr prof gen gov rev inc ltd co corp vs jan feb mar apr jun jul aug sep sept oct nov dec"
_SHORT_FORMS = frozenset((*(f"{word}." for word in _SHORT.split(" ")), "e.g.", "i.e.", "a.m.", "p.m."))


def tokens(text: str, language: Language) -> list[str]:
    """The words of a text; punctuation marks are words of their own.

    >>> tokens("It's well-known (today).", "en"), tokens("他在2024年", "zh")
    (['It', "'s", 'well', '-', 'known', '(', 'today', ')', '.'], ['他', '在', '2024', '年'])
    """
    if language == "zh":
        return _CHINESE.findall(text)
    return [token for word in text.split() for token in _english(word)]


def _english(word: str) -> list[str]:
    """A word without spaces: marks off its ends, then contractions, then marks inside."""
    before: list[str] = []
    after: list[str] = []
    if len(word) > LONGEST_WORD:
        return [word]
    while len(word) > 1 and word.lower() not in _SHORT_FORMS:
        if word[0] in _OPENING and not re.match(r"['’](?:s|re|ve|ll|d|m|em|cause)$", word):
            before.append(word[0])
            word = word[1:]
        elif word[-1] in _CLOSING or _ends_sentence(word):
            after.insert(0, word[-1])
            word = word[:-1]
        elif contracted := _CONTRACTED.match(word):
            after.insert(0, contracted[2])
            word = contracted[1]
        else:
            break
    if unit := _UNIT.search(word):
        after.insert(0, unit[1])
        word = word[: unit.start()]
    if cut := _TWO_WORDS.get(word):
        middle = [word[:cut], word[cut:]]
    elif _ADDRESS.match(word) or word == "and/or":
        middle = [word]
    else:
        middle = [part for part in _INSIDE.split(word) if part]
    return [*before, *middle, *after]


def _ends_sentence(word: str) -> bool:
    """A final full stop, unless it closes initials such as `J.` or `U.S.`."""
    return word.endswith(".") and not re.fullmatch(r"(?:[A-Za-z]\.)+", word) and not word.endswith("..")


def vcr_match(
    answer: str, covered: str, language: Language, *, cut: Callable[[str, Language], Sequence[str]] = tokens
) -> tuple[float, float]:
    """(exact match, Jaccard index) of a covered text with what is most like it in the answer.

    Of all runs of as many words as the covered text has, those that share a word with it are compared by difflib's
    ratio, and the first of the best counts: exact match is equality word by word, the Jaccard index that of the two
    sets of words. A refusal scores nothing. cut: another way to cut words, such as spaCy's.

    >>> vcr_match("The text is: born in the city of Rome", "in the city of", "en")
    (1.0, 1.0)
    >>> vcr_match("in a city of", "in the city of", "en")
    (0.0, 0.6)
    """
    answer = answer.split("Assistant: ")[-1]
    if "sorry" in answer.lower() or any(refusal in answer for refusal in REFUSALS):
        return 0.0, 0.0
    wanted, said = list(cut(covered, language)), list(cut(answer, language))
    best, most = (), 0.0
    for start in range(len(said) - len(wanted) + 1):
        run = tuple(said[start : start + len(wanted)])
        if set(run).isdisjoint(wanted):
            continue
        alike = SequenceMatcher(None, ("" if language == "zh" else " ").join(run), covered).ratio()
        if alike > most:
            best, most = run, alike
    if not best:
        return 0.0, 0.0
    found, asked = set(best), set(wanted)
    return float(list(best) == wanted), len(found & asked) / len(found | asked)

"""Answers read off documents and charts: ANLS and relaxed accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from internvl.errors import DataError
from internvl.metrics.edits import levenshtein


def anls(
    answer: str, golds: str | Sequence[str], *, threshold: float = 0.5, compat: Literal["original"] | None = None
) -> float:
    """Average normalised Levenshtein similarity of one answer: to the nearest gold, 0 where it is below `threshold`.

    Biten et al., arXiv:1905.13648, equation 1. Case and the length of white space do not count. A similarity of exactly
    the threshold counts, as in every public scorer; the paper's formula cuts it off.

    compat="original": edits are counted on the normalised texts but divided by the length of the raw ones, as the
    scorer that the organisers of DocVQA and InfographicVQA hand out does, so that white space around an answer makes a
    wrong letter cheaper. Published scores have it.

    >>> anls("abce", ["ABCD", "x"]), anls("ab", "yz"), anls("  abce  ", "abcd", compat="original")
    (0.75, 0.0, 0.875)
    """
    listed = _listed(golds)
    said = _plain(answer)
    best = 0.0
    for gold in listed:
        wanted = _plain(gold)
        longest = max(len(gold), len(answer)) if compat == "original" else max(len(wanted), len(said))
        best = max(best, 1.0 - levenshtein(wanted, said) / longest if longest else 1.0)
    return best if best >= threshold else 0.0


def relaxed_match(
    answer: str, golds: str | Sequence[str], *, tolerance: float = 0.05, compat: Literal["original"] | None = None
) -> float:
    """1 where the answer is one of the golds: a number within `tolerance` of it, any other text letter for letter.

    Masry et al., arXiv:2203.10244, section 5.1, as pix2struct computes it: `12%` is 0.12, case does not count, and a
    gold of 0 is compared as text.

    compat="original": answer and gold have changed places, so that the tolerance is a share of the answer: 105.2 is
    within 5 % of itself from 100. Published ChartQA scores have it.

    >>> relaxed_match("104", "100"), relaxed_match("105.2", "100"), relaxed_match("105.2", "100", compat="original")
    (1.0, 0.0, 1.0)
    """
    answer = answer.strip()
    pairs = [(answer, gold) if compat == "original" else (gold, answer) for gold in _listed(golds)]
    return float(any(_within(target, value, tolerance) for target, value in pairs))


def _within(target: str, value: str, tolerance: float) -> bool:
    wanted, said = _number(target), _number(value)
    if said is not None and wanted:
        return abs(said - wanted) / abs(wanted) <= tolerance
    return target.lower() == value.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _listed(golds: str | Sequence[str]) -> Sequence[str]:
    listed = [golds] if isinstance(golds, str) else golds
    if not listed:
        raise DataError("a question has no gold answer; expected at least one")
    return listed

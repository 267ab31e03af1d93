"""How many letters must change to make one text another."""

from __future__ import annotations


def levenshtein(a: str, b: str) -> int:
    """The least number of insertions, deletions and replacements of one character that make `a` into `b`.

    Levenshtein, Soviet Physics Doklady 10 (1966). Characters are code points; time is len(a) * len(b).

    >>> levenshtein("kitten", "sitting")
    3
    """
    if len(a) > len(b):
        a, b = b, a
    above = list(range(len(a) + 1))
    for row, letter in enumerate(b, start=1):
        here = [row]
        for column, other in enumerate(a):
            here.append(min(above[column] + (letter != other), above[column + 1] + 1, here[column] + 1))
        above = here
    return above[-1]

"""Captions against what people wrote: BLEU, ROUGE-L, CIDEr-D, computed as the COCO caption evaluation computes them.

    tokens = [tokenise(caption) for caption in captions]
    bleu(tokens, references)      Papineni et al. 2002    n-gram precision of the whole set, brevity penalty
    rouge_l(tokens, references)   Lin 2004                longest common subsequence, F of beta 1.2, mean over pictures
    cider(tokens, references)     Vedantam et al. 2015    tf-idf weighted n-grams, CIDEr-D, mean over pictures

References are one tuple of tokenised captions for each picture. All rules are those of pycocoevalcap (Chen et al. 2015,
arXiv:1504.00325), from which the published scores come; they leave no choice, so there is no `compat`.

The published scores were also tokenised by Stanford's PTB tokeniser, a Java program: `internvl.metrics.caption_tools`
runs it where Java is. `tokenise` is a plain stand-in for it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from internvl.errors import UsageError

Tokens = tuple[str, ...]
References = tuple[Tokens, ...]
"""What several people wrote about one picture."""

LONGEST = 4
"""Words of the longest n-gram."""
BETA = 1.2
"""Weight of recall in ROUGE-L."""
SIGMA = 6.0
"""Width of CIDEr-D's penalty for another length, in words."""
CACHED = 100_000
"""Captions whose n-grams are kept: intervals ask for the same ones many times."""

_CLITIC = r"'(?:s|m|d|re|ve|ll)\b"
_TOKEN = re.compile(rf"\w+?(?=n't\b)|n't\b|{_CLITIC}|\d+(?:[.,:]\d+)+|\w+(?:[-/.&]\w+)*|[^\w\s]")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'"})
_DROPPED = frozenset(["'", "`", '"', "(", ")", "[", "]", "{", "}", ".", "?", "!", ",", ":", "-", ";"])


# ---- tokens ----------------------------------------------------------------------------------------------------------


def tokenise(caption: str) -> Tokens:
    """Lower-cased words; clitics apart as in the Penn Treebank, hyphens inside words kept, punctuation dropped.

    Not the PTB tokeniser, only near it: abbreviations with a final period, contractions such as `gonna`, and symbols
    may come out otherwise. Scores made with it are marked so.

    >>> tokenise("The dog's well-worn ball isn't here, is it?")
    ('the', 'dog', "'s", 'well-worn', 'ball', 'is', "n't", 'here', 'is', 'it')
    """
    found: list[str] = _TOKEN.findall(caption.translate(_APOSTROPHES).lower())
    return tuple(token for token in found if token not in _DROPPED)


@lru_cache(maxsize=CACHED)
def _ngrams(tokens: Tokens) -> Counter[Tokens]:
    """All n-grams of one to four tokens, counted."""
    return Counter(tokens[start : start + n] for n in range(1, LONGEST + 1) for start in range(len(tokens) - n + 1))


def _check(candidates: Sequence[Tokens], references: Sequence[References]) -> None:
    if len(candidates) != len(references) or not candidates:
        raise UsageError(
            f"{len(candidates)} captions of {len(references)} pictures; expected one of each, at least one"
        )
    if bare := [place for place, known in enumerate(references) if not known]:
        raise UsageError(f"picture {bare[0]} has no reference caption; expected at least one")


# ---- BLEU ------------------------------------------------------------------------------------------------------------


def bleu(candidates: Sequence[Tokens], references: Sequence[References]) -> tuple[float, float, float, float]:
    """BLEU-1 to BLEU-4 of the whole set, 0..1 (Papineni et al. 2002, ACL).

    The reference nearest in length counts for the brevity penalty, the shorter of two. Counts are smoothed by 1e-15 and
    1e-9, as published, so that no division fails.

    >>> [round(x, 4) for x in bleu([("a", "red", "bus")], [(("a", "red", "bus", "stops"),)])]
    [0.7165, 0.7165, 0.7165, 0.0227]
    """
    _check(candidates, references)
    correct, guessed, length, nearest = [0] * LONGEST, [0] * LONGEST, 0, 0
    for tokens, known in zip(candidates, references, strict=True):
        hits, reference_length = _overlap(tokens, known)
        length += len(tokens)
        nearest += reference_length
        for n in range(LONGEST):
            correct[n] += hits[n]
            guessed[n] += max(0, len(tokens) - n)
    ratio = (length + 1e-15) / (nearest + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, found = 1.0, list[float]()
    for n in range(LONGEST):
        product *= (correct[n] + 1e-15) / (guessed[n] + 1e-9)
        found.append(product ** (1 / (n + 1)) * brevity)
    return found[0], found[1], found[2], found[3]


@lru_cache(maxsize=CACHED)
def _overlap(tokens: Tokens, known: References) -> tuple[tuple[int, ...], int]:
    """N-grams that some reference has too, as often as it has them; and the length of the nearest reference."""
    most: Counter[Tokens] = Counter()
    for reference in known:
        most |= _ngrams(reference)
    hits = [0] * LONGEST
    for gram, count in _ngrams(tokens).items():
        hits[len(gram) - 1] += min(count, most[gram])
    _, nearest = min((abs(len(reference) - len(tokens)), len(reference)) for reference in known)
    return tuple(hits), nearest


# ---- ROUGE-L ---------------------------------------------------------------------------------------------------------


def rouge_l(candidates: Sequence[Tokens], references: Sequence[References]) -> float:
    """ROUGE-L, 0..1: the mean over pictures of F(best precision, best recall) (Lin 2004, ACL workshop).

    Best precision and best recall may come from two references: so the COCO evaluation has it.

    >>> round(rouge_l([("a", "red", "bus")], [(("a", "bus"), ("the", "red", "bus", "stops"))]), 4)
    0.8299
    """
    _check(candidates, references)
    scores = [rouge_l_of(tokens, known) for tokens, known in zip(candidates, references, strict=True)]
    return math.fsum(scores) / len(scores)


@lru_cache(maxsize=CACHED)
def rouge_l_of(tokens: Tokens, known: References) -> float:
    """ROUGE-L of one caption. A caption without words counts as one empty word, as published."""
    candidate = tokens or ("",)
    common = [(_common(candidate, reference or ("",)), len(reference) or 1) for reference in known]
    precision = max(shared for shared, _ in common) / len(candidate)
    recall = max(shared / length for shared, length in common)
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common(a: Tokens, b: Tokens) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for token in a:
        above_left = 0
        for place, other in enumerate(b, start=1):
            above = row[place]
            row[place] = above_left + 1 if token == other else max(above, row[place - 1])
            above_left = above
    return row[-1]


# ---- CIDEr-D ---------------------------------------------------------------------------------------------------------


def cider(candidates: Sequence[Tokens], references: Sequence[References]) -> float:
    """CIDEr-D, 0..10: the mean over pictures (Vedantam et al. 2015, arXiv:1411.5726, with its section on gaming).

    How rare an n-gram is comes from the references themselves, so a subset has other scores than its part of the whole;
    of a single picture it is 0. Lengths are compared in bigrams, as published.

    >>> two = [(("a", "red", "bus", "stops"),), (("two", "dogs", "play", "outside"),)]
    >>> round(cider([("a", "red", "bus", "stops"), ("a", "cat")], two), 4)
    5.0
    """
    scores = cider_each(candidates, references)
    return math.fsum(scores) / len(scores)


def cider_each(candidates: Sequence[Tokens], references: Sequence[References]) -> list[float]:
    """CIDEr-D of each caption, all pictures together saying how rare an n-gram is."""
    _check(candidates, references)
    seen: Counter[Tokens] = Counter()
    for known in references:
        seen.update({gram for reference in known for gram in _ngrams(reference)})
    rarity = {gram: math.log(len(references)) - math.log(count) for gram, count in seen.items()}
    unseen = math.log(len(references))
    scores: list[float] = []
    for tokens, known in zip(candidates, references, strict=True):
        weights = _Weights(tokens, rarity, unseen)
        total = math.fsum(weights.similarity(_Weights(reference, rarity, unseen)) for reference in known)
        scores.append(10 * total / LONGEST / len(known))
    return scores


class _Weights:
    """The tf-idf vectors of a caption, one for each length of n-gram."""

    def __init__(self, tokens: Tokens, rarity: dict[Tokens, float], unseen: float) -> None:
        self.of = {gram: count * rarity.get(gram, unseen) for gram, count in _ngrams(tokens).items()}
        self.bigrams = max(0, len(tokens) - 1)
        squares = [0.0] * LONGEST
        for gram, weight in self.of.items():
            squares[len(gram) - 1] += weight * weight
        self.norms = [math.sqrt(square) for square in squares]

    def similarity(self, reference: _Weights) -> float:
        """The sum over lengths of clipped cosines, less the penalty for another length."""
        products = [0.0] * LONGEST
        for gram, weight in self.of.items():
            if theirs := reference.of.get(gram):
                products[len(gram) - 1] += min(weight, theirs) * theirs
        cosines = [
            product / (mine * theirs) if mine and theirs else product
            for product, mine, theirs in zip(products, self.norms, reference.norms, strict=True)
        ]
        return sum(cosines) * math.exp(-((self.bigrams - reference.bigrams) ** 2) / (2 * SIGMA**2))

"""Caption figures: equal to pycocoevalcap's on random and odd captions, and the plain tokeniser."""

import math
import random

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from internvl.errors import UsageError
from internvl.metrics.captions import bleu, cider, cider_each, rouge_l, rouge_l_of, tokenise

EQUAL = 1e-9
"""Worst seen: 0 for BLEU and ROUGE-L, 6.7e-16 for CIDEr."""

SENTENCE = "a the red blue bus dog two men street on in of with playing sits holding small ball and frisbee"
WORDS = SENTENCE.split()


def corpus(pictures: int, seed: int) -> tuple[list[tuple[str, ...]], list[tuple[tuple[str, ...], ...]]]:
    """Captions that share some of their words with their references, of many lengths, some of them empty."""
    rng = random.Random(seed)
    said, known = [], []
    for _ in range(pictures):
        base = rng.choices(WORDS, k=rng.randint(1, 16))
        references = tuple(
            tuple(word if rng.random() < 0.7 else rng.choice(WORDS) for word in base[: rng.randint(1, len(base))])
            for _ in range(rng.randint(1, 6))
        )
        known.append(references)
        said.append(
            tuple(word if rng.random() < 0.6 else rng.choice(WORDS) for word in base) if rng.random() < 0.97 else ()
        )
    return said, known


def theirs(said, known):
    references = {i: [" ".join(tokens) for tokens in row] for i, row in enumerate(known)}
    candidates = {i: [" ".join(tokens)] for i, tokens in enumerate(said)}
    figures = {}
    for name, scorer in {"bleu": Bleu(4), "rouge": Rouge(), "cider": Cider()}.items():
        figures[name] = scorer.compute_score(references, candidates)
    return figures


@pytest.mark.parametrize(("pictures", "seed"), [(300, 0), (40, 1), (5, 2), (1, 3)])
def test_figures_are_those_of_pycocoevalcap(pictures, seed):
    said, known = corpus(pictures, seed)
    expected = theirs(said, known)
    assert bleu(said, known) == pytest.approx(expected["bleu"][0], abs=EQUAL)
    assert rouge_l(said, known) == pytest.approx(expected["rouge"][0], abs=EQUAL)
    assert cider(said, known) == pytest.approx(expected["cider"][0], abs=EQUAL)
    ours = [rouge_l_of(tokens, row) for tokens, row in zip(said, known, strict=True)]
    assert ours == pytest.approx(expected["rouge"][1].tolist(), abs=EQUAL)
    assert cider_each(said, known) == pytest.approx(expected["cider"][1].tolist(), abs=EQUAL)
    assert pictures == 1 or expected["cider"][0] > 0.1  # the comparison is not of nothing with nothing


def test_the_best_possible_captions():
    known = [(("a", "red", "bus", "on", "a", "street"),), (("two", "dogs", "play", "with", "a", "ball"),)]
    said = [row[0] for row in known]
    assert bleu(said, known) == pytest.approx((1, 1, 1, 1), abs=1e-8)  # smoothed by 1e-9
    assert rouge_l(said, known) == 1.0
    assert cider(said, known) == pytest.approx(10.0)


def test_bleu_by_hand():
    """Three of four words, one of three bigrams; the references are no longer, so there is no penalty."""
    known = [(("a", "red", "bus", "stops"), ("a", "bus"))]
    one, two, *_ = bleu([("a", "red", "old", "bus")], known)
    assert one == pytest.approx(3 / 4)
    assert two == pytest.approx(math.sqrt(3 / 4 * 1 / 3))


def test_a_short_caption_pays_by_the_nearest_reference():
    known = [(("a", "b", "c", "d"), ("a", "b", "c", "d", "e", "f"))]
    assert bleu([("a", "b")], known)[0] == pytest.approx(math.exp(1 - 4 / 2))


def test_cider_falls_with_length():
    """A caption of the right words said twice is worth less: the gaming that CIDEr-D was made against."""
    known = [(("a", "red", "bus"),), (("two", "dogs"),)]
    once, _ = cider_each([("a", "red", "bus"), ()], known)
    twice, _ = cider_each([("a", "red", "bus", "a", "red", "bus"), ()], known)
    assert twice < once * math.exp(-(3**2) / (2 * 6**2)) + 1e-12


@pytest.mark.parametrize("figure", [bleu, rouge_l, cider])
def test_counts_that_do_not_fit(figure):
    with pytest.raises(UsageError, match="1 captions of 2 pictures"):
        figure([("a",)], [(("a",),), (("b",),)])
    with pytest.raises(UsageError, match="at least one"):
        figure([], [])
    with pytest.raises(UsageError, match="picture 1 has no reference"):
        figure([("a",), ("b",)], [(("a",),), ()])


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man riding a wave.", "a man riding a wave"),
        ("Dogs, cats -- and birds!", "dogs cats and birds"),
        ("The man\u2019s black-and-white t-shirt", "the man 's black-and-white t-shirt"),
        ("They don't, can't and won't", "they do n't ca n't and wo n't"),
        ("It's 3.5 or 1,000 at 5:30", "it 's 3.5 or 1,000 at 5:30"),
        ("(a bus) [in] {rain}; \"wet\" ?", "a bus in rain wet"),
        ("two\nlines\tand  spaces", "two lines and spaces"),
        ("  ...  ", ""),
        ("Ein Hund läuft über die Straße", "ein hund läuft über die straße"),
    ],
)  # fmt: skip
def test_the_plain_tokeniser(caption, tokens):
    assert tokenise(caption) == tuple(tokens.split())

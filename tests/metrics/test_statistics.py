"""Intervals and paired tests: exact values, known results of scipy, and the properties that make them usable."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.errors import UsageError
from internvl.metrics.statistics import (
    bootstrap,
    bootstrap_mean,
    holm,
    jackknife,
    mcnemar,
    over_seeds,
    paired_permutation,
    student,
    wilson,
)

# ---- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "total", "low", "high"), [  # scipy 1.17: binomtest(k, n).proportion_ci("wilson")
    (10, 10, 0.7224672001371109, 1.0), (0, 5, 0.0, 0.43448246478317476),
    (7, 50, 0.0695083342701629, 0.2618619371058554),
])  # fmt: skip
def test_wilson_is_that_of_scipy(right, total, low, high):
    assert wilson(right, total) == pytest.approx((low, high), abs=1e-12)


@given(st.integers(1, 2000), st.data())
def test_wilson_holds_the_share_and_is_symmetric(total, data):
    right = data.draw(st.integers(0, total))
    low, high = wilson(right, total)
    assert 0 <= low <= right / total <= high <= 1
    assert wilson(total - right, total) == pytest.approx((1 - high, 1 - low))


def test_wilson_covers_what_it_promises():
    """Of all outcomes of 40 samples with a true share of 0.9, weighted by how likely they are, about 95 % cover it."""
    outcomes = [(right, math.comb(40, right) * 0.9**right * 0.1 ** (40 - right)) for right in range(41)]
    covered = sum(weight for right, weight in outcomes if wilson(right, 40)[0] <= 0.9 <= wilson(right, 40)[1])
    assert 0.93 < covered < 0.97


def test_bootstrap_of_a_mean_is_as_wide_as_theory_says():
    rng = random.Random(1)
    values = [rng.random() for _ in range(400)]
    mean = math.fsum(values) / 400
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values)) / 400
    low, high = bootstrap_mean(values, samples=4000)
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.1 * error)


def test_bootstrap_of_a_mean_is_repeatable_and_blind_to_order():
    values = [random.Random(seed).choice([0.0, 0.3, 1.0]) for seed in range(100)]
    assert bootstrap_mean(values) == bootstrap_mean(values) == bootstrap_mean(values[::-1])
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)
    assert bootstrap_mean([0.5] * 20) == pytest.approx((0.5, 0.5))


def test_bootstrap_of_any_figure_agrees_with_that_of_a_mean():
    values = [float(n % 3 == 0) for n in range(300)]
    found = bootstrap(values, lambda rows: {"mean": sum(rows) / len(rows), "largest": max(rows)}, samples=2000)
    assert found["mean"] == pytest.approx(bootstrap_mean(values, samples=2000), abs=0.01)
    assert found["largest"] == (1.0, 1.0)


def test_rows_of_a_cluster_are_drawn_together():
    pairs = [(picture, side) for picture in range(20) for side in "ab"]

    def halves(rows):
        return {"broken": float(sum(side == "a" for _, side in rows) != len(rows) / 2)}

    assert bootstrap(pairs, halves, cluster=lambda pair: pair[0])["broken"] == (0.0, 0.0)
    assert bootstrap(pairs, halves)["broken"] == (0.0, 1.0)


def test_a_figure_that_a_draw_does_not_give():
    found = bootstrap(["a", "b"], lambda rows: dict.fromkeys(set(rows), 1.0), samples=50)
    assert found == {"a": (1.0, 1.0), "b": (1.0, 1.0)}


def test_jackknife_of_a_mean_is_as_wide_as_theory_says():
    rng = random.Random(2)
    values = [rng.random() for _ in range(400)]
    mean = math.fsum(values) / 400
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values)) / 400
    for parts in (100, 400):
        low, high = jackknife(values, lambda rows: {"mean": sum(rows) / len(rows)}, parts=parts)["mean"]
        assert (low + high) / 2 == pytest.approx(mean)
        assert high - low == pytest.approx(2 * student(parts - 1) * error, rel=0.2)


def test_jackknife_never_shows_a_row_twice_and_keeps_clusters_whole():
    """A score over pairs, of which a bootstrap would make groups of four: right if both of a pair are."""
    pairs = [(picture, side) for picture in range(60) for side in "ab"]

    def both(rows):
        assert len(set(rows)) == len(rows)
        pictures = [picture for picture, _ in rows]
        assert all(pictures.count(picture) == 2 for picture in pictures)
        return {"share": sum(picture % 3 == 0 for picture in pictures) / len(pictures)}

    low, high = jackknife(pairs, both, cluster=lambda pair: pair[0])["share"]
    assert (low, high) == pytest.approx(bootstrap_mean([float(p % 3 == 0) for p in range(60)]), abs=0.02)


def test_jackknife_gives_no_interval_where_a_figure_is_missing():
    assert jackknife(["a", "b", "b"], lambda rows: dict.fromkeys(set(rows), 1.0)) == {"b": (1.0, 1.0)}
    assert jackknife([1.0], lambda rows: {"mean": 1.0}) == {}


def test_student_is_that_of_scipy():
    known = {1: 12.706205, 5: 2.570582, 20: 2.085963, 21: 2.079614, 25: 2.059539, 31: 2.039513, 100: 1.983972}
    for freedom, value in known.items():
        assert student(freedom) == pytest.approx(value, abs=1e-5)  # 8.6e-6 at 21, less beyond
    widths = [student(freedom) for freedom in range(1, 60)]
    assert widths == sorted(widths, reverse=True)


def test_seeds():
    mean, (low, high) = over_seeds([50.0, 52.0])
    assert mean == 51.0
    assert (low, high) == pytest.approx((51 - 12.706205, 51 + 12.706205))
    assert over_seeds([3.0, 3.0, 3.0]) == (3.0, (3.0, 3.0))


# ---- paired tests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a_only", "b_only", "p"), [  # scipy 1.17: binomtest(a, a + b).pvalue
    (1, 9, 0.021484375), (40, 70, 0.005447429511444476), (7, 2, 0.1796875), (0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625),
])  # fmt: skip
def test_mcnemar_is_the_exact_sign_test(a_only, b_only, p):
    assert mcnemar(a_only, b_only) == pytest.approx(p, rel=1e-12)
    assert mcnemar(b_only, a_only) == mcnemar(a_only, b_only)


def test_mcnemar_of_many_samples():
    assert mcnemar(10_000, 10_200) == pytest.approx(0.1615, abs=0.001)  # the normal approximation, corrected: 0.1615
    assert mcnemar(0, 3000) == 0.0


def test_permutation_in_all_ways():
    a, b = [0.9, 0.4, 1.0, 0.7, 0.2], [0.5, 0.6, 0.1, 0.7, 0.1]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    seen = abs(sum(differences))
    ways = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in itertools.product((1, -1), repeat=5)]  # fmt: skip
    assert paired_permutation(a, b) == sum(way >= seen - 1e-12 for way in ways) / 32


def test_permutation_of_rights_is_mcnemar():
    """Both ask how the signs of the differences fall; for right and wrong they are one test."""
    few = [1.0] * 2 + [0.0] * 9 + [1.0] * 30, [0.0] * 2 + [1.0] * 9 + [1.0] * 30
    assert paired_permutation(*few) == pytest.approx(mcnemar(2, 9))
    many = [1.0] * 40 + [0.0] * 70, [0.0] * 40 + [1.0] * 70
    assert paired_permutation(*many) == pytest.approx(mcnemar(40, 70), abs=0.002)


def test_permutation_agrees_with_that_of_scipy():
    """scipy 1.17, `permutation_test(..., permutation_type="samples", n_resamples=200_000)`: 0.0516."""
    a = [math.sin(n) for n in range(60)]
    b = [math.sin(n) + 0.1 + math.cos(7 * n * n) for n in range(60)]
    assert paired_permutation(a, b) == pytest.approx(0.0516, abs=0.008)


def test_permutation_is_repeatable_blind_to_order_and_two_sided():
    rng = random.Random(3)
    pairs = [(rng.random(), rng.random()) for _ in range(50)]
    a, b = zip(*pairs, strict=True)
    p = paired_permutation(a, b)
    rng.shuffle(pairs)
    assert p == paired_permutation(a, b)
    assert paired_permutation(*zip(*pairs, strict=True)) == p
    assert paired_permutation(b, a) == p
    assert paired_permutation(a, b, seed=1) != p


def test_permutation_of_equals_and_of_clear_winners():
    assert paired_permutation([0.1, 0.2], [0.1, 0.2]) == 1.0
    assert paired_permutation([1.0] * 500, [0.0] * 500) == 1 / 10_001


def test_p_values_are_uniform_where_there_is_no_difference():
    rng = random.Random(5)
    small = 0
    for seed in range(300):
        pairs = [(rng.random() < 0.6, rng.random() < 0.6) for _ in range(40)]
        small += paired_permutation(*zip(*pairs, strict=True), seed=seed, samples=500) <= 0.05
    assert small <= 27  # 15 are expected; more than 27 happen once in a thousand times


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("call", "said"), [
    (lambda: bootstrap_mean([]), "there are no values"),
    (lambda: bootstrap([], lambda rows: {}), "there are no values"),
    (lambda: jackknife([], lambda rows: {}), "there are no values"),
    (lambda: wilson(1, 0), "1 of 0 is no share"), (lambda: wilson(3, 2), "3 of 2 is no share"),
    (lambda: over_seeds([1.0]), "two at least"), (lambda: paired_permutation([1], [1, 2]), "1 and 2 values"),
    (lambda: paired_permutation([], []), "there are no values"), (lambda: mcnemar(-1, 2), "0 or more"),
])  # fmt: skip
def test_what_cannot_be_computed_is_refused_in_one_line(call, said):
    with pytest.raises(UsageError, match=said) as error:
        call()
    assert "\n" not in str(error.value)

"""How far a score may be trusted, and whether two scores differ: intervals and paired tests, exact or seeded.

    a mean of anything            bootstrap_mean        one share of rights            wilson
    any figure of many rows       bootstrap, jackknife  a mean over repeated runs      over_seeds
    two systems, same samples     paired_permutation    ... right or wrong only        mcnemar
    many tests at once            holm

All intervals are of 95 %. The same values and seed always give the same numbers; the order of the values does not
matter to `bootstrap_mean` and `paired_permutation`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from internvl.errors import UsageError

T = TypeVar("T")
Interval = tuple[float, float]

Z = 1.959963984540054
"""97.5 % of a standard normal variable lie below."""

T_QUANTILES = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
)  # fmt: skip
"""The same of Student's t with 1, 2, ... degrees of freedom."""

CELLS = 4_000_000
"""Random numbers that are held at a time."""


def bootstrap_mean(values: Sequence[float], *, seed: int = 0, samples: int = 1000) -> Interval:
    """Percentile interval of a mean (Efron 1979; Efron and Tibshirani, An Introduction to the Bootstrap, ch. 13).

    Where all values are equal it has no width; for a share of rights `wilson` says more.

    >>> low, high = bootstrap_mean([0.0, 1.0] * 50)
    >>> round(low, 2), round(high, 2)
    (0.4, 0.6)
    """
    _check("bootstrap_mean", values)
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    shares = counts / len(values)
    # How often each distinct value is drawn is multinomial: nothing of the size of values x samples is ever held.
    means = [float(rng.multinomial(len(values), shares) @ distinct) / len(values) for _ in range(samples)]
    return _percentiles(means)


def bootstrap(
    rows: Sequence[T],
    figures: Callable[[Sequence[T]], Mapping[str, float]],
    *,
    seed: int = 0,
    samples: int = 200,
    cluster: Callable[[T], Hashable] | None = None,
) -> dict[str, Interval]:
    """Percentile intervals of whatever figures are made of rows: F1, CIDEr, a mean of group means.

    cluster: rows with the same key are drawn together, as the two questions about one picture of MME must be. A figure
    that some draw does not give (a category that was not drawn) is judged by the draws that do. A row that is drawn
    twice is given twice: where a figure would take the two for one, or for a fault, `jackknife` is the right one.

    >>> bootstrap([1, 2, 3, 4], lambda rows: {"largest": max(rows)})
    {'largest': (2.0, 4.0)}
    """
    _check("bootstrap", rows)
    groups = _clusters(rows, cluster)
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(samples):
        drawn = [row for place in rng.integers(len(groups), size=len(groups)) for row in groups[place]]
        for name, value in figures(drawn).items():
            found[name].append(value)
    return {name: _percentiles(values) for name, values in found.items()}


def jackknife(
    rows: Sequence[T],
    figures: Callable[[Sequence[T]], Mapping[str, float]],
    *,
    seed: int = 0,
    parts: int = 100,
    cluster: Callable[[T], Hashable] | None = None,
) -> dict[str, Interval]:
    """Student's intervals of figures from leaving out one of `parts` random parts at a time (Tukey 1958; in groups:
    Shao and Wu 1989, Annals of Statistics 17:1176). No row is ever there twice, so that circular evaluation, or a pair
    of questions that must both be right, keeps its meaning; `cluster` keeps together what belongs together.

    A figure that is missing without some part gets no interval, and nothing does where there are less than two parts.

    >>> [(low, high)] = jackknife([0.0, 1.0] * 50, lambda rows: {"mean": sum(rows) / len(rows)}).values()
    >>> round(low, 2), round(high, 2)
    (0.4, 0.6)
    """
    _check("jackknife", rows)
    groups = _clusters(rows, cluster)
    parts = min(parts, len(groups))
    if parts < 2:
        return {}
    part_of = np.random.default_rng(seed).permutation(len(groups)) % parts
    whole = figures(rows)
    without: dict[str, list[float]] = defaultdict(list)
    for part in range(parts):
        left = [row for group, its_part in zip(groups, part_of, strict=True) if its_part != part for row in group]
        for name, value in figures(left).items():
            without[name].append(value)
    intervals: dict[str, Interval] = {}
    for name, value in whole.items():
        if len(without[name]) == parts:
            mean = math.fsum(without[name]) / parts
            spread = math.fsum((other - mean) ** 2 for other in without[name])
            half = student(parts - 1) * math.sqrt((parts - 1) / parts * spread)
            intervals[name] = (value - half, value + half)
    return intervals


def wilson(right: float, total: int) -> Interval:
    """Score interval of a share (Wilson 1927, JASA 22:209): honest near 0 and 1, and for few samples.

    >>> low, high = wilson(10, 10)
    >>> round(low, 4), high
    (0.7225, 1.0)
    """
    if total < 1 or not 0 <= right <= total:
        raise UsageError(f"wilson: {right} of {total} is no share; at least one sample, and no more right than asked")
    share, z2 = right / total, Z * Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return (max(0.0, middle - half) if right else 0.0, min(1.0, middle + half) if right < total else 1.0)


def over_seeds(values: Sequence[float]) -> tuple[float, Interval]:
    """The mean of repeated runs and Student's interval of it (Student 1908, Biometrika 6:1), at least two runs.

    It says how the score moves when only the seed is another, not how it would on other samples.

    >>> mean, (low, high) = over_seeds([70.0, 71.0, 72.0])
    >>> round(mean, 2), round(low, 2), round(high, 2)
    (71.0, 68.52, 73.48)
    """
    if len(values) < 2:
        raise UsageError(f"over_seeds: {len(values)} run(s) say nothing of spread; two at least")
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = student(len(values) - 1) * math.sqrt(variance / len(values))
    return mean, (mean - half, mean + half)


def student(freedom: int) -> float:
    """97.5 % of Student's t with so many degrees of freedom lie below; beyond the table by the expansion of
    Abramowitz and Stegun 26.7.5, which is right to five digits there.

    >>> student(1), round(student(100), 4)
    (12.706205, 1.984)
    """
    if freedom <= len(T_QUANTILES):
        return T_QUANTILES[freedom - 1]
    z = Z
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def paired_permutation(a: Sequence[float], b: Sequence[float], *, seed: int = 0, samples: int = 10_000) -> float:
    """How likely a mean difference at least this large is when either system is as good (Fisher 1935; two-sided).

    The signs of the differences are turned over: in all ways where there are at most `samples`, else in that many
    drawn ways, counted with the one that was seen (Phipson and Smyth 2010), so that the result is never 0.

    >>> paired_permutation([1, 1, 1, 1, 1], [0, 0, 0, 0, 0])
    0.0625
    """
    if len(a) != len(b):
        raise UsageError(f"paired_permutation: {len(a)} and {len(b)} values; a pair for each sample is needed")
    _check("paired_permutation", a)
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    moved = int(counts.sum())
    if not moved:
        return 1.0
    seen = abs(float(differences.sum()))
    threshold = seen - 1e-9 * max(1.0, float(sizes @ counts))  # equal sums may differ in their last digits
    if 2**moved <= samples:
        ways = np.arange(2**moved)[:, None] >> np.arange(moved) & 1
        sums = np.abs((2 * ways - 1) @ np.repeat(sizes, counts))
        return float((sums >= threshold).mean())
    rng = np.random.default_rng(seed)
    as_large, drawn = 0, 0
    while drawn < samples:  # of equal differences only the number that is turned over matters: a binomial variable
        step = min(samples - drawn, max(1, CELLS // len(sizes)))
        turned = rng.binomial(counts, 0.5, size=(step, len(counts)))
        as_large += int((np.abs((2 * turned - counts) @ sizes) >= threshold).sum())
        drawn += step
    return (1 + as_large) / (1 + samples)


def mcnemar(a_only: int, b_only: int) -> float:
    """The exact two-sided test for right or wrong (McNemar 1947; exact: the sign test on the samples that differ).

    a_only: samples that only the first system has right. Samples that both have right, or both wrong, say nothing.

    >>> mcnemar(1, 9)
    0.021484375
    """
    if a_only < 0 or b_only < 0:
        raise UsageError(f"mcnemar: {a_only} and {b_only} samples; a number of samples is 0 or more")
    total, few = a_only + b_only, min(a_only, b_only)
    term = tail = 1
    for k in range(few):
        term = term * (total - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**total)


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several tests, corrected so that all of them together err once in twenty (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, worst = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        worst = max(worst, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = worst
    return corrected


def _clusters(rows: Sequence[T], cluster: Callable[[T], Hashable] | None) -> list[list[T]]:
    members: dict[Hashable, list[T]] = defaultdict(list)
    for place, row in enumerate(rows):
        members[place if cluster is None else cluster(row)].append(row)
    return list(members.values())


def _percentiles(values: Sequence[float]) -> Interval:
    low, high = np.quantile(np.asarray(values, dtype=np.float64), (0.025, 0.975))
    return float(low), float(high)


def _check(name: str, values: Sequence[object]) -> None:
    if not len(values):
        raise UsageError(f"{name}: there are no values; at least one is needed")

"""Figures of a classifier: top-k accuracy, recall by class, average precision, and the weights of a zero-shot one.

scores: (samples, classes), larger is better. Among equal scores the lower class number comes first. The rules are those
of CLIP_benchmark (github.com/LAION-AI/CLIP_benchmark), from which the published figures of InternVL-C come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from internvl.errors import UsageError

Compat = Literal["original"] | None
Floats = NDArray[np.float64]


def zero_shot_weights(embeddings: ArrayLike, classes: int) -> Floats:
    """(dim, classes) from (classes * templates, dim): for each class the mean of its prompts' unit vectors, made a unit
    vector again (Radford et al. 2021, arXiv:2103.00020, section 3.1.4). Rows are class by class.

    >>> zero_shot_weights([[2.0, 0.0], [0.0, 5.0]], 1).round(3).tolist()
    [[0.707], [0.707]]
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or classes < 1 or len(rows) % classes or not len(rows):
        raise UsageError(
            f"embeddings of shape {rows.shape} for {classes} classes; expected as many rows for each class"
        )
    means = _unit(rows).reshape(classes, -1, rows.shape[1]).mean(axis=1)
    return _unit(means).T


def _unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def ranked(scores: ArrayLike, k: int) -> NDArray[np.intp]:
    """(samples, min(k, classes)): class numbers, the best first.

    >>> ranked([[0.1, 0.7, 0.2]], 2).tolist()
    [[1, 2]]
    """
    return np.argsort(-np.asarray(scores, dtype=np.float64), axis=-1, kind="stable")[..., :k]


def top_k_accuracy(scores: ArrayLike, targets: Sequence[int], k: int = 1) -> float:
    """Share of samples, 0..1, whose class is among the k best.

    >>> top_k_accuracy([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], [2, 0], k=1)
    0.5
    """
    best = ranked(scores, k)
    if len(best) != len(targets) or not len(best):
        raise UsageError(f"{len(best)} rows of scores for {len(targets)} targets; expected one of each, at least one")
    return float((best == np.asarray(targets)[:, None]).any(axis=1).mean())


def mean_per_class_recall(predicted: Sequence[object], targets: Sequence[object]) -> float:
    """Mean over the classes that occur in the targets of the share of theirs that was found, 0..1.

    >>> mean_per_class_recall(["cat", "cat", "dog"], ["cat", "cat", "bus"])
    0.5
    """
    if len(predicted) != len(targets) or not targets:
        raise UsageError(f"{len(predicted)} predictions for {len(targets)} targets; expected one of each, at least one")
    found: dict[object, list[bool]] = {}
    for guess, truth in zip(predicted, targets, strict=True):
        found.setdefault(truth, []).append(guess == truth)
    return sum(sum(hits) / len(hits) for hits in found.values()) / len(found)


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float:
    """Mean precision at each positive when samples stand by falling score, 0..1; without a positive 0.

    Among equal scores the earlier sample comes first.

    >>> round(average_precision([0.9, 0.8, 0.1], [1, 0, 1]), 4)
    0.8333
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    truth = np.asarray(positive).astype(bool)[order]
    if not truth.any():
        return 0.0
    precision = truth.cumsum() / np.arange(1, len(truth) + 1)
    return float(precision[truth].mean())


def mean_average_precision(scores: ArrayLike, positive: ArrayLike, *, compat: Compat = None) -> float:
    """Mean over classes of `average_precision`, 0..1, where samples have several; positive: (samples, classes).

    Classes that no sample has are left out: no ranking of theirs is right or wrong (Everingham et al. 2010, IJCV 88).
    compat="original" counts them as 0, as CLIP_benchmark does.

    >>> mean_average_precision([[0.9, 0.1], [0.2, 0.8]], [[1, 0], [0, 0]])
    1.0
    >>> mean_average_precision([[0.9, 0.1], [0.2, 0.8]], [[1, 0], [0, 0]], compat="original")
    0.5
    """
    given, truth = np.asarray(scores, dtype=np.float64), np.asarray(positive).astype(bool)
    if given.ndim != 2 or given.shape != truth.shape:
        raise UsageError(f"scores of shape {given.shape} for truths of shape {truth.shape}; expected two equal tables")
    counted = [c for c in range(truth.shape[1]) if compat == "original" or truth[:, c].any()]
    if not counted:
        raise UsageError("no sample has any class, so there is no mean average precision")
    return sum(average_precision(given[:, c], truth[:, c]) for c in counted) / len(counted)

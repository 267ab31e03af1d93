"""Segmentation: mIoU, mean class accuracy and pixel accuracy, as mmsegmentation 0.x computes them.

    whole = total((areas(predicted, truth, classes=150) for ...), classes=150)    added over the set, then divided
    whole.mean_iou()

Pixels whose true label is `ignore` count nowhere. The paper of the rule: Long et al. 2015, arXiv:1411.4038, section 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from internvl.errors import DataError, UsageError

Labels = NDArray[np.integer]
"""A map of class numbers, one a pixel."""


@dataclass(frozen=True)
class Areas:
    """Pixels by class: right ones, predicted ones, true ones."""

    right: tuple[int, ...]
    predicted: tuple[int, ...]
    true: tuple[int, ...]

    def __add__(self, other: Areas) -> Areas:
        if len(other.true) != len(self.true):
            raise UsageError(f"areas of {len(self.true)} and {len(other.true)} classes cannot be added")
        pairs = ((self.right, other.right), (self.predicted, other.predicted), (self.true, other.true))
        return Areas(*(tuple(a + b for a, b in zip(mine, theirs, strict=True)) for mine, theirs in pairs))

    def iou(self) -> tuple[float | None, ...]:
        """Intersection over union of each class, 0..1; None for one that neither occurs nor was predicted."""
        return tuple(
            right / (predicted + true - right) if predicted + true else None
            for right, predicted, true in zip(self.right, self.predicted, self.true, strict=True)
        )

    def accuracy(self) -> tuple[float | None, ...]:
        """Share of each class's pixels that were found; None for one that does not occur."""
        return tuple(right / true if true else None for right, true in zip(self.right, self.true, strict=True))

    def mean_iou(self) -> float:
        """mIoU, 0..1: over the classes that have an IoU."""
        return _mean(self.iou())

    def mean_accuracy(self) -> float:
        """mAcc, 0..1: over the classes that occur."""
        return _mean(self.accuracy())

    def pixel_accuracy(self) -> float:
        """aAcc, 0..1: right pixels of all that are not ignored."""
        if not sum(self.true):
            raise UsageError("every pixel is ignored, so there is no score")
        return sum(self.right) / sum(self.true)


def areas(
    predicted: Labels, truth: Labels, *, classes: int, ignore: int = 255, reduce_zero_label: bool = False
) -> Areas:
    """The pixels of one picture. A predicted label that is no class is wrong; a true one must be a class or `ignore`.

    reduce_zero_label: label 0 is "something else" and is ignored, and the classes count from 1 (ADE20K).

    >>> areas(np.array([[0, 1], [1, 1]]), np.array([[0, 1], [0, 255]]), classes=2)
    Areas(right=(1, 1), predicted=(1, 2), true=(2, 1))
    """
    if predicted.shape != truth.shape:
        raise UsageError(f"a prediction of {predicted.shape} for a truth of {truth.shape}; expected the same size")
    labels = truth.astype(np.int64)
    if reduce_zero_label:
        labels = np.where((labels == 0) | (labels == ignore), ignore, labels - 1)
    kept = labels != ignore
    guess, labels = predicted.astype(np.int64)[kept], labels[kept]
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise DataError(f"a true label is {wrong}; expected 0 to {classes - 1}, or {ignore} for pixels to ignore")
    return Areas(*(_counts(part, classes) for part in (labels[guess == labels], guess, labels)))


def total(parts: Iterable[Areas], *, classes: int) -> Areas:
    """The areas of a whole set.

    >>> total([], classes=2)
    Areas(right=(0, 0), predicted=(0, 0), true=(0, 0))
    """
    return sum(parts, Areas(*((0,) * classes,) * 3))


def _counts(labels: Labels, classes: int) -> tuple[int, ...]:
    valid = labels[(labels >= 0) & (labels < classes)]
    return tuple(np.bincount(valid, minlength=classes).tolist())


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    if not known:
        raise UsageError("no class occurs, so there is no score")
    return sum(known) / len(known)

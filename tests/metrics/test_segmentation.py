"""Segmentation figures: by hand, against a confusion matrix on random maps, and what is ignored."""

import numpy as np
import pytest

from internvl.errors import DataError, UsageError
from internvl.metrics.segmentation import Areas, areas, total


def by_confusion(predicted, truth, classes):
    """The definition, pixel by pixel."""
    table = np.zeros((classes, classes), dtype=int)
    for guess, label in zip(predicted.ravel(), truth.ravel(), strict=True):
        if label != 255:
            table[label, guess] += 1
    diagonal, rows, columns = table.diagonal(), table.sum(1), table.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, accuracy = diagonal / (rows + columns - diagonal), diagonal / rows
    return np.nanmean(iou), np.nanmean(accuracy), diagonal.sum() / table.sum()


def test_by_hand():
    found = areas(np.array([[0, 0, 1], [1, 2, 2]]), np.array([[0, 1, 1], [1, 2, 255]]), classes=4)
    assert found.iou() == (1 / 2, 2 / 3, 1.0, None)
    assert found.accuracy() == (1.0, 2 / 3, 1.0, None)
    assert found.mean_iou() == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert found.mean_accuracy() == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert found.pixel_accuracy() == 4 / 5


@pytest.mark.parametrize("seed", range(5))
def test_against_a_confusion_matrix(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 7, (40, 30))
    truth[rng.random(truth.shape) < 0.1] = 255
    predicted = np.where(rng.random(truth.shape) < 0.6, np.minimum(truth, 7), rng.integers(0, 8, truth.shape))
    found = areas(predicted, truth, classes=8)  # class 7 is predicted and never true
    figures = (found.mean_iou(), found.mean_accuracy(), found.pixel_accuracy())
    assert figures == pytest.approx(by_confusion(predicted, truth, 8), abs=1e-12)
    assert found.iou()[7] == 0.0
    assert found.accuracy()[7] is None


def test_areas_are_added_before_they_are_divided():
    """The IoU of a set is not the mean of its pictures' IoUs."""
    small = areas(np.array([[1]]), np.array([[0]]), classes=2)
    large = areas(np.zeros((3, 3), int), np.zeros((3, 3), int), classes=2)
    assert total([small, large], classes=2) == small + large
    assert (small + large).iou() == (9 / 10, 0.0)


def test_zero_as_something_else():
    """ADE20K: 0 is not a class, and the classes count from 1; 255 stays ignored."""
    found = areas(np.array([[0, 1, 1, 0]]), np.array([[1, 2, 0, 255]]), classes=2, reduce_zero_label=True)
    assert found == Areas(right=(1, 1), predicted=(1, 1), true=(1, 1))


def test_another_ignored_label():
    assert areas(np.array([[0, 1]]), np.array([[0, 9]]), classes=2, ignore=9).true == (1, 0)


def test_a_predicted_label_that_is_no_class_is_wrong():
    found = areas(np.array([[0, 200]]), np.array([[0, 0]]), classes=2)
    assert found.accuracy()[0] == 0.5
    assert found.predicted == (1, 0)


def test_what_does_not_fit():
    with pytest.raises(DataError, match="a true label is 2; expected 0 to 1, or 255"):
        areas(np.array([[0]]), np.array([[2]]), classes=2)
    with pytest.raises(UsageError, match="same size"):
        areas(np.zeros((2, 2), int), np.zeros((2, 3), int), classes=2)
    with pytest.raises(UsageError, match="cannot be added"):
        total([], classes=2) + total([], classes=3)
    nothing = areas(np.array([[0]]), np.array([[255]]), classes=2)
    for figure in (nothing.mean_iou, nothing.mean_accuracy, nothing.pixel_accuracy):
        with pytest.raises(UsageError, match="so there is no score"):
            figure()

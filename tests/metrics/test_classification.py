"""Classifier figures: golden rows of CLIP_benchmark, and what they mean by hand."""

import json

import numpy as np
import pytest

from internvl.errors import UsageError
from internvl.metrics.classification import (
    average_precision,
    mean_average_precision,
    mean_per_class_recall,
    ranked,
    top_k_accuracy,
    zero_shot_weights,
)
from tests.conftest import golden

SINGLE = 2e-7
"""The golden figures were computed in single precision. Worst seen: 9.8e-8."""


def rows(kind):
    lines = golden("metrics/clip_benchmark.jsonl").read_text().splitlines()
    found = [row for row in map(json.loads, lines) if row.get("kind") == kind]
    assert len(found) > 5
    return found


def test_golden_classification():
    for row in rows("classification"):
        assert top_k_accuracy(row["logits"], row["target"], 1) == pytest.approx(row["acc1"], abs=1e-12)
        assert top_k_accuracy(row["logits"], row["target"], 5) == pytest.approx(row["acc5"], abs=1e-12)
        predicted = ranked(row["logits"], 1)[:, 0].tolist()
        assert mean_per_class_recall(predicted, row["target"]) == pytest.approx(row["mean_per_class_recall"], abs=1e-12)
        scores, truth = np.array(row["logits"])[: len(row["multilabel_targets"])], np.array(row["multilabel_targets"])
        each = [average_precision(scores[:, c], truth[:, c]) for c in range(truth.shape[1])]
        assert each == pytest.approx(row["ap_per_class"], abs=SINGLE)
        whole = mean_average_precision(scores, truth, compat="original")
        assert whole == pytest.approx(np.mean(row["ap_per_class"]), abs=SINGLE)
        occurring = [ap for ap, column in zip(row["ap_per_class"], truth.T, strict=True) if column.any()]
        assert mean_average_precision(scores, truth) == pytest.approx(np.mean(occurring), abs=SINGLE)


def test_golden_zero_shot_weights():
    for row in rows("zero_shot_weights"):
        weights = zero_shot_weights(row["text_embeddings_class_major"], row["num_classes"])
        np.testing.assert_allclose(weights, row["expected_weights_dim_by_class"], atol=SINGLE)


def test_a_class_that_never_occurs_counts_only_in_the_original():
    scores, truth = [[0.9, 0.3], [0.1, 0.2]], [[1, 0], [0, 0]]
    assert mean_average_precision(scores, truth) == 1.0
    assert mean_average_precision(scores, truth, compat="original") == 0.5
    with pytest.raises(UsageError, match="no sample has any class"):
        mean_average_precision(scores, [[0, 0], [0, 0]])


def test_equal_scores_put_the_lower_class_first():
    assert ranked([[0.5, 0.5, 0.5]], 2).tolist() == [[0, 1]]
    assert top_k_accuracy([[0.5, 0.5]], [1], 1) == 0.0


def test_more_places_than_classes():
    assert top_k_accuracy([[0.1, 0.9]], [0], 5) == 1.0
    assert ranked([[0.1, 0.9]], 5).shape == (1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k_accuracy([[1.0]], [0, 0]), "1 rows of scores for 2 targets"),
        (lambda: mean_per_class_recall([], []), "at least one"),
        (lambda: zero_shot_weights([[1.0], [2.0], [3.0]], 2), r"shape \(3, 1\) for 2 classes"),
        (lambda: mean_average_precision([[1.0]], [[1, 0]]), "two equal tables"),
    ],
)
def test_shapes_that_do_not_fit(call, message):
    with pytest.raises(UsageError, match=message):
        call()

"""Recall at k: golden rows of CLIP_benchmark, ties, and the dual softmax of the MSR-VTT program."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl.errors import UsageError
from internvl.metrics.retrieval import dual_softmax, first, hit_rate, recall, recalls
from tests.conftest import golden

SINGLE = 1e-7
"""The golden figures are single precision. Worst seen: 2.8e-8."""


def golden_rows():
    lines = golden("metrics/clip_benchmark.jsonl").read_text().splitlines()
    found = [row for row in map(json.loads, lines) if row.get("kind") == "retrieval"]
    assert len(found) > 5
    return found


def test_golden_recalls():
    """One row has equal scores at the border, which only `compat="original"` breaks as the published code did."""
    differ = 0
    for row in golden_rows():
        scores, picture_of, expected = np.array(row["scores_text_by_image"]), row["text_image_index"], row["expected"]
        own = [{t for t, picture in enumerate(picture_of) if picture == i} for i in range(scores.shape[1])]
        ks = sorted({int(key.split("@")[1]) for key in expected})
        figures = recalls(scores, picture_of, ks, compat="original")
        for k in ks:
            to_pictures, to_captions = (first(table, k, compat="original") for table in (scores, scores.T))
            figures[f"true_recall_text_to_image@{k}"] = recall(to_pictures, [{i} for i in picture_of], k)
            figures[f"true_recall_image_to_text@{k}"] = recall(to_captions, own, k)
        assert figures == pytest.approx(expected, abs=SINGLE)
        differ += recalls(scores, picture_of, ks) != recalls(scores, picture_of, ks, compat="original")
    assert differ <= 1


def test_the_two_recalls_differ_where_a_picture_has_several_captions():
    found, right = [[4, 8, 5], [9, 1, 2]], [{4, 5}, {1, 2, 3}]
    assert (hit_rate(found, right, 1), recall(found, right, 1)) == (0.5, 0.25)
    assert (hit_rate(found, right, 3), recall(found, right, 3)) == (1.0, pytest.approx((1 + 2 / 3) / 2))


def test_among_equal_scores_the_earlier_candidate_comes_first():
    assert first([[0.5, 0.5, 0.5]], 2) == [[0, 1]]
    assert first([[0.1, 0.5, 0.9, 0.5, 0.5]], 3) == [[2, 1, 3]]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.integers(1, 14))
def test_the_best_are_those_of_a_stable_sort(row, k):
    assert first([row], k) == [sorted(range(len(row)), key=lambda i: -row[i])[:k]]
    assert [row[i] for i in first([row], k, compat="original")[0]] == sorted(row, reverse=True)[:k]


def test_dual_softmax_is_that_of_the_published_program():
    """`scores * scores.softmax(dim=0)` for captions x videos, and the same of the transposed table."""
    scores = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for table in (scores, scores.T):
        np.testing.assert_allclose(dual_softmax(table.numpy()), (table * table.softmax(dim=0)).numpy(), rtol=1e-12)
    assert not np.allclose(dual_softmax(scores.numpy()), dual_softmax(scores.numpy().T).T)


def test_nothing_to_count():
    with pytest.raises(UsageError, match="at least one query"):
        hit_rate([], [], 1)
    with pytest.raises(UsageError, match="k of at least 1"):
        recall([[0]], [{0}], 0)
    with pytest.raises(UsageError, match="right candidates for 0"):
        recall([[0]], [set()], 1)
    with pytest.raises(UsageError, match="captions x pictures"):
        recalls([[0.1, 0.2]], [0, 1])
    with pytest.raises(UsageError, match="queries x candidates"):
        first([0.1, 0.2], 1)

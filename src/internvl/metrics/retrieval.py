"""Retrieval: the best candidates of each query, and recall at k.

    found = first(scores, 10)             (queries, 10) candidates, the best first
    hit_rate(found, right, 5)             share of queries with a right candidate among five: the papers' recall@5
    recall(found, right, 5)               mean share of the right candidates among five: recall in the strict sense

Pictures have several captions, so the two differ from picture to caption. The rules are those of CLIP_benchmark
(github.com/LAION-AI/CLIP_benchmark), from which the published figures come.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from internvl.errors import UsageError

Compat = Literal["original"] | None
KS = (1, 5, 10)


def first(scores: ArrayLike, k: int, *, compat: Compat = None) -> list[list[int]]:
    """For each query the numbers of its k best candidates, the best first; all of them where there are fewer.

    Among equal scores the earlier candidate comes first. compat="original" leaves that to `torch.topk`, as published:
    which of two equal candidates it takes depends on their number, on k and on the machine.

    >>> first([[0.1, 0.9, 0.9]], 2)
    [[1, 2]]
    """
    table = np.asarray(scores)
    if table.ndim != 2 or k < 1:
        raise UsageError(
            f"the {k} best of scores of shape {table.shape}; expected queries x candidates and k of at least 1"
        )
    k = min(k, table.shape[1])
    if compat == "original":
        return torch.from_numpy(table.astype(np.float32)).topk(k, dim=1).indices.tolist()
    found: list[list[int]] = []
    for row in table:
        worst = np.partition(row, -k)[-k]  # sorting all of 25,000 captions for each of 5,000 pictures takes a minute
        some = np.flatnonzero(row >= worst)
        found.append(some[np.argsort(-row[some], kind="stable")][:k].tolist())
    return found


def hit_rate(found: Sequence[Sequence[object]], right: Sequence[Collection[object]], k: int) -> float:
    """Share of queries, 0..1, with a right candidate among the first k: `recall@k` as papers on CLIP print it.

    >>> hit_rate([[3, 1], [2, 0]], [{1, 3, 4}, {0}], 1)
    0.5
    """
    _check(found, right, k)
    return sum(any(one in own for one in row[:k]) for row, own in zip(found, right, strict=True)) / len(found)


def recall(found: Sequence[Sequence[object]], right: Sequence[Collection[object]], k: int) -> float:
    """Mean over queries, 0..1, of the share of right candidates among the first k.

    >>> recall([[3, 1], [2, 0]], [{1, 3}, {0}], 1)
    0.25
    """
    _check(found, right, k)
    return sum(sum(one in own for one in row[:k]) / len(own) for row, own in zip(found, right, strict=True)) / len(
        found
    )


def recalls(
    scores: ArrayLike, picture_of: Sequence[int], ks: Sequence[int] = KS, *, compat: Compat = None
) -> dict[str, float]:
    """Both directions, 0..1, from (captions, pictures) scores; `picture_of` is each caption's picture.

    `image_retrieval_recall@k`: captions whose picture is among their k best. `text_retrieval_recall@k`: pictures with
    one of their captions among their k best. Pictures without a caption are not asked.

    >>> recalls([[0.9, 0.1], [0.2, 0.3], [0.8, 0.4]], [0, 1, 1], ks=(1,))
    {'image_retrieval_recall@1': 0.6666666666666666, 'text_retrieval_recall@1': 1.0}
    """
    table = np.asarray(scores)
    if table.ndim != 2 or len(table) != len(picture_of):
        raise UsageError(f"scores of shape {table.shape} for {len(picture_of)} captions; expected captions x pictures")
    captions: dict[int, set[int]] = {}
    for caption, picture in enumerate(picture_of):
        captions.setdefault(picture, set()).add(caption)
    asked = sorted(captions)
    figures: dict[str, float] = {}
    for k in ks:
        to_pictures = first(table, k, compat=compat)
        to_captions = first(table.T[asked], k, compat=compat)
        figures[f"image_retrieval_recall@{k}"] = hit_rate(to_pictures, [{picture} for picture in picture_of], k)
        figures[f"text_retrieval_recall@{k}"] = hit_rate(to_captions, [captions[picture] for picture in asked], k)
    return figures


def dual_softmax(scores: ArrayLike) -> NDArray[np.float64]:
    """(queries, candidates): each score times its softmax over all *queries* (Cheng et al. 2021, arXiv:2109.04290).

    A candidate that every query likes counts less. It looks at the whole test set at once, so what it scores cannot be
    compared with plain retrieval, nor had with one query at a time.

    >>> dual_softmax([[1.0, 1.0], [0.0, 1.0]]).round(3).tolist()
    [[0.731, 0.5], [0.0, 0.5]]
    """
    table = np.asarray(scores, dtype=np.float64)
    powers = np.exp(table - table.max(axis=0, keepdims=True))
    return table * powers / powers.sum(axis=0, keepdims=True)


def _check(found: Sequence[object], right: Sequence[Collection[object]], k: int) -> None:
    if len(found) != len(right) or not found or k < 1 or not all(right):
        raise UsageError(
            f"recall@{k} of {len(found)} queries with right candidates for {sum(map(bool, right))}; expected at least "
            "one query, at least one right candidate for each, and k of at least 1"
        )

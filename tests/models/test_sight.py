"""Who sees whom, for the sights of QLLaMA: written out place by place, and stacked."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl.models.attention import Sight, attend

CPU = torch.device("cpu")


def picture(mask: torch.Tensor) -> list[str]:
    """One line a query, one mark a key."""
    return ["".join("x" if seen else "." for seen in row) for row in mask[0, 0].tolist()]


def test_two_queries_and_three_words():
    captions = Sight(aligned=False, prefix=2).mask(None, 5, 5, CPU)
    apart = Sight(aligned=False, prefix=2, apart=True).mask(None, 5, 5, CPU)
    assert picture(captions) == ["xx...", "xx...", "xxx..", "xxxx.", "xxxxx"]
    assert picture(apart) == ["xx...", "xx...", "..x..", "..xx.", "..xxx"]


def test_padding_is_seen_by_nobody():
    keys = torch.tensor([[True, True, True, False]])
    assert picture(Sight(causal=False, aligned=False, keys=keys).mask(None, 4, 4, CPU)) == ["xxx."]  # for all queries
    assert picture(Sight(aligned=False, keys=keys, prefix=1, apart=True).mask(None, 4, 4, CPU)) == [
        "x...", ".x..", ".xx.", ".xx.",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), min_size=1, max_size=4), st.integers(0, 99))
def test_stacked_is_one_by_one(groups, seed):
    """Rows that look in different ways attend together as each does alone. Worst seen: 2e-7 of the largest value."""
    draw = torch.Generator().manual_seed(seed)
    rows = sum(count for count, _, _ in groups)
    q, k, v = (torch.randn(rows, 2, 7, 4, generator=draw) for _ in range(3))
    sights = []
    for count, causal, apart in groups:
        keys = torch.arange(7) < torch.randint(3, 8, (count, 1), generator=draw)
        prefix = 2 if causal else 0
        sights.append(Sight(causal=causal, aligned=False, keys=keys, prefix=prefix, apart=apart and causal))
    counts = [count for count, _, _ in groups]
    together = attend(q, k, v, Sight.stacked(*zip(counts, sights, strict=True)))
    parts = zip(q.split(counts), k.split(counts), v.split(counts), sights, strict=True)
    alone = torch.cat([attend(*tensors, sight) for *tensors, sight in parts])
    assert (together - alone).abs().max() < 1e-6 * alone.abs().max()


def test_whoever_sees_everything_may_stand_beside_others():
    q = torch.randn(3, 1, 4, 8)
    both = attend(q, q, q, Sight.stacked((2, Sight(causal=False)), (1, Sight(aligned=False))))
    assert (both[:2] - attend(q[:2], q[:2], q[:2], Sight(causal=False))).abs().max() < 1e-6
    assert (both[2:] - attend(q[2:], q[2:], q[2:], Sight())).abs().max() < 1e-6

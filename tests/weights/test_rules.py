"""Key tables: both directions, strictness, and the arithmetic of fused weights and adapters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl.errors import KeyMismatch
from internvl.weights.rules import (
    HeadGroups,
    Interleaved,
    KeyTable,
    Rows,
    fuse,
    rename,
    some,
    split,
    stack,
    transpose,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(kv=st.integers(1, 4), group=st.integers(1, 5), head=st.integers(1, 6), columns=st.integers(1, 4))
def test_head_groups_cut_what_they_join(kv, group, head, columns):
    fold = HeadGroups(kv, group)
    parts = [draw(kv * n * head, columns, seed=n) for n in (group, 1, 1)]
    for found, part in zip(fold.cut(fold.join(parts)), parts, strict=True):
        assert torch.equal(found, part)


def test_head_groups_have_the_order_of_internlm2():
    """4 heads on 2 key-value heads: q0 q1 k0 v0 q2 q3 k1 v1, one row a head here."""
    q, k, v = torch.tensor([0.0, 1, 2, 3]), torch.tensor([10.0, 11]), torch.tensor([20.0, 21])
    assert HeadGroups(2, 2).join([q, k, v]).tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), columns=st.integers(1, 4))
def test_rows_cut_what_they_join(sizes, columns):
    fold = Rows(tuple(sizes))
    parts = [draw(n, columns, seed=i) for i, n in enumerate(sizes)]
    assert all(torch.equal(a, b) for a, b in zip(fold.cut(fold.join(parts)), parts, strict=True))


def test_interleaved_is_transposed_and_alternates():
    gate, up = draw(3, 5, 2, seed=1), draw(3, 5, 2, seed=2)  # experts, out, in
    whole = Interleaved().join([gate, up])
    assert whole.shape == (3, 2, 10)
    assert torch.equal(whole[1, :, 6], gate[1, 3])
    assert torch.equal(whole[1, :, 7], up[1, 3])
    assert all(torch.equal(a, b) for a, b in zip(Interleaved().cut(whole), (gate, up), strict=True))


QKV = split("l.{}.qkv.@", ["l.{}.q.@", "l.{}.k.@", "l.{}.v.@"], Rows((4, 2, 2)))
TABLE = KeyTable(
    [
        *QKV,
        *rename("l.{}.wo.@", "l.{}.o.@"),
        *fuse(["l.{}.mlp.a.@", "l.{}.mlp.b.@"], "l.{}.mlp.ab.@", Rows((3, 3))),
        *stack("l.{}.experts.{}.up", "l.{}.experts.up", 3),
        *transpose("l.{}.down", "l.{}.down_t"),
        *rename("mlp1.0.weight", "norm.weight"),
    ]
)


def test_a_name_with_a_number_is_not_a_place():
    assert TABLE.plan(["mlp1.0.weight"], "theirs")[0].ours == ("norm.weight",)
    with pytest.raises(KeyMismatch, match="fit no rule"):
        TABLE.plan(["mlp1.1.weight"], "theirs")


def test_both_directions_undo_each_other():
    theirs = {
        "l.7.qkv.weight": draw(8, 5), "l.7.qkv.bias": draw(8), "l.7.wo.weight": draw(2, 2), "l.7.down": draw(2, 3, 4),
        "l.7.mlp.a.weight": draw(3, 2), "l.7.mlp.b.weight": draw(3, 2, seed=1), "mlp1.0.weight": draw(3),
        **{f"l.7.experts.{e}.up": draw(2, 2, seed=e) for e in range(3)},
    }  # fmt: skip
    ours = {}
    for step in TABLE.plan(theirs, "theirs"):
        ours |= dict(zip(step.ours, step.rule.read([theirs[name] for name in step.theirs]), strict=True))
    assert ours.keys() == {
        *(f"l.7.{part}.{leaf}" for part in "qkv" for leaf in ("weight", "bias")),
        "l.7.o.weight", "l.7.mlp.ab.weight", "l.7.experts.up", "l.7.down_t", "norm.weight",
    }  # fmt: skip
    assert ours["l.7.experts.up"].shape == (3, 2, 2)
    assert ours["l.7.down_t"].shape == (2, 4, 3)
    back = {}
    for step in TABLE.plan(ours, "ours"):
        back |= dict(zip(step.theirs, step.rule.write([ours[name] for name in step.ours]), strict=True))
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_unknown_and_missing_names_are_named():
    with pytest.raises(KeyMismatch, match=r"2 tensors fit no rule.*l\.0\.other, what"):
        TABLE.plan(["l.0.wo.weight", "l.0.other", "what"], "theirs")
    with pytest.raises(KeyMismatch, match=r"1 tensors are missing: l\.0\.mlp\.b\.weight"):
        TABLE.plan(["l.0.mlp.a.weight"], "theirs")
    with pytest.raises(KeyMismatch, match=r"2 tensors are missing: l\.0\.k\.weight, l\.0\.v\.weight"):
        TABLE.plan(["l.0.q.weight"], "ours")


def test_a_table_names_nothing_twice():
    with pytest.raises(KeyMismatch, match="two rules"):
        KeyTable([*rename("a", "b"), *rename("c", "b")])


def test_lists_in_errors_are_bounded():
    assert some(["a", "b"]) == "a, b"
    assert len(some(str(i) for i in range(10_000))) < 60


# --- adapters under a fused weight ------------------------------------------------------------------------------------

NAMES = [f"l.0.{part}.lora_{x}.default.weight" for part in "qkv" for x in "AB"]
THEIRS = ["l.0.qkv.lora_A.default.weight", "l.0.qkv.lora_B.default.weight"]


def test_split_gives_every_part_the_same_a():
    a, b = draw(2, 5), draw(8, 2)
    [step] = TABLE.plan(THEIRS, "theirs")
    ours = dict(zip(step.ours, step.rule.read([a, b]), strict=True))
    assert list(ours) == NAMES
    for i, (part, rows) in enumerate(zip("qkv", b.split((4, 2, 2)), strict=True)):
        assert torch.equal(ours[NAMES[2 * i]], a), part
        assert torch.equal(ours[NAMES[2 * i + 1]], rows)
    written = step.rule.write(list(ours.values()))
    assert torch.equal(written[0], a)
    assert torch.equal(written[1], b)


def test_adapters_that_drifted_apart_are_joined_at_a_higher_rank_and_said_so():
    [step] = TABLE.plan(NAMES, "ours")
    a = [draw(2, 5, seed=i) for i in range(3)]
    b = [draw(n, 2, seed=10 + i) for i, n in enumerate((4, 2, 2))]
    with pytest.warns(UserWarning, match="rank 6"):
        joined_a, joined_b = step.rule.write([t for pair in zip(a, b, strict=True) for t in pair])
    assert joined_a.shape == (6, 5)
    assert joined_b.shape == (8, 6)
    apart = torch.cat([one_b @ one_a for one_a, one_b in zip(a, b, strict=True)])
    # Measured 6e-8: the zeros of the blocks are added, nothing else differs.
    assert torch.allclose(joined_b @ joined_a, apart, atol=3e-7, rtol=0)

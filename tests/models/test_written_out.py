"""A CPU that learns in 16 bit attends by two products and a softmax: as near to fp32 as the fused kernel is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from internvl.models.attention import EVERYTHING, SHORT, Packing, Sight, attend

CASES = [(False, 3, 3, 65), (True, 3, 3, 40), (True, 6, 2, 33)]


def inputs(heads: int, groups: int, tokens: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, heads, tokens, 16), (2, groups, tokens, 16), (2, groups, tokens, 16))
    return [torch.randn(shape, generator=draw, requires_grad=True) for shape in shapes]


def exact(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def fused_is_not_called(*_: object, **__: object) -> Tensor:
    raise AssertionError("the fused kernel was called")


@pytest.mark.parametrize(("causal", "heads", "groups", "tokens"), CASES)
def test_values_and_gradients(causal, heads, groups, tokens, monkeypatch):
    parts = inputs(heads, groups, tokens)
    wanted = exact(*parts, causal)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    true = torch.autograd.grad((wanted * weight).sum(), parts)
    narrow = [part.detach().bfloat16().requires_grad_() for part in parts]
    monkeypatch.setattr(F, "scaled_dot_product_attention", fused_is_not_called)
    found = attend(*narrow, Sight() if causal else EVERYTHING)
    got = torch.autograd.grad((found.float() * weight).sum(), narrow)
    for a, b in zip((found, *got), (wanted, *true), strict=True):
        assert (a.float() - b).abs().max() <= 0.02 * b.abs().max() + 1e-6  # seen: 0.0095; fused 0.0090


def test_under_autocast_the_result_is_narrow(monkeypatch):
    parts = inputs(3, 1, 20)
    alone = exact(*(part[:1, :, :8] for part in parts), True)
    monkeypatch.setattr(F, "scaled_dot_product_attention", fused_is_not_called)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*parts, Sight())
        packed = attend(*(part[:1] for part in parts), Sight(packing=Packing((8, 12))))
    assert found.dtype == packed.dtype == torch.bfloat16
    assert (packed[:, :, :8].float() - alone).abs().max() < 0.02 * alone.abs().max()


def test_reading_and_long_rows_stay_fused():
    called = []
    kept = F.scaled_dot_product_attention

    def spy(*args, **kwargs):
        called.append(args[0].shape[2])
        return kept(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", spy)
        q, k, v = (part.detach().bfloat16() for part in inputs(3, 3, 8))
        attend(q, k, v, Sight())  # nothing learns
        long = torch.randn(1, 1, SHORT + 1, 8).bfloat16().requires_grad_()
        attend(long, long, long, Sight())
        attend(*inputs(3, 3, 8), Sight())  # fp32
    assert called == [8, SHORT + 1, 8]

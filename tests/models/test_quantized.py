"""Linear layers in fewer bits: what is rounded away, and that rounding twice is rounding once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from internvl.models.linear import Linear
from internvl.models.quantized import LEVELS, QuantizedLinear, dequantise, quantise

BITS = ("int8", "int4")
each = pytest.mark.parametrize("bits", BITS)


def weight(rows: int, width: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def layer(bits, rows: int = 24, width: int = 130, bias: bool = True) -> tuple[nn.Linear, QuantizedLinear]:
    base = Linear(width, rows, bias=bias)
    base.weight.data = weight(rows, width)
    return base, QuantizedLinear(base, bits)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 9), width=st.integers(1, 200), seed=st.integers(0, 999),
    size=st.sampled_from([1e-6, 1e-3, 1.0, 37.0, 1e5]), bits=st.sampled_from(BITS),
)  # fmt: skip
def test_what_was_quantised_has_the_same_codes_again(rows, width, seed, size, bits):
    """So a checkpoint holds plain weights and loses nothing."""
    given = weight(rows, width, seed, size)
    given[0, : width // 2] = 0
    codes, scales = quantise(given, bits)
    plain = dequantise(codes, scales, width)
    again, same = quantise(plain, bits)
    assert torch.equal(again, codes)
    assert torch.equal(same, scales)
    assert torch.equal(dequantise(again, same, width), plain)


@each
def test_every_number_becomes_the_nearest_level(bits):
    given = weight(16, 192)
    codes, scales = quantise(given, bits)
    plain = dequantise(codes, scales, 192)
    if bits == "int8":
        assert ((plain - given).abs() <= scales / 2 * 1.001).all()
        return
    blocks, near = given.unflatten(1, (-1, 64)), plain.unflatten(1, (-1, 64))
    levels = torch.tensor(LEVELS) * scales.float()
    best = (blocks[..., None] - levels[..., None, :]).abs().amin(-1)
    assert torch.allclose((near - blocks).abs(), best, atol=1e-6)


def test_nf4_is_the_published_one():
    """Quantiles of a normal distribution, ends exact, zero exact."""
    assert (LEVELS[0], LEVELS[7], LEVELS[15]) == (-1.0, 0.0, 1.0)
    assert list(LEVELS) == sorted(LEVELS)
    normal = torch.distributions.Normal(0, 1)
    offset = 0.9677083
    above = normal.icdf(torch.linspace(offset, 0.5, 9)[:-1])
    below = -normal.icdf(torch.linspace(offset, 0.5, 8)[:-1])
    made = torch.cat((above, below, torch.zeros(1))).sort().values
    assert torch.allclose(made / made.max(), torch.tensor(LEVELS), atol=1e-6)


@each
def test_rounding_and_room(bits):
    """Seen, for normal weights: int8 0.9 % and 1.004 bytes a weight, int4 9.4 % and 0.531."""
    given = weight(64, 1024)
    codes, scales = quantise(given, bits)
    error = float((dequantise(codes, scales, 1024) - given).norm() / given.norm())
    assert error < {"int8": 0.012, "int4": 0.11}[bits]
    assert (codes.nbytes + scales.nbytes) / given.numel() < {"int8": 1.01, "int4": 0.54}[bits]


@each
@pytest.mark.parametrize("bias", [True, False])
def test_products_and_gradients_are_those_of_the_weight_it_stands_for(bits, bias):
    _, packed = layer(bits, bias=bias)
    x = torch.randn(3, 5, 130, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    packed(x).square().sum().backward()
    F.linear(other, packed.weight, packed.bias).square().sum().backward()
    assert torch.equal(packed(x), F.linear(x, packed.weight, packed.bias))
    assert x.grad is not None
    assert torch.allclose(x.grad, other.grad, rtol=1e-5, atol=1e-4)  # seen: 8e-6 of numbers up to 700
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(x).dtype is torch.bfloat16


@each
def test_nothing_unpacked_is_kept_for_the_backward_pass(bits):
    _, packed = layer(bits, 512, 512)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        packed(torch.randn(1, 512, requires_grad=True))
    assert not [t for t in kept if t.numel() == 512 * 512 and t.is_floating_point()]


@each
def test_a_state_holds_the_plain_weight_and_gives_it_back(bits):
    _, packed = layer(bits)
    state = packed.state_dict()
    assert set(state) == {"weight", "bias"}
    _, other = layer(bits)
    other.take(torch.randn(24, 130))
    assert not torch.equal(other.weight, packed.weight)
    other.load_state_dict(state)
    assert torch.equal(other.weight, packed.weight)
    plain = Linear(130, 24)
    plain.load_state_dict(state)
    assert torch.equal(plain.weight, packed.weight)
    assert [name for name, _ in packed.named_parameters()] == ["bias"]

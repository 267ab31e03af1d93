"""Linear layers whose frozen weight is held in 8 or 4 bits; what learns is an adapter beside them.

    int8   a scale for each row, symmetric: 1.0 bytes a weight
    int4   NF4 (Dettmers et al. 2023, arXiv:2305.14314): 16 levels at the quantiles of a normal distribution, a bf16
           scale for each block of 64: 0.53 bytes a weight

Both give the same codes again when what they stand for is quantised anew, bit for bit. So `state_dict` holds the plain
weight that the products are made with, a checkpoint looks like any other, and reading it back changes nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl.errors import UsageError

Bits = Literal["int8", "int4"]

BLOCK = 64
LARGEST = 127
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Of NF4. Its ends are -1 and 1, so that the largest number of a block is kept as it is."""


def quantise(weight: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """A weight (out, in) as codes and scales."""
    weight = weight.detach().float()
    if bits == "int8":
        scales = _short(weight.abs().amax(dim=1, keepdim=True) / LARGEST)
        return (weight / _nonzero(scales)).round().clamp(-LARGEST, LARGEST).to(torch.int8), scales
    blocks = F.pad(weight, (0, -weight.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    scales = blocks.abs().amax(dim=2, keepdim=True).bfloat16()
    levels = torch.tensor(LEVELS, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / _nonzero(scales.float()), between).to(torch.uint8).flatten(1)
    return codes[:, ::2] << 4 | codes[:, 1::2], scales


def dequantise(codes: Tensor, scales: Tensor, width: int) -> Tensor:
    """The weight (out, width) in fp32 that codes and scales stand for."""
    if codes.dtype == torch.int8:
        return codes * scales
    whole = torch.stack((codes >> 4, codes & 15), dim=2).flatten(1).int()
    levels = torch.tensor(LEVELS, device=codes.device)
    return (levels[whole].unflatten(1, (-1, BLOCK)) * scales.float()).flatten(1)[:, :width]


def _short(scales: Tensor) -> Tensor:
    """fp32 with 16 bits of mantissa: 127 times such a number is exact, so quantising again finds the same scale."""
    return (scales.view(torch.int32) + 0x80 & ~0xFF).view(torch.float32)


def _nonzero(scales: Tensor) -> Tensor:
    return scales.masked_fill(scales == 0, 1.0)


class QuantizedLinear(nn.Linear):
    """A linear layer that is not trained, with its weight in fewer bits.

    >>> QuantizedLinear(nn.Linear(64, 8), "int4").weight.shape
    torch.Size([8, 64])
    """

    def __init__(self, base: nn.Linear, bits: Bits) -> None:
        nn.Module.__init__(self)
        if base.weight.is_meta:
            raise UsageError("a linear layer without values cannot be quantised; load its weights first")
        self.in_features, self.out_features = base.in_features, base.out_features
        self.bits: Bits = bits
        self.bias = base.bias
        codes, scales = quantise(base.weight, bits)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """What the products are made with, in fp32, computed anew each time."""
        return dequantise(self.get_buffer("codes"), self.get_buffer("scales"), self.in_features)

    @property
    def packed_weights(self) -> int:
        """How many numbers the codes stand for."""
        return self.in_features * self.out_features

    def forward(self, input: Tensor) -> Tensor:
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        y = _Product.apply(input.to(dtype), self.get_buffer("codes"), self.get_buffer("scales"), self.in_features)
        return y if self.bias is None else y + self.bias.to(dtype)  # pyright: ignore[reportUnnecessaryComparison]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.bits}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any, **named: Any) -> None:
        given = state_dict.get(f"{prefix}weight")
        if given is not None:
            self.take(given)
        without = {name: value for name, value in state_dict.items() if name != f"{prefix}weight"}
        super()._load_from_state_dict(without, prefix, *rest, **named)

    def take(self, weight: Tensor) -> None:
        """Hold another weight."""
        codes, scales = quantise(weight.to(self.get_buffer("codes").device), self.bits)
        self.get_buffer("codes").copy_(codes)
        self.get_buffer("scales").copy_(scales)


class _Product(torch.autograd.Function):
    """x W^T. The backward pass unpacks W again, so that it is never kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, width: int) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.width = width
        return F.linear(x, dequantise(codes, scales, width).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        codes, scales = ctx.saved_tensors
        return gradient @ dequantise(codes, scales, ctx.width).to(gradient.dtype), None, None, None

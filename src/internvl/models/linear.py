"""The linear layer, and how it multiplies few rows on a CPU.

Decoding reads every weight once for each token, so it should run at the speed of memory. The obvious call does not: on
a 2-core x86 machine `F.linear` of one fp32 row reads 16 GB/s of the 36 that memory gives, because MKL's matrix-vector
product uses one thread. The same product written as a batch of smaller ones, over views of the very same weight,
reads 34. Which writing is best depends on the rows and on the shape (`benchmarks/linear.py` measures all of them):

    left s     W, cut into s blocks of rows, times x^T        1 row; 2 to 4 rows of a weight that is not wide
    right s    x times each of the s blocks of W, transposed  the rest, up to 8 rows

The choice is a rule and not a measurement at run time, so that the same question has the same answer twice.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Product = tuple[Literal["linear", "left", "right"], int]

FEW_ROWS = 8
"""More rows than this are bound by arithmetic, where `F.linear` is right."""
LARGE = 1 << 17
"""Smaller weights stay in the caches, and are multiplied faster than a batch is set up."""
BLOCKS = (8, 4, 2)


def product_for(rows: int, weight: Tensor) -> Product:
    """How `rows` rows are best multiplied with this weight (out, in).

    >>> product_for(1, torch.empty(4864, 896))
    ('left', 8)
    """
    if rows > FEW_ROWS or rows < 1 or weight.dtype is not torch.float32 or weight.numel() < LARGE:
        return "linear", 1
    if weight.device.type != "cpu" or not torch.backends.mkl.is_available():
        return "linear", 1
    out, width = weight.shape
    blocks = next((s for s in BLOCKS if out % s == 0), 1)
    if rows == 1 or (rows <= 4 and out >= width):
        return "left", blocks
    return "right", blocks


def multiply(weight: Tensor, x: Tensor, product: Product) -> Tensor:
    """x (rows, in) times weight (out, in) -> (rows, out), the same numbers up to rounding for every product."""
    kind, splits = product
    if kind == "linear":
        return F.linear(x, weight)
    blocks = weight.unflatten(0, (splits, -1))
    if kind == "left":
        return torch.bmm(blocks, x.T.expand(splits, -1, -1)).flatten(0, 1).T
    return torch.bmm(x.expand(splits, -1, -1), blocks.mT).transpose(0, 1).flatten(1)


class Linear(nn.Linear):
    """`nn.Linear` that multiplies few rows at the speed of memory."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        product = product_for(rows, self.weight)
        if product[0] == "linear":
            return F.linear(input, self.weight, self.bias)
        y = multiply(self.weight, input.reshape(rows, self.in_features), product)
        y = y.reshape(*input.shape[:-1], self.out_features)
        # nn.Linear declares a bias even where there is none
        return y if self.bias is None else y + self.bias  # pyright: ignore[reportUnnecessaryComparison]

"""The linear layer, and how it multiplies few rows: chosen by measuring on the machine at hand.

Decoding reads every weight once for each token, so it should run at the speed of memory. The obvious call does not:
on a 2-core Zen 3, `F.linear` of one fp32 row reads 16 GB/s of the 36 that memory gives, because the library's
matrix-vector routine is not threaded. The same product written as a batch of `splits` smaller ones, over views of the
very same weight, reaches 34. Which writing is best depends on shape, rows, threads and library; hence the measuring.

    linear     F.linear(x, W)
    left s     W, cut into s blocks of rows, times x^T
    right s    x times each of the s blocks of W, transposed
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Product = tuple[Literal["linear", "left", "right"], int]

LINEAR: Product = ("linear", 1)
CANDIDATES: tuple[Product, ...] = (LINEAR, *(("left", s) for s in (1, 2, 4, 8)), *(("right", s) for s in (2, 4, 8)))
ROWS = (1, 2, 4, 8)
"""Measured; 3 rows use what 4 do. More rows than this are bound by arithmetic, where `F.linear` is right."""
SAMPLE_BYTES = 48 << 20
"""How much weight one measurement reads: more than the caches hold, or all there is of that shape."""
GAIN = 1.05
"""`F.linear` stays unless another product is faster by this factor."""


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
    """`nn.Linear` that multiplies few rows by whatever `tune` found fastest; untouched it is `nn.Linear`."""

    products: dict[int, Product] | None = None

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        if self.products is None or rows > ROWS[-1]:
            return F.linear(input, self.weight, self.bias)
        y = multiply(self.weight, input.reshape(rows, self.in_features), self.products[rows])
        y = y.reshape(*input.shape[:-1], self.out_features)
        # nn.Linear declares a bias even where there is none
        return y if self.bias is None else y + self.bias  # pyright: ignore[reportUnnecessaryComparison]


@torch.no_grad()
def tune(model: nn.Module) -> dict[tuple[int, int], dict[int, Product]]:
    """Choose the products of all `Linear` layers of `model`, by shape, and return the choice. CPU only; about a second.

    >>> tune(model.language_model)  # doctest: +SKIP
    {(896, 896): {1: ('left', 4), 2: ('left', 2), ...}, ...}
    """
    shapes: dict[tuple[int, int], list[Linear]] = defaultdict(list)
    for layer in model.modules():
        if isinstance(layer, Linear) and layer.weight.device.type == "cpu":
            shapes[layer.out_features, layer.in_features].append(layer)
    chosen = {shape: _choose([layer.weight for layer in layers]) for shape, layers in shapes.items()}
    for shape, layers in shapes.items():
        for layer in layers:
            layer.products = chosen[shape]
    return chosen


def _choose(weights: list[Tensor]) -> dict[int, Product]:
    """The fastest product for 1 to 8 rows over weights of one shape."""
    size = weights[0].numel() * weights[0].element_size()
    out = weights[0].shape[0]
    if size > SAMPLE_BYTES:  # a language head: some of its rows tell as much as all of them
        out = max(8, int(out * SAMPLE_BYTES / size) // 8 * 8)
    sample = [weight[:out] for weight in weights[: max(1, SAMPLE_BYTES // size)]]
    able = [p for p in CANDIDATES if weights[0].shape[0] % p[1] == 0 and out % p[1] == 0]
    best = {rows: _fastest(sample, rows, able) for rows in ROWS}
    return {rows: best[min(r for r in ROWS if r >= rows)] for rows in range(1, ROWS[-1] + 1)}


def _fastest(weights: list[Tensor], rows: int, candidates: list[Product]) -> Product:
    x = torch.ones(rows, weights[0].shape[1], dtype=weights[0].dtype)
    seconds = dict.fromkeys(candidates, float("inf"))
    for _ in range(3):
        for product in candidates:
            start = time.perf_counter()
            for weight in weights:
                multiply(weight, x, product)
            seconds[product] = min(seconds[product], time.perf_counter() - start)
    fastest = min(seconds, key=seconds.__getitem__)
    return fastest if seconds[LINEAR] > GAIN * seconds[fastest] else LINEAR

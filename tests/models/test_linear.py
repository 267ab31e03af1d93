"""Tuning changes how fast few rows are multiplied, never what comes out."""

import pytest
import torch

from internvl.models.attention import KVCache
from internvl.models.linear import CANDIDATES, ROWS, Linear, multiply, tune
from tests.models.tiny import chat_model, random_ids


@pytest.mark.parametrize("product", CANDIDATES)
@pytest.mark.parametrize("rows", ROWS)
def test_every_product_is_the_same_product(product, rows):
    draw = torch.Generator().manual_seed(rows)
    weight, x = torch.randn(24, 10, generator=draw), torch.randn(rows, 10, generator=draw)
    torch.testing.assert_close(multiply(weight, x, product), x @ weight.T, atol=2e-6, rtol=1e-5)


def test_a_tuned_model_says_the_same():
    with torch.no_grad():
        model, ids = chat_model(), random_ids(3, 9)
        whole = model(ids)
        chosen = tune(model.language_model)
        assert all(set(by_rows) == set(range(1, 9)) for by_rows in chosen.values())
        assert (32, 48) in chosen
        cache = KVCache(model.config.text, 3, 9)
        model.prefill(ids[:, :6], cache=cache)
        for i in range(6, 9):
            torch.testing.assert_close(model.step(ids[:, i : i + 1], cache=cache), whole[:, i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("product", CANDIDATES)
def test_biases_shapes_and_many_rows(product):
    layer = Linear(6, 16)
    plain = torch.nn.functional.linear
    layer.products = dict.fromkeys(range(1, 9), product)
    for shape in ((6,), (1, 6), (2, 4, 6), (3, 3, 6)):
        x = torch.randn(shape)
        torch.testing.assert_close(layer(x), plain(x, layer.weight, layer.bias))

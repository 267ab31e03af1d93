"""How few rows are multiplied changes how fast it is, never what comes out."""

import pytest
import torch

from internvl.models import linear
from internvl.models.attention import KVCache
from internvl.models.linear import FEW_ROWS, LARGE, Linear, multiply, product_for
from tests.models.tiny import chat_model, random_ids

SAME = 5e-6
"""Worst seen: 9.5e-7; of logits up to 3.6, 1.9e-6."""
PRODUCTS = [("linear", 1), *((kind, s) for kind in ("left", "right") for s in (1, 2, 4, 8))]


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_every_product_is_the_same_product(product, rows):
    draw = torch.Generator().manual_seed(rows)
    weight, x = torch.randn(24, 10, generator=draw), torch.randn(rows, 10, generator=draw)
    torch.testing.assert_close(multiply(weight, x, product), x @ weight.T, atol=SAME, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(512,), (1, 512), (2, 4, 512), (2, 2, 512), (3, 3, 512), (0, 512)])
@pytest.mark.parametrize("out", [512, 300, 257])
def test_a_layer_is_nn_linear(shape, out, bias):
    layer = Linear(512, out, bias=bias)
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias), atol=SAME, rtol=0)


def test_the_rule():
    large, small = torch.empty(512, 512), torch.empty(LARGE // 512 - 1, 512)
    if torch.backends.mkl.is_available():
        assert product_for(1, large) == ("left", 8)
        assert product_for(4, torch.empty(514, 256)) == ("left", 2)
        assert product_for(4, torch.empty(256, 1024)) == ("right", 8)
        assert product_for(8, large) == ("right", 8)
    for rows, weight in ((1, small), (FEW_ROWS + 1, large), (0, large), (1, large.bfloat16()), (1, large.to("meta"))):
        assert product_for(rows, weight) == ("linear", 1)


def test_a_model_says_the_same(monkeypatch):
    with torch.no_grad():
        model, ids = chat_model(), random_ids(3, 9)
        whole = model(ids)
        monkeypatch.setattr(linear, "LARGE", 1)
        for rows in (1, 3):
            cache = KVCache(model.config.text, rows, 9)
            model.prefill(ids[:rows, :6], cache=cache)
            for i in range(6, 9):
                ours = model.step(ids[:rows, i : i + 1], cache=cache)
                torch.testing.assert_close(ours, whole[:rows, i], atol=4 * SAME, rtol=0)

"""What weights are held in while a model trains: those that learn in fp32; the rest as they are stored, where nothing
is lost by it.

A run in 16 bit rounds the weights of linear layers, experts and tables for every product. Those that are stored in 16
bit and do not learn are therefore held as they are stored: half the memory, and the same numbers. Everything else is
held in fp32: norms, positions, scales, convolutions, what learns, what is stored in fp32, and what DoRA measures.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from internvl.models.layers import LoraLinear
from internvl.models.moe import Experts

PRODUCTS = (nn.Linear, nn.Embedding, Experts)
NARROW = (torch.bfloat16, torch.float16)


def products(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that autocast rounds for every product."""
    measured = {
        id(module.base_layer)
        for module in model.modules()
        if isinstance(module, LoraLinear) and module.lora_magnitude_vector is not None
    }
    for module in model.modules():
        if isinstance(module, PRODUCTS) and id(module) not in measured:
            yield from module.parameters(recurse=False)


def widen(model: nn.Module) -> None:
    """Everything in fp32 but what products are made with, if that is stored in 16 bit."""
    narrow = {id(p) for p in products(model) if p.dtype in NARROW}
    for parameter in model.parameters():
        if id(parameter) not in narrow:
            to_fp32(parameter)


def widen_learning(model: nn.Module) -> None:
    """What learns in fp32; call it when that is chosen."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            to_fp32(parameter)


def to_fp32(parameter: nn.Parameter) -> None:
    """A parameter in fp32, itself: nothing that refers to it has to know."""
    if parameter.is_floating_point() and parameter.dtype != torch.float32:
        parameter.data = parameter.data.float()


def steady(model: nn.Module) -> None:
    """Let tables that are held in 16 bit speak in fp32, in which the sums of a model that is not sharded are kept."""
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.dtype in NARROW:
            module.register_forward_hook(_spoken)


def _spoken(module: nn.Module, given: object, rows: Tensor) -> Tensor:
    del module, given
    return rows.float()

"""A model asked something, and adapters with lively numbers."""

from __future__ import annotations

import torch
from torch import nn

from internvl.models.chat import ChatModel
from internvl.weights import adapters
from tests.models.tiny import random_ids


@torch.no_grad()
def answer(model: ChatModel, seed: int = 0) -> torch.Tensor:
    """Logits for a tile and some words."""
    config = model.config
    slots = torch.full((1, config.slots_per_tile), config.image_token)
    pixels = torch.randn(1, 3, config.tile_size, config.tile_size, generator=torch.Generator().manual_seed(seed))
    where = next(model.parameters()).device
    return model.eval()(torch.cat((slots, random_ids(1, 9, seed=seed)), dim=1).to(where), pixels.to(where))


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def stir(model: nn.Module, size: float = 0.05, seed: int = 0) -> None:
    """Move everything that an adapter has, as training would."""
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data += size * torch.randn(parameter.shape, generator=draw)


def published(model: ChatModel, form: adapters.Form, part: str = "language_model.") -> ChatModel:
    """The model with random adapters on one part."""
    adapters.attach(model, {part: form})
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data.fill_(1.0 if adapters.MAGNITUDE in name else 0.0)
    stir(model, 0.2)
    return model

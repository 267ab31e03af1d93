"""From patches to the decoder's language: fold squares of patches into slots, then a small MLP."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from internvl.models.config import ChatConfig
from internvl.models.layers import Linear


def pixel_shuffle(x: Tensor, side: int, version: Literal["v1", "v2"] = "v2") -> Tensor:
    """Fold every side x side square of patches into one, (B, h, w, C) -> (B, h / side, w / side, side * side * C).

    Channels of a slot are its patches in reading order. v1 returns rows and columns exchanged, as the weights of
    V1.1 and V1.2 expect.
    """
    b, h, w, c = x.shape
    x = x.view(b, h // side, side, w // side, side, c).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(b, h // side, w // side, side * side * c)
    return x.transpose(1, 2) if version == "v1" else x


def projector(config: ChatConfig) -> nn.Sequential:
    """LayerNorm, Linear, GELU, Linear over folded patches; the LLaVA form has no norm and folds nothing.

    The indices 0, 1, 3 (0, 2 in the LLaVA form) are the names that checkpoints use.
    """
    if config.projector == "llava":
        return nn.Sequential(
            Linear(config.vision.dim, config.text.dim),
            nn.GELU(),
            Linear(config.text.dim, config.text.dim),
        )
    folded = config.vision.dim * round(1 / config.downsample) ** 2
    return nn.Sequential(
        nn.LayerNorm(folded),
        Linear(folded, config.text.dim),
        nn.GELU(),
        Linear(config.text.dim, config.text.dim),
    )

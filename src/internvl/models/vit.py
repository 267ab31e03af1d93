"""InternViT, 300M and 6B: the same tower with other values (Chen et al. 2023, arXiv:2312.14238)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from internvl.errors import UsageError
from internvl.models.attention import EVERYTHING, attend
from internvl.models.config import VisionConfig
from internvl.models.heads import AttentionPool
from internvl.models.layers import DropPath, Linear, Mlp, RMSNorm, norm_layer


class VisionTransformer(nn.Module):
    """Pixels (B, 3, H, W), normalised, -> hidden states (B, 1 + patches, dim), class token first, no final norm.

    H and W may be any multiples of the patch size; position embeddings are resized to fit.

    >>> tower = VisionTransformer(VisionConfig(image_size=28, dim=64, layers=2, heads=1, mlp_dim=64))
    >>> tower(torch.zeros(1, 3, 28, 28)).shape
    torch.Size([1, 5, 64])
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.origin: Any = None
        """Left by whoever loaded the weights; never read here."""
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.clip_projector = AttentionPool(config.dim, config.pool_heads, config.pool_dim) if config.pool_dim else None
        """Not part of `forward`; `model.clip_projector(model(pixels))` is the contrastive image embedding."""
        self.checkpointing = False
        """Recompute each block in the backward pass instead of keeping its activations."""

    @overload
    def forward(self, pixel_values: Tensor) -> Tensor: ...
    @overload
    def forward(self, pixel_values: Tensor, collect: Sequence[int]) -> tuple[Tensor, ...]: ...
    def forward(self, pixel_values: Tensor, collect: Sequence[int] | None = None) -> Tensor | tuple[Tensor, ...]:
        """The last hidden state, or those listed in `collect`: 0 is the embeddings, i the output of layer i.

        Negative numbers count from the end (-1: the last layer). Layers after the last one asked for are not run.
        """
        layers = self.config.layers
        wanted = [layers] if collect is None else [i + layers + 1 if i < 0 else i for i in collect]
        if not wanted or not all(0 <= i <= layers for i in wanted):
            raise UsageError(f"collect is {collect}; hidden states are 0 to {layers}, or -1 to {-layers - 1}")
        x = self.embeddings(pixel_values)
        states = {0: x}
        for i, block in enumerate(self.encoder.layers[: max(wanted)], start=1):
            if self.checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if i in wanted:
                states[i] = x
        return states[wanted[0]] if collect is None else tuple(states[i] for i in wanted)


class VisionEmbeddings(nn.Module):
    """Patches, a class token before them, and learnt positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.grid = config.grid
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.patch_embedding = nn.Conv2d(3, config.dim, kernel_size=config.patch_size, stride=config.patch_size)
        self.position_embedding = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.dim))

    def forward(self, pixel_values: Tensor) -> Tensor:
        height, width = pixel_values.shape[-2:]
        if pixel_values.ndim != 4 or height % self.patch_size or width % self.patch_size:
            raise UsageError(
                f"pixel_values are {tuple(pixel_values.shape)}; expected (tiles, 3, H, W) with H and W multiples "
                f"of {self.patch_size}"
            )
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))  # (B, D, h, w)
        classes = self.class_embedding.expand(len(patches), -1, -1).to(patches.dtype)
        x = torch.cat((classes, patches.flatten(2).transpose(1, 2)), dim=1)
        return x + self.positions(*patches.shape[-2:]).to(x.dtype)

    def positions(self, height: int, width: int) -> Tensor:
        """(1, 1 + height * width, D): resized bicubically in fp32 where the grid is not the native one."""
        if (height, width) == (self.grid, self.grid):
            return self.position_embedding
        return resize_positions(self.position_embedding, height, width)


def resize_positions(table: Tensor, height: int, width: int) -> Tensor:
    """Position embeddings (1, 1 + S * S, D) for another grid; the class token's own stays as it is."""
    side = round((table.shape[1] - 1) ** 0.5)
    grid = table[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
    return torch.cat((table[:, :1], grid.flatten(2).transpose(1, 2).to(table.dtype)), dim=1)


class VisionEncoder(nn.Module):
    """What checkpoints call `encoder`: the blocks, with stochastic depth growing from 0 to the config's rate."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        rates = (config.drop_path * i / max(config.layers - 1, 1) for i in range(config.layers))
        self.layers = nn.ModuleList(VisionBlock(config, rate) for rate in rates)


class VisionBlock(nn.Module):
    """x + ls1 * attention(norm1(x)), then x + ls2 * mlp(norm2(x))."""

    def __init__(self, config: VisionConfig, drop_path: float) -> None:
        super().__init__()
        self.attn = VisionAttention(config)
        self.mlp = Mlp(config.dim, config.mlp_dim, config.activation)
        self.norm1 = norm_layer(config.norm, config.dim, config.eps)
        self.norm2 = norm_layer(config.norm, config.dim, config.eps)
        self.ls1 = nn.Parameter(torch.full((config.dim,), config.layer_scale))
        self.ls2 = nn.Parameter(torch.full((config.dim,), config.layer_scale))
        self.drop_path = DropPath(drop_path)
        self.fp32_layer_scale = config.fp32_layer_scale

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.scale(self.attn(self.norm1(x)), self.ls1))
        return x + self.drop_path(self.scale(self.mlp(self.norm2(x)), self.ls2))

    def scale(self, x: Tensor, by: Tensor) -> Tensor:
        return (x.float() * by.float()).to(x.dtype) if self.fp32_layer_scale else x * by


class VisionAttention(nn.Module):
    """Fused q, k, v; the 6B tower normalises q and k over the whole width before they become heads."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.qkv = Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)
        self.q_norm = RMSNorm(config.dim, config.eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.dim, config.eps) if config.qk_norm else None
        self.proj = Linear(config.dim, config.dim)
        self.proj_drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in (q, k, v))
        seen = attend(q, k, v, EVERYTHING, dropout=self.dropout if self.training else 0.0)
        return self.proj_drop(self.proj(seen.transpose(1, 2).reshape(b, t, d)))

"""Heads on top of a tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl.errors import find
from internvl.models.attention import EVERYTHING, attend
from internvl.models.config import VisionConfig
from internvl.models.layers import Linear

POOL_EPS = 1e-5
PROBE_EPS = 1e-6

Pooling = Literal["linear", "attention", "clip_projector"]
Together = Callable[[Tensor], tuple[Tensor, int]]
"""The rows of all ranks, and where one's own begin among them."""
POOLINGS: dict[str, None] = dict.fromkeys(("linear", "attention", "clip_projector"))


class AttentionPool(nn.Module):
    """One query, the mean of all tokens, looks at all tokens: (B, T, dim) -> (B, out).

    No residual, no MLP, no positions; q, k and v are normalised each with a LayerNorm of its own. It ends the image
    side of InternVL-C and InternVL-G (arXiv:2312.14238) and is the attention-pooling probe of the tower.
    """

    def __init__(self, dim: int, heads: int, out: int) -> None:
        super().__init__()
        self.norm1_q = nn.LayerNorm(dim, eps=POOL_EPS)
        self.norm1_k = nn.LayerNorm(dim, eps=POOL_EPS)
        self.norm1_v = nn.LayerNorm(dim, eps=POOL_EPS)
        self.cross_attn = PoolAttention(dim, heads, out)

    def forward(self, x: Tensor) -> Tensor:
        q = self.norm1_q(x.mean(dim=1, keepdim=True))
        return self.cross_attn(q, self.norm1_k(x), self.norm1_v(x))[:, 0]


class PoolAttention(nn.Module):
    """Multi-head attention whose biases are parameters of their own, as the checkpoints name them."""

    def __init__(self, dim: int, heads: int, out: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (Linear(dim, dim, bias=False) for _ in range(3))
        self.q_bias, self.k_bias, self.v_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(3))
        self.proj = Linear(dim, out)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = F.linear(q, self.q.weight, self.q_bias)
        k = F.linear(k, self.k.weight, self.k_bias)
        v = F.linear(v, self.v.weight, self.v_bias)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return self.proj(attend(q, k, v, EVERYTHING).transpose(1, 2).flatten(2))


class Probe(nn.Module):
    """A tower's states (B, 1 + patches, dim) -> logits (B, classes), through one linear layer.

        pooling           what is classified                                    width
        linear            the class token beside the mean of the patches        2 dim
        attention         what a learnt attention pool makes of all tokens      dim
        clip_projector    what the tower's contrastive pool made of them: then  pool_dim
                          `forward` takes that, (B, pool_dim)

    Features are normalised over the batch, in training over that of all ranks where `together` is set; a row that is
    all alone has no spread, and is normalised by what was seen before. Names are those of the published heads
    (InternViT-6B on ImageNet-1k).
    """

    def __init__(self, config: VisionConfig, classes: int, *, pooling: Pooling = "linear") -> None:
        super().__init__()
        find("pooling", pooling, POOLINGS)
        self.pooling: Pooling = pooling
        width = {"linear": 2 * config.dim, "attention": config.dim, "clip_projector": config.pool_dim}[pooling]
        self.attn_pooling = AttentionPool(config.dim, config.heads, config.dim) if pooling == "attention" else None
        self.norm = nn.BatchNorm1d(width, eps=PROBE_EPS)
        self.head = Linear(width, classes)
        self.together: Together | None = None

    def forward(self, states: Tensor) -> Tensor:
        if self.attn_pooling is not None:
            states = self.attn_pooling(states)
        elif self.pooling == "linear":
            states = torch.cat((states[:, 0], states[:, 1:].mean(dim=1)), dim=-1)
        return self.head(self._normalised(states))

    def _normalised(self, features: Tensor) -> Tensor:
        if not self.training:
            return self.norm(features)
        everyone, first = (features, 0) if self.together is None else self.together(features)
        if len(everyone) > 1:
            return self.norm(everyone)[first : first + len(features)]
        norm = self.norm
        return F.batch_norm(features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

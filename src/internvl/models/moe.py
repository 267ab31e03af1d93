"""The mixture-of-experts MLP of Qwen3-MoE and GPT-OSS."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl.models.config import TextConfig
from internvl.models.layers import Linear

CLAMP = 7.0
SHARPNESS = 1.702
"""GPT-OSS's gate: g * sigmoid(1.702 g) with g at most 7, times (up + 1) with |up| at most 7."""


class MixtureOfExperts(nn.Module):
    """Each token goes to the `active` experts its router likes best; their outputs are summed by router weight."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        assert config.experts is not None
        self.active = config.experts.active
        self.normalise = config.experts.normalise
        self.router = Linear(config.dim, config.experts.count, bias=config.experts.bias)
        self.experts = Experts(config)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        weights = self.router(tokens).float().softmax(dim=-1)
        weights, chosen = weights.topk(self.active, dim=-1)  # (N, active)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        out = torch.zeros_like(tokens)
        for expert in chosen.unique().tolist():
            rows, place = (chosen == expert).nonzero(as_tuple=True)
            answer = self.experts(expert, tokens[rows]) * weights[rows, place, None].to(x.dtype)
            out.index_add_(0, rows, answer)
        return out.view_as(x)


class Experts(nn.Module):
    """The weights of all experts, stacked: gate and up (E, inner, dim), down (E, dim, inner)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        assert config.experts is not None
        count, inner, dim = config.experts.count, config.experts.dim, config.dim
        self.clamped = config.experts.gate == "clamped"
        self.gate_proj = nn.Parameter(torch.zeros(count, inner, dim))
        self.up_proj = nn.Parameter(torch.zeros(count, inner, dim))
        self.down_proj = nn.Parameter(torch.zeros(count, dim, inner))
        bias = config.experts.bias
        self.gate_proj_bias = nn.Parameter(torch.zeros(count, inner)) if bias else None
        self.up_proj_bias = nn.Parameter(torch.zeros(count, inner)) if bias else None
        self.down_proj_bias = nn.Parameter(torch.zeros(count, dim)) if bias else None

    def forward(self, expert: int, x: Tensor) -> Tensor:
        """What one expert makes of tokens (N, dim)."""

        def bias(of: nn.Parameter | None) -> Tensor | None:
            return None if of is None else of[expert]

        gate = F.linear(x, self.gate_proj[expert], bias(self.gate_proj_bias))
        up = F.linear(x, self.up_proj[expert], bias(self.up_proj_bias))
        if self.clamped:
            gate, up = gate.clamp(max=CLAMP), up.clamp(-CLAMP, CLAMP)
            inner = (up + 1) * gate * torch.sigmoid(gate * SHARPNESS)
        else:
            inner = F.silu(gate) * up
        return F.linear(inner, self.down_proj[expert], bias(self.down_proj_bias))

"""AdamW in groups, and the rate at every moment of a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from internvl.training.config import Optim
from internvl.training.layers import depth_of
from internvl.training.learn import part_of
from internvl.training.parallel import is_sharded

NOT_DECAYED = ("embed_tokens", "position_embedding", "class_embedding", "query_tokens", "lora_")
"""With `decay_all=False`: besides everything that is no matrix."""


def adamw(model: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW over what learns: one group for each rate and weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Each group keeps its full rate as `full_lr`; `set_rate` multiplies it.

    >>> optimizer = adamw(model, Optim(lr=4e-5, vision_lr=4e-6))  # doctest: +SKIP
    """
    by_setting: dict[tuple[float, float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            setting = rate_of(name, model, optim), decay_of(name, parameter, optim), is_sharded(parameter)
            by_setting[setting].append(parameter)
    groups = [
        # Sharded and whole tensors cannot be stepped together, and sharded ones are slow one by one.
        {"params": parameters, "lr": rate, "full_lr": rate, "weight_decay": decay, "foreach": sharded or None}
        for (rate, decay, sharded), parameters in by_setting.items()
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)


def rate_of(name: str, model: nn.Module, optim: Optim) -> float:
    """The full rate of a parameter: that of its part, times the decay for every layer above it."""
    part = part_of(name)
    asked = {"vision": optim.vision_lr, "projector": optim.projector_lr, "language": optim.language_lr}[part]
    rate = optim.lr if asked is None else asked
    decays = {"vision": optim.vision_layer_decay, "language": optim.language_layer_decay}
    if all(decay == 1.0 for decay in decays.values()):
        return rate
    group, depth, depths = depth_of(name, model)
    return rate * min(1.0, decays[group] ** (depths - depth - 1))


def decay_of(name: str, parameter: nn.Parameter, optim: Optim) -> float:
    """The weight decay of a parameter: that of its part, or none."""
    spared = parameter.ndim < 2 or any(part in name for part in NOT_DECAYED)
    own = {
        "vision": optim.vision_weight_decay,
        "projector": optim.projector_weight_decay,
        "language": optim.language_weight_decay,
    }[part_of(name)]
    return 0.0 if spared and not optim.decay_all else optim.weight_decay if own is None else own


def rate_at(progress: float, step: int, optim: Optim) -> float:
    """The share of the full rate at a moment of the run: `progress` from 0 to 1, `step` counted from 1.

    The rate rises along a straight line, then: `cosine` falls in half a cosine, `linear` along a line, `wsd` (warm-up,
    stable, decay; Hu et al. 2024, arXiv:2404.06395) stays and falls along a line in the last share `decay`, `constant`
    stays. It ends at `floor`.

    >>> rate_at(0.5, 50, Optim(warmup=0.0, schedule="linear"))
    0.5
    """
    if optim.warmup >= 1 and step < optim.warmup:
        return step / optim.warmup
    warm = min(progress, progress * optim.warmup / step) if optim.warmup >= 1 else optim.warmup
    if progress < warm:
        return progress / warm
    left = 1 - (progress - warm) / max(1 - warm, 1e-12)
    match optim.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = left
        case "cosine":
            share = 0.5 - 0.5 * math.cos(math.pi * left)
        case "wsd":
            share = min(1.0, left / optim.decay) if optim.decay else 1.0
    return optim.floor + (1 - optim.floor) * max(share, 0.0)


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Set every group to this share of its full rate; returns the highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["full_lr"] * share
    return max(group["lr"] for group in optimizer.param_groups)


class Scaler:
    """Loss scaling for fp16 (Micikevicius et al. 2018, arXiv:1710.03740): the scale halves when gradients overflow and
    doubles after `window` good steps. It judges by the norm over all ranks, so that all of them decide alike.
    """

    def __init__(self, scale: float, *, window: int = 1000) -> None:
        self.scale, self.window, self.good = scale, window, 0

    def update(self, finite: bool) -> None:
        """After a step: were its gradients finite?"""
        if not finite:
            self.scale, self.good = max(1.0, self.scale / 2), 0
            return
        self.good += 1
        if self.good >= self.window:
            self.scale, self.good = self.scale * 2, 0

    def state(self) -> dict[str, Any]:
        return {"scale": self.scale, "good": self.good}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.scale, self.good = float(state["scale"]), int(state["good"])


def scaler_for(dtype: str) -> Scaler:
    """fp16 needs a scale; the other types have one of 1 that stays."""
    return Scaler(2.0**16) if dtype == "fp16" else Scaler(1.0, window=1 << 62)

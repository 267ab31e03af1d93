"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): where they sit, how a config states them, and merging them.

An adapted linear layer computes W x + alpha / rank * B A x. A checkpoint of the family may hold its adapters unmerged;
its config then gives the rank of each part, and alpha is twice the rank:

    "use_llm_lora": 16

The published code knows nothing else. Another alpha, or DoRA, is stated in the same place in a form that this code
cannot multiply by two, so that it stops instead of computing something else:

    "use_llm_lora": {"rank": 16, "alpha": 16.0, "dora": true}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from internvl.errors import ConfigError, KeyMismatch, UsageError
from internvl.models.layers import Linear, add_adapter
from internvl.weights.families import Raw
from internvl.weights.files import Handle

TARGETS = (
    *("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"),
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
"""Endings of the linear layers that carry an adapter, in the tower and in every decoder. Experts carry none."""
HIGHEST_RANK = 1 << 16
HIGHEST_ALPHA = 1e6
A, B, MAGNITUDE = ".lora_A.", ".lora_B.", ".lora_magnitude_vector."


@dataclass(frozen=True)
class Form:
    """The adapters of one part of a model."""

    rank: int
    alpha: float
    dora: bool = False

    @classmethod
    def published(cls, rank: int) -> Form:
        return cls(rank, 2.0 * rank)

    def write(self) -> int | dict[str, Any]:
        """The value in a config."""
        if self == Form.published(self.rank):
            return self.rank
        return {"rank": self.rank, "alpha": self.alpha, "dora": self.dora}


def targets(model: nn.Module, part: str) -> list[str]:
    """Names of the linear layers of a part (`vision_model.`, `language_model.`) that the family puts adapters on."""
    return [
        name
        for name, module in model.named_modules()
        if name.startswith(part) and name.endswith(TARGETS) and isinstance(module, nn.Linear)
    ]


def adapted(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer that carries an adapter, by name: those of `models.layers`, and those that peft made."""
    return {name: module for name, module in model.named_modules() if _carries(module)}


def _carries(module: nn.Module) -> bool:
    return isinstance(getattr(module, "base_layer", None), nn.Linear) and "default" in getattr(module, "lora_A", ())


def scale_of(layer: nn.Module) -> float:
    """alpha / rank."""
    scaling = getattr(layer, "scaling", None)  # peft's has one for each of its adapters
    return float(layer.scale if scaling is None else scaling["default"])  # type: ignore[arg-type]


def magnitude_of(layer: nn.Module) -> Tensor | None:
    """The row lengths of a DoRA layer."""
    held = getattr(layer, "lora_magnitude_vector", None)
    return held["default"].weight if held is not None and "default" in held else None


def attach(model: nn.Module, forms: Mapping[str, Form | int]) -> None:
    """Put an (uninitialised) adapter on every target of each part; a number is a rank, alpha twice it."""
    for part, form in forms.items():
        form = Form.published(form) if isinstance(form, int) else form
        for name in targets(model, part) if form.rank else ():
            add_adapter(model, name, form.rank, form.alpha, dora=form.dora)


def agree(raw: Raw, ranks: Mapping[str, str], names: Collection[str], where: str) -> None:
    """The ranks in a config and the adapters among the tensors must tell the same story."""
    for part, key in ranks.items():
        here = any(name.startswith(part) and A in name for name in names)
        rank = stated(raw, key).rank
        if here and not rank:
            raise KeyMismatch(
                f"{where}: holds adapters under {part} but config.json says {key} 0; set it to their rank"
            )
        if rank and not here:
            raise KeyMismatch(
                f"{where}: config.json says {key} {rank} but there is no adapter under {part}; "
                "if they were merged, set it to 0"
            )


def stated(raw: Raw, key: str) -> Form:
    """The adapters that a config says a part has; rank 0 where it says none."""
    value = raw.get(key) or 0
    whole = {"rank": value, "alpha": None} if isinstance(value, int) else value
    rank, alpha, dora = (whole.get(k) for k in ("rank", "alpha", "dora")) if isinstance(whole, dict) else (None,) * 3
    if not _is_rank(rank) or not _is_scale(alpha) or not isinstance(dora, bool | None):
        raise ConfigError(
            f"config.json: {key} is {value!r:.80}; expected the rank of the adapters, 0 where there are none, "
            'or {"rank": 16, "alpha": 16.0, "dora": false}'
        )
    return Form(rank, 2.0 * rank if alpha is None else float(alpha), bool(dora))


def _is_rank(rank: Any) -> TypeGuard[int]:
    return isinstance(rank, int) and 0 <= rank <= HIGHEST_RANK


def _is_scale(alpha: Any) -> bool:
    return alpha is None or (isinstance(alpha, int | float) and 0 < alpha <= HIGHEST_ALPHA)


def rank(tensors: Mapping[str, Handle], part: str) -> int:
    """The highest rank among the adapters of a part; 0 where it has none."""
    return max((h.shape[0] for name, h in tensors.items() if name.startswith(part) and A in name), default=0)


def of_one_rank(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fill the adapters up with zeros, which add nothing, until all of one part have the same rank."""
    parts = {name: name.partition(".")[0] for name in tensors}
    ranks: dict[str, int] = {}
    for name, tensor in tensors.items():
        if A in name:
            ranks[parts[name]] = max(ranks.get(parts[name], 0), tensor.shape[0])
    wide: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if MAGNITUDE in name:
            wide[name] = tensor
            continue
        lacking = ranks[parts[name]] - tensor.shape[0 if A in name else 1]
        pad = (0, 0, 0, lacking) if A in name else (0, lacking)
        wide[name] = torch.nn.functional.pad(tensor, pad) if lacking else tensor
    return wide


def scales(model: nn.Module) -> dict[str, float]:
    """alpha / rank of every adapted layer, by name."""
    return {name: scale_of(layer) for name, layer in adapted(model).items()}


def common_scale(scales: Mapping[str, float], part: str) -> float:
    """The scale that all adapters of a part have; twice the rank, as published, where they have several."""
    found = {scale for name, scale in scales.items() if name.startswith(part)}
    return found.pop() if len(found) == 1 else 2.0


@torch.no_grad()
def merge(model: nn.Module) -> int:
    """Add every adapter to its weight, in place, and take it off; says how many there were.

    The sum is computed in fp32 at least. Merging again, with nothing left to merge, is an error.
    """
    layers = adapted(model)
    if not layers:
        raise UsageError("there is no adapter to merge: none was loaded, or they are merged already")
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        base = base_of(layer)
        if isinstance(base.weight, nn.Parameter):
            base.weight.copy_(merged_weight(layer))
        else:  # held in fewer bits
            base = _plain(base, merged_weight(layer))
        setattr(model.get_submodule(parent), child, base)
    return len(layers)


def base_of(layer: nn.Module) -> nn.Linear:
    """The layer that an adapter stands beside."""
    base = layer.get_submodule("base_layer")
    assert isinstance(base, nn.Linear)
    return base


def _plain(packed: nn.Linear, weight: Tensor) -> Linear:
    plain = Linear(packed.in_features, packed.out_features, bias=False, device="meta")
    plain.weight, plain.bias = nn.Parameter(weight), packed.bias
    return plain


def merged_weight(layer: nn.Module) -> Tensor:
    """W + alpha / rank * B A, its rows as long as DoRA has them, in fp32 or the weight's own precision if higher."""
    weight = base_of(layer).weight
    exact = torch.promote_types(weight.dtype, torch.float32)
    a, b = layer.get_parameter("lora_A.default.weight"), layer.get_parameter("lora_B.default.weight")
    whole = weight.to(exact) + scale_of(layer) * (b.to(exact) @ a.to(exact))
    length = magnitude_of(layer)
    return whole if length is None else whole * (length.to(exact) / torch.linalg.norm(whole, dim=1))[:, None]

"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): where they sit, and merging them.

An adapted linear layer computes W x + alpha / rank * B A x. A checkpoint of the family may hold its adapters unmerged;
its config then gives the rank of each part, and alpha is twice the rank.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from internvl.errors import ConfigError, KeyMismatch, UsageError
from internvl.models.layers import LoraLinear, add_adapter
from internvl.weights.families import Raw
from internvl.weights.files import Handle

TARGETS = (
    *("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"),
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
"""Endings of the linear layers that carry an adapter, in the tower and in every decoder."""
HIGHEST_RANK = 1 << 16


def targets(model: nn.Module, part: str) -> list[str]:
    """Names of the linear layers of a part (`vision_model.`, `language_model.`) that the family puts adapters on."""
    return [
        name
        for name, module in model.named_modules()
        if name.startswith(part) and name.endswith(TARGETS) and isinstance(module, nn.Linear)
    ]


def adapted(model: nn.Module) -> dict[str, LoraLinear]:
    """Every layer that carries an adapter, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def attach(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Put an adapter of this rank, alpha twice the rank, on every target of each part; 0 is none."""
    for part, rank in ranks.items():
        for name in targets(model, part) if rank else ():
            add_adapter(model, name, rank, 2 * rank)


def agree(raw: Raw, ranks: Mapping[str, str], names: Collection[str], where: str) -> None:
    """The ranks in a config and the adapters among the tensors must tell the same story."""
    for part, key in ranks.items():
        here = any(name.startswith(part) and ".lora_A." in name for name in names)
        rank = stated_rank(raw, key)
        if here and not rank:
            raise KeyMismatch(
                f"{where}: holds adapters under {part} but config.json says {key} 0; set it to their rank"
            )
        if rank and not here:
            raise KeyMismatch(
                f"{where}: config.json says {key} {rank} but there is no adapter under {part}; "
                "if they were merged, set it to 0"
            )


def stated_rank(raw: Raw, key: str) -> int:
    """The rank that a config gives; 0 where it gives none."""
    value = raw.get(key)
    if value is not None and not (isinstance(value, int) and 0 <= value <= HIGHEST_RANK):
        raise ConfigError(
            f"config.json: {key} is {value!r:.80}; expected the rank of the adapters, 0 where there are none"
        )
    return int(value or 0)


def rank(tensors: Mapping[str, Handle], part: str) -> int:
    """The highest rank among the adapters of a part; 0 where it has none."""
    return max((h.shape[0] for name, h in tensors.items() if name.startswith(part) and ".lora_A." in name), default=0)


def of_one_rank(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fill the adapters up with zeros, which add nothing, until all of one part have the same rank."""
    parts = {name: name.partition(".")[0] for name in tensors}
    ranks: dict[str, int] = {}
    for name, tensor in tensors.items():
        if ".lora_A." in name:
            ranks[parts[name]] = max(ranks.get(parts[name], 0), tensor.shape[0])
    wide: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        lacking = ranks[parts[name]] - tensor.shape[0 if ".lora_A." in name else 1]
        pad = (0, 0, 0, lacking) if ".lora_A." in name else (0, lacking)
        wide[name] = torch.nn.functional.pad(tensor, pad) if lacking else tensor
    return wide


def scales(model: nn.Module) -> dict[str, float]:
    """alpha / rank of every adapted layer, by name."""
    return {name: layer.scale for name, layer in adapted(model).items()}


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
        weight = layer.base_layer.weight
        weight.copy_(merged_weight(layer))
        setattr(model.get_submodule(parent), child, layer.base_layer)
    return len(layers)


def merged_weight(layer: LoraLinear) -> Tensor:
    """W + alpha / rank * B A, in fp32 or the weight's own precision where that is higher."""
    weight = layer.base_layer.weight
    exact = torch.promote_types(weight.dtype, torch.float32)
    a, b = layer.get_parameter("lora_A.default.weight"), layer.get_parameter("lora_B.default.weight")
    return weight.to(exact) + layer.scale * (b.to(exact) @ a.to(exact))

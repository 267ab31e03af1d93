"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): where they sit, merging them, and files that hold nothing else.

An adapted linear layer computes W x + alpha / rank * B A x. A checkpoint of the family may hold its adapters unmerged;
its config then gives the rank of each part, and alpha is twice the rank. `peft` writes them to a folder of their own
(`adapter_config.json`, `adapter_model.safetensors`), which is what `read` and `write` here are for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from internvl.errors import CheckpointError, ConfigError, KeyMismatch, ShapeMismatch, UsageError
from internvl.models.config import ChatConfig
from internvl.models.layers import LoraLinear, add_adapter
from internvl.weights import keys
from internvl.weights.families import Raw
from internvl.weights.files import Handle, open_weights, whole_folder, write_file
from internvl.weights.formats import TABLE, parse_json
from internvl.weights.rules import KeyTable, some

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


@torch.no_grad()
def difference(adapted_model: nn.Module, merged_model: nn.Module) -> float:
    """The worst relative error of a merged weight: 0 where merging lost nothing, 0.004 where it was stored in bf16.

    Both models are the same checkpoint, one with its adapters and one with them merged.
    """
    worst = 0.0
    for name, layer in adapted(adapted_model).items():
        exact = merged_weight(layer)
        found = merged_model.get_parameter(f"{name}.weight").to(exact)
        worst = max(worst, float((found - exact).abs().max() / exact.abs().max()))
    return worst


# --- files of adapters alone ------------------------------------------------------------------------------------------

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
ROOT = "base_model.model."


def read(model: nn.Module, folder: Path) -> int:
    """Put the adapters of a `peft` folder on a model; says how many there were.

    Their names may be those of any layout of the model: the custom-code one (fused weights too) or the transformers one
    in either prefix form. A folder that holds more than low-rank adapters is refused.
    """
    raw = parse_json((folder / CONFIG).read_bytes(), str(folder / CONFIG)) if (folder / CONFIG).is_file() else None
    if raw is None:
        raise CheckpointError(f"{folder}: no {CONFIG}; expected a folder that peft wrote")
    _only_plain_lora(raw, folder)
    handles = open_weights(folder / TENSORS).handles()
    theirs = {name.removeprefix(ROOT).replace(".weight", ".default.weight"): h for name, h in handles.items()}
    ours: dict[str, Tensor] = {}
    for step in _table_for(model, theirs).plan(theirs, "theirs"):
        ours |= dict(zip(step.ours, step.rule.read([theirs[name].read() for name in step.theirs]), strict=True))
    layers = {name.partition(".lora_A.")[0]: tensor for name, tensor in ours.items() if ".lora_A." in name}
    if carried := sorted(layers.keys() & adapted(model).keys()):
        raise UsageError(f"{folder}: {some(carried)} carry an adapter already; merge it first")
    pairs = {name: (a, ours[f"{name}.lora_B.default.weight"]) for name, a in layers.items()}
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    wrong = [
        name for name, (a, b) in pairs.items()
        if name not in linear or (b.shape[0], a.shape[1]) != tuple(linear[name].weight.shape)
    ]  # fmt: skip
    if wrong:
        raise ShapeMismatch(f"{folder}: belongs to another model; its adapters do not fit {some(wrong)}")
    for name, (a, b) in pairs.items():
        alpha = _alpha(raw, name, folder) * (a.shape[0] ** 0.5 if raw.get("use_rslora") else 1.0)
        layer = add_adapter(model, name, a.shape[0], alpha)
        layer.get_parameter("lora_A.default.weight").data.copy_(a)
        layer.get_parameter("lora_B.default.weight").data.copy_(b)
    return len(pairs)


def write(model: nn.Module, folder: Path) -> None:
    """Write the adapters of a model, and nothing else, as `peft` does."""
    layers = adapted(model)
    if not layers:
        raise UsageError("there is no adapter to write: none was put on, or they are merged already")
    tensors: dict[str, Handle] = {}
    for name, layer in layers.items():
        for part in ("lora_A", "lora_B"):
            tensors[f"{ROOT}{name}.{part}.weight"] = Handle.of(layer.get_parameter(f"{part}.default.weight").detach())
    ranks = {name: layer.get_parameter("lora_A.default.weight").shape[0] for name, layer in layers.items()}
    alphas = {name: layer.scale * ranks[name] for name, layer in layers.items()}
    rank, alpha = max(ranks.values()), max(alphas.values())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(layers),
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
    }
    with whole_folder(folder) as growing:
        (growing / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_file(growing / TENSORS, dict(sorted(tensors.items())), metadata={"format": "pt"}, wrapper=None)


def _only_plain_lora(raw: Raw, folder: Path) -> None:
    """Refuse what is more, or other, than W x + alpha / rank * B A x."""
    expected = {"peft_type": "LORA", "bias": "none", "use_dora": False, "fan_in_fan_out": False}
    for key, value in expected.items():
        if raw.get(key) not in (value, None):
            raise ConfigError(f"{folder}: {CONFIG} says {key} {raw[key]!r}; this package knows {value!r}")
    if raw.get("modules_to_save"):
        raise ConfigError(
            f"{folder}: holds whole modules ({raw['modules_to_save']}) beside its adapters; merge it with peft"
        )


def _alpha(raw: Raw, name: str, folder: Path) -> float:
    """The alpha of one layer; a pattern is the ending of its name."""
    patterns = raw.get("alpha_pattern") or {}
    if strange := [pattern for pattern in patterns if set(pattern) & set("^$*+?()[]|\\")]:
        raise ConfigError(f"{folder}: {CONFIG} has an alpha_pattern that is no name of a layer: {strange[0]!r}")
    fits = [alpha for pattern, alpha in patterns.items() if f".{name}".endswith(f".{pattern}")]
    return float(fits[0] if fits else raw.get("lora_alpha", 8))


def _table_for(model: nn.Module, names: Collection[str]) -> KeyTable:
    """The key table of the layout whose names these are."""
    config, origin = getattr(model, "config", None), getattr(model, "origin", None)
    tables: list[KeyTable] = []
    if origin is not None:
        tables.append(
            TABLE[origin.format].table(origin.config, origin.raw, keys.Dialect(prefixed=origin.dialect.prefixed))
        )
    if isinstance(config, ChatConfig):
        llama = {"architectures": ["LlamaForCausalLM"]}
        tables.append(keys.custom_table(config, {"llm_config": llama}, keys.Dialect()))
        tables += [keys.hf_table(config, {"text_config": llama}, keys.Dialect(prefixed=form)) for form in (True, False)]
    for table in tables:
        if all(table.knows(name, "theirs") for name in names):
            return table
    raise KeyMismatch(f"these adapters have names of no layout of this model: {some(names)}")

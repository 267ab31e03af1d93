"""The `config.json` of every public layout <-> our frozen configs.

A public config lists what differs from the defaults of the class that wrote it, so reading needs those defaults: they
stand in the tables below. A key that no version of the family gives a meaning to is ignored; a value that changes the
computation in a way that we do not have is an error. Nothing that a config names (`auto_map`) is ever imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from internvl.errors import ConfigError
from internvl.models.config import Activation, VisionConfig
from internvl.weights.families import Raw, expect

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
ACTIVATION_NAMES: Mapping[Activation, str] = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "silu": "silu",
                                              "relu": "relu"}  # fmt: skip


# --- vision -----------------------------------------------------------------------------------------------------------

# The defaults of `intern_vit_6b`, which the oldest 6B configs rely on (no norm_type means rms_norm).
# fmt: off
CUSTOM_VISION: Raw = {
    "patch_size": 14, "image_size": 224, "qkv_bias": False, "hidden_size": 3200, "num_attention_heads": 25,
    "intermediate_size": 12800, "qk_normalization": True, "num_hidden_layers": 48, "hidden_act": "gelu",
    "norm_type": "rms_norm", "layer_norm_eps": 1e-6, "dropout": 0.0, "drop_path_rate": 0.0, "attention_dropout": 0.0,
    "initializer_factor": 0.1,
}
HF_VISION: Raw = {
    "patch_size": [14, 14], "image_size": [448, 448], "attention_bias": False, "hidden_size": 1024,
    "num_attention_heads": 16, "intermediate_size": 4096, "use_qk_norm": False, "num_hidden_layers": 24,
    "hidden_act": "gelu", "norm_type": "layer_norm", "layer_norm_eps": 1e-6, "hidden_dropout_prob": 0.0,
    "attention_dropout": 0.0, "layer_scale_init_value": 0.1,
}
# fmt: on


def read_vision(raw: Raw) -> VisionConfig:
    """The vision part of a custom-code config, or the whole config of a tower alone."""
    expect(raw, "num_channels", 3, default=3)
    raw = {**CUSTOM_VISION, **raw}
    return VisionConfig(
        image_size=raw["image_size"],
        patch_size=raw["patch_size"],
        dim=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=raw["num_attention_heads"],
        mlp_dim=raw["intermediate_size"],
        norm=expect(raw, "norm_type", "layer_norm", "rms_norm", default=None),
        eps=raw["layer_norm_eps"],
        qkv_bias=raw["qkv_bias"],
        qk_norm=raw["qk_normalization"],
        activation=ACTIVATIONS[expect(raw, "hidden_act", *ACTIVATIONS, default=None)],
        layer_scale=raw["initializer_factor"],
        drop_path=raw["drop_path_rate"],
        dropout=raw["dropout"],
        attention_dropout=raw["attention_dropout"],
    )


def write_vision(config: VisionConfig) -> dict[str, Any]:
    """`read_vision` backwards, every key written out."""
    return {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "num_channels": 3,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
        "qkv_bias": config.qkv_bias,
        "hidden_size": config.dim,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_dim,
        "qk_normalization": config.qk_norm,
        "num_hidden_layers": config.layers,
        "use_flash_attn": True,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "norm_type": config.norm,
        "layer_norm_eps": config.eps,
        "dropout": config.dropout,
        "drop_path_rate": config.drop_path,
        "attention_dropout": config.attention_dropout,
        "initializer_range": 0.02,
        "initializer_factor": config.layer_scale,
    }


def read_hf_vision(raw: Raw) -> VisionConfig:
    """The `vision_config` of the transformers layout."""
    expect(raw, "num_channels", 3, default=3)
    expect(raw, "use_mask_token", False, default=False)
    expect(raw, "use_absolute_position_embeddings", True, default=True)
    expect(raw, "use_mean_pooling", True, default=True)  # otherwise the tower ends in a norm, which no InternViT has
    raw = {**HF_VISION, **raw}
    return VisionConfig(
        image_size=_square(raw, "image_size"),
        patch_size=_square(raw, "patch_size"),
        dim=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=raw["num_attention_heads"],
        mlp_dim=raw["intermediate_size"],
        norm=expect(raw, "norm_type", "layer_norm", "rms_norm", default=None),
        eps=raw["layer_norm_eps"],
        qkv_bias=raw["attention_bias"],
        qk_norm=raw["use_qk_norm"],
        activation=ACTIVATIONS[expect(raw, "hidden_act", *ACTIVATIONS, default=None)],
        layer_scale=raw["layer_scale_init_value"],
        dropout=raw["hidden_dropout_prob"],
        attention_dropout=raw["attention_dropout"],
    )


def write_hf_vision(config: VisionConfig) -> dict[str, Any]:
    """`read_hf_vision` backwards. Stochastic depth has no key there; it matters in training only."""
    return {
        "model_type": "internvl_vision",
        "num_channels": 3,
        "patch_size": [config.patch_size] * 2,
        "image_size": [config.image_size] * 2,
        "attention_bias": config.qkv_bias,
        "hidden_size": config.dim,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_dim,
        "use_qk_norm": config.qk_norm,
        "num_hidden_layers": config.layers,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "norm_type": config.norm,
        "layer_norm_eps": config.eps,
        "hidden_dropout_prob": config.dropout,
        "attention_dropout": config.attention_dropout,
        "projection_dropout": 0.0,
        "layer_scale_init_value": config.layer_scale,
        "initializer_range": 0.02,
        "use_absolute_position_embeddings": True,
        "use_mask_token": False,
        "use_mean_pooling": True,
    }


def _square(raw: Raw, name: str) -> int:
    value = raw[name]
    sides = list(value) if isinstance(value, list | tuple) else [value]
    if len(set(sides)) != 1:
        raise ConfigError(f"config.json: {name} is {value}; only squares are supported")
    return sides[0]

"""The parts of a public `config.json` <-> our frozen configs.

A public config lists what differs from the defaults of the class that wrote it, so reading needs those defaults: they
stand in the tables below. A key that no version of the family gives a meaning to is ignored; a value that changes the
computation in a way that we do not have is an error. Nothing that a config names (`auto_map`) is ever imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from internvl.errors import ConfigError
from internvl.models.config import Activation, ChatConfig, PairConfig, VisionConfig
from internvl.weights.families import Raw, expect, write_text

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


# --- whole models -----------------------------------------------------------------------------------------------------


def write_custom(config: ChatConfig) -> dict[str, Any]:
    """A chat config in the published layout. What a prompt and a picture need is added by the sidecars."""
    _only_mlp1(config)
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "vision_config": write_vision(config.vision),
        "llm_config": write_text(config.text, newer=False),
        "select_layer": config.select_layer,
        "downsample_ratio": config.downsample,
        "ps_version": config.pixel_shuffle,
        "force_image_size": config.tile_size,
        "image_token_id": config.image_token,
        "hidden_size": config.text.dim,
        "tie_word_embeddings": config.text.tied_head,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
    }


def write_hf(config: ChatConfig) -> dict[str, Any]:
    """A chat config for transformers, which knows only one order of the pixel shuffle."""
    _only_mlp1(config)
    if config.pixel_shuffle != "v2":
        raise ConfigError("transformers has no pixel shuffle v1: keep this checkpoint in the custom layout")
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "vision_config": write_hf_vision(config.vision),
        "text_config": write_text(config.text, newer=True),
        "image_token_id": config.image_token,
        "image_seq_length": config.slots_per_tile,
        "downsample_ratio": config.downsample,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": config.select_layer,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": config.text.tied_head,
    }


def _only_mlp1(config: ChatConfig) -> None:
    if config.projector != "mlp1":
        raise ConfigError("the LLaVA form's projector exists in its own layout only; save it as 'llava'")


def write_vit(config: VisionConfig) -> dict[str, Any]:
    """A tower alone."""
    pool = {"attn_pool_num_heads": config.pool_heads} if config.pool_dim else {}
    return {**write_vision(config), **pool}


def write_pair(config: PairConfig) -> dict[str, Any]:
    """InternVL-14B."""
    if not config.queries:
        raise ConfigError("a plain InternVL-C has no queries; save it as 'pair-pth'")
    language = write_text(config.text, newer=False)
    return {
        "architectures": ["InternVLModel"],
        "model_type": "internvl",
        "vision_config": write_vision(config.vision),
        "qllama_config": language,
        "clip_embed_dim": config.embed_dim,
        "attn_pool_num_heads": config.pool_heads,
        "num_query_token": config.queries,
        "cross_attention_frequency": config.cross_every,
        "force_image_size": None,
        "hidden_size": config.text.dim,
        "label_smoothing": 0.0,
        "tie_word_embeddings": False,
        "use_backbone_lora": 0,
        "use_qllama_lora": 0,
    }


def write_vit_pth(config: VisionConfig) -> dict[str, Any]:
    """`build_arguments.json`: what the tensors of a `.pth` do not say."""
    if config.eps != 1e-6 or config.activation != "gelu":
        raise ConfigError(f"a plain .pth cannot say that eps is {config.eps} and the activation {config.activation}")
    pool = {"attn_pool_num_heads": config.pool_heads, "clip_embed_dim": config.pool_dim} if config.pool_dim else {}
    return {
        "embed_dim": config.dim,
        "depth": config.layers,
        "num_heads": config.heads,
        "patch_size": config.patch_size,
        "img_size": config.image_size,
        "init_values": config.layer_scale,
        **pool,
    }

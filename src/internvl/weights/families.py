"""The language model classes of the family: what their configs mean to us, and how ours are written for them.

A public config lists what differs from the defaults of the class that wrote it, so each family's defaults stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from internvl.errors import ConfigError, UnknownArchitecture
from internvl.models.config import Experts, RopeScaling, TextConfig, check_field
from internvl.weights.rules import some

Raw = Mapping[str, Any]
"""A parsed `config.json`, or a part of one."""


def expect(raw: Raw, name: str, *allowed: Any, default: Any) -> Any:
    """The value of a key that only these values are known for."""
    value = raw.get(name, default)
    if value not in allowed:
        raise ConfigError(f"config.json: {name} is {value!r}; this package knows {some(map(repr, allowed))}")
    return value


@dataclass(frozen=True)
class Family:
    """One language model class: the defaults of its config, and what they mean to us."""

    architecture: str
    model_type: str
    defaults: Raw
    fields: Callable[[Raw], dict[str, Any]] = field(default=lambda raw: {})
    """What this family has beyond the common fields."""


def _llama(raw: Raw) -> dict[str, Any]:
    bias = raw["attention_bias"]
    return {"qkv_bias": bias, "out_bias": bias, "mlp_bias": raw["mlp_bias"]}


def _internlm2(raw: Raw) -> dict[str, Any]:
    return {"qkv_bias": raw["bias"], "out_bias": raw["bias"]}


def _internlm3(raw: Raw) -> dict[str, Any]:
    return {"qkv_bias": raw["qkv_bias"], "out_bias": raw["bias"], "mlp_bias": raw["bias"]}


def _phi3(raw: Raw) -> dict[str, Any]:
    return {"window": raw["sliding_window"]}


def _qwen2(raw: Raw) -> dict[str, Any]:
    return {"qkv_bias": True, **_late_window(raw)}


def _qwen3(raw: Raw) -> dict[str, Any]:
    return {"qkv_bias": raw["attention_bias"], "out_bias": raw["attention_bias"], "qk_norm": True, **_late_window(raw)}


def _qwen3_moe(raw: Raw) -> dict[str, Any]:
    step, dense = raw["decoder_sparse_step"], raw["mlp_only_layers"] or ()
    experts = Experts(
        count=raw.get("num_experts", raw.get("num_local_experts", 128)),
        active=raw["num_experts_per_tok"],
        dim=raw["moe_intermediate_size"],
        normalise=raw["norm_topk_prob"],
        dense_layers=tuple(i for i in range(raw["num_hidden_layers"]) if i in dense or (i + 1) % step),
    )
    return {**_qwen3(raw), "experts": experts}


def _gpt_oss(raw: Raw) -> dict[str, Any]:
    expect(raw, "swiglu_limit", 7.0, default=7.0)
    expect(raw, "swiglu_alpha", 1.702, default=1.702)
    experts = Experts(
        count=raw["num_local_experts"],
        active=raw["num_experts_per_tok"],
        dim=raw["intermediate_size"],
        bias=True,
        gate="clamped",
    )
    layers = raw["num_hidden_layers"]
    kinds = raw.get("layer_types") or ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    bias = raw["attention_bias"]
    return {"qkv_bias": bias, "out_bias": bias, "sinks": True, "experts": experts, **_window(raw, kinds)}


def _late_window(raw: Raw) -> dict[str, Any]:
    """Qwen: the window is off unless asked for, and then only from a certain layer on."""
    if not raw["use_sliding_window"]:
        return {}
    first = raw["max_window_layers"]
    kinds = raw.get("layer_types") or [
        "sliding_attention" if i >= first else "full_attention" for i in range(raw["num_hidden_layers"])
    ]
    return _window(raw, kinds)


def _window(raw: Raw, kinds: list[str]) -> dict[str, Any]:
    layers = tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention")
    return {"window": raw["sliding_window"], "windowed_layers": layers}


_COMMON: Raw = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
_QWEN: Raw = {**_COMMON, "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016,
              "num_key_value_heads": 32, "max_position_embeddings": 32768, "use_sliding_window": False,
              "sliding_window": 4096, "max_window_layers": 28, "attention_bias": False}  # fmt: skip
_GPT_OSS_ROPE: Raw = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                      "original_max_position_embeddings": 4096}  # fmt: skip

# fmt: off
FAMILIES: Mapping[str, Family] = {family.architecture: family for family in (
    Family("LlamaForCausalLM", "llama", {
        **_COMMON, "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False}, _llama),
    Family("InternLM2ForCausalLM", "internlm2", {
        **_COMMON, "vocab_size": 103168, "hidden_size": 4096, "intermediate_size": 11008,
        "max_position_embeddings": 2048, "bias": True}, _internlm2),
    Family("InternLM3ForCausalLM", "internlm3", {
        **_COMMON, "vocab_size": 128512, "hidden_size": 4096, "intermediate_size": 11008,
        "max_position_embeddings": 32768, "qkv_bias": False, "bias": False}, _internlm3),
    Family("Phi3ForCausalLM", "phi3", {
        **_COMMON, "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "sliding_window": None}, _phi3),
    Family("Qwen2ForCausalLM", "qwen2", _QWEN, _qwen2),
    Family("Qwen3ForCausalLM", "qwen3", {**_QWEN, "head_dim": 128}, _qwen3),
    Family("Qwen3MoeForCausalLM", "qwen3_moe", {
        **_QWEN, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24, "num_key_value_heads": 4,
        "decoder_sparse_step": 1, "moe_intermediate_size": 768, "num_experts_per_tok": 8, "norm_topk_prob": False,
        "mlp_only_layers": None}, _qwen3_moe),
    Family("GptOssForCausalLM", "gpt_oss", {
        **_COMMON, "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072, "rope_theta": 150000.0, "rope_scaling": _GPT_OSS_ROPE,
        "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128, "attention_bias": True}, _gpt_oss),
)}
# fmt: on


def family_of(raw: Raw) -> Family:
    """The family that a language config names, by its architecture or else its model type."""
    named = [*(raw.get("architectures") or ()), *([raw["model_type"]] if raw.get("model_type") else [])]
    for family in FAMILIES.values():
        if family.architecture in named:
            return family
    for family in FAMILIES.values():
        if family.model_type in named:
            return family
    raise UnknownArchitecture(
        f"config.json: the language model is {some(map(repr, named)) or 'not named'}; "
        f"this package knows {', '.join(sorted(FAMILIES))}"
    )


def read_text(raw: Raw, *, tied_head: bool) -> TextConfig:
    """A language config of any family. Whether the head is tied is seen in the tensors, so the caller says it."""
    family = family_of(raw)
    full = {**family.defaults, **raw}
    expect(full, "hidden_act", "silu", default="silu")
    if family.model_type != "qwen3_moe" and (full.get("num_experts") or 0) > 0:
        raise ConfigError(f"config.json: {family.architecture} with num_experts {full['num_experts']} is not known")
    check_field("TextConfig", "layers", full["num_hidden_layers"], int)  # the fields of a family count them
    theta, rope = read_rope({**full, "rope_parameters": raw.get("rope_parameters")})
    heads, positions = full["num_attention_heads"], full["max_position_embeddings"]
    extra = family.fields(full)
    if extra.get("window") is not None and extra["window"] >= positions:
        extra |= {"window": None, "windowed_layers": None}  # it would never hide anything
    return TextConfig(
        vocab=full["vocab_size"],
        dim=full["hidden_size"],
        layers=full["num_hidden_layers"],
        heads=heads,
        kv_heads=full.get("num_key_value_heads") or heads,
        mlp_dim=full["intermediate_size"],
        head_dim=full.get("head_dim"),
        eps=full["rms_norm_eps"],
        max_positions=positions,
        rope_theta=theta,
        rope=rope,
        tied_head=tied_head,
        **extra,
    )


def read_rope(raw: Raw) -> tuple[float, RopeScaling | None]:
    """Base and scaling, in the older spelling (`rope_theta`, `rope_scaling`) or the newer (`rope_parameters`)."""
    newer = raw.get("rope_parameters")
    scaling = dict(newer or raw.get("rope_scaling") or {})
    theta = float(scaling.pop("rope_theta", raw["rope_theta"]))
    if scaling.pop("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ConfigError("config.json: partial_rotary_factor is not 1; only whole heads are rotated here")
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    original = scaling.get("original_max_position_embeddings", raw.get("original_max_position_embeddings"))
    factor = float(scaling.get("factor") or 1.0)
    attention = scaling.get("attention_factor")
    if kind == "default":
        return theta, None
    if "short_factor" in scaling:  # Phi-3 calls its scalings su and yarn; the newer name is longrope
        return theta, RopeScaling(
            kind="longrope",
            original=original,
            short_factors=tuple(map(float, scaling["short_factor"])),
            long_factors=tuple(map(float, scaling["long_factor"])),
            temperature="yarn" if kind == "yarn" else "su",
            attention_factor=attention,
        )
    match kind:
        case "linear" | "dynamic":
            return theta, RopeScaling(kind=kind, factor=factor, original=original)
        case "llama3":
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            return theta, RopeScaling(kind=kind, factor=factor, original=original, low_freq=low, high_freq=high)
        case "yarn":
            if scaling.get("mscale") or scaling.get("mscale_all_dim"):
                raise ConfigError("config.json: yarn with mscale is not known; expected factor, beta_fast, beta_slow")
            return theta, RopeScaling(
                kind=kind,
                factor=factor,
                original=original,
                beta_fast=scaling.get("beta_fast") or 32.0,
                beta_slow=scaling.get("beta_slow") or 1.0,
                truncate=scaling.get("truncate", True),
                attention_factor=attention,
            )
        case _:
            raise ConfigError(
                f"config.json: rope scaling {kind!r} is not known; expected linear, dynamic, llama3, yarn or su"
            )


HEADS = ("lm_head.weight", "output.weight")


def ties_head(names: Iterable[str], *flags: Any) -> bool:
    """A head is tied where a config says so and no tensor of its own is there; the tensors have the last word."""
    return any(flags) and not any(name.endswith(HEADS) for name in names)


# --- writing ----------------------------------------------------------------------------------------------------------


def write_text(config: TextConfig, *, newer: bool) -> dict[str, Any]:
    """A language config that transformers, or the original code, reads as this one.

    `newer` adds the spelling of transformers 5 (`rope_parameters`) to that of 4. A decoder that no class of theirs
    computes is an error.
    """
    family = FAMILIES[_class_of(config)]
    if family.model_type == "gpt_oss" and config.experts is not None:
        config = replace(config, mlp_dim=config.experts.dim)  # it has no other MLP, and one width for both
    raw: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": config.vocab,
        "hidden_size": config.dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "initializer_range": 0.02,
        "rms_norm_eps": config.eps,
        "use_cache": True,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tied_head,
        **_write_rope(config, newer=newer),
    }
    if config.head_dim != config.dim // config.heads or "head_dim" in family.defaults:
        raw["head_dim"] = config.head_dim
    if "attention_bias" in family.defaults and family.model_type != "qwen2":
        raw["attention_bias"] = config.qkv_bias
    if "mlp_bias" in family.defaults:
        raw["mlp_bias"] = config.mlp_bias
    raw |= _write_window(config, family) | _write_experts(config, family)
    if read_text(raw, tied_head=config.tied_head) != config:
        raise ConfigError(
            f"no language model class of this layout computes {config}; its nearest is {family.architecture}"
        )
    return raw


def _class_of(config: TextConfig) -> str:
    if config.experts is not None:
        return "GptOssForCausalLM" if config.sinks else "Qwen3MoeForCausalLM"
    if config.qk_norm:
        return "Qwen3ForCausalLM"
    windowed_throughout = config.window is not None and config.windowed_layers is None and not config.qkv_bias
    if windowed_throughout or (config.rope is not None and config.rope.kind == "longrope"):
        return "Phi3ForCausalLM"
    return "Qwen2ForCausalLM" if config.qkv_bias and not config.out_bias else "LlamaForCausalLM"


def _write_window(config: TextConfig, family: Family) -> dict[str, Any]:
    if "sliding_window" not in family.defaults:
        return {}
    if config.windowed_layers is None:
        off = {"use_sliding_window": False} if "use_sliding_window" in family.defaults else {}
        return {"sliding_window": config.window, **off}
    kinds = ["sliding_attention" if i in config.windowed_layers else "full_attention" for i in range(config.layers)]
    raw = {"sliding_window": config.window, "layer_types": kinds}
    if "use_sliding_window" in family.defaults:
        first = min(config.windowed_layers, default=config.layers)
        raw |= {"use_sliding_window": True, "max_window_layers": first}
    return raw


def _write_experts(config: TextConfig, family: Family) -> dict[str, Any]:
    experts = config.experts
    if experts is None:
        return {}
    common = {"num_experts_per_tok": experts.active}
    if family.model_type == "gpt_oss":
        return {**common, "num_local_experts": experts.count, "swiglu_limit": 7.0}
    return {
        **common,
        "num_experts": experts.count,
        "moe_intermediate_size": experts.dim,
        "norm_topk_prob": experts.normalise,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(experts.dense_layers),
    }


def _write_rope(config: TextConfig, *, newer: bool) -> dict[str, Any]:
    scaling = _write_scaling(config) if config.rope is not None else None
    raw: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_scaling": scaling}
    if config.rope is not None and config.rope.kind == "longrope":
        raw["original_max_position_embeddings"] = config.rope.original
    if newer:
        raw["rope_parameters"] = {"rope_theta": config.rope_theta, **(scaling or {"rope_type": "default"})}
    elif scaling is not None:
        raw["rope_scaling"] = {"type" if k == "rope_type" else k: v for k, v in scaling.items()}
    return raw


def _write_scaling(config: TextConfig) -> dict[str, Any]:
    rope = config.rope
    assert rope is not None
    original = {} if rope.original is None else {"original_max_position_embeddings": rope.original}
    factor: dict[str, Any] = {"rope_type": rope.kind, "factor": rope.factor}
    match rope.kind:
        case "linear" | "dynamic":
            return {**factor, **original}
        case "llama3":
            return {**factor, **original, "low_freq_factor": rope.low_freq, "high_freq_factor": rope.high_freq}
        case "yarn":
            ramp = {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow, "truncate": rope.truncate}
            return {**factor, **original, **ramp, **_attention_factor(rope)}
        case "longrope":
            lists = {"short_factor": list(rope.short_factors), "long_factor": list(rope.long_factors)}
            return {"rope_type": "longrope", **lists, **original, **_attention_factor(rope)}


def _attention_factor(rope: RopeScaling) -> dict[str, Any]:
    return {} if rope.attention_factor is None else {"attention_factor": rope.attention_factor}

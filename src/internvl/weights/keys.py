"""What the tensors of each public layout are called, as tables beside our own names.

Our names are those of the custom-code layout with a Llama-style decoder, so most rows say the same thing twice;
they are written out because a table that names everything is strict.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from internvl.models.config import ChatConfig, PairConfig, TextConfig, VisionConfig
from internvl.weights.families import Raw, family_of
from internvl.weights.rules import (
    HeadGroups,
    Interleaved,
    KeyTable,
    Rows,
    Rule,
    fuse,
    rename,
    split,
    stack,
    transpose,
)

ModelConfig = ChatConfig | PairConfig | VisionConfig

# --- the tower --------------------------------------------------------------------------------------------------------

# fmt: off
TOWER = (  # ours and custom-code         plain .pth                  transformers
    ("embeddings.class_embedding",        "cls_token",                "embeddings.cls_token"),
    ("embeddings.position_embedding",     "pos_embed",                "embeddings.position_embeddings"),
    ("embeddings.patch_embedding.weight", "patch_embed.proj.weight",  "embeddings.patch_embeddings.projection.weight"),
    ("embeddings.patch_embedding.bias",   "patch_embed.proj.bias",    "embeddings.patch_embeddings.projection.bias"),
)
BLOCKS = ("encoder.layers.{}.", "blocks.{}.", "encoder.layer.{}.")
BLOCK = (
    ("norm1.weight",        "norm1.weight",        "layernorm_before.weight"),
    ("norm1.bias",          "norm1.bias",          "layernorm_before.bias"),
    ("norm2.weight",        "norm2.weight",        "layernorm_after.weight"),
    ("norm2.bias",          "norm2.bias",          "layernorm_after.bias"),
    ("attn.q_norm.weight",  "attn.q_norm.weight",  "attention.q_norm.weight"),
    ("attn.k_norm.weight",  "attn.k_norm.weight",  "attention.k_norm.weight"),
    ("attn.proj.@",         "attn.proj.@",         "attention.projection_layer.@"),
    ("mlp.fc1.@",           "mlp.fc1.@",           "mlp.fc1.@"),
    ("mlp.fc2.@",           "mlp.fc2.@",           "mlp.fc2.@"),
    ("ls1",                 "ls1.gamma",           "lambda_1"),
    ("ls2",                 "ls2.gamma",           "lambda_2"),
)
POOL = ("norm1_q.weight", "norm1_q.bias", "norm1_k.weight", "norm1_k.bias", "norm1_v.weight", "norm1_v.bias",
        "cross_attn.q.weight", "cross_attn.k.weight", "cross_attn.v.weight", "cross_attn.q_bias", "cross_attn.k_bias",
        "cross_attn.v_bias", "cross_attn.proj.weight", "cross_attn.proj.bias")
# fmt: on
CUSTOM, PLAIN_PTH, TRANSFORMERS = range(3)


def tower_names(column: int) -> dict[str, str]:
    """Our name of every tensor of the tower but q, k and v -> theirs, in one column of the tables."""
    names = {row[CUSTOM]: row[column] for row in TOWER}
    return names | {BLOCKS[CUSTOM] + row[CUSTOM]: BLOCKS[column] + row[column] for row in BLOCK}


def tower(column: int, theirs: str, ours: str, dim: int) -> list[Rule]:
    """The rules of the tower of width `dim` under two prefixes; transformers keeps q, k and v apart."""
    rules = [rule for our, their in tower_names(column).items() for rule in rename(theirs + their, ours + our)]
    qkv = f"{ours}{BLOCKS[CUSTOM]}attn.qkv.@"
    if column != TRANSFORMERS:
        return [*rules, *rename(f"{theirs}{BLOCKS[column]}attn.qkv.@", qkv)]
    parts = [f"{theirs}{BLOCKS[column]}attention.{part}_proj.@" for part in "qkv"]
    return [*rules, *fuse(parts, qkv, Rows((dim,) * 3))]


def pool(theirs: str, ours: str) -> list[Rule]:
    """An attention pool."""
    return [rule for name in POOL for rule in rename(theirs + name, ours + name)]


# --- decoders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a decoder stands among the tensors: the prefix of its stack (`model.` in Llama) and that of its head."""

    stack: str
    head: str


OURS = Place("language_model.model.", "language_model.")
Q, K, V, O = (f"layers.{{}}.self_attn.{part}_proj.@" for part in "qkvo")  # noqa: E741
GATE, UP, DOWN = (f"layers.{{}}.mlp.{part}_proj.@" for part in ("gate", "up", "down"))

# fmt: off
PLAIN = ("embed_tokens.weight", "norm.weight", "layers.{}.input_layernorm.weight",
         "layers.{}.post_attention_layernorm.weight", O, DOWN)
LLAMA = (*PLAIN, Q, K, V, GATE, UP)
QWEN3 = (*LLAMA, "layers.{}.self_attn.q_norm.weight", "layers.{}.self_attn.k_norm.weight")
GPT_OSS = (*LLAMA, "layers.{}.self_attn.sinks", "layers.{}.mlp.router.weight", "layers.{}.mlp.router.bias")
INTERNLM2 = (  # theirs                           ours
    ("tok_embeddings.weight",                     "embed_tokens.weight"),
    ("norm.weight",                               "norm.weight"),
    ("layers.{}.attention_norm.weight",           "layers.{}.input_layernorm.weight"),
    ("layers.{}.ffn_norm.weight",                 "layers.{}.post_attention_layernorm.weight"),
    ("layers.{}.attention.wo.@",                  O),
    ("layers.{}.feed_forward.w1.@",               GATE),
    ("layers.{}.feed_forward.w3.@",               UP),
    ("layers.{}.feed_forward.w2.@",               DOWN),
)
# fmt: on


def decoder(model_type: str, text: TextConfig, theirs: Place, ours: Place = OURS) -> list[Rule]:
    """The rules of one family's decoder."""
    head = "output.weight" if model_type == "internlm2" else "lm_head.weight"
    rules = list(rename(theirs.head + head, ours.head + "lm_head.weight"))
    return rules + DECODERS[model_type](text, theirs.stack, ours.stack)


def _same(names: Sequence[str]) -> Callable[[TextConfig, str, str], list[Rule]]:
    return lambda text, theirs, ours: [rule for name in names for rule in rename(theirs + name, ours + name)]


def _internlm2(text: TextConfig, theirs: str, ours: str) -> list[Rule]:
    rules = [rule for their, our in INTERNLM2 for rule in rename(theirs + their, ours + our)]
    groups = HeadGroups(text.kv_heads, text.heads // text.kv_heads)
    return [*rules, *split(f"{theirs}layers.{{}}.attention.wqkv.@", [ours + part for part in (Q, K, V)], groups)]


def _phi3(text: TextConfig, theirs: str, ours: str) -> list[Rule]:
    assert text.head_dim is not None
    q, kv = text.heads * text.head_dim, text.kv_heads * text.head_dim
    qkv = split(f"{theirs}layers.{{}}.self_attn.qkv_proj.@", [ours + part for part in (Q, K, V)], Rows((q, kv, kv)))
    gate_up = Rows((text.mlp_dim, text.mlp_dim))
    mlp = split(f"{theirs}layers.{{}}.mlp.gate_up_proj.@", [ours + part for part in (GATE, UP)], gate_up)
    return [*_same(PLAIN)(text, theirs, ours), *qkv, *mlp]


def _qwen3_moe(text: TextConfig, theirs: str, ours: str) -> list[Rule]:
    rules = [
        *_same(QWEN3)(text, theirs, ours),
        *rename(f"{theirs}layers.{{}}.mlp.gate.weight", f"{ours}layers.{{}}.mlp.router.weight"),
    ]
    for part in ("gate_proj", "up_proj", "down_proj"):
        each = f"{theirs}layers.{{}}.mlp.experts.{{}}.{part}.weight"
        rules += stack(each, f"{ours}layers.{{}}.mlp.experts.{part}", text.experts.count if text.experts else 0)
    return rules


def _gpt_oss(text: TextConfig, theirs: str, ours: str) -> list[Rule]:
    theirs_experts, ours_experts = (f"{prefix}layers.{{}}.mlp.experts." for prefix in (theirs, ours))
    rules = [
        *_same(GPT_OSS)(text, theirs, ours),
        *transpose(f"{theirs_experts}down_proj", f"{ours_experts}down_proj"),
        *rename(f"{theirs_experts}down_proj_bias", f"{ours_experts}down_proj_bias"),
    ]
    for kind in ("", "_bias"):
        parts = [f"{ours_experts}{part}_proj{kind}" for part in ("gate", "up")]
        rules += split(f"{theirs_experts}gate_up_proj{kind}", parts, Interleaved())
    return rules


DECODERS: Mapping[str, Callable[[TextConfig, str, str], list[Rule]]] = {
    "llama": _same(LLAMA),
    "internlm2": _internlm2,
    "internlm3": _same(LLAMA),
    "phi3": _phi3,
    "qwen2": _same(LLAMA),
    "qwen3": _same(QWEN3),
    "qwen3_moe": _qwen3_moe,
    "gpt_oss": _gpt_oss,
}


# --- whole models -----------------------------------------------------------------------------------------------------

# fmt: off
PROJECTOR = (  # ours and custom    transformers
    ("mlp1.0.weight",               "layer_norm.weight"),
    ("mlp1.0.bias",                 "layer_norm.bias"),
    ("mlp1.1.weight",               "linear_1.weight"),
    ("mlp1.1.bias",                 "linear_1.bias"),
    ("mlp1.3.weight",               "linear_2.weight"),
    ("mlp1.3.bias",                 "linear_2.bias"),
)
LLAVA_PROJECTOR = ("0.weight", "0.bias", "2.weight", "2.bias")
CROSS = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "norm1.weight", "norm2.weight")
PAIR_TOP = ("query_tokens", "text_projection", "logit_scale", "itm_head.weight", "itm_head.bias")
# fmt: on

PEFT = "base_model.model."
LLAVA_TOWER = "model.vision_tower.vision_tower."


@dataclass(frozen=True)
class Dialect:
    """What the names of a checkpoint's tensors tell that its config does not."""

    adapted: frozenset[str] = frozenset()
    """Parts that stand under peft's prefix because they carry adapters, e.g. `vision_model.`."""
    older_peft: bool = False
    """The own weight of an adapted layer is called `weight`, not `base_layer.weight`."""
    prefixed: bool = False
    """transformers: every part stands under `model.`, and the head at the root."""

    @classmethod
    def of(cls, names: Collection[str]) -> Dialect:
        adapted = frozenset(name.partition(PEFT)[0] for name in names if PEFT in name)
        lora = any(".lora_A." in name for name in names)
        older = lora and not any(".base_layer." in name for name in names)
        return cls(adapted, older, any(name.startswith("model.") for name in names))

    def peft(self, part: str) -> str:
        """The prefix of a part, with peft's where it has one."""
        return part + PEFT if part in self.adapted else part


def custom_table(config: ModelConfig, raw: Raw, dialect: Dialect) -> KeyTable:
    """Chat models as the original code stores them."""
    assert isinstance(config, ChatConfig)
    language = dialect.peft("language_model.")
    model_type = family_of(raw["llm_config"]).model_type
    rules = [
        *tower(CUSTOM, dialect.peft("vision_model."), "vision_model.", config.vision.dim),
        *decoder(model_type, config.text, Place(f"{language}model.", language)),
    ]
    rules = without_base_layer(rules) if dialect.older_peft else rules
    return KeyTable([*rules, *(rule for name, _ in PROJECTOR for rule in rename(name, name))])


def hf_table(config: ModelConfig, raw: Raw, dialect: Dialect) -> KeyTable:
    """Chat models of transformers, in either prefix form."""
    assert isinstance(config, ChatConfig)
    root = "model." if dialect.prefixed else ""
    place = Place("model.language_model.", "") if dialect.prefixed else OURS
    rules = [
        *tower(TRANSFORMERS, f"{root}vision_tower.", "vision_model.", config.vision.dim),
        *decoder(family_of(raw["text_config"]).model_type, config.text, place),
    ]
    for name, hf in PROJECTOR:
        rules += rename(f"{root}multi_modal_projector.{hf}", name)
    return KeyTable(rules)


def llava_table(config: ModelConfig, raw: Raw, dialect: Dialect) -> KeyTable:
    """InternVL-Chat-Vicuna: a Llama at the root, the projector in it, the tower in it too or in a folder of its own."""
    assert isinstance(config, ChatConfig)
    rules = [
        *tower(CUSTOM, LLAVA_TOWER, "vision_model.", config.vision.dim),
        *decoder("llama", config.text, Place("model.", "")),
    ]
    for name in LLAVA_PROJECTOR:
        rules += rename(f"model.mm_projector.{name}", f"mlp1.{name}")
    return KeyTable(rules)


def vit_table(config: ModelConfig, raw: Raw, dialect: Dialect) -> KeyTable:
    """InternViT alone. The contrastive pool of a `.pth` may stand beside it; other readers pass over that."""
    assert isinstance(config, VisionConfig)
    return KeyTable([*tower(CUSTOM, "", "", config.dim), *pool("clip_projector.", "clip_projector.")])


def vit_pth_table(config: ModelConfig, raw: Raw, dialect: Dialect) -> KeyTable:
    """InternViT alone, as first released."""
    assert isinstance(config, VisionConfig)
    return KeyTable([*tower(PLAIN_PTH, "", "", config.dim), *pool("clip_projector.", "clip_projector.")])


def pair_table(config: ModelConfig, raw: Raw, dialect: Dialect) -> KeyTable:
    """InternVL-14B."""
    assert isinstance(config, PairConfig)
    language = dialect.peft("qllama.")
    place, ours = Place(f"{language}model.", language), Place("qllama.model.", "qllama.")
    rules = [
        *tower(CUSTOM, dialect.peft("vision_model."), "vision_model.", config.vision.dim),
        *decoder("llama", config.text, place, ours),
    ]
    rules = without_base_layer(rules) if dialect.older_peft else rules
    for name in CROSS:
        rules += rename(f"{place.stack}layers.{{}}.cross_attn.{name}", f"{ours.stack}layers.{{}}.cross_attn.{name}")
    for name in PAIR_TOP:
        rules += rename(name, name)
    pools = ("clip_projector.", "clip_projector2.")
    return KeyTable([*rules, *(rule for prefix in pools for rule in pool(prefix, prefix))])


def pair_pth_table(config: ModelConfig, raw: Raw, dialect: Dialect) -> KeyTable:
    """Plain InternVL-C: the tower at the root, the text tower (a Llama without head) under `transformer.`."""
    assert isinstance(config, PairConfig)
    rules = [
        *tower(PLAIN_PTH, "", "vision_model.", config.vision.dim),
        *DECODERS["llama"](config.text, "transformer.", "qllama.model."),
        *pool("clip_projector.", "clip_projector."),
        *rename("text_projection", "text_projection"),
        *rename("logit_scale", "logit_scale"),
    ]
    return KeyTable(rules)


def without_base_layer(rules: list[Rule]) -> list[Rule]:
    """The rules of a part whose linear layers all carry adapters, as early releases of peft named their own weights."""
    base = [rule for rule in rules if ".base_layer." in rule.theirs[0]]
    older = [replace(rule, theirs=tuple(name.replace(".base_layer.", ".") for name in rule.theirs)) for rule in base]
    taken = {name for rule in (*base, *older) for name in rule.theirs}
    return [*older, *(rule for rule in rules if taken.isdisjoint(rule.theirs))]

"""The public layouts: how a folder is recognised as one of them, and what model its config describes.

| name       | what                                                           | recognised by                         |
|------------|----------------------------------------------------------------|---------------------------------------|
| `custom`   | chat models in the published custom-code layout, every decoder | `InternVLChatModel`                   |
| `hf`       | chat models in the transformers layout, both prefix forms      | `InternVLForConditionalGeneration`    |
| `llava`    | InternVL-Chat-Vicuna                                           | `LlavaLlamaForCausalLM`               |
| `vit`      | InternViT alone                                                | `InternVisionModel`                   |
| `vit-pth`  | InternViT alone, one plain `.pth`                              | tensors: `patch_embed`, no text       |
| `pair`     | InternVL-14B                                                   | `InternVLModel`                       |
| `pair-pth` | plain InternVL-C, one `.pth` with `llm/` beside it             | tensors: `patch_embed`, `transformer` |
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from internvl.errors import CheckpointError, ConfigError, DamagedFile, InternVLError, UnknownArchitecture
from internvl.models.config import ChatConfig, PairConfig, VisionConfig
from internvl.weights import keys
from internvl.weights.configs import (
    read_hf_vision,
    read_vision,
    write_custom,
    write_hf,
    write_pair,
    write_vit,
    write_vit_pth,
)
from internvl.weights.families import Raw, expect, read_text, ties_head
from internvl.weights.files import Handle
from internvl.weights.keys import Dialect, ModelConfig
from internvl.weights.rules import KeyTable, some

LLAVA_SLOT = -200
"""Slots are no token of the LLaVA form's vocabulary; this id marks them."""
HEADS = {3200: 25, 1024: 16, 4096: 32}
"""Heads of the released `.pth` files by width, which such a file does not say."""
IMAGE_SLOT = "<IMG_CONTEXT>"
QUANTISED = (".qweight", ".qzeros", "_proj_blocks", ".weight_packed", ".SCB")
"""Endings of tensors that only a quantised checkpoint has."""


@dataclass(frozen=True)
class Seen:
    """What stands in a checkpoint before anything is decided."""

    where: str
    config: Raw
    """`config.json`, or the `build_arguments.json` beside a `.pth`; empty where there is neither."""
    tensors: Mapping[str, Handle]
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Every file that holds no tensors, by its path in the folder."""
    tower: Raw | None = None
    """LLaVA form: the config of the tower, where it has a folder of its own."""
    tower_folder: Path | None = None

    def json(self, name: str) -> dict[str, Any]:
        """A file of the folder as JSON; empty where it is not there."""
        return parse_json(self.files[name], f"{self.where}/{name}") if name in self.files else {}

    def part(self, name: str) -> dict[str, Any]:
        """A part of the config that must be there."""
        part = self.config.get(name)
        if not isinstance(part, dict):
            raise ConfigError(f"{self.where}: config.json has no {name}, which this layout describes its model with")
        return part


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{where}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise DamagedFile(f"{where}: a JSON {type(value).__name__}; expected an object")
    return value


@contextlib.contextmanager
def blamed_on(where: str) -> Generator[None]:
    """Whatever goes wrong while a config is read is the fault of the file, which the error names.

    The fields of our configs are checked when they are made; this is for all that comes before: a list where a table
    was expected, a text that is no number.
    """
    try:
        yield
    except InternVLError as error:
        raise error if where in str(error) else type(error)(f"{where}: {error}") from None
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ConfigError(f"{where}: its config cannot be understood ({error!r:.120})") from error


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One public layout."""

    name: str
    model: type[ModelConfig]
    read: Callable[[Seen], ModelConfig]
    write: Callable[[Any], dict[str, Any]] | None
    """The config of a model that was read from another layout; None: only what was read from this one is written."""
    table: Callable[[ModelConfig, Raw, Dialect], KeyTable]
    architectures: tuple[str, ...] = ()
    ranks: Mapping[str, str] = field(default_factory=dict)
    """Part of the model -> the key of its config that holds the rank of the part's adapters."""
    carried: tuple[str, ...] = ()
    """Endings of tensors that older files hold and that mean nothing: kept, and written back."""
    wrapper: str | None = None
    """A `.pth`: the name under which it holds its tensors."""

    @property
    def pth(self) -> bool:
        return not self.architectures


# --- reading ----------------------------------------------------------------------------------------------------------


def read_custom(seen: Seen) -> ChatConfig:
    """The defaults are those of the original config class: no `ps_version` means v1."""
    raw, language, vision = seen.config, seen.part("llm_config"), read_vision(seen.part("vision_config"))
    tied = ties_head(seen.tensors, raw.get("tie_word_embeddings"), language.get("tie_word_embeddings"))
    return ChatConfig(
        vision=vision,
        text=read_text(language, tied_head=tied),
        select_layer=raw.get("select_layer", -1),
        downsample=raw.get("downsample_ratio", 0.5),
        pixel_shuffle=expect(raw, "ps_version", "v1", "v2", default="v1"),
        image_token=_image_token(seen),
        image_size=_other_size(raw.get("force_image_size"), vision),
    )


def read_hf(seen: Seen) -> ChatConfig:
    """Tied unless said otherwise, as transformers has it; the size of a tile stands in the preprocessor's file."""
    raw, language, vision = seen.config, seen.part("text_config"), read_hf_vision(seen.part("vision_config"))
    expect(raw, "vision_feature_select_strategy", "default", default="default")
    expect(raw, "projector_hidden_act", "gelu", default="gelu")
    tied = ties_head(seen.tensors, raw.get("tie_word_embeddings", True), language.get("tie_word_embeddings"))
    size = seen.json("preprocessor_config.json").get("size")
    return ChatConfig(
        vision=vision,
        text=read_text(language, tied_head=tied),
        select_layer=raw.get("vision_feature_layer", -1),
        downsample=raw.get("downsample_ratio", 0.5),
        image_token=raw.get("image_token_id", 151667),
        image_size=_other_size(size.get("height") if isinstance(size, dict) else size, vision),
    )


def read_llava(seen: Seen) -> ChatConfig:
    """One linear, GELU, another; pictures are 448 or 336 pixels by the name of the tower, as the original has it."""
    raw = seen.config
    expect(raw, "mm_projector_type", "mlp2x_gelu", default="linear")
    expect(raw, "mm_vision_select_feature", "patch", default="patch")
    expect(raw, "mm_use_im_start_end", False, default=False)
    if seen.tower is not None:
        vision = read_vision(seen.tower)
    else:
        vision = _tower_of_tensors(seen, keys.CUSTOM, keys.LLAVA_TOWER, {})
    size = 448 if "448" in str(raw.get("mm_vision_tower")) else 336
    return ChatConfig(
        vision=vision,
        text=read_text({**raw, "architectures": ["LlamaForCausalLM"]}, tied_head=False),
        select_layer=raw.get("mm_vision_select_layer", -2),
        projector="llava",
        image_token=LLAVA_SLOT,
        image_size=_other_size(seen.json("preprocessor_config.json").get("crop_size", size), vision),
    )


def read_vit(seen: Seen) -> VisionConfig:
    """The config of a tower alone, or the tower of a whole config."""
    vision = read_vision(seen.config.get("vision_config") or seen.config)
    return replace(vision, **_pool_of_tensors(seen, seen.config))


def read_vit_pth(seen: Seen) -> VisionConfig:
    """No config at all: everything but the number of heads is read off the tensors."""
    vision = _tower_of_tensors(seen, keys.PLAIN_PTH, "", seen.config)
    return replace(vision, **_pool_of_tensors(seen, seen.config))


def read_pair(seen: Seen) -> PairConfig:
    """`force_image_size` (the Flickr fine-tunes) is the size of the stored position table too."""
    raw, vision = seen.config, read_vision(seen.part("vision_config"))
    language = {**seen.config.get("qllama_config", {}), "architectures": ["LlamaForCausalLM"]}
    return PairConfig(
        vision=replace(vision, image_size=raw.get("force_image_size") or vision.image_size),
        text=read_text(language, tied_head=False),
        embed_dim=raw.get("clip_embed_dim", 768),
        pool_heads=raw.get("attn_pool_num_heads", 16),
        queries=raw.get("num_query_token", 96),
        cross_every=raw.get("cross_attention_frequency", 2),
    )


def read_pair_pth(seen: Seen) -> PairConfig:
    """The text tower is a Llama whose config stands in `llm/`; without it, that of the one published file."""
    raw, embedding = seen.config, seen.tensors["transformer.embed_tokens.weight"]
    language = seen.json("llm/config.json")
    if not language:
        vocab, dim = embedding.shape
        language = {"vocab_size": vocab, "hidden_size": dim, "num_attention_heads": _heads(seen, dim)}
        language["num_hidden_layers"] = _count(seen, "transformer.layers.")
        language["intermediate_size"] = seen.tensors["transformer.layers.0.mlp.up_proj.weight"].shape[0]
    vision = _tower_of_tensors(seen, keys.PLAIN_PTH, "", raw)
    return PairConfig(
        vision=replace(vision, fp32_layer_scale=raw.get("layerscale_force_fp32", True)),
        text=read_text({**language, "architectures": ["LlamaForCausalLM"]}, tied_head=False),
        embed_dim=seen.tensors["text_projection"].shape[1],
        pool_heads=raw.get("attn_pool_num_heads", 16),
        queries=0,
    )


def _other_size(size: int | None, vision: VisionConfig) -> int | None:
    """The side of a picture where it is not the tower's own."""
    return None if size in (None, vision.image_size) else size


def added_tokens(files: Mapping[str, bytes]) -> dict[str, int]:
    """Every token that was added to the vocabulary and its id, from whichever of the tokenizer's files has it."""

    def content(name: str) -> dict[str, Any]:
        return parse_json(files[name], name) if name in files else {}

    decoder = content("tokenizer_config.json").get("added_tokens_decoder") or {}
    listed = {str(entry["content"]): int(number) for number, entry in decoder.items()}
    listed |= {entry["content"]: entry["id"] for entry in content("tokenizer.json").get("added_tokens") or ()}
    return listed | content("added_tokens.json")


def _image_token(seen: Seen) -> int:
    """The id of `<IMG_CONTEXT>`: the tokenizer's files say it, and our own configs say it again."""
    listed = added_tokens(seen.files)
    if IMAGE_SLOT not in listed and "image_token_id" in seen.config:
        return seen.config["image_token_id"]
    if IMAGE_SLOT not in listed:
        raise CheckpointError(
            f"{seen.where}: no tokenizer file gives {IMAGE_SLOT} an id (looked in tokenizer_config.json, "
            "tokenizer.json and added_tokens.json); put the tokenizer's files beside the weights"
        )
    return listed[IMAGE_SLOT]


def _tower_of_tensors(seen: Seen, column: int, prefix: str, arguments: Raw) -> VisionConfig:
    """The tower that these tensors belong to; `arguments` are those it was built with, where a file says them."""
    names = keys.tower_names(column)

    def shape(ours: str, leaf: str = "weight") -> tuple[int, ...] | None:
        name = prefix + names[ours].format(0).replace("@", leaf)
        return seen.tensors[name].shape if name in seen.tensors else None

    block = keys.BLOCKS[keys.CUSTOM]
    classes, places = shape("embeddings.class_embedding"), shape("embeddings.position_embedding")
    patches, inner = shape("embeddings.patch_embedding.weight"), shape(f"{block}mlp.fc1.@")
    if classes is None or places is None or patches is None or inner is None:
        raise CheckpointError(f"{seen.where}: these are not the tensors of an InternViT; it holds {some(seen.tensors)}")
    dim, patch = classes[-1], patches[-1]
    layers = prefix + keys.BLOCKS[column].partition("{}")[0]
    found = {"depth": _count(seen, layers), "embed_dim": dim, "patch_size": patch,
             "img_size": math.isqrt(places[1] - 1) * patch}  # fmt: skip
    if wrong := [f"{k} {arguments[k]} (tensors: {v})" for k, v in found.items() if arguments.get(k, v) != v]:
        raise ConfigError(f"{seen.where}: build_arguments.json contradicts the tensors: {some(wrong)}")
    return VisionConfig(
        image_size=found["img_size"],
        patch_size=patch,
        dim=dim,
        layers=found["depth"],
        heads=arguments.get("num_heads") or arguments.get("num_attention_heads") or _heads(seen, dim),
        mlp_dim=inner[0],
        norm="rms_norm" if shape(f"{block}norm1.bias") is None else "layer_norm",
        qkv_bias=f"{layers}0.attn.qkv.bias" in seen.tensors,
        qk_norm=shape(f"{block}attn.q_norm.weight") is not None,
        layer_scale=arguments.get("init_values", 0.1),
    )


def _pool_of_tensors(seen: Seen, arguments: Raw) -> dict[str, int]:
    """The contrastive pool that the released `.pth` carries beside the tower."""
    out = seen.tensors.get("clip_projector.cross_attn.proj.weight")
    return {} if out is None else {"pool_dim": out.shape[0], "pool_heads": arguments.get("attn_pool_num_heads", 16)}


def _heads(seen: Seen, dim: int) -> int:
    if dim not in HEADS:
        raise ConfigError(
            f"{seen.where}: tensors of width {dim} do not say how many heads there are; "
            'put a build_arguments.json beside the file, with {"num_heads": ...} and so on'
        )
    return HEADS[dim]


def _count(seen: Seen, prefix: str) -> int:
    """How many layers there are: the highest number that follows the prefix, plus one."""
    numbers = {name[len(prefix) :].partition(".")[0] for name in seen.tensors if name.startswith(prefix)}
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


# --- the table --------------------------------------------------------------------------------------------------------

# fmt: off
TABLE: Mapping[str, Layout] = {layout.name: layout for layout in (
    Layout(name="custom", model=ChatConfig, read=read_custom, write=write_custom, table=keys.custom_table,
           architectures=("InternVLChatModel", "internvl_chat"), carried=(".rotary_emb.inv_freq",),
           ranks={"vision_model.": "use_backbone_lora", "language_model.": "use_llm_lora"}),
    Layout(name="hf", model=ChatConfig, read=read_hf, write=write_hf, table=keys.hf_table,
           architectures=("InternVLForConditionalGeneration",), carried=(".rotary_emb.inv_freq",)),
    Layout(name="llava", model=ChatConfig, read=read_llava, write=None, table=keys.llava_table,
           architectures=("LlavaLlamaForCausalLM", "llava", "llava_llama"), carried=(".rotary_emb.inv_freq",)),
    Layout(name="vit", model=VisionConfig, read=read_vit, write=write_vit, table=keys.vit_table,
           architectures=("InternVisionModel", "intern_vit_6b")),
    Layout(name="vit-pth", model=VisionConfig, read=read_vit_pth, write=write_vit_pth, table=keys.vit_pth_table,
           wrapper="module"),
    Layout(name="pair", model=PairConfig, read=read_pair, write=write_pair, table=keys.pair_table,
           architectures=("InternVLModel", "internvl"), carried=(".rotary_emb.inv_freq",),
           ranks={"vision_model.": "use_backbone_lora", "qllama.": "use_qllama_lora"}),
    Layout(name="pair-pth", model=PairConfig, read=read_pair_pth, write=None, table=keys.pair_pth_table,
           carried=(".rotary_emb.inv_freq",)),
)}
# fmt: on


def refuse_quantised(config: Raw, tensors: Mapping[str, Handle], where: str) -> None:
    """Weights that somebody else packed are not read."""
    packed = [name for name in tensors if name.endswith(QUANTISED)]
    if config.get("quantization_config") or packed:
        method = (config.get("quantization_config") or {}).get("quant_method") or some(packed)
        raise CheckpointError(f"{where}: quantised weights ({method}) cannot be loaded; take the 16-bit checkpoint")


def layout_of(config: Raw, tensors: Mapping[str, Handle], where: str) -> Layout:
    """Which layout a checkpoint is in: its config says it, or else the tensors of a lone `.pth`."""
    refuse_quantised(config, tensors, where)
    named = config.get("architectures") or ([config["model_type"]] if config.get("model_type") else [])
    if {"InternVLModel", "internvl"}.intersection(named):  # two layouts use these names
        return TABLE["hf" if "text_config" in config else "pair"]
    plain = "patch_embed.proj.weight" in tensors  # a .pth may have the config of its other form beside it
    for layout in TABLE.values():
        if set(layout.architectures).intersection(named) and not plain:
            return layout
    if named and not plain:
        known = [layout.architectures[0] for layout in TABLE.values() if layout.architectures]
        raise UnknownArchitecture(f"{where}: config.json says {some(map(repr, named))}; known are {', '.join(known)}")
    if plain:
        return TABLE["pair-pth" if "transformer.embed_tokens.weight" in tensors else "vit-pth"]
    raise CheckpointError(
        f"{where}: no config.json that names an architecture, and not the tensors of an InternViT or InternVL-C .pth; "
        f"it holds {some(tensors)}"
    )

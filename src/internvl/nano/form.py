"""The form of nano: its sizes, and the files of a published checkpoint around its weights.

| part      | form                                                                      | parameters |
|-----------|---------------------------------------------------------------------------|------------|
| ViT       | 8 layers, 192 wide, 3 heads of 64, MLP 768, 112 px tiles of 8 x 8 patches | 3.69 M     |
| projector | pixel shuffle v2: 16 slots a tile, 768 -> 192 -> 192                      | 0.19 M     |
| decoder   | 6 layers, 192 wide, 3 heads of 64 on 1 key-value head, MLP 512            | 2.36 M     |
| words     | 4096 x 192, in and out                                                    | 1.57 M     |

Products of one sample with the weights, forward, at 2 FLOP a weight and token: a tile 0.48 GFLOP; a conversation of 90
tokens 0.57 GFLOP, a quarter of it the words. Backward takes twice as much: 3.1 GFLOP to learn from one picture of one
tile, 13.6 GFLOP from one of six tiles and a thumbnail, which are 96 tokens more.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from internvl.data.encode import EncoderConfig
from internvl.models.config import ChatConfig, TextConfig, VisionConfig

SYSTEM_MESSAGE = "You are nano, the small embedded model of InternVL."
VOCAB = 4096
TILE, PATCH, MAX_TILES = 112, 14, 6
"""A picture is seen in up to six tiles, in the grid nearest to its aspect, and once more as a whole."""
SHARD_BYTES = 15_000_000
EMBEDDED = Path(__file__).parent / "checkpoint"
TOKENIZER = ("added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")

VISION = {"hidden_size": 192, "num_hidden_layers": 8, "num_attention_heads": 3, "intermediate_size": 768}
TEXT = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "num_key_value_heads": 1,
        "intermediate_size": 512, "max_position_embeddings": 4096}  # fmt: skip
ROPE_THETA, EPS = 10000.0, 1e-6


@dataclass(frozen=True)
class Sizes:
    """What may differ between models of this form; names are those of a published config."""

    vision: Mapping[str, int]
    text: Mapping[str, int]
    vocab: int


NANO = Sizes(VISION, TEXT, VOCAB)
SMALL = Sizes(
    {**VISION, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 512},
    {**TEXT, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 384},
    VOCAB,
)
"""Learns one or two simple things in minutes on a CPU."""

ENCODING = EncoderConfig(
    template="internvl2_5", system_message=SYSTEM_MESSAGE, tile_size=TILE, slots_per_tile=(TILE // PATCH // 2) ** 2,
    min_tiles=1, max_tiles=MAX_TILES, dynamic=True, thumbnail=True, pad_to_square=False,
    normalisation="imagenet", compat=None,
)  # fmt: skip


def chat_config(image_token: int, sizes: Sizes = NANO) -> ChatConfig:
    """The same form as values of this package."""
    see, say = sizes.vision, sizes.text
    vision = VisionConfig(
        image_size=TILE, patch_size=PATCH, dim=see["hidden_size"], layers=see["num_hidden_layers"],
        heads=see["num_attention_heads"], mlp_dim=see["intermediate_size"], layer_scale=1.0,
    )  # fmt: skip
    text = TextConfig(
        vocab=sizes.vocab, dim=say["hidden_size"], layers=say["num_hidden_layers"], heads=say["num_attention_heads"],
        kv_heads=say["num_key_value_heads"], mlp_dim=say["intermediate_size"], eps=EPS,
        max_positions=say["max_position_embeddings"], rope_theta=ROPE_THETA, qkv_bias=True,
    )  # fmt: skip
    return ChatConfig(vision=vision, text=text, image_token=image_token)


def published_config(ids: Mapping[str, int], sizes: Sizes = NANO) -> dict[str, Any]:
    """`config.json` in the custom-code layout; `ids` are those of the special tokens."""
    module = "internvl_chat.InternVLChat"
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {
            "AutoConfig": f"configuration_{module}Config",
            "AutoModel": f"modeling_{module}Model",
            "AutoModelForCausalLM": f"modeling_{module}Model",
        },
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": TILE,
        "hidden_size": sizes.text["hidden_size"],
        "llm_config": {
            **sizes.text,
            "rope_theta": ROPE_THETA,
            "rms_norm_eps": EPS,
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": sizes.vocab,
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": True,
            "use_sliding_window": False,
            "tie_word_embeddings": False,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "torch_dtype": "bfloat16",
        },
        "max_dynamic_patch": MAX_TILES,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "system_message": SYSTEM_MESSAGE,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": {
            **sizes.vision,
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "image_size": TILE,
            "patch_size": PATCH,
            "num_channels": 3,
            "hidden_act": "gelu",
            "norm_type": "layer_norm",
            "layer_norm_eps": 1e-6,
            "qkv_bias": True,
            "qk_normalization": False,
            "attention_dropout": 0.0,
            "drop_path_rate": 0.0,
            "dropout": 0.0,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "torch_dtype": "bfloat16",
            "use_flash_attn": True,
        },
    }


def write_fresh(tokenizer: Path, folder: Path, sizes: Sizes, *, seed: int) -> None:
    """A checkpoint of random weights, with the words of `tokenizer`, however many these are."""
    from internvl.models.chat import ChatModel
    from internvl.models.init import initialise

    ids = json.loads((tokenizer / "added_tokens.json").read_text(encoding="utf-8"))
    sizes = replace(sizes, vocab=1 + max(ids.values()))
    model = ChatModel(chat_config(ids["<IMG_CONTEXT>"], sizes))
    initialise(model, seed=seed)
    write_checkpoint(model.state_dict(), tokenizer, folder, sizes)


def write_checkpoint(tensors: Mapping[str, Any], tokenizer: Path, folder: Path, sizes: Sizes = NANO) -> None:
    """Write a published checkpoint, whole or not at all: weights in bf16, configs, the files of `tokenizer`."""
    ids = json.loads((tokenizer / "added_tokens.json").read_text(encoding="utf-8"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        new = Path(name) / "new"
        new.mkdir()
        for file in TOKENIZER:
            shutil.copy(tokenizer / file, new)
        write_weights(tensors, new)
        side = {"size": TILE, "crop_size": TILE}
        write_json(new / "config.json", published_config(ids, sizes))
        write_json(new / "generation_config.json", {"eos_token_id": ids["<|im_end|>"]})
        write_json(
            new / "preprocessor_config.json",
            {**side, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3,
             "feature_extractor_type": "CLIPFeatureExtractor",
             "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        )  # fmt: skip
        if folder.exists():
            os.replace(folder, Path(name) / "old")
        os.replace(new, folder)


def write_weights(tensors: Mapping[str, Any], folder: Path, *, limit: int = SHARD_BYTES) -> None:
    """In bf16 and in their order, as `model.safetensors`, or as shards with an index where that were above `limit`."""
    import torch
    from safetensors.torch import save_file

    weights = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in tensors.items()}
    shards: list[dict[str, Any]] = [{}]
    for name, value in weights.items():
        if shards[-1] and sum(other.nbytes for other in shards[-1].values()) + value.nbytes > limit:
            shards.append({})
        shards[-1][name] = value
    files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = ["model.safetensors"]
    else:
        total = sum(value.nbytes for value in weights.values())
        places = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        write_json(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))},
        )
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""The form of nano-c, the contrastive sibling: a plain InternVL-C of small sizes, and the files around its weights.

| part       | form                                                                          | parameters |
|------------|-------------------------------------------------------------------------------|------------|
| ViT        | 7 layers, 192 wide, 3 heads of 64, MLP 768, 112 px pictures of 8 x 8 patches  | 3.24 M     |
| pool       | 3 heads, 192 -> 192                                                           | 0.15 M     |
| text tower | Llama: 3 layers, 96 wide, 3 heads of 32, MLP 256, last token, 96 -> 192       | 0.35 M     |
| words      | 2048 x 96, SentencePiece with bytes for what it does not know                 | 0.20 M     |

There are no queries. The folder is in the layout of InternVL-14B (`num_query_token` 0), its weights in safetensors.

    begin(Path("runs/nano_c_start"), Path("runs/nano_world"))       # an untrained one, its words those of the captions
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from internvl.data.pair import TEXT_PREFIX, clean_caption
from internvl.errors import ConfigError, DataError
from internvl.models.config import PairConfig, TextConfig, VisionConfig
from internvl.nano.form import write_json, write_weights

VOCAB = 2048
SIZE, PATCH = 112, 14
EMBED, POOL_HEADS = 192, 3
MOST_BYTES = 8_000_000
"""Of the whole folder."""
DROPPED = '.!"()*#:;~'
"""What `clean_caption` takes out of captions; the tokenizer reads it as a space wherever it stands."""
SHORT = 4096
"""Characters beyond which nothing is folded, but for the full-width forms."""

CONFIG = PairConfig(
    vision=VisionConfig(
        image_size=SIZE, patch_size=PATCH, dim=192, layers=7, heads=3, mlp_dim=768, layer_scale=1.0,
    ),
    text=TextConfig(vocab=VOCAB, dim=96, layers=3, heads=3, kv_heads=3, mlp_dim=256, max_positions=128),
    embed_dim=EMBED,
    pool_heads=POOL_HEADS,
    queries=0,
)  # fmt: skip


# ---- the folder ------------------------------------------------------------------------------------------------------


def published_config() -> dict[str, Any]:
    """`config.json` in the layout of InternVL-14B."""
    vision, text = CONFIG.vision, CONFIG.text
    return {
        "architectures": ["InternVLModel"], "model_type": "internvl", "torch_dtype": "bfloat16",
        "clip_embed_dim": CONFIG.embed_dim, "attn_pool_num_heads": CONFIG.pool_heads,
        "num_query_token": CONFIG.queries, "cross_attention_frequency": CONFIG.cross_every,
        "force_image_size": None, "hidden_size": text.dim, "label_smoothing": 0.0, "tie_word_embeddings": False,
        "use_backbone_lora": 0, "use_qllama_lora": 0,
        "vision_config": {
            "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "image_size": vision.image_size,
            "patch_size": vision.patch_size, "hidden_size": vision.dim, "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads, "intermediate_size": vision.mlp_dim, "norm_type": vision.norm,
            "layer_norm_eps": vision.eps, "qkv_bias": vision.qkv_bias, "qk_normalization": vision.qk_norm,
            "hidden_act": vision.activation, "initializer_factor": vision.layer_scale, "num_channels": 3,
        },
        "qllama_config": {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": text.vocab,
            "hidden_size": text.dim, "num_hidden_layers": text.layers, "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads, "intermediate_size": text.mlp_dim, "rms_norm_eps": text.eps,
            "max_position_embeddings": text.max_positions, "rope_theta": text.rope_theta, "hidden_act": "silu",
            "attention_bias": text.qkv_bias, "tie_word_embeddings": False,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
    }  # fmt: skip


def write_checkpoint(tensors: Mapping[str, Any], tokenizer: bytes, folder: Path) -> None:
    """Write a folder, whole or not at all: weights in bf16, the SentencePiece model, and what describes the two."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        new = Path(name) / "new"
        new.mkdir()
        write_weights(tensors, new)
        (new / "tokenizer.model").write_bytes(tokenizer)
        write_json(new / "config.json", published_config())
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        write_json(new / "special_tokens_map.json", special)
        write_json(
            new / "tokenizer_config.json",
            {**special, "tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True,
             "add_eos_token": False, "clean_up_tokenization_spaces": False, "model_max_length": 80, "pad_token": None},
        )  # fmt: skip
        write_json(
            new / "preprocessor_config.json",
            {"size": SIZE, "crop_size": SIZE, "do_center_crop": True, "do_normalize": True, "do_resize": True,
             "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor",
             "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        )  # fmt: skip
        if folder.exists():
            os.replace(folder, Path(name) / "old")
        os.replace(new, folder)


# ---- the words -------------------------------------------------------------------------------------------------------


def folding() -> dict[str, str]:
    """How the tokenizer reads single characters: capitals as small letters, full-width forms as ASCII, `DROPPED` as
    spaces.

    >>> folding()["Ä"], folding()["Ａ"], folding()["."]
    ('ä', 'a', ' ')
    """
    found = {}
    for code in (*range(0x21, SHORT), *range(0xFF01, 0xFF5F)):
        character = chr(code)
        folded = unicodedata.normalize("NFKC", character).lower() if code >= 0xFF01 else character.lower()
        folded = " " if folded in DROPPED else folded
        if folded != character and len(folded) == 1:
            found[character] = folded
    return found


def make_tokenizer(captions: Iterable[str], *, size: int = VOCAB) -> bytes:
    """A SentencePiece model of `size` pieces: byte pairs, digits one by one, bytes for unknown characters.

    The same captions in the same order give the same bytes. Raises DataError where they are too few for so many pieces.
    """
    import sentencepiece

    out, rules = io.BytesIO(), Path("folding.tsv")
    texts = [TEXT_PREFIX + clean_caption(caption) for caption in captions]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the model keeps the name of that file
        rules.write_text("".join(f"{ord(a):X}\t{ord(b):X}\n" for a, b in sorted(folding().items())), encoding="utf-8")
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=out, vocab_size=size, model_type="bpe", byte_fallback=True,
                split_digits=True, character_coverage=0.9999, normalization_rule_tsv=str(rules), unk_id=0, bos_id=1,
                eos_id=2, pad_id=-1, num_threads=1, minloglevel=2,
            )  # fmt: skip
        except RuntimeError as error:
            raise DataError(f"no vocabulary of {size} pieces can be made of these captions: {error}") from None
    return out.getvalue()


def captions_of(world: Path) -> Iterator[str]:
    """The captions of the shards in a folder, in the order of their names."""
    for path in sorted(world.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.name.endswith(".json") else None
                if file is not None and (caption := json.load(file).get("caption")):
                    yield caption


# ---- the weights to begin with ---------------------------------------------------------------------------------------


def fresh(*, seed: int = 0, tower: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Untrained weights; `tower` are those of an InternViT of the same width, whose first blocks are taken over."""
    from internvl.models.init import initialise
    from internvl.models.pair import PairModel

    model = PairModel(CONFIG)
    initialise(model, seed=seed)
    tensors = dict(model.state_dict())
    for name, value in (tower or {}).items():
        own = f"vision_model.{name}"
        if own in tensors and tensors[own].shape != value.shape:
            raise ConfigError(f"{name} of the tower is {list(value.shape)}; expected {list(tensors[own].shape)}")
        if own in tensors:
            tensors[own] = value
    return tensors


def begin(folder: Path, world: Path, *, tower: Path | None = None, seed: int = 0) -> None:
    """Write an untrained nano-c with a vocabulary of the world's captions. `tower`: the folder of an InternViT."""
    from safetensors.torch import load_file

    given = None if tower is None else load_file(tower / "model.safetensors")
    write_checkpoint(fresh(seed=seed, tower=given), make_tokenizer(captions_of(world)), folder)

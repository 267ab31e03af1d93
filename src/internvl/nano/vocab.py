"""nano's vocabulary: a small byte-level BPE with the pre-tokeniser and the special tokens of Qwen2.

build(texts, folder, size=1280)      # writes vocab.json, merges.txt and the files that go with them
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen2 cuts a text before merging; digits stand alone."""

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PICTURE = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
SPECIALS = CONTROL + PICTURE


def build(texts: Iterable[str], folder: Path, *, size: int) -> None:
    """Train the merges on `texts` and write the tokenizer files of the published layout; `size` includes specials."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    first = tokenizer.get_vocab_size()
    ids = {text: first + i for i, text in enumerate(SPECIALS)}
    _write(folder / "added_tokens.json", ids)
    _write(folder / "special_tokens_map.json", special_tokens_map())
    _write(folder / "tokenizer_config.json", tokenizer_config(ids))


def special_tokens_map() -> dict[str, Any]:
    return {
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>", *PICTURE],
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }


def tokenizer_config(ids: dict[str, int]) -> dict[str, Any]:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": text, **plain} for text, i in ids.items()},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>", *PICTURE],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

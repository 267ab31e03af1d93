"""The language model of a golden chat checkpoint as it was before: a plain folder without the nine tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from internvl.weights.checkpoint import open_checkpoint
from internvl.weights.files import Handle, write_safetensors
from internvl.weights.load import load_tokenizer
from internvl.weights.new_tokens import FAMILY
from tests.conftest import golden

PREFIX = "language_model."
TABLES = ("embed_tokens.weight", "tok_embeddings.weight", "lm_head.weight", "output.weight")


def plain_language(name: str, folder: Path, *, padding: int = 0) -> int:
    """Write the folder; how many tokens are left. `padding`: rows that the tables have beyond these."""
    source = golden(f"checkpoints/{name}")
    checkpoint = open_checkpoint(source)
    count = load_tokenizer(source).special(FAMILY[0]).id
    tensors = {n.removeprefix(PREFIX): h.read() for n, h in checkpoint.handles.items() if n.startswith(PREFIX)}
    tensors = {n: t[: count + padding].clone() if n.endswith(TABLES) else t.clone() for n, t in tensors.items()}
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {n: Handle.of(t) for n, t in tensors.items()}, {"format": "pt"})
    raw = {**checkpoint.origin.raw["llm_config"], "vocab_size": count + padding}
    (folder / "config.json").write_text(json.dumps(raw))
    for file, data in checkpoint.origin.files.items():
        if "token" in file or file in ("vocab.json", "merges.txt"):
            content = json.dumps(without(json.loads(data))).encode() if _lists_tokens(file) else data
            (folder / file).write_bytes(content)
    return count


def _lists_tokens(file: str) -> bool:
    return file.endswith(".json") and file != "vocab.json"


def without(value: Any) -> Any:
    """JSON without the nine tokens, wherever they stand."""
    if isinstance(value, dict):
        return {k: without(v) for k, v in value.items() if k not in FAMILY and not _is_one(v)}
    return [without(v) for v in value if not _is_one(v)] if isinstance(value, list) else value


def _is_one(value: Any) -> bool:
    text = value.get("content") if isinstance(value, dict) else value
    return isinstance(text, str) and text in FAMILY

"""Checkpoint folders for the tests: the golden ones, tiny ones made on the spot, and how to compare two."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from internvl.data.encode import EncoderConfig
from internvl.models.chat import ChatModel
from internvl.weights.load import save
from tests.conftest import golden, golden_names
from tests.models.tiny import chat_config, shake

GOLDEN = golden_names("checkpoints/*")
CHATS = [name for name in GOLDEN if not name.startswith(("internvit", "internvl-"))]
ENCODING = EncoderConfig(template="internvl2_5", tile_size=56, slots_per_tile=4, system_message="Be brief.")


def checkpoint(name: str) -> Path:
    return golden(f"checkpoints/{name}")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder, read by the libraries that define the formats."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            found |= load_file(path)
        elif path.suffix in (".bin", ".pth"):
            state = torch.load(path, weights_only=True)
            found |= state.get("module", state)
    return found


def same_tensors(one: Path, other: Path) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def tiny(
    folder: Path, name: str = "qwen2", vision: str = "300m", *, format: str = "custom", **changes: Any
) -> ChatModel:
    """A tiny model with lively weights, written to a folder."""
    model = shake(ChatModel(replace(chat_config(name, vision), **changes)))
    save(model, folder, format=format, encoding=ENCODING)
    return model


def altered(source: Path, target: Path, **config: Any) -> Path:
    """A copy of a folder with other values in its config.json; None takes a key out."""
    shutil.copytree(source, target)
    raw = json.loads((target / "config.json").read_text())
    for name, value in config.items():
        raw.pop(name, None)
        if value is not None:
            raw[name] = value
    (target / "config.json").write_text(json.dumps(raw))
    return target


def with_tensors(source: Path, target: Path, change: Any) -> Path:
    """A copy of a folder of one safetensors file whose tensors were changed in place by a function."""
    shutil.copytree(source, target)
    held = load_file(target / "model.safetensors")
    change(held)
    save_file(held, target / "model.safetensors", metadata={"format": "pt"})
    return target


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())

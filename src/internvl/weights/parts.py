"""Towers, language models and projectors for a new model, taken out of whatever checkpoint has them.

They come in fp32; with `stored`, in the types that they are stored in. A projector is small, and always in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from internvl.data.encode import EncoderConfig
from internvl.errors import CheckpointError, UsageError
from internvl.models.config import ChatConfig, PairConfig, VisionConfig
from internvl.models.decoder import Decoder
from internvl.models.vit import VisionTransformer
from internvl.weights import adapters, sidecars
from internvl.weights.checkpoint import Checkpoint, check, look, open_checkpoint
from internvl.weights.families import FAMILIES, family_of, read_text, ties_head, write_text
from internvl.weights.files import open_weights
from internvl.weights.formats import blamed_on, refuse_quantised
from internvl.weights.hub import resolve
from internvl.weights.keys import PROJECTOR, Place, decoder
from internvl.weights.rules import KeyTable, some

ROOT = Place("model.", "")
"""Where a decoder stands in a checkpoint of its own."""
CARRIED = ".rotary_emb.inv_freq"
PROJECTOR_FILES = (".pth", ".bin", ".safetensors")

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Language:
    """A language model, and what stands beside it."""

    decoder: Decoder
    raw: dict[str, Any]
    """Its config, as the custom-code layout nests it."""
    files: Mapping[str, bytes]
    """Of its tokenizer, and documents."""
    encoding: EncoderConfig | None = field(default=None)
    """How prompts and pictures were prepared, where it is that of a chat model."""


def read_tower(source: str | Path, *, pool: bool = False, stored: bool = False) -> VisionTransformer:
    """The tower of an InternViT (any layout), a chat model or a pair, its adapters merged.

    `pool`: with its `clip_projector`, where it has one (a pair holds it beside the tower).
    """
    checkpoint = open_checkpoint(resolve(source))
    alone = isinstance(checkpoint.config, VisionConfig)
    tower = checkpoint.skeleton if alone else checkpoint.skeleton.vision_model
    assert isinstance(tower, VisionTransformer)
    tensors = _tensors(checkpoint, "" if alone else "vision_model.")
    if not pool:
        tower.clip_projector, tower.config = None, replace(tower.config, pool_dim=0)
    elif isinstance(checkpoint.config, PairConfig):
        pair = checkpoint.config
        tower.clip_projector = checkpoint.skeleton.get_submodule("clip_projector")  # type: ignore[assignment]
        tower.config = replace(tower.config, pool_dim=pair.embed_dim, pool_heads=pair.pool_heads)
        beside = ((f"clip_projector.{name}", tensor) for name, tensor in _tensors(checkpoint, "clip_projector."))
        tensors = chain(tensors, beside)
    return _filled(tower, tensors, stored)


def read_language(source: str | Path, *, stored: bool = False) -> Language:
    """A language model of its own, of any family and any kind of weight file, or that of a chat model."""
    path = resolve(source)
    found = look(path, {}) if path.is_dir() else None
    if found is not None and set(found.config.get("architectures") or ()).intersection(FAMILIES):
        return _plain_language(path, stored)
    checkpoint = open_checkpoint(path)
    origin, config = checkpoint.origin, checkpoint.config
    if not isinstance(config, ChatConfig):
        raise UsageError(f"{source} has no language model (layout {origin.format!r}); name a chat model or a plain one")
    encoding = sidecars.read_encoding(origin.format, origin.raw, origin.files, config)
    nested = origin.raw["llm_config"] if origin.format == "custom" else write_text(config.text, newer=False)
    empty = checkpoint.skeleton.get_submodule("language_model")
    model = _filled(empty, _tensors(checkpoint, "language_model."), stored)
    assert isinstance(model, Decoder)
    return Language(model, dict(nested), sidecars.original_tokenizer(origin.files, origin.raw), encoding)


def _plain_language(path: Path, stored: bool) -> Language:
    weights = open_weights(path)
    handles = {name: handle for name, handle in weights.handles().items() if not name.endswith(CARRIED)}
    seen = look(path, handles)
    raw = {key: value for key, value in seen.config.items() if not key.startswith(("_", "auto_map"))}
    with blamed_on(seen.where):
        refuse_quantised(raw, handles, seen.where)
        text = read_text(raw, tied_head=ties_head(handles, raw.get("tie_word_embeddings")))
        table = KeyTable(decoder(family_of(raw).model_type, text, ROOT, ROOT))
    with torch.device("meta"):
        model = Decoder(text)
    steps = tuple(check(table, model.state_dict(), handles, seen.where))

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for step in steps:
            yield from zip(step.ours, step.rule.read([handles[name].read() for name in step.theirs]), strict=True)
            weights.release()

    return Language(_filled(model, tensors(), stored), raw, seen.files)


def read_projector(source: str | Path) -> dict[str, Tensor]:
    """The projector of a chat model, or of a file (or a folder with one) that holds it alone: keys 0, 1 and 3."""
    path = resolve(source)
    alone = path.is_file() and path.suffix in PROJECTOR_FILES
    if not alone and not (path / "config.json").is_file():
        alone = any(path.glob("*.pth")) or any(path.glob("*.safetensors"))
    if not alone:
        return {f"mlp1.{name}": tensor.float().clone() for name, tensor in _tensors(open_checkpoint(path), "mlp1.")}
    weights = open_weights(path)
    held = {f"mlp1.{name.removeprefix('mlp1.')}": handle for name, handle in weights.handles().items()}
    expected = {name for name, _ in PROJECTOR}
    if held.keys() != expected:
        raise CheckpointError(
            f"{path}: holds {some(sorted(held))}; expected the weights of a projector: {some(sorted(expected))}"
        )
    return {name: handle.read().float().clone() for name, handle in held.items()}


def _tensors(checkpoint: Checkpoint, part: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one part, by their names in it."""
    steps = tuple(step for step in checkpoint.steps if step.ours[0].startswith(part))
    for name, tensor in replace(checkpoint, steps=steps).tensors():
        yield name.removeprefix(part), tensor


def _filled(model: M, tensors: Iterator[tuple[str, Tensor]], stored: bool) -> M:
    """A model without memory, given its tensors; those that it has no place for are left out. Adapters are merged,
    which takes fp32.
    """
    places, exact = model.state_dict(), stored and not adapters.adapted(model)
    for name, tensor in tensors:
        if name in places:
            owner, _, leaf = name.rpartition(".")
            setattr(
                model.get_submodule(owner),
                leaf,
                nn.Parameter(tensor.to(tensor.dtype if exact else torch.float32, copy=True)),
            )
    if adapters.adapted(model):
        adapters.merge(model)
    return model

"""The only place where a folder becomes a model or an encoder, and a model becomes a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from internvl import zoo
from internvl.data.encode import Encoder, EncoderConfig
from internvl.data.image import Compat, check_compat
from internvl.data.tokenizer import Tokenizer
from internvl.errors import CheckpointError, UsageError, find
from internvl.models.config import ChatConfig, PairConfig
from internvl.weights import adapters, placement
from internvl.weights.checkpoint import Checkpoint, Model, describe, empty_model, open_checkpoint
from internvl.weights.files import SHARD_BYTES, Handle, majority
from internvl.weights.formats import TABLE, blamed_on
from internvl.weights.hub import SAME_TOKENIZER, resolve
from internvl.weights.placement import Device
from internvl.weights.sidecars import read_encoding, read_stops
from internvl.weights.writing import Content, Options, write_checkpoint

__all__ = ["convert", "load", "load_encoder", "load_tokenizer", "resolve", "save"]

# fmt: off
DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16, "float64": torch.float64,
}
# fmt: on


STORED = "stored"
PIECE_BYTES = 32 << 20


def load(
    source: str | Path | None = None,
    *,
    dtype: str | torch.dtype | None = None,
    device: Device | Sequence[Device] | None = None,
    revision: str | None = None,
    token: str | None = None,
    compat: Compat = None,
    merge_adapters: bool = False,
) -> Model:
    """A model from a hub id, a zoo name, a folder of any public layout or a `.pth`; None: the embedded nano.

    dtype None: as stored, but fp32 on a CPU (where it has bf16 units, dtype="bfloat16" is faster). device None: the
    best one there is, several GPUs where one is too small; a sequence spreads the model over these. dtype "stored":
    each tensor in the very type that it has in the file.
    `compat="original"` chooses length-dependent rope as the original code does. Every tensor of the file must fit, and
    every one of the model must be there: `KeyMismatch` and `ShapeMismatch` name those that are not.

    >>> model = load("OpenGVLab/InternVL2_5-8B")  # doctest: +SKIP
    """
    check_compat(compat)
    stored = dtype == STORED
    _named_dtype(None if stored else dtype)
    devices = placement.devices_here(device)
    checkpoint = open_checkpoint(resolve(source, revision=revision, token=token))
    config, origin = _compatible(checkpoint.config, compat), checkpoint.origin
    same = config == checkpoint.config
    model = checkpoint.skeleton if same else empty_model(config, origin.raw, TABLE[origin.format])
    kind = _dtype(checkpoint, None if stored else dtype, devices[0])
    where = _place(model, devices, kind, explicit=device is not None)
    mapped: set[int] = set()
    for name, tensor in checkpoint.tensors():
        wanted, place = kind if tensor.is_floating_point() and not stored else tensor.dtype, where.device_of(name)
        stays = place.type == "cpu" and wanted == tensor.dtype and tensor.is_contiguous()
        if stays and tensor.data_ptr() not in mapped:  # adapters of a fused weight have one A for several layers
            mapped.add(tensor.data_ptr())
            _assign(model, name, tensor)
        else:
            _assign(model, name, _copied(tensor, place, wanted, checkpoint))
    if len(set(where.where.values())) > 1:
        placement.install(model, where)
    if merge_adapters:
        adapters.merge(model)
    model.origin = origin
    return model.eval()


def load_encoder(
    source: str | Path | None = None, *, revision: str | None = None, token: str | None = None, compat: Compat = None
) -> Encoder:
    """What turns conversations into ids and tiles for a chat model; no weights are read.

    >>> encoder = load_encoder("OpenGVLab/InternVL2_5-8B")  # doctest: +SKIP
    """
    check_compat(compat)
    path = resolve(source, revision=revision, token=token)
    seen, layout, config, _ = describe(path)
    with blamed_on(seen.where):
        encoding, stops = read_encoding(layout.name, seen.config, seen.files, config), read_stops(seen.files)
    return Encoder(Tokenizer.from_folder(path), replace(encoding, compat=compat), stop_ids=stops)


def load_tokenizer(
    source: str | Path | None = None, *, revision: str | None = None, token: str | None = None
) -> Tokenizer:
    """The tokenizer alone, of any layout that has one; no weights are downloaded.

    A plain InternVL-C keeps it in `llm/`. Its one published file came without, so that of another model is downloaded.

    >>> tokenizer = load_tokenizer("OpenGVLab/InternVL2_5-8B")  # doctest: +SKIP
    """
    path = resolve(source, revision=revision, token=token, weights=False)
    folder = path.parent if path.is_file() else path
    if (folder / "llm").is_dir():
        return Tokenizer.from_folder(folder / "llm")
    if path.is_file() and not any((folder / name).exists() for name in ("tokenizer.model", "tokenizer.json")):
        if path.name == zoo.find("internvl_c_13b_224px").file:
            return Tokenizer.from_folder(resolve(SAME_TOKENIZER, weights=False))
        raise CheckpointError(
            f"{path}: no tokenizer beside it; that of InternVL-C is "
            f"load_tokenizer({SAME_TOKENIZER!r}); or put its files into {folder / 'llm'}"
        )
    return Tokenizer.from_folder(folder)


def save(
    model: Model,
    folder: str | Path,
    *,
    format: str | None = None,
    dtype: str | torch.dtype | None = None,
    encoding: EncoderConfig | None = None,
    shard_bytes: int = SHARD_BYTES,
    replace: bool = False,
) -> None:
    """Write a model to a folder, which appears when it is whole.

    format None: the layout it was read from (custom, vit or pair for a model made here; custom too for a chat model
    with adapters whose layout has no place for them); dtype None: each tensor in the type it was stored in.
    `save(load(x))` is x, bit for bit. `encoding` is written into the config of a chat model that
    was made here, whose tokenizer files the caller adds. `replace` allows an existing folder to be replaced whole.

    >>> save(model, "out")  # doctest: +SKIP
    """
    layout = find("layout", format or own_format(model), TABLE)
    tensors = {name: Handle.of(tensor) for name, tensor in model.state_dict().items()}
    config = _compatible(model.config, None)
    content = Content(config, tensors, model.origin, encoding, adapters.scales(model))
    options = Options(_named_dtype(dtype), shard_bytes, replace)
    write_checkpoint(Path(folder), content, layout, options)


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    format: str,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    token: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    replace: bool = False,
) -> None:
    """Rewrite a checkpoint in another layout, one tensor at a time: it need not fit into memory.

    >>> convert("OpenGVLab/InternVL2_5-8B", "InternVL2_5-8B-hf", format="hf")  # doctest: +SKIP
    """
    layout = find("layout", format, TABLE)
    checkpoint = open_checkpoint(resolve(source, revision=revision, token=token))
    scales = adapters.scales(checkpoint.skeleton)
    content = Content(checkpoint.config, checkpoint.ours(), checkpoint.origin, scales=scales)
    write_checkpoint(Path(folder), content, layout, Options(_named_dtype(dtype), shard_bytes, replace))


# --- choices ----------------------------------------------------------------------------------------------------------


def own_format(model: Model) -> str:
    """The layout that a model is written in where none is named."""
    if model.origin is not None:
        own: str = model.origin.format
        homeless = not TABLE[own].ranks and bool(adapters.adapted(model))
        return "custom" if homeless and isinstance(model.config, ChatConfig) else own
    match model.config:
        case ChatConfig():
            return "custom"
        case PairConfig():
            return "pair"
        case _:
            return "vit"


def _compatible(config: Any, compat: Compat) -> Any:
    """The config with length-dependent rope chosen per call (the original) or per sequence."""
    text = getattr(config, "text", None)
    if text is None or text.rope is None:
        return config
    return replace(config, text=replace(text, rope=replace(text.rope, per_call=compat == "original")))


def _named_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    named = find("dtype", dtype.removeprefix("torch."), DTYPES) if isinstance(dtype, str) else dtype
    if named is not None and named not in DTYPES.values():
        raise UsageError(
            f"{named} cannot hold weights here; choose {', '.join(name for name in DTYPES if 'fp' not in name)}"
        )
    return named


def _dtype(checkpoint: Checkpoint, dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """What floating tensors are held in: what was asked for, or what most are stored in, or fp32 on a CPU."""
    if (named := _named_dtype(dtype)) is not None:
        return named
    stored = majority(checkpoint.handles.values())
    # On a CPU 16 bit is held as fp32: an exact conversion, the same numbers on every machine, and fast on all of them.
    return torch.float32 if device.type == "cpu" and stored.itemsize <= 2 else stored


def _place(
    model: nn.Module, devices: tuple[torch.device, ...], dtype: torch.dtype, *, explicit: bool
) -> placement.Placement:
    """One device where the model fits on it, or where it was named; otherwise all of them."""
    if len(devices) == 1:
        return placement.Placement(devices, {})
    room = placement.free_memory(devices)
    if not explicit and sum(p.numel() for p in model.parameters()) * dtype.itemsize <= room[devices[0]]:
        return placement.Placement(devices[:1], {})
    return placement.plan(model, room, itemsize=dtype.itemsize)


def _copied(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype, checkpoint: Checkpoint) -> torch.Tensor:
    """A tensor of a file, in memory of its own; a large one piece by piece, so that it is never here twice."""
    copied = torch.empty(tensor.shape, dtype=dtype, device=device)
    rows = max(1, PIECE_BYTES * max(len(tensor), 1) // max(tensor.nbytes, 1)) if tensor.ndim else 1
    if tensor.ndim == 0 or rows >= len(tensor):
        return copied.copy_(tensor)
    for start in range(0, len(tensor), rows):
        copied[start : start + rows].copy_(tensor[start : start + rows])
        checkpoint.release()
    return copied


def _assign(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor in the place of the empty parameter of that name."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    setattr(module, leaf, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))

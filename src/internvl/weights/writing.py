"""From a model, or an opened checkpoint, to a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from internvl.data.encode import EncoderConfig
from internvl.errors import UsageError
from internvl.models.config import ChatConfig
from internvl.weights import adapters, sidecars
from internvl.weights.checkpoint import Origin, stored_shapes
from internvl.weights.families import Raw
from internvl.weights.files import (
    SHARD_BYTES,
    Handle,
    index_of,
    majority,
    open_weights,
    split_into_shards,
    whole_folder,
    write_file,
)
from internvl.weights.formats import Layout
from internvl.weights.keys import LLAVA_TOWER, Dialect, ModelConfig
from internvl.weights.rules import Step, Together

METADATA = {"format": "pt"}


@dataclass(frozen=True)
class Content:
    """What is to be written: our tensors, to be read one at a time, and everything known about them."""

    config: ModelConfig
    tensors: Mapping[str, Handle]
    origin: Origin | None = None
    encoding: EncoderConfig | None = None
    """How prompts and pictures are prepared, where `origin` does not say it."""
    scales: Mapping[str, float] | None = None
    """alpha / rank of each adapted layer, by name."""


@dataclass(frozen=True)
class Options:
    """How it is to be written."""

    dtype: torch.dtype | None = None
    """Of every floating tensor; None: each as it was stored."""
    shard_bytes: int = SHARD_BYTES
    replace: bool = False


def write_checkpoint(folder: Path, content: Content, layout: Layout, options: Options) -> None:
    """Write a folder in one of the public layouts; it appears when it is whole."""
    if not isinstance(content.config, layout.model):
        raise UsageError(
            f"layout {layout.name!r} holds a {_kind(layout.model)} model, and this is a {_kind(type(content.config))}"
        )
    same = content.origin if content.origin is not None and content.origin.format == layout.name else None
    raw, files = describe(content, layout, same)
    stored = _stored(content, layout, same, raw, options.dtype)
    raw |= _forms(content, stored, layout, raw)
    if not layout.pth and (same is None or options.dtype is not None):
        kind = str(options.dtype or majority(stored.values())).removeprefix("torch.")
        raw |= {key: kind for key in ("torch_dtype", "dtype") if key == "torch_dtype" or layout.name == "hf"}
    if same is None or raw != same.raw:
        files["build_arguments.json" if layout.pth else "config.json"] = sidecars.dump(raw)
    shards = _shards(stored, files, layout, same, options)
    with whole_folder(folder, replace=options.replace) as growing:
        for name, data in files.items():
            (growing / name).parent.mkdir(exist_ok=True)
            (growing / name).write_bytes(data)
        for name, tensors in shards.items():
            metadata = METADATA if same is None else same.metadata.get(name, METADATA)
            wrapper = layout.wrapper if same is None else same.wrapper
            write_file(growing / name, {t: stored[t] for t in tensors}, metadata=metadata, wrapper=wrapper)


def _kind(config: type[Any]) -> str:
    return config.__name__.removesuffix("Config").lower()


# --- config and sidecars ----------------------------------------------------------------------------------------------


def describe(content: Content, layout: Layout, same: Origin | None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The config, and the files beside the weights, verbatim as far as nothing in them changed."""
    if same is None:
        return _translate(content, layout)
    raw, files, config = dict(same.raw), dict(same.files), content.config
    if config != same.config:
        raw = _with_token_ids(raw | _written(layout, config), same.raw)
    if content.encoding is not None and isinstance(config, ChatConfig):
        raw, more = _with_encoding(raw, files, layout, config, content.encoding)
        files |= more
    return raw, files


def _written(layout: Layout, config: ModelConfig) -> dict[str, Any]:
    if layout.write is None:
        raise UsageError(f"layout {layout.name!r} is only written back as it was read; choose another")
    return layout.write(config)


def _translate(content: Content, layout: Layout) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Config and files for a layout that the model was not read from."""
    if not layout.ranks and any(".lora_A." in name for name in content.tensors):
        raise UsageError(
            f"layout {layout.name!r} has no place for adapters; merge them first: internvl.load(…, merge_adapters=True)"
        )
    raw, origin, config = _written(layout, content.config), content.origin, content.config
    files = {} if origin is None else origin.files
    if not isinstance(config, ChatConfig):
        return raw, sidecars.neutral(files)
    encoding = content.encoding
    if origin is not None:
        raw = _with_token_ids(raw, origin.raw)
        if encoding is None and sidecars.tells_prompts(origin.format, origin.raw, files):
            encoding = sidecars.read_encoding(origin.format, origin.raw, files, config)
    if encoding is None:
        return raw, sidecars.shared(files)
    if layout.name == "custom" and origin is not None:
        files = sidecars.original_tokenizer(files, origin.raw)
    return _with_encoding(raw, files, layout, config, encoding)


def _with_encoding(
    raw: Raw, files: Mapping[str, bytes], layout: Layout, config: ChatConfig, encoding: EncoderConfig
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Say in the terms of a layout how prompts and pictures are prepared."""
    note = sidecars.write_encoding(encoding)
    if layout.name == "custom":
        return {**raw, **note}, sidecars.custom_files(files, config, encoding)
    if layout.name != "hf":
        raise UsageError(
            f"layout {layout.name!r} has no place for another template or other tiles; save it as 'custom'"
        )
    old = raw.get(sidecars.ENCODING_KEY) or {}
    note = {**old, **note, **sidecars.hf_note(files)}
    return {**raw, sidecars.ENCODING_KEY: note}, sidecars.hf_files(files, config, encoding)


def _with_token_ids(raw: dict[str, Any], before: Raw) -> dict[str, Any]:
    """The ids that other engines start, stop and pad with, from the language config of before."""
    parts = ("llm_config", "text_config", "qllama_config")
    part = next((name for name in parts if name in raw), None)
    known = next((before[name] for name in parts if name in before), {})
    ids = {name: known[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in known}
    return raw if part is None else {**raw, part: {**raw[part], **ids}}


def _forms(content: Content, stored: Mapping[str, Handle], layout: Layout, raw: Raw) -> dict[str, Any]:
    """The keys of the config that say what adapters each part has, where they are not 0 as before."""
    forms: dict[str, Any] = {}
    for part, key in layout.ranks.items():
        rank = adapters.rank(stored, part)
        alpha = round(adapters.common_scale(content.scales or {}, part) * rank, 9)
        dora = any(name.startswith(part) and adapters.MAGNITUDE in name for name in stored)
        if rank or raw.get(key):
            forms[key] = adapters.Form(rank, alpha, dora).write() if rank else 0
    return forms


# --- tensors ----------------------------------------------------------------------------------------------------------


def _stored(
    content: Content, layout: Layout, same: Origin | None, raw: Raw, dtype: torch.dtype | None
) -> dict[str, Handle]:
    """Every tensor of the layout, to be computed from ours when it is written."""
    parts = frozenset(part for part in layout.ranks if adapters.rank(content.tensors, part))
    old = Dialect() if same is None else same.dialect
    dialect = replace(old, adapted=parts, older_peft=old.older_peft and bool(parts))
    steps = layout.table(content.config, raw, dialect).plan(content.tensors, "ours")
    shapes = stored_shapes(steps, {name: handle.meta() for name, handle in content.tensors.items()})
    stored: dict[str, Handle] = {}
    for step in steps:
        if any(".lora_" in name for name in step.ours):
            continue
        kept = {name: _dtype(content, same, name, step.ours[0], dtype) for name in step.theirs}
        groups = {kind: Together(_writer(content, step, kind)) for kind in dict.fromkeys(kept.values())}
        for place, name in enumerate(step.theirs):
            stored[name] = Handle(shapes[name], kept[name], groups[kept[name]].reader(place))
    stored |= _stored_adapters(content, steps, dtype)
    if same is not None:
        stored |= {name: Handle.of(tensor) for name, tensor in same.carried.items()}
        if same.tower is not None and _is_the_tower(same.tower, stored):
            stored = {name: handle for name, handle in stored.items() if not name.startswith(LLAVA_TOWER)}
    return stored


def _writer(content: Content, step: Step, dtype: torch.dtype) -> Callable[[], Sequence[Tensor]]:
    return lambda: step.rule.write([content.tensors[name].read().detach().to("cpu", dtype) for name in step.ours])


def _dtype(content: Content, same: Origin | None, theirs: str, ours: str, asked: torch.dtype | None) -> torch.dtype:
    """What a tensor is stored in: what was asked for, what it was stored in before, what it is in now."""
    now = content.tensors[ours].dtype
    if not now.is_floating_point:
        return now
    if asked is not None:
        return asked
    if same is not None and theirs in same.dtypes:
        return same.dtypes[theirs]
    before: Mapping[str, torch.dtype] = {} if content.origin is None else content.origin.our_dtypes
    head, _, leaf = ours.rpartition(".")  # an adapter may have been put on, or merged, since
    names = (ours, f"{head.removesuffix('.base_layer')}.{leaf}", f"{head}.base_layer.{leaf}")
    return next((before[name] for name in names if name in before), now)


def _stored_adapters(content: Content, steps: Sequence[Step], dtype: torch.dtype | None) -> dict[str, Handle]:
    """The adapters, computed now: they are small, and their ranks belong into the config.

    A layout states one rank and one scale for all layers of a part: lower ranks are filled up with zeros, and where
    there are several scales they go into B. Neither changes what is computed.
    """
    stored: dict[str, Tensor] = {}
    scales = content.scales or {}
    for step in steps:
        if not any(".lora_" in name for name in step.ours):
            continue
        ours: list[Tensor] = []
        for name in step.ours:
            tensor = content.tensors[name].read().detach().to("cpu")
            common = adapters.common_scale(scales, name.partition(".")[0])
            factor = scales.get(name.partition(adapters.B)[0], common) / common if adapters.B in name else 1.0
            kept = _dtype(content, content.origin, step.theirs[0], name, dtype)
            ours.append((tensor if factor == 1 else tensor * factor).to(kept))
        stored |= dict(zip(step.theirs, step.rule.write(ours), strict=True))
    return {name: Handle.of(tensor) for name, tensor in adapters.of_one_rank(stored).items()}


def _is_the_tower(folder: Path, stored: Mapping[str, Handle]) -> bool:
    """Whether the tower is still, bit for bit, the one in that folder."""
    if not folder.is_dir():
        return False
    there = open_weights(folder)
    ours = {name.removeprefix(LLAVA_TOWER): h for name, h in stored.items() if name.startswith(LLAVA_TOWER)}
    handles = there.handles()
    same = handles.keys() == ours.keys() and all(
        torch.equal(handles[name].read(), handle.read()) for name, handle in ours.items()
    )
    there.release()
    return same


def _shards(
    stored: Mapping[str, Handle],
    files: dict[str, bytes],
    layout: Layout,
    same: Origin | None,
    options: Options,
) -> dict[str, tuple[str, ...]]:
    """File -> its tensors; the files of before where they hold the same ones. Puts the index among the files."""
    indices = [name for name in files if name.endswith(".index.json")]
    if same is not None and {name for names in same.shards.values() for name in names} == set(stored):
        shards = dict(same.shards)
        if options.dtype is None:
            return shards
    elif layout.pth:
        shards = {"model.pth": tuple(stored)}
    else:
        shards = split_into_shards({name: handle.nbytes for name, handle in stored.items()}, options.shard_bytes)
        # The order that the safetensors library gives a file.
        shards = {
            file: tuple(sorted(names, key=lambda name: (-stored[name].dtype.itemsize, name)))
            for file, names in shards.items()
        }
    for name in indices:
        del files[name]
    if len(shards) > 1:
        stem = "model.safetensors" if next(iter(shards)).endswith(".safetensors") else "pytorch_model.bin"
        files[f"{stem}.index.json"] = index_of(shards, sum(handle.nbytes for handle in stored.values()))
    return shards

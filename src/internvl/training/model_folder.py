"""The model of a checkpoint: its tensors made whole and copied, written in the published layout, and read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from internvl.models.quantized import QuantizedLinear
from internvl.weights import adapters
from internvl.weights.checkpoint import open_checkpoint
from internvl.weights.files import Handle
from internvl.weights.formats import TABLE
from internvl.weights.load import own_format
from internvl.weights.writing import Content, Options, write_checkpoint

Write = Callable[[Path], None]


def published(model: Any, tensors: Mapping[str, Handle]) -> Write:
    """Writes a model in the layout it came from, each tensor in the type it is held in.

    Rules of a layout join tensors of one part, so a part is stored in the widest type among its tensors.
    """
    widest: dict[str, torch.dtype] = {}
    for name, handle in tensors.items():
        part = name.partition(".")[0]
        if handle.dtype.is_floating_point:
            widest[part] = torch.promote_types(widest.get(part, handle.dtype), handle.dtype)
    handles = {
        name: replace(handle, dtype=widest[name.partition(".")[0]]) if handle.dtype.is_floating_point else handle
        for name, handle in tensors.items()
    }
    # Without what the tensors were once stored in, each is written as it is; and a tower outside is written too.
    origin = None if model.origin is None else replace(model.origin, dtypes={}, our_dtypes={}, tower=None)
    content = Content(model.config, handles, origin, scales=adapters.scales(model))
    layout = TABLE[own_format(model)]
    return lambda folder: write_checkpoint(folder, content, layout, Options())


def read_published(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model folder, one after the other."""
    return open_checkpoint(folder).tensors()


def reshard(model: nn.Module) -> None:
    """Give back weights that a forward pass left gathered, so that parameters are the rows of this rank."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def whole_handles(model: nn.Module, *, keep: bool) -> dict[str, Handle]:
    """The whole tensors of a model as they are now, sharded ones gathered one at a time; of a rank that keeps them.

    What learns or is sharded is copied to host memory. The rest never changes and is read when it is written; so is
    what a quantised layer stands for, which would not fit into memory all at once.
    """
    from torch.distributed.tensor import DTensor

    handles: dict[str, Handle] = {}
    for name, tensor, module in _tensors(model):
        if isinstance(module, QuantizedLinear) and name.endswith(".weight"):
            handle = Handle(tuple(tensor.shape), tensor.dtype, lambda module=module: module.weight)
        elif isinstance(tensor, DTensor):
            whole = tensor.full_tensor()
            handle = Handle.of(whole.to("cpu", copy=True)) if keep else None
        elif tensor.requires_grad or not isinstance(tensor, nn.Parameter):
            handle = Handle.of(tensor.to("cpu", copy=True)) if keep else None
        else:
            handle = Handle.of(tensor)
        if keep and handle is not None:
            handles[name] = handle
    return handles


def whole_tensors(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """The tensors themselves, all at once, on the CPU."""
    return {name: handle.read().detach().to("cpu") for name, handle in whole_handles(model, keep=keep).items()}


def places(model: nn.Module) -> dict[str, Tensor | QuantizedLinear]:
    """Where each tensor of a model goes when it is read; a quantised layer takes its weight itself."""
    return {
        name: module if isinstance(module, QuantizedLinear) and name.endswith(".weight") else tensor.detach()
        for name, tensor, module in _tensors(model)
    }


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, nn.Module]]:
    """`state_dict`, one module at a time; parameters themselves."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        held: dict[str, Any] = {}
        module._save_to_state_dict(held, f"{prefix}." if prefix else "", True)  # pyright: ignore[reportPrivateUsage]
        for name, tensor in held.items():
            yield name, tensor, module

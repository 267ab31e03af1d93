"""The model of a checkpoint: its tensors made whole and copied, written in the published layout, and read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from internvl.data.encode import EncoderConfig
from internvl.weights import adapters
from internvl.weights.checkpoint import open_checkpoint
from internvl.weights.files import Handle
from internvl.weights.formats import TABLE
from internvl.weights.load import own_format
from internvl.weights.writing import Content, Options, write_checkpoint

Write = Callable[[Path], None]


def published(model: Any, tensors: Mapping[str, Tensor], encoding: EncoderConfig | None = None) -> Write:
    """Writes a model in the layout it came from, each tensor in the type it is held in.

    Rules of a layout join tensors of one part, so a part is stored in the widest type among its tensors.
    """
    widest: dict[str, torch.dtype] = {}
    for name, tensor in tensors.items():
        part = name.partition(".")[0]
        if tensor.is_floating_point():
            widest[part] = torch.promote_types(widest.get(part, tensor.dtype), tensor.dtype)
    handles = {
        name: Handle(
            tuple(tensor.shape),
            widest[name.partition(".")[0]] if tensor.is_floating_point() else tensor.dtype,
            lambda tensor=tensor: tensor,
        )
        for name, tensor in tensors.items()
    }
    # Without what the tensors were once stored in, each is written as it is; and a tower outside is written too.
    origin = None if model.origin is None else replace(model.origin, dtypes={}, our_dtypes={}, tower=None)
    content = Content(model.config, handles, origin, encoding, adapters.scales(model))
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


def whole_tensors(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """The whole tensors of a model on the CPU, gathered one at a time; only a rank that keeps them holds them."""
    from torch.distributed.tensor import DTensor

    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            stays = name in frozen and whole.device.type == "cpu"  # nobody writes to it
            tensors[name] = whole if stays else whole.to("cpu", copy=True)
    return tensors

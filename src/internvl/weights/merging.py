"""Adapters into the weights, with proof: the model answers the same before, after, and when it was read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from internvl.errors import CheckpointError, UsageError
from internvl.models.chat import ChatModel
from internvl.models.pair import PairModel
from internvl.weights import adapters
from internvl.weights.checkpoint import Model
from internvl.weights.files import whole_folder
from internvl.weights.hub import resolve
from internvl.weights.load import load, save
from internvl.weights.peft_files import base_named_by, is_adapter, load_adapter
from internvl.weights.rules import some

BOUND = 1e-4
"""The worst difference that merging may make, relative to the largest logit, both computed in fp32. Seen: 2e-6."""
ROUNDED = {2: 0.1, 4: BOUND, 8: BOUND}
"""Bytes of the narrowest stored weight -> what the written folder may differ by. Seen in bf16: 0.013."""
TOKENS = 16


@dataclass(frozen=True)
class Merged:
    """What was merged, and how far apart the two models answer, relative to the largest logit."""

    folder: Path
    layers: int
    difference: float
    """Merged and unmerged, both in fp32."""
    written: float
    """The folder, read back, and unmerged: with what the stored type rounds off."""


def merge_checkpoint(
    source: str | Path,
    folder: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
) -> Merged:
    """Write a checkpoint whose adapters are part of its weights; nothing is written unless it computes the same.

    source: a checkpoint with adapters, one of a training run, a base for `adapter`, or a folder of peft that names its
    base. dtype None: each tensor in the type it was stored in.

    >>> merge_checkpoint("runs/receipts", "receipts", dtype="bfloat16").difference < 1e-4  # doctest: +SKIP
    True
    """
    path = resolve(source)
    if path.is_dir() and is_adapter(path):
        if adapter is not None:
            raise UsageError(f"{source} and {adapter} are both folders of adapters; give a base model and one of them")
        adapter, base = path, base_named_by(path)
        if base is None:
            raise UsageError(f"{source} holds adapters alone and names no base; give the base, and --adapter {source}")
        path = resolve(base)
    model = load(path, dtype="float32", device="cpu")
    if adapter is not None:
        load_adapter(model, adapter)
    if not adapters.adapted(model):
        raise UsageError(f"{source} has no adapter to merge: it was trained without, or they are merged already")
    before = answers(model)
    layers = adapters.merge(model)
    difference = apart(answers(model), before)
    _refuse(source, "merged", difference, BOUND)
    with whole_folder(Path(folder)) as growing:
        save(model, growing, dtype=dtype)
        again = load(growing, device="cpu", dtype="stored")
        _same(source, again, model)
        written = apart(answers(again.float()), before)
        _refuse(source, "as it would be written", written, ROUNDED[_narrowest(again)])
    return Merged(Path(folder), layers, difference, written)


def _same(source: object, again: Model, merged: Model) -> None:
    """Every tensor of the folder is the merged one, rounded to the type that it is stored in, bit for bit."""
    held, wanted = again.state_dict(), merged.state_dict()
    if held.keys() != wanted.keys():
        raise CheckpointError(f"{source}: {some(held.keys() ^ wanted.keys())} are not both merged and written")
    wrong = [name for name, tensor in held.items() if not torch.equal(tensor, wanted[name].to(tensor.dtype))]
    if wrong:
        raise CheckpointError(
            f"{source}: {some(wrong)} are not written as they were merged, expected the same bits; nothing was written"
        )


def _refuse(source: object, what: str, difference: float, bound: float) -> None:
    if not difference <= bound:  # nor where it is no number
        raise CheckpointError(
            f"{source}: {what}, it answers differently by {difference:.1e} of its largest logit, expected at most "
            f"{bound:.0e}; nothing was written. Its adapters may hold infinite or very large numbers"
        )


def _narrowest(model: Model) -> int:
    assert model.origin is not None
    return min(dtype.itemsize for dtype in model.origin.dtypes.values() if dtype.is_floating_point)


@torch.no_grad()
def answers(model: Model) -> Tensor:
    """Logits for a small random input: text and a tile, pictures and captions, or a picture."""
    draw = torch.Generator().manual_seed(0)
    if isinstance(model, ChatModel):
        config = model.config
        ids = torch.randint(config.text.vocab - 1, (1, TOKENS), generator=draw)
        ids[ids == config.image_token] += 1
        slots = torch.full((1, config.slots_per_tile), config.image_token)
        return model(torch.cat((slots, ids), dim=1), _noise(1, config.tile_size, draw))
    if isinstance(model, PairModel):
        ids = torch.randint(1, model.config.text.vocab, (2, TOKENS), generator=draw)
        pixels = _noise(2, model.config.tile_size, draw)
        modes = ("InternVL-C", "InternVL-G") if model.config.queries else ("InternVL-C",)
        return torch.cat([model(pixels, ids, mode=mode)[0] for mode in modes])
    return model(_noise(1, model.config.image_size, draw))


def _noise(count: int, size: int, draw: torch.Generator) -> Tensor:
    return torch.randn(count, 3, size, size, generator=draw)


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())

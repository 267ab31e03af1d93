"""Where training begins: a checkpoint, a new model of parts, or a checkpoint with parts exchanged."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from internvl.data.encode import Encoder
from internvl.data.tokenizer import Tokenizer
from internvl.training.config import Start
from internvl.weights.checkpoint import Model
from internvl.weights.load import load, load_encoder


@dataclass(frozen=True)
class Beginning:
    """A model to train, and what its data is prepared with."""

    model: Model
    encoder: Encoder | None = None
    """Of a chat model."""
    tokenizer: Tokenizer | None = None
    """Of a chat model or a pair."""
    notes: tuple[str, ...] = ()
    """What was made anew, resized or left out; to be told."""


def begin(start: Start, *, device: torch.device | str | None = None, seed: int = 0) -> Beginning:
    """The model that `start` names, in fp32, on one device (None: the CPU); what is new in it is drawn from `seed`."""
    model = load(start.model, dtype="float32", device="cpu")
    encoder = load_encoder(start.model)
    return Beginning(model, encoder, encoder.tokenizer)

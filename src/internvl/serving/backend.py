"""What stands behind the API: something that answers orders. The native engine and vLLM are two of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from internvl.data.encode import Encoder
from internvl.serving.order import Order, Reference
from internvl.serving.wire import Done, Piece, Serve


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of the model that is served."""

    model: str
    """The name that requests use."""
    context: int
    """Tokens of a prompt and its answer together."""
    vocab: int
    system: str = ""
    """The model's own system message."""
    tool_role: bool = False
    max_tiles: int | None = None
    """Tiles that the pictures of a message share; None: it sees each as one tile."""
    tile_size: int = 448
    slots_per_tile: int = 256
    slots: int = 16
    """Answers that grow at a time; a request's n is at most that."""
    embedder: str | None = None
    """The name of the model behind /v1/embeddings, if there is one."""

    @classmethod
    def of(cls, serve: Serve, encoder: Encoder, *, vocab: int, context: int, slots: int) -> Facts:
        """What a worker says of the model that it serves."""
        config, own = encoder.config, encoder.config.system_message
        return cls(
            model=serve.name,
            context=context,
            vocab=vocab,
            system=encoder.template.system_message if own is None else own,
            tool_role=encoder.template.tool is not None,
            max_tiles=config.max_tiles if config.dynamic else None,
            tile_size=config.tile_size,
            slots_per_tile=config.slots_per_tile,
            slots=slots,
            embedder=serve.embedder,
        )


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What a prompt is, before it is answered."""

    ids: Sequence[int]
    image_tokens: int
    tiles: Sequence[int]
    """Of each picture."""
    sizes: Sequence[tuple[int, int]]
    """Width and height of each."""


class Backend(Protocol):
    """Answers orders. Whatever goes wrong is a `Refusal`; a fault of the backend itself is one of status 503 or 500."""

    @property
    def facts(self) -> Facts: ...

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        ...

    async def start(self) -> None:
        """Returns when the model is loaded. Raises InternVLError if it cannot be."""
        ...

    async def stop(self) -> None: ...

    async def count(self, order: Order) -> Counted:
        """Tokens of a prompt; of each of `order.prompts` only the first is counted."""
        ...

    def answer(self, order: Order, *, user: str = "") -> AsyncIterator[Counted | Piece | Done]:
        """First what the prompt is, then the answers as they grow. Closing the iterator drops the request at once."""
        ...

    async def embed(self, texts: Sequence[str] = (), images: Sequence[Reference] = ()) -> tuple[np.ndarray, int]:
        """Vectors (n, dim) of unit length, of the texts and then the pictures; and the tokens of the texts."""
        ...

    def counters(self) -> Mapping[str, float]:
        """For /metrics, by name."""
        ...

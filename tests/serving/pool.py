"""Readers for tests: a pool on a loop of its own, and orders made of pictures."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import PIL.Image
import pytest

from internvl.data.prompts import Text
from internvl.serving import readers as module
from internvl.serving.described import described
from internvl.serving.order import Order, Reference, Unopened
from internvl.serving.readers import Readers, ReadersConfig
from internvl.serving.refusal import Refusal
from internvl.serving.wire import Prompt

T = TypeVar("T")
SECONDS = 120
"""A test waits for an answer; this machine may be busy."""
TILE = 28
"""Small tiles make quick tests: 12 of them a picture, where nano has one."""


@cache
def nano() -> dict[str, Any]:
    """What readers are told of nano, but with more and smaller tiles."""
    found = described(None)
    encoding = found["encoding"] | {"tile_size": TILE, "slots_per_tile": 1, "max_tiles": 12}
    return found | {"encoding": encoding, "look": {"size": 32, "fit": "crop"}}


@dataclass(frozen=True)
class Got:
    """A prompt with its tiles."""

    prompt: Prompt
    tiles: np.ndarray


class Pool:
    """Readers, asked from an ordinary function."""

    def __init__(self, config: ReadersConfig, count: int = 1) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.readers = self.run(self._made(config, count))

    async def _made(self, config: ReadersConfig, count: int) -> Readers:
        readers = Readers(config, count)
        await readers.start()
        return readers

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.later(work).result(SECONDS)

    def later(self, work: Coroutine[Any, Any, T]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def read(self, order: Order, **options: Any) -> Got:
        """Raises what the order is refused with."""
        prompt, memory = self.run(self.readers.read(order, **options))
        if memory is None:
            return Got(prompt, np.empty((0, TILE, TILE, 3), np.uint8))
        try:
            return Got(prompt, memory.array(prompt.shape))
        finally:
            memory.close()

    def refusal(self, *parts: Any, **options: Any) -> Refusal:
        with pytest.raises(Refusal) as caught:
            self.read(order(*parts), **options)
        return caught.value

    def works(self) -> bool:
        """A good request is answered."""
        return len(self.read(order(data(png()))).tiles) == 1

    def close(self) -> None:
        self.run(self.readers.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@contextmanager
def pool(count: int = 1, **changes: Any) -> Iterator[Pool]:
    """A pool for nano as `nano` has it, without another process to describe it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "described", lambda told, seconds: nano().copy())
        running = Pool(replace(ReadersConfig(seconds=60), **changes), count)
    try:
        yield running
    finally:
        running.close()


def order(*parts: Any, **fields: Any) -> Order:
    """One message: a Text, a Reference, or a string, which is the address of a picture."""
    made = tuple(Reference("image", part) if isinstance(part, str) else part for part in parts)
    return Order(model="nano", unopened=(Unopened("user", (*made, Text("What is this?"))),), **fields)


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def encoded(picture: PIL.Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def png(width: int = 20, height: int = 20, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(PIL.Image.fromarray(pixels))

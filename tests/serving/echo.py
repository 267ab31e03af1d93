"""A backend that says what it was asked, letter by letter as tokens; and a server around it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
import numpy as np
from starlette.testclient import TestClient

from internvl.data.prompts import Text
from internvl.serving.app import create_app
from internvl.serving.backend import Counted, Facts
from internvl.serving.listen import Server, address_of, bind
from internvl.serving.order import Order, Reference
from internvl.serving.refusal import Refusal
from internvl.serving.settings import Settings
from internvl.serving.wire import Done, Piece

KEY = "sk-0123456789abcdef"
FACTS = Facts(model="echo", context=4096, vocab=256, system="Be brief.", max_tiles=12, slots=4, embedder="echo-c")


@dataclass
class Echo:
    """Answers with the last text of an order, a letter a token. What a test sets changes how."""

    facts: Facts = FACTS
    ready: bool = False
    reply: str | list[str] | None = None
    """What is answered instead, a letter or a piece at a time."""
    pause: float = 0.0
    """Seconds between two tokens."""
    refuse: Refusal | Exception | None = None
    """Raised instead of the first token."""
    breaks_after: int | None = None
    """Tokens after which `refuse` is raised."""
    orders: list[tuple[Order, str]] = field(default_factory=list)
    open: int = 0
    """Answers that grow now."""
    dropped: int = 0

    async def start(self) -> None:
        self.ready = True

    async def stop(self) -> None:
        self.ready = False

    def counters(self) -> Mapping[str, float]:
        return {"slots": self.facts.slots, "running": self.open, "cancelled": self.dropped}

    async def count(self, order: Order) -> Counted:
        images = [one for one in order.references if one.kind == "image"]
        ids = [*self.text(order).encode(), *[0] * 256 * len(images)]
        return Counted(
            ids=ids, image_tokens=256 * len(images), tiles=[1] * len(images), sizes=[(448, 448)] * len(images)
        )

    def text(self, order: Order) -> str:
        if order.prompts:
            return order.prompts[0]
        return "".join(part.text for part in order.unopened[-1].parts if isinstance(part, Text))

    async def answer(self, order: Order, *, user: str = "") -> AsyncGenerator[Counted | Piece | Done]:
        self.orders.append((order, user))
        yield await self.count(order)
        said = self.text(order) if self.reply is None else self.reply
        most = order.sampling.max_new_tokens or len(said)
        self.open += 1
        finished = False
        try:
            for answer in range(order.n):
                for place, letter in enumerate(said[:most]):
                    if self.refuse is not None and place >= (self.breaks_after or 0):
                        raise self.refuse
                    await asyncio.sleep(self.pause)
                    yield Piece(id=1, answer=answer, text=letter, tokens=[_token(letter)] if order.logprobs else [])
                yield Done(id=1, answer=answer, finish="stop" if most >= len(said) else "length",
                           completion=min(most, len(said)), reused=3, last=answer == order.n - 1)  # fmt: skip
            finished = True
        finally:
            self.open -= 1
            self.dropped += not finished

    async def embed(self, texts: Sequence[str] = (), images: Sequence[Reference] = ()) -> tuple[np.ndarray, int]:
        angles = np.array([len(one) for one in texts] + [0.5] * len(images), np.float32)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1), sum(map(len, texts))


def _token(letter: str) -> dict[str, Any]:
    return {"text": letter, "bytes": list(letter.encode()), "logprob": -0.5, "top": []}


@contextmanager
def served(backend: Echo | None = None, *, headers: dict[str, str] | None = None, **settings: Any):
    """A client of a server that is ready."""
    backend = backend or Echo()
    app = create_app(Settings(**{"ui": False, **settings}), backend)
    with TestClient(app, base_url="http://localhost", headers=headers, raise_server_exceptions=False) as client:
        for _ in range(200):
            if backend.ready:
                break
            client.get("/health")
        yield client


class Threaded(Server):
    """In a thread, which no signal reaches."""

    @contextmanager
    def capture_signals(self):
        yield


@dataclass
class Listening:
    address: str
    port: int
    server: Threaded
    backend: Echo
    _loop: list[asyncio.AbstractEventLoop]

    def stop(self) -> None:
        """As a signal would."""
        self._loop[0].call_soon_threadsafe(self.server.stop)

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60, **more)


@contextmanager
def listening(backend: Echo | None = None, **settings: Any):
    """A server on a port of its own."""
    backend = backend or Echo()
    chosen = Settings(**{"port": 0, "ui": False, **settings})
    listener, loop, is_told = bind(chosen), [], threading.Event()

    def told() -> None:
        loop.append(asyncio.get_running_loop())
        is_told.set()

    server = Threaded(chosen, create_app(chosen, backend), told)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert is_told.wait(60)
    one = Listening(address_of(chosen, listener), listener.getsockname()[1], server, backend, loop)
    try:
        yield one
    finally:
        for _ in range(2):
            if thread.is_alive() and not loop[0].is_closed():
                one.stop()
        thread.join(120)
        assert not thread.is_alive()

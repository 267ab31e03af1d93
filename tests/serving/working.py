"""A worker with the embedded nano in a thread of this process, and a client at the other end of its channel."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image as Images
from PIL.Image import Image as Photo

from internvl.data.prompts import Image, Message, Text
from internvl.inference.chat import Chat
from internvl.inference.embed import Embedder
from internvl.inference.sampling import SamplingConfig
from internvl.serving import inbox as coming
from internvl.serving import worker
from internvl.serving.refusal import Refusal
from internvl.serving.wire import (
    Ask,
    Channel,
    Done,
    Drop,
    Memory,
    Piece,
    Ping,
    Pong,
    Ready,
    Refused,
    Serve,
    Step,
    Vectors,
)
from internvl.serving.wire import Message as Wired

SECONDS = 200.0
"""That a client waits for a word; a moment on an idle machine."""


@cache
def nano() -> Chat:
    return Chat.load(device="cpu")


@cache
def nano_c() -> Embedder:
    return Embedder.load("nano-c", device="cpu")


def picture(seed: int, side: int = 112) -> Photo:
    """Blocks of colour."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Images.fromarray(small).resize((side, side), Images.Resampling.NEAREST)


@dataclass
class Question:
    """A prompt, encoded as a reader does it."""

    ask: Ask
    tiles: np.ndarray | None


def question(text: str, *photos: Photo, **options: Any) -> Question:
    """options: of Ask; `sampling` is greedy and short if nothing is said."""
    encoded = nano().encoder.encode([Message("user", (*map(Image, photos), Text(text)))])
    options.setdefault("sampling", {"max_new_tokens": 12})
    counts, tiles = list(encoded.tiles_per_image), encoded.tiles if photos else None
    shape = list(encoded.tiles.shape) if photos else []
    ask = Ask(id=0, ids=encoded.input_ids, tiles=counts, digests=["?"] * len(counts), shape=shape, **options)
    return Question(ask, tiles)


def alone(text: str, *photos: Photo, **sampling: Any) -> str:
    """What the model says to it, without an engine and a worker."""
    chat = nano()
    chat.reset()
    return chat.ask(Text(text), images=photos, sampling=SamplingConfig(**{"max_new_tokens": 12, **sampling})).text


@dataclass
class Heard:
    """What came of one request."""

    pieces: list[Piece] = field(default_factory=list)
    done: dict[int, Done] = field(default_factory=dict)

    def text(self, answer: int = 0) -> str:
        return "".join(one.text for one in self.pieces if one.answer == answer)

    def tokens(self, answer: int = 0) -> list[dict[str, Any]]:
        return [dict(token) for one in self.pieces if one.answer == answer for token in one.tokens]


class Client:
    """Asks, and hears what comes of each request; checks that messages come in order."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(SECONDS)
        self.channel = Channel(end)
        self._last = 0
        self._heard: dict[int, Heard] = {}
        self._over: dict[int, Refusal | None] = {}
        self.other: list[tuple[Wired, np.ndarray | None]] = []

    def send(self, message: Wired, pixels: np.ndarray | None = None) -> None:
        memory = None if pixels is None else Memory.of(pixels)
        try:
            self.channel.send(message, memory)
        finally:
            if memory is not None:
                memory.close()

    def ask(self, asked: Question | Ask, pixels: np.ndarray | None = None) -> int:
        """The id that it has."""
        self._last += 1
        ask = asked.ask if isinstance(asked, Question) else asked
        pixels = asked.tiles if isinstance(asked, Question) and pixels is None else pixels
        values = {name: getattr(ask, name) for name in ask.__dataclass_fields__}
        self.send(Ask(**{**values, "id": self._last}), pixels)
        self._heard[self._last] = Heard()
        return self._last

    def drop(self, id: int) -> None:
        self.send(Drop(id=id))

    def hear(self, id: int) -> Heard:
        """All that comes of a request. Raises the Refusal."""
        while id not in self._over:
            self.one()
        refusal = self._over[id]
        if refusal is not None:
            raise refusal
        return self._heard[id]

    def begun(self, id: int, pieces: int = 1) -> None:
        """Returns when so much has come."""
        while len(self._heard[id].pieces) < pieces:
            self.one()

    def says(self, asked: Question) -> Heard:
        return self.hear(self.ask(asked))

    def counters(self) -> dict[str, int]:
        self._last += 1
        self.send(Ping(id=self._last))
        while not any(isinstance(one, Pong) and one.id == self._last for one, _ in self.other):
            self.one()
        [found] = [one for one, _ in self.other if isinstance(one, Pong) and one.id == self._last]
        return dict(found.counters)

    def one(self) -> None:
        """The next message."""
        got = self.channel.receive()
        assert got is not None, "the worker has hung up"
        message, memory = got
        vectors = None
        if memory is not None:
            assert isinstance(message, Vectors)
            vectors = memory.array(message.shape, np.float32)
            memory.close()
        if isinstance(message, Step):
            assert message.said, "nobody is woken for nothing"
            for one in message.said:
                self._take(one)
        elif isinstance(message, Piece | Done | Refused):
            self._take(message)
        else:
            self.other.append((message, vectors))

    def _take(self, message: Piece | Done | Refused) -> None:
        assert message.id not in self._over, "nothing comes after the end"
        if isinstance(message, Refused):
            self._over[message.id] = Refusal(message.message, status=message.status, param=message.param,
                                             code=message.code, retry_after=message.retry_after)  # fmt: skip
            return
        heard = self._heard[message.id]
        assert message.answer not in heard.done, "nothing comes after the end"
        if isinstance(message, Piece):
            assert message.text or message.tokens, "an empty piece"
            heard.pieces.append(message)
        else:
            heard.done[message.answer] = message
            if message.last:
                self._over[message.id] = None


@contextmanager
def at_work(**engine: Any) -> Iterator[Client]:
    """A worker, and who asks it. Raises what it met when it should not have ended."""
    with (
        mock.patch.object(worker.Chat, "load", return_value=nano()),
        mock.patch.object(worker.Embedder, "load", return_value=nano_c()),
    ):
        loaded = worker.load(Serve(embedder="nano-c", engine={"slots": 4, "max_len": 256, **engine}))
    here, there = socket.socketpair()
    inbox: coming.Inbox = queue.Queue(coming.INBOX)
    channel, met = Channel(there), []

    def work() -> None:
        try:
            worker.Worker(channel, loaded, inbox).run()
        except Exception as error:
            met.append(error)
            here.shutdown(socket.SHUT_RDWR)

    def listen() -> None:
        with suppress(OSError):
            while (got := channel.receive()) is not None:
                inbox.put(coming.come(*got))
        inbox.put(coming.Come(Serve()))  # which no worker is told twice: it ends

    threads = [threading.Thread(target=one, daemon=True) for one in (work, listen)]
    for one in threads:
        one.start()
    client = Client(here)
    try:
        client.one()
        assert isinstance(client.other[0][0], Ready)
        yield client
    finally:
        here.shutdown(socket.SHUT_RDWR)
        for one in threads:
            one.join(SECONDS)
        client.channel.close()
        channel.close()
    [error] = met
    assert isinstance(error, OSError) or "Serve" in str(error), "the worker failed"

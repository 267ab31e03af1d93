"""A worker that hands over to vLLM, without one: what it may be told, and what it says where it cannot begin."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch

from internvl.errors import UsageError
from internvl.serving import vllm_worker
from internvl.serving.inbox import Come
from internvl.serving.vllm_options import OURS, VllmOptions
from internvl.serving.vllm_worker import MOST_PICTURES, VllmWorker
from internvl.serving.wire import Embed, Message, Refused, Serve, Vectors


class Said(list[Message]):
    """A channel that keeps what is sent."""

    send = list.append


@pytest.mark.parametrize("word", [*OURS, "--max_model_len=100", "--dtype=half"])
def test_what_the_package_says_of_a_model_stays_true(word):
    with pytest.raises(UsageError, match=r"not passed to vLLM \(.+\); leave it out"):
        VllmOptions(arguments=("--seed=1", word))


def test_it_has_to_have_time_to_load():
    with pytest.raises(UsageError, match="loading is 0"):
        VllmOptions(loading=0)


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (UsageError("no such\nmodel"), "no such model", 1),
        (OSError(28, "No space left on device"), "No space left on device", 1),
        (ValueError("a secret"), "ValueError at", 1),
        (BrokenPipeError(), None, 0),
    ],
)
def test_why_it_cannot_begin_is_told_while_somebody_listens(monkeypatch, error, said, code):
    channel = Said()

    async def failing(*_: object) -> str:
        raise error

    monkeypatch.setattr(vllm_worker, "begun", lambda level: (channel, Serve()))
    monkeypatch.setattr(vllm_worker, "serve_all", failing)
    monkeypatch.setattr(vllm_worker.os, "_exit", ended)
    with pytest.raises(SystemExit) as caught:
        vllm_worker.main()
    assert caught.value.code == code
    if said is None:
        assert not channel
        return
    [refused] = channel
    assert isinstance(refused, Refused)
    assert said in refused.message
    assert "secret" not in refused.message


def ended(code: int) -> None:
    raise SystemExit(code)


def test_a_vllm_that_stands_still_is_not_well(monkeypatch, tmp_path: Path):
    """It takes connections and says nothing, as a process does that is stopped or waits for itself."""
    monkeypatch.setattr(vllm_worker, "PATIENCE", 0.5)
    monkeypatch.setattr(vllm_worker, "BEATS", 0.1)
    address = str(tmp_path / "socket")

    async def scenario() -> None:
        transport = httpx.AsyncHTTPTransport(uds=address)
        async with httpx.AsyncClient(transport=transport, base_url="http://vllm", timeout=None) as client:
            running = SimpleNamespace(ended=None)
            await asyncio.wait_for(vllm_worker.watch(client, running), 60)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match=r"not loaded within 0\.3 s"):
                await asyncio.wait_for(vllm_worker.until_well(client, running, 0.3), 60)  # type: ignore[arg-type]

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(address)
        silent.listen()
        asyncio.run(scenario())


class Slow:
    """A model of vectors that waits until it may go on."""

    tile_size, tokenizer = 4, None

    def __init__(self) -> None:
        self.may = threading.Event()

    def images(self, photos: list[object]) -> torch.Tensor:
        assert self.may.wait(60)
        return torch.ones(len(photos), 2)


class Sent(list[Message]):
    """A channel that keeps what is sent, and not the memory that comes with it."""

    def send(self, message: Message, memory: object = None) -> None:
        self.append(message)


def test_pictures_that_wait_for_vectors_are_bounded():
    """As with the native engine: what is too much for now is 429, what is too much for ever 400; then there is room."""
    channel, slow = Sent(), Slow()
    loaded = SimpleNamespace(embedder=slow, queue=8, plan=SimpleNamespace(slots=2))

    async def scenario() -> None:
        worker = VllmWorker(channel, loaded, None)  # type: ignore[arg-type]

        async def ask(id: int, count: int, answers: int) -> Message | None:
            pixels = np.zeros((count, 4, 4, 3), np.uint8)
            worker.hear(Come(Embed(id=id, shape=list(pixels.shape)), pixels))
            async with asyncio.timeout(60):
                while len(channel) < answers:
                    await asyncio.sleep(0.01)
            return channel[-1] if answers else None

        await ask(1, MOST_PICTURES - 1, 0)
        refused = await ask(2, 2, 1)
        assert isinstance(refused, Refused)
        assert (refused.id, refused.status, refused.code) == (2, 429, "queue_full")
        assert worker.counters()["waiting_tiles"] == MOST_PICTURES - 1
        refused = await ask(3, MOST_PICTURES + 1, 2)
        assert isinstance(refused, Refused)
        assert (refused.id, refused.status) == (3, 400)
        slow.may.set()
        while len(channel) < 3:
            await asyncio.sleep(0.01)
        vectors = await ask(4, 2, 4)
        assert isinstance(vectors, Vectors)
        assert worker.counters()["waiting_tiles"] == 0

    asyncio.run(scenario())

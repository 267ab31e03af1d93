"""`service_tier`: who says flex goes after all others; the answer says how it was served."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from internvl.serving import published
from internvl.serving.native import NativeBackend
from internvl.serving.settings import Settings
from internvl.serving.supervisor import Watch
from tests.serving.echo import Echo, listening, served
from tests.serving.requests import HI
from tests.serving.test_calls_cut import events

BODIES = {
    "/v1/chat/completions": {"model": "echo", "messages": HI},
    "/v1/completions": {"model": "echo", "prompt": "Hi"},
    "/v1/responses": {"model": "echo", "input": "Hi"},
}
PUBLISHED = {
    "/v1/chat/completions": published.ChatCompletion,
    "/v1/completions": published.TextCompletion,
    "/v1/responses": published.ResponseObject,
}
PATIENCE = 60.0


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("asked", "priority", "said"),
    [
        ({}, 0, None),
        ({"service_tier": None}, 0, None),
        ({"service_tier": "auto"}, 0, "default"),
        ({"service_tier": "default"}, 0, "default"),
        ({"service_tier": "flex"}, -1, "flex"),
    ],
    ids=str,
)
def test_every_route_orders_by_it_and_says_what_it_did(path, asked, priority, said):
    backend = Echo()
    with served(backend) as client:
        whole = client.post(path, json=BODIES[path] | asked).json()
        pieces = events(client.post(path, json=BODIES[path] | asked | {"stream": True}).text)
    assert [order.priority for order, _ in backend.orders] == [priority] * 2
    objects = [whole, *(piece.get("response", piece) for piece in pieces if piece.get("response", piece).get("id"))]
    assert len(objects) > 2
    assert {one.get("service_tier") for one in objects} == {said}
    PUBLISHED[path].model_validate(whole)
    if path == "/v1/responses":
        openai.types.responses.Response.model_validate(whole)
    elif path == "/v1/chat/completions":
        ChatCompletion.model_validate(whole)
        for piece in pieces:
            ChatCompletionChunk.model_validate(piece)


def test_flex_waits_behind_who_came_later():
    """One slot, which is taken: flex comes, then another; when the slot is free the other has it."""
    order: list[str] = []
    backend = NativeBackend(Settings(slots=1, readers=1))
    backend._supervisor._watch = Watch(heartbeat=0.05)  # how often it hears of the queue
    with listening(backend) as server, server.client() as client:  # type: ignore[arg-type]

        def ask(tier: str) -> None:
            body = {"model": "nano", "messages": HI, "max_tokens": 8, "service_tier": tier}
            answer = client.post("/v1/chat/completions", json=body).json()
            order.append(answer["service_tier"])

        until(lambda: client.get("/ready").status_code == 200)
        threads = [threading.Thread(target=ask, args=(tier,)) for tier in ("flex", "default")]
        long = {"model": "nano", "prompt": "Once", "max_tokens": 8000, "min_tokens": 8000, "stream": True}
        with client.stream("POST", "/v1/completions", json=long) as taken:
            pieces = taken.iter_bytes()  # which hangs up when nobody has it any more
            next(pieces)
            for waiting, thread in enumerate(threads, start=1):
                thread.start()
                until(lambda waiting=waiting: f"internvl_backend_queued {waiting}.0" in client.get("/metrics").text)
            assert not order, "the slot was not taken"
        for thread in threads:
            thread.join(PATIENCE)
    assert order == ["default", "flex"]


def until(happens: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.01)

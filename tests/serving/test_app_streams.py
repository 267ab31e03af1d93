"""Clients that go away, and a server that is told to stop: over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest

from internvl.serving.flights import Flights
from internvl.serving.refusal import Refusal
from tests.serving.echo import Echo, Listening, listening
from tests.serving.requests import chat

PATIENCE = 120.0
LONG = chat(model="echo", messages=[{"role": "user", "content": "x" * 1000}])


def until(happens: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < end, f"{what}: not in {PATIENCE} s"
        time.sleep(0.01)


def ask(server: Listening, body: dict) -> socket.socket:
    """A connection on which a request was sent."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
    connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
    return connection


def all_of(connection: socket.socket) -> str:
    found = b""
    while piece := connection.recv(65_536):
        found += piece
    connection.close()
    return found.decode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pause", [0.01, 3600.0])
def test_whoever_goes_away_frees_the_slot_at_once(stream, pause):
    """Also while nothing is said: a pause of an hour is one before the first token."""
    backend = Echo(pause=pause)
    with listening(backend) as server:
        for _ in range(10):
            connection = ask(server, LONG | {"stream": stream})
            until(lambda: backend.open == 1, "the answer grows")
            connection.close()
            until(lambda: backend.open == 0, "the answer is dropped")
        assert backend.dropped == 10
        with server.client() as client:
            until(lambda: "internvl_requests_gone_total 10.0" in client.get("/metrics").text, "ten are counted")
            assert "internvl_requests_in_flight 1.0" in client.get("/metrics").text


def test_a_stream_that_is_quiet_sends_comments():
    with listening(Echo(pause=0.5), quiet_seconds=0.05) as server, server.client() as client:
        text = client.post("/v1/chat/completions", json=chat(model="echo", stream=True)).text
    assert ": still here" in text
    said = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in said) == "Hi"


def test_what_is_in_the_air_ends_and_nothing_new_begins():
    backend = Echo(pause=0.02)
    with listening(backend, drain_seconds=PATIENCE) as server, server.client() as client:
        connection = ask(server, chat(model="echo", messages=[{"role": "user", "content": "x" * 100}], stream=True))
        until(lambda: backend.open == 1, "the answer grows")
        server.stop()
        until(lambda: client.get("/ready").status_code == 503, "it is not ready")
        refused = client.post("/v1/chat/completions", json=LONG)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.json()["error"]["message"] == "the server is stopping; come again in 5 s"
        assert client.get("/health").status_code == 200
        text = all_of(connection)
    assert text.count('"content":"x"') == 100
    assert "[DONE]" in text


@pytest.mark.parametrize("is_told_twice", [False, True])
def test_what_takes_too_long_is_ended(is_told_twice):
    backend = Echo(pause=0.01)
    with listening(backend, drain_seconds=3600.0 if is_told_twice else 0.3) as server:
        stream = ask(server, LONG | {"stream": True, "messages": [{"role": "user", "content": "x" * 100_000}]})
        whole = ask(server, LONG | {"messages": [{"role": "user", "content": "x" * 100_000}]})
        until(lambda: backend.open == 2, "the answers grow")
        assert stream.recv(100)
        server.stop()
        if is_told_twice:
            server.stop()
        assert '"code":"unavailable"' in all_of(stream)
        assert " 503 " in all_of(whole).splitlines()[0]
        until(lambda: backend.open == 0, "the answers are dropped")


def test_a_slow_reader_holds_up_nobody_else():
    backend = Echo(reply="x" * 50_000)
    with listening(backend) as server, server.client() as client:
        slow = ask(server, LONG | {"stream": True})
        quick = client.post("/v1/chat/completions", json=LONG | {"max_tokens": 5})
        assert quick.json()["usage"]["completion_tokens"] == 5
        slow.close()
        until(lambda: backend.open == 0, "the answer is dropped")


def test_whoever_does_not_read_is_given_up(monkeypatch):
    monkeypatch.setattr("internvl.serving.running.LAST_SECONDS", 0.2)
    with listening(Echo(reply=["x" * 100_000] * 1000), request_seconds=2.0) as server, server.client() as client:
        connection = ask(server, LONG | {"stream": True})
        until(lambda: "internvl_requests_gone_total 1.0" in client.get("/metrics").text, "it is given up")
        assert server.backend.open == 0
        connection.close()


def test_a_bad_request_beside_a_good_one():
    backend = Echo(pause=0.01)
    with listening(backend) as server, server.client() as client:
        good = ask(server, LONG | {"max_tokens": 200, "stream": True})
        until(lambda: backend.open == 1, "the answer grows")
        bad = [chat(model="echo", n=99), {"model": "echo"}, [], chat(model="echo", temperature="hot")]
        assert {client.post("/v1/chat/completions", json=one).status_code for one in bad} == {400}
        broken = {"content": b"\xff{", "headers": {"Content-Type": "application/json"}}
        assert client.post("/v1/chat/completions", **broken).status_code == 400
        text = ""
        while "[DONE]" not in text:
            text += good.recv(65_536).decode()
        good.close()
    assert text.count('"content":"x"') == 200


def test_many_at_a_time_are_told_apart():
    with listening(Echo(pause=0.001)) as server:
        said: dict[str, str] = {}

        def one(text: str) -> None:
            with server.client() as client:
                body = chat(model="echo", messages=[{"role": "user", "content": text}])
                said[text] = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]

        threads = [threading.Thread(target=one, args=(f"question {number}",)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert said == {text: text for text in said}
    assert len(said) == 16


# ---- flights ---------------------------------------------------------------------------------------------------------


async def never():
    await asyncio.Event().wait()


def test_a_flight_ends_in_one_of_four_ways():
    async def main() -> None:
        flights = Flights(seconds=0.05)

        async def result() -> int:
            return 7

        assert await flights.fly(never, result()) == 7
        with pytest.raises(Refusal) as late:
            await flights.fly(never, never())
        assert late.value.status == 504

        flights = Flights(seconds=60)
        flying = asyncio.ensure_future(flights.fly(never, never()))
        await asyncio.sleep(0)
        assert len(flights) == 1
        assert await flights.drain(0.01) == 1
        with pytest.raises(Refusal) as ended:
            await flying
        assert ended.value.status == 503
        with pytest.raises(Refusal):
            await flights.fly(never, result())
        assert len(flights) == 0

    asyncio.run(main())


def test_answers_are_sent_at_once():
    """Without TCP_NODELAY each answer would wait for 40 ms, until the client says that it has its headers."""
    with listening() as server, server.client() as client:
        assert client.get("/health").status_code == 200
        [connection] = server.server.server_state.connections
        own = connection.transport.get_extra_info("socket")
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

"""Traffic of all kinds for a server that runs, and whether its memory stays where it is."""

from __future__ import annotations

import http.client
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from internvl.bench.questions import drawn
from internvl.inference.contents import address_of
from tests.e2e.served import PATIENCE, Served, asked

PICTURES = [address_of(drawn(random.Random(f"abandoned {number}"), 512)) for number in range(8)]
"""Decoded, each is 768 KiB: if one request in three left its picture behind, 1,000 of them would leave 250 MiB."""
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"],
          "additionalProperties": False}  # fmt: skip
KINDS = (
    "text",
    "new picture",
    "known picture",
    "pictures",
    "stream",
    "several",
    "schema",
    "embedding",
    "bad",
    "abandoned",
)
EXPECTED = ("answered", "refused", "abandoned")
KNOWN = [address_of(drawn(random.Random(f"known {number}"), 300)) for number in range(4)]


# ---- one request -----------------------------------------------------------------------------------------------------


def ask(port: int, body, path: str = "/v1/chat/completions") -> tuple[int, str]:
    """Status and body; 0 and what happened where the connection broke. Whoever waits for ever fails."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read().decode()
        if answer.status == 503:
            assert int(answer.headers["Retry-After"]) >= 1
        return answer.status, said
    except (ConnectionError, http.client.HTTPException) as error:
        return 0, type(error).__name__
    finally:
        connection.close()


def hang_up(connection: socket.socket, *, rudely: bool) -> None:
    """Close a connection, with a reset instead of a farewell if it is to be rude."""
    if rudely:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def abandon(port: int, number: int) -> str:
    """Ask, and go away before the answer is whole; how."""
    chance = random.Random(f"abandon {number}")
    pictures = [chance.choice(PICTURES)] if chance.random() < 1 / 3 else []
    how = chance.choice(["after the first piece", "any moment of a stream", "any moment", "while it is sent"])
    body = json.dumps(
        asked(f"Tell a long story, number {number}.", *pictures, max_tokens=400, min_tokens=400, temperature=0.7,
              n=chance.choice([1, 1, 2]), stream=how in ("after the first piece", "any moment of a stream"))
    ).encode()  # fmt: skip
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    try:
        if how == "while it is sent":
            connection.sendall(head.encode() + body[: chance.randrange(len(body))])
            return how
        connection.sendall(head.encode() + body)
        if how == "after the first piece":
            came = b""
            while b"delta" not in came:
                got = connection.recv(4096)
                came += got
                assert got, f"the connection was closed: {came[-300:]!r}"
                assert b" 200 " in came[:20] or b" 429 " in came[:20], came[:300]
                if b" 429 " in came[:20]:
                    return "refused, the queue was full"
        else:
            time.sleep(chance.random() * 0.3)
        return how
    finally:
        hang_up(connection, rudely=chance.random() < 0.5)


def outcome(port: int, number: int) -> str:
    """What becomes of a request, streamed or not, with a picture or without."""
    pictures = [PICTURES[number % len(PICTURES)]] if number % 3 == 0 else []
    body = asked(f"A story, number {number}.", *pictures, max_tokens=60, min_tokens=60, stream=number % 2 == 0)
    status, said = ask(port, body)
    if status != 200:
        return str(status)
    if not body["stream"]:
        return "answered"
    if '"error"' in said:
        assert '"unavailable"' in said, said[-300:]
        return "broke off, and said so"
    return "answered" if said.rstrip().endswith("data: [DONE]") else f"broke off in silence: {said[-100:]}"


# ---- many ------------------------------------------------------------------------------------------------------------


def request(served: Served, kind: str, chance: random.Random) -> str:
    """One request of a kind; what became of it."""
    text = f"Tell me of {chance.randrange(10**9)}."
    pictures: Sequence[str] = ()
    more: dict[str, object] = {"max_tokens": chance.randrange(1, 64)}
    if kind == "abandoned":
        abandon(served.port, chance.randrange(10**9))
        return kind
    if kind in ("new picture", "pictures"):
        many = chance.randrange(2, 6) if kind == "pictures" else 1
        pictures = [address_of(drawn(chance, chance.randrange(20, 500))) for _ in range(many)]
    elif kind == "known picture":
        pictures = [chance.choice(KNOWN)]
    elif kind == "bad":
        pictures = [chance.choice(["data:image/png;base64,AAAA", "https://example.org/a.png", "file:///etc/passwd"])]
    elif kind == "stream":
        more["stream"] = True
    elif kind == "several":
        more |= {"n": 2, "temperature": 1.0, "logprobs": True, "top_logprobs": 3}
    elif kind == "schema":
        more["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    if kind == "embedding":
        body = {"model": "nano-c", "input": [text, {"type": "image_url", "image_url": {"url": chance.choice(KNOWN)}}]}
        status, said = ask(served.port, body, "/v1/embeddings")
    else:
        status, said = ask(served.port, asked(text, *pictures, **more))
    if kind == "bad":
        return "refused" if status in (400, 422) else f"{kind}: {status} {said[:80]}"
    return "answered" if status == 200 else f"{kind}: {status} {said[:80]}"


@dataclass
class Traffic:
    """Some clients that ask and ask."""

    served: Served
    clients: int
    outcomes: Counter[str] = field(default_factory=Counter[str])
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def begin(self) -> None:
        self._threads = [threading.Thread(target=self._client, args=(n,), daemon=True) for n in range(self.clients)]
        for one in self._threads:
            one.start()

    def _client(self, number: int) -> None:
        chance = random.Random(f"client {number}")
        while not self._over.is_set():
            try:
                became = request(self.served, chance.choice(KINDS), chance)
            except Exception as error:  # is counted, and fails the run
                became = f"{type(error).__name__}: {error}"[:120]
            self.outcomes[became] += 1

    def end(self) -> None:
        self._over.set()
        for one in self._threads:
            one.join(120)


# ---- memory ----------------------------------------------------------------------------------------------------------


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """How much a line through (time, value) rises from the first to the last; the least squares.

    >>> slope([(0, 1.0), (1, 2.0), (2, 3.0)])
    2.0
    """
    times, values = zip(*samples, strict=True)
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    across = sum((at - middle) ** 2 for at in times)
    rise = sum((at - middle) * (value - mean) for at, value in samples)
    return rise / across * (times[-1] - times[0]) if across else 0.0


def grown(samples: Sequence[tuple[float, dict[str, int]]], bound: float) -> dict[str, float]:
    """What rose by more than it may after the first third: memory by `bound` bytes, descriptors by 4."""
    judged = samples[len(samples) // 3 :]
    found: dict[str, float] = {}
    for name in judged[0][1]:
        rise = slope([(at, held[name]) for at, held in judged])
        if rise > (bound if name.endswith("bytes") else 4):
            found[name] = rise
    return found

"""Bodies of requests as they come in: how many bytes each may have, in which time, and all together. Plain ASGI.

receive --Bodies.taken--> Body.receive --> the application; what goes over a bound is a Refusal of 408, 413 or 429
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from internvl.serving.refusal import Refusal, queue_full

HELD = 16
"""Bodies of the largest size that may be in memory at a time."""
SWALLOWED_SECONDS = 2.0
"""For which the body of a refused request is still read, and thrown away: who is cut off while it sends never reads
what it is refused with."""
BUSY_SECONDS = 5


class Bodies:
    """The bodies of all requests that are answered now.

    >>> with Bodies(most=2**20, seconds=60).taken(receive) as body:  # doctest: +SKIP
    ...     await app(scope, body.receive, send)
    """

    def __init__(self, *, most: int, seconds: float) -> None:
        """most: bytes of the largest. seconds: in which one has arrived whole."""
        self.most, self.seconds = most, seconds
        self.held = 0
        """Bytes in memory now, of all."""

    @contextmanager
    def taken(self, receive: Receive, most: int | None = None) -> Generator[Body]:
        """One more, of at most so many bytes, until it is answered."""
        body = Body(self, receive, self.most if most is None else most)
        try:
            yield body
        finally:
            self.held -= body.read


class Body:
    """A body that comes in. Once it is whole nothing is waited for in a given time: answers may last."""

    def __init__(self, bodies: Bodies, receive: Receive, most: int) -> None:
        self._bodies, self._receive, self.most = bodies, receive, most
        self._end = asyncio.get_running_loop().time() + bodies.seconds
        self.read = 0
        self.is_whole = False

    async def receive(self) -> Message:
        """The next message. Raises Refusal for what is too much, or too slow."""
        if self.is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            raise too_slow(self._bodies.seconds) from None
        piece = len(message.get("body", b""))
        self.read += piece
        self._bodies.held += piece
        self.is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        if self.read > self.most:
            raise too_large(self.most)
        if self._bodies.held > HELD * self._bodies.most:
            raise queue_full(BUSY_SECONDS)
        if not self.is_whole and asyncio.get_running_loop().time() > self._end:
            raise too_slow(self._bodies.seconds)
        return message


async def swallowed(scope: Scope, receive: Receive, most: int) -> bool:
    """Read what is left of a body that nobody wants, for a while; whether that was all of it."""
    if "expect" in Headers(scope=scope):
        return False
    try:
        async with asyncio.timeout(SWALLOWED_SECONDS):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return True
    except TimeoutError:
        pass
    return False


def check_length(headers: Headers, most: int) -> None:
    """Refuse a body that says itself that it has too many bytes."""
    length = headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > most:
        raise too_large(most)


def too_large(most: int) -> Refusal:
    return Refusal(f"the request has more than {most} bytes, the limit; send less, or smaller pictures", status=413,
                   code="body_too_large")  # fmt: skip


def too_slow(seconds: float) -> Refusal:
    return Refusal(f"the request did not arrive within {seconds:g} s; send it faster", status=408,
                   code="request_timeout")  # fmt: skip

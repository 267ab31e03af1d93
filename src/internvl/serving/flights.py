"""Requests in the air: each ends when it is answered, when its client goes away, when its time is over, or when the
server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from internvl.serving.refusal import Refusal, stopping

T = TypeVar("T")


class Gone(Exception):
    """The client went away; there is nobody to answer."""


def too_long(seconds: float) -> Refusal:
    return Refusal(f"the answer took more than {seconds:g} s, the limit; ask for fewer tokens", status=504,
                   code="timeout")  # fmt: skip


class Flights:
    """All requests that are being answered.

    >>> await Flights(seconds=600).fly(request.receive, answer())  # doctest: +SKIP
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._tasks: set[asyncio.Future[Any]] = set()
        self.draining = False
        """No new request is taken."""
        self._ended = False
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    async def fly(self, receive: Receive, work: Coroutine[Any, Any, T]) -> T:
        """What the work comes to. It is dropped at once when the client goes away (raises Gone), when its time is
        over (a Refusal of 504) and when the server stops (503). The request's body must have been read."""
        if self._ended:
            work.close()
            raise stopping()
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
        self._tasks.add(task)
        try:
            await asyncio.wait({task, gone}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                if task.cancelled():
                    raise stopping()
                return task.result()
            raise Gone if gone.done() else too_long(self._seconds)
        finally:
            task.cancel()
            gone.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)
            self._tasks.discard(task)
            if not self._tasks:
                self._idle.set()

    async def drain(self, seconds: float) -> int:
        """Take no new requests, and wait for those in the air; returns how many had to be ended."""
        self.draining = True
        while self._tasks and seconds > 0:
            self._idle.clear()
            before = asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(self._idle.wait(), seconds)
            except TimeoutError:
                break
            seconds -= asyncio.get_running_loop().time() - before
        return self.end()

    def end(self) -> int:
        """End all that are in the air now."""
        self.draining = self._ended = True
        left = len(self._tasks)
        for task in self._tasks:
            task.cancel()
        return left


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

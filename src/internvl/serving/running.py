"""A server while it runs: what all routes share, and how a request is read and an answer streamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from internvl.errors import InternVLError
from internvl.serving.answers import Answers
from internvl.serving.backend import Backend
from internvl.serving.fields import Fields, RequestLimits, read_json, understood
from internvl.serving.flights import Flights, Gone
from internvl.serving.guards import note_of, refused
from internvl.serving.logs import tell_fault
from internvl.serving.metrics import Metrics
from internvl.serving.order import Order
from internvl.serving.refusal import Refusal, check_content_type, refusal_of, stopping, unavailable
from internvl.serving.responses import ResponsesRequest
from internvl.serving.schema import ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest
from internvl.serving.settings import Settings
from internvl.serving.translate import Preset

R = TypeVar("R", bound=Fields)

LAST_SECONDS = 10.0
"""In which a client takes the end of a stream that breaks off."""
SMALL = 32 * 1024
"""Bytes of a request that is checked at once; larger ones are checked in another thread."""


@dataclass
class Running:
    """What all routes share."""

    settings: Settings
    backend: Backend
    metrics: Metrics
    flights: Flights
    created: int = field(default_factory=lambda: int(time.time()))
    failure: InternVLError | None = None
    """Why the model could not be loaded."""
    logs_failure: bool = True
    """Whether that is logged. Not where whoever runs the server says it himself."""

    @property
    def is_ready(self) -> bool:
        return self.closed is None

    @property
    def closed(self) -> Refusal | None:
        """Why nothing is answered now."""
        if self.flights.draining:
            return stopping()
        return unavailable() if self.failure is not None or not self.backend.ready else None

    @property
    def named(self) -> dict[type[Fields], str]:
        """What each kind of request calls the model."""
        facts = self.backend.facts
        kinds = (ChatRequest, CompletionRequest, ResponsesRequest, TokenizeRequest)
        found: dict[type[Fields], str] = dict.fromkeys(kinds, facts.model)
        return found | ({} if facts.embedder is None else {EmbeddingRequest: facts.embedder})

    @property
    def preset(self) -> Preset:
        facts = self.backend.facts
        return Preset(temperature=self.settings.temperature, system=facts.system, tool_role=facts.tool_role)

    @property
    def limits(self) -> RequestLimits:
        """No request can have more answers than there are slots, or frames than are read."""
        limits = self.settings.limits
        return replace(limits, n=min(limits.n, self.backend.facts.slots), frames=self.settings.media.frames)

    async def read(self, request: Request, kind: type[R]) -> R:
        """The request that a body holds, with every field checked."""
        check_content_type(request.headers.get("content-type"), request.headers.get("content-encoding"))
        try:
            body = await request.body()  # bounded by Guard
        except ClientDisconnect:
            raise Gone from None
        if self.settings.log_content:
            note_of(request.scope).content["request"] = body.decode("utf-8", "replace")
        limits = self.limits

        def check() -> R:
            return understood(kind, read_json(body, limits), limits)

        return check() if len(body) <= SMALL else await asyncio.to_thread(check)

    def answers(self, request: Request, order: Order) -> Answers:
        """What the backend answers to an order."""
        note = note_of(request.scope)
        # Whoever has one key of many cannot have more turns by inventing users.
        user = note.client if len(self.settings.keys) > 1 else order.user or ""
        return Answers(self.backend, order, user=user, note=note, is_noted=self.settings.log_content)


class Stream(Response):
    """Server-sent events. The status waits for the first of them: what is refused before is an ordinary refusal; what
    breaks off later is an event of its own, and then the stream ends."""

    media_type = "text/event-stream"

    def __init__(self, running: Running, events: AsyncGenerator[bytes],
                 fail: Callable[[Refusal], Iterable[bytes]]) -> None:  # fmt: skip
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._running, self._events, self._fail = running, events, fail
        self._begun = False
        self._sending = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        note = note_of(scope)
        try:
            await self._running.flights.fly(receive, self._all(send))
        except Gone:
            raise
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.status >= 500 and not isinstance(error, Refusal):
                tell_fault(error, note.id)
            note.code = refusal.code
            if not self._begun:
                await refused(refusal)(scope, receive, send)
                return
            if not await self._ended(self._fail(refusal), send):
                raise Gone from None
            return
        await self._ended((), send)

    async def _ended(self, events: Iterable[bytes], send: Send) -> bool:
        """The last of a stream; whether it could be sent to a client that may have stopped reading."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                for event in events:
                    await self._send(event, send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            return False
        return True

    async def _all(self, send: Send) -> None:
        comments = asyncio.ensure_future(self._comments(send))
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    await self._send(event, send)
        finally:
            comments.cancel()

    async def _comments(self, send: Send) -> None:
        """Proxies give up a connection on which nothing comes."""
        while True:
            await asyncio.sleep(self._running.settings.quiet_seconds)
            await self._send(b": still here\n\n", send)

    async def _send(self, body: bytes, send: Send) -> None:
        async with self._sending:
            if not self._begun:
                self._begun = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": body, "more_body": True})


def running_of(request: Request) -> Running:
    running: Any = request.app.state.running
    return running

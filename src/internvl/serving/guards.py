"""What stands before every route: who asks, of which host, and how much comes with it. Plain ASGI, no copies.

request --Watch--> an id, a line in the log, counters, headers; a fault is an answer of 500
           '--Guard--> Host, key, bytes and time of the body
                 '--routes
"""

from __future__ import annotations

import re
from collections.abc import Callable
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from internvl.serving.bodies import Bodies, check_length, swallowed
from internvl.serving.flights import Gone
from internvl.serving.keys import digest, host_of, key_of, known
from internvl.serving.logs import Note, tell, tell_fault
from internvl.serving.metrics import Metrics
from internvl.serving.refusal import Refusal, no_key, refusal_of
from internvl.serving.replies import new_id
from internvl.serving.settings import Settings

OPEN = ("/health",)
"""Paths that anybody may ask."""
PAGE = "/ui"
GONE = 499
"""What the log says of a client that went away; no answer has this status."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def refused(refusal: Refusal) -> JSONResponse:
    """A refusal as HTTP has it."""
    # Nobody reads what is left of a body that is too slow or too large.
    close = {"Connection": "close"} if refusal.status in (408, 413) or refusal.code == "invalid_http" else {}
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=refusal.headers() | close)


def note_of(scope: Scope) -> Note:
    """What is known of the request by now."""
    return scope["state"]["note"]


def is_page(path: str) -> bool:
    return path == PAGE or path.startswith(PAGE + "/")


class Origins(CORSMiddleware):
    """Which web pages of other origins may ask; a refusal has the shape that all errors have."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        if not self.is_allowed_origin(request_headers["origin"]):
            message = "web pages of this origin may not ask; start the server with --allow-origin ORIGIN"
        elif request_headers.get("access-control-request-method") in self.allow_methods:
            message = "web pages of other origins may not reach into a private network; open them inside"
        else:
            message = f"web pages of other origins may ask with {' and '.join(self.allow_methods)} only"
        answer = refused(Refusal(message, code="cross_origin_refused"))
        answer.headers.update(
            {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        )
        return answer


class Watch:
    """The outermost: every request gets an id, a line in the log and an answer, whatever happens inside."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, header_bytes: int) -> None:
        """header_bytes: of the first line and the headers, at most."""
        self._app = app
        self._metrics = metrics
        self._header_bytes = header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        note = Note(given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else new_id("req_"))
        scope.setdefault("state", {})["note"] = note

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                note.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = note.id
                for name, value in HEADERS.items():
                    if not is_page(scope["path"]):  # it has headers of its own
                        headers.setdefault(name, value)
            await send(message)

        self._metrics.in_flight.inc()
        try:
            # Where HTTP is read, only what comes in several pieces is bounded.
            if head_of(scope) > self._header_bytes:
                raise headers_too_large(self._header_bytes)
            if {"content-length", "transfer-encoding"} <= {*Headers(scope=scope)}:
                raise two_lengths()
            await self._app(scope, receive, marked)
        except Gone:
            note.gone = True
        except Exception as error:
            refusal = refusal_of(error)
            note.code = refusal.code
            if refusal.status >= 500 and not isinstance(error, Refusal):
                tell_fault(error, note.id)
            if not note.status:
                await refused(refusal)(scope, receive, marked)
        finally:
            self._metrics.in_flight.dec()
            if note.gone and not note.status:
                note.status = GONE
            route = scope.get("route")
            note.route = getattr(route, "path", "none")
            self._metrics.request(note, perf_counter() - note.begun)
            tell("request", **note.line())


class Guard:
    """Who may come in, and with how much."""

    def __init__(
        self, app: ASGIApp, *, settings: Settings, has_page: bool, closed: Callable[[], Refusal | None]
    ) -> None:
        """has_page: what is below /ui has a guard of its own, where browsers sign in. closed: why requests are
        turned away."""
        self._app = app
        self._has_page = has_page
        self._closed = closed
        self._keys = [key.encode() for key in settings.keys]
        self._names = settings.names
        self._bodies = Bodies(most=settings.limits.body, seconds=settings.body_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (self._has_page and (is_page(scope["path"]) or scope["path"] == "/")):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            self._check(scope)
        except Refusal as refusal:
            await self._turn_away(refusal, scope, receive, send)
            return
        with self._bodies.taken(receive) as body:
            await self._app(scope, body.receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._names is not None and host_of(headers.get("host", "")) not in self._names:
            raise Refusal("this server is not called that; ask it as localhost, or start it with --server-name NAME",
                          status=421, code="unknown_host")  # fmt: skip
        if self._keys and scope["path"] not in OPEN:
            key = key_of(headers.get("authorization", ""))
            if key is None or known(key, self._keys) is None:
                raise no_key()
            note_of(scope).client = digest(key)
        check_length(headers, self._bodies.most)
        if scope["method"] == "POST" and (closed := self._closed()) is not None:
            raise closed

    async def _turn_away(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        note_of(scope).code = refusal.code
        await swallowed(scope, receive, self._bodies.most)
        response = refused(refusal)
        response.headers["Connection"] = "close"
        await response(scope, receive, send)


def head_of(scope: Scope) -> int:
    """Bytes of the first line and the headers of a request, its method and version left out."""
    line = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def headers_too_large(most: int) -> Refusal:
    return Refusal(f"the headers have more than {most} bytes, the limit; send fewer", status=431,
                   code="headers_too_large")  # fmt: skip


def two_lengths() -> Refusal:
    """A proxy may believe the one and this server the other: what follows would be a request that it never saw."""
    return Refusal("a request has either Content-Length or Transfer-Encoding; send one of them", code="invalid_http")

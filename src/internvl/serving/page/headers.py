"""Headers of the page, and the bodies of its requests: what a browser may do with it, and what is read. Plain ASGI.

Nothing of the page comes from elsewhere, and nothing goes there. Its own scripts carry a number that is used once.
"""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from internvl.serving.flights import Gone
from internvl.serving.refusal import Refusal

STYLE = "/page.css"
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'%3E%3Cg fill='%237aa5f5'%3E"
    "%3Crect width='24' height='24' rx='7'/%3E%3C/g%3E%3Cpath fill='%232257c4' d='M7 0h4.500v11.500H0V7a7 7 0 0 1 7-7z"
    "M13 13h11v4a7 7 0 0 1-7 7h-4z'/%3E%3C/svg%3E"
)
HEAD = f'<link rel="stylesheet" href=".{STYLE}"><link rel="icon" href="{ICON}"></head>'.encode()
"""What the page's own head has beside the library's."""

POLICY = (
    "default-src 'none'; script-src 'self' {script}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with less, a browser does not say where a form comes from
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": POLICY.format(script=""),
}
"""Nothing of the page comes from elsewhere, and nothing goes there."""


PICTURES = ("image/png", "image/jpeg", "image/webp")
"""What came in and is shown as what it is."""
SENT = {
    "Content-Type": "application/octet-stream",
    "Content-Disposition": "attachment",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
"""Of everything else that came in: a browser saves it, and neither shows nor runs it."""


def of_files(send: Send) -> Send:
    """Headers for what people sent."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = MutableHeaders(scope=message).get("content-type", "").partition(";")[0]
            return await with_headers(send, HEADERS if kind in PICTURES else HEADERS | SENT)(message)
        await send(message)

    return sending


def with_headers(send: Send, more: dict[str, str]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name in ("access-control-allow-origin", "access-control-allow-credentials"):
                del headers[name]
            for name, value in more.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending


class Cut:
    """What stands between an application and a request that may be refused while its body comes. The application is
    told that the client went away, and what it answers to that is not sent."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._refusal: Refusal | None = None
        self._is_over = self._has_begun = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Raises Refusal, or Gone where the client did go away, unless an answer has begun."""
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:
            if self._refusal is None and not isinstance(error, ClientDisconnect):
                raise
        if self._is_over and not self._has_begun:
            raise self._refusal or Gone

    async def receive(self) -> Message:
        message: Message = {"type": "http.disconnect"}
        if not self._is_over:
            try:
                message = await self._receive()
            except Refusal as refusal:
                self._refusal = refusal
        self._is_over = message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        if self._has_begun or not self._is_over:
            self._has_begun = True
            await self._send(message)


async def whole(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body if message["type"] == "http.request" else b""


def once(body: bytes, receive: Receive) -> Receive:
    """A body that was read already."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return waiting.pop() if waiting else await receive()

    return receiving


async def marked_page(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """The page itself: its own scripts carry a number that is used once, and no others run."""
    scope["headers"] = [one for one in scope["headers"] if one[0] != b"accept-encoding"]
    started: Message = {}
    body = b""

    async def held(message: Message) -> None:
        nonlocal started, body
        if message["type"] == "http.response.start":
            started = message
        elif message["type"] == "http.response.body":
            body += message.get("body", b"")

    await app(scope, receive, held)
    if scope["method"] == "HEAD" or started.get("status") != 200:
        await send(started)
        return await send({"type": "http.response.body", "body": body})
    nonce = secrets.token_urlsafe(16)
    # The library compiles the scripts of its components from text.
    policy = POLICY.format(script=f"'nonce-{nonce}' 'unsafe-eval'")
    body = re.sub(rb"<meta\s+(property|name)=\"(og|twitter):[^>]*>", b"", body)  # which speak of the library's makers
    text = re.sub(rb"<script(?=[\s>])", f'<script nonce="{nonce}"'.encode(), body).replace(b"</head>", HEAD, 1)
    finished = with_headers(send, HEADERS | {"Content-Security-Policy": policy, "Content-Length": str(len(text))})
    await finished(started)
    await send({"type": "http.response.body", "body": text})

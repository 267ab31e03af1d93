"""What stands before every route of the page: who may come, from where, to which routes, and with how much.

    request --> Host --> route on the list --> signed in (cookie or key) --> from this page itself --> bytes --> page

The page's library brings routes that nobody here needs: a proxy, an editor of files, a way round its queue. Only those
on the list are there at all. A browser cannot send a key with every request: it signs in once, with the key, and gets
a cookie that scripts cannot read and other sites cannot send.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from internvl.serving.bodies import Bodies, Body, check_length, swallowed
from internvl.serving.flights import Gone
from internvl.serving.keys import host_of, key_of, known
from internvl.serving.page.headers import HEADERS, STYLE, Cut, marked_page, of_files, once, whole, with_headers
from internvl.serving.page.words import Language, language_of, say
from internvl.serving.refusal import Refusal
from internvl.serving.settings import BODY_SECONDS, OWN_NAMES, check_keys

ROUTES: tuple[tuple[str, str], ...] = (
    ("GET HEAD", r"/"),
    ("GET", r"/config/?"),
    ("GET", r"/(gradio_api/)?theme\.css"),
    ("GET", r"/(assets|static)/[\w./@+-]+"),
    ("GET", r"/gradio_api/startup-events"),
    ("GET", r"/gradio_api/heartbeat/\w{1,64}"),
    ("POST", r"/gradio_api/queue/join"),
    ("GET", r"/gradio_api/queue/data"),
    ("POST", r"/gradio_api/(cancel|reset)/?"),
    ("POST", r"/gradio_api/upload"),
    ("GET HEAD", r"/gradio_api/file=/.+"),
)
"""Methods and paths of the page's library that the page uses."""
SIGNING = ("/sign-in", "/sign-out")
UPLOAD = "/gradio_api/upload"
COOKIE = "internvl_page"
COOKIE_SECONDS = 12 * 3600
SMALL_BODY, SIGN_BODY = 2**20, 8192
"""Bytes of whatever is not an upload, and of who signs in."""
PERSON = "internvl.person"
"""Where the scope says whose key it was."""
FILES = Path(__file__).parent / "files"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Who may use the page, and how much may be sent."""

    keys: tuple[str, ...] = field(default=(), repr=False)
    """One of them signs in; none: everyone who reaches the page may use it."""
    names: tuple[str, ...] | None = OWN_NAMES
    """What the page may be called in a Host header: a page of another site shall not be it by a name of its own. None:
    anything."""
    upload: int = 64 * 2**20
    """Bytes of one upload."""
    body_seconds: float = BODY_SECONDS
    """In which a request has arrived whole."""

    def __post_init__(self) -> None:
        check_keys(self.keys)  # nothing else keeps guesses away


class PageGuard:
    """An ASGI application around the page. `scope[PERSON]` becomes the key of whoever asks, or nothing."""

    def __init__(
        self, app: ASGIApp, gate: Gate, *, prefix: str = "", has_room: Callable[[], bool] = lambda: True
    ) -> None:
        """prefix: where the page is mounted, `/ui`. has_room: whether there is room for another upload."""
        self._app, self._gate, self._prefix, self._has_room = app, gate, prefix, has_room
        self._secret = secrets.token_bytes(32)
        self._ended: dict[str, float] = {}
        """Cookies that were signed out, until they would end by themselves."""
        self._keys = [key.encode() for key in gate.keys]
        self._bodies = Bodies(most=gate.upload + SMALL_BODY, seconds=gate.body_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        path = scope["path"].removeprefix(self._prefix) or "/"
        most = self._bodies.most if path == UPLOAD else SIGN_BODY if path in SIGNING else SMALL_BODY
        slow = False
        with self._bodies.taken(receive, most) as body:
            try:
                answer = await self._answer(scope, path, body, send)
            except Refusal as refusal:
                slow = refusal.status == 408
                answer = Response(refusal.message, refusal.status, refusal.headers(), "text/plain")
            except (Gone, ClientDisconnect):
                if "note" in scope.get("state", {}):
                    raise Gone from None  # the server around writes it down
                return
        if answer is not None:
            # Nobody reads what is left, which may come for ever.
            if not body.is_whole and (slow or not await swallowed(scope, receive, most)):
                answer.headers["Connection"] = "close"
            await answer(scope, receive, with_headers(send, HEADERS))

    async def _answer(self, scope: Scope, path: str, body: Body, send: Send) -> Response | None:
        """What is answered here, or nothing where the page has answered. Raises Refusal, of the body."""
        answer = await self._check(scope, path, body)
        if isinstance(answer, Response):
            return answer
        scope[PERSON] = answer
        receive, sending = body.receive, of_files(send) if "/file=" in path else with_headers(send, HEADERS)
        if path == "/":
            await marked_page(self._app, scope, receive, send)
            return None
        if path == "/gradio_api/queue/join":
            event = await whole(receive)
            if not is_plain(event):
                return _plain("this is no event of the page", 400)
            receive = once(event, receive)
        await Cut(receive, sending).run(self._app, scope)
        return None

    async def _check(self, scope: Scope, path: str, body: Body) -> Response | str:
        """What a request is refused with, or whose it is."""
        headers = Headers(scope=scope)
        names = self._gate.names
        if names is not None and host_of(headers.get("host", "")) not in names:
            return _plain("this page is not called that; open it as localhost", 421)
        if scope["method"] == "POST" and not is_own(headers):
            return _plain("this came from a page of another site", 403)
        check_length(headers, body.most)
        if path in SIGNING:
            return await self._sign(scope, path, body)
        if path == STYLE and scope["method"] == "GET":
            return Response("\n".join(map(_read, ("talk.css", "page.css"))), media_type="text/css")
        if not is_used(scope["method"], path):
            return _plain("there is no such path", 404)
        person = self.person(headers)
        if person is not None:
            return person if path != UPLOAD or self._has_room() else _plain("there is no room for more files now", 507)
        if path == "/" and scope["method"] == "GET":
            return self._form(language_of(headers.get("accept-language", "")))
        return _plain("sign in first", 401)

    # ---- signing in

    def person(self, headers: Headers) -> str | None:
        """The key of whoever asks: "" where none is needed, None where it is missing."""
        if not self._gate.keys:
            return ""
        key = key_of(headers.get("authorization", ""), basic=True)
        if key and (found := known(key, self._keys)):
            return found.decode()
        return self._owner(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))

    def cookie(self, key: str, now: float | None = None) -> str:
        """What a browser keeps: when it ends, and a signature that only this process makes."""
        end = f"{int((time.time() if now is None else now) + COOKIE_SECONDS)}.{secrets.token_hex(8)}"
        return f"{end}.{self._signature(end, key)}"

    def _signature(self, end: str, key: str) -> str:
        return hmac.new(self._secret, f"{end}\0{key}".encode(), hashlib.sha256).hexdigest()

    def _owner(self, cookie: str) -> str | None:
        """The key that a cookie was made for, as long as it holds."""
        if len(cookie) > 256 or not re.fullmatch(r"\d{1,12}\.[0-9a-f]{16}\.[0-9a-f]{64}", cookie):
            return None
        end, _, signature = cookie.rpartition(".")
        if int(end.partition(".")[0]) < time.time() or cookie in self._ended:
            return None
        found = None
        for key in self._gate.keys:
            if hmac.compare_digest(signature, self._signature(end, key)):
                found = key
        return found

    async def _sign(self, scope: Scope, path: str, body: Body) -> Response:
        request = Request(scope, body.receive)
        language = language_of(request.headers.get("accept-language", ""))
        home = self._prefix + "/"
        if request.method != "POST":
            return RedirectResponse(home, 303)
        if path == "/sign-out":
            self._end(request.cookies.get(COOKIE, ""))
            response = RedirectResponse(home, 303)
            response.delete_cookie(COOKIE, path=self._prefix or "/")
            return response
        given = parse_qs((await request.body()).decode("utf-8", "replace")).get("key", [""])[0].strip()
        key = known(given.encode(), self._keys)
        if key is None:
            return self._form(language, "wrong_key")
        response = RedirectResponse(home, 303)
        response.set_cookie(
            COOKIE, self.cookie(key.decode()), max_age=COOKIE_SECONDS, path=self._prefix or "/", httponly=True,
            samesite="strict", secure=scope["scheme"] == "https",
        )  # fmt: skip
        return response

    def _end(self, cookie: str) -> None:
        now = time.time()
        self._ended = {one: end for one, end in self._ended.items() if end > now}
        if self._owner(cookie) is not None:
            self._ended[cookie] = now + COOKIE_SECONDS

    def _form(self, language: Language, wrong: str = "", status: int = 401) -> Response:
        return sign_in_form(language, f"{self._prefix}/sign-in", wrong, status)


def sign_in_form(language: Language, action: str, wrong: str, status: int) -> Response:
    """The page on which a key is typed."""
    text = _read("sign_in.html")
    filled = {word: say(word, language) for word in ("title", "sign_in", "key_label", "key_info")}
    filled |= {"lang": "zh-CN" if language == "zh" else "en", "action": action}
    filled["wrong"] = f'<p role="alert">{say(wrong, language)}</p>' if wrong else ""
    for name, value in filled.items():
        text = text.replace("{" + name + "}", value)
    return HTMLResponse(text, status)


# ---- what is asked of a request ------------------------------------------------------------------------------------


def is_used(method: str, path: str) -> bool:
    """Whether a route is on the list.

    >>> is_used("GET", "/config"), is_used("GET", "/gradio_api/proxy=http://localhost")
    (True, False)
    """
    if "//" in path or "/../" in path + "/":
        return False
    return any(method in methods.split() and re.fullmatch(pattern, path) for methods, pattern in ROUTES)


def is_plain(body: bytes) -> bool:
    """Whether an event gives the page's components plain values only.

    A component that is given the description of a file would have the library copy that file, or fetch its address.

    >>> is_plain(b'{"data": [null, 0.5, "Hi"]}'), is_plain(b'{"data": [{"path": "http://a.org/b"}]}')
    (True, False)
    """
    try:
        event: object = json.loads(body)
    except (ValueError, RecursionError):
        return False
    values = cast("dict[str, object]", event).get("data") if isinstance(event, dict) else None
    if not isinstance(values, list):
        return False
    return all(value is None or isinstance(value, str | int | float) for value in cast("list[object]", values))


def is_own(headers: Headers) -> bool:
    """Whether what changes something comes from this page, or from a program that is no browser."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host", "")


def _read(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")


def _plain(said: str, status: int) -> Response:
    return PlainTextResponse(said, status)

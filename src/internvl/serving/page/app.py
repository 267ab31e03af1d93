"""The web page: a client of an OpenAI-style server, drawn by Gradio around a small component of our own.

browser --PageGuard--> Gradio --events--> Page --answering.py--> /v1 of the server
   '-- files/talk.js: the conversation and the question

mount(app, settings)   at /ui of `internvl serve`, behind the keys of its API; it asks that same server
page_app(setup)        alone, for any server: `internvl ui --endpoint URL`
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from internvl.data.limits import MIB, Limits
from internvl.errors import MissingExtra
from internvl.serving.page.answering import Desk
from internvl.serving.page.ask import Endpoint
from internvl.serving.page.desk import Page
from internvl.serving.page.folder import kept, new_place
from internvl.serving.page.guard import PERSON, Gate, PageGuard

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Scope

    from internvl.serving.settings import Settings

T = TypeVar("T")
PLACE = "/ui"
SENT = Limits(bytes=64 * MIB, video_bytes=64 * MIB, clip_seconds=3600.0, frames=64, pages=32, local=False)
"""What may be added to a question."""
OPENED_AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a page is run."""

    endpoint: Callable[[Scope], Endpoint]
    """The server, as whoever sends a request reaches it."""
    gate: Gate = field(default_factory=Gate)
    sent: Limits = SENT
    votes: Path | None = None
    """The file in which thumbs and reports are written down; None: there are none."""


def page_app(setup: Setup) -> ASGIApp:
    """The page alone, at /. Raises MissingExtra without Gradio.

    >>> app = page_app(Setup(endpoint=lambda scope: Endpoint("http://localhost:8000/v1")))  # doctest: +SKIP
    """
    inner, has_room = _gradio(setup, "/")
    return PageGuard(inner, setup.gate, has_room=has_room)


def mount(app: FastAPI, settings: Settings) -> None:
    """Put the page at /ui of a server, behind the same keys and limits. It asks that server, with the person's key.

    Raises MissingExtra without Gradio.
    """
    sent = replace(settings.media_limits, local=False, remote=False, root=None)
    gate = Gate(
        keys=settings.keys, names=settings.names, upload=min(settings.limits.body, sent.bytes),
        body_seconds=settings.body_seconds,
    )  # fmt: skip
    setup = Setup(endpoint=own_endpoint, gate=gate, sent=sent, votes=settings.votes)
    inner, has_room = _gradio(setup, PLACE)
    outside = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(running: FastAPI) -> AsyncGenerator[Mapping[str, Any] | None]:
        # What is mounted is not told of its server's beginning and end.
        async with inner.router.lifespan_context(inner), outside(running) as state:
            yield state

    app.router.lifespan_context = cast(Any, lifespan)
    for path in ("/", PLACE):
        app.router.routes.append(Route(path, _to_the_page, methods=["GET"], include_in_schema=False))
    app.mount(PLACE, PageGuard(inner, gate, prefix=PLACE, has_room=has_room))


async def _to_the_page(_: Request) -> RedirectResponse:
    return RedirectResponse(PLACE + "/", 307)


def own_endpoint(scope: Scope) -> Endpoint:
    """The server that a request came to, over the address that it came to."""
    host, port = scope["server"]
    shown = f"[{host}]" if ":" in host else host
    return Endpoint(f"http://{shown}:{port}/v1", scope.get(PERSON, ""), is_own=True)


def _gradio(setup: Setup, place: str) -> tuple[FastAPI, Callable[[], bool]]:
    """Gradio's application, which finds itself at `place` and keeps its files in a folder that goes with it; and
    whether that folder may grow."""
    from fastapi import FastAPI

    try:
        import_module("gradio")
    except ModuleNotFoundError as error:
        raise MissingExtra(f"the page needs {error.name}; pip install 'internvl[ui]'") from None
    from internvl.serving.page.layout import blocks_of, mounted

    folder = new_place()
    desk = Desk(folder=folder, limits=setup.sent, opening=asyncio.Semaphore(OPENED_AT_ONCE))
    page = Page(setup.endpoint, desk, setup.votes, signed=bool(setup.gate.keys), most=setup.gate.upload)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        with kept(folder):
            yield

    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    return in_a_loop(lambda: mounted(outer, blocks_of(page), page, place)), page.has_room


def in_a_loop(make: Callable[[], T]) -> T:
    """What `make` makes: Gradio, where no event loop runs, would leave one behind for each of its locks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:

        async def made() -> T:
            return make()

        return asyncio.run(made())
    return make()

"""The API: an ASGI application in front of a `Backend`. There is no torch in this process.

CORS > Watch (id, log, counters, headers) > Guard (host, key, bytes) > routes > Backend
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib import import_module, metadata
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from internvl.errors import InternVLError, MissingExtra, UsageError
from internvl.serving import published, routes, routes_lists
from internvl.serving.backend import Backend
from internvl.serving.flights import Flights
from internvl.serving.guards import Guard, Origins, Watch, refused
from internvl.serving.logs import tell, tell_fault
from internvl.serving.metrics import Metrics
from internvl.serving.refusal import Refusal
from internvl.serving.running import Running
from internvl.serving.settings import Settings

PREFLIGHT_SECONDS = 600
NOT_SENT: Any = {"auto_configure": False, "tracing": False, "metrics": False, "logs": False}
"""Newer versions of FastAPI tell collectors, where the environment names some; what is counted here is at /metrics."""


def create_app(settings: Settings, backend: Backend) -> FastAPI:
    """The application. It starts the backend when it starts, and answers 503 until that is ready.

    >>> app = create_app(Settings(), backend)  # doctest: +SKIP
    """
    metrics = Metrics(backend.counters)
    flights = Flights(settings.request_seconds)
    running = Running(settings, backend, metrics, flights)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        starting = asyncio.ensure_future(_start(running))
        try:
            yield
        finally:
            flights.end()
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            await backend.stop()

    app = FastAPI(
        title=published.TITLE, version=metadata.version("internvl"),
        summary="Vision-language models behind OpenAI's API.",
        docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan, telemetry=NOT_SENT,
    )  # fmt: skip
    app.state.running = running
    app.router.routes += [*routes.router.routes, *routes_lists.router.routes]
    app.add_exception_handler(HTTPException, _not_found)
    app.state.has_page = settings.ui and _mount_page(app, settings)
    # What is added last is outermost.
    app.add_middleware(Guard, settings=settings, has_page=app.state.has_page, closed=lambda: running.closed)
    app.add_middleware(Watch, metrics=metrics, header_bytes=settings.header_bytes)
    if settings.origins:
        app.add_middleware(
            Origins, allow_origins=list(settings.origins), allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=["X-Request-Id", "Retry-After"],
            max_age=PREFLIGHT_SECONDS,
        )  # fmt: skip

    @cache
    def openapi(is_ready: bool) -> dict[str, Any]:
        return published.document(app, keyed=bool(settings.keys), served=running.named if is_ready else {})

    app.openapi = lambda: openapi(backend.ready)
    return app


def _mount_page(app: FastAPI, settings: Settings) -> bool:
    """The page at /ui, where what it is made with is installed."""
    try:
        import_module("internvl.serving.page.app").mount(app, settings)
    except (ModuleNotFoundError, MissingExtra):
        if settings.votes is not None:
            raise UsageError("--votes is of the page, which is not installed; pip install 'internvl[ui]'") from None
        return False
    return True


async def _start(running: Running) -> None:
    """Load the model; why it cannot be loaded is kept for whoever runs the server."""
    try:
        await running.backend.start()
    except InternVLError as error:
        running.failure = error
        if running.logs_failure:
            tell("failed", reason=str(error))
    except Exception as error:
        running.failure = InternVLError("the model could not be started; the log says where")
        tell_fault(error)
    else:
        tell("ready", model=running.backend.facts.model)


async def _not_found(request: Request, error: Exception) -> Response:
    """What routing itself refuses, in the shape that all errors have."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        refusal = Refusal(f"{request.method} is not how this path is asked", status=405, code="method_not_allowed")
    else:
        refusal = Refusal("there is no such path; GET /openapi.json says which there are", status=404,
                          code="not_found")  # fmt: skip
    response = refused(refusal)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response

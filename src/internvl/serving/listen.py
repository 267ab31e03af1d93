"""The HTTP server: what listens, what it never waits for, and how it stops.

first signal    /ready says 503, new requests are refused, those in the air end or are ended after drain seconds
second signal   all end now
"""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, cast

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from internvl.errors import UsageError
from internvl.serving.guards import headers_too_large
from internvl.serving.logs import tell
from internvl.serving.refusal import Refusal, unavailable
from internvl.serving.running import Running
from internvl.serving.settings import Settings

HEAD_SECONDS = 15.0
"""In which the first line and the headers of a request have come, and what is left of one that is answered already."""
IDLE_SECONDS = 75
"""After which a connection on which nothing is asked is closed; proxies close theirs earlier."""
LINGER_SECONDS = 1.0
"""For which a refused client may go on sending, so that it reads why."""
CLOSING_SECONDS = 5
BACKLOG = 512
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def bind(settings: Settings) -> socket.socket:
    """The socket that is listened on. Raises UsageError if the address cannot be had."""
    host, port = settings.host, settings.port
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise UsageError(f"host {host} has no address; give 127.0.0.1, 0.0.0.0 or one of this machine's") from None
    # asyncio sends at once (TCP_NODELAY) only where a socket says that it is TCP; else an answer waits for 40 ms.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        # What cannot be assigned is no address of this machine.
        other = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise UsageError(f"{host}:{port} cannot be listened on ({error.strerror}); choose another {other}") from None
    return listener


def address_of(settings: Settings, listener: socket.socket) -> str:
    """Where clients find the server.

    >>> address_of(Settings(port=0), bind(Settings(port=0)))  # doctest: +SKIP
    'http://127.0.0.1:41873'
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{host}:{listener.getsockname()[1]}"


def serve(settings: Settings, app: FastAPI, listener: socket.socket, *, told: Callable[[], None]) -> None:
    """Serve until a signal comes; `told` is called once the model is loaded. Raises what kept it from loading."""
    server = Server(settings, app, told)
    server.run(sockets=[listener])
    if server.running.failure is not None:
        raise server.running.failure


def bounds(settings: Settings) -> dict[str, Any]:
    """What keeps any server of this package from slow and from large requests: arguments of `uvicorn.Config`."""
    return {
        "http": _protocol(settings), "ws": "none", "access_log": False, "proxy_headers": False, "server_header": False,
        "timeout_keep_alive": IDLE_SECONDS, "h11_max_incomplete_event_size": settings.header_bytes, "backlog": BACKLOG,
    }  # fmt: skip


class Server(uvicorn.Server):
    """uvicorn, which still answers while it drains."""

    def __init__(self, settings: Settings, app: FastAPI, told: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app, lifespan="on", log_config=None, timeout_graceful_shutdown=CLOSING_SECONDS, **bounds(settings)
        )
        super().__init__(config)
        self.running: Running = app.state.running
        self.running.logs_failure = False  # `serve` raises it
        self._told: Callable[[], None] | None = told
        self._draining: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals reach this server while it runs, and nobody once it has ended: it ended as it was told to."""
        loop = asyncio.get_running_loop()
        for one in SIGNALS:
            loop.add_signal_handler(one, self.stop)
        try:
            yield
        finally:
            for one in SIGNALS:
                loop.remove_signal_handler(one)

    def stop(self) -> None:
        """Drain; called again: stop now."""
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
            return
        self.running.flights.end()
        self.config.timeout_graceful_shutdown = 1  # what still runs is cancelled; the backend is stopped all the same
        self.should_exit = True

    async def _drain(self) -> None:
        flights, seconds = self.running.flights, self.running.settings.drain_seconds
        tell("draining", requests=len(flights), seconds=seconds)
        ended = await flights.drain(seconds)
        tell("stopping", ended=ended)
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self.running.failure is not None:
            self.should_exit = True
        elif self._told is not None and self.running.is_ready:
            self._told()
            self._told = None
        return await super().on_tick(counter)


def _protocol(settings: Settings) -> type[asyncio.Protocol]:
    """HTTP/1.1 that says what is wrong in the shape of all errors, and does not wait for ever for a request."""

    class Protocol(H11Protocol):
        _patience: asyncio.TimerHandle | None = None
        _is_refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            if len(self.connections) > settings.connections:
                self._refuse(unavailable())
            else:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._is_refused:
                return
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE and not _is_answered(self.conn):
                self._wait_no_more()
            elif self._patience is None:
                self._wait()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if _is_answered(self.conn) and self._patience is None:
                self._wait()

        def send_400_response(self, msg: str) -> None:
            cycle: RequestResponseCycle | None = getattr(self, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                self.transport.close()
                return
            if len(self.conn.trailing_data[0]) >= settings.header_bytes:
                self._refuse(headers_too_large(settings.header_bytes))
            else:
                self._refuse(Refusal("this is no proper HTTP/1.1 request", code="invalid_http"))

        def _refuse(self, refusal: Refusal) -> None:
            self._is_refused = True
            self._wait_no_more()
            self.transport.write(_written(refusal))
            with suppress(NotImplementedError, OSError):
                self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)

        def _wait(self) -> None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.close)

        def _wait_no_more(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return cast(Any, Protocol)


def _is_answered(connection: h11.Connection) -> bool:
    """Whether a request has its answer, while its body still comes."""
    return connection.their_state is h11.SEND_BODY and connection.our_state is h11.DONE


def _written(refusal: Refusal) -> bytes:
    """A whole answer, where there is no request to answer."""
    body = json.dumps(refusal.body()).encode()
    lines = [f"HTTP/1.1 {refusal.status} Refused", "Content-Type: application/json",
             f"Content-Length: {len(body)}", "Connection: close"]  # fmt: skip
    lines += [f"{name}: {value}" for name, value in refusal.headers().items()]
    return "\r\n".join([*lines, "", ""]).encode() + body

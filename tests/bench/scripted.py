"""A small OpenAI-style server that streams what a script says, faults included, and remembers what it saw."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE = 60.0
"""Seconds after which a test that waits for the tool is lost."""


class Handler(BaseHTTPRequestHandler):
    """What a script can do with one question."""

    protocol_version = "HTTP/1.1"
    scripted: Scripted

    def log_message(self, *_: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.scripted.connections += 1

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model"} for name in self.scripted.models]
        self.say(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.scripted.lock:
            self.scripted.bodies.append(body)
            self.scripted.keys.append(self.headers["Authorization"])
            self.scripted.under_way += 1
            self.scripted.most = max(self.scripted.most, self.scripted.under_way)
            number = len(self.scripted.bodies) - 1
        try:
            self.scripted.play(self, body, number)
        except OSError:
            self.close_connection = True
        finally:
            with self.scripted.lock:
                self.scripted.under_way -= 1

    def say(self, status: int, content: Any, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str, **headers: str) -> None:
        self.say(status, {"error": {"message": message, "type": "error"}}, **headers)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, data: Any) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        line = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()

    def end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """The connection breaks."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def silence(self) -> None:
        """Nothing more until the client goes away, which is remembered."""
        self.connection.settimeout(PATIENCE)
        if self.connection.recv(1) == b"":
            self.scripted.gone.release()
        self.close_connection = True


def piece(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def answer(handler: Handler, body: dict[str, Any], number: int = 0, *, pieces: int = 3) -> None:
    """An answer as it should be, counted where the client asks for it."""
    handler.begin()
    handler.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
    for _ in range(pieces):
        handler.event(piece("word "))
    handler.event(piece("", "length"))
    if body.get("stream_options", {}).get("include_usage"):
        handler.event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": pieces + 1}})
    handler.event("[DONE]")
    handler.end()


@dataclass
class Scripted:
    """What the server does, and what it saw."""

    play: Callable[[Handler, dict[str, Any], int], None] = answer
    models: tuple[str, ...] = ("tiny",)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    connections: int = 0
    under_way: int = 0
    most: int = 0
    """Questions that were under way at once."""
    lock: Any = field(default_factory=threading.Lock)
    gone: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Clients that went away."""
    url: str = ""


class Quiet(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients go away: that is what is tested."""


@contextmanager
def serving(scripted: Scripted) -> Generator[Scripted]:
    """The server at an address of this machine."""
    server = Quiet(("127.0.0.1", 0), type("Bound", (Handler,), {"scripted": scripted}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    scripted.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield scripted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def nobody() -> Generator[str]:
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"

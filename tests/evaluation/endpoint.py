"""A small OpenAI-style server that answers through `Chat`, and can be told to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from internvl import Chat, SamplingConfig
from internvl.data.media import open_image
from internvl.data.prompts import Image, Message, Part, Text

KNOWN = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "max_tiles", "min_tokens"}


def messages_of(sent: list[dict[str, Any]]) -> list[Message]:
    """A conversation from the wire, by the rule that `inference.remote` states."""
    return [Message(one["role"], tuple(_parts(one["content"]))) for one in sent]


def _parts(content: str | list[dict[str, Any]]) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)]
    kinds = [part["type"] for part in content]
    pictures = [Image(open_image(p["image_url"]["url"])) for p in content if p["type"] == "image_url"]
    first_text = kinds.index("text") if "text" in kinds else len(kinds)
    if "image_url" not in kinds[first_text:]:
        return [*pictures, *(Text(part["text"]) for part in content if part["type"] == "text")]
    places = ("<image>" if part["type"] == "image_url" else Text(part["text"]) for part in content)
    return [*pictures, *places]


@dataclass
class Endpoint:
    """What the server does, and what it saw. `answer` is given the request's body."""

    answer: Callable[[dict[str, Any]], dict[str, Any]]
    failures: list[int] = field(default_factory=list)
    """HTTP statuses to answer with first."""
    complaint: str = "told to fail"
    models: tuple[str, ...] = ("tiny",)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(endpoint: Endpoint) -> Generator[Endpoint]:
    """The endpoint at an address of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.say(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in endpoint.models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.bodies.append(body)
            endpoint.keys.append(self.headers["Authorization"])
            if endpoint.failures:
                status = endpoint.failures.pop(0)
                self.say(status, {"error": {"message": endpoint.complaint}})
            else:
                self.say(200, endpoint.answer(body))

        def say(self, status: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text: str, finish: str = "stop", tokens: int = 1) -> dict[str, Any]:
    """What /v1/chat/completions answers."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1},
    }


def answering(chat: Chat) -> Endpoint:
    """An endpoint that answers through a chat, one request at a time."""
    lock = threading.Lock()

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        assert set(body) <= KNOWN, f"fields that nobody honours: {set(body) - KNOWN}"
        sampling = SamplingConfig(
            max_new_tokens=body["max_tokens"],
            min_new_tokens=body.get("min_tokens", 0),
            temperature=body.get("temperature", 1.0),
            top_p=body.get("top_p"),
            seed=body.get("seed"),
        )
        with lock:
            [answer] = chat.batch(
                [messages_of(body["messages"])], sampling=sampling, max_tiles=body.get("max_tiles"), batch_size=1
            )
        return completion(answer.text, answer.finish, answer.usage.completion)

    return Endpoint(answer)

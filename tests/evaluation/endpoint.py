"""A small OpenAI-style server that answers through `Chat`, and can be told to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from internvl import Chat, SamplingConfig
from internvl.data.media import open_image
from internvl.data.prompts import Image, Message, Part, Text

KNOWN = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "max_tiles", "min_tokens", "stream",
         "stream_options", "top_k", "repetition_penalty"}  # fmt: skip


def messages_of(sent: list[dict[str, Any]]) -> list[Message]:
    """A conversation from the wire, by the rule that `inference.remote` states."""
    return [Message(one["role"], tuple(_parts(one["content"]))) for one in sent]


def _parts(content: str | list[dict[str, Any]]) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)]
    kinds = [part["type"] for part in content]
    urls = [part["image_url"] for part in content if part["type"] == "image_url"]
    pictures = [Image(open_image(one["url"]), 1 if one.get("detail") == "low" else None) for one in urls]
    first_text = kinds.index("text") if "text" in kinds else len(kinds)
    if "image_url" not in kinds[first_text:]:
        return [*pictures, *(Text(part["text"]) for part in content if part["type"] == "text")]
    places = ("<image>" if part["type"] == "image_url" else Text(part["text"]) for part in content)
    return [*pictures, *places]


@dataclass
class Endpoint:
    """What the server does, and what it saw. `answer` is given the request's body, and streamed where that is asked."""

    answer: Callable[[dict[str, Any]], dict[str, Any]]
    failures: list[int] = field(default_factory=list)
    """HTTP statuses to answer with first."""
    complaint: str = "told to fail"
    models: tuple[str, ...] = ("tiny",)
    owner: str = "tester"
    ends: bool = True
    """False: a stream breaks off, after as much as was to be said."""
    hold: threading.Event | None = None
    """A stream waits for it after its first piece."""
    left: threading.Event = field(default_factory=threading.Event)
    """Set when the other side has gone away while something was being streamed."""
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
            self.say(
                200,
                {
                    "object": "list",
                    "data": [{"id": name, "object": "model", "owned_by": endpoint.owner} for name in endpoint.models],
                },
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.bodies.append(body)
            endpoint.keys.append(self.headers["Authorization"])
            if endpoint.failures:
                status = endpoint.failures.pop(0)
                self.say(status, {"error": {"message": endpoint.complaint}})
            elif body.get("stream"):
                self.stream(endpoint.answer(body), counts="stream_options" in body)
            else:
                self.say(200, endpoint.answer(body))

        def stream(self, done: dict[str, Any], *, counts: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                for number, chunk in enumerate(chunks(done, ends=endpoint.ends, counts=counts)):
                    self.wfile.write(f"data: {chunk}\n\n".encode())
                    if endpoint.hold is not None and number == 0:
                        while not endpoint.hold.wait(0.05):
                            self.wfile.write(b": waiting\n\n")  # fails once nobody listens
            except OSError:
                endpoint.left.set()
            self.close_connection = True

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


def chunks(done: dict[str, Any], *, ends: bool, counts: bool) -> Iterator[str]:
    """An answer as the events of a stream: three letters a piece."""
    [choice] = done["choices"]
    same = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "tiny"}
    text = choice["message"]["content"] or ""
    for start in range(0, len(text), 3):
        delta = {"index": 0, "delta": {"content": text[start : start + 3]}, "finish_reason": None}
        yield json.dumps({**same, "choices": [delta]})
    if not ends:
        return
    yield json.dumps({**same, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    if counts:
        yield json.dumps({**same, "choices": [], "usage": done["usage"]})
    yield "[DONE]"


def answering(chat: Chat) -> Endpoint:
    """An endpoint that answers through a chat, one request at a time."""
    lock = threading.Lock()

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        assert set(body) <= KNOWN, f"fields that nobody honours: {set(body) - KNOWN}"
        sampling = SamplingConfig(
            max_new_tokens=body.get("max_tokens", 16),
            min_new_tokens=body.get("min_tokens", 0),
            temperature=body.get("temperature", 0.0),
            top_p=body.get("top_p"),
            top_k=body.get("top_k"),
            repetition_penalty=body.get("repetition_penalty", 1.0),
            seed=body.get("seed"),
        )
        with lock:
            [answer] = chat.batch(
                [messages_of(body["messages"])], sampling=sampling, max_tiles=body.get("max_tiles"), batch_size=1
            )
        return completion(answer.text, answer.finish, answer.usage.completion)

    return Endpoint(answer)

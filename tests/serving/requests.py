"""Requests for the tests, and an official client whose requests go nowhere but into a list."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any

import openai

from internvl.serving.fields import RequestLimits, read_json, understood
from internvl.serving.refusal import Refusal
from internvl.serving.responses import ResponsesRequest
from internvl.serving.schema import ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest

PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="
HI = [{"role": "user", "content": "Hi"}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
KINDS = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/tokenize": TokenizeRequest,
}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "nano", "messages": HI, **fields}


def shown(*parts: Any) -> dict[str, Any]:
    """A chat of one message with these parts; a string is a text."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return chat(messages=[{"role": "user", "content": content}])


def image(url: str = PNG, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def refusal(kind: type, body: Any, limits: RequestLimits | None = None) -> Refusal | None:
    """What a request is refused with, or None."""
    try:
        understood(kind, body, limits or RequestLimits())
    except Refusal as error:
        return error
    return None


class Client:
    """The official client; `bodies` are what it sent, `reply` is what it is answered."""

    def __init__(self, reply: Callable[[str, dict[str, Any]], Any]) -> None:
        # The client brings its own version of httpx, under a name that has changed.
        httpx = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
        self.bodies: list[tuple[str, dict[str, Any]]] = []

        def handle(request: Any) -> Any:
            body = read_json(request.content) if request.content else {}
            self.bodies.append((request.url.path, body))
            try:
                if request.url.path in KINDS:
                    understood(KINDS[request.url.path], body)
                answer = reply(request.url.path, body)
            except Refusal as error:
                return httpx.Response(error.status, json=error.body(), headers=error.headers())
            if isinstance(answer, bytes):
                return httpx.Response(200, content=answer, headers={"Content-Type": "text/event-stream"})
            return httpx.Response(200, content=json.dumps(answer), headers={"Content-Type": "application/json"})

        transport = openai.DefaultHttpxClient(transport=httpx.MockTransport(handle))
        self.api = openai.OpenAI(api_key="k", base_url="http://server/v1", http_client=transport, max_retries=0)

    def close(self) -> None:
        self.api.close()

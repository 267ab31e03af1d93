"""The page as a client: one question to an OpenAI-style server, its answer piece by piece.

body --answers--> Part("to"), Part("day"), ..., Count(...)      or a Failed, in words of the page
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from internvl.errors import InternVLError, UsageError
from internvl.serving.page.talk import Json
from internvl.serving.settings import OWN_NAMES

if TYPE_CHECKING:
    import ssl

    import httpx

REACH = 10.0
"""Seconds to reach a server."""
SILENCE = 600.0
"""Seconds that it may say nothing."""
LONGEST_LINE = 4 * 2**20
SAID = 300
"""Letters of what a server says, as the page repeats it."""


@dataclass(frozen=True)
class Part:
    """More of an answer."""

    text: str


@dataclass(frozen=True)
class Count:
    """Tokens, where the server counts them."""

    prompt: int | None = None
    answer: int | None = None
    image: int | None = None
    cached: int | None = None


@dataclass(frozen=True)
class End:
    """Why an answer ended: `stop`, `length`."""

    finish: str


class Failed(InternVLError):
    """No answer; `word` of `words` says why, filled with `filled`."""

    def __init__(self, word: str, **filled: object) -> None:
        super().__init__(word)
        self.word, self.filled = word, filled


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-style server as one person reaches it."""

    url: str
    """Ends in /v1 with most servers."""
    key: str = ""
    is_own: bool = False
    """It is this very process, which no proxy of the environment stands before."""

    def client(self) -> httpx.AsyncClient:
        """A client of its own for each question: closing it lets the server stop."""
        import httpx

        own = self.is_own or urlsplit(self.url).hostname in OWN_NAMES
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        timeout = httpx.Timeout(SILENCE, connect=REACH)
        # What is on this machine is not reached through a proxy; nothing is followed elsewhere with the key.
        return httpx.AsyncClient(headers=headers, timeout=timeout, verify=_trusted(), trust_env=not own,
                                 follow_redirects=False)  # fmt: skip


@cache
def _trusted() -> ssl.SSLContext:
    """Whose certificates are believed: read once, since a client that reads them holds up the event loop."""
    import httpx

    return httpx.create_ssl_context()


def endpoint_of(url: str, key: str = "") -> Endpoint:
    """A server by its address, which must be one.

    >>> endpoint_of("http://localhost:8000/v1/").url
    'http://localhost:8000/v1'
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        known = False
    if not known:
        raise UsageError(f"endpoint {url!r}: expected an address such as http://localhost:8000/v1")
    return Endpoint(url.rstrip("/"), key)


async def answers(endpoint: Endpoint, body: Mapping[str, Any]) -> AsyncGenerator[Part | Count | End]:
    """One answer, as it grows. Closing the generator lets the server stop. Raises Failed."""
    import httpx

    try:
        async with (
            endpoint.client() as client,
            client.stream("POST", f"{endpoint.url}/chat/completions", **await _sent(body)) as response,
        ):
            if response.status_code != 200:
                await response.aread()
                raise failed(response)
            async for event in _events(response):
                for one in _parts(event):
                    yield one
    except httpx.ConnectError:
        raise Failed("away") from None
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise Failed("broken") from None


async def _sent(body: Mapping[str, Any]) -> Json:
    """A body as `httpx` takes it. It may hold pictures of many megabytes, so a thread writes it, piece by piece: in one
    piece it would hold up all others all the same."""
    pieces = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    content = await asyncio.to_thread(lambda: b"".join(piece.encode() for piece in pieces.iterencode(body)))
    return {"content": content, "headers": {"Content-Type": "application/json"}}


async def _events(response: httpx.Response) -> AsyncGenerator[Json]:
    """The objects of a stream of server-sent events. Raises ValueError for what is none, or without an end."""
    ended = False
    async for line in response.aiter_lines():
        if len(line) > LONGEST_LINE:
            raise ValueError
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            ended = True
            break
        yield json.loads(data)
    if not ended:
        raise ValueError


def _parts(event: Json) -> list[Part | Count | End]:
    if "error" in event:
        raise Failed("refused", said=_one_line(event["error"]))
    found: list[Part | Count | End] = []
    for choice in event.get("choices") or ():
        text = (choice.get("delta") or {}).get("content")
        found += [Part(text)] if text else []
        found += [End(str(choice["finish_reason"]))] if choice.get("finish_reason") else []
    if usage := event.get("usage"):
        details = usage.get("prompt_tokens_details") or {}
        found.append(Count(usage.get("prompt_tokens"), usage.get("completion_tokens"),
                           details.get("image_tokens"), details.get("cached_tokens")))  # fmt: skip
    return found


def failed(response: httpx.Response) -> Failed:
    """What a server's refusal is on the page."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = None
    after = response.headers.get("retry-after", "")
    seconds = int(after) if after.isascii() and after.isdigit() else 5
    match response.status_code:
        case 401 | 403:
            return Failed("key")
        case 429:
            return Failed("busy", seconds=seconds)
        case 503:
            return Failed("starting", seconds=seconds)
        case _:
            return Failed("refused", said=_one_line(error)) if error else Failed("broken")


def _one_line(error: object) -> str:
    """What a server says. Its places in the messages are nothing that a person wrote; settings keep their names."""
    told = cast("Mapping[str, object]", error) if isinstance(error, Mapping) else {"message": error}
    text = " ".join(str(told.get("message") or "no reason").split())
    if str(place := told.get("param")).startswith("messages"):
        text = text.removeprefix(f"{place}: ")
    return text if len(text) <= SAID else text[: SAID - 1] + "…"


# ---- what there is, and how pictures are cut ---------------------------------------------------------------------


async def models(endpoint: Endpoint) -> dict[str, str | None]:
    """The models that answer, and whose they are. Raises Failed."""
    listed = (await _json(endpoint, "GET", "/models")).get("data")
    if not isinstance(listed, list):
        raise Failed("no_models")
    found = [cast("Json", one) for one in cast("list[object]", listed) if isinstance(one, dict) and "id" in one]
    # Those that only make vectors have no context, where the server says contexts.
    talking = [one for one in found if one.get("max_model_len")] or found
    return {str(one["id"]): one.get("owned_by") for one in talking}


async def tiles(endpoint: Endpoint, body: Json) -> tuple[int, ...] | None:
    """Tiles of each picture of a conversation, as the server cuts them; None where it does not say."""
    base = endpoint.url.removesuffix("/v1")
    try:
        said = await _json(replace(endpoint, url=base), "POST", "/tokenize", body)
    except Failed as error:
        if error.word in ("refused", "broken"):  # there is no such path
            return None
        raise
    images = said.get("images")
    if not isinstance(images, list):
        return None
    counts = [cast("Json", one).get("tiles") for one in cast("list[object]", images) if isinstance(one, dict)]
    return tuple(one for one in counts if isinstance(one, int) and one > 0)


async def _json(endpoint: Endpoint, method: str, path: str, body: Json | None = None) -> Json:
    import httpx

    try:
        async with endpoint.client() as client:
            sent = {} if body is None else await _sent(body)
            response = await client.request(method, endpoint.url + path, timeout=REACH * 6, **sent)
            if response.status_code != 200:
                raise failed(response)
            said = response.json()
    except httpx.ConnectError:
        raise Failed("away") from None
    except (httpx.HTTPError, ValueError):
        raise Failed("broken") from None
    return said if isinstance(said, dict) else {}

"""The load tool's client: one answer as a stream, each piece reported as it comes, each failure by its kind.

Nothing is asked twice and nothing is repaired: what a server does is what is measured.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from internvl.bench.load import Failed, Said
from internvl.errors import EndpointError, MissingExtra

BUSY = (408, 409, 429)
"""Statuses after which a run begins all the same, as after any from 500: a server under load is what is measured."""
MOST_LETTERS = 200
"""Of what a server says of an error."""


class Refused(Failed):
    """Answered with an HTTP status that says no."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}", text)
        self.status = status


class Unreachable(Failed):
    """No connection, or one that broke before anything was answered."""


class Client:
    """One model at an OpenAI-style endpoint.

    >>> async with Client("http://localhost:8000/v1", model="m", key="none", max_tokens=8) as client:  # doctest: +SKIP
    ...     await client.ask([{"role": "user", "content": "Hello"}], lambda: None)
    """

    def __init__(
        self, url: str, *, model: str, key: str, max_tokens: int, extra: Mapping[str, Any] | None = None
    ) -> None:
        """extra: fields that are sent as they are."""
        from internvl.data.fetch import without_secrets
        from internvl.inference.remote import NO_KEY

        try:
            import openai
        except ImportError:
            raise MissingExtra("an endpoint needs the package openai (pip install 'internvl[eval]')") from None
        # As many connections as there are requests: no queue of our own stands before the server's.
        unlimited = type(openai.DEFAULT_CONNECTION_LIMITS)(max_connections=None, max_keepalive_connections=None)
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=key,
            max_retries=0,
            timeout=None,  # the load's own timeout cancels
            http_client=openai.DefaultAsyncHttpxClient(limits=unlimited),
        )
        self._shown = without_secrets(url)
        self._key = None if key == NO_KEY else key
        self._fields: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "stream_options": {"include_usage": True},
        }
        self._extra = dict(extra or {})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def greet(self, messages: Sequence[Mapping[str, Any]], timeout: float) -> list[str]:
        """Ask one question that is not measured: a user's mistake shows here, and how the server calls the fields.

        Returns what is to be known of the run. Raises EndpointError with what the server said.
        """
        notes: list[str] = []
        while True:
            try:
                async with asyncio.timeout(timeout):
                    await self.ask(messages, lambda: None)
            except TimeoutError:
                raise EndpointError(
                    f"{self._shown}: no answer to a first question in {timeout:g} s; see what the server does, or wait "
                    "longer (--timeout SECONDS)"
                ) from None
            except Refused as error:
                if error.status in (400, 422) and self._adapt(str(error), notes):
                    continue
                if error.status < 500 and error.status not in BUSY:
                    raise self._mistake(error) from None
                notes.append(f"a first question, not counted, was answered with {error.kind} ({error})")
            except Unreachable as error:
                raise EndpointError(f"{self._shown}: {error}; is the server running, at this address?") from None
            except Failed as error:
                notes.append(f"a first question, not counted, failed: {error.kind} ({error})")
            return notes

    def _adapt(self, said: str, notes: list[str]) -> bool:
        """Whether the server calls a field otherwise, or lacks one that can be done without."""
        if "max_completion_tokens" in said and "max_tokens" in self._fields:
            self._fields["max_completion_tokens"] = self._fields.pop("max_tokens")
            return True
        if "stream_options" in said and "stream_options" in self._fields:
            del self._fields["stream_options"]
            notes.append("the server does not know stream_options, so it does not count tokens")
            return True
        return False

    def _mistake(self, error: Refused) -> EndpointError:
        hint = ""
        if error.status in (401, 403):
            hint = (
                "; no key was sent, name the variable that holds it: --key-env NAME"
                if self._key is None
                else "; is the key the right one?"
            )
        elif error.status == 404:
            hint = "; is the address right (mostly …/v1), and does the server have this model?"
        found = EndpointError(f"{self._shown}: {error.kind}, {str(error).rstrip('.')}{hint}")
        found.status = error.status
        return found

    async def ask(self, messages: Sequence[Mapping[str, Any]], heard: Callable[[], None]) -> Said:
        """One answer; `heard` is called at each piece of it that holds text. Raises `Failed`."""
        import openai

        create: Any = self._client.chat.completions.with_streaming_response.create
        asked = create(messages=messages, stream=True, extra_body=self._extra or None, **self._fields)
        async with AsyncExitStack() as stack:  # which closes the connection of an answer that is cancelled
            try:
                response = await stack.enter_async_context(asked)
            except openai.APIStatusError as error:
                raise Refused(error.status_code, self._said(error) + _wished(error)) from None
            except openai.OpenAIError as error:
                raise Unreachable("no connection", self._said(error)) from None
            except Exception as error:  # of the HTTP library, where the body of a refusal breaks off
                raise _broken(error) from None
            return await self._listen(_lines(response.iter_lines()), heard)

    async def _listen(self, lines: AsyncIterator[str], heard: Callable[[], None]) -> Said:
        prompt = output = finish = None
        began = over = False
        try:
            async for line in lines:
                field, _, data = line.partition(":")
                over = over or (field == "data" and data.strip() == "[DONE]")
                if field != "data" or over:  # read to its end all the same, so that the connection can be used again
                    continue
                began, event = True, self._event(data)
                choice = _first(event.get("choices"))
                if _has_text(choice.get("delta")):
                    heard()
                finish = choice.get("finish_reason") or finish
                usage = event.get("usage")
                if isinstance(usage, Mapping):
                    prompt, output = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        except Failed:
            if not over:  # all was said before it broke
                raise
        if not (finish or over):
            if not began:
                raise Failed("no stream", "the answer holds no events; does the server stream?")
            raise Failed("cut stream", "the stream ended before the answer did")
        return Said(prompt_tokens=prompt, output_tokens=output, finish=str(finish) if finish else None)

    def _event(self, data: str) -> Mapping[str, Any]:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, Mapping):
            raise Failed("unreadable event", self._shortened(f"not a JSON object: {data.strip()}"))
        if error := event.get("error"):
            message = error.get("message") if isinstance(error, Mapping) else error
            raise Failed("error in the stream", self._shortened(str(message)))
        return event

    def _said(self, error: Exception) -> str:
        """What an error of the client says, on one line; some servers repeat the key that they were given."""
        body = getattr(error, "body", None)
        message = body.get("message") if isinstance(body, Mapping) else None
        cause = f" ({error.__cause__})" if error.__cause__ is not None and str(error.__cause__) and not message else ""
        return self._shortened(f"{message or error}") + self._shortened(cause)

    def _shortened(self, text: str) -> str:
        line = "".join(letter if letter.isprintable() else " " for letter in text)
        line = line if self._key is None else line.replace(self._key, "***")
        lead = " " if line.startswith(" ") else ""
        return lead + " ".join(line.split())[:MOST_LETTERS]


async def _lines(source: AsyncIterator[str]) -> AsyncIterator[str]:
    """Lines of a stream; whatever breaks it is one kind of failure."""
    while True:
        try:
            line = await anext(source)
        except StopAsyncIteration:
            return
        except Exception as error:  # of whichever HTTP library the client uses
            raise _broken(error) from None
        yield line


def _broken(error: Exception) -> Failed:
    return Failed("cut stream", f"the connection broke: {type(error).__name__}")


def _wished(error: Exception) -> str:
    """How long a server asks to wait."""
    wished = str(getattr(getattr(error, "response", None), "headers", {}).get("retry-after", ""))
    return f" (asks to wait {wished} s)" if wished.isdigit() and len(wished) < 8 else ""


def _first(choices: object) -> Mapping[str, Any]:
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else {}


def _has_text(delta: object) -> bool:
    """Whether a piece holds something of the answer: text, a thought, a call of a tool."""
    return isinstance(delta, Mapping) and any(
        delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls")
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

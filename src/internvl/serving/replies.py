"""What is answered: OpenAI's objects, made of plain values.

Choice, Usage --completion--> chat.completion        --Chunks--> chat.completion.chunk, one after the other
              --text_completion--> text_completion
lists of models and embeddings, /tokenize; the objects of /v1/responses are in `serving.response_events`
"""

from __future__ import annotations

import base64
import json
import math
import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from internvl.serving.tools import Call

Finish = Literal["stop", "length"]
Json = dict[str, Any]

LEAST = -9999.0
"""The log-probability that is written for minus infinity, which JSON does not have."""


@dataclass(frozen=True)
class TokenSaid:
    """A token of an answer, or an alternative to one: its text, its bytes, its log-probability."""

    text: str
    bytes: bytes
    logprob: float
    top: tuple[TokenSaid, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens of a request: of all its prompts and answers."""

    prompt: int
    completion: int
    cached: int = 0
    """Of the prompt, tokens that were known from before."""
    image: int = 0
    """Of the prompt, picture slots."""

    def as_json(self) -> Json:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "image_tokens": self.image},
        }


@dataclass(frozen=True)
class Choice:
    """One answer of a request."""

    index: int
    text: str
    finish: Finish
    calls: tuple[Call, ...] = ()
    logprobs: tuple[TokenSaid, ...] | None = None

    @property
    def reason(self) -> str:
        return "tool_calls" if self.calls and all(call.whole for call in self.calls) else self.finish


@dataclass(frozen=True)
class Head:
    """What all objects of one answer share."""

    id: str
    model: str
    created: int
    """Seconds since 1970."""
    tier: str | None = None
    """How it was served, where the request said how it wants to be: flex, default."""

    def of(self, kind: str, **more: Any) -> Json:
        said = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**said, **self.tier_said, **more}

    @property
    def tier_said(self) -> Json:
        return {} if self.tier is None else {"service_tier": self.tier}


def new_id(prefix: str) -> str:
    """A name that nothing else has: chatcmpl-…, resp_…, call_….

    >>> new_id("call_")[:5]
    'call_'
    """
    return prefix + secrets.token_hex(12)


def number(value: float) -> float:
    """A log-probability that JSON can hold."""
    return max(LEAST, value) if math.isfinite(value) else LEAST


# ---- chat ------------------------------------------------------------------------------------------------------------


def completion(head: Head, choices: Sequence[Choice], usage: Usage) -> Json:
    """/v1/chat/completions, all at once."""
    answers = [
        {
            "index": choice.index,
            "message": {
                "role": "assistant",
                "content": choice.text if choice.text or not choice.calls else None,
                "refusal": None,
                **({"tool_calls": calls_json(choice.calls)} if choice.calls else {}),
            },
            "logprobs": None if choice.logprobs is None else logprobs_json(choice.logprobs),
            "finish_reason": choice.reason,
        }
        for choice in choices
    ]
    return head.of("chat.completion", choices=answers, usage=usage.as_json())


def calls_json(calls: Sequence[Call]) -> list[Json]:
    return [
        {"id": new_id("call_"), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def logprobs_json(tokens: Sequence[TokenSaid]) -> Json:
    content = [{**_token(token), "top_logprobs": [_token(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _token(token: TokenSaid) -> Json:
    return {"token": token.text, "logprob": number(token.logprob), "bytes": list(token.bytes)}


@dataclass(frozen=True)
class Chunks:
    """The pieces of a chat that is streamed: for each choice `begin`, `words`, `calls`, `end`; then `usage`.

    >>> Chunks(Head("chatcmpl-1", "nano", 0)).words(0, "Hi")["choices"][0]["delta"]
    {'content': 'Hi'}
    """

    head: Head
    with_usage: bool = False

    def begin(self, index: int) -> Json:
        return self._chunk(index, {"role": "assistant", "content": ""})

    def words(self, index: int, text: str, logprobs: Sequence[TokenSaid] | None = None) -> Json:
        return self._chunk(index, {"content": text}, logprobs)

    def calls(self, index: int, calls: Sequence[Call], *, first: int = 0) -> Json:
        """Whole calls; `first`: how many this choice has had before."""
        numbered = [{"index": first + place, **call} for place, call in enumerate(calls_json(calls))]
        return self._chunk(index, {"tool_calls": numbered})

    def end(self, index: int, reason: str, logprobs: Sequence[TokenSaid] | None = None) -> Json:
        return self._chunk(index, {}, logprobs, reason)

    def usage(self, usage: Usage) -> Json:
        """The last chunk, where it is asked for."""
        return self.head.of("chat.completion.chunk", choices=[], usage=usage.as_json())

    def _chunk(
        self, index: int, delta: Json, logprobs: Sequence[TokenSaid] | None = None, reason: str | None = None
    ) -> Json:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": None if logprobs is None else logprobs_json(logprobs),
            "finish_reason": reason,
        }
        more = {"usage": None} if self.with_usage else {}
        return self.head.of("chat.completion.chunk", choices=[choice], **more)


def event(body: Mapping[str, Any], name: str | None = None) -> bytes:
    """One server-sent event. Text that holds line breaks is JSON, and so on one line.

    >>> event({"a": "b"})
    b'data: {"a":"b"}\\n\\n'
    """
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    lead = "" if name is None else f"event: {name}\n"
    return f"{lead}data: {data}\n\n".encode("utf-8", "replace")


DONE = b"data: [DONE]\n\n"
"""What ends a stream of chat or completions."""


# ---- completions -----------------------------------------------------------------------------------------------------


def text_completion(head: Head, choices: Sequence[Choice], usage: Usage) -> Json:
    """/v1/completions, all at once."""
    return head.of("text_completion", choices=[_text_choice(one) for one in choices], usage=usage.as_json())


@dataclass(frozen=True)
class TextChunks:
    """The pieces of a text that is streamed.

    >>> TextChunks(Head("cmpl-1", "nano", 0)).piece(Choice(0, "Hi", "stop"), done=False)["choices"][0]["text"]
    'Hi'
    """

    head: Head
    with_usage: bool = False
    told: dict[int, int] = field(default_factory=dict[int, int])
    """Letters of each answer's tokens so far."""

    def piece(self, choice: Choice, *, done: bool) -> Json:
        """Some more of one of the answers; done: its last."""
        start = self.told.get(choice.index, 0)
        self.told[choice.index] = start + sum(len(token.text) for token in choice.logprobs or ())
        more = {"usage": None} if self.with_usage else {}
        return self.head.of("text_completion", choices=[_text_choice(choice, start=start, done=done)], **more)


def _text_choice(choice: Choice, *, start: int = 0, done: bool = True) -> Json:
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": None if choice.logprobs is None else _text_logprobs(choice.logprobs, start),
        "finish_reason": choice.finish if done else None,
    }


def _text_logprobs(tokens: Sequence[TokenSaid], at: int) -> Json:
    """In the form that completions have: four lists. Alternatives of the same text: the likeliest counts."""
    offsets: list[int] = []
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    tops = [{other.text: number(other.logprob) for other in reversed(token.top)} for token in tokens]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [number(token.logprob) for token in tokens],
        "top_logprobs": tops,
        "text_offset": offsets,
    }


# ---- lists -----------------------------------------------------------------------------------------------------------


def models(names: Sequence[str], created: int, *, context: int | None = None) -> Json:
    """/v1/models; `context`: the tokens that they read, as vLLM says it."""
    more: Json = {} if context is None else {"max_model_len": context}
    listed = [{"id": name, "object": "model", "created": created, "owned_by": "internvl", **more} for name in names]
    return {"object": "list", "data": listed}


def embeddings(model: str, vectors: Sequence[Sequence[float]], tokens: int, *, as_base64: bool = False) -> Json:
    """/v1/embeddings. As base64: little-endian float32, which is what clients read."""
    data = [
        {"object": "embedding", "index": index, "embedding": packed(vector) if as_base64 else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def packed(vector: Sequence[float]) -> str:
    """
    >>> packed([1.0])
    'AACAPw=='
    """
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def tokenized(
    ids: Sequence[int],
    context: int,
    *,
    tiles: Sequence[int] = (),
    sizes: Sequence[tuple[int, int]] = (),
) -> Json:
    """/tokenize, as vLLM answers it; and where there are pictures, as an extension, how each was cut."""
    images = [{"width": size[0], "height": size[1], "tiles": count} for size, count in zip(sizes, tiles, strict=True)]
    return {
        "count": len(ids),
        "max_model_len": context,
        "tokens": list(ids),
        "token_strs": None,
        **({"images": images} if images else {}),
    }

"""The object of /v1/responses, and the events in which it grows.

created, in_progress
    output_item.added, content_part.added, output_text.delta …, output_text.done, content_part.done,
    output_item.done                                                          what is said, if anything is
    output_item.added, function_call_arguments.delta, .done, output_item.done          each call
completed, or incomplete where the tokens ran out, or failed
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from internvl.serving.refusal import Refusal
from internvl.serving.replies import Finish, Head, Json, TokenSaid, Usage, new_id, number
from internvl.serving.responses import ResponsesRequest
from internvl.serving.tools import Call


def usage_json(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {
            "cached_tokens": usage.cached,
            "cache_write_tokens": 0,
            "image_tokens": usage.image,
        },
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt + usage.completion,
    }


@dataclass
class Growing:
    """A response while it grows. Each method gives the events that are sent; `response()` is the object by then.

    >>> list(e["type"] for e in Growing(head, request).begin())  # doctest: +SKIP
    ['response.created', 'response.in_progress']
    """

    head: Head
    request: ResponsesRequest
    temperature: float = 0.0
    """What is sampled with, where the request does not say it."""
    output: list[Json] = field(default_factory=list[Json])
    status: str = "in_progress"
    error: Json | None = None
    usage: Usage | None = None
    _sent: int = 0
    _text: str = ""
    _tokens: list[TokenSaid] = field(default_factory=list[TokenSaid])
    _message: Json | None = None

    # ---- events ------------------------------------------------------------------------------------------------------

    def begin(self) -> Iterator[Json]:
        yield self._event("created", response=self.response())
        yield self._event("in_progress", response=self.response())

    def words(self, text: str, logprobs: Sequence[TokenSaid] = ()) -> Iterator[Json]:
        """More of what is said."""
        if self._message is None:
            yield from self._open()
        self._text += text
        self._tokens += logprobs
        yield self._event(
            "output_text.delta", **self._place(), content_index=0, delta=text, logprobs=self._logprobs(logprobs)
        )

    def call(self, call: Call) -> Iterator[Json]:
        """A call, which comes at once."""
        yield from self._close("completed")
        at = {"output_index": len(self.output), "item_id": new_id("fc_")}
        item: Json = {"type": "function_call", "id": at["item_id"], "call_id": new_id("call_"), "name": call.name}
        begun = {**item, "arguments": "", "status": "in_progress"}
        yield self._event("output_item.added", output_index=at["output_index"], item=begun)
        yield self._event("function_call_arguments.delta", **at, delta=call.arguments)
        yield self._event("function_call_arguments.done", **at, name=call.name, arguments=call.arguments)
        self.output.append({**item, "arguments": call.arguments, "status": "completed" if call.whole else "incomplete"})
        yield self._event("output_item.done", output_index=at["output_index"], item=self.output[-1])

    def end(self, finish: Finish, usage: Usage) -> Iterator[Json]:
        """The last events. An answer without any words and calls is one empty message."""
        if not self.output and self._message is None:
            yield from self._open()
        self.usage, self.status = usage, "completed" if finish == "stop" else "incomplete"
        yield from self._close(self.status)
        yield self._event(self.status, response=self.response())

    def fail(self, refusal: Refusal) -> Iterator[Json]:
        """What is sent when the answer breaks off."""
        self.status = "failed"
        code = "server_error" if refusal.status >= 500 else "invalid_prompt"
        self.error = {"code": "rate_limit_exceeded" if refusal.status == 429 else code, "message": refusal.message}
        yield self._event("failed", response=self.response())

    def _open(self) -> Iterator[Json]:
        self._message = {"type": "message", "id": new_id("msg_"), "role": "assistant"}
        self._text, self._tokens = "", []
        begun = {**self._message, "status": "in_progress", "content": []}
        yield self._event("output_item.added", output_index=len(self.output), item=begun)
        yield self._event("content_part.added", **self._place(), content_index=0, part=self._part())

    def _close(self, status: str) -> Iterator[Json]:
        if self._message is None:
            return
        place, part = self._place(), self._part()
        said = {"text": self._text, "logprobs": part["logprobs"]}
        yield self._event("output_text.done", **place, content_index=0, **said)
        yield self._event("content_part.done", **place, content_index=0, part=part)
        self.output.append({**self._message, "status": status, "content": [part]})
        self._message = None
        yield self._event("output_item.done", output_index=place["output_index"], item=self.output[-1])

    def _place(self) -> Json:
        assert self._message is not None
        return {"output_index": len(self.output), "item_id": self._message["id"]}

    def _part(self) -> Json:
        return {
            "type": "output_text",
            "text": self._text,
            "annotations": [],
            "logprobs": self._logprobs(self._tokens),
        }

    def _logprobs(self, tokens: Sequence[TokenSaid]) -> list[Json]:
        if not self.request.include:
            return []
        return [{**_token(token), "top_logprobs": [_token(one) for one in token.top]} for token in tokens]

    def _event(self, event: str, **body: Any) -> Json:
        self._sent += 1
        return {"type": f"response.{event}", "sequence_number": self._sent - 1, **body}

    # ---- the object --------------------------------------------------------------------------------------------------

    def response(self) -> Json:
        """The response as it is by now; what the request said is repeated in it."""
        request = self.request
        said = request.model_dump(
            mode="json", by_alias=True, exclude_none=True, include={"text", "tool_choice", "tools"}
        )
        ended = {"reason": "max_output_tokens"} if self.status == "incomplete" else None
        return {
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "status": self.status,
            "background": False,
            "error": self.error,
            "incomplete_details": ended,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": self.head.model,
            "output": list(self.output),
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": None,
            **self.head.tier_said,
            "store": False,
            "temperature": self.temperature if request.temperature is None else request.temperature,
            "text": {"format": said.get("text", {}).get("format", {"type": "text"})},
            "tool_choice": said.get("tool_choice", "auto"),
            "tools": [{"strict": None, "parameters": None, **tool} for tool in said.get("tools", [])],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None if self.usage is None else usage_json(self.usage),
            "user": request.user,
            "metadata": {},
        }


def _token(token: TokenSaid) -> Json:
    return {"token": token.text, "bytes": list(token.bytes), "logprob": number(token.logprob)}


def response(growing: Growing, text: str, finish: Finish, usage: Usage, *, calls: Sequence[Call] = (),
             logprobs: Sequence[TokenSaid] = ()) -> Json:  # fmt: skip
    """The whole response at once: the object that the events of the same answer would have led to."""
    events = [growing.words(text, logprobs)] if text else []
    for one in (*events, *map(growing.call, calls), growing.end(finish, usage)):
        for _ in one:
            pass
    return growing.response()

"""All answers to one order, as they grow: what a backend says, sorted by answer, with words told from calls.

Backend.answer --Counted, Piece, Done--> Answers.said() --Said: words, tokens, calls, the end of an answer-->
one for each prompt                          '-- choices(), usage: what they are once all is said
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter
from typing import Any, TypeVar, cast

from internvl.serving.backend import Backend, Counted
from internvl.serving.logs import Note
from internvl.serving.order import Order
from internvl.serving.replies import Choice, Finish, TokenSaid, Usage
from internvl.serving.tools import Call, CallReader
from internvl.serving.wire import Done, Piece

T = TypeVar("T")


@dataclass(frozen=True)
class Said:
    """Some more of one of the answers."""

    index: int
    words: str = ""
    tokens: tuple[TokenSaid, ...] = ()
    """Those whose words are said by now, where a request asks for them."""
    calls: tuple[Call, ...] = ()
    finish: str | None = None
    """Why the answer ends, if it does: stop, length, tool_calls."""


@dataclass
class _Answer:
    reader: CallReader | None
    text: str = ""
    tokens: list[TokenSaid] = field(default_factory=list[TokenSaid])
    told: int = 0
    """Tokens that have been told."""
    finish: Finish = "stop"

    def grow(self, text: str, *, last: bool) -> tuple[str, tuple[Call, ...]]:
        """Words and calls that are certain now."""
        if self.reader is None:
            self.text += text
            return text, ()
        before = len(self.reader.calls)
        words = self.reader.push(text) + (self.reader.finish() if last else "")
        self.text += words
        return words, tuple(self.reader.calls[before:])

    def untold(self) -> tuple[TokenSaid, ...]:
        new = tuple(self.tokens[self.told :])
        self.told = len(self.tokens)
        return new


class Answers:
    """The answers to an order: to each of its prompts n, numbered in that order."""

    def __init__(self, backend: Backend, order: Order, *, user: str, note: Note, is_noted: bool = False) -> None:
        """is_noted: the note is told what is answered, as far as it came."""
        self._is_noted = is_noted
        self._backend, self._order, self._user, self._note = backend, order, user, note
        self._orders = [replace(order, prompts=(one,)) for one in order.prompts] or [order]
        count = len(self._orders) * order.n
        self._answers = [_Answer(order.tools.reader() if order.tools else None) for _ in range(count)]
        self._reused: list[int | None] = [None] * len(self._orders)
        note.prompt = None

    async def said(self) -> AsyncGenerator[Said]:
        """Everything that is said. Closing it drops what is still to be said."""
        streams = [self._backend.answer(one, user=self._user) for one in self._orders]
        try:
            async with aclosing(side_by_side(streams, self._backend.facts.slots)) as items:
                async for place, item in items:
                    if isinstance(item, Counted):
                        self._note.prompt = (self._note.prompt or 0) + len(item.ids)
                        self._note.image += item.image_tokens
                        continue
                    said = self._take(place, item)
                    if said is not None:
                        yield said
        finally:
            if self._is_noted:
                self._note.content["answer"] = [
                    {"text": one.text, "calls": [asdict(call) for call in one.calls]} for one in self.choices()
                ]

    def _take(self, place: int, item: Piece | Done) -> Said | None:
        index = place * self._order.n + item.answer
        answer = self._answers[index]
        if self._note.first is None:
            self._note.first = perf_counter() - self._note.begun
        if isinstance(item, Piece):
            answer.tokens += [token_said(one) for one in item.tokens]
            words, calls = answer.grow(item.text, last=False)
            return Said(index, words, answer.untold() if words else (), calls) if words or calls else None
        words, calls = answer.grow("", last=True)
        answer.finish = cast(Finish, item.finish)
        self._note.completion += item.completion
        known = self._reused[place]
        self._reused[place] = item.reused if known is None else min(known, item.reused)
        self._note.reused = sum(one or 0 for one in self._reused)
        return Said(index, words, answer.untold(), calls, self._choice(index).reason)

    async def whole(self) -> Sequence[Choice]:
        """All answers, complete."""
        async with aclosing(self.said()) as all_said:
            async for _ in all_said:
                pass
        return self.choices()

    def choices(self) -> list[Choice]:
        return [self._choice(index) for index in range(len(self._answers))]

    def _choice(self, index: int) -> Choice:
        answer = self._answers[index]
        calls = tuple(answer.reader.calls) if answer.reader else ()
        return Choice(index, answer.text, answer.finish, calls, tuple(answer.tokens) if self._order.logprobs else None)

    @property
    def usage(self) -> Usage:
        note = self._note
        return Usage(note.prompt or 0, note.completion, note.reused, note.image)


def token_said(token: Mapping[str, Any]) -> TokenSaid:
    """A token as `internvl.serving.wire.Piece` has it."""
    top = tuple(token_said(one) for one in token.get("top", ()))
    return TokenSaid(token["text"], bytes(token["bytes"]), token["logprob"], top)


async def side_by_side(streams: Sequence[AsyncIterator[T]], most: int) -> AsyncGenerator[tuple[int, T]]:
    """What several streams say, as it comes, with the place of its stream; at most so many run at a time. The first
    error ends all, and closing this closes them."""
    if len(streams) == 1:
        async with aclosing(cast("AsyncGenerator[T]", streams[0])) as items:
            async for item in items:
                yield 0, item
        return
    waiting: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(most)
    room = asyncio.Semaphore(most)

    async def run(place: int, stream: AsyncIterator[T]) -> None:
        try:
            async with room, aclosing(cast("AsyncGenerator[T]", stream)) as items:
                async for item in items:
                    await waiting.put((place, item))
            await waiting.put(None)
        except Exception as error:
            await waiting.put(error)

    tasks = [asyncio.ensure_future(run(place, stream)) for place, stream in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            found = await waiting.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                running -= 1
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""One question of the page from its files to the end of its answer.

    files --prepare--> turn.uploads --answer--> turn.answer grows, turn.took, or turn.failure

Both are generators that yield whenever there is something new to see. Closing one lets the server stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

from internvl.data.limits import Limits
from internvl.errors import MediaError
from internvl.serving.page.ask import Count, End, Endpoint, Failed, Part, answers
from internvl.serving.page.opening import opened
from internvl.serving.page.talk import Talk, Took, Turn, Upload, Wishes, messages_of, request_of

T = TypeVar("T")
P = ParamSpec("P")
TICK = 0.08
"""Seconds between two sights of a growing answer."""
ASIDE = 4
"""Threads that draw, cut and write for the page at a time."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where files are opened, and how."""

    folder: Path
    limits: Limits
    opening: asyncio.Semaphore
    """How many are opened at a time."""
    threads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ASIDE))

    async def aside(self, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """What takes milliseconds is done in a thread: in the event loop, streams of the server's API would wait."""
        async with self.threads:
            return await asyncio.to_thread(work, *given, **named)

    async def open(self, files: Sequence[tuple[Path, str]], frames: int) -> tuple[Upload, ...]:
        """Raises Failed, which names all that cannot be used."""
        uploads: list[Upload] = []
        faults: list[Failed] = []
        for file, name in files:
            async with self.opening:
                try:
                    uploads.append(await opened(file, name, self.folder, self.limits, frames=frames))
                except Failed as error:
                    faults.append(error)
        if faults:
            for shown in (one for upload in uploads for one in upload.shown):
                shown.file.unlink(missing_ok=True)
            raise all_of(faults)
        return tuple(uploads)


def all_of(faults: Sequence[Failed]) -> Failed:
    """What is wrong with files, as one; of a file that is gone there is nothing to name."""
    said = [one for one in faults if one.word == "unreadable"]
    if len(said) < 2:
        return said[0] if said else faults[0]
    return Failed("unreadable_all", said="; ".join(f"{one.filled['name']} ({one.filled['said']})" for one in said))


async def prepare(
    desk: Desk, talk: Talk, turn: Turn, files: Sequence[tuple[Path, str]], wishes: Wishes
) -> AsyncGenerator[None]:
    """Open what was sent. Afterwards the turn is waiting, or has failed."""
    turn.sent = tuple(name for _, name in files)
    yield
    work = asyncio.ensure_future(desk.open(files, wishes.num_frames))
    stop = asyncio.ensure_future(talk.stopping.wait())
    try:
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            # Frames stand last in what is sent, and so in what is seen.
            turn.uploads = tuple(sorted((*turn.uploads, *work.result()), key=lambda upload: upload.is_video))
            turn.sent, turn.state = (), "waiting"
        else:
            turn.state = "stopped"
    except Failed as error:
        fail(turn, error)
    finally:
        await _drop(work, stop)
    yield


async def answer(talk: Talk, turn: Turn, wishes: Wishes, endpoint: Endpoint) -> AsyncGenerator[None]:
    """Ask, and let the answer grow until it ends, fails or is stopped."""
    turn.model, turn.state, turn.answer = wishes.model, "waiting", ""
    turn.failure = turn.took = turn.finish = None
    turn.vote = ""
    yield
    begun = perf_counter()
    took = Took()
    try:
        body = await asyncio.to_thread(lambda: request_of(wishes, messages_of(talk.turns, wishes.system)))
        shown = 0.0
        async with aclosing(until(answers(endpoint, body), talk.stopping)) as stream:
            async for one in stream:
                took, is_text = _heard(turn, one, took, perf_counter() - begun)
                if is_text and perf_counter() - shown >= TICK:
                    shown = perf_counter()
                    yield
        turn.state = "stopped" if talk.stopping.is_set() else "done"
    except Failed as error:
        fail(turn, error)
    except MediaError:
        fail(turn, Failed("expired"))
    except GeneratorExit:
        turn.state = "stopped"
        raise
    except Exception:
        fail(turn, Failed("fault"))
        raise
    finally:
        turn.took = replace(took, seconds=perf_counter() - begun) if took.first is not None else None
    yield


def _heard(turn: Turn, one: Part | Count | End, took: Took, now: float) -> tuple[Took, bool]:
    """What one piece of a stream changes; and whether it is text."""
    match one:
        case Part():
            turn.answer += one.text
            turn.state = "growing"
            return (replace(took, first=now) if took.first is None else took), True
        case Count():
            return replace(took, prompt=one.prompt, answer=one.answer, image=one.image, cached=one.cached), False
        case End():
            turn.finish = one.finish
            return took, False


def fail(turn: Turn, error: Failed) -> None:
    turn.state, turn.failure = "failed", (error.word, dict(error.filled))


async def until(stream: AsyncGenerator[T], stopping: asyncio.Event) -> AsyncGenerator[T]:
    """The stream until it ends or somebody stops it; it is closed either way, whatever it waits for."""
    stop = asyncio.ensure_future(stopping.wait())
    piece: asyncio.Future[T] | None = None
    try:
        while True:
            piece = asyncio.ensure_future(anext(stream))
            await asyncio.wait({piece, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not piece.done():
                stop.result()
                return
            try:
                yield piece.result()
            except StopAsyncIteration:
                return
    finally:
        await _drop(*filter(None, (piece, stop)))
        await stream.aclose()


async def _drop(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

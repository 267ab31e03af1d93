"""The process that owns the engine: what is asked over a socket goes into it, what it says goes back as text.

    receiving thread: socket --> inbox --> main thread: take what has come, step the engine, tell what came of it
                                   ^          | digests of pictures, grammars
                                   '-- two threads that prepare

Between two steps everything that has come is taken, so a request that nobody waits for any more costs one step at most.
A request that fails is refused, and nobody else is touched. Where the engine itself or the other end is broken the
process ends, and `Supervisor` starts another. Run as `python -m internvl.serving.worker DESCRIPTOR`, which is one end
of a socket whose other end has the supervisor; when that hangs up the process ends at once.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from internvl.errors import InternVLError, NotNumbers, UsageError
from internvl.inference.chat import Chat
from internvl.inference.embed import Embedder
from internvl.inference.engine import Engine, EngineConfig, Event, Failed, QueueFull, Request, Spoke
from internvl.serving.backend import Facts
from internvl.serving.inbox import INBOX, Inbox, Prepared, listen
from internvl.serving.refusal import Refusal, of_form, queue_full, refusal_of
from internvl.serving.saying import Saying, Speech
from internvl.serving.vectors import Embedding
from internvl.serving.wire import (
    Ask,
    Channel,
    Done,
    Drop,
    Embed,
    Memory,
    Message,
    Piece,
    Ping,
    Pong,
    Ready,
    Refused,
    Serve,
    Step,
    Vectors,
    WireError,
)

log = logging.getLogger("internvl.worker")

LONGEST_WAIT = 60
"""Seconds after which who finds the queue full may come again, at most."""


@dataclass
class Asked:
    """A request that is being answered."""

    ask: Ask
    saying: dict[int, Saying]
    """The answers that still grow."""
    tiles: int
    """That it brought and the engine does not have yet."""
    own: int | None = None
    """The engine's id of it; None: it is being prepared."""


@dataclass(frozen=True)
class Loaded:
    """What a worker serves."""

    engine: Engine
    speech: Speech
    embedder: Embedder | None
    facts: Facts


def load(serve: Serve) -> Loaded:
    """The model, and what is known of it."""
    device: Any = serve.device
    chat = Chat.load(serve.source, revision=serve.revision, device=device, dtype=serve.dtype)
    encoder, vocab = chat.encoder, chat.model.config.text.vocab
    engine = Engine(chat.model, encoder.config.normalisation, EngineConfig(**serve.engine))
    where = device if device is None or isinstance(device, str) else device[0]
    embedder = None if serve.embedder is None else Embedder.load(serve.embedder, device=where)
    slots = min(engine.config.slots, engine.config.per_user or engine.config.slots)
    facts = Facts.of(serve, encoder, vocab=vocab, context=engine.max_len, slots=slots)
    return Loaded(engine, Speech(encoder, vocab), embedder, facts)


class Worker:
    """A model, its engine, and one client at the other end of a channel.

    >>> Worker(channel, load(Serve(name="nano")), inbox).run()  # doctest: +SKIP
    """

    def __init__(self, channel: Channel, loaded: Loaded, inbox: Inbox) -> None:
        """inbox: what comes from the other end is put there by another thread, `listen`."""
        self._channel, self._engine, self._speech = channel, loaded.engine, loaded.speech
        self._embedder, self._facts = loaded.embedder, loaded.facts
        self._inbox = inbox
        self._preparing = ThreadPoolExecutor(2, thread_name_prefix="prepare")
        self._asked: dict[int, Asked] = {}
        self._own: dict[int, Asked] = {}
        """The same by the engine's ids, those that it has."""
        self._embedding: dict[int, Embedding] = {}
        self._ends: deque[float] = deque(maxlen=32)
        """When the last requests were over."""
        self._stopped = 0
        """Requests that a stop string ended: the engine takes them for cancelled."""

    def run(self) -> None:
        """Serve for ever. An error that leaves this method is of the engine or of the other end, not of a request."""
        self._channel.send(Ready(facts=asdict(self._facts)))
        while True:
            self._take()
            if self._embedding:
                self._advance()
            if self._engine.busy:
                said = [one for event in self._engine.step() for one in self._said(event)]
                if said:
                    self._channel.send(Step(said=said))

    def counters(self) -> dict[str, int]:
        """What the engine counts, requests among them that are not in it yet."""
        found = self._engine.counters()
        waiting = [asked for asked in self._asked.values() if asked.own is None]
        counted = replace(
            found,
            queued=found.queued + len(waiting),
            waiting_tiles=found.waiting_tiles + sum(one.tiles for one in (*waiting, *self._embedding.values())),
            ended=found.ended + self._stopped,
            cancelled=found.cancelled - self._stopped,
        )
        return asdict(counted)

    # ---- what comes --------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """All that has come; waits for something where there is nothing to do."""
        for _ in range(2 * INBOX):
            try:
                come = self._inbox.get(block=not self._engine.busy and not self._embedding)
            except queue.Empty:
                return
            if isinstance(come, Prepared):
                self._prepared(come)
            else:
                self._hear(come.message, come.pixels)

    def _hear(self, message: Message, pixels: np.ndarray | Exception | None) -> None:
        if isinstance(message, Ping):
            self._channel.send(Pong(id=message.id, counters=self.counters()))
        elif isinstance(message, Drop):
            self._drop(message.id)
        elif isinstance(message, Ask | Embed):
            if message.id in self._asked or message.id in self._embedding:
                raise WireError(f"there is a request {message.id} already")
            try:
                if isinstance(pixels, Exception):
                    raise pixels
                if isinstance(message, Ask):
                    self._begin(message, pixels)
                else:
                    self._embed(message, pixels)
            except Exception as error:
                self._refuse(message.id, error)
        else:
            raise WireError(f"a worker is not told {type(message).__name__}")

    def _begin(self, ask: Ask, tiles: np.ndarray | None) -> None:
        """Hand a request to the engine; first to a thread that prepares it, where that may take long."""
        brought, now, most = 0 if tiles is None else len(tiles), self.counters(), self._engine.config
        if now["queued"] >= most.queue or brought <= most.waiting_tiles < now["waiting_tiles"] + brought:
            raise QueueFull("as many requests or tiles wait as may")
        if not 1 <= ask.n <= most.slots:  # before so many answers are made ready
            raise Refusal(f"n is {ask.n}; it must be 1 to {most.slots}, the answers that can grow at a time", param="n",
                          code="limit_exceeded")  # fmt: skip
        asked = Asked(ask, dict(enumerate(self._speech.answers(ask))), brought)
        if tiles is None and ask.constraint is None:
            self._submit(asked, self._speech.request(ask))
        else:
            self._asked[ask.id] = asked
            self._preparing.submit(self._prepare, ask, tiles)

    def _prepare(self, ask: Ask, tiles: np.ndarray | None) -> None:
        """In a thread of its own."""
        try:
            request: Request | Exception = self._speech.request(ask, tiles)
        except Exception as error:
            request = error
        self._inbox.put(Prepared(ask.id, request))

    def _prepared(self, prepared: Prepared) -> None:
        asked = self._asked.get(prepared.id)
        if asked is None:  # dropped meanwhile
            return
        try:
            if isinstance(prepared.request, Exception):
                raise prepared.request
            self._submit(asked, prepared.request)
        except Exception as error:
            self._asked.pop(prepared.id, None)
            self._refuse(prepared.id, error)

    def _submit(self, asked: Asked, request: Request) -> None:
        asked.own = self._engine.submit(request)
        self._asked[asked.ask.id] = self._own[asked.own] = asked

    def _drop(self, id: int) -> None:
        self._embedding.pop(id, None)
        asked = self._asked.pop(id, None)
        if asked is not None and asked.own is not None:
            del self._own[asked.own]
            self._engine.cancel(asked.own)

    # ---- what goes back ----------------------------------------------------------------------------------------------

    def _said(self, event: Event) -> list[Piece | Done | Refused]:
        asked = self._own.get(event.id)
        if asked is None:
            return []
        try:
            return self._told(asked, event)
        except Exception as error:
            self._drop(asked.ask.id)
            return [self._refusal(asked.ask.id, error)]

    def _told(self, asked: Asked, event: Event) -> list[Piece | Done | Refused]:
        if isinstance(event, Failed):
            error = event.error
            if isinstance(error, UsageError) and not isinstance(error, NotNumbers) and asked.ask.constraint is not None:
                raise of_form(error, asked.ask.constraint_at)
            raise error
        if not isinstance(event, Spoke):
            return [*self._over(asked, event.answer, event.finish, event.reused)]
        saying = asked.saying[event.answer]
        said: list[Piece | Done | Refused] = [*saying.hear(event.token, silent=event.silent)]
        reused = self._engine.reused(event.id)
        if saying.stopped and self._engine.cancel(event.id, event.answer):  # False: the engine has ended it itself
            self._stopped += len(asked.saying) == 1
            said += self._over(asked, event.answer, "stop", reused)
        return said

    def _over(self, asked: Asked, answer: int, finish: str, reused: int) -> list[Piece | Done]:
        """One of its answers is complete."""
        saying = asked.saying.pop(answer)
        if not asked.saying and asked.own is not None:
            del self._asked[asked.ask.id], self._own[asked.own]
            self._ends.append(time.monotonic())
        return saying.end(finish, reused=reused, last=not asked.saying)

    def _refuse(self, id: int, error: Exception) -> None:
        self._channel.send(self._refusal(id, error))

    def _refusal(self, id: int, error: Exception) -> Refused:
        refusal = queue_full(self._wait()) if isinstance(error, QueueFull) else refusal_of(error)
        if refusal.status >= 500:
            log.error("a request failed: %s", named(error))
        return refusal.told(id)

    def _wait(self) -> int:
        """Seconds until all who wait now have had their turn, as fast as it went lately."""
        if len(self._ends) < 2:
            return 5
        pace = (time.monotonic() - self._ends[0]) / len(self._ends)
        return min(LONGEST_WAIT, max(1, math.ceil(self.counters()["queued"] * pace)))

    # ---- vectors -----------------------------------------------------------------------------------------------------

    def _embed(self, message: Embed, pixels: np.ndarray | None) -> None:
        most, waiting = self._engine.config, self.counters()["waiting_tiles"]
        embedding = Embedding(self._embedder, message, pixels, most=most.waiting_tiles)
        if len(self._embedding) >= most.queue or embedding.tiles > max(0, most.waiting_tiles - waiting):
            raise QueueFull("as many requests or pictures wait as may")
        self._embedding[message.id] = embedding

    def _advance(self) -> None:
        """A part more of what is to be embedded first."""
        id, embedding = next(iter(self._embedding.items()))
        try:
            for _ in embedding:
                return  # there is more to do
            memory = Memory.of(vectors := embedding.vectors())
        except Exception as error:
            del self._embedding[id]
            self._refuse(id, error)
            return
        del self._embedding[id]
        try:
            self._channel.send(Vectors(id=id, shape=vectors.shape, tokens=embedding.tokens), memory)
        finally:
            memory.close()


# ---- the process -----------------------------------------------------------------------------------------------------


def named(error: BaseException) -> str:
    """What went wrong and where, without what it says: that may quote a request."""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' > '.join(places[-6:])}"


def begun(level: int) -> tuple[Channel, Serve]:
    """What every worker begins with: the other end, and what it is to serve. level: what its log holds at least."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to everyone; the supervisor says when to end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)
    channel = Channel.inherited(int(sys.argv[1]))
    got = channel.receive()
    if got is None or not isinstance(got[0], Serve):
        raise SystemExit(2)
    return channel, got[0]


def unservable(error: Exception) -> Refused:
    """Why nothing can be served, as whoever started the server is told."""
    message = " ".join(str(error).split()) if isinstance(error, InternVLError | OSError) else named(error)
    return Refused(id=0, message=f"the model cannot be served: {message}", status=500)


def main() -> None:
    """Serve what the other end says, until it is gone."""
    channel, serve = begun(logging.INFO)
    inbox: Inbox = queue.Queue(INBOX)
    threading.Thread(target=listen, args=(channel, inbox), daemon=True).start()
    try:
        loaded = load(serve)
    except Exception as error:
        channel.send(unservable(error))
        os._exit(1)
    try:
        Worker(channel, loaded, inbox).run()
    except OSError:
        os._exit(0)  # nobody is there any more
    except BaseException as error:
        log.error("the worker failed: %s", named(error))
        os._exit(1)


if __name__ == "__main__":
    main()

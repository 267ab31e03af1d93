"""The worker as the API sees it: started, asked, listened to, and started again when it dies. No torch here.

    event loop: ask --> outgoing --sending thread--> socket --> worker
                Answers <--call_soon_threadsafe-- receiving thread <-- socket <--'

Nothing here blocks the event loop. Whoever asks while there is no worker is refused at once (503), as is everyone who
waits when it dies; nobody waits for ever. A worker that answers no Ping for `Watch.patience` is killed and replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from internvl.errors import InternVLError
from internvl.serving import wire
from internvl.serving.backend import Facts
from internvl.serving.incarnation import Incarnation
from internvl.serving.logs import tell
from internvl.serving.memory import Memory
from internvl.serving.refusal import Refusal, queue_full, unavailable

log = logging.getLogger("internvl.serving")

Inbox = asyncio.Queue["wire.Piece | wire.Done | tuple[np.ndarray, int] | Refusal"]
"""What has come for one request and was not taken yet. No longer than the answers, which are bounded."""

MOST_UNSENT = 256
"""Requests that may wait to be sent to a worker that is too busy to read them."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """When a worker is taken for dead, and how it is replaced. All in seconds."""

    heartbeat: float = 2.0
    """Between two Pings."""
    patience: float = 120.0
    """For the answer to a Ping, which is between two steps; a step can take long on a CPU."""
    loading: float = 7200.0
    """For a model to be loaded, downloads included."""
    first_delay: float = 0.5
    """Before a dead worker is started again; twice as long each time, until one lives for `stable`."""
    longest_delay: float = 60.0
    stable: float = 60.0


class Supervisor:
    """One worker, kept alive. All methods are for the thread of the event loop in which it was started.

    >>> supervisor = Supervisor(wire.Serve(name="nano"))                          # doctest: +SKIP
    >>> await supervisor.start()                                                 # doctest: +SKIP
    >>> async with contextlib.aclosing(supervisor.ask(wire.Ask(id=0, ids=ids, sampling={}))) as answers:
    ...     async for said in answers: print(said)                               # doctest: +SKIP
    Piece(id=1, answer=0, text='Hi', tokens=())
    Done(id=1, answer=0, finish='stop', completion=2, reused=0, last=True)
    """

    def __init__(self, serve: wire.Serve, watch: Watch | None = None) -> None:
        self._serve, self._watch = serve, watch or Watch()
        self._ids = count(1)
        self._worker: Incarnation | None = None
        """The one that is loaded and, as far as is known, lives."""
        self._latest: Incarnation | None = None
        self._loading: asyncio.Future[wire.Ready | wire.Refused] | None = None
        self._waiting: dict[int, Inbox] = {}
        self._facts: Facts | None = None
        self._counters: Mapping[str, int] = {}
        self._missed = 0
        """Heartbeats since the Ping that has no answer yet."""
        self._keeping: asyncio.Task[None] | None = None
        self.restarts = 0
        """Workers that were started in the place of one that died."""
        self.failed = 0
        """Requests that a worker had and that a fault ended: its own, or that of the worker, which died with them."""

    # ---- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when the model is loaded. Raises `InternVLError`, in one line, if it cannot be."""
        try:
            self._worker = await self._launch()
        except BaseException:
            await self._end_latest()
            raise
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End the worker, and refuse whoever still waits. Does nothing where none was started."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
        self._lose()
        await self._end_latest()

    @property
    def ready(self) -> bool:
        """Whether a request would be passed on now."""
        return self._worker is not None

    @property
    def pid(self) -> int | None:
        """Of the worker's process, where there is one that is ready."""
        return self._worker.pid if self._worker else None

    @property
    def facts(self) -> Facts:
        """What the worker says of its model; also while it is started again."""
        if self._facts is None:
            raise unavailable()
        return self._facts

    def counters(self) -> Mapping[str, int]:
        """What the worker last said of itself: `internvl.inference.events.Counters`. Empty while there is none."""
        return self._counters

    async def _launch(self) -> Incarnation:
        """A worker that is ready."""
        loop = asyncio.get_running_loop()
        worker = self._latest = Incarnation(self._serve, self._heard)
        self._loading, patience = loop.create_future(), self._watch.loading
        await worker.start()
        ended = loop.create_task(worker.gone.wait())
        try:
            await asyncio.wait((self._loading, ended), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            said = self._loading.result() if self._loading.done() else None
        finally:
            ended.cancel()
            self._loading = None
        if isinstance(said, wire.Refused):
            raise InternVLError(said.message)
        if said is None:
            how = f"the process {worker.why}" if worker.gone.is_set() else f"it took more than {patience:g} s"
            raise InternVLError(f"the model was not loaded: {how}; the log of the server may say why")
        try:
            self._facts = Facts(**said.facts)
        except TypeError:
            raise InternVLError("the worker is of another version of this package; install it anew") from None
        return worker

    async def _end_latest(self) -> None:
        if self._latest is not None:
            await self._latest.end()
            self._latest = None

    async def _keep(self) -> None:
        """Watch the worker, and replace it when it is dead."""
        delay = self._watch.first_delay
        while True:
            began = time.monotonic()
            if self._worker is not None:
                why = await self._until_dead(self._worker)
                self._lose()
                log.error("the worker %s; it is started again", why)
            await self._end_latest()
            if time.monotonic() - began >= self._watch.stable:
                delay = self._watch.first_delay
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._watch.longest_delay)
            try:
                self._worker = await self._launch()
                self.restarts += 1
                tell("ready", model=self.facts.model, restarts=self.restarts)
            except Exception as error:
                log.error("the worker could not be started again: %s", error)

    async def _until_dead(self, worker: Incarnation) -> str:
        """Returns when the worker is gone or answers no more, and why.

        What is counted are our own beats, not the time: where both processes stood still, nobody is to blame.
        """
        self._missed = 0
        while self._missed * self._watch.heartbeat < self._watch.patience:
            if not self._missed:
                worker.post(wire.Ping(id=next(self._ids)))
            self._missed += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(worker.gone.wait(), self._watch.heartbeat)
                return worker.why
        return f"did not answer for {self._watch.patience:g} s"

    def _lose(self) -> None:
        """There is no worker: all who wait are told."""
        self._worker, self._counters = None, {}
        waiting, self._waiting = self._waiting, {}
        self.failed += len(waiting)
        for inbox in waiting.values():
            inbox.put_nowait(unavailable("the model ended while it was answering"))

    # ---- requests ----------------------------------------------------------------------------------------------------

    def ask(self, ask: wire.Ask, memory: Memory | None = None) -> Answers:
        """Pass a request on; its id is given here. What comes is read from what is returned, which is to be closed.

        memory: the tiles. It is closed here, whatever happens. Raises `Refusal`: 503 where there is no worker, 429
        where too many requests wait to be passed on.
        """
        id, inbox = self._post(replace(ask, id=next(self._ids)), memory)
        return Answers(inbox, lambda: self._drop(id))

    async def embed(
        self, texts: Sequence[str] = (), pixels: Memory | None = None, shape: Sequence[int] = ()
    ) -> tuple[np.ndarray, int]:
        """Vectors (n, dim) float32 of unit length, of texts or of pictures (n, S, S, 3); and the tokens of the texts.

        pixels: it is closed here, whatever happens. Raises `Refusal`.
        """
        id, inbox = self._post(wire.Embed(id=next(self._ids), texts=list(texts), shape=list(shape)), pixels)
        try:
            said = await inbox.get()
        except asyncio.CancelledError:
            self._drop(id)
            raise
        if isinstance(said, Refusal):
            raise said
        assert isinstance(said, tuple)
        return said

    def _post(self, message: wire.Ask | wire.Embed, memory: Memory | None) -> tuple[int, Inbox]:
        worker = self._worker
        if worker is None or worker.unsent >= MOST_UNSENT:
            if memory is not None:
                memory.close()
            raise unavailable() if worker is None else queue_full(5)
        inbox: Inbox = asyncio.Queue()
        self._waiting[message.id] = inbox
        worker.post(message, memory)
        return message.id, inbox

    def _drop(self, id: int) -> None:
        """Nobody waits for it any more."""
        if self._waiting.pop(id, None) is not None and self._worker is not None:
            self._worker.post(wire.Drop(id=id))

    def _heard(self, message: wire.Message, vectors: np.ndarray | None) -> None:
        """What the latest worker says."""
        if self._loading is not None:
            if isinstance(message, wire.Ready | wire.Refused) and not self._loading.done():
                self._loading.set_result(message)
        elif isinstance(message, wire.Pong):
            self._counters, self._missed = message.counters, 0
        elif isinstance(message, wire.Step):
            for one in message.said:
                self._heard(one, None)
        elif isinstance(message, wire.Piece | wire.Done | wire.Refused | wire.Vectors):
            over = not isinstance(message, wire.Piece) and not (isinstance(message, wire.Done) and not message.last)
            inbox = self._waiting.pop(message.id, None) if over else self._waiting.get(message.id)
            if inbox is None:  # nobody waits for it any more
                return
            self.failed += isinstance(message, wire.Refused) and message.status >= 500
            if isinstance(message, wire.Vectors):
                assert vectors is not None
                inbox.put_nowait((vectors, message.tokens))
            elif isinstance(message, wire.Refused):
                inbox.put_nowait(Refusal.heard(message))
            else:
                inbox.put_nowait(message)


class Answers(AsyncIterator[wire.Piece | wire.Done]):
    """What comes of a request, to the last Done; or a `Refusal`. Whoever stops earlier closes it."""

    def __init__(self, inbox: Inbox, drop: Callable[[], None]) -> None:
        self._inbox, self._drop, self._over = inbox, drop, False

    async def __anext__(self) -> wire.Piece | wire.Done:
        if self._over:
            raise StopAsyncIteration
        try:
            said = await self._inbox.get()
        except asyncio.CancelledError:  # nobody waits for it any more
            self.close()
            raise
        if isinstance(said, Refusal):
            self._over = True
            raise said
        assert isinstance(said, wire.Piece | wire.Done)
        self._over = isinstance(said, wire.Done) and said.last
        return said

    def close(self) -> None:
        """The worker drops the request at once, if it is not over."""
        self._over = True
        self._drop()

    async def aclose(self) -> None:
        self.close()

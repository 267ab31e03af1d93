"""The pool of processes that open media and write prompts, as the process of the API sees it: nothing is decoded here.

    read(order) --> texts ---> one reader: orders without media wait for no picture
              '---> media ---> `count` readers

A reader has one order at a time. If it takes too long it is killed, if it falls over it is gone; either way that order
alone is refused, and another reader takes its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import count as numbers
from typing import Any

from internvl.data.limits import MIB, Limits
from internvl.errors import InternVLError
from internvl.serving.child import Lane, Reader, described
from internvl.serving.described import check_context
from internvl.serving.order import Order, Reference
from internvl.serving.reader import Bounds
from internvl.serving.reading import as_json, limits_as_json, pictures
from internvl.serving.refusal import Refusal, queue_full, unavailable
from internvl.serving.wire import Look, Memory, Open, Prompt, Read, Refused

log = logging.getLogger("internvl.readers")

SERVICE = Limits(
    bytes=32 * MIB,
    video_bytes=512 * MIB,
    pixels=64_000_000,
    side=32_768,
    frames=64,
    clip_pixels=256_000_000,
    clip_seconds=3600,
    pages=32,
    seconds=10,
    formats=("JPEG", "PNG", "WEBP", "GIF", "BMP"),
    containers=("mov", "matroska", "avi", "gif", "apng"),
    codecs=("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "gif", "apng"),
    local=False,
)
"""What may enter a service: data: addresses of these kinds and sizes. `replace(SERVICE, hosts=…)` lets it fetch,
`replace(SERVICE, local=True, root=…)` opens one folder."""
ABANDONED = 1.0
"""Seconds that a reader may go on with an order for which nobody waits any more; starting another takes as long."""
PATIENCE = 300.0
"""Seconds in which a model's configuration is read, or downloaded, and a reader is ready."""
PAUSE = 5.0
"""Seconds after which a reader that could not be started is tried again, and after which who finds the queue full may
come again."""

Prompted = tuple[Prompt, Memory | None]
"""A prompt and the tiles beside it, if there are any."""


@dataclass(frozen=True, kw_only=True)
class ReadersConfig:
    """For which model, and how much. source, revision and embedder are those of `internvl.serving.wire.Serve`.

    >>> from dataclasses import replace
    >>> ReadersConfig(limits=replace(SERVICE, hosts=("example.org",)), seconds=10).limits.hosts
    ('example.org',)
    """

    source: str | None = None
    revision: str | None = None
    embedder: str | None = None
    context: int | None = None
    """Tokens that are read, an answer included; None: as many as the model was made for, and never more."""
    whole_context: bool = False
    """Whether a model that reads fewer is refused."""
    limits: Limits = SERVICE
    seconds: float = 30.0
    """For one order, waiting for the network included."""
    waiting: int = 64
    """Orders that wait for a reader; one more is refused."""
    bounds: Bounds = field(default_factory=Bounds)


class Readers:
    """Reads orders in processes of their own. All methods belong to one event loop.

    >>> readers = Readers(ReadersConfig(source="OpenGVLab/InternVL2_5-1B"), count=2)  # doctest: +SKIP
    >>> await readers.start()                                                         # doctest: +SKIP
    >>> prompt, memory = await readers.read(order)                                    # doctest: +SKIP
    """

    def __init__(self, config: ReadersConfig, count: int = 2) -> None:
        """count: readers of media; there is one more for orders that have none."""
        self.config = config
        self._texts, self._media = Lane(1), Lane(count)
        self._threads = ThreadPoolExecutor(2 * (count + 1), thread_name_prefix="reader")
        self._numbers = numbers(1)
        self._opening: Open | None = None
        self._stopping = asyncio.Event()
        self._running: set[Reader] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.replaced = 0
        """Readers that had to be started again."""

    async def start(self) -> None:
        """Returns when all are ready. Raises InternVLError if the model's tokenizer and configs cannot be read."""
        told = {"source": self.config.source, "revision": self.config.revision, "embedder": self.config.embedder}
        found = await self._thread(described, told, PATIENCE)
        if self.config.context is not None and self.config.whole_context:
            check_context(self.config.context, found["context"])
        found["context"] = min(found["context"], self.config.context or found["context"])
        self._opening = Open(**found, limits=limits_as_json(self.config.limits), bounds=asdict(self.config.bounds))
        try:
            await asyncio.gather(*(self._add(lane) for lane in self._lanes for _ in range(lane.count)))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Whoever still waits is refused. Returns when no process is left."""
        self._opening = None
        self._stopping.set()
        for lane in self._lanes:
            lane.close()
        for reader in self._running:
            reader.kill()
        while self._tasks:  # a job that ends starts the closing of its reader
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._thread(reader.close) for reader in self._running))
        self._running.clear()
        self._threads.shutdown(wait=False)

    async def read(self, order: Order, *, tiles: bool = True) -> Prompted:
        """The prompt of an order and its tiles, which are the caller's to close; None where there are none.

        Without `tiles` all is counted and nothing is cut. Of `order.prompts` there is one: several are orders of their
        own, and where all is counted only the first counts. Raises Refusal: for what is wrong with the order, 429 where
        too many wait, 503 when this has been stopped.
        """
        written, data = as_json(order)
        read = Read(id=next(self._numbers), order=written, tiles=tiles)
        with _in_its_place(order):
            return await self._asked(self._media if order.references else self._texts, read, data)

    async def look(self, images: Sequence[Reference]) -> Prompted:
        """Pictures as the model of vectors sees them: the memory holds (n, S, S, 3) uint8, the prompt has its shape."""
        order = pictures(images)
        written, data = as_json(order)
        with _in_its_place(order):
            return await self._asked(self._media, Look(id=next(self._numbers), order=written), data)

    @property
    def waiting(self) -> int:
        """Orders that wait for a reader."""
        return sum(lane.waiting for lane in self._lanes)

    @property
    def pids(self) -> list[int]:
        """Of all readers that run."""
        return [reader.pid for reader in self._running]

    @property
    def _lanes(self) -> tuple[Lane, Lane]:
        return self._texts, self._media

    # ---- one order ---------------------------------------------------------------------------------------------------

    async def _asked(self, lane: Lane, message: Read | Look, data: Sequence[str]) -> Prompted:
        if lane.waiting >= self.config.waiting:
            raise queue_full(int(PAUSE))
        while True:
            reader = await lane.next()
            if reader is None:
                raise unavailable()
            if reader.alive:
                break
            self._replace(lane, reader)  # it died of itself meanwhile
        job = self._task(self._job(lane, reader, message, data))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            self._abandon(job, reader)
            raise

    async def _job(self, lane: Lane, reader: Reader, message: Read | Look, data: Sequence[str]) -> Prompted:
        timer = asyncio.get_running_loop().call_later(self.config.seconds, reader.kill)
        try:
            answer = await self._thread(reader.ask, message, data)
        finally:
            timer.cancel()
        if answer is None:
            self._replace(lane, reader)
            if self._opening is None:
                raise unavailable()
            within = f"{self.config.seconds:g} s" if reader.killed else "the limits"
            raise Refusal(f"the request could not be read within {within}; send smaller media, or fewer", status=422,
                          param="messages", code="media_unreadable")  # fmt: skip
        lane.put(reader)
        if isinstance(answer, Refused):
            raise Refusal.heard(answer)
        return answer

    def _abandon(self, job: asyncio.Task[Prompted], reader: Reader) -> None:
        """Nobody waits: the reader may finish what is nearly done, and what it says is let go."""
        timer = asyncio.get_running_loop().call_later(ABANDONED, reader.kill)

        def done(job: asyncio.Task[Prompted]) -> None:
            timer.cancel()
            if not job.cancelled() and job.exception() is None and (memory := job.result()[1]) is not None:
                memory.close()

        job.add_done_callback(done)

    # ---- readers come and go -----------------------------------------------------------------------------------------

    def _replace(self, lane: Lane, reader: Reader) -> None:
        self._running.discard(reader)
        self._task(self._thread(reader.close))
        if self._opening is not None:
            self.replaced += 1
            self._task(self._again(lane))

    async def _again(self, lane: Lane) -> None:
        """Another reader, whatever it takes."""
        while not self._stopping.is_set():
            try:
                return await self._add(lane)
            except (OSError, InternVLError) as error:
                log.error("a reader could not be started (%s), trying again in %g s", type(error).__name__, PAUSE)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), PAUSE)

    async def _add(self, lane: Lane) -> None:
        reader = await self._thread(Reader)
        self._running.add(reader)
        timer = asyncio.get_running_loop().call_later(PATIENCE, reader.kill)
        try:
            if self._opening is not None:
                await self._thread(reader.open, self._opening)
        except BaseException:
            self._running.discard(reader)
            self._task(self._thread(reader.close))
            raise
        finally:
            timer.cancel()
        lane.put(reader)

    async def _thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@contextmanager
def _in_its_place(order: Order) -> Generator[None]:
    """Where a request has one medium, what is said of all its media is said of this."""
    try:
        yield
    except Refusal as refusal:
        references = order.references
        if len(references) != 1 or refusal.code not in ("media_unreadable", "media_refused"):
            raise
        raise refusal.renamed({"messages": references[0].place}) from None

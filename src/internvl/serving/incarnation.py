"""One life of a worker: its process, and the threads that talk to it so that the event loop need not wait.

post --> outgoing --sending thread--> socket --> worker --> socket --receiving thread--> heard, in the event loop
                                                 '-- stderr --third thread--> the log
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

import numpy as np

from internvl.serving.refusal import internal
from internvl.serving.settings import KEYS_VARIABLE
from internvl.serving.wire import (
    Ask,
    Channel,
    Done,
    Embed,
    Memory,
    Message,
    Piece,
    Pong,
    Ready,
    Refused,
    Serve,
    Step,
    Vectors,
    WireError,
)

log = logging.getLogger("internvl.serving.worker")

COMMAND = (sys.executable, "-P", "-m", "internvl.serving.worker")
VLLM_COMMAND = (sys.executable, "-P", "-m", "internvl.serving.vllm_worker")
"""What is started, with the number of the descriptor behind it."""

Heard = Callable[[Message, np.ndarray | None], None]

AHEAD = 1024
"""Messages that the event loop has not looked at yet; a worker that says more waits."""
LONGEST_LINE, LINES, PERIOD = 1000, 200, 60.0
"""Letters of a line of the log, and lines in so many seconds; what is more is counted."""
GRACE = 1.0
"""Seconds that a worker that has hung up has to end by itself, for its exit code to be known."""
KILLED = 10.0


class Incarnation:
    """A worker process from its start to its end. But for its threads, all is for the thread of the event loop.

    >>> worker = Incarnation(Serve(), lambda message, vectors: print(message))   # doctest: +SKIP
    >>> await worker.start()                                                     # doctest: +SKIP
    Ready(facts=...)
    """

    def __init__(self, serve: Serve, heard: Heard) -> None:
        """heard: is told every message, and the vectors (n, dim) that came with it, in the event loop."""
        self._serve, self._heard = serve, heard
        self._outgoing: queue.SimpleQueue[tuple[Message, Memory | None] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._threads: list[threading.Thread] = []
        self._ending = False
        self.gone = asyncio.Event()
        """Nothing comes from it any more."""
        self.why = ""
        """Then: what happened."""

    async def start(self) -> None:
        """Start the process, and tell it what to serve. OSError if that cannot be."""
        self._loop = asyncio.get_running_loop()
        self._spawning = asyncio.ensure_future(asyncio.to_thread(self._spawn))
        await asyncio.shield(self._spawning)
        self.post(self._serve)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def unsent(self) -> int:
        """Messages that it has not taken yet."""
        return self._outgoing.qsize()

    def post(self, message: Message, memory: Memory | None = None) -> None:
        """Send a message, sooner or later. The memory is closed then, or when there is nobody to send it to."""
        if self._ending:
            if memory is not None:
                memory.close()
        else:
            self._outgoing.put((message, memory))

    async def end(self) -> None:
        """Make sure that nothing is left of it: no process, thread or descriptor."""
        if self._ending:
            return
        self._ending = True
        self._outgoing.put(None)
        await asyncio.wait([self._spawning])  # whoever started it may not have waited until it was
        if self._threads:
            await asyncio.to_thread(self._finish)

    # ---- threads -----------------------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        self._channel, there = Channel.pair()
        try:
            self._process = subprocess.Popen(
                [*(COMMAND if self._serve.vllm is None else VLLM_COMMAND), str(there.fileno())],
                pass_fds=[there.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                env={name: value for name, value in os.environ.items() if name != KEYS_VARIABLE},
                process_group=0,  # what a terminal sends to the API's group is not for it
            )  # fmt: skip
        except BaseException:
            self._channel.close()
            raise
        finally:
            there.close()
        assert self._process.stderr is not None
        for work in (self._send, self._receive, lambda stream=self._process.stderr: to_log(stream)):
            self._threads.append(threading.Thread(target=work, name="worker", daemon=True))
            self._threads[-1].start()

    def _send(self) -> None:
        while (item := self._outgoing.get()) is not None:
            message, memory = item
            try:
                if not self._ending:
                    self._channel.send(message, memory)
            except OSError:
                pass  # the receiving thread finds out why
            except Exception:  # what cannot be written is one request's fault
                log.exception("a message could not be sent")
                if isinstance(message, Ask | Embed):
                    self._hand(internal().told(message.id), None)
            finally:
                if memory is not None:
                    memory.close()

    def _receive(self) -> None:
        why = "ended"
        try:
            while (got := self._channel.receive()) is not None:
                message, memory = got
                try:
                    vectors = understood(message, memory)
                finally:
                    if memory is not None:
                        memory.close()
                self._hand(message, vectors)
        except (OSError, WireError) as error:
            why = f"broke off ({error})"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(GRACE)
            why += f" (exit code {code})" if code >= 0 else f" (signal {-code})"
        self._process.kill()
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody wants to know
            self._loop.call_soon_threadsafe(self._lost, why)

    def _hand(self, message: Message, vectors: np.ndarray | None) -> None:
        """Hand a message over to the event loop; waits where that is behind."""
        while not self._room.acquire(timeout=GRACE):
            if self._ending:
                return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrived, message, vectors)

    def _finish(self) -> None:
        self._process.kill()
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILLED)
        for thread in self._threads:
            thread.join(KILLED)
        assert self._process.stderr is not None
        self._process.stderr.close()

    # ---- in the event loop -------------------------------------------------------------------------------------------

    def _arrived(self, message: Message, vectors: np.ndarray | None) -> None:
        self._room.release()
        if not self._ending:
            self._heard(message, vectors)

    def _lost(self, why: str) -> None:
        self.why = why
        self.gone.set()


def understood(message: Message, memory: Memory | None) -> np.ndarray | None:
    """The vectors that came with a message of a worker. WireError for what no worker says."""
    if not isinstance(message, Ready | Piece | Done | Vectors | Pong | Refused | Step):
        raise WireError(f"a worker does not say {type(message).__name__}")
    if (memory is not None) != isinstance(message, Vectors):
        raise WireError(f"{type(message).__name__} came {'with' if memory else 'without'} memory")
    if isinstance(message, Vectors) and memory is not None:
        if len(message.shape) != 2:
            raise WireError(f"vectors have the shape {list(message.shape)}")
        return memory.array(message.shape, np.float32)
    return None


def to_log(stream: IO[bytes]) -> None:
    """Every line of a stream until it ends, but no more than a log can take."""
    since, lines = time.monotonic(), 0
    while line := stream.readline(LONGEST_LINE):
        now = time.monotonic()
        if now - since >= PERIOD:
            if lines > LINES:
                log.warning("%d lines more were not written down", lines - LINES)
            since, lines = now, 0
        lines += 1
        text = line.decode("utf-8", "replace").rstrip().rpartition("\r")[2]
        if text and lines <= LINES:
            log.warning("%s", "".join(letter if letter.isprintable() else "?" for letter in text))

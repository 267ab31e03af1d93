"""One reader as the process of the API sees it: how it is started, asked and ended. All of this blocks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from internvl.errors import InternVLError
from internvl.serving.reader import SPEAKS
from internvl.serving.wire import Channel, Look, Memory, Open, Pong, Prompt, Read, Refused, WireError

log = logging.getLogger("internvl.readers")

KEPT = (
    "PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
"""What a reader sees of the environment: no keys, no tokens."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
COMMAND = ("-P", "-m", "internvl.serving.reader")
"""What Python is given; -P: the folder that the server was started in is no place for modules."""
LONGEST_LINE = 2000
Answer = tuple[Prompt, Memory | None] | Refused


def described(told: Mapping[str, str | None], seconds: float) -> dict[str, Any]:
    """What `internvl.serving.described` says of a model. Raises InternVLError with its words."""
    command = [sys.executable, "-P", "-m", "internvl.serving.described", json.dumps(told)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=seconds, check=False)
        found = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        raise InternVLError("the model's configuration could not be read; the log says why") from None
    if "error" in found:
        raise InternVLError(found["error"])
    return found


class Reader:
    """A process that answers one message at a time.

    >>> reader = Reader()                   # doctest: +SKIP
    >>> reader.open(opening)                # doctest: +SKIP
    >>> prompt, memory = reader.ask(read)   # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._channel, end = Channel.pair()
        self.killed = False
        """Whether it was ended from here."""
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | ONE_THREAD
        try:
            self._process = subprocess.Popen(
                [sys.executable, *COMMAND, str(end.fileno())],
                pass_fds=(end.fileno(),), env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
        except BaseException:
            self._channel.close()
            raise
        finally:
            end.close()
        self._opened = False
        threading.Thread(target=self._overhear, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self.killed and self._process.poll() is None

    def open(self, opening: Open) -> None:
        """Returns when it is ready. Raises InternVLError with its words where it cannot be."""
        try:
            self._channel.send(opening)
            came = self._channel.receive()
        except (OSError, WireError):
            came = None
        if came is None:
            raise InternVLError("a reader ended before it was ready; the log says why")
        if isinstance(came[0], Refused):
            raise InternVLError(came[0].message)
        if not isinstance(came[0], Pong):
            raise WireError(f"a reader says {type(came[0]).__name__}, expected Pong")
        self._opened = True

    def ask(self, message: Read | Look, data: Sequence[str] = ()) -> Answer | None:
        """What it answers; None if it ended over it, or said what no reader says, and then it is killed.

        data: the order's own, as `internvl.serving.reading.as_json` has them.
        """
        memory = None
        try:
            self._send(message, data)
            came = self._channel.receive()
            if came is None:
                return None
            said, memory = came
            if isinstance(said, Refused) and said.id == message.id and memory is None:
                return said
            if not isinstance(said, Prompt) or said.id != message.id:
                raise WireError(f"a reader answers with {type(said).__name__}, expected a Prompt or Refused of its own")
            check(said, memory)
            return said, memory
        except Exception as error:  # whatever it says, this order alone is lost
            if memory is not None:
                memory.close()
            if not self.killed:
                log.error("a reader is not to be trusted any more (%s)", type(error).__name__)
            self.kill()
            return None

    def _overhear(self) -> None:
        """Its own words go to the log, and all of them until it is ready; what a decoder prints may be a stranger's."""
        stream = self._process.stderr
        assert stream is not None
        with stream:
            while line := stream.readline(LONGEST_LINE):
                text = line.decode(errors="replace").rstrip()
                if not self._opened or text.startswith(SPEAKS):
                    log.error("%s", "".join(letter if letter.isprintable() else "?" for letter in text))

    def _send(self, message: Read | Look, data: Sequence[str]) -> None:
        if not data:
            return self._channel.send(message)
        beside = Memory.of(np.frombuffer("".join(data).encode(), np.uint8))
        try:
            self._channel.send(message, beside)
        finally:
            beside.close()

    def kill(self) -> None:
        """At once; an `ask` in another thread returns None."""
        self.killed = True
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """Kill it if it lives, and wait until nothing is left of it."""
        self.kill()
        self._process.wait()
        self._channel.close()


def check(prompt: Prompt, memory: Memory | None) -> None:
    """What a reader says fits together: whoever works with it need not ask again. Raises WireError."""
    tiles = prompt.shape[0] if prompt.shape else 0
    size = os.fstat(memory.descriptor).st_size if memory is not None else 0
    expected = 1
    for side in prompt.shape:
        expected *= side
    whole = all(type(one) is int and one >= 0 for one in (*prompt.ids, *prompt.tiles, *prompt.shape))
    if not whole or len(prompt.shape) not in (0, 4) or size != (expected if prompt.shape else 0):
        raise WireError("a reader's prompt and its tiles do not fit together")
    if memory is not None and prompt.tiles and (sum(prompt.tiles) != tiles or len(prompt.digests) != len(prompt.tiles)):
        raise WireError("a reader's tiles are not those of its pictures")


class Lane:
    """Readers that have nothing to do, and orders that wait for one, first come first served. Of one event loop."""

    def __init__(self, count: int) -> None:
        self.count = count
        """Readers that there should be."""
        self._free: deque[Reader] = deque()
        self._waiting: deque[asyncio.Future[Reader | None]] = deque()
        self._closed = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def next(self) -> Reader | None:
        """A reader; None when the lane is closed."""
        if self._closed or self._free:
            return None if self._closed else self._free.popleft()
        mine: asyncio.Future[Reader | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            return await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled() and (reader := mine.result()) is not None:
                self.put(reader)  # it came just as nobody waited any more
            elif mine in self._waiting:
                self._waiting.remove(mine)
            raise

    def put(self, reader: Reader) -> None:
        """It has nothing to do any more."""
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                return first.set_result(reader)
        return self._free.append(reader)

    def close(self) -> None:
        self._closed = True
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(None)

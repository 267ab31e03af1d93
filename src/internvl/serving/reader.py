"""The process that opens what strangers send: no torch, no secrets, and bounds that the system keeps.

Run as `python -m internvl.serving.reader DESCRIPTOR`, which is one end of a socket whose other end has `Readers`. The
first message is an Open; then each Read or Look is answered by a Prompt with tiles beside it, or by a Refused. What
eats memory, runs for ever or falls over takes this process with it, and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from internvl.data.encode import Encoder, EncoderConfig
from internvl.data.tokenizer import Tokenizer
from internvl.errors import InternVLError, UsageError
from internvl.serving.reading import Unforeseen, limits_of, look, order_of, prompt_of
from internvl.serving.refusal import Refusal, refusal_of
from internvl.serving.wire import Channel, Look, Memory, Message, Open, Pong, Prompt, Read, Refused, WireError

log = logging.getLogger("internvl.reader")
SPEAKS = "internvl.reader: "
"""What its own lines begin with; nothing else that is printed here reaches the log."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the system itself refuses this process. macOS has no bound on memory."""

    memory: int = 4 << 30
    """Bytes of address space: decoded pictures, tiles and the program itself."""
    seconds: int = 20
    """Of CPU time, for one request."""
    files: int = 64
    """Open at a time."""
    tiles: int = 1 << 30
    """Bytes that a request's tiles have at most. No other file can be written to."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started the server stops it, and that stops this process
    logging.basicConfig(level=logging.WARNING, format=f"{SPEAKS}%(message)s")
    channel = Channel.inherited(int(sys.argv[1]))
    with contextlib.suppress(OSError, WireError):  # the other end is gone
        serve(channel)


def serve(channel: Channel) -> None:
    """Answer one message after the other until the other end is gone."""
    first = channel.receive()
    if first is None:
        return
    opening = first[0]
    if not isinstance(opening, Open):
        raise WireError("the first message is not an Open")
    try:
        answer = answering(opening)
    except InternVLError as error:  # these are the server's own files: who starts it is told what is wrong with them
        channel.send(Refused(id=0, message=str(error), status=500))
        return
    channel.send(Pong(id=0, counters={}))
    while (came := channel.receive()) is not None:
        said, memory = answer(*came)
        try:
            channel.send(said, memory)
        finally:
            if memory is not None:
                memory.close()


Answer = Callable[[Message, Memory | None], tuple[Message, Memory | None]]


def answering(opening: Open) -> Answer:
    """What answers a Read or a Look; the bounds hold from here on."""
    bounds = Bounds(**opening.bounds)
    confine(bounds)
    encoder = Encoder(Tokenizer.from_folder(Path(opening.tokenizer)), EncoderConfig(**opening.encoding))
    limits = limits_of(opening.limits)

    def read(message: Read | Look, data: bytes) -> tuple[Prompt, np.ndarray]:
        order = order_of(message.order, data)
        if isinstance(message, Read):
            return prompt_of(order, encoder, limits, id=message.id, context=opening.context, tiles=message.tiles)
        if opening.look is None:
            raise UsageError("no model here makes vectors of pictures")
        return look(order, limits, id=message.id, **opening.look)

    def answer(message: Message, beside: Memory | None) -> tuple[Message, Memory | None]:
        if not isinstance(message, Read | Look):
            raise WireError(f"a reader is sent a {type(message).__name__}; expected Read or Look")
        try:
            with cpu_seconds(bounds.seconds):
                prompt, tiles = read(message, _taken(beside))
                return prompt, _remembered(tiles, bounds) if len(tiles) else None
        except Exception as error:  # whatever a stranger's file brings about is that request's own
            return _refusal(error).told(message.id), None

    return answer


def _taken(memory: Memory | None) -> bytes:
    """All that it holds."""
    if memory is None:
        return b""
    try:
        return memory.array((os.fstat(memory.descriptor).st_size,)).tobytes()
    finally:
        memory.close()


def _remembered(tiles: np.ndarray, bounds: Bounds) -> Memory:
    """Memory that holds the tiles. Only while it is filled may anything be written."""
    if tiles.nbytes > bounds.tiles:
        raise Refusal("the pictures of this request have too many tiles; lower max_tiles, or send fewer",
                      param="messages", code="media_refused")  # fmt: skip
    _limit("RLIMIT_FSIZE", bounds.tiles)
    try:
        return Memory.of(tiles)
    finally:
        _limit("RLIMIT_FSIZE", 0)


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, MemoryError):
        return Refusal("the request could not be read within the memory that it may have; send smaller pictures, or "
                       "fewer", status=422, param="messages", code="media_unreadable")  # fmt: skip
    refusal = refusal_of(error)
    fault = error.__cause__ if isinstance(error, Unforeseen) else error if refusal.status >= 500 else None
    if fault is not None:  # where, but not what: its words may be the request's own
        place = traceback.extract_tb(fault.__traceback__)[-1]
        log.error("%s in %s, line %s", type(fault).__name__, Path(place.filename).name, place.lineno)
    return refusal


# ---- bounds ----------------------------------------------------------------------------------------------------------


def confine(bounds: Bounds) -> None:
    """Ask the system to keep these bounds, as far as it has them."""
    for name, value in (("AS", bounds.memory), ("NOFILE", bounds.files), ("CORE", 0)):
        _limit(f"RLIMIT_{name}", value, hard=value)
    _limit("RLIMIT_FSIZE", 0, hard=bounds.tiles)


@contextlib.contextmanager
def cpu_seconds(seconds: int) -> Generator[None, None, None]:
    """So much CPU time from now on, and then the system ends this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit("RLIMIT_CPU", math.ceil(used.ru_utime + used.ru_stime) + seconds)
    try:
        yield
    finally:
        _limit("RLIMIT_CPU", resource.RLIM_INFINITY)


def _limit(name: str, soft: int, hard: int | None = None) -> None:
    """One of the system's limits; the hard one can only be lowered."""
    kind: Any = getattr(resource, name, None)
    if kind is None:
        return
    with contextlib.suppress(ValueError, OSError):  # macOS does not have them all, and a container may have lower ones
        most = resource.getrlimit(kind)[1]
        hard = most if hard is None else hard
        if most != resource.RLIM_INFINITY:
            hard = min(hard, most) if hard != resource.RLIM_INFINITY else most
            soft = min(soft, hard) if soft != resource.RLIM_INFINITY else hard
        resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    main()

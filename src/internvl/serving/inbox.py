"""What comes to a worker while it steps: a thread takes it from the socket, pixels into this process's memory."""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from internvl.inference.engine import Request
from internvl.serving.wire import Ask, Channel, Embed, Memory, Message, WireError

log = logging.getLogger("internvl.worker")

INBOX = 64
"""Messages that have come and were not looked at; whoever sends more waits."""


@dataclass(frozen=True)
class Come:
    """A message, and the pixels (n, S, S, 3) that came with it, or why they cannot be used."""

    message: Message
    pixels: np.ndarray | Exception | None = None


@dataclass(frozen=True)
class Prepared:
    """What the engine is to be asked for a request that had to be prepared, or why it cannot be."""

    id: int
    request: Request | Exception


Inbox = queue.Queue[Come | Prepared]


def listen(channel: Channel, inbox: Inbox) -> None:
    """Put what comes into the inbox. When nothing will come any more the process ends, whatever it does just now."""
    try:
        while (got := channel.receive()) is not None:
            inbox.put(come(*got))
        os._exit(0)
    except (OSError, WireError) as error:
        log.error("the other end is not understood: %s", error)
    finally:
        os._exit(1)


def come(message: Message, memory: Memory | None) -> Come:
    """A message, with its pixels in this process's own memory."""
    if memory is None:
        return Come(message)
    try:
        shape: Sequence[int] = message.shape if isinstance(message, Ask | Embed) else ()
        if len(shape) != 4:
            raise WireError(f"memory came for pictures of the shape {list(shape)}")
        pixels = memory.array(shape)
        pixels.flags.writeable = True  # torch warns of what it could not write to
        return Come(message, pixels)
    except Exception as error:  # one request's fault
        return Come(message, error)
    finally:
        memory.close()

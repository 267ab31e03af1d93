"""What an engine is told and what it tells: how much it takes on, what came of a step, and its counters."""

from __future__ import annotations

from dataclasses import dataclass

from internvl.errors import UsageError
from internvl.inference.sampling import Finish, Token


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How much an engine takes on.

    >>> EngineConfig(slots=4, max_len=2048).chunk
    256
    """

    slots: int = 16
    """Answers that grow at the same time."""
    max_len: int = 4096
    """Tokens of a prompt and its answer together; no more than the model reads."""
    chunk: int = 256
    """Tokens of prompts that are read in one step."""
    queue: int = 256
    """Requests that may wait."""
    waiting_tiles: int = 1024
    """Tiles that requests may bring in all before they are encoded: 0.6 GB at 448 px."""
    per_user: int | None = None
    """Slots that one user may have at a time; None: all."""
    kept_tiles: int | None = None
    """Tiles whose features are remembered; None: `seen.MOST_TILES`."""
    reuse: bool = True
    """Whether a prompt takes over what a slot already holds of its beginning. False: every prompt is read whole."""
    deterministic: bool = False
    """Every step has the same shape whatever is in flight, so that an answer is the same to the last bit. Slower."""

    def __post_init__(self) -> None:
        for name in ("slots", "max_len", "chunk", "queue", "waiting_tiles", "per_user", "kept_tiles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class Spoke:
    """A token of one of a request's answers."""

    id: int
    answer: int
    token: Token
    silent: bool = False
    """A stop token: it ends the answer and is no part of its text."""


@dataclass(frozen=True)
class Ended:
    """An answer is complete."""

    id: int
    answer: int
    finish: Finish
    reused: int
    """Tokens of the prompt that did not have to be read."""
    last: bool
    """It was the last of its request's answers."""


@dataclass(frozen=True)
class Failed:
    """A request met an error and is over, with all its answers. Nobody else is touched."""

    id: int
    error: Exception


Event = Spoke | Ended | Failed


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What an engine does now, and what it has done since it was made."""

    queued: int
    reading: int
    running: int
    slots: int
    free: int
    read: int
    """Tokens of prompts that went through the model."""
    reused: int
    """Tokens of prompts that were in a slot already."""
    generated: int
    waiting_tiles: int
    """Tiles that are still to be encoded, or found among those that are kept."""
    picture_hits: int
    picture_misses: int
    kept_tiles: int
    ended: int
    failed: int
    cancelled: int

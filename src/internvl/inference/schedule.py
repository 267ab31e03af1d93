"""What is asked of the engine, what waits, and who is next: priorities first, then every user in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from internvl.errors import UsageError
from internvl.inference.draft import Draft, Restricts
from internvl.inference.sampling import SamplingConfig
from internvl.inference.seen import Features, Key
from internvl.inference.slots import Slot

Pictures = Sequence[tuple[str, np.ndarray]]


class QueueFull(UsageError):
    """As many requests wait as may; ask again later. A server answers 429."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A prompt and how it is to be answered.

    >>> request = Request(ids=encoded.input_ids, pictures=pictures, stop_ids=encoder.stop_ids)  # doctest: +SKIP
    """

    ids: Sequence[int]
    pictures: Pictures = ()
    """Digest and tiles of each picture, in the order of their slots. Pictures are known by what `seen.digest` says of
    their tiles, and by nothing else."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Its `stop` strings are for whoever turns tokens into text, and then calls `Engine.cancel`."""
    stop_ids: tuple[int, ...] = ()
    counted: tuple[int, ...] = ()
    """Ids that the repetition penalty counts besides the generated ones."""
    n: int = 1
    """Answers to the same prompt, which is read once when so many slots are free. With a seed, the seeds of the next
    are one higher each."""
    priority: int = 0
    """The higher goes first, always."""
    user: str = ""
    """Users of equal priority take turns, however many requests each has."""
    constraint: Callable[[], Restricts] | None = None
    """What every answer must be; called once for each of them."""

    def draft(self, answer: int) -> Draft:
        """The beginning of one of the answers."""
        config = self.sampling
        if config.seed is not None:
            config = replace(config, seed=(config.seed + answer) % 2**63)
        return Draft(config, self.stop_ids, self.counted, self.constraint() if self.constraint else None)


class Looking:
    """The pictures of one prompt on their way into features: a part at a time, and none before it is needed."""

    def __init__(self, features: Features, pictures: Pictures, slots_per_tile: int) -> None:
        self._features = features
        self._tiles: list[np.ndarray | None] = [tiles for _, tiles in pictures]
        self._names = [name for name, _ in pictures]
        self._ends: list[int] = np.cumsum([len(tiles) * slots_per_tile for _, tiles in pictures], dtype=int).tolist()
        self._done: dict[int, Tensor] = {}
        self._pieces: list[Tensor] = []

    @property
    def tiles(self) -> int:
        """How many are not computed yet, nor found."""
        return sum(len(tiles) for tiles in self._tiles if tiles is not None)

    def ready(self, start: int, stop: int) -> bool:
        """Whether all is there that fills the image slots start .. stop - 1. If not, one part more is computed."""
        return all(self._one(picture) for picture, _, _ in self._within(start, stop))

    def fill(self, start: int, stop: int) -> Tensor | None:
        """What fills these slots, (stop - start, dim); pictures that end there are let go."""
        pieces: list[Tensor] = []
        for picture, first, last in self._within(start, stop):
            pieces.append(self._done[picture].flatten(0, 1)[first:last])
            if stop >= self._ends[picture]:
                del self._done[picture]
        return torch.cat(pieces) if pieces else None

    def _within(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The pictures that have some of these slots, and which of their own slots these are."""
        begins = [0, *self._ends][:-1]
        return [
            (picture, max(start - begin, 0), min(stop, end) - begin)
            for picture, (begin, end) in enumerate(zip(begins, self._ends, strict=True))
            if begin < stop and start < end
        ]

    def _one(self, picture: int) -> bool:
        if picture in self._done:
            return True
        name, tiles = self._names[picture], self._tiles[picture]
        assert tiles is not None
        kept = None if self._pieces else self._features.kept(name)
        if kept is not None:
            self._tiles[picture], self._done[picture] = None, kept
            return True
        parts = self._features.parts(tiles)
        self._pieces.append(self._features.encode(parts[len(self._pieces)]))
        if len(self._pieces) == len(parts):
            self._tiles[picture], self._done[picture] = None, torch.cat(self._pieces)
            self._features.keep(name, self._done[picture])
            self._pieces = []
        return False


class Job:
    """A request between its submission and its last event."""

    def __init__(self, id: int, request: Request, keys: list[Key], features: Features, slots_per_tile: int) -> None:
        self.id, self.request, self.keys = id, request, keys
        self._features = features
        self.looking = Looking(features, request.pictures, slots_per_tile)
        self.slots: list[Slot] = []
        """One for each answer, once it is read."""
        self.drafts: dict[int, Draft] = {}
        """The answers that still grow."""
        self.reused = 0
        self.at = 0
        """Tokens of the prompt that are held."""
        self.logits: Tensor | None = None
        """(1, vocab) after the prompt, when it has just been read."""

    def forget_prompt(self) -> None:
        """It is read: its tiles would only take room."""
        self.request = replace(self.request, ids=(), pictures=())
        self.looking = Looking(self._features, (), 1)

    @property
    def left(self) -> int:
        """Tokens of the prompt that are still to be read."""
        return len(self.keys) - self.at

    def image_slots(self, place: int) -> int:
        """How many of the tokens before a place are image slots."""
        return sum(isinstance(key, tuple) for key in self.keys[:place])


class Queue:
    """Jobs that wait. In a priority, users take turns; of one user, the oldest job is first."""

    def __init__(self) -> None:
        self._waiting: dict[int, OrderedDict[str, deque[Job]]] = {}

    def __len__(self) -> int:
        return sum(len(jobs) for users in self._waiting.values() for jobs in users.values())

    def add(self, job: Job) -> None:
        users = self._waiting.setdefault(job.request.priority, OrderedDict())
        users.setdefault(job.request.user, deque()).append(job)

    def first(self, may: Callable[[Job], bool]) -> Job | None:
        """Who is next, passing over users whose turn it may not be."""
        for priority in sorted(self._waiting, reverse=True):
            for jobs in self._waiting[priority].values():
                if may(jobs[0]):
                    return jobs[0]
        return None

    def pop(self, job: Job) -> None:
        """It is this job's turn: its user is behind all others now."""
        self.remove(job)
        users = self._waiting.get(job.request.priority, OrderedDict())
        if job.request.user in users:
            users.move_to_end(job.request.user)

    def remove(self, job: Job) -> bool:
        """Take a job away, wherever it stands; whether it was there."""
        priority, user = job.request.priority, job.request.user
        jobs = self._waiting.get(priority, {}).get(user, deque())
        if job not in jobs:
            return False
        jobs.remove(job)
        if not jobs:
            del self._waiting[priority][user]
        if not self._waiting[priority]:
            del self._waiting[priority]
        return True

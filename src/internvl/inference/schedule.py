"""What is asked of the engine, what waits, and who is next: priorities first, then every user in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from internvl.errors import UsageError
from internvl.inference.draft import Draft, Restricts
from internvl.inference.looking import Here, Looking, Pictures
from internvl.inference.sampling import SamplingConfig
from internvl.inference.seen import Key
from internvl.inference.slots import Slot


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


class Job:
    """A request between its submission and its last event."""

    def __init__(self, id: int, request: Request, keys: list[Key], encoding: Here, slots_per_tile: int) -> None:
        self.id, self.request, self.keys = id, request, keys
        self._encoding = encoding
        self.looking = Looking(encoding, request.pictures, slots_per_tile)
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
        self.looking = Looking(self._encoding, (), 1)

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

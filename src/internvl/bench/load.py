"""Many questions to a server: some at once, or as they arrive; what became of each, and when.

    closed loop   --concurrency C   C clients, each asks its next question when its last was answered
    open loop     --rate R          questions arrive by chance, R a second on average, whatever the server does

In an open loop every time is counted from the moment that a question was planned for, not from when it was sent: a
server that stalls lets questions queue up, and those who wait in the queue wait for the server.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from internvl.errors import UsageError

MOST_REQUESTS = 100_000
"""Of one run: what became of each is kept in memory."""

State = Literal["answered", "empty", "failed", "cancelled"]
"""empty: the answer is complete and has no text, as a model may decide."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """How many questions, and when.

    >>> Load(requests=3, concurrency=2).rate is None
    True
    """

    requests: int
    concurrency: int | None = None
    """Closed loop: so many on their way at once."""
    rate: float | None = None
    """Open loop: so many arrive in a second, on average."""
    timeout: float = 120.0
    """Seconds for one answer; then it is cancelled."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.requests <= MOST_REQUESTS:
            raise UsageError(f"{self.requests} requests: expected 1 to {MOST_REQUESTS:,}")
        if (self.concurrency is None) == (self.rate is None):
            raise UsageError("give either --concurrency C (so many at once) or --rate R (so many arrive in a second)")
        if self.concurrency is not None and self.concurrency < 1:
            raise UsageError(f"concurrency {self.concurrency}: expected at least 1")
        for name, value in (("rate", self.rate), ("timeout", self.timeout)):
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} {value:g}: expected a number above 0")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a server says of its answer when it ends; None where it says nothing."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finish: str | None = None
    """Why the answer ended."""


class Failed(Exception):
    """A question that got no answer: `kind` is counted, the text of the first of each kind is shown."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


Ask = Callable[[int, Callable[[], None]], Awaitable[Said]]
"""Asks question `number`, and calls its second argument at each piece of the answer. Raises `Failed`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one question; times in seconds from the beginning of the run."""

    number: int
    planned: float
    """When it was to be asked; all its times are counted from here."""
    sent: float
    ended: float
    pieces: Sequence[float]
    """When each piece of the answer came."""
    state: State
    said: Said = Said()
    kind: str = ""
    """Of the error, where it failed."""
    error: str = ""

    @property
    def output_tokens(self) -> int:
        """As the server counts; where it does not, pieces, each of which is mostly one token."""
        return len(self.pieces) if self.said.output_tokens is None else self.said.output_tokens

    @property
    def is_timed(self) -> bool:
        """Whether its times are the server's: something came of it, or was waited for."""
        return self.state in ("answered", "cancelled")

    @property
    def first(self) -> float | None:
        """Time to first token. Of a question that was cancelled before it, how long was waited: a lower bound."""
        if self.pieces:
            return self.pieces[0] - self.planned
        return self.whole if self.state == "cancelled" else None

    @property
    def whole(self) -> float:
        """Time to the end of the answer, or until it was cancelled."""
        return self.ended - self.planned

    @property
    def gaps(self) -> list[float]:
        """Times between a piece and the next."""
        return [after - before for before, after in zip(self.pieces, self.pieces[1:], strict=False)]

    @property
    def per_token(self) -> float | None:
        """Time of a token after the first, on average."""
        if self.state != "answered" or self.output_tokens < 2:
            return None
        return (self.pieces[-1] - self.pieces[0]) / (self.output_tokens - 1)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A run."""

    load: Load
    outcomes: tuple[Outcome, ...]
    """In the order of their numbers."""
    seconds: float
    """From the beginning until the last question ended."""
    busy: float
    """The share of that time in which this program itself computed."""


def arrivals(load: Load) -> list[float]:
    """When each question of an open loop arrives: a Poisson process, the same for the same seed.

    >>> len(arrivals(Load(requests=3, rate=2.0)))
    3
    """
    assert load.rate is not None
    chance, at, times = random.Random(f"arrivals {load.seed}"), 0.0, []
    for _ in range(load.requests):
        at += chance.expovariate(load.rate)
        times.append(at)
    return times


async def drive(load: Load, ask: Ask, watch: Callable[[int, int], None] = lambda done, total: None) -> Measured:
    """Ask all questions; `watch` is told how many are done, of how many.

    Time is that of the running event loop, so that a test can bring its own.
    """
    run = _Run(load, ask, watch)
    computing = time.process_time()
    await (run.open() if load.rate is not None else run.closed())
    seconds = max(max(outcome.ended for outcome in run.outcomes), 1e-9)
    outcomes = tuple(sorted(run.outcomes, key=lambda outcome: outcome.number))
    return Measured(
        load=load, outcomes=outcomes, seconds=seconds, busy=min(1.0, (time.process_time() - computing) / seconds)
    )


class _Run:
    def __init__(self, load: Load, ask: Ask, watch: Callable[[int, int], None]) -> None:
        self._load, self._ask, self._watch = load, ask, watch
        self._time = asyncio.get_running_loop().time
        self._begun = self._time()
        self.outcomes: list[Outcome] = []

    def _now(self) -> float:
        return self._time() - self._begun

    async def closed(self) -> None:
        assert self._load.concurrency is not None
        numbers = iter(range(self._load.requests))
        async with asyncio.TaskGroup() as clients:
            for _ in range(min(self._load.concurrency, self._load.requests)):
                clients.create_task(self._client(numbers))

    async def _client(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._one(number, self._now())

    async def open(self) -> None:
        async with asyncio.TaskGroup() as under_way:
            for number, planned in enumerate(arrivals(self._load)):
                await asyncio.sleep(max(0.0, planned - self._now()))
                under_way.create_task(self._one(number, planned))

    async def _one(self, number: int, planned: float) -> None:
        sent, pieces = self._now(), array("d")
        state, said, kind, text = "answered", Said(), "", ""
        try:
            async with asyncio.timeout_at(self._begun + planned + self._load.timeout):
                said = await self._ask(number, lambda: pieces.append(self._now()))
            if not pieces and said.finish == "stop":
                state = "empty"
            elif not pieces:
                state, kind, text = "failed", "empty answer", "the answer ended without any text"
        except TimeoutError:
            state = "cancelled"
        except Failed as error:
            state, kind, text = "failed", error.kind, str(error)
        self.outcomes.append(
            Outcome(
                number=number,
                planned=planned,
                sent=sent,
                ended=self._now(),
                pieces=pieces,
                state=state,
                said=said,
                kind=kind,
                error=text,
            )
        )
        self._watch(len(self.outcomes), self._load.requests)

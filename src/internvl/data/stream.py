"""The batches of one rank: the mixture's order dealt out, prepared, gathered, and exactly resumable.

    position, position + ranks, …  --workers-->  samples, in order  --former-->  groups  --collate-->  batches

Workers only prepare samples; which of them share a batch is decided in their order, so that batches do not depend on
how many workers there are. What must be known to go on after a batch is a few positions, see `Stream.state`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from internvl.data.batch import Batch, Prepared
from internvl.data.ledger import Ledger, merged
from internvl.data.mixture import Mixture
from internvl.data.packing import Former
from internvl.data.workers import Outcome, Task, ahead, outcomes
from internvl.errors import (
    ConfigError,
    ContextOverflow,
    DataError,
    MediaError,
    PromptError,
    TrainingError,
)

FAULTS_OF_A_ROW = (DataError, MediaError, PromptError)
"""Any other error is one of the whole run, and ends it."""
ENOUGH = 1000
"""Rows without a sample from which one of several ranks judges all."""
LOOKED_AT = 8
"""Places of the order that tell one mixture from another."""


@dataclass(frozen=True)
class Order:
    """The positions that are still to be dealt out: some that are left of before, and all from `start` on."""

    left: tuple[int, ...]
    start: int
    end: int | None

    def __getitem__(self, index: int) -> int:
        """The position at a place of the order, counted over all ranks."""
        return self.left[index] if index < len(self.left) else self.start + index - len(self.left)

    def dealt(self, rank: int, world: int, taken: int) -> Iterator[int]:
        """The positions of one rank after the first `taken` of them."""
        index = rank + taken * world
        while self.end is None or self[index] < self.end:
            yield self[index]
            index += world


@dataclass
class Drought:
    """Tells when an order without an end comes to nothing: a whole epoch of it was read, and no row gave a sample.

    One of several ranks reads a part of each epoch; of a small one it must have seen enough to judge the rest by.
    """

    epoch: int
    world: int
    start: int
    """Of the order; what was left over before it are single rows."""
    since: int | None = None
    """All from here on gave nothing."""
    read: int = 0

    def lasts(self, position: int, used: bool) -> bool:
        """Enter one more position that was read; whether it is enough."""
        if used or position < self.start:
            self.since, self.read = None, 0
            return False
        if self.since is None:
            self.since = max(self.start, position - self.world + 1)
        self.read += 1
        whole = -(-self.since // self.epoch) * self.epoch + self.epoch
        return position + self.world >= whole and self.read >= (1 if self.world == 1 else ENOUGH)


@dataclass(frozen=True)
class State:
    """Where one rank is, in positions of the mixture."""

    rank: int
    world: int
    left: tuple[int, ...] = ()
    start: int = 0
    taken: int = 0
    """How many positions of its own this rank has read."""
    ready: tuple[tuple[int, ...], ...] = ()
    """Groups that are complete, but not yet used."""
    held: tuple[tuple[int, ...], ...] = ()
    """Samples that wait in the former."""
    counted: tuple[int, ...] = ()
    """Of `left`: those that the ledger has counted already."""
    ledger: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class Stream:
    """The batches of rank `rank` of `world`; iterate over it once, and again after `resume`.

    The order is the mixture's and ends before position `end` (None: never). Bad rows and those that are too long are
    entered into the ledger and passed over. `workers` processes prepare samples ahead of time; 0: none but this.

    >>> stream = Stream(mixture, prepare, Packer(8192, 48), collate, ledger, rank=0, world=8)      # doctest: +SKIP
    >>> batch = next(iter(stream))                                                                # doctest: +SKIP
    """

    mixture: Mixture
    prepare: Callable[..., Prepared]
    """prepare(record, source, position, index=…, seed=…)."""
    former: Former
    collate: Callable[[Any], Batch]
    ledger: Ledger
    rank: int = 0
    world: int = 1
    workers: int = 0
    seed: int = 0
    end: int | None = None
    start_method: str | None = None
    """Of processes: `fork`, `spawn`, `forkserver`; None: the usual one of this system."""
    patience: float = 600.0
    """Seconds after which it is an error that no sample comes from the workers; a batch of many may take longer."""
    waited: float = field(default=0.0, init=False)
    """Seconds that were spent waiting for batches."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank {self.rank} of {self.world}: expected 0 to {self.world - 1}")
        if self.workers < 0:
            raise ConfigError(f"{self.workers} workers: expected 0 or more")
        self._state = State(self.rank, self.world, ledger=self.ledger.state())
        self._arrived = time.monotonic()

    def __iter__(self) -> Iterator[Batch]:
        made = self._made()
        with closing(ahead(made, self.patience, lambda: self._arrived) if self.workers else made) as batches:
            while True:
                began = time.perf_counter()
                found = next(batches, None)
                self.waited += time.perf_counter() - began
                if found is None:
                    return
                batch, self._state = found
                if batch is not None:
                    yield batch

    @property
    def reached(self) -> int:
        """About how far all ranks together are in the order: beyond this position none has read."""
        state = self._state
        return state.start + max(0, state.taken * self.world - len(state.left))

    # ---- going on ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What `resume` needs to go on after the batch that was yielded last; JSON values."""
        state = self._state
        return {
            "mixture": self._marks(),
            "rank": state.rank,
            "world": state.world,
            "left": list(state.left),
            "start": state.start,
            "taken": state.taken,
            "ready": [list(group) for group in state.ready],
            "held": [list(group) for group in state.held],
            "counted": list(state.counted),
            "ledger": dict(state.ledger),
        }

    def resume(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on from the states of all former ranks.

        With as many ranks as before: the very same batches. With another number: every sample that was not in a batch
        yet, once. Raises `TrainingError` where the states are not of this mixture, or not all there.
        """
        found = sorted((_read(state) for state in states), key=lambda state: state.rank)
        if [(state.rank, state.world) for state in found] != [(rank, len(found)) for rank in range(len(found))]:
            raise TrainingError(
                f"the data's position was saved for ranks {[state.rank for state in found]}; expected every rank once"
            )
        if any(state["mixture"] != self._marks() for state in states):
            raise TrainingError(
                "the checkpoint was made with other data, or in another order: sources, repeat, resampling or seed are "
                "not the same; restore them, or begin in another run.out"
            )
        if len(found) == self.world:
            self._state = found[self.rank]
        else:
            ledger = merged([state.ledger for state in found]) if self.rank == 0 else self._state.ledger
            self._state = replace(_not_used(found), rank=self.rank, world=self.world, ledger=ledger)
        self.ledger.restore(dict(self._state.ledger))

    def _marks(self) -> list[Any]:
        places = [self.mixture.place(position) for position in range(min(LOOKED_AT, len(self.mixture)))]
        return [len(self.mixture), self.seed, *([place.source, place.row] for place in places)]

    # ---- making them -------------------------------------------------------------------------------------------------

    def _made(self) -> Generator[tuple[Batch | None, State], None, None]:
        """Every batch from the state on, with the state after it; at the end the state after everything."""
        begun = self._state
        order = Order(begun.left, begun.start, self.end)
        again = list(chain.from_iterable((*begun.ready, *begun.held)))
        positions = chain(again, order.dealt(self.rank, self.world, begun.taken))
        task, counted = Task(self.mixture, self.prepare, self.seed), frozenset(begun.counted)
        self.ledger.restore(dict(begun.ledger))
        drought = Drought(len(self.mixture), self.world, begun.start) if self.end is None else None
        with closing(self._heard(outcomes(task, positions, self.workers, self.start_method))) as found:
            known = {position: _once_more(next(found)) for position in again}
            ready = deque([[known[position] for position in group] for group in begun.ready])
            self.former.restore([[known[position] for position in group] for group in begun.held])
            taken, ended = begun.taken, False
            while True:
                while ready:
                    group = ready.popleft()
                    yield self.collate(group), self._after(begun, taken, ready)
                if ended:
                    yield None, self._after(begun, taken, ready)
                    return
                outcome = next(found, None)
                if outcome is None:
                    ended = True
                    ready.extend(self.former.flush())
                else:
                    taken += 1
                    groups = self._entered(outcome, counted)
                    ready.extend(groups or ())
                    if drought is not None and drought.lasts(outcome.position, groups is not None):
                        raise DataError(
                            f"not one row of a whole epoch can be used: of {self.ledger.read} rows read "
                            f"{self.ledger.fates()}; see the rows with internvl lint, raise data.max_length or lower "
                            "data.max_tiles where they are over-long"
                        )

    def _heard(self, found: Generator[Outcome, None, None]) -> Generator[Outcome, None, None]:
        """The same, and when the last one came is known."""
        with closing(found):
            for outcome in found:
                self._arrived = time.monotonic()
                yield outcome

    def _after(self, begun: State, taken: int, ready: Iterable[Sequence[Prepared]]) -> State:
        held = self.former.held()
        return replace(begun, taken=taken, ready=_positions(ready), held=_positions(held), ledger=self.ledger.state())

    def _entered(self, outcome: Outcome, counted: Container[int]) -> list[list[Prepared]] | None:
        """The groups that a sample completes; None for a row that gives no sample. The ledger hears of either."""
        error, complete = outcome.error, None
        if outcome.sample is not None:
            try:
                complete = self.former.add(outcome.sample)
            except ContextOverflow as overflow:
                error = overflow
        if error is None and outcome.position in counted:
            pass
        elif error is None:
            whole = getattr(outcome.sample, "shortened_from", None)
            if whole is not None:
                self.ledger.overlong(outcome.source, outcome.origin, whole, kept=True)
            self.ledger.accepted(outcome.source)
        elif isinstance(error, ContextOverflow):
            self.ledger.overlong(outcome.source, outcome.origin, error.tokens or 0, kept=False)
        elif isinstance(error, FAULTS_OF_A_ROW):
            self.ledger.rejected(outcome.source, outcome.origin, error)
        else:
            raise error
        return complete


def _once_more(outcome: Outcome) -> Prepared:
    """A sample that was waiting when the state was saved."""
    if outcome.sample is None:
        raise TrainingError(
            f"{outcome.origin} was a sample when the checkpoint was made and is none now ({outcome.error}); restore "
            "the data as it was"
        ) from outcome.error
    return outcome.sample


def _positions(groups: Iterable[Sequence[Prepared]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sample.position for sample in group) for group in groups)


def _read(state: Mapping[str, Any]) -> State:
    return State(
        rank=state["rank"],
        world=state["world"],
        left=tuple(state["left"]),
        start=state["start"],
        taken=state["taken"],
        ready=tuple(tuple(group) for group in state["ready"]),
        held=tuple(tuple(group) for group in state["held"]),
        counted=tuple(state["counted"]),
        ledger=state["ledger"],
    )


def _not_used(states: Sequence[State]) -> State:
    """What is left when ranks change: the positions that no batch has had, and where all the others begin."""
    world, order = len(states), Order(states[0].left, states[0].start, None)
    # Ranks read at different speeds: `read` is the first place of the order from which on none has.
    read = max((state.rank + (state.taken - 1) * world + 1 for state in states if state.taken), default=0)
    all_read = min(state.taken for state in states) * world  # a run may have read millions, of which a few are left
    passed_over = [order[index] for index in range(all_read, read) if index // world >= states[index % world].taken]
    waiting = [position for state in states for group in (*state.ready, *state.held) for position in group]
    left = sorted([*waiting, *passed_over, *order.left[read:]])
    counted = {*waiting, *states[0].counted}
    return State(
        rank=0,
        world=0,
        left=tuple(left),
        start=order.start + max(0, read - len(order.left)),
        counted=tuple(position for position in left if position in counted),
    )

"""The reference that preferences are compared with, computed ahead: a pass over all that a run will read.

At every start, before what was learnt is restored: the model is then the one that training began with, so that a run
which is to go on for longer than was planned needs nothing but the rest of its answers. Once a pass was whole, the same
run does without another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from internvl.data.batch import Batch, ChatBatch
from internvl.data.ledger import Ledger
from internvl.data.packing import Former
from internvl.data.stream import Stream
from internvl.training.config import TrainConfig
from internvl.training.loop import Trainer, autocast, to_device
from internvl.training.reference import CachedReference, OwnReference


@dataclass(frozen=True)
class Filling:
    """Fills a cache with what the model says before it learns: each sample follows from its place in the order."""

    config: TrainConfig
    trainer: Trainer
    stream: Stream
    former: Callable[[], Former]
    asked: Callable[[], Iterator[Batch]] | None
    """The held-out batches."""
    cached: CachedReference
    live: OwnReference

    def __call__(
        self, report: Callable[[float], None], *, stop: Callable[[], bool], saved: Mapping[str, Any] | None = None
    ) -> int | None:
        """How many answers are known now; None if it was asked to stop before.

        `report` hears the share that is done; `saved` is the state of the checkpoint that the run will go on from.
        """
        coming, made = self._coming(saved)
        told = self._told(coming)
        if self.cached.covers(told):
            return len(self.cached)
        with autocast(self.trainer.world.device, self.trainer.dtype):
            known = self.cached.fill(self.trainer.model, self._batches(coming, made, report), self.live, stop=stop)
        if known is not None:
            self.cached.cover(told)
        return known

    def _coming(self, saved: Mapping[str, Any] | None) -> tuple[Stream, int]:
        """What the run will read, with a ledger that nobody sees, and the steps that it has made."""
        titles = [source.title for source in self.stream.mixture.sources]
        ledger = Ledger(None, budget=self.config.data.bad_rows, sources=titles)
        coming = replace(self.stream, former=self.former(), ledger=ledger)
        if saved is None:
            return coming, 0
        coming.resume(saved["streams"])
        return coming, int(saved["step"])

    def _told(self, coming: Stream) -> str:
        """What a run reads follows from these; from where its order begins too, once ranks have changed."""
        run, state = self.config.run, coming.state()
        length = run.epochs if run.steps is None else f"{run.steps} steps"
        settings = replace(self.config.data, workers=0)
        return repr((settings, run.seed, length, run.batch, state["world"], state["start"], state["left"]))

    def _batches(self, again: Stream, made: int, report: Callable[[float], None]) -> Iterator[ChatBatch]:
        trainer, steps = self.trainer, self.config.run.steps
        most = None if steps is None else max(0, steps - made) * trainer.accumulate
        for number, batch in enumerate(chain(islice(again, most), () if self.asked is None else self.asked()), start=1):
            report(again.reached / max(again.end or 1, 1) if most is None else number / max(most, 1))
            moved = to_device(batch, trainer.world.device)
            assert isinstance(moved, ChatBatch)
            yield moved

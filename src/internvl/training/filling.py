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
        if self.cached.covers(self._told()):
            return len(self.cached)
        with autocast(self.trainer.world.device, self.trainer.dtype):
            known = self.cached.fill(self.trainer.model, self._batches(report, saved), self.live, stop=stop)
        if known is not None:
            self.cached.cover(self._told())
        return known

    def _told(self) -> str:
        """What a run reads follows from these."""
        run, world = self.config.run, self.trainer.world
        length = run.epochs if run.steps is None else f"{run.steps} steps"
        return repr((replace(self.config.data, workers=0), run.seed, length, run.batch, world.size))

    def _batches(self, report: Callable[[float], None], saved: Mapping[str, Any] | None) -> Iterator[ChatBatch]:
        trainer, steps = self.trainer, self.config.run.steps
        titles = [source.title for source in self.stream.mixture.sources]
        ledger = Ledger(None, budget=self.config.data.bad_rows, sources=titles)
        again = replace(self.stream, former=self.former(), ledger=ledger)
        made = 0
        if saved is not None:
            again.resume(saved["streams"])
            made = int(saved["step"])
        most = None if steps is None else max(0, steps - made) * trainer.accumulate
        for number, batch in enumerate(chain(islice(again, most), () if self.asked is None else self.asked()), start=1):
            report(again.reached / max(again.end or 1, 1) if most is None else number / max(most, 1))
            moved = to_device(batch, trainer.world.device)
            assert isinstance(moved, ChatBatch)
            yield moved

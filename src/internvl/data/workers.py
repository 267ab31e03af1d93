"""Samples prepared by other processes, in the order in which they were asked for; and batches made ahead of time.

    positions --> processes --> outcomes in order --> (one thread) groups, batches --> whoever trains

A row that cannot be used comes back as its error. A process that dies, or hangs, is one clear line.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from internvl.data.batch import Prepared
from internvl.data.mixture import Mixture
from internvl.errors import InternVLError, TrainingError

T = TypeVar("T")

AHEAD = 4
"""Samples that each process prepares before they are asked for."""
BATCHES_AHEAD = 2
SMALL = 1 << 16
"""Bytes of tiles that are not worth a piece of shared memory."""
DEAD = re.compile(r"DataLoader worker \(pid")
WATCH = 1.0
"""Seconds after which a worker is gone at the latest when the main process is."""


@dataclass(frozen=True)
class Outcome:
    """What became of one position: a sample, or why there is none."""

    position: int
    source: int
    origin: str
    sample: Prepared | None
    error: InternVLError | None = None
    shared: Tensor | None = None
    """The tiles of the sample on their way from one process to another."""


@dataclass(frozen=True)
class Task:
    """What happens to a position: its row is read and prepared."""

    mixture: Mixture
    prepare: Callable[..., Prepared]
    seed: int

    def __call__(self, position: int) -> Outcome:
        place = self.mixture.place(position)
        origin = self.mixture.sources[place.source].annotation
        try:
            origin = self.mixture.origin(place)
            record, source = self.mixture.record(place), self.mixture.sources[place.source]
            sample = self.prepare(record, source, position, index=place.source, seed=self.seed)
        except InternVLError as error:
            return Outcome(position, place.source, origin, None, error.with_traceback(None))
        return Outcome(position, place.source, origin, sample)


def outcomes(
    task: Task, positions: Iterable[int], workers: int, start_method: str | None
) -> Generator[Outcome, None, None]:
    """The outcomes of positions in order, from `workers` processes, or from this one if there are none."""
    if not workers:
        yield from map(task, positions)
        return
    with warnings.catch_warnings():  # more processes than processors is the caller's choice
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader = DataLoader(
            _Positions(task),
            batch_size=None,
            sampler=positions,
            num_workers=workers,
            collate_fn=_as_it_is,
            prefetch_factor=AHEAD,
            multiprocessing_context=start_method,
            generator=torch.Generator(),  # its own, so that no random number of the training is used up
            worker_init_fn=_begin,
        )
        prepared = iter(loader)
    try:
        yield from map(_received, prepared)
    except RuntimeError as error:
        if not DEAD.match(str(error)):
            raise
        raise TrainingError(
            f"a process that prepares samples has died ({' '.join(str(error).split())}); most often memory or shared "
            "memory (/dev/shm) is full: lower data.workers, or set it to 0 to see the reason"
        ) from None
    finally:  # now, not when the traceback of an error that names it is thrown away
        end = getattr(prepared, "_shutdown_workers", None)
        if end is not None:
            end()


class _Positions(Dataset[Outcome]):
    """A task as torch's loader wants it."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getitem__(self, position: int) -> Outcome:
        outcome = self._task(position)
        sample = outcome.sample
        if sample is None or sample.tiles.nbytes < SMALL:
            return outcome
        tiles = torch.from_numpy(np.ascontiguousarray(sample.tiles))
        return replace(outcome, sample=replace(sample, tiles=sample.tiles[:0].copy()), shared=tiles)


def _received(outcome: Outcome) -> Outcome:
    """With its tiles in this process's own memory: each shared tensor keeps a file open, and samples may wait long."""
    if outcome.shared is None or outcome.sample is None:
        return outcome
    return replace(outcome, sample=replace(outcome.sample, tiles=outcome.shared.numpy().copy()), shared=None)


def _as_it_is(outcome: Any) -> Any:
    return outcome


def _begin(worker: int) -> None:
    """Signals to all processes are the main one's matter: it saves, and ends its workers itself.

    Ctrl-C goes to all processes of a terminal, and SIGTERM to all that torchrun or a scheduler has started.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    main = multiprocessing.parent_process()
    if main is None or not hasattr(signal, "sigtimedwait"):  # macOS: out of the reach of what is sent to the group
        os.setpgid(0, 0)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_watch, args=(main.pid, os.getppid()), name="watch", daemon=True).start()


def _watch(main: int, above: int) -> None:
    """End this process when the main one asks for it, or is gone, whatever this one is waiting for just then."""
    while os.getppid() == above:
        asked = signal.sigtimedwait({signal.SIGTERM}, WATCH)
        if asked is not None and asked.si_pid == main:
            break
    os._exit(0)


# ---- ahead of time ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


def ahead(source: Generator[T, None, None], patience: float, arrived: Callable[[], float]) -> Generator[T, None, None]:
    """The same items, made by a thread while the last ones are used.

    An item may be made of many samples: `TrainingError` where one is waited for and for `patience` seconds not even a
    sample came. `arrived` tells when the last one did, by `time.monotonic`. The thread also hears when
    a process has died, which torch would otherwise say in the midst of a training step.
    """
    items: queue.Queue[T | _End] = queue.Queue(BATCHES_AHEAD)
    stop = threading.Event()

    def put(item: T | _End) -> bool:
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def fill() -> None:
        try:
            if all(map(put, source)):
                put(_End())
        except BaseException as error:
            put(_End(error))
        finally:
            source.close()

    thread = threading.Thread(target=fill, name="batches", daemon=True)
    thread.start()
    try:
        waiting_since = time.monotonic()
        while True:
            left = max(waiting_since, arrived()) + patience - time.monotonic()
            try:
                item = items.get(timeout=max(0.0, left))
            except queue.Empty:
                if max(waiting_since, arrived()) + patience > time.monotonic():
                    continue
                raise TrainingError(
                    f"no sample was ready within {patience:g} s; a file may be out of reach, or the disk too slow: "
                    "set data.workers to 0 to see which"
                ) from None
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
            waiting_since = time.monotonic()
    finally:
        stop.set()
        thread.join(timeout=10)

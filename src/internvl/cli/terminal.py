"""What commands share: saying what went wrong or cannot be, and showing that something is going on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

USER_MISTAKE = 2
INTERRUPTED = 130
PATIENCE = 1.5
"""Seconds after which a wait is explained."""


def complain(message: str) -> int:
    """One line to standard error; returns the exit status of a user's mistake."""
    # Written at once: under torchrun several processes complain to the same terminal.
    sys.stderr.write(f"internvl: {' '.join(message.split())}\n")
    sys.stderr.flush()
    return USER_MISTAKE


@contextmanager
def waiting(task: str) -> Generator[Callable[[int, int], None]]:
    """A progress bar on standard error for a wait that is longer than `PATIENCE`; nothing where nobody watches.

    Yields what to call with (done, total) where the extent of the work is known.

    >>> with waiting("loading") as advance: ...  # doctest: +SKIP
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    bar = Bar(task)
    try:
        yield bar.advance
    finally:
        bar.close()


class Bar:
    """A progress bar that appears late."""

    def __init__(self, task: str) -> None:
        import threading

        self._task = task
        self._lock = threading.Lock()
        self._closed = False
        self._extent: tuple[int, int | None] = (0, None)
        self._progress: Progress | None = None
        self._timer = threading.Timer(PATIENCE, self._show)
        self._timer.daemon = True
        self._timer.start()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        with self._lock:
            if self._closed:
                return
            done, total = self._extent
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.add_task(self._task, total=total, completed=done)
            self._progress.start()

    def advance(self, done: int, total: int) -> None:
        with self._lock:
            self._extent = (done, total)
            if self._progress is not None:
                self._progress.update(self._progress.task_ids[0], completed=done, total=total)

    def close(self) -> None:
        """Remove the bar; it may be called twice."""
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._progress is not None:
                self._progress.stop()
                self._progress = None

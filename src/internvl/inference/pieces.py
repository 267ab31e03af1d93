"""The pieces that an answer comes in, whoever gives it, and how much of a text they may not say yet."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Generic, TypeVar

from internvl.errors import UsageError

A = TypeVar("A", covariant=True)


class Stream(Iterator[str], Generic[A]):
    """The pieces of an answer as they come; `answer` is there once they have all come.

    A stream that is closed early leaves the conversation as it was before the question.
    """

    def __init__(self, pieces: Generator[str, None, A]) -> None:
        self._pieces = pieces
        self._answer: A | None = None

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as end:
            self._answer = end.value or self._answer
            raise StopIteration from None

    def close(self) -> None:
        """Stop generating; there will be no answer."""
        self._pieces.close()

    @property
    def answer(self) -> A:
        if self._answer is None:
            raise UsageError("the stream has not ended, or was closed; take all its pieces first, or use ask()")
        return self._answer


def overlap(said: Sequence[object], mark: Sequence[object]) -> int:
    """Length of the longest beginning of a mark, and not all of it, that a text or some bytes end with.

    >>> overlap("the EN", "END"), overlap(bytearray(b"END"), b"END")
    (2, 0)
    """
    return next((n for n in range(min(len(mark) - 1, len(said)), 0, -1) if said[-n:] == mark[:n]), 0)

"""The stream that the pieces of an answer come in, whoever gives it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
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

"""One question on its way to an answer: what was read, how the answer grows, and the stream its pieces come in."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import numpy as np

from internvl.data.encode import Encoded
from internvl.errors import UsageError
from internvl.inference.answer import Answer, GrowingText, Usage
from internvl.inference.generate import Emitted
from internvl.inference.sampling import Finish, SamplingConfig, Token
from internvl.inference.seen import Key


class Stream(Iterator[str]):
    """The pieces of an answer as they come; `answer` is there once they have all come.

    A stream that is closed early leaves the conversation as it was before the question.
    """

    def __init__(self, pieces: Generator[str, None, Answer]) -> None:
        self._pieces = pieces
        self._answer: Answer | None = None

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
    def answer(self) -> Answer:
        if self._answer is None:
            raise UsageError("the stream has not ended, or was closed; take all its pieces first, or use ask()")
        return self._answer


@dataclass(frozen=True)
class Read:
    """A conversation that ends with a question, encoded."""

    encoded: Encoded
    pictures: list[tuple[str, np.ndarray]]
    """Digest and tiles of each picture, in the order of their slots."""
    keys: list[Key]
    sampling: SamplingConfig
    max_tiles: int
    frame_times: tuple[float, ...]


@dataclass
class Row:
    """An answer that grows: its tokens and their text."""

    read: Read
    text: GrowingText
    lead: tuple[int, ...] = ()
    """What the model itself writes first and what is not part of its answer."""
    tokens: list[Token] = field(default_factory=list)
    finish: Finish = "length"

    def hear(self, emitted: Emitted) -> str:
        """Take a token; returns the text that has become certain."""
        self.tokens.append(emitted.token)
        self.finish = emitted.finish or self.finish
        silent = emitted.finish == "stop" or self._is_lead()
        piece = "" if silent else self.text.push(emitted.token.id)
        if self.text.stopped:
            self.finish = "stop"
        return piece

    def _is_lead(self) -> bool:
        """Whether all tokens so far are what the model writes before every answer."""
        return self.lead[: len(self.tokens)] == tuple(token.id for token in self.tokens)

    def answer(self, reused: int = 0) -> Answer:
        read = self.read
        return Answer(
            text=self.text.text,
            finish=self.finish,
            logprobs=tuple(self.tokens),
            usage=Usage(
                prompt=len(read.keys),
                image=sum(isinstance(key, tuple) for key in read.keys),
                reused=reused,
                completion=len(self.tokens),
            ),
            tiles=tuple(len(tiles) for _, tiles in read.pictures),
            max_tiles=read.max_tiles,
            frame_times=read.frame_times,
            picture_size=read.encoded.sizes[-1] if read.encoded.sizes else None,
        )

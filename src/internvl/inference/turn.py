"""One question on its way to an answer: what was read, and how the answer grows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from internvl.data.encode import Encoded
from internvl.inference.answer import Answer, GrowingText, Usage
from internvl.inference.generate import Emitted
from internvl.inference.sampling import Finish, SamplingConfig, Token
from internvl.inference.seen import Key


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

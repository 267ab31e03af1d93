"""What comes back from a question: the text as it grows, and the finished answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from internvl.data.boxes import Box, parse
from internvl.data.detokenizer import StreamDecoder
from internvl.inference.pieces import overlap
from internvl.inference.sampling import Finish, Token


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one question and its answer."""

    prompt: int
    """Tokens of the whole conversation up to the answer, image slots included."""
    image: int
    """Of these, image slots."""
    reused: int
    """Of the prompt, tokens that the cache still held from the turn before."""
    completion: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one question.

    >>> answer = chat.ask("What is the total?", images=["receipt.jpg"])  # doctest: +SKIP
    >>> answer.text, answer.tiles, answer.usage.completion               # doctest: +SKIP
    ('24.90 EUR', (7,), 9)
    """

    text: str
    finish: Finish
    """`stop`: the model, or a stop string, ended it; `length`: `max_new_tokens` or the context did."""
    logprobs: tuple[Token, ...]
    """Every generated token with its log-probability, the stop token included."""
    usage: Usage
    tiles: tuple[int, ...]
    """Tiles that each picture of the conversation was cut into, the thumbnail included."""
    max_tiles: int
    """The budget of tiles, thumbnails not counted, that the pictures and pages of this question shared, at least one
    each."""
    frame_times: tuple[float, ...] = ()
    """Seconds of the video frames of this question."""
    picture_size: tuple[int, int] | None = None
    """Width and height of the last picture of the conversation, which boxes refer to."""

    @property
    def boxes(self) -> list[Box]:
        """The `<ref>..</ref><box>..</box>` of the text, in pixels of the last picture."""
        return [] if self.picture_size is None else parse(self.text, size=self.picture_size)

    def as_json(self) -> dict[str, Any]:
        """The answer as plain values: what `internvl chat --json` prints."""
        return {
            "text": self.text,
            "finish": self.finish,
            "tiles": list(self.tiles),
            "max_tiles": self.max_tiles,
            "frame_times": list(self.frame_times),
            "boxes": [asdict(box) for box in self.boxes],
            "usage": asdict(self.usage),
            "logprobs": [[token.id, token.logprob] for token in self.logprobs],
        }

    def __str__(self) -> str:
        return self.text


class GrowingText:
    """Ids in, text out, piece by piece; what it gave is final and adds up to the answer's text.

    No half characters, no white space at the two ends (unless it is not to `strip`), and nothing from the first stop
    string on: what could still turn out to be one of these is held back.

    >>> text = GrowingText(tokenizer.stream(keep_markup=True), stop=("END",))  # doctest: +SKIP
    >>> text.push(17)                                                          # doctest: +SKIP
    'Hello'
    """

    def __init__(self, decoder: StreamDecoder, stop: Sequence[str] = (), *, strip: bool = True) -> None:
        self._decoder, self._stop, self._strip = decoder, tuple(stop), strip
        self._held = ""
        self.text = ""
        self.stopped = False
        """A stop string was met; nothing more will come."""

    def push(self, token: int) -> str:
        """The text that is certain now and was not before."""
        if self.stopped:
            return ""
        self._held += self._decoder.push(token)
        return self._release(self._certain())

    def finish(self) -> str:
        """The rest, when no more ids come."""
        if not self.stopped:
            self._held += self._decoder.finish()
            self._certain()
        return self._release(len(self._held))

    def _certain(self) -> int:
        """How many held characters belong to the answer whatever follows. Cuts at a stop string."""
        found = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            self._held, self.stopped = self._held[: min(found)], True
            return len(self._held)
        return len(self._held) - max((overlap(self._held, stop) for stop in self._stop), default=0)

    def _release(self, count: int) -> str:
        piece = self._held[:count].rstrip() if self._strip else self._held[:count]
        self._held = self._held[len(piece) :]
        piece = piece if self.text or not self._strip else piece.lstrip()
        self.text += piece
        return piece

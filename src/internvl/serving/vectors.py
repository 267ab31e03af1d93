"""Embeddings in a worker: a part at a time, so that no answer that grows has to wait for all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from PIL import Image

from internvl.data.pair import TEXT_LENGTH, encode_text
from internvl.errors import UsageError
from internvl.inference.embed import Embedder
from internvl.serving.refusal import Refusal
from internvl.serving.wire import Embed

TEXTS, PICTURES = 8, 1
"""What is embedded at a time."""


class Embedding:
    """What one Embed asks for.

    >>> embedding = Embedding(embedder, Embed(id=1, texts=["a cat"]), None)    # doctest: +SKIP
    >>> for _ in embedding: pass                                               # doctest: +SKIP
    >>> embedding.vectors().shape, embedding.tokens                            # doctest: +SKIP
    ((1, 192), 5)
    """

    def __init__(
        self, embedder: Embedder | None, asked: Embed, pixels: np.ndarray | None, *, most: int | None = None
    ) -> None:
        """pixels: (n, S, S, 3) uint8, at most `most` if that is said. `UsageError` where they cannot be embedded."""
        if embedder is None:
            raise UsageError("no model of vectors is served here; start the server with one")
        side = embedder.tile_size
        if pixels is not None and pixels.shape[1:] != (side, side, 3):
            raise UsageError(f"pictures of the shape {pixels.shape[1:]} came; expected {(side, side, 3)}")
        self.tiles = 0 if pixels is None else len(pixels)
        """Pictures, which are in memory until all is embedded."""
        if most is not None and self.tiles > most:
            raise Refusal(f"found {self.tiles} pictures, at most {most} are taken; send fewer", param="input",
                          code="limit_exceeded")  # fmt: skip
        if not asked.texts and not self.tiles:
            raise UsageError("there is nothing to embed; give texts or pictures")
        if asked.texts and embedder.tokenizer is None:
            raise Refusal("the model of vectors that is served here reads no texts; send pictures", param="input",
                          code="invalid_value")  # fmt: skip
        self._embedder, self._texts, self._pixels = embedder, list(asked.texts), pixels
        self._found: list[np.ndarray] = []
        self._parts = self._work()
        self.tokens = 0
        """Of the texts so far."""

    def __iter__(self) -> Iterator[None]:
        return self._parts

    def vectors(self) -> np.ndarray:
        """(n, dim) float32 of unit length: the texts, then the pictures."""
        return np.concatenate(self._found).astype(np.float32)

    def _work(self) -> Iterator[None]:
        for start in range(0, len(self._texts), TEXTS):
            part = self._texts[start : start + TEXTS]
            tokenizer = self._embedder.tokenizer
            assert tokenizer is not None  # else texts are refused
            for number, text in enumerate(part, start):
                length = len(encode_text(tokenizer, text, length=sys.maxsize))
                if length > TEXT_LENGTH:  # the model would read its beginning only
                    at = f"texts[{number}]"
                    raise Refusal(f"{at}: this text has {length} tokens, at most {TEXT_LENGTH} are read; shorten it",
                                  param=at, code="context_length_exceeded")  # fmt: skip
                self.tokens += length
            self._found.append(self._embedder.texts(part).cpu().numpy())
            yield
        for start in range(0, self.tiles, PICTURES):
            assert self._pixels is not None
            photos = [Image.fromarray(one) for one in self._pixels[start : start + PICTURES]]
            self._found.append(self._embedder.images(photos).cpu().numpy())
            yield

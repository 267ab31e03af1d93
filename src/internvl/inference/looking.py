"""Pictures of a prompt on their way into features: a part at a time, in the engine's own thread or in one beside it.

On a CPU a step of decoding is too small for many cores and a picture is not, so the two are done at the same time, each
with a share of the cores; whoever is alone has all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from internvl.inference.seen import Features
from internvl.models.chat import ChatModel

SMALL = 1 << 25
"""Weights of a decoder that steps on one core and leaves the other to those who ask and answer. A second core takes
18 % off a step of 16 answers at 2**22 weights (the embedded model: 5.5 ms, 4.5 with two), 22 % at 2**25, 26 % at 2**26
and beyond, and off a step of one answer 2, 12, and 5 to 18 %."""

Pictures = Sequence[tuple[str, np.ndarray]]
"""Digest and tiles of each."""


class Here:
    """Encodes parts of pictures at once, in the thread that asks."""

    goes_on = False
    """Whether the thread that asks can do something else meanwhile."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def encode(self, tiles: np.ndarray, *, alone: bool) -> Future[Tensor]:
        """The features of tiles (n, S, S, 3), sooner or later. alone: nothing else is computed meanwhile."""
        encoded: Future[Tensor] = Future()
        try:
            encoded.set_result(self.features.encode(tiles))
        except Exception as error:
            encoded.set_exception(error)
        return encoded

    def make_room(self, *, for_step: bool = False) -> None:
        """Use no core that is used beside; for a step of growing answers no more than are of use."""

    def wait(self) -> None:
        """Until a part is encoded."""


class Beside(Here):
    """Encodes parts of pictures in a thread of its own. Both threads' numbers of cores are set as they go
    (`torch.set_num_threads`, of each thread its own).

    >>> Beside(features).encode(tiles, alone=True).result().shape  # doctest: +SKIP
    torch.Size([1, 256, 2048])
    """

    goes_on = True

    def __init__(self, features: Features, *, is_small: bool) -> None:
        """is_small: one core is enough for a step."""
        super().__init__(features)
        self._cores, self._is_small = torch.get_num_threads(), is_small
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._coming: deque[Future[Tensor]] = deque()

    def encode(self, tiles: np.ndarray, *, alone: bool) -> Future[Tensor]:
        cores = self._cores if alone else self._cores // 2

        def work() -> Tensor:
            torch.set_num_threads(cores)  # of this thread alone
            return self.features.encode(tiles)

        self._coming.append(self._thread.submit(work))
        return self._coming[-1]

    def make_room(self, *, for_step: bool = False) -> None:
        while self._coming and self._coming[0].done():
            self._coming.popleft()
        left = self._cores - self._cores // 2 if self._coming else self._cores
        torch.set_num_threads(1 if for_step and self._is_small else left)

    def wait(self) -> None:
        if self._coming:
            self._coming[0].exception()


def encoding(model: ChatModel, features: Features, *, always_alike: bool) -> Here:
    """Beside, where there are cores for it. always_alike: what is encoded may not depend on what goes on meanwhile."""
    is_faster = next(model.parameters()).device.type == "cpu" and torch.get_num_threads() > 1
    if always_alike or not is_faster:
        return Here(features)
    return Beside(features, is_small=sum(weight.numel() for weight in model.language_model.parameters()) < SMALL)


class Looking:
    """The pictures of one prompt: a part at a time, and none before it is needed."""

    def __init__(self, encoding: Here, pictures: Pictures, slots_per_tile: int) -> None:
        self._encoding, self._features = encoding, encoding.features
        self._tiles: list[np.ndarray | None] = [tiles for _, tiles in pictures]
        self._names = [name for name, _ in pictures]
        self._ends: list[int] = np.cumsum([len(tiles) * slots_per_tile for _, tiles in pictures], dtype=int).tolist()
        self._done: dict[int, Tensor] = {}
        self._pieces: list[Tensor] = []
        self._coming: Future[Tensor] | None = None

    @property
    def tiles(self) -> int:
        """How many are not computed yet, nor found."""
        return sum(len(tiles) for tiles in self._tiles if tiles is not None)

    def ready(self, start: int, stop: int, *, alone: bool = True) -> bool:
        """Whether all is there that fills the image slots start .. stop - 1. If not, one part more is computed, or is
        being computed beside. alone: nothing else is computed meanwhile."""
        return all(self._one(picture, alone) for picture, _, _ in self._within(start, stop))

    def fill(self, start: int, stop: int) -> Tensor | None:
        """What fills these slots, (stop - start, dim); pictures that end there are let go."""
        pieces: list[Tensor] = []
        for picture, first, last in self._within(start, stop):
            pieces.append(self._done[picture].flatten(0, 1)[first:last])
            if stop >= self._ends[picture]:
                del self._done[picture]
        return torch.cat(pieces) if pieces else None

    def _within(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The pictures that have some of these slots, and which of their own slots these are."""
        begins = [0, *self._ends][:-1]
        return [
            (picture, max(start - begin, 0), min(stop, end) - begin)
            for picture, (begin, end) in enumerate(zip(begins, self._ends, strict=True))
            if begin < stop and start < end
        ]

    def _one(self, picture: int, alone: bool) -> bool:
        if picture in self._done:
            return True
        name, tiles = self._names[picture], self._tiles[picture]
        assert tiles is not None
        kept = None if self._pieces or self._coming else self._features.kept(name)
        if kept is not None:
            self._tiles[picture], self._done[picture] = None, kept
            return True
        parts = self._features.parts(tiles)
        if self._coming is None:
            self._coming = self._encoding.encode(parts[len(self._pieces)], alone=alone)
            return False
        if not self._coming.done():
            return False
        encoded, self._coming = self._coming, None
        self._pieces.append(encoded.result())
        if len(self._pieces) < len(parts):
            return self._one(picture, alone)
        self._tiles[picture], self._done[picture] = None, torch.cat(self._pieces)
        self._features.keep(name, self._done[picture])
        self._pieces = []
        return True

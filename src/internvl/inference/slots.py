"""The rows of a server's KV cache: who uses each, which tokens it holds, and which is best for a new prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from internvl.inference.seen import Key, same_angles, shared_prefix, within_picture
from internvl.models.attention import KVCache
from internvl.models.chat import ChatModel

WIDTH = 64
"""A slot's places are a multiple of this many, so that every slot begins at an address of the same alignment."""


@dataclass
class Slot:
    """One row of the cache. What it holds outlives its request, until another needs the place."""

    index: int
    keys: list[Key] = field(default_factory=list)
    """Of the tokens that are held. The row's own length is `len(keys)`; what stands beyond is stale."""
    started: int = 0
    """Length of the prompt, by which length-dependent rope was chosen."""
    exact: int = 0
    """Tokens from the start that were read in whole chunks: the same numbers whoever reads them."""
    free: bool = True
    used: int = 0


class SomeRows(KVCache):
    """Some slots as a cache of their own, in the same storage, for one forward pass.

    The slots say how long each row is; nothing is written back but keys and values. Slots that follow each other are
    read where they lie, others are gathered.
    """

    def __init__(self, cache: KVCache, slots: Sequence[Slot], *, whole: bool = False) -> None:
        """whole: attend over all places of the rows, most of them masked, so that the shape is always the same."""
        self.__dict__.update(cache.__dict__)
        first, device = slots[0].index, cache.lengths.device
        indexes = [slot.index for slot in slots]
        self._chosen: Tensor | None = None
        if indexes == list(range(first, first + len(slots))):
            self.keys = [tensor[first : first + len(slots)] for tensor in cache.keys]
            self.values = [tensor[first : first + len(slots)] for tensor in cache.values]
        else:
            self._chosen = torch.tensor(indexes, device=device)
        lengths = [len(slot.keys) for slot in slots]
        self.lengths = torch.tensor(lengths, device=device)
        self.started = torch.tensor([slot.started for slot in slots], device=device)
        self.extent = cache.max_len - 1 if whole else max(lengths)
        self.level = not whole and min(lengths) == max(lengths)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self._chosen is None:
            return super().write(layer, keys, values)
        rows, end = self._chosen[:, None], self.extent + self.places.shape[1]
        both: list[Tensor] = []
        for storage, new in ((self.keys[layer], keys), (self.values[layer], values)):
            storage[rows, :, self.places] = new.transpose(1, 2).to(storage.dtype)
            both.append(storage[:, :, :end].index_select(0, self._chosen))
        return both[0], both[1]


class Slots:
    """All slots. `take` gives a prompt one of them, with as much of the prompt in it as any slot holds.

    grain: only beginnings of a multiple of this many tokens, each read as one chunk, are taken over. None: any.
    reuse: False: nothing is taken over.
    """

    def __init__(
        self, model: ChatModel, count: int, max_len: int, *, grain: int | None = None, reuse: bool = True
    ) -> None:
        weight = next(model.parameters())
        self._text = model.config.text
        # One place more than a request may fill: a slot that waits while others step writes beside what it holds.
        places = -(-(max_len + 1) // WIDTH) * WIDTH
        self.cache = KVCache(self._text, count, places, dtype=weight.dtype, device=weight.device)
        self.all = [Slot(index) for index in range(count)]
        self._grain = grain
        self._reuse = reuse
        self._clock = 0

    @property
    def free(self) -> int:
        return sum(slot.free for slot in self.all)

    def common(self, keys: Sequence[Key], slot: Slot) -> int:
        """Tokens at the beginning of a prompt that a slot holds and that need not be read again."""
        if not self._reuse or not same_angles(self._text, len(keys), slot.started):
            return 0
        same = shared_prefix(keys, slot.keys)
        if self._grain is not None:
            same = min(same, slot.exact) // self._grain * self._grain
            while same and within_picture(keys, same):
                same -= self._grain
        return same

    def most_common(self, keys: Sequence[Key]) -> int:
        """The most that any slot, free or not, holds of a prompt."""
        return max(self.common(keys, slot) for slot in self.all)

    def take(self, keys: Sequence[Key]) -> tuple[Slot, int]:
        """A slot that begins as the prompt does, and how many of the prompt's tokens it holds.

        The slot of the longest common beginning itself, if it is free and the prompt goes on where it ends, more or
        less; otherwise the one that was not used for the longest time, into which the beginning is copied. To copy a
        token is to move its keys and values, to read it is to multiply with every weight: copying is always cheaper
        (300 tokens of the embedded model, on one core: 0.16 ms instead of 21).
        """
        common, best = max(
            ((self.common(keys, slot), slot) for slot in self.all), key=lambda found: (found[0], found[1].free)
        )
        if best.free and common and 2 * common >= len(best.keys):
            slot = best
        else:
            slot = self._oldest()
            if common and slot is not best:
                self._copy(best, slot, common)
        self._occupy(slot, keys[:common], started=len(keys), exact=min(common, best.exact))
        return slot, common

    def reserve(self) -> Slot:
        """Any free slot, the one that was not used for the longest time; what it holds is forgotten."""
        slot = self._oldest()
        self._occupy(slot, (), started=0, exact=0)
        return slot

    def fork(self, source: Slot, target: Slot) -> None:
        """A slot that was reserved becomes what the source is."""
        self._copy(source, target, len(source.keys))
        target.keys, target.started, target.exact = list(source.keys), source.started, source.exact

    def release(self, slot: Slot) -> None:
        """The slot is free; what it holds can be taken up again."""
        self._clock += 1
        slot.free, slot.used = True, self._clock

    def wipe(self, slot: Slot) -> None:
        """Forget and erase a slot whose request failed: a masked value that is not a number still spoils a sum."""
        for tensor in (*self.cache.keys, *self.cache.values):
            tensor[slot.index].zero_()
        slot.keys, slot.exact, slot.started = [], 0, 0

    def _oldest(self) -> Slot:
        return min((slot for slot in self.all if slot.free), key=lambda slot: (bool(slot.keys), slot.used))

    def _occupy(self, slot: Slot, keys: Sequence[Key], *, started: int, exact: int) -> None:
        slot.keys, slot.started, slot.exact, slot.free = list(keys), started, exact, False

    def _copy(self, source: Slot, target: Slot, tokens: int) -> None:
        for tensor in (*self.cache.keys, *self.cache.values):
            tensor[target.index, :, :tokens] = tensor[source.index, :, :tokens]

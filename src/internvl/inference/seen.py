"""What was already looked at: image features by the content of their tiles, and the beginning of a conversation.

Encoding a picture is the dearest part of a question on a CPU, so the same tiles are encoded once; and where a new
prompt begins as the last one did, with the same tokens and pictures, its keys and values are still in the cache.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from internvl.data.image import Normalisation, normalise
from internvl.models.attention import KVCache
from internvl.models.chat import ChatModel

Key = int | tuple[str, int]
"""A token of a prompt: its id, or, for an image slot, the digest of its picture and the number of the slot in it."""

MOST_TILES = 256
"""Tiles whose features are kept: 0.9 GB for 448 px tiles and a decoder of width 3584 in fp32."""
ROOM = 512
"""A conversation's cache grows by multiples of this many tokens."""


def digest(tiles: np.ndarray) -> str:
    """SHA-256 over shape and pixels of the tiles (n, S, S, 3) of one picture."""
    return hashlib.sha256(repr((tiles.shape, str(tiles.dtype))).encode() + tiles.tobytes()).hexdigest()


class Features:
    """The tower and the projector, with a memory. `report(done, total)` is told how many tiles have been encoded."""

    def __init__(self, model: ChatModel, normalisation: Normalisation) -> None:
        self._model = model
        self._normalisation: Normalisation = normalisation
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    @torch.inference_mode()
    def of(
        self, pictures: Sequence[tuple[str, np.ndarray]], report: Callable[[int, int], None] = lambda done, total: None
    ) -> Tensor | None:
        """Features (tiles, slots, dim) of pictures, each a digest and its tiles, one after the other; None for none."""
        found = {name: self._kept[name] for name, _ in pictures if name in self._kept}
        new = {name: tiles for name, tiles in pictures if name not in found}
        done, total = 0, sum(map(len, new.values()))
        for name, tiles in new.items():
            pieces = []
            for part in self._parts(tiles):
                pieces.append(self._encode(part))
                done += len(part)
                report(done, total)
            found[name] = torch.cat(pieces)
        for name, _ in pictures:
            self._kept[name] = found[name]
            self._kept.move_to_end(name)
        self._forget()
        return torch.cat([found[name] for name, _ in pictures]) if pictures else None

    def _parts(self, tiles: np.ndarray) -> list[np.ndarray]:
        """One tile at a time where that is no slower, so that progress can be told; several on an accelerator."""
        step = 1 if next(self._model.parameters()).device.type == "cpu" else 16
        return [tiles[start : start + step] for start in range(0, len(tiles), step)]

    def _encode(self, tiles: np.ndarray) -> Tensor:
        weight = next(self._model.parameters())
        pixels = normalise(torch.from_numpy(np.ascontiguousarray(tiles)).to(weight.device), self._normalisation)
        return self._model.image_features(pixels.to(weight.dtype))

    def _forget(self) -> None:
        tiles = sum(map(len, self._kept.values()))
        while tiles > MOST_TILES and len(self._kept) > 1:
            tiles -= len(self._kept.popitem(last=False)[1])


def keys_of(
    ids: Sequence[int], image_token: int, slots_per_tile: int, pictures: Sequence[tuple[str, np.ndarray]]
) -> list[Key]:
    """What each token of a prompt is known by: equal keys before a place mean equal keys and values there.

    >>> keys_of([1, 9, 9, 2], 9, 2, [("ab", tiles)])  # doctest: +SKIP
    [1, ('ab', 0), ('ab', 1), 2]
    """
    slots = iter([(name, slot) for name, tiles in pictures for slot in range(len(tiles) * slots_per_tile)])
    return [next(slots) if token == image_token else token for token in ids]


class Held:
    """One row of a KV cache and the keys of the tokens in it: the conversation so far."""

    def __init__(self, model: ChatModel, *, reuse: bool = True) -> None:
        self._model, self._reuse = model, reuse
        self._keys: list[Key] = []
        self.cache: KVCache | None = None

    def begin(self, keys: list[Key], new_tokens: int) -> tuple[KVCache, int]:
        """A cache with room for the prompt and its answer, and how many tokens of the prompt it already holds."""
        common = self._common(keys)
        if self.cache is None or len(keys) + new_tokens > self.cache.max_len:
            room = -(-(len(keys) + new_tokens) // ROOM) * ROOM
            if self.cache is None or not common:
                weight = next(self._model.parameters())
                self.cache = KVCache(self._model.config.text, 1, room, dtype=weight.dtype, device=weight.device)
            else:
                self.cache = self.cache.copied(self.cache.lengths.new_zeros(1), room)
        self.cache.truncate(torch.full_like(self.cache.lengths, common))
        self._keys = keys[:common]
        return self.cache, common

    def extend(self, keys: Sequence[Key]) -> None:
        """The tokens after those that were held; those that the cache did not come to read are dropped."""
        if self.cache is not None:
            self._keys = [*self._keys, *keys][: int(self.cache.lengths[0])]

    def _common(self, keys: list[Key]) -> int:
        """Tokens at the beginning that are held, at least one being left to read; never a part of a picture."""
        rope = self._model.config.text.rope
        if not self._reuse or self.cache is None:
            return 0
        if rope is not None and rope.kind in ("dynamic", "longrope"):
            original = rope.original or self._model.config.text.max_positions
            if rope.per_call or len(keys) > original or len(self._keys) > original:
                return 0  # the same tokens have other keys in a sequence of another length
        same = 0
        while same < min(len(keys) - 1, len(self._keys)) and keys[same] == self._keys[same]:
            same += 1
        while same and isinstance(keys[same], tuple) and isinstance(keys[same - 1], tuple):
            same -= 1
        return same

"""What was already looked at: image features by the content of their tiles, and the beginning of a conversation.

Encoding a picture is the dearest part of a question on a CPU, so the same tiles are encoded once; and where a new
prompt begins as the last one did, with the same tokens and pictures, its keys and values are still in the cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from internvl.data.image import Normalisation, normalise
from internvl.data.image import digest as digest
from internvl.models.attention import KVCache
from internvl.models.chat import ChatModel
from internvl.models.config import TextConfig

Key = int | tuple[str, int]
"""A token of a prompt: its id, or, for an image slot, the digest of its picture and the number of the slot in it."""

MOST_TILES = 256
"""Tiles whose features are kept: 0.9 GB for 448 px tiles and a decoder of width 3584 in fp32."""
CPU_PATCHES = 1024
"""Patches that are encoded at a time on a CPU, one tile of 448 px. Smaller tiles are faster together: five of the
embedded model's (112 px) take 18 ms instead of 31, on two cores."""
ROOM = 512
"""A conversation's cache grows by multiples of this many tokens."""


class Features:
    """The tower and the projector, with a memory. `report(done, total)` is told how many tiles have been encoded.

    A picture is known by the hash of its tiles; how tiles are normalised is the same for all of one memory.
    """

    def __init__(self, model: ChatModel, normalisation: Normalisation, *, most_tiles: int | None = None) -> None:
        """most_tiles: whose features are kept; None: MOST_TILES."""
        self._model = model
        self._normalisation: Normalisation = normalisation
        self._most_tiles = most_tiles
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self.hits = self.misses = 0
        """Pictures that were asked for one at a time and were kept, or were not."""

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
            for part in self.parts(tiles):
                pieces.append(self.encode(part))
                done += len(part)
                report(done, total)
            found[name] = torch.cat(pieces)
        for name, _ in pictures:
            self._remember(name, found[name])
        self._forget()
        return torch.cat([found[name] for name, _ in pictures]) if pictures else None

    def kept(self, name: str) -> Tensor | None:
        """The features of one picture, if they are remembered."""
        if name not in self._kept:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(name)
        return self._kept[name]

    def keep(self, name: str, features: Tensor) -> None:
        """Remember one picture, and forget the oldest if they are too many."""
        self._remember(name, features)
        self._forget()

    def parts(self, tiles: np.ndarray) -> list[np.ndarray]:
        """No more tiles at a time than are faster together, so that progress can be told and others have their turn."""
        per_tile = (tiles.shape[1] // self._model.config.vision.patch_size) ** 2
        patches = CPU_PATCHES if next(self._model.parameters()).device.type == "cpu" else 16 * CPU_PATCHES
        step = max(1, patches // max(1, per_tile))
        return [tiles[start : start + step] for start in range(0, len(tiles), step)]

    @torch.inference_mode()
    def encode(self, tiles: np.ndarray) -> Tensor:
        """Features (n, slots, dim) of tiles (n, S, S, 3), computed anew."""
        weight = next(self._model.parameters())
        pixels = normalise(torch.from_numpy(np.ascontiguousarray(tiles)).to(weight.device), self._normalisation)
        return self._model.image_features(pixels.to(weight.dtype))

    @property
    def tiles(self) -> int:
        """Tiles whose features are kept now."""
        return sum(map(len, self._kept.values()))

    def _remember(self, name: str, features: Tensor) -> None:
        self._kept[name] = features
        self._kept.move_to_end(name)

    def _forget(self) -> None:
        most, tiles = MOST_TILES if self._most_tiles is None else self._most_tiles, self.tiles
        while tiles > most and len(self._kept) > 1:
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
        text = self._model.config.text
        if not self._reuse or self.cache is None or not same_angles(text, len(keys), len(self._keys)):
            return 0
        return shared_prefix(keys, self._keys)


def same_angles(text: TextConfig, *lengths: int) -> bool:
    """Whether sequences of these lengths turn the same token at the same place by the same angle."""
    rope = text.rope
    if rope is None or rope.kind not in ("dynamic", "longrope"):
        return True
    return not rope.per_call and max(lengths) <= (rope.original or text.max_positions)


def shared_prefix(keys: Sequence[Key], held: Sequence[Key]) -> int:
    """Tokens at the beginning of a prompt that are held, at least one being left to read; never a part of a picture.

    >>> shared_prefix([1, 2, 3], [1, 2, 7]), shared_prefix([1, 2], [1, 2, 3]), shared_prefix([1, ("a", 0)], [1])
    (2, 1, 1)
    """
    most = min(len(keys) - 1, len(held))
    same = next((i for i, (ours, theirs) in enumerate(zip(keys[:most], held, strict=False)) if ours != theirs), most)
    while same > 0 and within_picture(keys, same):
        same -= 1
    return max(same, 0)


def within_picture(keys: Sequence[Key], place: int) -> bool:
    """Whether a cut before this place would leave image slots on both sides."""
    return isinstance(keys[place], tuple) and isinstance(keys[place - 1], tuple)

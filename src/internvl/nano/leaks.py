"""No picture twice: what is measured must not have been learnt from, also not in another size or encoding.

check(corpus.training["photo"], corpus.held_out["photo"])      # pairs of ids that are one picture; best none
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

FAR = 10
"""Of the 64 bits of two perceptual hashes, how many may differ where the pictures are worth comparing."""
NEAR = 5.0
"""How much the thumbnails of one picture differ at most, on average, out of 255. Of the photographs, each pair below is
one scene; the first two things that only look alike, motorbikes of one make, are 5.1 apart."""
ONES = np.asarray([bin(byte).count("1") for byte in range(256)], np.uint8)


class Shown(Protocol):
    """Anything with a name of its own and a picture."""

    @property
    def id(self) -> str: ...

    @property
    def picture(self) -> Image.Image: ...


Some = TypeVar("Some", bound=Shown)


def check(learnt: Iterable[Shown], kept: Iterable[Shown]) -> list[tuple[str, str]]:
    """Pairs of ids, a learnt one and a kept one, that show the same picture, exactly or nearly.

    Nearly is: another size, another encoding. A part of a picture, or one turned, is not found; drawings that differ in
    a small detail alone count as one.
    """
    before, after = _Looks.of(learnt), _Looks.of(kept)
    return [(before.ids[i], after.ids[j]) for i, j in _same(before, after)]


def without_twins(items: Iterable[Some], learnt: Iterable[Shown]) -> tuple[Some, ...]:
    """Leave out pictures that are among the learnt ones, exactly or nearly: in Caltech-101's own split some are."""
    items = tuple(items)
    twins = {j for _, j in _same(_Looks.of(learnt), _Looks.of(items))}
    return tuple(item for j, item in enumerate(items) if j not in twins)


def exact_hash(picture: Image.Image) -> str:
    """Equal for equal pixels of a picture of equal size."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()


def thumbnail(picture: Image.Image) -> np.ndarray:
    """(32, 32, 3) float32, to compare two pictures by."""
    return np.asarray(picture.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS), np.float32)


def perceptual_hash(picture: Image.Image) -> int:
    """64 bits: whether each of 8 x 8 places is brighter than its right neighbour; survives scaling and re-encoding."""
    small = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS), np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


@dataclass(frozen=True)
class _Looks:
    """What pictures are compared by."""

    ids: list[str]
    hashes: np.ndarray
    """(pictures, 8) uint8: the bits of the perceptual hash."""
    thumbnails: np.ndarray
    """(pictures, 3072) uint8."""

    @classmethod
    def of(cls, items: Iterable[Shown]) -> _Looks:
        ids: list[str] = []
        hashes: list[bytes] = []
        small: list[bytes] = []
        for item in items:
            picture = item.picture
            ids.append(item.id)
            hashes.append(perceptual_hash(picture).to_bytes(8, "big"))
            small.append(thumbnail(picture).astype(np.uint8).tobytes())
        bits, pixels = (np.frombuffer(b"".join(parts), np.uint8) for parts in (hashes, small))
        return cls(ids, bits.reshape(-1, 8), pixels.reshape(-1, 32 * 32 * 3))


def _same(learnt: _Looks, kept: _Looks) -> list[tuple[int, int]]:
    """Places of pairs: near by their hashes, and then by their thumbnails."""
    pairs: list[tuple[int, int]] = []
    for j, (bits, pixels) in enumerate(zip(kept.hashes, kept.thumbnails, strict=True)):
        near = np.flatnonzero(ONES[learnt.hashes ^ bits].sum(1) <= FAR)
        off = np.abs(learnt.thumbnails[near].astype(np.int16) - pixels).mean(1)
        pairs += [(int(i), j) for i in near[off < NEAR]]
    return pairs

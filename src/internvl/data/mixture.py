"""Which sample comes when: sources, how often each is repeated, and one order that any number of ranks can share.

    position --order of the epoch--> item --source, and its order--> row

Nothing here grows with the number of rows: both orders are keyed permutations, computed for the one position asked for.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from internvl.data.records import KINDS, Record, record
from internvl.data.rows import Rows, open_rows
from internvl.errors import ConfigError, DataError, InternVLError, find

Resampling = Literal["size", "sqrt"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One dataset of a mixture: where its rows and media are, and how they are treated."""

    annotation: str
    """JSONL, Parquet or WebDataset shards: a path or any fsspec address; `{000..012}` and `*` name several."""
    name: str = ""
    root: str = ""
    """Before every path of a picture or video."""
    kind: str = "conversation"
    """What a row is, see `internvl.data.records`."""
    repeat: float = 1.0
    """How often each row is seen in an epoch; 0.25 a fixed quarter of them, 2.5 all twice and half a third time."""
    max_tiles: int | None = None
    """Of one sample; None: the config's."""
    augment: bool = False
    """Write pictures as JPEG of a random quality and read them back."""

    def __post_init__(self) -> None:
        if not self.annotation:
            raise ConfigError(f"source {self.name or '?'}: annotation is empty; expected a path or an address")
        if not self.repeat > 0:
            raise ConfigError(f"source {self.name or self.annotation}: repeat is {self.repeat}; expected more than 0")


@dataclass(frozen=True)
class Place:
    """One sample of the order: which source of the mixture, which of its rows, in which epoch."""

    source: int
    row: int
    epoch: int


class Mixture:
    """The samples of all sources in one endless order, which depends on the sources and the seed alone.

    An epoch has round(rows x repeat) samples of each source. Each row is seen floor(repeat) times in it, and a share of
    the rows once more, the same ones in every epoch. `sqrt` keeps the length of the epoch and shares it out in
    proportion to the square roots of these numbers. Without `shuffle` source follows source and row follows row, and
    what is seen once more are the first rows.

    Raises `DataError` if sources cannot be opened or are empty, all of them at once.

    >>> mixture = Mixture([Source(annotation="train.jsonl", repeat=2)])         # doctest: +SKIP
    >>> len(mixture), mixture.place(0), mixture.place(len(mixture)).epoch       # doctest: +SKIP
    (1000, Place(source=0, row=317, epoch=0), 1)
    """

    def __init__(
        self, sources: Sequence[Source], *, seed: int = 0, resampling: Resampling = "size", shuffle: bool = True
    ) -> None:
        find("resampling", resampling, {"size": 0, "sqrt": 0})
        self.sources, self.seed, self.shuffle = tuple(sources), seed, shuffle
        self.rows = _opened(self.sources)
        """Of each source."""
        self.counts = _shares(self.sources, [len(rows) for rows in self.rows], resampling)
        """Samples of each source in one epoch."""
        self._ends = list(accumulate(self.counts))
        self._within = [Permutation(len(rows), f"{seed}/rows/{at}") for at, rows in enumerate(self.rows)]
        self._orders: dict[int, Permutation] = {}

    def __len__(self) -> int:
        """Samples of one epoch."""
        return self._ends[-1]

    def place(self, position: int) -> Place:
        """What comes at a position, from 0 on; `position // len(mixture)` is the epoch."""
        if position < 0:
            raise IndexError(f"position {position}; expected 0 or more")
        epoch, item = divmod(position, len(self))
        if self.shuffle:
            item = self._order(epoch)(item)
        source = bisect_right(self._ends, item)
        row = (item - (self._ends[source - 1] if source else 0)) % len(self.rows[source])
        return Place(source, self._within[source](row) if self.shuffle else row, epoch)

    def record(self, place: Place) -> Record:
        """The record at a place; `DataError` if it is none."""
        rows, kind = self.rows[place.source], self.sources[place.source].kind
        return record(rows[place.row], kind, origin=rows.origin(place.row))

    def origin(self, place: Place) -> str:
        """How errors and the ledger name the row of a place."""
        return self.rows[place.source].origin(place.row)

    def _order(self, epoch: int) -> Permutation:
        """The order of an epoch; a few are remembered, as workers are in two epochs at a time at most."""
        if epoch not in self._orders:
            if len(self._orders) >= 4:
                self._orders.pop(min(self._orders, key=lambda known: -abs(known - epoch)))
            self._orders[epoch] = Permutation(len(self), f"{self.seed}/epoch/{epoch}")
        return self._orders[epoch]


def _opened(sources: Sequence[Source]) -> list[Rows]:
    if not sources:
        raise DataError("a mixture of no sources; expected at least one")
    opened: list[Rows] = []
    faults: list[str] = []
    for source in sources:
        try:
            find("kind of record", source.kind, KINDS)
            rows = open_rows(source.annotation)
            opened.append(rows)
            if not len(rows):
                faults.append(f"{source.annotation} has no rows")
        except InternVLError as error:
            faults.append(str(error))
    if faults:
        raise DataError(f"{len(faults)} of {len(sources)} source(s) cannot be used: {'; '.join(faults)}")
    return opened


def _shares(sources: Sequence[Source], rows: Sequence[int], resampling: Resampling) -> list[int]:
    """Samples of each source in one epoch, at least one."""
    sizes = [max(1, round(count * source.repeat)) for source, count in zip(sources, rows, strict=True)]
    if resampling == "size":
        return sizes
    whole, roots = sum(sizes), [math.sqrt(size) for size in sizes]
    return [max(1, round(whole * root / sum(roots))) for root in roots]


# ---- a keyed permutation ---------------------------------------------------------------------------------------------

_ROUNDS = 6
_MASK = 2**64 - 1


class Permutation:
    """The numbers 0 to n - 1 in an order that a key determines, in constant memory.

    A Feistel network over the smallest a x b that holds n, a and b about its root (Black and Rogaway, "Ciphers with
    arbitrary finite domains", 2002: here each round adds, modulo a and b in turn, a hash of the other half); what falls
    between n and a x b is put through again.

    >>> order = Permutation(5, "some key")
    >>> sorted(order(number) for number in range(5))
    [0, 1, 2, 3, 4]
    """

    def __init__(self, n: int, key: str) -> None:
        self._n = n
        self._a = max(1, math.isqrt(max(0, n - 1)) + 1)
        self._b = max(1, -(-n // self._a))
        digest = hashlib.blake2b(f"{key}/{n}".encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = [int.from_bytes(digest[8 * at : 8 * at + 8], "little") for at in range(_ROUNDS)]

    def __call__(self, number: int) -> int:
        if not 0 <= number < self._n:
            raise IndexError(f"{number} is not among 0 to {self._n - 1}")
        while True:
            number = self._once(number)
            if number < self._n:
                return number

    def _once(self, number: int) -> int:
        left, right = divmod(number, self._b)  # of a and b values
        for at, key in enumerate(self._keys):
            if at % 2:
                right = (right + _mixed(left ^ key)) % self._b
            else:
                left = (left + _mixed(right ^ key)) % self._a
        return left * self._b + right


def _mixed(x: int) -> int:
    """A hash of 64 bits (the finaliser of SplitMix64)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)

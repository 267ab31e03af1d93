"""Which sample comes when: sources, how often each is repeated, and one order that any number of ranks can share.

    position --order of the epoch--> item --source, and its order--> row

Nothing here grows with the number of rows: both orders are keyed permutations, computed for the one position asked for.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from internvl.data.addresses import File, exists, joined
from internvl.data.permutation import Permutation
from internvl.data.records import KINDS, Record, record
from internvl.data.rows import Rows, open_rows
from internvl.data.rows_jsonl import of_a_list
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
        if not 0 < self.repeat < math.inf:
            raise ConfigError(f"source {self.title}: repeat is {self.repeat}; expected a number above 0")

    @property
    def title(self) -> str:
        """How reports and the ledger call it."""
        return self.name or self.annotation


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
        self.counts = shares(self.sources, [len(rows) for rows in self.rows], resampling)
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


def shares(sources: Sequence[Source], rows: Sequence[int], resampling: Resampling = "size") -> list[int]:
    """Samples of each source in one epoch, at least one."""
    sizes = [max(1, round(count * source.repeat)) for source, count in zip(sources, rows, strict=True)]
    if resampling == "size":
        return sizes
    whole, roots = sum(sizes), [math.sqrt(size) for size in sizes]
    return [max(1, round(whole * root / sum(roots))) for root in roots]


# ---- meta files ------------------------------------------------------------------------------------------------------

_KEYS = ("root", "annotation", "data_augment", "repeat_time", "max_dynamic_patch", "length", "kind")
LARGEST_META = 64 * 2**20
_LINES = "records stand one a line in a file called .jsonl"


def read_meta(path: str | os.PathLike[str], *, root: str = "", kind: str = "conversation") -> tuple[Source, ...]:
    """The sources that a meta file (`.json`) names, in its order; any other file is one source, with this `root`.

    A meta file is a JSON object, a name and an entry for each source:

        {"coco": {"root": "data/coco/", "annotation": "coco.jsonl", "data_augment": false, "repeat_time": 0.5,
                  "max_dynamic_patch": 12, "length": 566747}}

    All but `annotation` may be left out. `length` is only for people. `kind` may say what the rows are, where not all
    are `kind`. A relative `annotation` or `root` is below the working folder if it is there, else below the folder of
    the meta file if it is there; what the source then says is the path that was found.

    Raises `DataError` with all faults at once.

    >>> read_meta("train.jsonl", kind="pair")[0].annotation
    'train.jsonl'
    """
    address = os.fspath(path)
    if not address.lower().endswith(".json"):
        return (Source(annotation=address, root=root, kind=kind),)
    file = File.at(address)
    entries = _meta(file)
    faults = [f"{name} stands in it twice" for name in _twice(entries)]
    sources: list[Source] = []
    for name, entry in entries:
        wrong = list(_wrong(entry))
        if not wrong:
            entry = dict(entry)
            if _found(entry["annotation"], address) is None:
                wrong.append(
                    f"annotation {entry['annotation']} is neither below the working folder nor beside this file"
                )
        faults += (f"{name}: {fault}" for fault in wrong)
        if not wrong:
            sources.append(Source(
                annotation=_found(entry["annotation"], address) or "",
                name=name,
                root=_found(entry.get("root") or root, address) or entry.get("root") or root,
                kind=entry.get("kind", kind),
                repeat=entry.get("repeat_time", 1),
                max_tiles=entry.get("max_dynamic_patch"),
                augment=entry.get("data_augment", False),
            ))  # fmt: skip
    if not entries:
        faults.append("it names no source")
    if faults:
        raise DataError(f"{file.name} has {len(faults)} fault(s): {'; '.join(faults)}")
    return tuple(sources)


def _meta(file: File) -> list[tuple[str, Any]]:
    """Names and entries, also those of a name that stands twice."""
    if file.size > LARGEST_META:
        raise DataError(f"{file.name} has {file.size} bytes, which is no meta file; {_LINES} ({of_a_list(file.name)})")
    try:
        pairs = json.loads(file.read(0, file.size).decode("utf-8-sig"), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        hint = f"; {_LINES}" if "Extra data" in str(error) else ""
        raise DataError(f"{file.name} is not JSON ({error}){hint}") from None
    if not isinstance(pairs, _Pairs):
        kind = type(pairs).__name__
        hint = f" ({of_a_list(file.name)})" if kind == "list" else ""
        raise DataError(f"{file.name} is a JSON {kind}; expected an object, an entry for each source; {_LINES}{hint}")
    return pairs


def _twice(pairs: Sequence[tuple[str, Any]]) -> list[str]:
    return [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it is written."""


def _wrong(entry: Any) -> Iterator[str]:
    if not isinstance(entry, _Pairs):
        yield f"is {entry!r:.40}; expected an object with `annotation`, `root` and so on"
        return
    yield from (f"`{key}` stands in it twice" for key in _twice(entry))
    entry = dict(entry)
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            yield f"has a key `{key}`; " + (f"did you mean `{near[0]}`?" if near else f"there are {', '.join(_KEYS)}")
    annotation, root, repeat = entry.get("annotation"), entry.get("root", ""), entry.get("repeat_time", 1)
    if not isinstance(annotation, str) or not annotation:
        yield f"annotation is {annotation!r:.40}; expected the path or address of a file of records"
    if not isinstance(root, str):
        yield f"root is {root!r:.40}; expected the folder of the pictures"
    if type(repeat) not in (int, float) or not 0 < repeat < math.inf:
        yield f"repeat_time is {repeat!r:.40}; expected a number above 0"
    if type(entry.get("data_augment", False)) is not bool:
        yield f"data_augment is {entry['data_augment']!r:.40}; expected true or false"
    tiles = entry.get("max_dynamic_patch")
    if tiles is not None and (type(tiles) is not int or tiles < 1):
        yield f"max_dynamic_patch is {tiles!r:.40}; expected a whole number from 1 on"
    if entry.get("kind", "pair") not in tuple(KINDS):
        yield f"kind is {entry['kind']!r:.40}; expected one of {', '.join(KINDS)}"


def _found(path: str, meta: str) -> str | None:
    """A relative path below the working folder if it is there, else beside the meta file if it is there."""
    beside = joined(meta, path)
    if beside == path or not path:
        return path
    return path if exists(path) else beside if exists(beside) else None

"""The rows of annotation files, each read when it is asked for: JSON lines, Parquet, WebDataset tar shards.

    file      a row is                                            an error names it
    .jsonl    a line that holds a JSON object; blank ones not     train.jsonl:12 (the line)
    .parquet  a row; pictures are paths or {bytes, path}          train.parquet:12 (the row, from 1)
    .tar      the members with one key, see `rows_tar`            train-00.tar:000012 (the key)

Where the rows of a file are is found in one pass and kept in a cache folder (see `addresses`). Memory does not grow
with the number of rows, nor with that of the processes that read them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from internvl.data.addresses import File, expand
from internvl.data.rows_jsonl import JsonLines, Rows, check_index, of_a_list
from internvl.data.rows_parquet import ParquetRows
from internvl.data.rows_tar import TarRows
from internvl.errors import DataError


def open_rows(address: str) -> Rows:
    """The rows of a file, or in order of all that `{000..012}`, `{a,b}`, `*`, `?` and `[ab]` in its address stand for.

    The address is a path, or anything that fsspec reaches (`s3://bucket/train-{000..099}.jsonl`). `DataError` if there
    is no such file, or it is of no kind that can be read by its place.

    >>> rows = open_rows("train.jsonl")           # doctest: +SKIP
    >>> len(rows), rows[0], rows.origin(0)        # doctest: +SKIP
    (2, {'image': 'a.jpg', 'caption': 'A bus.'}, 'train.jsonl:1')
    """
    addresses = expand(address)
    return open_one(addresses[0]) if len(addresses) == 1 else Shards(addresses)


def open_one(address: str) -> Rows:
    """The rows of one file."""
    name = address.lower()
    for ending, opened in _KINDS.items():
        if name.endswith(ending):
            return opened(File.at(address))
    if name.endswith((".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")):
        raise DataError(
            f"{address} is compressed, and its rows cannot be read by their place; unpack it, or use Parquet"
        )
    hint = f"; {of_a_list(address)}" if name.endswith(".json") else ""
    raise DataError(f"{address} is of no known kind; expected a name that ends in {', '.join(_KINDS)}{hint}")


class Shards:
    """Several files as one; only a few are open at a time."""

    def __init__(self, addresses: Sequence[str], counts: Sequence[int] | None = None) -> None:
        self._addresses = addresses
        self._open: OrderedDict[int, Rows] = OrderedDict()
        self._ends = list(accumulate(counts or (len(self._part(at)) for at in range(len(addresses)))))

    def __reduce__(self) -> tuple[Any, ...]:
        counts = [end - start for start, end in zip([0, *self._ends], self._ends, strict=False)]
        return Shards, (self._addresses, counts)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        part, inside = self._find(index)
        return part[inside]

    def origin(self, index: int) -> str:
        part, inside = self._find(index)
        return part.origin(inside)

    def _find(self, index: int) -> tuple[Rows, int]:
        check_index(index, len(self))
        at = bisect_right(self._ends, index)
        return self._part(at), index - (self._ends[at - 1] if at else 0)

    def _part(self, at: int) -> Rows:
        if at not in self._open:
            self._open[at] = open_one(self._addresses[at])
            # A Parquet file holds its last group of rows.
            while len(self._open) > (2 if self._addresses[at].lower().endswith(".parquet") else 64):
                self._open.popitem(last=False)
        self._open.move_to_end(at)
        return self._open[at]


_KINDS: Mapping[str, Callable[[File], Rows]] = {".jsonl": JsonLines, ".parquet": ParquetRows, ".tar": TarRows}

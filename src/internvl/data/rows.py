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
from functools import cached_property
from itertools import accumulate
from typing import Any, BinaryIO, Protocol

import numpy as np

from internvl.data.addresses import File, expand, kept
from internvl.data.records import json_object
from internvl.errors import DataError

LONGEST_LINE = 64 * 2**20
"""Bytes. A longer line is a bad row, not memory."""


class Rows(Protocol):
    """Rows by number. A row that cannot be used raises `DataError` when it is read, not before. Cheap to pickle."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """A JSON object; where the file holds them, pictures and videos are bytes."""
        ...

    def origin(self, index: int) -> str:
        """How errors name a row."""
        ...


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
    hint = "; of a JSON list, jq -c '.[]' makes lines" if name.endswith(".json") else ""
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


def check_index(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise IndexError(f"row {index} of {count}")


# ---- JSON lines ------------------------------------------------------------------------------------------------------


class JsonLines:
    """The lines of a file. The index is (rows, gaps, where each row begins, the end, rows before each blank line)."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._rows, self._gaps = (int(number) for number in self._index[:2])

    def __reduce__(self) -> tuple[Any, ...]:
        return JsonLines, (self._file,)

    @cached_property
    def _index(self) -> np.ndarray:
        return np.memmap(kept(self._file, "lines", write_index), np.int64, "r").view(np.ndarray)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        check_index(index, self._rows)
        start, end = int(self._index[2 + index]), int(self._index[3 + index])
        found = self._file.read(start, min(end, start + LONGEST_LINE + 1))
        line, _, _ = found.partition(b"\n")
        if len(line) > LONGEST_LINE:
            raise DataError(f"{self.origin(index)} is longer than {LONGEST_LINE} bytes; expected one row a line")
        return json_object(line, self.origin(index))

    def origin(self, index: int) -> str:
        blank = int(np.searchsorted(self._index[3 + self._rows :], index, side="right")) if self._gaps else 0
        return f"{self._file.name}:{index + 1 + blank}"


_SPACE = np.frombuffer(b" \t\r\n\v\f", np.uint8)


def write_index(source: BinaryIO, out: BinaryIO, gaps: BinaryIO, *, chunk: int = 4 * 2**20) -> None:
    """Where the lines of a file begin, found in one pass that holds one chunk."""
    out.write(np.zeros(2, np.int64).tobytes())
    rows, blanks, begun, place, empty = 0, 0, 0, 0, True  # `empty`: the line at hand so far
    while data := source.read(chunk):
        held = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(held == 10)
        starts = np.concatenate([[begun], place + ends + 1])
        if len(ends):
            blank = np.zeros(len(ends), bool)
            blank[0] = empty and not data[: int(ends[0])].strip()
            for at in 1 + np.flatnonzero(np.isin(held[ends[:-1] + 1], _SPACE)):
                blank[at] = not data[int(ends[at - 1]) + 1 : int(ends[at])].strip()
            out.write(starts[:-1][~blank].astype(np.int64).tobytes())
            gaps.write((rows + np.cumsum(~blank)[blank]).astype(np.int64).tobytes())
            rows, blanks = rows + int((~blank).sum()), blanks + int(blank.sum())
            empty = True
        rest = data[int(ends[-1]) + 1 :] if len(ends) else data
        empty = empty and not rest.strip()
        begun, place = int(starts[-1]), place + len(data)
    if not empty:
        out.write(np.int64(begun).tobytes())
        rows += 1
    out.write(np.int64(place).tobytes())
    gaps.seek(0)
    while data := gaps.read(chunk):
        out.write(data)
    out.seek(0)
    out.write(np.array([rows, blanks], np.int64).tobytes())


def _tar(file: File) -> Rows:
    from internvl.data.rows_tar import TarRows

    return TarRows(file)


def _parquet(file: File) -> Rows:
    from internvl.data.rows_parquet import ParquetRows

    return ParquetRows(file)


_KINDS: Mapping[str, Callable[[File], Rows]] = {".jsonl": JsonLines, ".parquet": _parquet, ".tar": _tar}

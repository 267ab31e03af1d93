"""The rows of a file of JSON lines, found by an index of where each begins; and what rows are."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cached_property
from typing import Any, BinaryIO, Protocol

import numpy as np

from internvl.data.addresses import File, kept
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


def of_a_list(name: str) -> str:
    """How a file that holds one JSON list becomes lines; two ways, as not everybody has jq."""
    here, there = shlex.quote(name), shlex.quote(f"{name.removesuffix('.json')}.jsonl")
    python = "import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]"
    return f"of a list: jq -c '.[]' {here} > {there}, or python -c \"{python}\" < {here} > {there}"


def check_index(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise IndexError(f"row {index} of {count}")


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

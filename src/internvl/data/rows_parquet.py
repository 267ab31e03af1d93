"""Rows of Parquet files, one at a time.

Such a file can only be read in groups of rows, and in shuffled order a group would be decoded anew for each row. Only
groups of at most 1 MiB and 1024 rows are read where they are, and the last one is kept. A file with larger groups, such
as those of pictures, is written once more as Arrow, without compression, into the cache folder (see `addresses`), and
from there each row is read by itself. A copy is not made where it would take more than half of the free space: then
groups up to 64 MiB are read where they are, slowly, and larger ones are an error.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
from bisect import bisect_right
from collections.abc import Generator, Iterator
from functools import cached_property
from itertools import accumulate
from typing import Any, BinaryIO

from internvl.data.addresses import ADDRESS, File, kept
from internvl.data.rows_jsonl import check_index
from internvl.errors import DataError, MissingExtra

GROUP_ROWS, GROUP_BYTES = 1024, 2**20
"""Of a group that is read where it is."""
SLOW_BYTES = 64 * 2**20
"""Of a group that is read where it is if there is no room for a copy."""
COPIED, COPIED_BYTES = 256, 32 * 2**20
"""Rows of one piece of the copy at most, fewer where they are large."""


DAMAGED = "internvl: damaged"
"""Field of the copy: true in rows that could not be read."""


class _NoRoom(Exception):
    """A copy would fill the disk."""


class ParquetRows:
    """The rows of one file; a field without a value is None."""

    def __init__(self, file: File) -> None:
        self._file = file
        with self._faults(), file.open() as raw:
            self._footer: Any = _module("pyarrow.parquet").ParquetFile(raw).metadata
        groups = [self._footer.row_group(at) for at in range(self._footer.num_row_groups)]
        self._ends = list(accumulate(group.num_rows for group in groups))
        self._bytes = sum(group.total_byte_size for group in groups)
        self._bearable = all(group.num_rows <= GROUP_ROWS and group.total_byte_size <= SLOW_BYTES for group in groups)
        self._large = any(group.num_rows > GROUP_ROWS or group.total_byte_size > GROUP_BYTES for group in groups)
        self._last: tuple[int, Any] = (-1, None)
        if self._large:
            try:
                _ = self._copy  # now, not in each process that reads
            except _NoRoom:
                self._large = False

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetRows, (self._file,)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        check_index(index, len(self))
        with self._faults(self.origin(index)):
            if self._large:
                held, place = self._copy.get_batch(index // self._piece), index % self._piece
            else:
                group = bisect_right(self._ends, index)
                held, place = self._group(group), index - (self._ends[group - 1] if group else 0)
            row = held.slice(place, 1).to_pylist()[0]
        if row.pop(DAMAGED, False):
            raise DataError(f"{self.origin(index)}: not a whole Parquet file (its group is damaged); get it again")
        return row

    def origin(self, index: int) -> str:
        return f"{self._file.name}:{index + 1}"

    def _group(self, group: int) -> Any:
        at, table = self._last
        if at != group:
            self._last = (-1, None)  # never two of them
            with self._file.open() as raw:
                file = _module("pyarrow.parquet").ParquetFile(raw, metadata=self._footer)
                table = file.read_row_group(group, use_threads=False)
            self._last = (group, table)
        return table

    @cached_property
    def _copy(self) -> Any:
        arrow = _module("pyarrow")

        def build(source: BinaryIO, out: BinaryIO, _: BinaryIO) -> None:
            free = shutil.disk_usage(out.fileno()).free
            if self._bytes > free / 2 and self._bearable:
                raise _NoRoom
            if self._bytes > free / 2:
                raise DataError(
                    f"{self._file.name} has groups of rows too large to be read where they are, and the "
                    f"{self._bytes / 2**30:.1f} GiB of a copy are more than half of the {free / 2**30:.1f} GiB free in "
                    f"the cache folder; set XDG_CACHE_HOME to a larger disk, or write it with row groups below 1 MiB"
                )
            rows = max(1, min(COPIED, COPIED_BYTES * len(self) // max(1, self._bytes)))
            file = _module("pyarrow.parquet").ParquetFile(source)
            with self._faults():
                batches = _even(arrow, self._readable(arrow, file, rows), rows)
                first = next(batches)
                with arrow.ipc.new_file(out, first.schema) as writer:
                    writer.write_table(first)
                    for table in batches:
                        writer.write_table(table)

        return arrow.ipc.open_file(arrow.memory_map(str(kept(self._file, "arrow", build))))

    def _readable(self, arrow: Any, file: Any, rows: int) -> Iterator[Any]:
        """The batches of all groups; rows that are damaged are marked, so that each is a bad one when it is read."""
        for group in range(self._footer.num_row_groups):
            left = self._footer.row_group(group).num_rows
            try:
                for batch in file.iter_batches(rows, row_groups=[group], use_threads=False):
                    left -= batch.num_rows
                    yield _marked(arrow, batch, False)
            except (ValueError, OSError) as error:
                if getattr(error, "errno", None) is not None or ADDRESS.match(self._file.address):
                    raise  # what cannot be reached may be whole
                schema = file.schema_arrow
                empty = [arrow.nulls(left, field.type) for field in schema]
                yield _marked(arrow, arrow.RecordBatch.from_arrays(empty, schema=schema), True)

    @cached_property
    def _piece(self) -> int:
        """Rows of each piece of the copy but the last."""
        return self._copy.get_batch(0).num_rows

    @contextlib.contextmanager
    def _faults(self, name: str | None = None) -> Generator[None]:
        try:
            yield
        except (ValueError, OSError, NotImplementedError) as error:  # pyarrow's own are of these
            found = str(error).partition("\n")[0]
            raise DataError(f"{name or self._file.name}: not a whole Parquet file ({found}); get it again") from None


def _marked(arrow: Any, batch: Any, damaged: bool) -> Any:
    return batch.append_column(DAMAGED, arrow.array([damaged] * batch.num_rows, arrow.bool_()))


def _even(arrow: Any, batches: Iterator[Any], rows: int) -> Iterator[Any]:
    """Tables of so many rows in one piece, dictionaries written out; the last has fewer."""
    held: list[Any] = []
    for batch in batches:
        held.append(arrow.Table.from_batches([batch]))
        while sum(table.num_rows for table in held) >= rows:
            whole = arrow.concat_tables(held)
            yield _plain(arrow, whole.slice(0, rows))
            held = [whole.slice(rows)]
    if any(table.num_rows for table in held):
        yield _plain(arrow, arrow.concat_tables(held))


def _plain(arrow: Any, table: Any) -> Any:
    for at, field in enumerate(table.schema):
        if arrow.types.is_dictionary(field.type):
            column = arrow.chunked_array([chunk.dictionary_decode() for chunk in table.column(at).chunks])
            table = table.set_column(at, field.name, column)
    return table.combine_chunks()


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra("reading Parquet files needs pyarrow: pip install 'internvl[train]'") from None

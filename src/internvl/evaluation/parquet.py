"""Parquet files as the Hugging Face hub has them: some rows at a time, pictures only when they are asked for.

An image column is a struct {bytes, path}, or a list of such. With the rows only `path` is read; the bytes are read
later, in the order of the file where pictures are asked for in that order.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from internvl.errors import DataError, MissingExtra
from internvl.evaluation.material import Picture
from internvl.evaluation.rows import Row, shown

ROWS, PICTURES = 256, 8
"""How many rows are in memory at a time: without the bytes of their pictures, and with those of one column."""


def read_parquet(path: Path, name: str) -> Iterator[Row]:
    """The rows of one file; the value of an image column is a Picture, a tuple of them, or None."""
    file = open_parquet(path, name)
    images = image_columns(file)
    readers = {column: Reader(path, name, column) for column in images}
    leaves = [file.schema.column(number).path for number in range(file.metadata.num_columns)]
    light = [leaf for leaf in leaves if not (leaf.split(".")[0] in images and leaf.endswith(".bytes"))]
    number = 0
    for group in range(file.num_row_groups):
        first = number
        for values in batches(file, name, group, light, ROWS):
            number += 1
            where = f"{name}, row {number}"
            for column in images:
                values[column] = readers[column].late(values[column], group, number - 1 - first, where)
            yield Row(values, where)


def open_parquet(path: Path, name: str) -> Any:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtra("reading parquet files needs pyarrow: pip install 'internvl[eval]'") from None
    try:
        return parquet.ParquetFile(path)
    except (ValueError, OSError) as error:  # pyarrow's own are of these
        raise DataError(f"{name}: not a parquet file ({str(error).splitlines()[0]}); get it again") from None


def image_columns(file: Any) -> dict[str, None]:
    """Columns of {bytes, path} and of lists of such, in their order."""

    def is_image(kind: Any) -> bool:
        if hasattr(kind, "value_type"):
            kind = kind.value_type
        fields = {kind.field(number).name for number in range(kind.num_fields)} if hasattr(kind, "field") else set()
        return fields == {"bytes", "path"}

    return {field.name: None for field in file.schema_arrow if is_image(field.type)}


def batches(file: Any, name: str, group: int, columns: list[str], size: int) -> Iterator[dict[str, Any]]:
    try:
        for batch in file.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
            yield from batch.to_pylist()
    except (ValueError, OSError) as error:
        raise DataError(f"{name}: row group {group} is damaged ({str(error).splitlines()[0]}); get it again") from None


class Reader:
    """The bytes of one image column. Asked for in order, every byte of the file is read once."""

    def __init__(self, path: Path, name: str, column: str) -> None:
        self._path, self._name, self._column = path, name, column
        self._lock = Lock()
        self._place = (-1, -1)
        """Row group, and the row in it that `_value` is of."""
        self._value: Any = None
        self._rest: Iterator[dict[str, Any]] = iter(())

    def late(self, value: Any, group: int, row: int, where: str) -> Picture | tuple[Picture, ...] | None:
        """From what is known without the bytes to what reads them."""
        if isinstance(value, list):
            count = len(value)  # pyright: ignore[reportUnknownArgumentType]
            return tuple(
                Picture(f"{where}, {self._column} {n + 1}", partial(self.read, group, row, n, where))
                for n in range(count)
            )
        return (
            None if value is None else Picture(f"{where}, {self._column}", partial(self.read, group, row, None, where))
        )

    def read(self, group: int, row: int, item: int | None, where: str) -> bytes:
        with self._lock:
            if self._place[0] != group or self._place[1] > row:
                file = open_parquet(self._path, self._name)
                self._rest, self._place = batches(file, self._name, group, [self._column], PICTURES), (group, -1)
            while self._place[1] < row:
                self._value, self._place = next(self._rest)[self._column], (group, self._place[1] + 1)
            found = self._value if item is None else self._value[item]
            if not found["bytes"]:
                raise DataError(
                    f"{where}: `{self._column}` has no bytes, only a path ({shown(found['path'])}); "
                    "expected files that hold their pictures"
                )
            return found["bytes"]

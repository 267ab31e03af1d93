"""What a classifier is to tell apart: a number of classes, their names, or what the rows say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from internvl.data.addresses import File, exists
from internvl.data.mixture import Source
from internvl.data.records import Labelled, record
from internvl.data.rows import open_rows
from internvl.errors import DataError, InternVLError, UsageError

MOST_ROWS = 100_000
"""So many rows are looked through for their labels."""
MOST_FOUND = 1_000
"""More classes than this are named, not found."""
LARGEST_FILE = 16 << 20


@dataclass(frozen=True)
class Classes:
    """So many classes; their names in order, where they have some."""

    count: int
    names: tuple[str, ...] = ()

    @property
    def known(self) -> int | tuple[str, ...]:
        """As `PrepareLabel` takes them."""
        return self.names or self.count

    def __str__(self) -> str:
        shown = ", ".join(self.names[:9]) + (", …" if len(self.names) > 9 else "")
        return f"{self.count} classes" + (f": {shown}" if shown else "")


def classes_of(asked: str, sources: Sequence[Source]) -> Classes:
    """The classes that `data.classes` states, or those of the rows where it states none.

    A number is how many; a file has their names, one a line; anything else with commas is the names themselves. Where
    nothing is stated all rows are looked through, at most `MOST_ROWS`: classes are the names they have, in the order of
    the alphabet, or the numbers from 0 to the highest. Rows that are no records are passed over here.

    >>> classes_of("red,green", ()).names
    ('red', 'green')
    """
    if not asked:
        return _found(sources)
    if asked.isdecimal():
        found = Classes(int(asked))
    else:
        names = tuple(_lines(asked)) if exists(asked) else tuple(name.strip() for name in asked.split(","))
        if len(names) == 1 and not exists(asked):
            raise UsageError(
                f"data.classes is {asked!r}: no such file; expected a number, a file, or names with commas"
            )
        twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
        if twice is not None or "" in names:
            raise UsageError(f"data.classes {asked!r}: {'a name is empty' if twice is None else f'{twice!r} is twice'}")
        found = Classes(len(names), names)
    if found.count < 2:
        raise UsageError(f"data.classes is {asked!r}, which is {found.count} class(es); expected at least 2")
    return found


def _lines(address: str) -> list[str]:
    file = File.at(address)
    if file.size > LARGEST_FILE:
        raise UsageError(f"data.classes: {file.name} has {file.size} bytes; expected a file of names, one a line")
    try:
        lines = file.read(0, file.size).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"data.classes: {file.name} is no text ({error}); expected names, one a line") from None
    return [line.strip() for line in lines if line.strip()]


def _found(sources: Sequence[Source]) -> Classes:
    labels = set[int | str]()
    for label in _labels(sources):
        labels.add(label)
        if len(labels) > MOST_FOUND or (isinstance(label, int) and not 0 <= label < MOST_FOUND):
            raise DataError(
                f"label {label!r} makes more than {MOST_FOUND} classes, or is negative; state the classes: data.classes"
            )
    names = sorted(label for label in labels if isinstance(label, str))
    if names and len(names) < len(labels):
        number = next(label for label in labels if isinstance(label, int))
        raise DataError(
            f"some labels are names ({names[0]!r}) and some numbers ({number}); state the names in the order of the "
            "numbers: data.classes"
        )
    count = len(names) or 1 + max((label for label in labels if isinstance(label, int)), default=-1)
    if count < 2:
        raise DataError(f"the rows have {count} class(es); a classifier needs two: check the labels, or data.classes")
    return Classes(count, tuple(names))


def _labels(sources: Sequence[Source]) -> Iterator[int | str]:
    opened = [open_rows(source.annotation) for source in sources]
    count = sum(len(rows) for rows in opened)
    if count > MOST_ROWS:
        raise UsageError(
            f"data.classes is empty, and {count:,} rows are more than the {MOST_ROWS:,} that are looked through for "
            "their labels; set data.classes to their number or to a file of names"
        )
    for rows in opened:
        for at in range(len(rows)):
            try:
                row = record(rows[at], "label", origin=rows.origin(at))
            except InternVLError:
                continue  # it will be named in the ledger
            if isinstance(row, Labelled):
                yield row.label

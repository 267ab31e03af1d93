"""Tables as VLMEvalKit publishes them: tab-separated, a header, pictures as base64 inside the fields.

A table may have many gigabytes. It is read once from front to back, piece by piece; a field that is long stays in the
file as a `Span` (where it starts, how long it is), and its bytes are read when somebody asks for them. Quoting is that
of pandas' `to_csv`: a field with a tab, a newline or a quotation mark stands in quotation marks, and those inside it
are doubled.

The field `image` is one picture as base64, a list of such, or the index of another row whose picture is meant; fields
of at most 64 characters are such an index. Without it `image_path` names one file or a list of files.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from internvl.errors import DataError
from internvl.evaluation.material import Picture
from internvl.evaluation.rows import LARGEST_PICTURE, MIB, Late, Row, refuse_again, shown

Show = Callable[[Sequence[str], Row], Picture]
"""From the names that a picture file may have to the picture."""

CHUNK = MIB
SHORT = 4096
"""Bytes of a field that is held as text; a longer one stays in the file."""
LONGEST_TEXT = 64 * MIB
"""Bytes of a long field that is read as text."""
LONGEST_FIELD = 1024 * MIB
"""Bytes of any field, such as a list of pictures."""
MOST_COLUMNS = 4096
REFERENCE = 64
"""Characters up to which the field `image` is the index of another row."""

ITEM, BETWEEN = re.compile(rb"[^\[\]'\",\s]"), re.compile(rb"[\[\]'\",\s]")
"""A byte of an item of a list of base64 texts, and one that stands between items."""


@dataclass(frozen=True, slots=True)
class Span(Late):
    """A field that stays in its file."""

    path: Path
    start: int
    length: int
    quoted: bool
    """Inside it quotation marks are doubled."""

    def text(self, where: str) -> str:
        if self.length > LONGEST_TEXT:
            raise DataError(f"{where}: a field of {self.length} bytes; expected text of at most {LONGEST_TEXT}")
        return decode(b"".join(self.chunks()), self.quoted, where)

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        left = self.length
        with self.path.open("rb") as file:
            file.seek(self.start)
            while left and (chunk := file.read(min(size, left))):
                yield chunk
                left -= len(chunk)

    def items(self) -> Iterator[Span]:
        """The strings of a list of base64 texts, as spans of their own."""
        at, begun = self.start, None
        for chunk in self.chunks():
            position = 0
            while found := (ITEM if begun is None else BETWEEN).search(chunk, position):
                position = found.start()
                if begun is None:
                    begun = at + position
                else:
                    yield Span(self.path, begun, at + position - begun, quoted=False)
                    begun = None
            at += len(chunk)
        if begun is not None:
            yield Span(self.path, begun, at - begun, quoted=False)


def decode(data: bytes, quoted: bool, where: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise DataError(f"{where}: a field is not UTF-8; expected a table in UTF-8") from None
    return text.replace('""', '"') if quoted else text


# ---- taking the file apart -------------------------------------------------------------------------------------------


class _Cursor:
    """A place in the file. Only a chunk is in memory, and of each field at most SHORT bytes."""

    def __init__(self, file: BinaryIO, path: Path, delimiter: bytes) -> None:
        self._file, self._path, self._delimiter = file, path, delimiter
        self._end = re.compile(b"[" + delimiter + b"\n]")
        self._chunk, self._base, self._at = b"", 0, 0
        self._tail = b""
        """The last byte of the field."""
        self._windows: bool | None = None
        """Whether lines end in \\r\\n, as the header does; if not, a \\r before the newline belongs to the field."""
        if self.peek() == b"\xef" and self._chunk.startswith(b"\xef\xbb\xbf"):
            self._at = 3  # a byte order mark

    def peek(self) -> bytes:
        """The next byte; none at the end of the file."""
        if self._at == len(self._chunk):
            self._base += len(self._chunk)
            self._chunk, self._at = self._file.read(CHUNK), 0
        return self._chunk[self._at : self._at + 1]

    def field(self, where: str, short: int) -> tuple[str | Span, bool]:
        """The next field, a Span if it has more than `short` bytes, and whether it is the last of its row."""
        quoted = self.peek() == b'"'
        self._at += quoted
        start = self._base + self._at
        kept = self._quoted(start, where) if quoted else self._plain(start, where)
        length = self._base + self._at - start - quoted
        after, returned = self.peek(), self._tail == b"\r" and not quoted
        if quoted and after == b"\r":
            self._at, returned = self._at + 1, True
            after = self.peek()
        if after not in (self._delimiter, b"\n", b""):
            raise DataError(f"{where}: {shown(after)} follows a closing quotation mark; expected the end of the field")
        self._at += len(after)
        last = after != self._delimiter
        if last and self._windows is None:
            self._windows = returned
        if last and returned and self._windows and not quoted:
            kept, length = kept[: length - 1], length - 1
        if length > short:
            return Span(self._path, start, length, quoted), last
        return decode(bytes(kept), quoted, where), last

    def _plain(self, start: int, where: str) -> bytes:
        """Go to the end of a field without quotation marks; its beginning is given back."""
        kept = self._tail = b""
        while self.peek():
            found = self._end.search(self._chunk, self._at)
            kept = self._pass(found.start() if found else len(self._chunk), kept, start, where)
            if found:
                break
        return kept

    def _quoted(self, start: int, where: str) -> bytes:
        """Go behind the quotation mark that closes a field."""
        kept = b""
        while self.peek():
            found = self._chunk.find(b'"', self._at)
            kept = self._pass(found if found >= 0 else len(self._chunk), kept, start, where)
            if found >= 0:
                self._at += 1
                if self.peek() != b'"':
                    return kept
                kept = self._pass(self._at + 1, kept + b'"' * (len(kept) <= SHORT), start, where)
        raise DataError(f"{where}: a quotation mark is opened and never closed; the table ends too early, get it again")

    def _pass(self, to: int, kept: bytes, start: int, where: str) -> bytes:
        """Step forward inside the chunk, and keep what is passed as long as the field is short."""
        if len(kept) <= SHORT:
            kept += self._chunk[self._at : min(to, self._at + SHORT + 1)]
        self._tail = self._chunk[to - 1 : to] if to > self._at else self._tail
        self._at = to
        if self._base + to - start > LONGEST_FIELD:
            raise DataError(f"{where}: a field of more than {LONGEST_FIELD // MIB} MiB; expected tab-separated values")
        return kept


def records(path: Path, name: str) -> Iterator[tuple[str, list[str | Span]]]:
    """Every record with where it stands; the header is row 0. Empty lines are passed over."""
    delimiter = b"," if path.suffix == ".csv" else b"\t"
    with path.open("rb") as file:
        cursor, number, image = _Cursor(file, path, delimiter), 0, -1
        while cursor.peek():
            where, fields, last = f"{name}, row {number}", list[str | Span](), False
            while not last:
                found, last = cursor.field(where, REFERENCE if len(fields) == image else SHORT)
                fields.append(found)
                if len(fields) > MOST_COLUMNS:
                    raise DataError(f"{where}: more than {MOST_COLUMNS} fields; expected tab-separated values")
            if fields == [""]:
                continue
            if number == 0:
                image = fields.index("image") if "image" in fields else -1
            yield where, fields
            number += 1


# ---- rows and their pictures -----------------------------------------------------------------------------------------


@dataclass
class Places:
    """Where each row has its picture, for rows that refer to another; looked up when the first of them is met."""

    path: Path
    name: str
    images: str | None
    known: dict[str, str | Span] | None = None

    def find(self, index: str, where: str) -> Span:
        if self.known is None:
            found = records(self.path, self.name)
            header = next(found)[1]
            key, image = (header.index(column) if column in header else 0 for column in ("index", "image"))
            self.known = {str(fields[key]): fields[image] for _, fields in found if len(fields) == len(header)}
        place = self.known.get(index)
        if not isinstance(place, Span):
            there = "has no picture of its own" if index in self.known else "is not in the table"
            raise DataError(f"{where}: `image` is {shown(index)}, the index of a row that {there}; expected base64")
        return place

    def candidates(self, picture: str) -> list[str]:
        """Where a picture that is named by `image_path` may be."""
        table = PurePosixPath(self.name)
        folders = [self.images] if self.images else [table.parent / "images" / table.stem, table.with_suffix(""), "."]
        return [(PurePosixPath(folder) / picture).as_posix() for folder in folders]


def pictures(show: Show, row: Row, image: str | Span, places: Places) -> tuple[Picture, ...]:
    """The pictures of a row. One without is an error: VLMEvalKit leaves such rows out; who does so asks `filled`."""
    if image:
        place = places.find(image, row.where) if isinstance(image, str) else image
        spans = [place] if next(place.chunks(1)) != b"[" else list(place.items())
        names = [row.where] if len(spans) == 1 else [f"{row.where}, picture {n}" for n in range(1, len(spans) + 1)]
        return tuple(Picture(name, partial(_decoded, span, name)) for name, span in zip(names, spans, strict=True))
    if not row.filled("image_path"):
        raise DataError(f"{row.where}: there is no picture, `image` and `image_path` are empty; expected one of them")
    listed = row.text("image_path")
    names = row.items_of("image_path") if listed.startswith("[") else [listed]
    return tuple(show(places.candidates(name), row) for name in names)


def _decoded(span: Span, name: str) -> bytes:
    if span.length > LARGEST_PICTURE * 4 // 3:
        raise DataError(f"{name}: larger than {LARGEST_PICTURE // MIB} MiB; expected a picture")
    data = b"".join(b"".join(span.chunks()).split())  # some wrap lines
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except binascii.Error as error:
        raise DataError(f"{name}: bad base64 ({error}); get the table again") from None


def read_table(path: Path, name: str, show: Show, images: str | None = None) -> Iterator[Row]:
    """The rows of a table; where it has a column `index`, no two are equal. `show` opens what `image_path` names."""
    found = records(path, name)
    header = [str(column) for column in next(found, ("", []))[1]]
    if len(set(header)) < len(header) or not header:
        raise DataError(f"{name}: the header is {shown(header)}; expected column names, each once")
    seen: set[str] = set()
    places = Places(path, name, images)
    for where, fields in found:
        if len(fields) != len(header):
            raise DataError(f"{where}: {len(fields)} fields, but the header has {len(header)}; get the table again")
        values = dict(zip(header, fields, strict=True))
        plain = Row(values, where)
        row = Row(values, where, partial(pictures, show, plain, values.get("image", ""), places))
        if "index" in values:
            refuse_again(row, "index", seen)
        yield row

"""The data folder: rows and pictures of benchmarks in the forms that people have them in.

    folder = Folder(Path("data"))
    for row in folder.jsonl("chartqa/test_human.jsonl"):
        row.text("query"), folder.picture(row.text("image"), row=row)
    for row in folder.table("MMBench_DEV_EN.tsv"):
        row.text("question"), row.options(), row.pictures()

Every row knows its file and line, so that bad data is refused by name. Nothing in a row is ever evaluated as code, no
path leaves the folder, and pictures are read when a model is asked about them, not before.
"""

from __future__ import annotations

import ast
import json
import string
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from internvl.errors import DataError
from internvl.evaluation.benchmark import File, Footage, Picture

MIB = 2**20
LONGEST_LINE = 64 * MIB
"""Bytes of one JSON line."""
LARGEST_JSON = 1024 * MIB
"""Bytes of a JSON file that is read whole."""
LARGEST_PICTURE = 256 * MIB
LONGEST_LITERAL = MIB
"""Characters of a list that is written as text."""


def shown(value: object) -> str:
    """A value as an error may print it: short, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Row(Mapping[str, Any]):
    """One row of a file: its values by key, and where it stands. What is missing or of another type is a DataError.

    >>> row = Row({"question": "Why?", "choices": "['a', 'b']"}, "test.jsonl:12")
    >>> row.text("question"), row.items_of("choices")
    ('Why?', ['a', 'b'])
    >>> row["answer"]
    Traceback (most recent call last):
    ...
    internvl.errors.DataError: test.jsonl:12: `answer` is missing; there are: question, choices
    """

    def __init__(
        self, values: Mapping[str, Any], where: str, pictures: Callable[[], tuple[Picture, ...]] | None = None
    ) -> None:
        self.where = where
        self._values, self._pictures = values, pictures

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            there = ", ".join(list(self._values)[:12]) or "none"
            raise DataError(f"{self.where}: `{key}` is missing; there are: {there}")
        value = self._values[key]
        return value.text(self.where) if isinstance(value, Late) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __repr__(self) -> str:
        return f"Row({self.where}: {', '.join(self._values)})"

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self._values else default

    def filled(self, key: str) -> bool:
        """Whether a value is there and is neither empty text nor null; nothing is read from the file for it."""
        return self._values.get(key) not in (None, "")

    def wrong(self, key: str, expected: str) -> DataError:
        """The error to raise for a value that is there but cannot be used."""
        return DataError(f"{self.where}: `{key}` is {shown(self[key])}; expected {expected}")

    def text(self, key: str) -> str:
        """A text. A number is not one: `str(row["id"])` where both occur."""
        value = self[key]
        if not isinstance(value, str):
            raise self.wrong(key, "text")
        return value

    def number(self, key: str) -> float | int:
        """A number, also one written as text, as everything in a table is."""
        value = self[key]
        if isinstance(value, str):
            for kind in (int, float):
                try:
                    return kind(value)
                except ValueError:
                    continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        return value

    def items_of(self, key: str) -> list[str]:
        """A list of texts, given as a list or as the text of one: JSON, or a Python literal as pandas writes them.

        Numbers and truth values in it become text. Code does not become anything: it is refused.
        """
        value = self[key]
        found: object = read_literal(value) if isinstance(value, str) else value
        if not isinstance(found, list | tuple):
            raise self.wrong(key, "a list of texts")
        items = cast("list[object]", list(found))
        if not all(isinstance(item, str | int | float | bool) for item in items):
            raise self.wrong(key, "a list of texts")
        return [str(item) for item in items]

    def options(self) -> dict[str, str]:
        """Columns A, B, C, … that are not empty.

        Here `None` and `NA` are options; pandas 2, and with it VLMEvalKit, reads them as empty and asks without them.
        """
        return {letter: str(self[letter]) for letter in string.ascii_uppercase if self.filled(letter)}

    def pictures(self, *keys: str) -> tuple[Picture, ...]:
        """The pictures of a table's row, or of a parquet row: of these columns, else of all, in their order."""
        if self._pictures is not None and not keys:
            return self._pictures()
        found: list[Picture] = []
        for value in [self[key] for key in keys] if keys else self._values.values():
            found += [part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, Picture)]
        return tuple(found)


class Late:
    """A value that stays in its file until it is asked for."""

    def text(self, where: str) -> str:
        raise NotImplementedError


def read_literal(text: str) -> object:
    """What a JSON or Python literal says; None where it is neither. Never evaluates anything.

    >>> read_literal('["a"]'), read_literal("['a', 'it\\\\'s']"), read_literal("__import__('os').getcwd()")
    (['a'], ['a', "it's"], None)
    """
    if len(text) > LONGEST_LITERAL:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in somebody's list is no fault of this program
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


class Folder:
    """The folder that `--data` names. Names are relative to it; nothing outside it is reached, by no link either."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = root.resolve()
        self._archives: dict[Path, zipfile.ZipFile] = {}

    def path(self, name: str, *, row: Row | None = None, hint: str = "") -> Path:
        """The file or folder of that name. Raises DataError where it is missing or not inside."""
        said = place(row)
        path = self.inside(name, row=row)
        if not path.exists():
            raise DataError(f"{said}{shown(name)} is not in {self.root}; put it at {path}{'; ' + hint if hint else ''}")
        return path

    def inside(self, name: str, *, row: Row | None = None) -> Path:
        """The path of that name, whether or not it is there. Raises DataError where it leads out of the folder."""
        wanted, said = Path(name), place(row)
        refused = DataError(f"{said}{shown(name)} leads out of the data folder {self.root}; expected a path inside it")
        if not name or "\0" in name or wanted.is_absolute() or ".." in wanted.parts or "\\" in name:
            raise refused
        try:
            if not (self.root / wanted).resolve().is_relative_to(self._real):
                raise refused
            (self.root / wanted).exists()
        except (OSError, RuntimeError):  # a name that is too long, links in a circle
            raise refused from None
        return self.root / wanted

    def find(self, pattern: str) -> list[Path]:
        """The files that a name or a pattern such as `data/test-*.parquet` means, sorted; all are inside."""
        if not any(mark in pattern for mark in "*?["):
            path = self.inside(pattern)
            return [path] if path.exists() else []
        self.inside(pattern)
        found = sorted(self.root.glob(pattern))
        return [self.inside(path.relative_to(self.root).as_posix()) for path in found]

    def has(self, file: File) -> bool:
        return bool(self.find(file.path))

    # ---- rows --------------------------------------------------------------------------------------------------------

    def json(self, name: str) -> Any:
        """A JSON file, read whole."""
        path = self.path(name)
        if path.stat().st_size > LARGEST_JSON:
            raise DataError(f"{name}: larger than {LARGEST_JSON // MIB} MiB; expected a smaller JSON file")
        return _parse(path.read_bytes(), name)

    def json_rows(self, name: str, *keys: str) -> Iterator[Row]:
        """The objects of a list in a JSON file; `keys` lead to it: `json_rows("test.json", "data")`."""
        found = self.json(name)
        for key in keys:
            found = Row(found if isinstance(found, dict) else {}, name)[key]
        if not isinstance(found, list):
            raise DataError(f"{name}: is {shown(found)}; expected a list of objects")
        for number, values in enumerate(cast("list[object]", found)):
            yield _row(values, f"{name}[{number}]")

    def jsonl(self, name: str, *, unique: str | None = None) -> Iterator[Row]:
        """The lines of a JSON-lines file, each an object. unique: a key whose values may not occur twice."""
        seen: set[str] = set()
        with self.path(name).open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                where = f"{name}:{number}"
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{where}: the line is longer than {LONGEST_LINE // MIB} MiB; expected JSON lines")
                if not line.strip():
                    continue
                row = _row(_parse(line, where), where)
                if unique is not None:
                    refuse_again(row, unique, seen)
                yield row

    def table(self, name: str, *, images: str | None = None) -> Iterator[Row]:
        """The rows of a VLMEvalKit table (`.tsv`), or of a `.csv`; only short fields are held in memory.

        images: the folder of `image_path`, where the table has no `image`; without it `images/<table>`, `<table>` and
        the data folder itself are looked through.
        """
        from internvl.evaluation.tables import read_table  # it needs Row and Late

        return read_table(self, name, images)

    def parquet(self, pattern: str) -> Iterator[Row]:
        """The rows of parquet files, a row group at a time. Image columns of Hugging Face ({bytes, path}) are Pictures.

        Raises MissingExtra without pyarrow.
        """
        from internvl.evaluation.parquet import read_parquet

        files = self.find(pattern)
        if not files:
            raise DataError(f"{shown(pattern)} is not in {self.root}; put the parquet files there")
        for path in files:
            yield from read_parquet(path, path.relative_to(self.root).as_posix())

    # ---- pictures and videos -----------------------------------------------------------------------------------------

    def picture(self, name: str, *, row: Row | None = None, max_tiles: int | None = None, enlarge: int = 1) -> Picture:
        """A picture file. It must be there; it is read late. row: the row that names it, for the error."""
        path = self.path(name, row=row)
        return Picture(name, partial(read_bounded, path, name), max_tiles, enlarge)

    def member(
        self, archive: str, name: str, *, row: Row | None = None, max_tiles: int | None = None, enlarge: int = 1
    ) -> Picture:
        """A picture inside a zip archive."""
        said = place(row)
        path = self.path(archive, row=row)
        try:
            if path not in self._archives:
                self._archives[path] = zipfile.ZipFile(path)
            info = self._archives[path].getinfo(name)
        except KeyError:
            raise DataError(f"{said}{shown(name)} is not in {archive}; expected a picture of that name") from None
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{said}{archive} is not a zip archive ({error}); get it again") from None
        where = f"{archive}/{name}"
        return Picture(where, partial(_read_member, self._archives[path], info, where), max_tiles, enlarge)

    def footage(self, name: str, bound: tuple[float, float] | None = None, *, row: Row | None = None) -> Footage:
        """A video file, or a folder of frames."""
        return Footage(name, self.path(name, row=row), bound)


def place(row: Row | None) -> str:
    """What an error begins with."""
    return "" if row is None else f"{row.where}: "


def refuse_again(row: Row, key: str, seen: set[str]) -> None:
    """Refuse a row whose id another row had."""
    value = str(row[key])
    if value in seen:
        raise DataError(f"{row.where}: `{key}` is {shown(value)} a second time; expected each once")
    seen.add(value)


def read_bounded(path: Path, name: str) -> bytes:
    try:
        if path.stat().st_size > LARGEST_PICTURE:
            raise DataError(f"{name}: larger than {LARGEST_PICTURE // MIB} MiB; expected a picture")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})") from None


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> bytes:
    if info.file_size > LARGEST_PICTURE:
        raise DataError(f"{where}: larger than {LARGEST_PICTURE // MIB} MiB; expected a picture")
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise DataError(f"{where}: cannot be read ({error}); get the archive again") from None


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise DataError(f"{where}: not JSON ({reason})") from None


def _row(values: object, where: str) -> Row:
    if not isinstance(values, dict):
        raise DataError(f"{where}: is {shown(values)}; expected a JSON object")
    return Row(cast("dict[str, Any]", values), where)

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

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from internvl.errors import DataError
from internvl.evaluation.material import File, Footage, Picture
from internvl.evaluation.parquet import read_parquet
from internvl.evaluation.rows import LARGEST_PICTURE, MIB, Row, place, refuse_again, shown
from internvl.evaluation.tables import read_table

LONGEST_LINE = 64 * MIB
"""Bytes of one JSON line."""
LARGEST_JSON = 1024 * MIB
"""Bytes of a JSON file that is read whole."""


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
        return read_table(self.path(name), name, self._first, images)

    def _first(self, candidates: Sequence[str], row: Row) -> Picture:
        """The first of these that is a file; of none, the error names the first."""
        there = [candidate for candidate in candidates if self.inside(candidate, row=row).is_file()]
        return self.picture((there or candidates)[0], row=row)

    def parquet(self, pattern: str) -> Iterator[Row]:
        """The rows of parquet files, a row group at a time. Image columns of Hugging Face ({bytes, path}) are Pictures.

        Raises MissingExtra without pyarrow.
        """
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

"""Files by address, on this machine or where fsspec reaches: which there are, and any range of their bytes.

What is found out about a file (where its lines are) is kept in `$XDG_CACHE_HOME/internvl` (`~/.cache/internvl`), or
among temporary files where that may not be written. Its name is made of the file's address, its size and its time of
change or etag: a changed file gets a new index, which takes the place of the old one. An index is written under another
name, then renamed.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from internvl.data.fetch import without_secrets
from internvl.data.media import ADDRESS
from internvl.errors import DataError, InternVLError, MissingExtra

MOST_FILES = 100_000
"""That one address may stand for."""

Build = Callable[[BinaryIO, BinaryIO, BinaryIO], None]
"""build(file, index, space to write on): both of the latter are empty, and the space is thrown away."""


@dataclass(frozen=True)
class File:
    """A file in one state of it."""

    address: str
    size: int
    state: str
    """Another one whenever the contents may be others."""

    @staticmethod
    def at(address: str) -> File:
        """The file as it is now; `DataError` if there is none."""
        if _is_local(address):
            try:
                found = os.stat(_path(address))
            except (OSError, ValueError):
                raise DataError(f"{address}: there is no such file; check the path") from None
            if not os.path.isfile(_path(address)):
                raise DataError(f"{address} is not a file; to name the files of a folder write {address}/*.jsonl")
            return File(address, found.st_size, _state(found))
        with _faults(address):
            system, path = _system(address)
            about: dict[str, Any] = system.info(path)
        if about.get("type") == "directory" or not isinstance(about.get("size"), int):
            raise DataError(f"{without_secrets(address)} is not a file of known size; expected one file, or write *")
        marks = [about.get(key) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "created")]
        return File(address, about["size"], repr((about["size"], marks)))

    @property
    def name(self) -> str:
        """The address as errors may show it."""
        return self.address if _is_local(self.address) else without_secrets(self.address)

    def read(self, start: int, stop: int) -> bytes:
        """A range of bytes. Nothing stays open, so that any process and thread may ask."""
        if not _is_local(self.address):
            with _faults(self.address):
                system, path = _system(self.address)
                return cast(bytes, system.cat_file(path, start=start, end=stop))
        try:
            with self.open() as file:
                file.seek(start)
                return file.read(stop - start)
        except OSError as error:
            raise DataError(f"{self.name} could not be read ({error.strerror})") from error

    @contextlib.contextmanager
    def open(self) -> Generator[BinaryIO]:
        """The whole file, to be read in order or in places."""
        if _is_local(self.address):
            with open(_path(self.address), "rb") as file:
                if _state(os.fstat(file.fileno())) != self.state:
                    raise DataError(f"{self.name} has changed since it was opened; begin again")
                yield file
        else:
            with _faults(self.address):
                system, path = _system(self.address)
                opened = cast(BinaryIO, system.open(path, "rb"))
            with opened as file:
                yield file


def expand(address: str) -> list[str]:
    """The addresses that one with `{000..012}`, `{a,b}`, `*`, `?` or `[ab]` stands for, in order.

    >>> expand("part-{08..10}.jsonl")
    ['part-08.jsonl', 'part-09.jsonl', 'part-10.jsonl']
    """
    if _is_local(address) and os.path.exists(_path(address)):
        return [address]  # whatever its name looks like
    found: list[str] = []
    for one in _braces(address):
        found += _globbed(one) if re.search(r"[*?[]", one) else [one]
        if len(found) > MOST_FILES:
            raise DataError(f"{address} stands for more than {MOST_FILES} files; name fewer, or merge them")
    return found


def exists(address: str) -> bool:
    """Whether there is such a file or folder, or one at least that fits."""
    try:
        first = expand(address)[0]
        if _is_local(first):
            return os.path.exists(_path(first))
        with _faults(first):
            system, path = _system(first)
            return bool(system.exists(path))
    except DataError:
        return False


def joined(file: str, path: str) -> str:
    """A relative path as it is below the folder of a file.

    >>> joined("s3://bucket/meta.json", "train.jsonl")
    's3://bucket/train.jsonl'
    """
    if ADDRESS.match(path) or os.path.isabs(_path(path)):
        return path
    if _is_local(file):
        return os.path.join(os.path.dirname(_path(file)), path)
    return f"{file.rpartition('/')[0]}/{path}"


def _braces(address: str) -> Iterator[str]:
    braces = re.search(r"\{([^{}]*)\}", address)
    if braces is None:
        yield address
        return
    before, inside, after = address[: braces.start()], braces[1], address[braces.end() :]
    if span := re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", inside):
        first, last = int(span[1]), int(span[2])
        if not first <= last < first + MOST_FILES:
            raise DataError(f"{address}: {{{inside}}} runs over {last - first + 1} numbers; expected 1 to {MOST_FILES}")
        choices = [f"{number:0{len(span[1])}}" for number in range(first, last + 1)]
    elif "," in inside:
        choices = inside.split(",")
    else:
        raise DataError(f"{address}: {{{inside}}} is neither a span like {{000..012}} nor a list like {{a,b}}")
    for choice in choices:
        yield from _braces(before + choice + after)


def _globbed(address: str) -> list[str]:
    if _is_local(address):
        found = sorted(glob.glob(_path(address), recursive=True))
    else:
        with _faults(address):
            system, path = _system(address)
            found = sorted(system.unstrip_protocol(match) for match in system.glob(path))
    if not found:
        raise DataError(f"{without_secrets(address)}: no file fits; check the path")
    return found


# ---- where files are -------------------------------------------------------------------------------------------------


def _is_local(address: str) -> bool:
    return not ADDRESS.match(address) or address.lower().startswith("file://")


def _path(address: str) -> str:
    return address[7:] if address.lower().startswith("file://") else os.path.expanduser(address)


def _state(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"


def _system(address: str) -> tuple[Any, str]:
    """The file system of an address; fsspec remembers it, and makes a new one in another process."""
    scheme = address.partition(":")[0]
    try:
        from fsspec.core import url_to_fs  # pyright: ignore[reportUnknownVariableType]

        return url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise MissingExtra(
            f"{without_secrets(address)}: {scheme}: addresses need fsspec and its part for {scheme} "
            f"(pip install 'fsspec[{scheme}]')"
        ) from error


@contextlib.contextmanager
def _faults(address: str) -> Generator[None]:
    name = without_secrets(address)
    try:
        yield
    except InternVLError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name}: there is no such file; check the address") from None
    except Exception as error:  # every file system raises its own kinds
        said = " ".join(str(error).replace(address, name).split())[:200]
        raise DataError(f"{name} could not be read ({type(error).__name__}: {said})") from error


# ---- what is kept ----------------------------------------------------------------------------------------------------


def kept(file: File, kind: str, build: Build) -> Path:
    """The index of a file, built where there is none yet."""
    whole = file.address if ADDRESS.match(file.address) else os.path.abspath(_path(file.address))
    folder = _folder()
    place, state = (
        hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:24] for text in (whole, file.state)
    )
    path = folder / f"{place}-{state}.{kind}"
    if path.exists():
        return path
    try:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as out:
            try:
                with file.open() as source, tempfile.TemporaryFile(dir=folder) as space:
                    build(source, cast(BinaryIO, out), cast(BinaryIO, space))
                out.flush()
                os.fsync(out.fileno())
                _settle(out.name, path)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(out.name)
    except OSError as error:
        raise DataError(f"{file.name}: its index could not be written to {folder} ({error.strerror})") from error
    for old in folder.glob(f"{place}-*.{kind}"):
        if old != path:
            with contextlib.suppress(OSError):
                old.unlink()
    return path


def _settle(part: str, path: Path) -> None:
    """Give a finished index its name; of several processes that built it at once the first wins, whose may be open."""
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            os.replace(part, path)


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "internvl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"internvl-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():  # somebody else could change what is in it
        raise DataError(f"{folder} is another user's; set XDG_CACHE_HOME to a folder that may be written")
    return folder

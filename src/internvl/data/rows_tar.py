"""WebDataset shards: in a tar file the members whose names are equal up to the first dot, one after another, are a row.

    .json                       the fields of the record
    .txt                        `caption`, where the fields have none
    .cls                        `label`, where the fields have none; a number where it is one
    .jpg .png .webp and so on   `image`: the bytes in place of what the fields name; several are a list
    .mp4 .webm and so on        `video`: likewise, one

Other members are left alone. Nothing is unpacked. Where a shard is damaged, its row is a bad one and the last. A row of
more than 1,000 members or 1 GiB is a bad one: `pic.000000.jpg`, `pic.000001.jpg` and so on are all of the row `pic`.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from internvl.data.addresses import File, kept
from internvl.data.records import json_object
from internvl.data.rows_jsonl import JsonLines
from internvl.errors import DataError

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm")
VIDEOS = ("mp4", "webm", "mov", "mkv", "avi")
LARGEST_MEMBER = 256 * 2**20
"""Bytes. A larger one makes its row a bad one."""
MOST_MEMBERS, LARGEST_ROW = 1000, 2**30
"""Members of one row, and bytes of those that are read; more make it a bad one."""


class TarRows:
    """The rows of one shard. What is kept is a line {"key", "members": [[ending, offset, size], ...]} for each."""

    def __init__(self, file: File) -> None:
        def build(source: BinaryIO, out: BinaryIO, _: BinaryIO) -> None:
            for entry in _entries(source, file.name):
                out.write(json.dumps(entry).encode() + b"\n")

        self._file = file
        self._entries = JsonLines(File.at(str(kept(file, "members", build))))

    def __reduce__(self) -> tuple[Any, ...]:
        return TarRows, (self._file,)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        entry = self._entries[index]
        name = self._name(entry)
        if "fault" in entry:
            raise DataError(f"{name}: the shard is damaged here ({entry['fault']}), and ends; get it again")
        _check_size(entry["members"], name)
        return _row(entry["members"], lambda ending, offset, size: self._read(f"{name}.{ending}", offset, size), name)

    def origin(self, index: int) -> str:
        return self._name(self._entries[index])

    def _name(self, entry: dict[str, Any]) -> str:
        return f"{self._file.name}:{entry['key']}"

    def _read(self, name: str, offset: int, size: int) -> bytes:
        if size > LARGEST_MEMBER:
            raise DataError(f"{name} has {size} bytes; at most {LARGEST_MEMBER} are read")
        found = self._file.read(offset, offset + size)
        if len(found) < size:
            raise DataError(f"{name} has {len(found)} of {size} bytes: the shard is cut off; get it again")
        return found


def _entries(source: BinaryIO, name: str) -> Iterator[dict[str, Any]]:
    entry: dict[str, Any] = {"key": None, "members": []}
    try:
        for member in _members(source):
            folder, slash, file = member.name.rpartition("/")
            stem, dot, ending = file.partition(".")
            if not (member.isreg() and stem and dot):
                continue
            key = f"{folder}{slash}{stem}"
            if key != entry["key"] and entry["members"]:
                yield entry
            if key != entry["key"]:
                entry = {"key": key, "members": []}
            if len(entry["members"]) <= MOST_MEMBERS:  # one more than are read tells that there are too many
                entry["members"].append([ending.lower(), member.offset_data, member.size])
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        if entry["key"] is None:
            raise DataError(f"{name} is not a tar file ({error}); expected a WebDataset shard") from None
        entry["fault"] = str(error)
    if entry["members"]:
        yield entry


def _members(source: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Member by member; `tarfile` would keep them all, and takes a damaged head of one for the end."""
    with tarfile.open(fileobj=source, mode="r:") as tar:
        while (member := tar.next()) is not None:
            yield member
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
        source.seek(tar.offset)  # pyright: ignore[reportAttributeAccessIssue]
        if source.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("what follows is no member")


def _check_size(members: list[tuple[str, int, int]], name: str) -> None:
    if len(members) > MOST_MEMBERS:
        raise DataError(
            f"{name} has more than {MOST_MEMBERS} members; what is equal up to the first dot is one row: name files of "
            "different rows differently there (000001.jpg, not pic.000001.jpg)"
        )
    size = sum(size for ending, _, size in members if _is_read(ending))
    if size > LARGEST_ROW:
        raise DataError(f"{name} has {size} bytes in {len(members)} members; a row has at most {LARGEST_ROW}")


def _is_read(ending: str) -> bool:
    return ending in ("json", "txt", "cls") or ending.rpartition(".")[2] in (*PICTURES, *VIDEOS)


def _row(members: list[tuple[str, int, int]], read: Callable[[str, int, int], bytes], name: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    pictures: list[bytes] = []
    for ending, offset, size in sorted(members, key=lambda member: member[0] != "json"):  # the fields first
        last = ending.rpartition(".")[2]
        if ending == "json":
            row = json_object(read(ending, offset, size), f"{name}.json") | row
        elif ending == "txt":
            row.setdefault("caption", _text(read(ending, offset, size), f"{name}.txt"))
        elif ending == "cls":
            label = _text(read(ending, offset, size), f"{name}.cls").strip()
            row.setdefault("label", int(label) if label.isdecimal() and len(label) < 10 else label)
        elif last in PICTURES:
            pictures.append(read(ending, offset, size))
        elif last in VIDEOS:
            if isinstance(row.get("video"), bytes):
                raise DataError(f"{name} holds more than one video; expected one")
            row["video"] = read(ending, offset, size)
    if pictures:
        row["image"] = _in_place_of(row.get("image"), pictures, name)
    return row


def _in_place_of(named: Any, pictures: list[bytes], name: str) -> bytes | list[bytes]:
    """The pictures as the fields list them: alone or in a list."""
    if isinstance(named, list) and len(named) != len(pictures):
        raise DataError(f"{name} holds {len(pictures)} picture(s), but its fields name {len(named)}")
    return pictures if isinstance(named, list) or len(pictures) > 1 else pictures[0]


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 ({error.reason} at byte {error.start})") from None

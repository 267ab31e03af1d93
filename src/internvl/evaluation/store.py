"""Answers on the disk: appended as they come, one file a process, never asked for twice.

    runs/NAME/TASK/answers.jsonl         a run of one process
    runs/NAME/TASK/answers-0of2.jsonl    process 0 of 2

A line that a killed process left unfinished is dropped when its file is opened again; its question is asked again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import IO, Any, NamedTuple, cast

from internvl.errors import DataError, UsageError
from internvl.evaluation.benchmark import Failure

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are not kept apart
    fcntl = None


class Key(NamedTuple):
    """What is asked once: a sample, with a seed."""

    id: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One line of `answers.jsonl`."""

    id: str
    seed: int
    answer: str
    finish: str | None = None
    """`stop`, or `length` where the limit of tokens cut the answer off."""
    tokens: int | None = None
    tiles: tuple[int, ...] | None = None
    """Of each picture, the thumbnail included; None: a server does not say."""
    failed: Failure | None = None
    """Why there is no answer; then `answer` is empty."""
    max_tiles: int | None = None
    """Where it was asked again with another number than the run's."""

    @property
    def key(self) -> Key:
        return Key(self.id, self.seed)


class Store:
    """The answers of one task, open for this process to add to. A question that failed may be answered later.

    >>> with Store(Path("runs/nano/pope")) as store:                                   # doctest: +SKIP
    ...     if ("q1", 0) not in store: store.add(Answered(id="q1", seed=0, answer="Yes"))
    """

    def __init__(self, folder: Path, *, rank: int = 0, world: int = 1) -> None:
        self._folder = folder
        self._path = folder / ("answers.jsonl" if world == 1 else f"answers-{rank}of{world}.jsonl")
        self._file: IO[bytes] | None = None
        self._keys: dict[Key, Failure | None] = {}

    def __enter__(self) -> Store:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = open_alone(self._path)
        try:
            self._refuse_others()
            self._keys = {found.key: found.failed for found in read_answers(self._folder)}
        except BaseException:
            file.close()
            raise
        self._file = file
        return self

    def _refuse_others(self) -> None:
        """Refuse to go on while a run of another number of processes is going on: both would ask the same."""
        stem = self._path.stem
        world = stem.rpartition("of")[2] if "-" in stem else None
        for path in self._folder.glob("answers*.jsonl"):
            if path == self._path or (world is not None and path.stem.endswith(f"of{world}")):
                continue
            with path.open("rb") as other:
                _lock(other, path, shared=True)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def failed(self) -> dict[Key, Failure]:
        """What was asked and not answered, by whichever process."""
        return {key: failed for key, failed in self._keys.items() if failed is not None}

    def add(self, answered: Answered) -> None:
        """Append an answer; it is with the operating system when this returns, whatever becomes of this process."""
        if self._file is None:
            raise UsageError(f"{self._path} is closed; add answers inside `with Store(...)`")
        if answered.key in self._keys and self._keys[answered.key] is None:
            raise DataError(f"{self._path}: {answered.id!r} with seed {answered.seed} is answered already")
        rare = ("failed", "max_tiles")
        values = {name: value for name, value in asdict(answered).items() if name not in rare or value is not None}
        append(self._file, self._path, values)
        self._keys[answered.key] = answered.failed


def read_answers(folder: Path) -> Iterator[Answered]:
    """All answers of a task, whichever process wrote them; of a question that failed and was asked again the answer.

    A second answer to a question is a `DataError`.
    """
    seen: dict[Key, tuple[Answered, str]] = {}
    for path in sorted(folder.glob("answers*.jsonl")):
        for where, values in whole_lines(path):
            found = _answered(values, path.parent / where)
            before, place = seen.get(found.key, (None, ""))
            if before is None or before.failed is not None:
                seen[found.key] = found, where
            elif found.failed is None:
                raise DataError(f"{where}: {found.id!r} with seed {found.seed} is answered in {place} too")
    yield from (found for found, _ in seen.values())


def _answered(values: dict[str, Any], where: Path) -> Answered:
    kinds = {"id": str, "seed": int, "answer": str}
    if any(type(values.get(name)) is not kind for name, kind in kinds.items()):
        raise DataError(f"{where}: no answer; expected an object with id, seed and answer")
    finish, tokens, tiles = values.get("finish"), values.get("tokens"), values.get("tiles")
    whole = isinstance(finish, str | None) and type(tokens) in (int, NoneType) and isinstance(tiles, list | None)
    if not whole or any(type(number) is not int for number in cast("list[object]", tiles or [])):
        raise DataError(
            f"{where}: finish, tokens or tiles is damaged; delete the line, and its question is asked again"
        )
    failed, max_tiles = _failure(values.get("failed"), where), values.get("max_tiles")
    if type(max_tiles) not in (int, NoneType):
        raise DataError(f"{where}: max_tiles is damaged; delete the line, and its question is asked again")
    return Answered(
        id=values["id"],
        seed=values["seed"],
        answer=values["answer"],
        finish=finish,
        tokens=tokens,
        tiles=None if tiles is None else tuple(tiles),
        failed=failed,
        max_tiles=max_tiles,
    )


def _failure(value: Any, where: Path) -> Failure | None:
    if value is None:
        return None
    found = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if found.get("kind") not in ("context", "refused") or not isinstance(found.get("why"), str):
        raise DataError(f"{where}: failed is damaged; delete the line, and its question is asked again")
    return Failure(found["kind"], found["why"])


def whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and value of each line of a JSON-lines file that is appended to; an unfinished last one is left out."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            where = f"{path.name}:{number}"
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                raise DataError(
                    f"{path.parent / where}: not JSON; delete the line, and its question is asked again"
                ) from None
            if not isinstance(values, dict):
                raise DataError(f"{path.parent / where}: no JSON object; delete the line, and it is asked again")
            yield where, values


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that whoever reads it sees the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def open_alone(path: Path) -> IO[bytes]:
    """A file of JSON lines to append to, its torn last line cut off; a second process is refused."""
    file = path.open("ab+", buffering=0)
    try:
        _lock(file, path)
        _drop_torn_line(file)
    except BaseException:
        file.close()
        raise
    return file


def append(file: IO[bytes], path: Path, values: Mapping[str, Any]) -> None:
    """Append a line; it is with the operating system when this returns, whatever becomes of this process."""
    line = json.dumps(values, ensure_ascii=False).encode(errors="replace") + b"\n"
    try:
        while line:
            line = line[file.write(line) :]
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); what came before is kept, the same command goes on"
        ) from None


def _lock(file: IO[bytes], path: Path, *, shared: bool = False) -> None:
    """Refuse a second process; the lock goes with the process that holds it, even if that is killed."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another process is writing {path}; wait for it, or choose another --out") from None
    except OSError:  # a file system without locks
        return


def _drop_torn_line(file: IO[bytes]) -> None:
    """Cut off what follows the last line break."""
    end = file.seek(0, os.SEEK_END)
    start = end
    while start:
        step = min(start, 65536)
        file.seek(start - step)
        found = file.read(step).rfind(b"\n")
        if found >= 0:
            start += found + 1 - step
            break
        start -= step
    if start < end:
        file.truncate(start)
    file.seek(0, os.SEEK_END)

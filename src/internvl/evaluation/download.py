"""Files of benchmarks from where they are published, pinned by checksum.

    obtain(TABLE["mmstar"], Folder(Path("data")))     # downloads what is missing, if all of it has an address

Addresses and checksums are written in the tasks, not in data that somebody sends; a file that turns out to be another
is thrown away. Unlike `internvl.data.fetch`, which reads what a stranger names into memory, this writes gigabytes to
disk: under a temporary name beside the place, renamed only when the checksum is right.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from internvl.errors import DataError
from internvl.evaluation.benchmark import Benchmark, File
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import MIB

CHUNK = MIB
MOST = 64 * 1024 * MIB
"""Bytes of one file."""
SECONDS = 60.0
"""For a connection, and for each piece of it."""
CHECKSUM = re.compile(r"(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})")

Report = Callable[[str, int, int | None], None]
"""Told (file, bytes so far, bytes in all if the server says so) after every piece."""
Open = Callable[[str], Any]
"""From an address to an open response of `http.client`'s kind."""


def open_url(url: str) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "internvl", "Accept-Encoding": "identity"})
    return urllib.request.urlopen(request, timeout=SECONDS)


def can_be_had(file: File) -> bool:
    """Whether a file has an address and a checksum; without both nothing is downloaded."""
    return bool(file.url and file.checksum) and not any(mark in file.path for mark in "*?[")


def obtain(
    benchmark: Benchmark, folder: Folder, *, report: Report | None = None, open_url: Open = open_url
) -> list[Path]:
    """Download what a benchmark lacks, in the first form of its data that can be completed; what was downloaded.

    Nothing happens where some form is there already, or where none can be completed: then the runner says which file
    to put where. Raises DataError where an address cannot be reached or gives another file than the checksum says.
    """
    lacking = [[file for file in source.files if not folder.has(file)] for source in benchmark.sources]
    if not all(lacking):
        return []
    files = next((absent for absent in lacking if all(map(can_be_had, absent))), [])
    return [download(file, folder, report=report, open_url=open_url) for file in files]


def download(file: File, folder: Folder, *, report: Report | None = None, open_url: Open = open_url) -> Path:
    """Download one file to its place in the folder."""
    place = folder.inside(file.path)
    url, checksum = file.url or "", file.checksum or ""
    if not CHECKSUM.fullmatch(checksum):
        raise DataError(f"{file.path}: its checksum is {checksum!r}; expected md5:… or sha256:…{by_hand(file, place)}")
    if not url.startswith(("https://", "http://")):
        raise DataError(f"{file.path}: {url!r} is not an http address{by_hand(file, place)}")
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as out:
            found = _copy(file, place, out, report, open_url)
        if found != checksum:
            raise DataError(f"{url} is another file: {found}, expected {checksum}{by_hand(file, place)}")
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    return place


def _copy(file: File, place: Path, out: Any, report: Report | None, open_url: Open) -> str:
    """Copy a response to a file; its checksum, of the kind that is expected."""
    kind = (file.checksum or "").partition(":")[0]
    sum_of, done, total = hashlib.new(kind, usedforsecurity=False), 0, None
    try:
        with open_url(file.url or "") as response:
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdecimal() else None
            while max(done, total or 0) <= MOST and (piece := response.read(CHUNK)):
                out.write(piece)
                sum_of.update(piece)
                done += len(piece)
                if report is not None:
                    report(file.path, done, total)
    except (http.client.HTTPException, OSError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is a response too
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{file.url} cannot be downloaded ({reason}){by_hand(file, place)}") from None
    if max(done, total or 0) > MOST:
        raise DataError(f"{file.url} is larger than {MOST // MIB} MiB{by_hand(file, place)}")
    if total is not None and done < total:
        raise DataError(f"{file.url} ended after {done} of {total} bytes; try again{by_hand(file, place)}")
    return f"{kind}:{sum_of.hexdigest()}"


def by_hand(file: File, place: Path) -> str:
    """What a person can do instead."""
    return f"; or put the file at {place}{f' ({file.hint})' if file.hint else ''}"


def verify(file: File, folder: Folder) -> None:
    """Refuse a file that is there and has another checksum than was published. Reads all of it."""
    if file.checksum is None or not CHECKSUM.fullmatch(file.checksum):
        return
    place = folder.path(file.path)
    sum_of = hashlib.new(file.checksum.partition(":")[0], usedforsecurity=False)
    with place.open("rb") as data:
        while piece := data.read(CHUNK):
            sum_of.update(piece)
    found = f"{sum_of.name}:{sum_of.hexdigest()}"
    if found != file.checksum:
        again = f"get it again from {file.url}" if file.url else "get it again"
        raise DataError(f"{place} is another file than was published: {found}, expected {file.checksum}; {again}")

"""The folder of a page's files, which goes with the page; and those of pages that were killed.

A page holds a lock on its folder, which ends with its process however that ends: a folder whose lock can be had is
nobody's any more. Versions without locks gave other names, so that theirs are left alone.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

NAME = re.compile(r"internvl-ui-[0-9a-f]{16}-locked")


def new_place() -> Path:
    """Where a page may put its folder."""
    return Path(tempfile.gettempdir()).resolve() / f"internvl-ui-{secrets.token_hex(8)}-locked"


@contextmanager
def kept(folder: Path) -> Generator[None]:
    """The folder is there, for this user alone, and is gone afterwards. What dead pages left beside it is gone too."""
    remove_left(folder.parent)
    held = _made(folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def remove_left(place: Path) -> None:
    """Delete folders of this user's pages whose processes are gone. What cannot be deleted stays."""
    if fcntl is None:
        return
    found: list[Path] = []
    with suppress(OSError):
        found += [one for one in place.iterdir() if NAME.fullmatch(one.name)]
    for folder in found:
        with suppress(OSError):  # it is held, went meanwhile, or is no folder
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                made = os.fstat(held)
                if made.st_uid == os.getuid() and not stat.S_IMODE(made.st_mode) & 0o077:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


def _made(folder: Path) -> int | None:
    """Make the folder and lock it; the lock, where there are locks."""
    while True:
        folder.mkdir(mode=0o700)
        if fcntl is None:
            return None
        try:
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another page, which starts just now, took it for one that was left
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError:  # a file system without locks, on which nobody gets one
            return held
        if folder.exists():
            return held
        os.close(held)

"""Which words of `internvl chat` are pictures and which is the question."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from internvl.errors import UsageError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")
PICTURES = frozenset(
    ("apng", "avif", "bmp", "gif", "heic", "jfif", "jpe", "jpeg", "jpg", "png", "ppm", "svg", "tif", "tiff", "webp")
)
VIDEOS = frozenset(("avi", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "webm"))
MOST_NAMES = 10_000
"""Files of a folder that are looked at for a similar name."""


@dataclass(frozen=True)
class Words:
    """What stood on the command line."""

    images: tuple[str, ...]
    question: str | None


def sort_words(words: Sequence[str]) -> Words:
    """The last word is the question unless it is a file or an address; all others must be pictures.

    >>> sort_words(["https://a.org/b.jpg", "What is this?"])
    Words(images=('https://a.org/b.jpg',), question='What is this?')
    """
    *others, last = words or [""]
    is_question = bool(last) and not _is_there(last)
    if is_question and _is_meant_as_file(last):
        raise no_such_file(last)
    images = tuple(others) if is_question or not last else tuple(words)
    for word in images:
        _check_kind(existing(word))
    return Words(images, last if is_question else None)


def existing(name: str) -> str:
    """The name of a file or an address, as it is; an error where there is no such file."""
    if not _is_there(name):
        raise no_such_file(name)
    return name


def no_such_file(name: str) -> UsageError:
    """The error for a file that is not there, with the nearest name that is."""
    near = _nearest(name)
    if near:
        return UsageError(f"no such file: {name}; did you mean {near}?")
    if _is_meant_as_file(name):
        return UsageError(f"no such file: {name}")
    return UsageError(f"no such file: {name!r}; only the last argument is the question, so put all of it in quotes")


def _is_there(word: str) -> bool:
    try:
        return bool(ADDRESS.match(word)) or Path(word).expanduser().exists()
    except (OSError, ValueError):  # a long question is not a valid name of a file
        return False


def _suffix(word: str) -> str:
    return word.rpartition(".")[2].lower() if "." in word else ""


def _is_meant_as_file(word: str) -> bool:
    if re.search(r"\s", word):
        return False
    if _suffix(word) in PICTURES | VIDEOS | {"pdf"} or word.startswith(("./", "../", "/", "~")):
        return True
    return "." in word[:-1] and _nearest(word) is not None


def _check_kind(word: str) -> None:
    """A folder, a video or a document among the pictures is told its option."""
    if ADDRESS.match(word):
        return
    if Path(word).expanduser().is_dir():
        raise UsageError(f"{word} is a folder; give its pictures one by one, or as {word.rstrip('/')}/*.jpg")
    for option, suffixes in (("--video", VIDEOS), ("--pdf", {"pdf"})):
        if _suffix(word) in suffixes:
            raise UsageError(f"{word} is not a picture; give it as {option} {word}")


def _nearest(name: str) -> str | None:
    path = Path(name).expanduser()
    try:
        names = sorted(entry.name for entry, _ in zip(path.parent.iterdir(), range(MOST_NAMES), strict=False))
    except (OSError, ValueError):
        return None
    folded = {other.casefold(): other for other in names}
    near = difflib.get_close_matches(path.name.casefold(), folded, n=1, cutoff=0.75)
    return str(path.parent / folded[near[0]]) if near else None

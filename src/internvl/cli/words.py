"""Which words of `internvl chat` are pictures and which is the question, and what they may name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from internvl.errors import UsageError

if TYPE_CHECKING:
    from internvl.data.limits import Limits

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")
PICTURES = frozenset(
    ("apng", "avif", "bmp", "gif", "heic", "jfif", "jpe", "jpeg", "jpg", "png", "ppm", "svg", "tif", "tiff", "webp")
)
VIDEOS = frozenset(("avi", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "webm"))
MOST_NAMES = 10_000
"""Files of a folder that are looked at for a similar name."""
MOST_PAGES = 10_000
"""Page numbers that are written out; far fewer pages are drawn."""


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
    images = tuple(existing(word) for word in (others if is_question or not last else words))
    for image in images:
        _check_kind(image)
    return Words(images, last if is_question else None)


def existing(name: str) -> str:
    """An address as it is, or the name of a file with `~` written out; an error where there is no such file."""
    if not _is_there(name):
        raise no_such_file(name)
    return name if ADDRESS.match(name) else os.path.expanduser(name)  # Path raises for the ~ of an unknown user


def existing_file(name: str) -> str:
    """As `existing`; a folder is no file."""
    name = existing(name)
    if not ADDRESS.match(name) and not Path(name).is_file():
        raise UsageError(f"{name} is a folder or no ordinary file; give one file")
    return name


def limits() -> Limits:
    """What may be named at the command line: whoever types an address wants it fetched."""
    from internvl.data.limits import Limits

    return Limits(remote=True, schemes=("s3", "gs", "hf"))


def page_numbers(text: str) -> list[int]:
    """The pages of a document that a person names.

    >>> page_numbers("1-3,7")
    [1, 2, 3, 7]
    """
    numbers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([1-9][0-9]{0,5})\s*(?:-\s*([1-9][0-9]{0,5})\s*)?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise UsageError(f"pages {text!r}: {part.strip()!r} is no page and no range of pages; write 1-3,7")
        numbers += range(first, min(last, first + MOST_PAGES) + 1)
        if len(numbers) > MOST_PAGES:
            raise UsageError(f"pages {text!r}: more than {MOST_PAGES} pages; name fewer")
    return numbers


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
        return bool(ADDRESS.match(word)) or Path(os.path.expanduser(word)).exists()
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
    if Path(word).is_dir():
        raise UsageError(f"{word} is a folder; give its pictures one by one, or as {word.rstrip('/')}/*.jpg")
    for option, suffixes in (("--video", VIDEOS), ("--pdf", {"pdf"})):
        if _suffix(word) in suffixes:
            raise UsageError(f"{word} is not a picture; give it as {option} {word}")


def _nearest(name: str) -> str | None:
    path = Path(os.path.expanduser(name))
    try:
        names = sorted(entry.name for entry, _ in zip(path.parent.iterdir(), range(MOST_NAMES), strict=False))
    except (OSError, ValueError):
        return None
    folded = {other.casefold(): other for other in names}
    near = difflib.get_close_matches(path.name.casefold(), folded, n=1, cutoff=0.75)
    return str(path.parent / folded[near[0]]) if near else None

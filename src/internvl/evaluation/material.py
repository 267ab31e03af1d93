"""What benchmarks are made of: files, pictures and videos, named but not yet read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Picture:
    """A picture that is read only when a model is asked about it."""

    name: str
    """Where it is, for people: `chartqa/test/png/1.png`, `MMBench.tsv, row 12`."""
    read: Callable[[], bytes] = field(repr=False, compare=False)
    max_tiles: int | None = None
    """A budget of its own, instead of a share of the question's."""
    enlarge: int = 1
    """Each side so many times as long, bilinear: the original doubles the first picture of MMMU."""


@dataclass(frozen=True)
class Footage:
    """A video of which some frames are read when a model is asked about it."""

    name: str
    path: Path
    bound: tuple[float, float] | None = None
    """Seconds between which frames are taken; None: the whole."""


@dataclass(frozen=True)
class File:
    """A file that a source needs, relative to the data folder; it may be a folder, or a pattern such as `*.parquet`."""

    path: str
    url: str | None = None
    """Where it can be downloaded, as it is; None: it is behind a form or inside an archive, see `hint`."""
    checksum: str | None = None
    """`sha256:…` or `md5:…` of what the url gives. A url without a checksum is not downloaded."""
    hint: str = ""
    """Where a person gets it, in one line."""

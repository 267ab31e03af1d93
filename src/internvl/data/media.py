"""The one door through which pictures, videos and documents enter, and the limits that stand in it.

A source is a path, an http(s), data: or file: address, an fsspec address such as `s3://bucket/a.jpg`, bytes, an open
binary file, or a Pillow picture. What it may be, how large, and from where is a `Limits`. Nothing is decoded before its
size and format are known from the header; Pillow's own safety settings are never changed.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from internvl.data.fetch import fetch, shorten, without_secrets
from internvl.data.image import without_warnings
from internvl.data.limits import OPEN, Limits, check_frames, check_size
from internvl.errors import MediaRefused, MediaUnreadable, MissingExtra, UsageError

if TYPE_CHECKING:
    from internvl.data.video import Clip

Source = str | os.PathLike[str] | bytes | BinaryIO
FRAMES = 8
"""Taken from a video where nothing else is said."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(//|:)|data:", re.IGNORECASE)
"""What distinguishes an address from a path; `C:\\pictures` is a path."""


# fmt: off
DECODERS: dict[str, Callable[[BinaryIO, None], Image.Image]] = {
    # Pillow's readers by name. `Image.open` would try all that are installed, and would add a limit of its own.
    "JPEG": JpegImagePlugin.jpeg_factory,    "PNG": PngImagePlugin.PngImageFile,  "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,      "BMP": BmpImagePlugin.BmpImageFile,  "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}

SIGNATURES = (  # the first bytes, what they mean, which decoder
    (rb"\xff\xd8\xff",                                     "a JPEG picture",                       "JPEG"),
    (rb"\x89PNG\r\n\x1a\n",                                "a PNG picture",                        "PNG"),
    (rb"RIFF....WEBP",                                     "a WebP picture",                       "WEBP"),
    (rb"GIF8[79]a",                                        "a GIF picture",                        "GIF"),
    (rb"BM",                                               "a BMP picture",                        "BMP"),
    (rb"II[*+]\0|MM\0[*+]",                                "a TIFF picture",                       "TIFF"),
    (rb"P[1-6]\s",                                         "a PPM picture",                        "PPM"),
    (rb"....ftyp(hei[cxms]|hev[cx]|mif1|msf1)",            "a HEIC picture",                       ""),
    (rb"....ftypavi[fs]",                                  "an AVIF picture",                      ""),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|OggS", "a video (pass it as a video)",         ""),
    (rb"%PDF",                                             "a PDF document (pass it as a document)", ""),
    (rb"\s*<(!doctype html|html)",                         "a web page",                           ""),
    (rb"\s*<(\?xml|svg)",                                  "an XML or SVG file",                   ""),
)
# fmt: on


def open_image(source: Source | Image.Image, limits: Limits = OPEN, *, name: str = "the picture") -> Image.Image:
    """One decoded picture, as stored; of several frames the first. `image.to_rgb` makes it upright and RGB.

    name: what messages call a source that has no name of its own.

    Raises MediaRefused for what is over a limit or not allowed, MediaUnreadable for what is damaged or no picture.

    >>> open_image("photo.jpg").size  # doctest: +SKIP
    (1920, 1080)
    """
    if isinstance(source, Image.Image):
        return _decode(source, name, limits)
    name = name_of(source, name)
    data = read(source, limits, what=name)
    opener = _opener(data, name, limits)
    try:
        with without_warnings():
            picture = opener(io.BytesIO(data), None)
    except Exception as error:  # a decoder at work on a stranger's bytes may raise anything
        raise MediaUnreadable(f"{name}: the header of the picture is damaged; save it anew, as PNG or JPEG") from error
    return _decode(picture, name, limits)


def _decode(picture: Image.Image, name: str, limits: Limits) -> Image.Image:
    check_size(name, picture.width, picture.height, limits)
    try:
        picture.load()
    except Exception as error:  # as above
        kind = f"{picture.format} " if picture.format else ""
        raise MediaUnreadable(f"{name}: the {kind}picture is truncated or damaged; give the whole file") from error
    return picture


def _opener(data: bytes, name: str, limits: Limits) -> Callable[[BinaryIO, None], Image.Image]:
    """The decoder for these bytes, if it is on the list."""
    head = data[:64]
    found = (entry for entry in SIGNATURES if re.match(entry[0], head, re.DOTALL | re.IGNORECASE))
    _, what, form = next(found, (b"", "no picture of a known format", ""))
    if form not in limits.formats:
        raise MediaUnreadable(f"{name}: this is {what}; pictures are read as {', '.join(limits.formats)}")
    return DECODERS[form]


def open_video(
    source: Source, limits: Limits = OPEN, *, frames: int = FRAMES, bound: tuple[float, float] | None = None
) -> Clip:
    """Some frames of a video with their times; `bound` is (start, end) in seconds. Which frames: `video.frame_indices`.

    >>> open_video("clip.mp4", frames=4).times  # doctest: +SKIP
    (0.6, 1.9, 3.1, 4.4)
    """
    from internvl.data.video import frame_indices  # PyAV is loaded only where a video is opened

    check_frames(name_of(source, "the video"), frames, limits)  # before a list of that many numbers is made
    return open_clip(source, partial(frame_indices, count=frames, bound=bound), limits)


def open_clip(source: Source, choose: Callable[[int, float], Sequence[int]], limits: Limits = OPEN) -> Clip:
    """As `open_video`, with another rule: choose(frames in the video, frames per second) -> which to read."""
    from internvl.data.video import read_clip

    with open_stream(source, limits) as stream:
        return read_clip(stream, choose, name=name_of(source, "the video"), limits=limits)


def open_pdf(
    source: Source,
    limits: Limits = OPEN,
    *,
    size: int = 1792,
    pages: Sequence[int] | None = None,
    password: str | None = None,
) -> list[Image.Image]:
    """Pages of a PDF as RGB pictures whose longer side has `size` pixels; `pages` counts from 1, None means all.

    >>> len(open_pdf("paper.pdf", pages=[1, 2]))  # doctest: +SKIP
    2
    """
    from internvl.data import document  # PDFium is loaded only where a document is opened

    name = name_of(source, "the document")
    if not limits.pages:
        raise MediaRefused(f"{name}: no documents are taken here (Limits.pages); leave it out, or send pictures")
    data = read(source, limits, what="the document")
    return document.render(data, name=name, limits=limits, size=size, pages=pages, password=password)


# ---- where bytes come from -----------------------------------------------------------------------------------------


def name_of(source: Source, otherwise: str) -> str:
    """How a message calls a source: as its giver did, on one short line, without passwords and query strings."""
    if not isinstance(source, str | os.PathLike):
        return otherwise
    name = os.fspath(source)
    if name[:5].lower() == "data:":
        return otherwise
    return shorten(without_secrets(name) if ADDRESS.match(name) else name)


def read(source: Source, limits: Limits, *, what: str) -> bytes:
    """All bytes of a source, at most `limits.bytes`."""
    name = name_of(source, what)
    if isinstance(source, bytes):
        return _bounded(source, name, limits)
    if isinstance(source, str) and ADDRESS.match(source):
        return _bounded(_from_address(source, name, limits), name, limits)
    if isinstance(source, str | os.PathLike):
        with _open_file(source, name, limits, limits.bytes) as file:
            return _bounded(file.read(limits.bytes + 1), name, limits)
    if not hasattr(source, "read"):
        raise UsageError(f"{what} is {type(source).__name__}; expected a path, an address, bytes or an open file")
    data = source.read(limits.bytes + 1)
    if isinstance(data, str):
        raise UsageError(f"{what} is a file opened for text; open it with mode 'rb'")
    return _bounded(data, name, limits)


def open_stream(source: Source, limits: Limits) -> BinaryIO:
    """A seekable stream over a source: a file on this machine as it is, everything else from memory."""
    path = source
    if isinstance(source, str) and ADDRESS.match(source):
        if not source.lower().startswith("file:"):
            return io.BytesIO(read(source, limits, what="the video"))
        path = _path_of(source, limits)
    if isinstance(path, str | os.PathLike):
        return _open_file(path, name_of(source, ""), limits, limits.video_bytes)
    return io.BytesIO(read(source, limits, what="the video"))


def _bounded(data: bytes, name: str, limits: Limits) -> bytes:
    if not data:
        raise MediaUnreadable(f"{name}: it is empty; expected the bytes of a file")
    if len(data) > limits.bytes:
        raise MediaRefused(f"{name}: larger than {limits.bytes} bytes (Limits.bytes); make it smaller")
    return data


def _from_address(address: str, name: str, limits: Limits) -> bytes:
    scheme = address.partition(":")[0].lower()
    if scheme == "data":
        return _from_data_address(address, name, limits)
    if scheme == "file":
        with _open_file(_path_of(address, limits), name, limits, limits.bytes) as file:
            return file.read(limits.bytes + 1)
    if scheme in ("http", "https"):
        return fetch(address, limits)
    return _from_fsspec(address, scheme, name, limits)


def _from_data_address(address: str, name: str, limits: Limits) -> bytes:
    if len(address) > limits.bytes * 4 / 3 + 1000:
        raise MediaRefused(f"{name}: larger than {limits.bytes} bytes (Limits.bytes); make it smaller")
    head, comma, body = address.partition(",")
    if not comma:
        raise MediaUnreadable(f"{name}: a data: address has a comma before its data; this one has none")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(re.sub(r"\s", "", unquote(body)), validate=True)
    except (binascii.Error, ValueError):
        raise MediaUnreadable(f"{name}: the data: address is not proper base64; encode the file again") from None


def _path_of(address: str, limits: Limits) -> str:
    """The path in a file: address, which only someone who may name any file can use."""
    parts = urlsplit(address)
    if limits.root is not None or not limits.local:
        raise MediaRefused(f"{shorten(address)}: file: addresses are not read here; send a data: address")
    if parts.netloc not in ("", "localhost"):
        raise MediaRefused(f"{shorten(address)}: this names a file of another machine; name one of this")
    return url2pathname(parts.path)


def _open_file(path: str | os.PathLike[str], name: str, limits: Limits, most: int) -> BinaryIO:
    """Open an ordinary file of at most `most` bytes, inside `limits.root` if there is one."""
    if not limits.local:
        raise MediaRefused(f"{name}: files of this machine are not read here; send a data: address")
    try:
        place = Path(path)
        if limits.root is not None:
            place = _inside(limits.root, place, name)
        found = place.stat()
        if stat.S_ISDIR(found.st_mode):
            raise MediaUnreadable(f"{name}: this is a folder; expected a file")
        if not stat.S_ISREG(found.st_mode):
            raise MediaRefused(f"{name}: this is a device or a pipe; expected a file")
        if found.st_size > most:
            raise MediaRefused(f"{name}: {found.st_size} bytes, at most {most} are read (Limits); make it smaller")
        if not found.st_size:
            raise MediaUnreadable(f"{name}: it is empty; expected the bytes of a file")
        return place.open("rb")
    except FileNotFoundError:
        raise MediaUnreadable(f"{name}: there is no such file; name one that exists") from None
    except PermissionError:
        raise MediaUnreadable(f"{name}: this file may not be read; change its permissions, or name another") from None
    except (OSError, ValueError):  # a name too long, a loop of links, a zero byte
        raise MediaUnreadable(f"{name}: this is no path of a file; name one that exists") from None


def _inside(root: Path, path: Path, name: str) -> Path:
    """The real place of a relative path, links followed; it must lie inside the root."""
    home = root.resolve()
    place = (home / path).resolve()
    if path.is_absolute() or ".." in path.parts or not place.is_relative_to(home):
        raise MediaRefused(f"{name}: only files inside the media folder are read; name one of them")
    return place


def _from_fsspec(address: str, scheme: str, name: str, limits: Limits) -> bytes:
    if scheme not in limits.schemes or "::" in address:  # a chain of schemes could reach what the list leaves out
        raise MediaRefused(
            f"{name}: {shorten(scheme)}: addresses are not read here (Limits.schemes); give the file itself"
        )
    try:
        import fsspec

        with fsspec.open(address, "rb") as file:
            return file.read(limits.bytes + 1)  # pyright: ignore[reportAttributeAccessIssue]
    except (ImportError, ValueError) as error:
        raise MissingExtra(
            f"{name}: {scheme}: addresses need fsspec and its part for {scheme} (pip install 'fsspec[{scheme}]')"
        ) from error
    except Exception as error:  # every file system raises its own kinds
        raise MediaUnreadable(f"{name}: it could not be read; give the file itself") from error

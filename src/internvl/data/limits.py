"""How much may enter, of what kind and from where: the limits that `internvl.data.media` keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from internvl.errors import MediaRefused, MediaUnreadable, UsageError, find

MIB = 2**20
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""All that can be read, by Pillow's names."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may enter. The defaults suit one's own files; a server narrows them (`local=False`, smaller numbers)."""

    bytes: int = 256 * MIB
    """Of what is read into memory: pictures, documents, downloads, data: addresses."""
    video_bytes: int = 8192 * MIB
    """Of a video file on this machine; it is read piece by piece."""
    pixels: int = 89_478_485
    """Of one picture, frame or page, known before it is decoded. The default is the one at which Pillow would warn."""
    side: int = 65_535
    """Pixels of the longer side."""
    frames: int = 512
    """Taken from one video; 0: no video is taken."""
    clip_pixels: int = 1_000_000_000
    """Of all frames taken from one video together; a pixel is held in 4 bytes."""
    clip_seconds: float = 6 * 3600
    """How long a video may last."""
    pages: int = 64
    """Taken from one document; 0: no document is taken."""
    seconds: float = 30.0
    """For fetching one address, redirects included."""
    formats: tuple[str, ...] = PICTURE_FORMATS
    """Picture formats, out of these."""
    containers: tuple[str, ...] = ("mov", "matroska", "avi", "gif", "apng", "mpegts", "mpeg", "flv", "ogg", "asf")
    """Video containers, by FFmpeg's names: mov is also mp4, matroska is also webm."""
    codecs: tuple[str, ...] = (
        "h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "h263", "flv1",
        "mjpeg", "gif", "apng", "theora", "wmv1", "wmv2", "wmv3", "vc1", "prores", "png", "rawvideo", "ffv1",
    )  # fmt: skip
    """Video codecs, by FFmpeg's names."""
    local: bool = True
    """Whether files of this machine may be named."""
    root: Path | None = None
    """If set, files are named relative to this folder and nothing outside it is reached."""
    remote: bool = False
    """Whether any public http(s) host may be fetched from. Addresses that are not public are refused even then."""
    hosts: tuple[str, ...] = ()
    """If set, only these are fetched from: `example.org`, `example.org:8443`, `*.example.org`."""
    private: bool = False
    """Whether the listed hosts may be on a private network. Needs `hosts`."""
    schemes: tuple[str, ...] = ()
    """Schemes that go to fsspec with this process's own credentials, such as `s3`, `gs`, `hf`."""

    def __post_init__(self) -> None:
        for form in self.formats:
            find("picture format", form, dict.fromkeys(PICTURE_FORMATS))
        if self.private and not self.hosts:
            raise UsageError("Limits: private=True opens the private network, so `hosts` must say for which hosts")
        if self.root is not None and not self.local:
            raise UsageError("Limits: root says which files may be named, local=False that none may")


OPEN = Limits()


def check_size(name: str, width: int, height: int, limits: Limits) -> None:
    """Refuse a picture, frame or page by its size, before anything is decoded."""
    if width < 1 or height < 1:
        raise MediaUnreadable(f"{name}: {width} x {height} pixels is no picture; expected 1 x 1 at least")
    if width * height > limits.pixels:
        raise MediaRefused(
            f"{name}: {width} x {height} pixels, at most {limits.pixels} are decoded (Limits.pixels); make it smaller"
        )
    if max(width, height) > limits.side:
        raise MediaRefused(
            f"{name}: {width} x {height} pixels, the longer side may have {limits.side} (Limits.side); make it smaller"
        )


def check_frames(name: str, frames: int, limits: Limits) -> None:
    """Refuse a number of frames that no video may be asked for."""
    if type(frames) is not int or frames < 1:
        raise UsageError(f"{name}: {frames!r} frames were asked for; expected a whole number from 1 on")
    if not limits.frames:
        raise MediaRefused(f"{name}: no videos are taken here (Limits.frames); leave it out, or send pictures")
    if frames > limits.frames:
        raise MediaRefused(
            f"{name}: {frames} frames were asked for, at most {limits.frames} are read (Limits.frames); ask for fewer"
        )

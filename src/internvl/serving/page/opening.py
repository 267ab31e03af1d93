"""What a person sends, made pictures that a browser shows and any server takes.

    file --opened--> [a process of its own: python -P -m internvl.serving.page.opening] --> Upload of Shown, in a folder

A stranger's file is decoded within the bounds that `internvl.serving.reader` has for its process; this process only
writes down what comes back. JPEG, PNG and WebP pictures stay the files they are.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from PIL import Image

from internvl.data.image import to_rgb
from internvl.data.limits import Limits
from internvl.data.media import SIGNATURES, open_image, open_pdf, open_video
from internvl.errors import InternVLError, MediaUnreadable
from internvl.serving import child
from internvl.serving.page.ask import Failed
from internvl.serving.page.talk import Kind, Shown, Upload
from internvl.serving.reading import limits_as_json, limits_of

KEPT = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
SECONDS = 60
"""For one file, by the clock."""
CPU_SECONDS = 40
MOST_BYTES = 256 * 2**20
"""Of all pictures that a file becomes."""
Found = tuple[dict[str, Any], bytes]
"""A picture: what is said of it, and its file; empty bytes: the file that was sent."""


# ---- in the process that decodes -------------------------------------------------------------------------------------


def pictures_of(data: bytes, limits: Limits, *, frames: int) -> list[Found]:
    """The pictures that a file is: itself, the pages of a PDF, or frames of a video at equal distances.

    Raises InternVLError in words that name no path.

    >>> pictures_of(open("photo.jpg", "rb").read(), Limits(), frames=8)  # doctest: +SKIP
    [({'kind': 'picture', 'size': (640, 480), 'suffix': '.jpg'}, b'')]
    """
    if b"%PDF-" in data[:1024]:
        pages = open_pdf(data, limits)
        return [_found("page", page, "PNG", number=place) for place, page in enumerate(pages, start=1)]
    form = next((form for pattern, _, form in SIGNATURES if re.match(pattern, data[:64], re.DOTALL)), "")
    if form in limits.formats and not (form == "GIF" and _moves(data, limits)):
        picture = open_image(data, limits)
        upright = to_rgb(picture)
        if form in KEPT:
            return [({"kind": "picture", "size": upright.size, "suffix": KEPT[form]}, b"")]
        return [_found("picture", upright, "PNG")]
    clip = _clip(data, limits, frames)
    return [
        _found("frame", frame, "JPEG", number=place, seconds=round(seconds, 2))
        for place, (frame, seconds) in enumerate(zip(clip.frames, clip.times, strict=True), start=1)
    ]


def _clip(data: bytes, limits: Limits, frames: int) -> Any:
    try:
        return open_video(data, limits, frames=frames)
    except MediaUnreadable as error:
        if data[4:8] == b"ftyp" or data[:4] in (b"\x1aE\xdf\xa3", b"RIFF"):
            raise
        raise MediaUnreadable("this is no picture, video or PDF that is read here") from error


def _moves(data: bytes, limits: Limits) -> bool:
    return getattr(open_image(data, limits), "n_frames", 1) > 1


def _found(kind: Kind, picture: Image.Image, form: str, **more: Any) -> Found:
    stream = io.BytesIO()
    # Letters stay sharp as PNG; a frame was a lossy picture before.
    picture.save(stream, form, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))
    return {"kind": kind, "size": picture.size, "suffix": KEPT[form], **more}, stream.getvalue()


def main() -> None:
    """Read what is asked from the standard input, and write a line of JSON and then the pictures."""
    from internvl.serving.reader import Bounds, confine, cpu_seconds

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    confine(Bounds())
    head, _, data = sys.stdin.buffer.read().partition(b"\n")
    asked = json.loads(head)
    try:
        with cpu_seconds(CPU_SECONDS):
            found = pictures_of(data, limits_of(asked["limits"]), frames=asked["frames"])
    except (InternVLError, MemoryError) as error:
        said = str(error) if isinstance(error, InternVLError) else "it needs too much memory"
        _write(sys.stdout.buffer, {"error": " ".join(said.split())}, ())
        return
    _write(sys.stdout.buffer, {"shown": [{**one, "bytes": len(file)} for one, file in found]}, [f for _, f in found])


def _write(out: BinaryIO, head: dict[str, Any], files: Sequence[bytes]) -> None:
    out.write(json.dumps(head).encode() + b"\n")
    for file in files:
        out.write(file)


# ---- in the process of the page --------------------------------------------------------------------------------------


async def opened(file: Path, name: str, folder: Path, limits: Limits, *, frames: int) -> Upload:
    """What a file is to the model. Its pictures are written to `folder` under names that nobody guesses.

    Raises Failed, which names the file as the person does.
    """
    try:
        data = await asyncio.to_thread(file.read_bytes)
    except OSError:
        raise Failed("expired") from None
    asked = json.dumps({"frames": frames, "limits": limits_as_json(limits)}).encode()
    said = await _asked(asked + b"\n" + data, name)
    return await asyncio.to_thread(_kept, said, data, name, folder)


def _kept(said: bytes, data: bytes, name: str, folder: Path) -> Upload:
    """What the process that decodes says, and the pictures after it, as files."""
    end = said.index(b"\n") + 1
    head = json.loads(said[:end])
    if "error" in head:
        raise Failed("unreadable", name=name, said=_without_settings(str(head["error"])))
    shown: list[Shown] = []
    blobs = memoryview(said)[end:]
    for one in cast("list[dict[str, Any]]", head["shown"]):
        blob, blobs = blobs[: one["bytes"]] or data, blobs[one["bytes"] :]
        place = folder / (secrets.token_hex(16) + one["suffix"])
        place.write_bytes(blob)
        width, height = one["size"]
        shown.append(Shown(one["kind"], place, (width, height), one.get("number", 1), one.get("seconds", 0.0)))
    return Upload(name, tuple(shown))


async def _asked(data: bytes, name: str) -> bytes:
    """What the process that decodes says: a line of JSON, and pictures after it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "internvl.serving.page.opening", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=_environment(),
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(process.communicate(data), SECONDS)
    except TimeoutError:
        raise Failed("unreadable", name=name, said="it takes too long to open") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or b"\n" not in out or len(out) > MOST_BYTES:
        raise Failed("unreadable", name=name, said="opening it took more memory or time than a file may take")
    return out


def _environment() -> dict[str, str]:
    """What readers are given too: no keys."""
    return {name: os.environ[name] for name in child.KEPT if name in os.environ}


def _without_settings(said: str) -> str:
    """An error as a person at a browser reads it: without names of settings, and of what has no name of its own.

    >>> _without_settings("the picture: 9 x 9 pixels, at most 4 are decoded (Limits.pixels)")
    '9 x 9 pixels, at most 4 are decoded'
    """
    return re.sub(r" \(Limits[^)]*\)", "", re.sub(r"^the (picture|video|document)(, page \d+)?: ", "", said))


if __name__ == "__main__":
    main()

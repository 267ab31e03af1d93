"""What goes over the wire: a conversation as an OpenAI-style server takes it.

A text is a text part, a picture a `data:` address. Where all pictures of a message stand before its first text, whoever
serves the model introduces them in the family's way (`<image>` and a line break for one, `Image-1: <image>` and so on
for several). Everywhere else a picture stands where its part stands. The frames of a video are pictures, each after its
`Frame-1: `, as the family shows them, and of low detail, which is one tile: so any server that takes pictures takes a
video.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from internvl.data.image import to_rgb
from internvl.data.prompts import ImageSlot, Message, Piece, Structure, bind

if TYPE_CHECKING:
    from PIL.Image import Image as Photo

KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""Pictures that every server reads, by Pillow's names."""


def contents(
    messages: Sequence[Message],
    files: Sequence[bytes | None] = (),
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """A conversation as an OpenAI-style server takes it.

    files: for each picture in the order of its slots the file that it was read from; it is sent as it is where any
    reader sees the same picture in it, as PNG otherwise. report(done, total) is told how many pictures are ready.

    >>> contents([Message("user", ("Hello",))])
    [{'role': 'user', 'content': 'Hello'}]
    """
    turns, pictures = bind(messages)
    sources = [*files, *[None] * (len(pictures) - len(files))]
    shown: list[dict[str, Any]] = []
    for picture, file in zip(pictures, sources, strict=True):
        detail = {"detail": "low"} if picture.is_frame else {}
        shown.append({"type": "image_url", "image_url": {"url": address_of(picture.photo, file), **detail}})
        report(len(shown), len(pictures))
    sent: list[dict[str, Any]] = []
    for place, turn in enumerate(turns):
        own = [index for index, picture in enumerate(pictures) if picture.turn == place]
        content = _parts(turn.pieces, own, shown) if own else "".join(map(_text, turn.pieces))
        sent.append({"role": turn.role, "content": content})
    return sent


def _parts(pieces: Sequence[Piece], own: Sequence[int], picture: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of a message with pictures: in the short form if the family's opening is what it says."""
    spelt = "".join(f"\0{piece.index}\0" if isinstance(piece, ImageSlot) else _text(piece) for piece in pieces)
    opening = _opening(own)
    if spelt.startswith(opening):
        rest = spelt[len(opening) :]
        return [*(picture[index] for index in own), *([{"type": "text", "text": rest}] if rest else [])]
    parts: list[dict[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, ImageSlot):
            parts.append(picture[piece.index])
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += _text(piece)
        else:
            parts.append({"type": "text", "text": _text(piece)})
    first = next((place for place, part in enumerate(parts) if part["type"] == "text"), len(parts))
    # An empty text says that the pictures after it stand where they stand.
    return [{"type": "text", "text": ""}, *parts] if first >= len(own) else parts


def _opening(own: Sequence[int]) -> str:
    """How the family introduces these pictures, a picture being written as its number between zero bytes."""
    if len(own) == 1:
        return f"\0{own[0]}\0\n"
    return "".join(f"Image-{number}: \0{index}\0\n" for number, index in enumerate(own, start=1))


def _text(piece: Piece) -> str:
    assert not isinstance(piece, ImageSlot)
    return piece.text if isinstance(piece, Structure) else piece


def address_of(photo: Photo, file: bytes | None = None) -> str:
    """A picture as a `data:` address."""
    if file is None or photo.format not in KINDS or not _is_plain(photo):
        stream = io.BytesIO()
        to_rgb(photo).save(stream, "PNG")
        return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return f"data:{KINDS[photo.format]};base64,{base64.b64encode(file).decode()}"


def _is_plain(photo: Photo) -> bool:
    """Whether a reader that knows nothing of orientation, opacity and animation sees the picture that we see."""
    plain = photo.mode in ("RGB", "L") and "transparency" not in photo.info and getattr(photo, "n_frames", 1) == 1
    return plain and (photo.mode == "L" or to_rgb(photo) is photo)

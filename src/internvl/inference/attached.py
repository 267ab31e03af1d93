"""From what a caller attaches to a question (paths, addresses, bytes, Pillow pictures) to one message."""

from __future__ import annotations

import os
from collections.abc import Sequence

from PIL.Image import Image as Photo

from internvl.data.limits import OPEN, Limits
from internvl.data.media import Source, open_image, open_pdf, open_video
from internvl.data.prompts import Image, Message, Part, Text, Video
from internvl.errors import UsageError

Pages = list[Photo] | tuple[Photo, ...]

PDF_TILES = 64
"""All pages of a document share this many tiles, at least one each (the rule of the published MP-DocVQA evaluation)."""


def photo_of(source: Source | Photo, limits: Limits = OPEN) -> Photo:
    """A picture, opened through the one door of all media."""
    return open_image(source, limits)


def video_of(source: Source | Video, limits: Limits = OPEN, *, frames: int | None = None) -> Video:
    """Frames of a video, evenly spread; `frames` None: as many as the door gives."""
    if isinstance(source, Video):
        return source
    clip = open_video(source, limits) if frames is None else open_video(source, limits, frames=frames)
    return Video(tuple(clip.frames), tuple(clip.times))


def pages_of(source: Source | Pages, limits: Limits = OPEN) -> tuple[Photo, ...]:
    """The pages of a PDF as pictures."""
    return tuple(source if isinstance(source, list | tuple) else open_pdf(source, limits))


def asked(
    question: str | Text,
    *,
    images: Sequence[Source | Photo] = (),
    video: Source | Video | None = None,
    pdf: Source | Pages | None = None,
    frames: int | None = None,
    max_tiles: int | None = None,
    limits: Limits = OPEN,
) -> Message:
    """A user's message. Pictures, pages and the video come before the question, or at its `<image>` and `<video>`.

    max_tiles: what the pictures share, and the most that a page gets; None: the model has no tiling. Each picture keeps
    its part for as long as the conversation lasts, whatever later questions ask for.
    """
    # callers need not check their types
    if not isinstance(question, str | Text):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"the question is of type {type(question).__name__}; expected a string, or Text for a stranger's"
        )
    if isinstance(images, str | bytes | os.PathLike | Photo):
        raise UsageError("images is one picture; give a list, even of one: images=[...]")
    share = None if max_tiles is None else max(1, max_tiles // max(1, len(images)))
    parts: list[Part] = [Image(photo_of(image, limits), share) for image in images]
    if pdf is not None:
        pages = pages_of(pdf, limits)
        share = None if max_tiles is None else max(1, min(max_tiles, PDF_TILES // max(1, len(pages))))
        parts += [Image(page, share) for page in pages]
    if video is not None:
        parts.append(video_of(video, limits, frames=frames))
    return Message("user", (*parts, question))

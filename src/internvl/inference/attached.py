"""From what a caller attaches to a question (paths, addresses, bytes, Pillow pictures) to one message."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL.Image import Image as Photo

from internvl.data.encode import EncoderConfig
from internvl.data.image import check_tiles
from internvl.data.limits import OPEN, Limits
from internvl.data.media import Source, name_of, open_image, open_pdf, open_video, read
from internvl.data.prompts import Image, Message, Part, Text, Video
from internvl.errors import UsageError

Photos = list[Photo] | tuple[Photo, ...]

PDF_TILES = 64
"""A question with a document has this many tiles if it asks for no other number, as many as the published MP-DocVQA
evaluation shares among pages."""


@dataclass(frozen=True)
class Pdf:
    """A document of which only some pages are shown, or that is locked.

    >>> Pdf("paper.pdf", pages=[1, 2, 7])
    Pdf(source='paper.pdf', pages=[1, 2, 7])
    """

    source: Source
    pages: Sequence[int] | None = None
    """Counted from 1; None: all."""
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Budget:
    """Tiles, thumbnails not counted, that the pictures and pages of one question have."""

    together: int
    """What they share, at least one each."""
    each: int
    """What one of them has at most."""

    def share(self, pictures: int) -> int:
        """The part of one of so many."""
        return max(1, min(self.each, self.together // max(1, pictures)))


def budget_of(config: EncoderConfig, max_tiles: int | None, *, document: bool) -> Budget | None:
    """Tiles that a message's pictures and pages may have; None where the model sees each as one tile.

    max_tiles: what is asked for; None: the checkpoint's for pictures, PDF_TILES where there is a document.
    """
    if max_tiles is not None:
        check_tiles(max_tiles)
        return Budget(max_tiles, max_tiles)
    if not config.dynamic:
        return None
    return Budget(PDF_TILES if document else config.max_tiles, config.max_tiles)


def photo_of(source: Source | Photo, limits: Limits = OPEN) -> Photo:
    """A picture, opened through the one door of all media. Of a caller's own it is a copy: what is edited later is not
    what was shown."""
    photo = open_image(source, limits)
    return photo.copy() if photo is source else photo


def photo_and_file(source: Source, limits: Limits = OPEN) -> tuple[Photo, bytes]:
    """A picture, and the file that holds it; both come through the door once."""
    name = name_of(source, "the picture")
    file = read(source, limits, what=name)
    return open_image(file, limits, name=name), file


def video_of(source: Source | Video | Photos, limits: Limits = OPEN, *, frames: int | None = None) -> Video:
    """Frames of a video, evenly spread; `frames` None: as many as the door gives."""
    if not isinstance(source, Video | list | tuple):
        clip = open_video(source, limits) if frames is None else open_video(source, limits, frames=frames)
        return Video(tuple(clip.frames), tuple(clip.times))
    if frames is not None:
        raise UsageError(f"frames={frames} says how much of a file is read, but the frames themselves are given")
    if isinstance(source, list | tuple):
        source = Video(tuple(source))
    if not source.frames:
        raise UsageError("the video has no frames; give at least one, or no video")
    return Video(tuple(photo_of(frame, limits) for frame in source.frames), source.times)


def pages_of(source: Source | Pdf | Photos, limits: Limits = OPEN) -> tuple[Photo, ...]:
    """The pages of a PDF as pictures."""
    if isinstance(source, list | tuple):
        return tuple(photo_of(page, limits) for page in source)
    pdf = source if isinstance(source, Pdf) else Pdf(source)
    return tuple(open_pdf(pdf.source, limits, pages=pdf.pages, password=pdf.password))


def several(images: Sequence[Source | Photo]) -> Sequence[Source | Photo]:
    """Pictures; `UsageError` where it is one."""
    if isinstance(images, str | bytes | os.PathLike | Photo):
        raise UsageError("images is one picture; give a list, even of one: images=[...]")
    return images


def asked(
    question: str | Text,
    *,
    images: Sequence[Source | Photo] = (),
    video: Source | Video | Photos | None = None,
    pdf: Source | Pdf | Photos | None = None,
    frames: int | None = None,
    budget: Budget | None = None,
    limits: Limits = OPEN,
) -> Message:
    """A user's message. Pictures, pages and the video come before the question, or at its `<image>` and `<video>`.

    budget: what pictures and pages share; None: the model has no tiling. Each keeps its part for as long as the
    conversation lasts, whatever later questions ask for.
    """
    # callers need not check their types
    if not isinstance(question, str | Text):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"the question is of type {type(question).__name__}; expected a string, or Text for a stranger's"
        )
    if frames is not None and video is None:
        raise UsageError(f"frames={frames} says how much of a video is read, but there is none; give video=...")
    photos = [photo_of(image, limits) for image in several(images)]
    photos += [] if pdf is None else pages_of(pdf, limits)
    share = None if budget is None else budget.share(len(photos))
    parts: list[Part] = [Image(photo, share) for photo in photos]
    if video is not None:
        parts.append(video_of(video, limits, frames=frames))
    return Message("user", (*parts, question))


def shared(message: Message, budget: Budget | None) -> Message:
    """A message whose pictures have their share of the budget, but for those that have one of their own."""
    pictures = sum(isinstance(part, Image) for part in message.parts)
    if budget is None or not pictures:
        return message
    share = budget.share(pictures)
    parts = (
        replace(part, max_tiles=share) if isinstance(part, Image) and part.max_tiles is None else part
        for part in message.parts
    )
    return replace(message, parts=tuple(parts))

"""From a sample to the conversation that a model is given: pictures are opened, frames chosen, budgets shared.

Sample + Settings --show--> Shown (messages, and the files that their pictures were read from)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from PIL.Image import Image as Photo
from PIL.Image import Resampling

from internvl.data.image import to_rgb
from internvl.data.media import open_image, open_video
from internvl.data.prompts import IMAGE, VIDEO, Image, Message, Text
from internvl.errors import DataError, InternVLError
from internvl.evaluation.benchmark import Footage, Picture, Sample, Settings

STILLS = (".jpg", ".jpeg", ".png", ".webp")
FRAMES_PER_SECOND = 3.0
"""Of a folder of frames: those of TVQA, which MVBench takes its episodes from."""


@dataclass(frozen=True)
class Shown:
    """A question as a model is given it."""

    messages: tuple[Message, ...]
    files: tuple[bytes | None, ...]
    """Of each picture, in the order of the slots, the file that holds it; None: a frame, or it was changed."""


def conversation(sample: Sample, settings: Settings) -> list[Message]:
    """The messages of a sample; `DataError` names what cannot be opened.

    >>> conversation(Sample(id="1", prompt="2 + 2?"), Settings())
    [Message(role='user', parts=('2 + 2?',))]
    """
    return list(show(sample, settings).messages)


def show(sample: Sample, settings: Settings) -> Shown:
    """As `conversation`, with the files of the pictures."""
    prompt, slots = _placed(sample)
    opened = [_opened(picture) for picture in sample.pictures]
    share = _share(settings, len(opened))
    images = iter([
        (Image(photo, picture.max_tiles or share), file)
        for picture, (photo, file) in zip(sample.pictures, opened, strict=True)
    ])  # fmt: skip
    parts: list[Image | str] = []
    files: list[bytes | None] = []
    for piece in slots:
        if piece == VIDEO:
            frames = _frames(_footage(sample), settings.frames)
            lines = "".join(settings.frame_line.format(number) for number in range(1, len(frames) + 1))
            prompt = prompt.replace(VIDEO, lines, 1)
            parts += [Image(frame, 1) for frame in frames]
            files += [None] * len(frames)
        else:
            image, file = next(images)
            parts.append(image)
            files.append(file)
    question = Message("user", (*parts, prompt))
    system = () if settings.system is None else (Message("system", (Text(settings.system),)),)
    return Shown((*system, question), tuple(files))


def _placed(sample: Sample) -> tuple[str, list[str]]:
    """The prompt, and what its placeholders are, in order; pictures and footage without a placeholder come first.

    Pictures alone need none: whoever renders the conversation introduces them in the family's way.
    """
    prompt, slots = sample.prompt, re.findall(f"{IMAGE}|{VIDEO}", sample.prompt)
    images, videos = len(sample.pictures), int(sample.footage is not None)
    if videos and VIDEO not in slots:
        prompt, slots = VIDEO + prompt, [VIDEO, *slots]
    if images and IMAGE not in slots:
        if videos:
            label = "Image-{}: " if images > 1 else ""
            prompt = "".join(f"{label.format(number)}{IMAGE}\n" for number in range(1, images + 1)) + prompt
        slots = [IMAGE] * images + slots
    for kind, given in ((IMAGE, images), (VIDEO, videos)):
        if slots.count(kind) != given:
            raise DataError(
                f"sample {sample.id}: its prompt has {slots.count(kind)} {kind}, but there are {given}; expected one "
                "for each, or none at all"
            )
    return prompt, slots


def _share(settings: Settings, pictures: int) -> int:
    """Tiles of each picture that has no budget of its own."""
    together = settings.max_tiles if settings.together is None else settings.together
    return max(1, min(settings.max_tiles, together // max(1, pictures)))


def _opened(picture: Picture) -> tuple[Photo, bytes | None]:
    file = picture.read()
    try:
        photo = open_image(file)
    except InternVLError as error:
        raise DataError(f"{picture.name}: {str(error).removeprefix('the picture: ')}") from None
    if picture.enlarge == 1:
        return photo, file
    size = photo.width * picture.enlarge, photo.height * picture.enlarge
    return to_rgb(photo).resize(size, Resampling.BILINEAR), None


# ---- videos ----------------------------------------------------------------------------------------------------------


def _footage(sample: Sample) -> Footage:
    assert sample.footage is not None  # its placeholder was counted
    return sample.footage


def _frames(footage: Footage, count: int) -> list[Photo]:
    try:
        if footage.path.is_dir():
            return list(_of_folder(footage, count))
        return list(open_video(footage.path, frames=count, bound=footage.bound).frames)
    except InternVLError as error:
        said = str(error).removeprefix(f"{footage.path}: ")
        raise DataError(f"{footage.name}: {said}") from None


def _of_folder(footage: Footage, count: int) -> Iterator[Photo]:
    """Frames that stand in a folder as pictures, numbered from 1, as the published evaluation chooses them.

    As in a video, but seconds are counted from frame number 0, which is not there.
    """
    names = sorted(path for path in footage.path.iterdir() if path.suffix.lower() in STILLS)
    if not names:
        raise DataError("the folder has no pictures; expected the frames of a video")
    for number in _numbers(len(names), count, footage.bound):
        yield open_image(names[number - 1])


def _numbers(frames: int, count: int, bound: tuple[float, float] | None) -> list[int]:
    """Which of the frames 1, 2, … are shown.

    >>> _numbers(9, 3, None)
    [2, 5, 7]
    """
    start, end = bound or (0.0, frames / FRAMES_PER_SECOND)
    first, last = max(1, round(start * FRAMES_PER_SECOND)), min(round(end * FRAMES_PER_SECOND), frames)
    if last < first:
        raise DataError(f"the part from {start:g} s to {end:g} s is not among its {frames} frames")
    part = (last - first) / count
    return [int(first + part / 2 + round(part * k)) for k in range(count)]

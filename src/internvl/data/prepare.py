"""A record becomes a sample: its pictures opened, its text encoded, and what can teach nothing refused.

Everything that is random here is drawn from the seed and the sample's position in the mixture, so that a sample is the
same whoever prepares it, and whenever.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import numpy as np

from internvl.data import media, records
from internvl.data.augment import as_jpeg
from internvl.data.batch import PreparedChat, Segment
from internvl.data.encode import Encoded, Encoder
from internvl.data.limits import OPEN, Limits
from internvl.data.mixture import Source
from internvl.data.records import Conversation, Preference
from internvl.errors import ConfigError, ContextOverflow, DataError, MediaUnreadable, PromptError

if TYPE_CHECKING:
    from PIL.Image import Image as Photo

Overlong = Literal["drop", "fewer_tiles"]
FRAMES, JPEG = 1, 2
"""Different draws of one sample."""


@dataclass(frozen=True)
class PrepareChat:
    """Conversations and preferences as an encoder wants them.

    A sample with more than `max_length` tokens in a segment, or more than `most_tokens` or `most_tiles` in all, is too
    long. It is never cut: with `overlong="fewer_tiles"` its pictures are given fewer tiles, or its video fewer frames,
    until it fits; otherwise, and where that is not enough, it is a `ContextOverflow` that knows how long it was.
    """

    encoder: Encoder
    _: KW_ONLY
    max_length: int
    overlong: Overlong = "drop"
    min_tiles: int | None = None
    max_tiles: int | None = None
    """Of one sample, shared by its pictures; None: the encoder's. A source may have its own."""
    frames: tuple[int, int] = (8, 32)
    """How many of a video: a number between these is drawn."""
    limits: Limits = OPEN
    most_tokens: int | None = None
    """Of a whole sample: what a pack can hold."""
    most_tiles: int | None = None

    def __post_init__(self) -> None:
        if self.overlong not in ("drop", "fewer_tiles"):
            raise ConfigError(f"overlong is {self.overlong!r}; expected drop or fewer_tiles")
        if not 1 <= self.frames[0] <= self.frames[1]:
            raise ConfigError(f"frames is {self.frames}; expected the fewest and the most, at least 1")
        self._check(self.max_tiles)
        asked = {"min_tiles": self.min_tiles, "max_tiles": self.max_tiles}
        if changes := {name: value for name, value in asked.items() if value is not None}:
            object.__setattr__(self, "encoder", self.encoder.changed(**changes))

    def __call__(
        self, record: Conversation | Preference, source: Source, position: int, *, index: int, seed: int
    ) -> PreparedChat:
        """The sample of a record. Raises an `InternVLError` for one that cannot be used: `MediaError` for its pictures,
        `PromptError` for its placeholders or length, `DataError` for anything else, such as nothing to learn.

        `index` is the source's place in the mixture; with `position` and `seed` it is in the answer or behind it.
        """
        self._check(source.max_tiles)
        sides = (record,) if isinstance(record, Conversation) else (record.chosen, record.rejected)
        photos = self._open(sides[0], source, [seed, position, FRAMES])
        encoded, whole = self._fitting(record.id, sides, photos, source)
        segments = tuple(Segment(np.array(side.input_ids), np.array(side.targets)) for side in encoded)
        if not all(segment.learnt for segment in segments):
            raise DataError(
                f"{record.id}: nothing in it would be learnt, every token is masked; expected an answer from 'gpt', in "
                "the form of the template"
            )
        tiles = encoded[0].tiles
        if source.augment and sides[0].video is None:
            tiles = as_jpeg(tiles, np.random.default_rng([seed, position, JPEG]))
        return PreparedChat(position, index, segments, tiles, whole)

    def _check(self, max_tiles: int | None) -> None:
        if max_tiles is not None and max_tiles > 1 and not self.encoder.config.dynamic:
            raise ConfigError(
                f"max_tiles is {max_tiles}, but this model sees every picture as one tile; leave it out, or set dynamic"
            )

    # ---- length ------------------------------------------------------------------------------------------------------

    def _fitting(
        self, name: str, sides: Sequence[Conversation], photos: list[Photo], source: Source
    ) -> tuple[list[Encoded], int | None]:
        """The sides with as many tiles as fit, and how many tokens they had with all of them if that was too much."""
        too_long: ContextOverflow | None = None
        for budget, kept in self._choices(sides[0], photos, source):
            try:
                return self._encoded(sides, kept, budget), None if too_long is None else too_long.tokens
            except ContextOverflow as error:
                too_long = too_long or error
            except PromptError as error:
                raise type(error)(f"{name}: {error}") from error
        assert too_long is not None
        named = ContextOverflow(f"{name}: {too_long}")
        named.tokens = too_long.tokens
        raise named

    def _choices(
        self, record: Conversation, photos: list[Photo], source: Source
    ) -> Iterator[tuple[int | None, list[Photo]]]:
        """(tiles for all pictures, pictures): all of them, then less and less as the policy allows."""
        most = source.max_tiles or self.encoder.config.max_tiles
        yield (most if self.encoder.config.dynamic else None), photos
        if self.overlong == "drop" or not photos:
            return
        if record.video is not None:
            for count in range(len(photos) - 1, self.frames[0] - 1, -1):
                yield None, [photos[at] for at in np.linspace(0, len(photos) - 1, count).round().astype(int)]
        elif self.encoder.config.dynamic:
            for each in range(most // len(photos) - 1, 0, -1):
                yield each * len(photos), photos

    def _encoded(self, sides: Sequence[Conversation], photos: list[Photo], budget: int | None) -> list[Encoded]:
        """Each side by itself; the pictures are cut for the first alone."""
        encoder = self.encoder
        found = [
            encoder.encode(
                records.messages(side, photos, max_tiles=budget, compat=encoder.config.compat),
                generate=False,
                max_length=self.max_length,
                cut=place == 0,
            )
            for place, side in enumerate(sides)
        ]
        tokens, tiles = sum(len(side.input_ids) for side in found), sum(found[0].tiles_per_image)
        for name, count, most in (("tokens", tokens, self.most_tokens), ("tiles", tiles, self.most_tiles)):
            if most is not None and count > most:
                error = ContextOverflow(
                    f"the sample has {count} {name}, but a batch holds {most}; lower max_tiles or frames, or make "
                    "batches larger"
                )
                error.tokens = tokens
                raise error
        return found

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def _open(self, record: Conversation, source: Source, key: Sequence[int]) -> list[Photo]:
        limits = allowing(source.root, self.limits)
        if record.video is None:
            return [media.open_image(placed(image, source.root), limits) for image in record.images]
        place = placed(record.video, source.root)
        if isinstance(place, str) and not media.ADDRESS.match(place) and Path(place).is_dir():
            return self._frames_of_folder(record, Path(place), key, limits)
        collapse = isinstance(place, str) and place.lower().endswith(".gif")  # each frame once, as first published

        def choose(frames: int, fps: float) -> list[int]:
            chosen = self._choose(record, frames, fps, key)
            return sorted(set(chosen)) if collapse else chosen

        return list(media.open_clip(place, choose, limits).frames)

    def _choose(self, record: Conversation, frames: int, fps: float, key: Sequence[int]) -> list[int]:
        """Which frames, as the family is trained: one drawn from each of so many equal parts, a number drawn too."""
        from internvl.data.video import training_indices  # PyAV is loaded only where a video is opened

        first, length = 0, frames
        if record.clip is not None:
            start, end = record.clip
            first = int(start * fps)
            length = min(int((end - start) * fps), frames - first)
            if first < 0 or length < 1:
                raise DataError(
                    f"{record.id}: `clip` is [{start:g}, {end:g}], but the video has {frames} frames in "
                    f"{frames / fps:.1f} s; expected a part of it that holds a frame"
                )
        draw = np.random.default_rng(key)
        count = int(draw.integers(self.frames[0], self.frames[1], endpoint=True))
        dice, shuffle = (int(number) for number in draw.integers(2**32, size=2))
        picked = training_indices(length, count, choice=random.Random(dice), shuffle=np.random.RandomState(shuffle))
        return [first + index for index in picked]

    def _frames_of_folder(self, record: Conversation, folder: Path, key: Sequence[int], limits: Limits) -> list[Photo]:
        """A video that is there as a folder of pictures, ordered by the numbers that end their names."""
        if record.clip is not None:
            raise DataError(f"{record.id}: `clip` is in seconds, but the video is a folder of pictures; leave it out")
        files = sorted((file for file in folder.iterdir() if file.is_file()), key=_by_number)
        if not files:
            raise MediaUnreadable(
                f"{media.name_of(folder, 'the video')}: there are no pictures in this folder; expected a video's frames"
            )
        chosen = self._choose(record, len(files), 1.0, key)
        return [media.open_image(files[index], limits) for index in dict.fromkeys(chosen)]


def _by_number(file: Path) -> tuple[int, str]:
    found = re.search(r"(\d+)$", file.stem)
    return (int(found[1]) if found else -1, file.name)


def placed(media_of_row: str | bytes, root: str) -> str | bytes:
    """Where a picture or video of a source is: addresses and absolute paths as they are, all else below the root.

    An address as root is put before the path as it is, which is what the published mixtures expect.

    >>> placed("a.jpg", "s3://bucket/"), placed("a.jpg", "photos"), placed("/data/a.jpg", "photos")
    ('s3://bucket/a.jpg', 'photos/a.jpg', '/data/a.jpg')
    """
    if isinstance(media_of_row, bytes) or media.ADDRESS.match(media_of_row):
        return media_of_row
    return root + media_of_row if media.ADDRESS.match(root) else os.path.join(root, media_of_row)


def allowing(root: str, limits: Limits) -> Limits:
    """The limits, with the place that a root names: who writes it into a mixture wants it read."""
    if not media.ADDRESS.match(root):
        return limits
    parts = urlsplit(root)
    if parts.scheme in ("http", "https"):
        return limits if limits.remote else replace(limits, hosts=(*limits.hosts, parts.netloc))
    if parts.scheme in ("file", "data") or parts.scheme in limits.schemes:
        return limits
    return replace(limits, schemes=(*limits.schemes, parts.scheme))

"""Rows of pictures with captions, and of pictures with classes, become samples and batches.

Everything random is drawn from the seed and the sample's position in the mixture, as in `internvl.data.prepare`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from internvl.data import media
from internvl.data.augment import as_jpeg
from internvl.data.batch import LabelBatch, PairBatch, PreparedLabel, PreparedPair
from internvl.data.image import resize_plain, to_rgb
from internvl.data.limits import OPEN, Limits
from internvl.data.mixture import Source
from internvl.data.pair import (
    IGNORED,
    PAD,
    TEXT_LENGTH,
    TEXT_PREFIX,
    Fit,
    clean_caption,
    encode_generation,
    encode_picture,
    encode_text,
    image_id,
)
from internvl.data.prepare import JPEG, allowing, placed
from internvl.data.records import Labelled, Pair
from internvl.data.tokenizer import Tokenizer
from internvl.errors import ConfigError, DataError, NoSuchName, find

if TYPE_CHECKING:
    from PIL.Image import Image as Photo

CROP = 3
"""The draw of a part of a picture, beside those of `internvl.data.prepare`."""
ATTEMPTS = 10


@dataclass(frozen=True)
class RandomCrop:
    """A part of the picture of random size and shape, resized to one tile, and maybe mirrored (arXiv:1409.4842)."""

    scale: tuple[float, float] = (0.5, 1.0)
    """Its share of the picture's area. Retrieval fine-tuning has 0.5 to 1, probing 0.08 to 1."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width to height."""
    flip: float = 0.5
    """How often left and right are exchanged. 0 where captions speak of them."""

    def __post_init__(self) -> None:
        for name, (low, high), most in (("scale", self.scale, 1.0), ("ratio", self.ratio, math.inf)):
            if not 0 < low <= high <= most:
                raise ConfigError(f"RandomCrop: {name} is ({low}, {high}); expected 0 < least <= most <= {most}")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"RandomCrop: flip is {self.flip}; expected 0 to 1")

    def __call__(self, picture: Photo, *, size: int, draw: np.random.Generator) -> np.ndarray:
        """An RGB picture as one tile, uint8 (S, S, 3)."""
        left, top, width, height = self.box(*picture.size, draw)
        tile = resize_plain(picture.crop((left, top, left + width, top + height)), size=size)
        return tile[:, ::-1].copy() if draw.random() < self.flip else tile

    def box(self, width: int, height: int, draw: np.random.Generator) -> tuple[int, int, int, int]:
        """Left, top, width and height of the part; of a very long picture the middle, as long as the ratio allows.

        >>> RandomCrop(scale=(1, 1), ratio=(1, 1)).box(8, 8, np.random.default_rng(0))
        (0, 0, 8, 8)
        """
        least, most = self.ratio
        for _ in range(ATTEMPTS):
            area = width * height * draw.uniform(*self.scale)
            shape = math.exp(draw.uniform(math.log(least), math.log(most)))
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                return int(draw.integers(width - w, endpoint=True)), int(draw.integers(height - h, endpoint=True)), w, h
        w, h = min(width, max(1, round(height * most))), min(height, max(1, round(width / least)))
        return (width - w) // 2, (height - h) // 2, w, h


# ---- samples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreparePair:
    """Pictures and captions as InternVL-C and -G want them.

    The caption is read three times: after `summarize:`, to be compared; alone, to be matched; after `English caption:`,
    to be learnt. A long one is cut and ends in eos all the same, as it is where a model searches.

    >>> prepare = PreparePair(tokenizer, size=224)  # doctest: +SKIP
    """

    tokenizer: Tokenizer
    _: KW_ONLY
    size: int
    """Side of a tile in pixels."""
    text_length: int = TEXT_LENGTH
    augment: RandomCrop | None = RandomCrop()
    """None: the whole picture, stretched to a tile, as it is searched with."""
    clean: bool = True
    """Captions without capitals and most punctuation, as they are searched with (`clean_caption`)."""
    limits: Limits = OPEN

    def __call__(self, record: Pair, source: Source, position: int, *, index: int, seed: int) -> PreparedPair:
        """Raises `MediaError` for the picture, `DataError` for a caption that is empty or has an unknown character."""
        text = clean_caption(record.caption) if self.clean else record.caption.strip()
        if not text:
            raise DataError(
                f"{record.id}: the caption {record.caption!r} has no words; expected what the picture shows"
            )
        generation, targets = encode_generation(self.tokenizer, text, length=self.text_length)
        texts = [self._encode(text, prefix=TEXT_PREFIX), self._encode(text, prefix=""), generation]
        if any(PAD in ids for ids in texts):  # read as padding, it would move the place where the text is summed up
            raise DataError(f"{record.id}: the caption has a character that the tokenizer does not know; leave it out")
        summary, caption, generation = (np.array(ids, dtype=np.int64) for ids in texts)
        return PreparedPair(
            position=position,
            source=index,
            tiles=_tile(record, source, [seed, position], self),
            summary=summary,
            caption=caption,
            generation=generation,
            generation_targets=np.array(targets, dtype=np.int64),
            image_id=_picture(record, source.root),
        )

    def _encode(self, text: str, *, prefix: str) -> list[int]:
        return encode_text(self.tokenizer, text, prefix=prefix, length=self.text_length)

    @property
    def fit(self) -> Fit:
        return "stretch"


@dataclass(frozen=True)
class PrepareLabel:
    """Pictures and classes, to classify with a tower.

    >>> prepare = PrepareLabel(size=224, classes=1000, augment=RandomCrop(scale=(0.08, 1.0)))  # doctest: +SKIP
    """

    _: KW_ONLY
    size: int
    classes: int | Sequence[str]
    """How many, or their names in order: a label may then be either."""
    augment: RandomCrop | None = None
    """None: the shorter side to the size of a tile, and its middle."""
    limits: Limits = OPEN
    fit: Fit = "crop"

    def __call__(self, record: Labelled, source: Source, position: int, *, index: int, seed: int) -> PreparedLabel:
        """Raises `MediaError` for the picture, `DataError` for a label that is no class."""
        return PreparedLabel(position, index, _tile(record, source, [seed, position], self), self._number(record))

    def _number(self, record: Labelled) -> int:
        if isinstance(record.label, str):
            if isinstance(self.classes, int):
                raise DataError(f"{record.id}: label is {record.label!r}, but the classes have no names; give numbers")
            try:
                return find("class", record.label, self._numbers)
            except NoSuchName as error:
                raise DataError(f"{record.id}: {error}") from None
        count = self.classes if isinstance(self.classes, int) else len(self.classes)
        if not 0 <= record.label < count:
            raise DataError(f"{record.id}: label is {record.label}; expected a class from 0 to {count - 1}")
        return record.label

    @cached_property
    def _numbers(self) -> dict[str, int]:
        assert not isinstance(self.classes, int)
        return {name: number for number, name in enumerate(self.classes)}


def _tile(record: Pair | Labelled, source: Source, key: list[int], how: PreparePair | PrepareLabel) -> np.ndarray:
    """(1, S, S, 3): the picture as a tile, a part of it where the data are augmented."""
    limits = allowing(source.root, how.limits)
    picture = media.open_image(placed(record.image, source.root), limits)
    if how.augment is None:
        tile = encode_picture(picture, size=how.size, fit=how.fit)
    else:
        tile = how.augment(to_rgb(picture), size=how.size, draw=np.random.default_rng([*key, CROP]))
    return as_jpeg(tile[None], np.random.default_rng([*key, JPEG])) if source.augment else tile[None]


def _picture(record: Pair, root: str) -> int:
    """The id of the picture. Numbers count within one root: `12.jpg` of two roots are two pictures."""
    own = record.image_id
    number = image_id(record.image) if own is None else own if isinstance(own, int) else image_id(own.encode())
    return (number ^ image_id(root.encode()) if root else number) & (2**63 - 1)


# ---- batches ---------------------------------------------------------------------------------------------------------


def collate_pairs(samples: Sequence[PreparedPair]) -> PairBatch:
    """A batch of pairs, each kind of text padded to its longest; captions and negatives alike.

    The negative of a row is the caption of the next row, counted in a circle, that shows another picture in other
    words. Where there is none, because all rows show one picture, it is padding alone and nothing is matched with it.
    """
    captions = [sample.caption for sample in samples]
    own_and_other = _padded([*captions, *(_other(samples, row) for row in range(len(samples)))], PAD)
    return PairBatch(
        tiles=torch.from_numpy(np.concatenate([sample.tiles for sample in samples])),
        summary=_padded([sample.summary for sample in samples], PAD),
        caption=own_and_other[: len(samples)],
        negative=own_and_other[len(samples) :],
        generation=_padded([sample.generation for sample in samples], PAD),
        generation_targets=_padded([sample.generation_targets for sample in samples], IGNORED),
        image_ids=torch.tensor([sample.image_id for sample in samples]),
        positions=tuple(sample.position for sample in samples),
    )


def collate_labels(samples: Sequence[PreparedLabel]) -> LabelBatch:
    """A batch of labelled pictures."""
    return LabelBatch(
        tiles=torch.from_numpy(np.concatenate([sample.tiles for sample in samples])),
        labels=torch.tensor([sample.label for sample in samples]),
        positions=tuple(sample.position for sample in samples),
    )


def _other(samples: Sequence[PreparedPair], row: int) -> np.ndarray:
    own = samples[row]
    for step in range(1, len(samples)):
        other = samples[(row + step) % len(samples)]
        if other.image_id != own.image_id and not np.array_equal(other.caption, own.caption):
            return other.caption
    return np.array([PAD])


def _padded(rows: Sequence[np.ndarray], value: int) -> Tensor:
    """(N, longest), padded on the right."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(padded)

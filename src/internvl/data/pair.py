"""What InternVL-C and InternVL-G read: texts of one length, and pictures as a single tile.

The text tower was trained on `summarize:` glued to the text, 80 tokens, padded on the right with id 0 (vision and
language of arXiv:2312.14238 meet at the last token, which is always the end of sequence).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from internvl.data.image import Compat, center_crop, resize_plain, to_rgb
from internvl.data.tokenizer import Tokenizer
from internvl.errors import DataError

TEXT_PREFIX = "summarize:"
CAPTION_PROMPT = "English caption:"
TEXT_LENGTH = 80
PAD = 0

Fit = Literal["crop", "stretch"]
"""`crop`: shortest side to size, then the centre (classification). `stretch`: both sides to size, the aspect not kept
(retrieval and captions)."""


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[str], *, prefix: str = TEXT_PREFIX, length: int = TEXT_LENGTH
) -> np.ndarray:
    """(N, length) int64: bos, the text, eos, padded with 0; a long text is cut and still ends in eos.

    >>> encode_texts(tokenizer, ["a red bus"]).shape  # doctest: +SKIP
    (1, 80)
    """
    if tokenizer.eos_id is None:
        raise DataError("this tokenizer has no eos token, at whose place a text's embedding is read")
    rows = np.full((len(texts), length), PAD, dtype=np.int64)
    for row, text in zip(rows, texts, strict=True):
        ids = [*tokenizer.encode(prefix + text, bos=True)[: length - 1], tokenizer.eos_id]
        row[: len(ids)] = ids
    return rows


def encode_prompt(tokenizer: Tokenizer, prompt: str = CAPTION_PROMPT) -> list[int]:
    """Ids of a caption prompt: with bos, without eos, for it is to be continued."""
    return tokenizer.encode(prompt, bos=True)


def encode_picture(picture: Image.Image, *, size: int, fit: Fit = "crop", compat: Compat = None) -> np.ndarray:
    """One tile (size, size, 3), uint8."""
    rgb = to_rgb(picture, compat=compat)
    return center_crop(rgb, size=size) if fit == "crop" else resize_plain(rgb, size=size)

"""What InternVL-C and InternVL-G read: texts of one length, and pictures as a single tile.

The text tower was trained on `summarize:` glued to the text, 80 tokens, padded on the right with id 0 (vision and
language of arXiv:2312.14238 meet at the last token, which is always the end of sequence).
"""

from __future__ import annotations

import hashlib
import re
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
IGNORED = -100
"""A target that is not learnt."""

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
    rows = np.full((len(texts), length), PAD, dtype=np.int64)
    for row, text in zip(rows, texts, strict=True):
        ids = encode_text(tokenizer, text, prefix=prefix, length=length)
        row[: len(ids)] = ids
    return rows


def encode_text(tokenizer: Tokenizer, text: str, *, prefix: str = TEXT_PREFIX, length: int = TEXT_LENGTH) -> list[int]:
    """At most `length` ids: bos, the text, eos; a long text is cut and still ends in eos."""
    return [*tokenizer.encode(prefix + text, bos=True)[: length - 1], _end(tokenizer)]


def encode_generation(
    tokenizer: Tokenizer, caption: str, *, prompt: str = CAPTION_PROMPT, length: int = TEXT_LENGTH
) -> tuple[list[int], list[int]]:
    """A caption to be learnt after its prompt: ids and targets, IGNORED on the prompt; a long caption is cut.

    The two are tokenised apart, as at generation, where the prompt stands alone.
    """
    asked, said = encode_prompt(tokenizer, prompt), tokenizer.encode(caption, bos=False)
    if len(asked) + 1 >= length:
        raise DataError(f"{length} tokens hold nothing after the {len(asked)} of {prompt!r}; set a larger length")
    answer = [*said[: length - len(asked) - 1], _end(tokenizer)]
    return asked + answer, [IGNORED] * len(asked) + answer


def _end(tokenizer: Tokenizer) -> int:
    if tokenizer.eos_id is None:
        raise DataError("this tokenizer has no eos token, at whose place a text's embedding is read")
    return tokenizer.eos_id


def encode_prompt(tokenizer: Tokenizer, prompt: str = CAPTION_PROMPT) -> list[int]:
    """Ids of a caption prompt: with bos, without eos, for it is to be continued."""
    return tokenizer.encode(prompt, bos=True)


def encode_picture(picture: Image.Image, *, size: int, fit: Fit = "crop", compat: Compat = None) -> np.ndarray:
    """One tile (size, size, 3), uint8."""
    rgb = to_rgb(picture, compat=compat)
    return center_crop(rgb, size=size) if fit == "crop" else resize_plain(rgb, size=size)


def clean_caption(caption: str, *, words: int = 50) -> str:
    """A caption as Flickr30k and COCO are searched and trained with: lower-case, without some punctuation, 50 words.

    The rule of BLIP (Li et al. 2022, arXiv:2201.12086), which the published scores were made with.

    >>> clean_caption('Two dogs: one RED ball!')
    'two dogs one red ball'
    """
    text = re.sub(r"[.!\"()*#:;~]", " ", caption.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:words])


def image_id(image: str | bytes) -> int:
    """A number by which captions of one picture are known to belong together: 0 to 2^62 - 1.

    Of a file whose name is a number, or a name of COCO's, that number; of any other its path's hash, of bytes theirs.

    >>> image_id("Images/1000092795.jpg"), image_id("val2014/COCO_val2014_000000391895.jpg")
    (1000092795, 391895)
    """
    if isinstance(image, str):
        name = re.split(r"[/\\]", image)[-1]
        if numbered := re.fullmatch(r"(?:COCO_\w+_)?(\d{1,18})(?:\.\w+)?", name):
            return int(numbered[1])
        image = image.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(image).digest()[:8], "big") >> 2

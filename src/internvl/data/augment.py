"""What training does to pictures so that a model does not depend on how they were stored."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

QUALITIES = range(75, 101)
"""Of JPEG, each as likely as the others, as the family is trained."""


def as_jpeg(tiles: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """uint8 (n, S, S, 3): each tile written as JPEG of a quality of its own and read back, as the family is trained.

    >>> as_jpeg(np.zeros((2, 8, 8, 3), np.uint8), np.random.default_rng(0)).shape
    (2, 8, 8, 3)
    """
    return np.stack([_stored(tile, int(draw.choice(QUALITIES))) for tile in tiles]) if len(tiles) else tiles


def _stored(tile: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(tile).save(file, format="JPEG", quality=quality)
    return np.asarray(Image.open(file, formats=("JPEG",)))

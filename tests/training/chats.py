"""Small conversations and preferences of random tokens, for the tiny models of `tests.models.tiny`."""

import numpy as np

from internvl.data.batch import PreparedChat, Segment
from internvl.data.encode import NOT_LEARNT
from tests.models.tiny import IMAGE

SLOTS = 4
"""Of one tile of 56 pixels."""


def segment(draw: np.random.Generator, tiles: int, asked: int, answered: int) -> Segment:
    """Slots, a question, and an answer that is learnt."""
    words = draw.integers(1, IMAGE, asked + answered)
    ids = np.concatenate((words[:1], np.full(tiles * SLOTS, IMAGE), words[1:]))
    targets = np.full(len(ids), NOT_LEARNT)
    if answered:
        targets[-answered:] = ids[-answered:]
    return Segment(ids, targets)


def pictures(draw: np.random.Generator, tiles: int) -> np.ndarray:
    return draw.integers(0, 256, (tiles, 56, 56, 3), dtype=np.uint8)


def conversation(position: int, *, tiles: int = 1, asked: int = 4, answered: int = 5) -> PreparedChat:
    draw = np.random.default_rng([1, position])
    return PreparedChat(position, 0, (segment(draw, tiles, asked, answered),), pictures(draw, tiles))


def preference(position: int, *, tiles: int = 1, asked: int = 4, answered: tuple[int, int] = (5, 3)) -> PreparedChat:
    """Both answers to one question."""
    draw = np.random.default_rng([2, position])
    whole = segment(draw, tiles, asked, sum(answered))
    question = len(whole.input_ids) - sum(answered)
    parts = [slice(0, answered[0]), slice(answered[0], None)]
    segments = [
        Segment(
            *(np.concatenate((side[:question], side[question:][part])) for side in (whole.input_ids, whole.targets))
        )
        for part in parts
    ]
    return PreparedChat(position, 0, tuple(segments), pictures(draw, tiles))

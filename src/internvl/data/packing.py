"""Which samples share a batch, and how they become one.

    Packer         the family's packing: samples laid end to end in one row, up to so many tokens and tiles
    LengthGroups   rows of similar length, padded
    Plain          rows as they come, padded

A former is given samples one by one and answers with the groups that are complete; it never changes or cuts a sample.
What it answers depends on the samples and their order alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch

from internvl.data.batch import ChatBatch, Prepared, PreparedChat, Segment
from internvl.data.encode import NOT_LEARNT
from internvl.errors import ConfigError, ContextOverflow, DataError

Weighting = Literal["token", "sample", "square"]


class Former(Protocol):
    """Gathers samples into groups. Each group becomes one batch."""

    def add(self, sample: Prepared) -> list[list[Prepared]]:
        """Take a sample; the groups that are complete now. `ContextOverflow` for one that fits into no group."""
        ...

    def flush(self) -> list[list[Prepared]]:
        """What is left at the end, as groups that are smaller than they might be."""
        ...

    def held(self) -> list[list[Prepared]]:
        """The samples that wait for others, so that `restore` can go on from here."""
        ...

    def restore(self, held: Sequence[Sequence[Prepared]]) -> None: ...


@dataclass
class Packer:
    """The greedy packing of tokens and tiles that InternVL 2.5 was trained with.

    Open packs are kept in order of their tiles, most first. A sample goes into the first that it fits into, or begins
    one. A pack of exactly `max_tokens` or `max_tiles` is complete; where more than `buffers` are open, so is the first.
    """

    max_tokens: int
    max_tiles: int
    buffers: int = 20
    _open: list[list[Prepared]] = field(default_factory=list[list[Prepared]], init=False)

    def __post_init__(self) -> None:
        if min(self.max_tokens, self.max_tiles, self.buffers) < 1:
            raise ConfigError(
                f"packs of {self.max_tokens} tokens and {self.max_tiles} tiles in {self.buffers} buffers: expected at "
                "least one of each"
            )

    def add(self, sample: Prepared) -> list[list[Prepared]]:
        if sample.tokens > self.max_tokens or sample.tile_count > self.max_tiles:
            error = ContextOverflow(
                f"the sample has {sample.tokens} tokens and {sample.tile_count} tiles, but a pack holds "
                f"{self.max_tokens} and {self.max_tiles}; lower max_tiles, or make packs larger"
            )
            error.tokens = sample.tokens
            raise error
        fitting = (at for at, pack in enumerate(self._open) if self._fits(pack, sample))
        place = next(fitting, None)
        pack = [sample] if place is None else [*self._open.pop(place), sample]
        complete: list[list[Prepared]] = []
        if _tokens(pack) == self.max_tokens:
            complete.append(pack)
        else:
            tiles = _tiles(pack)
            fewer = (at for at, other in enumerate(self._open) if _tiles(other) < tiles)
            self._open.insert(next(fewer, len(self._open)), pack)
        while self._open and _tiles(self._open[0]) == self.max_tiles:
            complete.append(self._open.pop(0))
        while len(self._open) > self.buffers:
            complete.append(self._open.pop(0))
        return complete

    def _fits(self, pack: Sequence[Prepared], sample: Prepared) -> bool:
        return _tiles(pack) + sample.tile_count <= self.max_tiles and _tokens(pack) + sample.tokens <= self.max_tokens

    def flush(self) -> list[list[Prepared]]:
        left, self._open = self._open, []
        return left

    def held(self) -> list[list[Prepared]]:
        return [list(pack) for pack in self._open]

    def restore(self, held: Sequence[Sequence[Prepared]]) -> None:
        self._open = [list(pack) for pack in held]


@dataclass
class LengthGroups:
    """Batches of `rows` samples of similar length.

    So many samples as `window` batches have are gathered, sorted, cut into batches, and these are shuffled: without
    that, a run would see its longest batches first in each window. The shuffle is drawn from the positions in it.
    """

    rows: int
    window: int = 16
    _waiting: list[Prepared] = field(default_factory=list[Prepared], init=False)

    def __post_init__(self) -> None:
        if min(self.rows, self.window) < 1:
            raise ConfigError(f"windows of {self.window} batches of {self.rows} rows: expected at least one of each")

    def add(self, sample: Prepared) -> list[list[Prepared]]:
        self._waiting.append(sample)
        return self.flush() if len(self._waiting) >= self.rows * self.window else []

    def flush(self) -> list[list[Prepared]]:
        ordered, self._waiting = sorted(self._waiting, key=lambda sample: -sample.tokens), []
        groups = [ordered[at : at + self.rows] for at in range(0, len(ordered), self.rows)]
        draw = np.random.default_rng([sample.position for sample in ordered])
        return [groups[at] for at in draw.permutation(len(groups))]

    def held(self) -> list[list[Prepared]]:
        return [list(self._waiting)] if self._waiting else []

    def restore(self, held: Sequence[Sequence[Prepared]]) -> None:
        self._waiting = [sample for group in held for sample in group]


@dataclass
class Plain:
    """Batches of `rows` samples in the order in which they come."""

    rows: int
    _waiting: list[Prepared] = field(default_factory=list[Prepared], init=False)

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError(f"batches of {self.rows} rows: expected at least one")

    def add(self, sample: Prepared) -> list[list[Prepared]]:
        self._waiting.append(sample)
        return self.flush() if len(self._waiting) >= self.rows else []

    def flush(self) -> list[list[Prepared]]:
        left, self._waiting = self._waiting, []
        return [left] if left else []

    def held(self) -> list[list[Prepared]]:
        return [list(self._waiting)] if self._waiting else []

    def restore(self, held: Sequence[Sequence[Prepared]]) -> None:
        self._waiting = [sample for group in held for sample in group]


def _tokens(pack: Sequence[Prepared]) -> int:
    return sum(sample.tokens for sample in pack)


def _tiles(pack: Sequence[Prepared]) -> int:
    return sum(sample.tile_count for sample in pack)


# ---- a group -> a batch ----------------------------------------------------------------------------------------------


def collate_chat(samples: Sequence[PreparedChat], *, packed: bool, weighting: Weighting = "token") -> ChatBatch:
    """Segments end to end in one row, or each in a row of its own, padded on the right.

    Preferences lie as chosen, rejected, chosen, rejected, …; their tiles are there once, and `tile_order` shows them to
    both. Raises `DataError` for conversations and preferences together.
    """
    counts = {len(sample.segments) for sample in samples}
    if len(counts) != 1 or not counts <= {1, 2}:
        raise DataError(
            f"samples of {sorted(counts)} segments are to share a batch; expected conversations alone or preferences "
            "alone: use sources of one kind"
        )
    segments = [segment for sample in samples for segment in sample.segments]
    ids = [torch.from_numpy(np.asarray(segment.input_ids, np.int64)) for segment in segments]
    targets = [torch.from_numpy(np.asarray(segment.targets, np.int64)) for segment in segments]
    weights = [torch.from_numpy(weights_of(segment, weighting)) for segment in segments]
    rows, pad = (ids, targets, weights), torch.nn.utils.rnn.pad_sequence
    if packed:
        laid = [torch.cat(parts)[None] for parts in rows]
    else:  # ids with 0, whatever that means: the mask says what is real, not the id
        laid = [
            pad(parts, batch_first=True, padding_value=filling)
            for parts, filling in zip(rows, (0, NOT_LEARNT, 0), strict=True)
        ]
    return ChatBatch(
        input_ids=laid[0],
        targets=laid[1],
        weights=laid[2],
        tiles=torch.from_numpy(np.concatenate([sample.tiles for sample in samples])),
        lengths=tuple(map(len, ids)) if packed else None,
        attention_mask=None if packed else pad([torch.ones_like(row) for row in ids], batch_first=True),
        tile_order=_tile_order(samples) if counts == {2} else None,
        paired=counts == {2},
        positions=tuple(sample.position for sample in samples),
    )


def weights_of(segment: Segment, weighting: Weighting) -> np.ndarray:
    """(T,) fp32: what each learnt token of a segment weighs, 0 where nothing is learnt.

    1 (`token`), 1/n (`sample`: every sample the same) or 1/sqrt(n) (`square`, between the two) for n targets. The first
    token weighs 0 even if it is a target, which counts in n as it always did: nothing stands before it in its segment
    that could predict it, and what stands before it in a pack is another sample.
    """
    learnt = segment.targets != NOT_LEARNT
    n = int(learnt.sum())
    each = {"token": 1.0, "sample": 1 / max(n, 1), "square": 1 / max(n, 1) ** 0.5}[weighting]
    weights = np.where(learnt, np.float32(each), np.float32(0))
    weights[:1] = 0
    return weights


def _tile_order(samples: Sequence[PreparedChat]) -> torch.Tensor:
    """For each pair of segments its tiles twice."""
    order: list[int] = []
    start = 0
    for sample in samples:
        order += 2 * list(range(start, start + sample.tile_count))
        start += sample.tile_count
    return torch.tensor(order, dtype=torch.int64)

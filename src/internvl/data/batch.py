"""What training is fed: samples as they are prepared, and batches as a model takes them.

    record --prepare--> Prepared --former--> [Prepared, ...] --collate--> Batch

Everything here is plain arrays and tensors on the CPU; tiles stay uint8 until they are on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """One run of tokens that is read from its beginning: (T,) ids and (T,) targets, NOT_LEARNT where nothing is."""

    input_ids: np.ndarray
    targets: np.ndarray

    @property
    def learnt(self) -> int:
        """How many tokens are learnt. The first one of a segment is never predicted."""
        return int((self.targets[1:] >= 0).sum())


@dataclass(frozen=True)
class PreparedChat:
    """A conversation (one segment) or a preference (chosen, rejected), and the tiles that each segment sees."""

    position: int
    """In the order of the mixture."""
    source: int
    segments: tuple[Segment, ...]
    tiles: np.ndarray
    """uint8 (n, S, S, 3); a preference has them once for both segments."""
    shortened_from: int | None = None
    """How many tokens it would have with all its tiles, if it was too long with them."""

    @property
    def tokens(self) -> int:
        return sum(len(segment.input_ids) for segment in self.segments)

    @property
    def tile_count(self) -> int:
        return len(self.tiles)


@dataclass(frozen=True)
class PreparedPair:
    """A picture and its caption for InternVL-C and -G: (1, S, S, 3) uint8 and token ids, not padded."""

    position: int
    source: int
    tiles: np.ndarray
    summary: np.ndarray
    """`summarize:` + caption."""
    caption: np.ndarray
    generation: np.ndarray
    """`English caption:` + caption, of which the caption is learnt (`generation_targets`)."""
    generation_targets: np.ndarray
    image_id: int
    """Rows with one id show the same picture."""

    @property
    def tokens(self) -> int:
        return len(self.summary)

    @property
    def tile_count(self) -> int:
        return len(self.tiles)


@dataclass(frozen=True)
class PreparedLabel:
    """A picture and its class."""

    position: int
    source: int
    tiles: np.ndarray
    label: int

    @property
    def tokens(self) -> int:
        return 0

    @property
    def tile_count(self) -> int:
        return len(self.tiles)


Prepared = PreparedChat | PreparedPair | PreparedLabel


@dataclass(frozen=True, kw_only=True)
class ChatBatch:
    """Conversations or preferences for one forward pass.

    input_ids and targets (B, T). Packed: B is 1 and `lengths` are those of the segments, in order. Padded: `lengths` is
    None and `attention_mask` (B, T) says what is real. `tiles` (n, S, S, 3) uint8, each once; `tile_order` (m,) says
    which tile comes next in the slots (None: each once, in order). `paired`: segments (or rows) 2i and 2i + 1 are the
    chosen and the rejected answer to one question.
    """

    input_ids: Tensor
    targets: Tensor
    weights: Tensor
    """(B, T) fp32: what each learnt token weighs; 0 elsewhere."""
    tiles: Tensor
    lengths: tuple[int, ...] | None = None
    attention_mask: Tensor | None = None
    tile_order: Tensor | None = None
    paired: bool = False
    positions: tuple[int, ...] = ()
    """The samples of the batch, in the order of the mixture."""

    @property
    def samples(self) -> int:
        return len(self.positions)

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return self.input_ids.numel() if self.attention_mask is None else int(self.attention_mask.sum())

    @property
    def learnt(self) -> int:
        return int((self.weights > 0).sum())


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Pictures and captions: tiles (B, S, S, 3) uint8; ids (B, T) right padded with 0."""

    tiles: Tensor
    summary: Tensor
    caption: Tensor
    negative: Tensor
    """(B, T) the caption of another picture."""
    generation: Tensor
    generation_targets: Tensor
    image_ids: Tensor
    """(B,) int64."""
    positions: tuple[int, ...] = ()

    @property
    def samples(self) -> int:
        return len(self.positions)

    @property
    def tokens(self) -> int:
        return int((self.summary != 0).sum())

    @property
    def learnt(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True, kw_only=True)
class LabelBatch:
    """Pictures and classes: tiles (B, S, S, 3) uint8, labels (B,) int64."""

    tiles: Tensor
    labels: Tensor
    positions: tuple[int, ...] = ()

    @property
    def samples(self) -> int:
        return len(self.positions)

    @property
    def tokens(self) -> int:
        return 0

    @property
    def learnt(self) -> int:
        return len(self.labels)


Batch = ChatBatch | PairBatch | LabelBatch

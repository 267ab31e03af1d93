"""The one attention function, and what it needs to know: who may look at whom, and what was already read.

No other file builds a mask. A query sees a key if all of these hold:

    causal     key position <= query position          (cached prefill: positions count from the start of the row)
    window     key position  > query position - window
    keys       the key is not padding
    packing    query and key are in the same segment
    prefix     ... or the key is one of the first `prefix` ones, which every query sees (QLLaMA's queries)
    apart      ... or, instead, the first `prefix` ones see each other and nobody else sees or is seen by them

Rows that look in different ways can share one pass: `Sight.stacked`.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from internvl.errors import UsageError
from internvl.models.config import TextConfig


@dataclass(frozen=True)
class Packing:
    """Several samples laid end to end in one row. `Packing((2, 3))` is a row of five tokens, two samples."""

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) <= 0:
            raise UsageError(f"Packing: lengths are {self.lengths}; each sample needs at least one token")

    @property
    def total(self) -> int:
        return sum(self.lengths)

    def positions(self, device: torch.device | None = None) -> Tensor:
        """(1, total): each sample counts from 0."""
        return torch.cat([torch.arange(n, device=device) for n in self.lengths])[None]

    def spread(self, values: Tensor) -> Tensor:
        """One value per sample -> one per token, (1, total)."""
        return torch.repeat_interleave(values, torch.tensor(self.lengths, device=values.device))[None]


@dataclass
class Sight:
    """Who may look at whom in one forward pass. Made once, shared by all layers."""

    causal: bool = True
    aligned: bool = True
    """No key is padding, and in every row the queries are its last keys."""
    keys: Tensor | None = None
    """(B, S) bool, True where a key may be seen; None: all."""
    positions: Tensor | None = None
    """(B, T) place of every query among the keys of its row; None: the last T."""
    prefix: int = 0
    """The first `prefix` keys are seen by every query, whatever is causal."""
    apart: bool = False
    """The first `prefix` places and the rest do not see each other."""
    packing: Packing | None = None
    stack: tuple[tuple[int, Sight], ...] = ()
    """Groups of rows, each with a sight of its own; the other fields are then not read."""
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict, repr=False)

    @staticmethod
    def stacked(*groups: tuple[int, Sight]) -> Sight:
        """Rows that look in different ways: (rows, how they look) for each group, in the order of the batch."""
        return Sight(aligned=False, stack=groups)

    def mask(self, window: int | None, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """(B or 1, 1, T, S) bool, or None where every query sees every key. One per window, built on first use."""
        if window not in self._masks:
            self._masks[window] = self._build(window, queries, keys, device)
        return self._masks[window]

    def _build(self, window: int | None, queries: int, keys: int, device: torch.device) -> Tensor | None:
        if self.stack:
            everything = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device)
            masks = [(rows, sight.mask(window, queries, keys, device)) for rows, sight in self.stack]
            return torch.cat([(everything if m is None else m).expand(rows, 1, queries, keys) for rows, m in masks])
        mask = None if self.keys is None else self.keys[:, None, :]  # (B, 1, S)
        if self.causal:
            last = torch.arange(keys - queries, keys, device=device)[None]
            query_at = (last if self.positions is None else self.positions)[..., None]  # (B, T, 1)
            key_at = torch.arange(keys, device=device)
            behind = key_at <= query_at  # (B, T, S)
            if window is not None:
                behind = behind & (key_at > query_at - window)
            if self.prefix:
                behind = behind | (key_at < self.prefix)
            if self.apart:
                behind = behind & ((key_at < self.prefix) == (query_at < self.prefix))
            mask = behind if mask is None else behind & mask
        return None if mask is None else mask[:, None]


EVERYTHING = Sight(causal=False)
"""Every query sees every key: the vision tower."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sight: Sight,
    *,
    window: int | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention. q (B, H, T, D); k and v (B, KV, S, D) with H a multiple of KV; returns (B, H, T, D).

    `sinks` (H,): a logit per head that takes part in the softmax and is then dropped (GPT-OSS).
    """
    if sight.packing is not None:
        return _attend_packed(q, k, v, sight.packing, window=window, sinks=sinks, dropout=dropout)
    queries, keys = q.shape[2], k.shape[2]
    narrow = window is not None and window < keys
    if sinks is None and sight.aligned and not narrow and (not sight.causal or queries in (1, keys)):
        return _sdpa(q, k, v, None, causal=sight.causal and queries > 1, dropout=dropout)
    mask = sight.mask(window if narrow else None, queries, keys, q.device)
    if sinks is not None:
        return _with_sinks(q, k, v, mask, sinks, dropout)
    return _sdpa(q, k, v, mask, causal=False, dropout=dropout)


def _sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    causal: bool,
    dropout: float,
) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    if groups > 1 and q.shape[2] == 1:
        # One query a head: the heads of a group become the rows of one product, so that keys are read once.
        b, h, _, d = q.shape
        q = q.reshape(b, k.shape[1], groups, d)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).reshape(b, h, 1, d)
    if mask is None and not dropout and _better_written_out(q, k):
        return _written_out(q, k, v, causal=causal)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=causal,
        dropout_p=dropout,
        enable_gqa=groups > 1,
    )


SHORT = 384
"""Keys up to which two products and a softmax beat the fused kernel when a CPU learns in 16 bit."""


def _better_written_out(q: Tensor, k: Tensor) -> bool:
    """The backward pass of the fused CPU kernel is slow in 16 bit: 64 rows of 65 tokens took 72 ms, written out 18."""
    if q.device.type != "cpu" or k.shape[2] > SHORT or not (torch.is_grad_enabled() and q.requires_grad):
        return False
    return q.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")


def _written_out(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """The same attention as two products and a softmax; `causal` is aligned to the last key."""
    groups = q.shape[1] // k.shape[1]
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (x.to(torch.get_autocast_dtype("cpu")) for x in (q, k, v))
    return _WrittenOut.apply(q, k, v, groups, causal)


class _WrittenOut(torch.autograd.Function):
    """Keeps its inputs alone, as the fused kernel does, and weighs the keys again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, groups: int, causal: bool) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.groups, ctx.causal = groups, causal
        return _weights(q, k, groups, causal) @ v.repeat_interleave(groups, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (q, k, v) = gradients, ctx.saved_tensors
        weights = _weights(q, k, ctx.groups, ctx.causal)
        of_weights = gradient @ v.repeat_interleave(ctx.groups, dim=1).mT
        change = of_weights * weights
        of_scores = (change - weights * change.sum(dim=-1, keepdim=True)) * q.shape[-1] ** -0.5
        of_q = of_scores @ k.repeat_interleave(ctx.groups, dim=1)
        of_k, of_v = of_scores.mT @ q, weights.mT @ gradient
        if ctx.groups > 1:
            of_k, of_v = (x.unflatten(1, (k.shape[1], ctx.groups)).sum(2) for x in (of_k, of_v))
        return of_q, of_k, of_v, None, None


def _weights(q: Tensor, k: Tensor, groups: int, causal: bool) -> Tensor:
    """(B, H, T, S): how much each query looks at each key."""
    scores = (q * q.shape[-1] ** -0.5) @ k.repeat_interleave(groups, dim=1).mT
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + scores.shape[-1] - scores.shape[-2])
        scores.masked_fill_(later, float("-inf"))
    return scores.softmax(dim=-1)


def _with_sinks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sinks: Tensor, dropout: float) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    sink = sinks.view(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], 1)
    weights = torch.cat((scores, sink), dim=-1).float().softmax(dim=-1)[..., :-1].to(q.dtype)
    return F.dropout(weights, dropout) @ v


def _attend_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packing: Packing,
    *,
    window: int | None,
    sinks: Tensor | None,
    dropout: float,
) -> Tensor:
    """Segments of equal length are stacked and attended together; one masked call over all was 3.6 times slower."""
    starts, at = defaultdict[int, list[int]](list), 0
    for length in packing.lengths:
        starts[length].append(at)
        at += length
    out: Tensor | None = None
    for length, places in starts.items():
        index = (torch.tensor(places)[:, None] + torch.arange(length)).to(q.device)  # (segments, length)
        parts = [x[0][:, index].transpose(0, 1) for x in (q, k, v)]  # (segments, heads, length, D)
        seen = attend(parts[0], parts[1], parts[2], Sight(), window=window, sinks=sinks, dropout=dropout)
        out = seen.new_empty(q.shape) if out is None else out  # under autocast it is of another type than q
        out[0, :, index] = seen.transpose(0, 1)
    assert out is not None  # a packing has a segment
    return out


class KVCache:
    """Keys and values of every layer for a fixed number of rows ("slots"), each with a length of its own.

    Row b holds tokens 0 .. lengths[b] - 1 and its next token is written at lengths[b]; what stands beyond is stale
    and never seen, so rows of unequal length need no padding on the left. Places are tensors, so that a step can be
    captured; only `extent`, an upper bound of the lengths, is a plain number, so that short rows do not pay for
    `max_len`.

    >>> cache = KVCache(model.config.text, slots=1, max_len=4096)  # doctest: +SKIP
    """

    def __init__(
        self,
        config: TextConfig,
        slots: int,
        max_len: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        assert config.head_dim is not None
        shape = (slots, config.kv_heads, max_len, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)
        self.started = torch.zeros(slots, dtype=torch.long, device=device)
        """The length by which each row's length-dependent rope is chosen: that of its first prefill, unless a caller
        who prefills in chunks has set it before. 0: not chosen yet."""
        self.extent = 0
        self.level = True
        """All rows are known to be `extent` tokens long."""
        self.places = torch.zeros(slots, 0, dtype=torch.long, device=device)
        self.max_len = max_len

    @property
    def slots(self) -> int:
        return self.lengths.shape[0]

    def begin(self, tokens: int, taken: Tensor | None = None) -> Tensor:
        """Say where the next `tokens` columns go: (slots, tokens). Of these row b will keep `taken[b]` (None: all)."""
        if self.extent + tokens > self.max_len:
            raise UsageError(f"the cache holds {self.max_len} tokens; {self.extent} are used and {tokens} more came")
        device = self.lengths.device
        self.started = torch.where(self.started == 0, tokens if taken is None else taken, self.started)
        self.places = self.lengths[:, None] + torch.arange(tokens, device=device)
        return self.places

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (slots, KV, T, D) at the places begun and return everything up to the extent."""
        rows = torch.arange(self.slots, device=self.places.device)[:, None]
        self.keys[layer][rows, :, self.places] = keys.transpose(1, 2).to(self.keys[layer].dtype)
        self.values[layer][rows, :, self.places] = values.transpose(1, 2).to(self.values[layer].dtype)
        end = self.extent + self.places.shape[1]
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, taken: Tensor | None = None) -> None:
        """All layers have written; row b keeps `taken[b]` of the columns (None: all)."""
        tokens = self.places.shape[1]
        self.lengths = self.lengths + (tokens if taken is None else taken)
        self.extent += tokens
        self.level = self.level and taken is None

    def reorder(self, rows: Tensor) -> None:
        """Row b becomes what row rows[b] was (beam search)."""
        for tensor in (*self.keys, *self.values):  # one by one: layers may be on several devices
            tensor[:, :, : self.extent] = tensor[rows.to(tensor.device), :, : self.extent]
        self.lengths, self.started = self.lengths[rows], self.started[rows]

    def copied(self, rows: Tensor, max_len: int) -> KVCache:
        """A cache of `max_len` tokens whose row b is a copy of row rows[b]: beams, or a row that is to grow."""
        new = copy.copy(self)
        new.max_len = max_len
        new.keys, new.values = (
            [_stretched(tensor, rows, self.extent, max_len) for tensor in side] for side in (self.keys, self.values)
        )
        new.lengths, new.started = self.lengths[rows], self.started[rows]
        return new

    def truncate(self, lengths: Tensor) -> None:
        """Forget everything from lengths[b] on in row b."""
        self.lengths = torch.minimum(self.lengths, lengths)
        self.started = self.started * (self.lengths > 0)
        self.extent = int(self.lengths.max())
        self.level = bool((self.lengths == self.extent).all())


def _stretched(tensor: Tensor, rows: Tensor, extent: int, max_len: int) -> Tensor:
    new = tensor.new_zeros(len(rows), tensor.shape[1], max_len, tensor.shape[3])
    new[:, :, :extent] = tensor[rows.to(tensor.device), :, :extent]
    return new

"""A batch of prompts as rows of a KV cache: what a row is, the room it needs, and reading all of them at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from internvl.errors import NotNumbers, UsageError
from internvl.inference.sampling import SamplingConfig, Token, log_probabilities
from internvl.models.attention import KVCache
from internvl.models.chat import ChatModel
from internvl.models.config import PairConfig
from internvl.models.pair import PairModel


class Continues(Protocol):
    """What generation needs of a model; `ChatModel` and `PairModel` (captions) are such models."""

    def prefill(self, input_ids: Tensor, seen: Any, /, *, cache: KVCache, lengths: Tensor | None) -> Tensor:
        """Read (B, T) right-padded prompts and what the rows see into the cache; logits (B, vocab) after each."""
        ...

    def step(self, tokens: Tensor, *, cache: KVCache) -> Tensor:
        """Read one more token (B, 1) a row; logits (B, vocab)."""
        ...


@dataclass(frozen=True, eq=False)
class Prompt:
    """One row: what is read and how it is answered."""

    ids: Sequence[int]
    seen: Tensor | None = None
    """Chat: what fills the row's image slots, (tiles, slots, dim). Captions: the states of its picture, (1, S, dim)."""
    config: SamplingConfig = field(default_factory=SamplingConfig)
    stop_ids: tuple[int, ...] = ()
    counted: tuple[int, ...] = ()
    """Ids that the repetition penalty counts besides the generated ones. The original code counts one `<s>`."""


def new_cache(model: ChatModel | PairModel, prompts: Sequence[Prompt]) -> KVCache:
    """A cache with a row for every prompt and room for the longest of them and the longest answer."""
    before = model.config.queries if isinstance(model.config, PairConfig) else 0
    longest = max((len(prompt.ids) for prompt in prompts), default=0)
    # A row that has ended goes on taking places until all have: the longest prompt may be another's.
    room = before + longest + max((prompt.config.max_new_tokens for prompt in prompts), default=0)
    weight = next(model.parameters())
    return KVCache(model.config.text, len(prompts), room, dtype=weight.dtype, device=weight.device)


def prefill(model: Continues, prompts: Sequence[Prompt], cache: KVCache) -> Tensor:
    """Read prompts of unequal length, right padded; logits (B, vocab) after the last token of each."""
    if not prompts or not all(len(prompt.ids) for prompt in prompts):
        raise UsageError("a prompt has no tokens, or there is none; there is nothing to continue")
    device, longest = cache.lengths.device, max(len(prompt.ids) for prompt in prompts)
    padded = torch.tensor([[*prompt.ids, *[0] * (longest - len(prompt.ids))] for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt.ids) for prompt in prompts], device=device)
    given = [prompt.seen for prompt in prompts if prompt.seen is not None]
    return model.prefill(padded, torch.cat(given) if given else None, cache=cache, lengths=lengths)


def tokens_of(logits: Tensor, chosen: Sequence[int], top: int) -> list[Token]:
    """The chosen ids (B) with their log-probabilities under raw logits (B, vocab) and the `top` alternatives."""
    tokens = measured(logits, chosen, top)
    if any(math.isnan(token.logprob) for token in tokens):
        raise not_numbers(logits.dtype)
    return tokens


def measured(logits: Tensor, chosen: Sequence[int], top: int) -> list[Token]:
    """`tokens_of` where a row may be broken: the log-probability of its token is then not a number."""
    logprobs, best, ids = log_probabilities(logits, torch.tensor(chosen, device=logits.device), top)
    return [
        Token(token, logprob, tuple(zip(row_ids, row_best, strict=True)))
        for token, logprob, row_ids, row_best in zip(
            chosen, logprobs.tolist(), ids.tolist(), best.tolist(), strict=True
        )
    ]


def not_numbers(dtype: torch.dtype) -> NotNumbers:
    return NotNumbers(
        f"the model's logits are not numbers any more (it computes in {dtype}); load it with dtype='float32'"
    )

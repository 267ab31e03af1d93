"""Prompts in, tokens out: every row of a batch is continued until it ends.

Rows are independent: each has its own length, its own `SamplingConfig`, its own random generator and its own end, so a
prompt gets the same answer alone and in a batch (up to floating point).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from internvl.errors import UsageError
from internvl.inference.beams import beam_search
from internvl.inference.draft import Draft, next_tokens
from internvl.inference.rows import Continues, Prompt, prefill
from internvl.inference.sampling import Completion, Finish, Token
from internvl.models.attention import KVCache


@dataclass(frozen=True)
class Emitted:
    """A token of one row of the batch; `finish` where it is the row's last."""

    row: int
    token: Token
    finish: Finish | None = None


class Generation:
    """A batch of prompts being answered. Iterate for what each step emits; `end(row)` stops a row from outside.

    cache: rows may already hold the beginning of their prompts, whose `ids` are then the rest.

    >>> for emitted in Generation(model, prompts, cache=cache):  # doctest: +SKIP
    ...     print([(e.row, e.token.id) for e in emitted])
    """

    def __init__(self, model: Continues, prompts: Sequence[Prompt], *, cache: KVCache) -> None:
        if any(prompt.config.beams > 1 for prompt in prompts):
            raise UsageError("a beam search has no next token before it ends; use beam_search(), or beams=1")
        self.model, self.prompts, self.cache = model, prompts, cache
        self.live = dict.fromkeys(range(len(prompts)))
        self._drafts = [Draft(prompt.config, prompt.stop_ids, prompt.counted) for prompt in prompts]
        self.generated = [draft.ids for draft in self._drafts]

    def end(self, row: int) -> None:
        """No more tokens of this row. What the others say does not change."""
        self.live.pop(row, None)

    @torch.inference_mode()
    def __iter__(self) -> Iterator[list[Emitted]]:
        logits = prefill(self.model, self.prompts, self.cache)
        while self.live:
            emitted = self._choose(logits)
            for one in emitted:
                if one.finish is not None:
                    self.end(one.row)
            yield emitted
            if self.live:
                last = [ids[-1] for ids in self.generated]  # ended rows repeat their last token, unheard
                logits = self.model.step(torch.tensor(last, device=logits.device)[:, None], cache=self.cache)

    def _choose(self, logits: Tensor) -> list[Emitted]:
        emitted: list[Emitted] = []
        for row, token in next_tokens(logits, {row: self._drafts[row] for row in self.live}).items():
            if isinstance(token, Exception):
                raise token
            emitted.append(Emitted(row, token, self._drafts[row].add(token.id)))
        return emitted


def generate(model: Continues, prompts: Sequence[Prompt], *, cache: KVCache) -> list[Completion]:
    """Answer a batch of prompts, by sampling or, where the configs ask for beams, by beam search.

    >>> prompts = [Prompt([1, 5, 9], stop_ids=(2,))]
    >>> generate(model, prompts, cache=new_cache(model, prompts))[0].ids  # doctest: +SKIP
    [17, 4, 2]
    """
    if any(prompt.config.beams > 1 for prompt in prompts):
        return beam_search(model, prompts, cache=cache)
    tokens: list[list[Token]] = [[] for _ in prompts]
    finish: list[Finish] = ["length" for _ in prompts]
    for emitted in Generation(model, prompts, cache=cache):
        for one in emitted:
            tokens[one.row].append(one.token)
            finish[one.row] = one.finish or finish[one.row]
    return [Completion(tuple(said), end) for said, end in zip(tokens, finish, strict=True)]

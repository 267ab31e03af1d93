"""Beam search: the rows of the cache are the open hypotheses, `beams` of them a prompt.

The rules are those of the library the original code ran on (transformers 4.37), so that published captions repeat:
log-probabilities are summed after the repetition penalty and the minimal length have acted on them; of the best
(1 + stop tokens) * beams continuations, a stop token completes a hypothesis only if it ranks among the first `beams`;
a complete hypothesis of n tokens, its stop token included, is worth sum / n ** length_penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from internvl.errors import UsageError
from internvl.inference.rows import Continues, Prompt, prefill, tokens_of
from internvl.inference.sampling import Completion, SamplingConfig, Token, shape
from internvl.models.attention import KVCache

CLOSED = -1e9
"""The score of a beam that must not be chosen: all but the first at the start, when all hold the same tokens."""


@dataclass
class _Search:
    """The search of one prompt: its open hypotheses, best first, and the complete ones."""

    config: SamplingConfig
    stop_ids: tuple[int, ...]
    open: list[tuple[Token, ...]]
    complete: list[Completion] = field(default_factory=list)
    done: bool = False

    def close(self, tokens: tuple[Token, ...], total: float, *, stopped: bool) -> None:
        """Keep a complete hypothesis if it is among the `beams` best."""
        score = total / len(tokens) ** self.config.length_penalty
        if len(self.complete) >= self.config.beams:
            worst = min(self.complete, key=_worth)
            if score <= _worth(worst):
                return
            self.complete.remove(worst)
        self.complete.append(Completion(tokens, "stop" if stopped else "length", score))

    def is_done(self, best_total: float, length: int) -> bool:
        """Whether no open hypothesis, the best of which has this summed log-probability, can change the result."""
        if len(self.complete) < self.config.beams:
            return False
        if self.config.early_stopping is True:
            return True
        if self.config.early_stopping == "never" and self.config.length_penalty > 0:
            length = self.config.max_new_tokens
        return min(map(_worth, self.complete)) >= best_total / length**self.config.length_penalty

    def best(self) -> Completion:
        return max(reversed(self.complete), key=_worth)  # of equals, the last


def _worth(hypothesis: Completion) -> float:
    assert hypothesis.score is not None
    return hypothesis.score


@torch.inference_mode()
def beam_search(model: Continues, prompts: Sequence[Prompt], *, cache: KVCache) -> list[Completion]:
    """Answer each prompt with the best of the hypotheses that `config.beams` rows of the cache find.

    cache: one row a prompt; each is read once and then copied for its beams. All prompts share one `SamplingConfig`
    and one set of stop ids.
    """
    first = prompts[0]
    if any((prompt.config, prompt.stop_ids) != (first.config, first.stop_ids) for prompt in prompts):
        raise UsageError("the prompts of one beam search must share their SamplingConfig and stop ids")
    beams = first.config.beams
    logits = prefill(model, prompts, cache)
    rows = torch.arange(len(prompts), device=logits.device).repeat_interleave(beams)
    cache, logits = cache.copied(rows, cache.max_len), logits[rows]
    searches = [_Search(first.config, first.stop_ids, [()] * beams) for _ in prompts]
    totals = torch.full((len(prompts), beams), CLOSED, device=logits.device)
    totals[:, 0] = 0.0
    for length in range(1, first.config.max_new_tokens + 1):
        parents, last = _grow(searches, prompts, logits, totals, length)
        if length == first.config.max_new_tokens or all(search.done for search in searches):
            break
        cache.reorder(parents)
        logits = model.step(last[:, None], cache=cache)
    for search, row in zip(searches, totals.tolist(), strict=True):
        if not search.done:
            for tokens, total in zip(search.open, row, strict=True):
                search.close(tokens, total, stopped=False)
    return [search.best() for search in searches]


def _grow(
    searches: Sequence[_Search], prompts: Sequence[Prompt], logits: Tensor, totals: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """Give every open hypothesis its next token; `totals` (prompts, beams) is written.

    Returns, for every row of the cache, the row it continues and the token it reads next.
    """
    beams, vocab = totals.shape[1], logits.shape[-1]
    parents, last = torch.arange(len(logits), device=logits.device), torch.zeros_like(logits[:, 0], dtype=torch.long)
    logprobs = logits.float().log_softmax(-1)
    for i, (search, prompt) in enumerate(zip(searches, prompts, strict=True)):
        if search.done:
            continue
        mine = slice(i * beams, (i + 1) * beams)
        said = [[token.id for token in tokens] for tokens in search.open]
        scores = [
            shape(row, prompt.config, ids, prompt.stop_ids, prompt.counted)
            for row, ids in zip(logprobs[mine], said, strict=True)
        ]
        summed = (torch.stack(scores) + totals[i, :, None]).flatten()
        best, places = summed.topk(max(2, 1 + len(prompt.stop_ids)) * beams)
        kept = _sort(search, logits[mine], best.tolist(), [divmod(place, vocab) for place in places.tolist()])
        totals[i] = torch.tensor([total for total, _, _ in kept], device=totals.device)
        parents[mine] = torch.tensor([parent for _, parent, _ in kept], device=parents.device) + i * beams
        last[mine] = torch.tensor([tokens[-1].id for _, _, tokens in kept], device=last.device)
        search.open = [tokens for _, _, tokens in kept]
        search.done = search.is_done(float(best[0]), length)
    return parents, last


def _sort(
    search: _Search, logits: Tensor, totals: Sequence[float], continuations: Sequence[tuple[int, int]]
) -> list[tuple[float, int, tuple[Token, ...]]]:
    """Close the continuations (beam, token), best first, that stop; return the first `beams` of the others."""
    beams, kept = search.config.beams, []
    for rank, (total, (parent, token)) in enumerate(zip(totals, continuations, strict=True)):
        stops = token in search.stop_ids
        if stops and rank >= beams:
            continue
        [said] = tokens_of(logits[parent : parent + 1], [token], search.config.top_logprobs)
        tokens = (*search.open[parent], said)
        if stops:
            search.close(tokens, total, stopped=True)
        else:
            kept.append((total, parent, tokens))
        if len(kept) == beams:
            break
    return kept

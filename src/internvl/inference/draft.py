"""One answer as it grows: which token comes next, whether it is the last, and what may come at all.

A batch of rows and a server's engine draw their tokens here, so that a request has the same answer from both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from internvl.errors import UsageError
from internvl.inference.rows import measured, not_numbers
from internvl.inference.sampling import Finish, SamplingConfig, Token, draw, shape


class Restricts(Protocol):
    """What an answer may be: JSON of a schema, one of several choices, a pattern. It follows one answer."""

    @property
    def finished(self) -> bool:
        """The answer is complete; nothing may follow."""
        ...

    def allowed(self) -> Tensor:
        """(vocab,) bool: the ids that may come next, stop tokens among them where the answer may end."""
        ...

    def accept(self, token: int) -> None:
        """This id came. A stop token is not told."""
        ...


class Draft:
    """An answer that grows, and how it is drawn.

    >>> draft = Draft(SamplingConfig(max_new_tokens=2), stop_ids=(2,))
    >>> draft.choose(torch.tensor([0.1, 0.9, 0.3]), likeliest=1), draft.add(1), draft.add(1)
    (1, None, 'length')
    """

    def __init__(
        self,
        config: SamplingConfig,
        stop_ids: Sequence[int] = (),
        counted: Sequence[int] = (),
        constraint: Restricts | None = None,
    ) -> None:
        """counted: ids that the repetition penalty counts besides the generated ones."""
        self.config, self.stop_ids, self.counted = config, tuple(stop_ids), tuple(counted)
        self.ids: list[int] = []
        self._constraint = constraint
        self._generator = _generator(config.seed)

    def choose(self, logits: Tensor, likeliest: int) -> int:
        """The next id, from the logits (vocab,) of its place, the likeliest of which is known."""
        config = self.config
        early = len(self.ids) < config.min_new_tokens and likeliest in self.stop_ids
        if config.is_greedy and config.repetition_penalty == 1.0 and not early and self._constraint is None:
            return likeliest
        scores = shape(logits.float(), config, self.ids, self.stop_ids, self.counted)
        if self._constraint is not None:
            scores = _restricted(scores, self._constraint.allowed())
        return int(scores.argmax()) if config.is_greedy else draw(scores, config, self._generator)

    def add(self, chosen: int) -> Finish | None:
        """Take the next id. Returns how the answer ends with it, if it does."""
        self.ids.append(chosen)
        if chosen in self.stop_ids:
            return "stop"
        if self._constraint is not None:
            self._constraint.accept(chosen)
            if self._constraint.finished:
                return "stop"
        return "length" if len(self.ids) >= self.config.max_new_tokens else None


def next_tokens(logits: Tensor, drafts: Mapping[int, Draft]) -> dict[int, Token | Exception]:
    """The next token of the rows of logits (B, vocab) that have a draft, or the error that this row alone meets."""
    if not drafts:
        return {}
    chosen: list[int] = logits.argmax(-1).tolist()
    outcomes: dict[int, Token | Exception] = {}
    for row, draft in drafts.items():
        try:
            chosen[row] = draft.choose(logits[row], chosen[row])
        except Exception as error:
            outcomes[row] = error
    tokens = measured(logits, chosen, max(draft.config.top_logprobs for draft in drafts.values()))
    for row, draft in drafts.items():
        token, wanted = tokens[row], draft.config.top_logprobs
        if math.isnan(token.logprob):
            outcomes[row] = not_numbers(logits.dtype)
        elif row not in outcomes:
            outcomes[row] = token if len(token.top) == wanted else Token(token.id, token.logprob, token.top[:wanted])
    return outcomes


def _restricted(scores: Tensor, allowed: Tensor) -> Tensor:
    """Scores (vocab,) with those of ids that are not allowed at minus infinity; a head may have more rows than ids."""
    width = scores.shape[0]
    allowed = F.pad(allowed[:width].bool(), (0, max(0, width - allowed.shape[0]))).to(scores.device)
    scores = scores.masked_fill(~allowed, float("-inf"))
    if not bool((scores > float("-inf")).any()):
        raise UsageError("no token may follow: what the answer must be, its stop tokens and min_new_tokens contradict")
    return scores


def _generator(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator

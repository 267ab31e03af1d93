"""From logits to the next token: what a request asks for, and pure functions that honour it.

    raw logits --penalise--> --forbid--> scores --temperature, top-k, top-p--> a token

A log-probability that is reported is always that of the raw logits: what the model thinks, not what was asked of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from internvl.errors import UsageError

MAX_TOP_LOGPROBS = 64


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How an answer is drawn. The defaults are greedy decoding.

    >>> SamplingConfig(temperature=0.7, top_p=0.9, seed=1).is_greedy
    False
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    """0 takes the likeliest token every time; 1 samples from the model's own distribution."""
    top_k: int | None = None
    """Sample among the k likeliest tokens only."""
    top_p: float | None = None
    """Sample among the likeliest tokens that together have this probability (Holtzman et al., arXiv:1904.09751)."""
    repetition_penalty: float = 1.0
    """Above 1: tokens that the answer already has become less likely (Keskar et al. 2019, arXiv:1909.05858). The
    question does not count."""
    min_new_tokens: int = 0
    """The answer cannot be ended by a stop token before it has this many."""
    seed: int | None = None
    """Equal seeds give equal answers, alone or in a batch; None: another answer every time."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings."""
    top_logprobs: int = 0
    """How many alternatives are reported beside each token."""
    beams: int = 1
    length_penalty: float = 1.0
    """Beam search: a hypothesis of n tokens is worth its log-probability / n ** length_penalty."""
    early_stopping: bool | Literal["never"] = False
    """Beam search ends when `beams` hypotheses are complete and: True: at once; False: no open one would be worth
    more if it ended now; "never": none could ever be worth more."""

    def __post_init__(self) -> None:
        for field, wrong, rule in (
            ("max_new_tokens", self.max_new_tokens < 1, "at least 1"),
            ("temperature", not 0.0 <= self.temperature < float("inf"), "0 (greedy) or above"),
            ("top_k", self.top_k is not None and self.top_k < 1, "at least 1, or None for all tokens"),
            ("top_p", self.top_p is not None and not 0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            ("repetition_penalty", not 0.01 <= self.repetition_penalty <= 100.0, "0.01 to 100 (1 is none)"),
            ("min_new_tokens", not 0 <= self.min_new_tokens <= self.max_new_tokens, "0 to max_new_tokens"),
            ("seed", self.seed is not None and not 0 <= self.seed < 2**63, "between 0 and 2**63 - 1, or None"),
            ("stop", isinstance(self.stop, str) or not all(self.stop), "a sequence of strings, none of them empty"),
            ("top_logprobs", not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS, f"0 to {MAX_TOP_LOGPROBS}"),
            ("beams", self.beams < 1, "at least 1"),
        ):
            if wrong:
                raise UsageError(f"{field} is {getattr(self, field)!r}; it must be {rule}")
        if self.is_greedy and self.beams == 1 and not self.top_k is self.top_p is None:
            raise UsageError("top_k and top_p choose among sampled tokens; set temperature above 0, or drop them")
        if self.beams > 1 and not (self.temperature == 0.0 and self.top_k is None and self.top_p is None):
            raise UsageError(
                f"beams={self.beams} with temperature, top_k or top_p: beam search does not sample; drop one"
            )
        if self.beams == 1 and (self.length_penalty != 1.0 or self.early_stopping is not False):
            raise UsageError("length_penalty and early_stopping belong to beam search: set beams above 1, or drop them")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True)
class Token:
    """One generated token, its log-probability, and the likeliest alternatives as (id, log-probability)."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Completion:
    """What was generated for one prompt: every token, the stop token that ended it included."""

    tokens: tuple[Token, ...]
    finish: Finish
    score: float | None = None
    """Beam search: the worth of this hypothesis."""

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def answer_ids(self) -> list[int]:
        """The ids without the stop token."""
        return self.ids[:-1] if self.finish == "stop" else self.ids


def penalise(scores: Tensor, said: Sequence[int], penalty: float) -> Tensor:
    """Scores (vocab,) with those of the ids `said` divided by the penalty if positive, multiplied if negative.

    >>> penalise(torch.tensor([2.0, -2.0, 1.0]), [0, 1], 2.0)
    tensor([ 1., -4.,  1.])
    """
    if penalty == 1.0 or not said:
        return scores
    index = torch.tensor(sorted(set(said)), device=scores.device)
    value = scores[index]
    return scores.index_copy(0, index, torch.where(value < 0, value * penalty, value / penalty))


def forbid(scores: Tensor, ids: Sequence[int]) -> Tensor:
    """Scores (vocab,) with those of `ids` at minus infinity.

    >>> forbid(torch.tensor([2.0, 1.0]), [0])
    tensor([-inf, 1.])
    """
    if not ids:
        return scores
    return scores.index_fill(0, torch.tensor(ids, device=scores.device), float("-inf"))


def shape(scores: Tensor, config: SamplingConfig, generated: Sequence[int], stop_ids: Sequence[int],
          counted: Sequence[int] = ()) -> Tensor:  # fmt: skip
    """What the request asks of the scores (vocab,) before a token is drawn: the penalty, and no stop token too soon.

    `counted`: ids that the penalty counts besides the generated ones.
    """
    scores = penalise(scores, [*counted, *generated], config.repetition_penalty)
    return forbid(scores, stop_ids) if len(generated) < config.min_new_tokens else scores


def draw(scores: Tensor, config: SamplingConfig, generator: torch.Generator) -> int:
    """Sample one id from scores (vocab,) after temperature, top-k and top-p, in that order.

    One uniform number from a CPU generator picks a point on the cumulative distribution, so that a seed gives the same
    answer on every device and at every place of a batch.
    """
    ids = None  # which of the scores are left; a temperature does not change their order
    if config.top_k is not None and config.top_k < scores.shape[0]:
        scores, ids = scores.topk(config.top_k)
    elif config.top_p is not None:
        scores, ids = scores.sort(descending=True, stable=True)
    scores = scores.cpu().double()  # at a low temperature the quotients of fp32 have no end
    mass = ((scores - scores.max()) / config.temperature).softmax(0)
    if config.top_p is not None:
        before = mass.cumsum(0) - mass  # the token that crosses the threshold is still in
        mass = mass.masked_fill(before >= config.top_p, 0.0)
    mass = mass.cumsum(0)
    point = torch.rand((), generator=generator, dtype=torch.float64) * mass[-1]
    # Strictly above the point: a token without mass is never met. The clamp is for a point rounded up to the end.
    place = int(torch.searchsorted(mass, point, right=True).clamp(max=int((mass < mass[-1]).sum())))
    return place if ids is None else int(ids[place])


def log_probabilities(logits: Tensor, chosen: Tensor, top: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """log p of `chosen` (B,) under logits (B, vocab), and the `top` likeliest ids with theirs, (B, top) each."""
    logits = logits.float()
    total = logits.logsumexp(-1, keepdim=True)
    best, ids = logits.topk(top, dim=-1) if top else (logits[:, :0], chosen[:, None][:, :0])
    return logits.gather(-1, chosen[:, None])[:, 0] - total[:, 0], best - total, ids

"""What is made small when a model learns to talk: pure functions of log-probabilities.

    SFT     - sum of w log p                                       every learnt token with its weight
    DPO     - log sigmoid(beta (c - r))                            which of two answers is better
    BCO     - log sigmoid(beta c - delta)                          whether an answer is good at all: better than delta,
            - log sigmoid(-(beta r - delta))                       the mean reward so far
    MPO     preference DPO + quality BCO + generation SFT          SFT on the chosen answers

c and r are log ratios: how much likelier the model finds the chosen and the rejected answer than its reference does.
DPO: Rafailov et al. 2023, arXiv:2305.18290. BCO: Jung et al. 2024, arXiv:2404.04656. MPO: Wang et al. 2024,
arXiv:2411.10442.

Each function returns one loss a pair or a sum over tokens, never a mean: what a step divides by is known before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def sft(logprobs: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of negative log-probabilities, both (B, T).

    >>> sft(torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.5]]))
    tensor(2.)
    """
    return -(logprobs * weights).sum()


def segment_sums(values: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """One sum for each segment of a packed row (1, T) with these lengths, or for each row of (B, T).

    >>> segment_sums(torch.tensor([[1, 2, 3]]), (2, 1))
    tensor([3, 3])
    """
    if lengths is None:
        return values.sum(dim=1)
    return torch.stack([part.sum() for part in values[0].split(list(lengths))])


def dpo(chosen: Tensor, rejected: Tensor, *, beta: float, smoothing: float = 0.0) -> Tensor:
    """The loss of each pair, from log ratios (P,). `smoothing`: the share of pairs that may be labelled wrongly.

    >>> dpo(torch.zeros(1), torch.zeros(1), beta=0.1)
    tensor([0.6931])
    """
    margin = beta * (chosen - rejected)
    return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)


def bco(chosen: Tensor, rejected: Tensor, *, beta: float, delta: float) -> Tensor:
    """The loss of each pair, from log ratios (P,) and the reward `delta` that parts good from bad.

    >>> bco(torch.zeros(1), torch.zeros(1), beta=0.1, delta=0.0)
    tensor([1.3863])
    """
    return -F.logsigmoid(beta * chosen - delta) - F.logsigmoid(delta - beta * rejected)


@dataclass
class RunningMean:
    """The mean of all values so far: BCO's delta. It begins at 0 with almost no weight, as in trl.

    >>> delta = RunningMean()
    >>> delta.update(0.5), delta.update(1.5)
    (0.5, 1.0)
    """

    mean: float = 0.0
    count: float = 1e-24

    def update(self, value: float, observations: int = 1) -> float:
        """Take in `observations` values whose mean this is; the mean of all. What is not finite is left out."""
        if observations and math.isfinite(value):
            self.count += observations
            self.mean += (value - self.mean) * observations / self.count
        return self.mean

    def state(self) -> dict[str, float]:
        return {"mean": self.mean, "count": self.count}

    def restore(self, state: Mapping[str, float]) -> None:
        self.mean, self.count = float(state["mean"]), float(state["count"])


def load_balance(routers: Sequence[Tensor], active: int, real: Tensor | None = None) -> Tensor:
    """How unevenly tokens are sent to experts: `active` if all are used alike, more the less they are.

    `routers`: the logits (N, E) of every expert layer; `real` (N,): which tokens are no padding. The share of tokens
    that each expert is among the `active` first of, times its mean probability, over all layers together (Fedus et al.
    2021, arXiv:2101.03961, as transformers computes it for Qwen3-MoE).

    >>> load_balance([torch.zeros(4, 8)], active=2)
    tensor(2.)
    """
    logits = torch.cat([layer.float() if real is None else layer.float()[real] for layer in routers])
    if not len(logits):
        return torch.cat(list(routers)).float().sum() * 0
    likely = logits.softmax(dim=-1)
    chosen = likely.topk(active, dim=-1).indices
    used = F.one_hot(chosen, likely.shape[-1]).sum(dim=1).float().mean(dim=0)
    return likely.shape[-1] * (used * likely.mean(dim=0)).sum()

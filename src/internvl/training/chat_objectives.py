"""How a chat model learns: from answers (`Sft`), or from answers that are better than others (`Preferences`).

Both read packed and padded batches alike, and divide by what the whole step holds, over micro-batches and ranks. The
first code base divides the SFT term of MPO by the tokens of each micro-batch: with one micro-batch it is the same.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from internvl.data.batch import Batch, ChatBatch
from internvl.data.encode import NOT_LEARNT
from internvl.data.image import Normalisation
from internvl.errors import ConfigError, UsageError
from internvl.models.moe import MixtureOfExperts
from internvl.training.config import Aim
from internvl.training.objective import Loss
from internvl.training.objectives import RunningMean, bco, dpo, load_balance, segment_sums, sft
from internvl.training.reference import Reference, read
from internvl.training.world import World


class Sft:
    """The weighted negative log-probability of what is learnt; the weights come with the batch.

    Metrics: `nll`, the same of every learnt token alike, and `balance` where experts are balanced.

    >>> Sft(Aim(weighting="square"))  # doctest: +SKIP
    """

    losses = frozenset({"loss", "nll", "balance"})

    def __init__(self, aim: Aim, *, normalisation: Normalisation = "imagenet") -> None:
        self.aim = aim
        self.normalisation: Normalisation = normalisation
        if aim.kind != "sft":
            raise ConfigError(f"objective.kind is {aim.kind}, expected sft")
        if aim.label_smoothing:
            raise ConfigError(
                f"objective.label_smoothing is {aim.label_smoothing}; the targets of sft are not smoothed: set it to 0"
            )

    def totals(self, batch: Batch) -> dict[str, float]:
        chat = _conversations(batch)
        counted = counts(chat)
        return {"weight": float((chat.weights * counted).double().sum()), "tokens": float(counted.sum())}

    def loss(self, model: nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        chat = _conversations(batch)
        with _watched(model, self.aim.router) as routers:
            logprobs = read(model, chat, self.normalisation)
        counted = counts(chat)
        value = _share(sft(logprobs, chat.weights * counted), totals["weight"])
        metrics = {"nll": _share(sft(logprobs.detach(), counted), totals["tokens"])}
        if routers:
            uneven = _share(_balance(model, routers, chat) * counted.sum(), totals["tokens"])
            value, metrics = value + self.aim.router * uneven, {**metrics, "balance": uneven.detach()}
        return Loss(value, metrics)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is kept."""


class Preferences:
    """DPO, or MPO = preference DPO + quality BCO + generation SFT on the chosen answers.

    BCO's delta is moved before each loss by the mean reward of the micro-batch, averaged over the ranks that have one:
    DPO and SFT do not depend on how a step is divided into micro-batches, BCO does through delta alone. A pair whose
    weights are all 0 teaches nothing and moves nothing.

    Metrics: `rewards/chosen`, `rewards/rejected` (beta times the log ratio), `rewards/margins`, `rewards/accuracies`
    (how often the chosen answer has the larger reward), `logps/chosen`, `logps/rejected` and `nll` of the chosen.

    >>> Preferences(Aim(kind="mpo"), ModelReference(internvl.load()))  # doctest: +SKIP
    """

    losses = frozenset({"loss", "nll"})

    def __init__(
        self,
        aim: Aim,
        reference: Reference,
        *,
        normalisation: Normalisation = "imagenet",
        world: World | None = None,
    ) -> None:
        self.aim, self.reference = aim, reference
        self.normalisation: Normalisation = normalisation
        self.world = World() if world is None else world
        self.delta = RunningMean()
        if faults := list(_faults(aim)):
            raise ConfigError(f"the objective cannot be used: {'; '.join(faults)}")
        mixed = aim.kind == "mpo"
        self.preference, self.quality, self.generation = (
            (aim.preference, aim.quality, aim.generation) if mixed else (1.0, 0.0, 0.0)
        )

    def totals(self, batch: Batch) -> dict[str, float]:
        """Pairs, and the weight of the chosen answers (with `token` weights: how many tokens)."""
        weights = self._weights(_pairs(batch)).double()
        return {"pairs": float((weights.sum(dim=1) > 0).sum()), "chosen_tokens": float(weights[:, 0].sum())}

    def loss(self, model: nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        pairs = _pairs(batch)
        before = self.reference.logprobs(model, pairs)  # first: nothing of the other pass is in memory yet
        logprobs = read(model, pairs, self.normalisation)
        now = segment_sums(logprobs, pairs.lengths)
        chosen, rejected = (now - before).view(-1, 2).unbind(dim=1)
        counted = (self._weights(pairs).sum(dim=1) > 0).float()
        each = self.preference * dpo(chosen, rejected, beta=self.aim.beta, smoothing=self.aim.label_smoothing)
        if self.quality:
            delta = self._moved(chosen.detach(), rejected.detach(), counted > 0)
            each = each + self.quality * bco(chosen, rejected, beta=self.aim.beta, delta=delta)
        value = _share((each * counted).sum(), totals["pairs"])
        learnt = segment_sums(-logprobs * pairs.weights, pairs.lengths).view(-1, 2)[:, 0]
        nll = _share(learnt.sum(), totals["chosen_tokens"])
        if self.generation:
            value = value + self.generation * nll
        worth = self._worth(chosen.detach(), rejected.detach(), now.detach())
        shares = {name: _share((figure * counted).sum(), totals["pairs"]) for name, figure in worth.items()}
        return Loss(value, {**shares, "nll": nll.detach()})

    def state(self) -> dict[str, Any]:
        return {"delta": self.delta.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.delta.restore(state["delta"])

    def _weights(self, batch: ChatBatch) -> Tensor:
        """(pairs, 2) the weights of all learnt tokens of each answer together."""
        return segment_sums(batch.weights * counts(batch), batch.lengths).view(-1, 2)

    def _moved(self, chosen: Tensor, rejected: Tensor, counted: Tensor) -> float:
        """Delta, after it has taken in the mean reward of this micro-batch on every rank."""
        rewards = self.aim.beta * torch.cat((chosen[counted], rejected[counted]))
        own = float(rewards.mean()) if len(rewards) else None
        told = [value for value in self.world.gather_json(own) if value is not None]
        return self.delta.update(sum(told) / max(len(told), 1), len(told))

    def _worth(self, chosen: Tensor, rejected: Tensor, now: Tensor) -> dict[str, Tensor]:
        """What is told of each pair."""
        beta, logps = self.aim.beta, now.view(-1, 2)
        return {
            "rewards/chosen": beta * chosen,
            "rewards/rejected": beta * rejected,
            "rewards/margins": beta * (chosen - rejected),
            "rewards/accuracies": (chosen > rejected).float(),
            "logps/chosen": logps[:, 0],
            "logps/rejected": logps[:, 1],
        }


def counts(batch: ChatBatch) -> Tensor:
    """(B, T) bool: the targets that weigh something, and that something stands before which could predict them."""
    learnt = (batch.targets != NOT_LEARNT) & (batch.weights != 0)
    learnt[:, 0] = False
    if batch.lengths is not None:
        starts = torch.tensor(batch.lengths[:-1], dtype=torch.long, device=learnt.device).cumsum(dim=0)
        learnt[0, starts] = False
    return learnt


def _share(value: Tensor, total: float) -> Tensor:
    """A share of a step; nothing of a step that has nothing."""
    return value / total if total else value * 0


def _conversations(batch: Batch) -> ChatBatch:
    if not isinstance(batch, ChatBatch) or batch.paired:
        found = "preferences" if isinstance(batch, ChatBatch) else f"a {type(batch).__name__}"
        raise UsageError(f"sft learns from conversations; the data are {found}: choose another objective.kind")
    return batch


def _pairs(batch: Batch) -> ChatBatch:
    if not isinstance(batch, ChatBatch) or not batch.paired:
        found = "conversations" if isinstance(batch, ChatBatch) else f"a {type(batch).__name__}"
        raise UsageError(f"dpo and mpo learn from chosen and rejected answers; the data are {found}: "
                         "choose another objective.kind")  # fmt: skip
    return batch


def _faults(aim: Aim) -> list[str]:
    found = [] if aim.kind in ("dpo", "mpo") else [f"kind is {aim.kind}, expected dpo or mpo"]
    terms = {"preference": aim.preference, "quality": aim.quality, "generation": aim.generation}
    found += [f"{name} is {weight}, expected 0 or more" for name, weight in terms.items() if not weight >= 0]
    if aim.kind == "mpo" and not any(weight > 0 for weight in terms.values()):
        found.append("preference, quality and generation are all 0, expected one above")
    if aim.router:
        found.append(f"router is {aim.router}; experts are balanced by sft alone: set it to 0")
    return found


# ---- experts ---------------------------------------------------------------------------------------------------------


@contextmanager
def _watched(model: nn.Module, wanted: float) -> Generator[list[Tensor]]:
    """What the routers of all expert layers say inside the block, with gradients."""
    seen: list[Tensor] = []
    layers = [module for module in model.modules() if isinstance(module, MixtureOfExperts)] if wanted else []
    if wanted and not layers:
        raise ConfigError(f"objective.router is {wanted}, but this model has no experts: set it to 0")

    def hear(module: nn.Module, given: object, said: Tensor) -> None:
        del module, given
        seen.append(said)

    handles = [layer.router.register_forward_hook(hear) for layer in layers]
    try:
        yield seen
    finally:  # so that what is recomputed in the backward pass is not heard again
        for handle in handles:
            handle.remove()
    if len(seen) != len(layers):
        raise ConfigError(
            f"objective.router is {wanted}, but {len(seen)} of {len(layers)} routers were heard; compiled layers are "
            "not: set parallel.compile=false, or objective.router=0"
        )


def _balance(model: nn.Module, routers: list[Tensor], batch: ChatBatch) -> Tensor:
    active = next(module.active for module in model.modules() if isinstance(module, MixtureOfExperts))
    real = None if batch.attention_mask is None else batch.attention_mask.bool().flatten()
    return load_balance(routers, active, real)

"""How pictures and texts learn to meet, and how a tower learns classes.

    ITM   matching      does this text belong to this picture?       judged from what the queries saw of both
    ITC   contrastive   which text of the batch, which picture?      cosines, softmax over the batch of all ranks
    ITG   captioning    the caption, token by token                  from the queries and the words before

                     ITM                               ITC                                    ITG
    pretrain_pair    one text a picture: the first     the queries with the text; targets     the caption
                     half gets another's (rounded up)  are the pairs, label smoothing
    .. ITC alone     none                              the tower with the text; the same      none
    retrieval        two texts a picture: another's,   the queries with the text, and the     none
                     and its own                       tower with the text; all pairs of
                                                       one picture are right

`pretrain_pair` with all three is the second stage of InternVL-14B, with ITC alone the first, which has no queries yet.
Chen et al. 2023, arXiv:2312.14238, after BLIP-2 (Li et al. 2023, arXiv:2301.12597). A plain InternVL-C has no queries:
it learns ITC with the tower alone (Radford et al. 2021, arXiv:2103.00020).

Each loss is a sum over rows (over tokens for ITG) divided by the number of rows in the whole step, so that ranks and
micro-batches add up. What a row is compared with is the micro-batch of all ranks: two ranks of B rows are one rank of
2 B, but accumulating two micro-batches gives no further negatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl.data.batch import Batch, LabelBatch, PairBatch
from internvl.data.image import normalise
from internvl.errors import ConfigError, UsageError
from internvl.models.pair import IGNORED, PAD, PairModel, PairOutputs
from internvl.training.config import Aim
from internvl.training.objective import Loss
from internvl.training.world import World

BARE = 2
"""Tokens of an empty text: begin and end of sequence."""


# ---- pure functions --------------------------------------------------------------------------------------------------


def one_of(own: Tensor, count: int, smoothing: float = 0.0) -> Tensor:
    """Targets (B, count): the candidate own[b], with the share `smoothing` spread over all (arXiv:1512.00567).

    >>> one_of(torch.tensor([1]), 2, 0.2)
    tensor([[0.1000, 0.9000]])
    """
    return F.one_hot(own, count) * (1 - smoothing) + smoothing / count


def same_picture(ids: Tensor, candidates: Tensor) -> Tensor:
    """Targets (B, N): all candidates with the row's picture, in equal parts.

    >>> same_picture(torch.tensor([7, 8]), torch.tensor([7, 8, 7]))
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 1.0000, 0.0000]])
    """
    same = (ids[:, None] == candidates).float()
    return same / same.sum(dim=1, keepdim=True)


def contrast(rows: Tensor, candidates: Tensor, scale: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (B,) of unit vectors (B, dim) that look for theirs among candidates (N, dim); targets (B, N)."""
    return -(targets * (scale * rows @ candidates.T).log_softmax(dim=1)).sum(dim=1)


def tokens(ids: Tensor) -> Tensor:
    """(B,) how many tokens each text has."""
    return (ids != PAD).sum(dim=1)


# ---- picture and text ------------------------------------------------------------------------------------------------


class PairLoss:
    """ITM, ITC and ITG for InternVL-14B, ITC alone for a plain InternVL-C; kinds `pretrain_pair` and `retrieval`.

    Rows of `pretrain_pair` whose text is empty are neither matched nor compared (their pictures and texts still are
    candidates for others). A `negative` that is all padding, because the batch shows one picture only, is not matched.

    >>> PairLoss(Aim(kind="retrieval", captioning=0.0), World())  # doctest: +SKIP
    """

    losses = frozenset({"loss", "itm", "itc", "itg"})

    def __init__(self, aim: Aim, world: World) -> None:
        self.aim, self.world = aim, world
        self.retrieval = aim.kind == "retrieval"
        if faults := list(_faults(aim)):
            raise ConfigError(f"the objective cannot be used: {'; '.join(faults)}")

    def check(self, model: nn.Module) -> PairModel:
        """The model, if it is one that can learn this; called with every loss, and cheap enough to be called before."""
        if not isinstance(model, PairModel):
            raise UsageError(
                f"objective.kind {self.aim.kind} trains InternVL-C or InternVL-14B; this is a {type(model).__name__}"
            )
        if model.config.queries == 0 and (self.aim.matching or self.aim.captioning):
            raise ConfigError(
                f"objective.matching is {self.aim.matching} and objective.captioning {self.aim.captioning}, but this "
                "is a plain InternVL-C, which has no queries to match and caption with: set both to 0"
            )
        return model

    def totals(self, batch: Batch) -> dict[str, float]:
        """Rows compared, others' and own texts matched, tokens of captions; each 0 if its term has no weight."""
        pairs = _pairs(batch)
        _, own, counts = self._texts_to_match(pairs)
        matches, compares, writes = self.aim.matching > 0, self.aim.contrastive > 0, self.aim.captioning > 0
        return {
            "pairs": float(compares * self._compared(pairs).sum()),
            "negatives": float(matches * (counts & ~own).sum()),
            "positives": float(matches * (counts & own).sum()),
            "caption_tokens": float(writes * (pairs.generation_targets[:, 1:] != IGNORED).sum()),
        }

    def loss(self, model: nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Metrics: the terms (`itm`, `itc`, `itg`), how often it is seen that a text belongs (`match_own`) or does not
        (`match_other`), the `temperature` 1 / scale, and for retrieval `agreement`, the cosine of both image vectors.
        """
        pairs, aim, pair_model = _pairs(batch), self.aim, self.check(model)
        alone = not self.retrieval and not aim.matching and not aim.captioning
        texts, own, counts = self._texts_to_match(pairs)
        found = pair_model.pair_outputs(
            normalise(pairs.tiles),
            pairs.summary if aim.contrastive > 0 else None,
            matching=texts if aim.matching > 0 else None,
            generation=pairs.generation if aim.captioning > 0 else None,
            targets=pairs.generation_targets if aim.captioning > 0 else None,
            picture=aim.contrastive > 0 and (self.retrieval or alone),
            queries=not alone,
        )
        value = torch.zeros((), device=pairs.tiles.device)
        metrics: dict[str, Tensor] = {}
        with torch.autocast(pairs.tiles.device.type, enabled=False):
            if found.matching is not None:
                term, right = _matching(found.matching, own, counts, totals)
                value, metrics = value + aim.matching * term, {"itm": term.detach(), **right}
            if found.text is not None:
                term, told = self._contrastive(found, pairs, totals)
                value, metrics = value + aim.contrastive * term, {**metrics, "itc": term.detach(), **told}
            if found.captions is not None:
                term = -found.captions.sum() / max(totals["caption_tokens"], 1.0)
                value, metrics = value + aim.captioning * term, {**metrics, "itg": term.detach()}
        return Loss(value, metrics)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is kept."""

    # ---- which rows count --------------------------------------------------------------------------------------------

    def _compared(self, batch: PairBatch) -> Tensor:
        """(B,) which rows look for their counterpart."""
        return torch.ones_like(batch.image_ids, dtype=torch.bool) if self.retrieval else tokens(batch.caption) > BARE

    def _texts_to_match(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Texts (n B, T), whether each is its picture's own, and whether it counts."""
        if self.retrieval:
            texts = torch.cat((batch.negative, batch.caption))
            own = torch.arange(len(texts), device=texts.device) >= len(batch.caption)
            return texts, own, tokens(texts) > 0
        others = len(batch.caption) - len(batch.caption) // 2
        texts = torch.cat((batch.negative[:others], batch.caption[others:]))
        own = torch.arange(len(texts), device=texts.device) >= others
        return texts, own, tokens(texts) > BARE

    def _contrastive(
        self, found: PairOutputs, batch: PairBatch, totals: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of both directions, added over the image vectors there are, and what is told about them."""
        assert found.text is not None
        scale, share = found.scale.float(), max(totals["pairs"], 1.0)
        views = [view for view in (found.queries, found.picture) if view is not None]
        everyone = self.world.gather(torch.cat([found.text, *views], dim=1).float()).chunk(1 + len(views), dim=1)
        targets, term = self._targets(batch), scale.new_zeros(())
        counted = self._compared(batch).float()
        for view, candidates in zip(views, everyone[1:], strict=True):
            to_text = contrast(view.float(), everyone[0], scale, targets)
            to_picture = contrast(found.text.float(), candidates, scale, targets)
            term = term + ((to_text + to_picture) / 2 * counted).sum() / share
        told = {"temperature": counted.sum() / share / scale.detach()}
        if len(views) == 2:
            told["agreement"] = ((views[0] * views[1]).detach().float().sum(dim=1) * counted).sum() / share
        return term, told

    def _targets(self, batch: PairBatch) -> Tensor:
        """(B, N) what each row looks for among the rows of all ranks."""
        mine = torch.full_like(batch.image_ids, self.world.rank)
        ids, ranks = self.world.gather(torch.stack((batch.image_ids, mine), dim=1)).unbind(dim=1)
        if self.retrieval:
            return same_picture(batch.image_ids, ids)
        own = (ranks == self.world.rank).nonzero()[:, 0]
        return one_of(own, len(ids), self.aim.label_smoothing)


def _matching(
    logits: Tensor, own: Tensor, counts: Tensor, totals: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy over the texts that count, and how often it is right about either kind."""
    each = F.cross_entropy(logits.float(), own.long(), reduction="none") * counts
    right = (logits.argmax(dim=1) == own.long()) & counts
    return each.sum() / max(totals["negatives"] + totals["positives"], 1.0), {
        "match_other": (right & ~own).sum() / max(totals["negatives"], 1.0),
        "match_own": (right & own).sum() / max(totals["positives"], 1.0),
    }


def _pairs(batch: Batch) -> PairBatch:
    if not isinstance(batch, PairBatch):
        raise UsageError(
            f"this objective learns from pairs; the data are a {type(batch).__name__}: choose another objective.kind"
        )
    return batch


def _faults(aim: Aim) -> list[str]:
    weights = {"matching": aim.matching, "contrastive": aim.contrastive, "captioning": aim.captioning}
    found = [f"{name} is {weight}, expected 0 or more" for name, weight in weights.items() if not weight >= 0]
    if not any(weight > 0 for weight in weights.values()):
        found.append("matching, contrastive and captioning are all 0, expected one above")
    if aim.kind == "retrieval":
        if aim.captioning:
            found.append(f"captioning is {aim.captioning}; retrieval trains no captions: set objective.captioning=0")
        if aim.label_smoothing:
            found.append(
                f"label_smoothing is {aim.label_smoothing}; the targets of retrieval are not smoothed: set it to 0"
            )
    elif aim.kind != "pretrain_pair":
        found.append(f"kind is {aim.kind}, expected pretrain_pair or retrieval")
    return found


# ---- classes ---------------------------------------------------------------------------------------------------------


class Classify:
    """Cross-entropy of a `Classifier`, with label smoothing; the metric `top1`: the right class comes first.

    The head normalises over the rows of a micro-batch, of all ranks together: two ranks of B rows are one of 2 B, but
    accumulated micro-batches have statistics of their own.
    """

    losses = frozenset({"loss"})

    def __init__(self, aim: Aim, world: World) -> None:
        self.aim, self.world = aim, world

    def totals(self, batch: Batch) -> dict[str, float]:
        return {"pictures": float(len(_labels(batch).labels))}

    def loss(self, model: nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Of a model that takes pixels (B, 3, S, S) and answers logits (B, classes)."""
        labelled = _labels(batch)
        logits = model(normalise(labelled.tiles)).float()
        count = max(totals["pictures"], 1.0)
        smoothing = self.aim.label_smoothing
        value = F.cross_entropy(logits, labelled.labels, reduction="sum", label_smoothing=smoothing) / count
        return Loss(value, {"top1": (logits.argmax(dim=1) == labelled.labels).sum() / count})

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is kept."""


def _labels(batch: Batch) -> LabelBatch:
    if not isinstance(batch, LabelBatch):
        raise UsageError(
            f"this objective learns from labelled pictures; the data are a {type(batch).__name__}: choose another "
            "objective.kind"
        )
    return batch

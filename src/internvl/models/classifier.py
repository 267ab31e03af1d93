"""A tower that classifies: for probing, where the tower is frozen, and for fine-tuning all of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from internvl.errors import UsageError
from internvl.models.config import VisionConfig
from internvl.models.heads import Pooling, Probe
from internvl.models.init import initialise
from internvl.models.vit import VisionTransformer


class Classifier(nn.Module):
    """Pixels (B, 3, H, W), normalised -> logits (B, classes). The head works in its own type, whatever autocast says.

    >>> classifier = Classifier.of(tower, 1000, pooling="attention")  # doctest: +SKIP
    >>> classifier.tower.requires_grad_(False)  # a probe; otherwise all of it learns  # doctest: +SKIP
    """

    def __init__(self, tower: VisionTransformer, head: Probe) -> None:
        super().__init__()
        _check(tower, head.pooling)
        self.tower = tower
        self.head = head
        self.names: tuple[str, ...] = ()
        """Of the classes, in their order; empty where they are numbers."""

    @classmethod
    def of(cls, tower: VisionTransformer, classes: int, *, pooling: Pooling = "linear", seed: int = 0) -> Classifier:
        """A tower with a new head, reproducibly drawn, where the tower is and of its type."""
        _check(tower, pooling)
        head = Probe(tower.config, classes, pooling=pooling)
        initialise(head, seed=seed)
        return cls(tower, head.to(tower.embeddings.class_embedding))

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.head.head.out_features

    @property
    def config(self) -> VisionConfig:
        return self.tower.config

    def forward(self, pixel_values: Tensor) -> Tensor:
        states = self.tower(pixel_values)
        if self.head.pooling == "clip_projector":
            assert self.tower.clip_projector is not None
            states = self.tower.clip_projector(states)
        with torch.autocast(states.device.type, enabled=False):
            return self.head(states.to(self.head.head.weight.dtype))


def _check(tower: VisionTransformer, pooling: Pooling) -> None:
    if pooling == "clip_projector" and tower.clip_projector is None:
        raise UsageError("this tower has no clip_projector to classify with; use pooling linear or attention")

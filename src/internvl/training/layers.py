"""How deep a parameter lies, for rates that fall from the last layer to the first.

    group      0                        1 .. L                 L + 2 (the full rate)
    vision     embeddings of the tower  block i is i + 1       clip_projector, mlp1, the head of a classifier
    language   embed_tokens,            layer i is i + 1       norm, lm_head, and of InternVL-14B text_projection,
               query_tokens,                                   clip_projector2, itm_head
               logit_scale

A group has L + 2 depths, and depth d learns at decay ** (L + 1 - d) of the full rate, at most all of it: the last block
at `decay` once, the embeddings at `decay ** (L + 1)` (Chen et al. 2023, arXiv:2312.14238, after Bao et al. 2021,
arXiv:2106.08254).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from torch import nn

from internvl.models.config import VisionConfig

Group = Literal["vision", "language"]

_BLOCK = re.compile(r"(?:^|\.)encoder\.layers\.(\d+)\.")
_LAYER = re.compile(r"(?:^|\.)(?:qllama|language_model)\.(?:.*\.)?layers\.(\d+)\.")
_TOWER_FIRST = re.compile(r"(?:^|\.)embeddings\.")
_FIRST = re.compile(r"(?:^|\.)(?:embed_tokens|query_tokens|logit_scale)(?:\.|$)")
_TOWER_LAST = re.compile(r"(?:^|\.)(?:clip_projector|mlp1|head)\.")


def depth_of(name: str, model: nn.Module) -> tuple[Group, int, int]:
    """The group of a parameter, its depth in it, and how many depths the group has.

    Wrappers of adapters, compilation and recomputation may stand in the name.

    >>> depth_of("qllama.model.layers.31.mlp.up_proj.weight", model)  # doctest: +SKIP
    ('language', 32, 34)
    """
    vision, language = _layers(model)
    if block := _BLOCK.search(name):
        return "vision", int(block[1]) + 1, vision + 2
    if layer := _LAYER.search(name):
        return "language", int(layer[1]) + 1, language + 2
    if _TOWER_FIRST.search(name):
        return "vision", 0, vision + 2
    if _FIRST.search(name):
        return "language", 0, language + 2
    if _TOWER_LAST.search(name):
        return "vision", vision + 2, vision + 2
    return "language", language + 2, language + 2


def _layers(model: nn.Module) -> tuple[int, int]:
    """Of the tower and of the language model; 0 where there is none."""
    config: Any = model.config
    if isinstance(config, VisionConfig):
        return config.layers, 0
    return config.vision.layers, config.text.layers

"""InternVL-C and InternVL-G: picture and text in one embedding space, and captions (InternVL-14B).

    InternVL-C   picture -> tower -> clip_projector ---------------------------------.
                                \\                                                    + -> image embedding
    InternVL-G                   `-> queries through QLLaMA -> clip_projector2 ------'
                 text -> QLLaMA without the queries -> last token -> text_projection -> text embedding

Chen et al. 2023, arXiv:2312.14238. A plain InternVL-C (`PairConfig.queries == 0`) has the first and last row only.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl.errors import UsageError, find
from internvl.models.attention import KVCache, Sight
from internvl.models.config import PairConfig
from internvl.models.heads import AttentionPool
from internvl.models.layers import Linear
from internvl.models.qllama import QLlama
from internvl.models.vit import VisionTransformer

Mode = Literal["InternVL-C", "InternVL-G"]
MODES: dict[str, None] = dict.fromkeys(("InternVL-C", "InternVL-G"))
PAD = 0
"""Text is padded with this id, on the right; `ids > 0` is the mask."""


class PairModel(nn.Module):
    """Scores pictures against texts, and writes captions.

    >>> per_image, per_text = model(pixel_values, text_ids, mode="InternVL-G")  # doctest: +SKIP
    """

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        self.origin: Any = None
        """Left by whoever loaded the weights; never read here."""
        vision, text = config.vision, config.text
        self.vision_model = VisionTransformer(vision)
        self.qllama = QLlama(config)
        self.clip_projector = AttentionPool(vision.dim, config.pool_heads, config.embed_dim)
        self.text_projection = nn.Parameter(torch.zeros(text.dim, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        has_queries = config.queries > 0
        self.query_tokens = nn.Parameter(torch.zeros(1, config.queries, text.dim)) if has_queries else None
        self.clip_projector2 = AttentionPool(text.dim, config.pool_heads, config.embed_dim) if has_queries else None
        self.itm_head = Linear(text.dim, 2) if has_queries else None

    def forward(self, pixel_values: Tensor, text_ids: Tensor, *, mode: Mode = "InternVL-C") -> tuple[Tensor, Tensor]:
        """pixel_values (B, 3, S, S) and text_ids (N, T) -> logits per image (B, N) and per text (N, B)."""
        image = F.normalize(self.encode_image(pixel_values, mode=mode), dim=-1)
        text = F.normalize(self.encode_text(text_ids), dim=-1)
        per_image = self.logit_scale.exp() * image @ text.T
        return per_image, per_image.T

    def encode_image(self, pixel_values: Tensor, *, mode: Mode = "InternVL-C") -> Tensor:
        """(B, 3, S, S) -> (B, embed_dim), not normalised. Mode G is the sum of two unit vectors."""
        find("mode", mode, MODES)
        states = self.vision_model(pixel_values)
        contrastive = self.clip_projector(states)
        if mode == "InternVL-C":
            return contrastive
        if self.clip_projector2 is None:
            raise UsageError("this is a plain InternVL-C, without queries; mode must be InternVL-C")
        generative = self.clip_projector2(self.query_features(states))
        return F.normalize(generative, dim=-1) + F.normalize(contrastive, dim=-1)

    def query_features(self, states: Tensor) -> Tensor:
        """What the queries saw in vision states (B, S, vision dim): (B, queries, dim)."""
        queries = self._queries(len(states))
        positions = torch.arange(queries.shape[1], device=queries.device)[None].expand(len(queries), -1)
        return self.qllama(queries, sight=Sight(causal=False), positions=positions, vision=states)

    def encode_text(self, text_ids: Tensor) -> Tensor:
        """(N, T) right padded with 0 -> (N, embed_dim), not normalised: the last token's state, projected."""
        last = (text_ids != PAD).sum(1) - 1
        hidden = self.text_features(text_ids)
        return hidden[torch.arange(len(hidden), device=hidden.device), last] @ self.text_projection

    def text_features(self, text_ids: Tensor) -> Tensor:
        """(N, T) -> (N, T, dim): text alone, no queries, no picture."""
        positions = torch.arange(text_ids.shape[1], device=text_ids.device)[None].expand(len(text_ids), -1)
        sight = Sight(aligned=False, keys=text_ids != PAD)
        return self.qllama(self.qllama.model.embed_tokens(text_ids), sight=sight, positions=positions)

    # --- captions: the protocol of `ChatModel.prefill` and `ChatModel.step` ------------------------------------------

    def prefill(self, input_ids: Tensor, states: Tensor, *, cache: KVCache, lengths: Tensor | None = None) -> Tensor:
        """Read pictures (B, S, vision dim) and prompts (B, T) into the cache; logits (B, vocab) of the next token.

        The queries see each other and not the text; the text sees the queries and what stands before it.
        """
        if lengths is not None and bool((lengths != input_ids.shape[1]).any()):
            raise UsageError("captions are written from prompts of one length; give each length its own call")
        x = torch.cat((self._queries(len(input_ids)), self.qllama.model.embed_tokens(input_ids)), dim=1)
        places = cache.begin(x.shape[1])
        sight = Sight(aligned=False, positions=places, prefix=self.config.queries)
        hidden = self.qllama(x, sight=sight, positions=places, vision=states, cache=cache)
        return self._logits(hidden[:, -1])

    def step(self, tokens: Tensor, *, cache: KVCache) -> Tensor:
        """One more token (B, 1) a row: logits (B, vocab)."""
        places = cache.begin(tokens.shape[1])
        sight = Sight(aligned=cache.level, positions=places)
        x = self.qllama.model.embed_tokens(tokens)
        return self._logits(self.qllama(x, sight=sight, positions=places, cache=cache)[:, -1])

    def _queries(self, rows: int) -> Tensor:
        if self.query_tokens is None:
            raise UsageError("this is a plain InternVL-C, without queries; captions and mode G need InternVL-14B")
        return self.query_tokens.expand(rows, -1, -1)

    def _logits(self, hidden: Tensor) -> Tensor:
        assert self.qllama.lm_head is not None
        return self.qllama.lm_head(hidden)

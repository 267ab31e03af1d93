"""InternVL-C and InternVL-G: picture and text in one embedding space, and captions (InternVL-14B).

    InternVL-C   picture -> tower -> clip_projector ---------------------------------.
                                \\                                                    + -> image embedding
    InternVL-G                   `-> queries through QLLaMA -> clip_projector2 ------'
                 text -> QLLaMA without the queries -> last token -> text_projection -> text embedding

Chen et al. 2023, arXiv:2312.14238. A plain InternVL-C (`PairConfig.queries == 0`) has the first and last row only.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

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
IGNORED = -100
"""A target that is not learnt."""


class PairOutputs(NamedTuple):
    """What the losses of a pair are made of; None where it was not asked for. Vectors (B, embed_dim) are unit ones."""

    scale: Tensor
    """What cosines are multiplied by."""
    text: Tensor | None
    picture: Tensor | None
    """Of the tower alone (InternVL-C)."""
    queries: Tensor | None
    """Of what the queries saw."""
    matching: Tensor | None
    """(M, 2) logits: does not belong to the picture, belongs to it."""
    captions: Tensor | None
    """(B, T) log-probabilities of the targets; 0 where nothing is learnt."""


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
        return self._last(self.text_features(text_ids), text_ids) @ self.text_projection

    def text_features(self, text_ids: Tensor) -> Tensor:
        """(N, T) -> (N, T, dim): text alone, no queries, no picture."""
        positions = torch.arange(text_ids.shape[1], device=text_ids.device)[None].expand(len(text_ids), -1)
        sight = Sight(aligned=False, keys=text_ids != PAD)
        return self.qllama(self.qllama.model.embed_tokens(text_ids), sight=sight, positions=positions)

    def _last(self, hidden: Tensor, text_ids: Tensor) -> Tensor:
        """The state (N, dim) of each text's last token."""
        last = (text_ids != PAD).sum(1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]

    # --- training -----------------------------------------------------------------------------------------------------

    def pair_outputs(
        self,
        pixel_values: Tensor,
        summary: Tensor | None = None,
        *,
        matching: Tensor | None = None,
        generation: Tensor | None = None,
        targets: Tensor | None = None,
        picture: bool = False,
        queries: bool = True,
    ) -> PairOutputs:
        """Everything that the objectives of a pair need: one pass of the tower, one of QLLaMA for all tasks.

        pixel_values (B, 3, S, S); texts right padded with 0: `summary` (B, T) to compare, `matching` (n B, T) to judge
        (n texts for each picture: all pictures once, all again, ...), `generation` (B, T) to learn to write where
        `targets` (B, T) is not -100. What a summary is compared with: `picture`, what the tower alone makes of the
        picture; `queries`, what the queries saw of it (a plain InternVL-C has none).

            task         the queries see               the text sees
            matching     queries and text              queries and text
            summary      queries                       the text before it
            generation   queries                       queries, the text before it
        """
        states, first = self.vision_model(pixel_values), self.config.queries
        alone = F.normalize(self.clip_projector(states), dim=-1) if picture else None
        asked = summary if queries and first else None
        judging, comparing, writing = self._read_together(
            states,
            (matching, Sight(causal=False)),
            (asked, Sight(prefix=first, apart=True)),
            (generation, Sight(prefix=first)),
        )
        text = seen = judged = written = None
        if summary is not None and comparing is None:
            text = F.normalize(self.encode_text(summary), dim=-1)
        elif summary is not None and comparing is not None and self.clip_projector2 is not None:
            text = F.normalize(self._last(comparing[:, first:], summary) @ self.text_projection, dim=-1)
            seen = F.normalize(self.clip_projector2(comparing[:, :first]), dim=-1)
        if judging is not None and self.itm_head is not None:
            judged = self.itm_head(judging[:, :first]).mean(dim=1)
        if writing is not None and targets is not None:
            written = self._target_logprobs(writing[:, first:], targets)
        return PairOutputs(self.logit_scale.exp(), text, alone, seen, judged, written)

    def _read_together(self, states: Tensor, *tasks: tuple[Tensor | None, Sight]) -> list[Tensor | None]:
        """Hidden states (rows, queries + T, dim) of each task whose texts are given, all in one pass of QLLaMA.

        Each text is read from its own length on; the widest decides T of the pass.
        """
        given = [(ids, sight) for ids, sight in tasks if ids is not None]
        if not given:
            return [None] * len(tasks)
        width = max(ids.shape[1] for ids, _ in given)
        ids = torch.cat([F.pad(ids, (0, width - ids.shape[1]), value=PAD) for ids, _ in given])
        queries = self._queries(len(ids))
        x = torch.cat((queries, self.qllama.model.embed_tokens(ids)), dim=1)
        keys = F.pad(ids != PAD, (queries.shape[1], 0), value=True)
        rows = [len(ids) for ids, _ in given]
        sights = [
            replace(sight, aligned=False, keys=seen) for (_, sight), seen in zip(given, keys.split(rows), strict=True)
        ]
        positions = torch.arange(x.shape[1], device=x.device)[None].expand(len(x), -1)
        sight = Sight.stacked(*zip(rows, sights, strict=True))
        hidden = iter(self.qllama(x, sight=sight, positions=positions, vision=states).split(rows))
        return [None if ids is None else next(hidden)[:, : queries.shape[1] + ids.shape[1]] for ids, _ in tasks]

    def _target_logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """log p(targets[b, t] | what stands before), (B, T) in fp32; 0 where nothing is learnt and at t = 0."""
        learnt = targets != IGNORED
        learnt[:, 0] = False
        rows, columns = learnt.nonzero(as_tuple=True)
        found = self.qllama.logprobs(hidden[rows, columns - 1], targets[rows, columns])
        return torch.zeros(targets.shape, dtype=found.dtype, device=found.device).index_put((rows, columns), found)

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

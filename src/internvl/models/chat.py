"""The chat model. A visitor reads this first.

pixels --> vision_model --> pixel shuffle --> mlp1 --.
                                                     v
token ids --> embeddings ----------------> the slots are filled --> decoder --> logits
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from internvl.errors import PlaceholderMismatch, UsageError
from internvl.models.attention import KVCache, Packing
from internvl.models.config import ChatConfig
from internvl.models.decoder import Decoder
from internvl.models.projector import pixel_shuffle, projector
from internvl.models.vit import VisionTransformer

IGNORED = -100
"""A target that is not learnt."""


class ChatModel(nn.Module):
    """A tower reads the tiles, a projector speaks the decoder's language, the decoder does the rest.

    Chen et al. 2024, arXiv:2404.16821. Names of parameters are those of the published checkpoints.

    >>> model = internvl.load()  # doctest: +SKIP
    >>> model(input_ids, pixel_values).shape  # doctest: +SKIP
    torch.Size([1, 85, 1024])
    """

    def __init__(self, config: ChatConfig) -> None:
        super().__init__()
        self.config = config
        self.origin: Any = None
        """Left by whoever loaded the weights; never read here."""
        self.vision_model = VisionTransformer(config.vision)
        self.mlp1 = projector(config)
        self.language_model = Decoder(config.text)
        self.always_look = False
        """Run the tower for a batch without pictures too, so that ranks whose weights are shared always meet there."""

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, vocab) of the next token at every place.

        input_ids (B, T); pixel_values (tiles, 3, S, S), normalised, the tiles of all rows in the order of their
        slots, no padding tiles. For the rest see `Decoder.forward`.
        """
        features = self._checked_features(input_ids, pixel_values)
        hidden = self.hidden(
            input_ids,
            features,
            attention_mask=attention_mask,
            packing=packing,
            cache=cache,
            positions=positions,
        )
        return self.language_model.logits(hidden)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """(tiles, 3, S, S) -> (tiles, slots per tile, dim): what fills the slots."""
        config = self.config
        [states] = self.vision_model(pixel_values, collect=(config.select_layer,))
        patches = states[:, 1:]  # no class token
        if config.projector == "llava":
            return self.mlp1(patches)
        side = round(patches.shape[1] ** 0.5)
        grid = patches.unflatten(1, (side, side))
        return self.mlp1(pixel_shuffle(grid, round(1 / config.downsample), config.pixel_shuffle).flatten(1, 2))

    def hidden(self, input_ids: Tensor, image_features: Tensor | None = None, **rows: Any) -> Tensor:
        """Normalised hidden states (B, T, dim); `rows` as in `Decoder.forward`."""
        return self.language_model(self.embed(input_ids, image_features), **rows)

    def embed(self, input_ids: Tensor, image_features: Tensor | None = None) -> Tensor:
        """Token embeddings (B, T, dim) with image features (tiles, slots, dim) in the slots, one row each."""
        slots = input_ids == self.config.image_token
        x = self.language_model.embed(input_ids.masked_fill(slots, 0))
        found, given = (
            int(slots.sum()),
            0 if image_features is None else image_features.shape[:-1].numel(),
        )
        if found != given:
            raise PlaceholderMismatch(
                f"the tokens have {found} image slots but the pictures fill {given}; give as many tiles as "
                f"the prompt was made for ({self.config.slots_per_tile} slots each)"
            )
        if image_features is None:
            return x
        return x.masked_scatter(slots[..., None], image_features.to(x.dtype))

    def prefill(
        self,
        input_ids: Tensor,
        image_features: Tensor | None = None,
        *,
        cache: KVCache,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Read prompts into the cache and return the logits (B, vocab) after the last token of each.

        input_ids (B, T), right padded with any id but the image slot's where `lengths` (B,) says so.
        """
        if lengths is None or bool((lengths == input_ids.shape[1]).all()):
            return self.language_model.logits(self.hidden(input_ids, image_features, cache=cache)[:, -1])
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        mask = columns < lengths[:, None]
        hidden = self.hidden(input_ids, image_features, cache=cache, attention_mask=mask)
        last = (lengths - 1).clamp(min=0)
        return self.language_model.logits(hidden[torch.arange(len(hidden), device=last.device), last])

    def step(self, tokens: Tensor, *, cache: KVCache) -> Tensor:
        """One more token (B, 1) a row: logits (B, vocab). A generated `<IMG_CONTEXT>` is a token, not a slot."""
        language = self.language_model
        return language.logits(language(language.embed(tokens), cache=cache)[:, -1])

    def token_logprobs(
        self,
        input_ids: Tensor,
        targets: Tensor,
        pixel_values: Tensor | None = None,
        *,
        tile_order: Tensor | None = None,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
        chunk: int = 1024,
    ) -> Tensor:
        """log p(targets[b, t] | tokens before t), (B, T) in fp32; 0 where a target is -100 or starts a sample.

        `tile_order` (m,) says which tile fills each block of slots in turn: one that is seen by several samples is
        encoded once, and learns from all of them. None: each tile once, in order.

        The head is applied to `chunk` tokens at a time, and again in the backward pass, so that the logits of the
        whole vocabulary never exist for more. Only those of the last chunk, which is the first to be needed again, are
        kept. Without a target every parameter has gradients of zeros.
        """
        features = self._checked_features(input_ids, pixel_values, tile_order)
        hidden = self.hidden(input_ids, features, attention_mask=attention_mask, packing=packing)
        learnt = targets != IGNORED
        learnt[:, 0] = False
        if packing is not None:
            learnt &= packing.positions(learnt.device) > 0
        rows, columns = learnt.nonzero(as_tuple=True)
        before, wanted = hidden[rows, columns - 1], targets[rows, columns]
        *earlier, last = zip(before.split(chunk), wanted.split(chunk), strict=True)
        pieces = [checkpoint(self._logprobs, *piece, use_reentrant=False) for piece in earlier]
        pieces.append(self._logprobs(*last))
        out = torch.zeros(targets.shape, dtype=torch.float32, device=targets.device)
        return out.index_put((rows, columns), torch.cat(pieces))

    def _logprobs(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        logits = self.language_model.logits(hidden).float()
        return logits.gather(-1, wanted[:, None])[:, 0] - logits.logsumexp(-1)

    def _checked_features(
        self, input_ids: Tensor, pixel_values: Tensor | None, tile_order: Tensor | None = None
    ) -> Tensor | None:
        """Image features, after counting that they will fit: the tower is dear, a mistake is not worth running it."""
        if input_ids.ndim != 2:
            raise UsageError(f"input_ids are {tuple(input_ids.shape)}; expected (rows, tokens), e.g. input_ids[None]")
        config, tiles = self.config, 0 if pixel_values is None else len(pixel_values)
        if tile_order is not None and tile_order.unique().tolist() != list(range(tiles)):
            raise PlaceholderMismatch(
                f"tile_order names the tiles {tile_order.unique().tolist()}, but there are {tiles}, counted from 0; "
                "each must fill slots at least once"
            )
        found, shown = int((input_ids == config.image_token).sum()), tiles if tile_order is None else len(tile_order)
        native = pixel_values is None or pixel_values.shape[-1] == config.tile_size
        if native and found != shown * config.slots_per_tile:
            raise PlaceholderMismatch(
                f"the tokens have {found} image slots but {shown} tiles fill {shown * config.slots_per_tile} "
                f"({config.slots_per_tile} each); give as many tiles as the prompt was made for"
            )
        if pixel_values is None or tiles == 0:
            if not self.always_look:
                return None
            blank = torch.zeros(1, 3, config.tile_size, config.tile_size, device=input_ids.device)
            return self.image_features(blank)[:0]  # fills no slot, and brings the tower gradients of zeros
        features = self.image_features(pixel_values)
        return features if tile_order is None else features[tile_order]  # by indexing: its backward is deterministic

"""One decoder for Llama, InternLM2, InternLM3, Phi-3, Qwen2, Qwen3, Qwen3-MoE and GPT-OSS: a `TextConfig` each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from internvl.errors import UsageError
from internvl.models.attention import KVCache, Packing, Sight, attend
from internvl.models.config import TextConfig
from internvl.models.layers import Linear, RMSNorm, SwiGLU, embedding, rotary_tables, rotate
from internvl.models.moe import MixtureOfExperts


class Decoder(nn.Module):
    """Embeddings (B, T, dim) -> normalised hidden states (B, T, dim); `logits` turns those into (B, T, vocab)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DecoderStack(config)
        self.lm_head = None if config.tied_head else Linear(config.dim, config.vocab, bias=False)
        self.checkpointing = False
        """Recompute each layer in the backward pass instead of keeping its activations."""

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.model.embed_tokens(input_ids)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)

    def forward(
        self,
        x: Tensor,
        *,
        attention_mask: Tensor | None = None,
        packing: Packing | None = None,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """x (B, T, dim). At most one of these says how the rows are to be read:

        attention_mask (B, T), true where a token is real: padding anywhere;
        packing: one row of several samples;
        cache: x continues each row of the cache (right-padded rows: `attention_mask` says how much of each is real).
        `positions` (B, T) replaces the rotary positions (0, 1, 2, ... of each sample).
        """
        sight, places, lengths = read_rows(x, attention_mask, packing, cache)
        positions = places if positions is None else positions
        cos, sin = rotary_tables(self.config, positions, lengths)
        rotary = (cos.to(x.dtype), sin.to(x.dtype))
        for layer in self.model.layers:
            if self.checkpointing and self.training:
                x = checkpoint(layer, x, rotary, sight, cache, use_reentrant=False)
            else:
                x = layer(x, rotary, sight, cache)
        if cache is not None:
            cache.advance(None if attention_mask is None else attention_mask.sum(1))
        return self.model.norm(x)


class DecoderStack(nn.Module):
    """What checkpoints call `model`: everything but the head."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = embedding(config.vocab, config.dim)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.layers))
        self.norm = RMSNorm(config.dim, config.eps)


def read_rows(
    x: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None,
    cache: KVCache | None,
) -> tuple[Sight, Tensor, Tensor]:
    """Who sees whom, the rotary positions (B, T), and the lengths that length-dependent rope is chosen by.

    The lengths are (B, 1), but (1, T) for a packed row, whose tokens belong to samples of different lengths.
    """
    if sum(option is not None for option in (packing, cache)) > 1 or (packing and attention_mask is not None):
        raise UsageError("packing excludes cache and attention_mask: a packed row has no padding and is read at once")
    b, t = x.shape[:2]
    taken = None if attention_mask is None else attention_mask.sum(1)
    if cache is not None:
        if attention_mask is not None and bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
            raise UsageError("with a cache, rows are padded on the right; attention_mask has padding before a token")
        started_empty = cache.extent == 0
        places = cache.begin(t, taken)
        # Right padding at the start needs no mask: a real token never looks to its right.
        aligned = started_empty or (cache.level and taken is None)
        return Sight(aligned=aligned, positions=places), places, cache.started[:, None]
    if packing is not None:
        lengths = packing.spread(torch.tensor(packing.lengths, device=x.device))
        return Sight(packing=packing), packing.positions(x.device), lengths
    places = torch.arange(t, device=x.device).expand(b, t)
    if attention_mask is None or taken is None:
        return Sight(), places, torch.full((b, 1), t, device=x.device)
    return Sight(aligned=False, keys=attention_mask.bool()), places, taken[:, None]


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, index)
        self.mlp = (
            MixtureOfExperts(config) if config.is_sparse(index) else SwiGLU(config.dim, config.mlp_dim, config.mlp_bias)
        )
        self.input_layernorm = RMSNorm(config.dim, config.eps)
        self.post_attention_layernorm = RMSNorm(config.dim, config.eps)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        sight: Sight,
        cache: KVCache | None,
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, sight, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        assert config.head_dim is not None
        self.index = index
        self.head_dim = config.head_dim
        self.window = config.window_of(index)
        self.q_proj = Linear(config.dim, config.heads * config.head_dim, bias=config.qkv_bias)
        self.k_proj = Linear(config.dim, config.kv_heads * config.head_dim, bias=config.qkv_bias)
        self.v_proj = Linear(config.dim, config.kv_heads * config.head_dim, bias=config.qkv_bias)
        self.o_proj = Linear(config.heads * config.head_dim, config.dim, bias=config.out_bias)
        self.q_norm = RMSNorm(config.head_dim, config.eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.eps) if config.qk_norm else None
        self.sinks = nn.Parameter(torch.zeros(config.heads)) if config.sinks else None

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        sight: Sight,
        cache: KVCache | None,
    ) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (p(x).view(b, t, -1, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
        )  # (B, H, T, D)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            k, v = cache.write(self.index, k, v)
        seen = attend(q, k, v, sight, window=self.window, sinks=self.sinks)
        return self.o_proj(seen.transpose(1, 2).reshape(b, t, -1))

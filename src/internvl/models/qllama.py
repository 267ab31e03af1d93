"""QLLaMA: a Llama whose first rows are learnt queries that look at a picture through cross-attention.

Chen et al. 2023, arXiv:2312.14238, section 3.2. Every second layer has cross-attention, between self-attention and
MLP; only the queries go through it, text passes unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from internvl.models.attention import EVERYTHING, KVCache, Sight, attend
from internvl.models.config import PairConfig, TextConfig
from internvl.models.decoder import Attention
from internvl.models.layers import Linear, RMSNorm, SwiGLU, embedding, rotary_tables


class QLlama(nn.Module):
    """Rows (B, T, dim) -> normalised hidden states (B, T, dim); `logits` turns those into (B, T, vocab)."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        self.model = QLlamaStack(config)
        self.lm_head = Linear(config.text.dim, config.text.vocab, bias=False) if config.queries else None
        self.checkpointing = False
        """Recompute each layer in the backward pass instead of keeping its activations."""

    def forward(
        self,
        x: Tensor,
        *,
        sight: Sight,
        positions: Tensor,
        vision: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """`vision` (B, S, vision dim): where given, the first `queries` tokens of each row of x are the queries.

        x may have several times as many rows as there are pictures: then all pictures once, all again, and so on.
        """
        cos, sin = rotary_tables(self.config.text, positions, positions[:, -1:] + 1)
        rotary = (cos.to(x.dtype), sin.to(x.dtype))
        for layer in self.model.layers:
            if self.checkpointing and self.training and cache is None:
                x = checkpoint(layer, x, rotary, sight, vision, None, use_reentrant=False)
            else:
                x = layer(x, rotary, sight, vision, cache)
        if cache is not None:
            cache.advance()
        return self.model.norm(x)

    def logprobs(self, hidden: Tensor, wanted: Tensor, *, chunk: int = 1024) -> Tensor:
        """log p(wanted[i] | hidden[i]) for hidden (N, dim): (N,) in fp32.

        The head is applied to `chunk` tokens at a time, and again in the backward pass, so that the logits of the whole
        vocabulary never exist for all tokens at once.
        """
        pieces = [
            checkpoint(self._logprobs, h, w, use_reentrant=False)
            for h, w in zip(hidden.split(chunk), wanted.split(chunk), strict=True)
        ]
        return torch.cat(pieces)

    def _logprobs(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        assert self.lm_head is not None
        logits = self.lm_head(hidden).float()
        return logits.gather(-1, wanted[:, None])[:, 0] - logits.logsumexp(-1)


class QLlamaStack(nn.Module):
    """What checkpoints call `model`: everything but the head."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        text = config.text
        self.embed_tokens = embedding(text.vocab, text.dim)
        self.layers = nn.ModuleList(QLlamaLayer(config, i) for i in range(text.layers))
        self.norm = RMSNorm(text.dim, text.eps)


class QLlamaLayer(nn.Module):
    """Self-attention, cross-attention of the queries where this layer has it, MLP; each on a residual."""

    def __init__(self, config: PairConfig, index: int) -> None:
        super().__init__()
        text = config.text
        self.queries = config.queries
        self.self_attn = Attention(text, index)
        crosses = config.queries > 0 and index % config.cross_every == 0
        self.cross_attn = CrossAttention(text, config.vision.dim) if crosses else None
        self.mlp = SwiGLU(text.dim, text.mlp_dim)
        self.input_layernorm = RMSNorm(text.dim, text.eps)
        self.post_attention_layernorm = RMSNorm(text.dim, text.eps)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], sight: Sight, vision: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, sight, cache)
        if self.cross_attn is not None and vision is not None:
            queries, text = x[:, : self.queries], x[:, self.queries :]
            x = torch.cat((queries + self.cross_attn(queries, vision), text), dim=1)
        return x + self.mlp(self.post_attention_layernorm(x))


class CrossAttention(nn.Module):
    """Queries (B, Q, dim) look at vision states (B, S, vision dim); no mask, no positions."""

    def __init__(self, text: TextConfig, vision_dim: int) -> None:
        super().__init__()
        assert text.head_dim is not None
        self.head_dim = text.head_dim
        self.q_proj = Linear(text.dim, text.dim, bias=False)
        self.k_proj = Linear(vision_dim, text.dim, bias=False)
        self.v_proj = Linear(vision_dim, text.dim, bias=False)
        self.o_proj = Linear(text.dim, text.dim, bias=False)
        self.norm1 = RMSNorm(text.dim, text.eps)
        self.norm2 = RMSNorm(vision_dim, text.eps)

    def forward(self, queries: Tensor, vision: Tensor) -> Tensor:
        """queries (n B, Q, dim), vision (B, S, vision dim): keys and values of a picture are computed once."""
        seen = self.norm2(vision.to(queries.dtype))
        q, k, v = self.q_proj(self.norm1(queries)), self.k_proj(seen), self.v_proj(seen)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in (q, k, v))
        times = len(q) // len(k)
        if times > 1:
            k, v = k.repeat(times, 1, 1, 1), v.repeat(times, 1, 1, 1)
        return self.o_proj(attend(q, k, v, EVERYTHING).transpose(1, 2).flatten(2))

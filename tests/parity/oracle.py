"""Tiny random decoders in `transformers` and here, side by side.

The tensors of theirs are renamed by a few lines that stand here, not by the package's own key tables, so that a mistake
in those cannot hide; a `TextConfig` is written down beside each of their configs for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from internvl.models.attention import KVCache
from internvl.models.config import TextConfig
from internvl.models.decoder import Decoder

TOKENS = 32
"""Teacher-forced positions."""
NEW = 32
"""Tokens of a greedy run."""
DISTINCT = 10
"""So many different tokens must appear in a greedy run, or it proves little."""
SAFE = 2e-4
"""The narrowest margin of a greedy run: thirty times the worst difference of logits, so that no rounding turns it."""


@dataclass(frozen=True)
class Case:
    """The same decoder, as their config class and its arguments, and as ours."""

    theirs: str
    arguments: dict[str, Any]
    ours: TextConfig
    seed: int = 0
    loud: float = 1.0
    """The gates of the experts are so many times larger."""

    def config(self, transformers: Any) -> Any:
        ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
        config = getattr(transformers, self.theirs + "Config")(**self.arguments, **ids)
        config._attn_implementation = "eager"
        return config

    def build(self, transformers: Any) -> tuple[nn.Module, Decoder]:
        """Their model with lively random weights, and ours with the same."""
        theirs = getattr(transformers, self.theirs + "ForCausalLM")(self.config(transformers)).eval()
        enliven(theirs, self.seed)
        for name, parameter in theirs.named_parameters():
            if name.endswith("experts.gate_up_proj"):
                parameter.data *= self.loud
        ours = Decoder(self.ours).eval()
        ours.load_state_dict(decoder_tensors(theirs.state_dict(), self.ours), strict=True)
        return theirs, ours


def enliven(model: nn.Module, seed: int) -> None:
    """Random values everywhere, norms, biases and sinks too, so large that every part has a say in every logit.

    Matrices keep the size of what goes through them, times 1.6; what is one-dimensional moves 0.3 around its value.
    """
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=draw)
        if "embed_tokens" in name:
            parameter.data = noise
        elif parameter.ndim >= 2 and "bias" not in name and "position" not in name and "cls" not in name:
            fan_in = parameter[0].numel() if "patch" in name else parameter.shape[-1]
            parameter.data = noise * 1.6 * fan_in**-0.5
        elif "norm" in name and name.endswith("weight"):
            parameter.data = 1 + 0.3 * noise
        else:
            parameter.data = 0.3 * noise


def decoder_tensors(state: dict[str, Tensor], config: TextConfig) -> dict[str, Tensor]:
    """Their tensors under our names; `state` is that of a `...ForCausalLM`."""
    head = config.head_dim or config.dim // config.heads
    q, kv = config.heads * head, config.kv_heads * head
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem = name.rsplit(".", 1)[0]
        match name.split(".")[-2:]:
            case ["lm_head", _] if config.tied_head:
                continue
            case ["qkv_proj", _]:
                for part, piece in zip("qkv", tensor.split((q, kv, kv)), strict=True):
                    out[name.replace("qkv_proj", f"{part}_proj")] = piece
            case ["gate_up_proj", _]:
                for part, piece in zip(("gate", "up"), tensor.chunk(2), strict=True):
                    out[name.replace("gate_up_proj", f"{part}_proj")] = piece
            case ["gate", _]:
                out[name.replace(".gate.", ".router.")] = tensor
            case ["experts", "gate_up_proj"] if not config.sinks:
                out[f"{stem}.gate_proj"], out[f"{stem}.up_proj"] = tensor.chunk(2, dim=1)
            case ["experts", "gate_up_proj"]:  # GPT-OSS: inputs first, gate and up in turn
                out[f"{stem}.gate_proj"] = tensor[..., ::2].transpose(1, 2)
                out[f"{stem}.up_proj"] = tensor[..., 1::2].transpose(1, 2)
            case ["experts", "gate_up_proj_bias"]:
                out[f"{stem}.gate_proj_bias"], out[f"{stem}.up_proj_bias"] = tensor[..., ::2], tensor[..., 1::2]
            case ["experts", "down_proj"] if config.sinks:
                out[name] = tensor.transpose(1, 2)
            case _:
                out[name] = tensor
    return out


def random_ids(vocab: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(1, vocab, shape, generator=torch.Generator().manual_seed(seed))


def worst(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference at any of the positions (B, T, ...), each relative to the largest value there."""
    difference = (ours - theirs).abs().flatten(2).amax(-1)
    return float((difference / theirs.abs().flatten(2).amax(-1)).max())


def logits(model: Decoder, ids: Tensor) -> Tensor:
    return model.logits(model(model.embed(ids)))


def stepped(model: Decoder, ids: Tensor, first: int) -> Tensor:
    """The same logits, the first tokens read at once and the others one by one through the cache.

    The length that the sequence will have is said beforehand, as whoever reads a prompt in chunks has to.
    """
    cache = KVCache(model.config, len(ids), ids.shape[1])
    cache.started.fill_(ids.shape[1])
    pieces = [ids[:, :first], *ids[:, first:].split(1, dim=1)]
    return torch.cat([model.logits(model(model.embed(piece), cache=cache)) for piece in pieces], dim=1)


def greedy(model: Decoder, embeddings: Tensor, new: int) -> tuple[list[int], float]:
    """The likeliest continuation of one prompt (1, T, dim), and the narrowest margin by which a token was chosen.

    The margin is relative to the larger of the two logits.
    """
    cache = KVCache(model.config, 1, embeddings.shape[1] + new)
    chosen: list[int] = []
    margins: list[float] = []
    x = embeddings
    while len(chosen) < new:
        best = model.logits(model(x, cache=cache)[:, -1]).topk(2)
        chosen.append(int(best.indices[0, 0]))
        margins.append(float(best.values[0, 0] - best.values[0, 1]) / float(best.values.abs().max()))
        x = model.embed(best.indices[:, :1])
    return chosen, min(margins)

"""The small parts that towers and decoders are made of."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from internvl.errors import UsageError
from internvl.models.config import Activation, RopeScaling, TextConfig
from internvl.models.linear import Linear


class LoraLinear(nn.Module):
    """A linear layer and an adapter beside it (Hu et al. 2021, arXiv:2106.09685): W x + alpha / rank * B A x.

    DoRA (Liu et al. 2024, arXiv:2402.09353) also learns how long each row of the sum W + alpha / rank * B A is.
    Children are named as `peft` names them, because that is how unmerged checkpoints name their tensors.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, *, dora: bool = False) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False, **where)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False, **where)})
        self.lora_magnitude_vector = nn.ModuleDict({"default": Magnitude(base.out_features, **where)}) if dora else None
        self.scale = alpha / rank
        self.off = False
        """Compute W x alone."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        if self.off:
            return y
        low = self.lora_B["default"](self.lora_A["default"](x)) * self.scale
        if self.lora_magnitude_vector is None:
            return y + low
        a, b = (self.get_parameter(f"lora_{part}.default.weight") for part in "AB")
        length = self.get_parameter("lora_magnitude_vector.default.weight")
        factor = length / torch.linalg.norm(self.base_layer.weight + self.scale * (b @ a), dim=1)
        bias = self.base_layer.bias
        straight = y if bias is None else y - bias  # pyright: ignore[reportUnnecessaryComparison]
        return y + (factor - 1) * straight + factor * low


class Magnitude(nn.Module):
    """The lengths of the rows of a DoRA layer, (out,)."""

    def __init__(self, out: int, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(out, device=device, dtype=dtype))


def add_adapter(model: nn.Module, name: str, rank: int, alpha: float, *, dora: bool = False) -> LoraLinear:
    """Replace the linear layer called `name` by one with an (uninitialised) adapter.

    >>> add_adapter(model, "language_model.model.layers.0.self_attn.q_proj", rank=16, alpha=32)  # doctest: +SKIP
    """
    parent_name, _, child = name.rpartition(".")
    parent = model.get_submodule(parent_name)
    base = getattr(parent, child)
    if not isinstance(base, nn.Linear):
        raise UsageError(f"{name} is {type(base).__name__}; only a linear layer can carry one adapter")
    adapted = LoraLinear(base, rank, alpha, dora=dora)
    setattr(parent, child, adapted)
    return adapted


def embedding(count: int, dim: int) -> nn.Embedding:
    """A table of `count` vectors, not initialised: `initialise` or a checkpoint fills it.

    Drawing normal numbers for a table on the meta device makes torch import its compiler, which takes seconds.
    """
    return nn.Embedding(count, dim, _weight=torch.empty(count, dim))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) in fp32, cast back, then times the weight (the order matters in 16 bit)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), self.weight.shape, None, self.eps)
        return self.weight * normed.to(x.dtype)


def norm_layer(kind: str, dim: int, eps: float) -> nn.Module:
    """LayerNorm or RMSNorm over the last dimension."""
    return nn.LayerNorm(dim, eps=eps) if kind == "layer_norm" else RMSNorm(dim, eps)


def activate(kind: Activation, x: Tensor) -> Tensor:
    """The activation that a config names; `gelu` is the exact one."""
    match kind:
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "silu":
            return F.silu(x)
        case "relu":
            return F.relu(x)


class Mlp(nn.Module):
    """The two-layer MLP of a vision block."""

    def __init__(self, dim: int, inner: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = Linear(dim, inner)
        self.fc2 = Linear(inner, dim)
        self.activation: Activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(activate(self.activation, self.fc1(x)))


class SwiGLU(nn.Module):
    """The gated MLP of every decoder here: down(silu(gate x) * up x) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, dim: int, inner: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(dim, inner, bias=bias)
        self.up_proj = Linear(dim, inner, bias=bias)
        self.down_proj = Linear(inner, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DropPath(nn.Module):
    """Drop a whole residual branch of a sample in training, scaling what survives (arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


# --- rotary positions -------------------------------------------------------------------------------------------------


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x (B, H, T, D) by the angles of `rotary_tables` (B, T, D): the half-rotation form (arXiv:2104.09864)."""
    a, b = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-b, a), dim=-1) * sin[:, None]


def rotary_tables(config: TextConfig, positions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin (B, T, head_dim) in fp32 for positions (B, T).

    `lengths`, (B, 1) or (B, T), is the length of the sequence that each token belongs to, which the length-dependent
    scalings (dynamic, longrope) choose by; with `RopeScaling.per_call` the last position of the whole call decides
    for all, as in the original code.
    """
    if config.rope is not None and config.rope.per_call:
        lengths = (positions.max() + 1).view(1, 1)
    frequencies, temperature = inverse_frequencies(config, lengths)
    angles = positions[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * temperature, angles.sin() * temperature


def inverse_frequencies(config: TextConfig, lengths: Tensor) -> tuple[Tensor, float]:
    """Angle per position of each pair of dimensions, (..., D / 2) for lengths (...), and the factor on cos and sin."""
    rope, dim, theta = config.rope, config.rotary_dim, config.rope_theta
    exponents = torch.arange(0, dim, 2, device=lengths.device, dtype=torch.float32) / dim
    plain = 1.0 / theta**exponents
    if rope is None:
        return plain, 1.0
    original = rope.original or config.max_positions
    match rope.kind:
        case "linear":
            return plain / rope.factor, 1.0
        case "dynamic":
            stretch = (rope.factor * lengths.float() / original - (rope.factor - 1)).clamp(min=1.0)
            return 1.0 / (theta * stretch[..., None] ** (dim / (dim - 2))) ** exponents, 1.0
        case "llama3":
            return _llama3(rope, plain, original), 1.0
        case "longrope":
            factors = plain.new_tensor([rope.short_factors, rope.long_factors])[(lengths > original).long()]
            return plain / factors, _longrope_temperature(rope, config.max_positions / original, original)
        case "yarn":
            return _yarn(rope, plain, dim, theta, original), rope.attention_factor or _yarn_temperature(rope.factor)


def _llama3(rope: RopeScaling, plain: Tensor, original: int) -> Tensor:
    """Slow dimensions are stretched by the factor, fast ones not, those between in proportion."""
    turns = original * plain / (2 * math.pi)  # how often each pair turns within the original context
    keep = ((turns - rope.low_freq) / (rope.high_freq - rope.low_freq)).clamp(0, 1)
    return plain * keep + plain / rope.factor * (1 - keep)


def _yarn(rope: RopeScaling, plain: Tensor, dim: int, theta: float, original: int) -> Tensor:
    """Like llama3, but the ramp runs over the index of the dimension."""

    def index_of(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = index_of(rope.beta_fast), index_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    index = torch.arange(dim // 2, device=plain.device, dtype=torch.float32)
    stretch = ((index - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / rope.factor * stretch + plain * (1 - stretch)


def _yarn_temperature(scale: float) -> float:
    return 1.0 if scale <= 1 else 0.1 * math.log(scale) + 1.0


def _longrope_temperature(rope: RopeScaling, scale: float, original: int) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.temperature == "yarn" or scale <= 1:
        return _yarn_temperature(scale)
    return math.sqrt(1 + math.log(scale) / math.log(original))

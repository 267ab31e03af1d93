"""What a model is, as values. The code asks these values, never names of models.

Each config is frozen and checks its fields, and the relations between them, when it is made; how it is read from and
written to the `config.json` of each public layout is the business of `internvl.weights.sidecars`.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from internvl.errors import ConfigError

Norm = Literal["layer_norm", "rms_norm"]
Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]
RopeKind = Literal["linear", "dynamic", "llama3", "longrope", "yarn"]


_WIDTH, _HEADS, _LENGTH, _SHARE = (1, 1 << 20), (1, 1 << 12), (1, 1 << 31), (0, 1)
RANGES: Mapping[str, tuple[float, float]] = {
    "image_size": (1, 1 << 14), "patch_size": (1, 1 << 10), "layers": (1, 1000), "vocab": (1, 1 << 24),
    "dim": _WIDTH, "mlp_dim": _WIDTH, "embed_dim": _WIDTH, "pool_dim": (0, 1 << 20), "head_dim": (1, 1 << 12),
    "heads": _HEADS, "kv_heads": _HEADS, "pool_heads": _HEADS, "count": (1, 1 << 12), "active": (1, 1 << 12),
    "queries": (0, 1 << 16), "cross_every": (1, 1000), "window": _LENGTH, "max_positions": _LENGTH, "original": _LENGTH,
    "image_token": (-1000, 1 << 24), "eps": _SHARE, "drop_path": _SHARE, "dropout": _SHARE, "attention_dropout": _SHARE,
    "downsample": (1 / 64, 1), "rope_theta": (1, 1e15), "factor": (1e-3, 1e6), "attention_factor": (1e-3, 1e6),
    "low_freq": (1e-3, 1e6), "high_freq": (1e-3, 1e6), "beta_fast": (1e-3, 1e6), "beta_slow": (1e-3, 1e6),
}  # fmt: skip
"""First and last sane value of a field, in whichever config it stands: far beyond the family, far below what hangs."""


def check_field(owner: str, name: str, value: Any, kind: Any) -> None:
    """A value must be of its field's type and in its range; a `config.json` may say anything."""
    if not _fits(value, kind):
        shown = kind.__name__ if type(kind) is type else str(kind).removeprefix("typing.")
        raise ConfigError(f"{owner}: {name} is {value!r:.80}; expected {shown}")
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if value is not None and name in RANGES and not low <= value <= high:
        raise ConfigError(f"{owner}: {name} is {value!r:.80}; expected {low} to {high}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; an int will do for a float, a bool is neither."""
    origin = get_origin(kind)
    if origin in (types.UnionType, Union):
        return any(_fits(value, one) for one in get_args(kind))
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, get_args(kind)[0]) for one in value)
    if kind is float:
        return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < 1 << 53)
    return type(value) is kind


@cache
def _kinds(owner: type[Any]) -> Mapping[str, Any]:
    return get_type_hints(owner)


class _Checked:
    """Types and ranges of all fields, from their annotations."""

    def __post_init__(self) -> None:
        for name, kind in _kinds(type(self)).items():
            check_field(type(self).__name__, name, value := getattr(self, name), kind)
            if kind is float:  # JSON writes 1.0 as 1
                object.__setattr__(self, name, float(value))


@dataclass(frozen=True, kw_only=True)
class VisionConfig(_Checked):
    """InternViT. The defaults are the 300M tower at 448 px."""

    image_size: int = 448
    patch_size: int = 14
    dim: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_dim: int = 4096
    norm: Norm = "layer_norm"
    eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False
    """RMS normalisation of q and of k over the whole width, before they are cut into heads (the 6B towers)."""
    activation: Activation = "gelu"
    layer_scale: float = 0.1
    """The initial value of both layer-scale vectors; irrelevant once weights are loaded."""
    fp32_layer_scale: bool = False
    """Multiply by the layer scale in fp32 (plain InternVL-C in half precision)."""
    drop_path: float = 0.0
    """Stochastic depth of the last layer; it grows linearly from 0 at the first."""
    dropout: float = 0.0
    attention_dropout: float = 0.0
    pool_dim: int = 0
    """Width of the embedding of the attention pool that the released `.pth` tower carries; 0: none."""
    pool_heads: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads:
            raise ConfigError(f"VisionConfig: dim ({self.dim}) must be a multiple of heads ({self.heads})")
        if self.image_size < self.patch_size:
            raise ConfigError(f"VisionConfig: image_size {self.image_size} is below patch_size {self.patch_size}")

    @property
    def grid(self) -> int:
        """Patches along one side at the native resolution."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class RopeScaling(_Checked):
    """How rotary positions are stretched beyond the length the decoder was pre-trained with.

    | kind       | uses                                                 | source                              |
    |------------|------------------------------------------------------|-------------------------------------|
    | `linear`   | factor                                               | arXiv:2306.15595                    |
    | `dynamic`  | factor, original                                     | NTK-aware scaling, as in InternLM2  |
    | `llama3`   | factor, original, low_freq, high_freq                | Llama 3.1                           |
    | `longrope` | short_factors, long_factors, original, temperature   | Phi-3 "su", "yarn"; arXiv:2402.13753 |
    | `yarn`     | factor, original, beta_*, truncate, attention_factor | arXiv:2309.00071, as in GPT-OSS     |
    """

    kind: RopeKind
    factor: float = 1.0
    original: int | None = None
    """Positions of pre-training; None: `TextConfig.max_positions`."""
    low_freq: float = 1.0
    high_freq: float = 4.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    temperature: Literal["su", "yarn"] = "su"
    """longrope: sqrt(1 + ln s / ln original) or 0.1 ln s + 1, with s = max_positions / original."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    per_call: bool = False
    """Length-dependent kinds (dynamic, longrope): False chooses the factor from each sequence's own length when it
    starts; True from the longest sequence of every call, as the original code does (`compat="original"`)."""


@dataclass(frozen=True, kw_only=True)
class Experts(_Checked):
    """The mixture-of-experts MLP of Qwen3-MoE and GPT-OSS."""

    count: int
    active: int
    dim: int
    """Inner width of one expert."""
    normalise: bool = True
    """The weights of the active experts sum to one."""
    bias: bool = False
    """Router and experts have biases (GPT-OSS)."""
    gate: Literal["silu", "clamped"] = "silu"
    """`clamped`: GPT-OSS's (up + 1) * gate * sigmoid(1.702 gate), gate <= 7, |up| <= 7."""
    dense_layers: tuple[int, ...] = ()
    """Layers that keep the ordinary MLP."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.active <= self.count:
            raise ConfigError(f"Experts: active ({self.active}) must be between 1 and count ({self.count})")


@dataclass(frozen=True, kw_only=True)
class TextConfig(_Checked):
    """One decoder for Llama, InternLM2/3, Phi-3, Qwen2, Qwen3, Qwen3-MoE and GPT-OSS."""

    vocab: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    mlp_dim: int
    head_dim: int | None = None
    """None: dim / heads."""
    eps: float = 1e-6
    max_positions: int = 32768
    rope_theta: float = 10000.0
    rope: RopeScaling | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMS normalisation of q and k within each head (Qwen3)."""
    sinks: bool = False
    """One learnt logit a head that takes part in the softmax and is then dropped (GPT-OSS)."""
    window: int | None = None
    """Tokens a query may look back, itself included."""
    windowed_layers: tuple[int, ...] | None = None
    """Layers that have the window; None: all, where there is one."""
    tied_head: bool = False
    experts: Experts | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads % self.kv_heads:
            raise ConfigError(f"TextConfig: heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim is None:
            if self.dim % self.heads:
                raise ConfigError(f"TextConfig: dim ({self.dim}) must be a multiple of heads ({self.heads})")
            object.__setattr__(self, "head_dim", self.dim // self.heads)
        if self.rope is not None and self.rope.kind == "longrope":
            half = self.rotary_dim // 2
            if not len(self.rope.short_factors) == len(self.rope.long_factors) == half:
                raise ConfigError(
                    f"TextConfig: longrope has {len(self.rope.short_factors)} short and {len(self.rope.long_factors)} "
                    f"long factors; a head of {self.rotary_dim} needs {half} of each"
                )

    @property
    def rotary_dim(self) -> int:
        assert self.head_dim is not None
        return self.head_dim

    def window_of(self, layer: int) -> int | None:
        """The look-back window of one layer, or None where it sees everything."""
        return self.window if self.windowed_layers is None or layer in self.windowed_layers else None

    def is_sparse(self, layer: int) -> bool:
        """Whether this layer's MLP is a mixture of experts."""
        return self.experts is not None and layer not in self.experts.dense_layers


@dataclass(frozen=True, kw_only=True)
class ChatConfig(_Checked):
    """A vision tower, a projector and a decoder."""

    vision: VisionConfig
    text: TextConfig
    select_layer: int = -1
    """Which hidden state of the tower is used; -1 is the last layer's output, -4 the fourth from the end."""
    downsample: float = 0.5
    """Pixel shuffle folds 1/downsample x 1/downsample patches into one slot."""
    pixel_shuffle: Literal["v1", "v2"] = "v2"
    """v1 leaves rows and columns exchanged; the weights of V1.1 and V1.2 expect that."""
    projector: Literal["mlp1", "llava"] = "mlp1"
    """`mlp1`: LayerNorm, Linear, GELU, Linear over shuffled patches. `llava`: Linear, GELU, Linear over plain patches
    (InternVL-Chat-Vicuna)."""
    image_token: int
    """Id of `<IMG_CONTEXT>`: the slots that image features fill."""
    image_size: int | None = None
    """Side of one tile in pixels; None: the tower's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        side = round(1 / self.downsample)
        if self.projector == "mlp1" and (self.tile_size // self.vision.patch_size) % side:
            raise ConfigError(
                f"ChatConfig: {self.tile_size} px tiles have {self.tile_size // self.vision.patch_size} patches a "
                f"side, which pixel shuffle by {side} cannot fold; use a multiple of {side * self.vision.patch_size}"
            )
        if not -self.vision.layers - 1 <= self.select_layer <= self.vision.layers:
            raise ConfigError(
                f"ChatConfig: select_layer {self.select_layer}, but there are {self.vision.layers} layers"
            )

    @property
    def tile_size(self) -> int:
        return self.image_size or self.vision.image_size

    @property
    def slots_per_tile(self) -> int:
        """Image tokens one tile takes: 256 for 448 px, patch 14, downsample 0.5."""
        patches = (self.tile_size // self.vision.patch_size) ** 2
        return int(patches * self.downsample**2) if self.projector == "mlp1" else patches


@dataclass(frozen=True, kw_only=True)
class PairConfig(_Checked):
    """InternVL-C and InternVL-G: a vision tower and a text tower that end in one embedding space."""

    vision: VisionConfig
    text: TextConfig
    embed_dim: int = 768
    pool_heads: int = 16
    queries: int = 96
    """Learnt query tokens of QLLaMA; 0 for a plain InternVL-C, which has no queries and no cross-attention."""
    cross_every: int = 2
    """Layers 0, cross_every, 2 cross_every, ... have cross-attention to the image."""
    image_size: int | None = None
    """Side of the picture where it differs from the tower's own (364 for the Flickr fine-tunes)."""

    @property
    def tile_size(self) -> int:
        return self.image_size or self.vision.image_size

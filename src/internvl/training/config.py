"""Everything a training run is told, as frozen values. A recipe returns one; the command line changes single fields.

    TrainConfig = start (which weights) + learn (which of them change) + data + objective + optim + run + parallel

What cannot be honoured is refused when the value is made, all faults at once; a value that nothing would read too
(`training.faults` says where each is read).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from internvl.data.mixture import Source
from internvl.errors import ConfigError
from internvl.training.faults import faults

Dtype = Literal["bf16", "fp16", "fp32"]
Batching = Literal["packed", "grouped", "plain"]
Overlong = Literal["drop", "fewer_tiles"]
Weighting = Literal["token", "sample", "square"]
Kind = Literal["sft", "dpo", "mpo", "pretrain_pair", "retrieval", "classify"]
Reference = Literal["model", "adapter_off", "cache"]
ScheduleName = Literal["cosine", "linear", "constant", "wsd"]
Shard = Literal["full", "hybrid", "none"]


@dataclass(frozen=True, kw_only=True)
class Start:
    """Which weights training begins from: a checkpoint, a new model of parts, or a checkpoint with parts exchanged."""

    model: str | None = None
    """Hub id, zoo name or folder; None, and no parts: the embedded nano."""
    vision: str | None = None
    """A tower (InternViT, or the tower of a chat checkpoint)."""
    language: str | None = None
    """A language model (plain, or that of a chat checkpoint), with its tokenizer."""
    projector: str | None = None
    """A chat checkpoint, or a file of `mlp1` weights; None with new parts: freshly initialised."""
    template: str | None = None
    """None: the checkpoint's."""
    new_tokens: tuple[str, ...] = ()
    tile_size: int | None = None
    """Side of a tile in pixels; positions are resized once, for good. None: the checkpoint's."""
    select_layer: int | None = None
    pixel_shuffle: Literal["v1", "v2"] | None = None
    drop_path: float = 0.0
    """Stochastic depth of a tower that learns."""
    pooling: Literal["linear", "attention", "clip_projector"] = "linear"
    """What of the tower's states a new head of `classify` sees."""


@dataclass(frozen=True, kw_only=True)
class Learn:
    """What changes. A part with an adapter is itself frozen."""

    vision: bool = True
    projector: bool = True
    language: bool = True
    vision_layers: str = "all"
    """Blocks of a learning tower that change: `all`, or a slice like `-4:` or `0:12` (embeddings then stay)."""
    language_layers: str = "all"
    only: tuple[str, ...] = ()
    """If given, only parameters whose names start so change (`text_projection`, `qllama.lm_head`)."""
    vision_lora: int = 0
    """Rank of the adapters of the tower; 0: none."""
    language_lora: int = 0
    lora_alpha: float | None = None
    """None: twice the rank."""
    lora_dropout: float = 0.05
    dora: bool = False
    quantize: Literal["int8", "int4"] | None = None
    """Hold the frozen linear layers under adapters in fewer bits."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is read, how a sample is made of it, and how samples become batches."""

    path: str = ""
    """A meta file (JSON), or one annotation file. What its rows are follows from the objective."""
    root: str = ""
    """Where the media of `path` and `held_out` are; `sources` have roots of their own."""
    sources: tuple[Source, ...] = ()
    """Instead of `path`."""
    held_out: str = ""
    """Like `path`: rows that are never learnt from, for the losses and answers during training."""
    held_out_rows: int = 256
    resampling: Literal["size", "sqrt"] = "size"
    """How often a source is drawn: in proportion to its rows, or to their square root."""
    max_length: int = 8192
    """Tokens of one sample."""
    overlong: Overlong = "drop"
    bad_rows: float = 0.01
    """The share of rows that may be unusable before the run stops."""
    min_tiles: int | None = None
    max_tiles: int | None = None
    """Of one sample, without thumbnails; None: the checkpoint's."""
    dynamic: bool | None = None
    thumbnail: bool | None = None
    min_frames: int = 8
    max_frames: int = 32
    batching: Batching = "packed"
    rows: int = 1
    """Of one micro-batch on one device: packs, or rows of `grouped` and `plain` batches."""
    pack_tokens: int = 8192
    pack_tiles: int = 48
    pack_buffers: int = 20
    text_length: int = 80
    """Tokens of a caption (image-text pairs)."""
    part: float = 0.5
    """The least share of its area that is seen of a picture with a caption; what is seen is drawn each time anew."""
    mirror: float = 0.5
    """How often left and right of such a picture are exchanged; 0 where captions speak of them, or pictures of text."""
    classes: str = ""
    """Of `classify`: how many, a file of their names, one a line, or the names with commas between them; empty: the
    labels that the rows have are looked for."""
    workers: int = 4
    """Processes that prepare samples on each rank; 0: none besides the training itself."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What is made small."""

    kind: Kind = "sft"
    weighting: Weighting = "token"
    beta: float = 0.1
    label_smoothing: float = 0.0
    preference: float = 0.8
    """Weight of the DPO term of MPO."""
    quality: float = 0.2
    """Weight of the BCO term of MPO."""
    generation: float = 1.0
    """Weight of the SFT term of MPO on the chosen answers."""
    reference: Reference = "model"
    matching: float = 1.0
    """Weights of the three terms of `pretrain_pair` and `retrieval`: ITM, ITC, ITG."""
    contrastive: float = 1.0
    captioning: float = 1.0
    router: float = 0.0
    """Weight of the load balance of a mixture of experts."""


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW and its schedule."""

    lr: float = 2e-5
    vision_lr: float | None = None
    """None: `lr`."""
    projector_lr: float | None = None
    language_lr: float | None = None
    weight_decay: float = 0.05
    vision_weight_decay: float | None = None
    """None: `weight_decay`."""
    projector_weight_decay: float | None = None
    language_weight_decay: float | None = None
    decay_all: bool = True
    """Also norms, biases, layer scales, embeddings and adapters, as the first code base did; False: matrices alone."""
    vision_layer_decay: float = 1.0
    """Each block below the last learns this much slower than the one above it."""
    language_layer_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float = 1.0
    """Largest norm of all gradients together; 0: none."""
    schedule: ScheduleName = "cosine"
    warmup: float = 0.03
    """Below 1 a share of all steps, from 1 on a number of steps."""
    decay: float = 0.2
    """`wsd`: the share of all steps in which the rate falls."""
    floor: float = 0.0
    """The rate at the end, as a share of the highest."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How long, in what precision, and what is kept of it."""

    out: str = "runs/out"
    steps: int | None = None
    """None: as many as `epochs` take."""
    epochs: float = 1.0
    """Instead of `steps`."""
    batch: int = 1
    """Rows or packs of one optimiser step over all ranks; divided by ranks and `data.rows`, the rest is accumulated."""
    seed: int = 42
    dtype: Dtype = "bf16"
    """Of the products; weights that learn are kept in fp32."""
    device: str | None = None
    save_every: int = 200
    keep: int = 3
    resume: bool = True
    """Go on from the newest checkpoint in `out`, if there is one."""
    eval_every: int = 0
    """Of steps, on the held-out rows; 0: at the end only."""
    best: str = "loss"
    """The held-out figure that chooses the best checkpoint; losses are small when good, all else large."""
    patience: int = 0
    """Stop after so many evaluations (`eval_every`) without a better figure; 0: never."""
    log_every: int = 1
    tensorboard: bool = True
    wandb: bool = False


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Over how many devices, and what is recomputed."""

    shard: Shard = "full"
    """Under torchrun: `full` over all ranks, `hybrid` within a node with a copy on each, `none` copies alone."""
    offload: bool = False
    """Keep weights and optimiser in host memory."""
    checkpoint_language: bool = True
    """Recompute each layer in the backward pass."""
    checkpoint_vision: bool = True
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training run.

    >>> TrainConfig(data=Data(path="train.jsonl"), optim=Optim(lr=4e-5)).run.steps is None
    True
    """

    start: Start = field(default_factory=Start)
    learn: Learn = field(default_factory=Learn)
    data: Data = field(default_factory=Data)
    objective: Aim = field(default_factory=Aim)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)
    parallel: Parallel = field(default_factory=Parallel)

    def __post_init__(self) -> None:
        if found := list(faults(self)):
            raise ConfigError(f"the training config cannot be used: {'; '.join(found)}")

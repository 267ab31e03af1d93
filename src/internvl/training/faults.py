"""What is wrong with a training config, as far as it can be seen without a file and a model.

A setting is honoured or refused. `READ` says for every field that not every run reads where it is read; a value other
than the default is a fault anywhere else. What every run reads stands in `ALWAYS_READ`; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from internvl.training.config import Learn, TrainConfig

Part = Literal["vision", "projector", "language"]

PREFIXES: dict[str, Part] = {
    "vision_model.": "vision", "embeddings.": "vision", "encoder.": "vision", "tower.": "vision",
    "language_model.": "language", "qllama.": "language",
}  # fmt: skip
"""Everything else is of the projector: `mlp1`, in a pair the pools, queries and heads, and the head of a classifier."""
CHAT, PREFERENCES, PAIRS = ("sft", "dpo", "mpo"), ("dpo", "mpo"), ("pretrain_pair", "retrieval")
RATES = (
    *("lr", "vision_lr", "projector_lr", "language_lr", "warmup", "clip"),
    *("weight_decay", "vision_weight_decay", "projector_weight_decay", "language_weight_decay"),
)
"""What may not be negative."""


def faults(config: TrainConfig) -> Iterator[str]:
    """Every fault that needs no file and no model to be seen."""
    yield from _out_of_range(config)
    for key, default in unread(config).items():
        when = READ[key]
        yield (
            f"{key} is {_found(value_of(config, key))}, but nothing reads it {when.without}: {when.remedy}, "
            f"or {key}={_shown(default)}"
        )
    yield from _contradictions(config)
    yield from _faults_of_pictures(config)


# ---- where a setting is read -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class When:
    """Where a setting is read."""

    without: str
    """Where it is not."""
    remedy: str
    """What to set for it to be read."""
    holds: Callable[[TrainConfig], bool]


def learns(learn: Learn, part: Part, *, whole: bool = False) -> bool:
    """Whether something of a part may change; `whole`: more than adapters. The model may have no such part."""
    rank = {"vision": learn.vision_lora, "language": learn.language_lora}.get(part, 0)
    asked = not rank and getattr(learn, part) if whole else rank > 0 or getattr(learn, part)
    return bool(asked) and (not learn.only or any(_may_be_of(prefix, part) for prefix in learn.only))


def _may_be_of(prefix: str, part: Part) -> bool:
    """Whether parameters of the part may start so."""
    parts = {own for name, own in PREFIXES.items() if prefix.startswith(name)} or {
        "projector", *(own for name, own in PREFIXES.items() if name.startswith(prefix))
    }  # fmt: skip
    return part in parts


def _of_kind(*kinds: str) -> When:
    names = ", ".join(kinds)
    return When(
        f"where objective.kind is {'none of ' if len(kinds) > 1 else 'not '}{names}",
        "choose such a kind" if len(kinds) > 1 else f"set objective.kind={names}",
        lambda config: config.objective.kind in kinds,
    )


_HELD_OUT = When("without held-out rows", "set data.held_out", lambda c: bool(c.data.held_out))
_PATIENT = When(
    "without evaluations on the way", "set data.held_out and run.eval_every",
    lambda c: bool(c.data.held_out) and c.run.eval_every > 0,
)  # fmt: skip
_ADAPTED = When(
    "without adapters", "set learn.language_lora or learn.vision_lora",
    lambda c: c.learn.language_lora > 0 or c.learn.vision_lora > 0,
)  # fmt: skip
_PACKED = When("where data.batching is not packed", "set data.batching=packed", lambda c: c.data.batching == "packed")
_TOWER_WHOLE = When(
    "where the tower does not learn whole", "set learn.vision=true and learn.vision_lora=0",
    lambda c: learns(c.learn, "vision", whole=True),
)  # fmt: skip
_LANGUAGE_WHOLE = When(
    "where the language model does not learn whole", "set learn.language=true and learn.language_lora=0",
    lambda c: c.objective.kind != "classify" and learns(c.learn, "language", whole=True),
)  # fmt: skip
_TOWER = When(
    "where the tower does not learn", "set learn.vision=true or learn.vision_lora",
    lambda c: learns(c.learn, "vision"),
)  # fmt: skip
_PROJECTOR = When(
    "where the projector does not learn", "set learn.projector=true", lambda c: learns(c.learn, "projector")
)
_LANGUAGE = When(
    "where no language model learns", "set learn.language=true or learn.language_lora",
    lambda c: c.objective.kind != "classify" and learns(c.learn, "language"),
)  # fmt: skip
_SMOOTHED = When(
    "where objective.kind is none of dpo, mpo, pretrain_pair, classify, or its term has no weight",
    "choose such a kind",
    lambda c: (
        c.objective.kind in ("dpo", "classify")
        or (c.objective.kind == "mpo" and c.objective.preference > 0)
        or (c.objective.kind == "pretrain_pair" and c.objective.contrastive > 0)
    ),
)
_WEIGHTED = When(
    "where objective.kind is not sft, or mpo with objective.generation", "set objective.kind=sft",
    lambda c: c.objective.kind == "sft" or (c.objective.kind == "mpo" and c.objective.generation > 0),
)  # fmt: skip

READ: dict[str, When] = {
    **{
        f"start.{name}": _of_kind(*CHAT)
        for name in ("vision", "language", "projector", "template", "new_tokens", "select_layer", "pixel_shuffle")
    },
    "start.drop_path": _TOWER,
    "start.pooling": _of_kind("classify"),
    "learn.vision_layers": _TOWER_WHOLE,
    "learn.language_layers": _LANGUAGE_WHOLE,
    **{f"learn.{name}": _ADAPTED for name in ("lora_alpha", "lora_dropout", "dora", "quantize")},
    "data.root": When(
        "beside data.sources, which have roots of their own", "give each source its root",
        lambda c: not c.data.sources or bool(c.data.held_out),
    ),
    "data.held_out_rows": _HELD_OUT,
    **{
        f"data.{name}": _of_kind(*CHAT)
        for name in (
            *("max_length", "overlong", "min_tiles", "max_tiles", "dynamic", "thumbnail", "min_frames", "max_frames"),
        )
    },
    "data.rows": When(
        "where data.batching is packed, for a pack is one row", "set data.pack_tokens instead",
        lambda c: c.data.batching != "packed",
    ),
    **{f"data.{name}": _PACKED for name in ("pack_tokens", "pack_tiles", "pack_buffers")},
    **{f"data.{name}": _of_kind(*PAIRS) for name in ("text_length", "part", "mirror")},
    "data.classes": _of_kind("classify"),
    "objective.weighting": _WEIGHTED,
    "objective.label_smoothing": _SMOOTHED,
    **{f"objective.{name}": _of_kind(*PREFERENCES) for name in ("beta", "reference")},
    **{f"objective.{name}": _of_kind("mpo") for name in ("preference", "quality", "generation")},
    **{f"objective.{name}": _of_kind(*PAIRS) for name in ("matching", "contrastive", "captioning")},
    "objective.router": _of_kind("sft"),
    **{f"optim.vision_{name}": _TOWER for name in ("lr", "weight_decay", "layer_decay")},
    **{f"optim.projector_{name}": _PROJECTOR for name in ("lr", "weight_decay")},
    **{f"optim.language_{name}": _LANGUAGE for name in ("lr", "weight_decay", "layer_decay")},
    "optim.decay": When(
        "where optim.schedule is not wsd", "set optim.schedule=wsd", lambda c: c.optim.schedule == "wsd"
    ),
    "optim.floor": When(
        "where optim.schedule is constant", "choose another schedule", lambda c: c.optim.schedule != "constant"
    ),
    "run.epochs": When("where run.steps is given", "set run.steps=none", lambda c: c.run.steps is None),
    **{f"run.{name}": _HELD_OUT for name in ("eval_every", "best")},
    "run.patience": _PATIENT,
}  # fmt: skip
"""Field -> where it is read."""

ALWAYS_READ = frozenset(
    f"{section}.{name}"
    for section, names in {
        "start": "model tile_size",
        "learn": "vision projector language only vision_lora language_lora",  # a part that is not there does not learn
        "data": "path sources held_out resampling bad_rows batching workers",
        "objective": "kind",
        "optim": "lr weight_decay decay_all betas eps clip schedule warmup",
        "run": "out steps batch seed dtype device save_every keep resume log_every tensorboard wandb",
        "parallel": "shard offload checkpoint_language checkpoint_vision compile",
    }.items()
    for name in names.split()
)
"""What every run reads. That nothing is recomputed, or shared out, is true where there is nothing to."""


def unread(config: TrainConfig) -> dict[str, Any]:
    """The fields that differ from their defaults and that this run would not read, with the defaults."""
    found: dict[str, Any] = {}
    for key, when in READ.items():
        section, _, name = key.partition(".")
        default = getattr(type(getattr(config, section)), name)
        if value_of(config, key) != default and not when.holds(config):
            found[key] = default
    return found


def value_of(config: TrainConfig, key: str) -> Any:
    """The value of a `section.field`."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def _found(value: Any) -> str:
    return repr(value) if isinstance(value, str) else _shown(value)


def _shown(value: Any) -> str:
    """As the command line writes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# ---- values of their own ---------------------------------------------------------------------------------------------


def _out_of_range(config: TrainConfig) -> Iterator[str]:
    """Values that no run could have."""
    learn, data, aim, optim, run = config.learn, config.data, config.objective, config.optim, config.run
    positive = {
        "start.tile_size": config.start.tile_size, "learn.lora_alpha": learn.lora_alpha,
        "data.max_length": data.max_length, "data.rows": data.rows, "data.pack_tokens": data.pack_tokens,
        "data.pack_tiles": data.pack_tiles, "data.pack_buffers": data.pack_buffers, "run.batch": run.batch,
        "run.epochs": run.epochs, "optim.eps": optim.eps, "data.text_length": data.text_length,
        "data.min_frames": data.min_frames, "run.save_every": run.save_every, "run.keep": run.keep,
        "objective.beta": aim.beta, "run.log_every": run.log_every, "data.held_out_rows": data.held_out_rows,
        "data.min_tiles": data.min_tiles, "data.max_tiles": data.max_tiles, "data.part": data.part,
    }  # fmt: skip
    given = {name: value for name, value in positive.items() if value is not None}
    yield from (f"{name} is {value}, expected more than 0" for name, value in given.items() if not value > 0)
    shares = {
        "data.bad_rows": data.bad_rows, "optim.decay": optim.decay, "optim.floor": optim.floor,
        "start.drop_path": config.start.drop_path, "learn.lora_dropout": learn.lora_dropout,
        "objective.label_smoothing": aim.label_smoothing, "data.part": data.part, "data.mirror": data.mirror,
    }  # fmt: skip
    yield from (f"{name} is {value}, expected 0 to 1" for name, value in shares.items() if not 0 <= value <= 1)
    rates: dict[str, float | None] = {f"optim.{name}": getattr(optim, name) for name in RATES}
    rates |= {f"learn.{name}": getattr(learn, name) for name in ("vision_lora", "language_lora")}
    rates |= {f"run.{name}": getattr(run, name) for name in ("eval_every", "patience")}
    weights = ("preference", "quality", "generation", "matching", "contrastive", "captioning", "router")
    rates |= {f"objective.{name}": getattr(aim, name) for name in weights}
    rates["data.workers"] = data.workers
    told = ((name, value) for name, value in rates.items() if value is not None)
    yield from (f"{name} is {value}, expected 0 or more" for name, value in told if not value >= 0)
    for name in ("vision_layer_decay", "language_layer_decay"):
        if not 0 < getattr(optim, name) <= 1:
            yield f"optim.{name} is {getattr(optim, name)}, expected above 0, and 1 at most"
    if not all(0 <= beta < 1 for beta in optim.betas):
        yield f"optim.betas is {_shown(optim.betas)}, expected two numbers from 0 to below 1"
    if run.steps is not None and run.steps < 1:
        yield f"run.steps is {run.steps}, expected at least 1"


# ---- values that do not go together ----------------------------------------------------------------------------------


def _contradictions(config: TrainConfig) -> Iterator[str]:
    data, run = config.data, config.run
    if data.rows > 0 and run.batch % data.rows:
        yield f"run.batch is {run.batch}, which data.rows {data.rows} does not divide"
    if data.path and data.sources:
        yield "data.path and data.sources are both given, expected one of them"
    if data.max_frames < data.min_frames:
        yield f"data.max_frames is {data.max_frames}, below data.min_frames {data.min_frames}"
    if data.min_tiles is not None and data.max_tiles is not None and data.max_tiles < data.min_tiles:
        yield f"data.max_tiles is {data.max_tiles}, below data.min_tiles {data.min_tiles}"
    yield from _faults_of_adapter_off(config)


def _faults_of_adapter_off(config: TrainConfig) -> Iterator[str]:
    """The model without its adapters is what training began with only where nothing but adapters learns."""
    learn, aim = config.learn, config.objective
    if aim.reference != "adapter_off" or aim.kind not in PREFERENCES:
        return
    if not (learn.language_lora or learn.vision_lora):
        yield "objective.reference is adapter_off, but learn.language_lora and learn.vision_lora are 0"
    parts: tuple[Part, ...] = ("vision", "projector", "language")
    if whole := [f"learn.{part}" for part in parts if learns(learn, part, whole=True)]:
        yield (
            f"objective.reference is adapter_off, but {' and '.join(whole)} learn besides adapters: set "
            f"{' '.join(f'{name}=false' for name in whole)}, or objective.reference=model"
        )


def _faults_of_pictures(config: TrainConfig) -> Iterator[str]:
    """Of pairs and labelled pictures: batches are rows of single tiles, and rows are seen beside each other."""
    aim, data = config.objective, config.data
    if aim.kind in CHAT:
        return
    if data.batching == "packed":
        yield f"data.batching is packed, but {aim.kind} has rows and no packs: set data.batching=plain and data.rows"
    elif data.rows < 2 and aim.kind == "classify":
        yield f"data.rows is {data.rows}, but classify normalises over the rows of a batch: set data.rows to 2 or more"
    elif data.rows < 2 and (aim.matching or aim.contrastive):
        yield f"data.rows is {data.rows}, which leaves no other text to tell a picture's from: set data.rows above 1"

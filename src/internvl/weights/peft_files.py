"""Adapters in a folder of their own, as peft and the engines that follow it keep them.

    adapter_config.json          rank, alpha, which layers
    adapter_model.safetensors    base_model.model.<layer>.lora_A.weight, .lora_B.weight, .lora_magnitude_vector

The names of the layers are those of the base checkpoint's layout, as if peft had wrapped the whole model:
`base_model.model.language_model.model.layers.0.self_attn.q_proj` for the published code,
`base_model.model.model.language_model.layers.0.self_attn.q_proj` for transformers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from internvl.errors import CheckpointError, ConfigError, InternVLError, KeyMismatch, UsageError, find
from internvl.models.chat import ChatModel
from internvl.models.layers import add_adapter
from internvl.weights import adapters
from internvl.weights.adapters import MAGNITUDE, A, B
from internvl.weights.checkpoint import Model, Origin
from internvl.weights.files import Handle, open_weights, whole_folder, write_safetensors
from internvl.weights.formats import TABLE, Layout, parse_json
from internvl.weights.keys import Dialect
from internvl.weights.rules import KeyTable, Step, some
from internvl.weights.sidecars import dump

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WRAPPED = "base_model.model."
LEAVES = {".lora_A.weight": f"{A}default.weight", ".lora_B.weight": f"{B}default.weight",
          ".lora_magnitude_vector": f"{MAGNITUDE}default.weight"}  # fmt: skip
"""Their ending of a tensor -> ours."""
HOMES = (("custom", False), ("hf", True), ("hf", False), ("pair", False))
"""Layouts, and whether every part stands under `model.`, in the order in which names are tried."""

_NAMES = re.compile(r"\^?(?:\.\*)?(?:[\w-]|\\?\.|\\-)+\$?", re.ASCII)
LONGEST_NAME = 1000
"""Letters of a pattern for names of layers, at most."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters alone."""
    return (folder / CONFIG).is_file()


def base_named_by(folder: Path) -> str | None:
    """The base model that a folder of adapters names, if it does."""
    return _config(folder).get("base_model_name_or_path") or None


# --- writing ----------------------------------------------------------------------------------------------------------


def export_adapter(
    model: Model, folder: str | Path, *, format: str | None = None, base: str | None = None, replace: bool = False
) -> None:
    """Write the adapters of a model, and nothing else, for a base in the layout `format` (None: the model's own).

    `base` is the id of the base model, for whoever reads the folder.

    >>> export_adapter(model, "receipts-lora", base="OpenGVLab/InternVL2_5-1B")  # doctest: +SKIP
    """
    layers = adapters.adapted(model)
    if not layers:
        raise UsageError("this model has no adapter to export; it has none, or they were merged")
    if len({adapters.magnitude_of(layer) is None for layer in layers.values()}) > 1:
        raise UsageError(
            "some adapters of this model are DoRA and some are not; peft has one kind in a folder: merge them"
        )
    layout = find("layout", format or _home(model), TABLE)
    state = {
        name: tensor.detach().to("cpu")
        for name, tensor in model.state_dict().items()
        if ".lora_" in name and name.rpartition(".lora_")[0] in layers
    }
    table = _table(model, layout, prefixed=True)
    stored: dict[str, Tensor] = {}
    scales: dict[str, float] = {}
    for step in table.plan(state, "ours"):
        stored |= dict(zip(step.theirs, step.rule.write([state[name] for name in step.ours]), strict=True))
        scale = {adapters.scale_of(layers[name.rpartition(".lora_")[0]]) for name in step.ours}
        if len(scale) > 1:
            raise UsageError(f"{some(step.ours)} are one layer in layout {layout.name!r} but have different scales")
        scales |= {name.rpartition(".lora_")[0]: next(iter(scale)) for name in step.theirs}
    with whole_folder(Path(folder), replace=replace) as growing:
        tensors = {f"{WRAPPED}{_theirs(name)}": Handle.of(tensor.contiguous()) for name, tensor in stored.items()}
        write_safetensors(growing / WEIGHTS, dict(sorted(tensors.items())), {"format": "pt"})
        (growing / CONFIG).write_bytes(dump(_written(stored, scales, base)))


def _written(stored: Mapping[str, Tensor], scales: Mapping[str, float], base: str | None) -> dict[str, Any]:
    """The config: the commonest rank and alpha, and the layers that have others."""
    ranks = {name.rpartition(".lora_")[0]: tensor.shape[0] for name, tensor in stored.items() if A in name}
    alphas = {name: round(scales[name] * rank, 9) for name, rank in ranks.items()}
    rank, alpha = (max(set(v.values()), key=list(v.values()).count) for v in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {_pattern(name): r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {_pattern(name): a for name, a in alphas.items() if a != alpha},
        "target_modules": sorted({".".join(name.split(".")[-2:]) for name in ranks}),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_dora": any(MAGNITUDE in name for name in stored),
        "use_rslora": False,
        "inference_mode": True,
        "modules_to_save": None,
        "task_type": None,
    }


def _pattern(name: str) -> str:
    return "^" + re.escape(name)


# --- reading ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def load_adapter(model: Model, folder: str | Path) -> int:
    """Put adapters of a folder beside the linear layers of a base model; says on how many layers.

    Read are those of the published layout and of transformers, with the names of the whole model or of its language
    model alone. `CheckpointError` for what this package does not compute: trained biases, adapters that are not LoRA.
    """
    folder = Path(folder)
    config = _config(folder)
    stored = {_ours(name): handle for name, handle in open_weights(folder / WEIGHTS).handles().items()}
    if adapters.adapted(model):
        raise UsageError(f"the model has adapters already; merge them before {folder} is put on it")
    steps = _plan(model, list(stored), folder)
    _whole(list(stored), folder, dora=bool(config.get("use_dora")))
    tensors: dict[str, Tensor] = {}
    for step in steps:
        read = step.rule.read([stored[name].read() for name in step.theirs])
        tensors |= dict(zip(step.ours, read, strict=True))
    alphas = _Alphas.read(config, folder / CONFIG)
    layers = {name.partition(A)[0]: step for step in steps for name in step.ours if A in name}
    for name, step in layers.items():
        theirs = next(n for n in step.theirs if A in n).partition(A)[0]
        rank = tensors[f"{name}{A}default.weight"].shape[0]
        dora = f"{name}{MAGNITUDE}default.weight" in tensors
        add_adapter(model, name, rank, alphas.of(theirs, rank), dora=dora)
    for name, tensor in tensors.items():
        target = model.get_parameter(name)
        if target.shape != tensor.shape:
            raise KeyMismatch(f"{folder}: {name} is {list(tensor.shape)}, expected {list(target.shape)}")
        target.copy_(tensor)
    return len(layers)


def _whole(names: list[str], folder: Path, *, dora: bool) -> None:
    """That each layer has all that it computes with: A, B, and with DoRA lengths; peft has one kind for all layers."""
    leaves = (A, B, MAGNITUDE) if dora or any(MAGNITUDE in name for name in names) else (A, B)
    layers = dict.fromkeys(name.rpartition(".lora_")[0] for name in names)
    missing = [f"{layer}{leaf}default.weight" for layer in layers for leaf in leaves]
    missing = [_theirs(name) for name in missing if name not in names]
    if missing or not layers:
        raise KeyMismatch(
            f"{folder / WEIGHTS}: {f'{some(missing)} missing' if missing else 'no adapter in it'}; expected "
            f"{', '.join(leaf.strip('.') for leaf in leaves)} of every layer: get the file anew"
        )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {CONFIG}; expected a folder of adapters as peft writes them")
    config = parse_json(path.read_bytes(), str(path))
    unknown = {"peft_type": "LORA", "bias": "none", "modules_to_save": None, "fan_in_fan_out": False,
               "trainable_token_indices": None, "layer_replication": None}  # fmt: skip
    for key, known in unknown.items():
        if config.get(key, known) not in (known, [] if known is None else known):
            raise CheckpointError(f"{path}: {key} is {config[key]!r:.80}; this package computes {known!r} only")
    return config


@dataclass(frozen=True)
class _Alphas:
    """alpha of each layer: that of the first pattern that it fits, or that of all.

    With rank-stabilised scaling alpha / sqrt(rank) counts. peft runs the patterns as regular expressions; a file that
    came from somewhere is not trusted with that. Read is what names layers: literally, dots escaped or not, from the
    beginning (`^`), after anything (`.*`), or as the last parts of a name.
    """

    common: float
    patterns: Mapping[str, float]
    stabilised: bool

    @classmethod
    def read(cls, config: Mapping[str, Any], where: Path) -> _Alphas:
        patterns = config.get("alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise CheckpointError(f"{where}: alpha_pattern is {patterns!r:.80}, expected layers with their alpha")
        told: dict[str, Any] = {"lora_alpha": config.get("lora_alpha", 8), **patterns}
        for key, alpha in told.items():
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
                raise CheckpointError(f"{where}: alpha of {key!r:.80} is {alpha!r:.80}, expected a number")
        for pattern in patterns:
            if len(pattern) > LONGEST_NAME or not _NAMES.fullmatch(pattern):
                raise CheckpointError(
                    f"{where}: alpha_pattern has {pattern!r:.80}; expected names of layers, with escaped dots or '.*' "
                    "before them: write out which layers are meant"
                )
        return cls(told["lora_alpha"], patterns, bool(config.get("use_rslora")))

    def of(self, name: str, rank: int) -> float:
        alpha = float(next((a for pattern, a in self.patterns.items() if _names(pattern, name)), self.common))
        return alpha * math.sqrt(rank) if self.stabilised else alpha


def _names(pattern: str, name: str) -> bool:
    """Whether a pattern that `_NAMES` knows is of this layer.

    >>> _names(r"layers\\.0\\.fc1", "tower.layers.0.fc1"), _names("^fc1", "tower.fc1"), _names(".*c1", "tower.fc1")
    (True, False, True)
    """
    begins, anything, literal = pattern.startswith("^"), ".*" in pattern, pattern.removeprefix("^")
    literal = literal.removeprefix(".*").removesuffix("$").replace("\\", "")
    if anything:
        return name.endswith(literal)
    return name == literal or (not begins and name.endswith(f".{literal}"))


def _plan(model: Model, names: list[str], folder: Path) -> list[Step]:
    """Which of their tensors are which of ours, in the first layout that knows all of these names."""
    for table in _tables(model):
        try:
            return table.plan(names, "theirs")
        except KeyMismatch:
            continue
    raise KeyMismatch(f"{folder}: {some(names)} are layers of no layout that this model has; is it of another base?")


def _tables(model: Model) -> Iterator[KeyTable]:
    for name, prefixed in HOMES:
        layout = TABLE[name]
        if isinstance(model.config, layout.model):
            try:
                yield _table(model, layout, prefixed=prefixed)
            except ConfigError:  # transformers has no such model
                continue
    if isinstance(model, ChatModel):  # the language model was wrapped alone
        yield _alone(_table(model, TABLE["custom"], prefixed=False))


def _alone(table: KeyTable) -> KeyTable:
    rules = [
        replace(rule, theirs=tuple(name.removeprefix("language_model.") for name in rule.theirs))
        for rule in table.rules
        if rule.theirs[0].startswith("language_model.")
    ]
    return KeyTable(rules)


# --- names ------------------------------------------------------------------------------------------------------------


def _home(model: Model) -> str:
    own = model.origin.format if model.origin is not None else "custom"
    return own if own in ("custom", "hf", "pair") else "custom"


def _table(model: Model, layout: Layout, *, prefixed: bool) -> KeyTable:
    """The key table of a layout for a base without peft's prefix."""
    if not isinstance(model.config, layout.model) or layout.write is None:
        raise UsageError(f"layout {layout.name!r} has no place for adapters of this model")
    origin: Origin | None = model.origin
    raw = origin.raw if origin is not None and origin.format == layout.name else layout.write(model.config)
    return layout.table(model.config, raw, Dialect(prefixed=prefixed and layout.name == "hf"))


def _theirs(name: str) -> str:
    for theirs, ours in LEAVES.items():
        if name.endswith(ours):
            return name.removesuffix(ours) + theirs
    raise InternVLError(f"{name} is no tensor of an adapter")


def _ours(name: str) -> str:
    name = name.removeprefix(WRAPPED)
    for theirs, ours in LEAVES.items():
        if name.endswith(theirs):
            return name.removesuffix(theirs) + ours
    return name

"""Low-rank adapters of a model that trains, put on by `peft` (Hu et al. 2021, arXiv:2106.09685).

Where the checkpoint's layout stores several of our linear layers as one (InternLM2's wqkv, Phi-3's qkv and gate_up),
these layers have one A between them, as if the adapter stood on the fused weight: the same number of parameters as in
the first code base, and a file of the rank that was asked for.

With `learn.quantize` the layers under the adapters are `models.quantized.QuantizedLinear`. A saved model holds the
plain weights that these stand for, in fp32: it computes what was trained. A resumed run quantises the weights of its
start again, which gives the same codes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from internvl.errors import ConfigError, MissingExtra
from internvl.models.config import ChatConfig
from internvl.models.layers import LoraLinear
from internvl.models.quantized import QuantizedLinear
from internvl.training.config import Learn
from internvl.training.held import NARROW, to_fp32
from internvl.weights import adapters
from internvl.weights.adapters import Form
from internvl.weights.formats import TABLE, Layout
from internvl.weights.keys import Dialect
from internvl.weights.load import own_format
from internvl.weights.rules import LORA_LEAVES

PARTS = {"vision": ("vision_model",), "language": ("language_model", "qllama")}
"""Part -> what it may be called in a model."""
LEAVES = (*LORA_LEAVES, "lora_magnitude_vector.default.weight")


def put(model: nn.Module, learn: Learn, *, seed: int = 0) -> frozenset[str]:
    """Put the adapters that are asked for on the model; the parts that have some.

    A model that came with adapters goes on with them, if they are of the form that is asked for. New ones change
    nothing: B is zero.
    """
    put_on: set[str] = set()
    for part, rank, learns in (
        ("vision", learn.vision_lora, learn.vision),
        ("language", learn.language_lora, learn.language),
    ):
        form = Form(
            rank, 2.0 * rank if learn.lora_alpha is None else float(learn.lora_alpha), bool(rank and learn.dora)
        )
        name = next((n for n in PARTS[part] if isinstance(getattr(model, n, None), nn.Module)), "")
        before = {n: layer for n, layer in adapters.adapted(model).items() if name and n.startswith(f"{name}.")}
        if before and (learns or rank):
            _check_same(part, before, form)
        if rank:
            if not name or _layout(model) is None:
                raise ConfigError(
                    f"learn.{part}_lora is {rank}, but no layout has a place for adapters on the {part} part of this "
                    "model; let the part learn whole, or begin from a chat model or InternVL-14B"
                )
            held = _taken_off(model, before)
            _put_on(model, name, form, learn, seed)
            _fill(model, held)
            put_on.add(part)
    return frozenset(put_on)


@contextmanager
def without_adapters(model: nn.Module) -> Generator[None]:
    """The model as it was before its adapters, for as long as the block lasts.

    >>> with without_adapters(model), torch.no_grad():  # doctest: +SKIP
    ...     reference = model.token_logprobs(ids, targets)
    """
    layers = list(adapters.adapted(model).values())
    _switch(layers, off=True)
    try:
        yield
    finally:
        _switch(layers, off=False)


def _switch(layers: Sequence[nn.Module], *, off: bool) -> None:
    for layer in layers:
        if isinstance(layer, LoraLinear):
            layer.off = off
        else:  # peft's own method also freezes the adapters, which a sharded model must not do in between
            layer._disable_adapters = off  # type: ignore[assignment]


# --- putting on -------------------------------------------------------------------------------------------------------


def _put_on(model: nn.Module, part: str, form: Form, learn: Learn, seed: int) -> None:
    """Adapters on every target of one part (`vision_model`), made by peft."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingExtra("adapters need the package peft (pip install 'internvl[train]')") from None
    names = adapters.targets(model, f"{part}.")
    if not names:
        raise ConfigError(f"{part} has no linear layer that takes an adapter; experts take none")
    if form.dora:  # measures the lengths of rows, in fp32
        for name in names:
            for parameter in model.get_submodule(name).parameters():
                to_fp32(parameter)
    if learn.quantize is not None:
        for name in names:
            parent, _, child = name.rpartition(".")
            holder = model.get_submodule(parent)
            setattr(holder, child, QuantizedLinear(getattr(holder, child), learn.quantize))
    config = LoraConfig(
        r=form.rank,
        lora_alpha=form.alpha,  # type: ignore[arg-type]
        lora_dropout=learn.lora_dropout,
        target_modules=[name.removeprefix(f"{part}.") for name in names],
        use_dora=form.dora,
    )
    with torch.random.fork_rng(devices=[]), _seen_in_fp32(model, names):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model.get_submodule(part))
    for group in fused(model, names):
        first, *others = (model.get_submodule(name) for name in group)
        shared: Any = first.lora_A
        for other in others:
            held: Any = other.lora_A
            held["default"] = shared["default"]


@contextmanager
def _seen_in_fp32(model: nn.Module, names: Sequence[str]) -> Generator[None]:
    """peft makes adapters in the type of the layer that they are put on: those of layers in 16 bit learn in fp32."""
    held: dict[nn.Module, nn.Parameter] = {}
    for layer in map(model.get_submodule, names):
        weight: Any = layer.weight
        if not isinstance(layer, QuantizedLinear) and weight.dtype in NARROW:
            held[layer] = weight
            layer.weight = nn.Parameter(torch.zeros((), device=weight.device).expand(weight.shape), requires_grad=False)
    try:
        yield
    finally:
        for layer, weight in held.items():
            layer.weight = weight


def fused(model: Any, names: Sequence[str], family: str = "") -> list[tuple[str, ...]]:
    """Groups of linear layers that the layout of the checkpoint stores as one.

    `family`: the model type of the language model, where there is no checkpoint that says it.
    """
    layout = _layout(model)
    assert layout is not None
    origin, config = model.origin, model.config
    same = origin is not None and origin.format == layout.name
    raw = origin.raw if same else layout.write(config)  # type: ignore[misc]
    raw = {**raw, "llm_config": {"model_type": family}} if family else raw
    table = layout.table(config, raw, Dialect(adapted=frozenset(layout.ranks)))
    leaf = f".{LORA_LEAVES[0]}"
    steps = table.plan([f"{name}.{end}" for name in names for end in LORA_LEAVES], "ours")
    groups = (tuple(ours.removesuffix(leaf) for ours in step.ours if ours.endswith(leaf)) for step in steps)
    return [group for group in groups if len(group) > 1]


def _layout(model: Any) -> Layout | None:
    """The layout that the model with adapters is written in; None where there is none."""
    layout = TABLE[own_format(model)]
    if layout.ranks:
        return layout
    return TABLE["custom"] if isinstance(model.config, ChatConfig) and model.config.projector == "mlp1" else None


# --- adapters that were there -----------------------------------------------------------------------------------------


def _check_same(part: str, before: Mapping[str, nn.Module], form: Form) -> None:
    """What the checkpoint brought must be what is asked for."""
    layer = next(iter(before.values()))
    rank = layer.get_parameter(f"{LEAVES[0]}").shape[0]
    found = Form(rank, adapters.scale_of(layer) * rank, adapters.magnitude_of(layer) is not None)
    if abs(found.alpha - form.alpha) > 1e-6 * found.alpha or (found.rank, found.dora) != (form.rank, form.dora):
        raise ConfigError(
            f"the checkpoint has adapters on its {part} part (rank {found.rank}, alpha {found.alpha:g}, dora "
            f"{found.dora}) and learn asks for rank {form.rank}, alpha {form.alpha:g}, dora {form.dora}; ask for the "
            "same to go on with them, or merge them first: internvl merge"
        )


def _taken_off(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The layers without their adapters; what those held, by name."""
    held: dict[str, Tensor] = {}
    for name, layer in layers.items():
        held |= {f"{name}.{n}": p.detach() for n, p in layer.named_parameters() if n in LEAVES}
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters.base_of(layer))
    return held


@torch.no_grad()
def _fill(model: nn.Module, held: Mapping[str, Tensor]) -> None:
    for name, tensor in held.items():
        model.get_parameter(name).copy_(tensor)

"""`internvl plan`: what a training run needs, before it starts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from internvl.errors import InternVLError, NoSuchName, UsageError

if TYPE_CHECKING:
    from internvl.training.config import TrainConfig
    from internvl.training.plan import Plan
    from internvl.training.shapes import Shapes

GIB = 2**30
NANO = "nano"
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE...]", help="Changed settings, such as optim.lr=2e-5.")
]


def plan(
    what: Annotated[str, typer.Argument(metavar="RECIPE|MODEL", help="A recipe, FILE.py[:NAME], or a model.")],
    changes: Changes = None,
    devices: Annotated[int, typer.Option(min=1, help="How many devices train together.")] = 1,
    memory: Annotated[float | None, typer.Option(metavar="GIB", help="Of each device; says what would fit.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Estimate parameters, memory and time of a training run; no weights are read.

    internvl plan internvl2_5_8b_lora --devices 2 --memory 80

    internvl plan InternVL2_5-8B data.max_tiles=6      (a model, or nano: projector and language model learn, as in
    `finetune`)

    internvl plan InternViT-300M-448px data.classes=10      (a tower: all of it learns classes, as in `classify`)
    """
    import json

    from internvl.training.override import override
    from internvl.training.plan import estimate

    if memory is not None and not memory > 0:
        raise UsageError(f"--memory is {memory:g}; expected GiB of one device, such as 80")
    config = override(_recipe_or_model(what), changes or ())
    planned = estimate(config, devices=devices, memory=memory, shapes=shapes_for(config))
    typer.echo(json.dumps(planned.as_json(), indent=1) if as_json else f"{what}\n\n{render(planned)}")


def _recipe_or_model(what: str) -> TrainConfig:
    """The recipe of this name, or the general one with the model of this name."""
    from internvl import recipes
    from internvl.models.config import ChatConfig, PairConfig
    from internvl.training.config import Start
    from internvl.training.override import change
    from internvl.training.shapes import shapes_of

    if what.endswith(".py") or ".py:" in what:
        return recipes.find(what).make()
    try:
        return recipes.find(what).make()
    except NoSuchName as no_recipe:
        name = None if what == NANO else what  # the embedded one
        try:
            model = shapes_of(Start(model=name)).config
        except NoSuchName as no_model:
            raise NoSuchName(f"{no_recipe} And {no_model}") from None
    pair = "internvl_c_contrastive" if isinstance(model, PairConfig) else "classify"
    general = "finetune" if isinstance(model, ChatConfig) else pair
    return change(recipes.find(general).make(), {"start.model": name})


def shapes_for(config: TrainConfig) -> Shapes:
    """The shapes of what a run begins with; where that is the result of another recipe's run, of what that begins with.

    >>> shapes_for(recipes.find("internvl2_5_1b_stage2").make()).config.text.layers  # doctest: +SKIP
    24
    """
    from internvl.training.shapes import shapes_of

    try:
        return shapes_of(config.start)
    except NoSuchName:
        whole, tower = (_recipe_of(model) for model in (config.start.model, config.start.vision))
        if whole is None and tower is None:
            raise
    if whole is not None:
        return shapes_for(whole)
    assert tower is not None
    return shapes_of(replace(config.start, vision=tower.start.model))


def _recipe_of(model: str | None) -> TrainConfig | None:
    """The recipe whose run leaves its model here: `runs/NAME/model`."""
    from internvl import recipes

    parts = (model or "").split("/")
    return recipes.find(parts[1]).make() if len(parts) == 3 and parts[1] in recipes.table() else None


def render(planned: Plan) -> str:
    """A plan to read."""
    load = planned.load
    tokens = f"{load.tokens:,} tokens and " if load.tokens else ""
    lines = [f"{'part':<12}{'parameters':>18}{'learning':>18}"]
    for part in planned.parts:
        with_adapters = f"   with {part.adapters:,} in adapters" if part.adapters else ""
        lines.append(f"{part.name:<12}{part.parameters:>18,}{part.learning:>18,}{with_adapters}")
    lines += [
        "",
        f"{planned.devices} device{'s' * (planned.devices > 1)}; on each {load.micro} micro-batch"
        f"{'es' * (load.micro > 1)} a step, of at most {tokens}{load.tiles:,} tiles",
        *planned.assumed,
        "",
        "memory of each device, estimated at the largest micro-batch",
        *(f"  {name:<38}{gib(count):>12}" for name, count in planned.memory.items()),
        f"  {'together':<38}{gib(planned.bytes_per_device):>12}{_verdict(planned)}",
    ]
    if planned.host:
        lines.append(f"  {'and of the host, for each device':<38}{gib(planned.host):>12}")
    return "\n".join([*lines, "", *_time(planned), *_advice(planned)])


def gib(count: float) -> str:
    return f"{count / GIB:,.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.1f} MiB"


def _verdict(planned: Plan) -> str:
    if planned.limit is None:
        return ""
    return f"   {'fits' if planned.fits else 'does not fit'} {gib(planned.limit)}"


def _time(planned: Plan) -> list[str]:
    from internvl.training.cost import UTILISATION

    head = f"one step is {planned.operations:.2e} operations; if {UTILISATION:.0%} of the rate is reached (assumed):"
    return [head, *(f"  {name:<38}{seconds(planned.seconds(rate)):>12}" for name, rate in planned.rates.items())]


def seconds(count: float) -> str:
    if count < 1:
        return f"{count * 1000:,.0f} ms"
    return f"{count:,.1f} s" if count < 120 else f"{count / 60:,.1f} min"


def _advice(planned: Plan) -> list[str]:
    if not planned.advice:
        return []
    head = "to make it smaller, one at a time"
    width = max(len(one.change) for one in planned.advice) + 2
    lines = ["", head]
    for one in planned.advice:
        fits = "" if one.fits is None or planned.fits else "   then it fits" if one.fits else "   not enough alone"
        lines.append(f"  {one.change:<{width}}saves {gib(one.saves)}{fits}")
    return lines


def brief(planned: Plan) -> str:
    """A plan in one line."""
    learning = f"{planned.learning:,} parameters learn"
    return f"{learning}; about {gib(planned.bytes_per_device)} of memory on each of {planned.devices} device(s)"


def planned_or_none(config: TrainConfig, devices: int) -> Plan | None:
    """The plan, where the model's shapes are known before it is here."""
    from internvl.training.plan import estimate

    try:
        return estimate(config, devices=devices, shapes=shapes_for(config))
    except InternVLError:
        return None

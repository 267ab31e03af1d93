"""What of a model learns: parts, ranges of layers, single parameters, adapters."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from internvl.errors import ConfigError
from internvl.training import lora
from internvl.training.config import Learn
from internvl.training.faults import PREFIXES, Part

_BLOCK = re.compile(r"\.layers\.(\d+)\.")
_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?")


def part_of(name: str) -> Part:
    """The part that a parameter belongs to, in a chat model, a pair or a tower alone.

    >>> part_of("language_model.model.norm.weight")
    'language'
    """
    for prefix, part in PREFIXES.items():
        if name.startswith(prefix):
            return part
    return "projector"


def choose(model: nn.Module, learn: Learn, *, seed: int = 0) -> None:
    """Put adapters where they are asked for, and set `requires_grad` of every parameter.

    A part with adapters is itself frozen. With a range of layers only the blocks of that range change. Names in `only`
    narrow all of it. A setting that leaves nothing to learn, or names what is not there, is a `ConfigError`.
    """
    _check(model, learn)
    adapted = lora.put(model, learn, seed=seed)
    ranges = {"vision": learn.vision_layers, "language": learn.language_layers}
    blocks = {part: _blocks(model, part, text) for part, text in ranges.items()}
    wanted = {"vision": learn.vision, "projector": learn.projector, "language": learn.language}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        learns = wanted[part] and (blocks.get(part) is None or _block(name) in (blocks[part] or ()))
        if part in adapted:
            learns = ".lora_" in name
        parameter.requires_grad_(learns and (not learn.only or name.startswith(learn.only)))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "nothing learns: every part is frozen; set learn.vision, learn.projector, learn.language, "
            "learn.vision_lora or learn.language_lora"
        )


def train_mode(model: nn.Module) -> None:
    """Training mode, but for a tower in which nothing learns: it drops no path and recomputes nothing."""
    model.train()
    tower = getattr(model, "vision_model", None) or getattr(model, "tower", None)
    if isinstance(tower, nn.Module) and not any(parameter.requires_grad for parameter in tower.parameters()):
        tower.eval()


@dataclass(frozen=True)
class Share:
    """How many parameters a part has, and how many of them learn; adapters are counted, shared ones once."""

    parameters: int = 0
    learning: int = 0


def shares(model: nn.Module) -> dict[Part, Share]:
    """The parts of a model that have parameters, in the order vision, projector, language.

    The linear layers that `learn.quantize` packed count with what they stand for.
    """
    found: dict[Part, Share] = {"vision": Share(), "projector": Share(), "language": Share()}
    for name, count, learns in _counts(model):
        before = found[part_of(name)]
        found[part_of(name)] = Share(before.parameters + count, before.learning + (count if learns else 0))
    return {part: share for part, share in found.items() if share.parameters}


def table(model: nn.Module) -> str:
    """`shares` to read.

    >>> print(table(model))  # doctest: +SKIP
    part          parameters      learning
    vision       304,012,288             0   0.0 %
    """
    rows = shares(model)
    total = Share(sum(s.parameters for s in rows.values()), sum(s.learning for s in rows.values()))
    lines = [f"{'part':<10}{'parameters':>18}{'learning':>18}"]
    for name, share in (*rows.items(), ("all", total)):
        lines.append(
            f"{name:<10}{share.parameters:>18,}{share.learning:>18,}{100 * share.learning / share.parameters:>8.2f} %"
        )
    return "\n".join(lines)


def _counts(model: nn.Module) -> Iterator[tuple[str, int, bool]]:
    for name, parameter in model.named_parameters():
        yield name, parameter.numel(), parameter.requires_grad
    for name, module in model.named_modules():
        packed = getattr(module, "packed_weights", 0)
        if packed:
            yield f"{name}.", packed, False


# --- what was asked for -----------------------------------------------------------------------------------------------


def _check(model: nn.Module, learn: Learn) -> None:
    """What contradicts itself or the model, before anything is changed."""
    names = [name for name, _ in model.named_parameters()]
    for part, layers, rank in (
        ("vision", learn.vision_layers, learn.vision_lora),
        ("language", learn.language_layers, learn.language_lora),
    ):
        if layers != "all" and rank:
            raise ConfigError(f"learn.{part}_layers is {layers!r} and learn.{part}_lora {rank}; give one of them")
        if rank and not any(part_of(name) == part for name in names):
            raise ConfigError(f"learn.{part}_lora is {rank}, but this model has no {part} part")
        _blocks(model, part, layers)
    for prefix in learn.only:
        if not any(name.startswith(prefix) for name in names) and ".lora_" not in prefix:
            near = difflib.get_close_matches(prefix, [*names, *(n.rpartition(".")[0] for n in names)], n=1, cutoff=0.0)
            raise ConfigError(f"learn.only: no parameter starts with {prefix!r}; the nearest is {near[0]!r}")


def _block(name: str) -> int | None:
    found = _BLOCK.search(f".{name}")
    return int(found[1]) if found else None


def _blocks(model: nn.Module, part: str, text: str) -> frozenset[int] | None:
    """The numbers of the blocks that a slice names; None: no range was given."""
    if text == "all":
        return None
    found = _SLICE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"learn.{part}_layers is {text!r}; expected 'all' or a slice such as '-4:' or '0:12'")
    numbers = {_block(name) for name, _ in model.named_parameters() if part_of(name) == part} - {None}
    count = 1 + max((n for n in numbers if n is not None), default=-1)
    chosen = range(count)[slice(*(None if end is None else int(end) for end in found.groups()))]
    if not chosen:
        raise ConfigError(f"learn.{part}_layers is {text!r}, which is none of the {count} layers 0 to {count - 1}")
    return frozenset(chosen)

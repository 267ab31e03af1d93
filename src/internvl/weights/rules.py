"""Key tables: how the tensors of a public layout and ours correspond, read in both directions.

    Rename      one tensor, another name                        ls1.gamma            <-> ls1
    Split       their one tensor is several of ours             attention.wqkv       <-> q_proj, k_proj, v_proj
    Fuse        several of theirs are one of ours               q_proj, k_proj, ...  <-> attn.qkv
    Stack       one of theirs per expert is one of ours         experts.7.up_proj    <-> experts.up_proj
    Interleave  gate and up of GPT-OSS, transposed and shuffled experts.gate_up_proj <-> experts.gate_proj, up_proj

In a pattern `{}` stands for a number (a layer, an expert). A pattern that ends in `@` names a linear layer and covers
its weight, its bias and an adapter (`base_layer`, `lora_A`, `lora_B`, DoRA's `lora_magnitude_vector`): the second row
of a Split or Fuse cuts B like the weight, and gives every part the same A.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from internvl.errors import KeyMismatch

Side = Literal["theirs", "ours"]
Convert = Callable[[Sequence[Tensor]], Sequence[Tensor]]

PLAIN_LEAVES = ("weight", "bias", "base_layer.weight", "base_layer.bias")
LORA_LEAVES = ("lora_A.default.weight", "lora_B.default.weight")
ROW_LEAVES = (*PLAIN_LEAVES, "lora_magnitude_vector.default.weight")
"""With one entry, or row, for each output: cut and joined alike. The last one is DoRA's."""
NAMED = 6
"""How many names an error lists before it counts the rest."""


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are.

    >>> some(f"layer.{i}" for i in range(20))
    'layer.0, layer.1, layer.2, layer.3, layer.4, layer.5 and 14 more'
    """
    listed = list(names)
    rest = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + rest


# --- how one tensor holds several -------------------------------------------------------------------------------------


class Fold(Protocol):
    """A way in which one tensor holds several; `cut(join(parts)) == parts`. Both return views where they can."""

    def join(self, parts: Sequence[Tensor]) -> Tensor: ...
    def cut(self, whole: Tensor) -> Sequence[Tensor]: ...


@dataclass(frozen=True)
class Rows:
    """One after the other along the first dimension: `Rows((4, 2, 2))` is [q | k | v] with 4, 2 and 2 rows."""

    sizes: tuple[int, ...]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def cut(self, whole: Tensor) -> Sequence[Tensor]:
        return whole.split(self.sizes)


@dataclass(frozen=True)
class HeadGroups:
    """InternLM2's wqkv: for each key-value head its `group` queries, then its key, then its value."""

    kv_heads: int
    group: int

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        q, k, v = (part.unflatten(0, (self.kv_heads, n, -1)) for part, n in zip(parts, (self.group, 1, 1), strict=True))
        return torch.cat((q, k, v), dim=1).flatten(0, 2)

    def cut(self, whole: Tensor) -> Sequence[Tensor]:
        heads = whole.unflatten(0, (self.kv_heads, self.group + 2, -1))
        return [part.flatten(0, 2) for part in heads.split((self.group, 1, 1), dim=1)]


@dataclass(frozen=True)
class Interleaved:
    """GPT-OSS's experts: gate and up alternate along the last dimension, which is the output; ours is the input."""

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([_output_last(part) for part in parts], dim=-1).flatten(-2)

    def cut(self, whole: Tensor) -> Sequence[Tensor]:
        return [_output_last(whole[..., i::2]) for i in (0, 1)]


def _output_last(x: Tensor) -> Tensor:
    """(E, out, in) <-> (E, in, out); a bias (E, out) stays."""
    return x.transpose(1, 2) if x.ndim == 3 else x


# --- rules ------------------------------------------------------------------------------------------------------------


def _same(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return tensors


@dataclass(frozen=True)
class Rule:
    """Some tensors of theirs, the same numbers as tensors of ours, and the arithmetic between them."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    read: Convert = _same
    write: Convert = _same


def rename(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The same tensor under another name; with `@` the same linear layer."""
    if not theirs.endswith("@"):
        return (Rule((theirs,), (ours,)),)
    leaves = (*ROW_LEAVES, *LORA_LEAVES)
    return tuple(Rule((_leaf(theirs, leaf),), (_leaf(ours, leaf),)) for leaf in leaves)


def split(theirs: str, ours: Sequence[str], fold: Fold) -> tuple[Rule, ...]:
    """Their one tensor (or, with `@`, linear layer) is several of ours."""
    read, write = (lambda whole: fold.cut(whole[0])), (lambda parts: (fold.join(parts),))
    if not theirs.endswith("@"):
        return (Rule((theirs,), tuple(ours), read, write),)
    plain = [
        Rule((_leaf(theirs, leaf),), tuple(_leaf(part, leaf) for part in ours), read, write) for leaf in ROW_LEAVES
    ]
    pair = tuple(_leaf(theirs, leaf) for leaf in LORA_LEAVES)
    pairs = tuple(_leaf(part, leaf) for part in ours for leaf in LORA_LEAVES)
    return (*plain, Rule(pair, pairs, lambda ab: _cut_adapter(ab, fold), lambda parts: _join_adapters(parts, fold)))


def fuse(theirs: Sequence[str], ours: str, fold: Fold) -> tuple[Rule, ...]:
    """Several of theirs are one of ours: a `split` seen from the other side."""
    return tuple(Rule(rule.ours, rule.theirs, rule.write, rule.read) for rule in split(ours, theirs, fold))


def stack(theirs: str, ours: str, count: int) -> tuple[Rule, ...]:
    """One tensor of theirs for each of `count` experts (the last `{}`) is one of ours, (count, ...)."""
    head, _, tail = theirs.rpartition("{}")
    each = tuple(f"{head}{expert}{tail}" for expert in range(count))
    return (Rule(each, (ours,), lambda parts: (torch.stack(list(parts)),), lambda whole: whole[0].unbind()),)


def transpose(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The last two dimensions exchanged."""

    def turn(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [tensor.transpose(-1, -2) for tensor in tensors]

    return (Rule((theirs,), (ours,), turn, turn),)


def _leaf(pattern: str, leaf: str) -> str:
    return pattern.removesuffix("@") + leaf


def _cut_adapter(pair: Sequence[Tensor], fold: Fold) -> Sequence[Tensor]:
    a, b = pair
    return [tensor for part in fold.cut(b) for tensor in (a, part)]


def _join_adapters(parts: Sequence[Tensor], fold: Fold) -> Sequence[Tensor]:
    """One adapter that does what those of all parts do: theirs where they share A, else of the sum of their ranks.

    With unequal A the joined A stacks them and B is block-diagonal, so every part still sees only its own A.
    """
    a, b = list(parts[0::2]), list(parts[1::2])
    if all(one.is_meta or torch.equal(one, a[0]) for one in a):
        return a[0], fold.join(b)
    ranks = [one.shape[0] for one in a]
    warnings.warn(
        f"adapters of rank {ranks[0]} that this layout stores as one have drifted apart; "
        f"they are written as one of rank {sum(ranks)}, which computes the same",
        stacklevel=2,
    )
    wide = []
    for i, one in enumerate(b):
        block = one.new_zeros(one.shape[0], sum(ranks))
        block[:, sum(ranks[:i]) : sum(ranks[: i + 1])] = one
        wide.append(block)
    return torch.cat(a), fold.join(wide)


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One rule applied to one layer: these tensors of theirs are those of ours."""

    rule: Rule
    theirs: tuple[str, ...]
    ours: tuple[str, ...]


class Together:
    """Tensors that one computation gives and that are read one by one: held from the first until each was read once.

    The experts of a layer are stored apart and held as one; computed anew for each, all would be read for every one.
    """

    def __init__(self, compute: Callable[[], Sequence[Tensor]]) -> None:
        self._compute = compute
        self._places: set[int] = set()
        self._held: dict[int, Tensor] = {}

    def reader(self, place: int) -> Callable[[], Tensor]:
        """What reads the tensor at this place of the result; only places with a reader are held."""
        self._places.add(place)
        return lambda: self._read(place)

    def _read(self, place: int) -> Tensor:
        if place not in self._held:
            self._held = {i: tensor for i, tensor in enumerate(self._compute()) if i in self._places}
        return self._held.pop(place)


class KeyTable:
    """The rules of one layout for one config.

    >>> table = KeyTable(rename("blocks.{}.ls1.gamma", "encoder.layers.{}.ls1"))
    >>> [(step.theirs, step.ours) for step in table.plan(["blocks.7.ls1.gamma"], "theirs")]
    [(('blocks.7.ls1.gamma',), ('encoder.layers.7.ls1',))]
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._rules: dict[Side, dict[str, Rule]] = {"theirs": {}, "ours": {}}
        for rule in self.rules:
            for side in ("theirs", "ours"):
                for pattern in getattr(rule, side):
                    if pattern in self._rules[side]:
                        raise KeyMismatch(f"two rules of this table name {pattern!r}")
                    self._rules[side][pattern] = rule

    def plan(self, names: Iterable[str], side: Side) -> list[Step]:
        """Put every name under the one rule that fits it; names that fit none, or lack their partners, are an error."""
        steps: dict[tuple[int, tuple[str, ...]], Step] = {}
        present = list(names)
        unknown = []
        for name in present:
            found = self._find(name, side)
            if found is None:
                unknown.append(name)
                continue
            rule, numbers = found
            if (id(rule), numbers) not in steps:
                theirs, ours = (tuple(p.format(*numbers) for p in patterns) for patterns in (rule.theirs, rule.ours))
                steps[id(rule), numbers] = Step(rule, theirs, ours)
        if unknown:
            raise KeyMismatch(f"{len(unknown)} tensors fit no rule of this layout: {some(unknown)}")
        here = set(present)
        if lacking := [name for step in steps.values() for name in getattr(step, side) if name not in here]:
            raise KeyMismatch(f"{len(lacking)} tensors are missing: {some(lacking)}")
        return list(steps.values())

    def _find(self, name: str, side: Side) -> tuple[Rule, tuple[str, ...]] | None:
        rules = self._rules[side]
        return next(((rules[p], numbers) for p, numbers in _generalised(name) if p in rules), None)


def _generalised(name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The name with any of its numbers replaced by `{}`, fewest first: `mlp1.0` is a name, `layers.0` a place."""
    parts = name.split(".")
    numeric = [i for i, part in enumerate(parts) if part.isdecimal()]
    for count in range(len(numeric) + 1):
        for chosen in itertools.combinations(numeric, count):
            numbers = tuple(parts[i] for i in chosen)
            yield ".".join("{}" if i in chosen else part for i, part in enumerate(parts)), numbers

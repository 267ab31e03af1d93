"""One model over several devices.

The tower's blocks and the decoder's layers form one chain, cut into stretches of equal weight, one a device. All that
is not in the chain (embeddings, projector, final norm, head) stays on the first device, so that ids go in and logits
come out where the caller has them. Activations are moved by a hook before each part.

    cuda:0   embeddings, tower, projector, layers 0-9, norm, head
    cuda:1   layers 10-31
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from internvl.errors import UsageError
from internvl.models.attention import KVCache, Sight

Device = str | torch.device

ROOM = 0.9
"""Of a device's free memory, how much the weights may take: the rest is for activations and the cache."""
OVERFLOW = 1 << 62
"""The capacity of a device that takes what the others cannot, and nothing before they are full."""
GIB = 1 << 30


def devices_here(device: Device | Sequence[Device] | None = None) -> tuple[torch.device, ...]:
    """The devices that are meant; None: all GPUs, or else the one device there is. One that is not here is an error."""
    if isinstance(device, str | torch.device):
        return (_device(device),)
    if device is not None:
        if not device:
            raise UsageError("device is an empty sequence; name at least one")
        return tuple(_device(each) for each in device)
    if torch.cuda.is_available():
        return tuple(torch.device("cuda", i) for i in range(torch.cuda.device_count()))
    return (torch.device("mps" if torch.backends.mps.is_available() else "cpu"),)


def _device(name: Device) -> torch.device:
    """A device of this machine, or a `UsageError` that says which there are."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"{name!r} is no device; expected cpu, cuda, cuda:1 or mps") from None
    counts = {"cpu": 1, "meta": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        here = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count and kind != "meta")
        raise UsageError(f"there is no device {str(device)!r} on this machine; there is {here}")
    return device


@dataclass(frozen=True)
class Placement:
    """Where every part of a model is. Names not in `where` are on the first device."""

    devices: tuple[torch.device, ...]
    where: Mapping[str, torch.device]

    def device_of(self, name: str) -> torch.device:
        """The device of a parameter, by its name."""
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            if (prefix := ".".join(parts[:end])) in self.where:
                return self.where[prefix]
        return self.devices[0]


def free_memory(devices: Sequence[torch.device]) -> dict[torch.device, int]:
    """Bytes that weights may take on each device. The CPU takes what the others cannot."""
    return {
        device: int(torch.cuda.mem_get_info(device)[0] * ROOM) if device.type == "cuda" else OVERFLOW
        for device in devices
    }


def plan(model: nn.Module, capacities: Mapping[torch.device, int], *, itemsize: int | None = None) -> Placement:
    """Cut the chain so that the fullest device is as empty as can be, in share of what it can take.

    `capacities` are bytes, in order. `itemsize` is that of the weights once they are loaded; None: as they are.
    `UsageError` says what is needed and what there is.
    """
    sizes = {name: _bytes(module, itemsize) for name, module in chain(model)}
    fixed = _bytes(model, itemsize) - sum(sizes.values())
    devices = tuple(capacities)
    low, high = 0.0, 1.0
    best = _cut(sizes, fixed, capacities, high)
    if best is None:
        have = " + ".join(f"{capacity / GIB:.1f}" for capacity in capacities.values())
        raise UsageError(
            f"the weights take {(fixed + sum(sizes.values())) / GIB:.1f} GiB ({fixed / GIB:.1f} of them on the first "
            f"device) and do not fit into {have} GiB; use more devices, or fewer bytes a weight (dtype)"
        )
    for _ in range(40):
        middle = (low + high) / 2
        found = _cut(sizes, fixed, capacities, middle)
        low, high, best = (low, middle, found) if found is not None else (middle, high, best)
    return Placement(devices, best)


def _cut(
    sizes: Mapping[str, int], fixed: int, capacities: Mapping[torch.device, int], share: float
) -> dict[str, torch.device] | None:
    """Fill the devices in order, each up to this share of its capacity; None where something is left over."""
    waiting = list(sizes.items())
    where: dict[str, torch.device] = {}
    for place, (device, capacity) in enumerate(capacities.items()):
        room = (OVERFLOW if share == 1.0 else 0) if capacity == OVERFLOW else capacity * share
        room -= fixed if place == 0 else 0
        if room < 0:
            return None
        while waiting and waiting[0][1] <= room:
            name, size = waiting.pop(0)
            where[name] = device
            room -= size
    return None if waiting else where


def chain(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that a forward pass runs through one after the other, in that order."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            for index, layer in enumerate(module):
                yield f"{name}.{index}", layer


def _bytes(module: nn.Module, itemsize: int | None) -> int:
    return sum(
        p.numel() * (itemsize if itemsize and p.is_floating_point() else p.itemsize) for p in module.parameters()
    )


def install(model: nn.Module, placement: Placement) -> None:
    """Put the hooks in place that carry activations from device to device. The weights must be there already."""
    layers = dict(chain(model))

    def visit(module: nn.Module, name: str) -> None:
        for child_name, child in module.named_children():
            path = f"{name}.{child_name}" if name else child_name
            if path in layers or not any(layer.startswith(f"{path}.") for layer in layers):
                child.register_forward_pre_hook(_Carrier(placement.device_of(path)), with_kwargs=True)
            else:
                visit(child, path)

    visit(model, "")


class _Carrier:
    """Moves what a part is given to the device it is on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sight: tuple[Sight, Sight] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return self._moved(args), self._moved(kwargs)

    def _moved(self, value: Any) -> Any:
        match value:
            case Tensor():
                return value.to(self.device)
            case tuple() | list():
                return type(value)(self._moved(item) for item in value)
            case dict():
                return {key: self._moved(item) for key, item in value.items()}
            case Sight():
                return self._seen_from_here(value)
            case KVCache():
                return self._beside_us(value)
            case _:
                return value

    def _seen_from_here(self, sight: Sight) -> Sight:
        """The same sight with its tensors here; kept, so that its masks are built once a pass and not once a layer."""
        if self._sight is None or self._sight[0] is not sight:
            keys, positions = self._moved(sight.keys), self._moved(sight.positions)
            self._sight = (sight, replace(sight, keys=keys, positions=positions, _masks={}))
        return self._sight[1]

    def _beside_us(self, cache: KVCache) -> KVCache:
        """A view of the cache for one layer. A layer's keys move here with its first write and stay."""
        here = copy.copy(cache)
        here.places = cache.places.to(self.device)
        here.keys, here.values = _Following(cache.keys, self.device), _Following(cache.values, self.device)
        return here


class _Following(list[Tensor]):
    """The tensors of all layers; the one that is asked for follows to a device."""

    def __init__(self, tensors: list[Tensor], device: torch.device) -> None:
        super().__init__()
        self._tensors, self._device = tensors, device

    def __getitem__(self, layer: Any) -> Any:
        if self._tensors[layer].device != self._device:
            self._tensors[layer] = self._tensors[layer].to(self._device)
        return self._tensors[layer]

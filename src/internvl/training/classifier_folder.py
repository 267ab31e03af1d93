"""A classifier to begin with, and as a folder: a tower in its public layout with its head beside it.

    model/
      config.json, model.safetensors    the tower, as `internvl.load` reads it
      head.safetensors                  `norm.*`, `head.*`, `attn_pooling.*`: the names of the published heads
      classes.json                      {"pooling": "linear", "count": 3, "names": ["blue", "green", "red"]}

Of a chat model or a pair the tower alone is read (of a pair with its `clip_projector`, if that is what is classified);
it is stored in the layout of an InternViT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from internvl.errors import DamagedFile, KeyMismatch, UsageError
from internvl.models.classifier import Classifier
from internvl.models.config import VisionConfig
from internvl.models.heads import POOLINGS, Probe
from internvl.models.vit import VisionTransformer
from internvl.training.checkpoint import Read
from internvl.training.classes import Classes
from internvl.training.config import Start
from internvl.training.held import to_fp32, widen
from internvl.training.model_folder import Write, published, read_published
from internvl.training.start import Beginning, other
from internvl.weights.checkpoint import open_checkpoint
from internvl.weights.files import Handle, open_weights, whole_folder, write_safetensors
from internvl.weights.formats import TABLE
from internvl.weights.hub import resolve
from internvl.weights.load import load, own_format
from internvl.weights.parts import read_tower
from internvl.weights.rules import some
from internvl.weights.writing import Content, Options, write_checkpoint

HEAD, ABOUT = "head.safetensors", "classes.json"
TOWER, OWN = "tower.", "head."
"""How names begin in a `Classifier`."""


# ---- beginning -------------------------------------------------------------------------------------------------------


def begin_classifier(start: Start, classes: Classes, *, seed: int = 0, narrow: bool = False) -> Beginning:
    """The tower that `start.model` is or has, in fp32 (`narrow`: as for `begin`) on the CPU, with a head.

    A folder of a classifier with the same classes and pooling goes on with its head; otherwise the head is new, drawn
    from `seed`.

    >>> begin_classifier(Start(model="runs/linear_probe/model"), Classes(1000))  # doctest: +SKIP
    """
    path = resolve(start.model)
    if isinstance(open_checkpoint(path).config, VisionConfig):
        tower = load(path, dtype="stored" if narrow else "float32", device="cpu")
    else:
        tower = read_tower(path, pool=start.pooling == "clip_projector", stored=narrow)
    widen(tower)
    assert isinstance(tower, VisionTransformer)
    begun = other(tower, start)
    model = Classifier.of(tower, classes.count, pooling=start.pooling, seed=seed)
    model.names = classes.names
    for parameter in model.head.parameters():
        to_fp32(parameter)
    told = f"a new head ({start.pooling}) of {classes}"
    if path.is_dir() and (path / ABOUT).is_file():
        if _about(path) == (start.pooling, classes):
            _fill(model.head, path)
            told = f"going on with the head of {path}, of {classes}"
        else:
            told += f"; that of {path} is of other classes or another pooling, and left out"
    return replace(begun, model=model, notes=(*begun.notes, told))


def load_classifier(folder: str | Path, *, device: torch.device | str | None = None) -> Classifier:
    """The classifier of a folder that training left, ready to answer: `model.names[logits.argmax()]`.

    >>> load_classifier("runs/linear_probe/model").names  # doctest: +SKIP
    ('blue', 'green', 'red')
    """
    path = Path(folder)
    if not (path / ABOUT).is_file():
        raise UsageError(f"{path} has no {ABOUT}; expected the folder of a classifier, as training leaves it")
    pooling, classes = _about(path)
    tower = load(path, dtype="float32", device="cpu")
    if not isinstance(tower, VisionTransformer):
        raise DamagedFile(f"{path}: {ABOUT} stands beside a {type(tower).__name__}; expected a tower")
    model = Classifier(tower, Probe(tower.config, classes.count, pooling=pooling))
    model.names = classes.names
    _fill(model.head, path)
    return model.to(torch.device(device or "cpu")).eval()


# ---- writing and reading ---------------------------------------------------------------------------------------------


def describe(model: nn.Module, tensors: Mapping[str, Handle]) -> Write:
    """For `Saver`: writes every tensor in the type it is held in."""
    tower, head = _apart(tensors)
    classifier = _classifier(model)
    return _both(published(classifier.tower, tower), head, classifier)


def result(model: nn.Module, tensors: Mapping[str, Handle]) -> Write:
    """Writes the tower in the types it was stored in before training."""
    tower, head = _apart(tensors)
    classifier = _classifier(model)
    content = Content(classifier.config, tower, classifier.tower.origin)
    layout = TABLE[own_format(classifier.tower)]
    return _both(lambda folder: write_checkpoint(folder, content, layout, Options()), head, classifier)


def reader(model: nn.Module) -> Read:
    """For `restore`: the tensors of a folder, if its classes are those of the model."""
    own = _classifier(model)
    expected = own.head.pooling, Classes(own.classes, own.names)

    def read(folder: Path) -> Iterator[tuple[str, Tensor]]:
        found = _about(folder)
        if found != expected:
            raise KeyMismatch(
                f"{folder}: learnt {found[1]} (pooling {found[0]}), now there are {expected[1]} ({expected[0]}); keep "
                "the rows, data.classes and start.pooling as they were, or set another run.out"
            )
        for name, tensor in read_published(folder):
            yield TOWER + name, tensor
        for name, handle in open_weights(folder / HEAD).handles().items():
            yield OWN + name, handle.read()

    return read


def _classifier(model: nn.Module) -> Classifier:
    assert isinstance(model, Classifier)  # what holds another model has another description
    return model


def _apart(tensors: Mapping[str, Handle]) -> tuple[dict[str, Handle], dict[str, Handle]]:
    """Those of the tower and those of the head, by the names that each has alone."""
    tower, head = (
        {name.removeprefix(part): handle for name, handle in tensors.items() if name.startswith(part)}
        for part in (TOWER, OWN)
    )
    # The order that the safetensors library gives a file.
    return tower, dict(sorted(head.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))


def _both(write_tower: Write, head: Mapping[str, Handle], model: Classifier) -> Write:
    about = {"pooling": model.head.pooling, "count": model.classes, "names": list(model.names) or None}

    def write(folder: Path) -> None:
        with whole_folder(folder, replace=True) as growing:
            write_tower(growing)
            write_safetensors(growing / HEAD, head, {"format": "pt"})
            (growing / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    return write


def _about(folder: Path) -> tuple[Any, Classes]:
    """The pooling and the classes that a folder states."""
    try:
        told = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        pooling, count, names = told["pooling"], told["count"], told["names"] or []
        right = pooling in POOLINGS and type(count) is int and count > 0 and len(names) in (0, count)
        if right and all(isinstance(name, str) for name in names):
            return pooling, Classes(count, tuple(names))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DamagedFile(
        f'{folder / ABOUT}: expected {{"pooling": one of {", ".join(POOLINGS)}, "count": how many, "names": all of '
        "them, or null}"
    )


@torch.no_grad()
def _fill(head: Probe, folder: Path) -> None:
    """Put the tensors of a folder into a head."""
    stored, places = open_weights(folder / HEAD).handles(), head.state_dict()
    if stored.keys() != places.keys():
        wrong = some(sorted(stored.keys() ^ places.keys()))
        raise KeyMismatch(f"{folder / HEAD}: its tensors are not those of {ABOUT}: {wrong}")
    for name, handle in stored.items():
        if handle.shape != tuple(places[name].shape):
            raise KeyMismatch(
                f"{folder / HEAD}: {name} is {list(handle.shape)}, expected {list(places[name].shape)} by {ABOUT}"
            )
        places[name].copy_(handle.read())

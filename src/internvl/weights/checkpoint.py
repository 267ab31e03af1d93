"""A checkpoint, opened: what model it is, which of its tensors are which of ours, nothing read yet; and written again.

source --look--> Seen --layout--> config, key table --check--> steps
                                                                |-- tensors of ours, one step at a time (load)
                                                                `-- handles of ours (convert)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from internvl.errors import CheckpointError, KeyMismatch, ShapeMismatch
from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig, PairConfig
from internvl.models.pair import PairModel
from internvl.models.vit import VisionTransformer
from internvl.weights import adapters
from internvl.weights.families import Raw
from internvl.weights.files import Handle, Weights, open_weights
from internvl.weights.formats import Layout, Seen, blamed_on, layout_of, parse_json
from internvl.weights.keys import LLAVA_TOWER, Dialect, ModelConfig
from internvl.weights.rules import KeyTable, Step, Together, some

Model = ChatModel | PairModel | VisionTransformer

SIDECARS = (".json", ".txt", ".model", ".jinja", ".md", ".py")
DOCUMENTS = ("LICENSE", "NOTICE")
LEFT_BY_TRAINING = ("trainer_state", "training_", "train_results", "eval_results", "all_results", "classes.json")
LARGEST_SIDECAR = 64 << 20


@dataclass(frozen=True)
class Origin:
    """Where a model came from: enough to write it back as it was."""

    source: Path
    format: str
    config: ModelConfig
    raw: Raw
    files: Mapping[str, bytes]
    """Every file beside the weights, by its path."""
    shards: Mapping[str, tuple[str, ...]]
    """Weight file -> its tensors in order."""
    metadata: Mapping[str, Mapping[str, str]]
    dialect: Dialect
    dtypes: Mapping[str, torch.dtype]
    """The stored type of each tensor of theirs."""
    our_dtypes: Mapping[str, torch.dtype]
    wrapper: str | None = None
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that mean nothing to us and are written back."""
    tower: Path | None = None
    """LLaVA form: the folder that the tower was read from, where the checkpoint does not hold it."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint whose names and shapes were found right."""

    origin: Origin
    steps: tuple[Step, ...]
    handles: Mapping[str, Handle]
    weights: tuple[Weights, ...]
    skeleton: Model
    """The model with its adapters, on the meta device: names and shapes, no memory."""

    @property
    def config(self) -> ModelConfig:
        return self.origin.config

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Our tensors one after the other, as views of the file: copy each before asking for the next."""
        for step in self.steps:
            yield from zip(step.ours, step.rule.read([self.handles[name].read() for name in step.theirs]), strict=True)
            self.release()

    def release(self) -> None:
        """Give back the memory of what was read; views stay good, and are read again where they are used again."""
        for weights in self.weights:
            weights.release()

    def ours(self) -> dict[str, Handle]:
        """Our tensors, to be read one by one."""
        handles: dict[str, Handle] = {}
        for step in self.steps:
            stored = [self.handles[name] for name in step.theirs]
            shapes = [tuple(t.shape) for t in step.rule.read([handle.meta() for handle in stored])]
            together = Together(partial(self._read, step))
            for i, (name, shape) in enumerate(zip(step.ours, shapes, strict=True)):
                handles[name] = Handle(shape, stored[0].dtype, together.reader(i))
        return handles

    def _read(self, step: Step) -> Sequence[Tensor]:
        self.release()  # of the step before this one
        return step.rule.read([self.handles[name].read() for name in step.theirs])


# --- opening ----------------------------------------------------------------------------------------------------------


def describe(source: Path) -> tuple[Seen, Layout, ModelConfig, tuple[Weights, ...]]:
    """What stands in a folder of any layout, or beside a `.pth`, and what model it says it is."""
    weights = open_weights(source)
    seen = look(source, weights.handles())
    with blamed_on(seen.where):
        layout = layout_of(seen.config, seen.tensors, seen.where)
        if layout.name != "llava" or any(name.startswith(LLAVA_TOWER) for name in seen.tensors):
            return seen, layout, layout.read(seen), (weights,)
        folder = _tower_beside(source, seen.config)
        tower = open_weights(folder)
        inside = {LLAVA_TOWER + name: handle for name, handle in tower.handles().items()}
        config = parse_json((folder / "config.json").read_bytes(), f"{folder}/config.json")
        seen = replace(seen, tensors={**seen.tensors, **inside}, tower=config, tower_folder=folder)
        return seen, layout, layout.read(seen), (weights, tower)


def open_checkpoint(source: Path) -> Checkpoint:
    """Open a folder of any layout, or a `.pth`; names, shapes and config are checked, no tensor is read."""
    seen, layout, config, weights = describe(source)
    dialect = Dialect.of(seen.tensors)
    adapters.agree(seen.config, layout.ranks, seen.tensors, seen.where)
    used = {name: handle for name, handle in seen.tensors.items() if not name.endswith(layout.carried or ("\0",))}
    table = layout.table(config, seen.config, dialect)
    skeleton = empty_model(config, seen.config, layout)
    steps = check(table, skeleton.state_dict(), used, seen.where)
    own = weights[0]
    origin = Origin(
        source=source,
        format=layout.name,
        config=config,
        raw=seen.config,
        files=seen.files,
        shards={name: tuple(file.handles) for name, file in own.files.items()},
        metadata={name: dict(file.metadata) for name, file in own.files.items()},
        dialect=dialect,
        dtypes={name: handle.dtype for name, handle in seen.tensors.items()},
        our_dtypes={ours: used[step.theirs[0]].dtype for step in steps for ours in step.ours},
        wrapper=next(iter(own.files.values())).wrapper,
        carried={name: handle.read().clone() for name, handle in seen.tensors.items() if name not in used},
        tower=seen.tower_folder,
    )
    return Checkpoint(origin, tuple(steps), used, weights, skeleton)


def look(source: Path, tensors: Mapping[str, Handle]) -> Seen:
    """Read what stands beside the weights."""
    if source.is_file():
        names = [source.parent / "build_arguments.json", *sorted((source.parent / "llm").glob("*"))]
        folder = source.parent
    else:
        names, folder = [*sorted(source.iterdir()), *sorted((source / "llm").glob("*"))], source
    found = {path.relative_to(folder).as_posix(): path for path in names if _is_sidecar(path)}
    files = {name: _inside(path, folder).read_bytes() for name, path in found.items()}
    name = "config.json" if "config.json" in files else "build_arguments.json"
    config = parse_json(files[name], f"{folder}/{name}") if name in files else {}
    return Seen(str(source), config, tensors, files)


def _is_sidecar(path: Path) -> bool:
    """A file of the kinds that are published beside weights, and that are written again; what training left is not."""
    published = path.suffix in SIDECARS or path.name.startswith(DOCUMENTS)
    other = path.name.startswith((".", *LEFT_BY_TRAINING))
    return published and not other and path.is_file() and path.stat().st_size <= LARGEST_SIDECAR


def _inside(path: Path, folder: Path) -> Path:
    """Where a file really is. A link that leaves the folder could carry a private file into the next copy.

    The hub's cache is links: `snapshots/<revision>/config.json` leads to `blobs/<hash>` beside `snapshots`.
    """
    real, home = path.resolve(), folder.resolve()
    allowed = (home, home.parent.parent / "blobs") if home.parent.name == "snapshots" else (home,)
    if not any(real.is_relative_to(place) for place in allowed):
        raise CheckpointError(f"{path}: a link to {real}, outside its folder; put a copy of the file there")
    return real


def _tower_beside(source: Path, raw: Raw) -> Path:
    """The folder of the tower that a LLaVA-form checkpoint names but does not hold."""
    named = Path(str(raw.get("mm_vision_tower", "")))
    tried = [source / "vision_tower", named, source / named, source / named.name, source.parent / named.name]
    for folder in tried:
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointError(
        f"{source}: its tower ({named}) is not in the file; "
        f"put the folder of that InternViT beside this one, or into it as {source / 'vision_tower'}"
    )


def empty_model(config: ModelConfig, raw: Raw, layout: Layout) -> Model:
    """The model that a config describes, with its adapters, on the meta device."""
    with torch.device("meta"):
        match config:
            case ChatConfig():
                model: Model = ChatModel(config)
            case PairConfig():
                model = PairModel(config)
            case _:
                model = VisionTransformer(config)
        adapters.attach(model, {part: adapters.stated(raw, key) for part, key in layout.ranks.items()})
    return model


def check(table: KeyTable, ours: Mapping[str, Tensor], theirs: Mapping[str, Handle], where: str) -> list[Step]:
    """Pair the tensors of a model (names and shapes) with those of a file; whatever is wrong is named."""
    steps = table.plan(ours, "ours")
    expected = stored_shapes(steps, ours)
    if extra := [name for name in theirs if name not in expected]:
        raise KeyMismatch(f"{where}: {len(extra)} tensors that this config has no place for: {some(extra)}")
    if missing := [name for name in expected if name not in theirs]:
        raise KeyMismatch(f"{where}: {len(missing)} of {len(expected)} tensors are missing: {some(missing)}")
    wrong = [name for name, shape in expected.items() if theirs[name].shape != shape]
    if wrong:
        each = (f"{name} is {list(theirs[name].shape)}, expected {list(expected[name])}" for name in wrong)
        raise ShapeMismatch(f"{where}: {len(wrong)} tensors have another shape than the config says: {some(each)}")
    return steps


def stored_shapes(steps: list[Step], ours: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of theirs, from the shapes of ours."""
    shapes: dict[str, tuple[int, ...]] = {}
    for step in steps:
        written = step.rule.write([ours[name].to("meta") for name in step.ours])
        shapes |= {name: tuple(tensor.shape) for name, tensor in zip(step.theirs, written, strict=True)}
    return shapes

"""From a config to what a run works with: data, model, objective, optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from internvl.data.batch import Batch, Prepared
from internvl.data.encode import Encoder
from internvl.data.ledger import Ledger, merged
from internvl.data.mixture import Mixture, Source, read_meta
from internvl.data.packing import Former, LengthGroups, Packer, Plain, collate_chat
from internvl.data.pair_batch import PrepareLabel, PreparePair, RandomCrop, collate_labels, collate_pairs
from internvl.data.prepare import PrepareChat
from internvl.data.stream import Stream
from internvl.errors import ConfigError, InternVLError, UsageError
from internvl.models.chat import ChatModel
from internvl.models.classifier import Classifier
from internvl.models.pair import PairModel
from internvl.training import classifier_folder
from internvl.training.chat_objectives import Preferences, Sft
from internvl.training.checkpoint import Describe, Read
from internvl.training.classes import classes_of
from internvl.training.classifier_folder import begin_classifier
from internvl.training.config import Data, TrainConfig
from internvl.training.filling import Filling
from internvl.training.held import NARROW, widen_learning
from internvl.training.learn import choose, table
from internvl.training.loop import Trainer, memory_used
from internvl.training.lora import without_adapters
from internvl.training.model_folder import reshard, whole_handles
from internvl.training.objective import Objective
from internvl.training.optim import adamw, scaler_for
from internvl.training.pair_objectives import Classify, PairLoss
from internvl.training.parallel import World, parallelise
from internvl.training.plan import Plan, estimate
from internvl.training.reference import (
    AdapterOffReference,
    CachedReference,
    ModelReference,
    OwnReference,
    Reference,
    fingerprint,
)
from internvl.training.shapes import Shapes
from internvl.training.start import Beginning, begin, with_pictures
from internvl.weights import adapters
from internvl.weights.formats import TABLE
from internvl.weights.load import own_format
from internvl.weights.writing import Content, Options, write_checkpoint

ROWS = {
    "sft": "conversation", "dpo": "preference", "mpo": "preference", "pretrain_pair": "pair", "retrieval": "pair",
    "classify": "label",
}  # fmt: skip
"""What rows an objective learns from."""
PREFERENCES = ("dpo", "mpo")
PART_OF_PICTURE = (0.08, 1.0)
"""Shares of a picture's area that a tower learns classes from, as the published probes do."""


@dataclass
class Parts:
    """What a run works with."""

    trainer: Trainer
    stream: Stream
    begun: Beginning
    ledger: Ledger
    progress: Callable[[int], float]
    held_out: Callable[[], Iterator[Batch]] | None
    """Makes the held-out batches of this rank anew."""
    fill: Filling | None = None
    """Computes the reference that preferences are compared with, before what was learnt is restored."""

    @property
    def encoder(self) -> Encoder | None:
        return self.begun.encoder


# ---- data ------------------------------------------------------------------------------------------------------------


def sources(config: TrainConfig) -> tuple[Source, ...]:
    """The sources of a run; `DataError` or `UsageError` if they are not there."""
    data = config.data
    if not data.sources and not data.path:
        raise UsageError("data.path is empty; set it to a meta file (.json) or an annotation file (.jsonl)")
    found = data.sources or read_meta(data.path, root=data.root, kind=rows_of(config))
    return _of_kind(found, config)


def held_out_sources(config: TrainConfig) -> tuple[Source, ...]:
    """The held-out sources; empty if none are named. Each row once, as it is."""
    if not config.data.held_out:
        return ()
    found = read_meta(config.data.held_out, root=config.data.root, kind=rows_of(config))
    return tuple(replace(source, repeat=1.0, augment=False) for source in _of_kind(found, config))


def held_out_mixture(config: TrainConfig) -> Mixture | None:
    """The held-out rows, shuffled by the seed: the first are of all sources, and the same in every evaluation."""
    found = held_out_sources(config)
    return Mixture(found, seed=config.run.seed) if found else None


def rows_of(config: TrainConfig) -> str:
    """The kind of row that the objective learns from."""
    return ROWS[config.objective.kind]


def _of_kind(found: Sequence[Source], config: TrainConfig) -> tuple[Source, ...]:
    wrong = [f"{source.title} is {source.kind}" for source in found if source.kind != rows_of(config)]
    if wrong:
        raise ConfigError(f"objective {config.objective.kind} learns from {rows_of(config)} rows, but {wrong[0]}")
    return tuple(found)


def prepare(config: TrainConfig, begun: Beginning, *, augment: bool = True) -> Callable[..., Prepared]:
    """What makes a sample of a row of this run."""
    data, model = config.data, begun.model
    if rows_of(config) == "pair":
        if not isinstance(model, PairModel) or begun.tokenizer is None:
            raise ConfigError(f"objective {config.objective.kind} trains InternVL-C or -G; this is no such model")
        crop = RandomCrop(scale=(data.part, 1.0), flip=data.mirror) if augment else None
        size = model.config.tile_size
        return PreparePair(begun.tokenizer, size=size, text_length=data.text_length, augment=crop)
    if isinstance(model, Classifier):
        crop = RandomCrop(scale=PART_OF_PICTURE) if augment else None
        return PrepareLabel(size=model.config.image_size, classes=model.names or model.classes, augment=crop)
    if begun.encoder is None or not isinstance(model, ChatModel):
        raise ConfigError(f"objective {config.objective.kind} trains a chat model; this is none")
    packed = data.batching == "packed"
    return PrepareChat(
        begun.encoder,
        max_length=data.max_length,
        overlong=data.overlong,
        frames=(data.min_frames, data.max_frames),
        most_tokens=data.pack_tokens if packed else None,
        most_tiles=data.pack_tiles if packed else None,
    )


def former(data: Data) -> Former:
    """What gathers the samples of this run into batches."""
    match data.batching:
        case "packed":
            return Packer(data.pack_tokens, data.pack_tiles, data.pack_buffers)
        case "grouped":
            return LengthGroups(data.rows)
        case "plain":
            return Plain(data.rows)


def collate(config: TrainConfig) -> Callable[[Any], Batch]:
    """What makes a batch of samples."""
    if rows_of(config) in ("pair", "label"):
        return collate_pairs if rows_of(config) == "pair" else collate_labels
    packed = config.data.batching == "packed"
    return partial(collate_chat, packed=packed, weighting=config.objective.weighting)


def with_data_settings(begun: Beginning, data: Data) -> Beginning:
    """The beginning with the tiles that the config asks for; the trained checkpoint will say the same."""
    return with_pictures(
        begun,
        min_tiles=data.min_tiles,
        max_tiles=data.max_tiles,
        dynamic=data.dynamic,
        thumbnail=data.thumbnail,
    )


# ---- everything ------------------------------------------------------------------------------------------------------


def parts(config: TrainConfig, found: Sequence[Source], world: World) -> Parts:
    """Everything that a run needs, from the sources on."""
    accumulate = accumulation(config, world)
    mixture = Mixture(found, seed=config.run.seed, resampling=config.data.resampling)
    begun = _begun(config, found)
    model = begun.model
    reference = None if config.objective.kind not in PREFERENCES else _reference(config, begun, world)
    choose(model, config.learn, seed=config.run.seed)
    widen_learning(model)
    parallelise(model, config.parallel, world, dtype=config.run.dtype)
    objective = _objective(config, begun, world, reference)
    trainer = Trainer(
        model=model,
        objective=objective,
        optimizer=adamw(model, config.optim),
        optim=config.optim,
        scaler=scaler_for(config.run.dtype),
        world=world,
        dtype=config.run.dtype,
        accumulate=accumulate,
        seed=config.run.seed,
    )
    name = "ledger.jsonl" if world.size == 1 else f"ledger-{world.rank}.jsonl"
    ledger = Ledger(
        Path(config.run.out) / name, budget=config.data.bad_rows, sources=[source.title for source in found]
    )
    end = None if config.run.steps is not None else round(config.run.epochs * len(mixture))
    stream = Stream(
        mixture, prepare(config, begun), former(config.data), collate(config), ledger,
        rank=world.rank, world=world.size, workers=config.data.workers, seed=config.run.seed, end=end,
    )  # fmt: skip
    progress, asked = _progress(config, stream, world), held_out(config, begun, world)
    return Parts(trainer, stream, begun, ledger, progress, asked, _filling(config, trainer, stream, asked))


def _begun(config: TrainConfig, found: Sequence[Source]) -> Beginning:
    """The model to train; a tower with a head for classes."""
    if config.objective.kind == "classify":
        classes = classes_of(config.data.classes, found)
        begun = begin_classifier(config.start, classes, seed=config.run.seed, narrow=narrow(config))
    else:
        begun = begin(config.start, device="cpu", seed=config.run.seed, narrow=narrow(config))
    return with_data_settings(begun, config.data)


def narrow(config: TrainConfig) -> bool:
    """Whether weights that do not learn may be held in 16 bit: where products are made in it anyway."""
    return config.run.dtype != "fp32"


def accumulation(config: TrainConfig, world: World) -> int:
    """Micro-batches of one step on each rank."""
    at_once = world.size * config.data.rows
    if config.run.batch % at_once:
        raise ConfigError(
            f"run.batch is {config.run.batch}, but {world.size} rank(s) of data.rows {config.data.rows} make "
            f"{at_once} at once; choose a multiple of it"
        )
    return config.run.batch // at_once


def held_out(config: TrainConfig, begun: Beginning, world: World) -> Callable[[], Iterator[Batch]] | None:
    """Makes the batches of the held-out rows of this rank; None without such rows.

    They are prepared in this process, whatever data.workers is: there are few, and workers would be begun at each
    evaluation.
    """
    mixture = held_out_mixture(config)
    if mixture is None:
        return None
    making = prepare(config, begun, augment=False)

    def batches() -> Iterator[Batch]:
        ledger = Ledger(None, budget=config.data.bad_rows, sources=[source.title for source in mixture.sources])
        return iter(Stream(
            mixture, making, former(config.data), collate(config), ledger, rank=world.rank, world=world.size,
            seed=config.run.seed, end=min(len(mixture), config.data.held_out_rows),
        ))  # fmt: skip

    return batches


def _progress(config: TrainConfig, stream: Stream, world: World) -> Callable[[int], float]:
    """The share of the run that is done: by steps where these are given, else by samples read, as all ranks see it."""
    total, end = config.run.steps, stream.end
    if total is not None:
        return lambda step: min(1.0, step / total)
    return lambda step: min(1.0, world.mean(stream.reached) / max(end or 1, 1))


def _objective(config: TrainConfig, begun: Beginning, world: World, reference: Reference | None) -> Objective:
    normalisation = "imagenet" if begun.encoder is None else begun.encoder.config.normalisation
    if config.objective.kind == "sft":
        return Sft(config.objective, normalisation=normalisation)
    if reference is not None:
        return Preferences(config.objective, reference, normalisation=normalisation, world=world)
    if config.objective.kind == "classify":
        return Classify(config.objective, world)
    objective = PairLoss(config.objective, world)
    objective.check(begun.model)
    return objective


def _reference(config: TrainConfig, begun: Beginning, world: World) -> Reference:
    """What preferences are compared with: the model as training begins."""
    assert begun.encoder is not None
    normalisation = begun.encoder.config.normalisation
    if config.objective.reference == "adapter_off":
        if adapters.adapted(begun.model):
            raise ConfigError(
                "objective.reference is adapter_off, but the model to begin with has adapters already, which are a "
                "part of what it is; merge them first (internvl merge), or set objective.reference=model or cache"
            )
        return AdapterOffReference(without_adapters, normalisation=normalisation)
    if config.objective.reference == "cache":
        identity = f"{fingerprint(begun.model)} {config.run.dtype} {config.learn.quantize}"
        return CachedReference(Path(config.run.out) / "reference", identity=identity, world=world)
    second: nn.Module = begin(config.start, device="cpu", seed=config.run.seed, narrow=narrow(config)).model
    if config.learn.quantize is not None:  # compared is with what learns as it begins: with adapters that add nothing
        choose(second, config.learn, seed=config.run.seed)
        widen_learning(second)
    second = parallelise(second.requires_grad_(False), config.parallel, world, dtype=config.run.dtype)
    return ModelReference(second, normalisation=normalisation)


def _filling(
    config: TrainConfig, trainer: Trainer, stream: Stream, asked: Callable[[], Iterator[Batch]] | None
) -> Filling | None:
    """What computes a cached reference before the first step; None where another is used."""
    objective = trainer.objective
    if not isinstance(objective, Preferences) or not isinstance(objective.reference, CachedReference):
        return None
    live = OwnReference(normalisation=objective.normalisation)
    return Filling(config, trainer, stream, partial(former, config.data), asked, objective.reference, live)


# ---- what is told and left behind ------------------------------------------------------------------------------------


def opening(config: TrainConfig, parts: Parts, world: World) -> Iterator[str]:
    """What is said before the first step."""
    yield from parts.begun.notes
    yield table(parts.trainer.model)
    sources, samples = len(parts.stream.mixture.sources), len(parts.stream.mixture)
    length = f"{config.run.steps} steps" if config.run.steps is not None else f"{config.run.epochs:g} epoch(s)"
    yield f"{samples:,} samples an epoch from {sources} source(s); {length} of {config.run.batch} {_unit(config)}"
    if parts.trainer.number:
        yield f"going on after step {parts.trainer.number}"


def _unit(config: TrainConfig) -> str:
    return "pack(s)" if config.data.batching == "packed" else "row(s)"


def plan(config: TrainConfig, parts: Parts, world: World) -> Plan | None:
    """What the run was expected to need, from the model that is here; None where that cannot be told."""
    model, encoder = parts.begun.model, parts.begun.encoder
    shapes = None
    if isinstance(model, ChatModel) and encoder is not None:
        narrow = any(dtype in NARROW for dtype in model.origin.our_dtypes.values())
        shapes = Shapes(model.config, encoder.config.max_tiles, encoder.config.thumbnail, narrow)
    try:
        return estimate(config, devices=world.size, shapes=shapes)
    except InternVLError:
        return None


def closing(parts: Parts, world: World, plan: Plan | None, before: int) -> Iterator[str]:
    """What is said after the last step: what became of the rows, and the memory used beside what was expected."""
    told = merged(world.gather_json(parts.ledger.state()))
    mixture = parts.stream.mixture
    names, sizes = [source.title for source in mixture.sources], [len(rows) for rows in mixture.rows]
    whole = Ledger(None, budget=1.0, sources=names, sizes=sizes)
    whole.restore(told)
    yield whole.summary()
    most, began = (max(world.gather_json(count)) / 2**30 for count in (memory_used(world.device), before))
    planned = "" if plan is None else f", {plan.bytes_per_device / 2**30:.2f} GiB were estimated"
    alone = f" ({began:.2f} GiB of it before the model was there)" if began else ""
    yield f"most memory in use on a device: {most:.2f} GiB{alone}{planned}"


def kept(model: nn.Module) -> tuple[Describe | None, Read | None]:
    """How a checkpoint holds a model, and how it is read back; None where it is just as it is published."""
    if isinstance(model, Classifier):
        return classifier_folder.describe, classifier_folder.reader(model)
    return None, None


def publish(parts: Parts, folder: Path, world: World) -> None:
    """Write the trained model in its published layout, each tensor in the type it had before training."""
    model: Any = parts.trainer.model
    reshard(model)
    handles = whole_handles(model, keep=world.rank == 0)
    if world.rank == 0:
        if isinstance(model, Classifier):
            classifier_folder.result(model, handles)(folder)
        else:
            content = Content(model.config, handles, model.origin, scales=adapters.scales(model))
            write_checkpoint(folder, content, TABLE[own_format(model)], Options(replace=True))
    world.barrier()

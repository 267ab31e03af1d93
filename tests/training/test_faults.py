"""What a config is refused for: values out of range, values that contradict each other, values that nothing reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.data.mixture import Source
from internvl.errors import ConfigError
from internvl.training.config import Aim, Data, Learn, Optim, Run, Start, TrainConfig
from internvl.training.faults import ALWAYS_READ, READ, learns, unread
from internvl.training.learn import part_of
from internvl.training.override import keys

PAIRED = Data(batching="plain", rows=4)
ADAPTERS = Learn(vision=False, projector=False, language_lora=8)
FROZEN_TOWER = Learn(vision=False)
EVALUATED = Data(held_out="b.jsonl")


def test_of_every_field_it_is_said_where_it_is_read():
    """A new field fails here until it stands in one of the two."""
    assert set(READ) | ALWAYS_READ == set(keys())
    assert not set(READ) & ALWAYS_READ


def test_the_defaults_are_read_or_are_defaults():
    assert not unread(TrainConfig())


UNREAD = [
    # What nothing reads, what is said of it, and where the same value is read.
    ({"run": Run(patience=3)}, "run.patience", {"run": Run(patience=3, eval_every=5), "data": EVALUATED}),
    ({"run": Run(patience=3), "data": EVALUATED}, "set data.held_out and run.eval_every", None),
    ({"run": Run(eval_every=5)}, "run.eval_every", {"run": Run(eval_every=5), "data": EVALUATED}),
    ({"run": Run(best="top1")}, "run.best is 'top1'", {"run": Run(best="top1"), "data": EVALUATED}),
    ({"data": Data(held_out_rows=9)}, "data.held_out_rows", {"data": replace(EVALUATED, held_out_rows=9)}),
    ({"run": Run(steps=3, epochs=2)}, "run.epochs is 2", {"run": Run(epochs=2)}),
    ({"learn": Learn(dora=True)}, "learn.dora is true", {"learn": replace(ADAPTERS, dora=True)}),
    ({"learn": Learn(lora_alpha=3)}, "learn.lora_alpha", {"learn": replace(ADAPTERS, lora_alpha=3)}),
    ({"learn": Learn(lora_dropout=0)}, "learn.lora_dropout", {"learn": replace(ADAPTERS, lora_dropout=0)}),
    ({"learn": Learn(quantize="int4")}, "learn.quantize", {"learn": replace(ADAPTERS, quantize="int4")}),
    (
        {"learn": Learn(vision=False, vision_layers="-4:")}, "learn.vision_layers is '-4:'",
        {"learn": Learn(vision_layers="-4:")},
    ),
    ({"learn": Learn(vision_lora=2, vision_layers="-4:")}, "learn.vision_layers", None),
    (
        {"learn": Learn(language=False, language_layers="-4:")}, "learn.language_layers",
        {"learn": Learn(language_layers="-4:")},
    ),
    ({"learn": replace(ADAPTERS, language_layers="-4:")}, "learn.language_layers", None),
    (
        {"start": Start(pooling="attention")}, "set objective.kind=classify",
        {"start": Start(pooling="attention"), "objective": Aim(kind="classify"), "data": PAIRED},
    ),
    (
        {"start": Start(drop_path=0.1), "learn": FROZEN_TOWER}, "start.drop_path is 0.1, but nothing reads it",
        {"start": Start(drop_path=0.1)},
    ),
    (
        {"start": Start(drop_path=0.1), "learn": Learn(only=("language_model.",))}, "start.drop_path",
        {"start": Start(drop_path=0.1), "learn": Learn(only=("vision_model.encoder.layers.3.",))},
    ),
    (
        {"start": Start(template="Hermes-2"), "objective": Aim(kind="classify"), "data": PAIRED}, "start.template",
        {"start": Start(template="Hermes-2")},
    ),
    *(
        ({"objective": Aim(**{name: 0.7})}, f"objective.{name} is 0.7", {"objective": Aim(kind="mpo", **{name: 0.7})})
        for name in ("beta", "preference", "quality", "generation")
    ),
    *(
        (
            {"objective": Aim(**{name: 0.7})}, f"objective.{name} is 0.7",
            {"objective": Aim(kind="pretrain_pair", **{name: 0.7}), "data": PAIRED},
        )
        for name in ("matching", "contrastive", "captioning", "label_smoothing")
    ),
    ({"objective": Aim(reference="cache")}, "objective.reference", {"objective": Aim(kind="dpo", reference="cache")}),
    ({"objective": Aim(kind="dpo", preference=0.5)}, "objective.preference", None),
    (
        {"objective": Aim(kind="dpo", weighting="square")}, "objective.weighting",
        {"objective": Aim(kind="mpo", weighting="square")},
    ),
    ({"objective": Aim(kind="mpo", weighting="square", generation=0)}, "objective.weighting", None),
    ({"objective": Aim(kind="classify", weighting="square"), "data": PAIRED}, "objective.weighting", None),
    ({"objective": Aim(kind="mpo", router=0.1)}, "objective.router", {"objective": Aim(router=0.1)}),
    ({"objective": Aim(kind="classify", router=0.1), "data": PAIRED}, "objective.router", None),
    *(
        ({"optim": Optim(**{f"vision_{name}": 0.5}), "learn": FROZEN_TOWER}, f"optim.vision_{name}",
         {"optim": Optim(**{f"vision_{name}": 0.5}), "learn": Learn(vision=False, vision_lora=4)})
        for name in ("lr", "weight_decay", "layer_decay")
    ),
    *(
        ({"optim": Optim(**{f"language_{name}": 0.5}), "learn": Learn(language=False)}, f"optim.language_{name}",
         {"optim": Optim(**{f"language_{name}": 0.5}), "learn": ADAPTERS})
        for name in ("lr", "weight_decay", "layer_decay")
    ),
    *(
        ({"optim": Optim(**{f"projector_{name}": 0.5}), "learn": ADAPTERS}, f"optim.projector_{name}",
         {"optim": Optim(**{f"projector_{name}": 0.5})})
        for name in ("lr", "weight_decay")
    ),
    ({"optim": Optim(language_lr=0.5), "objective": Aim(kind="classify"), "data": PAIRED}, "optim.language_lr", None),
    ({"optim": Optim(decay=0.1)}, "set optim.schedule=wsd", {"optim": Optim(decay=0.1, schedule="wsd")}),
    ({"optim": Optim(floor=0.1, schedule="constant")}, "optim.floor", {"optim": Optim(floor=0.1)}),
    (
        {"data": Data(root="r", sources=(Source(annotation="a.jsonl"),))}, "give each source its root",
        {"data": Data(root="r", path="a.jsonl")},
    ),
    *(
        (
            {"data": Data(**change)}, f"data.{next(iter(change))}",
            {"data": replace(PAIRED, **change), "objective": Aim(kind="pretrain_pair")},
        )
        for change in ({"text_length": 9}, {"part": 1.0}, {"mirror": 0.0})
    ),
    *(
        (
            {"data": replace(PAIRED, **change), "objective": Aim(kind="pretrain_pair")}, f"data.{next(iter(change))}",
            {"data": replace(PAIRED, **change)},
        )
        for change in (
            {"max_length": 9}, {"overlong": "fewer_tiles"}, {"min_frames": 2}, {"max_frames": 9},
            {"min_tiles": 1}, {"max_tiles": 2}, {"dynamic": False}, {"thumbnail": False},
        )
    ),
    *(
        ({"data": replace(PAIRED, **{name: 9})}, f"data.{name} is 9", {"data": Data(**{name: 9})})
        for name in ("pack_tokens", "pack_tiles", "pack_buffers")
    ),
    ({"data": Data(rows=4)}, "set data.pack_tokens instead", {"data": PAIRED}),
    (
        {"data": Data(classes="3")}, "data.classes",
        {"data": replace(PAIRED, classes="3"), "objective": Aim(kind="classify")},
    ),
]  # fmt: skip


def made(given: dict[str, object]) -> TrainConfig:
    """A config with these sections; as large a batch as its rows need."""
    rows = given["data"].rows if "data" in given else 1
    return TrainConfig(**({"run": Run(batch=rows)} | given))


@pytest.mark.parametrize(("given", "told", "read"), UNREAD)
def test_what_nothing_reads_is_refused_and_read_where_it_is(given, told, read):
    with pytest.raises(ConfigError) as error:
        made(given)
    assert told in str(error.value)
    assert "nothing reads it" in str(error.value)
    if read is not None:
        made(read)


def test_every_row_of_the_table_is_tried():
    tried = {key for given, told, _ in UNREAD for key in READ if key in told}
    asked = {"optim.decay", "run.patience", "data.root", "data.rows", "start.pooling"}  # told by their remedy
    same = {f"start.{name}" for name in ("vision", "language", "projector", "new_tokens", "select_layer")}
    assert set(READ) - tried - asked - same - {"start.pixel_shuffle"} == set()


def test_all_faults_are_told_at_once_with_what_to_set():
    with pytest.raises(ConfigError) as error:
        TrainConfig(run=Run(patience=3, best="x"), learn=Learn(dora=True, language_lora=-1))
    told = str(error.value)
    for part in ("run.patience=0", "run.best=loss", "learn.dora=false", "learn.language_lora is -1"):
        assert part in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"run": Run(eval_every=-3), "data": EVALUATED}, "run.eval_every is -3, expected 0 or more"),
        ({"run": Run(patience=-1, eval_every=1), "data": EVALUATED}, "run.patience is -1, expected 0 or more"),
        ({"data": replace(EVALUATED, held_out_rows=0)}, "data.held_out_rows is 0, expected more than 0"),
        ({"data": Data(workers=-1)}, "data.workers is -1, expected 0 or more"),
        ({"learn": Learn(language_lora=-1)}, "learn.language_lora is -1, expected 0 or more"),
        ({"learn": Learn(vision_lora=-1)}, "learn.vision_lora is -1, expected 0 or more"),
        ({"learn": replace(ADAPTERS, lora_alpha=0.0)}, "learn.lora_alpha is 0.0, expected more than 0"),
        ({"optim": Optim(betas=(0.9, 1.0))}, "optim.betas is 0.9,1.0, expected two numbers from 0 to below 1"),
        ({"optim": Optim(vision_layer_decay=1.5)}, "optim.vision_layer_decay is 1.5, expected above 0"),
        ({"optim": Optim(language_layer_decay=0.0)}, "optim.language_layer_decay is 0.0, expected above 0"),
        ({"objective": Aim(kind="mpo", quality=-1.0)}, "objective.quality is -1.0, expected 0 or more"),
        ({"data": Data(min_tiles=4, max_tiles=2)}, "data.max_tiles is 2, below data.min_tiles 4"),
        ({"data": Data(max_tiles=0)}, "data.max_tiles is 0, expected more than 0"),
        ({"data": Data(rows=0, batching="plain")}, "data.rows is 0, expected more than 0"),
    ],
)
def test_a_value_out_of_range_is_one_line(given, told):
    with pytest.raises(ConfigError) as error:
        TrainConfig(**given)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("learn", "told"),
    [
        (replace(ADAPTERS, projector=True), "set learn.projector=false, or objective.reference=model"),
        (Learn(language_lora=8), "set learn.vision=false learn.projector=false"),
        (Learn(vision_lora=8, projector=False), "set learn.language=false"),
        (Learn(vision=False, projector=False), "learn.language_lora and learn.vision_lora are 0"),
    ],
)
@pytest.mark.parametrize("kind", ["dpo", "mpo"])
def test_adapters_taken_off_leave_what_training_began_with(learn, told, kind):
    aim = Aim(kind=kind, reference="adapter_off")
    with pytest.raises(ConfigError, match="adapter_off") as error:
        TrainConfig(learn=learn, objective=aim)
    assert told in str(error.value)
    TrainConfig(learn=ADAPTERS, objective=aim)
    TrainConfig(learn=Learn(language_lora=8, only=("language_model.",)), objective=aim)


NAMES = ("vision_model.encoder.layers.0.norm1.weight", "mlp1.1.weight", "language_model.lm_head.weight", "tower.x",
         "qllama.model.norm.weight", "text_projection", "head.norm.weight", "embeddings.class_embedding")  # fmt: skip


@given(st.sampled_from(NAMES), st.integers(0, 12))
def test_a_beginning_of_a_name_reaches_its_part(name, length):
    assert learns(Learn(only=(name[:length],)), part_of(name))
    assert learns(Learn(only=(name,)), part_of(name))
    others = {"vision", "projector", "language"} - {part_of(name)}
    assert not any(learns(Learn(only=(name,)), part) for part in others if part != "projector")

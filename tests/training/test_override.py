"""Changing a config by text: what is written is read back, and what cannot be meant is told with what may be."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.data.mixture import Source
from internvl.errors import ConfigError, UsageError
from internvl.training.config import Data, Optim, Run, Start, TrainConfig
from internvl.training.faults import unread
from internvl.training.override import as_python, change, keys, override, render, settled

SOURCES = "data.sources"


def values(key: str, kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type, as far as one field alone can say what may stand there."""
    if get_origin(kind) in (Union, UnionType):
        [inner] = [other for other in get_args(kind) if other is not NoneType]
        return st.none() | values(key, inner)
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        of, last = get_args(kind)[0], get_args(kind)[-1]
        several = (
            st.lists(values(key, of), max_size=4) if last is Ellipsis else st.tuples(values(key, of), values(key, of))
        )
        return several.map(tuple)
    if kind is bool:
        return st.booleans()
    if kind is str:
        return st.text(max_size=8) | st.sampled_from(["none", "None ", '"', "a,b", "[", " x", "s3://b/{0..3}.tar", ""])
    if kind is int:
        return st.integers(1, 10**9)
    return st.floats(0, 1, exclude_min=True)


def configs() -> st.SearchStrategy[TrainConfig]:
    """Configs with a few fields changed one after another; a change that cannot be made there is left out."""
    fields = {key: values(key, kind) for key, kind in keys().items() if key != SOURCES}

    def made(changes: dict[str, Any]) -> TrainConfig:
        config = TrainConfig()
        for key, value in changes.items():
            with suppress(ConfigError):
                config = change(config, {key: value})
        return config

    chosen = st.lists(st.sampled_from(sorted(fields)), max_size=8, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: fields[name] for name in names})).map(made)


@given(configs())
def test_what_render_writes_override_reads(config):
    assert override(TrainConfig(), render(config).splitlines()) == config


def made_by(source: str) -> TrainConfig:
    scope: dict[str, Any] = {}
    exec(source, scope)
    return scope["recipe"]()


@given(configs(), st.text(max_size=20))
def test_the_python_file_makes_the_same_config(config, about):
    assert made_by(as_python(config, about=about)) == config


def test_letters_beyond_the_first_plane_stay_one_letter():
    config = override(TrainConfig(), ["start.projector=\N{CYCLONE}"])
    assert made_by(as_python(config)).start.projector == "\N{CYCLONE}"


def test_sources_are_in_the_python_file():
    config = TrainConfig(data=Data(sources=(Source(annotation="a.jsonl", repeat=0.5), Source(annotation="b.jsonl"))))
    assert made_by(as_python(config)) == config


@pytest.mark.parametrize(("key", "kind"), keys().items())
def test_every_field_has_a_type_that_can_be_written(key, kind):
    if key != SOURCES:
        section, _, name = key.partition(".")
        default = getattr(getattr(TrainConfig(), section), name)
        [line] = [line for line in render(TrainConfig()).splitlines() if line.startswith(f"{key}=")]
        assert getattr(getattr(override(TrainConfig(), [line]), section), name) == default


def test_numbers_are_as_people_write_them():
    config = override(TrainConfig(), ["run.steps=1e5", "data.pack_tokens=16_384", "optim.lr=4e-5", "optim.clip=1"])
    assert (config.run.steps, config.data.pack_tokens, config.optim.lr) == (100_000, 16_384, 4e-5)
    assert isinstance(config.optim.clip, float)


def test_one_path_replaces_the_sources_of_a_recipe():
    config = TrainConfig(data=Data(sources=(Source(annotation="a.jsonl"),)))
    assert override(config, ["data.path=mine.jsonl"]).data == Data(path="mine.jsonl")


def test_what_belongs_together_may_change_together():
    with pytest.raises(ConfigError, match=r"data\.rows is 4, .*where data\.batching is packed.*data\.pack_tokens"):
        override(TrainConfig(), ["data.rows=4", "run.batch=4"])
    assert override(TrainConfig(), ["data.rows=4", "run.batch=4", "data.batching=plain"]).data.rows == 4


def test_steps_replace_the_epochs_of_a_recipe_and_epochs_its_steps():
    long = override(TrainConfig(), ["run.epochs=3"])
    short = override(long, ["run.steps=10"])
    assert (long.run.steps, short.run.steps, short.run.epochs) == (None, 10, 1.0)
    assert override(short, ["run.epochs=3"]) == long
    with pytest.raises(ConfigError, match=r"run\.epochs is 3\.0, but nothing reads it where run\.steps is given"):
        override(TrainConfig(), ["run.epochs=3", "run.steps=10"])


@given(configs(), st.data())
def test_a_settled_change_leaves_nothing_unread(config, data):
    kinds = {"learn.vision": st.booleans(), "learn.language": st.booleans(), "optim.schedule": st.just("constant")}
    key = data.draw(st.sampled_from(sorted(kinds)))
    told = settled(config, {key: data.draw(kinds[key])})
    assert not unread(change(config, told))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("lr=3", r"no setting is called 'lr'; did you mean optim\.lr\?"),
        ("optim.learning_rat=3", r"no setting is called"),
        ("optim.lrr=3", r"did you mean optim\.lr\?"),
        ("run.max_tiles=3", r"did you mean data\.max_tiles\?"),
        ("zzz.qqq=3", "--show` lists them all"),
        ("optim.lr", r"optim\.lr has no value; write optim\.lr=VALUE"),
        ("optim.lr=fast", r"optim\.lr is 'fast', expected a number"),
        ("optim.lr=nan", r"optim\.lr is 'nan', expected a finite number"),
        ("run.steps=1.5", r"run\.steps is '1\.5', expected a whole number"),
        ("run.steps=1.5e0", "expected a whole number"),
        ("run.batch=none", r"run\.batch is 'none', expected a whole number"),
        ("run.resume=yes", r"run\.resume is 'yes', expected true or false"),
        ("data.batching=pack", r"data\.batching is 'pack', expected one of: packed, grouped, plain"),
        ("optim.betas=0.9", "expected 2 values"),
        ("data.sources=a.jsonl", r"data\.sources cannot be written in one line; put the sources in a meta file"),
        ('data.path="a', "begins with a quote but is no JSON text"),
        ("learn.only=[a", "begins with a bracket but is no JSON list"),
    ],
)
def test_what_cannot_be_meant_is_told(line, told):
    with pytest.raises(UsageError, match=told):
        override(TrainConfig(), [line])


def test_all_faults_at_once():
    with pytest.raises(UsageError) as told:
        override(TrainConfig(), ["lr=1", "run.steps=x", "optim.betas=1", "run.batch=4"])
    assert str(told.value).count(";") >= 3
    assert "run.batch" not in str(told.value)


def test_the_fields_are_those_of_the_config():
    sections = {field.name for field in dataclasses.fields(TrainConfig)}
    assert {key.partition(".")[0] for key in keys()} == sections
    assert override(TrainConfig(), ["start.model=x", "run.seed=1", "optim.lr=1"]) == TrainConfig(
        start=Start(model="x"), run=Run(seed=1), optim=Optim(lr=1.0)
    )

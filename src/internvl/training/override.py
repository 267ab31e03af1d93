"""Changing single fields of a config by text, and writing a config as text.

    override(config, ["optim.lr=2e-5", "data.max_tiles=none"])   typed by the fields; every fault is told at once
    render(config)                                               all of it as such lines, which `override` reads back
    as_python(config)                                            all of it as a recipe file, to copy and change

How a value is written: numbers as usual, `true` and `false`, `none` where a field may be None, several values with
commas between them. A text that would read as something else stands in double quotes, as in JSON; a list in brackets.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from internvl.data.mixture import Source
from internvl.errors import UsageError
from internvl.training.config import Run, TrainConfig
from internvl.training.faults import unread

WRITTEN_ELSEWHERE = "data.sources"
ELSEWHERE_CALLED = {
    "learning_rate": "optim.lr", "max_grad_norm": "optim.clip", "lr_scheduler_type": "optim.schedule",
    "warmup_ratio": "optim.warmup", "warmup_steps": "optim.warmup", "batch_size": "run.batch",
    "per_device_train_batch_size": "data.rows", "num_train_epochs": "run.epochs", "max_steps": "run.steps",
    "save_steps": "run.save_every", "eval_steps": "run.eval_every", "output_dir": "run.out", "meta_path": "data.path",
    "model_name_or_path": "start.model", "force_image_size": "start.tile_size", "drop_path_rate": "start.drop_path",
    "max_seq_length": "data.max_length", "max_dynamic_patch": "data.max_tiles", "dynamic_image_size": "data.dynamic",
    "use_thumbnail": "data.thumbnail", "use_backbone_lora": "learn.vision_lora", "use_llm_lora": "learn.language_lora",
    "lora_rank": "learn.language_lora",
}  # fmt: skip
"""What the first code base and other trainers call a setting: for the error, they are not read."""


def override(config: TrainConfig, changes: Iterable[str]) -> TrainConfig:
    """The config with these `section.field=value` changes; empty lines and lines that begin with `#` say nothing.

    `data.path` replaces the sources of a recipe, `run.steps` its epochs and `run.epochs` its steps. Raises UsageError
    that names every change that cannot be made, and ConfigError where the new values contradict each other, or where
    nothing would read one of them.

    >>> override(TrainConfig(), ["optim.lr=2e-5", "run.steps=100"]).optim.lr
    2e-05
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    for line in changes:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, text = line.partition("=")
        key = key.strip()
        try:
            kind = _type_of(key, equals)
            values[key] = _parsed(text, kind)
        except ValueError as fault:
            faults.append(str(fault) if str(fault).startswith("no ") else f"{key} {fault}")
    if faults:
        raise UsageError("; ".join(faults))
    return change(config, values)


def change(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """The config with `{"section.field": value}` changed; all at once, so that what belongs together may change so.

    >>> change(TrainConfig(), {"run.batch": 8, "optim.lr": 1e-4}).run.batch
    8
    """
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    if sections.get("data", {}).get("path"):
        sections["data"].setdefault("sources", ())
    length = sections.get("run", {})
    if length.get("steps") is not None:
        length.setdefault("epochs", Run.epochs)
    elif "epochs" in length:
        length.setdefault("steps", None)
    changed = {name: replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return replace(config, **changed)


def settled(config: TrainConfig, values: dict[str, Any]) -> dict[str, Any]:
    """These changes, and with them the defaults of what nothing would read after them.

    >>> settled(override(TrainConfig(), ["start.drop_path=0.1"]), {"learn.vision": False})
    {'learn.vision': False, 'start.drop_path': 0.0}
    """
    sections = {field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections[section] = replace(sections[section], **{name: value})
    return values | unread(cast(TrainConfig, SimpleNamespace(**sections)))  # as yet it is no config that may be


def render(config: TrainConfig) -> str:
    """The whole config, one `section.field=value` line for each field; `override` reads it back.

    Sources have no such line: a comment says how many there are.
    """
    lines: list[str] = []
    for key, kind in keys().items():
        section, _, name = key.partition(".")
        value = getattr(getattr(config, section), name)
        if key == WRITTEN_ELSEWHERE:
            lines += [f"# {key}: {len(value)}, not written here"] if value else []
        else:
            lines.append(f"{key}={_written(value, kind)}")
    return "\n".join(lines) + "\n"


def as_python(config: TrainConfig, *, about: str = "A training run.") -> str:
    """A recipe file with every value of the config, for `internvl train FILE.py`."""
    about = "".join(c for c in " ".join(about.split()) if c.isprintable() and c not in '"\\') or "A training run."
    sections = [field.name for field in dataclasses.fields(TrainConfig)]
    classes = sorted({type(getattr(config, name)).__name__ for name in sections} | {"TrainConfig"})
    lines = [f'"""{about} Run it with: internvl train THIS_FILE.py"""', ""]
    if config.data.sources:
        lines.append("from internvl.data.mixture import Source")
    lines += [f"from internvl.training.config import {', '.join(classes)}", "", "", "def recipe() -> TrainConfig:"]
    lines += [f'    """{about}"""', "    return TrainConfig("]
    for name in sections:
        part = getattr(config, name)
        lines.append(f"        {name}={type(part).__name__}(")
        for field in dataclasses.fields(part):
            lines.append(f"            {field.name}={_literal(getattr(part, field.name))},")
        lines.append("        ),")
    return "\n".join([*lines, "    )"]) + "\n"


@cache
def keys() -> dict[str, Any]:
    """Every `section.field` and its type."""
    return {
        f"{section}.{name}": kind
        for section, part in get_type_hints(TrainConfig).items()
        for name, kind in get_type_hints(part).items()
    }


def _type_of(key: str, equals: str) -> Any:
    """The type of what this key is set to, or a ValueError that says what the key may have meant."""
    if key == WRITTEN_ELSEWHERE:
        raise ValueError(
            "cannot be written in one line; put the sources in a meta file and set data.path, or in a copy"
        )
    if key in keys():
        if not equals:
            raise ValueError(f"has no value; write {key}=VALUE")
        return keys()[key]
    near = nearest(key)
    hint = f"did you mean {' or '.join(near)}?" if near else "`internvl train RECIPE --show` lists them all"
    raise ValueError(f"no setting is called {key!r}; {hint}")


def nearest(key: str) -> list[str]:
    """The settings that a key which is none may have meant: those whose last word it has, or the most alike.

    >>> nearest("lr")
    ['optim.lr']
    """
    last = key.rpartition(".")[2]
    named = [known for known in keys() if known.partition(".")[2] == last]
    known_as = [ELSEWHERE_CALLED[last]] if last in ELSEWHERE_CALLED else []
    near = named or known_as or difflib.get_close_matches(key, keys(), n=1, cutoff=0.6)
    if not near:
        ends = {known.partition(".")[2]: known for known in keys()}
        near = [ends[end] for end in difflib.get_close_matches(last, ends, n=1, cutoff=0.7)]
    return near


def _parsed(text: str, kind: Any) -> Any:
    """A value of this type, or a ValueError that says what was found and expected."""
    if get_origin(kind) in (Union, UnionType):
        [inner] = [other for other in get_args(kind) if other is not NoneType]
        return None if text.strip().casefold() == "none" else _parsed(text, inner)
    if get_origin(kind) is Literal:
        if text.strip() not in get_args(kind):
            raise ValueError(f"is {text.strip()!r}, expected one of: {', '.join(get_args(kind))}")
        return text.strip()
    if get_origin(kind) is tuple:
        return _parsed_tuple(text, get_args(kind))
    if kind is bool:
        answers = {"true": True, "false": False}
        if text.strip().casefold() not in answers:
            raise ValueError(f"is {text!r}, expected true or false")
        return answers[text.strip().casefold()]
    if kind is str:
        return _parsed_text(text)
    return _parsed_number(text, kind)


def _parsed_number(text: str, kind: type[int] | type[float]) -> int | float:
    try:
        number = float(text)
        whole = int(number) if kind is int and "e" in text.casefold() else kind(text)
    except (ValueError, OverflowError):
        raise ValueError(f"is {text!r}, expected a {'whole ' if kind is int else ''}number") from None
    if not math.isfinite(number) or (kind is int and "e" in text.casefold() and whole != number):
        raise ValueError(f"is {text!r}, expected a {'whole' if kind is int else 'finite'} number")
    return whole


def _parsed_text(text: str) -> str:
    text = text.strip()
    if not text.startswith('"'):
        return "" if text.casefold() == "none" else text
    try:
        value = json.loads(text)
    except ValueError:
        raise ValueError(f"is {text!r}, which begins with a quote but is no JSON text") from None
    return str(value)


def _parsed_tuple(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    if text.strip().startswith("["):
        try:
            parts = [part if isinstance(part, str) else json.dumps(part) for part in json.loads(text)]
        except ValueError:
            raise ValueError(f"is {text!r}, which begins with a bracket but is no JSON list") from None
        if kinds[0] is str:
            return tuple(parts)
    else:
        parts = [part for part in text.split(",") if part.strip()]
    if kinds[-1] is not Ellipsis and len(parts) != len(kinds):
        raise ValueError(f"is {text!r}, expected {len(kinds)} values with commas between them")
    return tuple(_parsed(part, kinds[0] if kinds[-1] is Ellipsis else kinds[i]) for i, part in enumerate(parts))


def _written(value: Any, kind: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        if get_args(kind)[0] is str and any(not part or _needs_quotes(part) or "," in part for part in value):
            return json.dumps(value)
        return ",".join(_written(part, type(part)) for part in value)
    if isinstance(value, str) and get_origin(kind) is not Literal:
        return json.dumps(value) if _needs_quotes(value) else value
    return str(value)


def _needs_quotes(text: str) -> bool:
    """Whether a text would be read as something else, or not stand in one line."""
    plain = text.isprintable() and text == text.strip()
    return not plain or text.startswith(('"', "[")) or text.casefold() == "none"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value.isprintable() else repr(value)
    if isinstance(value, tuple) and value and isinstance(value[0], Source):
        return "(" + "".join(f"\n                {source!r}," for source in value) + "\n            )"
    if isinstance(value, tuple) and len(value) == 1:
        return f"({_literal(value[0])},)"
    return f"({', '.join(map(_literal, value))})" if isinstance(value, tuple) else repr(value)

"""Finding a recipe: by name in the tables of this package, or in a file of one's own."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from internvl.data.mixture import Source
from internvl.errors import InternVLError, NoSuchName, UsageError
from internvl.errors import find as find_name
from internvl.recipes import (
    general,
    internvl1,
    internvl2_5,
    internvl3_5,
    mini_internvl,
    mpo,
    nano,
    nano_c,
    retrieval,
    second_finetune,
)
from internvl.recipes.recipe import Recipe
from internvl.training.config import TrainConfig

GROUPS: Mapping[str, Mapping[str, Recipe]] = {
    "any model, any data": general.TABLE,
    "fine-tune a released model": second_finetune.TABLE,
    "preference optimisation": mpo.TABLE,
    "the embedded nano": {**nano.TABLE, **nano_c.TABLE},
    "domains": mini_internvl.TABLE,
    "InternVL 1.2 and 1.5 from parts": internvl1.TABLE,
    "InternVL 2.5 from parts": internvl2_5.TABLE,
    "InternVL 3.5": internvl3_5.TABLE,
    "InternVL-C and -G": retrieval.TABLE,
}


_UNKNOWN = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


@cache
def table() -> Mapping[str, Recipe]:
    """Every recipe that comes with the package, by name."""
    return {name: recipe for group in GROUPS.values() for name, recipe in group.items()}


def find(name: str) -> Recipe:
    """The recipe of this name, by our name, the first code base's, or `FILE.py[:NAME]`.

    Python files are imported: they run. Raises NoSuchName with the nearest name, UsageError for a file that cannot be.

    >>> find("internvl2_5_2b_lora").make().learn.language_lora
    16
    >>> find("internvl2_5_2b_2nd_finetune_lora") is find("internvl2_5_2b_lora")
    True
    """
    file, colon, wanted = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        file, wanted = name, ""
    if file.endswith(".py"):
        return _in_file(Path(file).expanduser(), wanted)
    for recipe in table().values():
        if name and name == recipe.script:
            return recipe
    return find_name("recipe", name, table(), hint="`internvl train` lists them all.")


def _in_file(path: Path, wanted: str) -> Recipe:
    """The one recipe of a file, or that of a name."""
    if not path.is_file():
        raise UsageError(f"no such file: {path}; a recipe is a name (`internvl train` lists them) or FILE.py[:NAME]")
    module = _imported(path)
    rows: Any = getattr(module, "TABLE", {})
    there = _functions(module) | {name: row for name, row in dict(rows).items() if isinstance(row, Recipe)}
    there = {name: _guarded(path, row) for name, row in there.items()}
    if wanted:
        return find_name(f"recipe in {path}", wanted, there)
    if not there:
        raise UsageError(f"{path} has no recipe: write a function with no arguments, `def mine() -> TrainConfig: ...`")
    if len(there) > 1:
        names = ", ".join(sorted(there)[:8]) + (", ..." if len(there) > 8 else "")
        raise NoSuchName(f"{path} has {len(there)} recipes ({names}); name one: {path}:{min(there)}")
    return next(iter(there.values()))


def _functions(module: ModuleType) -> dict[str, Recipe]:
    """Functions that a file defines itself, that say they return a TrainConfig and need no argument."""
    found: dict[str, Recipe] = {}
    for name, function in vars(module).items():
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
            signature = inspect.signature(function)
            returns = signature.return_annotation
            needs = [p for p in signature.parameters.values() if p.default is p.empty and p.kind not in (2, 4)]
            if (returns is TrainConfig or str(returns).rpartition(".")[2] == "TrainConfig") and not needs:
                found[name] = Recipe(make=function)
    return found


def _imported(path: Path) -> ModuleType:
    """A Python file as a module; what goes wrong in it is one line that names the file and the line."""
    name = f"internvl_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be read as Python; expected a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        raise _told(path, error) from error
    return module


def _guarded(path: Path, recipe: Recipe) -> Recipe:
    """A recipe of a file, whose mistakes are told like those of the file."""

    def make() -> TrainConfig:
        try:
            return recipe.make()
        except Exception as error:
            raise _told(path, error) from error

    make.__doc__ = recipe.text
    return replace(recipe, make=make)


def _told(path: Path, error: Exception) -> UsageError:
    """What went wrong in a file, in one line that names the file and the line."""
    trace = traceback.extract_tb(error.__traceback__)
    places = [place.lineno for place in trace if Path(place.filename) == path.absolute()]
    where = f"{path}, line {places[-1]}" if places else str(path)
    if isinstance(error, InternVLError):
        return UsageError(f"{where}: {error}")
    if isinstance(error, TypeError) and (unknown := _UNKNOWN.search(str(error))):
        name, field = unknown.groups()
        there = _fields(name)
        if near := difflib.get_close_matches(field, there, n=1, cutoff=0.5):
            return UsageError(f"{where}: {name} has no {field!r}; did you mean {near[0]!r}?")
        if there:
            return UsageError(f"{where}: {name} has no {field!r}; there are: {', '.join(there)}")
    return UsageError(f"{where}: {type(error).__name__}: {error}")


def _fields(name: str) -> list[str]:
    """What a class of the config, or a source, is made of."""
    classes: dict[str, Any] = {kind.__name__: kind for kind in (TrainConfig, Source)}
    classes |= {field.default_factory.__name__: field.default_factory for field in fields(TrainConfig)}  # type: ignore[union-attr]
    return [field.name for field in fields(classes[name])] if name in classes else []

"""`run.json`: what is needed to repeat a run, and what may not change while it is answered."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch

from internvl.errors import DataError, UsageError
from internvl.evaluation.store import write_whole

PACKAGES = ("internvl", "torch", "numpy", "pillow", "tokenizers", "sentencepiece", "safetensors", "av", "openai")
"""Whose versions are written down."""


TILES = ("max_tiles", "together")
"""Settings that may be others where what failed is asked again."""


def begin(out: Path, tasks: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any], *, again: bool = False) -> None:
    """Write `run.json`, or see that the one that is there was made in the same way; new tasks and seeds are added.

    tasks: what is written down of each. about: what the responder says of itself. again: only what failed will be
    asked, so nothing may be new, and the tiles may be others.
    """
    new = not (out / "run.json").exists()
    told, about = _plain(tasks), _plain(about)
    if new and any(out.glob("*/answers*.jsonl")):
        raise UsageError(f"{out} has answers but no run.json; choose another --out")
    found: dict[str, Any] = (
        {"format": 1, "begun": _now(), **about, "machine": machine(), "packages": packages(), "tasks": {}}
        if new
        else read_manifest(out)
    )
    _check_same(out, "the model", found.get("model"), about.get("model"))
    merged: dict[str, Any] = dict(found["tasks"])
    for name, asked in told.items():
        if again:
            if name not in merged or not {*asked["seeds"]} <= {*merged[name]["seeds"]}:
                raise UsageError(f"--again: {out} has not asked {name} with these seeds yet; leave out --again")
            fixed = {key: merged[name]["settings"][key] for key in TILES}
            asked = {**asked, "settings": {**asked["settings"], **fixed}}
        if name not in merged:
            merged[name] = asked
            continue
        before = merged[name]
        _check_same(out, name, _fixed(before), _fixed(asked))
        more = [seed for seed in asked["seeds"] if seed not in before["seeds"]]
        merged[name] = {**before, "seeds": [*before["seeds"], *more]}
    if new or merged != found["tasks"]:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "run.json", json.dumps({**found, "tasks": merged}, ensure_ascii=False, indent=1) + "\n")


def read_manifest(out: Path) -> dict[str, Any]:
    """`run.json` of a run."""
    try:
        found = json.loads((out / "run.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{out} is no run: it has no run.json; `internvl eval TASK --out {out}` makes one") from None
    except (ValueError, RecursionError):
        raise DataError(f"{out / 'run.json'}: not JSON; the run cannot be read") from None
    if not isinstance(found, dict) or found.get("format") != 1 or not isinstance(found.get("tasks"), dict):
        raise DataError(f"{out / 'run.json'}: its format is not 1; expected a run that this version wrote")
    if (wrong := next(_wrong(found), None)) is not None:
        raise DataError(f"{out / 'run.json'}: {wrong}; the file was changed or damaged, the run cannot be read")
    return cast("dict[str, Any]", found)


def _wrong(found: dict[str, Any]) -> Iterator[str]:
    """What of a manifest cannot be what `begin` wrote; only what is read again is looked at."""
    if not isinstance(found.get("model"), dict):
        yield "`model` is no object"
    for name, asked in found["tasks"].items():
        data, subset = (asked.get(key) if isinstance(asked, dict) else None for key in ("data", "subset"))
        if not isinstance(data, dict) or not isinstance(data.get("folder"), str):
            yield f"{name}: `data` names no folder"
        elif not (isinstance(data.get("files"), list) and all(isinstance(file, str) for file in data["files"])):
            yield f"{name}: `data` names no files"
        elif not isinstance(data.get("layout"), str) or not isinstance(asked.get("questions"), str):
            yield f"{name}: `layout` or `questions` is no text"
        elif (
            not isinstance(seeds := asked.get("seeds"), list)
            or not seeds
            or any(type(seed) is not int for seed in seeds)
        ):
            yield f"{name}: `seeds` is no list of numbers"
        elif (
            not isinstance(subset, dict)
            or subset.keys() != {"first", "drawn"}
            or any(type(number) not in (int, type(None)) for number in subset.values())
        ):
            yield f"{name}: `subset` is no subset"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As it will be read again."""
    return json.loads(json.dumps(values))


def _fixed(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What of a task must stay as it is for its answers to belong together."""
    fixed = {key: value for key, value in asked.items() if key not in ("data", "seeds")}
    return {"layout": asked["data"]["layout"], **fixed}


def _check_same(out: Path, what: str, before: Any, now: Any) -> None:
    """One line on the first thing that is another than before."""
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in cast("dict[str, Any]", {**before, **now}):
            _check_same(out, f"{what}, {key}", before.get(key), now.get(key))
    raise UsageError(f"{out} was begun with {what} {before!r}, now it is {now!r}; use the same again, or another --out")


def packages() -> dict[str, str]:
    """Versions of what takes part."""
    found: dict[str, str] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What it ran on, without its name."""
    devices = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    return {"system": platform.system(), "processor": platform.machine(), "cpus": os.cpu_count(), "gpus": devices}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""What a run will ask: the samples of a benchmark, which of them, and with what settings. No model is needed for it.

Benchmark + data folder --plan--> Task
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from internvl.errors import DataError, UsageError
from internvl.evaluation.benchmark import Benchmark, Sample, Settings, Source
from internvl.evaluation.download import can_be_had
from internvl.evaluation.folder import Folder


@dataclass(frozen=True)
class Subset:
    """Which samples: all, the first so many, or so many drawn by chance, in their order."""

    first: int | None = None
    drawn: int | None = None

    def __post_init__(self) -> None:
        if self.first is not None and self.drawn is not None:
            raise UsageError("--limit takes the first samples and --sample draws some; give one of them")
        for number in (self.first, self.drawn):
            if number is not None and number < 1:
                raise UsageError(f"a subset of {number} samples; it must have at least 1")

    def of(self, samples: Sequence[Sample]) -> list[Sample]:
        """The same ones for the same samples, whatever the machine.

        >>> [sample.id for sample in Subset(first=1).of([Sample(id="a", prompt=""), Sample(id="b", prompt="")])]
        ['a']
        """
        if self.drawn is None or self.drawn >= len(samples):
            return list(samples[: self.first])
        places = sorted(random.Random(0).sample(range(len(samples)), self.drawn))
        return [samples[place] for place in places]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a run changes of every benchmark's settings; None: nothing."""

    max_tiles: int | None = None
    frames: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_tiles", 1), ("frames", 1), ("max_new_tokens", 1), ("temperature", 0.0)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:  # which NaN is not
                raise UsageError(f"{name} is {value}; it must be at least {least:g}")

    def of(self, settings: Settings) -> Settings:
        changed = {name: value for name, value in asdict(self).items() if value is not None}
        if self.max_tiles is not None and settings.together is not None:
            changed["together"] = max(settings.together, self.max_tiles)
        changed["min_new_tokens"] = min(settings.min_new_tokens, changed.get("max_new_tokens", settings.max_new_tokens))
        return replace(settings, **changed)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark with its samples, ready to be asked."""

    benchmark: Benchmark
    samples: Sequence[Sample]
    settings: Settings
    data: Path
    seeds: tuple[int, ...] = (0,)
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What `run.json` says of it."""


def plan(
    benchmark: Benchmark,
    data: Path,
    *,
    subset: Subset | None = None,
    change: Change | None = None,
    seeds: Sequence[int] = (0,),
    rule: str | None = None,
) -> Task:
    """Read a benchmark's samples from the data folder. `DataError` says which file to put where.

    rule: by which the benchmark was made of a table, to be written down; see `lookup`.
    """
    subset, settings = subset or Subset(), (change or Change()).of(benchmark.settings)
    if len(set(seeds)) < len(seeds) or not seeds or min(seeds) < 0:
        raise UsageError(f"seeds {list(seeds)}: expected different numbers from 0")
    if len(seeds) > 1 and settings.temperature == 0:
        raise UsageError("several seeds with temperature 0 give the same answers; set --temperature above 0")
    source, every = read_samples(benchmark, data)
    samples = subset.of(every)
    about = {
        "data": {"folder": str(data.absolute()), "layout": source.layout, "files": [f.path for f in source.files]},
        "settings": asdict(settings),
        "seeds": list(seeds),
        "subset": {"first": subset.first, "drawn": subset.drawn},
        "samples": len(samples),
        "of": len(every),
        "questions": digest(samples),
        "rule": rule,
    }
    return Task(benchmark=benchmark, samples=samples, settings=settings, data=data, seeds=tuple(seeds), about=about)


def read_samples(benchmark: Benchmark, data: Path) -> tuple[Source, list[Sample]]:
    """The first source whose files are all there, and its samples; ids are unique."""
    folder = Folder(data)
    source = source_of(benchmark, folder)
    if source is None:
        raise DataError(f"{benchmark.name}: {missing_files(benchmark, folder)}")
    samples = list(source.read(folder))
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{benchmark.name}: two samples have the id {sample.id!r}; expected each once")
        seen.add(sample.id)
    if not samples:
        raise DataError(f"{benchmark.name}: {', '.join(file.path for file in source.files)} in {data} has no samples")
    return source, samples


def source_of(benchmark: Benchmark, folder: Folder) -> Source | None:
    return next((source for source in benchmark.sources if all(map(folder.has, source.files))), None)


def missing_files(benchmark: Benchmark, folder: Folder) -> str:
    """What to put where: of each form that the data may have the first file, and where that is from.

    All of them with their addresses are in `internvl eval --list --json`.
    """
    possible = any(all(can_be_had(f) or folder.has(f) for f in source.files) for source in benchmark.sources)
    forms: list[str] = []
    for source in benchmark.sources:
        absent = [file for file in source.files if not folder.has(file)]
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        whence = absent[0].url or absent[0].hint
        forms.append(f"{absent[0].path}{more}" + (f" [{whence}]" if whence and not possible else ""))
    download = "get it with --download, or " if possible else ""
    every = "; all files and addresses: internvl eval --list --json" if any(" more" in form for form in forms) else ""
    return (
        f"no data in {folder.root}; {download}put there {', or '.join(forms)} (or name its folder with --data){every}"
    )


def digest(samples: Sequence[Sample]) -> str:
    """What was asked: ids, prompts, names of pictures and how they are shown. Data that changed is found by it."""
    whole = hashlib.sha256()
    for sample in samples:
        footage = None if sample.footage is None else [sample.footage.name, sample.footage.bound]
        pictures = [p.name if (p.max_tiles, p.enlarge) == (None, 1) else [p.name, p.max_tiles, p.enlarge]
                    for p in sample.pictures]  # fmt: skip
        whole.update(json.dumps([sample.id, sample.prompt, pictures, footage]).encode())
    return f"sha256:{whole.hexdigest()}"

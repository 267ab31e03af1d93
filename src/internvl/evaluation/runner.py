"""A run: questions in order, each asked once, answers to the disk as they come; scores are made afterwards.

    Benchmark + data folder --plan--> Task --answer_all--> runs/NAME/TASK/answers*.jsonl

Under torchrun every process answers its own contiguous part and writes its own file; the folder must be one that all
processes see. Nothing else passes between them but that they wait for each other.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from internvl.errors import DataError, UsageError
from internvl.evaluation.benchmark import Benchmark, Sample, Settings, Source
from internvl.evaluation.download import can_be_had
from internvl.evaluation.folder import Folder
from internvl.evaluation.responders import Asked, Responder
from internvl.evaluation.store import Answered, Store
from internvl.evaluation.zeroshot import responder_of

PATIENCE = timedelta(days=14)
"""How long processes wait for each other; the slowest part decides."""

Watch = Callable[["Progress"], None]


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


# ---- samples ---------------------------------------------------------------------------------------------------------


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
    """Which files to put where, for each form that the data may have."""
    forms: list[str] = []
    for source in benchmark.sources:
        absent = [file for file in source.files if not folder.has(file)]
        named = [f"{folder.root / file.path}{_whence(file.url or file.hint)}" for file in absent[:3]]
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        forms.append(f"{', '.join(named)}{more} ({source.layout} layout)")
    possible = any(all(can_be_had(f) or folder.has(f) for f in source.files) for source in benchmark.sources)
    download = "; or get it with --download" if possible else ""
    return f"the data is not there; put {'; or '.join(forms)}; or name another folder with --data{download}"


def _whence(text: str) -> str:
    return f" [{text}]" if text else ""


def digest(samples: Sequence[Sample]) -> str:
    """What was asked: ids, prompts, names of pictures and how they are shown. Data that changed is found by it."""
    whole = hashlib.sha256()
    for sample in samples:
        footage = None if sample.footage is None else [sample.footage.name, sample.footage.bound]
        pictures = [p.name if (p.max_tiles, p.enlarge) == (None, 1) else [p.name, p.max_tiles, p.enlarge]
                    for p in sample.pictures]  # fmt: skip
        whole.update(json.dumps([sample.id, sample.prompt, pictures, footage]).encode())
    return f"sha256:{whole.hexdigest()}"


# ---- processes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """This process among those that answer together."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @staticmethod
    def here() -> Ranks:
        """As torchrun says; alone without it."""
        values = [os.environ.get(name, str(default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1))]
        values.append(os.environ.get("LOCAL_RANK", "0"))
        if not all(value.isdecimal() for value in values):
            raise UsageError(
                f"RANK, WORLD_SIZE and LOCAL_RANK are {', '.join(values)}; expected numbers, as of torchrun"
            )
        return Ranks(*map(int, values))

    def part(self, count: int) -> range:
        """The samples of this process: contiguous parts, the first ones a sample longer where they cannot be equal.

        >>> [len(Ranks(rank, 4).part(10)) for rank in range(4)]
        [3, 3, 2, 2]
        """
        size, left = divmod(count, self.world)
        start = self.rank * size + min(self.rank, left)
        return range(start, start + size + (self.rank < left))

    @contextmanager
    def joined(self) -> Generator[None]:
        """Between these lines `wait` works; processes find each other as torchrun told them."""
        if self.world == 1:
            yield
            return
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()

    def wait(self, fine: bool = True) -> bool:
        """Until all processes are here; whether all of them say that they are fine."""
        if self.world == 1:
            return fine
        told = torch.tensor([int(fine)])
        try:
            torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MIN)
        except RuntimeError:  # its end of the line was closed
            raise UsageError(
                "another process of this run has ended; what was answered is kept, and the same command goes on there"
            ) from None
        return bool(told.item())


# ---- the run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """How far this process is with one task."""

    task: Task
    done: int
    total: int
    score: float | None
    """In percent, of this process's answers so far by the rule; None: no rule marks them."""


def answer_all(
    tasks: Sequence[Task], responder: Responder, out: Path, *, ranks: Ranks | None = None, watch: Watch | None = None
) -> int:
    """Ask what has no answer yet, in order; how many answers came. `begin` comes first."""
    ranks = ranks or Ranks()
    return sum(_answer(task, responder, out, ranks, watch) for task in tasks)


def _answer(task: Task, responder: Responder, out: Path, ranks: Ranks, watch: Watch | None) -> int:
    mine = [task.samples[place] for place in ranks.part(len(task.samples))]
    total, came = len(mine) * len(task.seeds), 0
    responder = responder_of(responder, task.benchmark, task.data)
    marks: list[float] = []
    with Store(out / task.benchmark.name, rank=ranks.rank, world=ranks.world) as store:
        asked = [
            Asked(sample, task.settings, seed)
            for seed in task.seeds
            for sample in mine
            if (sample.id, seed) not in store
        ]
        done = total - len(asked)
        for reply in responder.answer(iter(asked)):
            sample = reply.asked.sample
            found = Answered(
                id=sample.id,
                seed=reply.asked.seed,
                answer=reply.text,
                finish=reply.finish,
                tokens=reply.tokens,
                tiles=reply.tiles,
            )
            store.add(found)
            came += 1
            if watch is not None:
                _note(task, sample, reply.text, marks)
                watch(Progress(task, done + came, total, 100 * sum(marks) / len(marks) if marks else None))
    return came


def _note(task: Task, sample: Sample, answer: str, marks: list[float]) -> None:
    """The mark of an answer for the running score; a judge's is not known yet."""
    if task.benchmark.judging is None:
        score = task.benchmark.mark(sample, answer, compat=None).score
        marks += [] if score is None else [score]

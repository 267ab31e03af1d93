"""A run: questions in order, each asked once, answers to the disk as they come; scores are made afterwards.

    Task --answer_all--> runs/NAME/TASK/answers*.jsonl

Under torchrun every process answers its own contiguous part and writes its own file; the folder must be one that all
processes see. Nothing else passes between them but that they wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from internvl.evaluation.benchmark import Sample
from internvl.evaluation.planning import Task
from internvl.evaluation.ranks import Ranks
from internvl.evaluation.responders import Asked, Responder
from internvl.evaluation.store import Answered, Store
from internvl.evaluation.zeroshot import responder_of

Watch = Callable[["Progress"], None]


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

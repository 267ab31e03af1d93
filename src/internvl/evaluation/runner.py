"""A run: questions in order, each asked once, answers to the disk as they come; scores are made afterwards.

    Task --answer_all--> runs/NAME/TASK/answers*.jsonl

Under torchrun every process answers its own contiguous part and writes its own file; the folder must be one that all
processes see. Nothing else passes between them but that they wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from internvl.evaluation.failures import Allowed, check, worth
from internvl.evaluation.planning import Task
from internvl.evaluation.ranks import Ranks
from internvl.evaluation.responders import Asked, Reply, Responder
from internvl.evaluation.store import Answered, Store, read_answers
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
    tasks: Sequence[Task],
    responder: Responder,
    out: Path,
    *,
    ranks: Ranks | None = None,
    watch: Watch | None = None,
    allowed: Allowed | None = None,
    again: bool = False,
) -> int:
    """Ask what has no answer yet, in order; how many answers came. `begin` comes first.

    allowed: how many questions of a benchmark may fail, 1 % if nothing is said; UsageError beyond it. again: ask those
    that failed before, and nothing else; with other tiles than the run's that is written beside each answer.
    """
    ranks, allowed = ranks or Ranks(), allowed or Allowed()
    came = 0
    for task in tasks:
        mine = [task.samples[place] for place in ranks.part(len(task.samples))]
        with Store(out / task.benchmark.name, rank=ranks.rank, world=ranks.world) as store:
            came += _answer(task, responder, store, [sample.id for sample in mine], watch, allowed, again)
    return came


def check_failures(tasks: Sequence[Task], out: Path, allowed: Allowed) -> None:
    """That not too much failed of all that every process wrote."""
    for task in tasks:
        found = {one.key: one.failed for one in read_answers(out / task.benchmark.name) if one.failed is not None}
        check(task.benchmark.name, found, len(task.samples) * len(task.seeds), allowed)


def _answer(
    task: Task,
    responder: Responder,
    store: Store,
    mine: Sequence[str],
    watch: Watch | None,
    allowed: Allowed,
    again: bool,
) -> int:
    failed = store.failed

    def whether_to_go_on() -> None:
        check(task.benchmark.name, failed, len(task.samples) * len(task.seeds), allowed)

    if not again:
        whether_to_go_on()
    known, tiles = {sample.id: sample for sample in task.samples}, task.settings.max_tiles if again else None
    asked = [
        Asked(known[id], task.settings, seed)
        for seed in task.seeds
        for id in mine
        if ((id, seed) in failed if again else (id, seed) not in store)
    ]
    total, came = len(mine) * len(task.seeds), 0
    done = total - len(asked)
    marks: list[float] = []
    for reply in responder_of(responder, task.benchmark, task.data).answer(iter(asked)):
        found = _written(reply, tiles)
        store.add(found)
        came += 1
        if watch is not None:
            _note(task, reply, marks)
            watch(Progress(task, done + came, total, 100 * sum(marks) / len(marks) if marks else None))
        if found.failed is None:
            failed.pop(found.key, None)
        else:
            failed[found.key] = found.failed
            if not again:
                whether_to_go_on()
    whether_to_go_on()
    return came


def _written(reply: Reply, tiles: int | None) -> Answered:
    return Answered(
        id=reply.asked.sample.id,
        seed=reply.asked.seed,
        answer=reply.text,
        finish=reply.finish,
        tokens=reply.tokens,
        tiles=reply.tiles,
        failed=reply.failed,
        max_tiles=tiles,
    )


def _note(task: Task, reply: Reply, marks: list[float]) -> None:
    """The mark of an answer for the running score; a judge's is not known yet."""
    if task.benchmark.judging is None:
        sample = reply.asked.sample
        if reply.failed is None:
            score = task.benchmark.mark(sample, reply.text, compat=None).score
        else:
            score = worth(task.benchmark, sample, compat=None, judged=False).score
        marks += [] if score is None else [score]

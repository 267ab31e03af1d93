"""A whole training run: from a config to a folder.

    runs/NAME/
      config.txt          every value of the run, as `key=value` lines that the command line reads
      plan.json           what it was expected to need
      log.jsonl           steps (every `log_every`), evaluations; tensorboard/ has the same
      ledger.jsonl        rows that could not be used, with reasons
      step-000200/        checkpoints: model/ in the published layout, optim/, state.json
      model/              the result, in the published layout
      report.html         curves and figures, to look at

Ctrl-C (or SIGTERM) saves and stops after the step; the same command goes on from there.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

from internvl.data.encode import Encoder
from internvl.data.stream import Stream
from internvl.errors import CheckpointError, DataError, MissingExtra, UsageError
from internvl.training import build
from internvl.training.checkpoint import Saver, latest, name_of, restore, state_of
from internvl.training.config import TrainConfig
from internvl.training.logs import Logs
from internvl.training.loop import Step, Trainer, autocast, held_out_loss, memory_used, steps
from internvl.training.override import render
from internvl.training.parallel import World, gathered, start_world
from internvl.training.report import write_report

Evaluate = Callable[[Any, Encoder, int], Mapping[str, float]]
"""(model, encoder, step) -> figures on held-out rows; called on every rank at the same step."""


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    folder: Path
    steps: int
    ended: Literal["finished", "interrupted", "no longer better"]
    loss: float
    """Of the last step."""
    held_out: Mapping[str, float]
    """The last figures on held-out rows."""
    best: int | None
    """The step of the best checkpoint, where there are held-out rows."""

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"


def train(
    config: TrainConfig,
    *,
    evaluate: Evaluate | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Result:
    """Train as the config says; under torchrun, together with the other ranks.

    `evaluate` adds figures to the held-out loss at every evaluation. Raises `DataError` where there is nothing to learn
    from or too much of it is unusable, `ConfigError` for settings that contradict each other or the model.

    >>> train(TrainConfig(data=Data(path="train.jsonl"), run=Run(out="runs/a"))).model  # doctest: +SKIP
    PosixPath('runs/a/model')
    """
    sources = build.sources(config)  # a wrong path is said before any weight is read
    if evaluate is not None and not config.data.held_out:
        raise UsageError("evaluate is called where held-out rows are measured, and there are none; set data.held_out")
    changed = _changes(config)
    with start_world(config.run.device) as world:
        before = memory_used(world.device)
        run = _Run(config, build.parts(config, sources, world), world, evaluate)
        run.before = before
        try:
            with run.logs, _asked_to_stop() as stop:
                if changed:
                    run.logs.note(f"changed since this run began: {'; '.join(changed)}")
                return run.go(stop, on_step)
        finally:
            with suppress(CheckpointError):  # said already, or something worse is on its way
                run.saver.wait()  # a save in flight is finished, whatever ended the run


class _Run:
    """The parts of a run, and what happens between its steps."""

    def __init__(self, config: TrainConfig, parts: build.Parts, world: World, evaluate: Evaluate | None) -> None:
        self.config, self.parts, self.world, self.evaluate = config, parts, world, evaluate
        self.folder = Path(config.run.out)
        describe, self.read = build.kept(parts.trainer.model)
        self.saver = Saver(self.folder, keep=config.run.keep, world=world, describe=describe)
        self.before = 0
        """Bytes in use before the model was there."""
        self.plan = build.plan(config, parts, world)
        self.held_out: Mapping[str, float] = {}
        self.measured_at = 0
        self.best: tuple[float, int] | None = None
        self.worse = 0
        self.saved = self._newest()
        """The checkpoint that the run goes on from."""
        self.made = 0 if self.saved is None else int(state_of(self.saved)["step"])
        """Its steps."""
        self.logs = Logs(self.folder, config.run, loud=world.rank == 0, first=self.made)

    @property
    def trainer(self) -> Trainer:
        return self.parts.trainer

    @property
    def stream(self) -> Stream:
        return self.parts.stream

    def go(self, stop: Callable[[], bool], on_step: Callable[[Step], None] | None) -> Result:
        """Step until the end, evaluating and saving on the way."""
        run = self.config.run
        if not self._know_reference(stop):
            return Result(self.folder, self.made, "interrupted", float("nan"), self.held_out, None)
        self._resume()
        if self.world.rank == 0:
            _write(self.folder / "config.txt", render(self.config))
            if self.plan is not None:
                _write(self.folder / "plan.json", json.dumps(self.plan.as_json(), indent=1) + "\n")
        for line in build.opening(self.config, self.parts, self.world):
            self.logs.note(line)
        if not self.trainer.number:
            self._measure()  # what it was before it learnt; and a figure that is not there is said at once
        last: Step | None = None
        ended: Literal["finished", "interrupted", "no longer better"] = "finished"
        given_up = bool(run.patience) and self.worse >= run.patience
        done = given_up or (run.steps is not None and self.trainer.number >= run.steps)
        for step in () if done else steps(self.trainer, iter(self.stream), self.parts.progress):
            last = step
            self.logs.step(step)
            if on_step is not None:
                on_step(step)
            if run.eval_every and step.number % run.eval_every == 0 and not self._evaluate():
                ended = "no longer better"
                break
            if self.world.any(stop()):
                ended = "interrupted"
                break
            if step.number % run.save_every == 0:
                self._save()
            if run.steps is not None and step.number >= run.steps:
                break
        if not self.trainer.number:
            raise DataError(
                "no step was made: the data have less than one batch for every rank and micro-batch; use more data, "
                "fewer ranks, or a smaller run.batch"
            )
        return self._end(last, "no longer better" if given_up else ended)

    def _know_reference(self, stop: Callable[[], bool]) -> bool:
        """Compute what preferences are compared with, by the model as it began; False if asked to stop before."""
        if self.parts.fill is None:
            return True
        saved = None if self.saved is None else state_of(self.saved)
        known = self.parts.fill(lambda share: self.logs.busy("computing the reference", share), stop=stop, saved=saved)
        if known is None:
            self.logs.note("stopped while the reference was computed; the same command goes on from there")
            return False
        self.logs.note(f"the reference of {known:,} answers is known")
        return True

    # ---- between steps -----------------------------------------------------------------------------------------------

    def _measure(self) -> float | None:
        """Figures on held-out rows; the one that chooses the best, the larger the better."""
        if self.parts.held_out is None:
            return None
        number, run, objective = self.trainer.number, self.config.run, self.trainer.objective
        found = held_out_loss(self.trainer, self.parts.held_out)
        if self.evaluate is not None and self.parts.encoder is not None:
            self.trainer.model.eval()
            with gathered(self.trainer.model), autocast(self.world.device, run.dtype):
                found |= self.evaluate(self.trainer.model, self.parts.encoder, number)
        self.held_out, self.measured_at = found, number
        self.logs.held_out(number, found)
        if run.best not in found:
            raise UsageError(f"run.best is {run.best!r}, which is not measured; there are: {', '.join(sorted(found))}")
        figure = -found[run.best] if run.best in objective.losses else found[run.best]
        return figure if isfinite(figure) else -inf

    def _evaluate(self) -> bool:
        """Measure, and keep what is the best so far; False if there is no use in going on."""
        figure, run = self._measure(), self.config.run
        if figure is None:
            return True
        if figure > (-inf if self.best is None else self.best[0]):
            self.best, self.worse = (figure, self.trainer.number), 0
            self._save(wait=True)
            self.saver.mark_best(self.trainer.number)
            return True
        self.worse += 1
        return not run.patience or self.worse < run.patience

    def _save(self, *, wait: bool = False) -> None:
        self.saver.save(self.trainer.number, self.trainer.model, self.trainer.optimizer, self._state(), wait=wait)

    def _state(self) -> dict[str, Any]:
        """Everything besides weights and moments; random numbers follow from the step's number."""
        return {
            "step": self.trainer.number,
            "done": self.trainer.done,
            "streams": self.world.gather_json(self.stream.state()),
            "objective": self.trainer.objective.state(),
            "scaler": self.trainer.scaler.state(),
            "best": None if self.best is None else list(self.best),
            "worse": self.worse,
            "held_out": dict(self.held_out),
            "measured_at": self.measured_at,
        }

    def _newest(self) -> Path | None:
        found = latest(self.folder)
        if found is not None and not self.config.run.resume:
            if self.world.rank == 0:
                raise UsageError(
                    f"{self.folder} has checkpoints of another run and run.resume is false; choose another run.out"
                )
            return None
        return found

    def _resume(self) -> None:
        if self.saved is None:
            return
        state = restore(self.saved, self.trainer.model, self.trainer.optimizer, self.world, read=self.read)
        self.trainer.number, self.trainer.done = int(state["step"]), float(state["done"])
        self.trainer.objective.restore(state["objective"])
        self.trainer.scaler.restore(state["scaler"])
        self.stream.resume(state["streams"])
        self.best = None if state["best"] is None else (float(state["best"][0]), int(state["best"][1]))
        self.worse, self.held_out, self.measured_at = int(state["worse"]), state["held_out"], state["measured_at"]
        self.saver.known(self.trainer.number)
        if self.best is not None and (self.folder / name_of(self.best[1])).is_dir():
            self.saver.mark_best(self.best[1])  # a run may have been killed between saving and marking

    def _end(self, last: Step | None, ended: Literal["finished", "interrupted", "no longer better"]) -> Result:
        if ended == "interrupted":
            self._save(wait=True)
            self.logs.note(f"stopped after step {self.trainer.number}, saved; the same command goes on from there")
        else:
            self._save(wait=True)  # first: whatever goes wrong later, this is not lost
            if self.measured_at != self.trainer.number:
                self._evaluate()
            build.publish(self.parts, self.folder / "model", self.world)
        self.saver.wait()
        for line in build.closing(self.parts, self.world, self.plan, self.before):
            self.logs.note(line)
        if self.world.rank == 0:
            self._report()
        return Result(
            folder=self.folder,
            steps=self.trainer.number,
            ended=ended,
            loss=float("nan") if last is None else last.loss,
            held_out=self.held_out,
            best=None if self.best is None else self.best[1],
        )

    def _report(self) -> None:
        try:
            write_report(self.folder)
        except MissingExtra as missing:
            self.logs.note(f"no report: {missing}")


def _changes(config: TrainConfig) -> list[str]:
    """What is set otherwise than when the run in this folder began; `UsageError` for what cannot be."""
    path = Path(config.run.out) / "config.txt"
    if not config.run.resume or latest(Path(config.run.out)) is None or not path.is_file():
        return []
    before, now = (
        dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
        for text in (path.read_text(encoding="utf-8"), render(config))
    )
    changed = [key for key in now if key in before and before[key] != now[key] and key != "run.device"]
    fixed = [
        key for key in changed if key.startswith(("learn.", "start.")) and key not in ("start.model", "start.drop_path")
    ]
    if fixed:
        told = ", ".join(f"{key}={before[key]}" for key in fixed)
        raise UsageError(
            f"the run in {config.run.out} was begun with {told}, which its weights depend on; restore that, or choose "
            "another run.out"
        )
    return [f"{key} {before[key]} -> {now[key]}" for key in changed]


def _write(path: Path, text: str) -> None:
    new = path.with_suffix(".tmp")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


@contextmanager
def _asked_to_stop() -> Generator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM asks to stop after the step, the second stops at once."""
    asked: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)

    def hear(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    try:
        before = {kind: signal.signal(kind, hear) for kind in kinds}
    except ValueError:  # not the main thread: whoever runs us there hears signals themselves
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)

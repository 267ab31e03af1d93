"""What a run tells while it runs: a bar and lines at the terminal, `log.jsonl`, TensorBoard, Weights & Biases.

`log.jsonl` has one object a line: {"kind": "step", …}, {"kind": "held_out", …}, {"kind": "note", …}. A run that goes on
from step n first drops the lines of later steps, so that the file always tells one story.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from internvl.errors import MissingExtra
from internvl.training.config import Run
from internvl.training.loop import Step

LOG = "log.jsonl"


class Logs:
    """The voice of a run. On all ranks but the first it is silent.

    >>> with Logs(Path("runs/a"), Run(), loud=True) as logs:  # doctest: +SKIP
    ...     logs.step(step)
    """

    def __init__(self, folder: Path, run: Run, *, loud: bool, console: Console | None = None, first: int = 0) -> None:
        """`first`: the step that the run goes on from."""
        self._loud, self._run = loud, run
        self._console = console or Console(stderr=True)
        self._file: TextIO | None = None
        self._writer: Any = None
        self._wandb: Any = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._seen = [0.0, 0.0, 0.0, 0.0]
        """Seconds, tokens, samples and seconds of waiting since the last line."""
        if not loud:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _drop_after(folder / LOG, first)
        self._file = (folder / LOG).open("a", encoding="utf-8")
        if run.tensorboard:
            self._writer = _tensorboard(folder / "tensorboard", first)
        if run.wandb:
            self._wandb = _wandb(folder)

    def __enter__(self) -> Self:
        if self._loud and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(),
                console=self._console, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("training", total=1.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        for sink in (self._file, self._writer):
            if sink is not None:
                sink.close()
        if self._wandb is not None:
            self._wandb.finish()

    def step(self, step: Step) -> None:
        """One step; every `log_every` of them the last one is written down and shown, and the speed since."""
        if step.skipped:
            self.note(f"step {step.number}: the gradients were not finite; the weights stayed as they were")
        new = (step.seconds, step.tokens, step.samples, step.waited)
        self._seen = [a + b for a, b in zip(self._seen, new, strict=True)]
        if not self._loud or step.number % self._run.log_every:
            return
        speed = self._speed()
        values = asdict(step)
        metrics = values.pop("metrics")
        self._write({"kind": "step", **values, **metrics, **speed})
        shown = {"loss": step.loss, "lr": step.lr, "norm": step.norm, **metrics, **speed}
        self._curves({f"train/{name}": value for name, value in shown.items()}, step.number)
        pace = f"{speed['tokens_per_second']:,.0f} tokens/s"
        if not step.tokens:  # pictures alone
            pace = f"{speed['samples_per_second']:,.1f} samples/s"
        line = (
            f"step {step.number:>6}  loss {step.loss:.4f}  lr {step.lr:.2e}  norm {step.norm:.2f}  {pace}  "
            f"waiting {speed['waiting']:.0%}"
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step.progress, description=line)
        else:
            self._console.print(line, highlight=False)

    def busy(self, what: str, share: float) -> None:
        """What is done before the first step, on the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=min(share, 1.0), description=what)

    def _speed(self) -> dict[str, float]:
        seconds, tokens, samples, waited = self._seen
        self._seen = [0.0, 0.0, 0.0, 0.0]
        seconds = max(seconds, 1e-9)
        return {
            "tokens_per_second": tokens / seconds, "samples_per_second": samples / seconds, "waiting": waited / seconds,
        }  # fmt: skip

    def held_out(self, number: int, values: Mapping[str, float]) -> None:
        """Figures on rows that are not learnt from."""
        if not self._loud:
            return
        self._write({"kind": "held_out", "number": number, **values})
        self._curves({f"held_out/{name}": value for name, value in values.items()}, number)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._console.print(f"step {number:>6}  held out: {shown}", highlight=False)

    def note(self, text: str) -> None:
        """A sentence for whoever watches and whoever reads the log."""
        if self._loud:
            self._write({"kind": "note", "text": text})
            self._console.print(text, highlight=False)

    def _write(self, values: Mapping[str, Any]) -> None:
        if self._file is not None:
            plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
            self._file.write(json.dumps(plain, ensure_ascii=False) + "\n")
            self._file.flush()

    def _curves(self, values: Mapping[str, float], number: int) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, number)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=number)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All lines of a run's log; a last line that was cut short by a power failure is left out."""
    lines: list[dict[str, Any]] = []
    path = folder / LOG
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _drop_after(path: Path, step: int) -> None:
    """Keep the lines up to a step; the rest will be told again."""
    kept: list[dict[str, Any]] = []
    for line in read_log(path.parent):
        if line.get("number", 0) > step:
            break
        kept.append(line)
    if path.exists():
        new = path.with_suffix(".tmp")
        new.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
        os.replace(new, path)


def _tensorboard(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise MissingExtra(
            "run.tensorboard is true, but tensorboard is not installed; pip install 'internvl[train]', or set "
            "run.tensorboard=false"
        ) from error
    return SummaryWriter(str(folder), purge_step=first + 1 if first else None)


def _wandb(folder: Path) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra(
            "run.wandb is true, but wandb is not installed; pip install wandb, or set it to false"
        ) from (error)
    return wandb.init(dir=str(folder), project="internvl", name=folder.name, resume="allow")

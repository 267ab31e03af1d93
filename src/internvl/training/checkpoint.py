"""Checkpoints of a run: atomic, written while training goes on, restored bit for bit on any number of ranks.

    step-000200/
      model/                               in the published layout: `internvl.load` reads it as it is
      optim/rank-00000-of-00002.safetensors   each rank's own rows: moments by parameter name, adapters, random numbers
      state.json                           the step, and whatever the loop keeps
    best.json                              names the best step

A folder is called `step-….tmp` until every rank has written and everything is on the disk. Learnt weights are stored as
they are held, in fp32, so that nothing is lost; adapters are also kept in `optim/`, because the published layout has
one scale for a part, and folds others into B.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from internvl.errors import CheckpointError, DamagedFile, InternVLError, KeyMismatch, UsageError
from internvl.models.quantized import QuantizedLinear
from internvl.training.model_folder import Write, places, published, read_published, reshard, whole_handles
from internvl.training.parallel import rng_state, set_rng_state
from internvl.training.shards import Piece, Shards, piece_of, write_pieces, writes
from internvl.training.world import PATIENCE, World
from internvl.weights.files import Handle
from internvl.weights.rules import some

STEP = re.compile(r"step-(\d{6,})")
UNFINISHED = ".tmp"
BEST = "best.json"
ADAPTER = ".lora_"

Describe = Callable[[nn.Module, Mapping[str, Handle]], Write]
"""From a model and its whole tensors to what writes them into a folder (in another thread)."""
Read = Callable[[Path], Iterator[tuple[str, Tensor]]]
"""From the folder of a model to its tensors, by our names."""


@dataclass(frozen=True)
class _Snapshot:
    """Everything that is to be written, in memory of its own."""

    step: int
    state: str
    """JSON, made at once: what it was made of may change."""
    pieces: dict[str, Piece]
    metadata: dict[str, str]
    write_model: Write | None
    """Rank 0 alone."""


class Saver:
    """Writes the checkpoints of a run. Every rank calls the same methods in the same order.

    `describe` says how a model is written, for one whose tensors no public layout holds as they are.

    >>> saver = Saver(Path("runs/out"), keep=3, world=world)  # doctest: +SKIP
    >>> saver.save(200, model, optimizer, {"step": 200})  # doctest: +SKIP
    >>> saver.wait()  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        world: World | None = None,
        describe: Describe | None = None,
    ) -> None:
        self.folder, self.keep, self.world = folder, keep, world or World()
        self._describe: Describe = describe or published
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._saved: int | None = None
        self._lock = threading.Lock()
        # A group of its own: the other thread must not get between the collectives of training.
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if self.world.size > 1 else None

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        *,
        wait: bool = False,
    ) -> None:
        """Copy everything to host memory now, and write it while training goes on; `wait` until it is there.

        `state` is JSON, of rank 0: what differs between ranks is gathered before (`World.gather_json`). At most one
        save is in flight. What went wrong in the one before is raised here, on every rank. A step that was saved last
        is not saved again.
        """
        if step != self._saved:
            self.wait()
            self._begin(step)
            snapshot = self._snapshot(step, model, optimizer, dict(state))
            self._saved = step
            self._thread = threading.Thread(target=self._write, args=(snapshot,), name=f"save step {step}")
            self._thread.start()
        if wait:
            self.wait()

    def known(self, step: int) -> None:
        """This step is on the disk already, whole: a run goes on from it, and does not save it again."""
        self._saved = step

    def wait(self) -> None:
        """Until the save in flight is done; raises what went wrong in it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure, self._saved = self._failure, None, None
            raise CheckpointError(failure)

    def mark_best(self, step: int) -> None:
        """This step, saved or being saved, is the best so far, and stays whatever `keep` says."""
        if self.world.rank:
            return
        with self._lock:
            if step != self._saved and not (self.folder / name_of(step)).is_dir():
                raise UsageError(f"step {step} has no checkpoint in {self.folder}; save it before it is marked best")
            growing = self.folder / (BEST + UNFINISHED)
            with growing.open("w", encoding="utf-8") as file:
                json.dump({"step": step}, file)
                file.flush()
                os.fsync(file.fileno())
            growing.replace(self.folder / BEST)

    # --- one save -----------------------------------------------------------------------------------------------------

    def _begin(self, step: int) -> None:
        """An empty folder to write into; what earlier runs left unfinished goes. All ranks leave this together."""
        fault: str | None = None
        if self.world.rank == 0:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                for left in self.folder.glob(f"step-*{UNFINISHED}"):
                    shutil.rmtree(left)
                (self.folder / (name_of(step) + UNFINISHED) / "optim").mkdir(parents=True)
            except OSError as error:
                fault = str(error)
        if fault := next(filter(None, self.world.gather_json(fault)), None):
            raise CheckpointError(f"step {step} cannot be saved: {fault}")

    @torch.no_grad()
    def _snapshot(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> _Snapshot:
        reshard(model)
        rank = self.world.rank
        names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        learnt = [names[p] for group in optimizer.param_groups for p in group["params"]]
        kept = {f"exact/{name}": p for p, name in names.items() if ADAPTER in name}
        for parameter, moments in optimizer.state.items():
            kept |= {f"{kind}/{names[parameter]}": moment for kind, moment in moments.items()}
        pieces = {name: _copied(piece_of(tensor)) for name, tensor in kept.items() if writes(tensor, rank)}
        tensors = whole_handles(model, keep=rank == 0)
        return _Snapshot(
            step=step,
            state=json.dumps({"step": step, "ranks": self.world.size, "learnt": learnt, "state": state}) + "\n",
            pieces={name: piece for name, piece in pieces.items() if piece.rows.numel()},
            metadata={"random": json.dumps(rng_state())},
            write_model=self._describe(model, tensors) if rank == 0 else None,
        )

    def _write(self, snapshot: _Snapshot) -> None:
        """In the other thread: write, agree with all ranks that it went well, and give the folder its name."""
        growing = self.folder / (name_of(snapshot.step) + UNFINISHED)
        try:
            fault = self._agreed(lambda: self._write_own(growing, snapshot))
            fault = fault or self._agreed(lambda: self._finish(growing))
            if fault and self.world.rank == 0:
                shutil.rmtree(growing, ignore_errors=True)
        except InternVLError as error:  # another rank is gone
            fault = str(error)
        if fault:
            self._failure = (
                f"step {snapshot.step} was not saved: {fault}; earlier checkpoints in {self.folder} are whole. Make "
                "room or set another run.out, and start the same command again"
            )

    def _write_own(self, growing: Path, snapshot: _Snapshot) -> None:
        rank, size = self.world.rank, self.world.size
        name = f"rank-{rank:05}-of-{size:05}.safetensors"
        write_pieces(growing / "optim" / name, snapshot.pieces, snapshot.metadata)
        if snapshot.write_model is not None:
            snapshot.write_model(growing / "model")
            (growing / "state.json").write_text(snapshot.state, encoding="utf-8")

    def _finish(self, growing: Path) -> None:
        """Rank 0: everything to the disk, then the name, then what is no longer kept goes."""
        if self.world.rank:
            return
        _flush(growing)
        final = growing.with_suffix("")
        if final.exists():
            final.replace(final.with_suffix(f".old{UNFINISHED}"))
        growing.replace(final)
        _flush_folder(self.folder)
        with self._lock:
            spared = {best(self.folder), *steps(self.folder)[-self.keep :]}
            for path in steps(self.folder):
                if path not in spared:
                    path.replace(path.with_suffix(UNFINISHED))  # never half of a checkpoint under a good name
        for left in self.folder.glob(f"step-*{UNFINISHED}"):
            shutil.rmtree(left)

    def _agreed(self, work: Callable[[], None]) -> str | None:
        """Do it, and hear what went wrong on any rank."""
        fault: str | None = None
        try:
            work()
        except Exception as error:  # a full disk, most of all; whatever it is, the main thread shall tell it
            fault = str(error) or type(error).__name__
            fault = fault if self.world.size == 1 else f"rank {self.world.rank}: {fault}"
        return next(filter(None, self.world.gather_json(fault, group=self._group)), None)


# --- finding checkpoints ----------------------------------------------------------------------------------------------


def name_of(step: int) -> str:
    return f"step-{step:06}"


def steps(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, the earliest first."""
    found = {int(match[1]): path for path in folder.glob("step-*") if (match := STEP.fullmatch(path.name))}
    return [found[step] for step in sorted(found)]


def latest(folder: Path) -> Path | None:
    """The newest finished checkpoint of a run, if it has any.

    >>> latest(Path("runs/none")) is None
    True
    """
    return next(reversed(steps(folder)), None)


def best(folder: Path) -> Path | None:
    """The checkpoint that was marked best, if there is one."""
    marker = folder / BEST
    if not marker.is_file():
        return None
    try:
        path = folder / name_of(json.loads(marker.read_text(encoding="utf-8"))["step"])
    except (ValueError, KeyError, TypeError):
        raise DamagedFile(f'{marker}: does not name a step; expected {{"step": 200}}, or remove it') from None
    return path if path.is_dir() else None


# --- restoring --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def restore(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    world: World | None = None,
    *,
    read: Read | None = None,
) -> dict[str, Any]:
    """Put a checkpoint into a model and its optimiser, both made as they were; returns the state that was saved.

    The number of ranks, and how they share the weights, may be another one: each reads the rows that it holds. On the
    same number the random numbers go on as well. The rates of the optimiser are not part of it: they follow from the
    step.

    >>> state = restore(latest(Path("runs/out")), model, optimizer, world)  # doctest: +SKIP
    """
    told, shards, world = _told(folder), Shards(folder / "optim"), world or World()
    names = {parameter: name for name, parameter in model.named_parameters()}
    _same_learnt(folder, told["learnt"], [names[p] for group in optimizer.param_groups for p in group["params"]])
    reshard(model)
    targets = places(model)
    # One tensor under several names (the A of layers that a layout stores as one) is filled once, under the first.
    again = {name for name, p in model.named_parameters(remove_duplicate=False) if names[p] != name}
    missing = set(targets) - again
    for name, tensor in (read or read_published)(folder / "model"):
        if name not in targets:
            raise KeyMismatch(f"{folder}: {name} is not in the model; make the model as it was when this was saved")
        if ADAPTER not in name:
            _fill(name, targets[name], tensor, folder)
            missing.discard(name)
    for name in sorted(missing):
        if f"exact/{name}" in shards:
            target = targets[name]
            assert isinstance(target, Tensor)
            shards.fill(f"exact/{name}", target)
            missing.discard(name)
    if missing:
        raise KeyMismatch(f"{folder}: {len(missing)} tensors of the model are missing: {some(sorted(missing))}")
    _fill_moments(optimizer, names, shards)
    if told["ranks"] == world.size:
        set_rng_state(json.loads(shards.files[world.rank].metadata["random"]))
    return told["state"]


def state_of(folder: Path) -> dict[str, Any]:
    """The state that was saved, alone."""
    return _told(folder)["state"]


def _told(folder: Path) -> dict[str, Any]:
    try:
        told = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if {"step", "ranks", "learnt", "state"} <= told.keys():
            return told
    except (OSError, ValueError, AttributeError):
        pass
    raise DamagedFile(f"{folder}: state.json is missing or not that of a checkpoint; expected a folder step-…")


def _same_learnt(folder: Path, before: list[str], now: list[str]) -> None:
    if gone := sorted(set(before) - set(now)):
        raise KeyMismatch(f"{folder}: learnt {some(gone)}, which does not learn now; keep `learn` as it was")
    if new := sorted(set(now) - set(before)):
        raise KeyMismatch(f"{folder}: did not learn {some(new)}, which learns now; keep `learn` as it was")


def _fill(name: str, target: Tensor | QuantizedLinear, tensor: Tensor, folder: Path) -> None:
    if isinstance(target, QuantizedLinear):
        return target.take(tensor)  # the same codes: what they stand for was saved
    if tensor.shape != target.shape:
        raise KeyMismatch(f"{folder}: {name} is {list(tensor.shape)}, and {list(target.shape)} in the model")
    piece = piece_of(target)
    piece.rows.copy_(tensor[piece.start : piece.start + len(piece.rows)] if tensor.ndim else tensor)


def _fill_moments(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], shards: Shards) -> None:
    owned: dict[str, list[str]] = defaultdict(list)
    for key in shards.shapes:
        kind, _, owner = key.partition("/")
        if kind != "exact":
            owned[owner].append(kind)
    for group in optimizer.param_groups:
        on_device = bool(group.get("capturable") or group.get("fused"))
        for parameter in group["params"]:
            moments: dict[str, Tensor] = {}
            for kind in owned[names[parameter]]:
                key = f"{kind}/{names[parameter]}"
                if kind == "step":  # a number, which AdamW counts on the CPU unless told otherwise
                    moments[kind] = torch.zeros((), device=parameter.device if on_device else "cpu")
                else:
                    moments[kind] = torch.zeros_like(parameter, dtype=shards.dtype(key))
                shards.fill(key, moments[kind])
            if moments:
                optimizer.state[parameter] = moments


# --- small things -----------------------------------------------------------------------------------------------------


def _copied(piece: Piece) -> Piece:
    return replace(piece, rows=piece.rows.to("cpu", copy=True))


def _flush(folder: Path) -> None:
    """Wait until every file below, and every name, is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows has no handle of a folder to flush
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)

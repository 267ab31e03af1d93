"""What preferences are compared with: the log-probabilities of the model as it was before it learnt from them.

    ModelReference        a second model                      twice the weights in memory
    AdapterOffReference   the same model, adapters off        nothing more in memory; where only adapters learn
    CachedReference       numbers on disk                     computed once, by one of the others or in a pass before

No reference drops a path or anything else, and none learns.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from internvl.data.batch import ChatBatch
from internvl.data.encode import NOT_LEARNT
from internvl.data.image import Normalisation, normalise
from internvl.errors import ConfigError, TrainingError, UsageError
from internvl.models.attention import Packing
from internvl.models.chat import ChatModel
from internvl.training.objectives import segment_sums
from internvl.training.world import World


def read(model: nn.Module, batch: ChatBatch, normalisation: Normalisation = "imagenet") -> Tensor:
    """Log-probabilities (B, T) of a batch's targets, as `ChatModel.token_logprobs`; each tile is encoded once."""
    chat = cast("ChatModel", model)  # sharding and compilation change its class, not its methods
    return chat.token_logprobs(
        batch.input_ids,
        batch.targets,
        normalise(batch.tiles, normalisation),
        tile_order=batch.tile_order,
        attention_mask=batch.attention_mask,
        packing=None if batch.lengths is None else Packing(batch.lengths),
    )


class Reference(Protocol):
    """Answers what each segment (or row) of a batch was worth to the reference: (segments,) in fp32, no gradient.

    `model` is the one that learns. Every rank must ask at the same time.
    """

    def logprobs(self, model: nn.Module, batch: ChatBatch) -> Tensor: ...


class ModelReference:
    """A second model, which stays as it is.

    >>> ModelReference(internvl.load("OpenGVLab/InternVL2_5-8B"))  # doctest: +SKIP
    """

    def __init__(self, reference: nn.Module, *, normalisation: Normalisation = "imagenet") -> None:
        self.reference = reference.eval().requires_grad_(False)
        self.normalisation: Normalisation = normalisation

    @torch.no_grad()
    def logprobs(self, model: nn.Module, batch: ChatBatch) -> Tensor:
        del model
        return segment_sums(read(self.reference, batch, self.normalisation), batch.lengths)


class AdapterOffReference:
    """The model that learns, without what it has learnt: `off(model)` is a block in which it is what it began as.

    Raises `ConfigError` if more than adapters learns: that cannot be switched off.

    >>> AdapterOffReference(without_adapters)  # doctest: +SKIP
    """

    def __init__(
        self, off: Callable[[nn.Module], AbstractContextManager[object]], *, normalisation: Normalisation = "imagenet"
    ) -> None:
        self.off = off
        self.normalisation: Normalisation = normalisation

    @torch.no_grad()
    def logprobs(self, model: nn.Module, batch: ChatBatch) -> Tensor:
        learnt = [name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name]
        if learnt:
            raise ConfigError(
                f"objective.reference is adapter_off, but {len(learnt)} parameters that are no adapters learn too, the "
                f"first {learnt[0]}; freeze them (learn.projector=false), or set objective.reference=model or cache"
            )
        with evaluating(model), self.off(model):
            return segment_sums(read(model, batch, self.normalisation), batch.lengths)


class OwnReference:
    """The model that learns, as it is now: before its first step it is its own reference, to fill a cache with."""

    def __init__(self, *, normalisation: Normalisation = "imagenet") -> None:
        self.normalisation: Normalisation = normalisation

    @torch.no_grad()
    def logprobs(self, model: nn.Module, batch: ChatBatch) -> Tensor:
        with evaluating(model):
            return segment_sums(read(model, batch, self.normalisation), batch.lengths)


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """The model drops nothing for as long as the block lasts; then each of its parts is as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


# ---- on disk ---------------------------------------------------------------------------------------------------------

_RECORD = np.dtype([("key", "S16"), ("value", "<f4"), ("check", "<u4")])
"""One segment; `check` is the CRC-32 of what is before it, so that a torn end is seen."""
_SHOWN = 3


class CachedReference:
    """Log-probabilities that were computed once, kept in a folder.

    `identity` says whose they are: the weights and the type they are computed in (a path and a dtype, or `fingerprint`
    of the model). Another identity has files of its own, so that numbers of two references never mix. What is not known
    yet is computed by `live`, if there is one, and kept; without one it is a `TrainingError`. `fill` computes ahead,
    and `cover` notes for what that was done.

    A segment is known by its ids, its targets and its tiles: data that change from epoch to epoch (`augment`) need a
    `live` reference. Each rank writes `<identity>-<rank>.logprobs`, and at the start reads those of all ranks, however
    many there were. Records are only appended; one that was torn by a crash is seen by its checksum and forgotten.

    >>> CachedReference(Path("runs/a/reference"), identity="InternVL2_5-1B bf16", live=reference)  # doctest: +SKIP
    """

    def __init__(
        self, folder: Path, *, identity: str, live: Reference | None = None, world: World | None = None
    ) -> None:
        self.folder, self.live, self.world = folder, live, World() if world is None else world
        self._name = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        self._own = folder / f"{self._name}-{self.world.rank:05d}.logprobs"
        with self._own.open("ab") as file:  # what follows a torn record would never be read
            file.truncate(len(_records(self._own)) * _RECORD.itemsize)
        self.world.barrier()
        found = np.concatenate([_records(path) for path in sorted(folder.glob(f"{self._name}-*.logprobs"))])
        order = np.argsort(found["key"], kind="stable")
        self._keys, self._values = found["key"][order], found["value"][order]
        self._new: dict[bytes, float] = {}

    def __len__(self) -> int:
        """Segments known."""
        return len(self._keys) + len(self._new)

    def logprobs(self, model: nn.Module, batch: ChatBatch) -> Tensor:
        keys = segment_keys(batch, cast("ChatModel", model))
        known = [0.0 if key is None else self._known(key) for key in keys]
        missing = [at for at, value in enumerate(known) if value is None]
        if self.world.any(bool(missing)):  # a sharded reference is computed by all ranks or by none
            known = self._computed(model, batch, keys, known)
        return torch.tensor(known, dtype=torch.float32, device=batch.input_ids.device)

    def covers(self, told: str) -> bool:
        """Whether a pass over what `told` stands for was whole; the same on every rank."""
        mark = self._mark(told)
        return not self.world.any(not mark.is_file())

    def cover(self, told: str) -> None:
        """Note that it was, once every rank has come so far."""
        with self._own.open("ab") as file:  # the note must not outlive what it is about
            os.fsync(file.fileno())
        self.world.barrier()
        self._mark(told).touch()

    def _mark(self, told: str) -> Path:
        return self.folder / f"{self._name}-{hashlib.blake2b(told.encode(), digest_size=8).hexdigest()}.whole"

    def fill(
        self, model: nn.Module, batches: Iterable[ChatBatch], live: Reference, *, stop: Callable[[], bool] | None = None
    ) -> int | None:
        """Compute what is not known of these batches, as a pass before training; how many segments are known then.

        With `OwnReference` before the first step, no second model is needed. A rank whose batches are used up goes on
        with its last one until all are done. None if `stop`, which is asked before each batch, said so on any rank.
        """
        before, self.live = self.live, live
        last, left = None, iter(batches)
        try:
            while self.world.any((batch := next(left, None)) is not None):
                if stop is not None and self.world.any(stop()):
                    return None
                last = batch or last
                if last is None:
                    raise TrainingError(
                        f"rank {self.world.rank} has no batch to compute a reference of; use fewer ranks"
                    )
                self.logprobs(model, last)
        finally:
            self.live = before
        return len(self)

    def _known(self, key: bytes) -> float | None:
        if key in self._new:
            return self._new[key]
        asked = np.array(key, "S16")
        at = int(np.searchsorted(self._keys, asked))
        return float(self._values[at]) if at < len(self._keys) and self._keys[at] == asked else None

    def _computed(
        self, model: nn.Module, batch: ChatBatch, keys: Sequence[bytes | None], known: Sequence[float | None]
    ) -> list[float | None]:
        if self.live is None:
            named = ", ".join(map(str, batch.positions[:_SHOWN])) or "?"
            raise TrainingError(
                f"{known.count(None)} of {len(keys)} answers of the samples {named} are not in the reference cache "
                f"{self.folder}; fill it with the very data of this run (no augmentation), or set "
                "objective.reference=model"
            )
        computed = self.live.logprobs(model, batch).tolist()
        new = {key: value for key, value, before in zip(keys, computed, known, strict=True) if key and before is None}
        if new:
            self._new |= new
            with self._own.open("ab") as file:
                file.write(b"".join(_record(key, value) for key, value in new.items()))
        return [now if before is None else before for now, before in zip(computed, known, strict=True)]


def fingerprint(model: nn.Module) -> str:
    """What tells one set of weights from another: their names, shapes and values, in one pass over them.

    Ask before the model is sharded.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def segment_keys(batch: ChatBatch, model: ChatModel) -> list[bytes | None]:
    """What each segment (or row) is known by: a hash of its real ids, its targets and the tiles that it sees.

    None for one without a target (after its first token, which nothing predicts): it is worth 0 to any model.
    """
    ids, targets = batch.input_ids.cpu().numpy(), batch.targets.cpu().numpy()
    if batch.lengths is not None:
        ends = np.cumsum(batch.lengths)[:-1]
        rows = list(zip(np.split(ids[0], ends), np.split(targets[0], ends), strict=True))
    elif batch.attention_mask is not None:
        masks = batch.attention_mask.bool().cpu().numpy()
        rows = [(row[mask], target[mask]) for row, target, mask in zip(ids, targets, masks, strict=True)]
    else:
        rows = list(zip(ids, targets, strict=True))
    tiles = [hashlib.blake2b(tile.tobytes(), digest_size=16).digest() for tile in batch.tiles.cpu().numpy()]
    shown = iter(tiles if batch.tile_order is None else [tiles[at] for at in batch.tile_order.tolist()])
    keys: list[bytes | None] = []
    for row, target in rows:
        seen = int((row == model.config.image_token).sum()) // model.config.slots_per_tile
        looks = b"".join(next(shown, b"") for _ in range(seen))
        if (target[1:] == NOT_LEARNT).all():
            keys.append(None)
            continue
        told = len(row).to_bytes(8, "little") + row.astype("<i8").tobytes() + target.astype("<i8").tobytes()
        keys.append(hashlib.blake2b(told + looks, digest_size=16).digest())
    return keys


def _record(key: bytes, value: float) -> bytes:
    told = key + np.float32(value).astype("<f4").tobytes()
    return told + zlib.crc32(told).to_bytes(4, "little")


def _records(path: Path) -> np.ndarray:
    """The records of a file up to the first that is torn."""
    try:
        told = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the reference cache {path} cannot be read ({error.strerror}); choose another folder"
        ) from None
    size = _RECORD.itemsize
    good = 0
    while (
        good + size <= len(told)
        and zlib.crc32(told[good : good + size - 4]).to_bytes(4, "little") == told[good + size - 4 : good + size]
    ):
        good += size
    return np.frombuffer(told[:good], _RECORD)

"""Tensors that many ranks hold in rows: each writes its own, and reads the rows it needs however they were divided.

A file of a rank is a safetensors file; its metadata says of every tensor where its rows begin and how large the whole
is: `{"exp_avg/mlp1.1.weight": [first row, rows, columns, ...]}`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from internvl.errors import CheckpointError, DamagedFile
from internvl.weights.files import Handle, SafetensorsFile, write_safetensors


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor of `shape`, beginning with row `start`. A tensor without dimensions is one row."""

    rows: Tensor
    start: int
    shape: tuple[int, ...]


def piece_of(tensor: Tensor) -> Piece:
    """What this rank holds of a tensor; not a copy."""
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return Piece(tensor.detach(), 0, tuple(tensor.shape))
    rows, mesh = tensor.to_local().detach(), tensor.device_mesh
    cut = [i for i, place in enumerate(tensor.placements) if place.is_shard()]
    count = mesh.size(cut[0]) if cut else 1
    each = math.ceil(len(tensor) / count)
    start = min(each * mesh.get_local_rank(cut[0]), len(tensor)) if cut else 0
    by_rows = len(cut) <= 1 and all(tensor.placements[i].is_shard(0) for i in cut)
    if not by_rows or len(rows) != min(each, len(tensor) - start):
        raise CheckpointError(
            f"a tensor of shape {tuple(tensor.shape)} is divided as {tensor.placements}; only rows can be saved"
        )
    return Piece(rows, start, tuple(tensor.shape))


def writes(tensor: Tensor, rank: int) -> bool:
    """Whether this rank is the one that writes what it holds; of copies, the first does."""
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return rank == 0
    mesh = tensor.device_mesh
    return all(place.is_shard() or mesh.get_local_rank(i) == 0 for i, place in enumerate(tensor.placements))


def write_pieces(path: Path, pieces: Mapping[str, Piece], metadata: Mapping[str, str]) -> None:
    """Write one rank's file, and wait until it is on the disk."""
    places = {name: [piece.start, *piece.shape] for name, piece in pieces.items()}
    tensors = {name: Handle.of(piece.rows) for name, piece in pieces.items()}
    write_safetensors(path, tensors, {**metadata, "rows": json.dumps(places)})


class Shards:
    """The files of all ranks of a folder, opened; tensors are read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = [SafetensorsFile(path) for path in sorted(folder.glob("rank-*.safetensors"))]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._pieces: dict[str, list[tuple[int, Handle]]] = {}
        for file in self.files:
            for name, (start, *shape) in json.loads(file.metadata.get("rows", "{}")).items():
                self.shapes[name] = tuple(shape)
                self._pieces.setdefault(name, []).append((start, file.handles[name]))

    def __contains__(self, name: str) -> bool:
        return name in self._pieces

    def dtype(self, name: str) -> torch.dtype:
        return self._pieces[name][0][1].dtype

    @torch.no_grad()
    def fill(self, name: str, tensor: Tensor) -> None:
        """Copy into a tensor (of any division) the rows that this rank holds of it."""
        wanted = piece_of(tensor)
        if self.shapes.get(name) != wanted.shape:
            raise CheckpointError(f"{self.folder}: {name} is {self.shapes.get(name)}, expected {wanted.shape}")
        rows = wanted.rows.reshape(1) if wanted.rows.ndim == 0 else wanted.rows
        end, found = wanted.start + len(rows), 0
        for start, handle in self._pieces[name]:
            stored = handle.read().reshape(1) if not wanted.shape else handle.read()
            first, last = max(start, wanted.start), min(start + len(stored), end)
            if first < last:
                rows[first - wanted.start : last - wanted.start].copy_(stored[first - start : last - start])
                found += last - first
        if found != len(rows):
            raise DamagedFile(f"{self.folder}: {found} of {len(rows)} rows of {name} are there; a file is missing")
        self.release()

    def release(self) -> None:
        """Give back the memory of what was read."""
        for file in self.files:
            file.release()

"""Tensor files: safetensors and the older `.bin` / `.pth`, read lazily through the page cache, written atomically.

Opening reads names, shapes and types. A tensor is mapped when it is asked for, and `release` gives the pages back,
so that loading needs one copy of the model and not two.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import pickle
import shutil
import uuid
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from internvl.errors import CheckpointError, DamagedFile, KeyMismatch, ShapeMismatch, UnsafeFile, UsageError
from internvl.weights.rules import some

# fmt: off
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}
# fmt: on
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000
LARGEST = 1 << 48
"""Elements or bytes: more than any file has, and little enough for any arithmetic."""
WRAPPERS = ("module", "state_dict", "model")
"""A `.pth` may hold its tensors one level down, under one of these."""
SHARD_BYTES = 5_000_000_000
RELEASE_BYTES = 256 << 20
"""A legacy file is mapped anew after this many bytes were read, which is the only way to give its pages back."""


@dataclass(frozen=True)
class Handle:
    """A tensor that has not been read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def meta(self) -> Tensor:
        """Its shape and type, on the meta device."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    @classmethod
    def of(cls, tensor: Tensor) -> Handle:
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def majority(handles: Iterable[Handle]) -> torch.dtype:
    """The floating type that most bytes are in."""
    sizes: Counter[torch.dtype] = Counter()
    for handle in handles:
        if handle.dtype.is_floating_point:
            sizes[handle.dtype] += handle.nbytes
    if not sizes:
        raise CheckpointError("none of the tensors is of a floating type; these are not the weights of a model")
    return sizes.most_common(1)[0][0]


class TensorFile(Protocol):
    """One open file. `handles` keeps the file's own order."""

    handles: Mapping[str, Handle]
    metadata: Mapping[str, str]
    wrapper: str | None

    def release(self) -> None: ...


class SafetensorsFile:
    """https://huggingface.co/docs/safetensors: 8 bytes of length, a JSON header, the tensors."""

    wrapper: str | None = None

    def __init__(self, path: Path) -> None:
        header, self._start, size = _header(path)
        self.metadata: Mapping[str, str] = _metadata(path, header.pop("__metadata__", None))
        with path.open("rb") as file:
            # A private writable mapping: torch wants writable memory, and nothing is ever written to the file.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        entries = [(name, *_entry(path, name, entry)) for name, entry in header.items()]
        entries.sort(key=lambda entry: entry[3:])
        end = 0
        for name, _, _, begin, length in entries:
            if begin != end:
                raise DamagedFile(f"{path}: {name!r} begins at byte {begin}, the tensor before it ends at {end}")
            end += length
        if self._start + end != size:
            end += self._start
            raise DamagedFile(f"{path}: the header describes {end} bytes, the file has {size}; download it again")
        self.handles: Mapping[str, Handle] = {
            name: Handle(shape, dtype, lambda d=dtype, s=shape, b=begin: self._tensor(d, s, b))
            for name, dtype, shape, begin, _ in entries
        }

    def _tensor(self, dtype: torch.dtype, shape: tuple[int, ...], begin: int) -> Tensor:
        count, offset = math.prod(shape), self._start + begin
        if not count:
            return torch.empty(shape, dtype=dtype)
        if offset % dtype.itemsize:  # the format does not ask for alignment, and arithmetic does
            bytes_ = torch.frombuffer(self._map, dtype=torch.uint8, count=count * dtype.itemsize, offset=offset)
            return bytes_.clone().view(dtype).view(shape)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset).view(shape)

    def release(self) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows, which keeps the pages until it needs them
            self._map.madvise(mmap.MADV_DONTNEED)


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The JSON header, where the tensors begin, and the size of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise DamagedFile(f"{path}: {size} bytes, not a whole safetensors file; download it again")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise DamagedFile(f"{path}: the header of this safetensors file is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise DamagedFile(f"{path}: the header of this safetensors file is not a table of tensors")
    return header, 8 + length, size


def _metadata(path: Path, found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise DamagedFile(f"{path}: the header's __metadata__ is not a table of texts")
    return found


def _entry(path: Path, name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """dtype, shape, first byte and number of bytes of one tensor."""
    try:
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        if not all(type(n) is int and 0 <= n < LARGEST for n in (*shape, begin, end)):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        described = repr(entry)[:200]
        raise DamagedFile(f"{path}: {name!r} is described as {described}; no tensor this package reads") from None
    if math.prod(n or 1 for n in shape) >= LARGEST or end - begin != math.prod(shape) * dtype.itemsize:
        raise DamagedFile(f"{path}: {name!r} of shape {shape} does not take the {end - begin} bytes it is said to")
    return dtype, shape, begin, end - begin


class TorchFile:
    """A `.bin` or `.pth` of torch: tensors only, so that nothing in it can run; mapped where it is a zip, else read."""

    metadata: Mapping[str, str] = {}

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.wrapper, state, self._mapped = _unpickle(path)
        self._open = None if self._mapped else state
        self.handles: Mapping[str, Handle] = {
            name: Handle(tuple(tensor.shape), tensor.dtype, lambda n=name: self._tensor(n))
            for name, tensor in state.items()
        }

    def _tensor(self, name: str) -> Tensor:
        if self._open is None:
            self._open = _unpickle(self._path)[1]
        self._read += self._open[name].nbytes
        return self._open[name]

    def release(self) -> None:
        if self._mapped and self._read > RELEASE_BYTES:
            self._open, self._read = None, 0


def _unpickle(path: Path) -> tuple[str | None, dict[str, Tensor], bool]:
    """The name under which the tensors stand, if any, the tensors, and whether they are mapped."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch, about what is damaged here
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        wanted = ""
        with contextlib.suppress(Exception):
            wanted = f" ({some(torch.serialization.get_unsafe_globals_in_checkpoint(path))})"
        raise UnsafeFile(
            f"{path}: holds more than tensors{wanted} and was not opened; ask its author for safetensors"
        ) from None
    except Exception as error:  # damage reaches every part of torch's reader, and each fails in its own way
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        raise DamagedFile(f"{path}: not a whole file of torch ({reason}); download it again") from None
    wrapper: str | None = None
    if isinstance(content, dict) and len(content) == 1 and (name := next(iter(content))) in WRAPPERS:
        wrapper, content = name, content[name]
    if not isinstance(content, dict):
        raise KeyMismatch(f"{path}: holds a {type(content).__name__}, not named tensors")
    if strange := [repr(k) for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]:
        raise KeyMismatch(f"{path}: {some(strange)} are not tensors; expected a plain table of weights")
    if strange := [name for name, tensor in content.items() if not _is_plain(tensor)]:
        raise DamagedFile(f"{path}: {some(strange)} are not plain tensors that the file holds in full")
    return wrapper, {name: tensor.detach() for name, tensor in content.items()}, mapped


def _is_plain(tensor: Tensor) -> bool:
    """Of a type we know, dense, and no larger than its memory: a few bytes, expanded, could claim many gigabytes."""
    if tensor.dtype not in DTYPE_NAMES or tensor.layout != torch.strided or tensor.is_meta:
        return False
    return tensor.numel() * tensor.dtype.itemsize <= tensor.untyped_storage().nbytes()


# --- checkpoints of several files -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """All tensor files of one checkpoint, opened."""

    files: Mapping[str, TensorFile]
    index: str | None = None
    """Name of the file that says which tensor is in which shard."""

    def handles(self) -> dict[str, Handle]:
        """Every tensor, in the order of the files."""
        return {name: handle for file in self.files.values() for name, handle in file.handles.items()}

    def release(self) -> None:
        """Give back the memory of everything read so far, except what is still in use."""
        for file in self.files.values():
            file.release()


def open_weights(source: Path) -> Weights:
    """Open one tensor file, or all those of a checkpoint folder: safetensors before pickles, an index before a file."""
    if source.is_file():
        return Weights({source.name: _open_file(source)})
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        if (index := source / f"{stem}{suffix}.index.json").exists():
            return _open_shards(index)
        if (file := source / f"{stem}{suffix}").exists():
            return Weights({file.name: _open_file(file)})
    loose = sorted(source.glob("*.pth")) or sorted(source.glob("*.safetensors"))
    if len(loose) == 1:
        return Weights({loose[0].name: _open_file(loose[0])})
    seen = some(sorted(path.name for path in source.iterdir())) or "nothing"
    raise CheckpointError(
        f"{source}: no weights (model.safetensors, pytorch_model.bin, an index.json of either, or one .pth); "
        f"it holds {seen}"
    )


def _open_file(path: Path) -> TensorFile:
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def _open_shards(index: Path) -> Weights:
    """The shards of an index; what it says must be what they hold."""
    places = read_index(index)
    files = {name: _open_file(index.parent / name) for name in dict.fromkeys(places.values())}
    held = {key: name for name, file in files.items() for key in file.handles}
    if wrong := [key for key, name in places.items() if key not in files[name].handles]:
        raise DamagedFile(f"{index}: {len(wrong)} tensors are not in the file it names: {some(wrong)}")
    if wrong := [key for key in held if places.get(key) != held[key]]:
        raise DamagedFile(f"{index}: does not name {len(wrong)} tensors that its files hold: {some(wrong)}")
    return Weights(files, index.name)


def read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name, of a `*.index.json`; every file named must be there."""
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(file) for name, file in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedFile(f"{path}: not an index of shards (expected a JSON object with a weight_map)") from None
    if outside := [file for file in names.values() if Path(file).name != file]:
        raise DamagedFile(f"{path}: names {outside[0]!r}, which is not a file beside it")
    if missing := sorted({file for file in names.values() if not (path.parent / file).exists()}):
        raise DamagedFile(f"{path}: {len(missing)} of its files are not there: {some(missing)}; download them")
    return names


# --- writing ----------------------------------------------------------------------------------------------------------


def write_safetensors(path: Path, tensors: Mapping[str, Handle], metadata: Mapping[str, str]) -> None:
    """Write tensors in the given order, one at a time."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, handle in tensors.items():
        header[name] = {
            "dtype": DTYPE_NAMES[handle.dtype],
            "shape": list(handle.shape),
            "data_offsets": [end, end + handle.nbytes],
        }
        end += handle.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for handle in tensors.values():
            file.write(_plain(handle).reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def write_torch(path: Path, tensors: Mapping[str, Handle], wrapper: str | None) -> None:
    """Write a `.bin` or `.pth`. torch needs all tensors of the file at once."""
    state = {name: _plain(handle) for name, handle in tensors.items()}
    # torch would store the whole memory that a view is part of.
    state = {name: t.clone() if t.untyped_storage().nbytes() > t.nbytes else t for name, t in state.items()}
    torch.save({wrapper: state} if wrapper else state, path)


def _plain(handle: Handle) -> Tensor:
    tensor = handle.read().detach().to("cpu", handle.dtype).contiguous()
    if tuple(tensor.shape) != handle.shape:
        raise ShapeMismatch(f"a tensor of shape {tuple(tensor.shape)} stands where {handle.shape} was announced")
    return tensor


def write_file(path: Path, tensors: Mapping[str, Handle], *, metadata: Mapping[str, str], wrapper: str | None) -> None:
    """Write one tensor file of the kind its name says."""
    if path.suffix == ".safetensors":
        write_safetensors(path, tensors, metadata)
    else:
        write_torch(path, tensors, wrapper)


def split_into_shards(sizes: Mapping[str, int], limit: int) -> dict[str, tuple[str, ...]]:
    """File name -> tensor names, none above `limit` bytes unless a single tensor is.

    >>> split_into_shards({"a": 6, "b": 6, "c": 3}, 10)
    {'model-00001-of-00002.safetensors': ('a',), 'model-00002-of-00002.safetensors': ('b', 'c')}
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return {"model.safetensors": tuple(shards[0])}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": tuple(s) for i, s in enumerate(shards, start=1)}


def index_of(shards: Mapping[str, Iterable[str]], total: int) -> bytes:
    """The `model.safetensors.index.json` of these shards."""
    places = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()


@contextlib.contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Generator[Path]:
    """A folder to fill that takes its name only when all went well; until then `folder` is as it was.

    An existing folder that is not empty is refused, unless `replace` says that it may go. A link stays a link, and
    what it leads to is replaced. No system exchanges two folders in one step: between the two renames the name is
    missing for a moment, and a power cut just then leaves the old folder beside it as `.<name>.<number>.old`.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; expected a folder to write a checkpoint into")
    if folder.is_dir() and any(folder.iterdir()) and not replace:
        raise UsageError(f"{folder} is not empty; name a new folder, or allow it to be replaced")
    folder.parent.mkdir(parents=True, exist_ok=True)
    growing = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    old = growing.with_suffix(".old")
    growing.mkdir()
    try:
        yield growing
        if folder.exists():
            folder.replace(old)
        growing.replace(folder)
    finally:
        if old.exists() and not folder.exists():
            old.replace(folder)
        shutil.rmtree(growing, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

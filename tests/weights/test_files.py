"""Tensor files: what is read, what is refused, what is written."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from internvl.errors import CheckpointError, DamagedFile, KeyMismatch, UnsafeFile, UsageError
from internvl.weights import files
from internvl.weights.files import (
    Handle,
    index_of,
    open_weights,
    split_into_shards,
    whole_folder,
    write_file,
)

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3), "b.half": torch.randn(3, 1).half(),
    "brain": torch.randn(5).bfloat16(), "whole": torch.arange(4), "empty": torch.zeros(0, 3),
    "flags": torch.tensor([True]), "eight": torch.randn(4).to(torch.float8_e4m3fn), "scalar": torch.tensor(2.5),
}  # fmt: skip


def handles(tensors: dict[str, torch.Tensor]) -> dict[str, Handle]:
    return {name: Handle.of(tensor) for name, tensor in tensors.items()}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and bytes(a.reshape(-1).view(torch.uint8)) == bytes(b.reshape(-1).view(torch.uint8))
    )


def test_reads_what_the_library_writes(tmp_path: Path):
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    weights = open_weights(tmp_path)
    found = weights.handles()
    assert found.keys() == TENSORS.keys()
    for name, handle in found.items():
        assert handle.shape == tuple(TENSORS[name].shape)
        assert handle.nbytes == TENSORS[name].nbytes
        assert same(handle.read(), TENSORS[name])
    weights.release()
    assert same(found["a"].read(), TENSORS["a"])  # mapped again on demand
    assert weights.files["model.safetensors"].metadata == {"format": "pt"}


def test_writes_what_the_library_reads_in_its_own_bytes(tmp_path: Path):
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    read = open_weights(tmp_path)
    write_file(tmp_path / "again.safetensors", read.handles(), metadata={"format": "pt"}, wrapper=None)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert all(same(tensor, TENSORS[name]) for name, tensor in load_file(tmp_path / "again.safetensors").items())


@pytest.mark.parametrize("wrapper", [None, "module"])
@pytest.mark.parametrize("zipped", [True, False])
def test_legacy_files(tmp_path: Path, wrapper, zipped):
    state = {k: v for k, v in TENSORS.items() if v.dtype != torch.float8_e4m3fn}
    content = {wrapper: state} if wrapper else state
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    weights = open_weights(tmp_path / "x.pth")
    assert weights.files["x.pth"].wrapper == wrapper
    assert all(same(handle.read(), TENSORS[name]) for name, handle in weights.handles().items())
    write_file(tmp_path / "y.pth", weights.handles(), metadata={}, wrapper=wrapper)
    again = torch.load(tmp_path / "y.pth", weights_only=True)
    again = again[wrapper] if wrapper else again
    assert list(again) == list(state)
    assert all(same(again[name], state[name]) for name in state)


def test_a_view_is_written_alone(tmp_path: Path):
    """torch stores the whole memory that a view is part of."""
    part = torch.zeros(1_000_000)[:10]
    write_file(tmp_path / "x.bin", handles({"part": part}), metadata={}, wrapper=None)
    assert (tmp_path / "x.bin").stat().st_size < 10_000


def test_a_handle_must_keep_its_word(tmp_path: Path):
    liar = Handle((3,), torch.float32, lambda: torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"\(2,\).*\(3,\)"):
        write_file(tmp_path / "x.safetensors", {"liar": liar}, metadata={}, wrapper=None)


# --- damage and malice ------------------------------------------------------------------------------------------------


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("name", ["model.bin", "pytorch_model.bin", "tower.pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_a_payload_runs_nothing(tmp_path: Path, name, zipped):
    mark = tmp_path / "executed"
    torch.save({"a": torch.zeros(2), "b": Payload(mark)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeFile) as caught:
        open_weights(tmp_path / name)
    assert not mark.exists()
    assert "\n" not in str(caught.value)
    assert "more than tensors" in str(caught.value)
    if zipped:
        assert "mkdir" in str(caught.value)


def test_a_bare_pickle_runs_nothing(tmp_path: Path):
    mark = tmp_path / "executed"
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"b": Payload(mark)}, protocol=2))
    with pytest.raises(UnsafeFile):
        open_weights(tmp_path)
    assert not mark.exists()


def damage_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_noise(path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html><html>404</html>" * 50)


@pytest.mark.parametrize("damage", [damage_short, damage_half, damage_empty, damage_noise])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_files_are_one_line(tmp_path: Path, name, damage):
    path = tmp_path / name
    write_file(path, handles(TENSORS), metadata={}, wrapper=None)
    damage(path)
    with pytest.raises((DamagedFile, UnsafeFile)) as caught:
        open_weights(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


FOUR = {"dtype": "F32", "shape": [1]}


def forged(header: object, data: bytes = b"\0" * 8) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        forged([1, 2]),
        forged({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}),
        forged({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}}),
        forged({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
        forged({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}),
        forged({"a": {"dtype": "Q4_K", "shape": [2], "data_offsets": [0, 8]}}),
        forged({"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 8]}}),
        forged({"a": "b"}),
        forged({"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 8]}}),
        forged({"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}),
        forged({"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}),
        forged({"a": {"dtype": "F32", "shape": [10**30], "data_offsets": [0, 8]}}),
        forged({"a": {"dtype": "F32", "shape": [0, 10**12, 10**12], "data_offsets": [0, 0]}}, b""),
        forged({"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}),
        forged({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}),
        forged({"a": FOUR | {"data_offsets": [0, 4]}, "b": FOUR | {"data_offsets": [2, 6]}}, b"\0" * 6),
        forged({"a": FOUR | {"data_offsets": [0, 4]}, "b": FOUR | {"data_offsets": [0, 4]}}, b"\0" * 4),
        forged({"a": FOUR | {"data_offsets": [4, 8]}}),
        forged({"a": FOUR | {"data_offsets": [0, 4]}, "b": FOUR | {"data_offsets": [8, 12]}}, b"\0" * 12),
        forged({"__metadata__": [1]}, b""),
        forged({"__metadata__": {"format": 1}}, b""),
        struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995,
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 3) + b"{x}",
    ],
)
def test_forged_headers_are_refused(tmp_path: Path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DamagedFile):
        open_weights(tmp_path)


@given(st.binary(max_size=300))
def test_no_bytes_escape_the_error_tree(tmp_path_factory: pytest.TempPathFactory, content):
    path = tmp_path_factory.mktemp("x") / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedFile):
        open_weights(path.parent)


def test_tensors_need_not_be_aligned(tmp_path: Path):
    """Other writers neither pad the header nor sort by size."""
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    (tmp_path / "model.safetensors").write_bytes(forged(header, b"\7" + struct.pack("<2f", 1.5, -2.0)))
    found = open_weights(tmp_path).handles()
    assert found["a"].read().tolist() == [7]
    assert found["b"].read().tolist() == [1.5, -2.0]
    assert found["b"].read().data_ptr() % 4 == 0


@pytest.mark.parametrize("zipped", [True, False])
def test_no_flipped_bit_escapes_the_error_tree(tmp_path: Path, zipped, recwarn):
    torch.save({"a": torch.randn(3, 4), "b": torch.zeros(2)}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    whole, rng = (tmp_path / "x").read_bytes(), random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / "x.bin").write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            assert all(handle.read() is not None for handle in open_weights(tmp_path / "x.bin").handles().values())
    assert not recwarn.list


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(100_000, 100_000),
        torch.zeros(4, dtype=torch.complex64),
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
    ],
)
def test_a_pickled_tensor_must_be_there_in_full(tmp_path: Path, tensor):
    torch.save({"a": torch.zeros(2), "b": tensor}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError) as caught:
        open_weights(tmp_path / "x.bin")
    assert "\n" not in str(caught.value)


def test_an_older_pickle_is_read_once(tmp_path: Path, monkeypatch):
    """It cannot be mapped, so giving its memory back would mean to read all of it again."""
    monkeypatch.setattr(files, "RELEASE_BYTES", 0)
    torch.save({"a": torch.zeros(2), "b": torch.ones(2)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    opened: list[Path] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: opened.append(path) or load(path, **options))
    weights = open_weights(tmp_path / "x.bin")
    for handle in weights.handles().values():
        handle.read()
        weights.release()
    assert len(opened) == 1


def test_a_pth_of_something_else(tmp_path: Path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "x.pth")
    with pytest.raises(KeyMismatch, match="not tensors"):
        open_weights(tmp_path / "x.pth")
    torch.save({1: torch.zeros(1)}, tmp_path / "z.pth")
    with pytest.raises(KeyMismatch, match="1 are not tensors"):
        open_weights(tmp_path / "z.pth")
    torch.save([torch.zeros(1)], tmp_path / "y.pth")
    with pytest.raises(KeyMismatch, match="list"):
        open_weights(tmp_path / "y.pth")


def test_a_folder_without_weights_says_what_it_holds(tmp_path: Path):
    (tmp_path / "README.md").write_text("hello")
    with pytest.raises(CheckpointError, match=r"no weights.*README\.md"):
        open_weights(tmp_path)


# --- shards -----------------------------------------------------------------------------------------------------------


def sharded(folder: Path) -> Path:
    shards = {"model-00001-of-00002.safetensors": ("a", "brain"), "model-00002-of-00002.safetensors": ("whole",)}
    for file, names in shards.items():
        save_file({name: TENSORS[name] for name in names}, folder / file)
    (folder / "model.safetensors.index.json").write_bytes(index_of(shards, 50))
    return folder


def rewrite_index(folder: Path, change) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_shards_are_one_checkpoint(tmp_path: Path):
    weights = open_weights(sharded(tmp_path))
    assert weights.index == "model.safetensors.index.json"
    assert set(weights.handles()) == {"a", "brain", "whole"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(more="model-00003-of-00003.safetensors"), r"1 of its files are not there: model-00003"),
        (lambda m: m.update(more="model-00002-of-00002.safetensors"), r"1 tensors are not in the file.*more"),
        (lambda m: m.update(whole="model-00001-of-00002.safetensors"), r"1 tensors are not in the file.*whole"),
        (lambda m: m.pop("brain"), r"does not name 1 tensors.*brain"),
        (lambda m: m.update(more="../../secret.safetensors"), r"not a file beside it"),
    ],
)
def test_an_index_must_be_true(tmp_path: Path, change, says):
    rewrite_index(sharded(tmp_path), change)
    with pytest.raises(DamagedFile, match=says):
        open_weights(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path):
    (sharded(tmp_path) / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DamagedFile, match="model-00002-of-00002"):
        open_weights(tmp_path)


def test_a_truncated_shard_is_named(tmp_path: Path):
    damage_short(sharded(tmp_path) / "model-00001-of-00002.safetensors")
    with pytest.raises(DamagedFile, match="model-00001-of-00002"):
        open_weights(tmp_path)


def test_a_broken_index_is_one_line(tmp_path: Path):
    (sharded(tmp_path) / "model.safetensors.index.json").write_text("{")
    with pytest.raises(DamagedFile, match="index"):
        open_weights(tmp_path)


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30), limit=st.integers(1, 80))
def test_no_shard_is_over_the_limit_unless_one_tensor_is(sizes, limit):
    named = {f"t{i}": size for i, size in enumerate(sizes)}
    shards = split_into_shards(named, limit)
    assert [name for names in shards.values() for name in names] == list(named)
    for names in shards.values():
        assert sum(named[name] for name in names) <= limit or len(names) == 1


# --- whole or not at all ----------------------------------------------------------------------------------------------


def fail_after(file: Path) -> None:
    file.write_text("{}")
    raise RuntimeError("power cut")


def test_a_failed_write_leaves_nothing(tmp_path: Path):
    target = tmp_path / "out"
    with pytest.raises(RuntimeError, match="power"), whole_folder(target) as growing:
        fail_after(growing / "config.json")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_what_was_there(tmp_path: Path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(RuntimeError), whole_folder(target, replace=True):
        raise RuntimeError
    assert (target / "old").read_text() == "old"
    with whole_folder(target, replace=True) as growing:
        (growing / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path):
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "disk" / "real" / "old").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    with whole_folder(tmp_path / "link", replace=True) as growing:
        (growing / "new").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "disk" / "real").iterdir()] == ["new"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


def test_a_full_folder_is_not_overwritten(tmp_path: Path):
    (tmp_path / "keep").write_text("me")
    with pytest.raises(UsageError, match="not empty"), whole_folder(tmp_path):
        pass
    file = tmp_path / "keep"
    with pytest.raises(UsageError, match="is a file"), whole_folder(file):
        pass

"""Rows by their place: what is a row, how it is named, that no process holds more than it asked for."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import pickle
import random
import tarfile
import tracemalloc

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from internvl.data import addresses, rows_jsonl, rows_parquet, rows_tar
from internvl.data.addresses import File, expand, joined
from internvl.data.records import record
from internvl.data.rows import open_rows
from internvl.data.rows_jsonl import write_index
from internvl.errors import DataError, MissingExtra


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of indexes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "internvl"


def everything(opened):
    return [(opened.origin(at).rpartition(":")[2], opened[at]) for at in range(len(opened))]


def kept(cache):
    return sorted(path.suffix for path in cache.iterdir())


# ---- JSON lines ------------------------------------------------------------------------------------------------------


def index_of(data, chunk):
    """(where each row begins, and its line number) as the index has it."""
    import numpy as np

    out = io.BytesIO()
    write_index(io.BytesIO(data), out, io.BytesIO(), chunk=chunk)
    found = np.frombuffer(out.getvalue(), np.int64)
    count, gaps = found[:2]
    assert len(found) == 3 + count + gaps
    assert found[2 + count] == len(data)
    starts, before = found[2 : 2 + count], found[3 + count :]
    return [(start, at + 1 + np.searchsorted(before, at, side="right")) for at, start in enumerate(starts)]


def index_expected(data):
    found, begun = [], 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            found.append((begun, number))
        begun += len(line) + 1
    return found


lines = st.lists(st.sampled_from([b"", b" ", b"\t \r", b"\r", b"{}", b' {"a": 1}', b'{"b": "xxxxxxxxxxxx"}\r']))


@given(lines, st.booleans(), st.integers(1, 40))
def test_the_index_finds_every_line_whatever_the_chunks(parts, closed, chunk):
    data = b"\n".join(parts) + b"\n" * closed
    assert index_of(data, chunk) == index_expected(data)


@given(st.binary(max_size=60), st.integers(1, 70))
def test_the_index_of_any_bytes(data, chunk):
    assert index_of(data, chunk) == index_expected(data)


def test_lines_are_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"a": "é"}\n\n  \t\n{"a": 2}\r\n\r\n{"a": 3}'.encode())
    opened = open_rows(str(path))
    assert everything(opened) == [("1", {"a": "é"}), ("4", {"a": 2}), ("6", {"a": 3})]
    assert opened.origin(1) == f"{path}:4"
    with pytest.raises(IndexError):
        opened[3]
    with pytest.raises(IndexError):
        opened[-1]


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_a_file_without_rows(tmp_path, data):
    (tmp_path / "a.jsonl").write_bytes(data)
    assert len(open_rows(str(tmp_path / "a.jsonl"))) == 0


@pytest.mark.parametrize(("line", "said"), [
    (b"{", "not JSON"), (b"[1]", "is a JSON list"), (b'{"a": "\xff"}', "not JSON"), (b"[" * 100_000, "not JSON"),
    (b"9" * 5000, "not JSON"), (b"\0" * 50, "not JSON"),
])  # fmt: skip
def test_a_bad_line_is_a_bad_row(tmp_path, line, said):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    opened = open_rows(str(path))
    assert (opened[0], opened[2]) == ({"a": 1}, {"a": 3})
    with pytest.raises(DataError) as error:
        opened[1]
    assert f"{path}:2" in str(error.value)
    assert said in str(error.value)


def test_a_line_without_end_is_a_bad_row_not_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_jsonl, "LONGEST_LINE", 10_000)
    path = tmp_path / "a.jsonl"
    fits = b'{"a": "' + b"x" * 9_991 + b'"}'
    assert len(fits) == 10_000
    path.write_bytes(fits + b"\n" * 30_000 + b'{"a": "' + b"y" * 50_000_000 + b'"}\n{}\n')
    tracemalloc.start()
    opened = open_rows(str(path))
    assert len(opened) == 3
    assert len(opened[0]["a"]) == 9_991
    with pytest.raises(DataError, match=r"a.jsonl:30001 is longer than 10000 bytes"):
        opened[1]
    assert opened[2] == {}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000, "bytes: a chunk of 4 MiB and what is computed on it; 13 million were seen"


def test_of_two_that_index_a_file_at_once_the_first_wins(tmp_path, cache):
    """The ranks of one machine do; who has opened the index of the first can go on reading it."""
    (tmp_path / "a.jsonl").write_text("{}\n")
    file = File.at(str(tmp_path / "a.jsonl"))
    opened: list[File] = []

    def build(source, out, space):
        if not opened:
            opened.append(File.at(str(addresses.kept(file, "lines", lambda source, out, space: out.write(b"first")))))
        out.write(b"second")

    path = addresses.kept(file, "lines", build)
    assert opened[0].read(0, 5) == path.read_bytes() == b"first"
    assert kept(cache) == [".lines"]


def test_the_index_is_kept_until_the_file_changes(tmp_path, cache, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    old = open_rows(str(path))
    assert kept(cache) == [".lines"]
    monkeypatch.setattr(rows_jsonl, "write_index", None)  # it is not written again
    assert open_rows(str(path))[0] == {"a": 1}
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    path.write_text('{"b": 1}\n{"b": 2}\n')
    with pytest.raises(DataError, match="has changed since it was opened; begin again"):
        old[0]
    assert len(open_rows(str(path))) == 2
    assert kept(cache) == [".lines"], "the index of the file as it was is gone"


def test_nothing_half_written_stays(tmp_path, cache, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rows_jsonl, "write_index", broken)
    with pytest.raises(DataError, match=r"index could not be written to .* \(No space left on device\)"):
        open_rows(str(path))
    assert kept(cache) == []


def test_a_cache_that_may_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(addresses.tempfile, "tempdir", str(tmp_path))
    assert open_rows(str(tmp_path / "a.jsonl"))[0] == {"a": 1}
    assert any(path.suffix == ".lines" for path in tmp_path.glob("internvl-*/*"))
    if hasattr(os, "getuid"):
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        (tmp_path / "internvl-12345").mkdir()
        with pytest.raises(DataError, match="another user's"):
            open_rows(str(tmp_path / "a.jsonl"))


# ---- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "found"), [
    ("a-{8..11}.jsonl", ["a-8.jsonl", "a-9.jsonl", "a-10.jsonl", "a-11.jsonl"]),
    ("s3://b/{x,y}-{00..01}.tar", ["s3://b/x-00.tar", "s3://b/x-01.tar", "s3://b/y-00.tar", "s3://b/y-01.tar"]),
    ("plain.jsonl", ["plain.jsonl"]),
])  # fmt: skip
def test_braces(address, found):
    assert expand(address) == found


@pytest.mark.parametrize(("address", "said"), [
    ("a{5..3}.tar", "runs over -1 numbers"),
    ("a{0..999999999}.tar", "runs over 1000000000 numbers"),
    ("a{0..999}{0..999}.tar", "more than 100000 files"),
    ("a{x}.tar", "neither a span"),
    ("none-*.tar", "no file fits"),
    ("memory://none-*.tar", "no file fits"),
])  # fmt: skip
def test_addresses_that_stand_for_nothing(address, said):
    with pytest.raises(DataError) as error:
        expand(address)
    assert said in str(error.value)


@pytest.mark.parametrize(("file", "path", "found"), [
    ("meta/all.json", "a.jsonl", "meta/a.jsonl"), ("all.json", "a.jsonl", "a.jsonl"), ("all.json", "/x/a", "/x/a"),
    ("s3://b/m/all.json", "a.jsonl", "s3://b/m/a.jsonl"), ("m/all.json", "s3://b/a", "s3://b/a"),
])  # fmt: skip
def test_relative_to_a_file(file, path, found):
    assert joined(file, path) == found


def test_several_files_are_one(tmp_path):
    for name, count in (("p-[0].jsonl", 2), ("p-1.jsonl", 0), ("p-2.jsonl", 3)):
        (tmp_path / name).write_text("".join(f'{{"a": {at}}}\n' for at in range(count)))
    assert len(open_rows(str(tmp_path / "p-[0].jsonl"))) == 2, "the file of that very name"
    opened = open_rows(str(tmp_path / "p-*.jsonl"))
    assert [row["a"] for _, row in everything(opened)] == [0, 1, 2, 0, 1]
    assert {opened.origin(at).rpartition("/")[2] for at in range(5)} == {
        "p-[0].jsonl:1", "p-[0].jsonl:2", "p-2.jsonl:1", "p-2.jsonl:2", "p-2.jsonl:3",
    }  # fmt: skip
    with pytest.raises(IndexError):
        opened[5]
    assert everything(pickle.loads(pickle.dumps(opened))) == everything(opened)


def test_many_shards_are_not_open_at_a_time(tmp_path):
    for at in range(100):
        (tmp_path / f"{at:03}.jsonl").write_text(f'{{"a": {at}}}\n')
    opened = open_rows(str(tmp_path / "{000..099}.jsonl"))
    assert [opened[at]["a"] for at in range(100)] == list(range(100))
    assert len(opened._open) == 64


@pytest.mark.parametrize(("name", "said"), [
    ("none.jsonl", "there is no such file"), ("a.jsonl.gz", "is compressed"), ("a.tar.gz", "is compressed"),
    ("a.csv", "is of no known kind"), ("a.json", "of a list: jq -c '.[]' "),
    ("", "is not a file"), ("zero\0.jsonl", "there is no such file"),
    ("a.tar", "is not a tar file"), ("a.parquet", "not a whole Parquet file"),
])  # fmt: skip
def test_files_that_cannot_be_opened(tmp_path, name, said):
    for other in ("a.json", "a.jsonl.gz", "a.tar.gz", "a.csv", "a.tar", "a.parquet"):
        (tmp_path / other).write_bytes(b"x" * 600)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError) as error:
        open_rows(str(tmp_path / (name or "folder.jsonl")))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_address_without_its_library(monkeypatch):
    with pytest.raises(MissingExtra, match=r"nosuch: addresses need fsspec and its part for nosuch"):
        open_rows("nosuch://bucket/a.jsonl")


def test_a_remote_address_shows_no_secret():
    with pytest.raises(DataError) as error:
        open_rows("memory://user:secret@host/none.jsonl?token=secret")
    assert "secret" not in str(error.value)


# ---- shards of WebDataset --------------------------------------------------------------------------------------------


def tar_of(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


SHARD = [
    ("./a/000.jpg", b"jpeg 0"), ("./a/000.txt", "Ein Bär.".encode()),
    ("./a/001.json", b'{"image": "x.png", "label": 5, "url": "u"}'), ("./a/001.PNG", b"png 1"), ("./a/001.cls", b"7\n"),
    ("b/002.cls", b"7\n"), ("b/002.webp", b"webp 2"), ("b/002.meta", b"left alone"),
    ("b/003.1.jpg", b"first"), ("b/003.2.jpg", b"second"), ("b/003.json", b'{"image": ["p", "q"]}'),
    ("b/004.mp4", b"video"), ("b/004.json", b'{"video": "v.mp4"}'), ("b/._005.jpg", b"of a Mac"),
    ("b/006.json", b'{"image": ["p"]}'), ("b/006.jpg", b"one"),
    ("b/007.json", b'{"image": "far/away.jpg"}'), ("b/008.cls", b"tabby cat"), ("b/008.jpg", b"x"),
]  # fmt: skip


def test_members_of_one_key_are_a_row(tmp_path):
    path = tmp_path / "s.tar"
    path.write_bytes(tar_of(SHARD))
    assert everything(open_rows(str(path))) == [
        ("./a/000", {"image": b"jpeg 0", "caption": "Ein Bär."}),
        ("./a/001", {"image": b"png 1", "label": 5, "url": "u"}),
        ("b/002", {"label": 7, "image": b"webp 2"}),
        ("b/003", {"image": [b"first", b"second"]}),
        ("b/004", {"video": b"video"}),
        ("b/006", {"image": [b"one"]}),
        ("b/007", {"image": "far/away.jpg"}),
        ("b/008", {"label": "tabby cat", "image": b"x"}),
    ]
    opened = open_rows(str(path))
    pair = record(opened[0], "pair", origin=opened.origin(0))
    assert (pair.image, pair.caption, pair.id) == (b"jpeg 0", "Ein Bär.", f"{path}:./a/000")


@pytest.mark.parametrize(("members", "said"), [
    ([("0.json", b"{")], r"0.json is not JSON"),
    ([("0.json", b'{"image": ["a"]}'), ("0.1.jpg", b"x"), ("0.2.jpg", b"x")], "holds 2 picture"),
    ([("0.a.mp4", b"x"), ("0.b.mp4", b"x")], "more than one video"),
    ([("0.txt", b"\xff")], r"0.txt is not UTF-8"),
    ([("0.jpg", b"x" * 2000)], r"0.jpg has 2000 bytes; at most 1000"),
])  # fmt: skip
def test_a_bad_key_is_a_bad_row(tmp_path, monkeypatch, members, said):
    monkeypatch.setattr(rows_tar, "LARGEST_MEMBER", 1000)
    path = tmp_path / "s.tar"
    path.write_bytes(tar_of([*members, ("1.jpg", b"good")]))
    opened = open_rows(str(path))
    assert opened[1] == {"image": b"good"}
    with pytest.raises(DataError, match=said) as error:
        opened[0]
    assert str(error.value).startswith(f"{path}:0")


def test_a_row_has_a_bounded_number_of_members(tmp_path):
    """Names that are equal up to the first dot are one row: by mistake that may be a whole shard."""
    few, many = (
        [(f"{name}.{at:06}.jpg", b"x") for at in range(count)] for name, count in (("few", 1000), ("pic", 3000))
    )
    path = tmp_path / "s.tar"
    path.write_bytes(tar_of([*few, *many, ("1.jpg", b"good")]))
    opened = open_rows(str(path))
    assert len(opened) == 3
    assert opened[0] == {"image": [b"x"] * 1000}
    assert opened[2] == {"image": b"good"}
    with pytest.raises(DataError, match=r"s.tar:pic has more than 1000 members; what is equal up to the first dot"):
        opened[1]
    assert max(len(entry["members"]) for entry in rows_tar._entries(io.BytesIO(path.read_bytes()), "s.tar")) == 1001


def test_a_row_has_a_bounded_number_of_bytes(tmp_path, monkeypatch):
    """What is left alone does not count."""
    monkeypatch.setattr(rows_tar, "LARGEST_ROW", 1000)
    path = tmp_path / "s.tar"
    path.write_bytes(tar_of([("0.a.jpg", b"x" * 600), ("0.npy", b"x" * 9000), ("1.a.jpg", b"x" * 600),
                             ("1.b.PNG", b"x" * 600)]))  # fmt: skip
    opened = open_rows(str(path))
    assert opened[0] == {"image": b"x" * 600}
    with pytest.raises(DataError, match=r"s.tar:1 has 1200 bytes in 2 members; a row has at most 1000"):
        opened[1]


def test_names_in_a_shard_reach_nothing(tmp_path):
    """Nothing is unpacked, links are not followed, and what is no file is no row."""
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    out = io.BytesIO(tar_of([("../../secret.jpg", b"up"), ("/abs/0.jpg", b"abs")])[:2048])
    out.seek(2048)
    with tarfile.open(fileobj=out, mode="w") as tar:
        for kind, name in ((tarfile.SYMTYPE, "link.jpg"), (tarfile.LNKTYPE, "hard.jpg"), (tarfile.FIFOTYPE, "p.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(tmp_path / "secret.jpg")
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("folder.jpg/"))
    path = tmp_path / "s.tar"
    path.write_bytes(out.getvalue())
    before = sorted(tmp_path.rglob("*"))
    assert everything(open_rows(str(path))) == [
        ("../../secret", {"image": b"up"}), ("/abs/0", {"image": b"abs"}),
    ]  # fmt: skip
    assert sorted(file for file in tmp_path.rglob("*") if "cache" not in file.parts) == before


@given(st.data())
def test_damage_to_a_shard_is_never_silent(tmp_path_factory, data):
    """Cut off or overwritten anywhere: whole rows before are there, and one bad row tells of what is lost.

    A member here is a head of 512 bytes, 700 of content and 324 that fill the block. Only a shard that is cut between
    members looks like a shorter one.
    """
    whole = tar_of([(f"{at}.jpg", bytes([65 + at]) * 700) for at in range(5)])
    cut = data.draw(st.integers(0, 5 * 1536 - 325) | st.integers(0, 4).map(lambda at: 1536 * at))
    tail = data.draw(st.sampled_from([b"", b"\xff" * 700, b"\0" * 300, bytes(range(256)) * 3]))
    path = tmp_path_factory.mktemp("tar") / "s.tar"
    path.write_bytes(whole[:cut] + tail)
    try:
        opened = open_rows(str(path))
    except DataError:
        assert cut < 512
        return
    read = []
    for at in range(len(opened)):
        with contextlib.suppress(DataError):
            read.append(opened[at]["image"])
    sure = max(0, cut // 1536 - 1)  # the one before a damaged head may lack a member
    assert read[:sure] == [bytes([65 + at]) * 700 for at in range(sure)]
    between = cut % 1536 == 0 or cut % 1536 >= 1212
    assert len(read) < len(opened) or (between and not tail.strip(b"\0"))


def test_a_shard_is_looked_through_without_a_list_of_its_members():
    source = io.BytesIO(tar_of([(f"{at:05}.txt", b"x") for at in range(3_000)]))
    tracemalloc.start()
    assert sum(1 for _ in rows_tar._entries(source, "s.tar")) == 3_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000, "bytes; 7 thousand were seen, with such a list 1.3 million"


# ---- Parquet ---------------------------------------------------------------------------------------------------------

TABLE = [
    {"id": at, "image": {"bytes": bytes([at % 256]) * 9, "path": f"{at}.jpg"} if at % 3 else None,
     "images": [{"bytes": None, "path": f"{at}-{n}.jpg"} for n in range(at % 3)],
     "conversations": [{"from": "human", "value": f"Q{at}"}, {"from": "gpt", "value": "A"}], "set": "xy"[at % 2]}
    for at in range(1500)
]  # fmt: skip


def write_parquet(path, count, group):
    table = pa.Table.from_pylist(TABLE[:count])
    at = table.schema.get_field_index("set")
    table = table.set_column(at, "set", table.column("set").dictionary_encode())
    parquet.write_table(table, path, row_group_size=group)


@pytest.mark.parametrize(("count", "group", "files"), [
    (0, 10, []), (1, 10, []), (300, 100, []), (299, 7, []), (1500, 1500, [".arrow"]), (1500, 1100, [".arrow"]),
    (1280, 1280, [".arrow"]),
])  # fmt: skip
def test_rows_of_parquet(tmp_path, cache, count, group, files):
    path = tmp_path / "t.parquet"
    if count:
        write_parquet(path, count, group)
    else:
        parquet.write_table(pa.Table.from_pylist(TABLE[:1]).slice(0, 0), path)
    opened = open_rows(str(path))
    expected = TABLE[:count]
    assert everything(opened) == [(str(at + 1), row) for at, row in enumerate(expected)]
    copy = pickle.loads(pickle.dumps(opened))
    assert [copy[at] for at in reversed(range(count))] == expected[::-1]
    assert (kept(cache) if cache.exists() else []) == files


@given(st.lists(st.integers(1, 600), min_size=1, max_size=6), st.sampled_from([1, 7, 256]))
def test_the_copy_has_even_pieces(lengths, rows):
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    batches = [pa.record_batch({"n": list(range(start, start + n))}) for start, n in zip(starts, lengths, strict=True)]
    pieces = list(rows_parquet._even(pa, iter(batches), rows))
    assert [n for piece in pieces for n in piece.column("n").to_pylist()] == list(range(sum(lengths)))
    assert {piece.num_rows for piece in pieces[:-1]} <= {rows}
    assert pieces[-1].num_rows <= rows


def large_rows(path, count, group):
    """Rows of 30 kB that do not compress."""
    rows = [{"id": at, "image": random.Random(at).randbytes(30_000)} for at in range(count)]
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return rows


class Decoded:
    """How many groups are decoded."""

    def __init__(self, monkeypatch):
        self.count, read = 0, parquet.ParquetFile.read_row_group

        def counted(file, *args, **options):
            self.count += 1
            return read(file, *args, **options)

        monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counted)


@pytest.mark.parametrize(("group", "files"), [(100, [".arrow"]), (20, [])])
def test_a_group_of_pictures_is_not_decoded_for_each_row(tmp_path, cache, monkeypatch, group, files):
    """Groups of 3 MB are copied; those of 0.6 MB are not worth it."""
    rows = large_rows(tmp_path / "t.parquet", 200, group)
    monkeypatch.setattr(rows_parquet, "COPIED_BYTES", 10 * 30_000)
    decoded, opened = Decoded(monkeypatch), open_rows(str(tmp_path / "t.parquet"))
    for at in random.Random(0).sample(range(200), 200):
        assert opened[at] == rows[at]
    assert decoded.count == 0 if files else decoded.count > 100
    assert (kept(cache) if cache.exists() else []) == files
    if files:
        assert opened._piece in (9, 10)


def test_no_copy_fills_the_disk(tmp_path, cache, monkeypatch):
    """It is read where it is, slowly; a copy that is there already is used."""
    rows = large_rows(tmp_path / "t.parquet", 60, 60)
    usage = rows_parquet.shutil.disk_usage
    monkeypatch.setattr(rows_parquet.shutil, "disk_usage", lambda at: usage(at)._replace(free=3_000_000))
    opened = open_rows(str(tmp_path / "t.parquet"))
    assert [opened[at] for at in (59, 0, 31)] == [rows[at] for at in (59, 0, 31)]
    assert not any(name == ".arrow" for name in kept(cache))
    monkeypatch.setattr(rows_parquet, "SLOW_BYTES", 2**20)
    with pytest.raises(DataError, match=r"too large to be read where they are.*XDG_CACHE_HOME") as error:
        open_rows(str(tmp_path / "t.parquet"))
    assert "\n" not in str(error.value)
    monkeypatch.setattr(rows_parquet.shutil, "disk_usage", usage)
    assert open_rows(str(tmp_path / "t.parquet"))[5] == rows[5]
    monkeypatch.setattr(rows_parquet.shutil, "disk_usage", lambda at: usage(at)._replace(free=0))
    assert open_rows(str(tmp_path / "t.parquet"))[6] == rows[6]


def test_parquet_rows_are_records(tmp_path):
    write_parquet(tmp_path / "t.parquet", 5, 5)
    opened = open_rows(str(tmp_path / "t.parquet"))
    said = record(opened[1], "conversation", origin=opened.origin(1))
    assert said.images == (b"\x01" * 9,)
    assert said.turns == (("user", "Q1"), ("assistant", "A"))
    assert said.id == f"{tmp_path}/t.parquet:2, id 1"
    path_alone = {"image": opened[2]["images"], "conversations": opened[2]["conversations"]}
    assert record(path_alone, "conversation", origin="x").images == ("2-0.jpg", "2-1.jpg")
    assert record(opened[0], "conversation", origin="x").images == ()


def test_a_damaged_group_is_bad_rows(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(path, 300, 100)
    data = bytearray(path.read_bytes())
    start = parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    opened = open_rows(str(path))
    assert opened[0]["id"] == 0
    assert opened[299]["id"] == 299
    with pytest.raises(DataError, match=r"t.parquet:151: not a whole Parquet file"):
        opened[150]


def test_a_damaged_group_of_a_copied_file_is_bad_rows_too(tmp_path):
    """Here it is noticed when the file is opened, but only its own rows are lost."""
    path = tmp_path / "t.parquet"
    rows = large_rows(path, 300, 100)
    data = bytearray(path.read_bytes())
    start = parquet.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    for opened in (open_rows(str(path)), open_rows(str(path))):
        assert [opened[at] for at in (0, 99, 200, 299)] == [rows[at] for at in (0, 99, 200, 299)]
        for at in (100, 199):
            with pytest.raises(DataError, match=rf"t.parquet:{at + 1}: not a whole Parquet file"):
                opened[at]


def test_without_pyarrow(tmp_path, monkeypatch):
    write_parquet(tmp_path / "t.parquet", 5, 5)
    monkeypatch.setattr(rows_parquet.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(MissingExtra, match=r"internvl\[train\]"):
        open_rows(str(tmp_path / "t.parquet"))


# ---- elsewhere, and in other processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "tar", "parquet"])
def test_an_fsspec_address(tmp_path, cache, kind):
    files = {"jsonl": b'{"a": 1}\n\n{"a": 2}\n', "tar": tar_of(SHARD)}
    write_parquet(tmp_path / "t", 120, 50)
    files["parquet"] = (tmp_path / "t").read_bytes()
    (tmp_path / f"local.{kind}").write_bytes(files[kind])
    fsspec.filesystem("memory").pipe(f"/rows/{kind}/p-0.{kind}", files[kind])
    fsspec.filesystem("memory").pipe(f"/rows/{kind}/p-1.{kind}", files[kind])
    expected = everything(open_rows(str(tmp_path / f"local.{kind}")))
    assert everything(open_rows(f"memory://rows/{kind}/p-0.{kind}")) == expected
    assert everything(open_rows(f"memory://rows/{kind}/p-*.{kind}")) == expected * 2
    assert open_rows(f"memory://rows/{kind}/p-0.{kind}").origin(0).startswith(f"memory://rows/{kind}/p-0.{kind}:")
    fsspec.filesystem("memory").pipe(f"/rows/{kind}/p-0.{kind}", files[kind] * (1 if kind == "parquet" else 2))
    assert len(open_rows(f"memory://rows/{kind}/p-0.{kind}")) == len(expected) * (2 if kind == "jsonl" else 1)


def test_an_unreachable_address(monkeypatch):
    fsspec.filesystem("memory").pipe("/rows/gone.jsonl", b'{"a": 1}\n')
    opened = open_rows("memory://rows/gone.jsonl")
    fsspec.filesystem("memory").rm("/rows/gone.jsonl")
    with pytest.raises(DataError, match=r"memory://rows/gone.jsonl: there is no such file"):
        opened[0]


def _answer(opened, pipe):
    pipe.send([json.dumps(opened[at], default=str) for at in range(len(opened))])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 on: this process has threads
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_other_processes_read_the_same(tmp_path, way):
    (tmp_path / "p.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    (tmp_path / "p.tar").write_bytes(tar_of(SHARD))
    write_parquet(tmp_path / "p.parquet", 40, 10)
    context = multiprocessing.get_context(way)
    opened = open_rows(str(tmp_path / "p.{jsonl,tar,parquet}"))
    expected = [json.dumps(opened[at], default=str) for at in range(len(opened))]
    ends = [context.Pipe(duplex=False) for _ in range(2)]
    workers = [context.Process(target=_answer, args=(opened, send)) for _, send in ends]
    for worker in workers:
        worker.start()
    assert [receive.recv() for receive, _ in ends] == [expected, expected]
    for worker in workers:
        worker.join()


def test_a_pickle_is_small(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"a": 1}\n' * 10_000)
    opened = open_rows(str(tmp_path / "p.jsonl"))
    assert opened[9_999] == {"a": 1}
    assert len(pickle.dumps(opened)) < 1000

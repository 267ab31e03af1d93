"""The order of a mixture: how often each row comes, that it depends on seed and sources alone; meta files."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.data import mixture as module
from internvl.data.mixture import Mixture, Place, Source, read_meta
from internvl.data.permutation import Permutation
from internvl.data.records import Labelled
from internvl.errors import ConfigError, DataError, NoSuchName


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


class Counted:
    """Rows of which only the number matters."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": "a.jpg", "label": index}

    def origin(self, index):
        return f"counted:{index + 1}"


def mixed(*sizes, repeats=None, **options):
    """A mixture of sources with these numbers of rows."""
    sources = [Source(annotation=str(size), name=f"s{at}", kind="label", repeat=repeat)
               for at, (size, repeat) in enumerate(zip(sizes, repeats or [1.0] * len(sizes), strict=True))]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_rows", lambda address: Counted(int(address)))
        return Mixture(sources, **options)


def epoch_of(mixture, epoch=0):
    return [mixture.place(epoch * len(mixture) + at) for at in range(len(mixture))]


# ---- the permutation -------------------------------------------------------------------------------------------------


@given(st.integers(0, 3000), st.text(max_size=5))
def test_every_number_comes_once(n, key):
    order = Permutation(n, key)
    assert sorted(order(number) for number in range(n)) == list(range(n))


@given(st.integers(1, 2**60), st.text(max_size=5), st.lists(st.integers(0, 2**60), max_size=20, unique=True))
def test_a_large_permutation_has_no_equal_values(n, key, numbers):
    order, numbers = Permutation(n, key), [number for number in numbers if number < n]
    values = [order(number) for number in numbers]
    assert len(set(values)) == len(numbers)
    assert all(0 <= value < n for value in values)


def test_orders_look_random():
    """Where the first of 10 goes is even over keys; neighbours of a long order do not stay neighbours."""
    places = Counter(Permutation(10, f"key {key}")(0) for key in range(5000))
    squares = sum((places[value] - 500) ** 2 / 500 for value in range(10))
    assert squares < 27.9, "chi square of 9 degrees, one in a thousand; 2.1 was seen, 11.5 for other places"
    order = [Permutation(10_000, "key")(number) for number in range(10_000)]
    near = sum(abs(one - other) <= 10 for one, other in pairwise(order))
    assert near < 40, "20 are expected; 25 were seen, 15 to 18 with other keys"


@pytest.mark.parametrize("number", [-1, 5])
def test_what_is_not_there(number):
    with pytest.raises(IndexError):
        Permutation(5, "key")(number)


# ---- how often each row comes ----------------------------------------------------------------------------------------

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=4)
repeats = st.floats(0.05, 4.0)


@given(st.data(), sizes, st.integers(0, 5), st.booleans())
def test_each_row_comes_as_often_as_stated(data, sizes, epoch, shuffle):
    asked = [data.draw(repeats) for _ in sizes]
    mixture = mixed(*sizes, repeats=asked, shuffle=shuffle)
    seen = Counter((place.source, place.row) for place in epoch_of(mixture, epoch))
    assert len(mixture) == sum(mixture.counts) == sum(seen.values())
    for source, (size, repeat) in enumerate(zip(sizes, asked, strict=True)):
        times = [seen[source, row] for row in range(size)]
        assert sum(times) == max(1, round(size * repeat)) == mixture.counts[source]
        assert set(times) <= {sum(times) // size, sum(times) // size + 1}


@given(st.data(), sizes, st.integers(0, 3))
def test_the_share_that_comes_once_more_is_fixed(data, sizes, seed):
    mixture = mixed(*sizes, repeats=[data.draw(repeats) for _ in sizes], seed=seed)
    first, second = (Counter((p.source, p.row) for p in epoch_of(mixture, epoch)) for epoch in (0, 3))
    assert first == second


@given(sizes, st.data())
def test_square_roots(sizes, data):
    asked = [data.draw(repeats) for _ in sizes]
    plain = mixed(*sizes, repeats=asked)
    mixture = mixed(*sizes, repeats=asked, resampling="sqrt")
    roots = [math.sqrt(count) for count in plain.counts]
    for count, root in zip(mixture.counts, roots, strict=True):
        assert abs(count - len(plain) * root / sum(roots)) <= 0.5 or count == 1
    seen = Counter(place.source for place in epoch_of(mixture))
    assert [seen[source] for source in range(len(sizes))] == mixture.counts
    for source, size in enumerate(sizes):
        times = Counter(place.row for place in epoch_of(mixture) if place.source == source)
        assert {times[row] for row in range(size)} <= {
            mixture.counts[source] // size,
            mixture.counts[source] // size + 1,
        }


def test_square_roots_of_published_numbers():
    assert mixed(400, 100, repeats=[1, 1], resampling="sqrt").counts == [333, 167]
    assert mixed(100, 25, repeats=[4, 4], resampling="sqrt").counts == [333, 167]


# ---- what the order depends on ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(20, 60), min_size=1, max_size=3), st.integers(0, 1000))
def test_seed_and_sources_alone(sizes, seed):
    mixture, again, other = mixed(*sizes, seed=seed), mixed(*sizes, seed=seed), mixed(*sizes, seed=seed + 1)
    backwards = [again.place(position) for position in reversed(range(3 * len(again)))]
    whole = [mixture.place(position) for position in range(3 * len(mixture))]
    assert whole == backwards[::-1]
    orders = [[(p.source, p.row) for p in epoch_of(mixture, epoch)] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert [place.epoch for place in whole] == [position // len(mixture) for position in range(len(whole))]
    assert epoch_of(other) != epoch_of(mixture)


@settings(max_examples=20)
@given(sizes, st.integers(1, 4), st.integers(1, 3))
def test_ranks_and_workers_share_one_order(sizes, ranks, workers):
    """Whoever takes positions g, g + G, g + 2G and so on: together they take every sample once."""
    mixture = mixed(*sizes)
    group = ranks * workers
    taken = [mixture.place(at) for first in range(group) for at in range(first, len(mixture), group)]
    assert Counter(taken) == Counter(epoch_of(mixture))


def test_without_shuffling():
    mixture = mixed(3, 2, repeats=[0.67, 2], shuffle=False)
    assert [(p.source, p.row) for p in epoch_of(mixture, 1)] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 0), (1, 1)]
    assert mixture.place(6) == Place(0, 0, 1)


def test_positions_far_away():
    mixture = mixed(10**9, 10**12)
    assert mixture.place(5 * 10**15).epoch == 4995
    with pytest.raises(IndexError):
        mixture.place(-1)


def test_records_and_pickles(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"image": "{n}.jpg", "label": {n}}}\n' for n in range(20)) + "no json\n")
    mixture = Mixture([Source(annotation=str(path), kind="label")], seed=3)
    copy = pickle.loads(pickle.dumps(mixture))
    read = set()
    for position in range(len(mixture)):
        place = mixture.place(position)
        assert copy.place(position) == place
        assert mixture.origin(place) == f"{path}:{place.row + 1}"
        if place.row < 20:
            record = copy.record(place)
            assert record == Labelled(mixture.origin(place), f"{place.row}.jpg", place.row)
            read.add(record)
        else:
            with pytest.raises(DataError, match=r"a.jsonl:21 is not JSON"):
                mixture.record(place)
    assert len(read) == 20


def test_all_faults_of_sources_at_once(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "good.jsonl").write_text("{}\n")
    paths = ["empty.jsonl", "good.jsonl", "none.jsonl", "x.csv"]
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(DataError) as error:
        Mixture([Source(annotation=str(tmp_path / path)) for path in paths])
    said = str(error.value)
    assert said.startswith("3 of 4 source(s) cannot be used: ")
    assert "empty.jsonl has no rows" in said
    assert "none.jsonl: there is no such file" in said
    assert "x.csv is of no known kind; expected a name that ends in .jsonl, .parquet, .tar" in said
    with pytest.raises(DataError, match="no sources"):
        Mixture([])
    with pytest.raises(DataError, match="Did you mean 'pair'"):
        Mixture([Source(annotation=str(tmp_path / "good.jsonl"), kind="pairs")])
    with pytest.raises(NoSuchName, match="resampling"):
        Mixture([], resampling="root")


@pytest.mark.parametrize("repeat", [0, -1, math.nan, math.inf])
def test_a_repeat_that_cannot_be(repeat):
    with pytest.raises(ConfigError, match="expected a number above 0"):
        Source(annotation="a.jsonl", repeat=repeat)


# ---- meta files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder, and beside it one with meta files; the data is in both of them or in one."""
    for place in ("work/both.jsonl", "work/here.jsonl", "meta/both.jsonl", "meta/beside.jsonl", "meta/p-0.jsonl"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("{}\n")
    (tmp_path / "meta" / "pictures").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "meta"


def write(folder, entries):
    path = folder / "meta.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


def test_a_published_meta_file(folder):
    path = write(folder, {
        "one": {"root": "pictures", "annotation": "here.jsonl", "data_augment": True, "repeat_time": 2.5,
                "max_dynamic_patch": 6, "length": 10},
        "two": {"root": "s3://bucket/", "annotation": "beside.jsonl", "data_augment": False, "repeat_time": 1},
        "three": {"annotation": "both.jsonl", "repeat_time": 0.25, "kind": "pair"},
        "four": {"annotation": "p-*.jsonl", "root": "nowhere"},
    })  # fmt: skip
    pictures = str(folder / "pictures")
    assert read_meta(path) == (
        Source(annotation="here.jsonl", name="one", root=pictures, repeat=2.5, max_tiles=6, augment=True),
        Source(annotation=str(folder / "beside.jsonl"), name="two", root="s3://bucket/"),
        Source(annotation="both.jsonl", name="three", repeat=0.25, kind="pair"),
        Source(annotation=str(folder / "p-*.jsonl"), name="four", root="nowhere"),
    )


def test_one_file_of_records():
    [source] = read_meta(Path("pairs-{00..07}.tar"), root="x", kind="pair")
    assert source == Source(annotation="pairs-{00..07}.tar", root="x", kind="pair")


def test_a_meta_file_elsewhere(folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/meta/all.json", json.dumps({"a": {"annotation": "a.jsonl", "root": "pictures"}}).encode())
    memory.pipe("/meta/a.jsonl", b"{}\n")
    memory.pipe("/meta/pictures/1.jpg", b"x")
    assert read_meta("memory://meta/all.json") == (
        Source(annotation="memory://meta/a.jsonl", name="a", root="memory://meta/pictures"),
    )


def test_all_faults_of_a_meta_file_at_once(folder):
    path = write(folder, {
        "a": {"anotation": "here.jsonl", "repeat_times": 2},
        "b": {"annotation": "nowhere.jsonl", "root": ""},
        "c": {"annotation": "here.jsonl", "repeat_time": 0, "data_augment": "no", "max_dynamic_patch": 1.5},
        "d": [],
        "e": {"annotation": "here.jsonl", "root": 3, "kind": "pairs", "colour": 1},
        "f": {"annotation": "here.jsonl", "repeat_time": True},
    })  # fmt: skip
    with pytest.raises(DataError) as error:
        read_meta(path)
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(f"{path} has 12 fault(s): ")
    for part in (
        "a: has a key `anotation`; did you mean `annotation`?", "a: has a key `repeat_times`; did you mean",
        "a: annotation is None", "b: annotation nowhere.jsonl is neither below the working folder nor beside this file",
        "c: repeat_time is 0", "c: data_augment is 'no'", "c: max_dynamic_patch is 1.5", "d: is []", "e: root is 3",
        "e: kind is 'pairs'", "e: has a key `colour`; there are root, annotation", "f: repeat_time is True",
    ):  # fmt: skip
        assert part in said


@pytest.mark.parametrize(("text", "said"), [
    ("{", "is not JSON"),
    ('{"a": 1}\n{"b": 2}', "records stand one a line in a file called .jsonl"),
    ("[]", "is a JSON list; expected an object, an entry for each source; records stand one a line"),
    ("{}", "it names no source"),
    ('{"a": {"annotation": "here.jsonl"}, "a": {"annotation": "both.jsonl"}}', "a stands in it twice"),
    ('{"a": {"annotation": "here.jsonl", "repeat_time": 1, "repeat_time": 2}}', "`repeat_time` stands in it twice"),
    ('{"a": {"annotation": "here.jsonl", "repeat_time": NaN}}', "repeat_time is nan"),
    ('{"a": {"annotation": "here.jsonl", "kind": ["pair"]}}', "kind is ['pair']"),
])  # fmt: skip
def test_no_meta_file(folder, text, said):
    with pytest.raises(DataError) as error:
        read_meta(write(folder, text))
    assert said in str(error.value)


def test_a_file_too_large_for_a_meta_file(folder, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_META", 100)
    with pytest.raises(DataError, match=r"has 202 bytes, which is no meta file; records stand one a line"):
        read_meta(write(folder, "[" + " " * 200 + "]"))


def test_a_meta_file_that_is_not_there():
    with pytest.raises(DataError, match=r"none.json: there is no such file"):
        read_meta("none.json")

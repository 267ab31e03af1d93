"""The world written down: whole shards, the same for the same seed, readable by every stage."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from internvl.data.mixture import Mixture, read_meta
from internvl.data.records import Conversation, Labelled, Pair, Preference
from internvl.errors import UsageError
from internvl.nano.sample import Kit, Sample
from internvl.nano.world import SKILLS, World
from internvl.nano.write import METAS, SHARD, Shard, fields, plan, write, write_shard

WORLD = World(Kit())
FEW = ("two_circles", "clock", "compare", "talk")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    write(out, WORLD, scale=0.003, skills=FEW)
    return out


def test_every_stage_reads_its_rows(written: Path) -> None:
    kinds = {"labels": Labelled, "pairs": Pair, "chat": Conversation, "preference": Preference}
    for meta, (kind, _) in METAS.items():
        mixture = Mixture(read_meta(written / f"{meta}.json", kind=kind), seed=0)
        records = [mixture.record(mixture.place(at)) for at in range(len(mixture))]
        assert records
        assert all(isinstance(record, kinds[meta]) for record in records)


def test_a_label_is_among_the_classes(written: Path) -> None:
    classes = (written / "classes.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(classes)) == len(classes)
    mixture = Mixture(read_meta(written / "labels.json", kind="label"), seed=0)
    found = [mixture.record(mixture.place(at)) for at in range(len(mixture))]
    assert {record.label for record in found if isinstance(record, Labelled)} == set(classes)


def test_pictures_of_a_row_keep_their_order(written: Path) -> None:
    with tarfile.open(written / "compare-0000.tar") as tar:
        names = tar.getnames()
    assert names[:3] == ["0000000.json", "0000000.0.jpg", "0000000.1.jpg"]


def test_skills_seen_in_tiles_too_stand_twice(written: Path) -> None:
    meta = json.loads((written / "chat.json").read_text(encoding="utf-8"))
    assert meta["two_circles, in tiles"]["repeat_time"] == SKILLS["two_circles"].wide
    assert meta["two_circles"]["max_dynamic_patch"] == 1
    assert "compare, in tiles" not in meta
    assert all(", in tiles" not in name for name in json.loads((written / "labels.json").read_text("utf-8")))


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    shard = Shard("two_circles", 0, 5)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name, WORLD, shard, seed)
    a, b, c = ((tmp_path / name / shard.name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_what_is_there_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path, WORLD, scale=0.001, skills=("talk",))
    assert [shard.name for shard in first] == ["talk-0000.tar"]
    before = (tmp_path / "talk-0000.tar").stat().st_mtime_ns
    assert write(tmp_path, WORLD, scale=0.001, skills=("talk",)) == []
    assert (tmp_path / "talk-0000.tar").stat().st_mtime_ns == before


def test_a_larger_scale_adds_and_another_seed_is_refused(tmp_path: Path) -> None:
    few, more = (rows / SKILLS["two_circles"].rows for rows in (5, 8))
    first = write(tmp_path, WORLD, scale=few, skills=("two_circles",))
    bytes_of_few = (tmp_path / first[0].name).stat().st_size
    assert [shard.rows for shard in write(tmp_path, WORLD, scale=more, skills=("two_circles",))] == [8]
    assert (tmp_path / first[0].name).stat().st_size > bytes_of_few
    assert write(tmp_path, WORLD, scale=few, skills=("two_circles",)) == []  # what is there is more
    with pytest.raises(UsageError, match="was drawn with seed 1, not 2"):
        write(tmp_path, WORLD, scale=few, seed=2, skills=("two_circles",))


def test_without_tiles_no_skill_stands_twice(tmp_path: Path) -> None:
    write(tmp_path, WORLD, scale=0.0001, skills=("two_circles",), in_tiles=False)
    assert list(json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))) == ["two_circles"]


def test_an_interrupted_shard_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = 0

    def draw(self: World, skill: str, *, seed: int, number: int) -> Sample:
        nonlocal drawn
        drawn += 1
        if drawn == 3:
            raise KeyboardInterrupt
        return Sample(skill, (), (("Hello", "Hello!"),))

    monkeypatch.setattr(World, "draw", draw)
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, WORLD, Shard("talk", 0, 5), 1)
    assert list(tmp_path.iterdir()) == []


def test_shards_of_a_plan() -> None:
    shards = plan(WORLD, scale=2500 / SKILLS["clock"].rows, skills=("clock",))
    assert [(shard.index, shard.rows) for shard in shards] == [(0, SHARD), (1, SHARD), (2, 500)]
    assert not {"photo", "flag"} & {shard.skill for shard in plan(WORLD, scale=0.001)}  # no real pictures here


def test_a_stage_has_no_skill_that_lacks_its_field_in_any_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(self: World, skill: str, *, seed: int, number: int) -> Sample:
        picture = Image.new("RGB", (8, 8))
        return Sample(skill, (picture,), (("What?", "That."),), label="that" if number != 3 else None, wrong="This.")

    monkeypatch.setattr(World, "draw", draw)
    write(tmp_path, WORLD, scale=5 / SKILLS["clock"].rows, skills=("clock",))
    assert list(json.loads((tmp_path / "preference.json").read_text(encoding="utf-8"))) == ["clock"]
    assert json.loads((tmp_path / "labels.json").read_text(encoding="utf-8")) == {}


def test_fields_are_only_what_is_known() -> None:
    sample = Sample("talk", (), (("Hello", "Hello!"),), label="x", caption="y", wrong="z")
    row = fields(sample, "talk-1-0")
    assert "label" not in row
    assert "caption" not in row  # it has no picture
    assert (row["question"], row["chosen"], row["rejected"]) == ("Hello", "Hello!", "z")

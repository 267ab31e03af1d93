"""A record becomes a sample: the published labels, the policies for what is too long, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
from functools import cache

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from internvl.data import records
from internvl.data.augment import QUALITIES, as_jpeg
from internvl.data.encode import NOT_LEARNT, Encoder, EncoderConfig
from internvl.data.limits import Limits
from internvl.data.mixture import Source
from internvl.data.prepare import PrepareChat, allowing, placed
from internvl.data.tokenizer import Tokenizer
from internvl.errors import (
    ConfigError,
    ContextOverflow,
    DataError,
    InternVLError,
    MediaRefused,
    MediaUnreadable,
    PlaceholderMismatch,
)
from tests.conftest import GOLDEN_ROOTS, golden
from tests.data.test_encode import ROWS, encode_row, encoder_of, record, spans
from tests.data.test_video import film

SOURCE = Source(annotation="rows.jsonl")
TILE, SLOTS = 28, 2


@cache
def encoder(**options):
    tokenizer = Tokenizer.from_folder(golden("tokenizers/qwen2-bbpe"))
    config = {"template": "internvl2_5", "tile_size": TILE, "slots_per_tile": SLOTS, "max_tiles": 6} | options
    return Encoder(tokenizer, EncoderConfig(**config))


def conversation(question="What is this?", answer="A wave.", **media):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    row = {"id": "a", "conversations": turns, **media}
    return records.read(json.dumps(row), "conversation", origin="rows.jsonl:1")


def preference(**media):
    row = {"question": "What is this?", "chosen": "A wave.", "rejected": "A cat, on a mat.", **media}
    return records.read(json.dumps(row), "preference", origin="rows.jsonl:1")


def prepared(what, *, source=SOURCE, position=3, index=2, seed=0, max_length=4096, **options):
    return PrepareChat(encoder(), max_length=max_length, **options)(what, source, position, index=index, seed=seed)


@pytest.fixture
def photo(tmp_path):
    """A picture of 2 x 3 tiles and a thumbnail, and the folder it is in."""
    Pillow.effect_noise((2 * TILE * 2, 3 * TILE * 2), 60).convert("RGB").save(tmp_path / "a.png")
    return tmp_path


@pytest.fixture
def source(photo):
    return Source(annotation="rows.jsonl", root=str(photo))


# ---- the published labels --------------------------------------------------------------------------------------------


def golden_rows():
    found = {row["tokenizer"] for row in ROWS}
    there = {name for name in found if any((root / "tokenizers" / name).is_dir() for root in GOLDEN_ROOTS)}
    return [row for row in ROWS if row["tokenizer"] in there]


def test_ids_and_labels_are_the_published_ones(tmp_path):
    """All golden rows in one test. A sample whose labels were all masked is refused here: it could teach nothing."""
    (tmp_path / "v").mkdir()
    for frame in range(4):
        Pillow.new("RGB", (64, 48)).save(tmp_path / "v" / f"frame_{frame}.png")
    for name in golden("preprocess/images").iterdir():
        (tmp_path / name.name).symlink_to(name)
    source = Source(annotation="records.jsonl", root=str(tmp_path))
    compared = 0
    for row in golden_rows():
        raw, what = record(row["record"])
        for frame in range(4):
            file = tmp_path / "v" / f"frame_{frame}.png"
            if frame < raw.get("frames", 4):
                Pillow.new("RGB", (64, 48)).save(file)
            else:
                file.unlink(missing_ok=True)
        prepare = PrepareChat(encoder_of(row, "original"), max_length=row["model_max_length"], frames=(4, 4))
        if "error" in row or not row["label_spans"]:
            with pytest.raises(InternVLError):
                prepare(what, source, 0, index=0, seed=0)
            continue
        sample = prepare(what, source, 0, index=0, seed=0)
        [segment] = sample.segments
        assert segment.input_ids.tolist() == row["input_ids"]
        assert spans(segment.targets) == row["label_spans"]
        assert max(1, len(sample.tiles)) == row["num_tiles"]
        if what.video is None and not compared % 10:
            assert np.array_equal(sample.tiles, encode_row(row).tiles)
        compared += 1
    assert compared >= 96


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_is_opened_below_the_root_and_given_its_tiles(source):
    sample = prepared(conversation(image="a.png"), source=source)
    assert (sample.position, sample.source) == (3, 2)
    assert sample.tiles.shape == (7, TILE, TILE, 3)
    assert sample.tiles.dtype == np.uint8
    [segment] = sample.segments
    assert (segment.input_ids == encoder().slot_id).sum() == 7 * SLOTS
    assert segment.learnt == (segment.targets != NOT_LEARNT).sum() > 0
    assert sample.shortened_from is None


def test_text_alone_has_no_tiles():
    sample = prepared(conversation())
    assert sample.tiles.shape == (0, TILE, TILE, 3)


def test_a_source_may_have_its_own_tiles(source):
    few = Source(annotation="rows.jsonl", root=source.root, max_tiles=1)
    assert prepared(conversation(image="a.png"), source=few).tile_count == 1
    assert prepared(conversation(image="a.png"), source=source, max_tiles=1).tile_count == 1
    assert prepared(conversation(image=["a.png"] * 3), source=source).tile_count == 9  # 6 // 3 = 2, and a thumbnail


def test_both_answers_of_a_preference_see_one_picture(source):
    sample = prepared(preference(image="a.png"), source=source)
    chosen, rejected = sample.segments
    assert sample.tile_count == 7
    assert sample.tokens == len(chosen.input_ids) + len(rejected.input_ids)
    for segment, answer in ((chosen, "A wave."), (rejected, "A cat, on a mat.")):
        [alone] = prepared(conversation(answer=answer, image="a.png"), source=source).segments
        assert np.array_equal(segment.input_ids, alone.input_ids)
        assert np.array_equal(segment.targets, alone.targets)


def test_pictures_may_be_bytes(photo):
    data = (photo / "a.png").read_bytes()
    row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}], "image": data}
    what = records.record(row, "conversation", origin="rows.tar:1")
    assert prepared(what).tile_count == 7


def test_pictures_at_an_address(photo):
    fsspec.filesystem("memory").pipe("/photos/a.png", (photo / "a.png").read_bytes())
    source = Source(annotation="rows.jsonl", root="memory://photos/")
    assert prepared(conversation(image="a.png"), source=source).tile_count == 7
    with pytest.raises(MediaRefused, match="not read here"):  # a row alone does not open a door
        prepared(conversation(image="memory://photos/a.png"))


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("a.jpg", "", "a.jpg"),
        ("b/a.jpg", "/data", "/data/b/a.jpg"),
        ("/abs/a.jpg", "/data", "/abs/a.jpg"),
        ("a.jpg", "s3://bucket/", "s3://bucket/a.jpg"),
        ("/a.jpg", "s3://bucket", "s3://bucket/a.jpg"),
        ("s3://other/a.jpg", "s3://bucket/", "s3://other/a.jpg"),
        ("s3://other/a.jpg", "/data", "s3://other/a.jpg"),
        (b"\xff", "/data", b"\xff"),
    ],
)
def test_where_a_picture_is(path, root, expected):
    assert placed(path, root) == expected


def test_a_root_opens_the_door_to_itself_alone():
    assert allowing("s3://bucket/", Limits()).schemes == ("s3",)
    assert allowing("https://example.org/photos/", Limits()).hosts == ("example.org",)
    assert allowing("/data", Limits()) == Limits()


def test_pictures_as_jpeg(source):
    augmented = Source(annotation="rows.jsonl", root=source.root, augment=True)
    plain = prepared(conversation(image="a.png"), source=source)
    once, again = (prepared(conversation(image="a.png"), source=augmented) for _ in range(2))
    other = prepared(conversation(image="a.png"), source=augmented, position=4)
    assert np.array_equal(once.tiles, again.tiles)
    assert not np.array_equal(once.tiles, plain.tiles)
    assert not np.array_equal(once.tiles, other.tiles)
    assert not np.array_equal(once.tiles, prepared(conversation(image="a.png"), source=augmented, seed=1).tiles)


def test_every_tile_has_a_quality_of_its_own():
    [tile] = [np.asarray(Pillow.effect_noise((32, 32), 50).convert("RGB"))]
    found = as_jpeg(np.stack([tile] * 200), np.random.default_rng(0))
    known = {}
    for quality in range(60, 101):
        file = io.BytesIO()
        Pillow.fromarray(tile).save(file, format="JPEG", quality=quality)
        known[np.asarray(Pillow.open(file)).tobytes()] = quality
    assert {known[one.tobytes()] for one in found} == set(QUALITIES) == set(range(75, 101))


# ---- videos ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(film(frames=30, rate=10))
    return Source(annotation="rows.jsonl", root=str(tmp_path), augment=True)


def levels(sample):
    return [round(tile[TILE // 2 + 2 :, TILE // 2 + 2 :].mean() / 8) for tile in sample.tiles]


def test_frames_are_drawn_from_equal_parts(clip):
    counts = set()
    for position in range(24):
        sample = prepared(conversation(video="clip.mp4"), source=clip, position=position, frames=(3, 6))
        again = prepared(conversation(video="clip.mp4"), source=clip, position=position, frames=(3, 6))
        assert np.array_equal(sample.tiles, again.tiles)
        frames, count = levels(sample), sample.tile_count
        counts.add(count)
        edges = np.linspace(0, 30, count + 1).astype(int)
        assert all(edges[at] <= frame < edges[at + 1] - 1 for at, frame in enumerate(frames))
    assert counts == {3, 4, 5, 6}


def test_a_part_of_a_video(clip):
    sample = prepared(conversation(video="clip.mp4", clip=[1.0, 2.0]), source=clip, frames=(3, 3))
    assert all(10 <= frame < 20 for frame in levels(sample))
    with pytest.raises(DataError, match=r"`clip` is \[5, 6\], but the video has 30 frames in 3.0 s"):
        prepared(conversation(video="clip.mp4", clip=[5, 6]), source=clip)


def test_a_folder_of_frames(tmp_path):
    (tmp_path / "film").mkdir()
    for at in range(12):
        Pillow.new("RGB", (20, 20), (at, at, at)).save(tmp_path / "film" / f"frame_{at}.png")
    source = Source(annotation="rows.jsonl", root=str(tmp_path))
    few = prepared(conversation(video="film"), source=source, frames=(4, 4))
    assert few.tiles[:, 0, 0, 0].tolist() == sorted(few.tiles[:, 0, 0, 0].tolist())
    assert few.tile_count == 4
    every = prepared(conversation(video="film/"), source=source, frames=(20, 20))
    assert every.tiles[:, 0, 0, 0].tolist() == list(range(12))  # by number: 2 before 10
    with pytest.raises(DataError, match="a folder of pictures"):
        prepared(conversation(video="film", clip=[0, 1]), source=source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaUnreadable, match="no pictures in this folder"):
        prepared(conversation(video="empty"), source=source)


# ---- too long --------------------------------------------------------------------------------------------------------


def test_what_is_too_long_is_dropped_and_says_how_long_it_was(source):
    whole = prepared(conversation(image="a.png"), source=source).tokens
    assert prepared(conversation(image="a.png"), source=source, max_length=whole).tokens == whole
    with pytest.raises(ContextOverflow, match=f"id 'a': the conversation has {whole} tokens") as caught:
        prepared(conversation(image="a.png"), source=source, max_length=whole - 1)
    assert caught.value.tokens == whole
    assert pickle.loads(pickle.dumps(caught.value)).tokens == whole  # on its way from a worker


@given(data=st.data())
@settings(max_examples=20)
def test_fewer_tiles_are_as_many_as_fit(tmp_path_factory, data):
    """Never more than the limit, and one tile more of each picture would not have fitted."""
    folder = tmp_path_factory.mktemp("photos")
    count = data.draw(st.integers(1, 3))
    width, height = data.draw(st.tuples(st.integers(20, 400), st.integers(20, 400)))
    Pillow.new("RGB", (width, height)).save(folder / "a.png")
    source = Source(annotation="rows.jsonl", root=str(folder))
    what = conversation(image=["a.png"] * count)
    sizes = {
        each: prepared(what, source=Source(annotation="r", root=str(folder), max_tiles=each * count)).tokens
        for each in range(1, 6 // count + 1)
    }
    limit = data.draw(st.integers(min(sizes.values()) - 1, max(sizes.values()) + 1))
    fitting = [each for each, tokens in sizes.items() if tokens <= limit]
    options = {"source": source, "max_length": limit, "overlong": "fewer_tiles"}
    if not fitting:
        with pytest.raises(ContextOverflow):
            prepared(what, **options)
        return
    sample = prepared(what, **options)
    assert sample.tokens == sizes[max(fitting)] <= limit
    most = sizes[6 // count]
    assert sample.shortened_from == (most if most > limit else None)


def test_a_video_that_is_too_long_is_given_fewer_frames(clip):
    what = conversation(video="clip.mp4")
    whole = prepared(what, source=clip, frames=(8, 8))
    sample = prepared(
        what, source=clip, frames=(3, 8), seed=5, max_length=whole.tokens - 25, overlong="fewer_tiles", position=8
    )
    assert 3 <= sample.tile_count < 8
    with pytest.raises(ContextOverflow):
        prepared(what, source=clip, frames=(8, 8), max_length=whole.tokens - 1, overlong="fewer_tiles")


def test_a_pack_has_its_own_limits(source):
    what = preference(image="a.png")
    whole = prepared(what, source=source)
    with pytest.raises(ContextOverflow, match=f"{whole.tokens} tokens, but a batch holds {whole.tokens - 1}"):
        prepared(what, source=source, most_tokens=whole.tokens - 1)
    sample = prepared(what, source=source, most_tiles=5, overlong="fewer_tiles")
    assert sample.tile_count <= 5
    assert sample.shortened_from == whole.tokens


def test_text_alone_cannot_be_made_shorter():
    with pytest.raises(ContextOverflow):
        prepared(conversation(answer="wave " * 50), max_length=20, overlong="fewer_tiles")


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (conversation(image="missing.png"), MediaUnreadable, "missing.png: there is no such file"),
        (conversation(image="broken.png"), MediaUnreadable, "broken.png"),
        (conversation("<image> and <image>", image="a.png"), DataError, "rows.jsonl:1.*2 <image> placeholder"),
        (records.Conversation("rows.jsonl:1", (("user", "Hi"),)), DataError, "rows.jsonl:1: nothing in it would be"),
    ],
)  # fmt: skip
def test_each_fault_has_its_own_error(photo, source, what, error, message):
    (photo / "broken.png").write_bytes((photo / "a.png").read_bytes()[:200])
    with pytest.raises(error, match=message):
        prepared(what, source=source)


def test_an_error_of_the_encoder_names_the_row(monkeypatch):
    def encode(*_, **__):
        raise PlaceholderMismatch("the prompt has 3 picture slots")

    monkeypatch.setattr(Encoder, "encode", encode)
    with pytest.raises(PlaceholderMismatch, match=r"rows.jsonl:1, id 'a': the prompt has 3"):
        prepared(conversation())


def test_what_cannot_be_honoured_is_refused():
    flat = encoder(dynamic=False)
    with pytest.raises(ConfigError, match="max_tiles is 4, but this model sees every picture as one tile"):
        PrepareChat(flat, max_length=99, max_tiles=4)
    with pytest.raises(ConfigError, match="max_tiles is 4"):
        PrepareChat(flat, max_length=99)(conversation(), Source(annotation="r", max_tiles=4), 0, index=0, seed=0)
    with pytest.raises(ConfigError, match="overlong is 'cut'"):
        PrepareChat(encoder(), max_length=99, overlong="cut")
    with pytest.raises(ConfigError, match="frames is"):
        PrepareChat(encoder(), max_length=99, frames=(5, 4))


def test_it_travels_to_other_processes(source):
    prepare = PrepareChat(encoder(), max_length=4096, min_tiles=2, max_tiles=3)
    again = pickle.loads(pickle.dumps(prepare))
    one, other = (p(conversation(image="a.png"), source, 0, index=0, seed=0) for p in (prepare, again))
    assert np.array_equal(one.tiles, other.tiles)
    assert np.array_equal(one.segments[0].input_ids, other.segments[0].input_ids)

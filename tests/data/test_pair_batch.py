"""Pairs and labelled pictures become samples, the same whoever prepares them and whenever, and batches."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl.data.batch import PreparedPair
from internvl.data.image import center_crop, resize_plain
from internvl.data.mixture import Source
from internvl.data.pair import CAPTION_PROMPT, clean_caption, encode_generation, encode_texts, image_id
from internvl.data.pair_batch import PrepareLabel, PreparePair, RandomCrop, collate_labels, collate_pairs
from internvl.data.records import Labelled, Pair
from internvl.data.tokenizer import Tokenizer
from internvl.errors import ConfigError, DataError, MediaUnreadable
from tests.conftest import golden

SOURCE = Source(annotation="pairs.jsonl")
SIZE = 28


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(golden("checkpoints/internvl-14b"))


def photo(seed: int = 0, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Left and right, top and bottom differ everywhere."""
    ramp = np.linspace(0, 200, size[0])[None, :, None] + np.linspace(0, 50, size[1])[:, None, None]
    noise = np.random.default_rng(seed).integers(0, 6, (*size[::-1], 3))
    return Image.fromarray((ramp + noise).astype(np.uint8))


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def pair(caption: str = "A red bus.", seed: int = 0, **about) -> Pair:
    return Pair("p:1", png(photo(seed)), caption, **about)


# ---- texts -----------------------------------------------------------------------------------------------------------


def test_captions_are_cleaned():
    assert clean_caption('Two "Dogs"  run: one, (the RED) #1; left!\n') == "two dogs run one, the red 1 left"
    assert clean_caption("word " * 60) == " ".join(["word"] * 50)
    assert clean_caption("一个女孩走下台阶。") == "一个女孩走下台阶。"
    assert clean_caption(clean_caption("A. B.")) == clean_caption("A. B.") == "a b"


def test_the_texts_are_those_that_the_model_is_asked_with(tokenizer):
    prepared = PreparePair(tokenizer, size=SIZE)(pair("A red bus, parked!"), SOURCE, 3, index=1, seed=0)
    text = "a red bus, parked"
    for ids, prefix in ((prepared.summary, "summarize:"), (prepared.caption, "")):
        asked = encode_texts(tokenizer, [text], prefix=prefix)[0]
        assert ids.tolist() == asked[asked != 0].tolist()
    asked = tokenizer.encode(CAPTION_PROMPT, bos=True)
    assert prepared.generation.tolist() == [*asked, *prepared.caption[1:].tolist()]
    learnt = prepared.generation_targets
    assert learnt.tolist() == [-100] * len(asked) + prepared.caption[1:].tolist()
    assert (prepared.position, prepared.source, prepared.tokens) == (3, 1, len(prepared.summary))


@given(words=st.integers(1, 60), length=st.integers(20, 90))
def test_long_texts_are_cut_and_still_end(tokenizer, words, length):
    prepared = PreparePair(tokenizer, size=SIZE, text_length=length)(pair("grass " * words), SOURCE, 0, index=0, seed=0)
    for ids in (prepared.summary, prepared.caption, prepared.generation):
        assert len(ids) <= length
        assert ids[0] == tokenizer.bos_id
        assert ids[-1] == tokenizer.eos_id
    assert len(prepared.generation) == len(prepared.generation_targets)
    assert prepared.generation_targets[-1] == tokenizer.eos_id


def test_unusable_captions_are_named(tokenizer):
    prepare = PreparePair(tokenizer, size=SIZE)
    with pytest.raises(DataError, match=r"p:1: the caption '\.\.\.' has no words"):
        prepare(pair("..."), SOURCE, 0, index=0, seed=0)
    with pytest.raises(DataError, match="8 tokens hold nothing after the 13 of 'English caption:'"):
        encode_generation(tokenizer, "a bus", length=8)
    with pytest.raises(MediaUnreadable):
        prepare(Pair("p:2", b"no picture", "A bus."), SOURCE, 0, index=0, seed=0)


def test_an_unknown_character_is_not_taken_for_padding(tokenizer, monkeypatch):
    real = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text, **how: [*real(self, text, **how), 0])
    with pytest.raises(DataError, match="a character that the tokenizer does not know"):
        PreparePair(tokenizer, size=SIZE)(pair(), SOURCE, 0, index=0, seed=0)


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_a_sample_depends_on_its_position_and_the_seed_alone(tokenizer):
    prepare = PreparePair(tokenizer, size=SIZE)
    again = pickle.loads(pickle.dumps(prepare))
    tiles = {}
    for seed in range(3):
        for position in range(6):
            one, two = (each(pair(), SOURCE, position, index=0, seed=seed).tiles for each in (prepare, again))
            assert np.array_equal(one, two)
            assert one.shape == (1, SIZE, SIZE, 3)
            tiles[seed, position] = one.tobytes()
    assert len(set(tiles.values())) == len(tiles)


def test_without_augmentation_a_picture_is_what_is_searched(tokenizer):
    tiles = PreparePair(tokenizer, size=SIZE, augment=None)(pair(), SOURCE, 0, index=0, seed=0).tiles
    assert np.array_equal(tiles[0], resize_plain(photo(), size=SIZE))
    label = PrepareLabel(size=SIZE, classes=3)(Labelled("l:1", png(photo()), 2), SOURCE, 0, index=0, seed=0)
    assert np.array_equal(label.tiles[0], center_crop(photo(), size=SIZE))


def test_pictures_are_mirrored_half_of_the_time():
    """The ramp of the photo rises to the right; of 400 draws 213 were. 4 standard deviations are 40."""
    crop, draw = RandomCrop(), np.random.default_rng(0)
    tiles = [crop(photo(), size=8, draw=draw).astype(int) for _ in range(400)]
    mirrored = sum(tile[:, 0].mean() > tile[:, -1].mean() for tile in tiles)
    assert abs(mirrored - 200) <= 40
    assert all(t[0].mean() < t[-1].mean() for t in tiles)  # never upside down


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), least=st.floats(0.05, 1.0), seed=st.integers(0, 10**9))
def test_parts_lie_in_the_picture(width, height, least, seed):
    left, top, w, h = RandomCrop(scale=(least, 1.0)).box(width, height, np.random.default_rng(seed))
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert min(w, h) >= 1
    if min(width, height) >= 200 and 0.5 < width / height < 2:  # not the way out, and rounding is small
        fits = min(1, width / height * 4 / 3, height / width * 4 / 3)  # of a picture longer than 4 : 3, no more
        assert min(least, fits) - 0.02 <= w * h / (width * height) <= 1
        assert 0.73 <= w / h <= 1.36


def test_areas_of_parts_are_spread_evenly():
    """A square picture: the share is uniform between 0.5 and 1 where the shape fits, so that the mean (0.692 was seen)
    is below the middle.
    """
    draw = np.random.default_rng(0)
    shares = [w * h / 1000**2 for _, _, w, h in (RandomCrop().box(1000, 1000, draw) for _ in range(2000))]
    assert 0.5 <= min(shares) < 0.51
    assert max(shares) > 0.97
    assert 0.67 < np.mean(shares) < 0.72


def test_a_very_long_picture_is_cut_in_its_middle():
    assert RandomCrop().box(4000, 30, np.random.default_rng(0)) == (1980, 0, 40, 30)
    assert RandomCrop().box(30, 4000, np.random.default_rng(0)) == (0, 1980, 30, 40)


def test_sources_with_augment_are_stored_as_jpeg(tokenizer):
    prepare = PreparePair(tokenizer, size=SIZE)
    plain, stored = (
        prepare(pair(), replace(SOURCE, augment=augment), 5, index=0, seed=0).tiles.astype(int)
        for augment in (False, True)
    )
    assert 0 < np.abs(plain - stored).max() < 12  # 4 was seen; another part of the photo would differ by up to 200


def test_crops_that_cannot_be_are_refused():
    for wrong in ({"scale": (0.0, 1.0)}, {"scale": (0.5, 1.5)}, {"ratio": (2.0, 1.0)}, {"flip": 1.5}):
        with pytest.raises(ConfigError, match="RandomCrop"):
            RandomCrop(**wrong)


# ---- which rows show one picture -------------------------------------------------------------------------------------


def test_ids_of_pictures(tokenizer):
    assert image_id("Images/1000092795.jpg") == image_id("1000092795.png") == 1000092795
    assert image_id("train2014/COCO_train2014_000000391895.jpg") == image_id("000000391895.jpg") == 391895
    assert image_id("a/img_12.jpg") != image_id("b/img_12.jpg")
    assert image_id(b"x") == image_id(b"x") != image_id(b"y")
    assert 0 <= image_id("a" * 500) < 2**62

    def told(record: Pair, root: str = "") -> int:
        source = replace(SOURCE, root=root)
        return PreparePair(tokenizer, size=SIZE)(record, source, 0, index=0, seed=0).image_id

    assert told(pair()) == told(pair("Another one."))
    assert told(pair()) != told(pair(seed=1))
    assert told(pair(image_id=5)) == told(pair(seed=1, image_id=5)) == 5
    assert told(pair(image_id="five")) == told(pair(seed=1, image_id="five")) != told(pair(image_id=5))
    assert (
        told(pair(image_id=5), "flickr") == told(pair(seed=1, image_id=5), "flickr") != told(pair(image_id=5), "coco")
    )


# ---- batches ---------------------------------------------------------------------------------------------------------


def sample(position: int, image: int, caption: list[int]) -> PreparedPair:
    ids = np.array(caption)
    return PreparedPair(position, 0, np.full((1, 4, 4, 3), image, np.uint8), ids, ids, ids, ids, image)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(3, 6)), min_size=1, max_size=8))
def test_negatives_are_of_other_pictures_in_other_words(rows):
    samples = [sample(at, image, [1, *range(3, last), 2]) for at, (image, last) in enumerate(rows)]
    batch, again = collate_pairs(samples), collate_pairs(samples)
    assert batch.positions == tuple(range(len(rows)))
    assert batch.negative.shape == batch.caption.shape
    assert batch.negative.equal(again.negative)
    for own, negative in zip(samples, batch.negative.tolist(), strict=True):
        ids = [token for token in negative if token]
        others = [s for s in samples if s.image_id != own.image_id and s.caption.tolist() != own.caption.tolist()]
        assert (ids in [s.caption.tolist() for s in others]) if others else not ids
    for own, caption in zip(samples, batch.caption.tolist(), strict=True):
        assert caption == own.caption.tolist() + [0] * (batch.caption.shape[1] - len(own.caption))


def test_a_batch_of_prepared_pairs(tokenizer):
    prepare = PreparePair(tokenizer, size=SIZE)
    captions = ("A red bus parked near the bridge.", "Two dogs.", "Grass.")
    rows = [prepare(pair(text, at, image_id=at), SOURCE, at, index=0, seed=0) for at, text in enumerate(captions)]
    batch = collate_pairs(rows)
    assert batch.tiles.shape == (3, SIZE, SIZE, 3)
    assert batch.summary.equal(
        batch.summary.new_tensor(encode_texts(tokenizer, [clean_caption(c) for c in captions]))[
            :, : batch.summary.shape[1]
        ]
    )
    assert batch.negative.equal(batch.caption.roll(-1, 0))
    assert (batch.generation_targets == -100).sum(1).min() >= 13
    assert batch.generation[batch.generation_targets != -100].equal(
        batch.generation_targets[batch.generation_targets != -100]
    )
    assert batch.image_ids.tolist() == [0, 1, 2]
    assert batch.tokens == sum(len(row.summary) for row in rows)


def test_labels(tokenizer):
    named = PrepareLabel(size=SIZE, classes=("bus", "dog"), augment=RandomCrop(scale=(0.08, 1.0)))
    rows = [
        named(Labelled(f"l:{at}", png(photo(at)), label), SOURCE, at, index=0, seed=0)
        for at, label in enumerate(("dog", 0, "bus", 1))
    ]
    batch = collate_labels(rows)
    assert batch.labels.tolist() == [1, 0, 0, 1]
    assert batch.tiles.shape == (4, SIZE, SIZE, 3)
    assert batch.positions == (0, 1, 2, 3)
    picture = png(photo())
    for classes, label, error, said in (
        (("bus", "dog"), "dgo", DataError, "no class is called 'dgo'. Did you mean 'dog'"),
        (2, "dog", DataError, "the classes have no names"),
        (2, 2, DataError, "expected a class from 0 to 1"),
        (2, -1, DataError, "expected a class from 0 to 1"),
    ):
        with pytest.raises(error, match=said):
            PrepareLabel(size=SIZE, classes=classes)(Labelled("l:9", picture, label), SOURCE, 0, index=0, seed=0)

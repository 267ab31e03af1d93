"""The real pictures: which are held out, and that none of those was ever learnt from."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from internvl.nano import augment
from internvl.nano.corpus import (
    Corpus,
    Item,
    ask,
    country_code,
    exact_hash,
    perceptual_hash,
    plain_country,
    share,
    without_twins,
)


@pytest.fixture(scope="module")
def corpus(shared) -> Corpus:
    return Corpus.read(shared / "data")


def test_no_held_out_picture_is_learnt_from(corpus):
    learnt = {exact_hash(i.picture) for items in corpus.training.values() for i in items}
    for items in corpus.held_out.values():
        assert items
        assert not [i.id for i in items if exact_hash(i.picture) in learnt]


def test_twins_are_found_and_left_out(corpus, shared):
    """Four photographs of the official test split are among the learnt ones in another encoding."""
    assert len(corpus.held_out["photo"]) == 2078 - 4
    learnt = corpus.training["photo"][0]
    encoded = io.BytesIO()
    learnt.picture.resize((150, 190)).save(encoded, "JPEG", quality=60)
    copy = Item("photo", "copy", Image.open(encoded).convert("RGB"), learnt.name)
    assert without_twins([copy, corpus.training["photo"][1]], [learnt]) == [corpus.training["photo"][1]]


def test_shops_and_codes_are_on_one_side(corpus):
    learnt_shops = {i.fact("shop") for i in corpus.training["receipt"]}
    assert not learnt_shops & {i.fact("shop") for i in corpus.held_out["receipt"]}
    learnt = {i.id.split("-", 1)[1] for i in corpus.training["icon"]}
    assert {i.id.split("-", 1)[1] for i in corpus.held_out["icon"]} <= learnt, "its other drawing must be learnt"
    assert {i.name for i in corpus.held_out["flag"]} <= {i.name for i in corpus.training["flag"]}


def test_every_item_can_be_asked_about(corpus):
    rng = random.Random(0)
    for _task, items in corpus.training.items():
        names = sorted({i.name for i in items})
        for item in rng.sample(items, 20):
            sample = ask(rng, item, names)
            assert sample.picture is not None
            assert sample.picture.mode == "RGB"
            assert any(answer == item.name for _, answer in sample.turns)
            for question, answer in sample.turns:
                if question.startswith("Which is it:"):
                    assert answer in question


@pytest.mark.parametrize("change", [augment.photo, augment.flag, lambda r, p: augment.icon(r, p, mirror=True)])
@pytest.mark.parametrize("size", [(128, 128), (224, 50), (30, 200)])
def test_changed_pictures_are_pictures(change, size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    for seed in range(40):
        changed = change(random.Random(seed), picture)
        assert changed.mode == "RGB"
        assert min(changed.size) >= 8
        assert changed.tobytes() == change(random.Random(seed), picture).tobytes()


def test_names_of_countries():
    assert country_code("1f1ef-1f1f5") == "JP"
    assert country_code("1f600") == "1f600"
    assert plain_country("St. Pierre & Miquelon") == "Saint Pierre and Miquelon"
    assert plain_country("Myanmar (Burma)") == "Myanmar"


def test_a_share_is_a_share():
    assert 80 < sum(share(str(i), 10) for i in range(1000)) < 120


def test_the_perceptual_hash_survives_scaling():
    picture = Image.radial_gradient("L").convert("RGB").crop((20, 60, 200, 220))
    other = picture.resize((97, 83), Image.Resampling.BICUBIC)
    assert bin(perceptual_hash(picture) ^ perceptual_hash(other)).count("1") <= 4

"""Leaks: a picture that was learnt is found again as it is, in another encoding or size; others are let pass."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image, ImageDraw

from internvl.nano.corpus import Corpus, read_named
from internvl.nano.leaks import check, exact_hash, perceptual_hash, thumbnail, without_twins

TWINS = {"anchor_0016", "crayfish_0001", "lotus_0033", "mayfly_0014", "menorah_0016", "metronome_0004", "pigeon_0006",
         "stegosaurus_0032", "strawberry_0002", "trilobite_0022", "watch_0122", "watch_0125", "watch_0173",
         "water_lilly_0009"}  # fmt: skip
"""Photographs of the official test split that are in its training part too, in another encoding, size or colour, or as
another shot of the same scene; found by `check` and looked over."""
SAME_HASH = {"lotus_0033", "menorah_0016", "trilobite_0022", "watch_0125", "water_lilly_0009"}
"""Those of them whose perceptual hash is that of the learnt one, bit by bit; all but the watch are closer than 4."""


@dataclass(frozen=True)
class Shot:
    id: str
    picture: Image.Image


def scene(seed: int, size: tuple[int, int] = (220, 160)) -> Image.Image:
    """Bright shapes over a sloping ground: no two seeds are alike."""
    rng = random.Random(seed)
    slope = np.linspace(rng.randint(0, 120), rng.randint(130, 255), size[0])
    picture = Image.fromarray(np.repeat(slope[None], size[1], 0).astype(np.uint8)).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y, r = rng.randint(0, size[0]), rng.randint(0, size[1]), rng.randint(10, 40)
        pen.ellipse((x - r, y - r, x + r, y + r), (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)))
    return picture


def as_jpeg(picture: Image.Image, quality: int = 60) -> Image.Image:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def halved(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BICUBIC)


CHANGES = {"exact": Image.Image.copy, "jpeg": as_jpeg, "half": halved, "both": lambda p: as_jpeg(halved(p))}


@pytest.mark.parametrize("change", CHANGES)
def test_planted_leaks_are_found_and_nothing_else(change):
    learnt = [Shot(f"learnt {seed}", scene(seed)) for seed in range(60)]
    kept = [Shot(f"kept {seed}", scene(seed)) for seed in range(100, 140)]
    assert check(learnt, kept) == []
    planted = [Shot(f"copy {seed}", CHANGES[change](scene(seed))) for seed in (3, 17, 59)]
    assert check(learnt, [*kept[:10], *planted, *kept[10:]]) == [(f"learnt {s}", f"copy {s}") for s in (3, 17, 59)]
    assert without_twins([*planted, *kept], learnt) == tuple(kept)


@pytest.mark.parametrize("change", CHANGES)
def test_real_pictures_planted(shared, change):
    corpus = Corpus.read(shared / "data")
    small = () if change == "both" else ("icon",)  # at 64 x 64 little is left of an icon in a poor JPEG
    for skill in ("photo", "trash", "receipt", "sudoku", *small):
        learnt = random.Random(skill).sample(corpus.training[skill], 8)
        planted = [Shot(f"copy of {item.id}", CHANGES[change](item.picture)) for item in learnt[:4]]
        assert {(item.id, f"copy of {item.id}") for item in learnt[:4]} <= set(check(learnt, planted)), skill


def test_what_photographs_are_left_out(shared):
    """Whatever is near a learnt one; fourteen, of which hashes that are equal bit by bit would find five."""
    corpus = Corpus.read(shared / "data")
    official = {item.id: item for item in read_named(shared / "data", "photo", "caltech101/test.jsonl")}
    assert len(official) == 2078
    assert set(official) - {item.id for item in corpus.held_out["photo"]} == TWINS
    learnt = {item.id: item for item in corpus.training["photo"]}
    kinds = {official[twin].name for twin in TWINS}
    pairs = check([item for item in learnt.values() if item.name in kinds], [official[twin] for twin in TWINS])
    assert {twin for _, twin in pairs} == TWINS
    equal = {
        twin
        for before, twin in pairs
        if perceptual_hash(learnt[before].picture) == perceptual_hash(official[twin].picture)
    }
    assert equal == SAME_HASH


def test_a_part_of_a_picture_is_none():
    """What the check cannot do is said, and so."""
    whole = scene(1)
    assert check([Shot("whole", whole)], [Shot("part", whole.crop((0, 0, 110, 80)))]) == []


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_hashes_of_plain_and_of_changed_pictures(mode):
    blank = Image.new(mode, (40, 30), 255 if mode == "L" else (255, 255, 255))
    assert perceptual_hash(blank) == 0
    assert thumbnail(blank).shape == (32, 32, 3)
    assert exact_hash(blank) == exact_hash(blank.copy())
    assert exact_hash(blank) != exact_hash(blank.resize((30, 40)))
    other = blank.copy()
    other.putpixel((3, 3), 254 if mode == "L" else (255, 255, 254))
    assert exact_hash(blank) != exact_hash(other)


def test_the_perceptual_hash_is_what_it_says():
    """Its 64 bits, worked out one by one."""
    picture = scene(5)
    small = picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS)
    bits = ["1" if small.getpixel((x + 1, y)) > small.getpixel((x, y)) else "0" for y in range(8) for x in range(8)]
    assert perceptual_hash(picture) == int("".join(bits), 2)


def test_the_perceptual_hash_survives_scaling():
    picture = Image.radial_gradient("L").convert("RGB").crop((20, 60, 200, 220))
    other = picture.resize((97, 83), Image.Resampling.BICUBIC)
    assert bin(perceptual_hash(picture) ^ perceptual_hash(other)).count("1") <= 4


def test_nothing_to_compare():
    assert check([], [Shot("a", scene(1))]) == check([Shot("a", scene(1))], []) == []
    assert without_twins([], []) == ()

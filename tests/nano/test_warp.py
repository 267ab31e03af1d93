"""Photographs of drawn pictures: what is warped lies where the tilt says, and what could be read stays readable."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from internvl.nano.sample import Kit
from internvl.nano.warp import (
    SQUARE,
    Tilt,
    faded,
    font_at,
    grain,
    newsprint,
    photograph,
    print_lines,
    some_font,
    some_tilt,
    squeezed,
    uneven_light,
    warp,
)

KIT = Kit()


def page(size=(160, 120)):
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).rectangle((0, 0, size[0] // 2, size[1] // 2), "red")
    return picture


def test_no_tilt_changes_nothing():
    picture = page()
    assert np.abs(np.asarray(warp(picture, picture.size, Tilt()), int) - np.asarray(picture)).max() <= 1


def test_corners_come_where_the_tilt_says():
    rng = random.Random(3)
    for _ in range(50):
        tilt = some_tilt(rng, rng.uniform(0.1, 1), rng.uniform(0, 0.1))
        for corner, (u, v) in zip(tilt.corners, SQUARE, strict=True):
            assert tilt.target(u, v) == pytest.approx(corner)
        flat = Tilt(tilt.corners)
        u, v = rng.random(), rng.random()
        assert flat.source(*flat.target(u, v)) == pytest.approx((u, v))


@pytest.mark.parametrize("curl", [0.0, 0.03])
def test_pixels_follow_the_tilt(curl):
    """A dot is found where `source` says that it is seen from."""
    rng = random.Random(5)
    for _ in range(20):
        tilt = Tilt(some_tilt(rng, 0.8).corners, curl, curl / 2)
        x, y = rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75)
        u, v = tilt.source(x, y)
        picture = Image.new("RGB", (300, 200), "white")
        ImageDraw.Draw(picture).ellipse((u * 300 - 4, v * 200 - 4, u * 300 + 4, v * 200 + 4), "black")
        ys, xs = np.nonzero(np.asarray(warp(picture, (200, 300), tilt).convert("L")) < 128)
        assert xs.mean() == pytest.approx(x * 200, abs=2.5)
        assert ys.mean() == pytest.approx(y * 300, abs=2.5)


def test_nothing_is_mirrored_or_turned_over():
    for seed in range(60):
        picture = photograph(random.Random(seed), page(), 1.0)
        pixels = np.asarray(picture, float)
        red = pixels[..., 0] - pixels[..., 1:].mean(-1)
        quarters = [red[:50, :70].mean(), red[:50, 90:].mean(), red[70:, :70].mean(), red[70:, 90:].mean()]
        assert quarters[0] == max(quarters), seed
        assert picture.size == (160, 120)


def test_the_same_seed_takes_the_same_photograph():
    for seed in range(20):
        one, two = (photograph(random.Random(seed), page()) for _ in range(2))
        assert one.tobytes() == two.tobytes()


def test_photographs_differ_from_each_other():
    assert len({photograph(random.Random(seed), page()).tobytes() for seed in range(20)}) == 20


def test_light_only_takes_away():
    for seed in range(30):
        rng = random.Random(seed)
        lit = np.asarray(uneven_light(rng, page(), 1.0), int)
        assert (lit <= np.asarray(page(), int)).all()
        assert lit.max() > 90, "no picture is black"


def test_faded_keeps_the_order_of_shades():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(4, 0)).convert("RGB")
    for seed in range(30):
        values = np.asarray(faded(random.Random(seed), ramp, 0.5))[0, :, 0].astype(int)
        assert (np.diff(values) >= 0).all()
        assert values[-1] - values[0] >= 125


def test_grain_has_its_strength():
    flat = Image.new("RGB", (100, 100), (128, 128, 128))
    assert np.asarray(grain(random.Random(1), flat, 6.0), float).std() == pytest.approx(6.0, rel=0.1)


def test_a_file_is_nearly_the_picture():
    kept = np.asarray(squeezed(random.Random(1), page()), int)
    assert 0 < np.abs(kept - np.asarray(page(), int)).mean() < 12


def test_newsprint_is_paper_with_ink():
    for seed in range(10):
        print_ = np.asarray(newsprint(random.Random(seed), (300, 200), KIT, ink=(0, 0, 0), paper=(240, 240, 240)))
        dark = (print_.max(-1) < 100).mean()
        assert 0.01 < dark < 0.5
        assert print_.max() == 240


def test_lines_stay_in_their_box():
    picture = Image.new("RGB", (300, 200), "white")
    print_lines(random.Random(2), picture, KIT, (50, 40, 200, 150), (0, 0, 0))
    ys, xs = np.nonzero(np.asarray(picture.convert("L")) < 128)
    assert 50 <= xs.min() < 70
    assert xs.max() < 200
    assert ys.min() >= 40
    assert ys.max() < 150


def test_without_fonts_pillow_has_one():
    assert some_font(random.Random(1), KIT) is None
    assert font_at(None, 20).getlength("8") > 5

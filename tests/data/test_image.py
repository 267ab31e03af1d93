"""Tiles: the grid rule, bits equal to the published path, every mode and orientation, pictures of any shape."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl.data import image
from internvl.data.image import choose_grid, normalise, tile, to_rgb
from internvl.data.media import open_image
from internvl.errors import MediaUnreadable, NoSuchName, UsageError
from tests.conftest import golden

BICUBIC = Image.Resampling.BICUBIC


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(pixels) if mode != "CMYK" else Image.frombytes("CMYK", (width, height), pixels.tobytes())


def sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


# ---- golden --------------------------------------------------------------------------------------------------------


def test_candidate_order_is_the_published_one():
    orders = json.loads(golden("preprocess/candidate_grid_order.json").read_text())["min_num,max_num"]
    for limits, grids in orders.items():
        low, high = map(int, limits.split(","))
        assert image.candidate_grids(low, high) == tuple(map(tuple, grids)), limits


def test_grids_are_the_published_ones():
    rows = json.loads(golden("preprocess/grid_table.json").read_text())["rows"]
    assert rows
    for width, height, low, high, size, grid in rows:
        found = choose_grid(width, height, tile_size=size, min_tiles=low, max_tiles=high)
        assert found == tuple(grid), (width, height, low, high, size)


def test_tiles_and_their_normalised_form():
    """Pixels bit for bit; statistics to 1e-6 (measured: 9.6e-7, which is the rounding of the stored digits)."""
    rows = [json.loads(line) for line in golden("preprocess/tiles.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        rgb = to_rgb(Image.open(golden("preprocess/images") / row["image"]), compat="original")
        assert hashlib.sha256(rgb.tobytes()).hexdigest() == row["rgb_sha256"], row["image"]
        if row.get("single_image"):
            check_single(row, rgb)
        else:
            check_tiles(row, rgb)


def check_single(row, rgb):
    size, kind = row["image_size"], row["normalize_type"]
    padded = row["pad2square"]
    pixels = image.pad_to_square(rgb, size=size, normalisation=kind) if padded else image.resize_plain(rgb, size=size)
    assert sha256(pixels) == row["sha256_uint8"], row["image"]
    floats = normalise(pixels[None], kind)[0].double()
    close(floats.mean((1, 2)), row["mean"])
    close(floats.std((1, 2), correction=0), row["std"])
    close(floats[:, 0, 0], row["first_pixel"])
    close(floats[:, size // 2, size // 2], row["centre_pixel"])


def check_tiles(row, rgb):
    size = row["image_size"]
    limits = {"tile_size": size, "min_tiles": row["min_num"], "max_tiles": row["max_num"]}
    assert choose_grid(*rgb.size, **limits) == tuple(row["grid"])
    tiles = tile(rgb, **limits, thumbnail=row["use_thumbnail"])
    assert [sha256(one) for one in tiles] == row["tile_sha256"], row["image"]
    floats, expected = normalise(tiles).double(), row["float_stats"]
    close(floats.mean((1, 2, 3)), expected["mean"])
    close(floats.std((1, 2, 3), correction=0), expected["std"])
    close(floats[:, :, 0, 0], expected["first_pixel"])
    close(floats[:, :, size // 2, size // 2], expected["centre_pixel"])


def close(found, expected):
    assert np.abs(found.numpy() - np.array(expected)).max() <= 1e-6


FAULTS = {
    "ties ignore the size": (
        "choose_grid",
        lambda *size, tile_size, **limits: choose_grid(*size, tile_size=1, **limits),
    ),
    "the width always first": ("_width_first", lambda source, target: True),
    "another filter": ("BICUBIC", Image.Resampling.BILINEAR),
}
CANDIDATES = image.candidate_grids


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault, monkeypatch):
    name, planted = FAULTS[fault]
    monkeypatch.setattr(image, name, planted)
    with pytest.raises(AssertionError):
        test_tiles_and_their_normalised_form()


def test_planted_faults_in_the_grid_are_caught(monkeypatch):
    def by_columns(low, high):
        return tuple(sorted(CANDIDATES(low, high), key=lambda grid: (grid[0] * grid[1], grid)))

    monkeypatch.setattr(image, "candidate_grids", by_columns)
    with pytest.raises(AssertionError):
        test_grids_are_the_published_ones()


# ---- the grid ------------------------------------------------------------------------------------------------------


@given(width=st.integers(1, 5000), height=st.integers(1, 5000), low=st.integers(1, 8), more=st.integers(0, 16))
def test_no_grid_fits_the_shape_better(width, height, low, more):
    columns, rows = choose_grid(width, height, min_tiles=low, max_tiles=low + more)
    assert low <= columns * rows <= low + more
    distances = [abs(width / height - i / j) for i, j in image.candidate_grids(low, low + more)]
    assert abs(width / height - columns / rows) == min(distances)


def test_a_tie_needs_more_than_half_of_the_pixels():
    assert choose_grid(633, 633) == (1, 1)  # 400 689 pixels; half of 2 x 2 tiles are 401 408
    assert choose_grid(634, 634) == (2, 2)
    assert choose_grid(448, 896, max_tiles=8) == (1, 2)
    assert choose_grid(896, 1792, max_tiles=8) == (2, 4)
    assert choose_grid(1920, 1080, max_tiles=1) == (1, 1)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0, 4, "min_tiles is 0; expected a whole number from 1 to 1024"),
        (5, 4, "tiles from 5 to 4"),
        (-1, 1, "min_tiles is -1"),
        (1, 1025, "max_tiles is 1025; expected a whole number from 1 to 1024"),
        (1, 10**12, "max_tiles is 10+;"),
        (1, 12.0, r"max_tiles is 12\.0;"),
        (1, "12", "max_tiles is '12';"),
        (1, [12], r"max_tiles is \[12\];"),
        (True, 4, "min_tiles is True;"),
    ],
)
def test_impossible_numbers_of_tiles(low, high, message):
    with pytest.raises(UsageError, match=message):
        choose_grid(10, 10, min_tiles=low, max_tiles=high)


def published_order(low, high):
    """The published loop, word for word: it comes to every pair many times."""
    grids = {
        (i, j) for n in range(low, high + 1) for i in range(1, n + 1) for j in range(1, n + 1) if low <= i * j <= high
    }
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def test_each_pair_once_gives_the_order_of_the_published_loop():
    for high in range(1, 41):
        for low in range(1, high + 1):
            assert image.candidate_grids(low, high) == published_order(low, high), (low, high)
    for low, high in [(1, 128), (7, 128), (100, 128), (128, 128)]:
        assert image.candidate_grids(low, high) == published_order(low, high), (low, high)


def test_the_largest_budget_is_answered_at_once():
    """Measured: 10 ms for some 7000 grids; the published loop takes a minute."""
    image.candidate_grids.cache_clear()
    started = time.perf_counter()
    assert choose_grid(1024 * 448, 448, max_tiles=image.MOST_TILES) == (1024, 1)
    assert len(image.candidate_grids(1, image.MOST_TILES)) == sum(1024 // side for side in range(1, 1025))
    assert time.perf_counter() - started < 2


def test_a_picture_without_pixels():
    with pytest.raises(MediaUnreadable, match="0 x 5"):
        choose_grid(0, 5)
    with pytest.raises(MediaUnreadable, match="5 x 0"):
        image.resize_plain(Image.new("RGB", (5, 0)), size=4)


# ---- tiles ---------------------------------------------------------------------------------------------------------


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`Image.resize` as Pillow 13 does it, whose bits are the reference; earlier ones begin with another axis."""
    if int(PIL.__version__.split(".")[0]) >= 13:
        return picture.resize(size, BICUBIC)
    height_first = picture.height - size[1] > max(0, 2 * (picture.width - size[0]))
    between = (picture.width, size[1]) if height_first else (size[0], picture.height)
    return picture.resize(between, BICUBIC).resize(size, BICUBIC)


def cut_plainly(picture, grid, size, thumbnail):
    """The published way: resize whole, crop each tile, resize the thumbnail."""
    columns, rows = grid
    whole = resized(picture, (columns * size, rows * size))
    tiles = [
        np.asarray(whole.crop((i * size, j * size, (i + 1) * size, (j + 1) * size)))
        for j in range(rows)
        for i in range(columns)
    ]
    if thumbnail and len(tiles) > 1:
        tiles.append(np.asarray(resized(picture, (size, size))))
    return np.stack(tiles)


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    tile_size=st.sampled_from([13, 28, 56, 112]),
    high=st.integers(1, 12),
    thumbnail=st.booleans(),
    threads=st.integers(1, 4),
)
def test_tiles_are_those_of_the_plain_way(size, tile_size, high, thumbnail, threads):
    picture = noise(*size)
    grid = choose_grid(*size, tile_size=tile_size, max_tiles=high)
    tiles = tile(picture, tile_size=tile_size, max_tiles=high, thumbnail=thumbnail, threads=threads)
    assert len(tiles) == grid[0] * grid[1] + (thumbnail and grid[0] * grid[1] > 1)
    assert np.array_equal(tiles, cut_plainly(picture, grid, tile_size, thumbnail))


def test_threads_do_not_change_a_bit():
    picture = noise(1000, 700)
    one, *others = (tile(picture, tile_size=112, threads=threads) for threads in (1, 2, 3, 5))
    assert all(np.array_equal(one, other) for other in others)


def test_resizing_to_its_own_size_is_the_identity():
    picture = noise(112, 112)
    assert np.array_equal(tile(picture, tile_size=112, max_tiles=1)[0], np.asarray(picture))
    assert np.array_equal(image.resize_plain(picture, size=112), np.asarray(picture))
    assert np.array_equal(image.pad_to_square(picture, size=112), np.asarray(picture))
    assert np.array_equal(image.center_crop(picture, size=112), np.asarray(picture))
    wide = noise(224, 112)
    tiles = tile(wide, tile_size=112, thumbnail=False)
    assert np.array_equal(np.concatenate(tiles, axis=1), np.asarray(wide))


@pytest.mark.parametrize("long", [1, 2, 13, 447, 448, 449, 4096, 20000])
@pytest.mark.parametrize("short", [1, 2, 13, 447, 448, 449])
def test_pictures_of_any_shape_are_answered(short, long):
    for size in {(short, long), (long, short)}:
        picture = Image.new("RGB", size, (10, 200, 30))
        columns, rows = choose_grid(*size, tile_size=28)
        tiles = tile(picture, tile_size=28)
        assert len(tiles) == columns * rows + (columns * rows > 1)
        assert (tiles == (10, 200, 30)).all()
        for static in (image.resize_plain, image.center_crop):
            assert (static(picture, size=28) == (10, 200, 30)).all()


def test_other_modes_are_refused():
    for cut in (tile, lambda p: image.resize_plain(p, size=4), lambda p: image.center_crop(p, size=4)):
        with pytest.raises(UsageError, match="mode L, expected RGB"):
            cut(Image.new("L", (4, 4)))


# ---- static modes --------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(size=st.tuples(st.integers(1, 300), st.integers(1, 300)), side=st.sampled_from([7, 56, 224]))
def test_padding_equals_pasting_on_a_canvas(size, side):
    picture = noise(*size)
    canvas = Image.new("RGB", (max(size), max(size)), (122, 116, 104))  # int(mean * 255) of clip
    canvas.paste(picture, ((max(size) - size[0]) // 2, (max(size) - size[1]) // 2))
    expected = np.asarray(canvas.resize((side, side), BICUBIC))
    assert np.array_equal(image.pad_to_square(picture, size=side, normalisation="clip"), expected)


@pytest.mark.parametrize("size", [(300, 40), (40, 300), (299, 200)])
def test_padding_in_bands_changes_no_bit(size, monkeypatch):
    picture = noise(*size)
    whole = image.pad_to_square(picture, size=56)
    monkeypatch.setattr(image, "MOST_PIXELS_AT_ONCE", 1500)
    assert np.array_equal(image.pad_to_square(picture, size=56), whole)


@settings(max_examples=40)
@given(size=st.tuples(st.integers(1, 300), st.integers(1, 300)), side=st.sampled_from([7, 56, 224]))
def test_the_crop_is_the_middle_of_the_resized_picture(size, side):
    picture = noise(*size)
    short = min(size)
    whole = resized(picture, (int(side * size[0] / short), int(side * size[1] / short)))
    left, top = round((whole.width - side) / 2), round((whole.height - side) / 2)
    expected = np.asarray(whole)[top : top + side, left : left + side]
    assert np.array_equal(image.center_crop(picture, size=side), expected)


@pytest.mark.parametrize("size", [(3000, 20), (20, 3000), (1999, 333)])
def test_extreme_crops_read_the_window_only(size, monkeypatch):
    """Levels may differ where the window's edges are no exact numbers (measured: 1 level)."""
    picture = noise(*size)
    exact = image.center_crop(picture, size=56).astype(int)
    monkeypatch.setattr(image, "MOST_PIXELS_AT_ONCE", 0)
    assert np.abs(image.center_crop(picture, size=56) - exact).max() <= 1


# ---- normalisation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(image.NORMALISATIONS))
def test_normalise(kind):
    tiles = np.random.default_rng(1).integers(0, 256, (3, 5, 5, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in image.NORMALISATIONS[kind])
    found = normalise(tiles, kind)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    for one, pixels in zip(found, tiles, strict=True):
        plain = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32).div(255).sub(mean).div(std)
        assert torch.equal(one, plain)
    assert torch.equal(found, normalise(torch.from_numpy(tiles), kind))
    tiles.setflags(write=False)
    assert torch.equal(found, normalise(tiles, kind))


def test_an_unknown_normalisation():
    with pytest.raises(NoSuchName, match="Did you mean 'siglip'"):
        normalise(np.zeros((1, 2, 2, 3), np.uint8), "siglib")
    with pytest.raises(NoSuchName, match="imagenet"):
        image.pad_to_square(Image.new("RGB", (2, 2)), size=4, normalisation="image_net")


# ---- modes ---------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
# fmt: off
MODES = [  # mode, pixels, by default, compat="original"
    ("1",     [0, 255],                           [(0,) * 3, (255,) * 3],             [(0,) * 3, (255,) * 3]),
    ("L",     [0, 77],                            [(0,) * 3, (77, 77, 77)],           [(0,) * 3, (77, 77, 77)]),
    ("RGB",   [(1, 2, 3), (255, 0, 9)],           [(1, 2, 3), (255, 0, 9)],           [(1, 2, 3), (255, 0, 9)]),
    ("RGBX",  [(1, 2, 3, 0), (255, 0, 9, 5)],     [(1, 2, 3), (255, 0, 9)],           [(1, 2, 3), (255, 0, 9)]),
    ("RGBA",  [(200, 0, 0, 0), (0, 200, 0, 51)],  [(255,) * 3, (204, 244, 204)],      [(200, 0, 0), (0, 200, 0)]),
    ("RGBa",  [(0, 0, 0, 0), (0, 40, 0, 51)],     [(255,) * 3, (204, 244, 204)],      [(0,) * 3, (0, 200, 0)]),
    ("LA",    [(9, 0), (9, 255)],                 [(255,) * 3, (9, 9, 9)],            [(9, 9, 9), (9, 9, 9)]),
    ("CMYK",  [(0, 0, 0, 0), (0, 255, 255, 0)],   [(255,) * 3, (255, 0, 0)],          [(255,) * 3, (255, 0, 0)]),
    ("YCbCr", [(100, 128, 128), (76, 85, 255)],   [(100, 100, 100), (254, 0, 0)],     [(100, 100, 100), (254, 0, 0)]),
    ("HSV",   [(0, 0, 80), (0, 255, 255)],        [(80, 80, 80), (255, 0, 0)],        [(80, 80, 80), (255, 0, 0)]),
    ("I;16",  [0, 128, 65535, 257],                      [(0,) * 3, (0,) * 3, (255,) * 3, (1, 1, 1)],
                                                         [(0,) * 3, (128,) * 3, (255,) * 3, (255,) * 3]),
    ("I",     [-5, 0, 200, 255],                         [(0,) * 3, (0,) * 3, (200,) * 3, (255,) * 3],
                                                         [(0,) * 3, (0,) * 3, (200,) * 3, (255,) * 3]),
    ("I",     [0, 25700, 65535],                         [(0,) * 3, (100,) * 3, (255,) * 3],
                                                         [(0,) * 3, (255,) * 3, (255,) * 3]),
    ("I",     [0, 2**31 - 1],                     [(0,) * 3, (255,) * 3],             [(0,) * 3, (255,) * 3]),
    ("F",     [0.0, 0.5, 1.0, NAN],               [(0,) * 3, (128,) * 3, (255,) * 3, (0,) * 3], None),
    ("F",     [-1.0, 100.0, 255.0, INF],          [(0,) * 3, (100,) * 3, (255,) * 3, (0,) * 3], None),
    ("F",     [0.0, 1e6],                         [(0,) * 3, (255,) * 3],             [(0,) * 3, (255,) * 3]),
]
# fmt: on


@pytest.mark.parametrize(("mode", "pixels", "expected", "original"), MODES)
def test_modes(mode, pixels, expected, original):
    picture = Image.new(mode, (len(pixels), 1))
    for x, value in enumerate(pixels):
        picture.putpixel((x, 0), value)
    assert [to_rgb(picture).getpixel((x, 0)) for x in range(len(pixels))] == expected
    if original is not None:  # not-a-number has no defined conversion
        found = to_rgb(picture, compat="original")
        assert [found.getpixel((x, 0)) for x in range(len(pixels))] == original


def test_sixteen_bits_of_either_byte_order():
    values = np.array([[0, 25700, 65535]], np.uint16)
    for mode, stored in {"I;16L": values.astype("<u2"), "I;16B": values.astype(">u2")}.items():
        picture = Image.frombytes(mode, (3, 1), stored.tobytes())
        assert np.asarray(to_rgb(picture))[0, :, 0].tolist() == [0, 100, 255]


def test_lab_becomes_rgb():
    red = Image.new("LAB", (1, 1), (54 * 255 // 100, 81 + 128, 70 + 128))
    pixel = to_rgb(Image.merge("LAB", red.split())).getpixel((0, 0))
    assert pixel[0] > 200


def palette_picture() -> Image.Image:
    picture = Image.new("P", (3, 1))
    picture.putpalette([250, 10, 10, 10, 250, 10, 10, 10, 250])
    for x in range(3):
        picture.putpixel((x, 0), x)
    return picture


def test_palettes_and_key_colours():
    plain = palette_picture()
    assert [to_rgb(plain).getpixel((x, 0)) for x in range(3)] == [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    keyed = palette_picture()
    keyed.info["transparency"] = 1
    assert [to_rgb(keyed).getpixel((x, 0)) for x in range(3)] == [(250, 10, 10), (255, 255, 255), (10, 10, 250)]
    assert to_rgb(keyed, compat="original").getpixel((1, 0)) == (10, 250, 10)
    graded = palette_picture()
    graded.info["transparency"] = bytes([255, 255, 0])
    assert to_rgb(graded).getpixel((2, 0)) == (255, 255, 255)
    for mode, key in {"RGB": (7, 7, 7), "L": 7, "I;16": 7}.items():
        picture = Image.new(mode, (1, 1), key)
        picture.info["transparency"] = key
        assert to_rgb(picture).getpixel((0, 0)) == (255, 255, 255), mode


def test_opaque_pixels_never_change():
    picture = noise(40, 30, "RGBA")
    picture.putalpha(255)
    assert np.array_equal(np.asarray(to_rgb(picture)), np.asarray(picture)[:, :, :3])


def test_large_scans_are_converted_in_bands(monkeypatch):
    values = np.random.default_rng(3).integers(0, 65536, (50, 7), dtype=np.uint16)
    whole = np.asarray(to_rgb(Image.fromarray(values)))
    monkeypatch.setattr(image, "BAND", 20)
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(values))), whole)
    assert np.array_equal(whole[:, :, 0], (values.astype(int) * 255 + 32767) // 65535)


# ---- orientation ---------------------------------------------------------------------------------------------------

INVERSE = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_orientation_shows_the_upright_picture(orientation, form, tmp_path):
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste((200, 0, 0), (0, 0, 16, 16))
    upright.paste((0, 0, 200), (32, 16, 48, 32))
    stored = upright if orientation == 1 else upright.transpose(image.UPRIGHT[INVERSE[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    stored.save(tmp_path / "picture", form, exif=exif, **options)
    opened = Image.open(tmp_path / "picture")
    found = to_rgb(opened)
    assert found.size == upright.size
    assert np.abs(np.asarray(found).astype(int) - np.asarray(upright)).max() <= (3 if form == "JPEG" else 0)
    assert np.array_equal(np.asarray(to_rgb(found)), np.asarray(found)), "a second conversion turns it again"
    if form != "TIFF":  # Pillow itself turns a TIFF while loading it
        assert to_rgb(Image.open(tmp_path / "picture"), compat="original").size == stored.size


def test_the_callers_picture_is_left_alone():
    picture = noise(8, 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.info["exif"] = exif.tobytes()
    before = picture.tobytes()
    assert to_rgb(picture).size == (4, 8)
    assert picture.tobytes() == before
    assert "exif" in picture.info
    plain = noise(8, 4)
    assert to_rgb(plain) is plain


def exif_with_a_tag_that_is_not_there() -> bytes:
    """Upside down, and the name of a program, 100 bytes that lie behind the end: Pillow warns of these; before its
    version 13 it reads no tag after them."""
    tags = struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0) + struct.pack("<HHI4s", 0x0131, 2, 100, struct.pack("<I", 200))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage!!", b"Exif\0\0II+\0" + bytes(8), b"Exif\0\0II*\0\xff\xff", b"II*\0"]
)
def test_damaged_exif_leaves_a_picture_as_it_is_stored(exif, form):
    filters = list(warnings.filters)
    for damaged, turn in ((exif, None), (exif_with_a_tag_that_is_not_there(), Image.Transpose.ROTATE_180)):
        file = io.BytesIO()
        noise(8, 4).save(file, form, exif=damaged)
        with warnings.catch_warnings(action="ignore"):
            stored = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
            warnings.simplefilter("error")
            found = to_rgb(open_image(file.getvalue()))
        assert found.tobytes() == (stored if turn is None else stored.transpose(turn)).tobytes()
    assert list(warnings.filters) == filters


def test_warnings_are_put_back_whatever_the_threads_do():
    filters = list(warnings.filters)

    def turned(number):
        picture = noise(8, 4)
        picture.info["exif"] = exif_with_a_tag_that_is_not_there()
        return to_rgb(picture).size

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(turned, range(400))) == {(8, 4)}
    assert list(warnings.filters) == filters


@pytest.mark.parametrize("compat", ["Original", "orignal", "", True, []])
def test_an_unknown_way_of_being_compatible(compat):
    with pytest.raises(NoSuchName, match="no compat is called"):
        to_rgb(noise(2, 2), compat=compat)

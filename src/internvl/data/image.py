"""Pictures to tiles: choose the grid, cut, add the thumbnail, or one of the static transforms; normalise at the end.

Everything here is bit-exact with the published preprocessing, which resizes with Pillow's antialiased bicubic filter.
Tiles are uint8 `(n, S, S, 3)` RGB until `normalise` turns them into floats on the device that runs the model.

What `to_rgb` makes of each Pillow mode:

    mode                       default                                        compat="original"
    any, with EXIF orientation upright (as stored if the EXIF is damaged)     as stored
    RGB, L, 1, YCbCr, CMYK,    Pillow's conversion                            the same
      HSV, LAB, RGBX, P
    RGBA, LA, PA, RGBa, La,    blended on white                               alpha dropped: hidden colours show
      any with a key colour
    I;16 (and I;16B, ...)      65535 is white: v / 257, rounded               clipped: 255 and more are white
    I                          white is the first of 255, 65535, 2^31 - 1     clipped
                               that is not below the largest value
    F                          white is the first of 1, 255, 65535 that is    clipped
                               not below the largest value, else that value

A picture of several frames gives its first one.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from internvl.errors import MediaUnreadable, UsageError, find

if TYPE_CHECKING:
    import torch

Normalisation = Literal["imagenet", "clip", "siglip"]
Compat = Literal["original"] | None
"""None: the sane rules. "original": those of the first code base wherever they differ."""
Run = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]

# fmt: off
NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    #            mean                                   standard deviation
    "imagenet": ((0.485, 0.456, 0.406),                 (0.229, 0.224, 0.225)),
    "clip":     ((0.4814546, 0.4578275, 0.40821073),    (0.2686295, 0.2613025, 0.2757711)),
    "siglip":   ((0.5, 0.5, 0.5),                       (0.5, 0.5, 0.5)),
}

UPRIGHT = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# fmt: on
ORIENTATION = 0x0112
BICUBIC = Image.Resampling.BICUBIC
WORTH_A_THREAD = 200_000
"""Pixels below which starting a second thread costs more than it saves."""
MOST_TILES = 1024
"""The largest budget of tiles: far above what any model of the family was made for, and a picture's tiles still fit in
memory (0.6 GB of bytes for tiles of 448 pixels)."""
BAND = 4_000_000
"""Pixels of 16 or 32 bits that are looked at together."""
MOST_PIXELS_AT_ONCE = 32_000_000
"""Pixels of an intermediate picture above which the static transforms go another way: a 1x20000 picture padded to a
square would need 1.6 GB."""
_WARNINGS = Lock()
"""Held while warnings are put aside: Python's filters belong to the whole process, and two threads that change and
restore them at once would leave them changed."""


def check_compat(compat: Compat) -> None:
    """Refuse what is no way of being compatible.

    >>> check_compat("orignal")
    Traceback (most recent call last):
    ...
    internvl.errors.NoSuchName: no compat is called 'orignal'. Did you mean 'original'?
    """
    if compat is not None:
        find("compat", compat, {"original": None})


def check_tiles(max_tiles: int, *, min_tiles: int = 1) -> None:
    """Refuse a budget of tiles that is no whole number from `min_tiles` to MOST_TILES."""
    for name, tiles in (("min_tiles", min_tiles), ("max_tiles", max_tiles)):
        if type(tiles) is not int or not 1 <= tiles <= MOST_TILES:
            raise UsageError(f"{name} is {tiles!r}; expected a whole number from 1 to {MOST_TILES}")
    if min_tiles > max_tiles:
        raise UsageError(f"tiles from {min_tiles} to {max_tiles}: expected 1 <= min_tiles <= max_tiles")


def digest(tiles: np.ndarray) -> str:
    """SHA-256 over shape and pixels of the tiles (n, S, S, 3) of one picture: what it is known by."""
    return hashlib.sha256(repr((tiles.shape, str(tiles.dtype))).encode() + tiles.tobytes()).hexdigest()


@lru_cache(maxsize=64)
def candidate_grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) of min_tiles to max_tiles tiles, in the order in which `choose_grid` examines them.

    By area. Inside one area the published order is that in which a set of these pairs, filled in exactly this order,
    is walked; it decides ties once min_tiles exceeds 1. Hashes of pairs of small integers are the same in every
    process and in all CPython versions since 3.8, so the same set is built here (golden/preprocess pins the outcome).
    The published loop comes to each pair many times; what counts is the first, in the round of its longer side.

    >>> candidate_grids(1, 3)
    ((1, 1), (1, 2), (2, 1), (3, 1), (1, 3))
    """
    grids = {
        (columns, rows)
        for columns in range(1, min_tiles + 1)
        for rows in range(-(-min_tiles // columns), min(min_tiles, max_tiles // columns) + 1)
    }
    for longest in range(min_tiles + 1, max_tiles + 1):
        shorter = min(longest, max_tiles // longest)
        grids.update((columns, longest) for columns in range(1, min(longest - 1, shorter) + 1))
        grids.update((longest, rows) for rows in range(1, shorter + 1))
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def choose_grid(
    width: int, height: int, *, tile_size: int = 448, min_tiles: int = 1, max_tiles: int = 12
) -> tuple[int, int]:
    """The (columns, rows) whose aspect ratio is nearest to the picture's.

    Among grids equally near, a larger one wins only if the picture has more than half of its pixels.

    >>> choose_grid(1920, 1080), choose_grid(633, 633), choose_grid(634, 634)
    ((4, 2), (1, 1), (2, 2))
    """
    if width < 1 or height < 1:
        raise MediaUnreadable(f"the picture is {width} x {height}: it has no pixels; expected 1 x 1 at least")
    check_tiles(max_tiles, min_tiles=min_tiles)
    aspect = width / height
    best, best_distance = (1, 1), float("inf")
    for columns, rows in candidate_grids(min_tiles, max_tiles):
        distance = abs(aspect - columns / rows)
        large_enough = width * height > 0.5 * tile_size * tile_size * columns * rows
        if distance < best_distance or (distance == best_distance and large_enough):
            best, best_distance = (columns, rows), distance
    return best


def tile(
    picture: Image.Image,
    *,
    tile_size: int = 448,
    min_tiles: int = 1,
    max_tiles: int = 12,
    thumbnail: bool = True,
    threads: int = 2,
) -> np.ndarray:
    """Cut an RGB picture into tiles: uint8 (n, S, S, 3), row by row; the thumbnail last, if there is more than one.

    The picture is stretched to the grid, not cropped or padded. `threads` changes the time, never a bit; give 1 where
    other processes keep the machine busy.

    >>> tile(Image.new("RGB", (1920, 1080))).shape
    (9, 448, 448, 3)
    """
    _expect_rgb(picture)
    columns, rows = choose_grid(*picture.size, tile_size=tile_size, min_tiles=min_tiles, max_tiles=max_tiles)
    count, size = columns * rows, (columns * tile_size, rows * tile_size)
    tiles = np.empty((count + (thumbnail and count > 1), tile_size, tile_size, 3), np.uint8)
    grid = tiles[:count].reshape(rows, columns, tile_size, tile_size, 3)
    width_first = _width_first(picture.size, size)
    steps: list[Callable[[], Image.Image]] = [partial(_halfway, picture, size)]
    if len(tiles) > count:  # the whole thumbnail takes about as long as the first pass for the tiles: side by side
        steps.append(partial(_resize, picture, (tile_size, tile_size)))
    worthwhile = max(picture.width * picture.height, size[0] * size[1]) >= WORTH_A_THREAD
    with _workers(threads if worthwhile else 1) as run:
        halfway, *small = run(lambda step: step(), steps)
        run(partial(_write_line, grid, halfway, width_first), range(columns if width_first else rows))
    if small:
        tiles[count] = np.asarray(small[0])
    return tiles


def _width_first(source: tuple[int, int], target: tuple[int, int]) -> bool:
    """Which axis is resized first; 8 bits are kept in between, so the order shows in the bits.

    The rule of Pillow 13, with which the golden tiles were made. Other versions have others, so the two passes are
    always asked for one by one here, and the bits do not depend on the version that is installed.
    """
    fewer_columns, fewer_rows = source[0] - target[0], source[1] - target[1]
    return fewer_rows <= 0 or fewer_rows <= 2 * fewer_columns


def _halfway(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture after the first of two passes."""
    between = (size[0], picture.height) if _width_first(picture.size, size) else (picture.width, size[1])
    return picture.resize(between, BICUBIC)


def _resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return _halfway(picture, size).resize(size, BICUBIC)


def _write_line(grid: np.ndarray, halfway: Image.Image, width_first: bool, line: int) -> None:
    """The second pass for one column of tiles (one row of them, where the height came first), into the grid
    (rows, columns, S, S, 3): no tile is ever a picture of its own."""
    rows, columns, size = grid.shape[:3]
    start, stop = line * size, (line + 1) * size
    if width_first:
        strip = halfway.crop((start, 0, stop, halfway.height)).resize((size, rows * size), BICUBIC)
        grid[:, line] = np.asarray(strip).reshape(rows, size, size, 3)
    else:
        strip = halfway.crop((0, start, halfway.width, stop)).resize((columns * size, size), BICUBIC)
        grid[line] = np.asarray(strip).reshape(size, columns, size, 3).swapaxes(0, 1)


@contextmanager
def _workers(threads: int) -> Generator[Run, None, None]:
    """A `map` over some threads; Pillow lets go of the interpreter while it resizes."""
    if threads <= 1:
        yield lambda function, items: [function(item) for item in items]
        return
    with ThreadPoolExecutor(threads) as pool:
        yield lambda function, items: list(pool.map(function, items))


def resize_plain(picture: Image.Image, *, size: int) -> np.ndarray:
    """The whole RGB picture stretched to one tile: uint8 (S, S, 3). What a model without tiling sees."""
    _expect_rgb(picture)
    return np.array(_resize(picture, (size, size)))


def pad_to_square(picture: Image.Image, *, size: int, normalisation: Normalisation = "imagenet") -> np.ndarray:
    """The RGB picture centred on a square of the mean colour, then resized to one tile: uint8 (S, S, 3).

    >>> pad_to_square(Image.new("RGB", (1, 20000)), size=448)[0, 0].tolist()
    [123, 116, 103]
    """
    _expect_rgb(picture)
    mean, _ = find("normalisation", normalisation, NORMALISATIONS)
    red, green, blue = (int(value * 255) for value in mean)
    side = max(picture.size)
    left, top = (side - picture.width) // 2, (side - picture.height) // 2
    colour = (red, green, blue)
    narrow = Image.new("RGB", (size, side), colour)  # a row of one colour stays that colour, whatever its width
    step = max(1, MOST_PIXELS_AT_ONCE // side)
    for start in range(
        0, picture.height, step
    ):  # usually once; the width of a square is resized first: bands are exact
        band = Image.new("RGB", (side, min(step, picture.height - start)), colour)
        band.paste(picture, (left, -start))
        narrow.paste(band.resize((size, band.height), BICUBIC), (0, top + start))
    return np.array(narrow.resize((size, size), BICUBIC))


def center_crop(picture: Image.Image, *, size: int) -> np.ndarray:
    """The RGB picture resized until its shorter side is S, and its middle: uint8 (S, S, 3). InternVL-14B, classifying.

    Pictures of an extreme shape are read through the crop's window instead of being resized whole, which may differ
    by one level in a pixel.
    """
    _expect_rgb(picture)
    short = min(picture.size)
    width, height = (int(size * side / short) for side in picture.size)
    left, top = round((width - size) / 2), round((height - size) / 2)  # halves go to the even number, as published
    if width * height <= MOST_PIXELS_AT_ONCE:
        whole = _resize(picture, (width, height))
        return np.array(whole.crop((left, top, left + size, top + size)))
    x, y = left * picture.width / width, top * picture.height / height  # the window, in pixels of the picture
    x_end, y_end = (left + size) * picture.width / width, (top + size) * picture.height / height
    if _width_first(picture.size, (width, height)):
        band = picture.resize((size, picture.height), BICUBIC, box=(x, 0, x_end, picture.height))
        return np.array(band.resize((size, size), BICUBIC, box=(0, y, size, y_end)))
    band = picture.resize((picture.width, size), BICUBIC, box=(0, y, picture.width, y_end))
    return np.array(band.resize((size, size), BICUBIC, box=(x, 0, x_end, size)))


def normalise(tiles: np.ndarray | torch.Tensor, kind: Normalisation = "imagenet") -> torch.Tensor:
    """uint8 tiles (n, S, S, 3) -> float32 (n, 3, S, S) with (x / 255 - mean) / std, on the device of the tiles."""
    import torch

    mean, std = find("normalisation", kind, NORMALISATIONS)
    if isinstance(tiles, np.ndarray):
        tiles = torch.from_numpy(np.require(tiles, requirements="W"))
    shift, scale = (torch.tensor(values, device=tiles.device).view(3, 1, 1) for values in (mean, std))
    floats = torch.empty(len(tiles), 3, *tiles.shape[1:3], device=tiles.device)
    step = 1 if tiles.device.type == "cpu" else max(1, len(tiles))  # one tile fits a CPU's cache through all four steps
    for start in range(0, len(tiles), step):
        part = floats[start : start + step].copy_(tiles[start : start + step].permute(0, 3, 1, 2))
        part.div_(255).sub_(shift).div_(scale)
    return floats


def to_rgb(picture: Image.Image, *, compat: Compat = None) -> Image.Image:
    """Any Pillow picture as RGB, upright and opaque; the table above says how. `compat="original"` as published.

    >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    check_compat(compat)
    picture.load()  # before its metadata are asked: a TIFF turns itself upright while loading
    if compat == "original":
        return _convert(picture)
    turn = UPRIGHT.get(_orientation(picture))
    if picture.mode == "RGB" and turn is None and "transparency" not in picture.info:
        return picture
    rgb = _opaque(picture)
    rgb.info = {}  # otherwise the orientation would be applied again by the next reader
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(picture: Image.Image) -> int:
    """What EXIF says; 1, as stored, where it is damaged: the pixels are there, and viewers show them."""
    with without_warnings():
        try:
            return picture.getexif().get(ORIENTATION, 1)
        except Exception:  # a decoder at work on a stranger's bytes may raise anything
            return 1


@contextmanager
def without_warnings() -> Generator[None, None, None]:
    """No warnings of Pillow about damaged metadata, which nobody asked for; keep it short, threads wait for it."""
    with _WARNINGS, warnings.catch_warnings(action="ignore"):
        yield


def _convert(picture: Image.Image) -> Image.Image:
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise MediaUnreadable(f"pictures of mode {picture.mode} cannot be shown as RGB: save it as a PNG") from error


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        return Image.fromarray(_to_eight_bits(picture)).convert("RGB")
    if not picture.has_transparency_data:
        return _convert(picture)
    straight = {"RGBa": "RGBA", "La": "LA"}.get(picture.mode)  # premultiplied modes convert only to their own kind
    layer = (picture.convert(straight) if straight else picture).convert("RGBA")
    rgb = Image.new("RGB", picture.size, "white")
    rgb.paste(layer, mask=layer.getchannel("A"))
    return rgb


def _to_eight_bits(picture: Image.Image) -> np.ndarray:
    """Gray of 16 or 32 bits as uint8 (H, W): which value is white stands in the table above."""
    values = np.asarray(picture)
    gray = np.empty(values.shape, np.uint8)
    bands = range(0, len(values), max(1, BAND // values.shape[1]))  # a large scan is never held as floats

    def band(start: int) -> np.ndarray:
        return np.nan_to_num(values[start : start + bands.step].astype(np.float64), posinf=0, neginf=0)

    largest = max(float(band(start).max()) for start in bands)
    steps = {"I": (255, 65535, 2**31 - 1), "F": (1, 255, 65535)}.get(picture.mode, (65535,))
    white = next((step for step in steps if step >= largest), largest)
    for start in bands:
        gray[start : start + bands.step] = np.floor(np.clip(band(start) / white, 0, 1) * 255 + 0.5)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return gray


def _expect_rgb(picture: Image.Image) -> None:
    if picture.mode != "RGB":
        raise UsageError(f"the picture has mode {picture.mode}, expected RGB: pass it through to_rgb first")
    if not picture.width or not picture.height:
        raise MediaUnreadable(
            f"the picture is {picture.width} x {picture.height}: it has no pixels; expected 1 x 1 at least"
        )

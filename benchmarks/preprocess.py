"""A photo of 1920 x 1080 to 9 normalised tiles, beside the published way, interleaved in one run.

    OMP_NUM_THREADS=2 python benchmarks/preprocess.py --threads 2
    OMP_NUM_THREADS=1 python benchmarks/preprocess.py --threads 1

The published way, written plainly: resize the whole picture with Pillow, crop each tile out of it, resize the
thumbnail, turn every tile into a float tensor and normalise it. Both sides start from the same decoded picture, both
results are compared bit for bit before anything is timed. Ratios above 1: ours is faster.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import PIL
import torch
from PIL import Image

from internvl.data.image import NORMALISATIONS, choose_grid, normalise, tile

SIZE = 448
SIZES = ((1920, 1080), (4032, 3024), (640, 480))


def photo(width: int, height: int) -> Image.Image:
    """Smooth shapes under noise; a resampler's time depends on the size, not on what is shown."""
    chance = np.random.default_rng(0)
    shapes = Image.fromarray(chance.integers(0, 256, (9, 16, 3), dtype=np.uint8)).resize((width, height))
    grain = chance.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(shapes) + grain).clip(0, 255).astype(np.uint8))


def published_tiles(picture: Image.Image, grid: tuple[int, int]) -> list[Image.Image]:
    columns, rows = grid
    whole = picture.resize((columns * SIZE, rows * SIZE))
    tiles = []
    for index in range(columns * rows):
        left, top = index % columns * SIZE, index // columns * SIZE
        tiles.append(whole.crop((left, top, left + SIZE, top + SIZE)))
    return [*tiles, picture.resize((SIZE, SIZE))] if len(tiles) > 1 else tiles


def published(picture: Image.Image, grid: tuple[int, int]) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATIONS["imagenet"])
    floats = []
    for one in published_tiles(picture, grid):
        pixels = torch.from_numpy(np.array(one.convert("RGB"), np.uint8)).permute(2, 0, 1).contiguous()
        floats.append(pixels.to(torch.float32).div(255).sub_(mean).div_(std))
    return torch.stack(floats)


def interleaved(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Median milliseconds of both, and the median of the ratios of neighbouring runs."""
    runs, taken = (ours, theirs), ([], [])
    for repeat in range(repeats + 1):
        for side in (0, 1) if repeat % 2 else (1, 0):
            time.sleep(
                0.03
            )  # torch's idle threads go on spinning for about 10 ms and would take a core from the next run
            start = time.perf_counter()
            runs[side]()
            if repeat:  # the first of each warms up
                taken[side].append(1e3 * (time.perf_counter() - start))
    ratio = statistics.median(b / a for a, b in zip(*taken, strict=True))
    return statistics.median(taken[0]), statistics.median(taken[1]), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=41)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"Pillow {PIL.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
          f"{options.threads} threads, {options.repeats} repeats")  # fmt: skip
    print("| picture | tiles | what | ours ms | published ms | ratio |\n|---|---|---|---|---|---|")
    for width, height in SIZES:
        picture, grid = photo(width, height), choose_grid(width, height)
        tiles = tile(picture, threads=options.threads)
        assert torch.equal(normalise(tiles), published(picture, grid)), "the bits differ"
        steps = {
            "uint8 array": (
                lambda picture=picture: tile(picture, threads=options.threads),
                lambda picture=picture, grid=grid: np.stack(
                    [np.asarray(one) for one in published_tiles(picture, grid)]
                ),
            ),
            "normalised tensor": (
                lambda picture=picture: normalise(tile(picture, threads=options.threads)),
                lambda picture=picture, grid=grid: published(picture, grid),
            ),
        }
        for what, (ours, theirs) in steps.items():
            mine, other, ratio = interleaved(ours, theirs, options.repeats)
            print(
                f"| {width} x {height} | {len(tiles)} | {what} | {mine:.1f} | {other:.1f} | {ratio:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()

"""Changing a picture without changing its answer, so that a name is learnt and not one drawing of it."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from internvl.nano.shapes import add_noise

WHITE = (255, 255, 255)


def photo(rng: random.Random, picture: Image.Image) -> Image.Image:
    """A part of a photograph, mirrored half of the time, in other light."""
    width, height = picture.size
    if rng.random() < 0.85:
        area = rng.uniform(0.5, 1.0) * width * height
        aspect = math.exp(rng.uniform(-0.3, 0.3)) * (1.0 if rng.random() < 0.6 else width / height)
        w, h = min(width, round(math.sqrt(area * aspect))), min(height, round(math.sqrt(area / aspect)))
        left, top = rng.randint(0, width - w), rng.randint(0, height - h)
        side = rng.choice((112, 144, 176))
        scale = side / max(w, h)
        size = (max(16, round(w * scale)), max(16, round(h * scale)))
        picture = picture.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.15:
        picture = picture.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, fillcolor=_ground(rng))
    if rng.random() < 0.5:
        picture = recolour(rng, picture, 0.2 if rng.random() < 0.8 else 0.4)
    return _spoil(rng, picture)


def trash(rng: random.Random, picture: Image.Image) -> Image.Image:
    """A thing on a white board lies as it likes: turned by any angle, mirrored either way, then as a photograph."""
    if rng.random() < 0.7:
        turn = rng.choice((90, 180, 270)) + (rng.uniform(-25, 25) if rng.random() < 0.4 else 0)
        edge = np.asarray(picture, np.uint8)[:4].reshape(-1, 3).mean(0)
        board = (int(edge[0]), int(edge[1]), int(edge[2]))
        picture = picture.rotate(turn, Image.Resampling.BILINEAR, expand=True, fillcolor=board)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return photo(rng, picture)


def scene_of_flag(rng: random.Random, picture: Image.Image, background: Image.Image) -> Image.Image:
    """A flag as somebody photographs it: waving, seen from the side, before something else, perhaps cut off."""
    width = rng.choice((80, 100, 130))
    size = (width, max(24, round(width * picture.height / picture.width)))
    cloth, mask = _wave(rng, picture.resize(size, Image.Resampling.BILINEAR), Image.new("L", size, 255))
    place = (round(size[0] * rng.uniform(1.0, 1.7)), round(size[1] * rng.uniform(1.0, 1.9)))
    page = background.resize(place, Image.Resampling.BILINEAR)
    at = (rng.randint(0, place[0] - size[0]), rng.randint(0, place[1] - size[1]))
    x, y = (rng.uniform(0, 0.12) * size[0] for _ in range(2))
    corners = (x, y, rng.uniform(0, x), size[1] - y, size[0] - x, size[1] - rng.uniform(0, y), size[0], 0)
    if rng.random() < 0.6:  # the corners of the picture that become those of the cloth: seen from the side
        cloth = cloth.transform(size, Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    page.paste(cloth, at, mask)
    if rng.random() < 0.3:  # only a part of it
        left, top = (rng.uniform(0, 0.2) * side for side in page.size)
        page = page.crop((round(left), round(top), page.width - round(left / 2), page.height - round(top / 2)))
    return _spoil(rng, recolour(rng, page, rng.choice((0.1, 0.2, 0.35))))


def icon(rng: random.Random, picture: Image.Image, *, mirror: bool, colours: float = 0.5) -> Image.Image:
    """An icon in another hand: moved, bent, outlined, flat or gray, its colours off by up to `colours`.

    Sometimes it is only moved a little: an hour is short, and what is always disguised is learnt late.
    """
    gentle = rng.random() < 0.5
    ground = WHITE if gentle or rng.random() < 0.75 else _ground(rng, (235, 200, 150))
    picture = _warp(rng, picture, turn=6 if gentle else 12 if rng.random() < 0.8 else 30)
    if mirror and rng.random() < 0.3:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    draw = 1.0 if gentle else rng.random()
    if draw < 0.15:
        picture = outline(picture, rng.uniform(1.0, 3.0))
    elif draw < 0.25:
        picture = picture.quantize(rng.randint(4, 10)).convert("RGB")
    elif draw < 0.33:
        picture = picture.filter(ImageFilter.ModeFilter(5))
    elif draw < 0.38 and colours > 0.2:
        picture = picture.convert("L").convert("RGB")
    if rng.random() < 0.75:
        picture = recolour(rng, picture, colours * (0.2 if gentle else rng.choice((0.2, 0.5, 1.0))), keep_white=True)
    if ground != WHITE:
        tint = np.asarray(ground, np.float32) / 255
        picture = Image.fromarray((np.asarray(picture, np.float32) * tint).astype(np.uint8))
    return picture if gentle else _spoil(rng, picture)


def flag(rng: random.Random, picture: Image.Image) -> Image.Image:
    """A flat flag as others draw it: another aspect, waving, shaded, rounded, with a border, on a ground."""
    natural = picture.width / picture.height
    round_one = rng.random() < 0.2
    if round_one:
        aspect = rng.choice((1.0, 1.2, 1.4))
    else:
        aspect = natural if rng.random() < 0.5 else rng.choice((1.5, 1.33, 1.6, 1.2, 1.0, 2.0))
    width = rng.choice((96, 128, 176))
    size = (width, max(24, round(width / aspect)))
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    ground = WHITE if rng.random() < 0.6 else _ground(rng)
    mask = Image.new("L", size, 255)
    if round_one:
        mask = Image.new("L", size, 0)
        side, x, y = min(size), (size[0] - min(size)) / 2, (size[1] - min(size)) / 2
        ImageDraw.Draw(mask).ellipse((x, y, x + side, y + side), 255)
    elif rng.random() < 0.4:
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), rng.uniform(0.04, 0.3) * size[1], 255)
    if rng.random() < 0.35:
        edge = rng.choice(((0, 0, 0), (60, 60, 60), (200, 200, 200), (120, 120, 120)))
        ImageDraw.Draw(picture).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=edge, width=rng.randint(1, 4))
    margin = rng.random()
    if margin < 0.55:  # on a square, as emoji are
        side = round(size[0] * rng.uniform(1.0, 1.25))
        canvas = (side, max(side, size[1]))
    elif margin < 0.75:
        canvas = (round(size[0] * rng.uniform(1, 1.4)), round(size[1] * rng.uniform(1, 1.4)))
    else:
        canvas = size
    page = Image.new("RGB", canvas, ground)
    at = ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2)
    if rng.random() < 0.45 and margin < 0.75:
        picture, mask = _wave(rng, picture, mask)
    page.paste(picture, at, mask)
    if rng.random() < 0.4:
        page = _warp(rng, page, turn=8, ground=ground)
    if rng.random() < 0.7:
        page = recolour(rng, page, 0.15)
    return _spoil(rng, page)


def recolour(rng: random.Random, picture: Image.Image, strength: float, *, keep_white: bool = False) -> Image.Image:
    """Light, contrast and a colour matrix near the identity; with `keep_white` white stays white."""
    matrix = np.eye(3, dtype=np.float32)
    matrix += np.asarray([rng.uniform(-1, 1) for _ in range(9)], np.float32).reshape(3, 3) * strength * 0.5
    if keep_white:
        matrix /= matrix.sum(1, keepdims=True).clip(0.4)
    else:
        matrix *= 1 + rng.uniform(-strength, strength)
    pixels = np.asarray(picture, np.float32)
    shift = 0.0 if keep_white else 255 * strength * rng.uniform(-0.4, 0.4)
    return Image.fromarray((pixels @ matrix.T + shift).clip(0, 255).astype(np.uint8))


def outline(picture: Image.Image, strength: float) -> Image.Image:
    """Dark lines along the edges, as in a pen drawing."""
    edges = np.asarray(picture.convert("L").filter(ImageFilter.FIND_EDGES), np.float32)
    pixels = np.asarray(picture, np.float32) - strength * edges[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _ground(rng: random.Random, shades: tuple[int, ...] = (235, 200, 128, 40)) -> tuple[int, int, int]:
    base = rng.choice(shades)
    red, green, blue = (min(255, max(0, base + rng.randint(-40, 40))) for _ in range(3))
    return red, green, blue


def _warp(
    rng: random.Random, picture: Image.Image, *, turn: float, ground: tuple[int, int, int] = WHITE
) -> Image.Image:
    """Turned, stretched, sheared and moved, in one resampling."""
    width, height = picture.size
    angle = math.radians(rng.uniform(-turn, turn))
    scale, stretch, shear = rng.uniform(0.85, 1.5), math.exp(rng.uniform(-0.2, 0.2)), rng.uniform(-0.2, 0.2)
    a, b = math.cos(angle) * scale * stretch, (math.sin(angle) + shear) * scale
    d, e = -math.sin(angle) * scale, math.cos(angle) * scale / stretch
    x, y = width / 2 + rng.uniform(-0.08, 0.08) * width, height / 2 + rng.uniform(-0.08, 0.08) * height
    return picture.transform(
        picture.size, Image.Transform.AFFINE,
        (a, b, x - a * width / 2 - b * height / 2, d, e, y - d * width / 2 - e * height / 2),
        Image.Resampling.BILINEAR, fillcolor=ground,
    )  # fmt: skip


def _wave(rng: random.Random, picture: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Cloth in the wind: columns moved up and down along a sine, lit by its slope."""
    width, height = picture.size
    x = np.arange(width)
    waves, phase, depth = rng.uniform(0.6, 2.0), rng.uniform(0, 2 * math.pi), rng.uniform(0.02, 0.09) * height
    angle = 2 * math.pi * waves * x / width + phase
    rows = np.clip(np.arange(height)[:, None] + (depth * np.sin(angle))[None].round().astype(int), 0, height - 1)
    light = 1 + rng.uniform(0.0, 0.3) * np.cos(angle)
    pixels = np.asarray(picture, np.float32)[rows, x[None]] * light[None, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask


def _spoil(rng: random.Random, picture: Image.Image) -> Image.Image:
    """Now and then: out of focus, few pixels, or noise."""
    if rng.random() < 0.15:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.5)))
    if rng.random() < 0.1:
        factor = rng.uniform(0.3, 0.6)
        picture = picture.resize((max(16, round(picture.width * factor)), max(16, round(picture.height * factor))))
    if rng.random() < 0.15:
        picture = add_noise(rng, picture, rng.uniform(3, 15))
    return picture

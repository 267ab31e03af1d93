"""Regions in text <-> pixels of the picture.

The family writes a region as `<ref>the bus</ref><box>[[100, 200, 300, 400]]</box>`: x1, y1, x2, y2 in thousandths of
the picture's width and height, integers, several boxes in one tag where the words fit several things. `<quad>` has four
corners, eight numbers. Thousandths are of the whole picture: tiles and thumbnails do not enter.

Models also answer with the tags left out (`[[100, 200, 300, 400]]`), with a JSON object for each thing
(`{"bbox_2d": [100, 200, 300, 400], "label": "bus"}`), with pairs in round brackets, or in fractions: a region all of
whose numbers are at most 1 is taken to be in fractions, since a box of one thousandth means nothing. `parse` reads all
of these and leaves out what is no region: another count of numbers, or a number outside of 0 to 1000, as in pixels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from internvl.errors import DataError

UNIT = 1000
Size = tuple[int, int]
Corners = tuple[float, float, float, float]

# Possessive (`++`, `*+`): an answer is a stranger's text, and a match that fails must fail in linear time.
_NUMBER = r"-?\d++(?:\.\d++)?+"
_FOUR = rf"\[\s*+{_NUMBER}(?:\s*+,\s*+{_NUMBER}){{3}}\s*+\]"
_REGION = re.compile(
    r"(?:<ref>(?P<ref>(?:(?!</?ref>).)*)</ref>\s*)?<(?P<tag>box|quad)>(?P<numbers>[^<]*)</(?P=tag)>"
    rf"|(?P<object>\{{[^{{}}]*\}})|(?P<bare>\[\s*+{_FOUR}(?:\s*+,\s*+{_FOUR})*\s*+\])",
    re.DOTALL,
)
_ONLY_NUMBERS = re.compile(rf"(?:[\s\[\](),]|{_NUMBER})*")
_TAGS = re.compile(r"</?(?:ref|box|quad)>")
_BOX_KEYS, _LABEL_KEYS = ("bbox_2d", "bbox", "box"), ("label", "name", "category")


@dataclass(frozen=True)
class Box:
    """A region of a picture in its pixels: (left, top, right, bottom), and the corners where they were given."""

    label: str | None
    xyxy: Corners
    corners: tuple[tuple[float, float], ...] = ()


def parse(text: str, size: Size) -> list[Box]:
    """Every region an answer names, in order, in pixels of the picture of that (width, height).

    Corners given in the wrong order are put right.

    >>> parse("<ref>bus</ref><box>[[100, 200, 300, 400]]</box>", size=(2000, 1000))
    [Box(label='bus', xyxy=(200.0, 200.0, 600.0, 400.0), corners=())]
    """
    return [
        _in_pixels(region, size)
        for region in _regions(text)
        if len(region.numbers) == region.points * 2 and all(0 <= number <= UNIT for number in region.numbers)
    ]


def check(text: str) -> None:
    """Refuse a text to train on whose regions are not written exactly as the family writes them, with `DataError`.

    >>> check("<ref>bus</ref><box>[[100, 200, 300, 1400]]</box>")
    Traceback (most recent call last):
    ...
    internvl.errors.DataError: the region [100, 200, 300, 1400] is not in integers from 0 to 1000
    """
    open_tag: str | None = None
    for tag in _TAGS.findall(text):
        if tag.startswith("</") != (open_tag is not None) or (open_tag and tag[2:] != open_tag[1:]):
            raise DataError(
                f"{tag} follows {open_tag or 'no open tag'}; expected each tag to be closed before the next"
            )
        open_tag = None if open_tag else tag
    if open_tag:
        raise DataError(f"{open_tag} is never closed")
    for region in _regions(text):
        _check_region(region)


def format_box(label: str | None, boxes: Sequence[Corners], size: Size) -> str:
    """Boxes in pixels, (left, top, right, bottom), as the family writes them.

    >>> format_box("bus", [(200, 200, 600, 400)], size=(2000, 1000))
    '<ref>bus</ref><box>[[100, 200, 300, 400]]</box>'
    """
    for left, top, right, bottom in boxes:
        if not (0 <= left <= right <= size[0] and 0 <= top <= bottom <= size[1]):
            raise DataError(
                f"the box ({left}, {top}, {right}, {bottom}) is not inside a picture of {size[0]}x{size[1]}; "
                "expected left <= right and top <= bottom in pixels"
            )
    return _written(label, "box", [[(left, top), (right, bottom)] for left, top, right, bottom in boxes], size)


def format_quad(label: str | None, quads: Sequence[Sequence[tuple[float, float]]], size: Size) -> str:
    """Regions of four corners in pixels as the family writes them.

    >>> format_quad("sign", [[(0, 0), (50, 10), (50, 60), (0, 50)]], size=(100, 100))
    '<ref>sign</ref><quad>[[0, 0, 500, 100, 500, 600, 0, 500]]</quad>'
    """
    for quad in quads:
        if len(quad) != 4 or not all(0 <= x <= size[0] and 0 <= y <= size[1] for x, y in quad):
            raise DataError(f"the quad {list(quad)} does not have four corners inside a picture of {size[0]}x{size[1]}")
    return _written(label, "quad", quads, size)


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Region:
    label: str | None
    numbers: tuple[float, ...]
    written: str
    points: int = 2


def _regions(text: str) -> Iterator[_Region]:
    """Everything that looks like a region, right or wrong."""
    label, end = None, -1
    for match in _REGION.finditer(text):
        if match["object"]:
            yield from _from_json(match["object"])
            continue
        # Several tags in a row belong to the same words.
        label = match["ref"] if match["ref"] is not None else label if match.start() == end else None
        end = match.end()
        points = 4 if match["tag"] == "quad" else 2
        yield from _groups(label, match["numbers"] or match["bare"] or "", points)


def _groups(label: str | None, written: str, points: int) -> Iterator[_Region]:
    """Numbers in brackets, cut into regions; anything else is one region that fits no count."""
    if not _ONLY_NUMBERS.fullmatch(written):
        yield _Region(label, (), written.strip(), points)
        return
    numbers = re.findall(_NUMBER, written)
    for start in range(0, max(len(numbers), 1), points * 2):
        group = numbers[start : start + points * 2]
        yield _Region(label, tuple(map(float, group)), f"[{', '.join(group)}]", points)


def _from_json(written: str) -> Iterator[_Region]:
    try:
        thing = json.loads(written)
    except (ValueError, RecursionError):
        return
    boxes = next((thing[key] for key in _BOX_KEYS if key in thing), None)
    label = next((thing[key] for key in _LABEL_KEYS if isinstance(thing.get(key), str)), None)
    if boxes is not None:
        yield from _groups(label, json.dumps(boxes), 2)


def _in_pixels(region: _Region, size: Size) -> Box:
    unit = 1 if max(region.numbers) <= 1 else UNIT
    xs, ys = ([value * side / unit for value in region.numbers[axis::2]] for axis, side in enumerate(size))
    corners = tuple(zip(xs, ys, strict=True)) if region.points == 4 else ()
    return Box(region.label, (min(xs), min(ys), max(xs), max(ys)), corners)


# ---- writing and checking --------------------------------------------------------------------------------------------


def _written(label: str | None, tag: str, regions: Sequence[Sequence[tuple[float, float]]], size: Size) -> str:
    if not regions:
        raise DataError(f"no {tag} for {label!r}; expected at least one")
    if label is not None and _TAGS.search(label):
        raise DataError(f"the label {label!r} spells a tag of its own; remove it")
    thousandths = [
        [round(value / side * UNIT) for corner in region for value, side in zip(corner, size, strict=True)]
        for region in regions
    ]
    return ("" if label is None else f"<ref>{label}</ref>") + f"<{tag}>{thousandths}</{tag}>"


def _check_region(region: _Region) -> None:
    numbers = region.numbers
    if len(numbers) != region.points * 2:
        raise DataError(f"the region {region.written} is not made of {region.points * 2} numbers")
    if max(numbers) <= 1:
        raise DataError(f"the region {region.written} is in fractions; expected integers from 0 to {UNIT}")
    if not all(0 <= number <= UNIT and number == int(number) for number in numbers):
        raise DataError(f"the region {region.written} is not in integers from 0 to {UNIT}")
    if region.points == 2 and not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        raise DataError(f"the region {region.written} is empty or turned around; expected x1 < x2 and y1 < y2")

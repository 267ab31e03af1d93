"""Grounding: reading a box out of an answer, and how much two boxes overlap.

A box is (left, top, right, bottom) in pixels. The family answers in thousandths of the picture's width and height,
`<box>[[100, 200, 300, 400]]</box>`, and sometimes in fractions.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal

Compat = Literal["original"] | None
Box = tuple[float, float, float, float]
NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)

# Possessive (`++`, `*+`): an answer is a stranger's text, and a match that fails must fail in linear time.
_NUMBER = r"\s*+([-+]?+(?:\d++(?:\.\d*+)?+|\.\d++))\s*+"
_FOUR = re.compile(rf"\[{','.join([_NUMBER] * 4)}\]")
# Brackets around anything with three commas, on one line; where the first bracket of a line has none, no other has.
_ANYTHING = re.compile(r"^[^\[\n]*+(\[++([^,\n]*+),([^,\n]*+),([^,\n]*+),([^\]\n]*+)\]++)", re.MULTILINE)


def parse_box(text: str, size: tuple[float, float], *, compat: Compat = None) -> Box | None:
    """The first box of an answer, in pixels of a picture of that (width, height); None where there is none.

    Four numbers in square brackets: fractions if none is above 1, thousandths otherwise. Corners in the wrong order are
    put right.

    compat="original" is how the first code base scores RefCOCO: whatever stands between the first brackets with three
    commas is the box, and what cannot be read is (0, 0, 0, 0); numbers are thousandths where they add up to 4 or more.

    >>> parse_box("<box>[[100, 200, 300, 400]]</box>", (2000, 1000)), parse_box("[0.1, 0.2, 0.3, 0.4]", (100, 100))
    ((200.0, 200.0, 600.0, 400.0), (10.0, 20.0, 30.0, 40.0))
    """
    width, height = size
    if compat == "original":
        x1, y1, x2, y2 = _as_first_published(text)
        unit = 1000 if x1 + y1 + x2 + y2 >= 4 else 1
        return x1 / unit * width, y1 / unit * height, x2 / unit * width, y2 / unit * height
    found = _FOUR.search(text)
    if found is None:
        return None
    x1, y1, x2, y2 = (float(number) for number in found.groups())
    unit = 1 if max(x1, y1, x2, y2) <= 1 else 1000
    xs, ys = sorted((x1 / unit * width, x2 / unit * width)), sorted((y1 / unit * height, y2 / unit * height))
    return xs[0], ys[0], xs[1], ys[1]


def _as_first_published(text: str) -> Box:
    found = _ANYTHING.search(text)
    try:
        return tuple(float(number) for number in found.groups()[1:]) if found else NOWHERE  # type: ignore[return-value]
    except ValueError:
        return NOWHERE


def parse_listed_box(text: str, size: tuple[float, float]) -> Box | None:
    """The first box of an answer as the first code base scores DIOR-RSVG: a JSON list of lists of four thousandths.

    It is cut off at the picture's edges. One pair of brackets is not enough; fractions are taken for thousandths.

    >>> parse_listed_box("[[100, 200, 1100, 400]]", (800, 800)), parse_listed_box("[100, 200, 300, 400]", (800, 800))
    ((80.0, 160.0, 800, 320.0), None)
    """
    found = _ANYTHING.search(text)
    try:
        listed: Any = json.loads(found[1]) if found else None
        x1, y1, x2, y2 = (value / 1000 for value in listed[0])
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return None
    return clip((x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]), size)


def clip(box: Box, size: tuple[float, float]) -> Box:
    """The part of a box that lies in a picture of that (width, height)."""
    width, height = size
    x1, y1, x2, y2 = box
    return min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)


def iou(a: Box, b: Box, *, inclusive: bool = False) -> float:
    """Intersection over union of two boxes, 0 where both are empty.

    inclusive: the corners are pixels that belong to the box, so that it is right - left + 1 wide: the convention of
    PASCAL VOC, which remote sensing keeps.

    >>> iou((0, 0, 2, 2), (1, 0, 3, 2)), iou((0, 0, 9, 9), (0, 0, 9, 4), inclusive=True)
    (0.3333333333333333, 0.5)
    """
    extra = 1 if inclusive else 0
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + extra)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + extra)
    areas = sum((box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b))
    union = areas - width * height
    if not math.isfinite(union) or union <= 0:
        return 0.0
    return width * height / union


# ---- six cameras on one canvas ---------------------------------------------------------------------------------------

CAMERAS = {
    "CAM_FRONT_LEFT": (0, 0),
    "CAM_FRONT": (1, 0),
    "CAM_FRONT_RIGHT": (2, 0),
    "CAM_BACK_LEFT": (0, 1),
    "CAM_BACK": (1, 1),
    "CAM_BACK_RIGHT": (2, 1),
}
"""Column and row of each camera of DriveLM on a canvas of 3 x 2 equal cells."""
FRAME = (1600, 900)
"""Width and height of what one camera saw."""
CELL = (896, 448)
"""What is left of it on the canvas."""

_COORDINATE = r"\s*+(-?(?:\d++(?:\.\d++)?+|\.\d++))\s*+"
_SEEN = re.compile(rf"<(c[^,<>]*+),(\s*+)([^,<>]*+),\s*+\[{_COORDINATE},{_COORDINATE}\]\s*+>")


def camera_coordinates(text: str, *, compat: Compat = None) -> str:
    """An answer about six stitched cameras with its points moved into the camera that they name.

    `<c1,CAM_BACK,[x,y]>`, in thousandths of the canvas, becomes `<c1,CAM_BACK,x,y>` in pixels of that camera, to one
    decimal and cut off at its edges, as the DriveLM challenge (arXiv:2312.14150) wants them. Other text stays.

    compat="original": a point whose camera has a space before it stays as it is.

    >>> camera_coordinates("See <c1, CAM_BACK, [500, 750]>.")
    'See <c1,CAM_BACK,800.0,450.0>.'
    """

    def moved(seen: re.Match[str]) -> str:
        tag, space, camera, x, y = seen.groups()
        camera = camera.rstrip()
        if camera not in CAMERAS or (space and compat == "original"):
            return seen.group()
        corner = zip((x, y), CAMERAS[camera], (3, 2), CELL, FRAME, strict=True)
        across, down = (
            round(max(0, min(frame, (float(place) / 1000 * (count * cell) - at * cell) / cell * frame)), 1)
            for place, at, count, cell, frame in corner
        )
        return f"<{tag},{camera},{across},{down}>"

    return _SEEN.sub(moved, text.strip())

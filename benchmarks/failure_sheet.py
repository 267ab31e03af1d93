"""Wrong answers to look at: one picture of many, each with its question, what was said and what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, TEXT, ACROSS, BYTES = 240, 150, 74, 5, 200_000


@dataclass(frozen=True)
class Failure:
    """A wrong answer, to be shown."""

    picture: Image.Image
    question: str
    answer: str
    expected: str


def readable(found: Sequence[Failure]) -> list[Failure]:
    """Those that the font inside Pillow can write."""
    return [one for one in found if (one.question + one.answer + one.expected).isascii()]


def contact_sheet(found: Sequence[Failure], path: Path) -> None:
    """Pictures with question, answer and what was expected, in at most 200 KB."""
    down = max(1, -(-len(found) // ACROSS))
    sheet = Image.new("RGB", (ACROSS * WIDTH, down * (HEIGHT + TEXT)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for place, one in enumerate(found):
        x, y = place % ACROSS * WIDTH, place // ACROSS * (HEIGHT + TEXT)
        picture = one.picture.convert("RGB")
        picture.thumbnail((WIDTH - 10, HEIGHT - 10))
        sheet.paste(picture, (x + (WIDTH - picture.width) // 2, y + (HEIGHT - picture.height) // 2))
        lines = [*rows_that_fit(one.question, 2, pen, font), *rows_that_fit(f"said: {one.answer}", 1, pen, font),
                 *rows_that_fit(f"right: {one.expected}", 1, pen, font)]  # fmt: skip
        for line, said in enumerate(lines):
            pen.text((x + 5, y + HEIGHT + 2 + 16 * line), said, ("black", "black", "#b00020", "#006400")[line], font)
    for quality in range(80, 0, -10):
        sheet.save(path, "WEBP", quality=quality, method=6)
        if path.stat().st_size <= BYTES:
            return


def rows_that_fit(text: str, count: int, pen: ImageDraw.ImageDraw, font: Any) -> list[str]:
    """A text on exactly so many rows; what is too much is left out."""
    rows, words = [""] * count, text.replace("<image>", "").split()
    for place in range(count):
        while words and pen.textlength(f"{rows[place]} {words[0]}", font) <= WIDTH - 10:
            rows[place] = f"{rows[place]} {words.pop(0)}".strip()
    if words:
        rows[-1] = f"{rows[-1]} {words[0]}".strip()
        while pen.textlength(f"{rows[-1]}...", font) > WIDTH - 10:
            rows[-1] = rows[-1][:-1]
        rows[-1] += "..."
    return rows


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """All pictures of a question as one."""
    whole = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white")
    across = 0
    for picture in pictures:
        whole.paste(picture.convert("RGB"), (across, 0))
        across += picture.width
    return whole

"""Subtitles of a video at the frames that are shown: SubRip files (`.srt`), and which lines are heard when."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

from internvl.evaluation.benchmark import File, Footage
from internvl.evaluation.folder import Folder

FRAMES = 16
"""For how many frames lines are taken; a prompt is fixed before anyone chooses frames."""
TIME = r"(\d{1,4}):(\d\d):(\d\d)[,.](\d{1,3})"
SPAN = re.compile(rf"^[ \t]*+{TIME}\s*+-->\s*+{TIME}[^\n]*+\n", re.MULTILINE)
TAG = re.compile(r"<[^<>\n]*>|\{\\[^{}\n]*\}")

Line = tuple[float, float, str]
"""(from, to, what is said), in seconds."""


def subrip(text: str) -> list[Line]:
    """The lines of a SubRip file in their order.

    >>> subrip("1\\n00:00:01,500 --> 00:00:03,000\\nHello\\n<i>there</i>\\n\\n")
    [(1.5, 3.0, 'Hello there')]
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    spans = list(SPAN.finditer(text))
    found: list[Line] = []
    for span, after in zip_longest(spans, spans[1:]):
        said = text[span.end() : after.start() if after else None]
        if after:
            before, _, last = said.rstrip().rpartition("\n")
            said = before if last.strip().isdecimal() else said  # the number of the next entry
        hours = [int(part) for part in span.groups()]
        start, stop = (h * 3600 + m * 60 + s + ms / 1000 for h, m, s, ms in (hours[:4], hours[4:]))
        found.append((start, stop, " ".join(TAG.sub("", said).split())))
    return found


def heard(lines: list[Line], times: list[float]) -> str:
    """What is said at these times, a line each; times at which nothing is said are passed over.

    >>> heard([(0.0, 2.0, "Hello"), (2.0, 4.0, "there")], [1.0, 3.0, 9.0])
    'Hello\\nthere'
    """
    said = (next((text for start, stop, text in lines if start < time < stop), "") for time in times)
    return "\n".join(text for text in said if text)


def seen_lines(folder: Folder, name: str, footage: Footage) -> str:
    """The lines heard at FRAMES frames of a video; empty where it has no file of subtitles."""
    if not folder.has(File(name)):
        return ""
    from internvl.data.video import frame_indices  # PyAV is loaded only where a video is opened

    lines = subrip(folder.path(name).read_text(encoding="utf-8", errors="replace"))
    length, fps = measured(footage.path)
    return heard(lines, [index / fps for index in frame_indices(length, fps, FRAMES)])


@lru_cache(maxsize=8)  # three questions about a video follow each other
def measured(path: Path) -> tuple[int, float]:
    """(frames, frames a second) of a video; only its first frame is decoded."""
    from internvl.data.media import open_clip

    clip = open_clip(path, lambda frames, fps: (0,))
    return clip.length, clip.fps

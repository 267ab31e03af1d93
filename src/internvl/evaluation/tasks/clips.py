"""What benchmarks about videos share: how VLMEvalKit asks, and how options are listed."""

from __future__ import annotations

from collections.abc import Mapping

from internvl.evaluation.benchmark import Settings
from internvl.evaluation.rows import Row

KIT = Settings(max_new_tokens=1024, max_tiles=1, frames=16, frame_line="Frame-{}: <image>\n")
"""How VLMEvalKit's InternVL wrapper asks about a video."""


def place_of(row: Row, truth: str, options: Mapping[str, str]) -> str:
    """The letter of the option whose text is the truth."""
    for key, text in options.items():
        if text == truth:
            return key
    raise row.wrong("answer", "one of the candidates")


def bracketed(question: str, options: Mapping[str, str]) -> str:
    listed = "\n".join(f"({key}) {text}" for key, text in options.items())
    return f"Question: {question}\nOptions:\n{listed}".rstrip()

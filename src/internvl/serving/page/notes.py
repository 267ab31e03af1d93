"""What people think of answers, one line of JSON each, in a file of whoever runs the page."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Literal

from internvl.serving.page.talk import Turn

Vote = Literal["up", "down", "flag"]
VOTES: tuple[Vote, ...] = ("up", "down", "flag")
LONGEST_REASON = 2000
LARGEST = 64 * 2**20
"""Bytes after which nothing more is written: a stranger shall not fill the disk."""


def note_of(turn: Turn, vote: Vote, reason: str, *, now: float | None = None) -> dict[str, Any]:
    """What is written down: the question, the answer and what was thought of it; of pictures only what they were."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "vote": vote,
        "reason": reason[:LONGEST_REASON],
        "model": turn.model,
        "question": turn.text,
        "answer": turn.answer,
        "pictures": [{"kind": one.kind, "size": list(one.size)} for one in turn.shown],
    }


def write(file: Path, note: dict[str, Any]) -> bool:
    """Add a line to the file, which only its owner may read; False where it is full.

    >>> write(Path("votes.jsonl"), {"vote": "up"})  # doctest: +SKIP
    True
    """
    line = json.dumps(note, ensure_ascii=False) + "\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(file, flags, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as out:
        if os.fstat(descriptor).st_size + len(line) > LARGEST:
            return False
        out.write(line)
    return True

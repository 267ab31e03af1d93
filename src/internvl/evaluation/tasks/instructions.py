"""Instructions that several benchmarks put after their question; a published score belongs to these very letters."""

from __future__ import annotations

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LETTER_ZH = "请直接回答选项字母。"
COT = (
    "Your task is to answer the question below. Give step by step reasoning before you answer, and when you're ready "
    'to answer, please use the format "Final answer: .."\n\nQuestion:\n\n{question}'
)


def numbered(count: int, *, alone: str = "") -> str:
    """The places of several pictures, as the family introduces them; `alone` for a single one, which needs no number.

    >>> numbered(2), numbered(1)
    ('Image-1: <image>\\nImage-2: <image>\\n', '')
    """
    return alone if count == 1 else "".join(f"Image-{at}: <image>\n" for at in range(1, count + 1))

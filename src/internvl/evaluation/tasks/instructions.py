"""Instructions that several benchmarks put after their question; a published score belongs to these very letters."""

from __future__ import annotations

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LETTER_ZH = "请直接回答选项字母。"
COT = (
    "Your task is to answer the question below. Give step by step reasoning before you answer, and when you're ready "
    'to answer, please use the format "Final answer: .."\n\nQuestion:\n\n{question}'
)

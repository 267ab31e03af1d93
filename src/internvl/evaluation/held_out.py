"""Answers to held-out records, while a model trains or after: how many are the very words that were expected.

answers = Answers(records, folder)
answers(model, encoder, step=200)      # {"exact": 0.41, "anls": 0.55}, and folder/step-000200.jsonl to look at
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from internvl.data.encode import Encoder
from internvl.data.prompts import Message, Text
from internvl.errors import DataError
from internvl.inference.chat import Chat
from internvl.inference.sampling import SamplingConfig
from internvl.metrics.documents import anls
from internvl.metrics.vqa import normalise


@dataclass(frozen=True)
class Question:
    """What is asked and the answer that is expected: a conversation up to its last answer, and that."""

    id: str
    messages: tuple[Message, ...]
    expected: str


def question(id: str, messages: Sequence[Message]) -> Question:
    """A conversation as a question: it must end with an answer of the assistant.

    >>> question("a", [Message("user", ("2 + 2?",)), Message("assistant", ("4",))]).expected
    '4'
    """
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise DataError(f"{id}: a held-out conversation ends with an answer; this one has none to compare with")
    spoken = (
        part if isinstance(part, str) else part.text for part in messages[-1].parts if isinstance(part, str | Text)
    )
    return Question(id, tuple(messages[:-1]), "".join(spoken))


@dataclass(frozen=True)
class Answers:
    """Asks the same questions again and again; `folder` gets what was answered, one file a time."""

    questions: Sequence[Question]
    folder: Path | None = None
    max_new_tokens: int = 64
    batch_size: int = 8

    def __call__(self, model: Any, encoder: Encoder, step: int) -> dict[str, float]:
        """Of a chat model: share of exact answers (normalised as VQA does) and mean ANLS, 0 to 1; greedy."""
        chat = Chat(model, encoder, sampling=SamplingConfig(max_new_tokens=self.max_new_tokens))
        given = chat.batch([list(one.messages) for one in self.questions], batch_size=self.batch_size)
        right = [exact(answer.text, one.expected) for one, answer in zip(self.questions, given, strict=True)]
        rows = [
            {"id": one.id, "expected": one.expected, "answer": answer.text, "exact": mark}
            for one, answer, mark in zip(self.questions, given, right, strict=True)
        ]
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"step-{step:06}.jsonl"
            new = path.with_suffix(".tmp")
            new.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            os.replace(new, path)
        return {
            "exact": fmean(right),
            "anls": fmean(anls(a.text, [one.expected]) for one, a in zip(self.questions, given, strict=True)),
        }


def exact(answer: str, expected: str) -> float:
    """1.0 where both say the same words, whatever the case, articles and marks.

    >>> exact("The Cat.", "cat")
    1.0
    """
    return float(normalise(answer) == normalise(expected))

"""What a server said, whole or chunk by chunk: the client that reads it for us does not check what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from internvl.errors import EndpointError


class NoAnswer(Exception):
    """What came is no answer of a chat."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a server answered."""

    text: str
    finish: str | None
    tokens: int | None
    """Of the answer, where the server counts them."""
    prompt: int | None = None
    """Tokens of the prompt, likewise."""


def read(done: Any) -> Said:
    """A whole answer; `NoAnswer` if it is none."""
    choices = getattr(done, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise NoAnswer("the answer holds no choices")
    text = getattr(getattr(choices[0], "message", None), "content", 0)  # pyright: ignore[reportUnknownArgumentType]
    if not isinstance(text, str | None):
        raise NoAnswer("the answer holds no text")
    usage = getattr(done, "usage", None)
    finish: Any = getattr(choices[0], "finish_reason", None)  # pyright: ignore[reportUnknownArgumentType]
    return Said(
        text=text or "",
        finish=finish if isinstance(finish, str) else None,
        tokens=_count(usage, "completion_tokens"),
        prompt=_count(usage, "prompt_tokens"),
    )


class Growing:
    """An answer as its chunks come."""

    def __init__(self) -> None:
        self._text = ""
        self._finish: str | None = None
        self._usage: Any = None

    def hear(self, chunk: Any) -> str:
        """The text of a chunk; what else it says is kept. `NoAnswer` if it is none."""
        self._usage = getattr(chunk, "usage", None) or self._usage
        choices = getattr(chunk, "choices", 0)
        if not isinstance(choices, list):
            raise NoAnswer("a chunk holds no choices")
        if not choices:  # the usage comes by itself
            return ""
        finish: Any = getattr(choices[0], "finish_reason", None)  # pyright: ignore[reportUnknownArgumentType]
        piece = getattr(getattr(choices[0], "delta", None), "content", 0)  # pyright: ignore[reportUnknownArgumentType]
        if not isinstance(piece, str | None):
            raise NoAnswer("a chunk holds no text")
        self._finish = finish if isinstance(finish, str) else self._finish
        self._text += piece or ""
        return piece or ""

    def said(self, server: str) -> Said:
        """The whole answer; `EndpointError` where the server did not say how it ends."""
        if self._finish is None:
            raise EndpointError(f"{server}: the answer broke off before its end; ask again")
        tokens, prompt = _count(self._usage, "completion_tokens"), _count(self._usage, "prompt_tokens")
        return Said(text=self._text, finish=self._finish, tokens=tokens, prompt=prompt)


def _count(usage: Any, name: str) -> int | None:
    found = getattr(usage, name, None)
    return found if isinstance(found, int) else None

"""A conversation on the page, and what of it goes over the wire.

    Upload (Shown, Shown, ...)  --\\
    text                        ---+--> Turn --messages_of--> messages --request_of--> body of /v1/chat/completions
    Wishes (how to answer)      --/

The server keeps nothing: all that was said and shown goes with every question. Pages of documents and frames of videos
are sent as the pictures that the page shows, so what a person sees is what the model is shown.
"""

from __future__ import annotations

import asyncio
import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from internvl.errors import MediaRefused
from internvl.inference.remote import TAKEN
from internvl.serving.page.words import Language

Kind = Literal["picture", "page", "frame"]
State = Literal["reading", "waiting", "growing", "done", "stopped", "failed"]
Json = dict[str, Any]

KINDS = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
"""What is sent: whatever else comes in is made a PNG."""


@dataclass(frozen=True)
class Shown:
    """One picture that the model is shown. Its file is the page's own copy."""

    kind: Kind
    file: Path
    size: tuple[int, int]
    """Width and height, upright."""
    number: int = 1
    """Of a page: which."""
    seconds: float = 0.0
    """Of a frame: when."""


@dataclass(frozen=True)
class Upload:
    """What a person sent: a picture, or a document or video as the pictures that it became."""

    name: str
    shown: tuple[Shown, ...]

    @property
    def is_video(self) -> bool:
        return any(one.kind == "frame" for one in self.shown)


@dataclass(frozen=True, kw_only=True)
class Took:
    """What an answer took. Counts are None where the server does not say them."""

    first: float | None = None
    """Seconds until its first word."""
    seconds: float = 0.0
    """Until its last."""
    prompt: int | None = None
    image: int | None = None
    cached: int | None = None
    answer: int | None = None


@dataclass
class Turn:
    """A question and its answer."""

    number: int
    """Never used again in a conversation."""
    text: str
    uploads: tuple[Upload, ...] = ()
    sent: tuple[str, ...] = ()
    """Names of files that are not open yet, or could not be opened."""
    answer: str = ""
    state: State = "waiting"
    model: str = ""
    finish: str | None = None
    took: Took | None = None
    failure: tuple[str, dict[str, Any]] | None = None
    """A word of `words` and what fills it."""
    vote: str = ""
    tiles: tuple[int, ...] | None = None
    """Of each picture, once somebody asked."""
    drawn: tuple[tuple[object, ...], tuple[str, str]] | None = field(
        default=None, init=False, repr=False, compare=False
    )
    """What `view` made it from when it was seen last, and its HTML."""

    @property
    def shown(self) -> tuple[Shown, ...]:
        """All pictures of the question, in order."""
        return tuple(one for upload in self.uploads for one in upload.shown)

    @property
    def is_running(self) -> bool:
        return self.state in ("reading", "waiting", "growing")


@dataclass
class Talk:
    """What one browser tab holds."""

    language: Language = "en"
    turns: list[Turn] = field(default_factory=list["Turn"])
    count: int = 0
    """Turns that there ever were."""
    model: str = ""
    """That was chosen last."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by whoever wants the answer to end here."""

    def begin(self, text: str) -> Turn:
        self.count += 1
        turn = Turn(self.count, text, state="reading")
        self.turns.append(turn)
        self.stopping.clear()
        return turn

    def find(self, number: object) -> Turn | None:
        return next((turn for turn in self.turns if turn.number == number), None)

    @property
    def is_busy(self) -> bool:
        return any(turn.is_running for turn in self.turns)


# ---- how to answer ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The settings of the page. What is None or empty is left to the server."""

    model: str
    owner: str | None = None
    """Whose the model is, as the server says: `internvl` and `vllm` take more than OpenAI's fields."""
    system: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_tokens: int = 512
    seed: int | None = None
    max_tiles: int = 0
    num_frames: int = 8

    @property
    def extras(self) -> frozenset[str]:
        """Fields that are not OpenAI's, and that the server takes."""
        return TAKEN.get(self.owner, frozenset())

    @property
    def wanted(self) -> Json:
        """Such fields as the settings ask for."""
        drawn = self.temperature > 0
        return {
            **({"top_k": self.top_k} if drawn and self.top_k > 0 else {}),
            **({"repetition_penalty": self.repetition_penalty} if self.repetition_penalty != 1 else {}),
            **({"max_tiles": self.max_tiles} if self.max_tiles else {}),
        }

    @property
    def left_out(self) -> list[str]:
        """Those of them that are not sent."""
        return sorted(self.wanted.keys() - self.extras)


def whole(value: object) -> int | None:
    """A whole number out of a field that may be empty."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value)


def seed_of(text: object) -> int | None:
    """What was typed as a seed; None where it is no whole number that servers take.

    >>> seed_of(" 7 "), seed_of(""), seed_of("x")
    (7, None, None)
    """
    typed = str(text or "").strip()
    return int(typed) if re.fullmatch(r"-?[0-9]{1,18}", typed) else None


def request_of(wishes: Wishes, messages: Sequence[Json]) -> Json:
    """The body of a request. Fields that change nothing are left out, so that any server takes it.

    >>> sorted(request_of(Wishes(model="nano"), []))
    ['max_tokens', 'messages', 'model', 'stream', 'stream_options', 'temperature']
    """
    body: Json = {
        "model": wishes.model,
        "messages": list(messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": wishes.temperature,
        "max_tokens": wishes.max_tokens,
    }
    if wishes.temperature > 0:
        body |= {"top_p": wishes.top_p} if wishes.top_p < 1 else {}
        body |= {"seed": wishes.seed} if wishes.seed is not None else {}
    return body | {name: value for name, value in wishes.wanted.items() if name in wishes.extras}


# ---- messages --------------------------------------------------------------------------------------------------------


def messages_of(turns: Sequence[Turn], system: str = "") -> list[Json]:
    """The conversation so far, ending with the last turn's question. Turns that failed are not part of it.

    >>> messages_of([Turn(1, "Hi", answer="Hello", state="done"), Turn(2, "And?")], "Be brief.")[-1]
    {'role': 'user', 'content': 'And?'}
    """
    messages: list[Json] = [{"role": "system", "content": system}] if system.strip() else []
    for turn in turns[:-1]:
        if turn.state in ("done", "stopped") and turn.answer:
            messages.append({"role": "user", "content": content_of(turn)})
            messages.append({"role": "assistant", "content": turn.answer})
    return [*messages, {"role": "user", "content": content_of(turns[-1])}]


def content_of(turn: Turn) -> str | list[Json]:
    """A question with its pictures, in the form of `internvl.inference.contents`.

    Pictures before all text are introduced by the server. Where there are frames, each stands after its `Frame-1: `,
    and so do the other pictures after theirs.
    """
    stills = [one for one in turn.shown if one.kind != "frame"]
    frames = [one for one in turn.shown if one.kind == "frame"]
    if not turn.shown:
        return turn.text
    if not frames:
        return [*map(_picture, stills), *([{"type": "text", "text": turn.text}] if turn.text else [])]
    parts: list[Json] = []
    lead = ""
    for place, one in enumerate(stills, start=1):
        parts += _introduced(lead + (f"Image-{place}: " if len(stills) > 1 else ""), one)
        lead = "\n"
    for place, one in enumerate(frames, start=1):
        parts += _introduced(f"{lead}Frame-{place}: ", one)
        lead = "\n"
    return [*parts, {"type": "text", "text": f"\n{turn.text}"}]


def _introduced(text: str, one: Shown) -> list[Json]:
    return [*([{"type": "text", "text": text}] if text else []), _picture(one)]


def _picture(one: Shown) -> Json:
    return {"type": "image_url", "image_url": {"url": address_of(one.file)} | _detail(one)}


def _detail(one: Shown) -> Json:
    """A frame is one tile, as the family sees videos."""
    return {"detail": "low"} if one.kind == "frame" else {}


def address_of(file: Path) -> str:
    """A picture's file as a data: address."""
    try:
        return f"data:{KINDS[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
    except OSError:
        raise MediaRefused("a file of this conversation is gone; add it again") from None

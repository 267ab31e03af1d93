"""What a request is once it is checked, in the package's own words: messages with references to media, how to draw.

Order --.unopened--> Unopened.message(what its references are) --> internvl.data.prompts.Message
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from internvl.data.prompts import IMAGE, VIDEO, Image, Message, Part, Role, Text, Video
from internvl.inference.constraint import Constraint
from internvl.serving.tools import ToolUse

Medium = Literal["image", "video", "pdf"]


@dataclass(frozen=True)
class Reference:
    """A picture, video or document that is to be opened. Equal references show the same."""

    kind: Medium
    address: str = field(repr=False)
    max_tiles: int | None = None
    """None: its share of the message's budget."""
    frames: int | None = None
    """Of a video; None: as many as the server takes."""
    place: str = field(default="messages", compare=False)
    """The field of the request that it first came in."""


Opened = Image | Video | Sequence[Image]
"""What a reference is once it is open: a document is its pages."""


@dataclass(frozen=True)
class Unopened:
    """A message whose media are not open yet."""

    role: Role
    parts: tuple[Text | Reference, ...]

    @property
    def references(self) -> tuple[Reference, ...]:
        return tuple(part for part in self.parts if isinstance(part, Reference))

    def message(self, opened: Mapping[Reference, Opened] | None = None) -> Message:
        """The message, with what its references are.

        >>> Unopened("user", (Text("Hi <image>"),)).message().parts
        (Text(text='Hi <image>'),)
        """
        media = [_shown((opened or {})[part]) for part in self.references]
        shown = tuple(one for several in media for one in several)
        texts = [place for place, part in enumerate(self.parts) if isinstance(part, Text)]
        if not texts or texts[0] >= len(media):  # all media come first: the family's own opening
            return Message(self.role, (*shown, *(part for part in self.parts if isinstance(part, Text))))
        waiting = iter(media)
        places: list[Part] = []
        for part in self.parts:
            if isinstance(part, Text):
                places.append(part)
            else:
                places.append("\n".join(VIDEO if isinstance(one, Video) else IMAGE for one in next(waiting)))
        return Message(self.role, (*shown, *places))


def _shown(opened: Opened) -> tuple[Image | Video, ...]:
    return (opened,) if isinstance(opened, Image | Video) else tuple(opened)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is drawn: the fields of `internvl.inference.sampling.SamplingConfig`, under their names."""

    max_new_tokens: int | None = None
    """None: as many as fit."""
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0

    def arguments(self, room: int) -> dict[str, Any]:
        """What SamplingConfig takes, for an answer of at most `room` tokens.

        >>> Sampling(min_new_tokens=9).arguments(room=5)["min_new_tokens"]
        5
        """
        most = min(room, self.max_new_tokens or room)
        return vars(replace(self, max_new_tokens=most, min_new_tokens=min(self.min_new_tokens, most))).copy()


@dataclass(frozen=True, kw_only=True)
class Order:
    """A request in the package's own words."""

    model: str
    unopened: tuple[Unopened, ...] = ()
    prompts: tuple[str, ...] = ()
    """Of /v1/completions: texts to continue, each a job of its own; there are no unopened then."""
    sampling: Sampling = Sampling()
    n: int = 1
    constraint: Constraint | None = None
    constraint_at: tuple[str, ...] = field(default=(), compare=False)
    """The field that asks for it; of tools one each, as they stand in its schema."""
    tools: ToolUse | None = None
    max_tiles: int | None = None
    logprobs: bool = False
    stream: bool = False
    include_usage: bool = False
    """A stream ends with the usage."""
    user: str | None = None
    priority: int = 0
    """The higher goes first."""

    @property
    def references(self) -> tuple[Reference, ...]:
        """Everything that is to be opened, each once."""
        return tuple(dict.fromkeys(one for draft in self.unopened for one in draft.references))

    def called(self, name: Callable[[str], str]) -> Order:
        """The same, with its places as another route calls them."""

        def of(part: Text | Reference) -> Text | Reference:
            return part if isinstance(part, Text) else replace(part, place=name(part.place))

        unopened = (replace(draft, parts=tuple(map(of, draft.parts))) for draft in self.unopened)
        return replace(self, unopened=tuple(unopened), constraint_at=tuple(map(name, self.constraint_at)))

"""Messages, and the one table of conversation templates.

A rendered conversation keeps the provenance of every piece: what the template wrote (`Structure`), where a picture goes
(`ImageSlot`), and what people wrote (a plain `str`, whatever it spells). Only the first two ever become special tokens.

    messages --bind--> turns and pictures --Template.render--> pieces with provenance --Encoder--> token ids
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from internvl.errors import PlaceholderMismatch, PromptError

if TYPE_CHECKING:
    from PIL.Image import Image as Photo

    from internvl.data.image import Compat

Role = Literal["system", "user", "assistant", "tool", "pretrain"]
"""`tool` is what a tool answered. `pretrain` is a text by itself, without a template, and learnt from end to end."""

SHOWN_TO: tuple[Role, ...] = ("user", "pretrain")
"""Whose messages hold pictures."""

IMAGE, VIDEO = "<image>", "<video>"
"""Explicit placeholders, recognised only in the `str` parts of a message."""


# ---- messages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """What a person or a model wrote: never structure and never a placeholder, even if it spells `<image>`."""

    text: str


@dataclass(frozen=True)
class Image:
    """One picture. `max_tiles` overrides the budget for this picture alone."""

    picture: Photo
    max_tiles: int | None = None


@dataclass(frozen=True)
class Video:
    """Frames in order, one tile each. `times` (seconds) are for the caller: published models are told frame numbers."""

    frames: tuple[Photo, ...]
    times: tuple[float, ...] | None = None


Part = str | Text | Image | Video


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Only a user message, or a text to pretrain on, holds pictures. A `str` part of it may hold the placeholders
    `<image>` and `<video>`; pass what a user typed as `Text`. Pictures fill the placeholders in order, wherever they
    stand among the parts. Without placeholders they come first, as the family is trained: `<image>` and a line break
    for one; `Image-1: <image>`, `Image-2: <image>` on lines of their own for several; `Frame-1: <image>` and so on for
    a video.

    >>> photo = object()
    >>> Message("user", (Image(photo), "What is this?")).role
    'user'
    """

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise PromptError(f"a message has the role {self.role!r}; expected one of {', '.join(get_args(Role))}")
        if isinstance(self.parts, str):
            raise PromptError("a message's parts are one string; pass a tuple of parts, for example (text,)")

    @property
    def has_media(self) -> bool:
        return any(isinstance(part, (Image, Video)) for part in self.parts)


# ---- messages -> turns and pictures ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Structure:
    """Written by a template; the only text whose special tokens are special."""

    text: str


@dataclass(frozen=True)
class ImageSlot:
    """Where all tiles of the conversation's picture number `index` go."""

    index: int


Piece = str | Structure | ImageSlot


@dataclass(frozen=True)
class Turn:
    """A message whose pictures have found their places."""

    role: Role
    pieces: tuple[Piece, ...]

    @property
    def is_empty(self) -> bool:
        return not any(self.pieces)


@dataclass(frozen=True)
class Picture:
    """A picture or video frame of a conversation, in the order of its slots."""

    photo: Photo
    turn: int
    max_tiles: int | None = None
    is_frame: bool = False


def bind(messages: Sequence[Message], *, compat: Compat = None) -> tuple[list[Turn], list[Picture]]:
    """Put every picture of a conversation at its place; `PlaceholderMismatch` says both counts where they differ.

    With `compat="original"` placeholders left over once the pictures are used up stay text.
    """
    turns: list[Turn] = []
    pictures: list[Picture] = []
    for place, message in enumerate(messages):
        if message.role == "system" and place:
            raise PromptError(f"message {place + 1} is a system message; only the first message may be one")
        if message.role not in SHOWN_TO and message.has_media:
            raise PromptError(f"message {place + 1} ({message.role}) holds pictures; only user messages may")
        pieces: list[Piece] = []
        for item in _arranged(message, place, surplus_is_text=compat == "original"):
            if isinstance(item, Picture):
                pieces.append(ImageSlot(len(pictures)))
                pictures.append(item)
            elif item:
                pieces.append(item)
        turns.append(Turn(message.role, tuple(pieces)))
    return turns, pictures


def _arranged(message: Message, place: int, *, surplus_is_text: bool) -> Iterator[str | Picture]:
    """The texts and pictures of one message in the order in which they are read."""
    images = [part for part in message.parts if isinstance(part, Image)]
    videos = [part for part in message.parts if isinstance(part, Video)]
    written = [part for part in message.parts if isinstance(part, (str, Text))]
    if message.role not in SHOWN_TO:
        yield from (part if isinstance(part, str) else part.text for part in written)
        return
    asked = re.findall(f"{IMAGE}|{VIDEO}", "\0".join(part for part in written if isinstance(part, str)))
    if asked:
        counts = (asked.count(IMAGE), len(images), "image"), (asked.count(VIDEO), len(videos), "video")
        for slots, given, kind in counts:
            if slots < given or (slots > given and not surplus_is_text):
                raise PlaceholderMismatch(
                    f"message {place + 1} has {slots} <{kind}> placeholder(s) but {given} {kind}(s); write <{kind}> "
                    f"once per {kind}, or leave it out to put all of them first"
                )
    else:
        yield from _opening(images, videos, place)
    waiting = {IMAGE: iter(images), VIDEO: iter(videos)}
    for part in written:
        if isinstance(part, Text):
            yield part.text
            continue
        for piece in re.split(f"({IMAGE}|{VIDEO})", part):
            medium = next(waiting[piece], None) if piece in waiting else None
            if isinstance(medium, Image):
                yield Picture(medium.picture, place, medium.max_tiles)
            elif isinstance(medium, Video):
                yield from _frames(medium, place, end="")
            else:
                yield piece


def _opening(images: Sequence[Image], videos: Sequence[Video], place: int) -> Iterator[str | Picture]:
    """Pictures without placeholders, as the family puts them before a question."""
    for number, image in enumerate(images, start=1):
        if len(images) > 1:
            yield f"Image-{number}: "
        yield Picture(image.picture, place, image.max_tiles)
        yield "\n"
    for video in videos:
        yield from _frames(video, place, end="\n")


def _frames(video: Video, place: int, *, end: str) -> Iterator[str | Picture]:
    for number, frame in enumerate(video.frames, start=1):
        yield f"Frame-{number}: "
        yield Picture(frame, place, is_frame=True)
        yield "\n" if number < len(video.frames) else end


# ---- templates -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """How a role's message is written: head, lead, the message, end, tail.

    The assistant itself writes `lead`, its message and `end`, and these are learnt; a prompt stops after `head`.
    """

    head: str
    end: str
    lead: str = ""
    tail: str = ""


@dataclass(frozen=True)
class Rendered:
    """One message as a template writes it. Head and tail are never learnt."""

    role: Role
    head: str
    body: tuple[Piece, ...]
    tail: str

    @property
    def learnt(self) -> bool:
        """Whether the body is."""
        return self.role in ("assistant", "pretrain")

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return (Structure(self.head), *self.body, Structure(self.tail))


@dataclass(frozen=True)
class Masks:
    """How the first code base found the labels of training; `internvl.data.original` follows it where asked to.

    `by`: each message on its own; re-tokenising each exchange, or the text around each answer; or it could not.
    `added`: how many tokens it took for granted that the tokenizer puts before any text. `never`: a token that is not
    learnt wherever an answer spells it.
    """

    by: Literal["message", "exchange", "answer", "nothing"]
    added: int = 0
    never: str | None = None


@dataclass(frozen=True, kw_only=True)
class Template:
    """A conversation template, one row of `TEMPLATES`.

    `tokens` are the special tokens that its forms are spelt with; everything else in them is ordinary text.
    """

    system_message: str
    system: Form
    user: Form
    assistant: Form
    tool: Form | None = None
    """None: there is no place for what a tool answered."""
    tokens: tuple[str, ...]
    masks: Masks | None = None
    last_end: str | None = None
    """What ends the assistant's last message of a finished conversation, where that is not `assistant.end`."""
    image: tuple[str, str | None, str] = ("<img>", "<IMG_CONTEXT>", "</img>")
    """What opens a picture, what each of its slots is, what closes it. In the LLaVA form a slot is no token at all."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The tokens that end an answer, the proper one first."""
        return (self.assistant.end,) if self.last_end is None else (self.last_end, self.assistant.end)

    def render(
        self,
        turns: Sequence[Turn],
        *,
        system_message: str | None = None,
        generate: bool = False,
        compat: Compat = None,
    ) -> list[Rendered]:
        """Every message of a conversation as it is written, the system message first.

        A first turn of role `system` goes before `system_message`, which goes before the template's own.
        `generate` opens the assistant's next message. A text to pretrain on stands alone, as it is. With
        `compat="original"` a message without any text is left open, so that the next one follows its head; otherwise it
        is a message like any other.
        """
        if any(turn.role == "pretrain" for turn in turns):
            if len(turns) > 1 or generate:
                raise PromptError("a message of the role pretrain stands alone, and is not answered")
            return [Rendered("pretrain", "", turns[0].pieces, "")]
        system: tuple[Piece, ...] = (self.system_message if system_message is None else system_message,)
        if turns and turns[0].role == "system":
            system, turns = turns[0].pieces, turns[1:]
        rendered = [self._written("system", system, self.system)]
        forms = {"user": self.user, "assistant": self.assistant, "tool": self.tool}
        for place, turn in enumerate(turns):
            form, last = forms[turn.role], place == len(turns) - 1
            if form is None:
                raise PromptError("a message has the role tool, for which this template has no form; leave it out")
            end = self.last_end if turn.role == "assistant" and last and not generate else None
            if compat == "original" and turn.is_empty:
                rendered.append(Rendered(turn.role, form.head, (), ""))
            else:
                rendered.append(self._written(turn.role, turn.pieces, form, end=end))
        if generate:
            rendered.append(Rendered("assistant", self.assistant.head, (), ""))
        return rendered

    @staticmethod
    def _written(role: Role, pieces: tuple[Piece, ...], form: Form, *, end: str | None = None) -> Rendered:
        lead, closing = Structure(form.lead), Structure(form.end if end is None else end)
        return Rendered(role, form.head, (lead, *pieces, closing), form.tail)

    def spell(self, pieces: Sequence[Piece], *, slots: Sequence[int] = ()) -> str:
        """The pieces as one string, the form in which prompts are published; `slots`: how many each picture takes.

        >>> TEMPLATES["internvl2_5"].spell([ImageSlot(0), "\\nHi"], slots=[2])
        '<img><IMG_CONTEXT><IMG_CONTEXT></img>\\nHi'
        """
        opening, slot, closing = self.image
        return "".join(
            piece if isinstance(piece, str)
            else piece.text if isinstance(piece, Structure)
            else f"{opening}{(slot or IMAGE) * (slots[piece.index] if slot else 1)}{closing}"
            for piece in pieces
        )  # fmt: skip


SHUSHENG = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
WANXIANG = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
CHANNELS = (
    "You are InternVL, a large language model trained by Shanghai AI Laboratory.\nKnowledge cutoff: 2024-06\n"
    "Current date: 2025-08-06\n\nReasoning: low\n\n"
    "# Valid channels: final. Channel must be included for every message."
)
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

_HERMES = Template(
    system_message=SHUSHENG,
    tokens=("<|im_start|>", "<|im_end|>"),
    masks=Masks("exchange"),
    system=Form("<|im_start|>system\n", "<|im_end|>"),
    user=Form("<|im_start|>user\n", "<|im_end|>"),
    assistant=Form("<|im_start|>assistant\n", "<|im_end|>"),
)

# fmt: off
TEMPLATES: Mapping[str, Template] = {
    "internvl_zh": Template(
        system_message="", tokens=("</s>",), masks=Masks("nothing"),
        system=Form("", " "), user=Form("<human>:", " ", lead=" "), assistant=Form("<bot>:", "</s>", lead=" "),
    ),
    "Hermes-2": _HERMES,
    "internlm2-chat": replace(_HERMES, masks=Masks("answer", added=1)),
    "phi3-chat": Template(
        system_message=SHUSHENG, tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        masks=Masks("exchange", added=2, never="<|endoftext|>"),
        system=Form("<|system|>\n", "<|end|>"),
        user=Form("<|user|>\n", "<|end|>"),
        assistant=Form("<|assistant|>\n", "<|end|>"),
    ),
    "internvl2_5": replace(
        _HERMES, system_message=WANXIANG, masks=Masks("message"),
        system=replace(_HERMES.system, tail="\n"),
        user=replace(_HERMES.user, tail="\n"),
        assistant=replace(_HERMES.assistant, tail="\n"),
    ),
    "internvl3_5_gpt_oss": Template(
        system_message=CHANNELS, masks=Masks("message"),
        tokens=("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"),
        system=Form("<|start|>system<|message|>", "<|end|>"),
        user=Form("<|start|>user<|message|>", "<|end|>"),
        assistant=Form("<|start|>assistant", "<|end|>", lead="<|channel|>final<|message|>"),
        tool=Form("<|start|>tool<|message|>", "<|end|>"),
        last_end="<|return|>",
    ),
    "vicuna_v1": Template(
        system_message=VICUNA, tokens=("</s>",), image=("", None, ""),
        system=Form("", " "), user=Form("USER:", " ", lead=" "), assistant=Form("ASSISTANT:", "</s>", lead=" "),
    ),
}
# fmt: on

"""`RemoteChat`: a conversation with a model behind an OpenAI-style server, in the form of `Chat`.

    question + media --contents--> one message --+
                                                 +--Remote.stream--> pieces --> RemoteAnswer
    system, history (the messages so far) -------+

The server keeps nothing: all that was said and shown goes with every question.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL.Image import Image as Photo

from internvl.data.boxes import Box, parse
from internvl.data.image import to_rgb
from internvl.data.limits import OPEN, Limits
from internvl.data.media import Source
from internvl.data.prompts import Image, Message, Text, Video, bind
from internvl.errors import UsageError
from internvl.inference.attached import Pdf, Photos, asked, photo_and_file, photo_of, several
from internvl.inference.contents import contents
from internvl.inference.pieces import Stream
from internvl.inference.remote import TAKEN, Remote


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """How a server is asked to draw its answers; None leaves it to the server. extra: fields that are not OpenAI's."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def check(self, remote: Remote) -> None:
        """Raises `UsageError` where a field of `extra` might be ignored: a server may do so with what it does not know.

        Only who says whose its models are in its list is known to take more.
        """
        listed = remote.served.get(remote.model) if self.extra else None
        unknown = sorted(self.extra.keys() - TAKEN.get(listed and listed.owner, frozenset()))
        if unknown:
            raise UsageError(
                f"{remote.describe()['endpoint']} is not known to take {', '.join(unknown)}, which OpenAI does not "
                "have; leave that out, or say that it does: --extensions"
            )


@dataclass(frozen=True, kw_only=True)
class RemoteUsage:
    """Tokens of one question and its answer, where the server counts them."""

    prompt: int | None
    completion: int | None


@dataclass(frozen=True, kw_only=True)
class RemoteAnswer:
    """What a server answered."""

    text: str
    finish: str | None
    """`stop`, `length`, or what else the server calls it."""
    usage: RemoteUsage
    boxes: list[Box]
    """The `<ref>..</ref><box>..</box>` of the text, in pixels of the last picture of the conversation."""
    frame_times: tuple[float, ...] = ()
    """Seconds of the video frames of this question."""

    def as_json(self) -> dict[str, Any]:
        """The answer as plain values: what `internvl chat --json` prints."""
        return {
            "text": self.text,
            "finish": self.finish,
            "frame_times": list(self.frame_times),
            "boxes": [asdict(box) for box in self.boxes],
            "usage": asdict(self.usage),
        }


@dataclass(frozen=True)
class Exchange:
    """A question, as it goes over the wire, and its answer."""

    question: dict[str, Any]
    answer: str
    seen: tuple[int, int] | None
    """Width and height of the question's last picture."""


class RemoteChat:
    """Ask a model behind a server; what was said before is remembered, here.

    >>> chat = RemoteChat(Remote("http://localhost:8000/v1"))              # doctest: +SKIP
    >>> chat.ask("What is the total?", images=["receipt.jpg"]).text       # doctest: +SKIP
    '24.90 EUR'
    """

    def __init__(
        self, remote: Remote, *, system: str | None = None, drawn: Drawn | None = None, limits: Limits = OPEN
    ) -> None:
        """system None: the server's own. limits: what media may be opened, and from where."""
        self.remote, self.system, self.limits = remote, system, limits
        self.drawn = drawn or Drawn()
        self.history: list[Exchange] = []
        self.report: Callable[[int, int], None] | None = None
        """Called with (done, total) while the pictures of a question are made ready."""
        self._running: Stream[RemoteAnswer] | None = None

    def ask(
        self,
        question: str | Text,
        *,
        images: Sequence[Source | Photo] = (),
        video: Source | Video | Photos | None = None,
        pdf: Source | Pdf | Photos | None = None,
        frames: int | None = None,
    ) -> RemoteAnswer:
        """Continue the conversation by a question and its answer. See `Chat.ask` for what may be shown.

        The file of a picture is sent as it is where every reader sees the same in it. Frames of a video and pages of a
        document are read here and sent as pictures.
        """
        stream = self.stream(question, images=images, video=video, pdf=pdf, frames=frames)
        for _ in stream:
            pass
        return stream.answer

    def stream(
        self,
        question: str | Text,
        *,
        images: Sequence[Source | Photo] = (),
        video: Source | Video | Photos | None = None,
        pdf: Source | Pdf | Photos | None = None,
        frames: int | None = None,
    ) -> Stream[RemoteAnswer]:
        """`ask`, piece by piece. A stream that is closed early leaves the conversation as it was."""
        self._stop()
        opened = [self._opened(image) for image in several(images)]
        rest = asked(question, video=video, pdf=pdf, frames=frames, limits=self.limits)
        message = Message("user", (*(Image(photo) for photo, _ in opened), *rest.parts))
        _, pictures = bind([message])
        file_of = {id(photo): file for photo, file in opened}
        files = [file_of.get(id(picture.photo)) for picture in pictures]
        [sent] = contents([message], files, self.report or (lambda done, total: None))
        seen = to_rgb(pictures[-1].photo).size if pictures else None
        times = [part.times or () for part in message.parts if isinstance(part, Video)]
        self._running = Stream(self._pieces(sent, seen, tuple(t for one in times for t in one)))
        return self._running

    def reset(self) -> None:
        """Forget the conversation."""
        self._stop()
        self.history.clear()

    def undo(self) -> list[Exchange]:
        """Forget the last question and its answer; returns them, and `history += ` brings them back."""
        self._stop()
        if not self.history:
            raise UsageError("nothing has been asked yet, so there is nothing to take back")
        return [self.history.pop()]

    def _opened(self, image: Source | Photo) -> tuple[Photo, bytes | None]:
        return (photo_of(image, self.limits), None) if isinstance(image, Photo) else photo_and_file(image, self.limits)

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _pieces(
        self, sent: dict[str, Any], seen: tuple[int, int] | None, times: tuple[float, ...]
    ) -> Generator[str, None, RemoteAnswer]:
        how = self.drawn
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        for one in self.history:
            before += [one.question, {"role": "assistant", "content": one.answer}]
        pieces = self.remote.stream(
            [*before, sent],
            max_tokens=how.max_tokens,
            temperature=how.temperature,
            top_p=how.top_p,
            seed=how.seed,
            extra=how.extra,
        )
        yield from pieces  # which closes them where this is closed
        said = pieces.answer
        self.history.append(Exchange(sent, said.text, seen))
        last = next((one.seen for one in reversed(self.history) if one.seen is not None), None)
        return RemoteAnswer(
            text=said.text,
            finish=said.finish,
            boxes=[] if last is None else parse(said.text, size=last),
            usage=RemoteUsage(prompt=said.prompt, completion=said.tokens),
            frame_times=times,
        )

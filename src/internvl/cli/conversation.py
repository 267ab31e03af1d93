"""A conversation at the terminal, and the pieces it shares with a single question."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from internvl.cli.terminal import complain, waiting
from internvl.errors import ContextOverflow, InternVLError, UsageError, find

if TYPE_CHECKING:
    from PIL.Image import Image as Photo

    from internvl.data.prompts import Video
    from internvl.inference.answer import Answer
    from internvl.inference.chat import Chat

GREETING = "{name} is ready. Ask; /image FILE shows it a picture, /help lists the commands, /quit leaves."


@dataclass(frozen=True)
class Media:
    """What goes with one question, opened: a file that cannot be used is noticed before a model is loaded."""

    images: tuple[Photo, ...] = ()
    video: Video | None = None
    pages: tuple[Photo, ...] = ()

    @classmethod
    def open(
        cls,
        images: Sequence[str] = (),
        *,
        video: str | None = None,
        frames: int | None = None,
        pdf: str | None = None,
        pages: str | None = None,
        password: str | None = None,
    ) -> Media:
        """Read files or addresses; `MediaError` says which cannot be used and why."""
        from internvl.cli.words import limits, page_numbers
        from internvl.inference.attached import Pdf, pages_of, photo_of, video_of

        allowed, numbers = limits(), None if pages is None else page_numbers(pages)
        return cls(
            images=tuple(photo_of(image, allowed) for image in images),
            video=None if video is None else video_of(video, allowed, frames=frames),
            pages=() if pdf is None else pages_of(Pdf(pdf, pages=numbers, password=password), allowed),
        )

    def __add__(self, other: Media) -> Media:
        return Media(self.images + other.images, other.video or self.video, self.pages + other.pages)

    def __str__(self) -> str:
        parts = [f"picture {photo.width}x{photo.height}" for photo in self.images]
        parts += [f"video of {len(self.video.frames)} frames"] if self.video else []
        parts += [f"document of {len(self.pages)} pages"] if self.pages else []
        return ", ".join(parts)


def say(talk: Chat, question: str, media: Media) -> Answer:
    """Print an answer as it comes; a bar shows how many tiles have been looked at until it begins."""
    pdf = media.pages or None
    with waiting("looking") as advance:
        talk.report = advance
        if talk.sampling.beams > 1:
            answer = talk.ask(question, images=media.images, video=media.video, pdf=pdf)
            print(answer.text, end="")
            return answer
        stream = talk.stream(question, images=media.images, video=media.video, pdf=pdf)
        first = next(stream, "")
    print(first, end="", flush=True)
    for piece in stream:
        print(piece, end="", flush=True)
    return stream.answer


class Conversation:
    """Reads lines until the end: questions, and commands that begin with a slash."""

    def __init__(
        self, talk: Chat, media: Media, *, name: str, frames: int | None = None, password: str | None = None
    ) -> None:
        """frames and password: of every video and document that is shown."""
        self._talk, self._media, self._name = talk, media, name
        self._frames, self._password = frames, password
        self._open = True

    def run(self) -> None:
        """Talk until /quit or the end of input. Ctrl-C stops an answer, or clears the line."""
        with suppress(ImportError):  # not on every system
            import_module("readline")  # gives input() its line editing and its history
        print(GREETING.format(name=self._name))
        if str(self._media):
            print(f"With your first question: {self._media}.")
        while self._open:
            try:
                line = input("> ")
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
                continue
            except UnicodeDecodeError as error:
                complain(f"that line is no {error.encoding} text")
                continue
            self.hear(line.strip())

    def hear(self, line: str) -> None:
        """One line: a command or a question. A mistake is told, and the conversation goes on."""
        if not line:
            return
        try:
            if line.startswith("/"):
                command, _, rest = line.partition(" ")
                find("command", command, self.commands, hint="/help explains them.")[0](rest.strip())
            else:
                self._answer(line)
        except InternVLError as error:
            complain(str(error))
        except KeyboardInterrupt:
            print("\n(stopped; this question and its answer are forgotten)")

    def _answer(self, question: str) -> None:
        start = time.perf_counter()
        try:
            answer = say(self._talk, question, self._media)
        except ContextOverflow:
            if str(self._media):  # kept, it would make every further question too long
                print(f"Not attached any more: {self._media}.")
            self._media = Media()
            raise
        self._media = Media()
        print()
        if sys.stdout.isatty():
            from rich.console import Console

            seconds, usage = time.perf_counter() - start, answer.usage
            tiles = f"{sum(answer.tiles)} tiles, " if answer.tiles else ""
            counts = f"{tiles}{usage.prompt} + {usage.completion} tokens, {seconds:.1f} s"
            Console(highlight=False).print(f"({counts})", style="dim")

    @property
    def commands(self) -> dict[str, tuple[Callable[[str], None], str]]:
        """What a line that begins with a slash may say."""
        return {
            "/image": (self._image, "/image FILE...     show pictures with the next question"),
            "/video": (self._video, "/video FILE        show a video with the next question"),
            "/pdf": (self._pdf, "/pdf FILE [1-3,7]  show a document, or these pages of it, with the next question"),
            "/clear": (self._clear, "/clear             show nothing with the next question after all"),
            "/system": (
                self._system,
                "/system TEXT       set the system message and start anew; without TEXT: the model's own",
            ),
            "/reset": (self._reset, "/reset             forget the conversation"),
            "/help": (self._help, "/help              this list"),
            "/quit": (self._quit, "/quit              leave (so does Ctrl-D)"),
        }

    def _attach(self, media: Media) -> None:
        self._media += media
        print(f"With your next question: {self._media}.")

    def _image(self, names: str) -> None:
        self._attach(Media.open([_file(name) for name in _names(names, "/image")]))

    def _video(self, name: str) -> None:
        self._attach(Media.open(video=_one(name, "/video"), frames=self._frames))

    def _pdf(self, text: str) -> None:
        names = _names(text, "/pdf")
        if len(names) > 2:
            raise UsageError("/pdf takes one file and its pages; put a name with spaces in quotes")
        pages = names[1] if len(names) == 2 else None
        self._attach(Media.open(pdf=_file(names[0]), pages=pages, password=self._password))

    def _clear(self, rest: str) -> None:
        _expect_nothing(rest, "/clear")
        self._media = Media()
        print("Nothing goes with your next question.")

    def _system(self, text: str) -> None:
        self._talk.system = text or None
        self._reset("")

    def _reset(self, rest: str) -> None:
        _expect_nothing(rest, "/reset")
        self._talk.reset()
        self._media = Media()
        print("The conversation starts anew.")

    def _help(self, rest: str) -> None:
        _expect_nothing(rest, "/help")
        print("\n".join(text for _, text in self.commands.values()))

    def _quit(self, rest: str) -> None:
        _expect_nothing(rest, "/quit")
        self._open = False


def _names(text: str, command: str) -> list[str]:
    """The words of a line, quoted as in a shell; the first is the name of a file."""
    try:
        names = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{command}: {error}; close the quotation mark") from None
    if not names:
        raise UsageError(f"{command} needs the name of a file")
    return names


def _file(name: str) -> str:
    from internvl.cli.words import existing

    return existing(name)


def _one(text: str, command: str) -> str:
    names = _names(text, command)
    if len(names) > 1:
        raise UsageError(f"{command} takes one file; put a name with spaces in quotes")
    return _file(names[0])


def _expect_nothing(rest: str, command: str) -> None:
    if rest:
        raise UsageError(f"{command} takes nothing after it; {rest!r} is not understood")

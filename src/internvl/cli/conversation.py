"""A conversation at the terminal, and the pieces it shares with a single question."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from internvl.cli.terminal import complain, waiting
from internvl.errors import ContextOverflow, EndpointError, InternVLError, UsageError, find

if TYPE_CHECKING:
    from PIL.Image import Image as Photo

    from internvl.data.prompts import Video
    from internvl.inference.pieces import Stream

GREETING = "{name} is ready. Ask; /image FILE shows it a picture, /help lists the commands, /quit leaves."

REFUSED = (400, 413, 422)
"""What a server answers to a question that it will never answer."""


class Told(Protocol):
    """An answer, of whomever."""

    @property
    def text(self) -> str: ...
    @property
    def usage(self) -> Any: ...
    def as_json(self) -> dict[str, Any]: ...


class Talk(Protocol):
    """A conversation: `Chat` is one, `RemoteChat` another."""

    system: str | None
    history: list[Any]
    report: Callable[[int, int], None] | None

    def ask(
        self, question: str, *, images: Sequence[Photo | bytes], video: Video | None, pdf: tuple[Photo, ...] | None
    ) -> Told: ...
    def stream(
        self, question: str, *, images: Sequence[Photo | bytes], video: Video | None, pdf: tuple[Photo, ...] | None
    ) -> Stream[Told]: ...
    def undo(self) -> list[Any]: ...
    def reset(self) -> None: ...


@dataclass(frozen=True)
class Partner:
    """Whom one talks to."""

    talk: Talk
    name: str
    remote: bool = False
    """Pictures go to it as the files that they are."""
    at_once: bool = False
    """Its answers do not come piece by piece."""

    @property
    def task(self) -> str:
        """What it does before it answers."""
        return "asking" if self.remote else "looking"

    def ask(self, question: str, media: Media) -> Told:
        """A whole answer; a bar shows how many tiles have been looked at, or pictures made ready."""
        with waiting(self.task) as advance:
            self.talk.report = advance
            return self.talk.ask(question, **media.given())

    def say(self, question: str, media: Media) -> Told:
        """Print an answer as it comes."""
        if self.at_once:
            answer = self.ask(question, media)
            print(answer.text, end="")
            return answer
        with waiting(self.task) as advance:
            self.talk.report = advance
            stream = self.talk.stream(question, **media.given())
            first = next(stream, "")
        try:
            print(first, end="", flush=True)
            for piece in stream:
                print(piece, end="", flush=True)
        finally:
            stream.close()  # a server stops at once
        return stream.answer


@dataclass(frozen=True)
class Media:
    """What goes with one question, opened: a file that cannot be used is noticed before a model is loaded."""

    images: tuple[Photo, ...] = ()
    video: Video | None = None
    pages: tuple[Photo, ...] = ()
    files: tuple[bytes, ...] = ()
    """What the pictures were read from, where they are sent so."""

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
        keep_files: bool = False,
    ) -> Media:
        """Read files or addresses; `MediaError` says which cannot be used and why. keep_files: see `files`."""
        from internvl.cli.words import limits, page_numbers
        from internvl.inference.attached import Pdf, pages_of, photo_and_file, video_of

        allowed, numbers = limits(), None if pages is None else page_numbers(pages)
        opened = [photo_and_file(image, allowed) for image in images]
        return cls(
            images=tuple(photo for photo, _ in opened),
            files=tuple(file for _, file in opened) if keep_files else (),
            video=None if video is None else video_of(video, allowed, frames=frames),
            pages=() if pdf is None else pages_of(Pdf(pdf, pages=numbers, password=password), allowed),
        )

    def __add__(self, other: Media) -> Media:
        video = other.video or self.video
        return Media(self.images + other.images, video, self.pages + other.pages, self.files + other.files)

    def given(self) -> dict[str, Any]:
        """What a `Talk` is given with a question."""
        return {"images": self.files or self.images, "video": self.video, "pdf": self.pages or None}

    def __str__(self) -> str:
        parts = [f"picture {photo.width}x{photo.height}" for photo in self.images]
        parts += [f"video of {len(self.video.frames)} frames"] if self.video else []
        parts += [f"document of {len(self.pages)} pages"] if self.pages else []
        return ", ".join(parts)


class Conversation:
    """Reads lines until the end: questions, and commands that begin with a slash."""

    def __init__(
        self, partner: Partner, media: Media, *, frames: int | None = None, password: str | None = None
    ) -> None:
        """frames and password: of every video and document that is shown."""
        self._partner, self._talk, self._media = partner, partner.talk, media
        self._frames, self._password = frames, password
        self._asked: list[tuple[str, Media]] = []
        """Of every exchange that is remembered."""
        self._open = True

    def run(self) -> None:
        """Talk until /quit or the end of input. Ctrl-C stops an answer, or clears the line."""
        with suppress(ImportError):  # not on every system
            import_module("readline")  # gives input() its line editing and its history
        print(GREETING.format(name=self._partner.name))
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
            print("\n(stopped; the conversation is as it was before)")

    def _answer(self, question: str) -> None:
        try:
            self._say(question, self._media)
        except (ContextOverflow, EndpointError) as error:
            if isinstance(error, ContextOverflow) or error.status in REFUSED:
                if str(self._media):  # kept, it would make every further question too long
                    print(f"Not attached any more: {self._media}.")
                self._media = Media()
            raise
        self._media = Media()

    def _say(self, question: str, media: Media) -> None:
        start = time.perf_counter()
        answer = self._partner.say(question, media)
        self._asked.append((question, media))
        print()
        if sys.stdout.isatty():
            from rich.console import Console

            Console(highlight=False).print(f"({_counts(answer)}{time.perf_counter() - start:.1f} s)", style="dim")

    @property
    def commands(self) -> dict[str, tuple[Callable[[str], None], str]]:
        """What a line that begins with a slash may say."""
        return {
            "/image": (self._image, "/image FILE...     show pictures with the next question"),
            "/video": (self._video, "/video FILE        show a video with the next question"),
            "/pdf": (self._pdf, "/pdf FILE [1-3,7]  show a document, or these pages of it, with the next question"),
            "/clear": (self._clear, "/clear             show nothing with the next question after all"),
            "/again": (self._again, "/again             ask the last question again, in place of its answer"),
            "/undo": (self._undo, "/undo              forget the last question and its answer"),
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
        self._attach(Media.open([_file(name) for name in _names(names, "/image")], keep_files=self._partner.remote))

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

    def _again(self, rest: str) -> None:
        _expect_nothing(rest, "/again")
        forgotten = self._talk.undo()
        last = self._asked.pop()
        try:
            self._say(*last)
        except BaseException:
            self._talk.history += forgotten
            self._asked.append(last)
            raise

    def _undo(self, rest: str) -> None:
        _expect_nothing(rest, "/undo")
        self._talk.undo()
        question, _ = self._asked.pop()
        print(f"Forgotten: {question}")

    def _system(self, text: str) -> None:
        self._talk.system = text or None
        self._reset("")

    def _reset(self, rest: str) -> None:
        _expect_nothing(rest, "/reset")
        self._talk.reset()
        self._asked.clear()
        self._media = Media()
        print("The conversation starts anew.")

    def _help(self, rest: str) -> None:
        _expect_nothing(rest, "/help")
        print("\n".join(text for _, text in self.commands.values()))

    def _quit(self, rest: str) -> None:
        _expect_nothing(rest, "/quit")
        self._open = False


def _counts(answer: Told) -> str:
    """What an answer took, as far as it is known."""
    shown, usage = sum(getattr(answer, "tiles", ())), answer.usage
    tiles = f"{shown} tiles, " if shown else ""
    return tiles if usage.completion is None else f"{tiles}{usage.prompt} + {usage.completion} tokens, "


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

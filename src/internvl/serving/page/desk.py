"""What happens when somebody presses something on the page. Gradio is not known here.

Page.talk_of(session) --> Talk      Page.ask, again, stop, edit, undo, vote, share, tiles --> Page.sight --> browser
"""

from __future__ import annotations

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from internvl.data.media import shorten
from internvl.serving.page import ask, notes, share
from internvl.serving.page.answering import Desk, answer, prepare
from internvl.serving.page.ask import Endpoint, Failed
from internvl.serving.page.talk import Json, Shown, Talk, Turn, Wishes, messages_of
from internvl.serving.page.view import items
from internvl.serving.page.words import Language, language_of, say, words_of

if TYPE_CHECKING:
    from starlette.types import Scope

MOST_TALKS = 400
"""Conversations that are kept; the one that was quiet longest goes first."""
OLD_SECONDS = 6 * 3600
"""After which a file that no conversation shows is deleted."""
SWEEP_SECONDS = 300
MOST_HELD = 4 * 2**30
"""Bytes of all files of the page together."""
MOST_FILES = 16
"""Of one question."""
LONGEST_TEXT = 200_000
EXAMPLES = Path(__file__).parents[2] / "nano" / "examples"


@dataclass(frozen=True)
class Example:
    """A picture of the gallery with a question, in both languages."""

    file: str
    question: Mapping[Language, str]


GALLERY = (
    Example("flag.png", {"en": "Which country's flag is this?", "zh": "这是哪个国家的国旗？"}),
    Example("photo.jpg", {"en": "What is in this photograph?", "zh": "这张照片里有什么？"}),
    Example("shapes.png", {"en": "How many stars are there?", "zh": "图中有几颗星星？"}),
)


@dataclass(frozen=True)
class Asked:
    """A question as the browser sends it."""

    text: str
    files: tuple[tuple[Path, str], ...] = ()
    since: int | None = None
    """The turn that it takes the place of, with all after it."""
    kept: tuple[int, ...] = ()
    """Of the files of that turn, which stay."""


@dataclass
class Page:
    """All conversations of a page, and what can be done with them."""

    endpoint: Callable[[Scope], Endpoint]
    desk: Desk
    votes: Path | None = None
    signed: bool = False
    """Whether there is something to sign out of."""
    most: int = 64 * 2**20
    """Bytes of one file."""
    talks: OrderedDict[tuple[str, str], Talk] = field(default_factory=OrderedDict[tuple[str, str], Talk])
    swept: float = 0.0

    # ---- conversations

    def talk_of(self, session: str, person: str) -> Talk:
        """The conversation of one browser tab of one person."""
        talk = self.talks.setdefault((person, session), Talk())
        self.talks.move_to_end((person, session))
        while len(self.talks) > MOST_TALKS:
            self._forget(self.talks.popitem(last=False)[1])
        self._sweep()
        return talk

    def leave(self, session: str, person: str) -> None:
        """The tab was closed: an answer that still grows ends, and pictures go."""
        if (talk := self.talks.pop((person, session), None)) is not None:
            self._forget(talk)

    def _forget(self, talk: Talk) -> None:
        talk.stopping.set()
        self._drop(talk.turns)

    def _drop(self, turns: Sequence[Turn]) -> None:
        """Delete pictures that no conversation shows any more."""
        for file in {shown.file for turn in turns for shown in turn.shown} - self._shown():
            file.unlink(missing_ok=True)

    def _shown(self) -> set[Path]:
        return {shown.file for talk in self.talks.values() for turn in talk.turns for shown in turn.shown}

    def _sweep(self) -> None:
        """Now and then, delete what was sent and never asked about, and conversations that were taken along."""
        now = time.time()
        if now - self.swept < SWEEP_SECONDS:
            return
        self.swept, kept = now, self._shown()
        for file in self.desk.folder.rglob("*"):
            if file.is_file() and file not in kept and file.stat().st_mtime < now - OLD_SECONDS:
                file.unlink(missing_ok=True)

    def has_room(self) -> bool:
        """Whether another file may come in."""
        self._sweep()
        return sum(file.stat().st_size for file in self.desk.folder.rglob("*") if file.is_file()) < MOST_HELD

    # ---- what is seen

    def sight(self, talk: Talk, **more: Any) -> Json:
        """What the browser shows."""
        return {
            "items": items(talk, link_of),
            "busy": talk.is_busy,
            "turn": next((turn.number for turn in reversed(talk.turns)), 0),
            "language": talk.language,
            "model": talk.model,
            "words": words_of(talk.language),
            "examples": [
                {"number": place, "question": one.question[talk.language], "url": address_of(self._copy(one))}
                for place, one in enumerate(GALLERY)
            ],
            "votes": self.votes is not None,
            "signed": self.signed,
            "most": self.most,
            "files": MOST_FILES,
            **more,
        }  # fmt: skip

    def _copy(self, one: Example) -> Path:
        """An example among the files that a browser may see."""
        place = self.desk.folder / f"example-{one.file}"
        if not place.exists():
            place.write_bytes((EXAMPLES / one.file).read_bytes())
        return place

    # ---- asking

    async def ask(self, talk: Talk, asked: Asked, wishes: Wishes, endpoint: Endpoint) -> AsyncGenerator[None]:
        """A new question, or an earlier one in other words."""
        if talk.is_busy:
            return
        uploads = ()
        if asked.since is not None and (old := talk.find(asked.since)) is not None:
            uploads = tuple(one for place, one in enumerate(old.uploads) if place in asked.kept)
            self._cut(talk, old, kept={shown.file for one in uploads for shown in one.shown})
        turn = talk.begin(asked.text)
        turn.uploads = uploads
        sent = [file for file, _ in asked.files if file.is_relative_to(self.desk.folder)]
        async for _ in prepare(self.desk, talk, turn, asked.files, wishes):
            yield
        for file in sent:  # what is shown has files of its own
            file.unlink(missing_ok=True)
        if turn.state == "waiting":
            async for _ in answer(talk, turn, wishes, endpoint):
                yield

    async def again(self, talk: Talk, wishes: Wishes, endpoint: Endpoint) -> AsyncGenerator[None]:
        """The last answer once more."""
        if talk.is_busy or not talk.turns or talk.turns[-1].sent:  # what was sent is not there any more
            return
        talk.stopping.clear()
        async for _ in answer(talk, talk.turns[-1], wishes, endpoint):
            yield

    async def example(self, talk: Talk, number: int, wishes: Wishes, endpoint: Endpoint) -> AsyncGenerator[None]:
        """Ask one of the questions of the gallery."""
        one = GALLERY[number % len(GALLERY)]
        asked = Asked(one.question[talk.language], ((EXAMPLES / one.file, one.file),))
        async for _ in self.ask(talk, asked, wishes, endpoint):
            yield

    def undo(self, talk: Talk) -> Json:
        """Take back the last question and its answer; its words go back to where they were typed."""
        if talk.is_busy or not talk.turns:
            return {}
        turn = talk.turns[-1]
        self._cut(talk, turn)
        return {"draft": {"id": secrets.token_hex(4), "text": turn.text}}

    def clear(self, talk: Talk) -> None:
        talk.stopping.set()
        turns, talk.turns = talk.turns, []
        self._drop(turns)

    def _cut(self, talk: Talk, turn: Turn, kept: frozenset[Path] | set[Path] = frozenset()) -> None:
        place = talk.turns.index(turn)
        gone, talk.turns = talk.turns[place:], talk.turns[:place]
        lost = [replace_uploads(one, kept) for one in gone]
        self._drop(lost)

    # ---- what people think, what they take along, what they look into

    def vote(self, talk: Talk, number: object, vote: object, reason: object) -> None:
        """Write down what somebody thinks of an answer; once more takes nothing back: the file has both."""
        turn = talk.find(number)
        if self.votes is None or turn is None or turn.is_running or vote not in notes.VOTES:
            return
        note = notes.note_of(turn, vote, str(reason or ""))
        if notes.write(self.votes, note):
            turn.vote = str(vote)

    def share(self, talk: Talk) -> Json:
        """The conversation as a file: where it is, and what it is called."""
        if not talk.turns or talk.is_busy:
            return {}
        file = self.desk.folder / f"{secrets.token_hex(16)}.html"
        file.write_text(share.html_of(talk), encoding="utf-8")
        name = f"internvl-{time.strftime('%Y-%m-%d-%H%M')}.html"
        return {"download": {"id": secrets.token_hex(4), "url": address_of(file), "name": name}}

    async def tiles(self, talk: Talk, number: object, wishes: Wishes, endpoint: Endpoint) -> Json:
        """Show how the pictures of a question were cut, or show it no more; the server says how."""
        turn = talk.find(number)
        if turn is None or turn.is_running or not turn.shown:
            return {}
        if turn.tiles is not None:
            turn.tiles = None
            return {}
        alone = replace(turn, answer="", state="waiting")
        body: Json = {"model": turn.model or wishes.model, "messages": await self.desk.aside(messages_of, [alone])}
        body |= {"max_tiles": wishes.max_tiles} if wishes.max_tiles and "max_tiles" in wishes.extras else {}
        try:
            turn.tiles = await ask.tiles(endpoint, body)
        except Failed as error:
            return notice(talk.language, error)
        if turn.tiles is None:
            return {"notice": {"id": secrets.token_hex(4), "text": say("no_tiles", talk.language)}}
        return {}

    async def models(self, endpoint: Endpoint) -> dict[str, str | None]:
        return await ask.models(endpoint)


def replace_uploads(turn: Turn, kept: frozenset[Path] | set[Path]) -> Turn:
    """The turn without the uploads whose pictures are kept elsewhere."""
    rest = tuple(one for one in turn.uploads if not kept & {shown.file for shown in one.shown})
    return replace(turn, uploads=rest)


def notice(language: Language, error: Failed) -> Json:
    return {"notice": {"id": secrets.token_hex(4), "text": say(error.word, language, **error.filled)}}


def link_of(shown: Shown) -> str:
    """Where a browser finds a picture of a conversation."""
    return address_of(shown.file)


def address_of(file: Path) -> str:
    return f"gradio_api/file={file}"


def asked_of(data: object, folder: Path) -> Asked:
    """A question out of what a browser sent, which may be anything; files are only those that came in here."""
    given = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    files: list[tuple[Path, str]] = []
    for one in [one for one in _list(given.get("files")) if isinstance(one, dict)][:MOST_FILES]:
        file = Path(str(one.get("place", ""))[:4096])
        if file.is_absolute() and file.resolve().is_relative_to(folder) and file.is_file():
            files.append((file, name_of(one.get("name"))))
    since = given.get("since")
    return Asked(
        str(given.get("text") or "")[:LONGEST_TEXT].strip(),
        tuple(files),
        since if isinstance(since, int) else None,
        tuple(one for one in _list(given.get("kept")) if isinstance(one, int)),
    )


def _list(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def name_of(value: object) -> str:
    """What a person's file is called here: one short line."""
    text = re.sub(r"[\x00-\x1f\x7f/\\]", " ", str(value or "")).strip()
    return shorten(text) if text else "file"


def language_from(data: object) -> Language:
    """The language that a browser asks for, by its code."""
    return language_of(str(cast("dict[str, Any]", data).get("language", "")) if isinstance(data, dict) else "")

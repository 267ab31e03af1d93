"""Who answers: a model in this process, or a server. A task knows neither.

stream of Asked --Responder.answer--> stream of Reply, in any order, no more read ahead than is being worked on
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from internvl.data.image import choose_grid
from internvl.data.prompts import Image, Message, Text
from internvl.errors import ContextOverflow, DataError, EndpointError, InternVLError, UsageError
from internvl.evaluation.ask import Shown, show
from internvl.evaluation.benchmark import Failure, Judging, Sample, Settings
from internvl.inference.chat import Chat
from internvl.inference.contents import contents
from internvl.inference.remote import Remote
from internvl.inference.said import Said
from internvl.inference.sampling import SamplingConfig

WINDOW = 4
"""Batches among which questions of similar length are looked for."""
PIXELS = 200_000_000
"""Of the opened pictures of a window; a pixel takes up to four bytes."""

OF_THIS_QUESTION = (400, 413, 422)
"""HTTP statuses by which a server refuses a question; others tell of the server, the key or the address."""

WHOLE = 64 * 2**20
"""A weight file of at most this many bytes is hashed whole."""
BLOCKS, BLOCK = 1024, 4096
"""How many blocks of how many bytes are hashed of a larger one."""


@dataclass(frozen=True)
class Asked:
    """A question that is to be answered."""

    sample: Sample
    settings: Settings
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """The answer to it."""

    asked: Asked
    text: str
    finish: str | None = None
    tokens: int | None = None
    tiles: tuple[int, ...] | None = None
    failed: Failure | None = None
    """Why there is no answer to this question, though there may be to others."""


class Responder(Protocol):
    """Whoever answers."""

    def describe(self) -> Mapping[str, Any]:
        """What is written down of it; `model` is what a run may not change, everything else may differ."""
        ...

    def answer(self, questions: Iterable[Asked]) -> Iterator[Reply]:
        """Answers in any order."""
        ...


# ---- here ------------------------------------------------------------------------------------------------------------


class LocalResponder:
    """A model in this process."""

    def __init__(self, chat: Chat, *, name: str, path: Path | None = None, batch_size: int = 8) -> None:
        """path: where its weights are, to take their fingerprint."""
        self._chat, self._name, self._path, self._size = chat, name, path, batch_size
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; it must be at least 1")

    def describe(self) -> dict[str, Any]:
        weight = next(self._chat.model.parameters())
        config = self._chat.encoder.config
        model = {
            "kind": "local",
            "name": self._name,
            "fingerprint": None if self._path is None else fingerprint(self._path),
            "dtype": str(weight.dtype).removeprefix("torch."),
            "template": config.template,
            "tiling": config.dynamic,
        }
        return {"model": model, "device": str(weight.device), "batch_size": self._size}

    def answer(self, questions: Iterable[Asked]) -> Iterator[Reply]:
        source = iter(questions)
        while window := self._window(source):
            window.sort(key=lambda one: one.length, reverse=True)  # the longest first: too little memory shows at once
            while window:
                batch, window = window[: self._size], window[self._size :]
                yield from self._batch(batch)

    def _window(self, source: Iterator[Asked]) -> list[_Ready]:
        """The next questions, their pictures opened: some batches, or as many as memory is spent on."""
        window: list[_Ready] = []
        pixels = 0
        for asked in islice(source, WINDOW * self._size):
            window.append(self._ready(asked))
            pixels += window[-1].pixels
            if pixels > PIXELS:
                break
        return window

    def _ready(self, asked: Asked) -> _Ready:
        config = self._chat.encoder.config
        messages = show(asked.sample, asked.settings).messages
        if not config.dynamic:
            messages = tuple(map(_one_tile_each, messages))
        tiles = pixels = 0
        for picture in (part for message in messages for part in message.parts if isinstance(part, Image)):
            pixels += picture.picture.width * picture.picture.height
            columns, rows = choose_grid(
                *picture.picture.size, tile_size=config.tile_size, max_tiles=picture.max_tiles or 1
            )
            tiles += columns * rows
        return _Ready(asked, messages, tiles * config.slots_per_tile + len(asked.sample.prompt) // 3, pixels)

    def _batch(self, batch: Sequence[_Ready]) -> Iterator[Reply]:
        """Answer questions together; one that has no room is left out and said to have failed."""
        try:
            answers = self._chat.batch(
                [ready.messages for ready in batch],
                sampling=[sampling_of(ready.asked) for ready in batch],
                batch_size=self._size,
            )
        except ContextOverflow as error:  # before any of them is answered
            if len(batch) == 1:
                yield Reply(batch[0].asked, "", failed=Failure("context", one_line(error)))
                return
            half = len(batch) // 2
            yield from self._batch(batch[:half])
            yield from self._batch(batch[half:])
            return
        for ready, answer in zip(batch, answers, strict=True):
            yield Reply(ready.asked, answer.text, answer.finish, answer.usage.completion, answer.tiles)


@dataclass(frozen=True)
class _Ready:
    """A question with its pictures opened."""

    asked: Asked
    messages: tuple[Message, ...]
    length: int
    """About how many tokens it has."""
    pixels: int


def one_line(error: Exception) -> str:
    """What an error says, short enough for an answers file."""
    return " ".join(str(error).split())[:500]


def _one_tile_each(message: Message) -> Message:
    """For a checkpoint that sees every picture as one tile, as the published evaluation does without `--dynamic`."""
    parts = (replace(part, max_tiles=None) if isinstance(part, Image) else part for part in message.parts)
    return replace(message, parts=tuple(parts))


def sampling_of(asked: Asked) -> SamplingConfig:
    """How the answer is drawn. Every sample has a seed of its own, so that chance does not favour all at once."""
    settings = asked.settings
    drawn = settings.temperature > 0
    return SamplingConfig(
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p if drawn else None,
        seed=seed_of(asked) if drawn else None,
    )


def seed_of(asked: Asked) -> int:
    """The seed of one answer: it depends on the run's seed and on the sample, not on what else is asked.

    >>> [seed_of(Asked(Sample(id=id, prompt=""), Settings())) for id in ("a", "b")]
    [797790308, 1416254370]
    """
    return _seed(f"{asked.seed}\0{asked.sample.id}")


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:4]) >> 1


def fingerprint(path: Path) -> str:
    """What tells one checkpoint from another, in a second even where it has hundreds of gigabytes.

    The SHA-256 of the names, sizes and bytes of its files: the JSON beside the weights whole, a weight file whole up to
    64 MiB, of a larger one its first MiB and 1024 blocks of 4 KiB spread evenly. Further training changes nearly every
    block; a change of a few bytes in a large file can go unseen.
    """
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if _counts(file))
    whole = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        whole.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= WHOLE:
                whole.update(stream.read())
                continue
            whole.update(stream.read(2**20))
            for number in range(BLOCKS):
                stream.seek((size - BLOCK) * number // (BLOCKS - 1))
                whole.update(stream.read(BLOCK))
    return f"sampled-sha256:{whole.hexdigest()}"


def _counts(file: Path) -> bool:
    return file.is_file() and file.suffix in (".json", ".safetensors", ".bin", ".pth", ".pt", ".model", ".txt")


class LocalJudge:
    """A model in this process that judges answers; see `judge.Judge`."""

    def __init__(self, chat: Chat, name: str, *, batch_size: int = 8) -> None:
        self._chat, self.name, self._size = chat, name, batch_size

    def write(self, prompts: Sequence[str], judging: Judging) -> Iterator[tuple[int, str]]:
        new, warmth = judging.max_new_tokens, judging.temperature
        system = () if judging.system is None else (Message("system", (Text(judging.system),)),)
        for start in range(0, len(prompts), self._size):
            batch = prompts[start : start + self._size]
            places = range(start, start + len(batch))
            sampling = [
                SamplingConfig(max_new_tokens=new, temperature=warmth, seed=_seed(prompt) if warmth > 0 else None)
                for prompt in batch
            ]
            asked = [[*system, Message("user", (Text(prompt),))] for prompt in batch]
            answers = self._chat.batch(asked, sampling=sampling, batch_size=self._size)
            yield from zip(places, (answer.text for answer in answers), strict=True)


# ---- elsewhere -------------------------------------------------------------------------------------------------------


class EndpointResponder:
    """An OpenAI-style server. extensions: also send `max_tiles` and `min_tokens`, which are not OpenAI's.

    Without them the server's own budget of tiles holds, and an answer may be empty.
    """

    def __init__(self, remote: Remote, *, extensions: bool = False) -> None:
        self._remote, self._extensions = remote, extensions

    def describe(self) -> dict[str, Any]:
        model = {"kind": "endpoint", "name": self._remote.model, "extensions": self._extensions}
        return {"model": model, "endpoint": self._remote.describe()["endpoint"]}

    def answer(self, questions: Iterable[Asked]) -> Iterator[Reply]:
        # Pictures are opened as requests are drawn, in this thread: readers of archives need not be safe for threads.
        for request, said in self._remote.ask_all(map(self._request, questions), self._ask):
            if isinstance(said, Failure):
                yield Reply(request.asked, "", failed=said)
            elif said.finish == "content_filter":
                why = "the server withheld its answer (content filter)"
                yield Reply(request.asked, "", said.finish, said.tokens, failed=Failure("refused", why))
            else:
                yield Reply(request.asked, said.text.strip(), said.finish, said.tokens)

    def _request(self, asked: Asked) -> _Request:
        shown = show(asked.sample, asked.settings)
        extra: dict[str, Any] = {}
        if self._extensions:
            extra["min_tokens"] = asked.settings.min_new_tokens
            if (budget := _budget(asked.sample, shown)) is not None:
                extra["max_tiles"] = budget
        return _Request(asked, contents(shown.messages, shown.files), extra)

    def _ask(self, request: _Request) -> Said | Failure:
        settings, drawn = request.asked.settings, request.asked.settings.temperature > 0
        try:
            return self._remote.ask(
                request.messages,
                max_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p if drawn else None,
                seed=seed_of(request.asked) if drawn else None,
                extra=request.extra,
            )
        except InternVLError as error:
            if isinstance(error, EndpointError) and error.status in OF_THIS_QUESTION:
                said = one_line(error)
                return Failure("context" if "context" in said.casefold() else "refused", said)
            raise type(error)(f"sample {request.asked.sample.id}: {error}") from None


@dataclass(frozen=True)
class _Request:
    asked: Asked
    messages: list[dict[str, Any]]
    extra: dict[str, Any]


def _budget(sample: Sample, shown: Shown) -> int | None:
    """Tiles of all pictures of a question together, which its server shares among them; None: there are no pictures."""
    pictures = [part for message in shown.messages for part in message.parts if isinstance(part, Image)]
    shares = {picture.max_tiles or 1 for picture in pictures}
    if len(shares) > 1:
        raise DataError(
            f"sample {sample.id}: its pictures have budgets of {sorted(shares)} tiles; a server can be told one number "
            "only, so leave out --extensions, or let this machine answer"
        )
    return shares.pop() * len(pictures) if shares else None


class EndpointJudge:
    """A server that judges answers; see `judge.Judge`."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        about = remote.describe()
        self.name = f"{about['model']} at {about['endpoint']}"

    def write(self, prompts: Sequence[str], judging: Judging) -> Iterator[tuple[int, str]]:
        system = [] if judging.system is None else [{"role": "system", "content": judging.system}]

        def ask(numbered: tuple[int, str]) -> str:
            _, prompt = numbered
            said = self._remote.ask(
                [*system, {"role": "user", "content": prompt}],
                max_tokens=judging.max_new_tokens,
                temperature=judging.temperature,
                seed=_seed(prompt) if judging.temperature > 0 else None,
            )
            return said.text

        for (place, _), text in self._remote.ask_all(enumerate(prompts), ask):
            yield place, text

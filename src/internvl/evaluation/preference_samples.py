"""Answers that a model gives to the same question several times, kept in a file that is only ever appended to.

    pairs.samples.jsonl            {"settings": ...} on the first line, then one answer a line
    pairs.samples-0of2.jsonl       of process 0 of 2

An answer has a seed that depends on its question and its number alone. So what is there is never asked for again, more
answers to the same questions may be asked for later, and a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from internvl.data.encode import Encoder
from internvl.data.image import to_rgb
from internvl.data.limits import OPEN, Limits
from internvl.data.media import open_image
from internvl.data.prepare import allowing, placed
from internvl.data.prompts import Message, Text
from internvl.data.records import Conversation, messages
from internvl.errors import ContextOverflow, DataError, InternVLError, UsageError
from internvl.evaluation.preferences import Question
from internvl.evaluation.ranks import Ranks
from internvl.evaluation.store import append, open_alone, whole_lines
from internvl.inference.chat import Chat, context
from internvl.inference.contents import contents
from internvl.inference.generate import generate
from internvl.inference.remote import Remote
from internvl.inference.rows import Prompt, new_cache
from internvl.inference.sampling import SamplingConfig

TILES = 6
"""Of a question's pictures together, where nothing else is said and the model is not trained for fewer."""


@dataclass(frozen=True)
class Ask:
    """A question that is to be answered once more."""

    question: Question
    prompt: str
    number: int
    prefix: str | None = None
    """What the answer begins with; it is then continued, and no picture is shown."""


@dataclass(frozen=True)
class Given:
    """The answer to it, or what it was continued with."""

    ask: Ask
    text: str
    finish: str | None


class Sampler(Protocol):
    """Whoever answers."""

    def describe(self) -> Mapping[str, Any]:
        """What may not change while answers are gathered."""
        ...

    def answer(self, asks: Iterable[Ask]) -> Iterator[Given]:
        """Answers in any order."""
        ...


# ---- gathering -------------------------------------------------------------------------------------------------------

Refused = Callable[[Question, InternVLError], None]


def gather(
    asks: Iterable[Ask], sampler: Sampler, path: Path, settings: Mapping[str, Any], *, beside: Iterable[Path] = ()
) -> Iterator[Given]:
    """Answer what has no answer in `path` yet, nor in a file `beside` it, one by one into `path`; yields what is new.

    `UsageError` where one of the files was begun with other settings.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"settings": {**settings, **sampler.describe()}}
    with open_alone(path) as file:
        if not file.tell():
            append(file, path, told)
        known = {(row["key"], row["number"]) for row in read_samples([path, *beside], told["settings"])}
        for given in sampler.answer(ask for ask in asks if (ask.question.key, ask.number) not in known):
            ask = given.ask
            row = {"key": ask.question.key, "number": ask.number, "row": ask.question.origin, "response": given.text}
            append(file, path, {**row, "finish": given.finish})
            yield given


def read_samples(paths: Iterable[Path], settings: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """All answers of some files, which must have been begun with the same settings."""
    for path in paths:
        lines = whole_lines(path)
        _, head = next(lines, ("", None))
        if head is None:
            continue  # another process has only just made it
        found = head.get("settings")
        settings = found if settings is None else json.loads(json.dumps(settings))
        if not isinstance(found, dict) or settings is None:
            raise DataError(f"{path}: its first line has no settings; choose another --out")
        changed = [name for name in {**settings, **found} if settings.get(name) != found.get(name)]
        if changed:
            name = changed[0]
            raise UsageError(
                f"{path} was begun with {name} {found.get(name)!r}, now it is {settings.get(name)!r}; choose another "
                "--out, or say what it was"
            )
        for where, row in lines:
            kinds = {"key": str, "number": int, "response": str}
            if any(type(row.get(name)) is not kind for name, kind in kinds.items()):
                raise DataError(f"{path.parent / where}: no answer; delete the line, and it is asked for again")
            yield row


class Responses:
    """The answers of some files by question; of each, only where it stands is held in memory."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._places: dict[str, dict[int, tuple[Path, int]]] = {}
        for path in paths:
            for start, row in zip(islice(_starts(path), 1, None), read_samples([path]), strict=False):
                self._places.setdefault(row["key"], {})[row["number"]] = (path, start)

    def __call__(self, question: Question) -> list[str]:
        """In the order of their numbers, whoever gave them."""
        places = self._places.get(question.key, {})
        found: list[str] = []
        for number in sorted(places):
            path, start = places[number]
            with path.open("rb") as file:
                file.seek(start)
                found.append(json.loads(file.readline())["response"])
        return found


def _starts(path: Path) -> Iterator[int]:
    """Where each line begins."""
    with path.open("rb") as file:
        start = 0
        for line in file:
            yield start
            start += len(line)


def samples_file(out: Path, ranks: Ranks) -> Path:
    """Where this process keeps its answers."""
    part = "" if ranks.world == 1 else f"-{ranks.rank}of{ranks.world}"
    return out.with_name(f"{out.stem}.samples{part}.jsonl")


def samples_files(out: Path) -> list[Path]:
    """Where the answers of all processes are."""
    return sorted(out.parent.glob(f"{out.stem}.samples*.jsonl"))


def seed_of(ask: Ask, seed: int) -> int:
    """The seed of one answer."""
    told = f"{seed}\0{ask.question.key}\0{ask.number}".encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:4]) >> 1


# ---- who answers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How questions are shown: where their pictures are, how many tiles they have together, what may be opened."""

    root: str = ""
    max_tiles: int | None = None
    limits: Limits = OPEN

    def messages(self, ask: Ask) -> list[Message]:
        """The prompt with its pictures opened; without them where an answer is continued."""
        question = ask.question
        images = question.images if ask.prefix is None else ()
        limits = allowing(self.root, self.limits)
        photos = [to_rgb(open_image(placed(image, self.root), limits)) for image in images]
        asked = Conversation(question.origin, (("user", ask.prompt),), images, listed=True)
        return messages(asked, photos, max_tiles=self.max_tiles)


class LocalSampler:
    """A model in this process. What cannot be shown is told to `refused` and left out."""

    def __init__(
        self, chat: Chat, shown: Shown, sampling: SamplingConfig, refused: Refused, *, name: str, batch_size: int = 8
    ) -> None:
        """name: of the model, as it is written down; sampling.seed: of all answers together."""
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; it must be at least 1")
        config = chat.encoder.config
        shown = replace(shown, max_tiles=(shown.max_tiles or min(TILES, config.max_tiles)) if config.dynamic else None)
        self._chat, self._shown, self._sampling, self._refused = chat, shown, sampling, refused
        self._name, self._size = name, batch_size

    def describe(self) -> dict[str, Any]:
        return {"model": self._name, "max_tiles": self._shown.max_tiles, **_told(self._sampling)}

    def answer(self, asks: Iterable[Ask]) -> Iterator[Given]:
        shown = self._ready(asks)
        while batch := list(islice(shown, self._size)):
            sampling = [replace(self._sampling, seed=seed_of(ask, self._sampling.seed or 0)) for ask, _ in batch]
            if batch[0][0].prefix is not None:
                begun = [(said, ask.prefix or "") for ask, said in batch]
                found = continued(self._chat, begun, sampling)
            else:
                answers = self._chat.batch([said for _, said in batch], sampling=sampling, batch_size=self._size)
                found = [(answer.text, str(answer.finish)) for answer in answers]
            for (ask, _), (text, finish) in zip(batch, found, strict=True):
                yield Given(ask, text, finish)

    def _ready(self, asks: Iterable[Ask]) -> Iterator[tuple[Ask, list[Message]]]:
        """Questions with their pictures opened; those of one question, which follow each other, are opened once."""
        last: tuple[str, list[Message] | None] = ("", None)
        for ask in asks:
            if last[0] != ask.question.key:
                last = (ask.question.key, self._open(ask))
            if last[1] is not None:
                yield ask, last[1]

    def _open(self, ask: Ask) -> list[Message] | None:
        try:
            said = self._shown.messages(ask)
            encoder = self._chat.encoder
            ids = (
                encoder.encode(said, cut=False).input_ids
                if ask.prefix is None
                else beginning(encoder, said, ask.prefix)
            )
            if len(ids) >= context(self._chat.model.config.text):
                raise ContextOverflow(f"the prompt has {len(ids)} tokens, more than the model reads; lower --max-tiles")
        except InternVLError as error:
            self._refused(ask.question, error)
            return None
        return said


class RemoteSampler:
    """An OpenAI-style server. extensions: also send `top_k` and `max_tiles`, which are not OpenAI's."""

    def __init__(
        self, remote: Remote, shown: Shown, sampling: SamplingConfig, refused: Refused, *, extensions: bool = False
    ) -> None:
        self._remote, self._shown, self._sampling, self._refused = remote, shown, sampling, refused
        self._extra: dict[str, Any] = {}
        if extensions:
            told = {"top_k": sampling.top_k, "max_tiles": shown.max_tiles}
            self._extra = {name: value for name, value in told.items() if value is not None}

    def describe(self) -> dict[str, Any]:
        told = {name: value for name, value in _told(self._sampling).items() if name != "top_k"}
        return {"model": self._remote.model, **self._extra, **told}

    def answer(self, asks: Iterable[Ask]) -> Iterator[Given]:
        sampling = self._sampling

        def ask_one(request: tuple[Ask, list[dict[str, Any]]]) -> Any:
            ask, said = request
            return self._remote.ask(
                said,
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=seed_of(ask, sampling.seed or 0),
                extra=self._extra,
            )

        for (ask, _), said in self._remote.ask_all(self._requests(asks), ask_one):
            yield Given(ask, said.text.strip(), said.finish)

    def _requests(self, asks: Iterable[Ask]) -> Iterator[tuple[Ask, list[dict[str, Any]]]]:
        last: tuple[str, list[dict[str, Any]] | None] = ("", None)
        for ask in asks:
            if last[0] != ask.question.key:
                try:
                    last = (ask.question.key, contents(self._shown.messages(ask)))
                except InternVLError as error:
                    self._refused(ask.question, error)
                    last = (ask.question.key, None)
            if last[1] is not None:
                yield ask, last[1]


def _told(sampling: SamplingConfig) -> dict[str, Any]:
    names = ("temperature", "top_k", "top_p", "max_new_tokens", "min_new_tokens", "seed")
    return {name: getattr(sampling, name) for name in names}


# ---- an answer that is continued -------------------------------------------------------------------------------------


def continued(
    chat: Chat, begun: Sequence[tuple[Sequence[Message], str]], sampling: Sequence[SamplingConfig]
) -> list[tuple[str, str]]:
    """What a model continues each beginning of an answer with, and why it stopped; nothing is put between the two."""
    prompts: list[Prompt] = []
    for (said, prefix), config in zip(begun, sampling, strict=True):
        ids = beginning(chat.encoder, said, prefix)
        room = context(chat.model.config.text) - len(ids)
        if room < 1:
            raise DataError(
                f"an answer begins after {len(ids)} tokens, more than the model reads; shorten the question"
            )
        config = replace(config, max_new_tokens=min(room, config.max_new_tokens))
        prompts.append(Prompt(ids, None, replace(config, min_new_tokens=min(room, config.min_new_tokens)),
                              chat.encoder.stop_ids))  # fmt: skip
    done = generate(chat.model, prompts, cache=new_cache(chat.model, prompts))
    found: list[tuple[str, str]] = []
    for prompt, completion in zip(prompts, done, strict=True):
        ids = [one for one in completion.ids if one not in prompt.stop_ids]
        found.append((_after(chat.encoder, list(prompt.ids), ids), str(completion.finish)))
    return found


def beginning(encoder: Encoder, said: Sequence[Message], prefix: str) -> list[int]:
    """The ids of a prompt and the beginning of its answer, as they are where the whole answer is learnt."""
    whole = encoder.encode([*said, Message("assistant", (Text(prefix),))], generate=False, cut=False)
    learnt = [place for place, target in enumerate(whole.targets) if target >= 0]
    if not learnt or whole.input_ids[learnt[-1]] not in encoder.stop_ids:
        raise UsageError("this model's template does not end an answer with one token; it cannot continue a beginning")
    return whole.input_ids[: learnt[-1]]


def _after(encoder: Encoder, before: Sequence[int], ids: Sequence[int]) -> str:
    """The text of ids that follow others: a space that begins a word is kept."""
    tail = before[-8:]  # a character may be made of several ids
    head = encoder.tokenizer.decode(tail, keep_markup=True)
    return encoder.tokenizer.decode([*tail, *ids], keep_markup=True).removeprefix(head).rstrip()

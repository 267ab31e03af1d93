"""`Chat`: a model, its tokenizer and a conversation, in the form people hold.

question + media --Encoder--> tokens, tiles --Features--> what fills the slots
                                 |                              |
                                 `---- Held: the part the cache already knows ----> Generation --> GrowingText
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL.Image import Image as Photo

from internvl.data.encode import Encoder
from internvl.data.limits import OPEN, Limits
from internvl.data.media import Source
from internvl.data.prompts import Message, Text, Video
from internvl.errors import ContextOverflow, UsageError
from internvl.inference.answer import Answer, GrowingText
from internvl.inference.attached import Budget, Pdf, Photos, asked, budget_of, shared
from internvl.inference.generate import Emitted, Generation, generate
from internvl.inference.pieces import Stream
from internvl.inference.rows import Prompt, new_cache
from internvl.inference.sampling import SamplingConfig
from internvl.inference.seen import Features, Held, digest, keys_of
from internvl.inference.turn import Read, Row
from internvl.models.chat import ChatModel
from internvl.models.config import TextConfig
from internvl.weights.load import load, load_encoder, resolve
from internvl.weights.placement import Device, devices_here

Report = Callable[[int, int], None]
Question = str | Text


class Chat:
    """Ask about pictures, videos and documents; what was said before is remembered.

    >>> chat = Chat.load("OpenGVLab/InternVL2_5-1B")                      # doctest: +SKIP
    >>> chat.ask("What is the total?", images=["receipt.jpg"]).text      # doctest: +SKIP
    '24.90 EUR'
    >>> for piece in chat.stream("And the date?"): print(piece, end="")   # doctest: +SKIP
    """

    def __init__(
        self,
        model: ChatModel,
        encoder: Encoder,
        *,
        max_tiles: int | None = None,
        system: str | None = None,
        sampling: SamplingConfig | None = None,
        limits: Limits = OPEN,
    ) -> None:
        """max_tiles: the budget of a question's pictures and pages together, thumbnails not counted; None: the
        checkpoint's for pictures, 64 where there is a document.

        system: None is the checkpoint's own message. limits: what media may be opened, and from where.
        """
        self.model, self.encoder = model.eval(), encoder
        self.max_tiles = max_tiles
        self._budget(max_tiles, pdf=None)
        self.system = system
        self.limits = limits
        self.sampling = sampling or SamplingConfig()
        self.history: list[Message] = []
        self.report: Report | None = None
        """Called with (done, total) while the tiles of a question are encoded."""
        self._original = encoder.config.compat == "original"
        self._features = Features(model, encoder.config.normalisation)
        self._held = Held(model, reuse=not self._original)
        self._running: Stream[Answer] | None = None

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        device: Device | Sequence[Device] | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        token: str | None = None,
        compat: Literal["original"] | None = None,
        max_tiles: int | None = None,
        system: str | None = None,
        sampling: SamplingConfig | None = None,
        limits: Limits = OPEN,
    ) -> Chat:
        """A hub id, zoo name or folder (None: the embedded nano), ready to talk.

        revision and token: of a model on the hub. max_tiles, system, sampling and limits are those of `Chat`. device
        and dtype None: what there is, and what it computes fast. `compat="original"` repeats what the original `chat()`
        does where that differs.
        """
        devices_here(device)  # a wrong name is said before anything is downloaded
        path = resolve(source, revision=revision, token=token)
        encoder = load_encoder(path, compat=compat)  # first: it says at once if this is no model that converses
        model = load(path, device=device, dtype=dtype, compat=compat)
        assert isinstance(model, ChatModel)
        return cls(model, encoder, max_tiles=max_tiles, system=system, sampling=sampling, limits=limits)

    # ---- questions ---------------------------------------------------------------------------------------------------

    def ask(
        self,
        question: Question,
        *,
        images: Sequence[Source | Photo] = (),
        video: Source | Video | Photos | None = None,
        pdf: Source | Pdf | Photos | None = None,
        frames: int | None = None,
        max_tiles: int | None = None,
        sampling: SamplingConfig | None = None,
    ) -> Answer:
        """Continue the conversation by a question and its answer.

        Pictures are paths, addresses, bytes or Pillow pictures. They come before the question, or at each `<image>`
        that a `str` question holds; pass what strangers wrote as `Text`, in which nothing is a placeholder. A video may
        be a list of its frames, a document a list of its pages, or a `Pdf` that says which pages and the password.
        """
        budget = self._budget(max_tiles, pdf)
        message = self._asked(question, budget, images=images, video=video, pdf=pdf, frames=frames)
        if self._config(sampling).beams > 1:
            return self._search(message, budget, sampling)
        stream = self._start(message, budget, sampling)
        for _ in stream:
            pass
        return stream.answer

    def stream(
        self,
        question: Question,
        *,
        images: Sequence[Source | Photo] = (),
        video: Source | Video | Photos | None = None,
        pdf: Source | Pdf | Photos | None = None,
        frames: int | None = None,
        max_tiles: int | None = None,
        sampling: SamplingConfig | None = None,
    ) -> Stream[Answer]:
        """`ask`, piece by piece. The pieces add up to the answer's text."""
        budget = self._budget(max_tiles, pdf)
        message = self._asked(question, budget, images=images, video=video, pdf=pdf, frames=frames)
        if self._config(sampling).beams > 1:
            raise UsageError("beam search knows its answer only at the end; use ask(), or beams=1 to stream")
        return self._start(message, budget, sampling)

    def batch(
        self,
        questions: Iterable[Question | tuple[Question, Sequence[Source | Photo]] | Sequence[Message]],
        *,
        max_tiles: int | None = None,
        sampling: SamplingConfig | Sequence[SamplingConfig] | None = None,
        batch_size: int = 8,
    ) -> list[Answer]:
        """Answer questions, each with its pictures, that have nothing to do with each other or with the conversation.

        A question may be a whole conversation: messages, the last one a user's. Their pictures may have budgets of
        their own; a system message among them goes before the chat's. sampling may be a list, one for each question.
        Pictures are opened `batch_size` questions at a time.

        >>> chat.batch([("Which dish?", ["a.jpg"]), "What is 2 + 2?"])  # doctest: +SKIP
        """
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; it must be at least 1")
        if isinstance(questions, str):
            raise UsageError("questions is one string; give a list of questions, or use ask()")
        budget = self._budget(max_tiles, pdf=None)
        configs: Iterable[SamplingConfig | None] = repeat(cast("SamplingConfig | None", sampling))
        if isinstance(sampling, list | tuple):
            configs, questions = sampling, list(questions)
            if len(configs) != len(questions):
                raise UsageError(f"sampling has {len(configs)} for {len(questions)} questions; give one for each")
        conversations = (self._conversation(question, budget) for question in questions)
        reads = (self._read(*read) for read in zip(conversations, repeat(budget), configs, strict=False))
        answers: list[Answer] = []
        while group := list(islice(reads, batch_size)):
            answers += self._together(group)
        return answers

    def reset(self) -> None:
        """Forget the conversation. Pictures that were looked at are still remembered, by their content."""
        self._stop()
        self.history.clear()

    def undo(self) -> list[Message]:
        """Forget the last question and its answer; returns them, and `history += ` brings them back."""
        self._stop()
        if not self.history:
            raise UsageError("nothing has been asked yet, so there is nothing to take back")
        forgotten = self.history[-2:]
        del self.history[-2:]
        return forgotten

    # ---- how ---------------------------------------------------------------------------------------------------------

    def _asked(self, question: Question, budget: Budget | None, **media: Any) -> Message:
        return asked(question, budget=budget, limits=self.limits, **media)

    def _conversation(self, question: Any, budget: Budget | None) -> list[Message]:
        """The messages of a question of a batch. Pictures without a budget of their own have a share of this one."""
        if not (isinstance(question, list | tuple) and question and isinstance(question[0], Message)):
            question, images = _pair(question)
            return [self._asked(question, budget, images=images)]
        return [shared(message, budget) for message in cast("Sequence[Message]", question)]

    def _config(self, given: Any) -> SamplingConfig:
        """What was given, or else the conversation's own; `Any`, because a dict is what people bring from elsewhere."""
        config = self.sampling if given is None else given
        if isinstance(config, SamplingConfig):
            return config
        raise UsageError(f"sampling is {config!r}; expected a SamplingConfig, such as SamplingConfig(temperature=0.7)")

    def _budget(self, max_tiles: int | None, pdf: Source | Pdf | Photos | None) -> Budget | None:
        """Tiles that a question's pictures and pages may have; None where the model sees each as one tile."""
        asked_for = self.max_tiles if max_tiles is None else max_tiles
        return budget_of(self.encoder.config, asked_for, document=pdf is not None)

    def _read(self, messages: Sequence[Message], budget: Budget | None, sampling: SamplingConfig | None) -> Read:
        """Encode a conversation and see that it fits."""
        sampling = self._config(sampling)
        theirs = messages[0].role == "system"
        system = () if self.system is None or theirs else (Message("system", (Text(self.system),)),)
        encoded = self.encoder.encode([*system, *messages])
        ends = np.cumsum(encoded.tiles_per_image)
        tiles = np.split(encoded.tiles, ends[:-1]) if len(ends) else []
        pictures = [(digest(one), one) for one in tiles]
        config = self.model.config
        keys = keys_of(encoded.input_ids, config.image_token, config.slots_per_tile, pictures)
        room = sampling.max_new_tokens if self._original else context(config.text) - len(keys)
        if room < 1:
            seen = sum(isinstance(key, tuple) for key in keys)
            do = "lower max_tiles or frames" if seen else "shorten it"
            raise ContextOverflow(
                f"the conversation has {len(keys)} tokens, {seen} of them from pictures, but the model reads "
                f"{context(config.text)}; {do}, or reset()"
            )
        new = min(sampling.max_new_tokens, room)
        sampling = replace(sampling, max_new_tokens=new, min_new_tokens=min(sampling.min_new_tokens, new))
        times = [part.times or () for part in messages[-1].parts if isinstance(part, Video)]
        shared = budget.together if budget else 1
        return Read(encoded, pictures, keys, sampling, shared, tuple(t for one in times for t in one))

    def _prompt(self, read: Read, reused: int = 0) -> Prompt:
        """What is left to read of a conversation of which the cache holds the first tokens."""
        slots = sum(isinstance(key, tuple) for key in read.keys[:reused])
        ends = np.cumsum([len(tiles) for _, tiles in read.pictures]) * self.model.config.slots_per_tile
        left = read.pictures[int(np.searchsorted(ends, slots, side="right")) :]
        seen = self._features.of(left, self.report or (lambda done, total: None))
        return Prompt(read.encoded.input_ids[reused:], seen, read.sampling, self.encoder.stop_ids, self._counted)

    def _start(self, message: Message, budget: Budget | None, sampling: SamplingConfig | None) -> Stream[Answer]:
        self._stop()  # two answers cannot grow in one cache
        read = self._read([*self.history, message], budget, sampling)
        self._running = Stream(self._pieces(message, read))
        return self._running

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _pieces(self, message: Message, read: Read) -> Generator[str, None, Answer]:
        cache, reused = self._held.begin(read.keys, read.sampling.max_new_tokens)
        run = Generation(self.model, [self._prompt(read, reused)], cache=cache)
        row = self._row(read)
        try:
            for [emitted] in run:
                if piece := row.hear(emitted):
                    yield piece
                if row.text.stopped:
                    run.end(0)
        finally:
            self._held.extend([*read.keys[reused:], *run.generated[0]])
        if rest := row.text.finish():
            yield rest
        answer = row.answer(reused)
        self._remember(message, answer)
        return answer

    def _search(self, message: Message, budget: Budget | None, sampling: SamplingConfig | None) -> Answer:
        """An answer by beam search, which needs a cache of its own."""
        self._stop()
        [answer] = self._together([self._read([*self.history, message], budget, sampling)])
        self._remember(message, answer)
        return answer

    def _together(self, reads: Sequence[Read]) -> list[Answer]:
        """Answer several conversations at once."""
        rows, prompts = [self._row(read) for read in reads], [self._prompt(read) for read in reads]
        if any(prompt.config.beams > 1 for prompt in prompts):
            for row, prompt in zip(rows, prompts, strict=True):
                [done] = generate(self.model, [prompt], cache=new_cache(self.model, [prompt]))
                for place, token in enumerate(done.tokens, start=1):
                    row.hear(Emitted(0, token, done.finish if place == len(done.tokens) else None))
                    if row.text.stopped:
                        break
        else:
            run = Generation(self.model, prompts, cache=new_cache(self.model, prompts))
            for emitted in run:
                for one in emitted:
                    rows[one.row].hear(one)
                    if rows[one.row].text.stopped:
                        run.end(one.row)
        for row in rows:
            row.text.finish()
        return [row.answer() for row in rows]

    def _row(self, read: Read) -> Row:
        decoder = self.encoder.tokenizer.stream(keep_markup=not self._original)
        # The original cuts an answer where it spells the end of a turn; here only the token itself ends one.
        spelt = self.encoder.template.stops[:1] if self._original else ()
        return Row(read, GrowingText(decoder, (*read.sampling.stop, *spelt)), self.encoder.lead_ids)

    @property
    def _counted(self) -> tuple[int, ...]:
        """The original's repetition penalty also counts the `<s>` that its library puts before an answer."""
        if not self._original or self.model.origin is None:
            return ()
        text = self.model.origin.raw.get("llm_config", {})
        return (text["bos_token_id"],) if text.get("bos_token_id") is not None else ()

    def _remember(self, message: Message, answer: Answer) -> None:
        self.history += [message, Message("assistant", (Text(answer.text),))]


def _pair(one: Any) -> tuple[Question, Sequence[Source | Photo]]:
    """A question of a batch and its pictures."""
    if not isinstance(one, tuple):
        return one, ()
    given = cast(tuple[Any, ...], one)
    if len(given) != 2:
        raise UsageError(f"a question of a batch is a tuple of {len(given)}; expected (question, pictures)")
    return given[0], given[1]


def context(config: TextConfig) -> int:
    """Tokens that a decoder reads: those it was trained for, more with dynamic NTK scaling."""
    stretched = config.rope is not None and config.rope.kind == "dynamic"
    return int(config.max_positions * config.rope.factor) if config.rope and stretched else config.max_positions

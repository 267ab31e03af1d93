"""What a worker makes of a request and of what its engine says: a `Request` of a prompt, Pieces and Dones of tokens.

    Ask --Speech.request--> Request for the engine
    Ask --Speech.answers--> a Saying for each answer: token after token --hear--> Piece, ... --end--> Piece, Done

A Piece has text that is certain: no half characters, and nothing that could still be the beginning of a stop string.
Nobody reads faster than some Pieces a second, and each of them costs three processes more than a token costs a small
model: what comes sooner than `PACE` after the last Piece of an answer waits for the next token.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from internvl.data.encode import Encoder
from internvl.errors import PlaceholderMismatch, UsageError
from internvl.inference.answer import GrowingText
from internvl.inference.constrain import Grammars
from internvl.inference.constraint import Constraint
from internvl.inference.draft import Restricts
from internvl.inference.engine import Request
from internvl.inference.pieces import overlap
from internvl.inference.sampling import SamplingConfig, Token
from internvl.inference.seen import digest
from internvl.serving.refusal import of_form
from internvl.serving.wire import Ask, Done, Piece

PACE = 0.04
"""Seconds between two Pieces of an answer, at least; its first and its last never wait."""
SEARCH_SECONDS = 0.5
"""For which the one of several tools is looked for whose schema cannot be kept: each may cost as much as a form may."""


class Speech:
    """The words of one model: how its prompts become requests, and its tokens text.

    >>> speech = Speech(encoder, vocab=1280)                              # doctest: +SKIP
    >>> engine.submit(speech.request(ask, tiles)), speech.answers(ask)    # doctest: +SKIP
    """

    def __init__(self, encoder: Encoder, vocab: int) -> None:
        """vocab: rows of the model's output."""
        self._encoder, self._tokenizer = encoder, encoder.tokenizer
        self._grammars = Grammars(encoder.tokenizer, vocab)
        self._vocab = vocab
        self._hidden = frozenset(
            i for i in self._tokenizer.structure if not self._tokenizer.decode([i], keep_markup=True)
        )
        """Tokens that are no part of a text: all of structure but markup."""

    @property
    def lead(self) -> str:
        """What the first token of an answer with a form carries, and decoding takes away."""
        return self._grammars.lead

    def request(self, ask: Ask, tiles: np.ndarray | None = None) -> Request:
        """What the engine takes. tiles: (n, S, S, 3) uint8 of all pictures. May be called from any thread.

        Pictures are known by the digest of what is here, not by what somebody says it is. `UsageError`,
        `PlaceholderMismatch` and `ContextOverflow` say what cannot be answered.
        """
        options: dict[str, Any] = {**ask.sampling, "stop": tuple(ask.sampling.get("stop", ()))}
        sampling = SamplingConfig(**options)
        return Request(
            ids=ask.ids,
            pictures=self._pictures(ask, tiles),
            sampling=sampling,
            stop_ids=self._encoder.stop_ids,
            n=ask.n,
            priority=ask.priority,
            user=ask.user,
            constraint=self._restricts(ask),
        )

    def answers(self, ask: Ask) -> list[Saying]:
        """Its n answers, of which nothing is said yet."""
        stop = tuple(ask.sampling.get("stop", ()))
        constrained = ask.constraint is not None
        among_words = ask.constraint is not None and bool(ask.constraint.get("open"))

        def saying(number: int) -> Saying:
            stream = self._grammars.stream() if constrained else self._tokenizer.stream(keep_markup=True)
            text = GrowingText(stream, stop, strip=bool(ask.strip) and (among_words or not constrained))
            tokens = Spoken(self._tokenizer.spelling, stop) if ask.logprobs else None
            return Saying((ask.id, number), text, tokens, self._encoder.lead_ids, self._hidden)

        return [saying(number) for number in range(ask.n)]

    def _pictures(self, ask: Ask, tiles: np.ndarray | None) -> list[tuple[str, np.ndarray]]:
        size = self._encoder.config.tile_size
        counts = [int(count) for count in ask.tiles]
        given = np.empty((0, size, size, 3), np.uint8) if tiles is None else tiles
        if given.shape[1:] != (size, size, 3) or min(counts, default=1) < 1 or sum(counts) != len(given):
            raise PlaceholderMismatch(
                f"the pictures have the shape {given.shape}; {sum(counts)} tiles of {size} x {size} were expected"
            )
        parts = np.split(given, np.cumsum(counts)[:-1]) if counts else []
        return [(digest(one), one) for one in parts]

    def _restricts(self, ask: Ask) -> Callable[[], Restricts] | None:
        """Makes the form of an answer; what it costs to compile it is spent here."""
        if ask.constraint is None:
            return None
        form: dict[str, Any] = dict(ask.constraint)
        asked, lead = Constraint(**form), self._encoder.lead_ids
        try:
            first = self._grammars.start(asked, self._encoder.stop_ids)
        except UsageError as error:
            raise of_form(error, self._at_fault(asked, ask.constraint_at)) from None
        return lambda: Led(first.copy(), lead, self._vocab) if lead else first.copy()

    def _at_fault(self, form: Constraint, at: Sequence[str]) -> Sequence[str]:
        """The field whose form cannot be kept: of several tools the first whose own cannot, if it is soon found."""
        calls: list[Any] = json.loads(form.source)["anyOf"] if len(at) > 1 else []
        end = time.monotonic() + SEARCH_SECONDS
        for place, field in enumerate(at[: len(calls)]):  # the others stay where they are: references count on it
            if time.monotonic() > end:
                break
            alone = [call if number == place else {"type": "null"} for number, call in enumerate(calls)]
            try:
                self._grammars.renewed(Constraint(form.kind, json.dumps({"anyOf": alone})))
            except UsageError:
                return [field]
        return at


class Led:
    """An answer with a form, of a model that writes something of its own before every answer: first that."""

    def __init__(self, form: Restricts, lead: Sequence[int], vocab: int) -> None:
        self._form, self._lead, self._vocab = form, list(lead), vocab

    @property
    def finished(self) -> bool:
        return not self._lead and self._form.finished

    def allowed(self) -> Tensor:
        if not self._lead:
            return self._form.allowed()
        mask = torch.zeros(self._vocab, dtype=torch.bool)
        mask[self._lead[0]] = True
        return mask

    def accept(self, token: int) -> None:
        if self._lead:
            self._lead.pop(0)
        else:
            self._form.accept(token)


class Spoken:
    """The tokens of an answer, told when it is certain that they are not of a stop string.

    >>> spoken = Spoken(lambda i: bytes([i]), ["END"])
    >>> [len(spoken.push(Token(ord(letter), -1.0), stopped=False)) for letter in "aENb"]
    [1, 0, 0, 3]
    """

    def __init__(self, spell: Callable[[int], bytes], stop: Sequence[str]) -> None:
        self._spell, self._stop = spell, [one.encode("utf-8", "surrogatepass") for one in stop]
        self._said = bytearray()
        self._certain = 0
        """Bytes that are of no stop string, whatever follows."""
        self._waiting: list[tuple[int, dict[str, Any]]] = []
        """Where a token begins, and what is told of it."""

    def push(self, token: Token, *, stopped: bool) -> list[dict[str, Any]]:
        """Tokens that are certain now and were not before. stopped: with this token a stop string is complete."""
        told = self._told(token.id, token.logprob)
        told["top"] = [self._told(id, logprob) for id, logprob in token.top]
        self._waiting.append((len(self._said), told))
        self._said += self._spell(token.id)
        places = [place for one in self._stop if (place := self._said.find(one, self._certain)) >= 0]
        if stopped and places:
            self._certain = min(places)
        else:
            self._certain = len(self._said) - max((overlap(self._said, one) for one in self._stop), default=0)
        return self._release()

    def finish(self) -> list[dict[str, Any]]:
        """The rest, where no stop string came."""
        self._certain = len(self._said) + 1
        return self._release()

    def _release(self) -> list[dict[str, Any]]:
        count = next((n for n, (start, _) in enumerate(self._waiting) if start >= self._certain), len(self._waiting))
        told, self._waiting = self._waiting[:count], self._waiting[count:]
        return [one for _, one in told]

    def _told(self, id: int, logprob: float) -> dict[str, Any]:
        spelt = self._spell(id)
        return {"text": spelt.decode("utf-8", "replace"), "bytes": list(spelt), "logprob": logprob}


class Saying:
    """One answer as it grows."""

    def __init__(
        self,
        name: tuple[int, int],
        text: GrowingText,
        tokens: Spoken | None,
        lead: Sequence[int],
        hidden: Collection[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """name: of the request, and which of its answers it is. lead: what the model writes before every answer.

        hidden: tokens that are no part of the text, and of which nothing is told.
        """
        self.name, self._clock = name, clock
        self._text, self._tokens, self._lead, self._hidden = text, tokens, tuple(lead), hidden
        self._drawn: list[int] = []
        self._untold = ""
        self._untold_tokens: list[dict[str, Any]] = []
        self._told_at = float("-inf")

    @property
    def stopped(self) -> bool:
        """A stop string was met: the answer is over."""
        return self._text.stopped

    def hear(self, token: Token, *, silent: bool) -> list[Piece]:
        """Take a token; what there is to tell now. silent: it ends the answer and is not of it."""
        self._drawn.append(token.id)
        if silent or self._lead[: len(self._drawn)] == tuple(self._drawn):
            return []
        self._untold += self._text.push(token.id)
        if self._tokens and token.id not in self._hidden:
            self._untold_tokens += self._tokens.push(token, stopped=self.stopped)
        return self._piece() if self._clock() - self._told_at >= PACE else []

    def end(self, finish: str, *, reused: int, last: bool) -> list[Piece | Done]:
        """What was held back, and that it is over. A stop string decides how it ended."""
        self._untold += self._text.finish()
        if self._tokens and not self.stopped:
            self._untold_tokens += self._tokens.finish()
        id, number = self.name
        done = Done(id=id, answer=number, finish="stop" if self.stopped else finish, completion=len(self._drawn),
                    reused=reused, last=last)  # fmt: skip
        return [*self._piece(), done]

    def _piece(self) -> list[Piece]:
        """All that was not told."""
        if not self._untold and not self._untold_tokens:
            return []
        id, number = self.name
        piece = Piece(id=id, answer=number, text=self._untold, tokens=self._untold_tokens)
        self._untold, self._untold_tokens, self._told_at = "", [], self._clock()
        return [piece]

"""Answers that must have a form: which tokens may come next, by the grammar library llguidance.

    Constraint         what is asked for: a JSON object, a JSON schema, a regular expression, one of some choices
    Grammars           one tokenizer's table and the grammars compiled for it; the owner of everything that is shared
    ConstrainedAnswer  one answer: `allowed()` before each token, `accept(token)` after it

A grammar sees the bytes that tokens spell, so a character may be cut across tokens. Special tokens spell nothing: they
are never allowed, and a stop token is allowed exactly where the form may end.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from internvl.data.detokenizer import ByteFlow, StreamDecoder
from internvl.data.tokenizer import Tokenizer
from internvl.errors import MissingExtra, UsageError
from internvl.inference.constraint import Constraint, short

if TYPE_CHECKING:
    import llguidance

__all__ = ["ConstrainedAnswer", "Constraint", "Grammars"]

KEPT_GRAMMARS = 16
"""Compiled grammars that a `Grammars` keeps, the latest asked for. The costliest holds some 20 MB."""


class Grammars:
    """One tokenizer's table, built once, and the grammars compiled for it.

    `vocab_size` are the rows of the model's output, which may be more than the tokenizer has tokens: a row without a
    token is never allowed. `MissingExtra` without llguidance. Compiling lets other threads run, and may be asked for
    from any of them.

    >>> grammars = Grammars(tokenizer, vocab_size=model.config.text.vocab_size)   # doctest: +SKIP
    >>> answer = grammars.start(Constraint.choice(["yes", "no"]), stop_ids=(2,))  # doctest: +SKIP
    >>> while not answer.finished:                                                # doctest: +SKIP
    ...     answer.accept(int(logits().masked_fill(~answer.allowed(), -inf).argmax()))
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int | None = None) -> None:
        try:
            import llguidance
        except ImportError:
            raise MissingExtra(
                "a constrained answer needs the package llguidance (pip install 'internvl[serve]')"
            ) from None
        self.vocab_size = tokenizer.vocab_size if vocab_size is None else vocab_size
        self._spelt = _spelling(tokenizer, self.vocab_size)
        self.spoken = torch.tensor([bool(spelt) for spelt in self._spelt])
        """(vocab,) bool: tokens that spell something."""
        self._first = _first_tokens(tokenizer, self._spelt)
        table = llguidance.TokenizerWrapper(_Table(self._spelt))
        self._table = llguidance.LLTokenizer(table)
        # In the library's units: what building, one step and keeping may cost. Its messages do not show the grammar.
        self._limits = llguidance.LLParserLimits(
            max_items_in_row=2_000,
            initial_lexer_fuel=1_000_000,
            step_lexer_fuel=200_000,
            step_max_items=50_000,
            max_lexer_states=20_000,
            max_grammar_size=100_000,
            verbose_errors=False,
        )
        self._compiled: OrderedDict[Constraint, tuple[Place, ...]] = OrderedDict()
        self._lock = Lock()

    def start(self, constraint: Constraint, stop_ids: Sequence[int]) -> ConstrainedAnswer:
        """An answer that has not begun; `UsageError` where the grammar is not valid or costs too much."""
        with self._lock:
            places = self._compiled.get(constraint)
        if places is None:  # two threads may both compile it: better than one waiting for another's grammar
            places = self._compile(constraint)
        with self._lock:
            self._compiled[constraint] = places
            self._compiled.move_to_end(constraint)
            while len(self._compiled) > KEPT_GRAMMARS:
                self._compiled.popitem(last=False)
        return ConstrainedAnswer(self, constraint, places, stop_ids)

    def renewed(self, constraint: Constraint) -> tuple[Place, ...]:
        """A grammar for one answer alone; the shared one is forgotten."""
        with self._lock:
            self._compiled.pop(constraint, None)
        return self._compile(constraint)

    @property
    def lead(self) -> str:
        """What the first token of an answer carries and decoding takes away: a space, with some tokenizers."""
        return "" if self._first is None else " "

    def stream(self) -> StreamDecoder:
        """Decodes a constrained answer: exactly the text that its grammar saw, without the tidying of some tokenizers.

        InternLM2's decoder takes the space out of "a !": a choice of that text would come out as another.
        """

        def read(i: int) -> bytes | None:
            return self._spelt[i] or None

        return StreamDecoder(read, ByteFlow(strip_first_space=self._first is not None), tidy=False)

    def open_after(self, token: int, where: Tensor) -> Tensor:
        """(vocab,) what may follow a token that was taken where `where` was open, as far as the decoder minds."""
        if self._first is not None and where is self._first[1] and self._spelt[token] == b" ":
            return self._first[0]  # some decoders take a second space away too, where the first stood alone
        return self.spoken

    def _compile(self, constraint: Constraint) -> tuple[Place, ...]:
        if self._first is None:
            found = [Place(self._matcher(constraint.grammar()), self.spoken)]
        else:
            # The space that the first piece carries is not part of the answer, but a grammar sees every byte.
            plain, led = self._first
            found = [
                Place(self._matcher(constraint.grammar()), plain),
                Place(self._matcher(constraint.grammar(" ")), led),
            ]
        good = tuple(each for each in found if not each.matcher.is_error())
        if not good:
            raise UsageError(f"this {constraint.kind} cannot be used: {_reason(found[0].matcher)}; change it")
        return good

    def _matcher(self, grammar: str) -> llguidance.LLMatcher:
        import llguidance

        matcher = llguidance.LLMatcher(self._table, grammar, log_level=0, limits=self._limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # here, where it is shared, and where a form that nothing fits shows itself
        return matcher


@dataclass(frozen=True, eq=False)
class Place:
    """A grammar at some place, and (vocab,) which tokens may come next there if it allows them."""

    matcher: llguidance.LLMatcher
    open: Tensor


class ConstrainedAnswer:
    """One answer on its way through a grammar: `allowed()`, then `accept(token)`, until it is `finished`.

    `fresh()` is another answer under the same grammar; `copy()` one that goes on from the same place.
    """

    def __init__(
        self, grammars: Grammars, constraint: Constraint, places: tuple[Place, ...], stop_ids: Sequence[int]
    ) -> None:
        self._grammars, self._constraint, self._stop_ids = grammars, constraint, tuple(stop_ids)
        self._at = _copied(places)
        self._said: list[int] = []
        self._alone = self._ended = False

    @property
    def finished(self) -> bool:
        """The answer is complete and nothing but a stop token can follow, or one has."""
        return self._ended or all(each.matcher.is_stopped() and not each.matcher.is_error() for each in self._at)

    def allowed(self) -> Tensor:
        """(vocab,) bool: the tokens that may come next; a new tensor every time. After a stop token: none.

        `UsageError` where the grammar costs too much to go on, or no token of this vocabulary can.
        """
        size = self._grammars.vocab_size
        mask = np.zeros(size, dtype=np.bool_)
        for each in () if self.finished else self._at:
            bits = np.frombuffer(each.matcher.compute_bitmask(), dtype=np.uint8)
            if each.matcher.is_error():
                if self._starts_over():
                    return self.allowed()
                raise UsageError(f"the answer cannot go on: {_reason(each.matcher)}; simplify what is asked for")
            mask |= np.unpackbits(bits, count=size, bitorder="little").view(np.bool_) & each.open.numpy()
        may_end = self._may_end
        mask[list(self._stop_ids)] = may_end
        if not may_end and not self._ended and not mask.any():
            raise UsageError(f"the answer cannot go on: {_UNSPEAKABLE}; simplify what is asked for")
        return torch.from_numpy(mask)

    def accept(self, token: int) -> None:
        """Goes on by one token; `UsageError`, and no change, if it is not allowed."""
        if token in self._stop_ids:
            if not self._may_end:
                raise UsageError(f"token {token} would stop the answer where it is not complete; ask allowed() first")
            self._ended = True
        elif self._step(token) or (self._starts_over() and self._step(token)):
            self._said.append(token)
        else:
            self.allowed()  # says so where the grammar, not the token, is at fault
            raise UsageError(f"token {token} does not continue the answer; ask allowed() before choosing one")

    def fresh(self) -> ConstrainedAnswer:
        """Another answer that has not begun."""
        return self._grammars.start(self._constraint, self._stop_ids)

    def copy(self) -> ConstrainedAnswer:
        """Another answer that has come as far as this one."""
        twin = ConstrainedAnswer(self._grammars, self._constraint, self._at, self._stop_ids)
        twin._said, twin._ended = [*self._said], self._ended
        return twin

    @property
    def _may_end(self) -> bool:
        return not self._ended and any(each.matcher.is_accepting() for each in self._at)

    def _step(self, token: int) -> bool:
        for each in () if self._ended or not 0 <= token < self._grammars.vocab_size else self._at:
            if each.open[token] and each.matcher.try_consume_tokens([token]) == 1:
                self._at = (Place(each.matcher, self._grammars.open_after(token, each.open)),)
                return True
        return False

    def _starts_over(self) -> bool:
        """Says everything again in a grammar of its own, where the shared one is used up; once.

        The answers of one grammar share what it has built, and so the limit on that: one must not end another.
        """
        for each in self._at:
            each.matcher.compute_bitmask()  # a token that was refused leaves no error behind
        if self._alone or not any(_costs_too_much(each.matcher) for each in self._at):
            return False
        self._alone, self._at = True, self._grammars.renewed(self._constraint)
        return all(self._step(token) for token in self._said)


def _copied(at: tuple[Place, ...]) -> tuple[Place, ...]:
    return tuple(Place(each.matcher.deep_copy(), each.open) for each in at)


# ---- the table -------------------------------------------------------------------------------------------------------

_UNSPEAKABLE = "no token of this model's vocabulary spells what must come next"
_SPACE_TAKEN = re.compile(rb" [^ .?!,\'n]")
"""A token that tells whether the first space is taken away, by nothing but its place."""


@dataclass(frozen=True)
class _Table:
    """A vocabulary as llguidance reads it. The end is an id after all others; stop tokens are no business of its."""

    spelt: list[bytes]

    @property
    def tokens(self) -> list[bytes]:
        return [*self.spelt, b"end"]

    @property
    def eos_token_id(self) -> int:
        return len(self.spelt)

    @property
    def special_token_ids(self) -> list[int]:
        return [self.eos_token_id]

    bos_token_id = None

    def __call__(self, text: object) -> list[int]:
        raise TypeError("grammars without forced tokens never ask for the ids of a text")


def _spelling(tokenizer: Tokenizer, vocab_size: int) -> list[bytes]:
    """The bytes that each row of the model's output writes; none for special tokens and rows without a token."""
    spelt = [b"" if i in tokenizer.structure else tokenizer.spelling(i) for i in range(vocab_size)]
    # 0xFF is in no text, and the library takes a token that begins with it for one of its own marks
    return [b"" if b"\xff" in bytes_ else bytes_ for bytes_ in spelt]


def _first_tokens(tokenizer: Tokenizer, spelt: list[bytes]) -> tuple[Tensor, Tensor] | None:
    """What may come first where a tokenizer takes the first space away: tokens without one, tokens that lose theirs.

    None where it does not.
    """
    probe = next((i for i, text in enumerate(spelt) if _SPACE_TAKEN.match(text)), None)
    if probe is None or tokenizer.decode([probe]).startswith(" "):
        return None
    plain = torch.tensor([text[:1] not in (b"", b" ") for text in spelt])
    led = torch.tensor([text[:1] == b" " and _loses_one(text, tokenizer.decode([i])) for i, text in enumerate(spelt)])
    return plain, led


def _loses_one(spelt: bytes, said: str) -> bool:
    """Whether a first token is read without its first space, and with everything else that it spells."""
    return len(spelt) - len(spelt.lstrip(b" ")) - 1 == len(said) - len(said.lstrip(" "))


def _costs_too_much(matcher: llguidance.LLMatcher) -> bool:
    told = re.search(r"^panic|too (many|large|big|complex)|max is \d|^Unable to determine", matcher.get_error())
    return matcher.is_error() and ("TooComplex" in matcher.stop_reason() or told is not None)


def _reason(matcher: llguidance.LLMatcher) -> str:
    """One line of what the library says of a grammar; nothing of where its own code stands."""
    message = matcher.get_error()
    if message.startswith("NoExtension"):
        return _UNSPEAKABLE
    if _costs_too_much(matcher):
        return "it costs more than a grammar may"
    error = re.search(r"^error: (.+)$", message, flags=re.MULTILINE)
    line = error[1] if error else message.partition("\n")[0]
    return short(
        re.sub(r"^at \d+\(\d+\): (?:failed to compile JSON schema: |invalid regex .* \(in regex\): )?", "", line)
    )

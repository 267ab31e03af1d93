"""Token ids -> text, one id at a time: what `decode` writes for the whole is what the pieces add up to.

`decode` runs the same code as streaming, so the two cannot disagree, and the cost is linear in the number of ids. The
rules about spaces are those of the slow tokenizers with which the family was trained and evaluated; where text is cut
at special tokens they are odd, but prompts, labels and published answers were made with them.
"""

from __future__ import annotations

import codecs
import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from internvl.data.vocabulary import SPACE, SentencePieces


@dataclass(frozen=True)
class Special:
    """A token that is placed, not spelt: `skip` says that `decode(skip_special=True)` drops it.

    `strip_left` and `strip_right`: white space on that side of it is swallowed when text is encoded.
    """

    text: str
    id: int
    strip_left: bool = False
    strip_right: bool = False
    skip: bool = True


@dataclass(frozen=True)
class Spacing:
    """Where a SentencePiece tokenizer adds and removes spaces. A *group* is what stands between two tokens apart.

    - `strip_first`: the first piece of a group loses its space mark.
    - `gap`: a space is written before a text that a special token ends: never, not at the start of a group, always.
    - `tidy_groups`: each group loses the spaces before its punctuation.
    """

    strip_first: bool
    gap: Literal["never", "inside", "always"]
    tidy_groups: bool


class Flow(Protocol):
    """What is read (a special token, or a piece of the vocabulary) -> text, in order."""

    def push(self, item: Special | str | bytes) -> str: ...

    def finish(self) -> str: ...


class StreamDecoder:
    """Turns ids into text as they come; never half a character.

    >>> stream = tokenizer.stream()                                                        # doctest: +SKIP
    >>> "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)          # doctest: +SKIP
    True
    """

    def __init__(self, read: Callable[[int], Special | str | bytes | None], flow: Flow, *, tidy: bool) -> None:
        self._read, self._flow = read, flow
        self._tidy = Tidy() if tidy else None

    def push(self, token_id: int) -> str:
        """The text that is certain once this id is known; often empty."""
        item = self._read(operator.index(token_id))  # an element of an array or tensor is an id too
        text = "" if item is None else self._flow.push(item)
        return self._tidy.push(text) if self._tidy else text

    def finish(self) -> str:
        """The rest; an unfinished character comes as U+FFFD."""
        text = self._flow.finish()
        return self._tidy.push(text) + self._tidy.finish() if self._tidy else text


class ByteFlow:
    """Byte-level BPE, and SentencePiece in its converted form: one stream of bytes, special tokens written into it."""

    def __init__(self, *, strip_first_space: bool) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = strip_first_space

    def push(self, item: Special | str | bytes) -> str:
        if isinstance(item, bytes):
            return self._start(self._utf8.decode(item))
        cut_short = self._utf8.decode(b"", True)
        return self._start(cut_short + (item.text if isinstance(item, Special) else item))

    def finish(self) -> str:
        return self._start(self._utf8.decode(b"", True))

    def _start(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text


class PieceFlow:
    """SentencePiece: groups of pieces, with tokens apart between them and `separator` around those."""

    def __init__(
        self, vocabulary: SentencePieces, spacing: Spacing, *, apart: Collection[int], separator: str, hold: bool
    ) -> None:
        self._vocabulary, self._spacing, self._apart, self._separator = vocabulary, spacing, apart, separator
        # Whether a text gets a space before it is known when it ends. Only where special tokens are shown.
        self._hold = hold and spacing.gap != "never"
        self._written = False
        self._open_group()

    def _open_group(self) -> None:
        self._count = 0
        self._after_special = False
        self._shown = False
        self._held: list[str] = []
        self._run = _Run(self._vocabulary)
        self._tidy = Tidy() if self._spacing.tidy_groups else None

    def push(self, item: Special | str | bytes) -> str:
        if isinstance(item, Special) and item.id in self._apart:
            return self._close_group() + self._text_of_its_own(item.text)
        text = self._special(item) if isinstance(item, Special) else self._piece(str(item))
        self._count += 1
        return self._show(self._tidy.push(text) if self._tidy else text)

    def finish(self) -> str:
        unseen = self._count > 0 and not self._shown
        text = self._close_group()
        return text or (self._text_of_its_own("") if unseen else "")

    def _special(self, special: Special) -> str:
        text = self._end_run()
        wanted = {"never": False, "inside": self._count > 0, "always": True}[self._spacing.gap]
        gap = " " if wanted and not self._after_special else ""
        self._after_special = True
        return gap + text + special.text

    def _piece(self, piece: str) -> str:
        if self._count == 0 and self._spacing.strip_first:
            piece = piece.removeprefix(SPACE)
        self._after_special = False
        text = self._run.push(piece)
        if self._hold:
            self._held.append(text)
            return ""
        return text

    def _end_run(self) -> str:
        text = "".join(self._held) + self._run.finish()
        self._held, self._run = [], _Run(self._vocabulary)
        return text

    def _close_group(self) -> str:
        text = self._end_run()
        text = self._show(self._tidy.push(text) + self._tidy.finish() if self._tidy else text)
        self._open_group()
        return text

    def _show(self, text: str) -> str:
        if self._shown or not text:
            return text
        self._shown = True
        return self._text_of_its_own(text)

    def _text_of_its_own(self, text: str) -> str:
        separator, self._written = self._separator if self._written else "", True
        return separator + text


class _Run:
    """SentencePiece's decoder, one piece at a time."""

    def __init__(self, vocabulary: SentencePieces) -> None:
        self._vocabulary = vocabulary
        self._at_start, self._stripped, self._bytes = True, False, b""

    def push(self, piece: str) -> str:
        byte = self._vocabulary.byte(piece)
        if byte is not None:
            self._bytes += bytes([byte])
            return self._seen(self._characters(final=False))
        before = self._seen(self._characters(final=True))
        self._at_start = self._at_start and not self._stripped
        text, self._stripped = self._vocabulary.surface(piece, at_start=self._at_start)
        return before + self._seen(text)

    def finish(self) -> str:
        return self._characters(final=True)

    def _seen(self, text: str) -> str:
        self._at_start = self._at_start and not text
        return text

    def _characters(self, *, final: bool) -> str:
        """The whole characters among the waiting bytes; a byte that can belong to none is U+FFFD by itself."""
        text = ""
        while self._bytes:
            try:
                more, used = codecs.utf_8_decode(self._bytes, "strict", final)
            except UnicodeDecodeError as error:
                more, used = self._bytes[: error.start].decode() + "\ufffd", error.start + 1
            else:
                if not used:
                    break
            text, self._bytes = text + more, self._bytes[used:]
        return text


class Tidy:
    """Takes the spaces before punctuation and contractions out, as `str.replace` would, one pattern after another."""

    PATTERNS = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")

    def __init__(self) -> None:
        self._waiting = [""] * len(self.PATTERNS)

    def push(self, text: str) -> str:
        for stage, pattern in enumerate(self.PATTERNS):
            text = self._waiting[stage] + text
            if " " not in text:  # every pattern starts with one
                continue
            *done, rest = text.split(pattern)
            keep = next((n for n in range(min(len(pattern) - 1, len(rest)), 0, -1) if pattern.startswith(rest[-n:])), 0)
            self._waiting[stage] = rest[len(rest) - keep :]
            text = pattern.strip().join([*done, rest[: len(rest) - keep]])
        return text

    def finish(self) -> str:
        text = ""
        for stage, pattern in enumerate(self.PATTERNS):
            text = (self._waiting[stage] + text).replace(pattern, pattern.strip())
        self._waiting = [""] * len(self.PATTERNS)
        return text

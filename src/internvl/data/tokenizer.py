"""Text <-> token ids for every model of the family, from the files of a checkpoint and nothing else.

    tokenizer.model              SentencePiece: Llama, Yi, InternLM2, InternLM3, Phi-3, QLLaMA
    vocab.json and merges.txt    byte-level BPE: Qwen2, Qwen2.5, Qwen3
    tokenizer.json               byte-level BPE (Llama-3, GPT-OSS) or SentencePiece in its converted form

Special tokens are split by us, never by the library underneath: a token that gives a prompt its structure enters only
as a `Special`, and the same characters in a text stay characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal

from internvl.data.detokenizer import Special, StreamDecoder
from internvl.data.tokenizer_files import TokenizerParts, read_tokenizer
from internvl.data.vocabulary import SPACE
from internvl.errors import DamagedFile, DataError, find

__all__ = ["MARKUP", "Special", "Specials", "StreamDecoder", "Tokenizer"]

Specials = Literal["all", "markup", "none"]

MARKUP = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
"""Tokens that a text may spell: they mark a region, they give no structure to the prompt."""

_NO_TOKEN = "\ufffd"
_SURROGATES = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """The tokenizer of one checkpoint.

    `bos_id`, `eos_id` and `pad_id` are None where the checkpoint names no such token; `adds_bos` says whether it starts
    every prompt with bos by itself. `markup` are the tokens that a text may spell: `MARKUP`, and those that the files
    list as such.

    >>> tokenizer = Tokenizer.from_folder(Path("InternVL2_5-8B"))                # doctest: +SKIP
    >>> image = tokenizer.special("<IMG_CONTEXT>")                               # doctest: +SKIP
    >>> ids = tokenizer.encode_pieces(["What is ", image, "?"])                  # doctest: +SKIP
    >>> image in tokenizer.encode("What is <IMG_CONTEXT>, which I only typed?")  # doctest: +SKIP
    False
    """

    def __init__(self, parts: TokenizerParts) -> None:
        self._vocabulary, self._flow, self._tidy = parts.vocabulary, parts.flow, parts.tidy
        self._by_id = {special.id: special for special in parts.specials}
        self._by_text = {special.text: special for special in parts.specials}
        self._tags = {text: i for text, i in parts.vocabulary.tags.items() if text not in self._by_text}
        self._vocabulary.shield(self._by_id)
        self.markup = (*MARKUP, *(text for text in parts.markup if text in self._by_text))
        self.bos_id = parts.named.get("bos_token")
        self.eos_id = parts.named.get("eos_token")
        self.pad_id = parts.named.get("pad_token")
        self.adds_bos = parts.adds_bos

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Reads a checkpoint's tokenizer; `CheckpointError` says which file is missing, damaged or contradictory."""
        try:
            return cls(read_tokenizer(Path(folder)))
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            # In a damaged file any field may be of any type; each is understood, or not, where it is used.
            raise DamagedFile(
                f"{folder}: a field of its tokenizer's files is not what it should be ({error!r}); "
                "take them again from where the checkpoint came from"
            ) from error

    # ---- looking up --------------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs to hold every id."""
        return max([len(self._vocabulary), *(i + 1 for i in self._by_id)])

    def special(self, text: str) -> Special:
        """The token that may be put between pieces of text; `NoSuchName` if the checkpoint has none of that text."""
        if text in self._tags:
            return Special(text, self._tags[text], skip=False)
        return find("special token", text, self._by_text)

    def id_of(self, text: str) -> int | None:
        """The id of a special token, or of the piece of the vocabulary that is written so."""
        special = self._by_text.get(text)
        return special.id if special else self._vocabulary.id_of(text)

    def spelling(self, i: int) -> bytes:
        """The exact bytes that a token stands for, wherever it is: a space that it begins with is one of them.

        They may end inside a character. A special token spells its own text, an id that has no token nothing. `decode`
        is the joined bytes of ordinary tokens but for the spaces that some tokenizers take away, the first or those
        before punctuation. `DataError` if the id is negative.

        >>> b"".join(map(tokenizer.spelling, tokenizer.encode("naïve 🙂"))).decode()  # doctest: +SKIP
        'naïve 🙂'
        """
        special = self._by_id.get(_checked(i))
        return special.text.encode() if special else self._vocabulary.spelling(i) or b""

    @cached_property
    def structure(self) -> frozenset[int]:
        """Ids that no text is made of: every special token, markup among them, and the marks of the vocabulary."""
        return frozenset({*self._by_id, *self._vocabulary.marks})

    # ---- text -> ids -------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, specials: Specials = "markup", bos: bool = False) -> list[int]:
        """Ids of one text. `specials` says which tokens the text may spell: all that exist, the markup, or none."""
        return self.encode_pieces([text], bos=bos, specials=specials)

    def encode_pieces(
        self, pieces: Sequence[str | Special], *, bos: bool | None = None, specials: Specials = "markup"
    ) -> list[int]:
        """Ids of text and special tokens in order; texts that touch are one text. `bos=None`: as the checkpoint does.

        The ids are those of the joined string, except that no text becomes a token which `specials` does not allow.
        """
        runs = self._runs(_stripped(self._split(pieces, specials)))
        lead = self._vocabulary.lead
        if lead is not None and runs and isinstance(runs[0], Special):
            runs.insert(0, [""])  # the space before the whole text is there whatever the text begins with
        ids: list[int] = []
        for place, run in enumerate(runs):
            ids += [run.id] if isinstance(run, Special) else self._vocabulary.encode(run, first=place == 0)
        # ... but alone before a special token it goes away; not before other added tokens, such as Phi-3's roles
        if lead is not None and len(ids) > 1 and ids[0] == lead and (after := self._by_id.get(ids[1])) and after.skip:
            del ids[0]
        if not (self.adds_bos if bos is None else bos):
            return ids
        if self.bos_id is None:
            raise DataError("this tokenizer has no bos token; encode with bos=False")
        return [self.bos_id, *ids]

    def _split(self, pieces: Sequence[str | Special], specials: Specials) -> list[str | Special]:
        """The pieces, with what the texts may spell cut out of them."""
        parts: list[str | Special] = []
        for is_text, group in groupby(pieces, lambda piece: isinstance(piece, str)):
            run = list(group)
            if is_text:
                # half of a surrogate pair is no character, and no tokenizer takes it
                text = _SURROGATES.sub(_NO_TOKEN, "".join(piece for piece in run if isinstance(piece, str)))
                if self._vocabulary.lead is not None:
                    text = text.replace(SPACE, " ")  # here already: tokens that swallow white space swallow these too
                cut = self._spelt[specials].split(text)
                parts += [self.special(part) if place % 2 else part for place, part in enumerate(cut)]
            else:
                parts += run
        return parts

    def _runs(self, parts: Iterable[str | Special]) -> list[list[str | int] | Special]:
        """Added tokens, and between them runs of text in which the vocabulary's own tags stand as ids."""
        runs: list[list[str | int] | Special] = []
        for part in parts:
            if isinstance(part, Special) and part.id in self._by_id:
                runs.append(part)
                continue
            if isinstance(part, Special) and self._tags.get(part.text) != part.id:
                raise DataError(f"{part.text!r} as token {part.id} is not of this tokenizer; ask its `special` for it")
            last = runs[-1] if runs else None
            if not isinstance(last, list):
                runs.append(last := [])
            last.append(part.id if isinstance(part, Special) else part)
        return runs

    @cached_property
    def _spelt(self) -> dict[Specials, re.Pattern[str]]:
        """What a text may spell, as a pattern that cuts it out."""
        return {
            "all": _any_of({*self._by_text, *self._tags}),
            "markup": _any_of(set(self.markup) & set(self._by_text)),
            "none": _any_of(()),
        }

    # ---- ids -> text -------------------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, keep_markup: bool = False) -> str:
        """The text of some ids. `keep_markup`: <ref>, <box>, <quad> and their closings stay, special or not."""
        stream = self.stream(skip_special=skip_special, keep_markup=keep_markup)
        return "".join([*map(stream.push, ids), stream.finish()])

    def stream(self, *, skip_special: bool = True, keep_markup: bool = False) -> StreamDecoder:
        """Decodes ids as they come; what it gives adds up to `decode` of them all."""
        kept = self.markup if keep_markup else ()
        dropped = {s.id for s in self._by_id.values() if skip_special and s.skip and s.text not in kept}

        def read(i: int) -> Special | str | bytes | None:
            if i in dropped:
                return None
            # A model may have more rows than its tokenizer has tokens: such an id is shown, not hidden.
            return self._by_id.get(_checked(i)) or self._vocabulary.token(i) or _NO_TOKEN

        return StreamDecoder(read, self._flow(not skip_special, keep_markup), tidy=self._tidy)


def _checked(i: int) -> int:
    if i < 0:
        raise DataError(f"{i} is not a token id; leave out what is masked before decoding")
    return i


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern that cuts at the longest of these texts; with none, nowhere."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})" if longest_first else "((?!))")


def _stripped(parts: Sequence[str | Special]) -> list[str | Special]:
    """The parts after each token that swallows white space beside it has done so; no text is empty."""
    out: list[str | Special] = []
    for place, part in enumerate(parts):
        if isinstance(part, str):
            before = parts[place - 1] if place else None
            after = parts[place + 1] if place + 1 < len(parts) else None
            part = part.lstrip() if isinstance(before, Special) and before.strip_right else part
            part = part.rstrip() if isinstance(after, Special) and after.strip_left else part
        if part:
            out.append(part)
    return out

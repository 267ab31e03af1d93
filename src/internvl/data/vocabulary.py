"""Text without special tokens <-> token ids: the two kinds of vocabulary that the family uses.

A vocabulary never produces the id of a special token, whatever the text is: `shield` takes those pieces out of its
reach. Special tokens are placed by `internvl.data.tokenizer`, which knows where they came from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import sentencepiece
import tokenizers

from internvl.errors import DamagedFile

SPACE = "▁"
"""SentencePiece writes a space as this character (U+2581)."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_TAG = re.compile(r"<[^<>\s]+>")


class SentencePieces:
    """A SentencePiece model (`tokenizer.model`: Llama, Yi, InternLM2 and 3, Phi-3, QLLaMA).

    `leads`: one space is put before the whole text, by us; otherwise the model puts its own before every run of text,
    if it is a model that does. `tags` are pieces in angle brackets that the model would cut out of any text by itself
    (Yi has `<|im_start|>` among them); here they come from structure only, like special tokens. `marks` are the pieces
    that no text is made of: tags, control pieces and the unknown one.
    """

    def __init__(self, proto: bytes, *, origin: str = "tokenizer.model", leads: bool = False) -> None:
        model = _processor(proto, origin)
        self._proto, self._origin = proto, origin
        fields = list(_fields(proto))
        self.pieces: list[str] = model.id_to_piece(list(range(model.get_piece_size())))
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}
        self._unknown: int = model.unk_id()
        self._unknown_surface: str = model.decode([self._unknown])
        self._control = {i for i in range(len(self.pieces)) if model.is_control(i)}
        self._bytes = {p: int(p[3:5], 16) for i, p in enumerate(self.pieces) if model.is_byte(i)}
        self.tags = {text: i for text, i in _user_defined(fields) if _TAG.fullmatch(text)}
        marks = {"bos_token": model.bos_id(), "eos_token": model.eos_id(), "unk_token": self._unknown}
        self.named = {name: self.pieces[i] for name, i in marks.items() if i >= 0}
        normalizer = _normalizer(fields)
        self._dummy_prefix = not leads and bool(normalizer.get(_ADD_DUMMY_PREFIX, 1))
        self._trims = bool(normalizer.get(_REMOVE_EXTRA_WHITESPACES, 1))
        self.lead = self._ids.get(SPACE) if leads else None
        self.marks = frozenset({self._unknown, *self._control, *self.tags.values()})
        self._out_of_reach = frozenset(self.tags.values())

    def __len__(self) -> int:
        return len(self.pieces)

    def id_of(self, piece: str) -> int | None:
        return self._ids.get(piece)

    def token(self, i: int) -> str | None:
        return self.pieces[i] if i < len(self.pieces) else None

    def spelling(self, i: int) -> bytes | None:
        """The UTF-8 bytes that a piece stands for, its space among them; they may be a part of a character."""
        if (piece := self.token(i)) is None:
            return None
        byte = self.byte(piece)
        return piece.replace(SPACE, " ").encode() if byte is None else bytes([byte])

    def shield(self, special_ids: Iterable[int]) -> None:
        """Make sure that no text yields one of these ids, nor a tag's."""
        self._out_of_reach = frozenset({*special_ids, *self.tags.values()} - {self._unknown})
        self.__dict__.pop("_processors", None)

    @cached_property
    def _processors(self) -> tuple[sentencepiece.SentencePieceProcessor, sentencepiece.SentencePieceProcessor]:
        """For a run's first text, and for a text that goes on after a tag."""
        # A control piece exists for decoding only: the encoder never matches it.
        proto = _as_control(self._proto, self._out_of_reach)
        bare = _processor(proto + _NO_DUMMY_PREFIX, self._origin)
        return _processor(proto, self._origin) if self._dummy_prefix else bare, bare

    def encode(self, parts: Sequence[str | int], *, first: bool) -> list[int]:
        """Ids of one run of text; an int among the parts is a tag that structure, not text, has put there.

        SentencePiece never merges across a tag, and puts its prefix space before the run, tag or not. `first`: nothing
        stands before this run.
        """
        with_prefix, bare = self._processors
        ids: list[int] = []
        if (first and self.lead is not None) or (self._dummy_prefix and isinstance(parts[0], int)):
            if isinstance(parts[0], str):
                parts = [SPACE + parts[0], *parts[1:]]
            else:
                ids += bare.encode(SPACE)
        for place, part in enumerate(parts):
            ids += [part] if isinstance(part, int) else (bare if place else with_prefix).encode(part)
        return ids

    def byte(self, piece: str) -> int | None:
        """The byte that a byte-fallback piece stands for."""
        return self._bytes.get(piece)

    def surface(self, piece: str, *, at_start: bool) -> tuple[str, bool]:
        """What a piece reads as, and whether it was the prefix space that has been taken off it."""
        i = self._ids.get(piece)
        if i is None:
            return piece, False
        if i == self._unknown:
            return self._unknown_surface, False
        if i in self._control:
            return "", False
        stripped = at_start and (self._dummy_prefix or self._trims) and piece.startswith(SPACE)
        return (piece[1:] if stripped else piece).replace(SPACE, " "), stripped and not self._trims


class BytePairs:
    """A `tokenizer.json`: byte-level BPE (Qwen, Llama-3, GPT-OSS), or a SentencePiece model that was converted."""

    tags: Mapping[str, int] = {}
    marks: frozenset[int] = frozenset()
    lead = None

    def __init__(self, definition: Mapping[str, Any], *, origin: str = "tokenizer.json") -> None:
        model = definition.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not model["vocab"]:
            raise DamagedFile(f"{origin} has no table of pieces; a byte-pair tokenizer with model.vocab was expected")
        self._definition, self._model, self._origin = dict(definition), model, origin
        self._ids: dict[str, int] = model["vocab"]
        self._pieces = {i: piece for piece, i in self._ids.items()}
        decoders = _types(definition.get("decoder"))
        self._byte_level = "ByteLevel" in decoders
        self.strips_first_space = "Strip" in decoders
        self._hidden: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return max(self._pieces) + 1

    def id_of(self, piece: str) -> int | None:
        return self._ids.get(piece)

    def token(self, i: int) -> bytes | None:
        """The UTF-8 bytes that a token stands for; they may end in the middle of a character."""
        piece = self._pieces.get(i)
        if piece is None:
            return None
        if self._byte_level:
            return b"".join(_BYTES.get(character, character.encode()) for character in piece)
        byte = _BYTE_PIECE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE, " ").encode()

    spelling = token

    def shield(self, special_ids: Iterable[int]) -> None:
        """Make sure that no text yields one of these ids; `DamagedFile` if what is left is no tokenizer."""
        unknown = self._model.get("unk_token")
        self._hidden = frozenset(self._pieces[i] for i in special_ids if i in self._pieces) - {unknown}
        self.__dict__.pop("_backends", None)
        self._backends  # noqa: B018 - built now: a damaged file is an error of loading, not of the first question

    @cached_property
    def _backends(self) -> tuple[tokenizers.Tokenizer, tokenizers.Tokenizer]:
        """For a text that stands first, and for one that follows a special token."""
        kept = self._definition | {"added_tokens": [], "truncation": None, "padding": None, "post_processor": None}
        if self._hidden:
            merges = (_pair(merge) for merge in self._model.get("merges", ()))
            kept["model"] = self._model | {
                "vocab": {piece: i for piece, i in self._ids.items() if piece not in self._hidden},
                "merges": [pair for pair in merges if not self._hidden & {*pair, "".join(pair)}],
            }
        first, words = _backend(kept, self._origin), kept.get("pre_tokenizer")
        later = _not_first(words)
        return first, first if later == words else _backend(kept | {"pre_tokenizer": later}, self._origin)

    def encode(self, parts: Sequence[str | int], *, first: bool) -> list[int]:
        """Ids of one run of text; `first`: nothing stands before it."""
        backend = self._backends[0 if first else 1]
        return backend.encode("".join(map(str, parts)), add_special_tokens=False).ids


Vocabulary = SentencePieces | BytePairs


def _byte_alphabet() -> dict[str, bytes]:
    """Byte-level BPE writes bytes as visible characters: Latin-1 where that is printable, the rest from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): bytes([byte]) for byte in printable} | {chr(256 + n): bytes([b]) for n, b in enumerate(others)}


_BYTES = _byte_alphabet()


def _types(node: Any) -> set[str]:
    """Every `type` in a nested definition."""
    if isinstance(node, dict):
        return {str(node.get("type"))}.union(*map(_types, node.values()))
    return set[str]().union(*map(_types, node)) if isinstance(node, list) else set()


def _not_first(node: Any) -> Any:
    """The same pre-tokenizer for a text that follows a special token: its `first` means first of all."""
    if isinstance(node, dict):
        return {k: "never" if (k, v) == ("prepend_scheme", "first") else _not_first(v) for k, v in node.items()}
    return [_not_first(item) for item in node] if isinstance(node, list) else node


def _pair(merge: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(merge.split(" ") if isinstance(merge, str) else merge)


def _backend(definition: Mapping[str, Any], origin: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the library raises no narrower class
        raise DamagedFile(f"{origin} is not a tokenizer that can be read: {error}") from error


# ---- the wire format of a SentencePiece model, as far as it is touched here ------------------------------------------
# ModelProto: 1 = a piece (1 text, 2 score, 3 type), repeated; 3 = the normaliser.

_ADD_DUMMY_PREFIX, _REMOVE_EXTRA_WHITESPACES = 3, 4
_USER_DEFINED, _AS_CONTROL = 4, b"\x18\x03"
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
"""A second normaliser message: protobuf merges it into the first, and the later value counts."""

_Field = tuple[int, int | bytes, int, int]
"""Number, value, start and end of one field of a message."""


def _processor(proto: bytes, origin: str) -> sentencepiece.SentencePieceProcessor:
    model = sentencepiece.SentencePieceProcessor()
    try:
        if proto and model.LoadFromSerializedProto(proto):
            return model
    except (RuntimeError, OSError) as error:
        raise DamagedFile(f"{origin} is not a SentencePiece model: {error}") from error
    raise DamagedFile(f"{origin} is empty; a SentencePiece model was expected")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(data: bytes) -> Iterator[_Field]:
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at : at + size], at + size
        yield tag >> 3, value, start, at


def _normalizer(fields: Iterable[_Field]) -> dict[int, int | bytes]:
    specs = (value for number, value, *_ in fields if number == 3 and isinstance(value, bytes))
    return {number: value for spec in specs for number, value, *_ in _fields(spec)}


def _user_defined(fields: Iterable[_Field]) -> Iterator[tuple[str, int]]:
    pieces = (value for number, value, *_ in fields if number == 1 and isinstance(value, bytes))
    for i, piece in enumerate(pieces):
        if bytes([3 << 3, _USER_DEFINED]) in piece:  # few have it; only those are taken apart
            parts = {number: value for number, value, *_ in _fields(piece)}
            text = parts.get(1)
            if parts.get(3) == _USER_DEFINED and isinstance(text, bytes):
                yield text.decode(), i


def _as_control(proto: bytes, ids: frozenset[int]) -> bytes:
    """The same model in which these pieces are of the type "control"."""
    found = ((value, start, end) for number, value, start, end in _fields(proto) if number == 1)
    pieces = ((value, start, end) for value, start, end in found if isinstance(value, bytes))
    out, done = [], 0
    for i, (value, start, end) in enumerate(pieces):
        if i in ids:
            piece = value + _AS_CONTROL
            out += [proto[done:start], b"\x0a", _varint_bytes(len(piece)), piece]
            done = end
    return b"".join([*out, proto[done:]])

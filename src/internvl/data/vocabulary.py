"""Text without special tokens <-> token ids: the two kinds of vocabulary that the family uses.

A vocabulary never produces the id of a special token, whatever the text is: those pieces are taken out of its reach
when it is built. Special tokens are placed by `internvl.data.tokenizer`, which knows where they came from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers

from internvl.errors import DamagedFile

SPACE = "▁"
"""SentencePiece writes a space as this character (U+2581)."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_TAG = re.compile(r"<[^<>\s]+>")


class SentencePieces:
    """A SentencePiece model (`tokenizer.model`: Llama, Yi, InternLM2/3, Phi-3, QLLaMA).

    `leads`: one space is put before the whole text, by us; otherwise the model puts its own before every run of text,
    if it is one that does. `tags` are pieces in angle brackets that the model itself would cut out of any text (Yi has
    `<|im_start|>` among them).
    """

    def __init__(self, proto: bytes, *, origin: str = "tokenizer.model", leads: bool = False) -> None:
        self._proto = proto
        self._model = _processor(proto, origin)
        self.pieces: list[str] = [self._model.id_to_piece(i) for i in range(self._model.get_piece_size())]
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}
        self._bytes = {p: int(m[1], 16) for i, p in enumerate(self.pieces)
                       if self._model.is_byte(i) and (m := _BYTE_PIECE.fullmatch(p))}  # fmt: skip
        self.tags = {piece: i for i, piece in _user_defined(proto) if _TAG.fullmatch(piece)}
        spec = _normalizer(proto)
        self.leads = leads
        self._dummy_prefix = not leads and bool(spec.get(3, 1))
        self._trims = bool(spec.get(4, 1))
        self._unknown_surface: str = self._model.decode([self._model.unk_id()])
        self.shield(())

    @classmethod
    def from_file(cls, path: Path, *, leads: bool = False) -> SentencePieces:
        return cls(path.read_bytes(), origin=str(path), leads=leads)

    def shield(self, special_ids: Collection[int]) -> None:
        """Make sure that no text yields one of these ids, nor a tag's."""
        # A control piece exists for the decoder only: SentencePiece never matches it in a text.
        proto = _as_control(self._proto, {*special_ids, *self.tags.values()} - {self._model.unk_id()})
        self._inner = _processor(proto + _NO_DUMMY_PREFIX, "tokenizer.model")
        self._first = _processor(proto, "tokenizer.model") if self._dummy_prefix else self._inner

    def __len__(self) -> int:
        return len(self.pieces)

    def id_of(self, piece: str) -> int | None:
        return self._ids.get(piece)

    @property
    def named(self) -> dict[str, str]:
        """The model's own bos, eos, unk and pad pieces, where it has them."""
        model = self._model
        ids = {"bos_token": model.bos_id(), "eos_token": model.eos_id(), "unk_token": model.unk_id()}
        return {name: self.pieces[i] for name, i in ids.items() if i >= 0}

    def encode(self, parts: Sequence[str | int], *, first: bool) -> list[int]:
        """Ids of one run of text; an int among the parts is a tag that structure, not text, has put there.

        SentencePiece never merges across a tag, and puts its prefix space before the run, tag or not.
        """
        if self.leads:
            parts = [part.replace(SPACE, " ") if isinstance(part, str) else part for part in parts]
            parts = [SPACE, *parts] if first and not isinstance(parts[0], str) else parts
            parts = [SPACE + parts[0], *parts[1:]] if first and isinstance(parts[0], str) else parts
        ids: list[int] = []
        for place, part in enumerate(parts):
            if isinstance(part, str):
                ids += (self._inner if place else self._first).encode(part)
            else:
                ids += [*(self._inner.encode(SPACE) if place == 0 and self._dummy_prefix else ()), part]
        return ids

    def token(self, i: int) -> str | None:
        return self.pieces[i] if i < len(self.pieces) else None

    def byte(self, piece: str) -> int | None:
        """The byte that a byte-fallback piece stands for."""
        return self._bytes.get(piece)

    def surface(self, piece: str, *, at_start: bool) -> tuple[str, bool]:
        """What a piece reads as, and whether it is the prefix space that has now been taken off."""
        i = self._ids.get(piece)
        if i is None:
            return piece, False
        if i == self._model.unk_id():
            return self._unknown_surface, False
        if self._model.is_control(i):
            return "", False
        stripped = at_start and (self._dummy_prefix or self._trims) and piece.startswith(SPACE)
        text = (piece[1:] if stripped else piece).replace(SPACE, " ")
        return text, stripped and not self._trims


class BytePairs:
    """A `tokenizer.json` (or vocab.json and merges.txt brought into that form): byte-level BPE, or a converted SentencePiece."""

    def __init__(self, definition: Mapping[str, Any], *, origin: str = "tokenizer.json") -> None:
        self._definition, self._origin = dict(definition), origin
        model = definition.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
            raise DamagedFile(f"{origin}: its model has no table `vocab`; this package reads BPE tokenizers")
        self._model: dict[str, Any] = model
        self._ids: dict[str, int] = model["vocab"]
        self._pieces = {i: piece for piece, i in self._ids.items()}
        decoders = _types(definition.get("decoder"))
        self.byte_level = "ByteLevel" in decoders
        self.strips_first_space = "Strip" in decoders
        self.shield(())

    def shield(self, special_ids: Collection[int]) -> None:
        """Make sure that no text yields one of these ids."""
        kept = self._definition | {"added_tokens": [], "truncation": None, "padding": None, "post_processor": None}
        unknown = self._model.get("unk_token")
        hidden = {piece for i in special_ids if (piece := self._pieces.get(i)) is not None and piece != unknown}
        if hidden:
            merges = [pair for pair in map(_pair, self._model.get("merges", ())) if not hidden & {*pair, "".join(pair)}]
            vocab = {piece: i for piece, i in self._ids.items() if piece not in hidden}
            kept["model"] = self._model | {"vocab": vocab, "merges": [list(pair) for pair in merges]}
        self._first = _backend(kept, self._origin)
        later = _not_first(kept.get("pre_tokenizer"))
        same = later == kept.get("pre_tokenizer")
        self._inner = self._first if same else _backend(kept | {"pre_tokenizer": later}, self._origin)

    def __len__(self) -> int:
        return max(self._pieces, default=-1) + 1

    def id_of(self, piece: str) -> int | None:
        return self._ids.get(piece)

    def encode(self, text: str, *, first: bool) -> list[int]:
        """Ids of one run of text; `first` where nothing stands before it."""
        return (self._first if first else self._inner).encode(text, add_special_tokens=False).ids

    def token(self, i: int) -> bytes | None:
        """The UTF-8 bytes that a token stands for; they may end in the middle of a character."""
        piece = self._pieces.get(i)
        if piece is None:
            return None
        if self.byte_level:
            return b"".join(_BYTES.get(c, c.encode()) for c in piece)
        byte = _BYTE_PIECE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE, " ").encode()


def _byte_alphabet() -> dict[str, bytes]:
    """Byte-level BPE writes bytes as visible characters: Latin-1 where that is printable, the rest from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (b for b in range(256) if b not in printable)
    return {chr(b): bytes([b]) for b in printable} | {chr(256 + n): bytes([b]) for n, b in enumerate(others)}


_BYTES = _byte_alphabet()


def _types(node: Any) -> set[str]:
    """Every `type` in a nested definition."""
    if isinstance(node, Mapping):
        return {str(node.get("type"))}.union(*map(_types, node.values()))
    return set[str]().union(*map(_types, node)) if isinstance(node, list) else set()


def _not_first(node: Any) -> Any:
    """The same pre-tokenizer for a text that follows a special token: `first` means first of all."""
    if isinstance(node, Mapping):
        return {k: "never" if (k, v) == ("prepend_scheme", "first") else _not_first(v) for k, v in node.items()}
    return [_not_first(item) for item in node] if isinstance(node, list) else node


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _backend(definition: Mapping[str, Any], origin: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the library raises bare Exception
        raise DamagedFile(f"{origin} is not a tokenizer that can be read: {error}") from error


# ---- the wire format of a SentencePiece model, as far as we touch it -------------------------------------------------
# ModelProto: 1 pieces (repeated: 1 text, 2 score, 3 type), 3 normaliser (3 add_dummy_prefix, 4 remove_extra_whitespaces)

_CONTROL, _USER_DEFINED = 3, 4
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
"""A second normaliser message; protobuf merges it into the first and the last value wins."""


def _processor(proto: bytes, origin: str) -> sentencepiece.SentencePieceProcessor:
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=proto)
    except (RuntimeError, OSError) as error:
        raise DamagedFile(f"{origin} is not a SentencePiece model: {error}") from error


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


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes, int, int]]:
    """(number, value, start, end) of every field of a message."""
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


def _normalizer(proto: bytes) -> dict[int, int | bytes]:
    return {number: value for field, spec, *_ in _fields(proto) if field == 3 and isinstance(spec, bytes)
            for number, value, *_ in _fields(spec)}  # fmt: skip


def _user_defined(proto: bytes) -> Iterator[tuple[int, str]]:
    pieces = (value for number, value, *_ in _fields(proto) if number == 1 and isinstance(value, bytes))
    for i, piece in enumerate(pieces):
        if piece.endswith(b"\x18\x04"):
            fields = {number: value for number, value, *_ in _fields(piece)}
            text = fields.get(1)
            if fields.get(3) == _USER_DEFINED and isinstance(text, bytes):
                yield i, text.decode()


def _as_control(proto: bytes, ids: Collection[int]) -> bytes:
    if not ids:
        return proto
    out, done, i = [], 0, -1
    for number, value, start, end in _fields(proto):
        if number != 1 or not isinstance(value, bytes):
            continue
        i += 1
        if i in ids:
            piece = value + bytes([3 << 3, _CONTROL])
            out += [proto[done:start], b"\x0a", _varint_bytes(len(piece)), piece]
            done = end
    return b"".join([*out, proto[done:]])

"""Builds small SentencePiece models, and reads real vocabularies out of GGUF files, for the tests of the tokenizer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def model_proto(pieces: Sequence[tuple[str, float, int]], *, dummy_prefix: bool = True) -> bytes:
    """A byte-pair SentencePiece model with byte fallback and an identity normaliser."""
    entries = [_message(1, _message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
               for text, score, kind in pieces]  # fmt: skip
    trainer = _message(2, b"\x18\x02" + b"\x98\x02\x01")  # model_type BPE, byte_fallback
    normalizer = _message(3, _message(1, b"identity") + bytes([0x18, dummy_prefix, 0x20, 0]))
    return b"".join([*entries, trainer, normalizer])


def _message(number: int, body: bytes) -> bytes:
    size, rest = [], len(body)
    while rest > 0x7F:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([number << 3 | 2, *size, rest]) + body


def small_pieces(*extra: tuple[str, float, int]) -> list[tuple[str, float, int]]:
    """unk, bos, eos, all bytes, a few letters and merges, and what is given."""
    letters = [(c, -50.0 - i, NORMAL) for i, c in enumerate("▁abcdefghijklmnopqrstuvwxyz<>|_/[]")]
    merges = [
        ("▁a", -1.0, NORMAL),
        ("er", -2.0, NORMAL),
        ("us", -3.0, NORMAL),
        ("user", -4.0, NORMAL),
        ("▁▁", -5.0, NORMAL),
    ]
    marks = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    return [*marks, *((f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)), *letters, *merges, *extra]


def converted(pieces: Sequence[tuple[str, float, int]], *, scheme: str) -> dict[str, Any]:
    """The same model as a tokenizer.json: `scheme` is how the prefix space is written, `prepend` the oldest way."""
    rank = {text: -score for text, score, kind in pieces if kind == NORMAL}
    pairs = [(score, [text[:cut], text[cut:]]) for text, score in rank.items() for cut in range(1, len(text))]
    merges = sorted((score, pair) for score, pair in pairs if pair[0] in rank and pair[1] in rank)
    flags = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    unspace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": text, **flags} for i, text in enumerate(["<unk>", "<s>", "</s>"])],
        "normalizer": prepend if scheme == "prepend" else None,
        "pre_tokenizer": None if scheme == "prepend" else metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [unspace, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": {
            "type": "BPE",
            "vocab": {text: i for i, (text, _, _) in enumerate(pieces)},
            "merges": [pair for _, pair in merges],
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def gguf_metadata(path: Path) -> dict[str, Any]:
    """The key-value part of a GGUF file."""
    with path.open("rb") as file:
        magic, _version, _tensors, count = struct.unpack("<4sIQQ", file.read(24))
        assert magic == b"GGUF"
        return {_string(file): _value(file, _scalar(file, "I")) for _ in range(count)}


def _scalar(file: BinaryIO, kind: str) -> Any:
    return struct.unpack("<" + kind, file.read(struct.calcsize("<" + kind)))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_scalar(file, "Q")).decode()


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == 8:
        return _string(file)
    if kind == 9:
        inner = _scalar(file, "I")
        return [_value(file, inner) for _ in range(_scalar(file, "Q"))]
    return _scalar(file, _SCALARS[kind])

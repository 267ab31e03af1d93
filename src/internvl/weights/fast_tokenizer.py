"""A SentencePiece model as the `tokenizer.json` that the transformers layout needs.

transformers converts a `tokenizer.model` by itself, but not every one rightly: InternLM2 keeps its turn tokens inside
the vocabulary, and a converter that appends them gives them other ids. The definition made here gives every token the
id it has in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sentencepiece import SentencePieceProcessor

from internvl.data.vocabulary import SPACE, SentencePieces

Added = Mapping[int, Mapping[str, Any]]
"""id -> the token's entry in `added_tokens_decoder`."""


def definition(proto: bytes, added: Added, *, bos: str | None, legacy: bool) -> dict[str, Any]:
    """The content of a `tokenizer.json`.

    bos: what every text begins with, if anything; legacy: a space is put before every run of text between special
    tokens, not only before the whole.
    """
    model = SentencePieceProcessor()
    model.LoadFromSerializedProto(proto)
    prefix = "".join(model.encode("a", out_type=str)).startswith(SPACE)
    pieces = {i: model.id_to_piece(i) for i in range(model.get_piece_size())}
    tags = {i: {"content": text, "special": False} for text, i in SentencePieces(proto).tags.items()}
    control = {i: {"content": pieces[i], "special": True} for i in pieces if model.is_control(i) or model.is_unknown(i)}
    added = {**control, **tags, **added}
    # A token may stand in the vocabulary under a placeholder's name; it takes that place.
    vocabulary = pieces | {i: str(entry["content"]) for i, entry in added.items()}
    plain = {text: i for i, text in pieces.items() if i not in added and not model.is_byte(i)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_entry(i, added[i]) for i in sorted(added)],
        **_spaces(prefix=prefix, legacy=legacy),
        "post_processor": None if bos is None else _begin_with(bos, {t: i for i, t in vocabulary.items()}[bos]),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[model.unk_id()],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": any(model.is_byte(i) for i in pieces),
            "ignore_merges": False,
            "vocab": {vocabulary[i]: i for i in sorted(vocabulary)},
            "merges": _merges(model, plain),
        },
    }


def _merges(model: SentencePieceProcessor, plain: Mapping[str, int]) -> list[list[str]]:
    """Every way to make a piece of two others, the pieces of the highest score first."""
    merges: list[tuple[float, int, int, list[str]]] = []
    for text, i in plain.items():
        cuts = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        merges += [(-model.get_score(i), plain[a], plain[b], [a, b]) for a, b in cuts if a in plain and b in plain]
    return [pair for *_, pair in sorted(merges)]


def _spaces(*, prefix: bool, legacy: bool) -> dict[str, Any]:
    """How spaces become the character that SentencePiece has for them, and where one is put in front."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if not prefix:
        return {"normalizer": replace, "pre_tokenizer": None}
    if legacy:
        both = [{"type": "Prepend", "prepend": SPACE}, replace]
        return {"normalizer": {"type": "Sequence", "normalizers": both}, "pre_tokenizer": None}
    words = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    return {"normalizer": None, "pre_tokenizer": words}


def _begin_with(token: str, number: int) -> dict[str, Any]:
    start = {"SpecialToken": {"id": token, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, start, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }


def _entry(number: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    flags = {flag: bool(entry.get(flag, False)) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
    return {"id": number, "content": entry["content"], **flags, "special": bool(entry.get("special", True))}

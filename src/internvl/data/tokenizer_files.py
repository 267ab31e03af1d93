"""The files of a tokenizer: which there are, which tokens they add, and what each class of them does with spaces."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from internvl.data.detokenizer import ByteFlow, Flow, PieceFlow, Spacing, Special
from internvl.data.vocabulary import BytePairs, SentencePieces, Vocabulary
from internvl.errors import CheckpointError, DamagedFile, find

MARKUP_KEY = "markup_tokens"
"""Where `tokenizer_config.json` lists added tokens that a text may spell, as it may spell <box>; ours alone."""
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

SPACING = {
    "LlamaTokenizer": Spacing(strip_first=True, gap="never", tidy_groups=False),
    "LlamaTokenizer, legacy": Spacing(strip_first=True, gap="inside", tidy_groups=False),
    "InternLM2Tokenizer": Spacing(strip_first=False, gap="always", tidy_groups=True),
    "InternLM3Tokenizer": Spacing(strip_first=True, gap="never", tidy_groups=False),
}

QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts text into words; the other byte-level tokenizers of the family say it in their tokenizer.json."""


@dataclass(frozen=True)
class TokenizerParts:
    """What a folder amounts to; `internvl.data.tokenizer.Tokenizer` is made of it.

    `named` are the ids of bos_token, eos_token, ...; `flow` turns pieces into text, given `show_special` and
    `keep_markup`; `tidy` takes the spaces before punctuation out of what is decoded; `markup` are added tokens that a
    text may spell.
    """

    vocabulary: Vocabulary
    specials: tuple[Special, ...]
    named: Mapping[str, int]
    adds_bos: bool
    tidy: bool
    flow: Callable[[bool, bool], Flow]
    markup: tuple[str, ...] = ()


def read_tokenizer(folder: Path) -> TokenizerParts:
    """Reads a checkpoint's tokenizer; `CheckpointError` says which file is missing, damaged or contradictory.

    Where there are several forms of one tokenizer, the one that the family was trained with comes first.
    """
    files = TokenizerFiles.read(folder)
    return replace(_read(files), markup=tuple(_string(text) for text in files.config.get(MARKUP_KEY) or ()))


def _read(files: TokenizerFiles) -> TokenizerParts:
    folder = files.folder
    kind, here = files.tokenizer_class, {path.name for path in folder.glob("*") if path.is_file()}
    slow_only = "tokenizer.json" not in here
    if "tokenizer.model" in here and (kind is None or kind in SPACING or slow_only):
        return _sentence_pieces(files)
    if {"vocab.json", "merges.txt"} <= here and (kind == "Qwen2Tokenizer" or slow_only):
        return _qwen2(files)
    if "tokenizer.json" in here:
        return _fast(files)
    raise CheckpointError(
        f"{folder} has no tokenizer; expected tokenizer.model, or vocab.json with merges.txt, or tokenizer.json"
    )


def _sentence_pieces(files: TokenizerFiles) -> TokenizerParts:
    kind, config, path = files.tokenizer_class or "LlamaTokenizer", files.config, files.folder / "tokenizer.model"
    legacy = kind == "LlamaTokenizer" and config.get("legacy") is not False
    spacing = find("SentencePiece tokenizer", f"{kind}, legacy" if legacy else kind, SPACING)
    if config.get("add_prefix_space") is False:
        spacing = replace(spacing, strip_first=False)
    # Without `legacy` the prefix space belongs to the whole text, not to every run between special tokens.
    leads = kind == "LlamaTokenizer" and not legacy
    vocabulary = SentencePieces(path.read_bytes(), origin=str(path), leads=leads)
    named = files.named(vocabulary.named)
    specials = files.specials(vocabulary, named, by_flag=False)
    outside = {
        special.id for special in specials if special.text in files.additional() and special.id >= len(vocabulary)
    }
    apart = frozenset(special.id for special in specials if not special.skip or special.id in outside)
    return TokenizerParts(
        vocabulary,
        specials,
        _ids(named, specials),
        adds_bos=bool(config.get("add_bos_token", True)),
        tidy=bool(config.get("clean_up_tokenization_spaces")),
        flow=partial(_piece_flow, vocabulary, spacing, apart),
    )


def _piece_flow(
    vocabulary: SentencePieces, spacing: Spacing, apart: frozenset[int], show_special: bool, keep_markup: bool
) -> Flow:
    # With markup kept, the text is for reading back: it has the spaces that the model wrote and no others.
    separator = "" if keep_markup else " "
    return PieceFlow(vocabulary, spacing, apart=apart, separator=separator, hold=show_special)


def _byte_flow(strips_first_space: bool, _show_special: bool, _keep_markup: bool) -> Flow:
    return ByteFlow(strip_first_space=strips_first_space)


def _qwen2(files: TokenizerFiles) -> TokenizerParts:
    find("byte-level tokenizer", files.tokenizer_class or "Qwen2Tokenizer", {"Qwen2Tokenizer": QWEN2_WORDS})
    vocabulary = BytePairs(_qwen2_definition(files.folder), origin=f"{files.folder}: vocab.json with merges.txt")
    named = files.named({})
    specials = files.specials(vocabulary, named, by_flag=False)
    return TokenizerParts(
        vocabulary,
        specials,
        _ids(named, specials),
        adds_bos=bool(files.config.get("add_bos_token")),
        tidy=bool(files.config.get("clean_up_tokenization_spaces")),
        flow=partial(_byte_flow, False),
    )


def _fast(files: TokenizerFiles) -> TokenizerParts:
    vocabulary = BytePairs(files.fast, origin=str(files.folder / "tokenizer.json"))
    named = files.named({})
    specials = files.specials(vocabulary, named, by_flag=True)
    adds_bos = _starts_with(named.get("bos_token", ""), files.fast.get("post_processor"))
    if files.tokenizer_class == "LlamaTokenizer":  # this class follows its config, not the file
        adds_bos = bool(files.config.get("add_bos_token", adds_bos))
    tidy = files.config.get("clean_up_tokenization_spaces")
    if tidy is None:  # so were the checkpoints decoded that leave it out
        tidy = files.tokenizer_class in (None, "PreTrainedTokenizer")
    flow = partial(_byte_flow, vocabulary.strips_first_space)
    return TokenizerParts(vocabulary, specials, _ids(named, specials), adds_bos=adds_bos, tidy=bool(tidy), flow=flow)


def _ids(named: Mapping[str, str], specials: Iterable[Special]) -> dict[str, int]:
    ids = {special.text: special.id for special in specials}
    return {name: ids[text] for name, text in named.items()}


def _starts_with(bos: str, processor: Mapping[str, Any] | None) -> bool:
    """Whether a post-processor, or one inside it, puts the bos token first."""
    if not processor:
        return False
    first, inner = (processor.get("single") or [{}])[0], processor.get("processors") or ()
    return first.get("SpecialToken", {}).get("id") == bos or any(_starts_with(bos, each) for each in inner)


def _qwen2_definition(folder: Path) -> dict[str, Any]:
    """vocab.json and merges.txt in the form of a tokenizer.json; the rest of that form is Qwen2's own and fixed."""
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    words = {"type": "Split", "pattern": {"Regex": QWEN2_WORDS}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, level]},
        "decoder": level,
        "model": {"type": "BPE", "vocab": _read_json(folder / "vocab.json"), "merges": merges},
    }


@dataclass(frozen=True)
class TokenizerFiles:
    """tokenizer_config.json, special_tokens_map.json, added_tokens.json and tokenizer.json; {} where there is none."""

    folder: Path
    config: Mapping[str, Any]
    special_map: Mapping[str, Any]
    added_map: Mapping[str, Any]
    fast: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> TokenizerFiles:
        names = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json")
        return cls(folder, *(_read_json(folder / name) for name in names))

    @property
    def tokenizer_class(self) -> str | None:
        """The class that the checkpoint asks for; its converted ("fast") form has the same name here."""
        name = self.config.get("tokenizer_class")
        return None if name is None else str(name).removesuffix("Fast")

    def named(self, defaults: Mapping[str, str]) -> dict[str, str]:
        """bos_token, eos_token, ... -> text. The map goes before a config that does not list its added tokens."""
        own, mapped = self.config, self.special_map
        order = (own, mapped, defaults) if "added_tokens_decoder" in own else (mapped, own, defaults)
        texts = {name: _text(next((table[name] for table in order if name in table), None)) for name in NAMES}
        return {name: text for name, text in texts.items() if text}

    def additional(self) -> list[str]:
        """Further tokens that the files call special."""
        listed = self.config.get("additional_special_tokens") or self.special_map.get("additional_special_tokens") or ()
        extra = self.config.get("extra_special_tokens") or ()
        more = extra.values() if isinstance(extra, Mapping) else extra
        return [text for entry in (*listed, *more) if (text := _text(entry))]

    def specials(self, vocabulary: Vocabulary, named: Mapping[str, str], *, by_flag: bool) -> tuple[Special, ...]:
        """Every added token. Decoding skips those that are named or listed; `by_flag` also those flagged "special"."""
        listed = {*named.values(), *self.additional()}
        found: dict[str, Special] = {}
        owners: dict[int, str] = {}
        for special, source in self._sources():
            known, owner = found.setdefault(special.text, special), owners.setdefault(special.id, special.text)
            if (known.id, owner) != (special.id, special.text):
                raise CheckpointError(
                    f"{self.folder}: {source} says that {special.text!r} is token {special.id}, but another file says "
                    f"that {known.text!r} is {known.id} and {special.id} is {owner!r}; take all from one checkpoint"
                )
        for text in sorted(listed - set(found)):
            i = vocabulary.id_of(text)
            if i is None:
                raise CheckpointError(
                    f"{self.folder}: {text!r} is named as a special token, but no file gives it an id; "
                    "added_tokens.json or tokenizer_config.json is missing or from another checkpoint"
                )
            found[text] = Special(text, i)
        return tuple(replace(s, skip=s.text in listed or (by_flag and s.skip)) for s in found.values())

    def _sources(self) -> Iterator[tuple[Special, str]]:
        try:
            for i, entry in (self.config.get("added_tokens_decoder") or {}).items():
                yield _special(int(i), entry), "tokenizer_config.json"
            for entry in self.fast.get("added_tokens") or ():
                yield _special(int(entry["id"]), entry), "tokenizer.json"
            for text, i in self.added_map.items():
                yield Special(text, int(i), skip=False), "added_tokens.json"
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise DamagedFile(f"{self.folder}: its list of added tokens cannot be read ({error!r})") from error


def _special(i: int, entry: Mapping[str, Any]) -> Special:
    strip_left, strip_right, flag = (bool(entry.get(name)) for name in ("lstrip", "rstrip", "special"))
    return Special(_string(entry["content"]), i, strip_left, strip_right, skip=flag)


def _text(entry: Any) -> str | None:
    text = entry.get("content") if isinstance(entry, Mapping) else entry
    return None if text is None else _string(text)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the text of a token is {value!r}")
    return value


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where the file does not exist."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedFile(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} holds a {type(value).__name__}; a JSON object was expected")
    return value

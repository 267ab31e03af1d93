"""Text <-> token ids for every model of the family, from the files of a checkpoint and nothing else.

    tokenizer.model              SentencePiece: Llama, Yi, InternLM2, InternLM3, Phi-3, QLLaMA
    vocab.json and merges.txt    byte-level BPE: Qwen2, Qwen2.5, Qwen3
    tokenizer.json               byte-level BPE (Llama-3, GPT-OSS) or SentencePiece in its converted form

Special tokens are split by us, never by the library underneath: a token that gives a prompt its structure enters only as
a `Special`, and the same characters in a text stay characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from internvl.data.detokenizer import ByteFlow, PieceFlow, Spacing, Special, StreamDecoder
from internvl.data.tokenizer_files import TokenizerFiles, read_json
from internvl.data.vocabulary import SPACE, BytePairs, SentencePieces
from internvl.errors import CheckpointError, DamagedFile, DataError, find

Specials = Literal["all", "markup", "none"]

MARKUP = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
"""Tokens that a text may spell: they mark a region, they give no structure to the prompt."""

SPACING = {
    "LlamaTokenizer": Spacing(strip_first=True, gap="never", tidy_groups=False),
    "LlamaTokenizer, legacy": Spacing(strip_first=True, gap="inside", tidy_groups=False),
    "InternLM2Tokenizer": Spacing(strip_first=False, gap="always", tidy_groups=True),
    "InternLM3Tokenizer": Spacing(strip_first=True, gap="never", tidy_groups=False),
}

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """The tokenizer of one checkpoint.

    >>> tokenizer = Tokenizer.from_folder(Path("InternVL2_5-8B"))                       # doctest: +SKIP
    >>> start, end = tokenizer.special("<|im_start|>"), tokenizer.special("<|im_end|>")  # doctest: +SKIP
    >>> tokenizer.encode_pieces([start, "user\\nHi, what is <IMG_CONTEXT>?", end])        # doctest: +SKIP
    """

    def __init__(
        self,
        vocabulary: SentencePieces | BytePairs,
        specials: Iterable[Special],
        *,
        named: dict[str, int],
        adds_bos: bool,
        tidy: bool = False,
        spacing: Spacing | None = None,
        apart: frozenset[int] = frozenset(),
    ) -> None:
        self._vocabulary, self._spacing, self._tidy, self._apart = vocabulary, spacing, tidy, apart
        self._by_id = {special.id: special for special in specials}
        self._by_text = {special.text: special for special in self._by_id.values()}
        vocabulary.shield(self._by_id)
        self._tags = vocabulary.tags if isinstance(vocabulary, SentencePieces) else {}
        self.bos_id: int | None = named.get("bos_token")
        self.eos_id: int | None = named.get("eos_token")
        self.pad_id: int | None = named.get("pad_token")
        self.adds_bos = adds_bos

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Reads a checkpoint's tokenizer; `CheckpointError` says which file is missing, damaged or contradictory."""
        files = TokenizerFiles.read(Path(folder))
        kind, here = files.tokenizer_class, {path.name for path in files.folder.glob("*") if path.is_file()}
        if "tokenizer.model" in here and (kind in _SENTENCEPIECE or kind is None or "tokenizer.json" not in here):
            return cls._from_sentencepiece(files)
        if {"vocab.json", "merges.txt"} <= here and (kind in _QWEN2 or "tokenizer.json" not in here):
            return cls._from_qwen2(files)
        if "tokenizer.json" in here:
            return cls._from_fast(files)
        raise CheckpointError(
            f"{folder}: no tokenizer found; expected tokenizer.model, or vocab.json with merges.txt, or tokenizer.json"
        )

    @classmethod
    def _from_sentencepiece(cls, files: TokenizerFiles) -> Tokenizer:
        kind, config = files.tokenizer_class or "LlamaTokenizer", files.config
        if kind == "LlamaTokenizer" and config.get("legacy") is not False:
            kind = "LlamaTokenizer, legacy"
        spacing = find("SentencePiece tokenizer", kind, SPACING)
        # Since legacy=false the prefix space belongs to the whole text instead of to every run between special tokens.
        vocabulary = SentencePieces.from_file(files.folder / "tokenizer.model", leads=kind == "LlamaTokenizer")
        named = files.named(vocabulary.named)
        listed = {*named.values(), *files.additional()}
        specials = _specials(files, vocabulary, listed, by_flag=False)
        outside = {s.text for s in specials if s.id >= len(vocabulary)} & set(files.additional())
        return cls(
            vocabulary,
            specials,
            named=_ids_of(named, specials),
            adds_bos=bool(config.get("add_bos_token", True)),
            tidy=bool(config.get("clean_up_tokenization_spaces")),
            spacing=spacing,
            apart=frozenset(s.id for s in specials if s.text not in listed or s.text in outside),
        )

    @classmethod
    def _from_qwen2(cls, files: TokenizerFiles) -> Tokenizer:
        find("byte-level BPE tokenizer", files.tokenizer_class or "Qwen2Tokenizer", dict.fromkeys(_QWEN2))
        vocabulary = BytePairs(_qwen2_definition(files.folder), origin=str(files.folder / "vocab.json"))
        named = files.named({})
        specials = _specials(files, vocabulary, {*named.values(), *files.additional()}, by_flag=False)
        return cls(
            vocabulary,
            specials,
            named=_ids_of(named, specials),
            adds_bos=bool(files.config.get("add_bos_token", False)),
            tidy=bool(files.config.get("clean_up_tokenization_spaces")),
        )

    @classmethod
    def _from_fast(cls, files: TokenizerFiles) -> Tokenizer:
        vocabulary = BytePairs(files.fast, origin=str(files.folder / "tokenizer.json"))
        named = files.named({})
        specials = _specials(files, vocabulary, {*named.values(), *files.additional()}, by_flag=True)
        adds_bos = _template_starts_with(files.fast.get("post_processor"), named.get("bos_token"))
        if not vocabulary.byte_level:  # the Llama classes rewrite the template from the config
            adds_bos = bool(files.config.get("add_bos_token", adds_bos))
        tidy = files.config.get("clean_up_tokenization_spaces")
        if tidy is None:  # what the checkpoints without the key were made with
            tidy = files.tokenizer_class in (None, "PreTrainedTokenizer")
        return cls(vocabulary, specials, named=_ids_of(named, specials), adds_bos=adds_bos, tidy=bool(tidy))

    # ---- looking up --------------------------------------------------------------------------------------------------

    @cached_property
    def vocab_size(self) -> int:
        """Rows that an embedding needs to hold every id."""
        return max(len(self._vocabulary), *(i + 1 for i in self._by_id))

    def special(self, text: str) -> Special:
        """The token that may be put between pieces of text; `NoSuchName` if the checkpoint has none of that text."""
        if text in self._tags:
            return Special(text, self._tags[text], skip=False)
        return find("special token", text, self._by_text)

    def id_of(self, text: str) -> int | None:
        """The id of a special token, or of the piece of the vocabulary that is written so."""
        if text in self._by_text:
            return self._by_text[text].id
        return self._vocabulary.id_of(text)

    # ---- text -> ids -------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, specials: Specials = "markup", bos: bool = False) -> list[int]:
        """Ids of one text. `specials` says which tokens the text may spell: all that exist, the markup, or none."""
        return self.encode_pieces([text], bos=bos, specials=specials)

    def encode_pieces(
        self, pieces: Sequence[str | Special], *, bos: bool | None = None, specials: Specials = "markup"
    ) -> list[int]:
        """Ids of text and special tokens in order; texts that touch are one text. `bos=None`: as the checkpoint does.

        The ids are those of the joined string, except that no text becomes a token which `specials` does not name.
        """
        ids = self._encode(self._split(pieces, specials))
        if not (self.adds_bos if bos is None else bos):
            return ids
        if self.bos_id is None:
            raise DataError("this tokenizer has no bos token; encode with bos=False")
        return [self.bos_id, *ids]

    def _split(self, pieces: Sequence[str | Special], specials: Specials) -> list[str | Special]:
        """Specials that the texts may spell are cut out of them, and specials that swallow white space have done so."""
        parts: list[str | Special] = []
        for is_text, run in groupby(pieces, lambda piece: isinstance(piece, str)):
            if is_text:
                text = "".join(piece for piece in run if isinstance(piece, str))
                cut = self._patterns[specials].split(text)
                parts += [self.special(part) if place % 2 else part for place, part in enumerate(cut)]
            else:
                parts += run
        return parts

    @cached_property
    def _patterns(self) -> dict[Specials, re.Pattern[str]]:
        return {
            "all": _any_of({*self._by_text, *self._tags}),
            "markup": _any_of(set(MARKUP) & set(self._by_text)),
            "none": _any_of(()),
        }

    def _encode(self, parts: Sequence[str | Special]) -> list[int]:
        ids: list[int] = []
        runs = self._runs(parts)
        for place, run in enumerate(runs):
            if isinstance(run, Special):
                ids.append(run.id)
            elif isinstance(self._vocabulary, BytePairs):
                ids += self._vocabulary.encode("".join(map(str, run)), first=place == 0)
            else:
                ids += self._vocabulary.encode(run, first=place == 0)
        # A prefix space alone is dropped before a special token, but not before other added tokens (Phi-3's roles).
        if isinstance(self._vocabulary, SentencePieces) and self._vocabulary.leads and len(runs) > 1:
            after = runs[1]
            if ids[:1] == [self._vocabulary.id_of(SPACE)] and isinstance(after, Special) and ids[1:2] == [after.id]:
                return ids[1:] if after.skip else ids
        return ids

    def _runs(self, parts: Sequence[str | Special]) -> list[list[str | int] | Special]:
        """Added tokens, and between them runs of text in which SentencePiece's own tags stand as ids."""
        runs: list[list[str | int] | Special] = []
        for part in _strip(parts):
            if isinstance(part, Special) and part.id in self._by_id:
                runs.append(part)
                continue
            if not runs or isinstance(runs[-1], Special):
                runs.append([])
            runs[-1].append(part.id if isinstance(part, Special) else part)
        if runs and isinstance(runs[0], Special) and getattr(self._vocabulary, "leads", False):
            runs.insert(0, [""])
        return runs

    # ---- ids -> text -------------------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, keep_markup: bool = False) -> str:
        """The text of some ids. `keep_markup`: <ref>, <box>, <quad> and their closings stay although they are special."""
        stream = self.stream(skip_special=skip_special, keep_markup=keep_markup)
        return "".join([*map(stream.push, ids), stream.finish()])

    def stream(self, *, skip_special: bool = True, keep_markup: bool = False) -> StreamDecoder:
        """Decodes ids as they come; what it gives adds up to `decode` of them all."""
        dropped = {
            s.id for s in self._by_id.values() if skip_special and s.skip and not (keep_markup and s.text in MARKUP)
        }

        def read(i: int) -> Special | str | bytes | None:
            if i < 0:
                raise DataError(f"{i} is not a token id; labels that are not learnt must be left out before decoding")
            if i in dropped:
                return None
            # Some models have more rows than their tokenizer has tokens; such an id must be seen, not guessed.
            return self._by_id.get(i) or self._vocabulary.token(i) or "\ufffd"

        if isinstance(self._vocabulary, BytePairs):
            flow = ByteFlow(strip_first_space=self._vocabulary.strips_first_space)
        else:
            assert self._spacing is not None
            flow = PieceFlow(
                self._vocabulary,
                self._spacing,
                apart=self._apart,
                separator="" if keep_markup else " ",
                hold=not skip_special,
            )
        return StreamDecoder(read, flow, tidy=self._tidy)


_SENTENCEPIECE = ("LlamaTokenizer", "InternLM2Tokenizer", "InternLM3Tokenizer")
_QWEN2 = ("Qwen2Tokenizer",)


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern that cuts at the longest of these texts; with none, nowhere."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")" if longest_first else "((?!))")


def _strip(parts: Sequence[str | Special]) -> list[str | Special]:
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


def _specials(
    files: TokenizerFiles, vocabulary: SentencePieces | BytePairs, listed: set[str], *, by_flag: bool
) -> list[Special]:
    """Added tokens and those that the config names; `listed` ones, or those with the flag, are skipped in decoding."""
    specials = [
        Special(t.text, t.id, t.strip_left, t.strip_right, skip=t.text in listed or (by_flag and t.special))
        for t in files.added().values()
    ]
    for text in sorted(listed - {special.text for special in specials}):
        i = vocabulary.id_of(text)
        if i is None:
            raise CheckpointError(
                f"{files.folder}: {text!r} is named as a special token but has no id in the vocabulary, "
                "added_tokens.json or tokenizer_config.json; one of these files is missing or from another checkpoint"
            )
        specials.append(Special(text, i))
    return specials


def _ids_of(named: dict[str, str], specials: Iterable[Special]) -> dict[str, int]:
    ids = {special.text: special.id for special in specials}
    return {name: ids[text] for name, text in named.items()}


def _template_starts_with(processor: Any, bos: str | None) -> bool:
    """Whether a post-processor puts the bos token first."""
    if not isinstance(processor, dict):
        return False
    first = next(iter(processor.get("single") or [{}]), {})
    inner = processor.get("processors", ())
    return first.get("SpecialToken", {}).get("id", "") == bos or any(_template_starts_with(p, bos) for p in inner)


def _qwen2_definition(folder: Path) -> dict[str, Any]:
    """vocab.json and merges.txt in the form of a tokenizer.json; the rest of that form is Qwen2's own and fixed."""
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in merges):
        raise DamagedFile(f"{folder / 'merges.txt'}: every line must hold two pieces")
    words = {"type": "Split", "pattern": {"Regex": _QWEN2_WORDS}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, level]},
        "decoder": level,
        "model": {"type": "BPE", "vocab": read_json(folder / "vocab.json"), "merges": merges},
    }

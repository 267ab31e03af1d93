"""What the JSON files beside a vocabulary say: special tokens, their ids and flags, and who is bos, eos and pad."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl.errors import CheckpointError, DamagedFile

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class AddedToken:
    """One entry of added_tokens_decoder, added_tokens.json or tokenizer.json."""

    text: str
    id: int
    strip_left: bool = False
    strip_right: bool = False
    special: bool = False


@dataclass(frozen=True)
class TokenizerFiles:
    """The folder's tokenizer_config.json, added_tokens.json, special_tokens_map.json and tokenizer.json, read once."""

    folder: Path
    config: Mapping[str, Any]
    special_map: Mapping[str, Any]
    added_map: Mapping[str, Any]
    fast: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> TokenizerFiles:
        names = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json")
        return cls(folder, *(read_json(folder / name) for name in names))

    @property
    def tokenizer_class(self) -> str | None:
        """The class that the checkpoint asks for; its converted ("fast") form has the same name here."""
        name = self.config.get("tokenizer_class")
        return None if name is None else str(name).removesuffix("Fast")

    def named(self, defaults: Mapping[str, str]) -> dict[str, str]:
        """bos_token, eos_token, ... -> text. The special tokens map rules only where the config lists no added tokens."""
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

    def added(self) -> dict[str, AddedToken]:
        """Every added token by its text. The files may repeat each other, not contradict."""
        found: dict[str, AddedToken] = {}
        owners: dict[int, str] = {}
        for token, source in self._sources():
            known = found.setdefault(token.text, token)
            owner = owners.setdefault(token.id, token.text)
            if known.id != token.id:
                raise CheckpointError(
                    f"{self.folder}: {token.text!r} has id {known.id} in one file and {token.id} in {source}; "
                    "copy all tokenizer files again from one checkpoint"
                )
            if owner != token.text:
                raise CheckpointError(
                    f"{self.folder}: id {token.id} is {owner!r} in one file and {token.text!r} in {source}; "
                    "copy all tokenizer files again from one checkpoint"
                )
        return found

    def _sources(self) -> Iterator[tuple[AddedToken, str]]:
        try:
            for key, entry in (self.config.get("added_tokens_decoder") or {}).items():
                yield self._entry(int(key), entry), "tokenizer_config.json"
            for entry in self.fast.get("added_tokens") or ():
                yield self._entry(int(entry["id"]), entry), "tokenizer.json"
            for text, key in self.added_map.items():
                yield AddedToken(text, int(key)), "added_tokens.json"
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise DamagedFile(f"{self.folder}: the list of added tokens cannot be read ({error!r})") from error

    def _entry(self, key: int, entry: Mapping[str, Any]) -> AddedToken:
        if entry.get("single_word"):
            raise CheckpointError(f"{self.folder}: {entry['content']!r} asks for single_word, which is not supported")
        flags = (bool(entry.get(name)) for name in ("lstrip", "rstrip", "special"))
        return AddedToken(entry["content"], key, *flags)


def read_json(path: Path) -> dict[str, Any]:
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


def _text(entry: Any) -> str | None:
    return entry.get("content") if isinstance(entry, Mapping) else entry

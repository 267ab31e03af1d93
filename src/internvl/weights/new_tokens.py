"""Tokens that a tokenizer did not have, written into its files as the library it came from would have."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from internvl.data.tokenizer import Tokenizer
from internvl.data.tokenizer_files import MARKUP_KEY
from internvl.errors import ConfigError, NoSuchName
from internvl.weights.formats import parse_json
from internvl.weights.sidecars import SETTINGS, TOKENIZER_FILES, dump

FAMILY = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
"""What every chat model of the family has besides its language model's tokens, in the order of their ids."""
SPECIAL_MAP, ADDED, FAST = "special_tokens_map.json", "added_tokens.json", "tokenizer.json"

Files = Mapping[str, bytes]


def tokenizer_of(files: Files) -> Tokenizer:
    """The tokenizer that these files are."""
    with tempfile.TemporaryDirectory() as folder:
        for name in TOKENIZER_FILES:
            if name in files:
                (Path(folder) / name).write_bytes(files[name])
        return Tokenizer.from_folder(Path(folder))


def missing(tokenizer: Tokenizer, tokens: Sequence[str]) -> list[str]:
    """Those of the tokens that a tokenizer does not have, each once."""
    return [text for text in dict.fromkeys(tokens) if not _has(tokenizer, text)]


def _has(tokenizer: Tokenizer, text: str) -> bool:
    try:
        return bool(tokenizer.special(text))
    except NoSuchName:
        return False


def add_tokens(files: Files, tokens: Sequence[str], *, first: int, special: bool) -> dict[str, bytes]:
    """The files with these tokens, whose ids begin with `first`.

    A special token is structure, which no text can spell; another is markup: what a text spells so becomes the token,
    and an answer shows it.
    """
    if wrong := [text for text in tokens if not text or text.strip() != text]:
        raise ConfigError(f"start.new_tokens: {wrong[0]!r} is empty or begins or ends with a space; write it without")
    numbered = dict(zip(tokens, range(first, first + len(tokens)), strict=True))
    settings = parse_json(files[SETTINGS], SETTINGS) if SETTINGS in files else {}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special}
    changed = dict(files)
    has_list = "added_tokens_decoder" in settings
    if has_list:
        more = {str(number): {"content": text, **plain} for text, number in numbered.items()}
        settings["added_tokens_decoder"] = {**settings["added_tokens_decoder"], **more}
    if FAST in files:
        fast = parse_json(files[FAST], FAST)
        more = [{"id": number, "content": text, **plain} for text, number in numbered.items()]
        changed[FAST] = dump({**fast, "added_tokens": [*(fast.get("added_tokens") or ()), *more]})
    if ADDED in files or FAST not in files:
        listed: dict[str, Any] = parse_json(files[ADDED], ADDED) if ADDED in files else {}
        changed[ADDED] = dump({**listed, **numbered})
    if special:
        _name(changed, settings, list(numbered))
    else:
        settings[MARKUP_KEY] = [*(settings.get(MARKUP_KEY) or ()), *numbered]
    changed[SETTINGS] = dump(settings)
    return changed


def _name(files: dict[str, bytes], settings: dict[str, Any], tokens: Sequence[str]) -> None:
    """List the tokens as special wherever the files list such tokens."""
    key = "additional_special_tokens"
    mapped = parse_json(files[SPECIAL_MAP], SPECIAL_MAP) if SPECIAL_MAP in files else {}
    settings[key] = [*(settings.get(key) or mapped.get(key) or ()), *tokens]
    if mapped:
        files[SPECIAL_MAP] = dump({**mapped, key: [*(mapped.get(key) or ()), *tokens]})

"""Damaged fields of a tokenizer's files: whatever stands there, it is read, or refused in one line that says where."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from internvl.data.tokenizer import Tokenizer
from internvl.errors import CheckpointError, DamagedFile
from tests.conftest import golden

FILES = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "tokenizer.json")
WRONG: tuple[Any, ...] = (None, 0, "x", [], {}, 1.5)


def fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of the fields of a JSON value; of a long list or table, the first two and the last."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys if len(keys) <= 20 else [*keys[:2], keys[-1]]:
        yield (*path, key)
        if len(path) < 3:
            yield from fields(value[key], (*path, key))


def replaced(whole: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    changed = copy.deepcopy(whole)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = wrong
    return changed


CASES = [(name, file) for name in ("qwen2-bbpe", "llama3-bbpe") for file in FILES]


def refusal(folder: Path) -> str | None:
    """What is said where the tokenizer is refused; None where it is read, and then it works."""
    try:
        tokenizer = Tokenizer.from_folder(folder)
        tokenizer.decode(tokenizer.encode("Hi <ref>a</ref> <img>", specials="all"), skip_special=False)
    except CheckpointError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("name", "file"), CASES)
def test_a_field_of_a_wrong_type_is_read_or_refused(name: str, file: str, tmp_path: Path) -> None:
    folder = shutil.copytree(golden(f"tokenizers/{name}"), tmp_path / name, copy_function=shutil.copyfile)
    whole = json.loads((folder / file).read_text(encoding="utf-8")) if (folder / file).is_file() else {}
    for path in fields(whole):
        for wrong in WRONG:
            if path == ("tokenizer_class",) and wrong is not None:
                continue  # an unknown class has an error of its own
            (folder / file).write_text(json.dumps(replaced(whole, path, wrong)), encoding="utf-8")
            said = refusal(folder)
            assert said is None or (str(folder) in said and "\n" not in said), (path, wrong)


@pytest.mark.parametrize("wrong", [None, 0, [], {}, 1.5])
def test_a_token_without_a_text(wrong: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(golden("tokenizers/qwen2-bbpe"), tmp_path / "t", copy_function=shutil.copyfile)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    first = next(iter(config["added_tokens_decoder"].values()))
    first["content"] = wrong
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(DamagedFile, match="the text of a token is"):
        Tokenizer.from_folder(folder)

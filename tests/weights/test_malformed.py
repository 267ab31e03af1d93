"""A config.json that says anything at all: one line, never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from internvl.errors import ConfigError, DamagedFile, InternVLError
from internvl.models.config import VisionConfig
from internvl.weights.checkpoint import open_checkpoint
from internvl.weights.load import load_encoder
from tests.weights.folders import GOLDEN, checkpoint, read_config, tiny

GONE = object()
VALUES = (GONE, None, 0, "x", [], {}, 1.5, -1, True, 10**30, float("inf"), [{}])
FILES = ("config.json", "build_arguments.json", "tokenizer_config.json", "added_tokens.json",
         "preprocessor_config.json", "generation_config.json")  # fmt: skip


def fields(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every field of an object and of the objects in it."""
    for name, value in content.items():
        yield (*path, name)
        if isinstance(value, dict) and name != "added_tokens_decoder":
            yield from fields(value, (*path, name))


def changed(content: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    rest = {name: kept for name, kept in content.items() if name != path[0]}
    return rest if value is GONE and len(path) == 1 else {**rest, path[0]: changed(content[path[0]], path[1:], value)}


def copied(name: str, folder: Path) -> Path:
    if name in GOLDEN:
        shutil.copytree(checkpoint(name), folder)
    else:
        tiny(folder, name.partition("/")[0], format=name.partition("/")[2])
    return folder


@pytest.mark.parametrize("name", [*GOLDEN, "qwen3-moe/custom", "gpt-oss/custom", "qwen2-window/custom", "phi3/hf"])
def test_no_value_of_a_config_escapes_the_error_tree(name, tmp_path):
    """Fields of every file, replaced by values: 150 of the several thousand pairs, all of which were tried once."""
    folder = copied(name, tmp_path / "x")
    source = next(iter(folder.glob("*.pth")), folder)
    contents = {file: json.loads((folder / file).read_text()) for file in FILES if (folder / file).is_file()}
    cases = [(file, path, value) for file, whole in contents.items() for path in fields(whole) for value in VALUES]
    for file, path, value in random.Random(name).sample(cases, min(150, len(cases))):
        (folder / file).write_text(json.dumps(changed(contents[file], path, value)))
        for use in (open_checkpoint, load_encoder):
            problem = None
            try:
                use(source)
            except InternVLError as error:
                problem = "several lines" if "\n" in str(error) else None
            except Exception as error:
                problem = repr(error)
            assert problem is None, f"{use.__name__}: {file} {path} = {value!r}: {problem}"
        (folder / file).write_text(json.dumps(contents[file]))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("downsample_ratio",), 0, "downsample is 0; expected"),
        (("llm_config", "num_hidden_layers"), 10**30, "layers is 1000.*; expected 1 to 1000"),
        (("llm_config", "rope_theta"), float("inf"), "rope_theta is inf; expected float"),
        (("vision_config", "hidden_size"), None, "dim is None; expected int"),
        (("vision_config", "qkv_bias"), 1, "qkv_bias is 1; expected bool"),
        (("llm_config", "architectures"), 1.5, "cannot be understood"),
        (("use_llm_lora",), "x", "use_llm_lora is 'x'; expected the rank"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(path, value, says, tmp_path):
    folder = copied("qwen2/custom", tmp_path / "x")
    (folder / "config.json").write_text(json.dumps(changed(read_config(folder), path, value)))
    with pytest.raises(ConfigError, match=says) as caught:
        open_checkpoint(folder)
    assert str(folder) in str(caught.value) or path == ("use_llm_lora",)


def test_a_file_nested_without_end(tmp_path):
    folder = copied("qwen2/custom", tmp_path / "x")
    (folder / "config.json").write_text("[" * 200_000)
    with pytest.raises(DamagedFile, match="not JSON"):
        open_checkpoint(folder)


def test_whole_numbers_are_numbers():
    vision = VisionConfig(layer_scale=1, drop_path=0)
    assert isinstance(vision.layer_scale, float)
    assert vision == VisionConfig(layer_scale=1.0)

"""Checkpoints that cross over: what transformers saves is read here, and what is written here, transformers reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from internvl.models.chat import ChatModel
from internvl.weights.load import load, save
from tests.parity.oracle import DISTINCT, NEW, SAFE, TOKENS, greedy, worst
from tests.parity.test_transformers_decoders import CASES
from tests.parity.test_transformers_internvl import PAIRS, build, inputs

transformers = pytest.importorskip("transformers", minversion="5.0", reason="pip install 'internvl[parity]'")
pytestmark = pytest.mark.parity
TOKENS_ADDED = {"<|im_start|>": 155, "<|im_end|>": 156, "<img>": 157, "</img>": 158, "<IMG_CONTEXT>": 159}
each = pytest.mark.parametrize(("vision", "text"), PAIRS)


def differ(ours: ChatModel, theirs: nn.Module) -> float:
    ids, pixels = inputs()
    with torch.no_grad():
        return worst(ours(ids, pixels), theirs(input_ids=ids, pixel_values=pixels).logits)


def read_there(folder: Path) -> nn.Module:
    """Every tensor must be taken: a missing or unexpected one would only be a warning there."""
    model: Any
    model, report = transformers.InternVLForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    return model.eval()


@each
def test_written_there_loads_here(vision: str, text: str, tmp_path: Path) -> None:
    """Worst seen: 3.4e-6 (6b, qwen2), as in memory."""
    theirs, _ = build(vision, CASES[text])
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs", dtype="float32", device="cpu")
    assert isinstance(ours, ChatModel)
    assert differ(ours, theirs) < 1e-5


@each
def test_written_here_loads_there(vision: str, text: str, tmp_path: Path) -> None:
    """Worst seen: 3.4e-6 (6b, qwen2), as in memory."""
    _, ours = build(vision, CASES[text])
    save(ours, tmp_path / "ours", format="hf")
    theirs = read_there(tmp_path / "ours")
    assert differ(ours, theirs) < 1e-5


@each
def test_over_the_custom_layout_and_back(vision: str, text: str, tmp_path: Path) -> None:
    """theirs -> here -> custom-code layout -> here -> hf -> there: every tensor as it was, bit for bit."""
    theirs, _ = build(vision, CASES[text])
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "added_tokens.json").write_text(json.dumps(TOKENS_ADDED))
    save(load(tmp_path / "theirs", device="cpu"), tmp_path / "custom", format="custom")
    save(load(tmp_path / "custom", device="cpu"), tmp_path / "hf", format="hf")
    back = read_there(tmp_path / "hf")
    before, after = theirs.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_a_greedy_run_over_files(tmp_path: Path) -> None:
    _, ours = build("300m", CASES["qwen3"])
    save(ours, tmp_path / "ours", format="hf")
    theirs = read_there(tmp_path / "ours")
    ids, pixels = inputs(seed=5)
    with torch.no_grad():
        expected = theirs.generate(
            input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False
        )
        found, margin = greedy(ours.language_model, ours.embed(ids, ours.image_features(pixels)), NEW)
    assert found == expected[0, TOKENS:].tolist()
    assert len(set(found)) >= DISTINCT
    assert margin > SAFE

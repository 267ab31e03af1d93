"""Adapters alone, in peft's own files, on transformers' own InternVL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from internvl.models.chat import ChatModel
from internvl.weights import adapters
from internvl.weights.peft_files import export_adapter, load_adapter
from tests.parity.oracle import worst
from tests.parity.test_transformers_decoders import CASES
from tests.parity.test_transformers_internvl import PAIRS, build, inputs
from tests.weights.asked import published

transformers = pytest.importorskip("transformers", minversion="5.0", reason="pip install 'internvl[parity]'")
peft = pytest.importorskip("peft", reason="pip install 'internvl[train]'")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft asks in the older way
]


@torch.no_grad()
def logits(model: ChatModel) -> Tensor:
    return model(*inputs())


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(("vision", "text"), PAIRS)
def test_peft_reads_what_is_written_here_and_the_other_way(vision: str, text: str, dora: bool, tmp_path: Path) -> None:
    """Worst seen: 2.3e-5 of the largest logit (300m, qwen2-tied; 7.1e-6 at most on another processor)."""
    theirs, ours = build(vision, CASES[text])
    plain = logits(ours)
    published(ours, adapters.Form(3, 5.0, dora), "vision_model.")
    published(ours, adapters.Form(4, 8.0, dora), "language_model.")
    adapted = logits(ours)
    assert worst(adapted, plain) > 0.1
    export_adapter(ours, tmp_path / "ours", format="hf")
    wrapped = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()
    ids, pixels = inputs()
    with torch.no_grad():
        expected = wrapped(input_ids=ids, pixel_values=pixels).logits
    assert worst(adapted, expected) < 5e-5
    wrapped.save_pretrained(tmp_path / "theirs")
    _, again = build(vision, CASES[text])
    assert load_adapter(again, tmp_path / "theirs") == len(adapters.adapted(ours))
    assert worst(logits(again), expected) < 5e-5

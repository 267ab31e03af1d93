"""Adapters under FSDP2: A that several layers share, DoRA, and a base in 4 bits."""

from __future__ import annotations

import json

import pytest

from internvl.models.chat import ChatModel
from internvl.training.world import World
from internvl.weights.load import load
from tests.conftest import golden
from tests.training import adapted_ranks
from tests.training.launch import launch

pytest.importorskip("peft", reason="pip install 'internvl[train]'")

CLOSE = 1e-5
"""Of a loss, relative. Worst seen: 1.6e-7."""


@pytest.mark.slow
def test_two_ranks_learn_as_one(tmp_path):
    golden("checkpoints/internlm2-v2_5")  # or skip, before the ranks look for it
    (tmp_path / "two").mkdir()
    launch("tests.training.adapted_ranks", 2, tmp_path / "two")
    two = json.loads((tmp_path / "two" / "losses.json").read_text())
    one = adapted_ranks.run(tmp_path / "one", World())
    for how in adapted_ranks.KINDS:
        assert two[how] == pytest.approx(one[how], rel=CLOSE)
        assert one[how][-1] < one[how][0]
        assert two[f"{how} on"] == two[f"{how} again"]
        assert one[f"{how} on"] == one[f"{how} again"]
        assert two[f"{how} on"] == pytest.approx(one[f"{how} on"], rel=CLOSE)
        model = load(tmp_path / "two" / how / "step-000003" / "model", device="cpu")
        assert isinstance(model, ChatModel)

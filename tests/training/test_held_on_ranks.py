"""Frozen weights in bf16 on two ranks, copied or sharded: the very losses of those in fp32, in half the memory."""

from __future__ import annotations

import json

import pytest

from tests.training import held_ranks
from tests.training.launch import launch

pytest.importorskip("peft", reason="pip install 'internvl[train]'")


@pytest.mark.slow
def test_two_ranks_do_not_see_a_difference(tmp_path):
    launch("tests.training.held_ranks", 2, tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    for how in held_ranks.LEARNS:
        for shard in held_ranks.SHARDS:
            wide, narrow = f"{how} {shard} wide", f"{how} {shard} narrow"
            for what in ("", " on", " again", " says"):
                assert told[narrow + what] == told[wide + what], what
            assert told[f"{narrow} on"] == told[f"{narrow} again"]
            assert told[narrow][-1] < told[narrow][0]
            share = 0.75 if how == "dora" else 0.6  # the tower under DoRA, norms and positions stay in fp32
            assert told[f"{narrow} held"][0] < share * told[f"{wide} held"][0]

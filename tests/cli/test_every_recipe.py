"""Every recipe that comes with the package can be shown and planned, from the command line."""

from __future__ import annotations

import json

import pytest

from internvl import recipes
from internvl.cli.main import run


@pytest.mark.parametrize("name", list(recipes.table()))
def test_it_is_shown_and_planned(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["train", name, "--show"]) == 0
    shown = capsys.readouterr().out
    assert f"runs/{name}" in shown
    if recipes.find(name).prepare is not None:  # what it begins with is written by its first run
        assert run(["plan", name]) == 2
        assert "no model is called 'runs/" in capsys.readouterr().err
        return
    if "classes.txt" in shown:
        (tmp_path / "runs/nano_world").mkdir(parents=True)
        (tmp_path / "runs/nano_world/classes.txt").write_text("a\nb\n")
    assert run(["plan", name, "--devices", "8", "--memory", "80", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert sum(part["learning"] for part in plan["parts"].values()) > 0
    assert 0 < plan["bytes_per_device"] == sum(plan["memory"].values())
    assert all(count > 0 for count in plan["memory"].values())
    assert plan["micro_batches_per_step"] >= 1
    assert plan["tiles_per_micro_batch"] >= 1
    assert plan["operations_per_step"] > 0
    kind = recipes.find(name).make().objective.kind
    assert (plan["tokens_per_micro_batch"] > 0) == ("language" in plan["parts"]) == (kind != "classify")
    assert bool(plan["assumed"]) == (kind == "classify" and "classes.txt" not in shown)
    assert all(one["saves"] > 0 for one in plan["advice"])

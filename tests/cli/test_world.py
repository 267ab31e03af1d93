"""`internvl world`: what it writes can be linted and trained on; mistakes are one line."""

from __future__ import annotations

import json

import pytest

from internvl.cli.main import run
from internvl.nano.world import SKILLS


def test_without_a_folder_the_skills_are_listed(capsys):
    assert run(["world"]) == 0
    words = capsys.readouterr().out.split()
    assert set(SKILLS) <= set(words)
    assert words.count("real") + words.count("drawn") == len(SKILLS)


def test_what_is_written_passes_lint(tmp_path, capsys):
    out = tmp_path / "world"
    words = ["world", str(out), "--scale", "0.001", "--skills", "two_circles,motion,clock", "--processes", "1"]
    assert run(words) == 0
    assert "24 samples in 3 new shards" in capsys.readouterr().out
    assert run(["lint", str(out / "chat.json")]) == 0
    printed = capsys.readouterr().out
    assert "all 44 rows" in printed  # circles and clocks stand twice: once more in tiles
    assert "1 kind of warning" in printed  # that they do
    assert run(words) == 0
    assert "0 samples in 0 new shards" in capsys.readouterr().out


@pytest.mark.slow
def test_every_skill_passes_lint(tmp_path, capsys, shared):
    out = tmp_path / "world"
    assert run(["world", str(out), "--data", str(shared / "data"), "--scale", "0.004"]) == 0
    assert set(json.loads((out / "chat.json").read_text(encoding="utf-8"))) >= set(SKILLS)
    capsys.readouterr()
    assert run(["lint", str(out / "chat.json")]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--skills", "flying"], "'flying' is no skill; there are photo, trash"),
        (["--data", "."], "has no folder caltech101"),
        (["--skills", "photo"], "photo is drawn out of real pictures; give the folder"),
        (["--seed", "0"], "greater than or equal to 1"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert run(["world", "out", "--scale", "0.0001", "--processes", "1", *words]) == 2
    printed = capsys.readouterr()
    [line] = printed.err.splitlines()
    assert said in line
    assert not list(tmp_path.rglob("*.tar"))

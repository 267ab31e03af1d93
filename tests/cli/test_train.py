"""`internvl train` and `internvl plan` from outside: what they print where, and their exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from internvl import recipes
from internvl.cli.main import run
from internvl.training.config import TrainConfig
from internvl.training.override import override

CONVERSATION = {"id": "a", "conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}


@pytest.fixture
def data(tmp_path) -> str:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(CONVERSATION | {"id": str(i)}) + "\n" for i in range(8)), encoding="utf-8")
    return f"data.path={file}"


def told(capsys, *arguments: str) -> str:
    assert run(arguments) == 0
    printed = capsys.readouterr()
    assert not printed.err
    return printed.out


def mistake(capsys, *arguments: str) -> str:
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert not printed.out
    [line] = printed.err.splitlines()
    return line


def test_without_a_recipe_all_are_listed(capsys):
    printed = told(capsys, "train")
    words = printed.split()
    assert set(recipes.table()) <= set(words)
    assert max(map(len, printed.splitlines())) <= 100


def test_show_prints_every_setting_with_its_changes(capsys):
    printed = told(capsys, "train", "internvl2_5_2b_lora", "optim.lr=1e-4", "--show")
    shown = override(TrainConfig(), printed.splitlines())
    assert shown == override(recipes.find("internvl2_5_2b_lora").make(), ["optim.lr=1e-4"])


def test_a_printed_recipe_runs_from_its_copy(capsys, tmp_path):
    copy = tmp_path / "mine.py"
    copy.write_text(told(capsys, "train", "internvl2_5_8b_mpo", "run.batch=8", "--python"), encoding="utf-8")
    assert told(capsys, "train", str(copy), "--show") == told(
        capsys, "train", "internvl2_5_8b_mpo", "run.batch=8", "--show"
    )
    assert told(capsys, "train", f"{copy}:recipe", "run.batch=4", "--show").count("run.batch=4\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["internvl2_5_2b_lor"], "Did you mean 'internvl2_5_2b_lora'?"),
        (["lora", "run.step=3"], "no setting is called 'run.step'; did you mean run.steps?"),
        (["lora", "run.steps=0"], "run.steps is 0, expected at least 1"),
        (["lora"], "data.path: there is no data/train.jsonl; give your data with data.path=FILE"),
        (["lora", "data.path="], "data.path is empty"),
        (["lora", "data.path=nowhere.json"], "there is no nowhere.json"),
        (["nowhere.py"], "no such file: nowhere.py"),
        (["--show"], "name it: internvl train RECIPE --show"),
    ],
)
def test_a_mistake_is_one_line_before_any_weight_is_read(capsys, monkeypatch, arguments, said, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("internvl.training.start.load", None)
    assert said in mistake(capsys, "train", *arguments)


@pytest.mark.parametrize("command", ["train", "plan"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--lr", "1e-4"], "settings are written KEY=VALUE: optim.lr=1e-4"),
        (["--lr=1e-4"], "KEY=VALUE: optim.lr=1e-4"),
        (["--lr"], "KEY=VALUE: optim.lr=VALUE"),
        (["--lr", "run.steps=3"], "KEY=VALUE: optim.lr=VALUE"),
        (["--max-tiles", "3"], "KEY=VALUE: data.max_tiles=3"),
        (["--learning_rate", "1e-4"], "KEY=VALUE: optim.lr=1e-4"),
        (["--zzz"], "KEY=VALUE: such as optim.lr=2e-5"),
        (["-x"], "KEY=VALUE: such as optim.lr=2e-5"),
    ],
)
def test_a_setting_as_an_option_is_answered_with_how_it_is_written(capsys, command, given, said):
    assert said in mistake(capsys, command, "lora", *given)


def test_a_misspelt_option_is_answered_with_the_option(capsys):
    assert "--dry-run" in mistake(capsys, "train", "lora", "--dryrun")
    assert "--devices" in mistake(capsys, "plan", "lora", "--devicse", "2")


def test_what_nothing_reads_is_told_with_what_to_set(capsys):
    said = mistake(capsys, "train", "lora", "run.patience=3", "learn.dora=true", "learn.vision_layers=-4:")
    assert "run.patience is 3, but nothing reads it" in said
    assert "or learn.vision_layers=all" in said
    assert "dora" not in said


def test_missing_sources_and_held_out_rows_are_told(capsys, data, tmp_path):
    meta = tmp_path / "meta.json"
    meta.write_text(
        json.dumps({"gone": {"annotation": str(tmp_path / "gone.jsonl"), "root": "", "data_augment": False}})
    )
    assert "gone.jsonl" in mistake(capsys, "train", "nano_lora", f"data.path={meta}")
    assert "data.held_out: there is no other.jsonl" in mistake(
        capsys, "train", "nano_lora", data, "data.held_out=other.jsonl"
    )


def test_a_dry_run_says_what_would_be(capsys, data, tmp_path):
    printed = told(capsys, "train", "nano_lora", data, f"run.out={tmp_path / 'out'}", "--dry-run")
    assert "1 source(s) of data" in printed
    assert "adapters" in printed
    assert not (tmp_path / "out").exists()


def test_only_the_first_rank_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert told(capsys, "train", "lora", "--show") == ""
    assert run(["train", "lora", "data.path=nowhere.json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


# --- plan -------------------------------------------------------------------------------------------------------------


def test_a_plan_to_read(capsys):
    printed = told(capsys, "plan", "internvl2_5_8b_lora", "--devices", "2", "--memory", "80")
    assert "8,075,365,376" not in printed  # part by part
    assert "7,737,782,272" in printed
    assert "fits 80.00 GiB" in printed
    assert "assumed" in printed


def test_a_plan_to_be_read_by_programs(capsys):
    said = json.loads(told(capsys, "plan", "InternVL2_5-1B", "data.max_tiles=6", "--json", "--memory", "1"))
    assert said["fits"] is False
    assert said["advice"]
    assert said["parts"]["vision"] == {"parameters": 304_012_288, "adapters": 0, "learning": 0}


def test_a_later_stage_is_planned_before_the_earlier_has_run(capsys):
    assert "7,737,782,272" in told(capsys, "plan", "internvl2_5_8b_stage2", "--devices", "512")


def test_nano_can_be_planned(capsys):
    said = json.loads(told(capsys, "plan", "nano", "--json"))
    assert sum(part["parameters"] for part in said["parts"].values()) == 7_810_560


def test_any_model_and_file_can_be_planned(capsys, golden, tmp_path):
    assert "projector" in told(capsys, "plan", str(golden("checkpoints/qwen2-v2_5-bf16")))
    assert "language" in told(capsys, "plan", "internvl-14b-224px")
    copy = tmp_path / "mine.py"
    copy.write_text(told(capsys, "train", "nano_lora", "--python"), encoding="utf-8")
    assert "AMD Zen 3" in told(capsys, "plan", str(copy))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing-like-it"], "no recipe is called 'nothing-like-it'"),
        (["internvit-300m-448px", "start.pooling=clip_projector"], "has no clip_projector"),
        (["lora", "--memory", "-1"], "expected GiB of one device"),
        (["lora", "lr=1"], "did you mean optim.lr?"),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_line(capsys, arguments, said):
    assert said in mistake(capsys, "plan", *arguments)


def test_help_is_light():
    for command in ("train", "plan"):
        code = f"from internvl.cli.main import run; run(['{command}', '--help'])"
        code += "; import sys; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


# --- a whole run ------------------------------------------------------------------------------------------------------


def started(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, "-m", "internvl", "train", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def small(folder: Path) -> list[str]:
    return [f"run.out={folder}", "run.steps=2", "data.max_length=128", "data.pack_tokens=128", "run.tensorboard=false"]


def test_a_run_from_the_command_line(data, tmp_path):
    """With pictures among the held-out rows, and without."""
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    held_out = tmp_path / "held_out.jsonl"
    row = {"id": "p", "image": str(tmp_path / "red.png"), "conversations": CONVERSATION["conversations"]}
    held_out.write_text(json.dumps(CONVERSATION) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    done = started("nano_lora", data, f"data.held_out={held_out}", *small(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "finished after 2 steps" in done.stdout
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    answers = (tmp_path / "run" / "held-out" / "step-000002.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["id"].partition(", id ")[2] for line in answers} == {"'a'", "'p'"}
    written = (tmp_path / "run" / "config.txt").read_text(encoding="utf-8")
    assert override(TrainConfig(), written.splitlines()).run.steps == 2


def test_an_interrupted_run_says_what_is_saved_and_how_to_go_on(data, tmp_path, capsys, monkeypatch):
    """The signal comes at the first step, as from a terminal."""
    from internvl.training import logs

    given = [data, *small(tmp_path / "run"), "run.steps=3"]
    plain = logs.Logs.step

    def stopped(self, step):
        plain(self, step)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(logs.Logs, "step", stopped)
        assert run(["train", "nano_lora", *given]) == 130
    last = capsys.readouterr().out.splitlines()[-1]
    saved = tmp_path / "run" / "step-000001"
    assert last == f"interrupted after 1 steps; saved as {saved}; the same command goes on from there"
    assert (saved / "model" / "config.json").is_file()
    assert run(["train", "nano_lora", *given]) == 0
    assert "finished after 3 steps" in capsys.readouterr().out


def test_two_processes_from_the_command_line(data, golden, tmp_path):
    """Sharded; both answer, and one writes it down."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text((json.dumps(CONVERSATION) + "\n") * 4, encoding="utf-8")
    given = [data, f"data.held_out={held_out}", "data.max_length=512", "data.pack_tokens=512"]
    given += [
        "run.batch=2",
        "parallel.shard=full",
        "run.dtype=bf16",
        f"start.model={golden('checkpoints/qwen2-v2_5-bf16')}",
        "run.device=cpu",
    ]
    done = started("nano_lora", *small(tmp_path / "run"), *given, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished after 2 steps") == 1
    answers = (tmp_path / "run" / "held-out" / "step-000002.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(answers) == 4
    assert {json.loads(line)["expected"] for line in answers} == {CONVERSATION["conversations"][1]["value"]}
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_a_recipe_writes_what_it_reads_before_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ("run.steps=2", "run.device=cpu", "run.eval_every=0", "data.held_out_rows=2", "data.workers=0")
    monkeypatch.setattr("internvl.recipes.nano.SMALL_SCALE", 0.001)
    assert run(["train", "nano_small", "--dry-run"]) == 2  # nothing is written for that
    said = capsys.readouterr().err
    assert "there is no runs/nano_small_world/chat.json" in said
    assert "`internvl train nano_small` without torchrun and --dry-run writes" in said
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert run(["train", "nano_small"]) == 2  # nor where every rank would write
    assert not (tmp_path / "runs").exists()
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    other = ("data.path=mine.jsonl", "data.held_out=mine.jsonl")
    assert run(["train", "nano_small", *few, *other]) == 2  # and nothing is drawn in place of data of one's own
    assert not (tmp_path / "runs/nano_small_world").exists()
    assert run(["train", "nano_small", *few]) == 0
    assert "finished after 2 steps" in capsys.readouterr().out
    kept = (tmp_path / "runs/nano_small_world/shape-0000.tar").stat().st_mtime_ns
    assert run(["train", "nano_small", *few, "run.steps=3"]) == 0
    assert "finished after 3 steps" in capsys.readouterr().out
    assert (tmp_path / "runs/nano_small_world/shape-0000.tar").stat().st_mtime_ns == kept

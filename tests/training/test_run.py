"""Whole runs: a folder of curves, checkpoints and a model; interrupted and gone on with; stopped by bad data."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import internvl
from internvl.errors import ConfigError, DataError, TrainingError, UsageError
from internvl.training.config import Aim, Data, Learn, Optim, Parallel, Run, Start, TrainConfig
from internvl.training.learn import choose
from internvl.training.logs import read_log
from internvl.training.parallel import World, parallelise
from internvl.training.run import train
from internvl.training.start import begin
from tests.conftest import golden

COLOURS = ("red", "green", "blue", "black", "white", "yellow")
EAGER = Parallel(checkpoint_language=False, checkpoint_vision=False)


def rows(folder, count=24, *, first=0, bad=()):
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (40 + 60 * (number % 3), 50), colour).save(folder / f"{colour}.png")
    lines = []
    for number in range(first, first + count):
        colour = COLOURS[number % len(COLOURS)]
        row = {
            "conversations": [{"from": "human", "value": f"{number}: which colour?"}, {"from": "gpt", "value": colour}]
        }
        if number % 4:
            row["image"] = "missing.png" if number in bad else f"{colour}.png"
        lines.append(json.dumps(row))
    path = folder / f"rows{first}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def pairs(folder):
    rows(folder)
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps({"image": f"{colour}.png", "caption": f"all {colour}"}) for colour in COLOURS))
    return path


def config(folder, *, measured=False, batching="packed", **run):
    """`measured`: with held-out rows."""
    packs = {"pack_tokens": 400, "pack_tiles": 6, "pack_buffers": 3} if batching == "packed" else {}
    settings = {"steps": 6, "save_every": 2, "dtype": "fp32", "tensorboard": False, "device": "cpu", "batch": 2}
    return TrainConfig(
        start=Start(model=str(golden("checkpoints/qwen2-v2_5-bf16")), drop_path=0.2),
        data=Data(
            path=str(rows(folder)), root=str(folder), workers=0, max_tiles=2, batching=batching,
            held_out=str(rows(folder, 6, first=100)) if measured else "", **packs,
        ),
        optim=Optim(lr=1e-3),
        run=Run(out=str(folder / "run"), **(settings | run)),
        parallel=EAGER,
    )  # fmt: skip


def losses(folder):
    return [line["loss"] for line in read_log(folder / "run") if line["kind"] == "step"]


def test_a_run_leaves_a_model_that_loads_a_log_and_a_report(tmp_path):
    plan = config(tmp_path, measured=True, eval_every=3)
    told = []
    result = train(plan, evaluate=lambda model, encoder, step: {"asked": float(step)}, on_step=told.append)
    assert (result.steps, result.ended) == (6, "finished")
    assert [step.number for step in told] == [1, 2, 3, 4, 5, 6]
    assert result.held_out["asked"] == 6.0
    assert result.held_out["loss"] < 7
    before, after = internvl.load(plan.start.model).state_dict(), internvl.load(result.model).state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    stored = load_file(result.model / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}  # as the checkpoint it began with
    assert [line["number"] for line in read_log(result.folder) if line["kind"] == "held_out"] == [0, 3, 6]
    page = (result.folder / "report.html").read_text()
    assert "<polyline" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "optim.lr=0.001" in (result.folder / "config.txt").read_text()
    assert internvl.load(result.folder / "step-000006" / "model") is not None


@pytest.mark.parametrize("batching", ["packed", "grouped", "plain"])
def test_an_interrupted_run_goes_on_to_the_bit(tmp_path, batching):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir(), other.mkdir()
    result = []
    for folder in (one, other):
        plan = config(folder, batching=batching)

        def stop(step, folder=folder):
            if folder == other and step.number == 3:
                os.kill(os.getpid(), signal.SIGINT)

        ended = train(plan, on_step=stop)
        if folder == other:
            assert (ended.ended, ended.steps) == ("interrupted", 3)
            assert not ended.model.exists()
            ended = train(plan)
        result.append(load_file(ended.model / "model.safetensors"))
    assert losses(one) == losses(other)
    assert all(torch.equal(result[0][name], result[1][name]) for name in result[0])


def test_a_finished_run_started_again_is_left_as_it_is(tmp_path):
    plan = config(tmp_path, steps=2)
    train(plan)
    again = train(plan)
    assert again.steps == 2
    assert len(losses(tmp_path)) == 2


def test_an_epoch_ends_and_every_row_was_seen_once(tmp_path):
    plan = config(tmp_path, steps=None, epochs=1.0)
    seen = []
    result = train(plan, on_step=seen.append)
    assert result.ended == "finished"
    assert sum(step.samples for step in seen) == 24
    assert seen[-1].progress == 1.0


def test_bad_rows_within_the_budget_are_named_and_beyond_it_end_the_run(tmp_path):
    plan = config(tmp_path, steps=None)
    path = rows(tmp_path, bad=(1, 2))
    ok = replace(plan, data=replace(plan.data, path=str(path), bad_rows=0.01))
    train(ok)
    named = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert sorted(os.path.basename(line["row"]) for line in named) == ["rows0.jsonl:2", "rows0.jsonl:3"]
    worse = replace(ok, data=replace(ok.data, path=str(rows(tmp_path, 200, bad=range(200)))))
    worse = replace(worse, run=replace(worse.run, out=str(tmp_path / "other")))
    with pytest.raises(DataError, match=r"rows read cannot be used, more than the budget of 0.01"):
        train(worse)


def test_only_what_learns_changes(tmp_path):
    plan = config(tmp_path, steps=2)
    plan = replace(plan, learn=Learn(vision=False, language=False), start=replace(plan.start, drop_path=0.0))
    before = internvl.load(plan.start.model).state_dict()
    after = internvl.load(train(plan).model).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("mlp1.") for name in changed)


def test_preferences_train_too(tmp_path):
    plan = config(tmp_path, steps=3)
    path = tmp_path / "pairs.jsonl"
    lines = [
        {"image": f"{c}.png", "question": "Which colour?", "chosen": c, "rejected": "none of them"} for c in COLOURS
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    seen = []
    plan = replace(
        plan,
        objective=Aim(kind="mpo"),
        data=replace(plan.data, path=str(path)),
        start=replace(plan.start, drop_path=0.0),
    )
    train(plan, on_step=seen.append)
    # At the first step both models are one: ln 2 and, for the quality, 2 ln 2.
    first = seen[0]
    assert first.loss - first.metrics["nll"] == pytest.approx(0.8 * 0.6931 + 0.2 * 2 * 0.6931, abs=1e-3)
    assert seen[-1].metrics["rewards/margins"] > 0


def test_early_stopping_keeps_the_best(tmp_path):
    plan = config(tmp_path, measured=True, steps=8, eval_every=1, patience=2, best="asked", keep=1)
    marks = {0: 0.95, 1: 0.1, 2: 0.9, 3: 0.5, 4: 0.4}
    result = train(plan, evaluate=lambda model, encoder, step: {"asked": marks[step]})
    assert (result.ended, result.steps, result.best) == ("no longer better", 4, 2)
    assert (result.folder / "step-000002").is_dir()
    again = train(plan, evaluate=lambda model, encoder, step: {"asked": marks[step]})
    assert (again.ended, again.steps, again.best) == ("no longer better", 4, 2)  # it is not begun again


def test_a_figure_that_is_no_number_is_never_the_best(tmp_path):
    plan = config(tmp_path, measured=True, steps=3, eval_every=1, best="asked")
    marks = {0: 0.0, 1: float("nan"), 2: 0.5, 3: 0.9}
    assert train(plan, evaluate=lambda model, encoder, step: {"asked": marks[step]}).best == 3


def test_a_figure_that_is_not_measured_is_said_before_the_first_step(tmp_path):
    plan = config(tmp_path, measured=True, steps=3, best="exact")
    seen = []
    with pytest.raises(UsageError, match="there are: loss"):
        train(plan, on_step=seen.append)
    assert not seen


def test_what_fails_in_the_last_evaluation_loses_nothing(tmp_path):
    plan = config(tmp_path, measured=True, steps=3, save_every=1000)

    def fails(model, encoder, step):
        if step == 3:
            raise ValueError("a fault of the caller")
        return {}

    with pytest.raises(ValueError, match="a fault of the caller"):
        train(plan, evaluate=fails)
    assert (tmp_path / "run" / "step-000003" / "state.json").is_file()
    assert train(plan).ended == "finished"


def test_a_run_begun_otherwise_is_named_by_its_settings(tmp_path, capsys):
    train(config(tmp_path, steps=2))
    plan = config(tmp_path, steps=3)
    with pytest.raises(UsageError, match=r"was begun with learn.projector=true, which its weights depend on"):
        train(replace(plan, learn=Learn(projector=False)))
    train(replace(plan, optim=Optim(lr=5e-4)))
    assert "optim.lr 0.001 -> 0.0005" in capsys.readouterr().err


def test_data_for_less_than_a_step_are_no_finished_run(tmp_path):
    plan = config(tmp_path, steps=None)
    with pytest.raises(DataError, match="no step was made"):
        train(replace(
            plan,
            start=Start(model=str(golden("checkpoints/internvl-14b"))),
            objective=Aim(kind="retrieval", captioning=0.0),
            data=Data(path=str(pairs(tmp_path)), root=str(tmp_path), batching="plain", rows=6, workers=0),
            run=replace(plan.run, batch=12),
        ))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"data": {"path": ""}}, UsageError, "data.path is empty"),
        ({"data": {"path": "nowhere.jsonl"}}, DataError, "nowhere.jsonl"),
        ({"data": {"rows": 2, "batching": "plain"}, "run": {"batch": 3}}, ConfigError, "data.rows 2 does not divide"),
        ({"objective": {"kind": "classify"}}, ConfigError, "classify"),
        (
            {"run": {"best": "exact", "eval_every": 1}},
            ConfigError,
            "run.best is 'exact', but nothing reads it without held",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, change, error, said):
    plan = config(tmp_path)
    with pytest.raises(error, match=said) as caught:
        train(replace(plan, **{name: replace(getattr(plan, name), **values) for name, values in change.items()}))
    assert "\n" not in str(caught.value)


def test_other_data_in_the_same_folder_are_refused(tmp_path):
    train(config(tmp_path, steps=2))
    plan = config(tmp_path, steps=4)
    with pytest.raises(TrainingError, match="other data"):
        train(replace(plan, data=replace(plan.data, path=str(rows(tmp_path, 30)))))


def test_a_step_without_pictures_treats_a_tower_that_learns_as_on_many_ranks():
    for learns in (True, False):
        model = begin(Start(model=str(golden("checkpoints/qwen2-v2_5-bf16")))).model
        choose(model, Learn(vision=learns))
        parallelise(model, EAGER, World(), dtype="fp32")
        ids = torch.tensor([[1, 2, 3, 4]])
        (-model.token_logprobs(ids, ids).sum()).backward()
        seen = [p.grad for p in model.vision_model.encoder.layers[0].parameters()]
        assert all((grad is not None and not grad.any()) if learns else grad is None for grad in seen)

"""From a config to what a run works with: how much is accumulated, which rows, which reference, what is saved."""

import json
import os
import signal
from dataclasses import replace

import pytest
import typer

from internvl.cli.train import _run as run_as_told
from internvl.cli.train import held_out_answers
from internvl.data.mixture import Source
from internvl.data.pair_batch import RandomCrop
from internvl.errors import ConfigError, UsageError
from internvl.training import build, loop
from internvl.training.config import Aim, Data, Learn, Run, TrainConfig
from internvl.training.logs import read_log
from internvl.training.run import train
from internvl.training.start import begin
from internvl.training.world import World
from internvl.weights.load import load_encoder
from tests.conftest import golden
from tests.training.test_run import COLOURS, config, losses

PAIRED = {"batching": "plain", "rows": 2, "workers": 0}


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("micro", [1, 2, 7])
def test_a_step_has_the_batch_that_was_asked_for(ranks, rows, micro):
    plan = TrainConfig(data=Data(batching="plain", rows=rows), run=Run(batch=ranks * rows * micro))
    assert build.accumulation(plan, World(size=ranks)) == micro
    if ranks > 1:
        with pytest.raises(ConfigError, match=f"make {ranks * rows} at once"):
            build.accumulation(replace(plan, run=Run(batch=rows * (ranks * micro + 1))), World(size=ranks))


@pytest.mark.parametrize(("kind", "rows"), build.ROWS.items())
def test_rows_of_another_kind_are_refused(kind, rows):
    aim = Aim(kind=kind, **({"captioning": 0.0} if rows == "pair" else {}))
    other = "pair" if rows != "pair" else "label"
    for field in ("sources", "path"):
        given = Data(**PAIRED, sources=(Source(annotation="a.jsonl", name="coco", kind=other),))
        data = given if field == "sources" else Data(**PAIRED, path="a.jsonl")
        plan = TrainConfig(data=data, objective=aim, run=Run(batch=2))
        if field == "sources":
            with pytest.raises(ConfigError, match=f"{kind} learns from {rows} rows, but coco is {other}"):
                build.sources(plan)
        else:
            assert [source.kind for source in build.sources(plan)] == [rows]


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("retrieval", {"rows": 2}, None),
        ("retrieval", {"rows": 1}, "no other text to tell"),
        ("pretrain_pair", {"batching": "packed", "rows": 1}, "set data.batching=plain"),
        ("sft", {"classes": "10"}, "data.classes is '?10'?"),
        ("retrieval", {"classes": "10"}, "data.classes is '?10'?"),
    ],
)
def test_what_pairs_cannot_have_is_said_at_once(kind, data, said):
    def made():
        aim = Aim(kind=kind, **({} if kind == "sft" else {"captioning": 0.0}))
        return TrainConfig(data=Data(**(PAIRED | data)), objective=aim, run=Run(batch=2))

    if said is None:
        assert made().data.rows == data["rows"]
    else:
        with pytest.raises(ConfigError, match=said):
            made()


def test_tiles_that_were_asked_for_are_those_of_the_checkpoint(tmp_path):
    plan = config(tmp_path, steps=1)
    plan = replace(plan, data=replace(plan.data, min_tiles=2, max_tiles=3, dynamic=True, thumbnail=False))
    result = train(plan)
    for folder in (result.model, result.folder / "step-000001" / "model"):
        said = load_encoder(folder).config
        assert (said.min_tiles, said.max_tiles, said.dynamic, said.thumbnail) == (2, 3, True, False)


# ---- preferences -----------------------------------------------------------------------------------------------------


def preferring(folder, learn=None, **aim):
    plan = config(folder, steps=3)
    rows = folder / "pairs.jsonl"
    lines = [{"image": f"{c}.png", "question": "Which colour?", "chosen": c, "rejected": "none"} for c in COLOURS]
    rows.write_text("\n".join(map(json.dumps, lines)))
    return replace(
        plan,
        data=replace(plan.data, path=str(rows)),
        learn=learn or Learn(),
        objective=Aim(kind="mpo", **aim),
        start=replace(plan.start, drop_path=0.0),
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("length", [{"steps": 3}, {"steps": None, "epochs": 1.5}], ids=["steps", "epochs"])
def test_a_cached_reference_trains_as_a_second_model_without_one(tmp_path, length, dtype, monkeypatch):
    found = []
    for way in ("model", "cache", "stopped"):
        (tmp_path / way).mkdir()
        plan = preferring(tmp_path / way, reference="model" if way == "model" else "cache")
        augmented = tmp_path / way / "meta.json"
        told = {"annotation": plan.data.path, "root": plan.data.root, "kind": "preference", "data_augment": True}
        augmented.write_text(json.dumps({"colours": told}))
        data = replace(plan.data, path=str(augmented), held_out=plan.data.path)
        plan = replace(plan, data=data, run=replace(plan.run, dtype=dtype, eval_every=2, **length))
        if way != "model":
            monkeypatch.setattr(build, "ModelReference", None)  # nobody asks for a second model
        if way == "stopped":
            train(plan, on_step=lambda step: step.number == 1 and os.kill(os.getpid(), signal.SIGINT))
        held_out = train(plan).held_out
        found.append((losses(tmp_path / way), held_out))
        monkeypatch.undo()
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) >= 3


def same_losses(tmp_path, go, **aim):
    """Of a run with a second model and of one with a cache; `go(plan)` runs it."""
    found = []
    for way in ("model", "cache"):
        (tmp_path / way).mkdir()
        go(preferring(tmp_path / way, reference=way, **aim))
        found.append(losses(tmp_path / way))
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("batching", ["plain", "packed"])
def test_a_cached_reference_at_the_end_of_an_epoch_that_does_not_fill_its_last_step(tmp_path, batching, monkeypatch):
    """Six pairs in steps of five: the last step has micro-batches that teach nothing, and are not known."""
    idle, right = [], loop.blank
    monkeypatch.setattr(loop, "blank", lambda batch: idle.append(batch) or right(batch))

    def go(plan):
        data = replace(plan.data, pack_tokens=250)
        if batching == "plain":
            data = Data(path=data.path, root=data.root, max_tiles=2, batching="plain", workers=0)
        train(replace(plan, data=data, run=replace(plan.run, steps=None, batch=5)))

    assert same_losses(tmp_path, go)
    assert idle


def test_a_run_that_goes_on_for_longer_gets_the_rest_of_its_reference(tmp_path, monkeypatch):
    """From the model that it began with, though that has learnt since; a pass that was whole is not made again."""

    def go(plan):
        for steps in (1, 1, 4):
            train(replace(plan, data=replace(plan.data, max_tiles=1), run=replace(plan.run, steps=steps)))

    passes, right = [], build.CachedReference.fill
    monkeypatch.setattr(
        build.CachedReference, "fill", lambda *given, **more: passes.append(right(*given, **more)) or passes[-1]
    )
    assert len(same_losses(tmp_path, go)) == 4
    assert len(passes) == 2
    assert passes[0] < passes[1]


def test_a_reference_is_left_at_once_when_asked_to(tmp_path, monkeypatch, capsys):
    asked, right = [], build.OwnReference.logprobs

    def interrupted(self, *given):
        asked.append(len(asked))
        if asked[-1] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return right(self, *given)

    def go(plan):
        if plan.objective.reference == "cache":
            with pytest.raises(typer.Exit) as left:
                run_as_told(plan)
            assert (left.value.exit_code, len(asked)) == (130, 2)
            assert "interrupted after 0 steps; nothing was learnt yet; the same command" in capsys.readouterr().out
            assert not list((tmp_path / "cache" / "run").glob("step-*"))
        train(plan)

    monkeypatch.setattr(build.OwnReference, "logprobs", interrupted)
    assert len(same_losses(tmp_path, go)) == 3


@pytest.mark.parametrize("reference", ["model", "cache"])
def test_a_quantised_model_is_compared_with_itself_as_it_began(tmp_path, reference):
    learn = Learn(vision=False, projector=False, language_lora=4, lora_dropout=0.0, quantize="int4")
    seen = []
    train(preferring(tmp_path, learn, reference=reference), on_step=seen.append)
    assert seen[0].metrics["rewards/chosen"] == seen[0].metrics["rewards/rejected"] == 0
    assert seen[1].metrics["rewards/chosen"] != 0


def test_adapters_that_were_there_cannot_be_switched_off(tmp_path):
    learn = Learn(vision=False, projector=False, language_lora=4, lora_dropout=0.0)
    plan = preferring(tmp_path, learn, reference="adapter_off")
    with pytest.raises(ConfigError, match="has adapters already, which are a part of what it is; merge them first"):
        train(replace(plan, start=replace(plan.start, model=str(golden("checkpoints/internlm2-lora")))))


# ---- held out --------------------------------------------------------------------------------------------------------


def test_held_out_rows_are_of_all_sources_and_the_same_for_loss_and_answers(tmp_path):
    meta = {}
    for name in ("first", "second"):
        row = {"conversations": [{"from": "human", "value": name}, {"from": "gpt", "value": "yes"}]}
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row | {"id": f"{name}{n}"}) + "\n" for n in range(300))
        )
        meta[name] = {"annotation": str(tmp_path / f"{name}.jsonl"), "repeat_time": 3}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    plan = config(tmp_path)
    plan = replace(plan, data=replace(plan.data, held_out=str(tmp_path / "meta.json")))
    mixture = build.held_out_mixture(plan)
    assert len(mixture) == 600
    found = [mixture.place(position) for position in range(600)]
    assert len({(place.source, place.row) for place in found}) == 600
    assert 96 < sum(place.source for place in found[:256]) < 160  # 128 +- 4 standard deviations
    answers = held_out_answers(plan)
    assert [q.id for q in answers.questions] == [mixture.record(place).id for place in found[: len(answers.questions)]]
    other = build.held_out_mixture(replace(plan, run=replace(plan.run, seed=1)))
    assert [other.place(n) for n in range(600)] != found


def test_a_run_says_what_it_was_expected_to_need(tmp_path):
    train(config(tmp_path, steps=1))
    planned = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert planned["devices"] == 1
    assert planned["bytes_per_device"] > planned["memory"]["weights"] > 0
    notes = [line["text"] for line in read_log(tmp_path / "run") if line["kind"] == "note"]
    assert "before the model was there" in notes[-1]
    assert "were estimated" in notes[-1]


def test_adapters_switched_off_are_the_model_of_before(tmp_path):
    found = []
    for way in ("model", "adapter_off"):
        (tmp_path / way).mkdir()
        learn = Learn(vision=False, projector=False, language_lora=4, lora_dropout=0.0)
        train(preferring(tmp_path / way, learn, reference=way))
        found.append(losses(tmp_path / way))
    assert found[0] == found[1]
    assert len(set(found[0])) == 3


# ---- pairs -----------------------------------------------------------------------------------------------------------


def pairs(folder, name="internvl-14b", **aim):
    plan = config(folder, steps=2, batch=3)
    rows = folder / "captions.jsonl"
    rows.write_text("".join(json.dumps({"image": f"{c}.png", "caption": f"a {c} picture"}) + "\n" for c in COLOURS))
    return replace(
        plan,
        start=replace(plan.start, model=str(golden(f"checkpoints/{name}")), drop_path=0.0),
        data=Data(
            path=str(rows), root=str(folder), held_out=str(rows), batching="plain", rows=3, workers=0, text_length=24
        ),
        objective=Aim(**({"kind": "retrieval", "captioning": 0.0} | aim)),
    )


def test_pairs_learn_and_are_measured_on_held_out_rows(tmp_path):
    result = train(replace(pairs(tmp_path), start=replace(pairs(tmp_path).start, tile_size=56)))
    assert {"loss", "itm", "itc", "match_own"} <= result.held_out.keys()
    assert result.best == 2
    assert json.loads((result.model / "config.json").read_text())["vision_config"]["image_size"] == 56


def test_how_much_of_a_pairs_picture_is_seen_is_as_asked(tmp_path):
    plan = pairs(tmp_path)
    plan = replace(plan, data=replace(plan.data, part=0.9, mirror=0.0))
    begun = begin(plan.start)
    assert build.prepare(plan, begun).augment == RandomCrop(scale=(0.9, 1.0), flip=0.0)
    assert build.prepare(plan, begun, augment=False).augment is None


def test_a_plain_internvl_c_is_told_at_the_start_what_it_cannot_learn(tmp_path):
    with pytest.raises(ConfigError, match="no queries to match and caption with"):
        train(pairs(tmp_path, "internvl-c-pth"))
    with pytest.raises((ConfigError, UsageError), match="trains InternVL-C or"):
        train(pairs(tmp_path, "qwen2-v2_5-bf16"))

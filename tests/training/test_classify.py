"""A tower learns classes: as a probe and whole, interrupted and gone on with, and as a folder that is loaded again."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import internvl
from internvl.data.image import normalise
from internvl.data.mixture import Source
from internvl.data.pair_batch import PrepareLabel
from internvl.data.records import Labelled
from internvl.errors import ConfigError, DataError, InternVLError, KeyMismatch, UsageError
from internvl.models.classifier import Classifier
from internvl.models.config import VisionConfig
from internvl.models.vit import VisionTransformer
from internvl.training import classes as classes_module
from internvl.training.classes import Classes, classes_of
from internvl.training.classifier_folder import begin_classifier, load_classifier
from internvl.training.config import Aim, Data, Optim, Parallel, Run, Start, TrainConfig
from internvl.training.logs import read_log
from internvl.training.optim import rate_of
from internvl.training.run import train
from internvl.weights.load import save
from tests.conftest import golden
from tests.models.tiny import shake
from tests.training.shapes import COLOURS

TOWER = VisionConfig(image_size=28, dim=32, layers=2, heads=2, mlp_dim=48)
NAMES = ("red", "green", "blue", "yellow")
POOLED = replace(TOWER, pool_dim=24, pool_heads=4)


def rows(folder, count=48, *, seed=0, numbers=False, bad=()):
    """Pictures of one colour under noise, and which colour it is."""
    dice, lines = np.random.default_rng(seed), []
    for at in range(count):
        name = NAMES[at % len(NAMES)]
        pixels = np.array(COLOURS[name]) + dice.normal(0, 40, (40, 32, 3))
        file = f"{seed}-{at}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / file)
        label = "no such colour" if at in bad else at % len(NAMES) if numbers else name
        lines.append(json.dumps({"image": file, "label": label}))
    path = folder / f"rows{seed}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def tower(folder, config=TOWER):
    model = shake(VisionTransformer(config))
    save(model, folder / "tower", replace=True)
    return folder / "tower"


def config(folder, **changes):
    plan = TrainConfig(
        start=Start(model=str(tower(folder))),
        data=Data(path=str(rows(folder)), root=str(folder), batching="plain", rows=8, workers=0),
        objective=Aim(kind="classify"),
        optim=Optim(lr=1e-2, weight_decay=0.0, schedule="constant"),
        run=Run(out=str(folder / "run"), steps=6, save_every=2, batch=8, dtype="fp32", device="cpu", tensorboard=False),
        parallel=Parallel(checkpoint_vision=False),
    )
    return replace(plan, **{name: replace(getattr(plan, name), **values) for name, values in changes.items()})


def losses(folder):
    return [line["loss"] for line in read_log(folder) if line["kind"] == "step"]


@pytest.mark.parametrize("vision", [False, True])
def test_colours_are_learnt_and_held_out_pictures_say_so(tmp_path, vision):
    held_out = str(rows(tmp_path, 24, seed=1))
    plan = config(
        tmp_path,
        data={"held_out": held_out},
        learn={"vision": vision},
        run={"steps": 30, "eval_every": 10, "best": "top1"},
    )
    result = train(plan)
    assert result.held_out["top1"] > 0.9  # 1.0 was seen; 0.25 is chance
    assert result.best is not None
    marked = [line["top1"] for line in read_log(result.folder) if line["kind"] == "held_out"]
    assert marked[result.best // 10] == max(marked)  # the first was measured before the first step
    before, after = internvl.load(plan.start.model).state_dict(), internvl.load(result.model).state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before) == vision


@pytest.mark.parametrize("accumulated", [1, 2])
def test_an_interrupted_run_goes_on_to_the_bit(tmp_path, accumulated):
    ended = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        plan = config(folder, run={"batch": 8 * accumulated}, start={"drop_path": 0.2})

        def stop(step, name=name):
            if name == "other" and step.number == 3:
                os.kill(os.getpid(), signal.SIGINT)

        result = train(plan, on_step=stop)
        if name == "other":
            assert (result.ended, result.steps) == ("interrupted", 3)
            result = train(plan)
        ended.append(result)
    assert losses(ended[0].folder) == losses(ended[1].folder)
    for file in ("model.safetensors", "head.safetensors"):
        one, other = (load_file(result.model / file) for result in ended)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), file


def test_a_folder_of_a_classifier_answers_as_the_model_did(tmp_path):
    plan = config(tmp_path, run={"steps": 30})
    result = train(plan)
    model = load_classifier(result.model)
    assert model.names == tuple(sorted(NAMES))
    head = load_file(result.model / "head.safetensors")
    normed = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert head.keys() == {*(f"norm.{name}" for name in normed), "head.weight", "head.bias"}
    assert int(head["norm.num_batches_tracked"]) == 30
    prepare = PrepareLabel(size=28, classes=model.names)
    pictures = [
        prepare(Labelled("a", str(tmp_path / f"0-{at}.png"), name), Source(annotation="x"), 0, index=0, seed=0).tiles
        for at, name in enumerate(NAMES)
    ]
    with torch.no_grad():
        logits = model(normalise(torch.from_numpy(np.concatenate(pictures))))
    assert [model.names[at] for at in logits.argmax(dim=1)] == list(NAMES)
    whole, step = load_classifier(result.model), load_classifier(result.folder / "step-000030" / "model")
    for (name, one), other in zip(whole.state_dict().items(), step.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_training_goes_on_from_a_classifier_with_its_head(tmp_path):
    first = train(config(tmp_path, learn={"vision": False}))
    again = begin_classifier(Start(model=str(first.model)), Classes(4, tuple(sorted(NAMES))))
    assert "going on with the head" in again.notes[-1]
    assert isinstance(again.model, Classifier)
    for (name, one), other in zip(
        load_classifier(first.model).state_dict().items(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    others = begin_classifier(Start(model=str(first.model)), Classes(4))
    assert "left out" in others.notes[-1]


# ---- which tower -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("qwen2-v2_5-bf16", "linear"), ("qwen2-v2_5-bf16", "attention"), ("internvl-14b", "attention"),
        ("internvl-14b", "clip_projector"), ("internvl-c-pth", "clip_projector"), ("internvl-c-pth", "linear"),
    ],
)  # fmt: skip
def test_the_tower_of_a_chat_model_or_a_pair_is_taken(tmp_path, name, pooling):
    path = golden(f"checkpoints/{name}")
    plan = config(tmp_path, start={"model": str(path), "pooling": pooling}, learn={"vision": False}, run={"steps": 2})
    result = train(plan)
    before, after = internvl.load(path), internvl.load(result.model)
    assert isinstance(after, VisionTransformer)
    assert (after.clip_projector is not None) == (pooling == "clip_projector")
    expected = {f"vision_model.{name}": t for name, t in after.state_dict().items() if "clip_projector" not in name}
    expected |= {name: tensor for name, tensor in after.state_dict().items() if "clip_projector" in name}
    for key, tensor in expected.items():
        assert torch.equal(tensor, before.state_dict()[key]), key
    assert load_classifier(result.model).head.pooling == pooling


def test_a_tower_alone_keeps_its_layout_and_its_type(tmp_path):
    path = golden("checkpoints/internvit-300m")
    plan = config(tmp_path, start={"model": str(path)}, learn={"vision": False}, run={"steps": 2})
    stored, before = (load_file(folder / "model.safetensors") for folder in (train(plan).model, path))
    assert stored.keys() == before.keys()
    assert all(torch.equal(stored[name], before[name]) and stored[name].dtype == before[name].dtype for name in before)


def test_another_size_is_in_the_result(tmp_path):
    result = train(config(tmp_path, start={"tile_size": 42}, run={"steps": 2}))
    assert internvl.load(result.model).config.image_size == 42


def test_rates_fall_from_the_head_to_the_embeddings():
    model = Classifier.of(VisionTransformer(TOWER), 3)
    optim = Optim(lr=1.0, vision_lr=0.5, vision_layer_decay=0.5, projector_lr=2.0)
    told = {
        "head.head.weight": 2.0,
        "head.norm.bias": 2.0,
        "tower.encoder.layers.1.ls1": 0.5 * 0.5,
        "tower.encoder.layers.0.ls1": 0.5 * 0.25,
        "tower.embeddings.class_embedding": 0.5 * 0.125,
    }
    for name, rate in told.items():
        assert name in dict(model.named_parameters())
        assert rate_of(name, model, optim) == rate, name


def test_only_the_last_blocks_learn(tmp_path):
    plan = config(tmp_path, learn={"vision_layers": "-1:"}, run={"steps": 2})
    before, after = internvl.load(plan.start.model).state_dict(), internvl.load(train(plan).model).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("encoder.layers.1.") for name in changed)


# ---- classes ---------------------------------------------------------------------------------------------------------


def test_classes_are_found_stated_or_in_a_file(tmp_path):
    named = (Source(annotation=str(rows(tmp_path)), kind="label"),)
    numbered = (Source(annotation=str(rows(tmp_path, seed=2, numbers=True)), kind="label"),)
    assert classes_of("", named) == Classes(4, ("blue", "green", "red", "yellow"))
    assert classes_of("", numbered) == Classes(4)
    assert classes_of("10", named) == Classes(10)
    assert classes_of("red, green", named) == Classes(2, ("red", "green"))
    file = tmp_path / "names.txt"
    file.write_text("tench, Tinca tinca\ngoldfish\n\n")
    assert classes_of(str(file), named) == Classes(2, ("tench, Tinca tinca", "goldfish"))


def test_classes_that_cannot_be(tmp_path, monkeypatch):
    def source(*labels):
        path = tmp_path / "labels.jsonl"
        path.write_text("".join(json.dumps({"image": "a.png", "label": label}) + "\n" for label in labels))
        return (Source(annotation=str(path), kind="label"),)

    for asked, labels, error, said in (
        ("", ("a", "a"), DataError, "1 class"),
        ("", (0, 0), DataError, "1 class"),
        ("", ("a", 1), DataError, "some labels are names"),
        ("", (0, 5000), DataError, "more than 1000 classes"),
        ("", (0, -1), DataError, "negative"),
        ("", [f"class {at}" for at in range(1001)], DataError, "more than 1000 classes"),
        ("1", ("a", "b"), UsageError, "at least 2"),
        ("names.txt", ("a", "b"), UsageError, "no such file"),
        ("a,b,a", ("a", "b"), UsageError, "'a' is twice"),
        ("a,,b", ("a", "b"), UsageError, "a name is empty"),
    ):
        with pytest.raises(error, match=said) as caught:
            classes_of(asked, source(*labels))
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(classes_module, "MOST_ROWS", 2)
    with pytest.raises(UsageError, match="3 rows are more than the 2 that are looked through"):
        classes_of("", source("a", "b", "c"))


def test_a_label_that_is_no_class_is_a_bad_row(tmp_path):
    path = rows(tmp_path, seed=3, bad=(5,))
    plan = config(tmp_path, data={"path": str(path), "classes": ",".join(NAMES), "bad_rows": 0.1})
    train(plan)
    [line] = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    assert "no class is called 'no such colour'" in line
    assert json.loads(line)["row"].endswith("rows3.jsonl:6")


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"data": {"batching": "packed", "rows": 1}, "run": {"batch": 1}}, ConfigError, "set data.batching=plain"),
        ({"data": {"rows": 1}}, ConfigError, "normalises over the rows of a batch"),
        ({"start": {"pooling": "clip_projector"}}, UsageError, "no clip_projector"),
        ({"start": {"template": "Hermes-2"}}, ConfigError, "start.template is 'Hermes-2', but nothing reads it"),
        ({"learn": {"vision_lora": 4}}, ConfigError, "vision_lora"),
        ({"data": {"max_tiles": 4}}, ConfigError, "data.max_tiles is 4, but nothing reads it"),
        ({"objective": {"kind": "sft"}}, ConfigError, "trains a chat model; this is none"),
        ({"objective": {"kind": "retrieval", "captioning": 0.0}}, InternVLError, "trains InternVL-C"),
    ],
)
def test_mistakes_are_one_line(tmp_path, changes, error, said):
    with pytest.raises(error, match=said) as caught:
        train(config(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_other_classes_do_not_go_on_in_the_same_folder(tmp_path):
    train(config(tmp_path, run={"steps": 2}))
    with pytest.raises(KeyMismatch, match=r"keep the rows, data\.classes and start\.pooling"):
        train(config(tmp_path, data={"classes": ",".join(NAMES)}))


@pytest.mark.parametrize("broken", ["", "{}", '{"pooling": "linear", "count": 4, "names": ["a"]}', "[]", "null"])
def test_a_damaged_folder_is_named(tmp_path, broken):
    folder = train(config(tmp_path, run={"steps": 1})).model
    (folder / "classes.json").write_text(broken)
    with pytest.raises(InternVLError, match=r"classes\.json: expected"):
        load_classifier(folder)
    (folder / "classes.json").unlink()
    with pytest.raises(UsageError, match=r"no classes\.json"):
        load_classifier(folder)

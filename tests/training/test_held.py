"""Frozen weights in the 16 bit that they are stored in: half the memory, the same losses and gradients."""

from __future__ import annotations

import os
from dataclasses import replace
from signal import SIGINT

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import internvl
from internvl.data.prompts import Message
from internvl.evaluation.held_out import Answers, question
from internvl.training import build
from internvl.training.config import Learn, Parallel, Run, Start, TrainConfig
from internvl.training.held import products, widen_learning
from internvl.training.learn import choose
from internvl.training.loop import autocast
from internvl.training.parallel import World, parallelise
from internvl.training.plan import estimate
from internvl.training.run import train
from internvl.training.start import begin
from tests.conftest import golden
from tests.models.tiny import TEXTS, VISIONS, chat_model, random_ids
from tests.training.test_build import preferring
from tests.training.test_run import config, losses, rows

pytest.importorskip("peft", reason="pip install 'internvl[train]'")

NAMES = ("qwen2-v2_5-bf16", "internlm2-v2_5", "phi3-v2", "llama-v1_1-bin", "llama3-6bvit-v2-sharded")
LEARNS = {
    "lora": Learn(vision=False, projector=False, language=False, language_lora=4, vision_lora=2),
    "projector": Learn(vision=False, language=False),
    "layers": Learn(vision=False, language_layers="-1:"),
    "dora": Learn(vision=False, language=False, language_lora=4, dora=True),
    "int8": Learn(vision=False, language=False, language_lora=4, quantize="int8"),
    "all": Learn(),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Golden checkpoints as the published ones are: in bf16."""
    folder = tmp_path_factory.mktemp("stored")
    for name in NAMES:
        model = internvl.load(golden(f"checkpoints/{name}"), device="cpu")
        internvl.save(model, folder / name, dtype="bfloat16")
    return folder


def made(folder, learn: Learn, *, narrow: bool, dtype: str = "bf16") -> nn.Module:
    model = begin(Start(model=str(folder)), narrow=narrow).model
    choose(model, learn, seed=1)
    widen_learning(model)
    return parallelise(model, Parallel(checkpoint_language=False), World(), dtype=dtype)


def learnt(model, dtype: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch with a picture."""
    size = model.config.tile_size
    ids = random_ids(2, 12, seed=3) % 50 + 1
    slots = torch.full((2, model.config.slots_per_tile), model.config.image_token)
    ids = torch.cat((ids[:, :2], slots, ids[:, 2:]), dim=1)
    targets = ids.masked_fill(ids == model.config.image_token, -100)
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, size, size)).astype("float32"))
    torch.manual_seed(0)  # of dropout before adapters
    with autocast(torch.device("cpu"), dtype):
        loss = -model.token_logprobs(ids, targets, pixels).sum() / 22
    loss.backward()
    return float(loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "how", "dtype"),
    [
        (NAMES[0], "lora", "fp16"),
        *((name, "lora", "bf16") for name in NAMES),
        (NAMES[0], "dora", "bf16"),
        *((NAMES[1], how, "bf16") for how in LEARNS),
    ],
)
def test_nothing_changes_but_the_memory(stored, name, how, dtype):
    wide, narrow = (made(stored / name, LEARNS[how], narrow=narrow, dtype=dtype) for narrow in (False, True))
    for (key, one), (_, other) in zip(wide.named_parameters(), narrow.named_parameters(), strict=True):
        assert torch.equal(one, other.float()), key
    one, other = learnt(wide, dtype), learnt(narrow, dtype)
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][key], other[1][key]) for key in one[1])
    assert {p.dtype for p in narrow.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("name", NAMES)
def test_what_products_are_made_with_takes_half(stored, name):
    wide, narrow = (made(stored / name, LEARNS["lora"], narrow=narrow) for narrow in (False, True))
    held, before = (sum(p.nbytes for p in model.parameters()) for model in (narrow, wide))
    halved = sum(p.numel() for p in products(wide) if not p.requires_grad)
    assert before - held == 2 * halved
    assert 4 * halved > 0.8 * sum(p.nbytes for p in wide.parameters() if not p.requires_grad)


@pytest.mark.parametrize("tower", VISIONS)
@pytest.mark.parametrize("text", TEXTS)
def test_every_kind_of_layer(text, tower):
    """Experts, sinks, norms of queries, tied heads: all learns but what products are made with, or nothing of it."""
    found = []
    for narrow in (False, True):
        model = chat_model(text, tower)
        with torch.no_grad():
            for parameter in products(model):
                parameter.requires_grad_(False).data = parameter.bfloat16() if narrow else parameter.bfloat16().float()
        found.append(learnt(parallelise(model, Parallel(), World(), dtype="bf16"), "bf16"))
    assert found[0][0] == found[1][0]
    assert found[0][1].keys() == found[1][1].keys()
    assert all(torch.equal(gradient, found[1][1][name]) for name, gradient in found[0][1].items())


def test_a_checkpoint_in_fp32_stays_so(tmp_path):
    source = internvl.load(golden("checkpoints/phi3-v2"), dtype="float32", device="cpu")
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(1 + 1e-4)
    internvl.save(source, tmp_path / "fp32", dtype="float32")
    begun = begin(Start(model=str(tmp_path / "fp32")), narrow=True).model
    assert all(torch.equal(a, b) for a, b in zip(begun.parameters(), source.parameters(), strict=True))
    assert {p.dtype for p in begun.parameters()} == {torch.float32}


def run(folder, **learn):
    plan = config(folder, dtype="bf16", steps=4)
    return replace(plan, learn=Learn(vision=False, language=False, **learn), start=replace(plan.start, drop_path=0.0))


@pytest.mark.parametrize("learn", [{}, {"language_lora": 4}], ids=["projector", "lora"])
def test_a_run_is_the_one_with_fp32_goes_on_to_the_bit_and_answers(tmp_path, learn, monkeypatch):
    asked = Answers([question("a", [Message("user", ("colour?",)), Message("assistant", ("red",))])], tmp_path / "said")
    told = {}
    for name in ("wide", "narrow", "stopped"):
        (folder := tmp_path / name).mkdir()
        plan = run(folder, **learn)
        plan = replace(plan, data=replace(plan.data, held_out=str(rows(folder, 4, first=100))))
        plan = replace(plan, run=replace(plan.run, eval_every=2))
        with monkeypatch.context() as patch:
            if name == "wide":
                patch.setattr(build, "narrow", lambda config: False)
            if name == "stopped":
                train(plan, evaluate=asked, on_step=lambda step: step.number == 3 and os.kill(os.getpid(), SIGINT))
            result = train(plan, evaluate=asked)
        told[name] = losses(folder), result.held_out, load_file(result.model / "model.safetensors")
    for name in ("narrow", "stopped"):
        assert told[name][:2] == told["wide"][:2]
        assert told[name][2].keys() == told["wide"][2].keys()
        for key, tensor in told["wide"][2].items():
            assert tensor.dtype == told[name][2][key].dtype
            assert torch.equal(tensor, told[name][2][key]), key
    assert (tmp_path / "said" / "step-000004.jsonl").is_file()


def test_a_second_model_is_held_so_too(tmp_path):
    plan = preferring(tmp_path, reference="model")
    found = build.parts(replace(plan, run=replace(plan.run, dtype="bf16")), build.sources(plan), World())
    reference = found.trainer.objective.reference.reference
    assert {p.dtype for p in products(reference)} == {torch.bfloat16}


@pytest.mark.parametrize("how", ["lora", "projector", "layers", "dora", "all"])
def test_the_plan_counts_every_byte(stored, how):
    for name in (NAMES[0], "phi3-v2"):
        start = Start(model=str(stored / name))
        planned = estimate(TrainConfig(start=start, learn=LEARNS[how], run=Run(device="cpu", dtype="bf16")))
        shared = 0  # the A of layers that a layout stores as one is counted for each
        if how in ("lora", "dora"):
            shared = sum(part.adapters for part in planned.parts)
        held = made(stored / name, LEARNS[how], narrow=True)
        adapters = sum(p.numel() for key, p in held.named_parameters() if ".lora_" in key)
        weights = sum(p.nbytes for p in held.parameters())
        assert planned.memory["weights"] - 4 * shared == weights - 4 * adapters

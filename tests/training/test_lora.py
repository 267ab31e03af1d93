"""Adapters while a model trains: what they change, what a checkpoint keeps of them."""

from __future__ import annotations

import sys

import pytest
import torch

from internvl.errors import ConfigError, MissingExtra
from internvl.models.chat import ChatModel
from internvl.models.quantized import QuantizedLinear
from internvl.training.checkpoint import Saver, latest, restore
from internvl.training.config import Learn, Optim
from internvl.training.learn import choose
from internvl.training.lora import without_adapters
from internvl.training.optim import adamw
from internvl.weights import adapters
from internvl.weights.load import convert, load, save
from tests.conftest import golden
from tests.models.tiny import random_ids
from tests.weights.asked import answer, apart, stir
from tests.weights.folders import read_config, tensors, tiny

pytest.importorskip("peft", reason="pip install 'internvl[train]'")

FAMILIES = ("internlm2-v2_5", "phi3-v2", "qwen2-v2_5-bf16")
KINDS = {
    "lora": {},
    "dora": {"dora": True},
    "alpha": {"lora_alpha": 5.0},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4", "dora": True},
}
CLOSE = 5e-6
"""The worst difference seen, over families and kinds: 1.2e-6, in DoRA, whose lengths peft computes in its own way."""


def loaded(name: str) -> ChatModel:
    model = load(golden(f"checkpoints/{name}"), dtype="float32", device="cpu")
    assert isinstance(model, ChatModel)
    return model


def adapted(name: str, **how: object) -> ChatModel:
    model = loaded(name)
    choose(model, Learn(vision=False, language=False, language_lora=4, vision_lora=3, **how), seed=1)
    return model


@pytest.mark.parametrize("how", ["lora", "dora", "alpha"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_fresh_adapter_changes_nothing(name, how):
    assert torch.equal(answer(adapted(name, **KINDS[how])), answer(loaded(name)))


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_saved_loaded_and_merged_compute_the_same(name, how, tmp_path):
    model = adapted(name, **KINDS[how])
    fresh = answer(model)
    stir(model)
    trained = answer(model)
    assert apart(trained, fresh) > 1e-2
    save(model, tmp_path / "out", dtype="float32")
    again = load(tmp_path / "out", device="cpu")
    assert isinstance(again, ChatModel)
    assert apart(answer(again), trained) <= (CLOSE if KINDS[how].get("dora") else 0)
    with without_adapters(again):
        assert torch.equal(answer(again), fresh)
    with without_adapters(model):
        assert torch.equal(answer(model), fresh)
    assert torch.equal(answer(model), trained)
    for either in (model, again):
        adapters.merge(either)
        assert apart(answer(either), trained) < CLOSE


def test_the_file_has_the_published_layout(tmp_path):
    """InternLM2 and Phi-3 store q, k and v (gate and up) as one: one A of the rank that was asked for, no warning."""
    for name, fused in (("internlm2-v2_5", "attention.wqkv"), ("phi3-v2", "mlp.gate_up_proj")):
        model = adapted(name)
        stir(model)
        save(model, tmp_path / name)
        held = tensors(tmp_path / name)
        a = held[f"language_model.base_model.model.model.layers.0.{fused}.lora_A.default.weight"]
        assert a.shape[0] == 4
        raw = read_config(tmp_path / name)
        assert (raw["use_llm_lora"], raw["use_backbone_lora"]) == (4, 3)


def test_the_number_of_parameters_is_that_of_the_first_code_base():
    """Rank r on a fused weight counts once: InternLM2-1.8B with r 128 has 125,829,120 in 24 layers (published)."""
    model = adapted("internlm2-v2_5")
    count = sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n and n.startswith("language_model."))
    text = model.config.text
    d, kv = text.dim, text.kv_heads * text.head_dim
    layer = (d + d + 2 * kv) + 2 * d + 3 * (d + text.mlp_dim)
    assert count == 4 * text.layers * layer
    assert 128 * 24 * ((2048 + 4096) + 2 * 2048 + 3 * (2048 + 8192)) == 125_829_120


def test_what_the_layout_does_not_know_stops_other_readers(tmp_path):
    """The first code base computes 2 * use_llm_lora, which must not work where alpha is another."""
    save(adapted("internlm2-v2_5", lora_alpha=3.0), tmp_path / "alpha")
    stated = read_config(tmp_path / "alpha")["use_llm_lora"]
    assert stated == {"rank": 4, "alpha": 3.0, "dora": False}
    with pytest.raises(TypeError):
        2 * stated
    save(adapted("internlm2-v2_5", dora=True), tmp_path / "dora")
    assert read_config(tmp_path / "dora")["use_backbone_lora"] == {"rank": 3, "alpha": 6.0, "dora": True}
    convert(tmp_path / "dora", tmp_path / "copy", format="custom")
    assert read_config(tmp_path / "copy") == read_config(tmp_path / "dora")


@pytest.mark.parametrize("how", KINDS)
def test_resumed_is_uninterrupted_bit_for_bit(how, tmp_path):
    """With A shared between q, k and v, with another alpha, and with a base in fewer bits."""

    def begun():
        model = adapted("internlm2-v2_5", **KINDS[how])
        return model, adamw(model, Optim(lr=1e-2))

    def step(model: ChatModel, optimizer: torch.optim.Optimizer) -> float:
        loss = -model.token_logprobs(random_ids(1, 12), random_ids(1, 12)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    model, optimizer = begun()
    step(model.train(), optimizer)
    Saver(tmp_path, keep=1).save(1, model, optimizer, {}, wait=True)
    again, other = begun()
    folder = latest(tmp_path)
    assert folder is not None
    restore(folder, again, other)
    for one, two in ((model, again), (load(folder / "model", device="cpu"), again)):
        assert isinstance(one, ChatModel)
        assert apart(answer(one), answer(two)) <= (CLOSE if KINDS[how].get("dora") else 0)
    assert torch.equal(answer(model), answer(again))
    model.eval(), again.eval()  # without dropout
    assert [step(model, optimizer) for _ in range(2)] == [step(again, other) for _ in range(2)]


def test_a_checkpoint_with_adapters_goes_on(tmp_path):
    first = adapted("phi3-v2", lora_alpha=3.0)
    stir(first)
    save(first, tmp_path / "first", dtype="float32")
    model = load(tmp_path / "first", device="cpu")
    choose(model, Learn(vision=False, language=False, language_lora=4, vision_lora=3, lora_alpha=3.0))
    assert torch.equal(answer(model), answer(first))
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, p in first.named_parameters() if p.requires_grad
    }
    for learn in (Learn(language_lora=4, vision=False), Learn(vision=False), Learn(language_lora=8, vision=False)):
        with pytest.raises(ConfigError, match=r"rank 4, alpha 3.*internvl merge"):
            choose(load(tmp_path / "first", device="cpu"), learn)
    frozen = load(tmp_path / "first", device="cpu")
    choose(frozen, Learn(vision=False, language=False))  # the projector alone; the adapters stay as they are
    assert torch.equal(answer(frozen), answer(first))


def test_adapters_of_a_model_from_transformers_are_saved_in_the_published_layout(tmp_path):
    tiny(tmp_path / "hf", "qwen2", format="hf")
    model = load(tmp_path / "hf", device="cpu", dtype="float32")
    assert isinstance(model, ChatModel)
    choose(model, Learn(vision=False, language_lora=2))
    stir(model)
    save(model, tmp_path / "out")
    again = load(tmp_path / "out", device="cpu", dtype="float32")
    assert isinstance(again, ChatModel)
    assert again.origin.format == "custom"
    assert torch.equal(answer(again), answer(model))


def test_a_model_without_a_place_for_adapters():
    tower = load(golden("checkpoints/internvit-300m"), device="cpu")
    with pytest.raises(ConfigError, match="no layout has a place"):
        choose(tower, Learn(vision_lora=2))
    plain = load(golden("checkpoints/internvl-c-pth"), device="cpu")
    with pytest.raises(ConfigError, match="no layout has a place"):
        choose(plain, Learn(vision_lora=2))


def test_experts_carry_none(tmp_path):
    tiny(tmp_path / "moe", "qwen3-moe")
    model = load(tmp_path / "moe", device="cpu", dtype="float32")
    choose(model, Learn(vision=False, language=False, language_lora=2))
    names = adapters.adapted(model)
    assert names
    assert not any("experts" in name or "router" in name for name in names)


def test_only_the_layers_under_adapters_are_packed():
    model = adapted("qwen2-v2_5-bf16", quantize="int4")
    packed = {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    assert packed == {f"{name}.base_layer" for name in adapters.adapted(model)}


def test_without_peft(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"pip install 'internvl\[train\]'"):
        adapted("qwen2-v2_5-bf16")

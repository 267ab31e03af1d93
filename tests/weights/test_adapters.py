"""Adapters: unmerged checkpoints and merging."""

from __future__ import annotations

import pytest
import torch

from internvl.errors import ConfigError, KeyMismatch, ShapeMismatch, UsageError
from internvl.models.chat import ChatModel
from internvl.models.layers import add_adapter
from internvl.weights import adapters
from internvl.weights.load import convert, load, save
from tests.models.tiny import random_ids
from tests.weights.folders import altered, checkpoint, read_config, same_tensors, tensors, tiny, tree, with_tensors

CLOSE = 4e-6
"""Merged against unmerged logits, of the largest logit. Worst seen: 7e-7."""


def lora() -> ChatModel:
    model = load(checkpoint("internlm2-lora"), device="cpu")
    assert isinstance(model, ChatModel)
    return model


def answer(model: ChatModel, *, seed: int = 0) -> torch.Tensor:
    """Logits for two tiles and some words."""
    slots = model.config.slots_per_tile
    ids = torch.cat((torch.full((1, slots), model.config.image_token), random_ids(1, 9, seed=seed)), dim=1)
    size = model.config.tile_size
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(ids, pixels)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_the_published_form_has_an_adapter_on_every_target():
    layers = adapters.adapted(lora())
    assert len(layers) == 2 * 4 + 2 * 7
    assert {layer.get_parameter("lora_A.default.weight").shape[0] for layer in layers.values()} == {4}
    assert {layer.scale for layer in layers.values()} == {2.0}
    assert adapters.targets(lora(), "language_model.") == []  # the layer inside an adapter is no target


def test_merging_changes_no_answer_and_happens_once():
    model, merged = lora(), lora()
    assert adapters.merge(merged) == 22
    assert apart(answer(merged), answer(model)) < CLOSE
    assert apart(answer(merged), answer(model, seed=1)) > 1e-3
    for name, layer in adapters.adapted(model).items():
        assert torch.equal(merged.get_parameter(f"{name}.weight"), adapters.merged_weight(layer))
    with pytest.raises(UsageError, match="merged already"):
        adapters.merge(merged)


def test_a_merged_checkpoint_says_so(tmp_path):
    merged = load(checkpoint("internlm2-lora"), device="cpu", merge_adapters=True)
    save(merged, tmp_path / "merged")
    raw = read_config(tmp_path / "merged")
    assert (raw["use_llm_lora"], raw["use_backbone_lora"]) == (0, 0)
    names = tensors(tmp_path / "merged").keys()
    assert not any("lora" in name or "base_layer" in name or "base_model" in name for name in names)
    assert "language_model.model.layers.0.attention.wqkv.weight" in names
    again = load(tmp_path / "merged", device="cpu")
    assert isinstance(again, ChatModel)
    assert torch.equal(answer(again), answer(merged))
    with pytest.raises(UsageError):
        load(tmp_path / "merged", merge_adapters=True)
    convert(tmp_path / "merged", tmp_path / "hf", format="hf")
    assert torch.equal(answer(load(tmp_path / "hf", device="cpu")), answer(merged))


def test_merging_keeps_the_stored_type(tmp_path):
    save(lora(), tmp_path / "bf16", dtype="bf16")
    save(load(tmp_path / "bf16", device="cpu", merge_adapters=True), tmp_path / "merged")
    assert {tensor.dtype for tensor in tensors(tmp_path / "merged").values()} == {torch.bfloat16}


def test_trained_adapters_are_written_and_read(tmp_path):
    """q, k and v have one A in the file; trained apart they need three times the rank, and then so do all layers."""
    model = lora()
    draw = torch.Generator().manual_seed(0)
    for layer in adapters.adapted(model).values():
        for part in ("lora_A", "lora_B"):
            weight = layer.get_parameter(f"{part}.default.weight")
            weight.data += 0.05 * torch.randn(weight.shape, generator=draw)
    with pytest.warns(UserWarning, match="rank 12"):
        save(model, tmp_path / "out")
    raw = read_config(tmp_path / "out")
    assert (raw["use_llm_lora"], raw["use_backbone_lora"]) == (12, 4)
    ranks = {k.partition(".")[0]: t.shape[0] for k, t in tensors(tmp_path / "out").items() if ".lora_A." in k}
    assert ranks == {"language_model": 12, "vision_model": 4}
    again = load(tmp_path / "out", device="cpu")
    assert isinstance(again, ChatModel)
    assert apart(answer(again), answer(model)) < CLOSE
    save(again, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_another_scale_is_written_as_the_layout_has_it(tmp_path):
    """The layout knows alpha = 2 rank only."""
    model = lora()
    for layer in adapters.adapted(model).values():
        layer.scale = 0.5
    save(model, tmp_path / "out")
    again = load(tmp_path / "out", device="cpu")
    assert isinstance(again, ChatModel)
    assert apart(answer(again), answer(model)) < CLOSE


@pytest.mark.parametrize("form", [adapters.Form(3, 6.0, True), adapters.Form(4, 4.0), adapters.Form(4, 7.0, True)])
def test_dora_and_another_alpha_are_stated(form, tmp_path):
    tiny(tmp_path / "x", "qwen2")
    model = load(tmp_path / "x", device="cpu", dtype="float32")
    assert isinstance(model, ChatModel)
    before = answer(model)
    adapters.attach(model, {"language_model.": form})
    shake_adapters(model)
    for layer in adapters.adapted(model).values():
        if (length := adapters.magnitude_of(layer)) is not None:
            length.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    assert apart(answer(model), before) > 1e-2
    save(model, tmp_path / "lora")
    assert read_config(tmp_path / "lora")["use_llm_lora"] == form.write() != form.rank
    again = load(tmp_path / "lora", device="cpu", dtype="float32")
    assert isinstance(again, ChatModel)
    assert torch.equal(answer(again), answer(model))
    save(again, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "lora")
    adapters.merge(again)
    assert apart(answer(again), answer(model)) < CLOSE


def test_dora_sets_the_length_of_every_row():
    """W' = m (W + s B A) / |W + s B A| (Liu et al. 2024): the merged weight has rows of the lengths m."""
    base = torch.nn.Linear(8, 5)
    model = torch.nn.Sequential(base)
    layer = add_adapter(model, "0", 2, 3.0, dora=True)
    length = adapters.magnitude_of(layer)
    assert length is not None
    length.data = torch.arange(1.0, 6.0)
    merged = adapters.merged_weight(layer)
    assert torch.allclose(merged.norm(dim=1), length, rtol=1e-6)
    x = torch.randn(4, 8)
    assert torch.allclose(layer(x), torch.nn.functional.linear(x, merged, base.bias), atol=1e-5)


@pytest.mark.parametrize(
    "value",
    [-1, "16", 1.5, {"rank": "a"}, {"alpha": 3.0}, {"rank": 4, "alpha": 0}, {"rank": 4, "dora": 1}, [4], 1 << 17],
)
def test_what_is_no_form_of_adapters(value):
    with pytest.raises(ConfigError, match=r"use_llm_lora is .*expected the rank of the adapters"):
        adapters.stated({"use_llm_lora": value}, "use_llm_lora")


def test_adapters_put_on_a_plain_model_are_saved_with_it(tmp_path):
    tiny(tmp_path / "x", "qwen2")
    model = load(tmp_path / "x", device="cpu", dtype="float32")
    assert isinstance(model, ChatModel)
    adapters.attach(model, {"language_model.": 3})
    shake_adapters(model)
    save(model, tmp_path / "lora")
    assert read_config(tmp_path / "lora")["use_llm_lora"] == 3
    assert any(name.startswith("language_model.base_model.model.model.layers.") for name in tensors(tmp_path / "lora"))
    again = load(tmp_path / "lora", device="cpu", dtype="float32")
    assert isinstance(again, ChatModel)
    assert torch.equal(answer(again), answer(model))
    save(again, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "lora")


def shake_adapters(model: ChatModel, seed: int = 0) -> None:
    draw = torch.Generator().manual_seed(seed)
    for layer in adapters.adapted(model).values():
        for part in ("lora_A", "lora_B"):
            weight = layer.get_parameter(f"{part}.default.weight")
            weight.data = 0.2 * torch.randn(weight.shape, generator=draw)


def test_the_names_of_early_peft(tmp_path):
    """No `base_layer`: the adapted layer's own weight is plain `weight`."""

    def older(held):
        for name in list(held):
            held[name.replace(".base_layer.", ".")] = held.pop(name)

    old = with_tensors(checkpoint("internlm2-lora"), tmp_path / "old", older)
    model = load(old, device="cpu")
    assert isinstance(model, ChatModel)
    assert torch.equal(answer(model), answer(lora()))
    save(model, tmp_path / "again")
    assert same_tensors(tmp_path / "again", old)


def test_config_and_adapters_must_agree(tmp_path):
    source = checkpoint("internlm2-lora")
    with pytest.raises(KeyMismatch, match="use_llm_lora 0"):
        load(altered(source, tmp_path / "forgotten", use_llm_lora=0))
    with pytest.raises(KeyMismatch, match="use_backbone_lora 8 but there is no adapter"):
        load(altered(checkpoint("qwen2-v2_5-bf16"), tmp_path / "claimed", use_backbone_lora=8))
    with pytest.raises(ShapeMismatch, match=r"lora_A.*is \[4, .*expected \[8, "):
        load(altered(source, tmp_path / "rank", use_llm_lora=8))
    lacking = with_tensors(
        source, tmp_path / "lacking",
        lambda t: t.pop("vision_model.base_model.model.encoder.layers.1.mlp.fc2.lora_A.default.weight"),
    )  # fmt: skip
    with pytest.raises(KeyMismatch, match=r"1 of 91 tensors are missing.*fc2\.lora_A"):
        load(lacking)


def test_14b_carries_adapters_too(tmp_path):
    model = load(checkpoint("internvl-14b"), device="cpu")
    adapters.attach(model, {"vision_model.": 2, "qllama.": 3})
    for index, layer in enumerate(adapters.adapted(model).values()):
        layer.get_parameter("lora_A.default.weight").data.fill_(0.01 * index)
        layer.get_parameter("lora_B.default.weight").data.fill_(0.02)
    assert not any("cross_attn" in name for name in adapters.adapted(model))
    save(model, tmp_path / "lora")
    raw = read_config(tmp_path / "lora")
    assert (raw["use_backbone_lora"], raw["use_qllama_lora"]) == (2, 3)
    again = load(tmp_path / "lora", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))

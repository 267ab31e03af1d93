"""Adapters in a folder of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from internvl.errors import CheckpointError, KeyMismatch, UsageError
from internvl.models.chat import ChatModel
from internvl.models.pair import PairModel
from internvl.weights import adapters
from internvl.weights.load import load
from internvl.weights.peft_files import CONFIG, WEIGHTS, base_named_by, export_adapter, load_adapter
from tests.weights.asked import answer, published
from tests.weights.folders import checkpoint

FAMILIES = ("internlm2-v2_5", "phi3-v2", "qwen2-v2_5-bf16", "llama-v1_1-bin")


def chat(name: str) -> ChatModel:
    model = load(checkpoint(name), device="cpu", dtype="float32")
    assert isinstance(model, ChatModel)
    return model


def edited(folder: Path, **values: object) -> Path:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back(name, dora, tmp_path):
    model = published(chat(name), adapters.Form(4, 3.0, dora))
    published(model, adapters.Form(2, 4.0, dora), "vision_model.")
    if name in ("internlm2-v2_5", "phi3-v2"):  # one layer there: its parts share A
        for layer in model.language_model.model.layers:
            for first, others in (
                (layer.self_attn.q_proj, (layer.self_attn.k_proj, layer.self_attn.v_proj)),
                (layer.mlp.gate_proj, (layer.mlp.up_proj,)),
            ):
                for other in others:
                    other.lora_A["default"].weight.data.copy_(first.lora_A["default"].weight)
    export_adapter(model, tmp_path / "lora", base="a/base")
    assert base_named_by(tmp_path / "lora") == "a/base"
    again = chat(name)
    assert load_adapter(again, tmp_path / "lora") == len(adapters.adapted(model))
    assert torch.equal(answer(again), answer(model))
    assert adapters.scales(again) == pytest.approx(adapters.scales(model))


def test_the_names_are_those_of_the_published_code(tmp_path):
    export_adapter(published(chat("qwen2-v2_5-bf16"), adapters.Form(4, 8.0)), tmp_path / "lora")
    held = load_file(tmp_path / "lora" / WEIGHTS)
    assert "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight" in held
    config = json.loads((tmp_path / "lora" / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["use_dora"]) == (4, 8.0, False)
    attention, mlp = (
        (f"self_attn.{part}_proj" for part in "qkvo"),
        (f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    )
    assert config["target_modules"] == sorted([*attention, *mlp])


def test_of_the_language_model_alone(tmp_path):
    """As the first code base has it: peft around the language model, saved by itself."""
    model = published(chat("qwen2-v2_5-bf16"), adapters.Form(4, 8.0))
    export_adapter(model, tmp_path / "lora")
    held = load_file(tmp_path / "lora" / WEIGHTS)
    save_file({n.replace(".language_model.", "."): t for n, t in held.items()}, tmp_path / "lora" / WEIGHTS)
    again = chat("qwen2-v2_5-bf16")
    load_adapter(again, tmp_path / "lora")
    assert torch.equal(answer(again), answer(model))


def test_a_few_layers_with_scales_of_their_own(tmp_path):
    model = published(chat("qwen2-v2_5-bf16"), adapters.Form(4, 8.0))
    layers = adapters.adapted(model)
    last = list(layers)[-1]
    layers[last].scale = 0.25  # type: ignore[assignment]
    export_adapter(model, tmp_path / "lora")
    again = chat("qwen2-v2_5-bf16")
    load_adapter(again, tmp_path / "lora")
    assert torch.equal(answer(again), answer(model))
    edited(tmp_path / "lora", use_rslora=True, alpha_pattern={}, lora_alpha=2.0)
    again = chat("qwen2-v2_5-bf16")
    load_adapter(again, tmp_path / "lora")
    assert set(adapters.scales(again).values()) == {1.0}  # 2 / sqrt(4)


def test_14b(tmp_path):
    model = load(checkpoint("internvl-14b"), device="cpu")
    assert isinstance(model, PairModel)
    adapters.attach(model, {"qllama.": 2})
    for index, layer in enumerate(adapters.adapted(model).values()):
        layer.get_parameter("lora_A.default.weight").data.fill_(0.01 * index)
        layer.get_parameter("lora_B.default.weight").data.fill_(0.02)
    export_adapter(model, tmp_path / "lora")
    again = load(checkpoint("internvl-14b"), device="cpu")
    load_adapter(again, tmp_path / "lora")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_what_is_not_read(tmp_path):
    model = published(chat("qwen2-v2_5-bf16"), adapters.Form(4, 8.0))
    export_adapter(model, tmp_path / "lora")
    with pytest.raises(UsageError, match="has adapters already"):
        load_adapter(model, tmp_path / "lora")
    with pytest.raises(UsageError, match="no adapter to export"):
        export_adapter(chat("qwen2-v2_5-bf16"), tmp_path / "none")
    export_adapter(published(chat("internlm2-v2_5"), adapters.Form(4, 8.0), "vision_model."), tmp_path / "tower")
    held = load_file(tmp_path / "tower" / WEIGHTS)
    save_file({n.replace("attn.proj", "attn.out"): t for n, t in held.items()}, tmp_path / "tower" / WEIGHTS)
    with pytest.raises(KeyMismatch, match=r"is it of another base"):
        load_adapter(chat("internlm2-v2_5"), tmp_path / "tower")
    with pytest.raises(CheckpointError, match=r"bias is 'all'; this package computes 'none' only"):
        load_adapter(chat("qwen2-v2_5-bf16"), edited(tmp_path / "lora", bias="all"))
    with pytest.raises(CheckpointError, match="peft_type is 'IA3'"):
        load_adapter(chat("qwen2-v2_5-bf16"), edited(tmp_path / "lora", bias="none", peft_type="IA3"))
    with pytest.raises(CheckpointError, match=CONFIG):
        load_adapter(chat("qwen2-v2_5-bf16"), tmp_path)

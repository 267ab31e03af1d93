"""Adapters in a folder of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from internvl.errors import CheckpointError, KeyMismatch, UsageError
from internvl.models.chat import ChatModel
from internvl.models.pair import PairModel
from internvl.weights import adapters
from internvl.weights.load import load
from internvl.weights.peft_files import _NAMES, CONFIG, WEIGHTS, _names, base_named_by, export_adapter, load_adapter
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


@pytest.mark.parametrize("dora", [False, True])
def test_a_layer_that_is_not_whole_is_named(dora, tmp_path):
    export_adapter(published(chat("qwen2-v2_5-bf16"), adapters.Form(4, 8.0, dora)), tmp_path / "lora")
    held = load_file(tmp_path / "lora" / WEIGHTS)
    for leaf in ("lora_A.weight", "lora_B.weight", *(["lora_magnitude_vector"] if dora else [])):
        lost = next(name for name in held if name.endswith(f"1.mlp.up_proj.{leaf}"))
        save_file({name: tensor for name, tensor in held.items() if name != lost}, tmp_path / "lora" / WEIGHTS)
        model = chat("qwen2-v2_5-bf16")
        with pytest.raises(KeyMismatch, match=rf"layers\.1\.mlp\.up_proj\.{leaf}.* missing"):
            load_adapter(model, tmp_path / "lora")
        assert not adapters.adapted(model)
    lengths = {name: tensor for name, tensor in held.items() if "magnitude" not in name}
    save_file(lengths, tmp_path / "lora" / WEIGHTS)  # all lengths lost: the config says that there were some
    if dora:
        with pytest.raises(KeyMismatch, match="lora_magnitude_vector"):
            load_adapter(chat("qwen2-v2_5-bf16"), tmp_path / "lora")
    save_file({}, tmp_path / "lora" / WEIGHTS)
    with pytest.raises((KeyMismatch, CheckpointError)):
        load_adapter(chat("qwen2-v2_5-bf16"), tmp_path / "lora")


def test_two_kinds_are_not_one_folder(tmp_path):
    model = published(chat("qwen2-v2_5-bf16"), adapters.Form(4, 8.0, dora=True))
    published(model, adapters.Form(2, 4.0), "vision_model.")
    with pytest.raises(UsageError, match="some adapters of this model are DoRA"):
        export_adapter(model, tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


PATTERNS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "^"]),
    st.sampled_from(["", ".*", r".*\."]),
    st.lists(st.sampled_from(["layers", "0", "fc1", "q_proj", "1"]), min_size=1, max_size=3).map(r"\.".join),
    st.sampled_from(["", "$"]),
)


@given(PATTERNS, st.lists(st.sampled_from(["layers", "0", "10", "fc1", "q_proj"]), min_size=1, max_size=4))
def test_names_are_found_as_peft_finds_them(pattern, parts):
    name = ".".join(parts)
    assert _NAMES.fullmatch(pattern)
    assert _names(pattern, name) == bool(re.match(rf"(.*\.)?({pattern})$", name))


@pytest.mark.parametrize("pattern", ["(", "(a+)+$", "(.*)*b", "q_proj|k_proj", "[", "a*", "", "layers.{1}", "x" * 1001])
def test_no_expression_of_a_file_is_run(pattern, tmp_path):
    export_adapter(published(chat("qwen2-v2_5-bf16"), adapters.Form(4, 8.0)), tmp_path / "lora")
    model = chat("qwen2-v2_5-bf16")
    with pytest.raises(CheckpointError, match="alpha_pattern has"):
        load_adapter(model, edited(tmp_path / "lora", alpha_pattern={pattern: 2.0}))
    assert not adapters.adapted(model)


@pytest.mark.parametrize("given", [{"alpha_pattern": {"q_proj": "2"}}, {"lora_alpha": None}, {"alpha_pattern": ["q"]}])
def test_an_alpha_is_a_number(given, tmp_path):
    export_adapter(published(chat("qwen2-v2_5-bf16"), adapters.Form(4, 8.0)), tmp_path / "lora")
    with pytest.raises(CheckpointError, match="expected"):
        load_adapter(chat("qwen2-v2_5-bf16"), edited(tmp_path / "lora", **given))


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

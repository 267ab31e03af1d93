"""`internvl merge`: adapters into the weights, with proof."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from internvl.cli.main import run
from internvl.models.chat import ChatModel
from internvl.models.pair import PairModel
from internvl.weights import adapters, merging
from internvl.weights.load import convert, load, save
from internvl.weights.peft_files import export_adapter
from tests.cli.test_main import one_line
from tests.conftest import golden
from tests.weights.asked import answer, apart, published
from tests.weights.folders import read_config, tensors, tree

CLOSE = 1e-5
"""The worst difference seen, merged and unmerged: 2e-6."""


def with_adapters(name: str, folder: Path, form: adapters.Form, dtype: str | None = None) -> ChatModel:
    model = load(golden(f"checkpoints/{name}"), device="cpu", dtype="float32")
    assert isinstance(model, ChatModel)
    published(published(model, form), form, "vision_model.")
    save(model, folder, dtype=dtype)
    again = load(folder, device="cpu", dtype="float32")
    assert isinstance(again, ChatModel)
    return again


def merged(source: Path | str, folder: Path, *options: str, capsys) -> dict[str, float]:
    assert run(["merge", str(source), str(folder), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore:adapters of rank:UserWarning")  # those of q, k and v were drawn apart
@pytest.mark.parametrize("form", [adapters.Form(3, 6.0), adapters.Form(4, 3.0, dora=True)], ids=["lora", "dora"])
@pytest.mark.parametrize("name", ["internlm2-v2_5", "phi3-v2", "llama3-6bvit-v2-sharded"])
def test_the_result_computes_the_same_and_is_a_plain_checkpoint(name, form, tmp_path, capsys):
    model = with_adapters(name, tmp_path / "lora", form)
    told = merged(tmp_path / "lora", tmp_path / "out", capsys=capsys)
    assert told["difference"] < CLOSE
    assert told["layers"] == len(adapters.adapted(model))
    again = load(tmp_path / "out", device="cpu")
    assert isinstance(again, ChatModel)
    assert apart(answer(again), answer(model)) < CLOSE
    raw = read_config(tmp_path / "out")
    assert (raw["use_llm_lora"], raw["use_backbone_lora"]) == (0, 0)
    assert tensors(tmp_path / "out").keys() == tensors(golden(f"checkpoints/{name}")).keys()
    convert(tmp_path / "out", tmp_path / "hf", format="hf")
    converted = load(tmp_path / "hf", device="cpu")
    assert isinstance(converted, ChatModel)
    assert torch.equal(answer(converted), answer(again))


def test_a_published_checkpoint(tmp_path, capsys):
    source = golden("checkpoints/internlm2-lora")
    assert merged(source, tmp_path / "out", capsys=capsys)["layers"] == 22
    by_hand = load(source, device="cpu", merge_adapters=True)
    again = load(tmp_path / "out", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), by_hand.parameters(), strict=True))


def test_a_second_merge_is_refused(tmp_path, capsys):
    merged(golden("checkpoints/internlm2-lora"), tmp_path / "out", capsys=capsys)
    assert run(["merge", str(tmp_path / "out"), str(tmp_path / "again")]) == 2
    assert "no adapter to merge: it was trained without, or they are merged already" in one_line(capsys)
    assert not (tmp_path / "again").exists()


def test_the_folder_of_a_run(tmp_path, capsys):
    """A run, and each of its checkpoints, has its model in model/."""
    shutil.copytree(golden("checkpoints/internlm2-lora"), tmp_path / "run" / "step-000200" / "model")
    (tmp_path / "run" / "step-000200" / "state.json").write_text("{}")
    (tmp_path / "run" / "step-000300.tmp").mkdir()
    merged(tmp_path / "run" / "step-000200", tmp_path / "out", capsys=capsys)
    merged(tmp_path / "run", tmp_path / "newest", capsys=capsys)
    assert tree(tmp_path / "out") == tree(tmp_path / "newest")
    merged(golden("checkpoints/internlm2-lora"), tmp_path / "other", capsys=capsys)
    assert tree(tmp_path / "out") == tree(tmp_path / "other")


def test_a_folder_of_peft(tmp_path, capsys):
    base = golden("checkpoints/qwen2-v2_5-bf16")
    model = load(base, device="cpu", dtype="float32")
    assert isinstance(model, ChatModel)
    published(model, adapters.Form(4, 3.0, dora=True))
    export_adapter(model, tmp_path / "named", base=str(base))
    export_adapter(model, tmp_path / "nameless")
    told = merged(tmp_path / "named", tmp_path / "one", "--dtype", "float32", capsys=capsys)
    assert told["difference"] < CLOSE
    assert told["written_difference"] < CLOSE
    merged(base, tmp_path / "two", "--adapter", str(tmp_path / "nameless"), "--dtype", "float32", capsys=capsys)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    again = load(tmp_path / "one", device="cpu")
    assert isinstance(again, ChatModel)
    assert apart(answer(again), answer(model)) < CLOSE
    assert run(["merge", str(tmp_path / "nameless"), str(tmp_path / "three")]) == 2
    assert "holds adapters alone and names no base" in one_line(capsys)


def test_what_the_stored_type_rounds_is_told(tmp_path, capsys):
    """Seen: 2e-6 in fp32, 5.5e-3 in bf16."""
    with_adapters("qwen2-v2_5-bf16", tmp_path / "lora", adapters.Form(4, 8.0))
    told = merged(tmp_path / "lora", tmp_path / "out", capsys=capsys)
    assert told["difference"] < CLOSE < told["written_difference"] < 0.03
    assert run(["merge", str(tmp_path / "lora"), str(tmp_path / "text"), "--dtype", "fp32"]) == 0
    out = capsys.readouterr().out
    assert "merged 26 adapters" in out or "merged 22 adapters" in out
    assert "as stored they differ by" in out


@pytest.mark.filterwarnings("ignore:adapters of rank:UserWarning")
def test_what_does_not_agree_is_not_written(tmp_path, capsys, monkeypatch):
    """A merge with a fault planted in it, and adapters that hold infinite numbers."""
    source = golden("checkpoints/internlm2-lora")
    right = adapters.merged_weight
    monkeypatch.setattr(adapters, "merged_weight", lambda layer: right(layer) * 1.01)
    assert run(["merge", str(source), str(tmp_path / "out")]) == 2
    assert "answers differently by" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    model = load(source, device="cpu")
    next(iter(adapters.adapted(model).values())).get_parameter("lora_B.default.weight").data.fill_(float("inf"))
    save(model, tmp_path / "broken")
    assert run(["merge", str(tmp_path / "broken"), str(tmp_path / "out")]) == 2
    assert "answers differently by nan" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_what_is_written_is_what_was_merged_to_the_bit(tmp_path, capsys, monkeypatch):
    """One number in bf16 that is off by its last bit: far below what logits tell."""
    with_adapters("qwen2-v2_5-bf16", tmp_path / "lora", adapters.Form(4, 8.0))

    def wrong(model, folder, **options):
        name, tensor = next((n, p) for n, p in model.named_parameters() if n.endswith("mlp.up_proj.weight"))
        kept = tensor.data.clone()
        tensor.data[0, 0] *= 1 + 2**-7
        save(model, folder, **options)
        model.get_parameter(name).data.copy_(kept)

    monkeypatch.setattr(merging, "save", wrong)
    assert run(["merge", str(tmp_path / "lora"), str(tmp_path / "out")]) == 2
    assert "mlp.up_proj.weight are not written as they were merged" in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert run(["merge", str(golden("checkpoints/internlm2-lora")), str(tmp_path / "out")]) == 2
    assert "not an empty folder" in one_line(capsys)


def test_14b(tmp_path):
    model = load(golden("checkpoints/internvl-14b"), device="cpu")
    assert isinstance(model, PairModel)
    adapters.attach(model, {"vision_model.": 2, "qllama.": 3})
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    save(model, tmp_path / "lora")
    found = merging.merge_checkpoint(tmp_path / "lora", tmp_path / "out")
    assert found.difference < CLOSE
    assert (read_config(tmp_path / "out")["use_qllama_lora"], found.layers) == (0, len(adapters.adapted(model)))

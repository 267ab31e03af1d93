"""nano's form: what its table says is what the model is, and its checkpoint is the published layout."""

from __future__ import annotations

import json
import re
from math import prod

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import internvl
from internvl.data.encode import Encoder
from internvl.data.prompts import Image, Message, Text
from internvl.data.tokenizer import Tokenizer
from internvl.models.chat import ChatModel
from internvl.models.init import initialise
from internvl.nano import form, vocab


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano") / "tokenizer"
    vocab.build([*vocab.common(), form.SYSTEM_MESSAGE], folder, size=400)
    return folder


@pytest.fixture(scope="module")
def encoder(tokenizer_folder) -> Encoder:
    return Encoder(Tokenizer.from_folder(tokenizer_folder), form.ENCODING)


@pytest.fixture(scope="module")
def model() -> ChatModel:
    model = ChatModel(form.chat_config(image_token=390))
    initialise(model, seed=1)
    return model


def test_any_text_survives_a_small_vocabulary(encoder):
    for text in ("Hello there!", "Côte d’Ivoire 2024", "日本 🇯🇵\n\tx  y", "", "a" * 50):
        assert encoder.tokenizer.decode(encoder.tokenizer.encode(text)) == text


def test_the_table_says_what_the_model_has(model):
    said = dict(re.findall(r"^\| (\w+) +\|.*\| ([\d.]+) M +\|$", form.__doc__, flags=re.M))
    text = model.language_model
    parts = {
        "ViT": [model.vision_model], "projector": [model.mlp1], "decoder": [text.model.layers, text.model.norm],
        "words": [text.model.embed_tokens, text.lm_head],
    }  # fmt: skip
    counts = {name: sum(p.numel() for part in own for p in part.parameters()) for name, own in parts.items()}
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert {name: f"{count / 1e6:.2f}" for name, count in counts.items()} == said
    config = model.config
    words = f"{config.text.layers} layers, {config.text.dim} wide, {config.text.heads} heads of {config.text.head_dim}"
    assert words in form.__doc__
    assert f"{config.text.vocab} x {config.text.dim}, in and out" in form.__doc__
    assert f"{config.vision.layers} layers, {config.vision.dim} wide" in form.__doc__


def flop(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """Products with weights in one call, at 2 FLOP each: what every weight is multiplied with, counted as it runs."""
    found: list[int] = []

    def count(layer: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        positions = out.numel() // weight.shape[0]
        found.append(2 * prod(weight.shape) * positions)

    kinds = (nn.Linear, nn.Conv2d)
    hooks = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, kinds)]
    with torch.no_grad():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    return sum(found)


class Seeing(nn.Module):
    """The tower and the projector, as one module to call."""

    def __init__(self, model: ChatModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return self.model.image_features(tiles)


def test_the_products_are_as_many_as_is_said(model):
    tile = flop(Seeing(model), (torch.zeros(1, 3, form.TILE, form.TILE),))
    talk = flop(model, (torch.zeros(1, 90, dtype=torch.long),))
    slots = form.ENCODING.slots_per_tile
    longer = flop(model, (torch.zeros(1, 90 + slots * form.MAX_TILES, dtype=torch.long),))
    doc = " ".join(str(form.__doc__).split())
    assert f"a tile {tile / 1e9:.2f} GFLOP; a conversation of 90 tokens {talk / 1e9:.2f} GFLOP" in doc
    assert f"{3 * (tile + talk) / 1e9:.1f} GFLOP to learn from one picture of one tile" in doc
    assert f"{3 * ((form.MAX_TILES + 1) * tile + longer) / 1e9:.1f} GFLOP from one of six tiles" in doc
    assert f"which are {slots * form.MAX_TILES} tokens more" in doc
    head = model.config.text.vocab * model.config.text.dim * 2 * 90
    assert 0.2 < head / talk < 0.3, "a quarter of it the words"


def test_the_sizes_belong_together():
    config = form.chat_config(image_token=390)
    assert config.text.head_dim == config.vision.dim // config.vision.heads == 64
    assert config.slots_per_tile == form.ENCODING.slots_per_tile == 16
    assert config.tile_size == form.ENCODING.tile_size
    assert (config.text.vocab, form.ENCODING.max_tiles) == (form.VOCAB, form.MAX_TILES)


def test_a_picture_is_seen_in_tiles_and_as_a_whole(encoder):
    for size, tiles in {(112, 112): 1, (50, 300): 7, (330, 220): 7, (224, 224): 5}.items():
        said = [Message("user", (Image(PIL.Image.new("RGB", size)), Text("What is this?")))]
        encoded = encoder.encode(said)
        assert len(encoded.tiles) == tiles
        assert encoded.input_ids.count(encoder.tokenizer.special("<IMG_CONTEXT>").id) == tiles * 16


def test_the_written_checkpoint_is_the_published_layout(model, tokenizer_folder, tmp_path):
    folder = tmp_path / "nano"
    form.write_checkpoint(model.state_dict(), tokenizer_folder, folder)
    form.write_checkpoint(model.state_dict(), tokenizer_folder, folder)  # replaces it
    assert [path.name for path in tmp_path.iterdir()] == ["nano"], "nothing is left beside it"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["template"] == "internvl2_5"
    assert config["llm_config"]["vocab_size"] == form.VOCAB
    assert config["max_dynamic_patch"] == form.MAX_TILES
    again = internvl.load(folder, dtype="stored")
    assert {t.dtype for t in again.state_dict().values()} == {torch.bfloat16}
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].bfloat16()), name


def test_large_weights_are_shards_with_an_index(model, tokenizer_folder, tmp_path):
    form.write_checkpoint(model.state_dict(), tokenizer_folder, tmp_path / "nano")
    files = sorted(path.name for path in (tmp_path / "nano").glob("*.safetensors"))
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.loads((tmp_path / "nano" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    held = {file: load_file(tmp_path / "nano" / file) for file in files}
    assert index["weight_map"] == {name: file for file, tensors in held.items() for name in tensors}
    assert index["metadata"]["total_size"] == sum(t.nbytes for tensors in held.values() for t in tensors.values())
    assert set(index["weight_map"]) == set(model.state_dict())
    assert all(sum(t.nbytes for t in tensors.values()) <= form.SHARD_BYTES for tensors in held.values())


@pytest.mark.parametrize(("limit", "shards"), [(100, 1), (99, 2), (40, 2), (39, 3), (1, 3)])
def test_a_shard_is_not_above_the_limit_unless_one_tensor_is(tmp_path, limit, shards):
    tensors = {"a": torch.ones(30), "b": torch.ones(10), "c": torch.ones(10)}  # 60, 20 and 20 bytes
    form.write_weights(tensors, tmp_path, limit=limit)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == shards
    assert (tmp_path / "model.safetensors.index.json").exists() == (shards > 1)
    assert {name for file in files for name in load_file(file)} == set(tensors)


def test_the_announced_size_fits_the_package():
    with torch.device("meta"):
        model = ChatModel(form.chat_config(image_token=390))
    assert 15e6 < 2 * sum(p.numel() for p in model.parameters()) < 16e6

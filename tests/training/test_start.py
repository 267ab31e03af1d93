"""Where training begins: what is put together trains, is saved, and loads as any published checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from internvl.errors import CheckpointError, ConfigError
from internvl.models.chat import ChatModel
from internvl.models.pair import PairModel
from internvl.models.vit import VisionTransformer
from internvl.training.config import Learn, Start
from internvl.training.learn import choose
from internvl.training.start import begin, with_pictures
from internvl.weights.load import convert, load, load_encoder, save
from internvl.weights.new_tokens import FAMILY
from internvl.weights.parts import read_language, read_projector, read_tower
from tests.conftest import golden
from tests.models.tiny import random_ids
from tests.training.plain import plain_language
from tests.weights.asked import answer
from tests.weights.folders import read_config, tensors, tiny, tree

KINDS = ("internlm2-v2_5", "phi3-v2", "qwen2-v2_5-bf16", "llama-v1_1-bin", "llama3-6bvit-v2-sharded", "yi-v1_2-ps_v1")
"""Every kind of tokenizer of the family."""
TEXT = "Hello  world <ref>a</ref><box>[[1, 2, 3, 4]]</box>\n<img> <IMG_CONTEXT> ä 中"
TOWER = "internvit-300m"


def at(name: str) -> str:
    return str(golden(f"checkpoints/{name}"))


def learn_a_step(model: ChatModel) -> None:
    choose(model, Learn())
    slots = torch.full((1, model.config.slots_per_tile), model.config.image_token)
    ids = torch.cat((slots, random_ids(1, 9)), dim=1)
    size = model.config.tile_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    (-model.token_logprobs(ids, ids, torch.randn(1, 3, size, size)).mean()).backward()
    assert model.mlp1[1].weight.grad.abs().max() > 0
    optimizer.step()


@pytest.mark.parametrize("name", KINDS)
def test_a_new_pair_trains_and_is_a_checkpoint(name, tmp_path):
    count = plain_language(name, tmp_path / "llm")
    published = load_encoder(at(name))
    template = published.config.template
    new = begin(Start(vision=at(TOWER), language=str(tmp_path / "llm"), template=template, drop_path=0.1))
    model = new.model
    assert isinstance(model, ChatModel)
    assert any("9 new tokens" in note for note in new.notes)
    assert any("the projector is new" in note for note in new.notes)
    assert model.config.text.vocab == count + 9
    learn_a_step(model)
    save(model, tmp_path / "out")
    again, encoder = load(tmp_path / "out", device="cpu"), load_encoder(tmp_path / "out")
    assert isinstance(again, ChatModel)
    assert again.config == model.config
    assert again.config.vision.drop_path == 0.1
    assert torch.equal(answer(again), answer(model))
    assert encoder.config == new.encoder.config
    # the tokens, the ids and every other piece are those of the checkpoint that the original code made of this model
    assert [encoder.tokenizer.special(text).id for text in FAMILY] == list(range(count, count + 9))
    assert encoder.tokenizer.encode(TEXT) == published.tokenizer.encode(TEXT)
    save(again, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_the_original_rule_for_new_rows(tmp_path):
    """Output rows are the mean of those before; the tables end with the last token, whatever padding they had."""
    count = plain_language("qwen2-v2_5-bf16", tmp_path / "llm", padding=0)
    before = read_language(tmp_path / "llm").decoder
    model = begin(Start(vision=at(TOWER), language=str(tmp_path / "llm"), template="internvl2_5"), seed=3).model
    assert isinstance(model, ChatModel)
    head, table = model.language_model.lm_head.weight, model.language_model.model.embed_tokens.weight
    assert head.shape == table.shape == (count + 9, model.config.text.dim)
    assert torch.equal(head[:count], before.lm_head.weight)
    assert torch.equal(table[:count], before.model.embed_tokens.weight)
    assert torch.equal(head[count:], before.lm_head.weight.mean(0).expand(9, -1))
    away = table[count:] - before.model.embed_tokens.weight.mean(0)
    assert (away.std(0) < 0.3 * before.model.embed_tokens.weight.std(0)).all()
    assert len({tuple(row.tolist()) for row in table[count:]}) == 9
    other = begin(Start(vision=at(TOWER), language=str(tmp_path / "llm"), template="internvl2_5"), seed=3).model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_padding_of_the_tables_goes(tmp_path):
    count = plain_language("internlm2-v2_5", tmp_path / "llm", padding=5)
    model = begin(Start(vision=at(TOWER), language=str(tmp_path / "llm"), template="internvl2_5")).model
    assert model.config.text.vocab == count + 9


@pytest.mark.parametrize("name", KINDS)
def test_tokens_of_ones_own(name, tmp_path):
    """A text spells them, an answer shows them; `<img>` was there already."""
    new = begin(Start(model=at(name), new_tokens=("<loc_1>", "<loc_2>", "<img>")))
    save(new.model, tmp_path / "out")
    encoder = load_encoder(tmp_path / "out")
    before = load_encoder(at(name)).tokenizer
    for tokenizer in (new.encoder.tokenizer, encoder.tokenizer):
        first, second = (tokenizer.special(text).id for text in ("<loc_1>", "<loc_2>"))
        assert (first, second) == (before.vocab_size, before.vocab_size + 1)
        ids = tokenizer.encode("a<loc_1><loc_2> <img>")
        assert [first, second] == [i for i in ids if i >= before.vocab_size]
        assert "<loc_1>" in tokenizer.decode(ids)
        assert tokenizer.encode(TEXT) == before.encode(TEXT)
    again = load(tmp_path / "out", device="cpu", dtype="float32")
    assert again.config == new.model.config
    assert again.config.text.vocab == before.vocab_size + 2


def test_tied_tables_have_one_new_row_each(tmp_path):
    tiny(tmp_path / "tied", "qwen2")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"):
        (tmp_path / "tied" / name).write_bytes((golden("checkpoints/qwen2-v2_5-bf16") / name).read_bytes())
    raw = read_config(tmp_path / "tied")
    raw["llm_config"]["vocab_size"] = 731
    held = load_file(tmp_path / "tied" / "model.safetensors")
    table = "language_model.model.embed_tokens.weight"
    held[table] = torch.randn(731, held[table].shape[1])
    save_file(held, tmp_path / "tied" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "tied" / "config.json").write_text(json.dumps(raw))
    new = begin(Start(model=str(tmp_path / "tied"), new_tokens=("<loc>",)))
    assert new.model.language_model.lm_head is None
    save(new.model, tmp_path / "out")
    assert tensors(tmp_path / "out")[table].shape[0] == 732


@pytest.mark.parametrize("name", ["internvit-300m", "internvit-6b"])
def test_resized_positions_are_those_of_the_original(name, tmp_path):
    expected = load_file(golden(f"vectors/{name}.safetensors"))
    tower = begin(Start(model=at(name), tile_size=112)).model
    assert isinstance(tower, VisionTransformer)
    assert torch.allclose(tower.embeddings.position_embedding, expected["resized_2x.position_embedding"], atol=1e-6)
    pixels = expected["double.pixel_values"]
    with torch.no_grad():
        found = tower(pixels)
    worst = float((found - expected["resized_2x.last_hidden_state"]).abs().max() / found.abs().max())
    assert worst < 1e-5  # seen: 1e-6
    save(tower, tmp_path / "out")
    again = load(tmp_path / "out", device="cpu")
    assert again.config.image_size == 112
    with torch.no_grad():
        assert torch.equal(again(pixels), found)


def test_what_is_set_is_said(tmp_path):
    start = Start(model=at("internlm2-v2_5"), tile_size=84, select_layer=-2, pixel_shuffle="v1", drop_path=0.2,
                  template="internlm2-chat")  # fmt: skip
    new = with_pictures(begin(start), max_tiles=5, dynamic=False, thumbnail=False, min_tiles=2)
    save(new.model, tmp_path / "out")
    raw, encoder = read_config(tmp_path / "out"), load_encoder(tmp_path / "out")
    assert (raw["force_image_size"], raw["vision_config"]["image_size"], raw["select_layer"]) == (84, 84, -2)
    assert (raw["ps_version"], raw["template"], raw["vision_config"]["drop_path_rate"]) == ("v1", "internlm2-chat", 0.2)
    assert encoder.config == new.encoder.config
    assert (encoder.config.tile_size, encoder.config.slots_per_tile) == (84, 9)
    assert (encoder.config.min_tiles, encoder.config.max_tiles) == (2, 5)
    assert not encoder.config.dynamic
    before = read_config(golden("checkpoints/internlm2-v2_5"))
    assert raw["auto_map"] == before["auto_map"]
    assert raw["llm_config"] == before["llm_config"]
    rates = [block.drop_path.rate for block in new.model.vision_model.encoder.layers]
    assert rates[0] == 0
    assert rates[-1] == 0.2
    assert load(tmp_path / "out", device="cpu").config == new.model.config


def test_nothing_asked_nothing_changed(tmp_path):
    name = "llama3-6bvit-v2-sharded"
    save(begin(Start(model=at(name))).model, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(golden(f"checkpoints/{name}"))


def test_one_part_exchanged(tmp_path):
    """Of another width the projector is made anew, and that is told; of the same it stays."""
    model = begin(Start(model=at("qwen2-v2_5-bf16"), vision=at(TOWER))).model
    assert isinstance(model, ChatModel)
    assert torch.equal(model.mlp1[1].weight, load(at("qwen2-v2_5-bf16"), device="cpu").mlp1[1].weight)
    assert (model.config.tile_size, model.config.vision.image_size) == (112, 56)
    save(model, tmp_path / "tower")
    again = load(tmp_path / "tower", device="cpu", dtype="float32")
    assert again.config == model.config
    new = begin(Start(model=at("internlm2-v2_5"), language=at("phi3-v2")))
    assert new.encoder.config.template == "phi3-chat"
    save(new.model, tmp_path / "language")
    again = load(tmp_path / "language", device="cpu")
    assert isinstance(again, ChatModel)
    assert torch.equal(answer(again), answer(new.model))
    assert load_encoder(tmp_path / "language").tokenizer.encode(TEXT) == load_encoder(at("phi3-v2")).tokenizer.encode(
        TEXT
    )
    tiny(tmp_path / "narrow", "llama")
    changed = begin(Start(model=at("internlm2-v2_5"), vision=str(tmp_path / "narrow")))
    assert any("projector is new" in note for note in changed.notes)


def test_projectors(tmp_path):
    chat = load(at("internlm2-v2_5"), device="cpu")
    state = {name: tensor.bfloat16() for name, tensor in chat.mlp1.state_dict().items()}
    torch.save(state, tmp_path / "mlp_projector.pth")
    for source in (at("internlm2-v2_5"), tmp_path / "mlp_projector.pth"):
        found = read_projector(source)
        assert found.keys() == {f"mlp1.{name}" for name in chat.mlp1.state_dict()}
    model = begin(Start(model=at("phi3-v2"), projector=str(tmp_path / "mlp_projector.pth"))).model
    assert torch.equal(model.mlp1[3].weight, state["3.weight"].float())
    torch.save({"0.weight": state["0.weight"]}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match="expected the weights of a projector"):
        read_projector(tmp_path / "less.pth")
    tiny(tmp_path / "narrow", "llama")
    with pytest.raises(ConfigError, match=r"narrow: mlp1.* is \[.*leave start.projector out"):
        begin(Start(model=at("phi3-v2"), projector=str(tmp_path / "narrow")))


def test_towers_from_anywhere():
    alone = read_tower(at(TOWER))
    assert alone(torch.zeros(1, 3, 56, 56)).shape == (1, 17, 64)
    for name in ("internvl-14b", "internvl-c-pth", "internlm2-lora"):
        tower = read_tower(at(name))
        whole = load(at(name), device="cpu", merge_adapters="lora" in name)
        pixels = torch.randn(1, 3, 56, 56)
        assert torch.equal(tower(pixels), whole.vision_model(pixels))


def test_from_the_layout_of_transformers(tmp_path):
    """It stays in that layout, but with another language model."""
    convert(at("qwen2-v2_5-bf16"), tmp_path / "hf", format="hf")
    new = begin(Start(model=str(tmp_path / "hf"), tile_size=56, new_tokens=("<loc>",)))
    save(new.model, tmp_path / "out", dtype="float32")
    again = load(tmp_path / "out", device="cpu")
    assert isinstance(again, ChatModel)
    assert again.origin.format == "hf"
    assert again.config == new.model.config
    assert torch.equal(answer(again), answer(new.model))
    assert load_encoder(tmp_path / "out").config == new.encoder.config


def test_pairs_and_what_they_cannot_have(tmp_path):
    new = begin(Start(model=at("internvl-14b"), tile_size=84, drop_path=0.1))
    assert isinstance(new.model, PairModel)
    assert new.tokenizer is not None
    save(new.model, tmp_path / "out")
    again = load(tmp_path / "out", device="cpu")
    assert again.config == new.model.config
    assert again.config.tile_size == 84
    for wrong in ({"template": "internvl2_5"}, {"new_tokens": ("<a>",)}, {"language": "x"}):
        with pytest.raises(ConfigError, match="this is a pair"):
            begin(replace(Start(model=at("internvl-14b")), **wrong))


def test_what_cannot_begin(tmp_path):
    with pytest.raises(ConfigError, match="a new model needs both"):
        begin(Start(vision=at(TOWER)))
    plain_language("yi-v1_2-ps_v1", tmp_path / "llm")
    with pytest.raises(ConfigError, match=r"give start\.template"):
        begin(Start(vision=at(TOWER), language=str(tmp_path / "llm")))
    with pytest.raises(ConfigError, match="multiple of the patch size 14"):
        begin(Start(model=at("phi3-v2"), tile_size=100))
    with pytest.raises(ConfigError, match="begins or ends with a space"):
        begin(Start(model=at("phi3-v2"), new_tokens=(" a",)))

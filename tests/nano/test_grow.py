"""Growing: the grown decoder computes what the old one did, on old tokens exactly, on new ones by their parts."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest
import torch

from internvl.data.tokenizer import Tokenizer
from internvl.errors import ConfigError
from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig, TextConfig, VisionConfig
from internvl.models.init import initialise
from internvl.nano import form, grow, vocab

TEXTS = [
    *vocab.WORDS.split()[:60],
    "the cat sat on the mat",
    "the total is 12.50",
    "TOTAL 12.50",
    "what is the total",
    "有几个圆",
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    old, new = (tmp_path_factory.mktemp("grow") / name for name in ("old", "new"))
    vocab.build(TEXTS[:30], old, size=290)
    vocab.build(TEXTS, new, size=330, first=vocab.read_merges(old), characters="圆")
    return old, new


def config_of(folder, *, layers: int) -> ChatConfig:
    tokenizer = Tokenizer.from_folder(folder)
    vision = VisionConfig(image_size=28, patch_size=14, dim=32, layers=2, heads=2, mlp_dim=48, layer_scale=1.0)
    text = TextConfig(vocab=tokenizer.vocab_size, dim=32, layers=layers, heads=2, kv_heads=1, mlp_dim=48, qkv_bias=True)
    return ChatConfig(vision=vision, text=text, image_token=tokenizer.special("<IMG_CONTEXT>").id)


@pytest.fixture(scope="module")
def pair(tokenizers) -> tuple[ChatModel, ChatModel]:
    """A small model, as random as a trained one, and the one grown out of it."""
    old = ChatModel(config_of(tokenizers[0], layers=3)).eval()
    initialise(old, seed=1, std=0.3)
    config = config_of(tokenizers[1], layers=5)
    new = ChatModel(config).eval()
    new.load_state_dict(grow.grow(old.state_dict(), grow.parts_of(*tokenizers), config))
    return old, new


def translated(old: Tokenizer, new: Tokenizer, ids: list[int], tokenizers) -> list[int]:
    """Old ids as the new tokens that are the same."""
    whole = {tuple(parts): i for i, parts in enumerate(grow.parts_of(*tokenizers)) if len(parts) == 1}
    found = [whole[(i,)] for i in ids]
    assert new.decode(found) == old.decode(ids)
    return found


def test_parts_have_the_same_bytes(tokenizers):
    old, new = (Tokenizer.from_folder(folder) for folder in tokenizers)
    parts = grow.parts_of(*tokenizers)
    assert len(parts) == new.vocab_size == 330
    for i, own in enumerate(parts):
        assert new.decode([i], skip_special=False) == old.decode(own, skip_special=False)
    assert {own[0] for own in parts if len(own) == 1} == set(range(old.vocab_size)), "no old token is lost"
    assert sum(len(own) > 1 for own in parts) == 330 - old.vocab_size > 30


@torch.no_grad()
def test_the_grown_model_sees_and_thinks_the_same(pair, tokenizers):
    old, new = pair
    one, two = (Tokenizer.from_folder(folder) for folder in tokenizers)
    ids = one.encode("what is the total")
    slots = [old.config.image_token] * old.config.slots_per_tile
    before = torch.tensor([slots + ids])
    after = torch.tensor([[new.config.image_token] * len(slots) + translated(one, two, ids, tokenizers)])
    tile = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    features = old.image_features(tile), new.image_features(tile)
    assert torch.equal(*features)
    states = old.hidden(before, features[0]), new.hidden(after, features[1])
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=2e-6)
    assert states[0].std() > 0.1
    logits = [model.language_model.logits(state) for model, state in zip(pair, states, strict=True)]
    same = [translated(one, two, [i], tokenizers)[0] for i in range(256)]
    torch.testing.assert_close(logits[1][..., same], logits[0][..., :256], rtol=0, atol=2e-5)
    # The likeliest token is an old one still: each new one is a little below the first of its parts.
    best = [grow.parts_of(*tokenizers)[i] for i in logits[1].argmax(-1)[0]]
    assert best == [[i] for i in logits[0].argmax(-1)[0].tolist()]


@torch.no_grad()
def test_a_new_token_is_the_mean_of_its_parts(pair, tokenizers):
    old, new = pair
    parts = grow.parts_of(*tokenizers)
    number = max(range(len(parts)), key=lambda i: len(parts[i]))
    assert len(parts[number]) > 2
    rows = torch.stack([old.language_model.model.embed_tokens.weight[i] for i in parts[number]])
    torch.testing.assert_close(new.language_model.model.embed_tokens.weight[number], rows.sum(0) / len(rows))
    head = old.language_model.lm_head.weight[parts[number][0]]
    torch.testing.assert_close(new.language_model.lm_head.weight[number], grow.LOWER * head)


def test_new_layers_learn(pair):
    """A layer that adds nothing yet has a gradient, so that it does not stay silent."""
    model = ChatModel(pair[1].config)
    model.load_state_dict(pair[1].state_dict())
    ids = torch.arange(40)[None]
    torch.nn.functional.cross_entropy(model(ids)[0, :-1], ids[0, 1:]).backward()
    layers = model.language_model.model.layers
    silent = [i for i, layer in enumerate(layers) if not layer.mlp.down_proj.weight.any()]
    assert silent == [i for i, place in enumerate(grow.places(3, 5)) if place is None]
    for i in silent:
        assert layers[i].mlp.down_proj.weight.grad.abs().max() > 0
        assert layers[i].self_attn.o_proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize(("before", "after"), [(4, 6), (4, 4), (3, 5), (1, 4), (6, 7), (2, 9)])
def test_new_layers_are_spread(before, after):
    found = grow.places(before, after)
    assert [place for place in found if place is not None] == list(range(before)), "each once, in order"
    assert len(found) == after
    seen = list(accumulate(place is None for place in found))
    assert all(abs(seen[i] - (i + 1) * (after - before) / after) <= 1 for i in range(after))


def test_what_cannot_grow_is_refused(pair, tokenizers):
    with pytest.raises(ConfigError, match="5 layers cannot grow to 3"):
        grow.places(5, 3)
    old, new = pair
    wide = replace(new.config, vision=replace(new.config.vision, mlp_dim=64))
    with pytest.raises(ConfigError, match=r"vision_model.*is \[48.*expected \[64.*in the grown form"):
        grow.grow(old.state_dict(), grow.parts_of(*tokenizers), wide)


def test_a_checkpoint_grows_into_the_form(tokenizers, tmp_path):
    import internvl

    one = form.Sizes(form.VISION, {**form.TEXT, "num_hidden_layers": 1}, 0)
    form.write_fresh(tokenizers[0], tmp_path / "old", one, seed=3)
    two = form.Sizes(form.VISION, {**form.TEXT, "num_hidden_layers": 2}, 330)
    grow.grow_checkpoint(tmp_path / "old", tokenizers[1], tmp_path / "new", sizes=two)
    grown = internvl.load(tmp_path / "new", dtype=torch.float32)
    assert (grown.config.text.vocab, grown.config.text.layers) == (330, 2)
    ids = torch.arange(10)[None]  # bytes, the same in both
    with torch.no_grad():
        states = [m.hidden(ids) for m in (internvl.load(tmp_path / "old", dtype=torch.float32), grown)]
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=2e-6)

"""What learns: after one step, that has changed and nothing else."""

from __future__ import annotations

import pytest
import torch

from internvl.errors import ConfigError
from internvl.models.pair import PairModel
from internvl.training.config import Learn
from internvl.training.learn import choose, part_of, shares, table, train_mode
from internvl.weights.load import load
from tests.conftest import golden
from tests.models.tiny import chat_model, random_ids

pytest.importorskip("peft", reason="pip install 'internvl[train]'")

VISION, MLP, LANGUAGE = "vision_model.", "mlp1.", "language_model."
SOME_NORM = "language_model.model.norm"


def lora(prefix: str):
    return lambda name: name.startswith(prefix) and ".lora_" in name


SETTINGS = {
    "everything": (Learn(), lambda name: True),
    "frozen tower": (Learn(vision=False), lambda name: not name.startswith(VISION)),
    "projector": (Learn(vision=False, language=False), lambda name: name.startswith(MLP)),
    "last blocks": (
        Learn(vision_layers="-2:", projector=False, language=False),
        lambda name: name.startswith(("vision_model.encoder.layers.1.", "vision_model.encoder.layers.2.")),
    ),
    "first layer": (
        Learn(vision=False, projector=False, language_layers="0:1"),
        lambda name: name.startswith("language_model.model.layers.0."),
    ),
    "language lora": (
        Learn(vision=False, projector=False, language=False, language_lora=2),
        lora(LANGUAGE),
    ),
    "a part with adapters is frozen": (Learn(vision=False, language_lora=2), lambda n: lora(LANGUAGE)(n) or MLP in n),
    "both dora": (
        Learn(projector=False, vision_lora=2, language_lora=3, dora=True),
        lambda name: ".lora_" in name,
    ),
    "only": (Learn(only=("mlp1.1", "language_model.model.norm")), lambda n: n.startswith(("mlp1.1", SOME_NORM))),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_changes_what_should_change(name):
    learn, expected = SETTINGS[name]
    model = chat_model("llama")
    choose(model, learn)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train_mode(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    ids = torch.cat((torch.full((1, model.config.slots_per_tile), model.config.image_token), random_ids(1, 9)), dim=1)
    for _ in range(2):  # A has no gradient while B is zero
        loss = -model.token_logprobs(ids, ids, torch.randn(1, 3, 56, 56)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if expected(n)}
    counted = shares(model)
    assert sum(s.parameters for s in counted.values()) == sum(p.numel() for p in before.values())
    assert sum(s.learning for s in counted.values()) == sum(p.numel() for n, p in before.items() if expected(n))


def test_a_frozen_tower_drops_nothing():
    model = chat_model("llama")
    for block in model.vision_model.encoder.layers:
        block.drop_path.rate = 0.9
    pixels = torch.randn(4, 3, 56, 56)
    choose(model, Learn(vision=False))
    train_mode(model)
    assert model.language_model.training
    assert torch.equal(model.image_features(pixels), model.image_features(pixels))
    choose(model, Learn(vision=True))
    train_mode(model)
    assert not torch.equal(model.image_features(pixels), model.image_features(pixels))


def test_a_pair():
    model = load(golden("checkpoints/internvl-14b"), device="cpu")
    assert isinstance(model, PairModel)
    choose(model, Learn(only=("text_projection", "qllama.lm_head")))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["text_projection", "qllama.lm_head.weight"]
    choose(model, Learn(vision=False, projector=False, language_lora=2))
    assert {part_of(n) for n, p in model.named_parameters() if p.requires_grad} == {"language"}


def test_a_tower_alone():
    model = load(golden("checkpoints/internvit-300m"), device="cpu")
    choose(model, Learn(vision_layers="-1:"))
    assert {n.split(".")[2] for n, p in model.named_parameters() if p.requires_grad} == {"2"}


@pytest.mark.parametrize(
    ("learn", "told"),
    [
        (Learn(vision=False, projector=False, language=False), "nothing learns"),
        (Learn(only=("mlp2",)), r"no parameter starts with 'mlp2'; the nearest is 'mlp1"),
        (Learn(vision_layers="last"), r"'last'; expected 'all' or a slice"),
        (Learn(vision_layers="7:"), r"none of the 3 layers 0 to 2"),
        (Learn(language_layers="0:2", language_lora=4), "give one of them"),
        (Learn(only=("language_model",), language=False), "nothing learns"),
    ],
)
def test_what_cannot_be(learn, told):
    with pytest.raises(ConfigError, match=told):
        choose(chat_model("llama"), learn)


def test_the_table_adds_up():
    model = chat_model("llama")
    choose(model, Learn(vision=False, language=False, language_lora=2, quantize="int8"))
    whole = chat_model("llama")
    lines = table(model).splitlines()
    assert [line.split()[0] for line in lines] == ["part", "vision", "projector", "language", "all"]
    extra = sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n)
    total = sum(p.numel() for p in whole.parameters()) + extra
    assert int(lines[-1].split()[1].replace(",", "")) == total

"""nano's vocabulary, its published form, and the one path that prompts and pictures take."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from internvl.data.encode import Encoder
from internvl.data.tokenizer import Tokenizer
from internvl.models.chat import ChatModel
from internvl.nano import form, vocab
from internvl.nano.corpus import Corpus
from internvl.nano.lessons import CHARACTERS, MIXTURE, Stream, messages, places
from internvl.nano.optim import Muon, orthogonal
from internvl.nano.train import Heads, Trainer, answer_losses, rate_at
from internvl.nano.world import TALK, Sample, Style, draw_line, draw_scene, talk

WORDS = ("total", "cash", "thank", "you")


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano") / "tokenizer"
    texts = [part for questions, answer in TALK for part in (*questions, answer)] * 5 + [form.SYSTEM_MESSAGE]
    vocab.build(texts, folder, size=400)
    return folder


@pytest.fixture(scope="module")
def encoder(tokenizer_folder) -> Encoder:
    return Encoder(Tokenizer.from_folder(tokenizer_folder), form.ENCODING)


def test_any_text_survives_the_small_vocabulary(encoder):
    for text in ("Hello there!", "Côte d’Ivoire 2024", "日本 🇯🇵\n\tx  y", "", "a" * 50):
        assert encoder.tokenizer.decode(encoder.tokenizer.encode(text)) == text


def test_the_form_is_of_the_announced_size():
    with torch.device("meta"):
        model = ChatModel(form.chat_config(image_token=1270))
    count = sum(p.numel() for p in model.parameters())
    assert 5.9e6 < count < 6.0e6
    config = form.chat_config(image_token=1270)
    assert config.text.head_dim == 64
    assert config.vision.dim // config.vision.heads == 64
    assert config.slots_per_tile == form.ENCODING.slots_per_tile == 16


def test_a_conversation_learns_its_answers_and_nothing_else(encoder):
    sample = Sample("x", draw_scene(random.Random(0)).picture, (("How many?", "3"), ("Sure?", "Yes")))
    encoded = encoder.encode(messages(sample), generate=False)
    learnt = [t for t in encoded.targets if t != -100]
    assert encoder.tokenizer.decode(learnt, skip_special=False) == "3<|im_end|>Yes<|im_end|>"
    prompt = encoder.encode(messages(sample, turns=1))
    assert encoded.input_ids[: len(prompt.input_ids)] == prompt.input_ids, "training and use see the same prompt"
    assert np.array_equal(encoded.tiles, prompt.tiles)


def test_characters_stand_over_their_columns():
    found = places([("A", 0.0, 0.25), ("b", 0.5, 1.0)], across=1)
    assert found == [[CHARACTERS["A"]] * 4 + [0] * 4 + [CHARACTERS["b"]] * 8]
    assert len(places([], across=3)) == 3


class Drawn(Stream):
    """A stream of what needs no data."""

    def sample(self, rng, task, number):
        return rng.choice((lambda: draw_scene(rng), lambda: talk(rng), lambda: self.named(rng)))()

    def named(self, rng):
        line = draw_line(rng, Style(max_length=8), words=WORDS)
        return Sample("read", line.picture, line.turns, name=rng.choice(list(self.names)), letters=line.letters)


@pytest.fixture
def stream(encoder, monkeypatch) -> Stream:
    monkeypatch.setattr("internvl.nano.lessons.BATCH", 6)
    stream = Drawn(Corpus({task: [] for task in MIXTURE}, {}, WORDS), encoder, (), parts=2, seed=1)
    stream.names |= {"a": len(stream.names), "b": len(stream.names) + 1}
    return stream


def test_the_stream_goes_on_where_it_is_told(stream):
    steps = [batches for batches, _ in zip(stream, range(3), strict=False)]
    stream.first = 2
    again = next(iter(stream))
    for one, other in zip(steps[2], again, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
        assert torch.equal(one.tiles, other.tiles)


@pytest.fixture
def trainer(encoder) -> Trainer:
    return Trainer(encoder.tokenizer.special("<IMG_CONTEXT>").id, names=12, seed=0, minutes=1)


def test_learning_lowers_the_loss_and_goes_on_after_an_interruption(trainer, stream, tmp_path):
    batches = next(iter(stream))
    trainer.seconds = 0.5 * trainer.budget
    first = np.mean(trainer.step(batches)["answers"])
    for _ in range(5):
        trainer.number = 150  # past the warm-up
        trainer.step(batches)
    trainer.save(tmp_path / "state")
    other = Trainer(trainer.model.config.image_token, names=12, seed=9, minutes=1)
    other.resume(tmp_path / "state")
    for a, b in zip(trainer.all.state_dict().values(), other.all.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    other.seconds = trainer.seconds
    one, two = trainer.step(batches), other.step(batches)
    assert one["answers"] == two["answers"]
    assert np.mean(one["answers"]) < first
    for a, b in zip(trainer.all.parameters(), other.all.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_decoder_waits_while_the_tower_learns_to_look(encoder, stream, tmp_path):
    trainer = Trainer(encoder.tokenizer.special("<IMG_CONTEXT>").id, names=12, seed=3, minutes=1)
    decoder, tower = trainer.model.language_model, trainer.model.vision_model
    before = [{k: v.clone() for k, v in part.state_dict().items()} for part in (decoder, tower)]
    assert "answers" not in trainer.step(next(iter(stream)))
    assert all(torch.equal(v, before[0][k]) for k, v in decoder.state_dict().items())
    assert not all(torch.equal(v, before[1][k]) for k, v in tower.state_dict().items())
    trainer.save(tmp_path / "state")
    Trainer(trainer.model.config.image_token, names=12, seed=4, minutes=1).resume(tmp_path / "state")


def test_parts_of_a_batch_add_up(encoder, trainer, stream):
    """The gradient of a step is the mean of those of its parts, each what plain autograd finds."""
    batches = next(iter(stream))
    trainer.seconds = 0.5 * trainer.budget
    found = [trainer.gradients(batch)[0] for batch in batches]
    assert len(found) == 2
    assert all(len(g) == len(list(trainer.all.parameters())) for g in found)
    assert all(torch.isfinite(g).all() for part in found for g in part)


def test_the_written_checkpoint_is_the_published_layout(trainer, tokenizer_folder, tmp_path):
    form.write_checkpoint(trainer.model.state_dict(), tokenizer_folder, tmp_path / "nano")
    form.write_checkpoint(trainer.model.state_dict(), tokenizer_folder, tmp_path / "nano")  # replaces it
    tensors = load_file(tmp_path / "nano" / "model.safetensors")
    assert set(tensors) == set(trainer.model.state_dict())
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "nano" / "config.json").read_text(encoding="utf-8"))
    assert config["template"] == "internvl2_5"
    assert config["llm_config"]["vocab_size"] == form.VOCAB


def test_orthogonal_has_singular_values_near_one():
    for shape in ((3, 64, 48), (2, 48, 64)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_muon_moves_every_part_of_a_fused_weight():
    weight = torch.nn.Parameter(torch.zeros(12, 4))
    weight.grad = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    with ThreadPoolExecutor(1) as pool:
        Muon([("attn.qkv.weight", weight)], momentum=0.9, decay=0.0).step(0.1, pool)
    for part in weight.detach().view(3, 4, 4):
        assert torch.linalg.matrix_norm(part) == pytest.approx(0.2, rel=0.35)


def test_the_rate_rises_holds_and_falls():
    assert rate_at(0.0, 0) < 0.01
    assert rate_at(0.3, 1000) == 1.0
    assert rate_at(1.0, 1000) == pytest.approx(0.0, abs=1e-9)


def test_heads_are_silent_where_there_is_nothing_to_learn(stream, trainer):
    unnamed = replace(draw_scene(random.Random(0)), name=None)
    empty = stream.collate([Sample("talk", None, (("Hello", "Hello!"),))] * 2 + [unnamed])
    features = torch.randn(len(empty.tiles), 16, form.TEXT["hidden_size"])
    assert [loss.item() for loss in Heads(form.TEXT["hidden_size"], 2).losses(features, empty)] == [0.0, 0.0]
    loss, parts = answer_losses(trainer.model, empty, features)
    assert torch.isfinite(loss)
    assert set(parts) == {"talk", "count"}

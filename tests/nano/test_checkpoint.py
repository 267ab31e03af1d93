"""The embedded model: it loads strictly, is of its announced form, and answers about pictures it never saw."""

from __future__ import annotations

import json
import random
from importlib.resources import files
from pathlib import Path

import PIL.Image
import pytest
import torch

import internvl
from internvl.data.encode import Encoder
from internvl.models.chat import ChatModel
from internvl.nano import form
from internvl.nano.corpus import Corpus
from internvl.nano.exam import answer, held_out_samples, is_right, score
from internvl.nano.world import TALK, Sample, draw_scene
from internvl.weights.load import load_encoder

CHECKPOINT = Path(str(files("internvl"))) / "nano" / "checkpoint"


@pytest.fixture(scope="module")
def model() -> ChatModel:
    model = internvl.load(dtype=torch.float32)
    assert isinstance(model, ChatModel)
    return model


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder()


def test_it_is_the_form_it_announces(model, encoder):
    assert model.config == form.chat_config(encoder.tokenizer.special("<IMG_CONTEXT>").id)
    assert encoder.config == form.ENCODING
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    assert config == form.published_config(json.loads((CHECKPOINT / "added_tokens.json").read_text(encoding="utf-8")))


def test_it_is_small_enough_to_travel():
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 15e6


def test_it_greets_and_says_what_it_is(model, encoder):
    talk = [Sample("talk", None, ((questions[0], reply),)) for questions, reply in TALK[:2]]
    assert answer(model, encoder, talk) == [sample.turns[0][1] for sample in talk]


def test_scores():
    assert is_right("icon", "Pizza", "pizza")
    assert not is_right("read", "Pizza", "pizza")


def test_it_counts_shapes(model, encoder):
    """Sixty drawings of seeds that training never used; the card says 0.73 of 2,100."""
    rng = random.Random("never drawn in training: count")
    shares = score(model, encoder, {"count": [draw_scene(rng) for _ in range(60)]})
    assert shares["count"] >= 0.55


def test_it_names_what_it_never_saw(model, encoder, shared):
    """The card says 0.49 of 2,074 photographs and 16 of 24 flags in another drawing."""
    held_out = held_out_samples(Corpus.read(shared / "data"), (), limit=150)
    shares = score(model, encoder, {task: held_out[task] for task in ("photo", "flag")})
    assert shares["photo"] >= 0.42
    assert shares["flag"] >= 0.5


@pytest.mark.parametrize(
    ("name", "question", "wanted"),
    [
        ("flag.png", "Which country's flag is this?", "India"),
        ("photo.jpg", "What is in this photograph?", "motorbikes"),
        ("shapes.png", "How many shapes are there?", "3"),
    ],
)
def test_it_answers_about_the_examples(model, encoder, name, question, wanted):
    with PIL.Image.open(CHECKPOINT.parent / "examples" / name) as picture:
        sample = Sample("example", picture.convert("RGB"), ((question, wanted),))
    assert answer(model, encoder, [sample]) == [wanted]

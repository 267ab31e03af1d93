"""The embedded model: it loads strictly, is of its announced form, and answers about pictures it never saw."""

from __future__ import annotations

import json
import random
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

import internvl
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks.own import read_photographs
from internvl.nano import form
from internvl.nano.sample import Kit
from internvl.nano.shapes import draw_scene
from internvl.nano.talk import TALK
from internvl.weights.hub import NANO as CHECKPOINT
from internvl.weights.load import convert

EXAMPLES = Path(str(files("internvl"))) / "nano" / "examples"


@pytest.fixture(scope="module")
def chat() -> internvl.Chat:
    return internvl.Chat.load(dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))


def test_it_is_the_form_it_announces(chat, written):
    ids = json.loads((CHECKPOINT / "added_tokens.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(form.published_config(ids)))
    assert chat.model.config == form.chat_config(ids["<IMG_CONTEXT>"])
    assert chat.encoder.config == form.ENCODING
    assert chat.encoder.tokenizer.special("<IMG_CONTEXT>").id == ids["<IMG_CONTEXT>"]
    assert chat.encoder.tokenizer.vocab_size == form.VOCAB


def test_it_is_small_enough_to_travel():
    every = [path.stat().st_size for path in CHECKPOINT.iterdir()]
    assert sum(every) < 36e6
    assert max(every) < form.SHARD_BYTES + 1e5, "of a shard, and its header"


def test_it_greets_and_says_what_it_is(chat):
    asked = {english[0]: answer[0] for english, _, answer in TALK[:2]}
    assert [answer.text for answer in chat.batch(list(asked))] == list(asked.values())


def test_it_counts_shapes(chat):
    """Sixty drawings of seeds that training never used, with two to five shapes."""
    rng = random.Random("never drawn in training: count")
    drawn = []
    while len(drawn) < 60:
        sample = draw_scene(rng, Kit())
        if sample.label in {f"{count} shapes" for count in range(2, 6)}:
            drawn.append(sample)
    answers = chat.batch([("How many shapes are there?", sample.pictures) for sample in drawn])
    right = sum(f"{answer.text} shapes" == sample.label for answer, sample in zip(answers, drawn, strict=True))
    assert right / len(drawn) >= 0.5


def test_it_names_what_it_never_saw(chat, shared):
    """Every twentieth photograph that Caltech-101 holds out, far better than by always saying the commonest name."""
    samples = list(read_photographs(Folder(shared / "data")))[::20]
    answers = chat.batch([(sample.prompt, [sample.pictures[0].read()]) for sample in samples])
    right = sum(answer.text == sample.answer for answer, sample in zip(answers, samples, strict=True))
    [(_, commonest)] = Counter(sample.answer for sample in samples).most_common(1)
    assert len(samples) > 100
    assert right / len(samples) >= 0.42 > 3 * commonest / len(samples)


@pytest.mark.parametrize(
    ("name", "question", "wanted"),
    [
        ("flag.png", "Which country's flag is this?", "India"),
        ("photo.jpg", "What is in this photograph?", "motorbikes"),
        ("shapes.png", "How many shapes are there?", "3"),
    ],
)
def test_it_answers_about_the_examples(chat, name, question, wanted):
    [answer] = chat.batch([(question, [EXAMPLES / name])])
    assert answer.text == wanted


@pytest.mark.parity
def test_another_engine_computes_the_same(chat, tmp_path):
    """In the layout of transformers: the same tokens, and the same scores after three tiles and a question."""
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="pip install 'internvl[parity]'")
    convert(CHECKPOINT, tmp_path / "hf", format="hf")
    theirs = transformers.InternVLForConditionalGeneration.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    question = "What is the total? RM 12.50, café 有几个红色的圆形？"
    words = chat.encoder.tokenizer.encode(question)
    assert tokenizer(question)["input_ids"] == words
    config = chat.model.config
    ids = torch.tensor([[config.image_token] * (3 * config.slots_per_tile) + words])
    tiles = torch.randn(3, 3, form.TILE, form.TILE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = chat.model(ids, tiles)
        torch.testing.assert_close(theirs(input_ids=ids, pixel_values=tiles).logits, ours, rtol=0, atol=1e-4)
    assert ours.std() > 1

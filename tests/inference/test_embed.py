"""Embeddings: golden vectors through the whole path, and what a mistake says."""

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from internvl.data.pair import encode_prompt, encode_texts
from internvl.errors import UsageError
from internvl.inference.embed import Embedder
from tests.conftest import golden

UNIT = 2e-6
"""Worst seen: 3.0e-7."""


def test_texts_are_those_of_the_golden_vectors():
    embedder = Embedder.load(golden("checkpoints/internvl-14b"), dtype="float32")
    known = json.loads(golden("vectors/internvl-14b.json").read_text())
    expected = load_file(golden("vectors/internvl-14b.safetensors"))
    ids = encode_texts(embedder.tokenizer, known["text"])
    assert ids.tolist() == expected["text_ids"].tolist()
    theirs = F.normalize(expected["text_embeds"], dim=-1)
    torch.testing.assert_close(embedder.texts(known["text"]), theirs, atol=UNIT, rtol=0)
    torch.testing.assert_close(embedder.texts(known["text"], batch=1), theirs, atol=UNIT, rtol=0)
    prompts = known["generate"].values()
    assert all(encode_prompt(embedder.tokenizer, p["prompt"]) == p["input_ids"][0] for p in prompts)


def test_plain_internvl_c_reads_its_tokenizer_from_llm():
    embedder = Embedder.load(golden("checkpoints/internvl-c-pth"))
    known = json.loads(golden("vectors/internvl-c-pth.json").read_text())
    expected = load_file(golden("vectors/internvl-c-pth.safetensors"))
    ids = encode_texts(embedder.tokenizer, known["text"], length=expected["text_ids"].shape[1])
    assert ids.tolist() == expected["text_ids"].tolist()
    theirs = F.normalize(expected["text_embeds"], dim=-1)  # padded to 80 tokens here, to the longest there
    torch.testing.assert_close(embedder.texts(known["text"]), theirs, atol=UNIT, rtol=0)


def test_a_long_text_is_cut_and_still_ends():
    tokenizer = Embedder.load(golden("checkpoints/internvl-14b")).tokenizer
    [row] = encode_texts(tokenizer, ["bus " * 200], length=12)
    assert row[-1] == tokenizer.eos_id
    assert row[0] == tokenizer.bos_id
    assert (row > 0).all()


@pytest.mark.parametrize("mode", ["InternVL-C", "InternVL-G"])
def test_pictures_one_by_one_are_pictures_in_a_batch(mode, tmp_path):
    embedder = Embedder.load(golden("checkpoints/internvl-14b"), mode=mode)
    pictures = [Image.effect_noise((80, 60 + 10 * i), 90).convert("RGB") for i in range(3)]
    pictures[0].save(tmp_path / "one.png")
    together = embedder.images([tmp_path / "one.png", *pictures[1:]])
    assert together.shape == (3, 40)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(embedder.images(pictures, batch=1), together, atol=UNIT, rtol=0)


def test_a_classifier_is_the_mean_of_its_prompts():
    embedder = Embedder.load(golden("checkpoints/internvl-14b"))
    weights = embedder.classifier(["bus", "dog"], ["a {c}", "the {c} {c}"])
    assert weights.shape == (40, 2)
    bus = F.normalize(embedder.texts(["a bus", "the bus bus"]).mean(0), dim=0)
    torch.testing.assert_close(weights[:, 0], bus)
    with pytest.raises(UsageError, match=r"has no \{c\}"):
        embedder.classifier(["bus"], ["a bus"])


@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("name", ["internvit-300m", "qwen2-v2_5-bf16"])
def test_towers_and_chat_models_embed_pictures_only(name, pool):
    embedder = Embedder.load(golden(f"checkpoints/{name}"), pool=pool)
    assert embedder.images([Image.new("RGB", (30, 40), "red")]).shape == (1, 64)
    with pytest.raises(UsageError, match="has no text side"):
        embedder.texts(["a bus"])
    with pytest.raises(UsageError, match="nothing to embed"):
        embedder.images([])

"""Embeddings: golden vectors through the whole path, and what a mistake says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from internvl.data import media
from internvl.data.limits import Limits
from internvl.data.pair import encode_picture, encode_prompt, encode_texts
from internvl.errors import InternVLError, MediaError, NoSuchName, UsageError
from internvl.inference import embed
from internvl.inference.embed import CAPTION, Embedder
from internvl.inference.sampling import SamplingConfig
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


@pytest.mark.parametrize("wrong", [{"mode": "InternVL-g"}, {"pool": "men"}, {"fit": "stretched"}])
def test_a_way_to_look_that_does_not_exist(wrong):
    with pytest.raises(NoSuchName, match="Did you mean"):
        Embedder.load("no/model", **wrong)
    with pytest.raises(NoSuchName, match="Did you mean"):
        Embedder(Embedder.load(golden("checkpoints/internvit-300m")).model, **wrong)


def test_limits_hold():
    embedder = Embedder.load(golden("checkpoints/internvit-300m"), limits=Limits(pixels=100))
    with pytest.raises(MediaError, match="pixels"):
        embedder.images([Image.new("RGB", (30, 40))])


def test_an_address_is_fetched_where_limits_allow_it(monkeypatch, tmp_path):
    Image.new("RGB", (30, 40), "red").save(tmp_path / "a.png")
    monkeypatch.setattr(media, "fetch", lambda address, limits: limits.remote and (tmp_path / "a.png").read_bytes())
    embedder = Embedder.load(golden("checkpoints/internvit-300m"), limits=Limits(remote=True))
    assert embedder.images(["https://example.org/a.png"]).tolist() == embedder.images([tmp_path / "a.png"]).tolist()


def test_a_model_is_asked_for_by_revision_and_token(monkeypatch):
    asked = {}

    def resolved(source, **named):
        asked.update(named, source=source)
        return golden("checkpoints/internvl-14b")

    monkeypatch.setattr(embed, "resolve", resolved)
    assert Embedder.load("some/model", revision="v2", token="t").tokenizer is not None
    assert asked == {"source": "some/model", "revision": "v2", "token": "t"}


# ---- captions --------------------------------------------------------------------------------------------------------

PROMPT0 = ("prompt0_beams1", "prompt0_beams3", "prompt0_beams3_min8")


@pytest.mark.parametrize("case", PROMPT0)
def test_captions_are_those_of_the_golden_vectors(case, monkeypatch):
    """The golden cases hold tiles, not pictures: these stand in for what the pictures become."""
    case = json.loads(golden("vectors/internvl-14b.json").read_text())["generate"][case]
    pixels = load_file(golden("vectors/internvl-14b.safetensors"))["pixel_values"]
    embedder = Embedder.load(golden("checkpoints/internvl-14b"), dtype="float32", device="cpu")
    monkeypatch.setattr(embedder, "_pixels", lambda sources, fit: pixels[[int(source) for source in sources]])
    sampling = SamplingConfig(
        max_new_tokens=case["max_new_tokens"], min_new_tokens=case.get("min_new_tokens", 0), beams=case["num_beams"]
    )
    expected = [embedder.tokenizer.decode(ids[1:]).strip() for ids in case["output_ids"]]
    assert embedder.captions("0123", sampling=sampling) == expected
    assert embedder.captions("0123", sampling=sampling, batch=3) == expected


def test_captions_see_the_whole_picture_stretched_and_a_prompt_without_end(monkeypatch):
    prompts, generate = [], embed.generate
    monkeypatch.setattr(
        embed, "generate", lambda model, given, cache: prompts.extend(given) or generate(model, given, cache=cache)
    )
    embedder = Embedder.load(golden("checkpoints/internvl-14b"), fit="crop")
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8))
    square = Image.fromarray(encode_picture(wide, size=embedder.tile_size, fit="stretch"))
    [caption, same] = embedder.captions([wide, square])
    assert caption == same != ""
    assert prompts[0].config == CAPTION
    assert prompts[0].ids == encode_prompt(embedder.tokenizer)
    assert prompts[0].stop_ids == (embedder.tokenizer.eos_id,)
    stopped = replace(CAPTION, stop=(caption[5],))
    assert embedder.captions([wide], sampling=stopped) == [caption[: caption.index(caption[5])].strip()]


@pytest.mark.parametrize("name", ["internvl-c-pth", "internvit-300m"])
def test_captions_need_a_model_that_writes_them(name):
    embedder = Embedder.load(golden(f"checkpoints/{name}"))
    with pytest.raises(UsageError, match="load an InternVL-14B"):
        embedder.captions([Image.new("RGB", (30, 40))])


def test_there_must_be_something_to_caption():
    with pytest.raises(UsageError, match="nothing to caption"):
        Embedder.load(golden("checkpoints/internvl-14b")).captions([])


def test_one_is_a_list_of_one():
    embedder = Embedder.load(golden("checkpoints/internvl-14b"))
    assert embedder.texts("a flag").shape == (1, 40)
    with pytest.raises(InternVLError, match=r"no such|no file"):
        embedder.images("flag.png")

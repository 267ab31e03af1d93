"""The models compute what the original code computed: every tensor that the golden vectors hold.

Differences are relative to the largest value of the expected tensor, in fp32; the worst seen stands beside each bound.
"""

import json
import shutil
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import internvl
from internvl.models import attention, chat, layers
from internvl.models.attention import KVCache, Packing
from internvl.models.chat import ChatModel
from internvl.models.projector import pixel_shuffle
from internvl.weights.load import load
from tests.conftest import golden, golden_names

FEATURES = 5e-6
"""Worst seen: 1.2e-6 (text features of the 14B)."""
LOGITS = 1e-5
"""Worst seen: 2.1e-6 (phi3-v2)."""
GRADIENTS = 1e-5
"""Worst seen: 1.1e-6 (the norm of a key bias of qwen2-v2_5-bf16)."""


CHATS = [n for n in golden_names("checkpoints/*") if not n.startswith("intern") or n.startswith("internlm")]
TOWERS = [name for name in golden_names("checkpoints/*") if name.startswith("internvit")]


@cache
def vectors(name: str) -> dict[str, Tensor]:
    return load_file(golden(f"vectors/{name}.safetensors"))


@cache
def facts(name: str):
    return json.loads(golden(f"vectors/{name}.json").read_text())


def difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture(params=CHATS)
def case(request: pytest.FixtureRequest):
    return load(golden(f"checkpoints/{request.param}"), dtype="float32", compat="original"), request.param


def test_image_features(case):
    model, name = case
    expected = vectors(name)
    with torch.no_grad():
        states = model.vision_model(expected["pixel_values"], collect=range(model.config.vision.layers + 1))
        for i, state in enumerate(states[:-1]):
            if f"vit.hidden_states.{i}" in expected:
                assert difference(state, expected[f"vit.hidden_states.{i}"]) < FEATURES
        assert difference(states[-1], expected["vit.last_hidden_state"]) < FEATURES
        assert difference(states[-1][:, 0], expected["vit.pooler_output"]) < FEATURES
        assert difference(model.image_features(expected["pixel_values"]), expected["extract_feature"]) < FEATURES
        if "interp.pixel_values" in expected:  # left out of what is committed, for its size
            interpolated = model.image_features(expected["interp.pixel_values"])
            assert difference(interpolated, expected["interp.extract_feature"]) < FEATURES


def test_pixel_shuffle(case):
    model, name = case
    expected = vectors(name)
    assert torch.equal(
        pixel_shuffle(expected["pixel_shuffle.in"], 2, model.config.pixel_shuffle), expected["pixel_shuffle.out"]
    )


def logits_agree(logits: Tensor, expected: dict[str, Tensor], key: str, within: float = LOGITS) -> None:
    assert difference(logits[..., ::4], expected[f"{key}.every4"]) < within
    assert difference(logits.logsumexp(-1), expected[f"{key}.logsumexp"]) < within
    if f"{key}.argmax" in expected:
        assert torch.equal(logits.argmax(-1), expected[f"{key}.argmax"].long())


def test_logits_of_a_padded_batch_and_of_each_sample_alone(case):
    model, name = case
    expected = vectors(name)
    pixels, real = expected["pixel_values"], expected["batch.image_flags"].bool()
    with torch.no_grad():
        ids, mask = expected["batch.input_ids"].long(), expected["batch.attention_mask"].bool()
        logits_agree(model(ids, pixels[real], attention_mask=mask), expected, "batch.logits")
        for i, tiles in enumerate((pixels[:2], pixels[2:3], None)):
            logits_agree(model(expected[f"single.{i}.input_ids"].long(), tiles), expected, f"single.{i}.logits")


def test_losses_and_gradients(case):
    model, name = case
    expected, known = vectors(name), facts(name)
    labels = expected["batch.labels"].long()
    if not (labels != -100).any():
        assert known["samples_fully_masked"] == [0, 1, 2]
        return
    real = expected["batch.image_flags"].bool()
    logprobs = model.token_logprobs(
        expected["batch.input_ids"].long(), labels, expected["pixel_values"][real],
        attention_mask=expected["batch.attention_mask"].bool(), chunk=17,
    )  # fmt: skip
    for kind, loss in known["loss_weighted"].items():
        weight = expected[f"batch.loss_weight.{kind}"].clone()
        weight[:, 0] = 0
        assert -(logprobs * weight).sum().item() / weight.sum().item() == pytest.approx(loss, rel=LOGITS)
    learnt = (labels[:, 1:] != -100).sum()
    (-logprobs.sum() / learnt).backward()
    norms = {key: p.grad.norm().item() for key, p in model.named_parameters() if p.grad is not None}
    if known["grad_norm_total"] is not None and "lora" not in name:
        total = sum(norm**2 for norm in norms.values()) ** 0.5
        assert total == pytest.approx(known["grad_norm_total"], rel=GRADIENTS)
        same_name = {key: norm for key, norm in known["grad_norms"].items() if key in norms and norm is not None}
        assert len(same_name) > 40
        for key, norm in same_name.items():
            assert norms[key] == pytest.approx(norm, rel=GRADIENTS, abs=1e-6 * total), key


@pytest.mark.parametrize("name", TOWERS)
def test_towers_at_their_own_and_at_other_sizes(name):
    model, expected = load(golden(f"checkpoints/{name}"), dtype="float32"), vectors(name)
    with torch.no_grad():
        for size in ("native", "double", "small", "wide"):
            states = model(expected[f"{size}.pixel_values"])
            assert difference(states, expected[f"{size}.last_hidden_state"]) < FEATURES
            assert difference(states[:, 0], expected[f"{size}.pooler_output"]) < FEATURES


def test_rope_variants(tmp_path):
    for known in json.loads(golden("vectors/rope_variants.json").read_text()):
        expected = load_file(golden("vectors/rope_variants.safetensors"))
        decoder = variant(known, tmp_path / str(known["case"])).language_model
        ids = expected[f"{known['case']}.input_ids"].long()
        prompt = known["prompt_length"]
        with torch.no_grad():
            logits_agree(decoder.logits(decoder(decoder.embed(ids))), expected, f"{known['case']}.logits")
            cache = KVCache(decoder.config, 1, prompt + 32)
            hidden = decoder(decoder.embed(ids[:, :prompt]), cache=cache)
            for step, token in enumerate(known["new_ids"][0]):
                logits = decoder.logits(hidden[:, -1])
                theirs = expected[f"{known['case']}.step_logits.every4"][:, step]
                assert difference(logits[..., ::4], theirs) < LOGITS, known["note"]
                assert logits.argmax().item() == token, known["note"]
                hidden = decoder(decoder.embed(torch.tensor([[token]])), cache=cache)


def variant(known, folder: Path) -> ChatModel:
    """A checkpoint whose config is changed as the case says."""
    shutil.copytree(golden(f"checkpoints/{known['checkpoint']}"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["llm_config"].update(known["llm_config_override"])
    (folder / "config.json").unlink()  # the copy is as read-only as what it was copied from
    (folder / "config.json").write_text(json.dumps(config))
    return load(folder, dtype="float32", compat="original")


def test_packed_rows():
    expected = load_file(golden("training/packed_forward.safetensors"))
    names = sorted({key.partition(".")[0] for key in expected})
    for name in names:
        model = load(golden(f"checkpoints/{name}"), dtype="float32", compat="original")
        positions = expected[f"{name}.position_ids"]
        starts = [*(positions == 0).nonzero()[:, 0].tolist(), len(positions)]
        packing = Packing(tuple(b - a for a, b in pairwise(starts)))
        ids = expected[f"{name}.input_ids"].long()[None]
        tiles = int((ids == model.config.image_token).sum()) // model.config.slots_per_tile
        pixels = vectors(name)["pixel_values"][vectors(name)["batch.image_flags"].bool()][:tiles]
        with torch.no_grad():
            logits = model(ids, pixels, packing=packing)[0]
        logits_agree(logits, {k.removeprefix(f"{name}."): v for k, v in expected.items()}, "packed_logits")


def test_internvl_14b():
    model, expected = load(golden("checkpoints/internvl-14b"), dtype="float32"), vectors("internvl-14b")
    pixels, ids = expected["pixel_values"], expected["text_ids"].long()
    with torch.no_grad():
        states = model.vision_model(pixels)
        assert difference(states, expected["vit.last_hidden_state"]) < FEATURES
        queries = model.query_features(states)
        assert difference(queries, expected["query_features"]) < FEATURES
        assert difference(model.clip_projector(states), expected["clip_projector"]) < FEATURES
        assert difference(model.clip_projector2(queries), expected["clip_projector2"]) < FEATURES
        assert difference(model.text_features(ids), expected["text_features_all"]) < FEATURES
        assert difference(model.encode_text(ids), expected["text_embeds"]) < FEATURES
        assert (
            difference(model.encode_text(expected["short_text_ids"].long()), expected["short_text_embeds"]) < FEATURES
        )
        for mode in ("InternVL-C", "InternVL-G"):
            per_image, per_text = model(pixels, ids, mode=mode)
            assert difference(per_image, expected[f"{mode}.logits_per_image"]) < FEATURES
            assert difference(per_text, expected[f"{mode}.logits_per_text"]) < FEATURES
            assert difference(model.encode_image(pixels, mode=mode), expected[f"{mode}.image_embeds"]) < FEATURES


def test_plain_internvl_c():
    model, expected = load(golden("checkpoints/internvl-c-pth")), vectors("internvl-c-pth")
    with torch.no_grad():
        pixels, ids = expected["pixel_values"], expected["text_ids"].long()
        assert difference(model.vision_model(pixels), expected["features"]) < FEATURES
        assert difference(model.encode_image(pixels), expected["image_embeds"]) < FEATURES
        assert difference(model.encode_text(ids), expected["text_embeds"]) < FEATURES
        per_image, per_text = model(pixels, ids)
        assert difference(per_image, expected["logits_per_image"]) < FEATURES
        assert difference(per_text, expected["logits_per_text"]) < FEATURES
    with pytest.raises(internvl.InternVLError, match="plain InternVL-C"):
        model(pixels, ids, mode="InternVL-G")
    with pytest.raises(internvl.InternVLError, match="no mode is called 'G'"):
        model(pixels, ids, mode="G")


def logits_are_caught(name: str) -> bool:
    expected = vectors(name)
    model = load(golden(f"checkpoints/{name}"), dtype="float32", compat="original")
    with torch.no_grad():
        logits = model(expected["single.0.input_ids"].long(), expected["pixel_values"][:2])
    return difference(logits[..., ::4], expected["single.0.logits.every4"]) > 10 * LOGITS


def test_planted_faults_are_caught(monkeypatch):
    """The golden logits would notice a shuffle that is transposed, a mask off by one, angles that turn backwards."""
    name = "qwen2-v2_5-bf16"
    assert not logits_are_caught(name)
    with monkeypatch.context() as patch:
        patch.setattr(chat, "pixel_shuffle", lambda x, side, version: pixel_shuffle(x, side, "v1"))
        assert logits_are_caught(name)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "_sdpa", lambda q, k, v, mask, causal, dropout: shifted(q, k, v, causal))
        assert logits_are_caught(name)
    with monkeypatch.context() as patch:
        patch.setattr("internvl.models.decoder.rotate", lambda x, cos, sin: layers.rotate(x, cos, -sin))
        patch.setattr(
            "internvl.models.decoder.rotary_tables", lambda *a: [t.roll(1, 1) for t in layers.rotary_tables(*a)]
        )
        assert logits_are_caught(name)


def shifted(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Attention whose queries also see the token after them."""
    t = q.shape[2]
    mask = torch.ones(t, t, dtype=torch.bool).tril(1 if causal else t)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

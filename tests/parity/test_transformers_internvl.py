"""Whole chat models against transformers' own InternVL: tower, pixel shuffle, projector and decoder, in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig, VisionConfig
from tests.parity.oracle import DISTINCT, NEW, SAFE, TOKENS, Case, decoder_tensors, enliven, greedy, random_ids, worst
from tests.parity.test_transformers_decoders import CASES

transformers = pytest.importorskip("transformers", minversion="5.0", reason="pip install 'internvl[parity]'")
pytestmark = pytest.mark.parity

IMAGE = 159
TILES = 3
VISION = {
    "300m": VisionConfig(image_size=56, dim=48, layers=5, heads=4, mlp_dim=80),
    "6b": VisionConfig(image_size=56, dim=48, layers=5, heads=3, mlp_dim=80, norm="rms_norm", qkv_bias=False,
                       qk_norm=True),
}  # fmt: skip
TEXTS = ("llama3", "qwen2-tied", "qwen3", "qwen3-moe", "gpt-oss")
PAIRS = [("300m", text) for text in TEXTS] + [("6b", "qwen2")]
SELECTED = {"last": -1, "fourth from the end": -4}


def vision_arguments(c: VisionConfig) -> dict[str, Any]:
    return {
        "hidden_size": c.dim, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "intermediate_size": c.mlp_dim, "image_size": [c.image_size] * 2, "patch_size": [c.patch_size] * 2,
        "norm_type": c.norm, "attention_bias": c.qkv_bias, "use_qk_norm": c.qk_norm, "layer_norm_eps": c.eps,
        "use_mean_pooling": True, "hidden_act": "gelu",
    }  # fmt: skip


def build(vision: str, text: Case, select_layer: int = -1) -> tuple[nn.Module, ChatModel]:
    language = text.config(transformers)
    config = transformers.InternVLConfig(
        vision_config=vision_arguments(VISION[vision]),
        text_config=language,
        image_token_id=IMAGE,
        image_seq_length=4,
        vision_feature_layer=select_layer,
        tie_word_embeddings=text.ours.tied_head,
    )
    config._attn_implementation = "eager"
    theirs = transformers.InternVLForConditionalGeneration(config).eval()
    enliven(theirs, text.seed)
    ours = ChatModel(
        ChatConfig(vision=VISION[vision], text=text.ours, image_token=IMAGE, select_layer=select_layer)
    ).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), text), strict=True)
    return theirs, ours


def renamed(state: dict[str, Tensor], text: Case) -> dict[str, Tensor]:
    """Their tensors under our names; q, k and v of the tower are one of ours."""
    head = {"lm_head.weight": state["lm_head.weight"]}
    language = {k.replace("model.language_model.", "model."): v for k, v in state.items() if "language_model" in k}
    out = {f"language_model.{k}": v for k, v in decoder_tensors(language | head, text.ours).items()}
    tower = "model.vision_tower."
    plain = {
        "embeddings.cls_token": "embeddings.class_embedding",
        "embeddings.position_embeddings": "embeddings.position_embedding",
        "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
        "encoder.layer.": "encoder.layers.",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "lambda_": "ls",
        "attention.projection_layer": "attn.proj",
        "attention.": "attn.",
    }
    for name, tensor in state.items():
        if not name.startswith(tower):
            continue
        ours = name.removeprefix(tower)
        for old, new in plain.items():
            ours = ours.replace(old, new)
        if "q_proj" in ours:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            out["vision_model." + ours.replace("q_proj", "qkv")] = torch.cat(parts)
        elif "k_proj" not in ours and "v_proj" not in ours:
            out["vision_model." + ours] = tensor
    for old, new in {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}.items():
        for leaf in ("weight", "bias"):
            out[f"mlp1.{new}.{leaf}"] = state[f"model.multi_modal_projector.{old}.{leaf}"]
    return out


def inputs(seed: int = 0) -> tuple[Tensor, Tensor]:
    """A prompt of 32 tokens with 12 slots, in two pictures of one and two tiles, and their pixels."""
    ids = random_ids(IMAGE, 1, TOKENS, seed=seed)
    ids[:, 3:7] = IMAGE
    ids[:, 12:20] = IMAGE
    pixels = torch.randn(TILES, 3, 56, 56, generator=torch.Generator().manual_seed(seed + 1))
    return ids, pixels


@pytest.mark.parametrize("vision", VISION)
def test_tower(vision: str) -> None:
    """Every hidden state of the tower. Worst seen: 9.7e-7 (300m)."""
    theirs, ours = build(vision, CASES["qwen2"])
    _, pixels = inputs()
    with torch.no_grad():
        expected = theirs.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        found = ours.vision_model(pixels, collect=range(len(expected)))
    assert max(worst(a, b) for a, b in zip(found, expected, strict=True)) < 5e-6


@pytest.mark.parametrize("select", SELECTED.values(), ids=SELECTED)
@pytest.mark.parametrize("vision", VISION)
def test_image_features(vision: str, select: int) -> None:
    """Worst seen: 8.8e-7 (300m, last)."""
    theirs, ours = build(vision, CASES["qwen2"], select)
    _, pixels = inputs()
    with torch.no_grad():
        expected = theirs.model.get_image_features(
            pixels, vision_feature_layer=select, vision_feature_select_strategy="default"
        )
        expected = getattr(expected, "pooler_output", expected)
        assert worst(ours.image_features(pixels), expected) < 5e-6


@pytest.mark.parametrize(("vision", "text"), PAIRS)
def test_teacher_forced_logits_at_every_position(vision: str, text: str) -> None:
    """Worst seen: 3.4e-6 (6b, qwen2)."""
    theirs, ours = build(vision, CASES[text])
    ids, pixels = inputs()
    with torch.no_grad():
        assert worst(ours(ids, pixels), theirs(input_ids=ids, pixel_values=pixels).logits) < 1e-5


@pytest.mark.parametrize(("vision", "text"), PAIRS)
def test_greedy_run(vision: str, text: str) -> None:
    theirs, ours = build(vision, CASES[text])
    ids, pixels = inputs(seed=5)
    with torch.no_grad():
        expected = theirs.generate(
            input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False
        )
        found, margin = greedy(ours.language_model, ours.embed(ids, ours.image_features(pixels)), NEW)
    assert found == expected[0, TOKENS:].tolist()
    assert len(set(found)) >= DISTINCT
    assert margin > SAFE

"""Depths of parameters are those of the published table, for every parameter of every kind of model."""

from dataclasses import replace

import pytest
import torch

from internvl.models.chat import ChatModel
from internvl.models.classifier import Classifier
from internvl.models.config import PairConfig, TextConfig, VisionConfig
from internvl.models.pair import PairModel
from internvl.models.vit import VisionTransformer
from internvl.training.layers import depth_of
from tests.models.tiny import VISION, chat_config

INTERNVL_14B = PairConfig(
    vision=VisionConfig(
        image_size=224, dim=64, layers=48, heads=2, mlp_dim=64, norm="rms_norm", qkv_bias=False, qk_norm=True
    ),
    text=TextConfig(vocab=96, dim=64, layers=32, heads=2, kv_heads=2, mlp_dim=64, max_positions=256),
    embed_dim=32,
    queries=4,
)
"""The published depth, so that the published numbers stand in the table; the widths do not matter."""
TABLE = {
    "query_tokens": ("language", 0, 34),
    "logit_scale": ("language", 0, 34),
    "qllama.model.embed_tokens.weight": ("language", 0, 34),
    "qllama.model.layers.0.self_attn.q_proj.weight": ("language", 1, 34),
    "qllama.model.layers.30.cross_attn.norm2.weight": ("language", 31, 34),
    "qllama.model.layers.31.mlp.up_proj.weight": ("language", 32, 34),
    "qllama.model.norm.weight": ("language", 34, 34),
    "qllama.lm_head.weight": ("language", 34, 34),
    "text_projection": ("language", 34, 34),
    "itm_head.bias": ("language", 34, 34),
    "clip_projector2.cross_attn.q_bias": ("language", 34, 34),
    "vision_model.embeddings.class_embedding": ("vision", 0, 50),
    "vision_model.embeddings.patch_embedding.weight": ("vision", 0, 50),
    "vision_model.encoder.layers.0.ls1": ("vision", 1, 50),
    "vision_model.encoder.layers.47.norm2.weight": ("vision", 48, 50),
    "clip_projector.cross_attn.proj.weight": ("vision", 50, 50),
}


def on_meta(build):
    with torch.device("meta"):
        return build()


@pytest.fixture(scope="module")
def pair() -> PairModel:
    return on_meta(lambda: PairModel(INTERNVL_14B))


@pytest.mark.parametrize("name", TABLE)
def test_the_published_table(pair, name):
    assert name in dict(pair.named_parameters())
    assert depth_of(name, pair) == TABLE[name]


@pytest.mark.parametrize(
    ("name", "times"), [("encoder.layers.47.ls1", 1), ("encoder.layers.0.ls1", 48), ("embeddings.class_embedding", 49)]
)
def test_rates_fall_from_the_last_layer(pair, name, times):
    """scale = min(1, rate ^ (L - id - 1)): the last block learns at the rate once, the embeddings at all of them."""
    _, depth, depths = depth_of(f"vision_model.{name}", pair)
    assert depths - depth - 1 == times


def test_every_parameter_of_a_pair_lies_where_it_is(pair):
    """Nothing but layers has a depth between the first and the last, and vision is what only sees."""
    for name, _ in pair.named_parameters():
        group, depth, depths = depth_of(name, pair)
        assert (group == "vision") == name.startswith(("vision_model.", "clip_projector."))
        assert (0 < depth < depths) == (".layers." in name)
        if ".layers." in name:
            assert depth == int(name.split(".layers.")[1].split(".")[0]) + 1


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "module.", "_orig_mod."])
@pytest.mark.parametrize("inside", ["", "_checkpoint_wrapped_module."])
def test_wrappers_do_not_hide_a_layer(pair, prefix, inside):
    name = f"{prefix}vision_model.encoder.layers.3.{inside}attn.qkv.base_layer.weight"
    assert depth_of(name, pair) == ("vision", 4, 50)
    name = f"{prefix}qllama.model.layers.3.{inside}mlp.up_proj.lora_A.default.weight"
    assert depth_of(name, pair) == ("language", 4, 34)


def test_chat_models_and_classifiers():
    chat = on_meta(lambda: ChatModel(chat_config("llama")))  # 3 blocks, 3 layers
    known = {
        "vision_model.embeddings.position_embedding": ("vision", 0, 5),
        "vision_model.encoder.layers.2.mlp.fc1.weight": ("vision", 3, 5),
        "mlp1.1.weight": ("vision", 5, 5),
        "language_model.model.embed_tokens.weight": ("language", 0, 5),
        "language_model.model.layers.1.mlp.down_proj.weight": ("language", 2, 5),
        "language_model.model.norm.weight": ("language", 5, 5),
        "language_model.lm_head.weight": ("language", 5, 5),
    }
    for name, depth in known.items():
        assert name in dict(chat.named_parameters())
        assert depth_of(name, chat) == depth, name
    classifier = Classifier.of(VisionTransformer(replace(VISION, pool_dim=8, pool_heads=2)), 3, pooling="attention")
    for name, _ in classifier.named_parameters():
        group, depth, depths = depth_of(name, classifier)
        assert (group, depths) == ("vision", 5)
        expected = 5 if name.startswith("head.") or "clip_projector" in name else 0
        assert depth == (int(name.split(".layers.")[1][0]) + 1 if ".layers." in name else expected), name

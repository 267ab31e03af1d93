"""What configs mean: defaults of each family, spellings of rope, windows, experts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from internvl.errors import ConfigError, UnknownArchitecture
from internvl.models.config import RopeScaling, TextConfig
from internvl.weights.configs import read_hf_vision, read_vision, write_hf_vision, write_vision
from internvl.weights.families import FAMILIES, family_of, read_rope, read_text, write_text
from tests.models.tiny import TEXTS, VISIONS

SMALL = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}


def read(architecture: str, **changes: object) -> TextConfig:
    return read_text({"architectures": [architecture], **SMALL, **changes}, tied_head=False)


@pytest.mark.parametrize("newer", [True, False])
@pytest.mark.parametrize("name", TEXTS)
def test_written_and_read(name, newer):
    config = replace(TEXTS[name], mlp_dim=24) if name == "gpt-oss" else TEXTS[name]
    assert read_text(write_text(config, newer=newer), tied_head=config.tied_head) == config


@pytest.mark.parametrize("vision", VISIONS.values())
def test_towers_written_and_read(vision):
    vision = replace(vision, drop_path=0.1, dropout=0.2, activation="gelu_tanh")
    assert read_vision(write_vision(vision)) == vision
    assert read_hf_vision(write_hf_vision(vision)) == replace(vision, drop_path=0.0)


def test_an_empty_config_is_that_of_the_class():
    """As they were published: a config lists what differs from its class."""
    llama = read_text({"architectures": ["LlamaForCausalLM"]}, tied_head=False)
    assert (llama.vocab, llama.dim, llama.layers, llama.kv_heads, llama.max_positions) == (32000, 4096, 32, 32, 2048)
    internlm2 = read_text({"architectures": ["InternLM2ForCausalLM"]}, tied_head=False)
    assert (internlm2.vocab, internlm2.qkv_bias, internlm2.out_bias, internlm2.mlp_bias) == (103168, True, True, False)
    tower = read_vision({})
    assert (tower.dim, tower.heads, tower.layers, tower.norm, tower.qk_norm) == (3200, 25, 48, "rms_norm", True)
    assert not tower.qkv_bias
    assert tower.image_size == 224


@pytest.mark.parity
@pytest.mark.parametrize("name", ["Llama", "Phi3", "Qwen2", "Qwen3", "Qwen3Moe", "GptOss"])
def test_defaults_are_those_of_transformers(name):
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="pip install 'internvl[parity]'")
    theirs = getattr(transformers, f"{name}Config")().to_dict()
    architecture = f"{name}ForCausalLM"
    empty = read_text({"architectures": [architecture]}, tied_head=False)
    assert read_text({**theirs, "architectures": [architecture]}, tied_head=False) == empty


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_is_found_by_either_name(architecture):
    family = FAMILIES[architecture]
    assert family_of({"architectures": [architecture]}) is family
    assert family_of({"model_type": family.model_type}) is family


def test_an_unknown_family_is_named():
    with pytest.raises(UnknownArchitecture, match=r"'GemmaForCausalLM', 'gemma'.*Qwen3MoeForCausalLM"):
        family_of({"architectures": ["GemmaForCausalLM"], "model_type": "gemma"})


def test_biases():
    assert read("LlamaForCausalLM", attention_bias=True, mlp_bias=True) == replace(
        read("LlamaForCausalLM"), qkv_bias=True, out_bias=True, mlp_bias=True
    )
    assert read("InternLM3ForCausalLM", qkv_bias=True) == replace(read("InternLM3ForCausalLM"), qkv_bias=True)
    assert read("InternLM3ForCausalLM", bias=True).mlp_bias
    qwen2 = read("Qwen2ForCausalLM", attention_bias=False)
    assert (qwen2.qkv_bias, qwen2.out_bias) == (True, False)


def test_windows():
    assert read("Qwen2ForCausalLM", sliding_window=8).window is None  # off unless asked for
    late = read("Qwen2ForCausalLM", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert (late.window, late.windowed_layers) == (8, (1, 2))
    listed = read("Qwen3ForCausalLM", use_sliding_window=True, sliding_window=8, max_window_layers=1,
                  layer_types=["sliding_attention", "full_attention", "full_attention"])  # fmt: skip
    assert listed.windowed_layers == (0,)
    oss = read("GptOssForCausalLM", head_dim=8, num_local_experts=4)
    assert (oss.window, oss.windowed_layers) == (128, (0, 2))
    assert read("Phi3ForCausalLM", sliding_window=2047).window == 2047
    wide = read("Phi3ForCausalLM", sliding_window=262144, max_position_embeddings=131072)
    assert wide.window is None  # never hides anything


def test_a_window_in_every_layer_is_written_for_a_class_that_has_one():
    windowed = read("Phi3ForCausalLM", sliding_window=20)
    raw = write_text(windowed, newer=True)
    assert (raw["model_type"], raw["sliding_window"]) == ("phi3", 20)
    assert read_text(raw, tied_head=False) == windowed


def test_experts():
    moe = read("Qwen3MoeForCausalLM", head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
               mlp_only_layers=[1], decoder_sparse_step=2, norm_topk_prob=True).experts  # fmt: skip
    assert moe is not None
    assert (moe.count, moe.active, moe.dim, moe.dense_layers, moe.normalise) == (4, 2, 16, (0, 1, 2), True)
    newer = read("Qwen3MoeForCausalLM", head_dim=8, num_local_experts=4, num_experts_per_tok=2).experts
    assert newer is not None
    assert newer.count == 4


# fmt: off
ROPES = [
    ({"rope_theta": 5e6}, 5e6, None),
    ({"rope_theta": 5e6, "rope_scaling": None}, 5e6, None),
    ({"rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}}, 5e6, None),
    ({"rope_theta": 1e6, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 1e6,
     RopeScaling(kind="dynamic", factor=2.0)),
    ({"rope_theta": 1e6, "rope_scaling": {"type": "dynamic", "rope_type": "dynamic", "factor": 2}}, 1e6,
     RopeScaling(kind="dynamic", factor=2.0)),
    ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4}}, 1e4, RopeScaling(kind="linear", factor=4.0)),
    ({"rope_theta": 1e4, "original_max_position_embeddings": 8, "rope_scaling": {"type": "su", **FACTORS}}, 1e4,
     RopeScaling(kind="longrope", original=8, short_factors=(1.0, 1.1, 1.2, 1.3), long_factors=(2.0, 3.0, 4.0, 5.0))),
    ({"rope_theta": 1e4, "original_max_position_embeddings": 8, "rope_scaling": {"type": "yarn", **FACTORS}}, 1e4,
     RopeScaling(kind="longrope", original=8, short_factors=(1.0, 1.1, 1.2, 1.3), long_factors=(2.0, 3.0, 4.0, 5.0),
                 temperature="yarn")),
    ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}, 5e5,
     RopeScaling(kind="llama3", factor=8.0, original=16, low_freq=1.0, high_freq=4.0)),
    ({"rope_theta": 15e4, "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "truncate": False,
                                           "original_max_position_embeddings": 4096}}, 15e4,
     RopeScaling(kind="yarn", factor=32.0, original=4096, truncate=False)),
]
# fmt: on


@pytest.mark.parametrize(("raw", "theta", "expected"), ROPES)
def test_spellings_of_rope(raw, theta, expected):
    assert read_rope({"rope_theta": 1e4, **raw}) == (theta, expected)


def test_a_decoder_that_no_class_computes():
    with pytest.raises(ConfigError, match="no language model class"):
        write_text(replace(TEXTS["llama"], qkv_bias=True, out_bias=True, qk_norm=True, sinks=True), newer=True)
    with pytest.raises(ConfigError, match="LlamaForCausalLM"):
        write_text(replace(TEXTS["llama"], window=4, qkv_bias=True, out_bias=True), newer=False)


def test_towers_with_more_than_an_internvit_has():
    for changes in ({"use_mask_token": True}, {"use_mean_pooling": False}, {"image_size": [448, 224]}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            read_hf_vision(changes)

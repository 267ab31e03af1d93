"""Small configurations that together use every value of `TextConfig` and `VisionConfig`."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig, Experts, RopeScaling, TextConfig, VisionConfig
from internvl.models.init import initialise

M = TypeVar("M", bound=nn.Module)

IMAGE = 95
LLAMA = TextConfig(vocab=96, dim=32, layers=3, heads=4, kv_heads=2, mlp_dim=48, max_positions=64)
FACTORS = {"short_factors": (1.0, 1.1, 1.2, 1.3), "long_factors": (2.0, 3.0, 4.0, 5.0)}
TEXTS = {
    "llama": LLAMA,
    "llama3": replace(LLAMA, rope=RopeScaling(kind="llama3", factor=8.0, original=16)),
    "linear": replace(LLAMA, rope=RopeScaling(kind="linear", factor=4.0)),
    "internlm2": replace(LLAMA, max_positions=6, rope=RopeScaling(kind="dynamic", factor=2.0)),
    "phi3": replace(LLAMA, rope=RopeScaling(kind="longrope", original=8, **FACTORS), window=5),
    "qwen2": replace(LLAMA, qkv_bias=True, tied_head=True),
    "qwen2-window": replace(LLAMA, qkv_bias=True, window=4, windowed_layers=(1, 2)),
    "qwen3": replace(LLAMA, qk_norm=True, head_dim=16),
    "qwen3-moe": replace(LLAMA, qk_norm=True, experts=Experts(count=5, active=2, dim=24, dense_layers=(0,))),
    "gpt-oss": replace(
        LLAMA, qkv_bias=True, out_bias=True, sinks=True, window=4, windowed_layers=(0, 2),
        rope=RopeScaling(kind="yarn", factor=4.0, original=16, truncate=False),
        experts=Experts(count=4, active=2, dim=24, bias=True, gate="clamped"),
    ),
}  # fmt: skip
VISION = VisionConfig(image_size=56, dim=32, layers=3, heads=2, mlp_dim=48)
VISIONS = {
    "300m": VISION,
    "6b": replace(VISION, norm="rms_norm", qkv_bias=False, qk_norm=True),
}


def chat_config(text: str = "qwen2", vision: str = "300m", **changes: object) -> ChatConfig:
    return replace(ChatConfig(vision=VISIONS[vision], text=TEXTS[text], image_token=IMAGE), **changes)


def shake(model: M, seed: int = 0) -> M:
    """Random values everywhere, norms and biases too, so that every parameter matters."""
    initialise(model, seed=seed, std=0.15)
    draw = torch.Generator().manual_seed(seed + 1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return model.eval()


def chat_model(text: str = "qwen2", vision: str = "300m", seed: int = 0, **changes: object) -> ChatModel:
    return shake(ChatModel(chat_config(text, vision, **changes)), seed)


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    """Ordinary tokens only."""
    return torch.randint(1, IMAGE, shape, generator=torch.Generator().manual_seed(seed))

"""Mistakes that are told before any process starts: what can be known of a model and a machine without torch.

What only the worker can know (damaged weights, a model on the hub, how many GPUs there are) it says itself, later.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from pathlib import Path
from typing import Any

from internvl.errors import CheckpointError, UsageError, find
from internvl.serving.described import check_context, no_embedder
from internvl.serving.settings import Settings
from internvl.serving.vllm_options import VllmOptions, program_of

DTYPES = ("float32", "fp32", "bfloat16", "bf16", "float16", "fp16", "float64")
"""The names that `internvl.weights.load.DTYPES` knows."""
DEVICE = re.compile(r"(cpu|cuda|mps)(?::[0-9]+)?")
CUDA = "libcuda.so.1"
"""The library of NVIDIA's driver."""
ROCM = Path("/dev/kfd")
"""AMD's driver."""


def check(settings: Settings, vllm: VllmOptions | None = None) -> None:
    """Raises `InternVLError` for what is known not to be servable."""
    if vllm is not None and settings.device not in (None, "cpu", "cuda"):
        raise UsageError(f"device is {settings.device}; vLLM takes cpu or cuda: choose GPUs with CUDA_VISIBLE_DEVICES")
    check_device(settings.device)
    if settings.dtype is not None:
        find("dtype", settings.dtype.removeprefix("torch."), dict.fromkeys(DTYPES))
    folder = _here(settings.source, settings.revision)
    if settings.context is not None and folder is not None and (most := _read_at_most(_config(folder))) is not None:
        check_context(settings.context, most)
    if settings.embedder_source is not None:
        other = _here(settings.embedder_source)
        if other is not None and _is_chat(_config(other)):
            raise no_embedder(settings.embedder_source)
    if vllm is not None:
        program_of(vllm.program)
        _check_heads(folder, vllm.tensor_parallel)


def check_device(name: str | None) -> None:
    """Refuse what is no device, or is of a kind for which this machine has no driver."""
    if name is None:
        return
    if (kind := DEVICE.fullmatch(name)) is None:
        raise UsageError(f"{name!r} is no device; expected cpu, cuda, cuda:1 or mps")
    if (kind[1] == "mps" and sys.platform != "darwin") or (kind[1] == "cuda" and not _has_driver()):
        raise UsageError(f"there is no device {name!r} on this machine; leave --device out, or say cpu")


def _has_driver() -> bool:
    try:
        ctypes.CDLL(CUDA)
    except OSError:
        return ROCM.exists()
    return True


def _here(source: str | None, revision: str | None = None) -> Path | None:
    """The model's folder or file, where it needs no network; None where it is on the hub."""
    from internvl.weights.hub import WEIGHTS, is_far, resolve

    if is_far(source):
        return None
    path = resolve(source, revision=revision)
    files = [path] if path.is_file() else list(path.iterdir())
    if not any(one.suffix in WEIGHTS for one in files):
        raise CheckpointError(
            f"{path} is no checkpoint: it has no weights ({', '.join(WEIGHTS)}); name a folder that has, or a hub id"
        )
    _config(path)
    return path


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({type(error).__name__}); download it again") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object; download it again")
    return config


def _is_chat(config: dict[str, Any]) -> bool:
    """As far as can be seen: `described` knows the one form whose config has no part of its own for the decoder."""
    return not {"llm_config", "text_config"}.isdisjoint(config)


def _text(config: dict[str, Any]) -> dict[str, Any]:
    """What a config says of the decoder."""
    text = config.get("llm_config") or config.get("text_config") or config
    return text if isinstance(text, dict) else {}


def _read_at_most(config: dict[str, Any]) -> int | None:
    """Tokens; None where it takes more than a look: places can be stretched."""
    text = _text(config)
    most = text.get("max_position_embeddings")
    return most if type(most) is int and not (text.get("rope_scaling") or text.get("rope_parameters")) else None


def _check_heads(folder: Path | None, parts: int) -> None:
    heads = _text({} if folder is None else _config(folder)).get("num_attention_heads")
    if type(heads) is int and heads % parts:
        fit = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise UsageError(f"--tensor-parallel-size {parts}: the model has {heads} attention heads; choose one of {fit}")

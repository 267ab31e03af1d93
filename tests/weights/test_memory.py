"""Loading needs one copy of the model, converting a few tensors: peaks of whole processes, side by side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig, TextConfig, VisionConfig
from internvl.weights.load import save

MIB = 1 << 20
CONFIG = ChatConfig(
    vision=VisionConfig(image_size=56, dim=256, layers=4, heads=4, mlp_dim=1024),
    text=TextConfig(vocab=16000, dim=768, layers=4, heads=12, kv_heads=4, mlp_dim=3072, qkv_bias=True),
    image_token=15999,
)
"""62 million parameters: 238 MiB in fp32."""
ACTION = """
import re, sys
from pathlib import Path
from internvl.weights.checkpoint import open_checkpoint
from internvl.weights.load import convert, load
source = Path(sys.argv[2])
open_checkpoint(source)
match sys.argv[1]:
    case "load":
        model = load(source, device="cpu", dtype="float32")
        for parameter in model.parameters(): parameter.sum()  # what is mapped counts when it is used
    case "convert": convert(source, sys.argv[3], format="hf")
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
"""`ru_maxrss` would not do: a child begins with its parent's."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("large")
    model = ChatModel(CONFIG)
    save(model, folder / "fp32")
    save(model, folder / "bf16", dtype="bf16")
    save(model, folder / "sharded", dtype="bf16", shard_bytes=30 * MIB)
    (folder / "bin").mkdir()
    (folder / "bin" / "config.json").write_bytes((folder / "bf16" / "config.json").read_bytes())
    torch.save(load_file(folder / "bf16" / "model.safetensors"), folder / "bin" / "pytorch_model.bin")
    return {path.name: path for path in folder.iterdir()}


def peak(*arguments: object) -> int:
    """Bytes a process held at most."""
    command = [sys.executable, "-c", ACTION, *map(str, arguments)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) << 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "copies"),
    # Worst of three, in copies of the model in fp32: 1.01, 1.10, 1.10, 1.51. Of a pickle 256 MiB may be mapped.
    [("fp32", 1.2), ("bf16", 1.2), ("sharded", 1.2), ("bin", 1.6)],
)
def test_loading_takes_one_copy(name, copies, large):
    model = sum(p.numel() for p in ChatModel(CONFIG).parameters()) * 4
    assert peak("load", large[name]) - peak("open", large[name]) < copies * model


@pytest.mark.slow
def test_converting_takes_a_few_tensors(large, tmp_path):
    largest = CONFIG.text.vocab * CONFIG.text.dim * 4
    # Worst of three: 1.03 times the largest tensor.
    assert peak("convert", large["fp32"], tmp_path / "out") - peak("open", large["fp32"]) < 1.5 * largest

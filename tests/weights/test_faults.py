"""Planted faults: what a mistake in a table or a default would do to the golden vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from internvl.errors import CheckpointError
from internvl.models.chat import ChatModel
from internvl.weights import adapters, families, formats, keys, rules
from internvl.weights.load import load
from tests.conftest import golden
from tests.weights.folders import checkpoint

CLOSE = 1e-5
"""Of the largest value. Worst seen over the cases here: 2.0e-6 (phi3-v2)."""


def error(name: str) -> float:
    """How far the logits of a golden checkpoint are from its vectors, relative to the largest."""
    vectors = load_file(golden(f"vectors/{name}.safetensors"))
    model = load(checkpoint(name), device="cpu", dtype="float32", compat="original")
    assert isinstance(model, ChatModel)
    mask, flags = vectors["batch.attention_mask"].bool(), vectors["batch.image_flags"].bool().flatten()
    with torch.no_grad():
        logits = model(vectors["batch.input_ids"].long(), vectors["pixel_values"][flags], attention_mask=mask)
    expected = vectors["batch.logits.every4"][mask]
    return float((logits[..., ::4][mask] - expected).abs().max() / expected.abs().max())


Patch = Callable[[pytest.MonkeyPatch], None]


def keys_and_values_exchanged(patch: pytest.MonkeyPatch) -> None:
    cut = rules.HeadGroups.cut
    patch.setattr(rules.HeadGroups, "cut", lambda self, whole: [cut(self, whole)[i] for i in (0, 2, 1)])


def queries_of_the_wrong_group(patch: pytest.MonkeyPatch) -> None:
    def cut(self: rules.HeadGroups, whole: torch.Tensor) -> Any:
        heads = whole.unflatten(0, (self.group + 2, self.kv_heads, -1)).transpose(0, 1)
        return [part.flatten(0, 2) for part in heads.split((self.group, 1, 1), dim=1)]

    patch.setattr(rules.HeadGroups, "cut", cut)


def gate_and_up_exchanged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keys, "GATE", keys.UP)
    patch.setattr(keys, "UP", "layers.{}.mlp.gate_proj.@")


def alpha_forgotten(patch: pytest.MonkeyPatch) -> None:
    put = adapters.add_adapter
    patch.setattr(adapters, "add_adapter", lambda model, name, rank, alpha, dora: put(model, name, rank, rank))


def default(table: str, key: str, value: Any) -> Patch:
    def fault(patch: pytest.MonkeyPatch) -> None:
        from internvl.weights import configs

        patch.setitem(getattr(configs, table), key, value)

    return fault


def newest_pixel_shuffle(patch: pytest.MonkeyPatch) -> None:
    read = formats.read_custom
    layout = formats.TABLE["custom"]
    changed = replace(layout, read=lambda seen: replace(read(seen), pixel_shuffle="v2"))
    patch.setitem(formats.TABLE, "custom", changed)


def last_layer(patch: pytest.MonkeyPatch) -> None:
    read = formats.read_custom
    layout = formats.TABLE["custom"]
    patch.setitem(formats.TABLE, "custom", replace(layout, read=lambda seen: replace(read(seen), select_layer=-1)))


def base_of_rope(patch: pytest.MonkeyPatch) -> None:
    read = families.read_rope
    patch.setattr(families, "read_rope", lambda raw: (1e4, read(raw)[1]))


def no_long_factors(patch: pytest.MonkeyPatch) -> None:
    read = families.read_rope
    patch.setattr(families, "read_rope", lambda raw: (read(raw)[0], None))


FAULTS: list[tuple[str, Patch]] = [
    ("internlm2-v2_5", keys_and_values_exchanged),
    ("internlm2-v2_5", queries_of_the_wrong_group),
    ("internlm2-v2_5", base_of_rope),
    ("internlm2-lora", alpha_forgotten),
    ("phi3-v2", gate_and_up_exchanged),
    ("phi3-v2", no_long_factors),
    ("llama-v1_1-bin", default("CUSTOM_VISION", "norm_type", "layer_norm")),
    ("llama-v1_1-bin", newest_pixel_shuffle),
    ("llama-v1_1-bin", last_layer),
    ("yi-v1_2-ps_v1", newest_pixel_shuffle),
    ("yi-v1_2-ps_v1", base_of_rope),
]


@pytest.mark.parametrize("name", sorted({name for name, _ in FAULTS}))
def test_without_a_fault_the_vectors_agree(name: str) -> None:
    assert error(name) < CLOSE


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_the_vectors_notice(name: str, fault: Patch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fault(monkeypatch)
    with contextlib.suppress(CheckpointError):  # noticed even before anything was computed
        assert error(name) > 100 * CLOSE

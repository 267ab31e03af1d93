"""ITM, ITC and ITG are those of the original code, and do not depend on how a batch is divided over ranks."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from internvl.data.batch import LabelBatch, PairBatch
from internvl.data.image import normalise
from internvl.errors import ConfigError, UsageError
from internvl.models.config import PairConfig
from internvl.models.pair import PairModel
from internvl.training import pair_objectives
from internvl.training.config import Aim
from internvl.training.pair_objectives import Classify, PairLoss, contrast, one_of, same_picture
from internvl.training.world import World
from internvl.weights.load import load
from tests.conftest import golden
from tests.models.tiny import LLAMA, VISION, shake

PRETRAIN = Aim(kind="pretrain_pair")
RETRIEVAL = Aim(kind="retrieval", captioning=0.0)

LOSSES = 2e-6
"""Relative. Worst seen against the golden losses: 4e-7."""
GRADIENTS = 1e-5
"""Relative to the norm of each parameter, or to a millionth of all together. Worst seen: 2e-6."""


# ---- against the original code ---------------------------------------------------------------------------------------


@cache
def vectors() -> dict[str, Tensor]:
    return load_file(golden("vectors/internvl-14b.safetensors"))


@cache
def losses():
    return json.loads(golden("vectors/internvl-14b.json").read_text())["losses"]


def case(name: str, image_ids: list[int]) -> PairBatch:
    told = {key.split(".")[2]: rows.long() for key, rows in vectors().items() if key.startswith(f"train.{name}.")}
    return PairBatch(
        tiles=torch.zeros(len(image_ids), 56, 56, 3, dtype=torch.uint8),
        summary=told["summarize_input_ids"],
        caption=told["positive_input_ids"],
        negative=told["negative_input_ids"],
        generation=told["input_ids"],
        generation_targets=told["labels"],
        image_ids=torch.tensor(image_ids),
        positions=tuple(range(len(image_ids))),
    )


@pytest.fixture
def original(monkeypatch):
    """The golden checkpoint; the pictures of its cases are given as pixels, not as bytes."""
    monkeypatch.setattr(pair_objectives, "normalise", lambda tiles: vectors()["pixel_values"])
    return load(golden("checkpoints/internvl-14b"), dtype="float32")


@pytest.mark.parametrize("name", ["plain", "one_empty", "label_smoothing"])
def test_pretraining_agrees_with_the_original(original, name):
    known = losses()[f"stage2.{name}"]
    objective = PairLoss(replace(PRETRAIN, label_smoothing=known["label_smoothing"]), World())
    agrees(original, objective, case(name, [0, 1, 2, 3]), known, ("itm", "itc", "itg"))


@pytest.mark.parametrize("name", ["plain", "one_empty", "label_smoothing"])
def test_retrieval_agrees_with_the_original(original, name):
    known = losses()[f"retrieval.{name}"]
    agrees(original, PairLoss(RETRIEVAL, World()), case(name, known["image_ids"]), known, ("itm", "itc"))


def agrees(model: PairModel, objective: PairLoss, batch: PairBatch, known, terms: tuple[str, ...]) -> None:
    found = objective.loss(model, batch, objective.totals(batch))
    assert found.value.item() == pytest.approx(known["loss"], rel=LOSSES)
    for term in terms:
        assert found.metrics[term].item() == pytest.approx(known[f"loss_{term}"], rel=LOSSES), term
    if known["grad_norms"] is None:
        return
    found.value.backward()
    norms = {name: None if p.grad is None else p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms.keys() == known["grad_norms"].keys()
    total = sum(norm**2 for norm in norms.values() if norm is not None) ** 0.5
    for name, norm in known["grad_norms"].items():
        assert norms[name] == (None if norm is None else pytest.approx(norm, rel=GRADIENTS, abs=1e-6 * total)), name

"""MPO on two ranks is MPO on one: losses, rewards, delta and weights, with a second model and with a cache."""

import json

import pytest
from safetensors.torch import load_file

from internvl.training.world import World
from tests.training.launch import launch
from tests.training.preferring import run

NUMBERS = 1e-5
"""Relative to the largest. Worst seen: 1.8e-6, of margins, which are small differences of large sums."""
WEIGHTS = 2e-7
"""Absolute, of weights up to 1. Worst seen: 3e-8."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preferences")
    launch("tests.training.preferring", 2, folder)
    run(folder, World())
    return folder


@pytest.mark.parametrize("way", ["model", "cache"])
def test_two_ranks_are_one(found, way):
    """One rank has only text; the reference is sharded like the model."""
    two, one = (json.loads((found / f"{way}-of-{size}.json").read_text()) for size in (2, 1))
    for name, values in one.items():
        assert len(set(values)) == 3, "nothing was learnt"
        worst = max(abs(a - b) for a, b in zip(two[name], values, strict=True))
        assert worst < NUMBERS * max(map(abs, values)), name
    ours, theirs = (load_file(found / f"{way}-of-{size}.safetensors") for size in (2, 1))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).abs().max().item() < WEIGHTS, name


def test_a_cache_is_a_second_model(found):
    """Bit for bit: it was filled with batches of the same shape."""
    for size in (1, 2):
        model, cache = (json.loads((found / f"{way}-of-{size}.json").read_text()) for way in ("model", "cache"))
        assert model == cache

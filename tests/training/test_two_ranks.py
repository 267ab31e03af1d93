"""Two processes on one machine, by gloo: together they train as one does, and save what one can read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from internvl.errors import DamagedFile
from internvl.training.checkpoint import Saver, latest, restore
from tests.training.launch import launch
from tests.training.steps import EAGER, LOSS, WEIGHT, Ran, optimizer_of, pair_trained, same, tiny, train, trained

pytestmark = pytest.mark.slow

LOSS_PAIR = 5e-5
"""Of a norm of about 4, whose gradients pass through the vectors of all ranks. Worst seen: 1.5e-5."""
LOSS_BF16, WEIGHT_BF16 = 0.05, 0.05
"""Sharded, weights are cast before they are used, and norms and sums of a layer are bf16 too; alone, autocast keeps
these in fp32. Worst seen: 0.025 and 0.026."""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """What two ranks wrote; they began from what one had saved."""
    folder = tmp_path_factory.mktemp("two-ranks")
    torch.manual_seed(0)
    model = tiny("llama", drop=0.3)
    optimizer = optimizer_of(model)
    train(model, optimizer)
    Saver(folder / "one", keep=2).save(3, model, optimizer, {}, wait=True)
    launch("tests.training.two_ranks", 2, folder)
    return folder


def told(folder: Path, name: str, rank: int = 0) -> Ran:
    numbers = json.loads((folder / f"{name}-{rank}.json").read_text())
    return Ran(**numbers, weights=load_file(folder / f"{name}-{rank}.safetensors"))


@pytest.mark.parametrize(
    ("name", "text", "rank"),
    [("full", "qwen2", 0), ("hybrid", "qwen2", 0), ("none", "qwen2", 0), ("adapters", "llama", 4),
     ("experts", "qwen3-moe", 0)],
)  # fmt: skip
def test_two_ranks_are_one(found, name, text, rank):
    """The tied head of qwen2, frozen weights under adapters, experts. All pictures are on one rank."""
    losses, weights = told(found, name).far_from(trained(text, EAGER, rank=rank))
    assert losses < LOSS
    assert weights < WEIGHT


@pytest.mark.parametrize("name", ["pair", "pair-none"])
def test_rows_find_their_counterparts_on_other_ranks(found, name):
    """Two rows on one rank, four on the other; the temperature is one number, which is not divided."""
    losses, weights = told(found, name).far_from(pair_trained(EAGER))
    assert losses < LOSS_PAIR
    assert weights < WEIGHT


def test_two_ranks_in_16_bit(found):
    losses, weights = told(found, "bf16").far_from(trained("qwen2", EAGER, dtype="bf16"))
    assert losses < LOSS_BF16
    assert weights < WEIGHT_BF16


NAMES = ["none", "full", "hybrid", "adapters", "experts", "bf16", "pair", "pair-none"]


@pytest.mark.parametrize("name", NAMES)
def test_ranks_agree_bit_for_bit(found, name):
    assert same(told(found, name, 0), told(found, name, 1))


@pytest.mark.parametrize(("name", "other"), [("full", "exchanged-each-time"), ("hybrid", "hybrid-each-time")])
def test_exchanging_each_micro_batch_is_the_same(found, name, other):
    losses, weights = told(found, name).far_from(told(found, other))
    assert losses < LOSS
    assert weights < WEIGHT


def test_resumed_on_two_ranks_is_uninterrupted_bit_for_bit(found):
    """With drop path and dropout: each rank draws its own numbers, and goes on drawing them."""
    for rank in (0, 1):
        assert same(told(found, "resumed", rank), told(found, "went-on", rank))


@pytest.mark.parametrize("name", ["one-two", "one-copies"])
def test_restored_on_another_number_of_ranks_bit_for_bit(found, name):
    """From one rank to two and back; of two that hold copies, the first writes."""
    model, other = tiny("llama", seed=4), tiny("llama", seed=5)
    optimizer, fresh = optimizer_of(model), optimizer_of(other)
    path = latest(found / name)
    assert path is not None
    sizes = [file.stat().st_size for file in sorted((path / "optim").iterdir())]
    assert len(sizes) == 2
    assert sizes[1] * 10 < sizes[0] if name == "one-copies" else sizes[0] < sizes[1] * 1.2 < sizes[0] * 1.4
    restore(path, model, optimizer)
    restore(latest(found / "one"), other, fresh)
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name
        assert optimizer.state[a].keys() == fresh.state[b].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(optimizer.state[a][kind], fresh.state[b][kind]) for kind in fresh.state[b]), name


def test_what_two_ranks_saved_is_an_ordinary_model(found):
    model = tiny("llama", seed=4)
    path = latest(found / "two")
    restore(path, model, optimizer_of(model))
    weights = load_file(path / "model" / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_ranks_may_answer_with_different_lengths(found):
    """Between two steps, and the second is the same as if nobody had answered."""
    assert same(told(found, "answered"), told(found, "did-not-answer"))


def test_a_lost_file_of_a_rank_is_named(found, tmp_path):
    shutil.copytree(latest(found / "two"), tmp_path / "step-000003")
    (tmp_path / "step-000003" / "optim" / "rank-00001-of-00002.safetensors").unlink()
    model = tiny("llama")
    with pytest.raises(DamagedFile, match="a file is missing"):
        restore(tmp_path / "step-000003", model, optimizer_of(model))


def test_the_full_disk_of_one_rank_is_heard_by_all(found):
    faults = [json.loads((found / f"failing-{rank}.json").read_text()) for rank in (0, 1)]
    assert faults[0] == faults[1]
    assert "step 1 was not saved: rank 1: " in faults[0]
    assert [path.name for path in (found / "full-disk").iterdir()] == ["step-000002"]


def test_what_ranks_tell_each_other(found):
    first, second = (json.loads((found / f"telling-{rank}.json").read_text()) for rank in (0, 1))
    assert first["json"] == second["json"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "ä" * 10}]
    assert first["sum"] == second["sum"] == {"both": 0.1 + 1.1, "only 0": 1.0, "only 1": 1.0}
    assert first["mean"] == second["mean"] == 0.5
    assert first["any"] == second["any"] == [True, False]
    assert first["gather"] == second["gather"] == [[0.0] * 3] * 2 + [[1.0] * 3] * 3
    # the loss of rank r is r + 1 times a sum in which row i of the five counts 5 - i times
    assert first["grad"] == [[3.0 * (5 - i)] * 3 for i in (0, 1)]
    assert second["grad"] == [[3.0 * (5 - i)] * 3 for i in (2, 3, 4)]
    assert (first["world"]["rank"], first["world"]["size"], first["world"]["node_size"]) == ("0", "2", "2")

"""Rates and decays of every parameter, the rate at every moment, and the scale of fp16."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from internvl.training.config import Optim
from internvl.training.layers import depth_of
from internvl.training.optim import Scaler, adamw, rate_at, set_rate
from tests.training.steps import tiny

COSINE = Optim(schedule="cosine", warmup=0.0)


def rates(model: nn.Module, optim: Optim) -> dict[str, tuple[float, float]]:
    """Rate and decay of every parameter by name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = adamw(model, optim)
    return {names[p]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}


def test_every_parameter_that_learns_is_in_one_group():
    model = tiny(rank=2)
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(rates(model, Optim())) == learnt


def test_parts_have_rates_of_their_own():
    found = rates(tiny(), Optim(lr=1e-3, vision_lr=1e-5, projector_lr=0.5))
    for name, (rate, _) in found.items():
        expected = 1e-5 if name.startswith("vision_model.") else 0.5 if name.startswith("mlp1.") else 1e-3
        assert rate == expected, name


def test_layers_below_learn_slower_by_the_decay():
    model = tiny()
    found = rates(model, Optim(lr=1.0, vision_layer_decay=0.5))
    top = {depth: found[name][0] for name, _ in model.named_parameters() for depth in [depth_of(name, model)]}
    vision = {depth: rate for (group, depth, _), rate in top.items() if group == "vision"}
    ordered = [vision[depth] for depth in sorted(vision)]
    assert ordered == sorted(ordered)
    assert len(set(ordered)) > 2
    assert all(later == pytest.approx(2 * earlier) for earlier, later in pairwise(ordered))
    assert all(rate == 1.0 for (group, _, _), rate in top.items() if group == "language")


def test_decay_is_uniform_or_of_matrices_alone():
    model = tiny()
    assert {decay for _, decay in rates(model, Optim(weight_decay=0.1)).values()} == {0.1}
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    for name, (_, decay) in rates(model, Optim(weight_decay=0.1, decay_all=False)).items():
        spared = shapes[name] < 2 or ("embed" in name and "patch_embedding" not in name)
        assert decay == (0.0 if spared else 0.1), name


def test_parts_have_decays_of_their_own():
    found = rates(tiny(), Optim(weight_decay=0.1, vision_weight_decay=0.0, projector_weight_decay=0.3))
    for name, (_, decay) in found.items():
        assert decay == (0.0 if name.startswith("vision_model.") else 0.3 if name.startswith("mlp1.") else 0.1), name


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_rates_begin_low_rise_and_end_at_the_floor(schedule):
    optim = Optim(schedule=schedule, warmup=0.1, floor=0.05)
    found = [rate_at((step - 0.5) / 1000, step, optim) for step in range(1, 1001)]
    assert found[0] < 0.01
    assert max(found) == pytest.approx(1.0, abs=1e-3)
    rising = found[:100]
    assert rising == sorted(rising)
    falling = found[100:]
    assert falling == sorted(falling, reverse=True)
    assert found[-1] == pytest.approx(1.0 if schedule == "constant" else 0.05, abs=3e-3)


def test_known_values():
    assert rate_at(0.5, 50, COSINE) == pytest.approx(0.5)
    assert rate_at(0.25, 25, replace(COSINE, schedule="linear")) == pytest.approx(0.75)
    wsd = replace(COSINE, schedule="wsd", decay=0.2)
    assert rate_at(0.79, 79, wsd) == 1.0
    assert rate_at(0.9, 90, wsd) == pytest.approx(0.5)


def test_a_warm_up_in_steps_counts_steps():
    optim = replace(COSINE, warmup=10, schedule="constant")
    assert [rate_at(step / 1e6, step, optim) for step in (1, 5, 10, 11)] == [0.1, 0.5, 1.0, 1.0]


def test_a_warm_up_in_steps_and_one_in_shares_are_the_same_curve():
    steps, shares = replace(COSINE, warmup=100), replace(COSINE, warmup=0.5)
    for step in range(1, 201):
        middle = (step - 0.5) / 200
        assert rate_at(middle, step, steps) == pytest.approx(rate_at(middle, step, shares), abs=0.02), step


def test_setting_the_rate_keeps_the_proportions_of_groups():
    optimizer = adamw(tiny(), Optim(lr=1e-3, vision_lr=1e-4))
    assert set_rate(optimizer, 0.5) == 5e-4
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [5e-5, 5e-4]
    assert set_rate(optimizer, 1.0) == 1e-3  # not a share of what it was before


def test_the_scale_halves_on_overflow_and_doubles_after_good_steps():
    scaler = Scaler(8.0, window=3)
    scaler.update(False)
    assert scaler.scale == 4.0
    for _ in range(3):
        scaler.update(True)
    assert scaler.scale == 8.0
    again = Scaler(1.0, window=3)
    again.restore(scaler.state())
    assert (again.scale, again.good) == (8.0, 0)


def test_adamw_steps_as_torch_does():
    model = nn.Linear(3, 2)
    twin = nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    ours = adamw(model, Optim(lr=1e-2, weight_decay=0.1))
    theirs = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.1, eps=1e-8)
    for one, optimizer in ((model, ours), (twin, theirs)):
        one(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
    assert torch.equal(model.weight, twin.weight)
    assert torch.equal(model.bias, twin.bias)

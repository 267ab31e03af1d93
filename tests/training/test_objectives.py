"""SFT, DPO, BCO and MPO are the original's, values and gradients."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl.training.objectives import RunningMean, bco, dpo, load_balance, segment_sums, sft
from tests.conftest import golden

LOSSES = 1e-6
"""Relative. Worst seen against the golden losses: 9e-8."""
DELTAS = 2e-6
"""Relative. Worst seen: 5.7e-7."""
GRADIENTS = 1e-6
"""Relative to the largest of a step. Worst seen: 1.3e-7."""
REWARDS = 1e-6
"""Absolute, of means of rewards up to 4. Worst seen: 1.4e-7."""


def cases():
    return json.loads(golden("training/mpo_logps.json").read_text())


def test_losses_gradients_rewards_and_delta_over_three_steps():
    for case in cases():
        delta, beta = RunningMean(), case["beta"]
        kinds = case["loss_type"].split(",")
        assert set(kinds) <= {"sigmoid", "bco_pair"}, "a kind of loss that objective.kind does not offer"
        for step in case["steps"]:
            told = {key: torch.tensor(value) for key, value in step.items() if key.endswith("_logps")}
            chosen, rejected = (told[f"policy_{each}_logps"].requires_grad_() for each in ("chosen", "rejected"))
            c, r = chosen - told["reference_chosen_logps"], rejected - told["reference_rejected_logps"]
            each = torch.zeros(len(c))
            if "sigmoid" in kinds:
                each = each + case["sigmoid_loss_weight"] * dpo(c, r, beta=beta, smoothing=case["label_smoothing"])
            if "bco_pair" in kinds:
                moved = delta.update(float(beta * torch.cat((c, r)).detach().mean()))
                each = each + case["bco_pair_loss_weight"] * bco(c, r, beta=beta, delta=moved)
                assert moved == pytest.approx(step["running_mean_after"], rel=DELTAS)
                assert delta.count == step["running_count_after"]
            assert each.mean().item() + (case["rpo_alpha"] or 0) * step["policy_nll_loss"] == pytest.approx(
                step["loss"], rel=LOSSES
            )
            each.mean().backward()
            for ours, theirs in ((chosen, "grad_policy_chosen"), (rejected, "grad_policy_rejected")):
                theirs = torch.tensor(step[theirs])
                assert (ours.grad - theirs).abs().max() < GRADIENTS * theirs.abs().max()
            worth = step["metrics"]
            assert beta * c.mean().item() == pytest.approx(worth["rewards/chosen"], abs=REWARDS)
            assert beta * r.mean().item() == pytest.approx(worth["rewards/rejected"], abs=REWARDS)
            assert (c > r).float().mean().item() == pytest.approx(worth["rewards/accuracies"], rel=LOSSES)


def test_a_model_that_is_its_reference():
    """Before the first step: ln 2, and twice ln 2 with a delta of 0."""
    zeros = torch.zeros(3)
    assert torch.allclose(dpo(zeros, zeros, beta=0.1), torch.full((3,), math.log(2)))
    assert torch.allclose(
        bco(zeros, zeros, beta=0.1, delta=RunningMean().update(0.0)), torch.full((3,), 2 * math.log(2))
    )


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20))
def test_a_running_mean_is_the_mean(values):
    delta = RunningMean()
    for value in values:
        delta.update(value)
    assert delta.mean == pytest.approx(sum(values) / len(values), rel=1e-9, abs=1e-9)  # worst seen 7e-15
    again = RunningMean()
    again.restore(json.loads(json.dumps(delta.state())))
    assert again == delta


def test_a_running_mean_of_several_observations_and_of_none():
    together, apart = RunningMean(), RunningMean()
    together.update(1.0)
    together.update(4.0, 2)
    for value in (1.0, 3.0, 5.0):
        apart.update(value)
    assert together.mean == pytest.approx(apart.mean) == 3.0
    assert together.update(float("nan")) == together.update(float("inf")) == together.update(9.0, 0) == 3.0
    assert together.count == 3


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_segment_sums_of_a_packed_row_are_those_of_rows(lengths):
    values = torch.randn(1, sum(lengths), generator=torch.Generator().manual_seed(len(lengths)))
    rows = torch.nn.utils.rnn.pad_sequence(list(values[0].split(lengths)), batch_first=True)
    assert torch.allclose(segment_sums(values, lengths), segment_sums(rows, None), atol=2e-6)  # worst seen 5e-7


def test_sft_leaves_out_what_weighs_nothing():
    logprobs = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    sft(logprobs, torch.tensor([[0.0, 0.5, 2.0]])).backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[0.0, -0.5, -2.0]]


def test_experts_that_are_used_alike_are_balanced():
    even = torch.eye(4).repeat(3, 1) * 20  # each token loves one expert, each expert is loved as often
    assert load_balance([even], active=1).item() == pytest.approx(1.0)
    assert load_balance([torch.tensor([[20.0, 0, 0, 0]]).repeat(12, 1)], active=1).item() == pytest.approx(4.0)
    padding = torch.cat((even, torch.tensor([[20.0, 0, 0, 0]]).repeat(5, 1)))
    real = torch.arange(len(padding)) < len(even)
    assert torch.equal(load_balance([padding], 1, real), load_balance([even], 1))
    assert load_balance([padding], 1).item() > 1.1
    assert load_balance([padding], 1, torch.zeros_like(real)).item() == 0


def test_balance_is_that_of_transformers():
    qwen = pytest.importorskip("transformers.models.qwen3_moe.modeling_qwen3_moe")
    layers = [torch.randn(14, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    theirs = qwen.load_balancing_loss_func(tuple(layers), num_experts=6, top_k=2, attention_mask=mask)
    assert load_balance(layers, 2, mask.bool().flatten()).item() == pytest.approx(theirs.item(), rel=1e-6)

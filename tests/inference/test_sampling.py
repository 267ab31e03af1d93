"""From logits to a token: each rule alone, on numbers that can be checked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl.errors import UsageError
from internvl.inference.sampling import (
    Completion,
    SamplingConfig,
    Token,
    draw,
    forbid,
    log_probabilities,
    penalise,
    shape,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": 0.5}, "set temperature above 0"),
        ({"top_k": 5}, "set temperature above 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"repetition_penalty": 1e-30}, "it must be 0.01 to 100"),
        ({"repetition_penalty": 1e30}, "it must be 0.01 to 100"),
        ({"repetition_penalty": math.nan}, "repetition_penalty is nan"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": "\n"}, "a sequence of strings"),
        ({"stop": ("",)}, "none of them empty"),
        ({"top_logprobs": 1000}, "top_logprobs is 1000"),
        ({"beams": 0}, "beams is 0"),
        ({"beams": 3, "temperature": 1.0}, "beam search does not sample"),
        ({"length_penalty": 2.0}, "belong to beam search"),
    ],
)
def test_a_wrong_value_is_named(wrong, says):
    with pytest.raises(UsageError, match=says):
        SamplingConfig(**wrong)


def test_penalty_lowers_both_signs():
    scores = torch.tensor([2.0, -2.0, 1.0])
    assert penalise(scores, [0, 1, 0], 2.0).tolist() == [1.0, -4.0, 1.0]
    assert scores.tolist() == [2.0, -2.0, 1.0], "the logits themselves are left alone"


def test_no_stop_token_before_the_minimum():
    config = SamplingConfig(min_new_tokens=2)
    scores = torch.tensor([5.0, 1.0, 3.0])
    assert shape(scores, config, [1], stop_ids=[0]).argmax() == 2
    assert shape(scores, config, [1, 1], stop_ids=[0]).argmax() == 0
    assert forbid(scores, []) is scores


def test_the_penalty_counts_what_it_is_told_and_never_more():
    config = SamplingConfig(repetition_penalty=2.0)
    scores = torch.tensor([4.0, 3.0, 2.0])
    assert shape(scores, config, [], [], counted=[0]).tolist() == [2.0, 3.0, 2.0]
    assert shape(scores, config, [1], [], counted=[]).tolist() == [4.0, 1.5, 2.0]


def share(scores: torch.Tensor, config: SamplingConfig, draws: int = 4000) -> list[float]:
    source = generator(0)
    counts = torch.bincount(torch.tensor([draw(scores, config, source) for _ in range(draws)]), minlength=len(scores))
    return (counts / draws).tolist()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SamplingConfig(temperature=1.0), [0.5, 0.3, 0.15, 0.05]),
        (SamplingConfig(temperature=1.0, top_k=2), [0.625, 0.375, 0, 0]),
        (SamplingConfig(temperature=1.0, top_p=0.5), [1, 0, 0, 0]),
        (SamplingConfig(temperature=1.0, top_p=0.51), [0.625, 0.375, 0, 0]),
        (SamplingConfig(temperature=1.0, top_k=3, top_p=0.6), [0.625, 0.375, 0, 0]),
        (SamplingConfig(temperature=1.0, top_k=99), [0.5, 0.3, 0.15, 0.05]),
        (SamplingConfig(temperature=0.5), [0.6849, 0.2466, 0.0616, 0.0068]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_shares_of_draws_follow_the_distribution(config, expected):
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    found = share(scores, config)
    # 4000 draws: three standard deviations are 0.024 at most; measured worst difference 0.009
    assert found == pytest.approx(expected, abs=0.024)
    assert [f == 0 for f in found] == [e == 0 for e in expected]


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40), st.integers(0, 2**31), st.floats(0.05, 3.0))
def test_a_draw_is_an_id_and_a_seed_repeats_it(values, seed, temperature):
    scores = torch.tensor(values)
    for config in (
        SamplingConfig(temperature=temperature),
        SamplingConfig(temperature=temperature, top_k=3, top_p=0.8),
        SamplingConfig(temperature=temperature, top_p=1e-9),
    ):
        token = draw(scores, config, generator(seed))
        assert 0 <= token < len(values)
        assert token == draw(scores, config, generator(seed))
    assert values[draw(scores, SamplingConfig(temperature=temperature, top_p=1e-9), generator(seed))] == max(values)


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 5e-324])
@pytest.mark.parametrize("more", [{}, {"top_k": 2}, {"top_p": 0.9}])
def test_a_tiny_temperature_is_greedy(temperature, more):
    scores = torch.tensor([1.0, 8.0, 7.0, float("-inf")])
    assert {draw(scores, SamplingConfig(temperature=temperature, **more), generator(i)) for i in range(20)} == {1}


def test_forbidden_tokens_are_never_drawn():
    scores = forbid(torch.zeros(6), [0, 5])
    assert {draw(scores, SamplingConfig(temperature=2.0), generator(i)) for i in range(200)} == {1, 2, 3, 4}


def test_log_probabilities_are_a_softmax():
    logits = torch.randn(3, 10, generator=generator(1))
    chosen = torch.tensor([4, 0, 9])
    logprobs, best, ids = log_probabilities(logits, chosen, top=3)
    expected = logits.log_softmax(-1)
    torch.testing.assert_close(logprobs, expected.gather(-1, chosen[:, None])[:, 0])
    torch.testing.assert_close(best, expected.topk(3).values)
    assert ids.tolist() == expected.topk(3).indices.tolist()
    assert log_probabilities(logits, chosen)[1].shape == (3, 0)


def test_a_completion_knows_its_answer():
    tokens = (Token(7, -0.5), Token(2, -0.1))
    assert Completion(tokens, "stop").answer_ids == [7]
    assert Completion(tokens, "length").answer_ids == [7, 2]

"""The engine says what `generate` says, whatever else is in flight, and leaves nothing behind."""

from random import Random

import pytest

from tests.inference.serving import alone, any_request, engine_of, lone_prompt, roomy, served
from tests.inference.test_generate import assert_same_choices
from tests.models.tiny import TEXTS

EPSILON = 1e-5
"""Log-probabilities of the same token, alone and served, differ by less; measured: 2.4e-6."""


@pytest.mark.parametrize("text", sorted(TEXTS))
def test_it_says_what_generate_says(text):
    model, draw = roomy(text), Random(text)
    requests = [any_request(model, draw) for _ in range(14)]
    worst = 0.0
    for request, answers in zip(requests, served(engine_of(model), requests), strict=True):
        for answer, heard in enumerate(answers):
            expected = alone(model, request, answer)
            if heard.ids != expected.ids:
                assert_same_choices(model, lone_prompt(model, request, answer), heard.ids, expected.ids)
                continue
            assert heard.finish == expected.finish
            worst = max(
                worst, *(abs(a.logprob - b.logprob) for a, b in zip(heard.tokens, expected.tokens, strict=True))
            )
    assert worst < EPSILON

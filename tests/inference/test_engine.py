"""The engine says what `generate` says, whatever else is in flight, and leaves nothing behind."""

from dataclasses import replace
from random import Random

import pytest
import torch

from internvl.inference.engine import Engine, QueueFull
from internvl.inference.sampling import SamplingConfig, Token
from internvl.models.layers import Linear
from tests.inference.serving import (
    EPSILON,
    Ear,
    Heard,
    alone,
    any_request,
    asking,
    engine_of,
    farthest,
    lone_prompt,
    picture,
    roomy,
    served,
    words,
)
from tests.inference.test_generate import assert_same_choices
from tests.models.tiny import TEXTS


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
            worst = max(worst, farthest(heard, expected))
    assert worst < EPSILON


def bits(answers: list[Heard]) -> list[tuple[list[Token], str | None]]:
    return [(heard.tokens, heard.finish) for heard in answers]


def stays_the_same(text: str, *, deterministic: bool) -> bool:
    """Whether answers are equal to the last bit alone and among random neighbours, arrivals and cancels."""
    model, draw = roomy(text), Random(text)
    requests = [any_request(model, draw) for _ in range(4)]
    expected = [bits(served(engine_of(model, deterministic=deterministic), [request])[0]) for request in requests]
    engine = engine_of(model, deterministic=deterministic)
    ear, ids, neighbours = Ear(engine), list[int](), list[int]()
    for request in requests:
        for _ in range(draw.randrange(4)):
            neighbours.append(engine.submit(any_request(model, draw)))
            for _ in range(draw.randrange(3)):
                ear.step()
        ids.append(engine.submit(request))
        engine.cancel(draw.choice([*neighbours, -1]))
        ear.step()
    ear.all()
    assert not ear.errors
    return all(
        bits([ear.answers[id, answer] for answer in range(request.n)]) == tokens
        for id, request, tokens in zip(ids, requests, expected, strict=True)
    )


@pytest.mark.parametrize("text", ["gpt-oss", "internlm2", "qwen2", "qwen3-moe"])
def test_a_deterministic_answer_is_the_same_to_the_last_bit_whoever_is_about(text):
    assert stays_the_same(text, deterministic=True)


def test_an_ordinary_answer_is_not():
    """Or the test above would show nothing."""
    assert not stays_the_same("qwen2", deterministic=False)


@pytest.mark.parametrize("rows", [2, 4, 7, 16])
def test_a_row_is_multiplied_alike_at_every_place_of_a_batch(rows):
    """What determinism stands on: with an equal number of rows, neither the place nor the neighbours matter."""
    draw = torch.Generator().manual_seed(rows)
    for out, width in ((96, 32), (48, 192), (512, 512), (1024, 384)):
        layer, one = Linear(width, out), torch.randn(1, width, generator=draw)
        batch = torch.randn(rows, width, generator=draw)
        places = [layer(torch.cat((batch[:i], one, batch[i + 1 :])))[i] for i in range(rows)]
        assert all(torch.equal(places[0], place) for place in places)


def baseline(engine: Engine) -> tuple[int, ...]:
    now = engine.counters()
    held = sum(tensor.numel() for tensor in engine._slots.cache.keys)
    return (
        now.queued,
        now.reading,
        now.running,
        now.free,
        len(engine._jobs),
        len(engine._queue._waiting),
        now.waiting_tiles,
        held,
    )


def test_two_hundred_requests_and_cancels_leave_nothing_behind():
    model, draw = roomy(), Random(1)
    engine = engine_of(model, queue=20, kept_tiles=5)
    before, ear, live = baseline(engine), Ear(engine), list[int]()
    refused = 0
    for _ in range(200):
        try:
            live.append(engine.submit(any_request(model, draw)))
        except QueueFull:
            refused += 1
        if draw.random() < 0.7:
            engine.cancel(live[-1 - draw.randrange(min(9, len(live)))], draw.choice((None, None, 0, 1)))
        if draw.random() < 0.8:
            ear.step()
    ear.all()
    done = engine.counters()
    assert baseline(engine) == before
    assert not ear.errors
    assert refused + done.ended + done.cancelled == 200
    assert done.cancelled > 40
    assert done.ended > 50
    assert done.kept_tiles <= 5
    assert engine.step() == []
    [after] = served(engine, [asking(model, words(9, seed=5))])
    assert after[0].ids == alone(model, asking(model, words(9, seed=5))).ids, "and it goes on serving"


def test_answers_of_one_prompt_read_it_once():
    model = roomy()
    sampling = SamplingConfig(max_new_tokens=6, temperature=1.5, seed=3)
    request = asking(model, words(5, 1), picture(1, tiles=2), words(6, 2), n=4, sampling=sampling)
    engine = engine_of(model)
    [answers] = served(engine, [request])
    assert [heard.ids for heard in answers] == [alone(model, request, answer).ids for answer in range(4)]
    assert len({tuple(heard.ids) for heard in answers}) > 1, "another seed, another answer"
    assert engine.counters().read == len(request.ids)
    greedy = replace(request, sampling=SamplingConfig(max_new_tokens=6))
    assert len({tuple(heard.ids) for heard in served(engine, [greedy])[0]}) == 1


def test_one_of_several_answers_can_be_ended_from_outside():
    model = roomy()
    request = asking(model, words(5, 1), n=3)
    engine = engine_of(model)
    ear, id = Ear(engine), engine.submit(request)
    assert not engine.cancel(id, answer=1), "it does not grow yet"
    ear.step()
    ear.step()
    assert engine.cancel(id, answer=1)
    assert not engine.cancel(id, answer=1)
    assert engine.counters().free == 2
    ear.all()
    expected = alone(model, request).ids
    assert [ear.answers[id, answer].ids for answer in range(3)] == [expected, expected[:2], expected]
    assert not engine.cancel(id)


def test_counters_add_up():
    model = roomy()
    engine = engine_of(model)
    request = asking(model, words(5, 1), picture(1), words(3, 2))
    served(engine, [request, request], between=lambda ear: ear.all())
    now = engine.counters()
    assert (now.read, now.reused, now.generated, now.ended) == (12 + 1, 11, 16, 2)
    assert (now.picture_misses, now.picture_hits, now.kept_tiles, now.free, now.slots) == (1, 0, 1, 4, 4)
    served(engine, [asking(model, words(2, 3), picture(1), 7)])
    assert engine.counters().picture_hits == 1

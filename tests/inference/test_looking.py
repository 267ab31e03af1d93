"""Pictures that are encoded beside the steps: the same answers, nobody waits for them, and nothing is left of them."""

from random import Random
from threading import Event, get_ident

import pytest
import torch

from internvl.inference.looking import Beside, Here
from internvl.inference.sampling import SamplingConfig
from tests.inference.serving import EPSILON, Ear, alone, any_request, asking, engine_of, farthest, picture, roomy, words

LONG = 30.0
"""Seconds after which a test that hangs fails."""


@pytest.fixture
def two_cores(monkeypatch):
    """The engine is told of two, whatever the tests run on; returns the numbers of threads that were chosen."""
    chosen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    return chosen


def test_only_a_cpu_of_several_cores_encodes_beside_and_not_where_all_must_be_alike(two_cores, monkeypatch):
    assert isinstance(engine_of(roomy())._encoding, Beside)
    assert type(engine_of(roomy(), deterministic=True)._encoding) is Here
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert type(engine_of(roomy())._encoding) is Here


@pytest.mark.parametrize("seed", range(4))
def test_answers_are_those_of_the_lone_run(two_cores, seed):
    draw, model = Random(seed), roomy()
    engine = engine_of(model, slots=4, chunk=10)
    ear, asked = Ear(engine), {}
    for _ in range(14):
        request = any_request(model, draw)
        asked[engine.submit(request)] = request
        for _ in range(draw.randrange(3)):
            ear.step()
    ear.all()
    assert not ear.errors
    for id, request in asked.items():
        for answer in range(request.n):
            assert farthest(ear.answers[id, answer], alone(model, request, answer)) < EPSILON


def held_up(model, monkeypatch) -> tuple[Event, Event, list[int]]:
    """The tower begins, and does not go on until it is told to; in which threads it was."""
    begun, go_on, threads = Event(), Event(), []
    tower = model.image_features

    def slow(pixels):
        threads.append(get_ident())
        begun.set()
        assert go_on.wait(LONG)
        return tower(pixels)

    monkeypatch.setattr(model, "image_features", slow)
    return begun, go_on, threads


def test_answers_grow_and_others_are_read_while_a_picture_is_encoded(two_cores, monkeypatch):
    model = roomy()
    begun, go_on, threads = held_up(model, monkeypatch)
    engine = engine_of(model, slots=4)
    ear = Ear(engine)
    growing = engine.submit(asking(model, 3, sampling=SamplingConfig(max_new_tokens=20)))
    ear.step()
    seeing = engine.submit(asking(model, picture(1), 4))
    reading = engine.submit(asking(model, words(5, 1)))
    for _ in range(18):
        ear.step()
    assert begun.is_set()
    assert len(ear.answers[growing, 0].tokens) == 19, "a token a step"
    assert ear.answers[reading, 0].finish
    assert (seeing, 0) not in ear.answers
    assert threads != [get_ident()]
    go_on.set()
    ear.all()
    assert ear.answers[seeing, 0].ids == alone(roomy(), asking(model, picture(1), 4)).ids
    assert len(threads) == 1


def test_who_is_alone_has_all_cores_and_two_share_them(two_cores, monkeypatch):
    model = roomy()
    begun, go_on, _ = held_up(model, monkeypatch)
    engine = engine_of(model, slots=4)
    ear = Ear(engine)
    beside = Beside(engine._features, is_small=False)
    beside.make_room()
    first = beside.encode(picture(1)[1], alone=True)
    assert begun.wait(LONG)
    assert two_cores == [2, 2]
    beside.make_room()
    second = beside.encode(picture(2)[1], alone=False)
    go_on.set()
    first.result(LONG), second.result(LONG)
    beside.make_room()
    assert two_cores == [2, 2, 1, 1, 2]
    engine.submit(asking(model, 3))
    del two_cores[:]
    ear.all()
    assert two_cores == [1, 2] * ear.steps, "one is enough for a step of so small a model"


def test_what_fails_beside_is_one_request_s_affair(two_cores, monkeypatch):
    model = roomy()
    monkeypatch.setattr(model, "image_features", lambda pixels: 1 / 0)
    engine = engine_of(model)
    ear = Ear(engine)
    good, bad = engine.submit(asking(model, words(4, 1))), engine.submit(asking(model, picture(1), 4))
    ear.all()
    assert isinstance(ear.errors[bad], ZeroDivisionError)
    assert ear.answers[good, 0].ids == alone(model, asking(model, words(4, 1))).ids
    assert engine.counters().free == engine.config.slots


def test_who_goes_away_meanwhile_leaves_nothing(two_cores, monkeypatch):
    model = roomy()
    begun, go_on, _ = held_up(model, monkeypatch)
    engine = engine_of(model)
    gone = engine.submit(asking(model, picture(1), 4))
    engine.submit(asking(model, 3))
    engine.step()
    assert begun.wait(LONG)
    assert engine.cancel(gone)
    ear = Ear(engine).all()
    assert not ear.errors
    assert engine.counters().waiting_tiles == 0
    assert engine.counters().free == engine.config.slots
    go_on.set()
    again = engine.submit(asking(model, picture(1), 4))
    assert ear.all().answers[again, 0].ids == alone(roomy(), asking(model, picture(1), 4)).ids


def test_an_engine_with_nothing_else_to_do_waits_for_the_picture(two_cores):
    model = roomy()
    engine = engine_of(model, chunk=64)
    engine.submit(asking(model, picture(1), 4, sampling=SamplingConfig(max_new_tokens=1)))
    ear = Ear(engine).all()
    assert ear.steps == 2, "it does not turn on the spot"

"""Closed and open loops, in virtual time: who is asked when, and from when it is counted."""

import asyncio
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.bench.load import MOST_REQUESTS, Failed, Load, Said, arrivals, drive
from internvl.errors import UsageError
from tests.bench.virtual import in_virtual_time

EXACT = {"rel": 0, "abs": 1e-9}
"""Sums of the same numbers in another order; worst seen: 2e-14."""


def measured(load, ask):
    return in_virtual_time(drive(load, ask))


def taking(seconds, pieces=1):
    """A server that answers everybody at once."""

    async def ask(number, heard):
        for _ in range(pieces):
            await asyncio.sleep(seconds / pieces)
            heard()
        return Said(output_tokens=pieces)

    return ask


class OneAtATime:
    """A server with one hand, which takes `seconds` for an answer."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.hand = asyncio.Lock()

    async def __call__(self, number, heard):
        async with self.hand:
            await asyncio.sleep(self.seconds)
            heard()
        return Said()


def queued(planned, seconds):
    """When each is answered by a server with one hand, by the textbook (Lindley)."""
    free, waits = 0.0, []
    for at in planned:
        free = max(free, at) + seconds
        waits.append(free - at)
    return waits


# ---- closed ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(1, 40))
def test_a_closed_loop_keeps_so_many_on_their_way(requests, concurrency):
    under_way, most = 0, 0

    async def ask(number, heard):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1 + number % 3)
        under_way -= 1
        heard()
        return Said()

    run = measured(Load(requests=requests, concurrency=concurrency), ask)
    assert most == min(requests, concurrency)
    assert [outcome.number for outcome in run.outcomes] == list(range(requests))
    assert all(outcome.planned == outcome.sent for outcome in run.outcomes)


def test_a_closed_loop_asks_next_when_answered():
    run = measured(Load(requests=6, concurrency=2), taking(2.0))
    assert [outcome.planned for outcome in run.outcomes] == [0, 0, 2, 2, 4, 4]
    assert run.seconds == 6


# ---- open ------------------------------------------------------------------------------------------------------------


def test_arrivals_are_a_poisson_process_of_its_seed():
    times = arrivals(Load(requests=20_000, rate=4.0, seed=3))
    gaps = np.diff([0.0, *times])
    assert times == arrivals(Load(requests=20_000, rate=4.0, seed=3))
    assert times != arrivals(Load(requests=20_000, rate=4.0, seed=4))
    assert (gaps > 0).all()
    # The mean of n exponential gaps has a deviation of 1 / sqrt(n): 0.7 %; their deviation equals their mean.
    assert gaps.mean() == pytest.approx(1 / 4.0, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 4.0, rel=0.05)


@given(st.floats(0.1, 20), st.integers(1, 40))
def test_an_open_loop_asks_when_planned_whatever_the_server_does(rate, requests):
    load = Load(requests=requests, rate=rate, timeout=1e6)
    sent = []

    async def ask(number, heard):
        sent.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1000)
        heard()
        return Said()

    measured(load, ask)
    assert sent == pytest.approx(arrivals(load), **EXACT)


@given(st.floats(0.2, 5), st.floats(0.05, 3))
def test_who_waits_in_the_queue_waits_for_the_server(rate, seconds):
    load = Load(requests=25, rate=rate, timeout=1e6)
    run = measured(load, OneAtATime(seconds))
    expected = queued(arrivals(load), seconds)
    assert [outcome.first for outcome in run.outcomes] == pytest.approx(expected, rel=1e-9)
    if seconds * rate > 2:  # more arrive than can be answered: a closed loop of one would never show it
        assert max(expected) > 5 * seconds


def test_what_this_program_sends_late_is_counted_from_when_it_was_planned():
    load = Load(requests=10, rate=10.0)

    async def ask(number, heard):
        if number == 0:
            asyncio.get_running_loop().stall(5.0)
        heard()
        return Said()

    run = measured(load, ask)
    for outcome in run.outcomes[1:]:
        late = run.outcomes[0].ended - outcome.planned
        assert late > 3
        assert outcome.first == pytest.approx(late, **EXACT)
        assert outcome.sent - outcome.planned == pytest.approx(late, **EXACT)


# ---- one question ----------------------------------------------------------------------------------------------------


def test_times_of_an_answer():
    run = measured(Load(requests=1, concurrency=1), taking(8.0, pieces=4))
    [outcome] = run.outcomes
    assert (outcome.first, outcome.gaps, outcome.whole, outcome.per_token) == (2.0, [2.0] * 3, 8.0, 2.0)


@pytest.mark.parametrize("loop", [{"concurrency": 3}, {"rate": 5.0}])
def test_whoever_waits_too_long_is_cancelled_and_others_go_on(loop):
    cancelled = []

    async def ask(number, heard):
        heard()
        try:
            await asyncio.sleep(1.0 if number % 2 else 1e9)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        heard()
        return Said()

    run = measured(Load(requests=8, timeout=7.0, **loop), ask)
    assert sorted(cancelled) == [0, 2, 4, 6]
    for outcome in run.outcomes:
        assert outcome.state == ("answered" if outcome.number % 2 else "cancelled")
        assert outcome.whole == pytest.approx(1.0 if outcome.number % 2 else 7.0, **EXACT)
        assert outcome.first == pytest.approx(0.0, **EXACT)  # it came, though the end did not


def test_a_cancelled_question_without_a_token_has_waited_at_least_so_long():
    run = measured(Load(requests=2, concurrency=2, timeout=7.0), taking(1e9))
    assert [outcome.first for outcome in run.outcomes] == [7.0, 7.0]


def test_a_failure_is_kept_with_its_kind_and_stops_nobody():
    async def ask(number, heard):
        await asyncio.sleep(1)
        if number == 1:
            raise Failed("HTTP 500", "told to fail")
        if number not in (2, 4):
            heard()
        return Said(finish="stop" if number == 4 else None)

    run = measured(Load(requests=5, concurrency=1), ask)
    assert [(outcome.state, outcome.kind) for outcome in run.outcomes] == [
        ("answered", ""),
        ("failed", "HTTP 500"),
        ("failed", "empty answer"),
        ("answered", ""),
        ("empty", ""),
    ]
    assert run.outcomes[1].first is None
    assert run.outcomes[1].error == "told to fail"


def test_a_fault_of_this_program_is_not_a_figure():
    async def ask(number, heard):
        raise KeyError("a bug")

    with pytest.raises(ExceptionGroup, match="TaskGroup"):
        measured(Load(requests=1, concurrency=1), ask)


def test_progress_is_told():
    told = []
    in_virtual_time(drive(Load(requests=5, concurrency=2), taking(1.0), lambda *done: told.append(done)))
    assert told == [(number, 5) for number in range(1, 6)]


def test_arrivals_are_in_order():
    assert all(before < after for before, after in pairwise(arrivals(Load(requests=100, rate=1e4))))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"requests": 1}, "either --concurrency C .* or --rate R"),
        ({"requests": 1, "rate": 1.0, "concurrency": 1}, "either --concurrency C .* or --rate R"),
        ({"requests": 0, "rate": 1.0}, "0 requests: expected 1 to 100,000"),
        ({"requests": MOST_REQUESTS + 1, "rate": 1.0}, "expected 1 to 100,000"),
        ({"requests": 1, "concurrency": 0}, "concurrency 0: expected at least 1"),
        ({"requests": 1, "rate": 0.0}, "rate 0: expected a number above 0"),
        ({"requests": 1, "rate": float("nan")}, "rate nan: expected a number above 0"),
        ({"requests": 1, "rate": 1.0, "timeout": -1.0}, "timeout -1: expected a number above 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, says):
    with pytest.raises(UsageError, match=says):
        Load(**options)

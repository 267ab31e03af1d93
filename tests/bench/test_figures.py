"""Percentiles, goodput, counts and notes of runs that were made up."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.bench.figures import BOUNDED, MOST_KINDS, bounds_of, figures, kept, percentile, spread
from internvl.bench.load import Load, Measured, Outcome, Said
from internvl.bench.plots import HEIGHT, WIDTH, plots, ticks
from internvl.errors import UsageError


def outcome(number=0, pieces=(1.0, 2.0), state="answered", **other):
    fields = {"planned": 0.0, "sent": 0.0, "ended": max(pieces, default=9.0)} | other
    return Outcome(number=number, pieces=tuple(pieces), state=state, **fields)


def run_of(*outcomes, seconds=10.0, busy=0.0, **load):
    load = {"requests": len(outcomes), "concurrency": 1} | load
    if "rate" in load:
        del load["concurrency"]
    return Measured(load=Load(**load), outcomes=outcomes, seconds=seconds, busy=busy)


# ---- spreads ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_percentiles_are_those_of_numpy(values, share):
    # Worst seen: 2 units in the last place, numpy interpolates from the nearer end.
    assert percentile(sorted(values), share) == pytest.approx(np.percentile(values, 100 * share), rel=1e-12, abs=1e-9)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6))))
def test_a_spread_is_ordered_and_leaves_out_what_is_none(values):
    found = spread(values)
    there = [value for value in values if value is not None]
    assert found.count == len(there)
    if there:
        assert found.p50 <= found.p90 <= found.p99 <= found.largest == max(there)
        assert found.mean == pytest.approx(np.mean(there))


def test_failed_requests_are_in_no_time_and_cancelled_ones_are():
    failed = outcome(0, (), "failed", ended=0.001, kind="HTTP 500")
    cancelled = outcome(1, (), "cancelled", ended=60.0)
    found = figures(run_of(failed, cancelled, outcome(2)))
    assert found.spreads["ttft"].count == 2
    assert found.spreads["ttft"].largest == 60.0
    assert found.spreads["e2e"].count == 2
    assert found.spreads["itl"].count == 1
    assert any("1 cancelled after 120 s" in note for note in found.notes)


def test_pictures_are_told_apart():
    run = run_of(outcome(0, (1.0,)), outcome(1, (5.0,)), outcome(2, (1.0,)))
    found = figures(run, with_picture=[False, True, False]).spreads
    assert (found["ttft with a picture"].p50, found["ttft without"].p50) == (5.0, 1.0)
    assert "ttft without" not in figures(run, with_picture=[False] * 3).spreads


def test_an_open_loop_says_how_late_it_sent():
    run = run_of(outcome(0, planned=1.0, sent=1.5), outcome(1, planned=2.0, sent=2.25), rate=1.0)
    found = figures(run)
    assert found.spreads["sent late"].largest == 0.5
    assert any("sent late" in note for note in found.notes)
    assert found.offered_per_second == 1.0
    assert "sent late" not in figures(run_of(outcome())).spreads


# ---- counts ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["answered", "failed", "cancelled"]), min_size=1))
def test_no_request_is_dropped(states):
    run = run_of(*(outcome(number, state=state, kind=f"k{number % 3}") for number, state in enumerate(states)))
    found = figures(run, bounds={"ttft": 1.0})
    assert found.answered + found.failed + found.cancelled == found.requests == len(states)
    assert sum(error.count for error in found.errors) == found.failed
    assert found.goodput.kept <= found.answered
    json.dumps(found.as_json(), allow_nan=False)


def test_kinds_of_errors_are_bounded_and_ranked():
    kinds = [kind for number in range(30) for kind in [f"k{number:02}"] * (30 - number)]
    run = run_of(*(outcome(n, (), "failed", kind=kind, error=f"e{n}") for n, kind in enumerate(kinds)))
    errors = figures(run).errors
    assert [error.kind for error in errors] == [*(f"k{number:02}" for number in range(MOST_KINDS)), "other"]
    assert sum(error.count for error in errors) == len(kinds)
    assert errors[1].first == "e30"


def test_tokens_are_the_servers_or_else_pieces():
    told, untold = outcome(said=Said(output_tokens=7, prompt_tokens=20)), outcome(1)
    assert figures(run_of(told)).counted == "by the server"
    assert figures(run_of(told)).output_tokens_per_second == 0.7
    assert figures(run_of(told)).prompt_tokens_mean == 20
    assert figures(run_of(untold)).counted.startswith("as pieces of the stream")
    assert figures(run_of(told, untold)).output_tokens == 9
    assert figures(run_of(told, untold)).counted.startswith("by the server in 1 answers, in the others as pieces")
    assert any("3.5 tokens on average" in note for note in figures(run_of(told)).notes)
    assert told.per_token == pytest.approx(1 / 6)


def test_throughput_is_of_answered_requests():
    found = figures(run_of(outcome(), outcome(1), outcome(2, state="cancelled"), seconds=4.0))
    assert (found.answers_per_second, found.output_tokens) == (0.5, 4)


def test_a_program_that_measures_itself_says_so():
    assert any("may have measured itself" in note for note in figures(run_of(outcome(), busy=0.95)).notes)


# ---- goodput ---------------------------------------------------------------------------------------------------------

SLOW_GAP = outcome(pieces=(1.0, 1.1, 3.1, 3.2), ended=3.5)


@pytest.mark.parametrize(
    ("bounds", "good"),
    [
        ("ttft:1.0", True),
        ("ttft:0.99", False),
        ("itl:2.1", True),
        ("itl:1.9", False),
        ("tpot:0.75", True),
        ("tpot:0.7", False),
        ("e2e:3.5", True),
        ("e2e:3.4", False),
        ("ttft:1.0,e2e:3.4", False),
        (" ttft : 1.0 , itl:2.1,tpot:1,e2e:4", True),
    ],
)
def test_a_request_keeps_every_bound_or_is_not_good(bounds, good):
    assert kept(SLOW_GAP, bounds_of(bounds)) is good


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_who_got_no_answer_kept_no_bound(state):
    assert not kept(outcome(state=state), {"ttft": math.inf})


def test_goodput_is_of_all_that_were_asked():
    run = run_of(outcome(), outcome(1, (5.0,)), outcome(2, (), "failed"), outcome(3), seconds=2.0)
    good = figures(run, bounds={"ttft": 1.0}).goodput
    assert (good.kept, good.share, good.per_second) == (2, 0.5, 1.0)
    assert figures(run).goodput is None


@pytest.mark.parametrize("text", ["", "ttft", "ttft:", "ttft:x", "ttft:0", "ttft:nan", "speed:1", "ttft:1,ttft:2", ","])
def test_other_bounds_are_refused(text):
    with pytest.raises(UsageError, match="expected each of ttft, itl, tpot, e2e at most once"):
        bounds_of(text)


# ---- plots -----------------------------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(top):
    found = ticks(top, "{:.12g}".format, 100.0)
    assert 2 <= len(found) <= 6
    assert found[0] == (0.0, "0")
    assert all(0 <= place <= 100.001 for place, _ in found)
    for place, text in found:
        assert float(text) == pytest.approx(place / 100 * top, abs=0.001 * top)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100),
            st.lists(st.floats(0.001, 50), max_size=5),
            st.sampled_from(["answered", "failed", "cancelled"]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_happened_can_be_drawn_on_the_paper(made):
    outcomes = []
    for number, (planned, gaps, state) in enumerate(made):
        pieces = tuple(float(at) for at in planned + np.cumsum(gaps)) if gaps or state != "answered" else (planned,)
        ended = max(pieces, default=planned) + 0.5
        outcomes.append(outcome(number, pieces, state, planned=planned, sent=planned, ended=ended))
    run = run_of(*outcomes, seconds=max(one.ended for one in outcomes))
    drawn = plots(run, dict.fromkeys(BOUNDED, 1.0))
    assert drawn
    for plot in drawn:
        places = [tuple(map(float, pair.split(","))) for line in plot.lines for pair in line.points.split()]
        places += [place for dots in plot.dots for place in dots.places]
        assert places
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)


def test_curves_of_shares_rise_to_all():
    run = run_of(*(outcome(number, (float(number + 1),)) for number in range(1000)), seconds=1000.0)
    [curve] = next(plot for plot in plots(run, {}) if plot.title == "Time to first token").lines
    places = [tuple(map(float, pair.split(","))) for pair in curve.points.split()]
    assert places == sorted(places, key=lambda place: (place[0], -place[1]))
    assert places[-1][1] == 0.0

"""The ledger: what is counted, what is named, when a run stops, and that it goes on where it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl.data.ledger import GRACE, NAMED, REASONS, Ledger, merged, reason_of
from internvl.errors import DataError, MediaUnreadable


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("budget", "good", "allowed"), [
    (0.0, 0, 0), (0.01, 0, 10), (0.01, 5000, 50), (0.25, 10_000, 3333), (0.001, 0, 1),
])  # fmt: skip
def test_one_row_more_than_the_budget_stops(budget, good, allowed):
    ledger = Ledger(None, budget=budget, sources=["a"])
    for _ in range(good):
        ledger.accepted(0)
    for number in range(allowed):
        ledger.rejected(0, f"a:{number}", DataError("bad"))
    with pytest.raises(DataError, match=rf"^{allowed + 1} of {good + allowed + 1} rows read cannot be used"):
        ledger.rejected(0, "a:x", DataError("bad"))


@given(st.lists(st.booleans(), max_size=3000), st.floats(0, 1))
def test_it_stops_exactly_when_the_share_is_over(fates, budget):
    ledger, bad = Ledger(None, budget=budget, sources=["a"]), 0
    for at, good in enumerate(fates, start=1):
        if good:
            ledger.accepted(0)
            continue
        bad += 1
        if bad > budget * max(at, GRACE):
            with pytest.raises(DataError):
                ledger.rejected(0, f"a:{at}", DataError("bad"))
            return
        ledger.rejected(0, f"a:{at}", DataError("bad"))


def test_the_worst_reasons_and_the_file_are_named(tmp_path):
    path = tmp_path / "run" / "ledger.jsonl"
    ledger = Ledger(path, budget=0.004, sources=["a", "b"])
    for number in range(3):
        ledger.rejected(1, f"b.jsonl:{number}", MediaUnreadable(f"pics/{number}.jpg: there is no such file"))
    ledger.rejected(0, "a.jsonl:9", DataError("a.jsonl:9, id 'x': `label` is missing"))
    with pytest.raises(DataError) as error:
        ledger.rejected(1, "b.jsonl:3", MediaUnreadable("pics/3.jpg: there is no such file"))
    said = str(error.value)
    assert "4 x MediaUnreadable: FILE: there is no such file (b.jsonl:0); 1 x DataError: `label` is missing" in said
    assert str(path) in said
    assert "\n" not in said
    assert lines(path)[3] == {
        "source": "a", "row": "a.jsonl:9", "reason": "DataError: `label` is missing",
        "message": "a.jsonl:9, id 'x': `label` is missing",
    }  # fmt: skip


def test_over_long_rows_are_no_fault(tmp_path):
    ledger = Ledger(tmp_path / "l", budget=0.0, sources=["a"])
    ledger.overlong(0, "a:1", 9000, kept=False)
    ledger.overlong(0, "a:2", 8000, kept=True)
    ledger.accepted(0)
    assert ledger.counts() == {"a": {"accepted": 1, "rejected": 0, "overlong_kept": 1, "overlong_dropped": 1}}
    assert ledger.read == 2
    assert ledger.fates() == f"1 x over-long, dropped (a:1); rows are named in {tmp_path / 'l'}"
    assert "1 over-long and given fewer tiles, 1 over-long and dropped" in ledger.summary()
    assert [line["message"] for line in lines(tmp_path / "l")] == ["9000 tokens: dropped", "8000 tokens: fewer tiles"]


def test_rows_that_were_read_again_and_again_are_not_told_as_so_many_rows():
    ledger = Ledger(None, budget=1.0, sources=["few", "many"], sizes=[3, 5000])
    for _ in range(1842):
        ledger.accepted(0)
    ledger.accepted(1)
    assert ledger.summary().splitlines() == [
        "few: 3 rows, read 1,842 times in all, also for batches to come: 1,842 accepted, 0 unusable",
        "many: 5,000 rows, read once, also for batches to come: 1 accepted, 0 unusable",
    ]


def test_a_state_stays_what_it_was():
    ledger = Ledger(None, budget=1.0, sources=["a", "b"])
    ledger.rejected(0, "a:1", DataError("bad"))
    first = ledger.state()
    told = json.dumps(first)
    ledger.rejected(0, "a:2", DataError("bad"))
    ledger.overlong(1, "b:1", 9, kept=False)
    assert json.dumps(first) == told
    again = Ledger(None, budget=1.0, sources=["a", "b"])
    again.restore(first)
    again.rejected(0, "a:3", DataError("bad"))
    assert json.dumps(first) == told
    assert ledger.state()["counts"][0]["rejected"] == again.state()["counts"][0]["rejected"] == 2


def test_the_file_is_bounded_and_the_counts_are_not(tmp_path):
    ledger = Ledger(tmp_path / "l", budget=1.0, sources=["a"])
    for number in range(NAMED * 4):
        ledger.rejected(0, f"a:{number}", DataError(f"a:{number}: too short, {number} pixels"))
        ledger.rejected(0, f"a:{number}", DataError(f"a:{number}: too short, {number} pixels"))
    assert len(lines(tmp_path / "l")) == NAMED
    assert ledger.counts()["a"]["rejected"] == NAMED * 8
    for number in range(REASONS * 4):
        ledger.rejected(0, "a:1", DataError("x" * (number + 1)))
    state = ledger.state()
    assert len(state["reasons"][0]) == REASONS + 1
    assert sum(state["reasons"][0].values()) == NAMED * 8 + REASONS * 4


@pytest.mark.parametrize(("message", "reason"), [
    ("t.jsonl:7, id 'r9': turn 3 is from 'user'", "DataError: turn # is from '...'"),
    ("t.jsonl:7, id 12: `label` is missing", "DataError: `label` is missing"),
    ("t.jsonl:7 (chosen) has 2 <image> placeholder(s) but 1", "DataError: has # <image> placeholder(s) but #"),
    ("t.jsonl:7 is not JSON (line 1 column 2)", "DataError: is not JSON (line # column #)"),
    ("s3://bucket/a b/1.jpg: damaged", "DataError: FILE FILE: damaged"),
    ("/data/x/7.png: it is empty", "DataError: FILE: it is empty"),
])  # fmt: skip
def test_equal_faults_have_equal_reasons(message, reason):
    assert reason_of(DataError(message), "t.jsonl:7") == reason


events = st.lists(st.tuples(st.integers(0, 1), st.sampled_from("arkd"), st.integers(0, 40)), max_size=60)


def happen(ledger, things):
    for source, what, row in things:
        if what == "a":
            ledger.accepted(source)
        elif what == "r":
            ledger.rejected(source, f"s{source}:{row}", DataError(f"s{source}:{row} is bad in way {'xyz'[row % 3]}"))
        else:
            ledger.overlong(source, f"s{source}:{row}", row, kept=what == "k")


@given(events, events, events)
def test_resumed_equals_uninterrupted(tmp_path_factory, first, lost, second):
    folder = tmp_path_factory.mktemp("ledger")
    whole, broken = (Ledger(folder / name, budget=1.0, sources=["a", "b"]) for name in "wb")
    happen(whole, first)
    happen(whole, second)
    happen(broken, first)
    state = json.loads(json.dumps(broken.state()))
    happen(broken, lost)  # after the checkpoint, before the crash
    again = Ledger(folder / "b", budget=1.0, sources=["a", "b"])
    again.restore(state)
    happen(again, second)
    assert again.state() == whole.state()
    assert again.summary() == whole.summary()
    written = [(folder / name).read_bytes() if (folder / name).exists() else b"" for name in "wb"]
    assert written[0] == written[1]


@given(events, events)
def test_merged_counts_are_the_sum(one, other):
    ledgers = [Ledger(None, budget=1.0, sources=["a", "b"]) for _ in range(3)]
    for ledger, things in zip(ledgers, (one, other, one + other), strict=True):
        happen(ledger, things)
    total = Ledger(None, budget=1.0, sources=["a", "b"])
    total.restore(merged([ledger.state() for ledger in ledgers[:2]]))
    assert total.counts() == ledgers[2].counts()
    assert total.state()["reasons"] == ledgers[2].state()["reasons"]
    named, together = (ledger.state()["named"] for ledger in (total, ledgers[2]))
    assert [{reason: set(rows) for reason, rows in of.items()} for of in named] == [
        {reason: set(rows) for reason, rows in of.items()} for of in together
    ]


def test_going_on_with_another_number_of_ranks_keeps_what_was_written(tmp_path):
    one = Ledger(tmp_path / "0", budget=1.0, sources=["a"])
    one.rejected(0, "a:0", DataError("bad"))
    one.restore(merged([one.state(), one.state()]))
    one.rejected(0, "a:9", DataError("bad"))
    assert [line["row"] for line in lines(tmp_path / "0")] == ["a:0", "a:9"]
    assert one.counts()["a"]["rejected"] == 3


def test_another_data_set_is_refused():
    ledger = Ledger(None, budget=1.0, sources=["a"])
    with pytest.raises(DataError, match=r"of the sources a, but the data has b"):
        Ledger(None, budget=1.0, sources=["b"]).restore(ledger.state())


def test_a_new_run_writes_a_new_file(tmp_path):
    (tmp_path / "l").write_text("from an older run\n")
    Ledger(tmp_path / "l", budget=1.0, sources=["a"]).rejected(0, "a:1", DataError("a:1 is bad"))
    assert [line["row"] for line in lines(tmp_path / "l")] == ["a:1"]

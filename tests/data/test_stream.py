"""The batches of ranks: each sample once, the same whatever the workers, and going on as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from internvl.data import mixture as mixture_module
from internvl.data.batch import PreparedChat, Segment
from internvl.data.encode import NOT_LEARNT, Encoder, EncoderConfig
from internvl.data.ledger import Ledger
from internvl.data.mixture import Mixture, Source
from internvl.data.packing import LengthGroups, Packer, Plain, collate_chat
from internvl.data.prepare import PrepareChat
from internvl.data.stream import Stream
from internvl.data.tokenizer import Tokenizer
from internvl.errors import ConfigError, ContextOverflow, DataError, MissingExtra, TrainingError
from tests.conftest import golden

COLLATE = partial(collate_chat, packed=True)


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


class Counted:
    """Rows of which only the number matters."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": "a.jpg", "label": index}

    def origin(self, index):
        return f"counted:{index + 1}"


def counted(size, *, seed=0):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture_module, "open_rows", lambda address: Counted(int(address)))
        return Mixture([Source(annotation=str(size), name="counted", kind="label")], seed=seed)


def sized(record, source, position, *, index, seed):
    """A sample whose size is drawn from its position; some rows are bad, some too long."""
    draw = np.random.default_rng([seed, position])
    fate = draw.random()
    if fate < 0.05:
        raise DataError(f"{record.id}: no good")
    if fate < 0.1:
        error = ContextOverflow(f"{record.id}: too long")
        error.tokens = 99
        raise error
    tokens, tiles = int(draw.integers(2, 24)), int(draw.integers(0, 4))
    ids = draw.integers(0, 100, tokens)
    return PreparedChat(position, index, (Segment(ids, ids),), draw.integers(0, 256, (tiles, 2, 2, 3)).astype(np.uint8))


FORMERS = {
    "packs": lambda: Packer(48, 6, 3),
    "one open": lambda: Packer(30, 4, 1),
    "groups": lambda: LengthGroups(2, 3),
    "plain": lambda: Plain(3),
}


def stream(mixture=None, *, former="packs", prepare=sized, budget=1.0, **options):
    mixture = mixture or counted(60)
    ledger = Ledger(None, budget=budget, sources=[source.name for source in mixture.sources])
    return Stream(mixture, prepare, FORMERS[former](), COLLATE, ledger, **options)


def same(one, other):
    return (
        one.positions == other.positions
        and one.lengths == other.lengths
        and all(
            torch.equal(getattr(one, name), getattr(other, name))
            for name in ("input_ids", "targets", "weights", "tiles")
        )
    )


def all_same(ours, theirs):
    return len(ours) == len(theirs) and all(map(same, ours, theirs))


def usable(positions, *, seed=0):
    return [at for at in positions if np.random.default_rng([seed, at]).random() >= 0.1]


def through_json(state):
    return json.loads(json.dumps(state))


# ---- the order -------------------------------------------------------------------------------------------------------


@given(
    world=st.integers(1, 5),
    end=st.integers(0, 90),
    former=st.sampled_from(sorted(FORMERS)),
)
@settings(max_examples=40)
def test_every_sample_of_the_order_is_in_one_batch_of_one_rank(world, end, former):
    ranks = [list(stream(former=former, rank=rank, world=world, end=end)) for rank in range(world)]
    seen = sorted(at for batches in ranks for batch in batches for at in batch.positions)
    assert seen == usable(range(end))
    for rank, batches in enumerate(ranks):
        assert all(at % world == rank for batch in batches for at in batch.positions)


def test_what_became_of_rows_is_counted_once():
    one = stream(end=60)
    list(one)
    counts = one.ledger.counts()["counted"]
    assert counts["accepted"] == len(usable(range(60)))
    assert counts["accepted"] + counts["rejected"] + counts["overlong_dropped"] == 60
    assert counts["rejected"]
    assert counts["overlong_dropped"]


def test_without_an_end_it_goes_on_epoch_after_epoch():
    mixture = counted(10)
    batches = list(islice(stream(mixture, former="plain"), 20))
    assert [at for batch in batches for at in batch.positions] == usable(range(200))[:60]


def test_a_sample_that_fits_into_no_pack_is_counted_and_passed_over():
    one = Stream(counted(60), sized, Packer(10, 6), COLLATE, Ledger(None, budget=1, sources=["counted"]), end=60)
    seen = [at for batch in one for at in batch.positions]
    counts = one.ledger.counts()["counted"]
    assert counts["accepted"] == len(seen) < 40
    assert counts["accepted"] + counts["overlong_dropped"] + counts["rejected"] == 60


def hopeless(record, source, position, *, index, seed):
    error = ContextOverflow(f"{record.id}: 9000 tokens")
    error.tokens = 9000
    if position % 2 and position < 120:
        raise error
    raise DataError(f"{record.id}: no good")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_endless_order_that_comes_to_nothing_is_an_error_after_one_epoch(quick, workers):
    said = r"not one row of a whole epoch can be used: of 60 rows read 30 x over-long, dropped \(counted:\d+\); "
    with pytest.raises(DataError, match=said + r"30 x DataError: no good \(counted:\d+\); .*max_length"):
        next(iter(stream(prepare=hopeless, workers=workers)))


def rarely(record, source, position, *, index, seed):
    if record.label != 7:
        raise ContextOverflow("too long")
    return sized(
        record, source, position, index=index, seed=next(at for at in range(99) if usable([position], seed=at))
    )


@given(rows=st.integers(8, 40), seed=st.integers(0, 5))
@settings(max_examples=20)
def test_one_row_of_an_epoch_is_enough_to_go_on(rows, seed):
    """It may be the first of one epoch and the last of the next, and other ranks may have it for a while."""
    for world in (1, 3):
        batches = [next(iter(stream(counted(rows, seed=seed), prepare=rarely, former="plain", rank=0, world=world)))]
        assert all(len(batch.positions) == 3 for batch in batches)


def test_one_of_several_ranks_judges_by_many_rows():
    with pytest.raises(DataError, match=r"of 1000 rows read"):
        next(iter(stream(prepare=hopeless, rank=1, world=4)))


def test_what_went_before_does_not_hide_a_drought():
    """After a sample, and after going on elsewhere, an epoch without any is again an error."""

    def dries_up(record, source, position, *, index, seed):
        return (sized if position < 30 else hopeless)(record, source, position, index=index, seed=seed)

    one = stream(prepare=dries_up, former="plain")
    seen = []
    with pytest.raises(DataError, match=r"of 120 rows read"):
        seen.extend(one)
    assert len(seen) == len(usable(range(30))) // 3
    again = stream(prepare=dries_up, former="plain")
    again.resume([one.state()])
    with pytest.raises(DataError, match=r"of 120 rows read"):
        list(again)


# ---- going on --------------------------------------------------------------------------------------------------------


@given(
    world=st.integers(1, 4),
    former=st.sampled_from(sorted(FORMERS)),
    stops=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    end=st.integers(1, 120),
)
@settings(max_examples=40)
def test_resumed_on_as_many_ranks_the_batches_are_the_same_to_the_bit(world, former, stops, end):
    options = {"former": former, "world": world, "end": end}
    uninterrupted = [list(stream(rank=rank, **options)) for rank in range(world)]
    states, pieces = None, [[] for _ in range(world)]
    for stop in [*stops, None]:
        streams = [stream(rank=rank, **options) for rank in range(world)]
        for rank, one in enumerate(streams):
            if states is not None:
                one.resume(states)
            pieces[rank] += islice(one, stop)
        states = through_json([one.state() for one in streams])
    assert all(all_same(ours, theirs) for ours, theirs in zip(pieces, uninterrupted, strict=True))
    counts = [state["ledger"]["counts"] for state in states]
    whole = [stream(rank=rank, **options) for rank in range(world)]
    for one in whole:
        list(one)
    assert counts == [one.ledger.state()["counts"] for one in whole]


@given(
    worlds=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    former=st.sampled_from(sorted(FORMERS)),
    data=st.data(),
    end=st.integers(1, 150),
)
@settings(max_examples=60)
def test_resumed_on_other_ranks_every_sample_comes_once(worlds, former, data, end):
    """Ranks may have made different numbers of batches, and the run may be interrupted again and again."""
    seen, states, left = [], None, list(worlds)
    while left:
        world = left.pop(0)
        streams = [stream(former=former, rank=rank, world=world, end=end) for rank in range(world)]
        for one in streams:
            if states is not None:
                one.resume(states)
            stop = data.draw(st.integers(0, 4)) if left else None
            seen += [at for batch in islice(one, stop) for at in batch.positions]
        states = through_json([one.state() for one in streams])
    assert sorted(seen) == usable(range(end))
    whole = stream(former=former, end=end)
    list(whole)
    for fate, count in whole.ledger.counts()["counted"].items():
        assert sum(state["ledger"]["counts"][0].get(fate, 0) for state in states) == count


def test_a_stream_that_was_left_goes_on_where_it_was():
    """Breaking off and iterating again is a resume: what was made ahead is made again."""
    one, other = stream(end=80), list(stream(end=80))
    first = list(islice(one, 3))
    assert all_same([*first, *one], other)


def test_the_state_is_small_and_says_how_far_it_is():
    one = stream(counted(10_000), world=2)
    assert one.reached == 0
    list(islice(one, 40))
    state = one.state()
    assert len(json.dumps(state)) < 6000  # of it 2000 for the rows that the ledger names; it does not grow
    assert one.reached == 2 * state["taken"] > 40


def test_states_of_batches_share_what_has_not_changed():
    """One is taken for each batch, whose rows the ledger may have named by the thousand."""
    one = stream(end=60, former="plain")
    states = [one.state()["ledger"] for _ in one]
    for part in ("counts", "reasons", "named"):
        for before, after in pairwise(states):
            assert (before[part][0] == after[part][0]) == (before[part][0] is after[part][0])
    assert states[0]["named"][0] != states[-1]["named"][0]
    assert any(before["named"][0] is after["named"][0] for before, after in pairwise(states))


def test_a_run_that_has_read_much_goes_on_with_other_ranks_at_once():
    """What every rank has read is not gone through again: here it would take hours."""
    states = [stream(world=2, rank=rank).state() | {"taken": 10**12 + 3 * rank} for rank in range(2)]
    one = stream()
    one.resume(states)
    assert one.state()["left"] == [2 * 10**12 + 2 * skipped for skipped in range(3)]
    assert one.state()["start"] == 2 * (10**12 + 3)


def test_other_data_and_missing_ranks_are_refused():
    state = stream().state()
    for other in (counted(61), counted(60, seed=1)):
        with pytest.raises(TrainingError, match="made with other data, or in another order"):
            stream(other).resume([state])
    with pytest.raises(TrainingError, match=r"ranks \[0\]; expected every rank once"):
        stream().resume([stream(world=2).state()])
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        stream(rank=2, world=2)
    with pytest.raises(ConfigError, match="-1 workers"):
        stream(workers=-1)


def test_a_waiting_sample_that_is_gone_is_an_error():
    one = stream()
    list(islice(one, 2))
    state = one.state()
    assert state["held"]

    def gone(record, source, position, *, index, seed):
        raise DataError("there is no such file")

    other = stream(prepare=gone)
    other.resume([state])
    with pytest.raises(TrainingError, match="was a sample when the checkpoint was made and is none now"):
        next(iter(other))


# ---- workers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """A dead process is looked for every tenth of a second."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))


def test_batches_do_not_depend_on_workers(quick, golden_stream):
    alone, states = [], []
    one = golden_stream()
    for batch in one:
        alone.append(batch)
        states.append(one.state())
    assert sum(len(batch.tiles) for batch in alone) > 10
    for workers in (1, 2):
        two = golden_stream(workers=workers)
        found = []
        for batch in two:
            found.append(batch)
            time.sleep(0.01)  # so that the workers are ahead
            assert two.state() == states[len(found) - 1]
        assert all_same(found, alone)
        assert two.waited > 0


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 2)])
def test_resumed_with_workers_the_batches_are_the_same_to_the_bit(quick, golden_stream, before, after):
    whole = list(golden_stream())
    one = golden_stream(workers=before)
    found = list(islice(one, 2))
    other = golden_stream(workers=after)
    other.resume(through_json([one.state()]))
    assert all_same([*found, *other], whole)


@pytest.mark.slow
def test_workers_may_be_spawned(golden_stream):
    assert all_same(list(golden_stream(workers=1, start_method="spawn")), list(golden_stream()))


def test_random_numbers_of_training_are_not_used_up():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(stream(end=10, workers=1))
    assert torch.equal(torch.rand(1), expected)


def dies(record, source, position, *, index, seed):
    if position == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return sized(record, source, position, index=index, seed=3)


def test_a_worker_that_dies_is_one_line(quick):
    with pytest.raises(TrainingError, match=r"a process that prepares samples has died.*lower data\.workers") as caught:
        list(stream(prepare=dies, workers=2, end=40))
    assert "\n" not in str(caught.value)


def hangs(record, source, position, *, index, seed):
    if position == 5:
        time.sleep(1.5)
    return sized(record, source, position, index=index, seed=3)


def test_a_worker_that_hangs_is_one_line(quick):
    with pytest.raises(TrainingError, match=r"no sample was ready within 0\.4 s"):
        list(stream(prepare=hangs, workers=1, end=40, patience=0.4))


def slow(record, source, position, *, index, seed):
    time.sleep(0.06)
    return sized(record, source, position, index=index, seed=3)


def test_a_batch_of_many_slow_samples_is_waited_for(quick):
    """Patience is for a sample: twenty of them take longer here, and all is well."""
    one = stream(prepare=slow, workers=1, end=40, former="groups", patience=0.6)
    one.former = Plain(20)
    assert [len(batch.positions) for batch in one] == [20, len(usable(range(40), seed=3)) - 20]


def faulty(record, source, position, *, index, seed):
    if position == 5:
        raise KeyError("a fault of this package")
    return sized(record, source, position, index=index, seed=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_program_is_none_of_a_row(quick, workers):
    with pytest.raises(KeyError, match="a fault of this package"):
        list(stream(prepare=faulty, workers=workers, end=40))


def poor(record, source, position, *, index, seed):
    raise MissingExtra("s3: addresses need fsspec")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_the_whole_run_ends_it_at_once(quick, workers):
    with pytest.raises(MissingExtra, match="addresses need fsspec"):
        list(stream(prepare=poor, workers=workers, end=40))


MAIN = """
import os, signal, sys, time
import torch.utils.data
from internvl.data.workers import Outcome, outcomes

torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))

def task(position):
    time.sleep(1000 if position >= 60 else 0.02)
    return Outcome(position, 0, str(os.getpid()), None)

found = outcomes(task, range(100), 2, None)
for number in range(60):
    print(next(found).origin, len(heard), flush=True)
if sys.argv[1] == "close":
    found.close()
print("done", flush=True)
time.sleep(1000)
"""


def started(how):
    """A main process with two workers in a group of its own, as torchrun starts it; and what it says."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, how], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def lives(worker):
    try:
        return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_gone(workers):
    for _ in range(300):
        if not any(map(lives, workers)):
            return True
        time.sleep(0.1)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")


@needs_proc
def test_signals_to_all_processes_are_the_main_ones_matter_and_workers_end_with_it():
    """Ctrl-C and torchrun's SIGTERM reach the whole group: the run saves, and its workers must live until then."""
    with started("stay") as main:
        try:
            workers, signalled = set(), []
            for number, line in enumerate(main.stdout):
                if line == "done\n":
                    break
                worker, heard = line.split()
                workers.add(int(worker))
                signalled.append(int(heard))
                if number == 10:
                    os.killpg(main.pid, signal.SIGTERM)
                    for one in workers:  # as a scheduler does that sends it to each
                        os.kill(one, signal.SIGTERM)
            assert len(workers) == 2  # none was replaced, and each went on
            assert len(signalled) == 60
            assert max(signalled) > 0
            assert all(map(lives, workers))
        finally:
            main.kill()
        assert all_gone(workers)  # though each is in the middle of a long sample


@needs_proc
def test_workers_that_hang_are_ended_with_their_loader():
    with started("close") as main:
        try:
            said = list(iter(main.stdout.readline, "done\n"))
            assert len(said) == 60
            assert all_gone({int(line.split()[0]) for line in said})
            assert main.poll() is None
        finally:
            main.kill()


# ---- real rows -------------------------------------------------------------------------------------------------------

TILE, SLOTS = 56, 2


def encoder():
    config = EncoderConfig(template="internvl2_5", tile_size=TILE, slots_per_tile=SLOTS, max_tiles=6)
    return Encoder(Tokenizer.from_folder(golden("tokenizers/qwen2-bbpe")), config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve pictures, and rows that speak of them, of nothing, and of several."""
    folder = tmp_path_factory.mktemp("rows")
    for at in range(12):
        Pillow.effect_noise((60 + 30 * at, 200), 40 + at).convert("RGB").save(folder / f"{at}.png")
    rows = []
    for at in range(30):
        media = {"image": f"{at % 12}.png"} if at % 3 == 0 else {"image": ["1.png", "2.png"]} if at % 7 == 0 else {}
        question = "<image>\n" * (2 if isinstance(media.get("image"), list) else bool(media)) + "What is it? " * (
            at % 4
        )
        rows.append(said(f"{question}Tell.", "It is noise. " * (1 + at % 5), id=at, **media))
    write(folder / "rows.jsonl", rows)
    return folder


def said(question, answer, **more):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **more}


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


@pytest.fixture
def golden_stream(folder):
    """A stream of real rows, with pictures written as JPEG at random."""

    def make(**options):
        source = Source(annotation=str(folder / "rows.jsonl"), name="rows", root=str(folder), augment=True)
        return Stream(
            Mixture([source], seed=1),
            PrepareChat(encoder(), max_length=300),
            Packer(320, 9, 3),
            COLLATE,
            Ledger(None, budget=0, sources=["rows"]),
            end=45,
            seed=7,
            **options,
        )

    return make


BAD = {
    "broken": (said("<image>\nHi", "Ho", image="broken.png"), "MediaUnreadable"),
    "missing": (said("<image>\nHi", "Ho", image="nowhere.png"), "MediaUnreadable: FILE: there is no such file"),
    "placeholders": (said("<image><image>\nHi", "Ho", image="1.png"), "DataError.*<image> placeholder"),
    "no json": ("{", "DataError.*is not JSON"),
    "long": (said("Hi", "Ho " * 300), "over-long"),
    "masked": ({"conversations": [{"from": "human", "value": "Hi"}]}, "DataError: nothing in it would be learnt"),
}


@pytest.mark.parametrize("workers", [0, 2])
def test_each_bad_row_is_in_the_ledger_under_its_reason(quick, folder, tmp_path, workers):
    (tmp_path / "broken.png").write_bytes((folder / "1.png").read_bytes()[:300])
    (tmp_path / "1.png").symlink_to(folder / "1.png")
    good = [said("<image>\nHi", "Ho", image="1.png"), said("Hi", "Ho")]
    lines = [json.dumps(row) if isinstance(row, dict) else row for row in [*good, *(row for row, _ in BAD.values())]]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines) + "\n")
    source = Source(annotation=str(tmp_path / "bad.jsonl"), name="bad", root=str(tmp_path))
    ledger = Ledger(tmp_path / "ledger.jsonl", budget=1, sources=["bad"])
    mixture = Mixture([source])
    prepare = PrepareChat(encoder(), max_length=200)
    one = Stream(mixture, prepare, Packer(400, 9), COLLATE, ledger, end=len(mixture), workers=workers)
    [batch] = list(one)
    assert batch.samples == 2
    assert ledger.counts()["bad"] == {"accepted": 2, "rejected": 5, "overlong_kept": 0, "overlong_dropped": 1}
    told = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    for at, (name, (_, reason)) in enumerate(BAD.items(), start=3):
        [found] = [entry for entry in told if entry["row"].endswith(f"bad.jsonl:{at}")]
        assert re.search(reason, found["reason"]), name


def test_fewer_tiles_are_counted(folder):
    source = Source(annotation=str(folder / "rows.jsonl"), name="rows", root=str(folder))
    ledger = Ledger(None, budget=0, sources=["rows"])
    mixture = Mixture([source])
    prepare = PrepareChat(encoder(), max_length=110, overlong="fewer_tiles")
    batches = list(Stream(mixture, prepare, Plain(4), COLLATE, ledger, end=len(mixture)))
    counts = ledger.counts()["rows"]
    assert counts["overlong_kept"] > 0
    assert sum(batch.samples for batch in batches) == counts["accepted"] == 30 - counts["overlong_dropped"]
    assert all(length <= 110 for batch in batches for length in batch.lengths)


def test_past_the_budget_the_run_stops():
    with pytest.raises(DataError, match=r"rows read cannot be used, more than the budget of 0\.001"):
        list(stream(budget=0.001, end=200))


def test_nothing_learnt_stays_nothing_learnt():
    """What is not learnt has no weight, whatever it is packed with."""
    for batch in stream(end=60):
        assert torch.equal(batch.weights > 0, (batch.targets != NOT_LEARNT) & not_first(batch.lengths))


def not_first(lengths):
    mask = torch.ones(1, sum(lengths), dtype=torch.bool)
    mask[0, np.cumsum([0, *lengths[:-1]])] = False
    return mask

"""The pool of readers: what one of them suffers is one request's, and nothing is left over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from internvl.data.prompts import Text
from internvl.errors import InternVLError
from internvl.serving import child, readers
from internvl.serving.native import CONTEXT, readers_config
from internvl.serving.order import Order, Reference
from internvl.serving.reader import Bounds
from internvl.serving.readers import SERVICE, Readers, ReadersConfig
from internvl.serving.refusal import Refusal
from internvl.serving.settings import Settings
from internvl.serving.wire import Memory, Prompt, WireError
from tests.serving.pool import TILE, Pool, data, nano, order, png, pool

PLANTED = (str(Path(__file__).with_name("planted_reader.py")),)
HI = order()


def fault(name: str) -> str:
    return f"data:image/png,{name}"


@contextmanager
def planted(count: int = 1, **changes) -> Iterator[Pool]:
    """Readers in which faults are planted; each has a reader's bounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "COMMAND", PLANTED)
        with pool(count, **changes) as running:
            yield running


@pytest.fixture(scope="module")
def sound() -> Iterator[Pool]:
    with pool() as running:
        yield running


@pytest.fixture(scope="module")
def faulty() -> Iterator[Pool]:
    with planted(bounds=Bounds(memory=1 << 30, seconds=2)) as running:
        yield running


def media_reader(running: Pool) -> int:
    return running.readers._media._free[0].pid


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_the_real_thing():
    """Another process says what nano is, and readers start with that."""
    running = Pool(ReadersConfig(embedder="nano-c", context=100))
    pids = list(running.readers.pids)
    try:
        prompt = running.read(order(data(png()))).prompt
        assert prompt.shape[1] == 112  # nano's own
        assert prompt.image_tokens == 16
        looked, memory = running.run(running.readers.look([Reference("image", data(png(40, 30)))]))
        assert memory is not None
        assert memory.array(looked.shape).shape == (1, looked.shape[1], looked.shape[1], 3)
        memory.close()
        assert running.refusal(Text("word " * 200)).code == "context_length_exceeded"
        assert len(pids) == 2
    finally:
        running.close()
    assert all(map(gone, pids))


def test_a_model_that_is_not_there():
    async def started() -> None:
        await Readers(ReadersConfig(source="no-such-model-anywhere")).start()

    with pytest.raises(InternVLError, match="no-such-model-anywhere"):
        asyncio.run(started())


def test_prompts_and_counts(sound):
    got = sound.read(order(data(png(60, 30)), data(png(30, 60, seed=1))))
    assert got.tiles.shape == (sum(got.prompt.tiles), TILE, TILE, 3)
    assert got.prompt.sizes == [[60, 30], [30, 60]]
    counted = sound.read(order(data(png(60, 30)), data(png(30, 60, seed=1))), tiles=False)
    assert (counted.prompt.ids, counted.prompt.tiles) == (got.prompt.ids, got.prompt.tiles)
    assert not len(counted.tiles)
    assert not counted.prompt.digests
    assert sound.read(Order(model="", prompts=("Once upon a time",))).prompt.ids


def test_faults_of_an_order_are_the_clients(sound):
    assert sound.refusal(data(b"no picture")).status == 422
    assert sound.refusal("https://a.example/b.png").status == 400
    with pytest.raises(Refusal) as caught:
        sound.read(order(data(png()), max_tiles=5000))
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")
    with pytest.raises(Refusal) as caught:
        sound.read(order(Text("word " * 9000)))
    assert caught.value.code == "context_length_exceeded"
    assert sound.works()


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_decoder_that_falls_over_is_one_requests_own(faulty):
    before = faulty.readers.replaced
    refusal = faulty.refusal(fault("crash"))
    assert (refusal.status, refusal.code) == (422, "media_unreadable")
    assert "within the limits" in refusal.message
    assert faulty.works()
    assert faulty.readers.replaced == before + 1


def test_a_decoder_that_eats_memory_is_stopped(faulty):
    refusal = faulty.refusal(fault("hog"))
    assert refusal.status == 422
    assert "memory" in refusal.message
    assert faulty.works()


def test_the_system_ends_a_decoder_that_runs_for_ever(faulty):
    """The bound on CPU time holds even where nobody looks at a clock: the pool's own is a minute away."""
    refusal = faulty.refusal(fault("loop"))
    assert "within the limits" in refusal.message
    assert faulty.works()


def test_the_words_of_a_fault_stay_inside(faulty, caplog):
    refusal = faulty.refusal(fault("words"))
    assert (refusal.status, refusal.message) == (422, "picture 1: it is damaged; send another copy")
    assert not any(word in refusal.message for word in ("0x", "secret", "user"))
    wait_for(lambda: "RuntimeError in planted_reader.py, line" in caplog.text)
    assert not any(word in caplog.text for word in ("0x", "secret", "user"))


@pytest.mark.parametrize("words", ["lie", "babble"])
def test_a_reader_that_says_what_does_not_fit_is_not_believed(faulty, words):
    before = faulty.readers.replaced
    assert faulty.refusal(data(png()), Text(words)).status == 422
    assert faulty.works()
    assert faulty.readers.replaced == before + 1


def test_what_a_reader_has(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with planted(bounds=Bounds(memory=1 << 30, seconds=7, files=40)) as running:
        told = json.loads(running.refusal(fault("tell")).message.removeprefix("picture 1: "))
    assert not {"HF_TOKEN", "OPENAI_API_KEY", "HOME"} & set(told["environment"])
    assert told["torch"] is False
    assert told["file"] != "written"
    limits = told["limits"]
    assert limits["AS"] == [1 << 30, 1 << 30]
    assert limits["NOFILE"] == [40, 40]
    assert limits["CORE"] == [0, 0]
    assert limits["FSIZE"][0] == 0
    assert 7 <= limits["CPU"][0] < 7 + 60


def test_a_reader_that_hangs_is_killed_and_others_go_on():
    with pool(2, seconds=8) as running:
        hung = media_reader(running)
        os.kill(hung, signal.SIGSTOP)
        waiting = running.later(running.readers.read(order(data(png()))))
        assert running.works()  # the other reader
        assert running.read(HI).prompt.ids  # and the one that has no pictures to wait for
        with pytest.raises(Refusal) as caught:
            waiting.result(60)
        assert (caught.value.status, caught.value.code) == (422, "media_unreadable")
        assert "within 8 s" in caught.value.message
        wait_for(lambda: gone(hung))
        wait_for(lambda: len(running.readers._media._free) == 2)
        assert running.works()


def test_a_reader_that_dies_unasked_costs_nobody_anything():
    with pool() as running:
        for _ in range(3):
            pid = media_reader(running)
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: gone(pid) or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3])
            assert running.works()
            wait_for(lambda: running.readers._media._free)


def test_interrupts_are_not_for_readers(sound):
    for pid in sound.readers.pids:
        os.kill(pid, signal.SIGINT)
    assert sound.works()
    assert sound.read(HI).prompt.ids


def test_a_full_queue_says_so():
    with pool(waiting=1, seconds=60) as running:
        pid = media_reader(running)
        os.kill(pid, signal.SIGSTOP)
        sent = [running.later(running.readers.read(order(data(png())))) for _ in range(2)]
        wait_for(lambda: running.readers.waiting == 1)
        refusal = running.refusal(data(png()))
        assert (refusal.status, refusal.code) == (429, "queue_full")
        assert int(refusal.headers()["Retry-After"]) > 0
        assert running.read(HI).prompt.ids  # texts have a queue of their own
        os.kill(pid, signal.SIGCONT)
        for one in sent:
            memory = one.result(60)[1]
            memory.close()
        assert running.works()


def test_who_goes_away_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(readers, "ABANDONED", 0.5)
    with pool() as running:
        assert running.works()
        before = len(os.listdir("/proc/self/fd"))
        for delay in (0, 0.001, 0.01, 0.05) * 5:
            sent = running.later(running.readers.read(order(data(png(300, 300)))))
            time.sleep(delay)
            if not sent.cancel():  # it was answered before its client went away
                sent.result()[1].close()
        assert running.works()
        wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before)
        hung = media_reader(running)
        os.kill(hung, signal.SIGSTOP)
        sent = running.later(running.readers.read(order(data(png()))))
        wait_for(lambda: not running.readers._media._free)
        sent.cancel()
        wait_for(lambda: gone(hung))
        assert running.works()


def test_stopping_refuses_who_waits():
    with pool() as running:
        os.kill(media_reader(running), signal.SIGSTOP)
        sent = [running.later(running.readers.read(order(data(png())))) for _ in range(2)]
        wait_for(lambda: running.readers.waiting == 1)
        pids = running.readers.pids
        running.run(running.readers.stop())
        for one in sent:
            with pytest.raises(Refusal) as caught:
                one.result(60)
            assert caught.value.status == 503
        assert all(map(gone, pids))
        with pytest.raises(Refusal) as caught:
            running.read(HI)
        assert caught.value.status == 503


def test_a_reader_that_cannot_be_started_is_tried_again(monkeypatch):
    monkeypatch.setattr(readers, "PAUSE", 0.1)
    with pool() as running:
        whole = child.Reader.open
        attempts = []

        def fails_once(self, opening):
            attempts.append(self)
            if len(attempts) == 1:
                raise WireError("planted")
            whole(self, opening)

        monkeypatch.setattr(child.Reader, "open", fails_once)
        os.kill(media_reader(running), signal.SIGKILL)
        time.sleep(0.1)
        assert running.works() or running.works()
        assert len(attempts) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"tiles": (2,)},
        {"digests": ()},
        {"shape": (2, 4, 4, 3)},
        {"shape": (48,)},
        {"shape": (-1, 4, -4, 3)},
        {"ids": (1, -2)},
        {"ids": ("1",)},
        {"ids": (True,)},
    ],
)
def test_what_does_not_fit_together(changes):
    prompt = Prompt(id=1, ids=(1, 2), digests=("a",), tiles=(1,), shape=(1, 4, 4, 3))
    memory = Memory.of(np.zeros((1, 4, 4, 3), np.uint8))
    try:
        child.check(prompt, memory)
        with pytest.raises(WireError):
            child.check(replace(prompt, **changes), memory)
        with pytest.raises(WireError):
            child.check(prompt, None)
    finally:
        memory.close()


def test_memory_that_is_cut_short_ends_nobody():
    """Whoever had mapped it would be ended by the system; who reads it is told."""
    memory = Memory.of(np.zeros((2, 4, 4, 3), np.uint8))
    whole = os.preadv

    def cut(descriptor, buffers, offset):
        os.ftruncate(memory.descriptor, 10)
        return whole(descriptor, buffers, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", cut)
        with pytest.raises(WireError, match="cut short"):
            memory.array((2, 4, 4, 3))
    memory.close()


def test_memory_that_nobody_took_is_let_go():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        Memory.of(np.zeros(9, np.uint8))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_service_is_narrower_than_ones_own_machine():
    assert not SERVICE.local
    assert not SERVICE.remote
    assert SERVICE.pixels < 40_000**2
    assert nano()["context"] == 4096


def test_a_server_tells_them_what_it_is_told():
    config = readers_config(Settings(context=100, queue=7, media_limits=replace(SERVICE, seconds=60, pages=3)))
    assert (config.context, config.waiting, config.seconds, config.limits.pages) == (100, 7, 80, 3)
    assert readers_config(Settings()) == ReadersConfig(embedder="nano-c", context=CONTEXT, waiting=256)

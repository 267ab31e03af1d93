"""The worker as the API sees it: what is asked comes back, what dies is replaced, nobody hangs, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from internvl.errors import InternVLError
from internvl.serving import incarnation, supervisor
from internvl.serving.incarnation import to_log
from internvl.serving.refusal import Refusal
from internvl.serving.supervisor import Supervisor, Watch
from internvl.serving.wire import Ask, Done, Memory, Piece, Serve

FAKE = Path(__file__).with_name("fake_worker.py")
QUICK = Watch(heartbeat=0.05, patience=60.0, first_delay=0.01, longest_delay=0.05)
PATIENCE = 120.0
"""Seconds that these tests wait for what takes a moment on an idle machine: a start, and then what is tried."""
STARTED = PATIENCE
FOREVER = {"max_new_tokens": 0}

Scenario = Callable[[Supervisor], Awaitable[None]]


def fake_command() -> tuple[str, ...]:
    return sys.executable, str(FAKE)


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(incarnation, "COMMAND", fake_command())


def with_worker(scenario: Scenario, serve: Serve | None = None, watch: Watch = QUICK) -> None:
    async def run() -> None:
        keeper = Supervisor(serve or Serve(name="good"), watch)
        try:
            async with asyncio.timeout(STARTED):
                await keeper.start()
            async with asyncio.timeout(PATIENCE):
                await scenario(keeper)
        finally:
            await keeper.stop()

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    """Bounded by the scenario's own time."""
    while not true():
        await asyncio.sleep(0.02)


def asking(text: str, **sampling) -> Ask:
    return Ask(id=0, ids=[ord(letter) for letter in text], sampling=sampling)


async def said(keeper: Supervisor, text: str = "hello", **sampling) -> str:
    """The text of an answer, whose pieces come in order and end with a Done."""
    pieces = [one async for one in keeper.ask(asking(text, **sampling))]
    assert isinstance(pieces[-1], Done)
    return "".join(one.text for one in pieces[:-1] if isinstance(one, Piece))


async def refused(keeper: Supervisor, text: str = "hello", **sampling) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await said(keeper, text, **sampling)
    return caught.value


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def descriptors() -> set[int]:
    return set(filter(is_open, range(256)))


# ---- asking ----------------------------------------------------------------------------------------------------------


def test_what_is_asked_comes_back_each_to_whoever_asked():
    async def scenario(keeper: Supervisor) -> None:
        texts = [f"text {number}" for number in range(30)]
        assert await asyncio.gather(*(said(keeper, text) for text in texts)) == texts
        assert keeper.ready
        assert (keeper.facts.model, keeper.facts.context, keeper.restarts) == ("good", 100, 0)
        vectors, tokens = await keeper.embed(["a", "b"])
        assert (vectors.tolist(), vectors.dtype, tokens) == ([[0, 1, 2]], np.float32, 2)

    with_worker(scenario)


def test_a_refusal_is_that_of_the_worker():
    async def scenario(keeper: Supervisor) -> None:
        refusal = await refused(keeper, "\0")
        found = refusal.message, refusal.status, refusal.param, refusal.code, refusal.retry_after
        assert found == ("a 0", 429, "ids", "zero", 9)
        assert keeper.failed == 0, "nothing was wrong with the worker"
        assert await said(keeper) == "hello"

    with_worker(scenario)


def test_who_stops_early_is_dropped_and_who_has_all_is_not():
    async def scenario(keeper: Supervisor) -> None:
        await said(keeper)
        await refused(keeper, "\0")
        async with contextlib.aclosing(keeper.ask(asking("a", **FOREVER))):
            pass
        async with contextlib.aclosing(keeper.ask(asking("long"))) as answers:
            await anext(answers)
        for work in (said(keeper, **FOREVER), keeper.embed(["wait"])):
            task = asyncio.create_task(work)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: keeper.counters().get("asks") == 5 and keeper.counters()["drops"] >= 3)
        # of "long" the Done may have come before the close: it was not dropped then
        await said(keeper)
        await until(lambda: keeper.counters()["asks"] == 6)
        assert keeper.counters()["drops"] in (3, 4)
        assert not keeper._waiting, "nothing is remembered of who is gone"

    with_worker(scenario)


def test_a_closed_answer_says_nothing_more():
    async def scenario(keeper: Supervisor) -> None:
        answers = keeper.ask(asking("long"))
        await anext(answers)
        answers.close()
        answers.close()
        assert [one async for one in answers] == []

    with_worker(scenario)


def test_asking_a_worker_that_stands_still_blocks_nobody(monkeypatch):
    monkeypatch.setattr(supervisor, "MOST_UNSENT", 8)

    async def scenario(keeper: Supervisor) -> None:
        assert keeper.pid is not None
        os.kill(keeper.pid, signal.SIGSTOP)
        large = Ask(id=0, ids=[97] * 200_000, sampling=FOREVER)
        asked, refusal = [], None
        while refusal is None:
            try:
                asked.append(keeper.ask(large))
            except Refusal as error:
                refusal = error
            await asyncio.sleep(0)
        assert (refusal.status, refusal.code) == (429, "queue_full")
        assert len(asked) >= 4, "as many as wait to be sent, beside a Ping or two"
        for one in asked:
            one.close()
        os.kill(keeper.pid, signal.SIGCONT)
        await until(lambda: keeper.counters().get("drops") == len(asked))
        assert await said(keeper) == "hello"

    with_worker(scenario)


# ---- memory and descriptors ------------------------------------------------------------------------------------------


def tiles() -> Memory:
    return Memory.of(np.zeros((1, 2, 2, 3), np.uint8))


def test_memory_is_closed_whatever_happens():
    async def scenario(keeper: Supervisor) -> None:
        sent, pixels = tiles(), tiles()
        async for _ in keeper.ask(asking("a"), sent):
            pass
        await keeper.embed((), pixels, (1, 2, 2, 3))
        assert keeper.pid is not None
        os.kill(keeper.pid, signal.SIGSTOP)
        waiting = [(tiles(), Ask(id=0, ids=[97] * 300_000, sampling=FOREVER)) for _ in range(4)]
        asked = [keeper.ask(ask, memory) for memory, ask in waiting]
        os.kill(keeper.pid, signal.SIGKILL)
        for one in asked:
            with pytest.raises(Refusal):
                await anext(one)
        late = tiles()
        with pytest.raises(Refusal) as caught:
            keeper.ask(asking("a"), late)
        assert caught.value.status == 503
        await until(lambda: keeper.ready)
        await said(keeper)
        assert [one._descriptor for one in (sent, pixels, late, *(memory for memory, _ in waiting))] == [None] * 7

    with_worker(scenario)


def test_no_descriptor_is_left_after_200_requests_nor_after_the_end():
    before = descriptors()

    async def scenario(keeper: Supervisor) -> None:
        await said(keeper)
        during = len(descriptors())
        for number in range(200):
            if number % 3:
                async for _ in keeper.ask(asking("ab"), tiles()):
                    pass
            else:
                await keeper.embed((), tiles(), (1, 2, 2, 3))
        await until(lambda: keeper.counters().get("memories") == 200)
        assert len(descriptors()) <= during

    with_worker(scenario)
    assert len(descriptors()) <= len(before)


# ---- death -----------------------------------------------------------------------------------------------------------


def test_who_waits_when_the_worker_is_killed_is_told():
    async def scenario(keeper: Supervisor) -> None:
        waiting = [asyncio.create_task(refused(keeper, **FOREVER)) for _ in range(5)]
        embedding = asyncio.create_task(keeper.embed(["wait"]))
        await until(lambda: keeper.counters().get("asks") == 5)
        first = keeper.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        for refusal in await asyncio.gather(*waiting):
            assert (refusal.status, refusal.code) == (503, "unavailable")
            assert "ended while it was answering" in str(refusal)
        with pytest.raises(Refusal):
            await embedding
        assert (await refused(keeper)).status == 503, "at once, while there is none"
        assert not keeper.ready
        assert keeper.counters() == {}
        assert keeper.failed == 6, "and counted; who came when there was none was not begun"
        await until(lambda: keeper.ready)
        assert await said(keeper) == "hello"
        assert keeper.restarts == 1
        assert keeper.pid != first
        assert keeper.failed == 6

    with_worker(scenario)


def test_the_log_says_that_the_worker_is_there_again(caplog):
    async def scenario(keeper: Supervisor) -> None:
        assert keeper.pid is not None
        os.kill(keeper.pid, signal.SIGKILL)
        await until(lambda: keeper.restarts > 0)

    caplog.set_level(logging.INFO, "internvl.serving")
    with_worker(scenario)
    [died, ready] = caplog.records
    assert "it is started again" in died.message
    assert (ready.message, vars(ready)["values"]) == ("ready", {"model": "good", "restarts": 1})


BREACHES = [
    "no json", "a kind that is none", "an endless frame", "half a frame", "a field that is none",
    "an id that is no number", "what only the other end says", "a piece with memory", "vectors without memory",
    "vectors of another size", "vectors of no shape", "it exits", "it hangs up",
]  # fmt: skip


@pytest.mark.parametrize("how", BREACHES)
def test_a_worker_that_is_not_understood_is_replaced(how):
    async def scenario(keeper: Supervisor) -> None:
        other = asyncio.create_task(refused(keeper, **FOREVER))
        await asyncio.sleep(0)
        assert (await refused(keeper, stop=[how], **FOREVER)).status == 503
        assert (await other).status == 503
        await until(lambda: keeper.ready)
        assert await said(keeper) == "hello"
        assert keeper.restarts == 1

    before = len(descriptors())
    with_worker(scenario)
    assert len(descriptors()) <= before, "what came with it is closed"


def test_a_worker_that_answers_no_ping_is_replaced():
    async def scenario(keeper: Supervisor) -> None:
        await until(lambda: bool(keeper.counters()))
        assert keeper.pid is not None
        stalled = keeper.pid
        os.kill(stalled, signal.SIGSTOP)
        keeper._watch = replace(QUICK, patience=0.3)  # only while it cannot answer
        assert (await refused(keeper)).status == 503
        keeper._watch = QUICK
        await until(lambda: keeper.ready)
        assert keeper.pid != stalled
        with pytest.raises(ProcessLookupError):
            os.kill(stalled, 0)
        assert await said(keeper) == "hello"

    with_worker(scenario)


def test_time_in_which_both_stood_still_is_nobodys_fault():
    """As when a laptop sleeps, or a whole group of processes is stopped."""

    async def scenario(keeper: Supervisor) -> None:
        await until(lambda: bool(keeper.counters()))
        first = keeper.pid
        assert first is not None
        keeper._watch = replace(QUICK, heartbeat=0.1, patience=1.0)
        os.kill(first, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.01, time.sleep, 1.5)
        for _ in range(5):  # who counted the time would find it dead now
            await asyncio.sleep(0.02)
        os.kill(first, signal.SIGCONT)
        keeper._watch = QUICK
        assert await said(keeper) == "hello"
        assert (keeper.pid, keeper.restarts) == (first, 0)

    with_worker(scenario)


def test_a_worker_that_answers_but_pings_is_replaced_too():
    async def scenario(keeper: Supervisor) -> None:
        await until(lambda: keeper.restarts > 0)

    with_worker(scenario, Serve(name="mute"), Watch(heartbeat=0.05, patience=0.2, first_delay=0.01))


def test_a_worker_that_cannot_be_started_again_is_tried_until_it_can(tmp_path):
    in_the_way = tmp_path / "file"

    async def scenario(keeper: Supervisor) -> None:
        in_the_way.touch()
        assert keeper.pid is not None
        os.kill(keeper.pid, signal.SIGKILL)
        await until(lambda: not keeper.ready)
        for _ in range(3):
            await asyncio.sleep(0.3)
            assert (await refused(keeper)).status == 503
        in_the_way.unlink()
        await until(lambda: keeper.ready)
        assert await said(keeper) == "hello"
        assert keeper.restarts == 1, "only those count that came to life"

    with_worker(scenario, Serve(name="good", source=str(in_the_way)))


# ---- the first start and the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "watch", "says"), [
    ("dies", QUICK, "the model was not loaded: the process ended (exit code 3)"),
    ("never loads", Watch(loading=1.0), "the model was not loaded: it took more than 1 s"),
])  # fmt: skip
def test_a_model_that_is_not_loaded_is_one_clear_line(name, watch, says):
    async def never(keeper: Supervisor) -> None:
        pytest.fail("it has started")

    before = len(descriptors())
    with pytest.raises(InternVLError) as caught:
        with_worker(never, Serve(name=name), watch)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(descriptors()) <= before


def test_what_the_worker_says_of_a_model_that_cannot_be_loaded_is_said(tmp_path):
    (tmp_path / "file").touch()

    async def never(keeper: Supervisor) -> None:
        pytest.fail("it has started")

    with pytest.raises(InternVLError, match=r"^there is a file$"):
        with_worker(never, Serve(source=str(tmp_path / "file")))


def test_a_command_that_is_none_leaves_nothing_open(monkeypatch):
    monkeypatch.setattr(incarnation, "COMMAND", (str(FAKE.with_name("no such program")),))

    async def never(keeper: Supervisor) -> None:
        pytest.fail("it has started")

    before = len(descriptors())
    with pytest.raises(OSError):
        with_worker(never)
    assert len(descriptors()) <= before


def test_a_start_that_is_cancelled_leaves_no_process():
    pids: list[int] = []

    async def run() -> None:
        keeper = Supervisor(Serve(name="never loads"), QUICK)
        starting = asyncio.create_task(keeper.start())
        while keeper._latest is None or not hasattr(keeper._latest, "_process"):
            await asyncio.sleep(0.01)
        pids.append(keeper._latest.pid)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    asyncio.run(run())
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_the_end_refuses_who_waits_and_leaves_no_process():
    pids: list[int | None] = []

    async def scenario(keeper: Supervisor) -> None:
        pids.append(keeper.pid)
        waiting = asyncio.create_task(refused(keeper, **FOREVER))
        await asyncio.sleep(0.05)
        await keeper.stop()
        assert (await waiting).status == 503
        assert (await refused(keeper)).status == 503
        await keeper.stop()

    with_worker(scenario)
    assert pids[0] is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_one_that_was_never_started_is_ended_without_ado():
    keeper = Supervisor(Serve())
    assert not keeper.ready
    assert keeper.counters() == {}
    with pytest.raises(Refusal):
        _ = keeper.facts
    asyncio.run(keeper.stop())


# ---- around it -------------------------------------------------------------------------------------------------------


def test_the_keys_of_the_api_are_not_told_to_the_worker(monkeypatch):
    monkeypatch.setenv("INTERNVL_API_KEYS", "sk-secret")

    async def scenario(keeper: Supervisor) -> None:
        assert keeper.facts.embedder is None  # where this worker says what it found

    with_worker(scenario)


def test_a_terminals_interrupt_is_not_for_the_worker():
    async def scenario(keeper: Supervisor) -> None:
        assert keeper.pid is not None
        assert os.getpgid(keeper.pid) != os.getpgid(0)

    with_worker(scenario)


def test_what_the_worker_writes_goes_to_the_log_and_nowhere_else(caplog):
    async def scenario(keeper: Supervisor) -> None:
        await until(lambda: any("Bearer" in message for message in caplog.messages))

    with caplog.at_level(logging.WARNING):
        with_worker(scenario, Serve(name="talks"))
    assert all("\x1b" not in message for message in caplog.messages), "no escape sequences"
    assert max(map(len, caplog.messages)) <= incarnation.LONGEST_LINE


def test_a_log_is_not_flooded(caplog, monkeypatch):
    now = iter(range(10**6))
    monkeypatch.setattr(incarnation.time, "monotonic", lambda: next(now) / 50)  # 50 lines a second
    with caplog.at_level(logging.WARNING):
        to_log(io.BytesIO(b"a line\n" * 10_000))
    assert 3 * incarnation.LINES < len(caplog.messages) < 5 * incarnation.LINES
    assert f"{60 * 50 - incarnation.LINES} lines more were not written down" in caplog.messages


def test_no_torch_on_this_side():
    code = "import sys, internvl.serving.supervisor; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

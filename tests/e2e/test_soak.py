"""Nothing stays behind: of requests that nobody waited for, and of a worker that was killed.

Looked at from outside, where a leak shows whichever process has it: the server's own counters, and the memory and
descriptors of each of its processes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.served import PATIENCE, asked, memory, until
from tests.e2e.traffic import EXPECTED, KINDS, PICTURES, Traffic, abandon, ask, grown, outcome, slope

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MIB = 2**20
CLIENTS = 8
READERS = 3
"""Of a server as it is by default: two of media, one of texts. It may be ready before they are."""


@pytest.fixture
def served(server):
    return server


def settled(served) -> None:
    until(served.is_idle, "nothing is answered any more")
    until(lambda: served.metric("internvl_backend_readers") == READERS, "readers that were still busy are replaced")


@pytest.mark.parametrize("many", [60, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_requests_that_nobody_waits_for_leave_nothing(served, many):
    """Row 4.3 "client disconnect": slots, queue, memory and descriptors are as before.

    A few tell a slot or a descriptor that is not given back; it takes the thousand to tell a picture that stays behind.
    """
    with ThreadPoolExecutor(CLIENTS) as pool:  # at first, what is kept on purpose
        list(pool.map(lambda number: abandon(served.port, number), range(10**6, 10**6 + 30 + many // 8)))
        settled(served)
        before, cancelled = served.held(), served.metric("internvl_backend_cancelled")
        restarts = served.metric("internvl_backend_worker_restarts")
        ways = Counter(pool.map(lambda number: abandon(served.port, number), range(many)))
    assert len(ways) >= 4
    settled(served)
    after = served.held()

    most = cancelled + ways["after the first piece"]
    until(lambda: served.metric("internvl_backend_cancelled") >= most, "counters are told every other second")
    assert served.metric("internvl_backend_worker_restarts") == restarts
    for kind in ("api", "worker", "reader"):
        assert after[f"{kind} descriptors"] <= before[f"{kind} descriptors"] + 2, (before, after)
        assert after[f"{kind} bytes"] <= before[f"{kind} bytes"] + 40 * MIB, (before, after)
    status, answer = ask(served.port, asked("Hello", max_tokens=4))
    assert status == 200, answer


def test_a_worker_killed_under_load_is_said_replaced_and_nobody_hangs(served):
    """Row 4.3 "one malformed request kills the engine": even when it dies, those who wait are told at once."""
    over, outcomes, numbers = threading.Event(), Counter(), iter(range(10**9))
    lock = threading.Lock()

    def client() -> None:
        while not over.is_set():
            with lock:
                number = next(numbers)
            became = outcome(served.port, number)
            with lock:
                outcomes[became] += 1
            if became == "503":
                time.sleep(0.2)

    restarts = served.metric("internvl_backend_worker_restarts")
    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    try:
        until(lambda: outcomes["answered"] >= CLIENTS, "requests are answered")
        killed = served.kill_worker()
        until(lambda: outcomes["503"] + outcomes["broke off, and said so"] >= CLIENTS, "those who wait are told")
        assert served.get("/health")[0] == 200
        until(served.is_ready, "another worker is ready")
        before = outcomes["answered"]
        until(lambda: outcomes["answered"] >= before + CLIENTS, "requests are answered again")
    finally:
        over.set()
        for one in clients:
            one.join(PATIENCE)
    assert not any(one.is_alive() for one in clients), "a client hangs"
    assert set(outcomes) <= {"answered", "503", "broke off, and said so"}, outcomes
    assert served.metric("internvl_backend_worker_restarts") == restarts + 1
    [worker] = served.processes()["worker"]
    assert worker.pid != killed
    until(served.is_idle, "nothing is answered any more")


def test_readers_killed_under_load_are_replaced_and_nobody_hangs(served):
    """A decoder that is shot down takes one request with it at most."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked_for = [pool.submit(outcome, served.port, 3 * number) for number in range(4 * CLIENTS)]
        killed = []
        for _ in range(3):
            time.sleep(0.3)
            for one in served.processes()["reader"][:1]:
                with contextlib.suppress(Exception):
                    one.kill()
                    killed.append(one.pid)
        found = Counter(one.result(PATIENCE) for one in asked_for)
    assert killed
    assert set(found) <= {"answered", "422", "503"}, found
    assert found["answered"] >= len(asked_for) - len(killed)
    until(lambda: served.metric("internvl_backend_readers") >= 2, "there are readers again")
    assert ask(served.port, asked("Hello", PICTURES[0], max_tokens=4))[0] == 200


# ---- mixed traffic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [4, pytest.param(20, marks=pytest.mark.exhaustive)])
def test_traffic_of_all_kinds_is_answered(served, turns):
    """What `python -m benchmarks.soak` does for an hour, until every kind has had its turn."""
    traffic = Traffic(served, clients=4)
    traffic.begin()
    until(lambda: sum(traffic.outcomes.values()) >= turns * len(KINDS), "all kinds had their turn")
    traffic.end()
    assert set(traffic.outcomes) == set(EXPECTED), traffic.outcomes
    until(served.is_idle, "nothing is answered any more")


def test_what_grows_is_seen_and_what_is_full_is_not():
    """The judge of a soak: a cache that fills up is no leak, ten bytes a second are one."""
    full = [(at, {"api bytes": 10**8 + min(at, 30) * MIB, "api descriptors": 40 + at % 2}) for at in range(100)]
    assert not grown(full, 8 * MIB)
    leaking = [(at, {"api bytes": 10**8 + at * MIB // 4, "api descriptors": 40 + at // 10}) for at in range(100)]
    assert set(grown(leaking, 8 * MIB)) == {"api bytes", "api descriptors"}
    assert slope([(0, 5.0), (10, 5.0)]) == 0


def test_memory_is_what_a_process_holds_and_not_what_the_system_keeps_of_its_files(tmp_path):
    """Row 4.3: a page of a file comes and goes as the system likes, and is no leak; a page of our own is one."""
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("this system does not say what of a process's memory is its own")
    (tmp_path / "file").write_bytes(bytes(32 * MIB))
    before = memory(os.getpid())
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert not any(mapped[place] for place in range(0, 32 * MIB, mmap.PAGESIZE))  # every page has been read
        assert memory(os.getpid()) < before + 16 * MIB
    with mmap.mmap(-1, 32 * MIB) as own:  # new pages, not those that an allocator has kept
        own.write(b"x" * (32 * MIB))
        assert memory(os.getpid()) > before + 24 * MIB

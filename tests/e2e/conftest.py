"""Two servers, each started once for all tests here that do not need one of their own: starting one takes seconds.

They end with the last test of this folder, not of the run: together they hold more than a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.rows import KEY, LIMITS
from tests.e2e.served import Served, running

HERE = Path(__file__).parent


class Servers:
    """Those that run, by name."""

    def __init__(self) -> None:
        self._running: dict[str, Served] = {}
        self._stack = ExitStack()

    def get(self, name: str, *options: str, key: str | None = None) -> Served:
        if name not in self._running:
            self._running[name] = self._stack.enter_context(running("--no-ui", *options, key=key))
        return self._running[name]

    def stop(self) -> None:
        self._running.clear()
        self._stack.close()


SERVERS = Servers()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    yield SERVERS
    SERVERS.stop()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    if nextitem is None or HERE not in nextitem.path.parents:
        SERVERS.stop()


@pytest.fixture(scope="module")
def server(servers: Servers) -> Served:
    """One that anybody may ask."""
    return servers.get("open", "--slots", "8")


@pytest.fixture(scope="module")
def guarded(servers: Servers) -> Served:
    """One that wants a key, and has narrow limits."""
    limits = [part for name, value in LIMITS.items() for part in ("--limit", f"{name}={value}")]
    return servers.get("guarded", "--slots", "4", *limits, key=KEY)

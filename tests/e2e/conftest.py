"""Two servers, each started once for all tests here that do not need one of their own: starting one takes seconds."""

from __future__ import annotations

import pytest

from tests.e2e.rows import KEY, LIMITS
from tests.e2e.served import running


@pytest.fixture(scope="session")
def server():
    """One that anybody may ask."""
    with running("--slots", "8", "--no-ui") as one:
        yield one


@pytest.fixture(scope="session")
def guarded():
    """One that wants a key, and has narrow limits."""
    limits = [part for name, value in LIMITS.items() for part in ("--limit", f"{name}={value}")]
    with running("--slots", "4", "--no-ui", *limits, key=KEY) as one:
        yield one

"""schemathesis asks the API whatever its own description allows, and much that it does not.

It is not among what is installed for the tests: `pip install schemathesis`, and this runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.echo import KEY, listening

PROGRAM = Path(sys.executable).parent / "schemathesis"
EXAMPLES = os.environ.get("INTERNVL_FUZZ_EXAMPLES", "5")
"""Of each operation; the rest of some 3,500 requests come from its own tables."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_api_is_what_it_says_it_is(tmp_path):
    if not PROGRAM.exists():
        pytest.skip("schemathesis is not installed")
    with listening(keys=(KEY,)) as server:
        done = subprocess.run(
            [PROGRAM, "run", f"{server.address}/openapi.json", "--header", f"Authorization: Bearer {KEY}",
             "--seed", "1", "--max-examples", EXAMPLES, "--checks", "all", "--no-color",
             # What fits each field can still contradict itself, which a schema cannot say.
             "--exclude-checks", "positive_data_acceptance"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert server.backend.open == 0
    assert done.returncode == 0, done.stdout[-6000:]

"""Starts a few processes as torchrun would; they never hang, and what they print is shown where they fail."""

import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY


def launch(module: str, size: int, *arguments: str | Path, seconds: int = 240) -> list[str]:
    """`python -m module arguments` on `size` ranks of one machine; what each printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.launch", module, *map(str, arguments)],
            cwd=REPOSITORY,
            env=os.environ
            | {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        told = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
    failed = [f"rank {i}: {err}" for i, (p, (_, err)) in enumerate(zip(processes, told, strict=True)) if p.returncode]
    assert not failed, "\n".join(failed)
    return [out for out, _ in told]


if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__")
    sys.stdout.flush()
    os._exit(0)  # as the command line does on a rank, see `internvl.cli.main`

"""Runs a program for as long as whoever started this lives: when its standard input ends, the program is ended too.

    worker --pipe--> leash --> vllm serve and its own processes, one group

A worker that is killed can end nobody; this can. Run as `python -m internvl.serving.leash FOLDER COMMAND ...`. The
folder, where the program's socket is, is removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading

GRACE = 5.0
"""Seconds that the program has to end by itself."""


def main() -> None:
    folder, *command = sys.argv[1:]
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, process_group=0)
    except OSError as error:
        print(f"{os.path.basename(command[0])} cannot be started: {error.strerror}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit(127)
    once = threading.Lock()

    def over(code: int) -> None:
        """Nothing is left of the program, nor of this."""
        once.acquire()  # never released: whoever comes second waits for the end
        end(program)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(code)

    threading.Thread(target=lambda: over(abs(program.wait())), daemon=True).start()
    sys.stdin.buffer.read()
    over(0)


def end(program: subprocess.Popen[bytes]) -> None:
    """End a program and all processes of its group."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(program.pid, how)
        if how is signal.SIGTERM:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(GRACE)


if __name__ == "__main__":
    main()

"""A server as people start it: `internvl serve` in a process of its own with the embedded nano, seen from outside.

Served --HTTP--> API process --+-- readers
   '---- psutil: memory and descriptors of each ----'-- worker
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 600.0
"""Seconds for whatever must happen; the machine may be busy."""
NO_KEYS = ("INTERNVL_API_KEYS", "OPENAI_API_KEY", "OPENAI_BASE_URL", "http_proxy", "https_proxy", "all_proxy")


class Served:
    """One server that runs.

    >>> with running("--slots", "4") as served: served.metric("internvl_backend_free")  # doctest: +SKIP
    4.0
    """

    def __init__(self, *arguments: str, key: str | None = None, log: Path | None = None) -> None:
        """key: that it wants, and that is sent by what is asked here; None: none."""
        self.key = key
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        environment = {name: value for name, value in os.environ.items() if name not in NO_KEYS}
        environment |= {"INTERNVL_API_KEYS": key} if key else {}
        self._log = log.open("w+b") if log else tempfile.TemporaryFile()  # noqa: SIM115, it is closed by stop()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "internvl", "serve", "--port", str(self.port), *arguments],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip

    def log(self) -> str:
        self._log.flush()
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 where nobody answers."""
        return self.send("GET", path)

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """Status and body; a body of bytes is sent as it is, any other as JSON. 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            connection.request(method, path, sent, {"Content-Type": "application/json", **key, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"the server ended with {self._process.returncode}:\n{self.log()[-4000:]}")
        return self.get("/ready")[0] == 200

    def metrics(self) -> dict[str, float]:
        """Every sample without labels, by name; counters without their `_total`."""
        found = re.findall(r"^([a-z_]+?)(?:_total)? ([0-9.e+-]+)$", self.get("/metrics")[1], flags=re.MULTILINE)
        return {name: float(value) for name, value in found}

    def metric(self, name: str) -> float:
        return self.metrics()[name]

    def is_idle(self) -> bool:
        """Whether nothing is asked, read or answered; as the backend last said, which is some seconds ago at most."""
        found = self.metrics()
        waiting = ("queued", "reading", "running", "waiting_tiles", "reader_queue")
        return (
            found.get("internvl_backend_free", -1) == found.get("internvl_backend_slots")
            and not any(found.get(f"internvl_backend_{name}", 0) for name in waiting)
            and found["internvl_requests_in_flight"] <= 1  # the one that asks
        )

    # ---- processes ---------------------------------------------------------------------------------------------------

    def processes(self) -> dict[str, list[psutil.Process]]:
        """The processes of the server by what they are: api, worker, reader."""
        api = psutil.Process(self._process.pid)
        found: dict[str, list[psutil.Process]] = {"api": [api], "worker": [], "reader": []}
        for child in api.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                said = " ".join(child.cmdline())
                for kind in ("worker", "reader"):
                    if f"internvl.serving.{kind}" in said:
                        found[kind].append(child)
        return found

    def held(self) -> dict[str, int]:
        """Bytes of memory (see `memory`) and open descriptors of the processes, by kind."""
        found: dict[str, int] = {}
        for kind, processes in self.processes().items():
            found[f"{kind} bytes"] = found[f"{kind} descriptors"] = 0
            for one in processes:
                with contextlib.suppress(psutil.NoSuchProcess):  # a reader that has just been replaced
                    descriptors = one.num_fds()
                    found[f"{kind} bytes"] += memory(one.pid)
                    found[f"{kind} descriptors"] += descriptors
        return found

    def kill_worker(self) -> int:
        [worker] = self.processes()["worker"]
        worker.send_signal(signal.SIGKILL)
        return worker.pid

    def stop(self) -> int:
        """As a service manager does it; the exit status."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            children = psutil.Process(self._process.pid).children(recursive=True)
            for one in (self._process, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            self._process.wait()
            raise AssertionError(f"the server did not stop in 60 s:\n{self.log()[-4000:]}") from None
        finally:
            self._log.close()


def memory(pid: int) -> int:
    """Bytes that a process holds and nobody else can give back: its own pages and its share of memory files, whether
    they are in RAM or swapped out. Pages of files are left out: the system drops and reads them as it likes.

    Where there is no /proc/PID/smaps_rollup it is the memory in RAM, which falls when a process is idle.
    """
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:  # there is no such file, or no such process any more
        return psutil.Process(pid).memory_info().rss
    found = {name: 1024 * int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB$", rollup, flags=re.MULTILINE)}
    return sum(found.get(name, 0) for name in ("Pss_Anon", "Pss_Shmem", "SwapPss"))


@contextlib.contextmanager
def running(*arguments: str, key: str | None = None, log: Path | None = None) -> Iterator[Served]:
    """A server that is ready, and is stopped in the end."""
    served = Served(*arguments, key=key, log=log)
    try:
        until(served.is_ready, "the server is ready")
        yield served
    finally:
        served.stop()


def until(happens: Callable[[], Any], what: str, *, patience: float = PATIENCE) -> Any:
    """What it comes to, once that is true."""
    end = time.monotonic() + patience
    while True:
        if found := happens():
            return found
        assert time.monotonic() < end, f"{what}: not in {patience:g} s"
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def asked(text: str, *pictures: str, **more: Any) -> Mapping[str, Any]:
    """A question as a request for chat; pictures are data: addresses, which come first."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": one}} for one in pictures]
    return {
        "model": "nano",
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}],
        **more,
    }

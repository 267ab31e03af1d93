"""The proxy of docs/scale.md in front of two servers: a user stays with one, and one that is killed is done without."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
PATIENCE = 300.0
KEYS = [f"sk-{number:016d}" for number in range(12)]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def configured(folder: Path, ports: Mapping[str, int]) -> Path:
    """The configuration of the page, with other ports, as a whole file."""
    found = re.search(r"^```nginx\n(.*?)^```$", (REPOSITORY / "docs" / "scale.md").read_text(), re.M | re.S)
    assert found
    text = re.sub(r"\b(8000|8001|8002)\b", lambda port: str(ports[port[1]]), found[1]).replace(
        "listen ", "listen 127.0.0.1:"
    )
    temporary = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/errors; events {{}} "
        f"http {{ access_log off; {temporary}\n{text}}}\n"
    )
    return file


def asked(port: int, key: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def until_ready(port: int) -> None:
    last = time.monotonic() + PATIENCE
    while time.monotonic() < last:
        try:
            if asked(port, KEYS[0], "/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("it is not ready")


@pytest.fixture
def servers(tmp_path) -> Iterator[dict[str, Any]]:
    ports = {name: free_port() for name in ("8000", "8001", "8002")}
    environment = {**os.environ, "INTERNVL_API_KEYS": ",".join(KEYS)}
    with ExitStack() as stack:

        def started(words: list[str], log: str) -> subprocess.Popen[bytes]:
            out = stack.enter_context((tmp_path / log).open("wb"))
            process = subprocess.Popen(words, env=environment, stdout=out, stderr=out)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        own = [sys.executable, "-m", "internvl", "serve", "--no-ui", "--slots", "2", "--readers", "1"]
        processes = [started([*own, "--port", str(ports[name])], name) for name in ("8001", "8002")]
        for name in ("8001", "8002"):
            until_ready(ports[name])
        started([str(NGINX), "-c", str(configured(tmp_path, ports)), "-p", str(tmp_path)], "nginx")
        until_ready(ports["8000"])
        yield {"ports": ports, "processes": processes}


def test_the_page_keeps_a_user_with_one_replica_and_sends_all_others_where_one_is_gone(tmp_path):
    """What nginx must be told for the proof below, also where nginx is not installed."""
    text = configured(tmp_path, {"8000": 1, "8001": 2, "8002": 3}).read_text()
    assert re.findall(r"(?:server|listen) 127\.0\.0\.1:(\d)", text) == ["2", "3", "1"]
    assert re.search(r"hash \$who consistent;.*proxy_next_upstream [^;]*http_503 non_idempotent;", text, re.S)
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nginx_takes_the_configuration(tmp_path):
    file = configured(tmp_path, {name: free_port() for name in ("8000", "8001", "8002")})
    done = subprocess.run([str(NGINX), "-t", "-c", str(file), "-p", str(tmp_path)], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_users_stay_where_they_are_and_one_replica_is_enough(servers):
    ports, processes = servers["ports"], servers["processes"]
    question = {"model": "nano", "max_tokens": 4, "messages": [{"role": "user", "content": "What is your name? " * 8}]}

    answered = 0

    def reused(key: str) -> int:
        nonlocal answered
        status, answer = asked(ports["8000"], key, "/v1/chat/completions", question)
        assert status == 200
        answered += answer["usage"]["completion_tokens"]
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    for key in KEYS:  # each its own conversation
        question["messages"][0]["content"] = f"{key} " + "What is your name? " * 8
        first, second = reused(key), reused(key)
        assert second > first
        assert second > 30  # the same replica, which knows the beginning
    told = [generated(ports[name]) for name in ("8001", "8002")]
    assert min(told) > 0  # both have work
    assert sum(told) == answered

    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()
    for key in KEYS:
        reused(key)
    assert generated(ports["8002"]) == told[1] + answered - sum(told)


def generated(port: int) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {KEYS[0]}"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        found = re.search(r'^internvl_tokens_total\{kind="completion"\} ([0-9.]+)$', answer.read().decode(), re.M)
    return int(float(found[1])) if found else 0

"""`internvl ui`: what it is started with, and that it starts."""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from starlette.testclient import TestClient

from internvl.cli.main import run
from tests.serving.echo import KEY, Echo

URL = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--endpoint", URL, "--model", "nano"], "--endpoint is a server that runs"),
        (["--endpoint", URL, "--verbose"], "--endpoint is a server that runs"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--endpoint", "localhost:8000", "--port", "0"], "expected an address such as"),
        (["--host", "0.0.0.0"], "there is no API key"),
        (["--port", "70000"], "port is 70000"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(capsys, monkeypatch, options, said):
    monkeypatch.delenv("INTERNVL_API_KEYS", raising=False)
    assert run(["ui", "--no-browser", *options]) == 2
    told = capsys.readouterr().err.strip()
    assert said in told
    assert "\n" not in told


@contextmanager
def started(monkeypatch, *options):
    """A client of what `internvl ui` would serve, with the keys that people sign in with."""
    found = []
    monkeypatch.setenv("INTERNVL_API_KEYS", KEY)
    monkeypatch.setattr("internvl.cli.serve.backend_of", lambda settings, vllm: Echo())
    monkeypatch.setattr("internvl.serving.listen.serve", lambda settings, app, listener, told: found.append(app))
    assert run(["ui", "--no-browser", "--port", "0", *options]) == 0
    with TestClient(found[0], base_url="http://localhost", follow_redirects=False) as client:
        yield client


def test_with_a_key_people_sign_in_on_the_page_of_the_server_that_it_starts(monkeypatch, tmp_path):
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("the page is drawn by gradio, which is not installed (pip install 'internvl[ui]')")
    with started(monkeypatch, "--votes", str(tmp_path / "votes.jsonl")) as client:
        form = client.get("/ui/")
        assert (form.status_code, 'action="/ui/sign-in"' in form.text) == (401, True)
        assert client.post("/ui/sign-in", data={"key": KEY}).status_code == 303
        assert client.get("/ui/config").status_code == 200
        assert client.get("/v1/models").status_code == 401


def test_without_what_draws_the_page_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("internvl.cli.serve.backend_of", lambda settings, vllm: Echo())
    assert run(["ui", "--no-browser", "--port", "0"]) == 2
    assert "pip install 'internvl[ui]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_for_a_server_elsewhere(tmp_path):
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("the page is drawn by gradio, which is not installed (pip install 'internvl[ui]')")
    command = [sys.executable, "-m", "internvl", "ui", "--endpoint", URL, "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
                               env={**os.environ, "TMPDIR": str(tmp_path)})  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200
        assert b"gradio-app" in answer.read()
        connection.close()
        assert "nobody answers at that address" in process.stdout.readline()
        slow = socket.create_connection(("127.0.0.1", int(found[1])), timeout=60)
        slow.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)
        assert slow.recv(12) == b"HTTP/1.1 431", "its bounds are those of serve"
        slow.close()
        assert list(tmp_path.glob("internvl-ui-*"))
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert process.wait(60) in (0, 130)
        assert time.monotonic() - begun < 50
        assert not list(tmp_path.glob("internvl-ui-*")), "the folder of uploads goes with the page"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

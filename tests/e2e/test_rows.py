"""Failures that other servers had, each as one test against a server that runs: requests.

The rows are those of the survey's section 4.3, with a report of each failure; those of the engine are in
`test_rows_engine.py`, those of media in `tests/serving/test_media_rows.py`. What one function does with such an input
is tested beside it; here it goes through every process.
"""

from __future__ import annotations

import base64
import http.client
import random
import re
import socket
import threading

import pytest

from internvl.bench.questions import drawn
from internvl.serving.app import create_app
from internvl.serving.settings import Settings
from tests.e2e.rows import FLAG, KEY, LIMITS, bomb, chat, data, part, png, refused, said, shown
from tests.e2e.served import PATIENCE, asked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def served(guarded):
    return guarded


BAD_MEDIA = {
    "no picture": (shown("image_url", data("image/png", b"this is no picture")), 422),
    "cut off": (shown("image_url", FLAG[: len(FLAG) // 2 // 4 * 4]), 422),
    "empty": (shown("image_url", data("image/png", b"")), 422),
    "no base64": (shown("image_url", "data:image/png;base64,@@@@"), 422),
    "bomb": (shown("image_url", bomb()), 400),
    "svg": (shown("image_url", data("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>")), 422),
    "another kind": (shown("image_url", data("text/html", b"<html>")), 415),
    "no host is allowed": (shown("image_url", "https://example.org/a.png"), 400),
    "this machine": (shown("image_url", "http://127.0.0.1:1/a.png"), 400),
    "metadata": (shown("image_url", "http://169.254.169.254/latest/meta-data"), 400),
    "a file": (shown("image_url", "file:///etc/passwd"), 400),
    "no video": (shown("video_url", data("video/mp4", b"\0\0\0\x18ftypmp42this is no video")), 422),
    "no document": (shown("file", data("application/pdf", b"%PDF-1.7 this is no document")), 422),
    "a frame too many": (shown("video_url", data("video/jpeg", b"\xff\xd8\xff\xe0" * 10_000)), 422),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MEDIA)
def test_bad_media_are_the_requests_fault(served, name):
    """Bad media gives 500 instead of 400: sglang PR#28461."""
    body, expected = BAD_MEDIA[name]
    status, error = refused(served, body)
    assert status == expected, error
    assert error["type"] == "invalid_request_error"


def test_after_each_bad_request_a_good_one_in_flight_finishes(served):
    """One malformed multimodal request kills the engine: sglang#38022, vllm#43473, vllm#8369."""
    good = asked("Tell a story.", FLAG, max_tokens=200, min_tokens=200, temperature=0)
    alone = said(chat(served, good))
    bad = [body for body, _ in BAD_MEDIA.values()] * 2
    found: list[str] = []
    clients = [threading.Thread(target=lambda: found.append(said(chat(served, good)))) for _ in range(2)]
    for one in clients:
        one.start()
    for body in bad:
        assert served.send("POST", "/v1/chat/completions", body)[0] in (400, 415, 422)
    for one in clients:
        one.join(PATIENCE)
    assert found == [alone] * 2
    assert served.get("/health")[0] == 200


def test_template_arguments_are_refused_and_work_does_not_hold_up_the_loop(served):
    """`chat_template_kwargs` overrides internals and blocks the loop: CVE-2025-62426."""
    for name in ("chat_template_kwargs", "mm_processor_kwargs"):
        status, error = refused(served, asked("Hi", **{name: {"tokenize": False, "chat_template": "x"}}))
        assert status == 400
        assert name in error["param"]
    large = [png(drawn(random.Random(number), 900)) for number in range(12)]
    heavy = asked("What are these?", *large, max_tokens=2)
    done = threading.Event()
    outcome: list[int] = []

    def ask() -> None:
        outcome.append(served.send("POST", "/v1/chat/completions", heavy)[0])
        done.set()

    threading.Thread(target=ask).start()
    meanwhile = 0
    while not done.is_set():
        assert served.get("/health")[0] == 200
        meanwhile += 1
    assert outcome[0] in (200, 413)
    if outcome[0] == 200:
        assert meanwhile >= 3


def test_nothing_is_unbounded(served):
    """Huge header / body / `n`: CVE-2025-48956."""
    hi = [{"role": "user", "content": "Hi"}]
    for body, param in (
        (asked("Hi", n=LIMITS["n"] + 1), "n"),
        (asked("Hi", n=10**12), "n"),
        (asked("Hi", max_tokens=10**9), "max_tokens"),
        ({"model": "nano", "messages": hi * (LIMITS["messages"] + 1)}, "messages"),
        (asked("Hi", *[FLAG] * (LIMITS["media"] + 1)), "messages"),
        (asked("Hi", stop=["a"] * 100), "stop"),
        (asked("Hi", logprobs=True, top_logprobs=10**6), "top_logprobs"),
        (asked("Hi", guided_choice=["a"] * 10**5), "guided_choice"),
    ):
        status, error = refused(served, body)
        assert (status, error["param"]) == (400, param)
    assert refused(served, asked("word " * 5000))[1]["code"] == "context_length_exceeded"
    assert refused(served, b'{"model": "nano", "messages": ' + b"[" * 500 + b"]" * 500 + b"}")[0] == 400
    assert served.send("POST", "/v1/chat/completions", b" " * (LIMITS["body"] + 1))[0] == 413
    status, _ = served.send("POST", "/v1/chat/completions", asked("Hi"), **{"X-Long": "a" * 100_000})
    assert status in (400, 431)
    assert said(chat(served, asked("Hi", max_tokens=4)))


def test_a_body_that_lies_about_its_length_or_never_comes_is_no_harm(served):
    """The same, for bodies that are counted as they come."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        "Content-Type: application/json\r\n"
    )
    for more in (f"Content-Length: {10**12}\r\n\r\n", "Content-Length: -1\r\n\r\n", "Content-Length: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as one:
            one.sendall((head + more).encode())
            assert one.recv(4096).split()[1] in (b"400", b"413"), more
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as one:  # no length, no end
        one.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        sent = 0
        try:
            while sent < 4 * LIMITS["body"]:
                one.sendall(piece)
                sent += 0x10000
        except ConnectionError:
            pass
        else:
            assert one.recv(4096).split()[1] == b"413"
    assert said(chat(served, asked("Hi", max_tokens=4)))


def test_tensors_are_not_taken_in(served):
    """Embeddings from clients through `torch.load`: CVE-2025-62164."""
    blob = base64.b64encode(b"\x80\x04\x95.").decode()
    for kind, more in (
        ({"type": "image_embeds", "image_embeds": blob}, {}),
        ({"type": "input_audio", "input_audio": {"data": blob, "format": "wav"}}, {}),
        ({"type": "text", "text": "Hi"}, {"prompt_embeds": blob}),
        ({"type": "text", "text": "Hi"}, {"past_key_values": blob}),
    ):
        body = {"model": "nano", "messages": [{"role": "user", "content": [kind]}], **more}
        assert refused(served, body)[0] == 400
    assert refused(served, {"model": "nano", "prompt": "Hi", "prompt_embeds": blob}, "/v1/completions")[0] == 400


def test_every_route_but_health_wants_a_key(served):
    """Auth covers only part of the routes: `/invocations` of others, sglang PR#27315."""
    app = create_app(Settings(keys=(KEY,), ui=False), backend=NoBackend())
    paths = {getattr(route, "path", "") for route in app.routes} | {"/no/such/path", "/invocations", "/docs", "/"}
    assert len(paths) >= 12
    for path in sorted(paths - {"/health"}):
        concrete = re.sub(r"{[^}]*}", "nano", path)
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"):
            wrong = [{"Authorization": "Bearer sk-wrong-0123456789"}, {"Authorization": KEY}]
            for header in ({}, *(wrong if method in ("GET", "POST") else [])):
                connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
                connection.request(method, concrete, headers=header)
                answer = connection.getresponse()
                assert answer.status == 401, (method, path, header)
                answer.read()
                connection.close()
    assert served.get("/health")[0] == 200


class NoBackend:
    """Stands where nothing is asked."""

    ready = False

    def counters(self):
        return {}


@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
def test_pictures_where_there_is_no_place_for_them_are_refused(served, role):
    """Image sent to a text-only model or without projector: vllm#12024, llama.cpp#23331, sglang#5248. Each model here
    sees; a role that does not show, a text to continue and a model of vectors refuse pictures by name."""
    messages = [{"role": role, "content": [part("image_url", FLAG)]}, {"role": "user", "content": "Hi"}]
    assert refused(served, {"model": "nano", "messages": messages})[0] == 400
    assert refused(served, {**shown("image_url", FLAG), "model": "nano-c"})[0] == 404
    assert refused(served, {"model": "nano", "prompt": [part("image_url", FLAG)]}, "/v1/completions")[0] == 400
    assert served.get("/health")[0] == 200

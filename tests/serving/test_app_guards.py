"""Who may ask, of which host, and with how much: over real sockets where that matters."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest

from internvl.errors import UsageError
from internvl.serving import bodies, guards, keys
from internvl.serving.fields import RequestLimits
from internvl.serving.settings import read_keys
from tests.serving.echo import KEY, Echo, listening, served
from tests.serving.requests import chat

OTHER = "sk-fedcba9876543210"
PATIENCE = 120.0


def requests_of(app):
    """A request for each route that the application has, and some for what it has not."""
    for route in app.routes:
        path = route.path.replace("{model:path}", "echo").replace("{path:path}", "")
        for method in getattr(route, "methods", None) or ["GET"]:
            yield method, path
    yield from (
        ("GET", "/nowhere"),
        ("POST", "/v1"),
        ("GET", "/health/"),
        ("GET", "//health"),
    )


# ---- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {OTHER}",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Basic {base64.b64encode(f'me:{OTHER}'.encode()).decode()}",
        KEY,
        f"Token {KEY}",
        "Bearer é",
    ],
)
def test_nothing_but_health_is_told_without_a_key(header):
    with served(keys=(KEY,)) as client:
        headers = {} if header is None else {"Authorization": header.encode()}
        for method, path in requests_of(client.app):
            answer = client.request(method, path, headers=headers)
            if path == "/health":
                assert answer.status_code == 200
                continue
            assert (method, path, answer.status_code) == (method, path, 401)
            assert "WWW-Authenticate" in answer.headers


def test_the_test_of_keys_can_fail(monkeypatch):
    monkeypatch.setattr(guards, "OPEN", ("/health", "/metrics"))
    with pytest.raises(AssertionError):
        test_nothing_but_health_is_told_without_a_key(None)


def test_any_of_the_keys_opens():
    with served(keys=(KEY, OTHER)) as client:
        for key in (KEY, OTHER):
            assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
            assert client.get("/v1/models", headers={"Authorization": f"bearer  {key}"}).status_code == 200


def test_keys_are_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append(b) or a == b)
    assert keys.known(b"a", [b"a", b"b", b"c"]) == b"a"
    assert compared == [b"a", b"b", b"c"]


def test_one_key_of_many_is_one_user():
    backend = Echo()
    with served(backend, keys=(KEY, OTHER)) as client:
        for key, user in ((KEY, "a"), (KEY, "b"), (OTHER, "a")):
            headers = {"Authorization": f"Bearer {key}"}
            client.post("/v1/chat/completions", json=chat(model="echo", user=user), headers=headers)
    users = [user for _, user in backend.orders]
    assert users[0] == users[1] != users[2]
    assert KEY not in str(users)


def test_with_one_key_a_request_says_whose_it_is():
    backend = Echo()
    with served(backend, keys=(KEY,), headers={"Authorization": f"Bearer {KEY}"}) as client:
        client.post("/v1/chat/completions", json=chat(model="echo", user="a"))
    assert backend.orders[0][1] == "a"


def test_keys_are_read_from_a_file_and_the_environment(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n  {OTHER}  \n")
    third = "sk-00000000000000000000"
    file.chmod(0o600)
    assert read_keys(file, {"INTERNVL_API_KEYS": f"{third}, {KEY},"}) == (KEY, OTHER, third)
    file.write_text("# none\n")
    for wrong in (file, tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError):
            read_keys(wrong, {})


# ---- hosts and origins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("mine.example:443", 200),
    ],
)
def test_this_machine_is_asked_by_its_name(host, status):
    """Else a page of somebody else's, whose name is made to mean this machine, could ask."""
    with served(server_names=("mine.example",)) as client:
        assert client.get("/v1/models", headers={"Host": host}).status_code == status


def test_it_is_asked_by_the_address_that_it_listens_at():
    with served(host="127.0.0.2") as client:
        assert client.get("/v1/models", headers={"Host": "127.0.0.2:8000"}).status_code == 200
        assert client.get("/v1/models", headers={"Host": "127.0.0.3"}).status_code == 421


def test_other_origins_are_not_let_in():
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with served() as client:
        asked = client.get("/v1/models", headers={"Origin": "https://a.example"})
        assert not [name for name in asked.headers if name.startswith("access-control")]
        assert client.options("/v1/chat/completions", headers=preflight).status_code == 405
    with served(origins=("https://a.example",), keys=(KEY,)) as client:
        let_in = client.options("/v1/chat/completions", headers=preflight)
        assert let_in.headers["access-control-allow-origin"] == "https://a.example"
        assert let_in.status_code == 200
        more = preflight | {"Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang"}
        assert client.options("/v1/chat/completions", headers=more).status_code == 200, "OpenAI's client sends more"
        refused = client.post("/v1/chat/completions", headers={"Origin": "https://a.example"}, json={})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example", "so that the page can read why"
        other = client.options("/v1/chat/completions", headers=preflight | {"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        put = client.options("/v1/models", headers=preflight | {"Access-Control-Request-Method": "PUT"})
        assert put.headers["access-control-allow-origin"] == "https://a.example"
        for answer, said in ((other, "--allow-origin"), (put, "GET and POST only")):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "cross_origin_refused")
            assert said in error["message"]
            assert answer.headers["vary"].startswith("Origin")


def test_a_form_of_another_page_is_no_request():
    """A browser sends these without asking first."""
    with served() as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", None):
            headers = {} if kind is None else {"Content-Type": kind}
            answer = client.post("/v1/chat/completions", content=json.dumps(chat(model="echo")), headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_every_answer_has_headers_that_browsers_heed():
    with served() as client:
        for path in ("/health", "/nowhere", "/v1/models"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "server" not in headers


def test_load_balancers_may_ask_with_head():
    with served(keys=(KEY,)) as client:
        signed = {"Authorization": f"Bearer {KEY}"}
        asked = (client.head("/health"), client.head("/ready"), client.head("/ready", headers=signed))
    assert [answer.status_code for answer in asked] == [200, 401, 200]


def test_routing_refuses_in_the_shape_of_all_errors():
    with served() as client:
        for method, path, status in (
            ("GET", "/nowhere", 404),
            ("GET", "/v1/chat/completions", 405),
            ("PUT", "/health", 405),
        ):
            answer = client.request(method, path)
            assert answer.status_code == status
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert client.get("/v1/chat/completions").headers["allow"] == "POST"


# ---- how much --------------------------------------------------------------------------------------------------------

SMALL = RequestLimits(body=10_000, messages=5, n=2)


def test_a_large_body_is_refused_before_it_is_read():
    with served(limits=SMALL) as client:
        big = chat(model="echo", user="x" * 20_000)
        said = client.post("/v1/chat/completions", json=big)
        in_pieces = client.post("/v1/chat/completions", content=iter([b"x" * 5_000] * 4),
                                headers={"Content-Type": "application/json"})  # fmt: skip
        fits = client.post("/v1/chat/completions", json=chat(model="echo"))
    assert (said.status_code, in_pieces.status_code, fits.status_code) == (413, 413, 200)
    assert said.json()["error"]["code"] == in_pieces.json()["error"]["code"] == "body_too_large"


def test_whoever_sends_too_much_reads_why():
    with listening(limits=SMALL) as server, server.client() as client:
        for content in (b"x" * 3_000_000, iter([b"x" * 100_000] * 10)):
            answer = client.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code == 413
    with listening(keys=(KEY,)) as server, server.client() as client:
        assert client.post("/v1/chat/completions", content=b"x" * 3_000_000).status_code == 401


def test_bodies_together_are_bounded(monkeypatch):
    monkeypatch.setattr(bodies, "HELD", 1)
    backend = Echo(pause=0.02)
    with listening(backend, limits=SMALL) as server, server.client() as client:
        large = chat(model="echo", messages=[{"role": "user", "content": "x" * 7_000}])
        other, sent = server.client(), {"json": large | {"max_tokens": 7_000}}
        first = threading.Thread(target=other.post, args=("/v1/chat/completions",), kwargs=sent)
        first.start()
        until(lambda: backend.open == 1)
        assert client.post("/v1/chat/completions", json=large).status_code == 429
        backend.pause = 0.0
        first.join()
        other.close()
        assert client.post("/v1/chat/completions", json=large | {"max_tokens": 1}).status_code == 200


def until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.01)


def talk(port: int, *pieces: bytes, pause: float = 0.0, patience: float = PATIENCE) -> bytes:
    """What comes back for bytes as they are."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                break
            time.sleep(pause)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65_536):
                found += piece
        return found


def test_headers_are_bounded():
    with listening() as server:
        ask = b"GET /health%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Long: %s\r\n\r\n"
        for long in (33_000, 60_000, 200_000, 1_000_000):  # some come in one piece, some in several
            for line, more in ((b"", b"x" * long), (b"?" + b"x" * long, b"")):
                answer = talk(server.port, ask % (line, more))
                assert answer.startswith(b"HTTP/1.1 431 "), long
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"
        assert talk(server.port, ask % (b"", b"x" * 32_000)).startswith(b"HTTP/1.1 200 ")
        assert talk(server.port, b"what?\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        with server.client() as client:
            assert client.get("/health").status_code == 200


def test_nobody_waits_for_headers_that_do_not_come(monkeypatch):
    monkeypatch.setattr("internvl.serving.listen.HEAD_SECONDS", 1.0)
    with listening() as server:
        assert talk(server.port) == b""
        assert talk(server.port, b"GET /health HTTP/1.1\r\n", b"Host: localhost\r\n", pause=0.6) == b""
        with server.client() as client:  # and who asks again over the same connection is not cut off
            assert client.get("/health").status_code == 200
            time.sleep(1.2)
            assert client.get("/health").status_code == 200


def test_nobody_waits_for_a_body_that_does_not_come():
    with listening(body_seconds=0.3) as server:
        begun = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        answer = talk(server.port, begun + b"Content-Length: 50\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_nobody_waits_for_the_rest_of_a_request_that_is_answered(monkeypatch):
    """An answer that needs no body would leave a connection on which one may drip for ever."""
    monkeypatch.setattr("internvl.serving.listen.HEAD_SECONDS", 0.5)
    with listening() as server:
        begun = time.monotonic()
        head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(head)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
            with contextlib.suppress(ConnectionError):  # whoever writes on is cut off
                while time.monotonic() - begun < 60:
                    connection.sendall(b"x")
                    time.sleep(0.2)
        assert time.monotonic() - begun < 10
        until(lambda: not server.server.server_state.connections)
        two = b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
        last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert talk(server.port, two, b"x", b"x", last, pause=0.1).count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize("path", [b"/health", b"/ui/", b"/v1/chat/completions"])
def test_no_request_hides_in_another(path):
    head = b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n"
    with listening() as server:
        answer = talk(server.port, head + b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b'"invalid_http"' in answer


def test_connections_are_bounded():
    with listening(connections=3) as server:
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        until(lambda: len(server.server.server_state.connections) == 3)
        assert talk(server.port).startswith(b"HTTP/1.1 503 ")
        for one in held:
            one.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3},
        {"n": 10**9},
        {"messages": [{"role": "user", "content": "Hi"}] * 6},
        {"messages": []},
        {"max_tokens": 10**12},
        {"top_logprobs": 10**9, "logprobs": True},
        {"stop": ["a"] * 1000},
        {"guided_choice": ["x"] * 100_000},
        {"guided_regex": "(" * 5_000},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"enum": list(range(50_000))}},
            }
        },
        {"chat_template_kwargs": {"tokenize": False}},
        {"seed": 10**400},
    ],
)
def test_what_asks_too_much_is_refused_and_others_are_not(fields):
    limits = RequestLimits(messages=5, n=2)
    with served(limits=limits) as client:
        refused = client.post("/v1/chat/completions", json=chat(model="echo") | fields)
        fine = client.post("/v1/chat/completions", json=chat(model="echo"))
    assert refused.status_code == 400
    assert refused.json()["error"]["code"]
    assert fine.status_code == 200


def test_a_schema_too_deep_is_refused():
    schema = {"type": "object"}
    for _ in range(60):
        schema = {"type": "object", "properties": {"a": schema}}
    deep = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    body = json.dumps(chat(model="echo", response_format=deep))
    nested = body[:-1] + ', "metadata": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}"
    with served() as client:
        for content in (body, nested):
            refused = client.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
            assert refused.status_code == 400
            assert refused.json()["error"]["code"] in ("limit_exceeded", "invalid_value")


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Content-Encoding": "gzip"}, "send the body as it is"),
        ({"Content-Encoding": "br, gzip"}, "send the body as it is"),
        ({"Content-Type": "application/json; charset=latin1"}, "send UTF-8"),
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize"]
)
def test_a_body_that_is_packed_or_of_another_charset_is_told_so(path, headers, said):
    with served() as client:
        headers = {"Content-Type": "application/json", **headers}
        refused = client.post(path, content=gzip.compress(b"{}"), headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media_type")
        assert said in refused.json()["error"]["message"]

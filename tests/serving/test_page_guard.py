"""Every route of the page is behind one sign-in and its limits, whatever its library brings; none leads outside."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import json
import re
import socket
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

if importlib.util.find_spec("gradio") is None:
    pytest.skip(
        "the page is drawn by gradio, which is not installed (pip install 'internvl[ui]')", allow_module_level=True
    )

import gradio.routes
from starlette.testclient import TestClient

from internvl.errors import UsageError
from internvl.serving import bodies
from internvl.serving.page.app import Gate, Setup, in_a_loop, page_app
from internvl.serving.page.ask import Endpoint
from internvl.serving.page.guard import COOKIE, ROUTES, SMALL_BODY, PageGuard, is_used
from tests.serving.echo import KEY, listening, served
from tests.serving.test_app_guards import until

OTHER = "sk-fedcba9876543210"


@contextmanager
def alone(**gate):
    """The page without a server."""
    setup = Setup(endpoint=lambda scope: Endpoint("http://127.0.0.1:9/v1"), gate=Gate(**gate))
    with TestClient(page_app(setup), base_url="http://localhost", follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="module")
def locked():
    with alone(keys=(KEY, OTHER), upload=100_000) as client:
        yield client


@pytest.fixture
def signed(locked):
    locked.cookies.clear()
    assert locked.post("/sign-in", data={"key": KEY}).status_code == 303
    yield locked
    locked.cookies.clear()


@pytest.fixture
def nobody(locked):
    locked.cookies.clear()
    return locked


def every_route() -> list[tuple[str, str]]:
    """All that the library's application answers, with something in the place of each parameter."""
    found: list[tuple[str, str]] = []

    def walk(routes, before=""):
        for route in routes:
            path = before + getattr(route, "path", "")
            inner = getattr(route, "original_router", route)
            if getattr(inner, "routes", None):
                walk(inner.routes, path)
            for method in getattr(route, "methods", None) or ():
                found.append((method, re.sub(r"{[^}]*}", "x", path) or "/"))

    walk(in_a_loop(lambda: gradio.routes.App.create_app(gradio.Blocks(analytics_enabled=False))).routes)
    return sorted(set(found))


ALL = every_route()


def test_the_library_has_the_routes_that_this_test_is_about():
    paths = {path for _, path in ALL}
    assert len(ALL) > 50
    assert {
        "/config",
        "/gradio_api/upload",
        "/gradio_api/queue/join",
        "/gradio_api/proxy=x",
        "/gradio_api/info",
    } <= paths


@pytest.mark.parametrize(("method", "path"), ALL, ids=lambda one: str(one))
def test_no_route_answers_who_has_not_signed_in(nobody, method, path):
    answer = nobody.request(method, path)
    assert answer.status_code in (401, 404)
    if answer.status_code == 404 and method != "HEAD":
        assert answer.text == "there is no such path"
    if path == "/" and method == "GET":
        assert 'name="key"' in answer.text


@pytest.mark.parametrize(("method", "path"), [one for one in ALL if not is_used(*one)], ids=lambda one: str(one))
def test_what_the_page_does_not_need_is_not_there_even_with_a_key(signed, method, path):
    assert signed.request(method, path).status_code == 404


def test_what_is_dangerous_is_not_on_the_list():
    for path in (
        "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/run/predict", "/gradio_api/call/ask", "/gradio_api/info",
        "/gradio_api/vibe-edit/", "/gradio_api/custom_component/1/client/component/x", "/gradio_api/openapi.json",
        "/gradio_api/process_recording", "/monitoring", "/gradio_api/deep_link", "/login", "/gradio_api/token",
        "/assets/../config", "//gradio_api/upload", "/gradio_api/queue/status", "/gradio_api/component_server",
    ):  # fmt: skip
        assert not any(is_used(method, path) for method in ("GET", "POST", "HEAD", "PUT", "DELETE")), path


def test_the_list_catches_a_planted_hole(monkeypatch):
    """With a hole in the list the test of all routes would see another answer than 401 and 404."""
    monkeypatch.setattr(PageGuard, "person", lambda *_: "")
    with alone(keys=(KEY,)) as client:
        assert client.get("/config").status_code == 200


def test_every_entry_of_the_list_is_used_by_some_route_of_the_library():
    for methods, pattern in ROUTES:
        fits = [path for method, path in ALL if method in methods.split() and re.fullmatch(pattern, path)]
        assert fits or "assets" in pattern or "file=" in pattern, pattern


# ---- signing in ------------------------------------------------------------------------------------------------------


def test_a_key_signs_in_and_the_cookie_is_one_that_scripts_and_other_sites_cannot_use(nobody):
    answer = nobody.post("/sign-in", data={"key": KEY})
    said = answer.headers["set-cookie"].lower()
    assert answer.status_code == 303
    assert "httponly" in said
    assert "samesite=strict" in said
    assert KEY not in said
    page = nobody.get("/")
    assert page.status_code == 200
    assert "gradio-app" in page.text
    assert nobody.post("/sign-out").status_code == 303
    assert nobody.get("/config").status_code == 401


def test_a_cookie_that_was_signed_out_is_worth_nothing_again(signed):
    cookie = signed.cookies[COOKIE]
    signed.post("/sign-out")
    signed.cookies.set(COOKIE, cookie)
    assert signed.get("/config").status_code == 401


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {KEY}"}, {"authorization": "Basic eDpzay0wMTIzNDU2Nzg5YWJjZGVm"}]
)
def test_a_program_may_send_the_key_with_each_request(nobody, headers):
    assert nobody.get("/config", headers=headers).status_code == 200


@pytest.mark.parametrize("header", ["Bearer no", "Basic !", "Basic eA==", "Bearer", "Digest x", f"bearer  {KEY}x"])
def test_another_key_is_none(nobody, header):
    assert nobody.get("/config", headers={"authorization": header}).status_code == 401


def test_cookies_are_made_by_this_process_and_end(monkeypatch):
    guard = PageGuard(lambda *_: None, Gate(keys=(KEY, OTHER)))
    other = PageGuard(lambda *_: None, Gate(keys=(KEY, OTHER)))
    good = guard.cookie(OTHER)
    assert guard._owner(good) == OTHER
    assert other._owner(good) is None
    assert guard._owner(guard.cookie(KEY, now=time.time() - 13 * 3600)) is None
    end, _, signature = good.rpartition(".")
    later = f"9{end}"
    for wrong in ("", "x", good[:-1], f"{later}.{signature}", good.upper(), good + " ", "9" * 300):
        assert guard._owner(wrong) is None


def test_wrong_keys_keep_nobody_out():
    """Whoever has the key may come from the address of whoever tries: of one proxy, of one house."""
    with alone(keys=(KEY,)) as client:
        for number in range(20):
            assert client.post("/sign-in", data={"key": f"wrong-{number}"}).status_code == 401
        assert client.post("/sign-in", data={"key": KEY}).status_code == 303


def test_a_key_that_can_be_guessed_is_none():
    with pytest.raises(UsageError, match="shorter"):
        Gate(keys=("letmein",))


@pytest.mark.parametrize(("language", "word"), [("en", "API key"), ("zh-CN", "API 密钥")])
def test_the_form_speaks_the_language_of_the_browser(nobody, language, word):
    answer = nobody.get("/", headers={"accept-language": language})
    assert answer.status_code == 401
    assert word in answer.text
    assert "script" not in answer.text


# ---- from where, and how much ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}]
)
def test_other_sites_cannot_post(signed, headers):
    for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/sign-out"):
        assert signed.post(path, headers=headers).status_code == 403


def test_the_page_is_reached_by_its_own_name_only(signed):
    assert signed.get("/config", headers={"host": "evil.example"}).status_code == 421


def test_uploads_and_events_are_bounded(signed):
    big = {"files": ("a.png", b"x" * (100_000 + SMALL_BODY + 1))}
    assert signed.post("/gradio_api/upload", files=big).status_code == 413
    over = {"files": ("a.png", b"x" * 150_000)}
    assert signed.post("/gradio_api/upload", files=over).status_code == 413
    assert signed.post("/gradio_api/queue/join", content=b" " * (SMALL_BODY + 1)).status_code == 413
    assert signed.post("/sign-in", data={"key": "x" * 10_000}).status_code == 413
    fine = signed.post("/gradio_api/upload", files={"files": ("a.png", b"x" * 10_000)})
    assert fine.status_code == 200
    assert len(fine.json()) == 1


def test_what_was_sent_is_for_its_owner_only_and_goes_with_the_page():
    with alone() as client:
        [mine] = client.post("/gradio_api/upload", files={"files": ("a.png", b"x")}).json()
        folder = next(one for one in Path(mine).parents if one.name.startswith("internvl-ui-"))
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_a_full_folder_takes_no_more(monkeypatch):
    from internvl.serving.page import desk

    monkeypatch.setattr(desk, "MOST_HELD", 1)
    with alone() as client:
        first = client.post("/gradio_api/upload", files={"files": ("a.png", b"x")})
        second = client.post("/gradio_api/upload", files={"files": ("b.png", b"x")})
    assert (first.status_code, second.status_code) == (200, 507)


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/cancel", "/sign-in"])
def test_a_body_without_a_length_is_bounded_too(signed, path):
    def endless():
        yield b"--b\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n"
        for _ in range(40):
            yield b"x" * 65_536

    headers = {"content-type": "multipart/form-data; boundary=b" if path.endswith("upload") else "application/json"}
    answer = signed.post(path, content=endless(), headers=headers)
    assert answer.status_code == 413
    assert "the limit" in answer.text
    assert answer.headers["content-security-policy"]


def test_bodies_together_are_bounded(monkeypatch):
    """What comes while others hold nearly all that may be held is asked to come again."""
    monkeypatch.setattr(bodies, "HELD", 1)
    guard = page_app(Setup(endpoint=lambda scope: Endpoint("http://127.0.0.1:9/v1"), gate=Gate(upload=100_000)))
    assert isinstance(guard, PageGuard)
    with TestClient(guard, base_url="http://localhost") as client:
        guard._bodies.held = held = guard._bodies.most - 50_000
        refused = client.post("/gradio_api/upload", files={"files": ("a.png", b"x" * 60_000)})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert guard._bodies.held == held
        guard._bodies.held = 0
        assert client.post("/gradio_api/upload", files={"files": ("a.png", b"x" * 60_000)}).status_code == 200
        assert guard._bodies.held == 0


SLOW = 0.5
HEAD = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 100000\r\n\r\n"
PART = b"--b\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n"


@pytest.mark.parametrize("path", [b"/ui/gradio_api/upload", b"/ui/gradio_api/queue/join", b"/ui/gradio_api/cancel"])
def test_nobody_waits_for_a_body_that_drips(path):
    with (
        listening(ui=True, body_seconds=SLOW) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        begun = time.monotonic()
        kind = b"multipart/form-data; boundary=b" if path.endswith(b"upload") else b"application/json"
        connection.sendall(HEAD % (path, kind) + PART)
        answer = b""
        connection.settimeout(0.05)
        while not answer and time.monotonic() < begun + 10:
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65_536)
        assert SLOW <= time.monotonic() - begun < 2.0
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nconnection: close\r\n" in answer.lower()


@pytest.mark.parametrize("path", [b"/ui/gradio_api/upload", b"/ui/sign-in"])
def test_who_goes_away_while_sending_is_no_fault_of_the_server(path, caplog):
    caplog.set_level("INFO", "internvl.serving")
    with listening(ui=True) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall((HEAD % (path, b"multipart/form-data; boundary=b")).replace(b"100000", b"8000") + PART)
            until(lambda: server.server.server_state.connections)
            time.sleep(0.1)
        until(lambda: any(record.getMessage() == "request" for record in caplog.records))
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    [line] = [record.__dict__["values"] for record in caplog.records if record.getMessage() == "request"]
    assert (line["status"], line["gone"]) == (499, True)


def test_who_is_refused_cannot_drip_for_ever(monkeypatch):
    monkeypatch.setattr(bodies, "SWALLOWED_SECONDS", 0.3)
    with (
        listening(ui=True, keys=(KEY,)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.sendall(HEAD % (b"/ui/gradio_api/upload", b"text/plain"))
        connection.settimeout(0.1)
        begun, answer = time.monotonic(), b""
        while not answer and time.monotonic() - begun < 60:  # a byte now and then would be read for ever
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65_536)
        assert time.monotonic() - begun < 1.5
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()


def test_what_lasts_is_not_cut_after_its_body_has_come():
    with (
        listening(ui=True, body_seconds=0.2) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.sendall(b"GET /ui/gradio_api/heartbeat/abc HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        end = time.monotonic() + 0.8
        while (left := end - time.monotonic()) > 0:
            connection.settimeout(left)
            with contextlib.suppress(TimeoutError):
                assert connection.recv(65_536)


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/upload"])
def test_whoever_waits_for_the_end_of_a_connection_is_given_no_deadline(path):
    sent, seen, left = [], [], []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2):
            seen.append((await receive())["type"])
        await send({"type": "http.response.body", "body": b"the end"})

    async def ask() -> None:
        messages = [{"type": "http.request", "body": b'{"data": []}', "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await asyncio.sleep(0.3)
            left.append(True)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        method = "GET" if path.endswith("data") else "POST"
        scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", b"localhost")]}
        await PageGuard(app, Gate(body_seconds=0.1))(scope, receive, send)

    asyncio.run(ask())
    assert seen == ["http.request", "http.disconnect"]
    assert left, "it was told so by the client, and by no deadline"
    assert [one.get("status", one.get("body")) for one in sent] == [200, b"the end"]


def test_only_what_came_in_is_served(signed, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    [mine] = signed.post("/gradio_api/upload", files={"files": ("../../a.png", b"mine")}).json()
    assert "internvl-ui-" in mine
    assert signed.get(f"/gradio_api/file={mine}").content == b"mine"
    tried = [
        secret,
        "/etc/passwd",
        "http://127.0.0.1:9/x",
        f"{mine}/../../../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        __file__,
    ]
    for place in tried:
        assert signed.get(f"/gradio_api/file={place}").status_code in (403, 404), place


@pytest.mark.parametrize("name", ["a.html", "a.svg", "a.js", "a.css", "a.xml", "a.pdf", "a"])
def test_what_came_in_is_saved_and_never_run(signed, name):
    [mine] = signed.post("/gradio_api/upload", files={"files": (name, b"alert(1)")}).json()
    answer = signed.get(f"/gradio_api/file={mine}")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize("value", [{"path": "http://127.0.0.1:9/x", "meta": {"_type": "gradio.FileData"}}, [["x"]]])
def test_no_event_makes_the_library_fetch_anything(signed, value):
    for data in ([value], {"0": value}, value):
        event = {"data": data, "fn_index": 0, "session_hash": "a"}
        assert signed.post("/gradio_api/queue/join", content=json.dumps(event)).status_code == 400


# ---- what is in it ---------------------------------------------------------------------------------------------------


def test_nothing_of_the_page_comes_from_elsewhere(signed):
    page = signed.get("/")
    policy = page.headers["content-security-policy"]
    nonce = re.search(r"'nonce-([\w-]+)'", policy)
    assert nonce
    assert len(re.findall(rf'<script nonce="{nonce[1]}"', page.text)) == len(re.findall(r"<script[\s>]", page.text)) > 1
    assert "unsafe-inline" not in policy.split("style-src")[0]
    assert "http" not in policy
    outside = re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', page.text)
    assert not outside
    assert "og:image" not in page.text
    style = signed.get("/page.css")
    assert style.status_code == 200
    assert not re.findall(r"url\((?!\s*['\"]?data:)", style.text)
    assert signed.get("/theme.css").status_code == 200
    assert "fonts.g" not in signed.get("/theme.css").text
    again = signed.get("/").headers["content-security-policy"]
    assert again != policy


def test_two_people_do_not_share_a_conversation():
    from internvl.serving.page.desk import Page

    page = Page(lambda scope: Endpoint("http://127.0.0.1:9/v1"), desk=None)  # pyright: ignore[reportArgumentType]
    page.swept = time.time()
    assert page.talk_of("tab", KEY) is page.talk_of("tab", KEY)
    assert page.talk_of("tab", KEY) is not page.talk_of("tab", OTHER)


def test_in_a_server_the_page_is_behind_the_keys_of_its_api():
    with served(ui=True, keys=(KEY,)) as client:
        client.follow_redirects = False
        assert client.get("/ui/").status_code == 401
        assert 'action="/ui/sign-in"' in client.get("/ui/").text
        assert client.get("/ui/config").status_code == 401
        assert client.get("/ui/gradio_api/proxy=x").status_code == 404
        assert client.post("/ui/sign-in", data={"key": KEY}).headers["location"] == "/ui/"
        page = client.get("/ui/")
        assert page.status_code == 200
        assert "gradio-app" in page.text
        assert client.get("/ui/config").status_code == 200
        assert client.get("/ui").status_code in (303, 307)
        found = client.get("/")
        assert (found.status_code, found.headers["location"]) == (307, "/ui/"), "whoever leaves the path out"
        assert client.get("/v1/models").status_code == 401, "the cookie of the page opens nothing else"
        picture = io.BytesIO()
        Image.new("RGB", (4, 4)).save(picture, "PNG")
        [mine] = client.post("/ui/gradio_api/upload", files={"files": ("a.png", picture.getvalue())}).json()
        assert client.get(f"/ui/gradio_api/file={mine}").status_code == 200
        client.cookies.clear()
        assert client.get(f"/ui/gradio_api/file={mine}").status_code == 401

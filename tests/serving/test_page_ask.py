"""The page as a client, and as what opens files: against a server that says what a test wants, with no browser."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

pytest.importorskip("httpx", reason="the page asks with httpx, which is not installed (pip install 'internvl[ui]')")

from types import SimpleNamespace

from internvl.data.limits import Limits
from internvl.errors import UsageError
from internvl.inference.remote import Listed
from internvl.inference.remote_chat import Drawn
from internvl.serving.page import ask
from internvl.serving.page.answering import Desk, answer, prepare
from internvl.serving.page.app import own_endpoint
from internvl.serving.page.ask import Count, End, Endpoint, Failed, Part, endpoint_of
from internvl.serving.page.desk import Asked, Page
from internvl.serving.page.opening import opened
from internvl.serving.page.talk import Talk, Wishes
from internvl.serving.page.words import say
from tests.data.test_video import film

WISHES = Wishes(model="nano", owner="internvl")


def chunk(text: str) -> dict:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"image_tokens": 4}},
}


@contextmanager
def server(status=200, body=b"", headers=(), lines=None, hang=False):
    """One answer to everything; `asked` has the bodies, `gone` is set when a client leaves a stream."""
    asked, gone = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            for line in lines or ():
                self.wfile.write(line if isinstance(line, bytes) else f"data: {json.dumps(line)}\n\n".encode())
                self.wfile.flush()
            self.wfile.write(body)
            try:
                while hang:
                    self.wfile.write(b": still here\n\n")
                    self.wfile.flush()
                    gone.wait(0.05)
            except OSError:
                gone.set()

        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield Endpoint(f"http://127.0.0.1:{http.server_port}/v1"), asked, gone
        finally:
            http.shutdown()


def heard(endpoint: Endpoint) -> list:
    async def collect():
        return [one async for one in ask.answers(endpoint, {"model": "nano"})]

    return asyncio.run(collect())


def test_an_answer_comes_piece_by_piece():
    with server(lines=[b": a comment\n\n", chunk("to"), chunk("day"), END, USAGE, b"data: [DONE]\n\n"]) as (
        endpoint,
        _,
        _,
    ):
        assert heard(endpoint) == [Part("to"), Part("day"), End("stop"), Count(9, 2, 4, None)]


REFUSED = json.dumps({"error": {"message": "max_tokens: found 9,\n at most 4", "param": "max_tokens"}}).encode()
PLACE = "messages[0].content[0].image_url.url"
NO_PICTURES = json.dumps({"error": {"message": f"{PLACE}: no pictures are taken here", "param": PLACE}}).encode()


@pytest.mark.parametrize(
    ("answered", "word", "filled"),
    [
        ({"status": 400, "body": REFUSED}, "refused", {"said": "max_tokens: found 9, at most 4"}),
        ({"status": 400, "body": NO_PICTURES}, "refused", {"said": "no pictures are taken here"}),
        ({"status": 401, "body": REFUSED}, "key", {}),
        ({"status": 413, "body": REFUSED}, "refused", {"said": "max_tokens: found 9, at most 4"}),
        ({"status": 429, "headers": [("Retry-After", "7")]}, "busy", {"seconds": 7}),
        ({"status": 429, "headers": [("Retry-After", "soon")]}, "busy", {"seconds": 5}),
        ({"status": 503}, "starting", {"seconds": 5}),
        ({"status": 500, "body": b"<html>"}, "broken", {}),
        ({"status": 302, "headers": [("Location", "http://127.0.0.1:9/")]}, "broken", {}),
        ({"lines": [chunk("to")]}, "broken", {}),
        ({"lines": [b"data: {\n\n"]}, "broken", {}),
        ({"lines": [chunk("to"), {"error": {"message": "gone"}}]}, "refused", {"said": "gone"}),
        ({"lines": [{"choices": 3}, b"data: [DONE]\n\n"]}, "broken", {}),
        ({"body": b"no stream"}, "broken", {}),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_goes_wrong_is_one_line_of_the_page(answered, word, filled):
    with server(**answered) as (endpoint, _, _), pytest.raises(Failed) as failed:
        heard(endpoint)
    assert (failed.value.word, failed.value.filled) == (word, filled)


def test_a_server_that_is_away_is_told():
    with pytest.raises(Failed, match="away"):
        heard(Endpoint("http://127.0.0.1:9/v1"))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a/v1", "http://", "http://a:0/v1", "http://a:x/v1", ""])
def test_an_endpoint_is_an_address(url):
    with pytest.raises(UsageError, match="expected an address"):
        endpoint_of(url)


def test_models_that_only_make_vectors_are_not_offered():
    listed = {"data": [{"id": "a", "owned_by": "internvl", "max_model_len": 9}, {"id": "a-c", "owned_by": "internvl"}]}
    with server(body=json.dumps(listed).encode()) as (endpoint, _, _):
        assert asyncio.run(ask.models(endpoint)) == {"a": "internvl"}


@pytest.mark.parametrize(
    ("said", "tiles"),
    [({"images": [{"tiles": 5}, {"tiles": 1}]}, (5, 1)), ({"count": 3}, None), ({"images": [{"tiles": "x"}]}, ())],
)
def test_the_server_says_how_pictures_are_cut(said, tiles):
    with server(body=json.dumps(said).encode()) as (endpoint, _, _):
        assert asyncio.run(ask.tiles(endpoint, {})) == tiles


def test_a_server_without_tokenize_says_nothing_of_tiles():
    with server(status=404, body=b"{}") as (endpoint, _, _):
        assert asyncio.run(ask.tiles(endpoint, {})) is None


# ---- an answer on the page -------------------------------------------------------------------------------------------


def answered(endpoint: Endpoint, *, stop_after: str | None = None) -> Talk:
    """What a talk is after one question."""
    talk = Talk()
    turn = talk.begin("Hi")

    async def run():
        async for _ in answer(talk, turn, WISHES, endpoint):
            if stop_after is not None and turn.answer == stop_after:
                talk.stopping.set()

    asyncio.run(run())
    return talk


def test_a_turn_ends_with_what_it_took():
    with server(lines=[chunk("to"), chunk("day"), END, USAGE, b"data: [DONE]\n\n"]) as (endpoint, asked, _):
        [turn] = answered(endpoint).turns
    assert (turn.state, turn.answer, turn.finish, turn.model) == ("done", "today", "stop", "nano")
    assert turn.took is not None
    assert (turn.took.prompt, turn.took.image, turn.took.answer) == (9, 4, 2)
    assert turn.took.first is not None
    assert asked[0]["messages"] == [{"role": "user", "content": "Hi"}]


def test_a_stop_keeps_what_came_and_lets_the_server_go():
    with server(lines=[chunk("to")], hang=True) as (endpoint, _, gone):
        [turn] = answered(endpoint, stop_after="to").turns
        assert gone.wait(20)
    assert (turn.state, turn.answer) == ("stopped", "to")


def test_a_stop_before_the_first_word_is_one_too():
    with server(hang=True) as (endpoint, _, gone):
        talk = Talk()
        turn = talk.begin("Hi")

        async def run():
            asyncio.get_running_loop().call_later(0.5, talk.stopping.set)
            async for _ in answer(talk, turn, WISHES, endpoint):
                pass

        asyncio.run(run())
        assert gone.wait(20)
    assert turn.state == "stopped"


def test_an_answer_that_fails_says_why_and_can_be_asked_for_again(tmp_path):
    with server(status=429) as (busy, _, _), server(lines=[chunk("ok"), END, b"data: [DONE]\n\n"]) as (fine, _, _):
        talk = Talk()
        turn = talk.begin("Hi")

        async def run():
            async for _ in answer(talk, turn, WISHES, busy):
                pass
            assert (turn.state, turn.failure) == ("failed", ("busy", {"seconds": 5}))
            async for _ in page(tmp_path).again(talk, WISHES, fine):
                pass

        asyncio.run(run())
    assert (turn.state, turn.answer, turn.failure) == ("done", "ok", None)


# ---- files -----------------------------------------------------------------------------------------------------------


def page(folder) -> Page:
    desk = Desk(folder=folder, limits=Limits(bytes=2**20, local=False, pages=4), opening=asyncio.Semaphore(1))
    return Page(lambda scope: Endpoint("http://127.0.0.1:9/v1"), desk)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "sent"
    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "a.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 30), "red").save(folder / "turned.jpg", exif=turned)
    Image.new("RGB", (40, 30), "blue").save(folder / "a.bmp")
    Image.new("RGB", (60, 80), "ivory").save(
        folder / "d.pdf", save_all=True, append_images=[Image.new("RGB", (80, 60))]
    )
    (folder / "v.mp4").write_bytes(film("mp4", "mpeg4", frames=16, rate=8))
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (folder / "page.html").write_text("<html>")
    (folder / "big.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 2**20)
    return folder


def open_one(folder, name, tmp_path, frames=4):
    desk = page(tmp_path).desk
    return asyncio.run(opened(folder / name, name, tmp_path, desk.limits, frames=frames))


@pytest.mark.parametrize(
    ("name", "kind", "sizes", "suffix"),
    [
        ("a.png", "picture", [(40, 30)], ".png"),
        ("turned.jpg", "picture", [(30, 40)], ".jpg"),
        ("a.bmp", "picture", [(40, 30)], ".png"),
        ("d.pdf", "page", [(1344, 1792), (1792, 1344)], ".png"),
        ("v.mp4", "frame", [(64, 48)] * 4, ".jpg"),
    ],
)
def test_a_file_becomes_the_pictures_that_the_model_is_shown(files, tmp_path, name, kind, sizes, suffix):
    upload = open_one(files, name, tmp_path)
    assert [one.kind for one in upload.shown] == [kind] * len(sizes)
    assert [one.size for one in upload.shown] == sizes
    assert all(one.file.suffix == suffix and one.file.parent == tmp_path for one in upload.shown)
    if suffix == name[-4:]:
        assert upload.shown[0].file.read_bytes() == (files / name).read_bytes()
    if kind == "frame":
        assert [one.seconds for one in upload.shown] == sorted({one.seconds for one in upload.shown})
    if kind == "page":
        assert [one.number for one in upload.shown] == [1, 2]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bad.png", "header of the picture is damaged"),
        ("page.html", "no picture, video or PDF"),
        ("big.png", "larger than"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_says_why(files, tmp_path, name, said):
    with pytest.raises(Failed) as failed:
        open_one(files, name, tmp_path)
    assert failed.value.word == "unreadable"
    assert failed.value.filled["name"] == name
    assert said in str(failed.value.filled["said"])
    assert str(files) not in str(failed.value.filled["said"])


def test_a_question_with_files_is_asked_with_their_pictures(files, tmp_path):
    lines = [chunk("ok"), END, b"data: [DONE]\n\n"]
    with server(lines=lines) as (endpoint, asked, _):
        own, talk = page(tmp_path), Talk()
        sent = tmp_path / "upload.pdf"
        sent.write_bytes((files / "d.pdf").read_bytes())

        async def run():
            async for _ in own.ask(talk, Asked("What?", ((sent, "d.pdf"),)), WISHES, endpoint):
                pass
            # In other words, with its pages.
            async for _ in own.ask(talk, Asked("And?", since=1, kept=(0,)), WISHES, endpoint):
                pass

        asyncio.run(run())
    first, second = (one["messages"] for one in asked)
    assert [part["type"] for part in first[0]["content"]] == ["image_url", "image_url", "text"]
    assert [part["type"] for part in second[0]["content"]] == ["image_url", "image_url", "text"]
    assert second[0]["content"][-1]["text"] == "And?"
    assert len(talk.turns) == 1
    assert not sent.exists(), "what was sent is gone once it is open"
    own.talks["", "tab"] = talk
    pictures = [one.file for one in talk.turns[0].shown]
    assert all(file.exists() for file in pictures)
    own.clear(talk)
    assert not any(file.exists() for file in pictures)


def test_a_refused_file_leaves_a_turn_that_says_so(files, tmp_path):
    own, talk = page(tmp_path), Talk()
    turn = talk.begin("What?")

    async def run():
        async for _ in prepare(own.desk, talk, turn, [(files / "bad.png", "bad.png")], WISHES):
            pass

    asyncio.run(run())
    assert turn.state == "failed"
    assert turn.sent == ("bad.png",)


def test_of_several_refused_files_all_are_named(files, tmp_path):
    own = page(tmp_path)
    sent = [(files / name, name) for name in ("a.png", "bad.png", "page.html")]
    before = sorted(own.desk.folder.rglob("*"))
    with pytest.raises(Failed) as failed:
        asyncio.run(own.desk.open(sent, 4))
    said = say(failed.value.word, "en", **failed.value.filled)
    assert re.fullmatch(r"These files cannot be used: bad\.png \(.*damaged.*\); page\.html \(.*no picture.*\)", said)
    assert sorted(own.desk.folder.rglob("*")) == before, "nothing stays of those that could be used"


def test_the_folder_that_the_server_was_started_in_is_no_place_for_modules(files, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    assert len(open_one(files, "a.png", tmp_path).shown) == 1


def test_the_process_that_opens_files_is_told_no_secrets(monkeypatch):
    from internvl.serving.page.opening import _environment

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("INTERNVL_API_KEYS", "sk-secret")
    assert not any("secret" in value for value in _environment().values())


@pytest.mark.parametrize(
    ("endpoint", "trusts"),
    [
        (endpoint_of("http://models.example/v1"), True),
        (endpoint_of("http://localhost:8000/v1"), False),
        (own_endpoint({"type": "http", "server": ("192.168.1.5", 8000)}), False),
    ],
)
def test_no_proxy_stands_before_this_machine(endpoint, trusts):
    assert endpoint.client().trust_env is trusts


@pytest.mark.parametrize("owner", [None, "somebody", "vllm", "internvl"])
def test_the_page_sends_what_the_command_line_would(owner):
    wishes = Wishes(model="m", owner=owner, temperature=1.0, top_k=5, repetition_penalty=1.2, max_tiles=3)
    remote = SimpleNamespace(model="m", served={"m": Listed(owner, None)}, describe=lambda: {"endpoint": "x"})
    for name, value in wishes.wanted.items():
        if name in wishes.left_out:
            with pytest.raises(UsageError):
                Drawn(extra={name: value}).check(remote)
        else:
            Drawn(extra={name: value}).check(remote)

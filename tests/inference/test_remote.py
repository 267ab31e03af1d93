"""The client of OpenAI-style servers: what goes over the wire, and what happens when it does not come back."""

import base64
import io
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from internvl.data.image import to_rgb
from internvl.data.media import open_image
from internvl.data.prompts import Image, ImageSlot, Message, Text, bind
from internvl.errors import EndpointError, UsageError
from internvl.inference.contents import address_of, contents
from internvl.inference.remote import Listed, Remote, concurrently
from internvl.inference.said import Said
from tests.evaluation.endpoint import Endpoint, completion, messages_of, serving

DOTS = [Pillow.new("RGB", (1, 1), (shade, 0, 0)) for shade in range(4)]


def spelt(messages: list[Message]) -> list[tuple[str, str]]:
    """Role and text of each message, a picture being written by its colour."""
    turns, pictures = bind(messages)
    colours = [f"[{picture.photo.getpixel((0, 0))[0]}]" for picture in pictures]
    return [(turn.role, "".join(colours[one.index] if isinstance(one, ImageSlot) else str(one) for one in turn.pieces))
            for turn in turns]  # fmt: skip


# ---- the wire --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "kinds"),
    [
        ((Image(DOTS[0]), "What?"), ["image_url", "text"]),
        ((Image(DOTS[0]), "<image>\nWhat?"), ["image_url", "text"]),
        ((Image(DOTS[0]), "<image>What?"), ["text", "image_url", "text"]),
        ((Image(DOTS[0]), "What is <image>?"), ["text", "image_url", "text"]),
        ((Image(DOTS[0]), Image(DOTS[1]), "Same?"), ["image_url", "image_url", "text"]),
        ((Image(DOTS[0]), Image(DOTS[1]), "Image-1: <image>\nImage-2: <image>\nSame?"), ["image_url"] * 2 + ["text"]),
        ((Image(DOTS[0]), Image(DOTS[1]), "<image><image>\nSame?"), ["text", "image_url", "image_url", "text"]),
        ((Image(DOTS[0]), Image(DOTS[1]), "Frame1: <image>\nFrame2: <image>\n?"), ["text", "image_url"] * 2 + ["text"]),
        ((Image(DOTS[0]), "<image>\n"), ["image_url"]),
    ],
)  # fmt: skip
def test_pictures_keep_their_places(parts, kinds):
    messages = [Message("user", parts)]
    [sent] = contents(messages)
    assert [part["type"] for part in sent["content"]] == kinds
    assert spelt(messages_of([sent])) == spelt(messages)


PIECES = st.lists(st.sampled_from(["<image>", "\n", "Image-1: ", "Image-2: ", "word", " "]), max_size=7)


@given(PIECES, st.booleans())
def test_whatever_is_asked_is_what_the_server_sees(pieces, system):
    text = "".join(pieces)
    images = [Image(dot) for dot in DOTS[: text.count("<image>")]]
    if len(images) < text.count("<image>"):
        return
    messages = [Message("system", ("Be brief.",))] if system else []
    messages.append(Message("user", (*images, text)))
    assert spelt(messages_of(contents(messages))) == spelt(messages)


def test_what_a_stranger_wrote_is_no_placeholder():
    messages = [Message("user", (Image(DOTS[1]), Text("What does <image> mean?"))), Message("assistant", ("?",)),
                Message("user", (Text("<image>"),))]  # fmt: skip
    assert spelt(messages_of(contents(messages))) == spelt(messages)


# ---- pictures --------------------------------------------------------------------------------------------------------


def saved(photo: Pillow.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    photo.save(stream, kind, **options)
    return stream.getvalue()


def noise(mode: str = "RGB") -> Pillow.Image:
    return Pillow.fromarray(np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_that_every_reader_understands_is_sent_as_it_is(kind):
    file = saved(noise(), kind)
    address = address_of(open_image(file), file)
    assert address == f"data:image/{kind.lower()};base64,{base64.b64encode(file).decode()}"


@pytest.mark.parametrize(
    "file",
    [
        saved(noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        saved(noise("RGBA"), "PNG"),
        saved(noise("P"), "GIF"),
        saved(noise("CMYK"), "JPEG"),
        saved(noise(), "BMP"),
    ],
    ids=["turned", "transparent", "gif", "cmyk", "bmp"],
)
def test_any_other_is_sent_as_what_we_see_in_it(file):
    photo = open_image(file)
    address = address_of(photo, file)
    assert address.startswith("data:image/png;base64,")
    seen = open_image(address)
    assert seen.mode == "RGB"
    assert np.array_equal(np.asarray(seen), np.asarray(to_rgb(photo)))


# ---- asking ----------------------------------------------------------------------------------------------------------

QUESTION = [{"role": "user", "content": "?"}]


def test_an_answer_and_what_was_asked_for(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(Endpoint(lambda body: completion("Yes.", tokens=2))) as endpoint:
        remote = Remote(endpoint.url, key="secret")
        assert remote.model == "tiny", "the only one that the server has"
        said = remote.ask(QUESTION, max_tokens=5, top_p=0.5, seed=7, extra={"max_tiles": 3})
        remote.ask(QUESTION, max_tokens=5, temperature=None)
    assert (said.text, said.finish, said.tokens) == ("Yes.", "stop", 2)
    assert endpoint.bodies[0] == {"model": "tiny", "messages": QUESTION, "max_tokens": 5, "temperature": 0.0,
                                  "top_p": 0.5, "seed": 7, "max_tiles": 3}  # fmt: skip
    assert endpoint.bodies[1] == {"model": "tiny", "messages": QUESTION, "max_tokens": 5}
    assert endpoint.keys == ["Bearer secret"] * 2
    assert "secret" not in str(remote.describe())


def test_the_key_of_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    with serving(Endpoint(lambda body: completion("Yes."))) as endpoint:
        Remote(endpoint.url).ask(QUESTION, max_tokens=5)
    assert endpoint.keys == ["Bearer from the environment"]


def test_a_busy_server_is_asked_again():
    with serving(Endpoint(lambda body: completion("Yes."), failures=[503, 429])) as endpoint:
        assert Remote(endpoint.url).ask(QUESTION, max_tokens=5).text == "Yes."
    assert len(endpoint.bodies) == 3


def test_a_server_that_knows_the_other_name_of_the_limit():
    complaint = "max_tokens is not supported; use max_completion_tokens"
    with serving(Endpoint(lambda body: completion("Yes."), failures=[400], complaint=complaint)) as endpoint:
        remote = Remote(endpoint.url)
        assert [remote.ask(QUESTION, max_tokens=5).text for _ in range(2)] == ["Yes.", "Yes."]
    limits = [{name: body[name] for name in body if "max" in name} for body in endpoint.bodies]
    assert limits == [{"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_completion_tokens": 5}]


def test_what_goes_wrong_is_said_in_one_line():
    with serving(Endpoint(lambda body: {"object": "nothing"}, failures=[500, 400, 401])) as endpoint:
        remote = Remote(endpoint.url, retries=0)
        for message in ("HTTP 500, told to fail", "refuses the question: HTTP 400", "HTTP 401", "no choices"):
            with pytest.raises(EndpointError, match=message) as caught:
                remote.ask(QUESTION, max_tokens=5)
            assert "\n" not in str(caught.value)
    with pytest.raises(EndpointError, match="is the server running"):
        Remote(endpoint.url, retries=0)
    with serving(Endpoint(lambda body: {}, models=("a", "b"))) as endpoint, pytest.raises(UsageError, match="a, b"):
        Remote(endpoint.url)
    with pytest.raises(UsageError, match="expected an address"):
        Remote("localhost:8000")


ANSWER = completion("Yes.")


@pytest.mark.parametrize(
    "garbage",
    [
        [1], None, "text", {**ANSWER, "choices": 5}, {**ANSWER, "choices": {"a": 1}}, {**ANSWER, "choices": [None]},
        {**ANSWER, "choices": [{}]}, {**ANSWER, "choices": [{"message": None}]},
        {**ANSWER, "choices": [{"message": {"content": 5}}]}, {**ANSWER, "choices": [{"message": {"content": ["a"]}}]},
    ],
)  # fmt: skip
def test_what_is_no_answer_is_not_taken_for_one(garbage):
    with (
        serving(Endpoint(lambda body: garbage)) as endpoint,
        pytest.raises(EndpointError, match=r"the answer holds no (choices|text); is this an OpenAI-style address"),
    ):
        Remote(endpoint.url, retries=0).ask(QUESTION, max_tokens=5)


def test_counts_and_endings_that_are_none_are_left_out():
    odd = {**completion("Yes."), "usage": {"completion_tokens": "many"}}
    odd["choices"] = [{"message": {"content": None}, "finish_reason": {"a": 1}}]
    with serving(Endpoint(lambda body: odd)) as endpoint:
        said = Remote(endpoint.url, retries=0).ask(QUESTION, max_tokens=5)
    assert (said.text, said.finish, said.tokens) == ("", None, None)


# ---- as it comes -----------------------------------------------------------------------------------------------------


def test_a_stream_adds_up_to_the_answer():
    with serving(Endpoint(lambda body: completion("Yes, it is 4 🙂.", "length", tokens=7))) as endpoint:
        remote = Remote(endpoint.url)
        stream = remote.stream(QUESTION, max_tokens=5, temperature=None, seed=7, extra={"max_tiles": 3})
        assert endpoint.bodies == [], "nothing is asked before the first piece is"
        pieces = list(stream)
    assert len(pieces) > 1
    assert stream.answer == Said(text="".join(pieces), finish="length", tokens=7, prompt=1)
    assert stream.answer.text == "Yes, it is 4 🙂."
    assert endpoint.bodies == [{"model": "tiny", "messages": QUESTION, "max_tokens": 5, "seed": 7, "max_tiles": 3,
                                "stream": True, "stream_options": {"include_usage": True}}]  # fmt: skip


def test_a_stream_waits_for_a_busy_server_and_learns_what_it_calls_things():
    with serving(Endpoint(lambda body: completion("Yes."), failures=[429, 503])) as endpoint:
        assert "".join(Remote(endpoint.url).stream(QUESTION)) == "Yes."
    assert len(endpoint.bodies) == 3
    assert "max_tokens" not in endpoint.bodies[0]
    for complaint, gone in (
        ("use max_completion_tokens", "max_tokens"),
        ("what are stream_options?", "stream_options"),
    ):
        with serving(Endpoint(lambda body: completion("Yes."), failures=[400], complaint=complaint)) as endpoint:
            stream = Remote(endpoint.url).stream(QUESTION, max_tokens=5)
            assert "".join(stream) == "Yes."
        assert gone in endpoint.bodies[0]
        assert gone not in endpoint.bodies[1]
        assert stream.answer.tokens == (None if gone == "stream_options" else 1)


def test_a_stream_that_breaks_off_is_no_answer():
    with serving(Endpoint(lambda body: completion("Yes."), ends=False)) as endpoint:
        stream = Remote(endpoint.url).stream(QUESTION)
        with pytest.raises(EndpointError, match="the answer broke off before its end"):
            list(stream)
        with pytest.raises(UsageError, match="has not ended"):
            stream.answer  # noqa: B018


def test_a_stream_that_is_closed_lets_the_server_stop():
    with serving(Endpoint(lambda body: completion("Yes, always."), hold=threading.Event())) as endpoint:
        stream = Remote(endpoint.url).stream(QUESTION)
        assert next(stream) == "Yes"
        stream.close()
        assert endpoint.left.wait(20), "the server goes on"
        assert list(stream) == []


@pytest.mark.parametrize("event", ["{nope", "5", "{}", '{"choices": [{}]}', '{"choices": [{"delta": {"content": 5}}]}'])
def test_events_that_are_none(event):
    with (
        standing(type("Said", (Raw,), {"content": f"data: {event}\n\n".encode()})) as url,
        pytest.raises(EndpointError, match="is no stream of an answer"),
    ):
        list(Remote(url, model="tiny", retries=0).stream(QUESTION))


def test_an_error_inside_a_stream():
    content = b'data: {"error": {"message": "out of\\nmemory"}}\n\n'
    with (
        standing(type("Said", (Raw,), {"content": content})) as url,
        pytest.raises(EndpointError, match=r"the answer broke off: out of memory$"),
    ):
        list(Remote(url, model="tiny", retries=0).stream(QUESTION))


@pytest.mark.parametrize(
    ("status", "key", "model", "says"),
    [
        (401, None, None, "no key was sent, set OPENAI_API_KEY"),
        (403, "sk-1", None, "is the key the right one?"),
        (404, None, "tony", "it has: tiny"),
        (404, None, "tiny", "told to fail$"),
        (404, None, "fail", "it has: tiny"),
    ],
)
def test_what_to_do_is_said(status, key, model, says, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(Endpoint(lambda body: completion("Yes."), failures=[status, status])) as endpoint:
        remote = Remote(endpoint.url, model=model, key=key, retries=0)
        for asked in (lambda: remote.ask(QUESTION), lambda: list(remote.stream(QUESTION))):
            with pytest.raises(EndpointError, match=rf"HTTP {status}.*{says}"):
                asked()


@pytest.mark.parametrize(
    ("path", "says"), [("", "mostly …/v1"), ("/", "mostly …/v1"), ("/v1", "is the server running")]
)
def test_an_address_that_ends_too_soon(path, says):
    class Elsewhere(Raw):
        def do_GET(self) -> None:
            self.send_error(404)

    with standing(Elsewhere) as url, pytest.raises(EndpointError, match=rf"HTTP 404.*; .*{says}"):
        Remote(url.removesuffix("/v1") + path)


def test_what_the_models_are():
    with serving(Endpoint(lambda body: {}, models=("b", "a"), owner="internvl")) as endpoint:
        assert Remote(endpoint.url, model="a").served == {"a": Listed("internvl", None), "b": Listed("internvl", None)}


def test_of_several_models_the_only_one_that_reads():
    listed = [{"id": "vectors", "owned_by": "internvl"}, {"id": "talks", "owned_by": "internvl", "max_model_len": 4096}]
    with standing(type("Said", (Raw,), {"content": json.dumps({"data": listed}).encode()})) as url:
        remote = Remote(url)
    assert remote.model == "talks"
    assert remote.served["talks"] == Listed("internvl", 4096)


# ---- what is no answer -----------------------------------------------------------------------------------------------


class Raw(BaseHTTPRequestHandler):
    """Says the same to everybody, whatever is asked."""

    content = b""

    def log_message(self, *_: object) -> None:
        pass

    def say(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.say(200, self.content)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.say(200, self.content)


@contextmanager
def standing(handler: type[Raw]) -> Generator[str]:
    """The address of a server made of a handler."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "content", [b"", b"{nope", b"\xff\xfe\x00", b"null", b'"text"', b'{"data": 5}', b'{"data": [{}]}']
)
def test_bytes_that_are_no_answer(content):
    with standing(type("Said", (Raw,), {"content": content})) as url:
        with pytest.raises(EndpointError, match="is this an OpenAI-style address"):
            Remote(url, model="tiny", retries=0).ask(QUESTION, max_tokens=5)
        with pytest.raises(EndpointError, match="no list of models"):
            Remote(url, retries=0)


def test_a_server_without_models():
    with (
        serving(Endpoint(lambda body: {}, models=())) as endpoint,
        pytest.raises(UsageError, match="has no models"),
    ):
        Remote(endpoint.url)


@pytest.mark.parametrize("url", ["http://[x/v1", "http://h:99999999/v1", "http://", "http:///v1", "ftp://h"])
def test_addresses_that_are_none(url):
    with pytest.raises(UsageError, match="expected an address"):
        Remote(url, model="m")


def test_a_key_is_never_shown():
    with serving(Endpoint(lambda body: {}, failures=[401], complaint="wrong key: sk-1234")) as endpoint:
        with pytest.raises(EndpointError, match=r"HTTP 401, wrong key: \*\*\*"):
            Remote(endpoint.url, model="m", key="sk-1234", retries=0).ask(QUESTION, max_tokens=5)
        for key in ("sk\n1234", "sk-1234\n", " ", "sk-é1234"):
            with pytest.raises(UsageError, match="letters that no key has") as caught:
                Remote(endpoint.url, model="m", key=key)
            assert "1234" not in str(caught.value)


def test_threads_that_learn_the_other_name_of_the_limit_together():
    """Both ask by the old name before either is told of the new one."""
    together = threading.Barrier(2)

    class Both(Raw):
        def do_POST(self) -> None:
            old = b'"max_tokens"' in self.rfile.read(int(self.headers["Content-Length"]))
            if old:
                together.wait(20)
            data = json.dumps({"error": {"message": "use max_completion_tokens"}} if old else ANSWER).encode()
            self.say(400 if old else 200, data)

    with standing(Both) as url:
        remote = Remote(url, model="m", retries=0)
        found = remote.ask_all(range(2), lambda _: remote.ask(QUESTION, max_tokens=5).text)
        assert sorted(found) == [(0, "Yes."), (1, "Yes.")]


def test_a_hanging_server_is_given_up_in_time():
    """Patience bounds the attempts and the pauses together, however many retries are left."""
    over = threading.Event()

    class Hanging(Raw):
        def do_POST(self) -> None:
            over.wait(30)
            self.close_connection = True

    with standing(Hanging) as url:
        try:
            with pytest.raises(EndpointError) as caught:
                Remote(url, model="m", patience=1.2, retries=50).ask(QUESTION, max_tokens=5)
        finally:
            over.set()
    said = str(caught.value)
    assert re.match(r"http://\S+: no answer in 1\.2 s \(asked (once|2 times), Request timed out", said)
    assert said.endswith("; see what the server does, or wait longer (internvl eval: --patience SECONDS)")


def test_a_busy_server_is_asked_again_but_not_without_end():
    with serving(Endpoint(lambda body: completion("Yes."), failures=[503, 429])) as endpoint:
        assert Remote(endpoint.url).ask(QUESTION, max_tokens=5).text == "Yes."
    assert len(endpoint.bodies) == 3
    with serving(Endpoint(lambda body: completion("Yes."), failures=[503] * 50)) as endpoint:
        with pytest.raises(EndpointError, match=r"no answer in 2 s \(asked [2345] times, HTTP 503, told to fail\)"):
            Remote(endpoint.url, patience=2.0, retries=50).ask(QUESTION, max_tokens=5)
        with pytest.raises(EndpointError, match="HTTP 503, told to fail"):
            Remote(endpoint.url, retries=1).ask(QUESTION, max_tokens=5)
    for patience in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="patience"):
            Remote(endpoint.url, model="m", patience=patience)


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_an_error_knows_its_status(status):
    with (
        serving(Endpoint(lambda body: completion("Yes."), failures=[status])) as endpoint,
        pytest.raises(EndpointError) as caught,
    ):
        Remote(endpoint.url, retries=0).ask(QUESTION, max_tokens=5)
    assert caught.value.status == status


def test_no_more_threads_than_requests():
    before = threading.active_count()
    seen: list[int] = []
    for _ in concurrently(lambda number: seen.append(threading.active_count()), range(3), 100_000):
        pass
    assert max(seen) <= before + 3


def test_no_more_is_drawn_than_is_under_way():
    drawn, freed = [], threading.Event()

    def requests():
        for number in range(20):
            drawn.append(number)
            yield number

    def work(number: int) -> int:
        assert freed.wait(20)
        return number * number

    found = concurrently(work, requests(), 3)
    threading.Timer(0.2, freed.set).start()
    first = next(found)
    assert len(drawn) == 3
    assert dict([first, *found]) == {number: number**2 for number in range(20)}


def test_after_an_error_the_others_are_still_given():
    def work(number: int) -> int:
        if number == 2:
            raise EndpointError("two")
        return number

    given: list[int] = []
    drawn = iter(range(100))
    found = concurrently(work, drawn, 4)
    with pytest.raises(EndpointError, match="two"):
        given.extend(number for number, _ in found)
    undrawn = next(drawn)
    assert undrawn < 100
    assert sorted(given) == [number for number in range(undrawn) if number != 2]

"""Fetching: what is never connected to, what a hostile server can do, and how long it can take."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time

import pytest
from PIL import Image

from internvl.data import fetch
from internvl.data.limits import Limits
from internvl.data.media import open_image, open_pdf, open_video
from internvl.errors import MediaError, MediaRefused, MediaUnreadable

PUBLIC = "93.184.216.34"
ANY = Limits(remote=True, seconds=5)


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(out, "PNG")
    return out.getvalue()


class Server:
    """Answers each connection by a script: bytes to send, or a function that gets the socket."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        for answer in self.answers:
            with contextlib.suppress(OSError):
                connection, _ = self.listener.accept()
                with connection:
                    self.requests.append(connection.recv(65536))
                    if callable(answer):
                        answer(connection)
                    else:
                        connection.sendall(answer)

    def connect(self, address, seconds):
        """Stands in for the network: every address leads here, and is written down."""
        self.addresses = [*getattr(self, "addresses", []), address]
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)

    def close(self):
        self.listener.close()


@pytest.fixture
def server():
    running = []

    def start(*answers) -> Server:
        running.append(Server(*answers))
        return running[-1]

    yield start
    for one in running:
        one.close()


def ok(body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def moved(place: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()


def get(server: Server, url: str = "http://example.org/a.png", limits: Limits = ANY, addresses=(PUBLIC,)) -> bytes:
    return fetch.fetch(url, limits, resolve=lambda host, port: list(addresses), connect=server.connect)


def never(*_):
    pytest.fail("a connection was made, or a name looked up, before the address was judged")


# ---- addresses -----------------------------------------------------------------------------------------------------

NOT_PUBLIC = """\
127.0.0.1 127.8.8.8 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 169.254.1.1 100.100.100.200
100.64.0.1 192.0.0.8 192.0.2.1 198.18.0.1 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
168.63.129.16 ::1 :: fe80::1 fe80::1%1 fc00::1 fd00:ec2::254 ff02::1 2001:db8::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1
::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1::1 2001:0:53aa:64c::1 100::1 localhost x
"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_never_connected_to(address, server):
    assert not fetch.is_public(address)
    with pytest.raises(MediaRefused, match="not on the public internet"):
        fetch.fetch("http://example.org/", ANY, resolve=lambda *_: [address], connect=never)
    with pytest.raises(MediaRefused, match="not on the public internet"):  # one bad answer among good ones is enough
        fetch.fetch("http://example.org/", ANY, resolve=lambda *_: [PUBLIC, address], connect=never)


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "64:ff9b::5db8:d822"])
def test_public_addresses(address):
    assert fetch.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.1/",
        "http://127.0.0.1./", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[::1%25lo]/", "http://127.0.0.1/",
        "http://１２７.0.0.1/", "http://①②⑦.0.0.1/", "http://0/", "http://[fe80::1]/",
    ],
)  # fmt: skip
def test_numeric_hosts_in_disguise(url):
    with pytest.raises(MediaRefused):
        fetch.fetch(url, ANY, connect=never)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://allowed.org@evil.org/a.png", "user or a password"),
        ("http://user:secret@example.org/a.png", "user or a password"),
        ("http://@example.org/", "user or a password"),
        ("http://evil.org\\@example.org/", "backslashes"),
        ("http://example.org/a b", "spaces"),
        ("http://example.org/\r\nX-Injected: 1", "control characters"),
        ("http://exam\tple.org/", "control characters"),
        ("ftp://example.org/a.png", "only http and https"),
        ("gopher://example.org/", "only http and https"),
        ("http:///a.png", "not a host name"),
        ("http://exa mple.org/", "spaces"),
        ("http://example..org/", "not a host name"),
        ("http://example.org%00.evil.org/", "not a host name"),
        ("http://[::1/", "not a proper address"),
        ("http://example.org:99999/", "not a proper address"),
        ("http://[zz::1]/", "not a proper address|not an IPv6"),
        ("http://example.org:22/", "port 22"),
    ],
)
def test_addresses_that_two_programs_might_read_differently(url, message):
    with pytest.raises(MediaRefused, match=message) as caught:
        fetch.fetch(url, ANY, resolve=never, connect=never)
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_network_is_off_by_default():
    for url in ("http://example.org/a.png", "HTTPS://example.org/a.png"):
        for opened in (open_image, open_video, open_pdf):
            with pytest.raises(MediaRefused, match="fetching from the network is off"):
                opened(url)


@pytest.mark.parametrize(
    ("host", "entry", "allowed"),
    [
        ("example.org", "example.org", True),
        ("EXAMPLE.org", "example.ORG", True),
        ("example.org.", "example.org", True),
        ("sub.example.org", "example.org", False),
        ("sub.example.org", "*.example.org", True),
        ("a.b.example.org", "*.example.org", True),
        ("example.org", "*.example.org", False),
        ("evilexample.org", "*.example.org", False),
        ("example.org.evil.org", "*.example.org", False),
        ("example.org:8080", "example.org", False),
        ("example.org:8080", "example.org:8080", True),
        ("example.org", "example.org:8080", False),
        ("bücher.example", "xn--bcher-kva.example", True),
    ],
)
def test_the_list_of_hosts(host, entry, allowed, server):
    if allowed:
        assert get(server(ok(b"x")), f"http://{host}/", Limits(hosts=("other.org", entry))) == b"x"
        return
    with pytest.raises(MediaRefused, match="not on the list"):
        fetch.fetch(f"http://{host}/", Limits(hosts=("other.org", entry)), resolve=never, connect=never)


def test_the_list_does_not_open_the_private_network(server):
    with pytest.raises(MediaRefused, match="not on the public internet"):
        fetch.fetch("http://intranet/", Limits(hosts=("intranet",)), resolve=lambda *_: ["10.0.0.1"], connect=never)
    running = server(ok(picture()))
    limits = Limits(hosts=(f"127.0.0.1:{running.port}",), private=True)
    assert open_image(f"http://127.0.0.1:{running.port}/a.png", limits).size == (8, 6)


# ---- one honest exchange -------------------------------------------------------------------------------------------


def test_the_connection_goes_to_the_address_that_was_judged(server):
    answers = iter([[PUBLIC], ["127.0.0.1"]])  # a name that means something else when asked again
    running = server(ok(picture()))
    found = fetch.fetch("http://example.org/a.png?x=1", ANY, resolve=lambda *_: next(answers), connect=running.connect)
    assert found == picture()
    assert running.addresses == [(PUBLIC, 80)]
    request = running.requests[0].decode().splitlines()
    assert request[0] == "GET /a.png?x=1 HTTP/1.1"
    assert "Host: example.org" in request
    assert "Accept-Encoding: identity" in request


def test_the_next_address_is_tried_if_one_does_not_answer(server):
    running = server(ok(b"x"))

    def connect(address, seconds):
        if address[0] == PUBLIC:
            raise ConnectionRefusedError
        return running.connect(address, seconds)

    found = fetch.fetch("http://a.org/", ANY, resolve=lambda *_: [PUBLIC, "1.1.1.1"], connect=connect)
    assert found == b"x"
    with pytest.raises(MediaUnreadable, match="connection failed"):
        fetch.fetch("http://a.org/", ANY, resolve=lambda *_: [PUBLIC], connect=connect)


def test_names_that_do_not_exist():
    def unknown(host, port):
        raise socket.gaierror

    with pytest.raises(MediaUnreadable, match="no such host"):
        fetch.fetch("http://none.example/", ANY, resolve=unknown, connect=never)


def test_letters_outside_ascii_in_a_path(server):
    running = server(ok(b"x"))
    get(running, "http://example.org/kätzchen.png")
    assert running.requests[0].startswith(b"GET /k%C3%A4tzchen.png ")


# ---- redirects -----------------------------------------------------------------------------------------------------


def test_redirects_are_followed(server):
    running = server(moved("/b.png"), moved("http://other.org/c.png"), ok(b"x"))
    assert get(running) == b"x"
    assert [request.split()[1] for request in running.requests] == [b"/a.png", b"/b.png", b"/c.png"]


@pytest.mark.parametrize(
    "place",
    ["http://127.0.0.1/", "http://localhost/", "http://[::1]/", "http://169.254.169.254/latest", "file:///etc/passwd",
     "ftp://example.org/", "http://user@example.org/", "http://example.org:6379/", "data:image/png;base64,AAAA", ""],
)  # fmt: skip
def test_every_hop_is_judged_again(place, server):
    running = server(moved(place), *[moved(place)] * 9)

    def resolve(host, port):
        return ["127.0.0.1"] if host == "localhost" else [host if host[0].isdigit() or ":" in host else PUBLIC]

    with pytest.raises(MediaRefused):
        fetch.fetch("http://example.org/", ANY, resolve=resolve, connect=running.connect)


def test_redirects_off_the_list(server):
    with pytest.raises(MediaRefused, match=r"other\.org/: this host is not on the list"):
        get(server(moved("http://other.org/")), limits=Limits(hosts=("example.org",)))


def test_redirects_end(server):
    with pytest.raises(MediaRefused, match="more than 5 redirects"):
        get(server(*[moved("/again")] * 9))


# ---- hostile servers -----------------------------------------------------------------------------------------------


def drip(first: bytes):
    def answer(connection):
        connection.sendall(first)
        with contextlib.suppress(OSError):
            for _ in range(200):
                connection.sendall(b"a")
                time.sleep(0.05)

    return answer


def flood(first: bytes, piece: bytes):
    def answer(connection):
        connection.sendall(first)
        with contextlib.suppress(OSError):
            for _ in range(100_000):
                connection.sendall(piece)

    return answer


@pytest.mark.parametrize(
    "first",
    [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
     b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
)  # fmt: skip
def test_a_slow_drip_ends_at_the_deadline(first, server):
    started = time.monotonic()
    with pytest.raises(MediaError, match=r"longer than 0\.5 s|connection failed"):
        get(server(drip(first)), limits=Limits(remote=True, seconds=0.5))
    assert time.monotonic() - started < 3


def test_redirects_share_one_deadline(server):
    def late(connection):
        time.sleep(0.3)
        connection.sendall(moved("/again"))

    started = time.monotonic()
    with pytest.raises(MediaRefused, match="took longer"):
        get(server(*[late] * 9), limits=Limits(remote=True, seconds=0.7))
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "answer",
    [
        flood(b"HTTP/1.1 200 OK\r\n\r\n", bytes(65536)),
        flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + bytes(4096) + b"\r\n"),
        ok(bytes(50), length=10**12),
        ok(bytes(200_001)),
    ],
    ids=["endless", "endless in chunks", "promises a terabyte", "one byte too many"],
)
def test_too_much(answer, server):
    with pytest.raises(MediaRefused, match="larger than 200000 bytes"):
        get(server(answer), limits=Limits(remote=True, bytes=200_000, seconds=20))


def test_a_lying_length(server):
    with pytest.raises(MediaUnreadable, match="ended after 50 of 5000 bytes"):
        get(server(ok(bytes(50), length=5000)))
    assert get(server(ok(b"abcdef", length=3))) == b"abc"


def test_a_compressed_body_is_refused(server):
    with pytest.raises(MediaRefused, match="compressed body"):
        get(server(ok(b"\x1f\x8b", "Content-Encoding: gzip")))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "connection failed"),
        (b"", "connection failed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n", "connection failed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "connection failed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "connection failed"),
    ],
)
def test_answers_that_are_none(answer, message, server):
    with pytest.raises(MediaUnreadable, match=message) as caught:
        get(server(answer))
    text = str(caught.value)
    assert text.startswith("http://example.org/a.png: ")
    assert PUBLIC not in text
    assert "0x" not in text


def test_no_secure_connection(server):
    with pytest.raises(MediaUnreadable, match="no secure connection"):
        get(server(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "https://example.org/")


# ---- through the door ----------------------------------------------------------------------------------------------


def test_all_kinds_of_media_go_through_the_same_fetcher(server):
    answers = {open_image: b"<html>", open_video: b"hello", open_pdf: b"hello"}
    for opened, body in answers.items():
        running = server(ok(body))
        limits = Limits(hosts=(f"127.0.0.1:{running.port}",), private=True)
        with pytest.raises(MediaUnreadable, match="this is"):
            opened(f"http://127.0.0.1:{running.port}/a", limits)
        assert len(running.requests) == 1

"""Downloads: only what is pinned, whole or not at all, and one line of what to do by hand where it fails."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from internvl.errors import DataError
from internvl.evaluation import download as module
from internvl.evaluation.benchmark import Benchmark, File, Mark, Source
from internvl.evaluation.download import can_be_had, download, obtain, verify
from internvl.evaluation.folder import Folder

DATA = b"index\tquestion\n" * 200_000
MD5 = f"md5:{hashlib.md5(DATA).hexdigest()}"
SHA = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/gone":
            self.send_error(404)
            return
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/whole")
            self.end_headers()
            return
        self.send_response(200)
        if self.path != "/unknown":
            self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA[:1000] if self.path == "/short" else DATA)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        made.asked = []
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.asked.clear()
    return Folder(tmp_path)


def at(server, path="/whole", checksum=MD5, name="sub/Set.tsv", hint="ask the authors"):
    return File(name, f"http://127.0.0.1:{server.server_port}{path}", checksum, hint)


def benchmark(*sources):
    made = tuple(Source("vlmevalkit", files, lambda _: iter(())) for files in sources)
    return Benchmark(name="x", title="X", paper="x", group="vqa", sources=made, mark=lambda *_, **__: Mark(None))


@pytest.mark.parametrize(("path", "checksum"), [("/whole", MD5), ("/moved", SHA), ("/unknown", SHA)])
def test_a_file_is_put_in_its_place(folder, server, path, checksum):
    told = []
    place = download(at(server, path, checksum), folder, report=lambda *found: told.append(found))
    assert place == folder.root / "sub" / "Set.tsv"
    assert place.read_bytes() == DATA
    assert [p.name for p in place.parent.iterdir()] == ["Set.tsv"]
    assert told[-1] == ("sub/Set.tsv", len(DATA), None if path == "/unknown" else len(DATA))
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


@pytest.mark.parametrize(("path", "checksum", "said"), [
    ("/whole", "md5:" + "0" * 32, f"is another file: {MD5}, expected md5:000"),
    ("/short", MD5, f"ended after 1000 of {len(DATA)} bytes"),
    ("/gone", MD5, "cannot be downloaded .*Not Found"),
])  # fmt: skip
def test_nothing_is_left_of_what_fails(folder, server, path, checksum, said):
    (folder.root / "sub").mkdir()
    with pytest.raises(DataError, match=said) as error:
        download(at(server, path, checksum), folder)
    assert str(error.value).endswith(f"or put the file at {folder.root / 'sub' / 'Set.tsv'} (ask the authors)")
    assert "\n" not in str(error.value)
    assert list((folder.root / "sub").iterdir()) == []


def test_a_size_is_bounded(folder, server, monkeypatch):
    monkeypatch.setattr(module, "MOST", 100_000)
    for path in ("/whole", "/unknown"):
        with pytest.raises(DataError, match="is larger than"):
            download(at(server, path), folder)
    assert list((folder.root / "sub").iterdir()) == []


def test_an_older_file_stays_if_the_new_one_fails(folder, server):
    (folder.root / "sub").mkdir()
    (folder.root / "sub" / "Set.tsv").write_text("old")
    with pytest.raises(DataError):
        download(at(server, "/short"), folder)
    assert (folder.root / "sub" / "Set.tsv").read_text() == "old"


def test_without_a_network(folder):
    def unreachable(url):
        raise OSError("Network is unreachable")

    with pytest.raises(
        DataError, match=r"https://example.org/Set.tsv cannot be downloaded \(Network is unreachable\); or put"
    ):
        download(File("Set.tsv", "https://example.org/Set.tsv", MD5), folder, open_url=unreachable)


@pytest.mark.parametrize(("file", "said"), [
    (File("x.tsv", "https://example.org/x"), "its checksum is ''"),
    (File("x.tsv", "https://example.org/x", "md5:12"), "its checksum is 'md5:12'"),
    (File("x.tsv", "https://example.org/x", "sha1:" + "0" * 40), "its checksum is 'sha1:"),
    (File("x.tsv", "file:///etc/passwd", MD5), "is not an http address"),
    (File("x.tsv", None, MD5), "is not an http address"),
    (File("../x.tsv", "https://example.org/x", MD5), "leads out of the data folder"),
])  # fmt: skip
def test_what_is_never_downloaded(folder, file, said):
    with pytest.raises(DataError, match=said):
        download(file, folder, open_url=lambda url: pytest.fail("it was opened"))
    assert list(folder.root.iterdir()) == []


def test_obtain_completes_the_first_form_that_it_can(folder, server):
    behind_a_form, table, other = File("form.zip", hint="ask"), at(server, name="t.tsv"), at(server, name="u.tsv")
    found = obtain(benchmark((behind_a_form, other), (table, other)), folder)
    assert [path.name for path in found] == ["t.tsv", "u.tsv"]
    assert len(server.asked) == 2
    assert obtain(benchmark((behind_a_form, other), (table, other)), folder) == []
    assert obtain(benchmark((behind_a_form,)), folder) == []
    assert len(server.asked) == 2


def test_obtain_leaves_alone_what_is_there(folder, server):
    (folder.root / "own.jsonl").write_text("{}")
    assert obtain(benchmark((at(server),), (File("own.jsonl"),)), folder) == []
    (folder.root / "u.tsv").write_text("mine")
    found = obtain(benchmark((at(server, name="t.tsv"), at(server, name="u.tsv"))), folder)
    assert [path.name for path in found] == ["t.tsv"]
    assert (folder.root / "u.tsv").read_text() == "mine"
    assert server.asked == ["/whole"]


def test_what_can_be_had():
    assert can_be_had(File("a", "https://x", MD5))
    assert not can_be_had(File("a", "https://x"))
    assert not can_be_had(File("a", None, MD5))
    assert not can_be_had(File("a-*.parquet", "https://x", MD5))


def test_verify(folder):
    (folder.root / "t.tsv").write_bytes(DATA)
    for checksum in (MD5, SHA, None):
        verify(File("t.tsv", "https://x", checksum), folder)
    (folder.root / "t.tsv").write_bytes(DATA + b"x")
    with pytest.raises(
        DataError, match=r"t.tsv is another file than was published: md5:.*; get it again from https://x"
    ):
        verify(File("t.tsv", "https://x", MD5), folder)

"""What strangers send, through the readers: every row of the known failures of fetching and decoding.

Each is refused in one line that names no address, or read as it should be; and afterwards a good request is answered.
"""

from __future__ import annotations

import io
import random
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from internvl.data.image import to_rgb
from internvl.serving import child
from internvl.serving.order import Reference
from internvl.serving.readers import SERVICE
from internvl.serving.refusal import Refusal
from tests.data.test_fetch import NOT_PUBLIC, Server, drip, flood, moved, ok
from tests.data.test_media import png_header
from tests.data.test_video import film
from tests.serving.pool import Pool, data, encoded, order, png, pool
from tests.serving.test_readers import PLANTED
from tests.serving.test_reading import pdf

REMOTE = replace(SERVICE, remote=True, seconds=3)
LEAKS = re.compile(r"0x[0-9a-f]{4}|/tmp|/home|/etc|/root|/usr|Traceback|\bFile \"|://|\.py|Limits|site-packages", re.I)


@pytest.fixture(scope="module")
def service() -> Iterator[Pool]:
    """A service as it is by default; at the end of all tests it has never lost a reader."""
    with pool() as running:
        yield running
        assert running.works()
        assert running.readers.replaced == 0


@pytest.fixture(scope="module")
def fetching() -> Iterator[Pool]:
    with pool(limits=REMOTE) as running:
        yield running
        assert running.readers.replaced == 0


@pytest.fixture
def server() -> Iterator:
    running: list[Server] = []

    def start(*answers) -> Server:
        running.append(Server(*answers))
        return running[-1]

    yield start
    for one in running:
        one.close()


def clean(refusal: Refusal) -> Refusal:
    """A client's fault, in one line that gives nothing away."""
    assert refusal.status in (400, 422), refusal
    assert not LEAKS.search(refusal.message), refusal.message
    assert "\n" not in refusal.message
    return refusal


def video(content: bytes, frames: int | None = None) -> Reference:
    return Reference("video", data(content, "video/mp4"), frames=frames)


# ---- 4.1 fetching ----------------------------------------------------------------------------------------------------


def test_the_network_is_off_by_default(service, server):
    one = server(ok(png()))
    for kind in ("image", "video", "pdf"):
        refusal = clean(service.refusal(Reference(kind, f"http://127.0.0.1:{one.port}/a")))
        assert "network is off" in refusal.message
    assert not one.requests


NUMERIC = [
    "2130706433",
    "0x7f000001",
    "017700000001",
    "127.1",
    "0x7f.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[fe80::1%25lo]",
]
METADATA = ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "localhost", "localhost."]


@pytest.mark.parametrize("host", [*NUMERIC, *METADATA])
def test_hosts_that_are_never_asked(fetching, host):
    clean(fetching.refusal(f"http://{host}/latest/meta-data/"))


def test_no_address_that_is_not_public(fetching):
    for address in NOT_PUBLIC.split():
        host = f"[{address}]" if ":" in address and "%" not in address else address
        if not re.fullmatch(r"[\w.:\[\]]+", host) or host == "x":
            continue
        clean(fetching.refusal(f"http://{host}/a.png"))


DISGUISED = [
    "http://allowed.example@127.0.0.1/",
    "http://allowed.example:80@127.0.0.1/",
    "http://127.0.0.1#@allowed.example/",
    "http://127.0.0.1?@allowed.example/",
    "http://allowed.example.@evil.example/",
    "http://allowed.example.evil.example/",
    "http://evilallowed.example/",
    "http://allowed.example:8080/",
    "http://\u24d0llowed.example.evil/",
    "http://allowed\u3002example.evil/",
    "http://127.0.0.1\\@allowed.example/",
    "http://allowed.example\t@evil/",
    "ftp://allowed.example/",
    "gopher://allowed.example/",
    "s3://allowed/a.png",
]


def test_hosts_in_disguise():
    with pool(limits=replace(SERVICE, hosts=("allowed.example",))) as running:
        for address in DISGUISED:
            assert "evil" not in clean(running.refusal(address)).message


def test_servers_that_do_harm(server):
    """Slow drip, endless body, a length that lies, a compressed body, redirects to where nobody may go."""
    port = 0
    answers = {
        "drip": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        "endless": flood(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
        "too much": ok(b"", length=10**12),
        "too little": ok(png(), length=len(png()) + 9),
        "gzip": ok(zlib.compress(b"\0" * 10**6), "Content-Encoding: gzip"),
        "gone": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "nonsense": b"\0\1\2\3",
        "loopback": moved("http://127.0.0.1:1/a.png"),
        "metadata": moved("http://169.254.169.254/latest/"),
        "file": moved("file:///etc/passwd"),
        "good": ok(png()),
    }
    one = server(*answers.values())
    port = one.port
    limits = replace(SERVICE, hosts=(f"localhost:{port}",), private=True, seconds=4, bytes=1 << 20)
    with pool(limits=limits, seconds=60) as running:
        for name in answers:
            if name == "good":
                assert len(running.read(order(f"http://localhost:{port}/a.png")).tiles) == 1
            else:
                clean(running.refusal(f"http://localhost:{port}/a.png"))
        assert running.readers.replaced == 0
    assert len(one.requests) == len(answers)


def test_a_listed_host_may_not_lead_into_the_private_network(server):
    one = server(ok(png()))
    with pool(limits=replace(SERVICE, hosts=(f"localhost:{one.port}",))) as running:
        refusal = clean(running.refusal(f"http://localhost:{one.port}/a.png"))
    assert "not on the public internet" in refusal.message
    assert not one.requests


def test_a_name_that_changes_its_mind(server, monkeypatch):
    """The planted resolver says public when asked first and loopback afterwards; the planted network leads here."""
    one = server(ok(png()), moved("http://again.example/b.png"))
    monkeypatch.setattr(child, "COMMAND", PLANTED)
    hosts = (f"once.example:{one.port}", f"mixed.example:{one.port}", f"again.example:{one.port}", "again.example")
    with pool(limits=replace(SERVICE, hosts=hosts)) as running:
        assert len(running.read(order(f"http://once.example:{one.port}/a.png")).tiles) == 1
        clean(running.refusal(f"http://once.example:{one.port}/a.png"))  # now it is loopback, and was looked up anew
        clean(running.refusal(f"http://mixed.example:{one.port}/a.png"))
        clean(running.refusal(f"http://again.example:{one.port}/a.png"))  # judged again at the redirect
    assert len(one.requests) == 2


def test_files(tmp_path, service):
    for address in (
        "file:///etc/passwd",
        "file:/etc/passwd",
        "/etc/passwd",
        "../../etc/passwd",
        "file:../a.png",
        "~/x",
    ):
        clean(service.refusal(address))
    root = tmp_path / "open"
    root.mkdir()
    (root / "a.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png(seed=1))
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    with pool(limits=replace(SERVICE, local=True, root=root)) as running:
        assert len(running.read(order(f"file://{root}/a.png")).tiles) == 1
        assert len(running.read(order("file:a.png")).tiles) == 1
        outside = ("/etc/passwd", "../secret.png", f"{root}/../secret.png", "out.png", "up/secret.png")
        for path in (*outside, "%2e%2e/secret.png", "nothing.png", "", ".", "a.png\0"):
            clean(running.refusal(f"file:{path}"))


# ---- 4.2 decoding ----------------------------------------------------------------------------------------------------


def peak(running: Pool) -> int:
    """Megabytes that the reader of media has had at most."""
    status = Path(f"/proc/{running.readers._media._free[0].pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024


def bomb(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel, all of whose pixels are there."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    packed = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_from_its_header(service):
    assert service.works()
    before = peak(service)
    content = bomb(40_000, 40_000)
    assert len(content) < 10 << 20
    refusal = clean(service.refusal(data(content)))
    assert "40000 x 40000 pixels" in refusal.message
    assert peak(service) < before + 30
    for size in ((1, 100_000), (100_000, 1), (2**31 - 1, 2**31 - 1), (0, 5)):
        clean(service.refusal(data(png_header(*size))))


@pytest.mark.parametrize(
    "content",
    [
        b"II*\0" + bytes(99),
        b"P6 9999 9999 255\n" + bytes(99),
        b"SIMPLE  =                    T",
        b"\0\0\0\x18ftypavif" + bytes(99),
        b"\0\0\0\x18ftypheic" + bytes(99),
        b"8BPS" + bytes(99),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF",
        b"\0\0\1\0" + bytes(99),
        b"MZ" + bytes(99),
        b"<!doctype html>",
        bytes(99),
        b"x",
    ],
)
def test_formats_that_are_not_decoded(service, content):
    assert clean(service.refusal(data(content))).status == 422


def test_ten_thousand_frames_in_one_address(service):
    one = data(encoded(PIL.Image.new("RGB", (2, 2)), "JPEG")).partition(",")[2]
    address = f"data:video/jpeg;base64,{','.join([one] * 10_000)}"
    clean(service.refusal(Reference("video", address)))
    raw = encoded(PIL.Image.new("RGB", (2, 2)), "JPEG") * 10_000
    clean(service.refusal(video(raw)))
    refusal = clean(service.refusal(video(film(frames=3), frames=10_000)))
    assert "at most 64 are read" in refusal.message


@pytest.mark.parametrize("short", [1, 2, 13, 447, 448, 449])
def test_any_size_is_read(service, short):
    for long in (1, 2, 7, 448, 3000, 20_000):
        for size in {(short, long), (long, short)}:
            got = service.read(order(data(encoded(PIL.Image.new("RGB", size, (9, 99, 199))))))
            assert got.prompt.sizes == [list(size)]
            assert np.abs(got.tiles.reshape(-1, 3).astype(int) - (9, 99, 199)).max() <= 1


def test_orientation(service):
    upright = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8))
    undo = {
        1: (),
        2: (0,),
        3: (3,),
        4: (1,),
        5: (5,),
        6: (2,),
        7: (6,),
        8: (4,),
    }  # the transpositions of Pillow that store the picture so; fmt: skip
    seen = set()
    for number, turns in undo.items():
        stored = upright
        for turn in turns:
            stored = stored.transpose(PIL.Image.Transpose(turn))
        exif = PIL.Image.Exif()
        exif[0x0112] = number
        got = service.read(order(data(encoded(stored, exif=exif))))
        seen.add((got.prompt.digests[0], tuple(got.prompt.sizes[0])))
    assert seen == {(service.read(order(data(encoded(upright)))).prompt.digests[0], (64, 40))}


def modes() -> dict[str, tuple[bytes, tuple[int, int, int]]]:
    """Pictures of one colour in every mode, and what is seen."""
    new, size = PIL.Image.new, (30, 30)
    palette = new("RGB", size, (10, 20, 30)).convert("P", palette=PIL.Image.Palette.ADAPTIVE)
    see_through = new("P", size, 0)
    see_through.putpalette([10, 20, 30] * 256)
    deep = PIL.Image.fromarray(np.full((30, 30), 0x8080, np.uint16))
    return {
        "1": (encoded(new("1", size, 1)), (255, 255, 255)),
        "L": (encoded(new("L", size, 77)), (77, 77, 77)),
        "LA": (encoded(new("LA", size, (77, 0))), (255, 255, 255)),
        "P": (encoded(palette), (10, 20, 30)),
        "P+tRNS": (encoded(see_through, transparency=0), (255, 255, 255)),
        "I;16": (encoded(deep), (128, 128, 128)),
        "CMYK": (encoded(new("CMYK", size, (0, 0, 0, 255)), "JPEG"), (0, 0, 0)),
        "RGBA": (encoded(new("RGBA", size, (0, 0, 0, 0))), (255, 255, 255)),
        "RGBA opaque": (encoded(new("RGBA", size, (1, 2, 3, 255))), (1, 2, 3)),
        "WEBP": (encoded(new("RGBA", size, (0, 0, 0, 0)), "WEBP", lossless=True), (255, 255, 255)),
        "GIF": (encoded(new("L", size, 77), "GIF"), (77, 77, 77)),
        "BMP": (encoded(new("RGB", size, (1, 2, 3)), "BMP"), (1, 2, 3)),
    }


@pytest.mark.parametrize("mode", modes())
def test_modes(service, mode):
    content, colour = modes()[mode]
    tiles = service.read(order(data(content))).tiles
    assert np.abs(tiles.reshape(-1, 3).astype(int) - colour).max() <= 2


def test_videos(service):
    def tiles(*arguments, **options) -> int:
        return len(service.read(order(video(*arguments, **options))).tiles)

    whole = film(frames=20)
    assert tiles(whole, 4) == 4
    assert tiles(film(frames=1), 3) == 3
    assert tiles(film(frames=6, stamps=[0, 1, 5, 9, 30, 31]), 6) == 6
    assert tiles(film("webm", "libvpx", frames=5, gop=2), 2) == 2
    assert tiles(film("gif", "gif", frames=5), 2) == 2
    unknown = whole.replace(b"avc1", b"zzzz")
    for broken in (
        unknown,
        whole[: len(whole) // 2],
        whole[:40],
        b"",
        b"\0" * 99,
        film(frames=0),
        b"\x1aE\xdf\xa3" + bytes(99),
    ):
        clean(service.refusal(video(broken, 2)))
    sound = io.BytesIO()
    with av.open(sound, "w", format="mp4") as target:
        voice = target.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        target.mux([*voice.encode(frame), *voice.encode()])
    clean(service.refusal(video(sound.getvalue())))


def test_containers_and_codecs_off_the_list(service):
    for content in (film("mpegts", "libx264"), film("flv", "flv1"), film("mpeg", "mpeg2video"), film("avi", "ffv1")):
        clean(service.refusal(video(content, 2)))
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n"
    for content in (playlist, b"ffconcat version 1.0\nfile /etc/passwd\n", png()):
        clean(service.refusal(video(content, 2)))


def test_documents(service):
    paper = Reference("pdf", data(pdf(3), "application/pdf"))
    assert len(service.read(order(paper)).prompt.tiles) == 3
    for content in (pdf(40), pdf(3)[:200], b"%PDF-1.7\n", b"", png()):
        clean(service.refusal(Reference("pdf", data(content, "application/pdf"))))


def test_pillow_stays_as_it_is():
    """In a reader as here: nobody turns Pillow's own safety off."""
    from PIL import Image, ImageFile, PngImagePlugin

    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK)
    assert to_rgb(Image.new("L", (3, 3))).mode == "RGB"
    import internvl.serving.reader  # noqa: F401

    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK)
    assert before == (89478485, False, PngImagePlugin.MAX_TEXT_CHUNK)


def test_pictures_too_many_for_one_request():
    with pool(limits=replace(SERVICE, clip_pixels=100_000)) as running:
        pages = [data(png(200, 200, seed=seed)) for seed in range(3)]
        assert len(running.read(order(*pages[:2])).prompt.tiles) == 2
        assert "picture 3" in clean(running.refusal(*pages)).message


# ---- anything at all -------------------------------------------------------------------------------------------------


def scratched(content: bytes, draw: random.Random) -> bytes:
    """A file in which something is wrong: bytes changed, taken out, put in, repeated, or the end missing."""
    mutated = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        place, length = draw.randrange(len(mutated) + 1), draw.randrange(1, 9)
        kind = draw.randrange(6)
        if kind == 0 and place < len(mutated):
            mutated[place] = draw.randrange(256)
        elif kind == 1:
            del mutated[place : place + length]
        elif kind == 2:
            mutated[place:place] = draw.randbytes(length)
        elif kind == 3:
            mutated[place : place + 4] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
        elif kind == 4:
            mutated[place:place] = mutated[place : place + 4 * length]
        elif draw.random() < 0.3:
            del mutated[place:]
    return bytes(mutated)


def corpus() -> dict[str, tuple[str, bytes]]:
    photo = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8))
    frames = [photo.rotate(turn) for turn in (0, 90, 180)]
    return {
        "JPEG": ("image", encoded(photo, "JPEG")),
        "JPEG, progressive": ("image", encoded(photo, "JPEG", progressive=True)),
        "PNG": ("image", encoded(photo)),
        "PNG, palette": ("image", encoded(photo.convert("P"))),
        "WEBP": ("image", encoded(photo, "WEBP")),
        "GIF": ("image", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])),
        "BMP": ("image", encoded(photo, "BMP")),
        "MP4": ("video", film(frames=6, gop=3)),
        "WEBM": ("video", film("webm", "libvpx", frames=4)),
        "PDF": ("pdf", pdf(2)),
    }


@pytest.fixture(scope="module")
def scratching() -> Iterator[Pool]:
    with pool() as running:
        yield running


@pytest.mark.parametrize("form", corpus())
def test_scratched_files(scratching, form):
    """Every answer is a prompt or a refusal, and readers that fall over are replaced."""
    kind, content = corpus()[form]
    draw = random.Random(form)
    read = refused = 0
    for _ in range(60 if kind == "image" else 30):
        reference = Reference(kind, data(scratched(content, draw)), frames=3 if kind == "video" else None)
        try:
            got = scratching.read(order(reference))
            assert len(got.tiles) == sum(got.prompt.tiles)
            read += 1
        except Refusal as refusal:
            clean(refusal)
            refused += 1
    assert scratching.works()
    assert refused > 3
    assert read + refused == (60 if kind == "image" else 30)

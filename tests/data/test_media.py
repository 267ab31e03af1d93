"""The door for media: every kind of source, every limit, and one clear line for everything that is not let in."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from internvl.data import media
from internvl.data.limits import Limits
from internvl.data.media import open_image
from internvl.errors import MediaError, MediaRefused, MediaUnreadable, MissingExtra, NoSuchName, UsageError


def encoded(form: str = "PNG", size: tuple[int, int] = (40, 30), mode: str = "RGB", **options) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(out, form, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a picture of that size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.fixture(autouse=True)
def pillow_stays_as_it_is():
    """Nothing here may touch Pillow's own safety settings, which belong to the whole process."""

    def settings():
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK

    before = settings()
    yield
    assert settings() == before
    assert Image.MAX_IMAGE_PIXELS is not None
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def refusal(source, limits=media.OPEN, kind=MediaError) -> str:
    """The message, after checking that it is one printable line without addresses of memory or code."""
    with pytest.raises(kind) as caught:
        open_image(source, limits)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 300
    assert not re.search(r"0x[0-9a-f]{4}|site-packages|Traceback|BytesIO|object at", text)
    return text


# ---- sources -------------------------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_picture(tmp_path):
    data = encoded()
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    in_base64 = base64.b64encode(data).decode()
    sources = [
        path, str(path), path.as_uri(), data, io.BytesIO(data), f"data:image/png;base64,{in_base64}",
        f"DATA:image/png;charset=x;BASE64,{in_base64[:60]}\n{in_base64[60:]}", f"data:;base64,{in_base64}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in data),
    ]  # fmt: skip
    expected = Image.open(path).tobytes()
    for source in sources:
        assert open_image(source).tobytes() == expected
    with path.open("rb") as file:
        assert open_image(file).tobytes() == expected
    picture = Image.open(path)
    assert open_image(picture) is picture


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_formats(form):
    assert open_image(encoded(form)).size == (40, 30)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        out = io.BytesIO()
        options = {"lossless": True} if form == "WEBP" else {}
        frames[0].save(out, form, save_all=True, append_images=frames[1:], **options)
        assert open_image(out.getvalue()).convert("RGB").getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("source", [None, 5, ["a.png"], np.zeros((2, 2, 3), np.uint8)])
def test_other_things_are_no_source(source):
    with pytest.raises(UsageError, match="expected a path, an address, bytes or an open file"):
        open_image(source)


def test_a_file_opened_for_text(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with (tmp_path / "a.png").open() as file, pytest.raises(UsageError, match="mode 'rb'"):
        open_image(file)


# ---- limits --------------------------------------------------------------------------------------------------------


def test_a_bomb_is_refused_from_its_header():
    text = refusal(png_header(40000, 40000), kind=MediaRefused)
    assert text.startswith("the picture: 40000 x 40000 pixels, at most 89478485 are decoded (Limits.pixels); ")
    assert "9500 x 9500" in refusal(png_header(9500, 9500), Limits(pixels=90_000_000), MediaRefused)
    assert "damaged" in refusal(png_header(9500, 9500), Limits(pixels=91_000_000), MediaUnreadable)
    assert "longer side" in refusal(png_header(70000, 1), kind=MediaRefused)


def test_a_bomb_costs_no_memory(tmp_path):
    """1.6 gigapixels that really are there, 200 MB when inflated: the process stays within 30 MB of where it was."""
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(5001 * 1000)) for _ in range(40)) + packer.flush()
    head = struct.pack(">IIBBBBB", 40000, 40000, 1, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    )
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert (tmp_path / "bomb.png").stat().st_size < 10 * 2**20
    program = (
        "import resource, sys; from internvl.data.media import open_image; from internvl.errors import MediaRefused\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try: open_image(sys.argv[1])\n"
        "except MediaRefused as error: print(error)\n"
        "assert peak() - before < 30 * 1024, peak() - before\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bomb.png")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "40000 x 40000 pixels" in done.stdout


def test_limits_on_a_picture_that_is_already_open():
    assert "40 x 30" in refusal(Image.new("RGB", (40, 30)), Limits(pixels=1000), MediaRefused)
    assert "40 x 0" in refusal(Image.new("RGB", (40, 0)), kind=MediaUnreadable)


def test_limits_on_bytes(tmp_path):
    data = encoded()
    path = tmp_path / "a.png"
    path.write_bytes(data)
    small, enough = Limits(bytes=len(data) - 1), Limits(bytes=len(data))
    address = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (path, data, io.BytesIO(data), address, path.as_uri()):
        assert "Limits" in refusal(source, small, MediaRefused)
        if isinstance(source, io.BytesIO):
            source.seek(0)
        assert open_image(source, enough).size == (40, 30)
    assert "larger than 10 bytes" in refusal("data:;base64," + "A" * 5000, Limits(bytes=10), MediaRefused)


def test_limits_that_contradict_each_other(tmp_path):
    with pytest.raises(UsageError, match="hosts"):
        Limits(private=True)
    with pytest.raises(UsageError, match="root"):
        Limits(local=False, root=tmp_path)


def test_a_format_that_is_not_in_the_table():
    with pytest.raises(NoSuchName, match="Did you mean 'JPEG'"):
        Limits(formats=("JPG",))


# ---- formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "the header of the picture is damaged"),
        (b"\xff\xd8\xff\xe0" + bytes(10), "the header of the picture is damaged"),
        (b"%PDF-1.7\n", "this is a PDF document (pass it as a document)"),
        (bytes(4) + b"ftypisom" + bytes(20), "this is a video (pass it as a video)"),
        (b"\x1aE\xdf\xa3" + bytes(20), "this is a video"),
        (bytes(4) + b"ftypheic" + bytes(20), "this is a HEIC picture"),
        (b"<!DOCTYPE html><html>", "this is a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "this is an XML or SVG file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture of a known format"),
        (b"SIMPLE  =                    T", "no picture of a known format"),
        (b"hello", "no picture of a known format"),
        (b"", "it is empty"),
    ],
)
def test_what_is_no_picture(data, message):
    assert message in refusal(data, kind=MediaUnreadable)


def test_only_listed_formats_are_decoded(monkeypatch):
    assert "this is a GIF picture; pictures are read as JPEG, PNG" in refusal(
        encoded("GIF"), Limits(formats=("JPEG", "PNG"))
    )
    for form in ("TGA", "PCX", "ICO", "SGI", "ICNS", "EPS"):
        assert "no picture of a known format" in refusal(encoded(form, size=(32, 32)))


def test_truncated_pictures():
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        data = encoded(form, size=(200, 150))
        text = refusal(data[: len(data) * 2 // 3], kind=MediaUnreadable)
        assert "truncated or damaged" in text or "damaged" in text, form
    text = refusal(encoded("JPEG", size=(200, 150))[:2000])
    assert text == "the picture: the JPEG picture is truncated or damaged; give the whole file"


def test_scratched_pictures_never_raise_anything_else():
    """Bytes overwritten at random: either a picture comes out or one clear line."""
    chance = np.random.default_rng(5)
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        whole = np.frombuffer(encoded(form), np.uint8)
        for _ in range(60):
            data = whole.copy()
            data[chance.integers(0, len(data), 6)] = chance.integers(0, 256, 6)
            with warnings.catch_warnings(), contextlib.suppress(MediaError):
                warnings.simplefilter("ignore")
                open_image(data.tobytes())


def test_a_lazily_opened_picture_of_a_caller(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(encoded("JPEG", size=(200, 150))[:2000])
    with Image.open(tmp_path / "cut.jpg") as picture:
        assert "truncated or damaged" in refusal(picture, kind=MediaUnreadable)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("data:image/png;base64", "has a comma"),
        ("data:image/png;base64,!!!!", "not proper base64"),
        ("data:video/jpeg;base64,/9j/4AAQ,/9j/4AAQ", "not proper base64"),  # many frames in one address
        ("data:image/png;base64,", "it is empty"),
        ("data:image/png,hello", "no picture"),
    ],
)
def test_bad_data_addresses(address, message):
    text = refusal(address)
    assert message in text
    assert address[:30] not in text


# ---- files ---------------------------------------------------------------------------------------------------------


def test_paths_that_are_no_pictures(tmp_path):
    assert refusal(str(tmp_path / "none.png")).endswith("none.png: there is no such file; name one that exists")
    assert "this is a folder" in refusal(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "it is empty" in refusal(tmp_path / "empty.png")
    assert "no path of a file" in refusal("a\0b.png")
    assert "no path of a file" in refusal("x" * 5000)
    os.mkfifo(tmp_path / "pipe")
    assert "a device or a pipe" in refusal(tmp_path / "pipe", kind=MediaRefused)
    assert "a device or a pipe" in refusal("/dev/zero", kind=MediaRefused)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "no path of a file" in refusal(tmp_path / "loop")


def test_a_root_confines(tmp_path):
    inside, outside = tmp_path / "media", tmp_path / "secret.png"
    inside.mkdir()
    (inside / "sub").mkdir()
    (inside / "sub" / "a.png").write_bytes(encoded())
    outside.write_bytes(encoded())
    (inside / "link.png").symlink_to(outside)
    (inside / "folder").symlink_to(tmp_path)
    (inside / "fine.png").symlink_to(inside / "sub" / "a.png")
    limits = Limits(root=inside)
    assert open_image("sub/a.png", limits).size == (40, 30)
    assert open_image("fine.png", limits).size == (40, 30)
    for source in ("../secret.png", "sub/../../secret.png", "link.png", "folder/secret.png", str(outside), outside,
                   str(inside / "sub" / "a.png"), "sub/../sub/a.png"):  # fmt: skip
        assert "only files inside the media folder" in refusal(source, limits, MediaRefused), source
    for source in (outside.as_uri(), (inside / "sub" / "a.png").as_uri(), "FILE:///etc/passwd", "file:sub/a.png"):
        assert refusal(source, limits, MediaError), source


def test_no_files_at_all(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    limits = Limits(local=False)
    assert "not read here" in refusal(tmp_path / "a.png", limits, MediaRefused)
    assert "not read here" in refusal((tmp_path / "a.png").as_uri(), limits, MediaRefused)
    assert open_image(encoded(), limits).size == (40, 30)


def test_a_file_of_another_machine():
    assert "another machine" in refusal("file://server/share/a.png", kind=MediaRefused)


# ---- other file systems --------------------------------------------------------------------------------------------


def test_fsspec_addresses():
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://pictures/a.png", "wb") as file:
        file.write(encoded())
    limits = Limits(schemes=("memory",))
    assert open_image("memory://pictures/a.png", limits).size == (40, 30)
    assert "Limits.bytes" in refusal("memory://pictures/a.png", Limits(schemes=("memory",), bytes=50), MediaRefused)
    assert "could not be read" in refusal("memory://pictures/none.png", limits)
    for address in ("memory://pictures/a.png", "s3://bucket/a.png", "simplecache::memory://pictures/a.png"):
        assert "not read here (Limits.schemes)" in refusal(address, kind=MediaRefused)
    chained = refusal("memory::file:///etc/passwd", limits, MediaRefused)
    assert "not read here" in chained


def test_fsspec_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fsspec\[s3\]'"):
        open_image("s3://bucket/a.png", Limits(schemes=("s3",)))


# ---- names in messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a.png", "a.png"),
        (b"...", "the picture"),
        ("data:image/png;base64,AAAA", "the picture"),
        ("https://user:password@example.org/a.png?token=secret#x", "https://example.org/a.png"),
        ("line\nbreak\x1b[31m.png", "line?break?[31m.png"),
        ("x" * 500, "x" * 97 + "..."),
    ],
)
def test_names(source, name):
    assert media.name_of(source, "the picture") == name

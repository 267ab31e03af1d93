"""PDF pages: size, choice, limits, locked and damaged documents."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from internvl.data.limits import Limits
from internvl.data.media import open_pdf
from internvl.errors import MediaError, MediaRefused, MediaUnreadable, UsageError

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def pdf(size: tuple[int, int] = (100, 50), colours=COLOURS) -> bytes:
    """One page a colour, of that many points."""
    pages = [Image.new("RGB", size, colour) for colour in colours]
    out = io.BytesIO()
    pages[0].save(out, "PDF", save_all=True, append_images=pages[1:], resolution=72, quality=100)
    return out.getvalue()


def assemble(objects: list[bytes], trailer: bytes = b"") -> bytes:
    """A PDF file around objects 1, 2, ...; the first is the catalogue."""
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
    out += b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, start)
    return bytes(out)


def page(*entries: bytes) -> list[bytes]:
    return [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R %s >>" % b" ".join(entries),
    ]


def rc4(key: bytes, data: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def locked(password: bytes) -> bytes:
    """An empty page of 100 x 50 points behind a user password (PDF 1.4, standard handler, revision 2)."""
    padding = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    padded = (password + padding)[:32]
    owner = rc4(hashlib.md5(padded).digest()[:5], padded)
    key = hashlib.md5(padded + owner + b"\xff\xff\xff\xff" + b"0123456789abcdef").digest()[:5]
    entry = b"<< /Filter /Standard /V 1 /R 2 /P -1 /O <%s> /U <%s> >>"
    objects = [*page(b"/MediaBox [0 0 100 50]"), entry % (owner.hex().encode(), rc4(key, padding).hex().encode())]
    identity = b"0123456789abcdef".hex().encode()
    return assemble(objects, b"/Encrypt 4 0 R /ID [<%s> <%s>]" % (identity, identity))


# ---- pages ---------------------------------------------------------------------------------------------------------


def test_all_pages_in_order():
    pages = open_pdf(pdf(), size=200)
    assert [found.size for found in pages] == [(200, 100)] * 3
    assert all(found.mode == "RGB" for found in pages)
    for found, colour in zip(pages, COLOURS, strict=True):
        assert np.abs(np.array(found.getpixel((100, 50))) - colour).max() <= 3  # the test's pages are JPEGs


def test_chosen_pages(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf())
    first, again = open_pdf(tmp_path / "a.pdf", pages=[3, 1], size=64)
    assert first.getpixel((9, 9))[2] > 250
    assert again.getpixel((9, 9))[0] > 250
    for pages in ([4], [0], [-1], []):
        with pytest.raises(UsageError, match="the document has 1 to 3"):
            open_pdf(pdf(), pages=pages)


@pytest.mark.parametrize("points", [(1, 1), (3, 14400), (14400, 3), (612, 792)])
def test_the_longer_side_is_the_size_asked_for(points):
    (found,) = open_pdf(assemble(page(b"/MediaBox [0 0 %d %d]" % points)), size=300)
    assert max(found.size) == 300
    assert found.getextrema() == ((255, 255),) * 3  # an empty page is white


def test_a_turned_page_is_drawn_upright():
    (found,) = open_pdf(assemble(page(b"/MediaBox [0 0 100 50] /Rotate 90")), size=100)
    assert found.size == (50, 100)


# ---- limits and broken documents -----------------------------------------------------------------------------------


def test_limits():
    with pytest.raises(MediaRefused, match="3 pages, at most 2"):
        open_pdf(pdf(), Limits(pages=2))
    assert len(open_pdf(pdf(), Limits(pages=2), pages=[1, 3], size=8)) == 2
    with pytest.raises(MediaRefused, match="page 1: 200 x 100 pixels, at most 19999"):
        open_pdf(pdf(), Limits(pixels=19_999), size=200)
    with pytest.raises(MediaRefused, match="longer side"):
        open_pdf(assemble(page(b"/MediaBox [0 0 14400 1]")), size=100_000)
    with pytest.raises(MediaRefused, match="larger than 99 bytes"):
        open_pdf(pdf(), Limits(bytes=99))
    with pytest.raises(UsageError, match="at least 1"):
        open_pdf(pdf(), size=0)


def test_a_locked_document():
    data = locked(b"sesame")
    with pytest.raises(MediaUnreadable, match=r"^the document: it is locked with a password"):
        open_pdf(data)
    with pytest.raises(MediaUnreadable, match="the password is wrong"):
        open_pdf(data, password="open")
    (found,) = open_pdf(data, password="sesame", size=100)
    assert found.size == (100, 50)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"hello", "no PDF document"),
        (b"%PDF-1.7\n" + bytes(100), "no PDF document"),
        (pdf()[:300], "no PDF document"),
        (assemble([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [] /Count 0 >>"]), "no PDF document"),
        (assemble([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [9 0 R] /Count 1 >>"]), "page"),
    ],
)
def test_broken_documents(data, message):
    with pytest.raises(MediaUnreadable, match=message) as caught:
        open_pdf(data)
    assert str(caught.value).isprintable()
    assert "0x" not in str(caught.value)


def test_scratched_documents_never_raise_anything_else():
    chance, whole = np.random.default_rng(2), np.frombuffer(pdf(), np.uint8)
    for _ in range(60):
        data = whole.copy()
        data[chance.integers(0, len(data), 12)] = chance.integers(0, 256, 12)
        try:
            pages = open_pdf(data.tobytes(), size=40)
        except MediaError:
            continue
        assert all(max(found.size) == 40 for found in pages)

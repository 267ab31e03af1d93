"""Tables with pictures inside: read as pandas wrote them, in little memory, and refused by row where broken."""

from __future__ import annotations

import ast
import base64
import csv
import io
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl.errors import DataError
from internvl.evaluation import tables
from internvl.evaluation.folder import Folder


def png(colour="red", size=40) -> bytes:
    out = io.BytesIO()
    Image.frombytes("RGB", (size, size), random.Random(colour).randbytes(3 * size * size)).save(out, "PNG")
    return out.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def table(tmp_path, *rows, name="Set.tsv", delimiter="\t", **options):
    with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", **options)  # what pandas uses
        writer.writerows([list(rows[0]), *[list(row.values()) for row in rows]])
    return Folder(tmp_path)


def read(tmp_path, *rows, **options):
    return list(table(tmp_path, *rows, **options).table(options.get("name", "Set.tsv")))


def row(index, image="", **more):
    return {"index": index, "image": image, "question": "Why?", **more}


def test_columns(tmp_path):
    [found] = read(
        tmp_path, row(7, b64(png()), hint="", A="a\tb", B='say "x"', C="", D="4", answer="B", category="ocr")
    )
    assert found.options() == {"A": "a\tb", "B": 'say "x"', "D": "4"}
    assert (found.where, found.number("index"), found["category"]) == ("Set.tsv, row 1", 7, "ocr")
    assert (found.filled("hint"), found.filled("image"), found.filled("l2-category")) == (False, True, False)
    [picture] = found.pictures()
    assert picture.read() == png()
    assert picture.name == "Set.tsv, row 1"


def test_none_is_an_option(tmp_path):
    [found] = read(tmp_path, row(1, b64(png()), A="None", B="NA", C="nan"))
    assert found.options() == {"A": "None", "B": "NA", "C": "nan"}


def test_lists_and_references(tmp_path):
    several = [png("a"), png("b"), png("c")]
    first, second, third, fourth = read(
        tmp_path,
        row(10, "30"),
        row(20, str([b64(data) for data in several])),
        row(30, b64(png("d"))),
        row(40, '["' + '","'.join(map(b64, several)) + '"]'),
    )
    assert [p.read() for p in first.pictures()] == [png("d")]
    for found in (second, fourth):
        assert [p.read() for p in found.pictures()] == several
    assert [p.name for p in second.pictures()][2] == "Set.tsv, row 2, picture 3"
    assert third.pictures()[0].read() == png("d")


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1000])
def test_no_chunk_matters(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(tables, "CHUNK", chunk)
    pictures = [png("a", 4), png("b", 4)]
    rows = [
        row("ä", b64(pictures[0]), A='"', B='""', C='x"\n\t"'),
        row(2, str(list(map(b64, pictures))), A="\r", B="", C=""),
        row(3, "ä", A="日本", B='a"b', C="\n"),
    ]
    found = read(tmp_path, *rows)
    assert [[p.read() for p in f.pictures()] for f in found] == [[pictures[0]], pictures, [pictures[0]]]
    assert [[f[key] for key in "ABC"] for f in found] == [[r[key] for key in "ABC"] for r in rows]


cells = st.text(alphabet=st.sampled_from("ab\"\t\n\r,ü '[]"), max_size=12)


@given(st.lists(st.lists(cells, min_size=2, max_size=2), min_size=1, max_size=6), st.integers(1, 9))
@settings(max_examples=200)
def test_it_reads_what_csv_writes(tmp_path_factory, values, chunk):
    folder = tmp_path_factory.mktemp("csv")
    kept, tables.CHUNK = tables.CHUNK, chunk
    try:
        with (folder / "x.tsv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows([["p", "q"], *values])
        found = [[f["p"], f["q"]] for f in Folder(folder).table("x.tsv")]
    finally:
        tables.CHUNK = kept
    assert found == values


def test_windows_lines_and_a_mark_at_the_start(tmp_path):
    text = '\ufeffindex\tquestion\tA\r\n1\t"a\r\nb"\tx\r\n\r\n2\tc\t"y"\r\n'
    (tmp_path / "x.tsv").write_bytes(text.encode())
    found = list(Folder(tmp_path).table("x.tsv"))
    assert [dict(f) for f in found] == [
        {"index": "1", "question": "a\r\nb", "A": "x"},
        {"index": "2", "question": "c", "A": "y"},
    ]
    [last] = read(tmp_path, row(1, A="x\r"))
    assert last["A"] == "x\r"
    assert [f.where for f in found] == ["x.tsv, row 1", "x.tsv, row 2"]


def test_comma_separated(tmp_path):
    [found] = read(tmp_path, {"Question": "a, b", "Answer": "(a)"}, name="Questions.csv", delimiter=",")
    assert dict(found) == {"Question": "a, b", "Answer": "(a)"}


def test_long_text_stays_in_the_file_until_it_is_asked_for(tmp_path):
    text = 'word "quoted"\n' * 5000
    [found] = read(tmp_path, row(1, b64(png()), context=text))
    assert found["context"] == text
    assert isinstance(found._values["context"], tables.Span)


def test_wrapped_base64(tmp_path):
    [found] = read(tmp_path, row(1, base64.encodebytes(png()).decode()))
    assert found.pictures()[0].read() == png()


# ---- pictures that are files -----------------------------------------------------------------------------------------


def test_image_path(tmp_path):
    for place in ("images/Set/a.png", "Set/b.png", "c.png", "other/d.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(png(place))
    rows = [{"index": n, "image_path": path} for n, path in enumerate(["a.png", "['b.png', 'c.png']"])]
    one, two = read(tmp_path, *rows)
    assert [p.read() for p in one.pictures()] == [png("images/Set/a.png")]
    assert [p.read() for p in two.pictures()] == [png("Set/b.png"), png("c.png")]
    [named] = table(tmp_path, {"index": 1, "image_path": "d.png"}).table("Set.tsv", images="other")
    assert named.pictures()[0].read() == png("other/d.png")


@pytest.mark.parametrize(("path", "said"), [
    ("../x.png", "row 1: .* leads out of the data folder"),
    ("/etc/passwd", "row 1: .* leads out of the data folder"),
    ("gone.png", "row 1: 'images/Set/gone.png' is not in .*; put it at"),
    ("[__import__('os')]", "row 1: `image_path` is .*; expected a list of texts"),
    ("", "row 1: there is no picture"),
])  # fmt: skip
def test_files_that_cannot_be_used(tmp_path, path, said):
    [found] = read(tmp_path, {"index": 1, "image_path": path})
    with pytest.raises(DataError, match=f"Set.tsv, {said}"):
        found.pictures()


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image", "said"), [
    ("A" * 101, "bad base64"),
    ("!" * 100, "bad base64"),
    ("A" * 96 + "=A==", "bad base64"),
    ("__import__('os').system('touch PWNED')" * 3, "bad base64"),
    (str(["A" * 99 + "!", "A" * 100]), "bad base64"),
])  # fmt: skip
def test_bad_base64(tmp_path, image, said):
    _, found = read(tmp_path, row(1, b64(png())), row(2, image))
    with pytest.raises(DataError, match=f"Set.tsv, row 2.*: {said}"):
        [p.read() for p in found.pictures()]
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(("image", "said"), [
    ("", "there is no picture"),
    ("9", "`image` is '9', the index of a row that is not in the table"),
    ("1", "`image` is '1', the index of a row that has no picture of its own"),
    ("['AAAA']", ".* the index of a row that is not in the table"),
])  # fmt: skip
def test_no_picture(tmp_path, image, said):
    [found] = read(tmp_path, row(1, image))
    with pytest.raises(DataError, match=f"Set.tsv, row 1: {said}"):
        found.pictures()


def test_an_index_twice(tmp_path):
    with pytest.raises(DataError, match=r"Set.tsv, row 3: `index` is '1' a second time"):
        read(tmp_path, row(1), row(2), row(1))


@pytest.mark.parametrize(("text", "said"), [
    ("", "the header is"),
    ("index\tindex\n", "the header is"),
    ("index\tA\n1\tx\ty\n", "Set.tsv, row 1: 3 fields, but the header has 2"),
    ("index\tA\n1\tx\n2\n", "Set.tsv, row 2: 1 fields, but the header has 2"),
    ('index\tA\n1\t"x\n', "Set.tsv, row 1: a quotation mark is opened and never closed"),
    ('index\tA\n1\t"x"y\n', "Set.tsv, row 1: b'y' follows a closing quotation mark"),
    ("index\tA\n1\t\udcff\n", "Set.tsv, row 1: a field is not UTF-8"),
    ("\t" * 5000, "Set.tsv, row 0: more than 4096 fields"),
])  # fmt: skip
def test_tables_that_are_broken(tmp_path, text, said):
    (tmp_path / "Set.tsv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=said) as error:
        list(Folder(tmp_path).table("Set.tsv"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("opening", [b"", b'"'])
def test_a_field_without_end(tmp_path, monkeypatch, opening):
    monkeypatch.setattr(tables, "LONGEST_FIELD", 4 * tables.MIB)
    with (tmp_path / "Set.tsv").open("wb") as file:
        file.write(b"index\timage\n1\t" + opening)
        file.seek(10 * 2**30)  # a hole: ten gigabytes that take no room
        file.write(b"\n")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"Set.tsv, row 1: a field of more than 4 MiB"):
            list(Folder(tmp_path).table("Set.tsv"))
        assert tracemalloc.get_traced_memory()[1] < 8 * tables.MIB
    finally:
        tracemalloc.stop()


def test_long_text_is_refused_as_text(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LONGEST_TEXT", 5000)
    [found] = read(tmp_path, row(1, "", hint="x" * 6000))
    with pytest.raises(DataError, match=r"Set.tsv, row 1: a field of 6000 bytes"):
        found.text("hint")


# ---- size ------------------------------------------------------------------------------------------------------------


def test_a_large_table_needs_little_memory(tmp_path):
    """120 MB of table, a list of pictures of 40 MB among it; all rows are kept, and every picture is looked at."""
    big = b64(bytes(4_500_000))
    with (tmp_path / "Set.tsv").open("w", encoding="utf-8") as file:
        file.write("index\timage\tquestion\n")
        for number in range(13):
            file.write(f"{number}\t{big}\tWhat?\n")
        file.write("99\t['" + "', '".join([big] * 7) + "']\tWhat?\n100\t3\tWhat?\n")
    del big
    tracemalloc.start()
    try:
        found = list(Folder(tmp_path).table("Set.tsv"))
        assert tracemalloc.get_traced_memory()[1] < 4 * tables.MIB
        pictures = [p for f in found for p in f.pictures()]
        assert len(pictures) == 13 + 7 + 1
        assert tracemalloc.get_traced_memory()[1] < 8 * tables.MIB
        for picture in pictures:
            assert len(picture.read()) == 4_500_000
        assert tracemalloc.get_traced_memory()[1] < 40 * tables.MIB
    finally:
        tracemalloc.stop()


def test_the_reader_agrees_with_python(tmp_path):
    """On a list that is written as text, the spans say what a parser of Python literals would."""
    images = [b64(random.Random(n).randbytes(100 + n)) for n in range(30)]
    [found] = read(tmp_path, row(1, str(images)))
    literal = ast.literal_eval(found["image"])
    assert [p.read() for p in found.pictures()] == [base64.b64decode(text) for text in literal]

"""The data folder: what it reads, that nothing leads out of it, and how bad data is refused."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
import zipfile

import pytest
from PIL import Image

from internvl.errors import DataError, InternVLError
from internvl.evaluation import folder as module
from internvl.evaluation import parquet as module_parquet
from internvl.evaluation.benchmark import File
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row, read_literal


def png(colour: str = "red", size: int = 4) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / "a.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png("blue"))
    return Folder(root)


def lines(folder, *rows, name="set.jsonl"):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder.root / name).write_text(text + "\n", encoding="utf-8")
    return list(folder.jsonl(name))


# ---- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "sub/../../secret.png", "", "a\0b", "..\\secret.png", "x" * 5000]
)
def test_nothing_leads_out(folder, name):
    row = Row({"image": name}, "set.jsonl:3")
    for reach in (folder.path, folder.picture, folder.footage):
        with pytest.raises(DataError, match=r"set.jsonl:3: .*(leads out of the data folder)"):
            reach(row.text("image"), row=row)
    with pytest.raises(DataError):
        folder.find(name)


def test_links_that_lead_out_are_refused_and_others_followed(folder):
    (folder.root / "out.png").symlink_to(folder.root.parent / "secret.png")
    (folder.root / "outside").symlink_to(folder.root.parent)
    (folder.root / "circle").symlink_to(folder.root / "circle")
    (folder.root / "in.png").symlink_to(folder.root / "a.png")
    for name in ("out.png", "outside/secret.png"):
        with pytest.raises(DataError, match=r"leads out"):
            folder.picture(name)
    with pytest.raises(DataError):
        folder.picture("circle")
    with pytest.raises(DataError, match=r"leads out"):
        folder.find("*.png")
    assert folder.picture("in.png").read() == png()


def test_the_folder_itself_may_be_a_link(folder):
    (folder.root.parent / "link").symlink_to(folder.root)
    assert Folder(folder.root.parent / "link").picture("a.png").read() == png()


def test_what_is_missing_is_named(folder):
    with pytest.raises(DataError, match=r"'b.png' is not in .*; put it at .*b.png; it is in images.zip"):
        folder.path("b.png", hint="it is in images.zip")
    with pytest.raises(DataError, match=r"set.jsonl:7: 'b.png' is not in"):
        folder.picture("b.png", row=Row({}, "set.jsonl:7"))


def test_has(folder):
    (folder.root / "parts").mkdir()
    (folder.root / "parts" / "test-0.parquet").write_bytes(b"")
    for path, there in (("a.png", True), ("b.png", False), ("parts", True), ("parts/test-*.parquet", True),
                        ("parts/train-*.parquet", False)):  # fmt: skip
        assert folder.has(File(path)) is there


def test_a_picture_is_read_late(folder):
    picture = folder.picture("a.png", max_tiles=3, enlarge=2)
    assert (picture.name, picture.max_tiles, picture.enlarge) == ("a.png", 3, 2)
    (folder.root / "a.png").write_bytes(b"changed")
    assert picture.read() == b"changed"
    (folder.root / "a.png").unlink()
    with pytest.raises(DataError, match=r"a.png: cannot be read"):
        picture.read()


def test_a_picture_has_a_size(folder, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_PICTURE", 10)
    with pytest.raises(DataError, match=r"a.png: larger than"):
        folder.picture("a.png").read()


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_json_lines(folder):
    rows = lines(folder, "\ufeff" + json.dumps({"id": 1, "question": "Größe?"}), "", {"id": 2, "question": "Why?"})
    assert [row.where for row in rows] == ["set.jsonl:1", "set.jsonl:3"]
    assert rows[0].text("question") == "Größe?"
    assert rows[1].number("id") == 2
    assert rows[1].get("answer", "none") == "none"
    assert "answer" not in rows[1]
    assert list(rows[1]) == ["id", "question"]


@pytest.mark.parametrize(("line", "said"), [
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("9" * 5_000, "not JSON"),
    ("[1]", r"is \[1\]; expected a JSON object"),
    ("\ud800", "not JSON"),
], ids=["open", "deep", "long number", "list", "surrogate"])  # fmt: skip
def test_bad_json_is_refused_with_file_and_row(folder, line, said):
    data = json.dumps({"id": 1}).encode() + b"\n" + line.encode("utf-8", "surrogatepass") + b"\n"
    (folder.root / "set.jsonl").write_bytes(data)
    with pytest.raises(DataError, match=f"set.jsonl:2: {said}") as error:
        list(folder.jsonl("set.jsonl"))
    assert "\n" not in str(error.value)


def test_a_long_line_is_refused_in_bounded_memory(folder, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_LINE", module.MIB)
    with (folder.root / "set.jsonl").open("wb") as file:
        file.write(b'{"id": 1}\n{"id": "')
        file.seek(10 * 2**30)  # a hole: ten gigabytes that take no room
        file.write(b'"}\n')
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"set.jsonl:2: the line is longer than 1 MiB"):
            list(folder.jsonl("set.jsonl"))
        assert tracemalloc.get_traced_memory()[1] < 8 * module.MIB
    finally:
        tracemalloc.stop()


def test_a_value_that_is_missing_or_of_another_type(folder):
    [row] = lines(folder, {"question": 3, "answer": True, "n": "x", "m": "2.5", "list": ["a", {}]})
    with pytest.raises(DataError, match=r"set.jsonl:1: `image` is missing; there are: question, answer, n"):
        row.text("image")
    with pytest.raises(DataError, match=r"set.jsonl:1: `question` is 3; expected text"):
        row.text("question")
    for key in ("answer", "n"):
        with pytest.raises(DataError, match=f"set.jsonl:1: `{key}` is .*; expected a number"):
            row.number(key)
    with pytest.raises(DataError, match=r"set.jsonl:1: `list` is .*; expected a list of texts"):
        row.items_of("list")
    assert row.number("m") == 2.5


def test_an_id_twice(folder):
    (folder.root / "set.jsonl").write_text('{"qid": 1}\n{"qid": 2}\n{"qid": 1}\n')
    assert len(list(folder.jsonl("set.jsonl"))) == 3
    with pytest.raises(DataError, match=r"set.jsonl:3: `qid` is '1' a second time"):
        list(folder.jsonl("set.jsonl", unique="qid"))


def test_lists_as_people_write_them():
    for value in (["a", "b'c"], '["a", "b\'c"]', "['a', \"b'c\"]", "('a', \"b'c\")"):
        assert Row({"o": value}, "x:1").items_of("o") == ["a", "b'c"]
    assert Row({"o": "[1, 2.5, 'x']"}, "x:1").items_of("o") == ["1", "2.5", "x"]
    assert Row({"o": r"['\d']"}, "x:1").items_of("o") == [r"\d"]


@pytest.mark.parametrize("text", [
    "__import__('os').system('touch PWNED')",
    "[__import__('os').system('touch PWNED')]",
    "[open('PWNED', 'w')]",
    "(lambda: [open('PWNED', 'w')])()",
    "[x for x in (1,)]",
    "{'a': 1}",
    "'a'",
    "[" * 5000,
    "-" * 100_000 + "1",
    "",
])  # fmt: skip
def test_code_in_an_options_field_stays_text(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"set.jsonl:4: `options` is .*; expected a list of texts"):
        Row({"options": text}, "set.jsonl:4").items_of("options")
    assert list(tmp_path.iterdir()) == []


def test_a_literal_is_bounded(monkeypatch):
    monkeypatch.setattr("internvl.evaluation.rows.LONGEST_LITERAL", 10)
    assert read_literal("['aaaaaa']") == ["aaaaaa"]
    assert read_literal("['aaaaaaa']") is None


def test_json_files(folder):
    (folder.root / "set.json").write_text('{"data": [{"id": 1}, {"id": 2}]}')
    assert folder.json("set.json")["data"][1] == {"id": 2}
    assert [row.where for row in folder.json_rows("set.json", "data")] == ["set.json[0]", "set.json[1]"]
    with pytest.raises(DataError, match=r"set.json: `rows` is missing"):
        list(folder.json_rows("set.json", "rows"))
    with pytest.raises(DataError, match=r"set.json: is .*; expected a list"):
        list(folder.json_rows("set.json"))
    (folder.root / "bad.json").write_text('[{"id": 1}, 2]')
    with pytest.raises(DataError, match=r"bad.json\[1\]: is 2"):
        list(folder.json_rows("bad.json"))


# ---- archives --------------------------------------------------------------------------------------------------------


def test_pictures_in_an_archive(folder):
    with zipfile.ZipFile(folder.root / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/1.png", png())
    picture = folder.member("images.zip", "x/1.png")
    assert picture.read() == png()
    assert picture.name == "images.zip/x/1.png"
    row = Row({}, "set.jsonl:2")
    with pytest.raises(DataError, match=r"set.jsonl:2: 'x/2.png' is not in images.zip"):
        folder.member("images.zip", "x/2.png", row=row)
    with pytest.raises(DataError, match=r"set.jsonl:2: a.png is not a zip archive"):
        folder.member("a.png", "x", row=row)


def test_a_damaged_archive(folder):
    with zipfile.ZipFile(folder.root / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", png(size=64) * 20)
    data = bytearray((folder.root / "images.zip").read_bytes())
    data[60:70] = b"\xff" * 10
    (folder.root / "images.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"images.zip/1.png: cannot be read"):
        folder.member("images.zip", "1.png").read()


def test_an_archive_that_grows(folder, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_PICTURE", 1000)
    with zipfile.ZipFile(folder.root / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", bytes(2000))
    with pytest.raises(DataError, match=r"images.zip/1.png: larger than"):
        folder.member("images.zip", "1.png").read()


# ---- parquet ---------------------------------------------------------------------------------------------------------


def parquet(folder, rows, name="test-0.parquet", group=2):
    pyarrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("id", pyarrow.string()), ("options", pyarrow.list_(pyarrow.string())),
                             ("image", image), ("images", pyarrow.list_(image))])  # fmt: skip
    writer.write_table(pyarrow.Table.from_pylist(rows, schema), folder.root / name, row_group_size=group)


def picture_of(colour):
    return {"bytes": png(colour), "path": None}


def test_parquet_rows(folder):
    colours = ["red", "green", "blue", "white", "black"]
    rows = [{"id": c, "options": ["x", c], "image": None if c == "green" else picture_of(c),
             "images": [picture_of(c), picture_of("pink")]} for c in colours]  # fmt: skip
    parquet(folder, rows[:3])
    parquet(folder, rows[3:], "test-1.parquet")
    found = list(folder.parquet("test-*.parquet"))
    assert [row.text("id") for row in found] == colours
    assert [row.where for row in found][2:4] == ["test-0.parquet, row 3", "test-1.parquet, row 1"]
    assert found[1]["image"] is None
    assert found[1].items_of("options") == ["x", "green"]
    assert [len(row.pictures()) for row in found] == [3, 2, 3, 3, 3]
    for number in (4, 2, 0, 3, 2):  # in any order
        assert [p.read() for p in found[number].pictures()] == [png(colours[number])] * 2 + [png("pink")]
    assert found[0].pictures("image")[0].name == "test-0.parquet, row 1, image"
    assert [p.name for p in found[0].pictures("images")][1] == "test-0.parquet, row 1, images 2"


def test_parquet_that_cannot_be_used(folder):
    parquet(folder, [{"id": "a", "options": [], "image": {"bytes": None, "path": "x.png"}, "images": []}])
    [row] = folder.parquet("test-0.parquet")
    with pytest.raises(DataError, match=r"test-0.parquet, row 1: `image` has no bytes, only a path \('x.png'\)"):
        row.pictures()[0].read()
    with pytest.raises(DataError, match=r"put the parquet files there"):
        list(folder.parquet("val-*.parquet"))
    (folder.root / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"bad.parquet: not a parquet file"):
        list(folder.parquet("bad.parquet"))


def test_parquet_bytes_are_read_once_in_order(folder, monkeypatch):
    parquet(folder, [{"id": str(n), "options": [], "image": picture_of("red"), "images": []} for n in range(20)],
            group=20)  # fmt: skip
    opened, batches = [], module_parquet.batches

    def watched(file, name, group, columns, size):
        opened.append(columns)
        return batches(file, name, group, columns, size)

    monkeypatch.setattr(module_parquet, "batches", watched)
    for row in module_parquet.read_parquet(folder.root / "test-0.parquet", "x"):
        [picture] = row.pictures()
        assert picture.read() == png()
    assert opened == [["id", "options.list.element", "image.path", "images.list.element.path"], ["image"]]


def test_without_pyarrow(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (folder.root / "a.parquet").write_bytes(b"")
    with pytest.raises(InternVLError, match=r"pip install 'internvl\[eval\]'"):
        list(folder.parquet("a.parquet"))

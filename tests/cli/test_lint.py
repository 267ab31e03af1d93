"""`internvl lint` at the command line: exit statuses, JSON, files that are written whole or not at all."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
from PIL import Image

from internvl.cli.lint import sparkline
from internvl.cli.main import run
from internvl.data.lint_tally import spread
from tests.conftest import golden

GOOD = {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "It."}], "image": "a.png"}
EMPTY = GOOD | {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": ""}]}
MISSING = GOOD | {"image": "[bold red]none[/].png"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    Image.new("RGB", (60, 50), "red").save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, *rows):
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return name


@pytest.mark.parametrize(
    ("rows", "strict", "status"),
    [([GOOD], True, 0), ([GOOD, EMPTY], False, 0), ([GOOD, EMPTY], True, 1), ([GOOD, MISSING], False, 1)],
)
def test_the_status_says_whether_training_would_be_stopped(folder, capsys, rows, strict, status):
    assert run(["lint", write("rows.jsonl", *rows), *(["--strict"] if strict else [])]) == status
    said = capsys.readouterr().out
    assert f"all {len(rows)} rows" in said
    if MISSING in rows:
        assert "rows.jsonl:2  [bold red]none[/].png: there is no such file" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.jsonl"], "none.jsonl: there is no such file"),
        (["rows.jsonl", "--rows", "0"], "rows is 0"),
        (["rows.jsonl", "--max-length", "0"], "--max-length 0"),
        (["rows.jsonl", "--examples", "0"], "--examples 0"),
        (["rows.jsonl", "--workers", "-1"], "workers is -1"),
        (["rows.jsonl", "--max-tiles", "0"], "max_tiles"),
        (["pairs.jsonl", "--model", str(golden("checkpoints/qwen2-v2_5-bf16"))], "captions are read by InternVL-C"),
        (["labels.jsonl", "--model", "nano"], "no tokens to count"),
        (["meta.json"], "annotation"),
        (["rows.jsonl", "--kind", "poem"], "poem"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, words, said):
    write("rows.jsonl", GOOD)
    write("pairs.jsonl", {"image": "a.png", "caption": "Red."})
    write("labels.jsonl", {"image": "a.png", "label": 1})
    (folder / "meta.json").write_text('{"one": {"root": "."}}')
    assert run(["lint", *words, "--html", "page.html"]) == 2
    out, told = capsys.readouterr()
    assert said in told
    assert len(told.strip().splitlines()) == 1
    assert not out
    assert not (folder / "page.html").exists()


def test_json_and_files(folder, capsys):
    (folder / "meta.json").write_text(json.dumps({
        "some": {"annotation": write("rows.jsonl", GOOD, EMPTY, MISSING), "root": "."},
        "pairs": {"annotation": write("prefer.jsonl", {"question": "?", "chosen": "a", "rejected": "a"})
                  , "kind": "preference"},
    }))  # fmt: skip
    assert run(["lint", "meta.json", "--json", "--faults", "faults.jsonl", "--html", "page.html"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["looked"], told["of"]) == (4, 4)
    assert {one["rule"]: one["count"] for one in told["findings"]} == {
        "media-missing": 1, "empty-answer": 1, "same-answers": 1, "contradiction": 1,
    }  # fmt: skip
    assert [one["name"] for one in told["sources"]] == ["some", "pairs"]
    faults = [json.loads(line) for line in (folder / "faults.jsonl").read_text().splitlines()]
    assert [fault["rule"] for fault in faults] == ["empty-answer", "media-missing", "same-answers", "contradiction"]
    assert faults[1]["row"].endswith("rows.jsonl:3")
    assert (folder / "page.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_how_much_of_an_epoch_each_source_is_is_shown(folder, capsys):
    write("rows.jsonl", GOOD, GOOD | {"id": 2})
    write("more.jsonl", GOOD | {"image": []}, GOOD)
    meta = {
        "a": {"annotation": "rows.jsonl", "repeat_time": 3.5},
        "b": {"annotation": "more.jsonl", "repeat_time": 0.5},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    assert run(["lint", "meta.json"]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["a", "2", "7", "87.5%", "0"] in [line[:5] for line in said]
    assert ["b", "2", "1", "12.5%", "0"] in [line[:5] for line in said]
    run(["lint", "meta.json", "--json"])
    assert [one["samples"] for one in json.loads(capsys.readouterr().out)["sources"]] == [7, 1]


@pytest.mark.parametrize("name", ["rows.json", "my rows.json"])
def test_a_list_becomes_lines_as_the_message_says(folder, capsys, name):
    """The line of Python is run as it stands."""
    (folder / name).write_text(json.dumps([GOOD, GOOD | {"id": 2}]))
    assert run(["lint", name]) == 2
    said = capsys.readouterr().err
    assert "jq -c '.[]'" in said
    command = said[said.index('python -c "') : said.rindex(")")]
    subprocess.run(["sh", "-c", command.replace("python", shlex.quote(sys.executable), 1)], check=True)
    assert run(["lint", f"{name}l"]) == 0


def test_the_kind_is_seen_in_the_first_rows(folder, capsys):
    write("pairs.jsonl", {"image": "a.png", "caption": "Red."})
    write("labels.jsonl", {"image": "a.png", "label": 1})
    write("prefer.jsonl", {"image": "a.png", "question": "?", "chosen": "a", "rejected": "b"})
    for name, kind in (("pairs", "pair"), ("labels", "label"), ("prefer", "preference")):
        assert run(["lint", f"{name}.jsonl", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == kind
    assert run(["lint", "pairs.jsonl", "--model", str(golden("checkpoints/internvl-14b")), "--max-length", "3"]) == 0
    assert "caption-long" in capsys.readouterr().out


def test_a_sparkline_is_as_high_as_its_bars():
    found = spread("tiles", "tiles", [1] * 8 + [2] * 4 + [4])
    assert sparkline(found) == "█▄ ▁"

"""ChartMimic: programs are written into files, no score is given and it is said why."""

from __future__ import annotations

import io
import zipfile

from internvl.evaluation.tasks.code import TASKS, archive, code_of
from tests.evaluation.layouts import answered, check_lists, put, samples, scores, table

DIRECT = TASKS[0]


def rows_of(root):
    put(root, "ChartMimic_v2_direct_1800.tsv", table(
        {"index": 0, "question": "Redraw.", "input_figure": "v2/direct_1800/bar_1.png", "task": "Direct Mimic"},
        {"index": "a/1", "question": "Again.", "input_figure": "v2/direct_1800/bar_2.png", "task": "Direct Mimic"},
    ))  # fmt: skip
    for name in ("bar_1", "bar_2"):
        put(root, f"images/ChartMimic/v2/direct_1800/{name}.png")
    return samples(DIRECT, root)


def test_lists():
    check_lists(TASKS, "code")


def test_chartmimic(tmp_path):
    rows = rows_of(tmp_path)
    assert rows[0].prompt == "Redraw."
    assert rows[1].pictures[0].name == "images/ChartMimic/v2/direct_1800/bar_2.png"
    said = ["Sure:\n```python\nimport os\nos.remove('x')\n```", "I cannot."]
    found = scores(DIRECT, rows, said)
    assert found.values == {"answers with a program": 50.0}
    assert "never runs one" in found.withheld["low level"]
    assert found.withheld.keys() == {"low level", "high level"}
    assert [row.mark.score for row in answered(DIRECT, rows, said)] == [None, None]
    assert not DIRECT.summarise([]).values


def test_files_are_written_and_never_leave_their_archive(tmp_path):
    marked = answered(DIRECT, rows_of(tmp_path), ["```python\nx = 1\n```\n```python\nx = 2\n```", "I cannot."])
    name, write = DIRECT.submission
    assert name == "chartmimic-direct.zip"
    with zipfile.ZipFile(io.BytesIO(write(marked))) as files:
        assert {info: files.read(info).decode() for info in files.namelist()} == {
            "0.py": "x = 1\n",
            "a_1.txt": "I cannot.",
        }
    assert archive(marked) == archive(marked)


def test_code_of():
    assert code_of("```python\n  x = 1\n```") == "  x = 1\n"
    assert code_of("x = 1") == code_of("```\nx\n```") == code_of("```python\nx = 1") == ""

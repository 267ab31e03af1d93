"""The report of a run: what is drawn, and that nothing in it comes from outside or is taken for markup."""

import json
import re

from internvl.training.report import NOISY, plot, plots, write_report


def step(number, **values):
    base = {"kind": "step", "number": number, "tokens_per_second": 10.0, "memory": 2**30, "lr": 0.1}
    return {**base, "loss": 1 / number, **values}


def write(folder, lines):
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_line_goes_from_corner_to_corner():
    drawn = plot("loss", [(1, 2.0), (2, 1.0)], [])
    assert drawn is not None
    assert drawn.lines[0].points == "0.0,0.0 480.0,160.0"  # the highest value is at the top


def test_a_mean_does_not_lag_behind_a_slope():
    drawn = plot("loss", [(x, float(x)) for x in range(1, 2 * NOISY)], [])
    assert drawn is not None
    faint, strong = drawn.lines
    assert faint.points == strong.points  # the mean of the steps around each of a straight line is that line


def test_figures_that_are_the_same_are_drawn_once_and_what_never_changes_not_at_all():
    lines = [step(number, nll=1 / number) for number in range(1, 9)]
    assert [drawn.title for drawn in plots(lines)] == ["loss"]


def test_what_is_no_number_is_left_out():
    lines = [step(1), step(2, loss=None), step(3)]
    drawn = plots(lines)[0]
    assert len(drawn.lines[0].points.split()) == 2


def test_the_page_stands_alone_and_texts_are_texts(tmp_path):
    folder = tmp_path / "run"
    held = [{"kind": "held_out", "number": n, "loss": 0.5 / (n + 1), "exact": n / 8} for n in (0, 8)]
    write(folder, [*[step(n) for n in range(1, 9)], *held, {"kind": "note", "text": "<script>alert(1)</script>"}])
    (folder / "config.txt").write_text("start.model=none\noptim.lr=0.1\n")
    (folder / "held-out").mkdir()
    for number, answer in ((4, "earlier"), (8, "<b>cat</b>")):
        row = {"id": "a", "expected": "cat", "answer": answer, "exact": 0.0}
        (folder / "held-out" / f"step-{number:06}.jsonl").write_text(json.dumps(row) + "\n")
    page = write_report(folder).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;cat&lt;/b&gt;" in page
    assert "earlier" not in page
    assert "start.model=none" in page
    assert not re.search(r"""(src|href)=|url\(""", page)
    assert page.count("<polyline") == 3  # the loss with its held-out figure, and exact


def test_a_run_that_was_never_measured_has_a_page_too(tmp_path):
    write(tmp_path / "run", [])
    assert "</html>" in write_report(tmp_path / "run").read_text()

"""The page of a load run: one file, whole, and whatever a server said is text in it."""

from html.parser import HTMLParser

import pytest

from internvl.bench.figures import figures
from internvl.bench.report import check_can_write, report_html, write_report
from internvl.errors import UsageError
from tests.bench.test_figures import outcome, run_of

EVIL = '<script>alert("1")</script><img src=http://evil/x>'
ASKED = {"model": EVIL, "endpoint": "http://h/v1", "load": "3 requests", "begun": "now", "seed": "0"}


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.addresses, self.text = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(run, **options):
    return Page(report_html(run, figures(run, **options), ASKED))


@pytest.fixture
def run():
    failed = outcome(1, (), "failed", kind="HTTP 500", error=EVIL)
    return run_of(outcome(), failed, outcome(2, (), "cancelled", ended=30.0), outcome(3, (2.0, 2.5, 4.0)), rate=1.0)


@pytest.fixture
def found(run):
    for number, one in enumerate(run.outcomes):  # an open loop: each was planned a little later
        object.__setattr__(one, "planned", 0.1 * (number + 1))
    return figures(run, bounds={"ttft": 1.0, "itl": 0.9, "e2e": 20.0})


def test_an_empty_answer_is_told_and_counts_as_no_failure():
    run = run_of(outcome(), outcome(1, (), "empty", ended=0.1))
    page = page_of(run, bounds={"e2e": 20.0})
    assert "1 empty" in page.text
    assert "failed" not in page.text
    assert figures(run).spreads["e2e"].count == 1


def test_a_page_is_whole_and_asks_nothing_of_any_other_place(run, found):
    page = Page(report_html(run, found, ASKED))
    assert page.open == []
    assert page.addresses == []
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert EVIL in page.text
    assert page.tags.count("figure") == 6


def test_figures_stand_on_the_page(run, found):
    text = " ".join(Page(report_html(run, found, ASKED)).text.split())
    for expected in (
        "of 4 in 10 s · 1 failed · 1 cancelled",
        "HTTP 500",
        "time to first token at most 1 s",
        "bound 1 s",
    ):
        assert expected in text
    for note in found.notes:
        assert note in text


def test_a_run_in_which_nothing_was_answered_can_be_shown():
    page = page_of(run_of(outcome(0, (), "failed", ended=0.0, kind="HTTP 500", error="no"), seconds=1e-9))
    assert page.open == []


def test_a_page_is_written_whole_or_not_at_all(tmp_path, run, found, monkeypatch):
    path = write_report(tmp_path / "report.html", run, found, ASKED)
    before = path.read_text(encoding="utf-8")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_report(path, run, found, {**ASKED, "seed": "1"})
    assert path.read_text(encoding="utf-8") == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_where_it_cannot_be_written_is_said_before_the_run(tmp_path):
    for path in (tmp_path / "gone" / "report.html", tmp_path):
        with pytest.raises(UsageError, match="expected the name of a file in a folder that is there"):
            check_can_write(path)

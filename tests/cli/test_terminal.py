"""A wait is explained, but only where somebody watches and only if it is long."""

import io
import time

import pytest

from internvl.cli import terminal


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch) -> Screen:
    shown = Screen()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    return shown


def test_a_long_wait_is_shown_and_cleared(screen, monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", 0.01)
    with terminal.waiting("looking") as advance:
        advance(1, 9)
        time.sleep(0.3)
        advance(4, 9)
        time.sleep(0.3)
    assert "looking" in screen.getvalue()
    assert "4/9" in screen.getvalue()


def test_a_short_wait_is_not(screen):
    with terminal.waiting("looking") as advance:
        advance(1, 1)
    assert screen.getvalue() == ""


def test_nobody_is_told_where_nobody_watches(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", 0.0)
    with terminal.waiting("looking") as advance:
        time.sleep(0.05)
        advance(1, 1)
    assert capsys.readouterr() == ("", "")


def test_a_complaint_is_one_line(capsys):
    assert terminal.complain("first\n  second") == 2
    assert capsys.readouterr().err == "internvl: first second\n"

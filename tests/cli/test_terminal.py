"""A wait is explained, but only where somebody watches and only if it is long."""

import io
import time

import pytest

from internvl.cli import terminal


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Not a fixture: pytest puts its own standard error back when a test begins."""
    shown = Screen()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    return shown


def test_a_long_wait_is_shown_and_cleared(monkeypatch):
    shown = screen(monkeypatch)
    monkeypatch.setattr(terminal, "PATIENCE", 0.01)
    with terminal.waiting("looking") as advance:
        advance(4, 9)
        deadline = time.monotonic() + 30
        while "4/9" not in shown.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "looking" in shown.getvalue()
    assert "4/9" in shown.getvalue()


def test_a_short_wait_is_not(monkeypatch):
    shown = screen(monkeypatch)
    with terminal.waiting("looking") as advance:
        advance(1, 1)
    assert shown.getvalue() == ""


def test_nobody_is_told_where_nobody_watches(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", 0.0)
    with terminal.waiting("looking") as advance:
        time.sleep(0.05)
        advance(1, 1)
    assert capsys.readouterr() == ("", "")


def test_a_complaint_is_one_line(capsys):
    assert terminal.complain("first\n  second") == 2
    assert capsys.readouterr().err == "internvl: first second\n"

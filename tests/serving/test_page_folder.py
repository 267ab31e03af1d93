"""The page's folder goes with its process, however that ends, and nobody else's does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from internvl.serving.page.folder import kept, new_place, remove_left

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such locks on Windows")
HOLDS = """
import sys, time
from pathlib import Path
from internvl.serving.page.folder import kept
with kept(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def place_in(folder: Path) -> Path:
    return folder / new_place().name


def test_what_a_killed_page_left_goes_when_another_starts(tmp_path):
    left, mine = place_in(tmp_path), place_in(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(left)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        (left / "upload").mkdir()
        (left / "upload" / "a.png").write_bytes(b"x")
        with kept(mine):
            assert (left / "upload" / "a.png").exists(), "its page lives"
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert left.exists()
        with kept(mine):
            assert mine.stat().st_mode & 0o077 == 0
            assert list(tmp_path.iterdir()) == [mine]
        assert not mine.exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close() if process.stdout else None


def test_what_is_no_folder_of_ours_stays(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "a.txt").write_text("a")
    link, file, shared, other = (place_in(tmp_path) for _ in range(4))
    link.symlink_to(elsewhere)
    file.write_text("a")
    shared.mkdir()
    shared.chmod(0o755)
    old = tmp_path / "internvl-ui-0123456789abcdef"
    old.mkdir(mode=0o700)
    before = sorted(tmp_path.rglob("*"))
    remove_left(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    other.mkdir(mode=0o700)
    user = os.getuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: user + 1)
        remove_left(tmp_path)
        assert other.exists(), "it is another user's"
    remove_left(tmp_path)
    assert not other.exists()

"""What pip installs: everything the package needs to answer, nothing else, under 100 MB."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import REPOSITORY

LIMIT = 100_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = folder.glob("*.whl")
    return built


def test_it_is_small_and_complete(wheel):
    assert wheel.stat().st_size < LIMIT
    names = set(zipfile.ZipFile(wheel).namelist())
    needed = ["internvl/py.typed", "internvl/nano/card.md", "internvl/nano/checkpoint/model-00001-of-00002.safetensors",
              "internvl/nano/pair/model.safetensors", "internvl/nano/pair/tokenizer.model"]  # fmt: skip
    assert not [name for name in needed if name not in names]
    assert any(name.startswith("internvl/nano/examples/") for name in names)
    strangers = {name.split("/")[0] for name in names} - {"internvl"}
    assert all(name.endswith(".dist-info") for name in strangers), strangers


def test_it_answers_without_the_checkout(wheel, tmp_path):
    """From the unpacked wheel alone, with no network and nowhere to write but the current folder."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import internvl; assert 'site' in internvl.__file__; print(internvl.Chat.load().ask('Hello').text)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()

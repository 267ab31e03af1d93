"""Every example that a docstring gives is true. What needs a model, a file or a network is marked as not run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import internvl

ROOT = Path(internvl.__file__).parent


def shown() -> list[str]:
    """The modules that give examples."""
    files = [file for file in sorted(ROOT.rglob("*.py")) if ">>> " in file.read_text(encoding="utf-8")]
    return [".".join(("internvl", *file.relative_to(ROOT).with_suffix("").parts)) for file in files]


@pytest.mark.parametrize("name", shown())
def test_the_examples_are_true(name, tmp_path, monkeypatch):
    module = importlib.import_module(name.removesuffix(".__init__"))
    monkeypatch.chdir(tmp_path)
    assert not doctest.testmod(module).failed

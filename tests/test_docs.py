"""Every code block of the documentation runs, and what the code already says is not said otherwise.

| block | what happens |
|---|---|
| `python` | the blocks of one page run one after another, as one program, in a folder with a few pictures |
| `bash` | each block runs |
| `console` | the lines after `$` run and print what the page shows |
| anything else | not looked at |

A block that cannot run here (it needs the hub, a GPU, a browser) stands under `<!-- not run: why -->`. It must still
parse, and every option of `internvl` in it must be one that `--help` knows.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import pytest
from PIL import Image

from internvl import errors
from tests.conftest import REPOSITORY

PAGES = sorted(p for p in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")) if p.name != "CHANGELOG.md")
EXAMPLES = REPOSITORY / "src" / "internvl" / "nano" / "examples"
BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>[^\n]*?) -->\n+)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    kind: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start("kind")) + 1, found["kind"], found["text"], found["why"])
        for found in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of_kind(*kinds: str, run: bool) -> list[Block]:
    return [block for block in BLOCKS if block.kind in kinds and (block.not_run is None) == run]


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """Two seconds of a square that moves."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width, stream.height = 160, 120
        for step in range(16):
            picture = Image.new("RGB", (160, 120), "white")
            picture.paste("red", (8 * step, 40, 8 * step + 40, 80))
            file.mux(stream.encode(av.VideoFrame.from_image(picture)))
        file.mux(stream.encode())
    return path


@pytest.fixture
def desk(tmp_path, clip):
    """A folder with the files that the pages speak of."""
    pictures = sorted(p for p in EXAMPLES.iterdir() if p.suffix in (".png", ".jpg")) if EXAMPLES.is_dir() else []
    assert pictures, f"there are no example pictures in {EXAMPLES}"
    for file in (*pictures, clip):
        shutil.copy(file, tmp_path / file.name)
    Image.open(pictures[0]).convert("RGB").save(tmp_path / "paper.pdf")
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    """What a command prints; it must succeed."""
    beside_python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": beside_python, "HF_HUB_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, desk):
    program = "\n".join(block.text for block in blocks_of(page) if block.kind == "python" and block.not_run is None)
    if program:
        run([sys.executable, "-W", "error", "-c", program], desk)


@pytest.mark.parametrize("block", of_kind("bash", run=True), ids=str)
def test_bash_blocks_run(block, desk):
    run(["bash", "-euo", "pipefail", "-c", block.text], desk)


@pytest.mark.parametrize("block", of_kind("console", run=True), ids=str)
def test_console_blocks_print_what_they_show(block, desk):
    for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        assert run(["bash", "-euo", "pipefail", "-c", command], desk).strip() == shown.strip()


@pytest.mark.parametrize("block", of_kind("python", run=False), ids=str)
def test_python_blocks_that_do_not_run_parse(block):
    compile(block.text, str(block), "exec")


@cache
def help_of(command: str) -> str:
    return run([sys.executable, "-m", "internvl", command, "--help"], REPOSITORY)


COMMANDS = re.compile(r"\binternvl (?P<command>[a-z]+)\b(?P<rest>[^\n|;]*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_the_command_line_exist(page):
    """In every block and every `code span`, run or not."""
    text = page.read_text(encoding="utf-8")
    spans = [block.text for block in blocks_of(page) if block.kind in ("bash", "console")]
    spans += re.findall(r"`(internvl [^`\n]+)`", text)
    for found in (match for span in spans for match in COMMANDS.finditer(span.replace("\\\n", " "))):
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]+", found["rest"]):
            assert option in help_of(found["command"]), f"{page.name}: internvl {found['command']} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_generated_pages_are_fresh():
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "docs" / "generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert not generate.stale(), "run python docs/generate.py"


def test_the_drawn_tree_of_errors_is_the_real_one():
    """Each drawn class is a child of the nearest class above it that is drawn further to the left."""
    drawn: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for indent, name in re.findall(r"^([ |`-]*)([A-Z]\w+)  +\S", inspect.getdoc(errors) or "", flags=re.M):
        while path and path[-1][0] >= len(indent):
            path.pop()
        drawn[name] = path[-1][1] if path else None
        path.append((len(indent), name))
    kinds = [k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, errors.InternVLError)]
    root = errors.InternVLError
    assert drawn == {k.__name__: None if k is root else k.__bases__[0].__name__ for k in kinds}


def test_the_readme_tells_the_test_command_that_ci_runs():
    command = "make test"
    assert command in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert command in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_readme_shows_every_part_of_the_house():
    """The tree is the map that newcomers use; the files of each part stand in docs/architecture.md."""
    [tree] = [b.text for b in blocks_of(REPOSITORY / "README.md") if b.text.startswith("src/internvl/\n")]
    shown = {name.rstrip("/") for name in re.findall(r"^ +(\S+) ", tree, flags=re.M)}
    source = REPOSITORY / "src" / "internvl"
    parts = {path.name for path in source.iterdir() if not path.name.startswith("_")}
    assert shown == {name for name in parts if (source / name).is_dir() or name.endswith(".py")}


def test_every_file_says_what_it_is():
    files = [
        file for file in (REPOSITORY / "src" / "internvl").rglob("*.py") if file.read_text(encoding="utf-8").strip()
    ]
    silent = [str(file) for file in files if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))]
    assert not silent, f"without a docstring, and so without a line in docs/architecture.md: {silent}"

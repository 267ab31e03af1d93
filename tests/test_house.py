"""The rules of the house that a machine can keep: who imports whom, what is never called, how long things may grow."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SOURCE = REPOSITORY / "src" / "internvl"
FILES = sorted(SOURCE.rglob("*.py"))

MAY_IMPORT = {  # package -> the siblings it may import, beside `errors`, which everyone may
    "errors": "",
    "models": "",
    "data": "",
    "metrics": "",
    "zoo": "models",
    "weights": "models data zoo",
    "inference": "models weights data zoo",
    "training": "models weights data zoo",
    "evaluation": "inference data metrics weights zoo",
    "export": "models weights data",
    "serving": "inference data models weights export",
    "recipes": "training data zoo nano",
    "nano": "models data metrics",
    "__main__": "cli",
}
ANYTHING_INSIDE_FUNCTIONS = {"__init__", "bench", "cli"}

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
MOST_ARGUMENTS = 8
SHARED_LINES = 12

# The numbers above are a smell alarm, not a fence: what reads better long stands here with its reason.
LONG_FILES: dict[str, str] = {
    "zoo.py": "a table, one row for each published checkpoint",
}
LONG_FUNCTIONS: dict[str, str] = {
    "cli/bench.py:serve": "one line for each option",
    "cli/chat.py:chat": "one line for each option",
    "cli/eval.py:evaluate": "one line for each option",
    "cli/prefer.py:prefer": "one line for each option",
    "cli/serve.py:serve": "one line for each option",
    "nano/form.py:published_config": "a file, written out",
}
CROWDED_FUNCTIONS: dict[str, str] = {
    "inference/chat.py:Chat.load": "where a model comes from, and how it talks: all by name",
    "inference/embed.py:Embedder.load": "where a model comes from, and how it looks: all by name",
}


def layer_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def only_for_types(tree: ast.Module) -> set[ast.AST]:
    """Everything under `if TYPE_CHECKING:`, which never runs."""
    blocks = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every import as (statement, dotted name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield node, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name


def siblings(file: Path) -> Iterator[tuple[ast.stmt, str]]:
    """The internvl packages a file imports."""
    for node, name in imports(parse(file)):
        parts = name.split(".")
        if parts[0] == "internvl" and len(parts) > 1:
            yield node, parts[1]


def where(file: Path, node: ast.AST) -> str:
    return f"{file.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 1)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_follow_the_layers(file):
    layer = layer_of(file)
    tree = parse(file)
    if layer in ANYTHING_INSIDE_FUNCTIONS:
        harmless = only_for_types(tree)
        eager = [
            where(file, node)
            for node, name in imports(tree)
            if node in tree.body and node not in harmless
            if name.split(".")[0] == "internvl" and not name.startswith((f"internvl.{layer}", "internvl.errors"))
        ]
        assert not eager, f"{layer} imports its siblings inside functions, so that `--help` stays instant: {eager}"
        return
    assert layer in MAY_IMPORT, f"{layer} is not in the table of layers: add it to tests/test_house.py and the design"
    allowed = {layer, "errors", *MAY_IMPORT[layer].split()}
    breaches = [
        f"{where(file, node)} imports internvl.{other}" for node, other in siblings(file) if other not in allowed
    ]
    assert not breaches, f"{layer} may import {sorted(allowed)}: {breaches}"


def test_no_relative_imports():
    relative = [
        where(file, node)
        for file in FILES
        for node in ast.walk(parse(file))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def functions(tree: ast.AST) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
                yield owner + child.name, child


def test_nothing_grows_too_long():
    alarms = []
    for file in FILES:
        name = str(file.relative_to(SOURCE))
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST_FILE and name not in LONG_FILES:
            alarms.append(f"{name} has {lines} lines")
        for function, node in functions(parse(file)):
            if length(node) > LONGEST_FUNCTION and f"{name}:{function}" not in LONG_FUNCTIONS:
                alarms.append(f"{name}:{function} has {length(node)} lines")
    assert not alarms, "split these, or write down in tests/test_house.py why they are better whole"


def test_the_list_of_long_things_is_true():
    known = {str(file.relative_to(SOURCE)): file for file in FILES}
    for name in LONG_FILES:
        assert name in known, f"{name} is gone"
        assert len(known[name].read_text(encoding="utf-8").splitlines()) > LONGEST_FILE, f"{name} is short now"
    for entry in LONG_FUNCTIONS:
        name, function = entry.split(":")
        lengths = [length(node) for found, node in functions(parse(known[name])) if found == function]
        assert lengths, f"{entry} is gone"
        assert max(lengths) > LONGEST_FUNCTION, f"{entry} is short now"


def test_no_function_takes_too_many_arguments():
    """The command line is exempt: there each option is an argument."""
    crowded, listed = [], set(CROWDED_FUNCTIONS)
    for file in FILES:
        if layer_of(file) == "cli":
            continue
        for name, node in functions(parse(file)):
            taken = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if len([a for a in taken if a not in ("self", "cls")]) > MOST_ARGUMENTS:
                entry = f"{file.relative_to(SOURCE)}:{name}"
                if entry not in CROWDED_FUNCTIONS:
                    crowded.append(f"{where(file, node)} {name} takes {len(taken)}")
                listed.discard(entry)
    assert not listed, f"these are gone, or take few now: {listed}"
    assert not crowded, f"{MOST_ARGUMENTS} at most; make a frozen dataclass of what belongs together"


def keyword(call: ast.Call, name: str) -> object:
    """The literal value of a keyword argument, or None."""
    for given in call.keywords:
        if given.arg == name and isinstance(given.value, ast.Constant):
            return given.value.value
    return None


def banned(call: ast.Call) -> str | None:
    """Why a call is not allowed, or None."""
    called = ast.unparse(call.func)
    if called in ("eval", "exec", "compile", "__import__"):
        return "runs text as code"
    if called in ("os.system", "os.popen") or keyword(call, "shell") is True:
        return "starts a shell"
    if called.startswith(("pickle.", "marshal.", "shelve.", "dill.")) or called.endswith("Unpickler"):
        return "unpickles"
    if called == "torch.load" and keyword(call, "weights_only") is not True:
        return "torch.load without weights_only=True unpickles"
    if any(given.arg == "trust_remote_code" for given in call.keywords):
        return "lets a checkpoint bring its own code"
    return None


def test_nothing_dangerous_is_called():
    found = [
        f"{where(file, node)} {ast.unparse(node.func)}: {reason}"
        for file in FILES
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Call) and (reason := banned(node))
    ]
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "os.system('ls')",
        "run('ls', shell=True)",
        "pickle.load(f)",
        "torch.load(f)",
        "f(trust_remote_code=True)",
    ],
)
def test_the_ban_catches(text):
    assert banned(ast.parse(text, mode="eval").body)


def substantive(file: Path) -> list[tuple[int, str]]:
    """The lines of a file that could have been copied: no blank lines, comments or imports."""
    lines = [(i, line.strip()) for i, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)]
    return [(i, line) for i, line in lines if line and not line.startswith(("#", "import ", "from "))]


def test_no_two_files_share_a_passage():
    places: dict[tuple[str, ...], dict[Path, int]] = defaultdict(dict)
    for file in FILES:
        lines = substantive(file)
        for start in range(len(lines) - SHARED_LINES + 1):
            window = lines[start : start + SHARED_LINES]
            places[tuple(line for _, line in window)].setdefault(file, window[0][0])
    copies = {
        tuple(sorted(f"{file.relative_to(SOURCE)}:{line}" for file, line in files.items()))
        for files in places.values()
        if len(files) > 1
    }
    assert not copies, f"{SHARED_LINES} lines in a row stand in two files"


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["internvl", "internvl.errors", "internvl.cli.main"])
def test_importing_is_light(module):
    code = f"import sys, {module}; print(*sorted({{'torch', 'numpy', 'PIL', 'av'}} & set(sys.modules)))"
    assert in_fresh_python(code).split() == []


def test_help_does_not_import_torch():
    code = (
        "import sys; sys.argv = ['internvl', '--help']\n"
        "from internvl.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numpy', 'PIL', 'av', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert "chat" in in_fresh_python(code)


def module_of(file: Path) -> str:
    parts = ("internvl", *file.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def test_importing_everything_is_silent():
    """Every module at once, in a fresh interpreter: no line printed, no warning, no environment variable set."""
    modules = [module_of(file) for file in FILES if file.name != "__main__.py"]
    code = (
        "import os, importlib\n"
        "before = dict(os.environ)\n"
        f"for module in {modules}: importlib.import_module(module)\n"
        "new = {k: v for k, v in os.environ.items() if before.get(k) != v}\n"
        "assert set(new) <= {'KMP_INIT_AT_FORK', 'KMP_DUPLICATE_LIB_OK', 'TORCHINDUCTOR_CACHE_DIR'}, new\n"
    )
    assert in_fresh_python(code) == ""


def test_all_equals_what_can_be_imported():
    internvl = importlib.import_module("internvl")
    for name in internvl.__all__:
        assert getattr(internvl, name) is not None
    assert set(internvl.__all__) <= set(dir(internvl))
    assert len(set(internvl.__all__)) == len(internvl.__all__)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name]


def test_no_paths_of_a_machine():
    """Nobody else has them."""
    places = re.compile(rb"(?<![\w.-])/(work|root|farm)/|/tmp/bash_|files\.python" + rb"hosted|registry\.npm" + rb"js")
    found = [
        f"{file.relative_to(REPOSITORY)}: {match.group().decode()}"
        for file in tracked()
        if file.is_file() and file != Path(__file__) and b"\0" not in (content := file.read_bytes())[:4096]
        if (match := places.search(content))
    ]
    assert not found


def test_no_large_files():
    large = [str(f.relative_to(REPOSITORY)) for f in tracked() if f.is_file() and f.stat().st_size > 16_000_000]
    assert not large, "weights are shards of at most 15 MB; everything else is smaller still"

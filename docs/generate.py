"""Writes the parts of the documentation that the code already says: the page of errors, the tables of models
and of limits.

python docs/generate.py          # writes
python docs/generate.py --check  # only says whether anything is stale; exit status 1 if so
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from internvl import errors, zoo
from internvl.data.limits import Limits

DOCS = Path(__file__).parent


def errors_page() -> str:
    """docs/errors.md: the tree as it is drawn in the module, and how to catch from it."""
    title, _, drawing = inspect.cleandoc(errors.__doc__ or "").partition("\n\n")
    tree, _, closing = drawing.rpartition("\n\n")
    return (
        f"# Errors\n\n<!-- Written by docs/generate.py from src/internvl/errors.py. -->\n\n{title}\n\n"
        f"```text\n{textwrap.dedent(tree)}\n```\n\n{closing}\n\n"
        "Catch the narrowest class that you can do something about:\n\n"
        "```python\n"
        "from internvl import Chat\n"
        "from internvl.errors import MediaError\n\n"
        "try:\n"
        '    Chat.load().ask("What is this?", images=["missing.jpg"])\n'
        "except MediaError as error:\n"
        "    print(error)\n"
        "```\n"
    )


def table(kind: str) -> str:
    """The rows of the zoo of one kind; further training stages and file layouts stand in the row they vary."""
    rows = [row for row in zoo.TABLE.values() if row.kind == kind]
    lines = ["| name | parameters | tower | decoder | template | tiles | variants |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        if row.variant_of:
            continue
        variants = [f"`{other.name.removeprefix(row.name)}`" for other in rows if other.variant_of == row.name]
        tiles = f"{row.tiles}{' + 1' if row.thumbnail else ''} x {row.tile_size} px"
        cells = (f"`{row.name}`", f"{row.parameters / 1e6:,.0f} M", row.tower, row.decoder or "", row.template or "")
        lines.append(f"| {' | '.join(cells)} | {tiles} | {' '.join(variants)} |")
    return "\n".join(lines)


def limits_table() -> str:
    """The fields of `Limits` with their defaults and the sentence that stands under each."""
    [limits] = ast.parse(inspect.getsource(Limits)).body
    assert isinstance(limits, ast.ClassDef)
    lines = ["| `Limits(…)` | default | |", "|---|---|---|"]
    for field, comment in itertools.pairwise(limits.body):
        if isinstance(field, ast.AnnAssign) and isinstance(comment, ast.Expr) and isinstance(field.target, ast.Name):
            name = field.target.id
            value = getattr(Limits(), name)
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"
            shown = ", ".join(value) or "none" if isinstance(value, tuple) else shown
            lines.append(f"| `{name}` | {shown} | {' '.join(ast.literal_eval(comment.value).split())} |")
    return "\n".join(lines)


def with_tables(name: str, **tables: Callable[[], str]) -> str:
    """A page that is written by hand but for the tables between their marks."""
    page = (DOCS / name).read_text(encoding="utf-8")
    for mark, make in tables.items():
        begin, end = f"<!-- table: {mark} -->\n", "\n<!-- end -->"
        before, _, rest = page.partition(begin)
        page = before + begin + "\n" + make() + "\n" + end + rest.partition(end)[2]
    return page


PAGES: dict[str, Callable[[], str]] = {
    "errors.md": errors_page,
    "limits.md": lambda: with_tables("limits.md", limits=limits_table),
    "models.md": lambda: with_tables(
        "models.md", chat=lambda: table("chat"), pair=lambda: table("pair"), vision=lambda: table("vision")
    ),
}


def stale() -> list[str]:
    """The generated pages whose file differs from what the code says now."""
    return [
        name
        for name, page in PAGES.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != page()
    ]


def main() -> int:
    old = stale()
    if "--check" in sys.argv[1:]:
        print(f"stale: {', '.join(old)}; run python docs/generate.py" if old else "up to date")
        return 1 if old else 0
    for name in old:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

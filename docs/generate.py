"""Writes the parts of the documentation that the code already says: the page of errors and the tables of models.

python docs/generate.py          # writes
python docs/generate.py --check  # only says whether anything is stale; exit status 1 if so
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from pathlib import Path

from internvl import errors, zoo

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


def models_page() -> str:
    """docs/models.md: written by hand but for the tables between their marks."""
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    for kind in ("chat", "pair", "vision"):
        begin, end = f"<!-- table: {kind} -->\n", "\n<!-- end -->"
        before, _, rest = page.partition(begin)
        page = before + begin + "\n" + table(kind) + "\n" + end + rest.partition(end)[2]
    return page


PAGES = {"errors.md": errors_page, "models.md": models_page}


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

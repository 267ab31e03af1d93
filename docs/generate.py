"""Writes the parts of the documentation that the code already says: the page of errors, the tables of models, of
limits, of benchmarks and of files, and the page of published scores.

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
from internvl.evaluation.benchmark import Benchmark, Published, Source
from internvl.evaluation.tasks import TABLE

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


# ---- benchmarks ------------------------------------------------------------------------------------------------------


def benchmarks_table() -> str:
    """Every benchmark: its name on the command line, the files of each form of its data, who marks it."""
    lines = ["| name | benchmark | tokens, tiles | data | marked by |", "|---|---|---|---|---|"]
    for one in TABLE.values():
        forms = " *or* ".join(files_of(source) for source in one.sources)
        marked = f"judge ({one.judging.published})" if one.judging else "rule"
        marked += f"; writes `{one.submission[0]}` for a server" if one.submission else ""
        settings = f"{one.settings.max_new_tokens}, {one.settings.max_tiles}"
        lines.append(f"| `{one.name}` | {cell(one.title)} | {settings} | {cell(forms)} | {cell(marked)} |")
    return "\n".join(lines)


def files_of(source: Source) -> str:
    more = f" and {len(source.files) - 2} more" if len(source.files) > 2 else ""
    return ", ".join(f"`{file.path}`" for file in source.files[:2]) + more


def cell(text: str) -> str:
    """Text that may stand in a table: no line break, and no bar that would end its cell."""
    return " ".join(text.split()).replace("|", "\\|")


ORIGINAL_CODE = ("chartqa", "docvqa-", "infovqa-", "mantis", "mmiu", "mirb", "mmhal", "pope", "refcoco", "mvbench",
                 "mmmu-pro")  # fmt: skip
ORIGINAL_CODE_EXACTLY = (
    "ai2d-test", "mme", "mmvp", "mmbench-test-en", "mmbench-test-cn", "mmbench-dev-en", "mmbench-dev-cn",
)  # fmt: skip
REPORT_2_5, REPORT_MPO = "arXiv:2412.05271", "arXiv:2411.10442"
VLMEVALKIT = ("hallusionbench", "realworldqa", "mmstar", "ocrbench")
"""Whose code computed the published scores. The pages of evaluation of the documentation used the original
repository's, but for VLMEVALKIT; the reports of 2.5 and MPO and the model cards used it for ORIGINAL_CODE only, and
VLMEvalKit, whose rules are the default, for everything else."""


def by_original_code(benchmark: Benchmark, score: Published) -> bool:
    if benchmark.name in VLMEVALKIT or benchmark.name.endswith("-vlmevalkit"):
        return False
    known = benchmark.name.startswith(ORIGINAL_CODE) or benchmark.name in ORIGINAL_CODE_EXACTLY
    official = any(kind in score.source for kind in ("documentation", "model card", REPORT_2_5, REPORT_MPO))
    return "documentation, evaluation" in score.source or (known and official)


def command(benchmark: Benchmark, score: Published) -> str:
    """What repeats a score, but for the model."""
    words = ["internvl eval", benchmark.name, "--model $M --data data", score.options]
    if by_original_code(benchmark, score):
        words.append("--compat original")
    if benchmark.judging:
        judge = benchmark.judging.published
        words.append(f"--judge $JUDGE --judge-model {judge if judge.startswith('gpt-') else 'gpt-4-0613'}")
    return " ".join(word for word in words if word)


def reproduce_table(*generations: str) -> str:
    """The published scores of the chat models of some generations: a row a figure, a column a model."""
    rows = {row.hub.rpartition("/")[2]: row for row in zoo.TABLE.values() if row.kind == "chat"}
    models = [name for name, row in rows.items() if row.generation in generations]
    scores: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for benchmark in TABLE.values():
        for score in benchmark.published:
            if score.model in models:
                key = (benchmark.title, command(benchmark, score), score.metric, score.source)
                scores.setdefault(key, {})[score.model] = score.value
    models = [model for model in models if any(model in found for found in scores.values())]
    lines = [
        f"| benchmark | command | figure | {' | '.join(models)} | published in |",
        "|---|---|---|" + "---|" * (len(models) + 1),
    ]
    for (title, how, metric, source), found in scores.items():
        values = " | ".join(f"{found[model]:g}" if model in found else "" for model in models)
        lines.append(f"| {cell(title)} | `{how}` | {cell(metric)} | {values} | {cell(source)} |")
    return "\n".join(lines)


# ---- files -----------------------------------------------------------------------------------------------------------

SOURCE = DOCS.parent / "src" / "internvl"


def files_tables() -> str:
    """Every file of the package with the sentence that it begins with, a table for each folder."""
    folders: dict[str, list[str]] = {}
    for file in sorted(SOURCE.rglob("*.py"), key=lambda file: (file.parent, file.name)):
        said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        if file.name != "__main__.py" and said is not None:
            folder = file.parent.relative_to(SOURCE.parent).as_posix()
            first = said.partition("\n\n")[0]
            folders.setdefault(folder, []).append(f"| [`{file.name}`](../src/{folder}/{file.name}) | {cell(first)} |")
    return "\n\n".join(
        f"### {folder}\n\n| file | what |\n|---|---|\n" + "\n".join(rows) for folder, rows in folders.items()
    )


# ---- pages -----------------------------------------------------------------------------------------------------------


def with_tables(name: str, **tables: Callable[[], str]) -> str:
    """A page that is written by hand but for the tables between their marks."""
    page = (DOCS / name).read_text(encoding="utf-8")
    for mark, make in tables.items():
        begin, end = f"<!-- table: {mark} -->\n", "\n<!-- end -->"
        before, _, rest = page.partition(begin)
        page = before + begin + "\n" + make() + "\n" + end + rest.partition(end)[2]
    return page


PAGES: dict[str, Callable[[], str]] = {
    "architecture.md": lambda: with_tables("architecture.md", files=files_tables),
    "errors.md": errors_page,
    "evaluate.md": lambda: with_tables("evaluate.md", benchmarks=benchmarks_table),
    "limits.md": lambda: with_tables("limits.md", limits=limits_table),
    "models.md": lambda: with_tables(
        "models.md", chat=lambda: table("chat"), pair=lambda: table("pair"), vision=lambda: table("vision")
    ),
    "reproduce.md": lambda: with_tables(
        "reproduce.md",
        v1=lambda: reproduce_table("1.1", "1.2", "1.5"),
        v2=lambda: reproduce_table("2.0"),
        v25=lambda: reproduce_table("2.5"),
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

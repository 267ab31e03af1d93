"""`internvl lint`: a dataset, checked before any training."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from internvl.errors import InternVLError, UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from internvl.data.lint import Finding, Heard, Part, Report
    from internvl.data.lint_row import Look
    from internvl.data.lint_tally import Spread
    from internvl.data.mixture import Source

FOUND = 1
"""Exit status where errors were found."""

Kind = Literal["conversation", "preference", "pair", "label"]
COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}
BLOCKS = "▁▂▃▄▅▆▇█"


def lint(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A meta file (JSON), or an annotation file or address.")],
    kind: Annotated[Kind | None, typer.Option(help="What a row is. Default: what the first rows look like.")] = None,
    root: Annotated[str | None, typer.Option(metavar="DIR", help="Before the paths of pictures and videos.")] = None,
    model: Annotated[str | None, typer.Option(metavar="M", help="Whose tokens are counted. Default: nano.")] = None,
    rows: Annotated[int | None, typer.Option(metavar="N", help="Only so many rows, drawn by chance.")] = None,
    seed: Annotated[int, typer.Option(help="Of --rows.")] = 0,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a sample. Default: 8192; of a caption 80.")] = None,
    max_tiles: Annotated[int | None, typer.Option(help="Of a sample. Default: the model's.")] = None,
    max_frames: Annotated[int, typer.Option(help="Of a video; as many are counted.")] = 32,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that look at rows. 0: none besides this.")] = 0,
    examples: Annotated[int, typer.Option(help="Rows that are shown of each finding.")] = 3,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with pictures of the rows.")] = None,
    faults: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every fault, a JSON line each.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON object.")] = False,
) -> int:
    """Check a dataset before any training: rows, pictures, placeholders, boxes, tokens, duplicates.

    internvl lint train.jsonl --root pictures --html report.html

    internvl lint mixture.json --model OpenGVLab/InternVL2_5-1B --rows 1000

    Exit status: 0 nothing that would stop training; 1 errors (with --strict: or warnings); 2 a mistake of yours.
    """
    from internvl.data.lint import lint as examine
    from internvl.data.lint_report import write_report

    if examples < 1:
        raise UsageError(f"--examples {examples}: expected at least 1")
    sources = _sources(data, kind, root)
    if max_frames < 1:
        raise UsageError(f"--max-frames {max_frames}: expected at least 1")
    look = replace(_look(sources, model, max_length, max_tiles), frames=max_frames)
    with _written(faults) as heard, _watching() as watch:
        shown = max(examples, 6) if html is not None else examples
        report = examine(sources, look, rows=rows, seed=seed, workers=workers, examples=shown, watch=watch, heard=heard)
    facts = {"data": data, "seed": str(seed), **_facts(sources, look, model)}
    if html is not None:
        write_report(html, report, sources, look, facts=facts)
    if as_json:
        typer.echo(json.dumps(_as_json(report, facts), ensure_ascii=False))
    else:
        _print(report, facts, examples, [path for path in (html, faults) if path is not None])
    bad = report.count("error") + (report.count("warning") if strict else 0)
    return FOUND if bad else 0


# ---- what is looked at -----------------------------------------------------------------------------------------------


def _sources(data: str, kind: Kind | None, root: str | None) -> tuple[Source, ...]:
    from internvl.data.mixture import read_meta

    meta = data.lower().endswith(".json")
    return read_meta(data, root=root or "", kind=kind or ("conversation" if meta else _guessed(data)))


def _guessed(data: str) -> str:
    """What the first rows that can be read look like."""
    from internvl.data.rows import open_rows

    rows = open_rows(data)
    marks = {"conversations": "conversation", "chosen": "preference", "caption": "pair", "label": "label"}
    for number in range(min(len(rows), 100)):
        try:
            row = rows[number]
        except InternVLError:
            continue
        for key, kind in marks.items():
            if key in row:
                return kind
    return "conversation"


def _look(sources: Sequence[Source], model: str | None, max_length: int | None, max_tiles: int | None) -> Look:
    from internvl.data.image import check_tiles
    from internvl.data.lint_row import Look
    from internvl.data.pair import TEXT_LENGTH

    if max_length is not None and max_length < 1:
        raise UsageError(f"--max-length {max_length}: expected at least 1")
    if max_tiles is not None:
        check_tiles(max_tiles)
    kinds = {source.kind for source in sources}
    encoder = tokenizer = None
    if kinds & {"conversation", "preference"}:
        from internvl.weights.load import load_encoder

        encoder = load_encoder(model)
        if max_tiles is not None and max_tiles > 1 and not encoder.config.dynamic:
            raise UsageError(f"--max-tiles {max_tiles}: this model sees every picture as one tile; leave it out")
    elif "pair" in kinds and model is not None:
        from internvl.weights.load import load_tokenizer

        tokenizer = load_tokenizer(model)
        if tokenizer.bos_id is None:
            raise UsageError(f"--model {model}: captions are read by InternVL-C and -G; this is another model")
    elif model is not None:
        raise UsageError(f"--model {model}: rows of classes have no tokens to count; leave it out")
    return Look(
        encoder=encoder,
        tokenizer=tokenizer,
        max_length=max_length or 8192,
        text_length=max_length or TEXT_LENGTH,
        max_tiles=max_tiles,
    )


def _facts(sources: Sequence[Source], look: Look, model: str | None) -> dict[str, str]:
    """What else a reader must know."""
    told = {"kind": ", ".join(sorted({source.kind for source in sources}))}
    roots = {source.root for source in sources if source.root}
    if roots:
        told["root"] = ", ".join(sorted(roots))
    if look.encoder is not None:
        config = look.encoder.config
        told["model"] = f"{model or 'nano'} (template {config.template})"
        tiles = look.max_tiles or config.max_tiles
        told["at most"] = f"{look.max_length} tokens, {tiles} tile{'s' if tiles > 1 else ''} a sample"
    elif look.tokenizer is not None:
        told["model"] = str(model)
        told["at most"] = f"{look.text_length} tokens a caption"
    return told


@contextmanager
def _written(path: Path | None) -> Generator[Heard | None]:
    """Every fault as it is found, into a file that is there only once it is whole."""
    if path is None:
        yield None
        return
    from internvl.data.lint_rules import RULES

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", errors="replace") as file:

            def heard(seen: Any, fault: Any) -> None:
                row = {"row": seen.origin, "rule": fault.rule, "severity": RULES[fault.rule].severity}
                file.write(json.dumps({**row, "text": fault.text}, ensure_ascii=False) + "\n")

            yield heard
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _watching() -> Generator[Callable[[int, int], None]]:
    from internvl.cli.terminal import waiting

    with waiting("looking at rows") as advance:
        yield advance


# ---- what a person sees ----------------------------------------------------------------------------------------------


def _as_json(report: Report, facts: dict[str, str]) -> dict[str, Any]:
    from internvl.data.lint_rules import RULES, SEVERITIES

    return {
        **facts,
        "looked": report.looked,
        "of": report.of,
        "counts": {severity: report.count(severity) for severity in SEVERITIES},
        "findings": [{**asdict(one), **asdict(RULES[one.rule])} for one in report.findings],
        "spreads": [asdict(spread) for spread in report.spreads],
        "sources": [asdict(part) for part in report.parts],
        "labels": dict(report.labels),
    }


def _print(report: Report, facts: dict[str, str], examples: int, files: Sequence[Path]) -> None:
    from rich.console import Console
    from rich.padding import Padding

    console = Console(highlight=False, soft_wrap=False)
    amount = "all" if report.looked == report.of else f"{report.looked:,} of"
    chance = "" if report.looked == report.of else f", drawn by chance (seed {facts['seed']})"
    console.print(f"[bold]{_safe(facts['data'])}[/]  {amount} {report.of:,} rows{chance}")
    told = " · ".join(f"{key} {value}" for key, value in facts.items() if key not in ("data", "seed"))
    console.print(f"[dim]{_safe(told)}[/]\n")
    for finding in report.findings:
        _print_finding(console, finding, examples)
    if report.spreads:
        console.print(Padding(_sizes(report.spreads), (0, 0, 1, 0), expand=False))
    if len(report.parts) > 1 or any(part.samples != part.rows for part in report.parts):
        console.print(Padding(_parts(report), (0, 0, 1, 0), expand=False))
    if report.labels:
        classes = ", ".join(f"{label} {count:,}" for label, count in report.labels[:12])
        console.print(f"classes: {_safe(classes)}{', …' if len(report.labels) > 12 else ''}\n")
    console.print(_verdict(report))
    for path in files:
        console.print(f"[dim]written:[/] {_safe(str(path))}")


def _print_finding(console: Console, finding: Finding, examples: int) -> None:
    from rich.padding import Padding

    from internvl.data.lint_report import SYMBOLS
    from internvl.data.lint_rules import RULES

    rule, colour = RULES[finding.rule], COLOURS[finding.severity]
    rows = "" if finding.examples[0].row < 0 else f"{finding.count:,} row{'s' if finding.count > 1 else ''}: "
    console.print(f"[{colour}]{SYMBOLS[finding.severity]} [bold]{finding.rule}[/][/]  {rows}{_safe(rule.says)}")
    for example in finding.examples[:examples]:
        console.print(
            Padding(f"[cyan]{_safe(example.origin)}[/]  {_safe(' '.join(example.text.split()))}", (0, 0, 0, 4))
        )
    more = "" if finding.count <= examples else f"[dim]and {finding.count - examples:,} more;[/] "
    console.print(Padding(f"{more}[dim]→ {_safe(rule.remedy)}[/]", (0, 0, 1, 4), expand=False))


def _sizes(spreads: Sequence[Spread]) -> RenderableType:
    from rich.table import Table

    from internvl.data.lint_report import number

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "", "5 %", "median", "95 %", "most"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for spread in spreads:
        figures = (number(value) for value in (*(spread.percentiles[at] for at in (5, 50, 95)), spread.most))
        table.add_row(SHORT[spread.name], f"[cyan]{sparkline(spread)}[/]", *figures)
    return table


SHORT = {"tokens": "tokens", "learnt": "learnt %", "tiles": "tiles", "side": "side, px"}


def sparkline(spread: Spread) -> str:
    """The bars of a spread in one line; a bar with nothing in it is blank, the last one may hold all that is above."""
    most = max(bar.count for bar in spread.bars)
    heights = [0 if not bar.count else 1 + (bar.count * len(BLOCKS) - 1) // most for bar in spread.bars]
    return "".join(" " if not height else BLOCKS[min(height, len(BLOCKS)) - 1] for height in heights)


def _parts(report: Report) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    total = sum(part.samples for part in report.parts)
    columns: dict[str, Callable[[Part], str]] = {
        "source": lambda part: _safe(part.name),
        "kind": lambda part: part.kind,
        "rows": lambda part: f"{part.rows:,}",
        "an epoch": lambda part: f"{part.samples:,}",
        "share": lambda part: f"{part.samples / total:.1%}",
        "looked at": lambda part: f"{part.looked:,}",
        "errors": lambda part: f"{part.errors:,}",
        "warnings": lambda part: f"{part.warnings:,}",
        "tokens": lambda part: f"{part.tokens:,}",
        "tiles": lambda part: f"{part.tiles:,}",
    }
    if len({part.kind for part in report.parts}) == 1:  # it is said above
        del columns["kind"]
    if report.looked == report.of:
        del columns["looked at"]
    for name in columns:
        table.add_column(name, justify="left" if name in ("source", "kind") else "right")
    for part in report.parts:
        table.add_row(*(told(part) for told in columns.values()))
    return table


def _verdict(report: Report) -> str:
    counts = {severity: report.count(severity) for severity in ("error", "warning", "note")}
    if not any(counts.values()):
        return "[green]✓ nothing to complain about[/]"
    told = [
        f"[{COLOURS[severity]}]{count} kind{'s' if count > 1 else ''} of {severity}[/]"
        for severity, count in counts.items()
        if count
    ]
    return ", ".join(told)


def _safe(text: str) -> str:
    """What stands in a dataset is text, not markup of the terminal."""
    from rich.markup import escape

    return escape("".join(letter if letter.isprintable() else " " for letter in text))

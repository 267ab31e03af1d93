"""A load run as one HTML file that stands alone: figures, plots, errors, and what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from internvl.bench.figures import BOUNDED, Figures
from internvl.bench.load import Measured
from internvl.bench.plots import HEIGHT, WIDTH, plots, shown
from internvl.errors import MissingExtra, UsageError

NAMES = {
    "ttft": "time to first token",
    "ttft with a picture": "\N{EN DASH} with a picture",
    "ttft without": "\N{EN DASH} without",
    "itl": "time between tokens",
    "tpot": "time of a token after the first",
    "e2e": "time to the end of the answer",
    "sent late": "sent later than planned",
}
"""Spreads, as people call them."""


def check_can_write(path: Path) -> None:
    """Said before a run rather than after it."""
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("a report needs the package jinja2 (pip install 'internvl[eval]')") from None
    assert jinja2
    if not path.resolve().parent.is_dir() or path.is_dir():
        raise UsageError(f"{path}: expected the name of a file in a folder that is there")


def write_report(path: Path, run: Measured, figures: Figures, asked: Mapping[str, str]) -> Path:
    """Write the page whole or not at all."""
    from internvl.evaluation.store import write_whole

    write_whole(path, report_html(run, figures, asked))
    return path


def report_html(run: Measured, figures: Figures, asked: Mapping[str, str]) -> str:
    """The page as text; what a server said is text in it, whatever it spells. asked: what stands at its end."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["time"] = shown
    template = resources.files("internvl.bench").joinpath("report.html").read_text(encoding="utf-8")
    bounds = figures.goodput.bounds if figures.goodput else {}
    return environment.from_string(template).render(
        figures=figures,
        spreads=[(NAMES[name], spread) for name, spread in figures.spreads.items() if spread.count],
        plots=plots(run, bounds),
        bounds=[f"{BOUNDED[name]} at most {shown(bound)}" for name, bound in bounds.items()],
        asked=asked,
        width=WIDTH,
        height=HEIGHT,
    )

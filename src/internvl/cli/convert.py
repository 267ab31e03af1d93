"""`internvl convert`: a checkpoint from one public layout to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from internvl.errors import UsageError


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder, hub id, zoo name or .pth file.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; it must not exist, or be empty.")],
    to: Annotated[str, typer.Option("--format", metavar="F", help="custom, or hf (the transformers library's own).")],
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. Default: as stored.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="R", help="Branch, tag or commit of a hub model.")] = None,
) -> None:
    """Rewrite a checkpoint in another layout. Every tensor is accounted for, or nothing is written."""
    from internvl.cli.terminal import waiting
    from internvl.weights.load import convert as rewrite

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is not an empty folder; give a new one")
    with waiting(f"converting {source}"):
        rewrite(source, target, format=to, dtype=dtype, revision=revision)
    typer.echo(f"wrote {target}")

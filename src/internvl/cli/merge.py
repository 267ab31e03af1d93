"""`internvl merge`: adapters into the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from internvl.errors import UsageError


def merge(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A model with adapters, a run, or a folder of peft.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; it must not exist, or be empty.")],
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of peft to merge into SRC, which is its base.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. Default: as stored.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make adapters part of the weights, and prove it: the model before and after are asked the same."""
    import json

    from internvl.cli.terminal import waiting
    from internvl.weights.merging import merge_checkpoint

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is not an empty folder; give a new one")
    with waiting(f"merging {source}"):
        merged = merge_checkpoint(source, target, adapter=adapter, dtype=dtype)
    if as_json:
        found = {"folder": str(merged.folder), "layers": merged.layers, "difference": merged.difference}
        typer.echo(json.dumps({**found, "written_difference": merged.written}))
        return
    typer.echo(f"merged {merged.layers} adapters; the logits differ by {merged.difference:.1e} of the largest")
    typer.echo(f"wrote {target}; as stored they differ by {merged.written:.1e}")

"""`internvl zoo`: the table of published models."""

from __future__ import annotations

from typing import Annotated

import typer

from internvl.errors import NoSuchName


def zoo(
    name: Annotated[str, typer.Argument(metavar="[TEXT]", help="Only models with this in their name or parts.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list, one object a model.")] = False,
) -> None:
    """List every published model that can be loaded by name."""
    import json

    from internvl import zoo as table

    rows = table.matching(name)
    if not rows:
        raise NoSuchName(f"no model has {name!r} in its name; `internvl zoo` lists all {len(table.TABLE)}")
    typer.echo(json.dumps([table.as_json(row) for row in rows], indent=1) if as_json else table.render(rows))

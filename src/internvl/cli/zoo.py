"""`internvl zoo`: the table of published models, and the card of those in the package."""

from __future__ import annotations

from typing import Annotated

import typer

from internvl.errors import NoSuchName

EMBEDDED = ("nano", "nano-c")


def zoo(
    name: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="Only models with this in their name or parts; nano: its card.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list, one object a model.")] = False,
) -> None:
    """List every published model that can be loaded by name; of nano and nano-c, which are inside, show the card."""
    import json

    from internvl import zoo as table

    if name in EMBEDDED:
        card = _card(name)
        typer.echo(json.dumps([{"name": name, "card": card}], indent=1) if as_json else card)
        return
    rows = table.matching(name)
    if not rows:
        raise NoSuchName(f"no model has {name!r} in its name; `internvl zoo` lists all {len(table.TABLE)}")
    typer.echo(json.dumps([table.as_json(row) for row in rows], indent=1) if as_json else table.render(rows))


def _card(name: str) -> str:
    """What is written of a model in the package: nano's card, or the part of it that is nano-c's."""
    from importlib.resources import files

    card = (files("internvl") / "nano" / "card.md").read_text(encoding="utf-8").rstrip()
    return card if name == "nano" else card[card.index(f"## {name}") :]

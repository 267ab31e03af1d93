"""`internvl world`: the pictures that nano learns from, drawn and written down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from internvl.errors import UsageError


def world(
    out: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="Folder to write. None: list the skills.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Real pictures (caltech101, emoji, …), for the skills of these.")
    ] = None,
    scale: Annotated[float, typer.Option(min=0.0, help="How many samples: a share of those that are listed.")] = 1.0,
    skills: Annotated[str, typer.Option(metavar="A,B,…", help="Only these.")] = "",
    seed: Annotated[int, typer.Option(min=1, help="Another one draws other pictures; 0 is kept for measuring.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="How many draw at once.")] = 2,
) -> None:
    """Draw pictures with questions, answers and boxes, as shards to train on.

    internvl world runs/nano_world --data ../shared/data --scale 0.1

    The same command goes on where it was stopped: shards that are there stay. A larger scale adds to them.
    """
    from internvl.nano.world import SKILLS, World
    from internvl.nano.write import plan, write

    if out is None:
        typer.echo(listing())
        return
    if data is not None and not (data / "caltech101").is_dir():
        raise UsageError(f"{data} has no folder caltech101; expected the folder of the real sets")
    drawn = World.of(data)
    wanted = tuple(name for name in skills.split(",") if name)
    for name in wanted:
        if name not in SKILLS:
            raise UsageError(f"{name!r} is no skill; there are {', '.join(SKILLS)}")
    from rich.progress import Progress

    shards = plan(drawn, scale=scale, skills=wanted)
    with Progress() as bar:
        task = bar.add_task("drawing", total=sum(shard.rows for shard in shards))
        written = write(
            out, drawn, scale=scale, seed=seed, skills=wanted, processes=processes,
            progress=lambda shard: bar.advance(task, shard.rows),
        )  # fmt: skip
        bar.update(task, completed=sum(shard.rows for shard in shards))
    rows = sum(shard.rows for shard in written)
    typer.echo(f"{rows:,} samples in {len(written)} new shards; {out} has meta files for every stage")


def listing() -> str:
    """The skills, with what each is at scale 1."""
    from internvl.nano.world import SKILLS

    lines = [f"{'skill':16} {'samples':>8} {'tiles':>5}  pictures"]
    for name, skill in SKILLS.items():
        kind = "real" if skill.draw is None else "drawn"
        lines.append(f"{name:16} {skill.rows:8,} {skill.max_tiles:5}  {kind}")
    return "\n".join(lines)

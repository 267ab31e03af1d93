"""`internvl train`: a recipe, run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from internvl.cli.plan import Changes
from internvl.cli.terminal import INTERRUPTED, USER_MISTAKE
from internvl.errors import InternVLError, UsageError

if TYPE_CHECKING:
    from internvl.evaluation.held_out import Answers
    from internvl.recipes.recipe import Recipe
    from internvl.training.config import TrainConfig

ASKED = 64
"""Held-out questions that are answered at each evaluation, at most."""


def train(
    recipe: Annotated[str, typer.Argument(metavar="[RECIPE]", help="A name, or FILE.py[:NAME]. None: list all.")] = "",
    changes: Changes = None,
    show: Annotated[bool, typer.Option("--show", help="Print every setting as KEY=VALUE, and stop.")] = False,
    python: Annotated[bool, typer.Option("--python", help="Print the recipe as a file to change, and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check settings and data, estimate, and stop.")] = False,
) -> None:
    """Train a model as a recipe says, with settings changed on the command line.

    internvl train nano_lora data.path=mine.jsonl

    internvl train internvl2_5_8b_lora data.path=mine.jsonl optim.lr=2e-5 --python > mine.py

    torchrun --nproc-per-node 8 -m internvl train mine.py      (many GPUs, many machines)

    The same command goes on where it was stopped. Ctrl-C saves first; the exit status is then 130.
    """
    if not recipe:
        if show or python or dry_run:
            raise UsageError("--show, --python and --dry-run are of one recipe; name it: internvl train RECIPE --show")
        typer.echo(listing())
        return
    alone = rank() == 0
    try:
        config, found = resolved(recipe, changes or [])
        if show or python:
            from internvl.training.override import as_python, render

            if alone:
                typer.echo(as_python(config, about=found.about) if python else render(config), nl=False)
            return
        hint = ""
        if found.prepare is not None and world_size() == 1 and not dry_run:
            found.prepare(config)
        elif found.prepare is not None:
            hint = f"; `internvl train {recipe}` without torchrun and --dry-run writes what it can by itself"
        check_data(config, hint=hint)
    except InternVLError:
        if alone:
            raise
        raise typer.Exit(USER_MISTAKE) from None  # every rank finds the same; one says it
    if dry_run:
        if alone:
            typer.echo(rehearsal(config))
        return
    _run(config)


def _run(config: TrainConfig) -> None:
    from internvl.training.checkpoint import name_of
    from internvl.training.run import train as run

    result = run(config, evaluate=held_out_answers(config))
    if rank() != 0:
        return  # the first says it, once all is written
    if result.ended != "interrupted":
        typer.echo(f"{result.ended} after {result.steps} steps; the model is {result.model}")
        return
    saved = result.folder / name_of(result.steps)
    again = "the same command goes on" if config.run.resume else "the same command with run.resume=true goes on"
    kept = f"saved as {saved}" if saved.is_dir() else "nothing was learnt yet"
    typer.echo(f"interrupted after {result.steps} steps; {kept}; {again} from there")
    raise typer.Exit(INTERRUPTED)


def held_out_answers(config: TrainConfig) -> Answers | None:
    """What asks the first questions of the held-out conversations while the model trains.

    None where there are none. Videos, and rows that cannot be used, are not asked; the held-out loss counts them. Under
    torchrun every rank answers, and the first writes down what was said.
    """
    from internvl.data import media
    from internvl.data.limits import OPEN
    from internvl.data.prepare import allowing, placed
    from internvl.data.records import Conversation, messages
    from internvl.evaluation.held_out import Answers, Question, question
    from internvl.training.build import held_out_mixture, rows_of

    mixture = held_out_mixture(config)
    if mixture is None or rows_of(config) != "conversation":
        return None
    asked = list[Question]()
    for position in range(min(len(mixture), config.data.held_out_rows, ASKED)):
        place = mixture.place(position)
        source = mixture.sources[place.source]
        try:
            record = mixture.record(place)
            if isinstance(record, Conversation) and record.video is None:
                limits = allowing(source.root, OPEN)
                photos = [media.open_image(placed(image, source.root), limits) for image in record.images]
                asked.append(question(record.id, messages(record, photos, max_tiles=source.max_tiles)))
        except InternVLError:
            continue
    return Answers(asked, Path(config.run.out) / "held-out" if rank() == 0 else None) if asked else None


def as_setting(mistake: Exception, arguments: Sequence[str]) -> str:
    """What to say to an option that `train` and `plan` do not have where a setting of that name was meant; else empty.

    >>> as_setting(no_such_option, ["train", "lora", "--lr", "1e-4"])  # doctest: +SKIP
    'no option is called --lr; settings are written KEY=VALUE: optim.lr=1e-4 (--show lists them)'
    """
    option = str(getattr(mistake, "option_name", ""))
    if not option.startswith("-") or not arguments or arguments[0] not in ("train", "plan"):
        return ""
    from internvl.training.override import nearest

    name = option.lstrip("-").replace("-", "_")
    near = nearest(name)
    own = [other for other in getattr(mistake, "possibilities", None) or () if other != "--help"]
    if own and not (near and near[0].endswith(f".{name}")):
        return ""  # an option of the command is nearer
    words = iter(arguments)
    word = next((word for word in words if word.partition("=")[0] == option), "")
    following = next(words, "")
    value = word.partition("=")[2] or ("VALUE" if following[:1] in ("", "-") or "=" in following else following)
    meant = " or ".join(f"{key}={value}" for key in near) or "such as optim.lr=2e-5"
    return f"no option is called {option}; settings are written KEY=VALUE: {meant} (--show lists them)"


def rank() -> int:
    """Of this process, as torchrun says."""
    return _told("RANK", 0)


def world_size() -> int:
    """Processes that train together."""
    return _told("WORLD_SIZE", 1)


def _told(name: str, default: int) -> int:
    told = os.environ.get(name, "")
    return int(told) if told.isdecimal() else default


def resolved(recipe: str, changes: list[str]) -> tuple[TrainConfig, Recipe]:
    """The config of a recipe with its changes, and the recipe."""
    from internvl import recipes
    from internvl.training.override import override

    found = recipes.find(recipe)
    try:
        config = found.make()
    except UsageError:
        raise  # a recipe in a file, which it names
    except InternVLError as error:
        raise UsageError(f"{recipe}: {error}") from error
    return override(config, changes), found


def check_data(config: TrainConfig, *, hint: str = "") -> None:
    """That what is to be read is there: said before any weight is loaded. `hint` is what else would help."""
    from internvl.training.build import held_out_sources, sources

    for key, path in (("data.path", config.data.path), ("data.held_out", config.data.held_out)):
        if path and _is_plain_file(path) and not Path(path).exists():
            raise UsageError(
                f"{key}: there is no {path}; give your data with {key}=FILE (a meta file or annotations){hint}"
            )
    for source in (*sources(config), *held_out_sources(config)):
        if _is_plain_file(source.annotation) and not Path(source.annotation).exists():
            raise UsageError(f"source {source.name or source.annotation}: there is no {source.annotation}")


def _is_plain_file(path: str) -> bool:
    """Neither an address nor a pattern."""
    return "://" not in path and not any(mark in path for mark in "*{?[")


def rehearsal(config: TrainConfig) -> str:
    """What a run would begin with."""
    from internvl.cli.plan import planned_or_none, render
    from internvl.training.build import sources

    planned = planned_or_none(config, world_size())
    lines = [f"{len(sources(config))} source(s) of data, result in {config.run.out}"]
    return "\n".join(lines if planned is None else [*lines, "", render(planned)])


def listing() -> str:
    """All recipes: what a function is about, and the names it is run by."""
    from textwrap import wrap

    from internvl.recipes.lookup import GROUPS

    lines: list[str] = []
    for group, table in GROUPS.items():
        lines += [group.upper()]
        abouts: dict[str, list[str]] = {}
        for name, recipe in table.items():
            abouts.setdefault(recipe.about, []).append(name)
        for about, names in abouts.items():
            lines += ["", *wrap(about, 100, initial_indent="  ", subsequent_indent="  ")]
            lines += wrap(
                "  ".join(names), 100, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
            )
        lines.append("")
    lines.append("internvl train NAME --show prints its settings; NAME --python > mine.py a copy to change.")
    return "\n".join(lines)

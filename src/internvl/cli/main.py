"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once.

Exit status: 0 done; 1 whoever read our output has gone; 2 a user's mistake, told in one line; 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from internvl.cli.bench import bench
from internvl.cli.chat import chat
from internvl.cli.convert import convert
from internvl.cli.embed import embed
from internvl.cli.eval import evaluate
from internvl.cli.lint import lint
from internvl.cli.merge import merge
from internvl.cli.plan import plan
from internvl.cli.prefer import prefer
from internvl.cli.score import score
from internvl.cli.search import search
from internvl.cli.serve import serve
from internvl.cli.terminal import INTERRUPTED, complain
from internvl.cli.train import as_setting, train
from internvl.cli.ui import ui
from internvl.cli.world import world
from internvl.cli.zoo import zoo
from internvl.errors import InternVLError

MISTAKE: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if issubclass(kind, Exception) and kind.__name__ == "ClickException"
)
"""What the parser raises on a wrong command line; typer exports only kinds of it."""

OUT_OF_MEMORY = (
    "there is not enough memory; take a smaller model (internvl zoo lists them), --dtype bfloat16, or fewer tiles"
)
PIPE_CLOSED = 1

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,  # plain help is ready twice as fast
    pretty_exceptions_enable=False,
)
for command in (chat, ui, serve, embed, search, zoo, convert, merge):
    app.command()(command)
app.command("eval")(evaluate)
app.command()(score)
app.command()(lint)
app.command()(prefer)
for command in (train, plan, world):
    app.command()(command)
app.add_typer(bench, name="bench")


@app.callback(invoke_without_command=True)
def internvl(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Vision-language models of the InternVL family: talk to them, embed with them, measure and convert them.

    Start with: internvl chat photo.jpg "What is this?"
    """
    if version:
        from internvl import __version__

        typer.echo(f"internvl {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    status = run(sys.argv[1:] if arguments is None else arguments)
    if "RANK" in os.environ:  # torch keeps threads of its groups, which now and then abort a program that tidies up
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit status."""
    _say_what_can_be_said()
    try:
        status = app(args=list(arguments), prog_name="internvl", standalone_mode=False)
        sys.stdout.flush()
    except MISTAKE as mistake:
        setting = as_setting(mistake, arguments)
        return complain(setting or getattr(mistake, "format_message", mistake.__str__)())
    except InternVLError as error:
        return complain(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output once more when it ends; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return complain(OUT_OF_MEMORY)
    return status if isinstance(status, int) else 0


def _say_what_can_be_said() -> None:
    """An answer in Chinese at a terminal that has no such letters is question marks, not a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _is_out_of_memory(error: Exception) -> bool:
    """Python's own error, an accelerator's, or what torch says of the CPU's memory: a plain RuntimeError."""
    told = "allocate memory" in str(error) or "not enough memory" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or told

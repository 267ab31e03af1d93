"""`internvl bench serve`: load on a server, and how it bears it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from internvl.cli.terminal import waiting
from internvl.errors import EndpointError, UsageError

if TYPE_CHECKING:
    from internvl.bench.client import Client
    from internvl.bench.figures import Figures
    from internvl.bench.load import Load, Measured
    from internvl.bench.questions import Questions, Wish

KEY = "OPENAI_API_KEY"

bench = typer.Typer(
    rich_markup_mode=None,
    help="""Measure speed.

    \b
    internvl bench serve --endpoint URL --requests N (--concurrency C | --rate R)
        --model M --key-env NAME --prompt TEXT --input-tokens N --max-tokens N
        --image-mix SHARE --images DIR --image-size N --extra JSON
        --goodput ttft:1.0,itl:0.1 --timeout SECONDS --seed N --out report.html --json
    """,
)


@bench.callback()
def measure() -> None:
    """A group, though it has one command so far."""


@bench.command()
def serve(
    endpoint: Annotated[str, typer.Option(metavar="URL", help="OpenAI-style, such as http://h:8000/v1.")],
    requests: Annotated[int, typer.Option(metavar="N", help="So many questions in all.")],
    model: Annotated[str | None, typer.Option(metavar="M", help="Default: the only one that the server has.")] = None,
    key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Variable that holds the key. Default: {KEY}, where it is set.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="C", help="Closed loop: so many at once.")] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="R", help="Open loop: so many arrive in a second, by chance.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="The same text in every question.")] = None,
    input_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Other words in every question, about so many. Default: 128.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Of one answer.")] = 128,
    image_mix: Annotated[float, typer.Option(metavar="SHARE", help="Of the questions, with a picture.")] = 0.0,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Pictures. Default: they are drawn.")] = None,
    image_size: Annotated[
        int | None, typer.Option(metavar="N", help="Side of a drawn picture, in pixels. Default: 448.")
    ] = None,
    extra: Annotated[
        str | None, typer.Option(metavar="JSON", help='Fields sent as they are: {"ignore_eos": true}.')
    ] = None,
    goodput: Annotated[
        str | None, typer.Option(metavar="BOUNDS", help="ttft, itl, tpot, e2e in seconds: ttft:1.0,itl:0.1.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="For one answer; then it is cancelled.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Of arrivals, words and pictures.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="A report to look at, HTML.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as one JSON object.")] = False,
) -> None:
    """Ask a server many questions, and measure how fast and how surely it answers.

    internvl bench serve --endpoint http://localhost:8000/v1 --requests 200 --concurrency 16 --image-mix 0.5

    internvl bench serve --endpoint http://localhost:8000/v1 --requests 500 --rate 4 --out report.html
    """
    from internvl.bench.figures import bounds_of
    from internvl.bench.load import Load
    from internvl.bench.questions import Questions, Wish
    from internvl.bench.report import check_can_write

    if prompt is not None and input_tokens is not None:
        raise UsageError("--prompt and --input-tokens: the text is given or drawn; give one of them")
    if prompt is not None and not prompt.strip():
        raise UsageError("--prompt is empty; expected the text of a question")
    if images is not None and image_size is not None:
        raise UsageError("--image-size is for drawn pictures; those of --images are sent as they are")
    if max_tokens < 1:
        raise UsageError(f"max tokens {max_tokens}: expected at least 1")
    load = Load(requests=requests, concurrency=concurrency, rate=rate, timeout=timeout, seed=seed)
    wish = Wish(
        requests=requests,
        prompt=prompt,
        input_tokens=128 if input_tokens is None else input_tokens,
        image_mix=image_mix,
        images=images,
        image_size=448 if image_size is None else image_size,
        seed=seed,
    )
    bounds = bounds_of(goodput) if goodput is not None else {}
    fields = _fields(extra)
    if out is not None:
        check_can_write(out)
    with waiting("preparing pictures"):
        questions = Questions(wish)
    client, shown, name = _client(endpoint, model, key_env, max_tokens, fields)
    asked = {"model": name, "endpoint": shown} | _asked(load, wish, questions, max_tokens, fields)
    _measure(load, client, questions, bounds, Told(asked, out, as_json))


class Told:
    """What is told of a run, and where."""

    def __init__(self, asked: dict[str, str], out: Path | None, as_json: bool) -> None:
        self.asked, self.out, self.as_json = asked, out, as_json

    def tell(self, run: Measured, figures: Figures) -> None:
        import json

        from internvl.bench.report import write_report

        if self.out is not None:
            write_report(self.out, run, figures, self.asked)
        if self.as_json:
            typer.echo(json.dumps({"asked": self.asked} | figures.as_json(), ensure_ascii=False, indent=1))
        else:
            typer.echo(table(figures))
            if self.out is not None:
                typer.echo(f"report       {self.out}")


def _fields(extra: str | None) -> dict[str, Any]:
    import json

    try:
        fields = json.loads(extra or "{}")
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise UsageError(f'--extra {extra!r}: expected a JSON object such as {{"temperature": 0}}')
    own = {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"} & set(fields)
    if own or fields.get("n", 1) != 1:
        raise UsageError(f"--extra: {', '.join(sorted(own)) or 'n'} is not for --extra; this tool sets it itself")
    return fields


def _client(
    endpoint: str, model: str | None, key_env: str | None, max_tokens: int, extra: dict[str, Any]
) -> tuple[Client, str, str]:
    """The client, the address as it may be shown, the name of the model."""
    import os

    from internvl.bench.client import Client
    from internvl.inference.remote import NO_KEY, Remote

    key = os.environ.get(key_env or KEY)
    if key_env is not None and not key:
        raise UsageError(f"--key-env {key_env}: there is no such variable, or it is empty; set it to the server's key")
    with waiting("asking for the model"):
        remote = Remote(endpoint, model=model, key=key or NO_KEY, retries=0)
    client = Client(endpoint, model=remote.model, key=key or NO_KEY, max_tokens=max_tokens, extra=extra)
    return client, remote.describe()["endpoint"], remote.model


def _asked(load: Load, wish: Wish, questions: Questions, max_tokens: int, extra: dict[str, Any]) -> dict[str, str]:
    """What a report says of the load; with it a run can be repeated."""
    import json
    from datetime import UTC, datetime

    from internvl import __version__

    several = "" if wish.requests == 1 else "s"
    how = f"{load.concurrency} at once" if load.rate is None else f"{load.rate:g} a second by chance (Poisson)"
    said = {
        "load": f"{wish.requests} request{several}, {how}",
        "text": "the same in each"
        if wish.prompt is not None
        else f"about {wish.input_tokens} tokens, different in each",
        "pictures": f"in {wish.pictured} of {wish.requests}",
        "max tokens": str(max_tokens),
        "timeout": f"{load.timeout:g} s",
        "seed": str(load.seed),
        "begun": datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
        "internvl": __version__,
    }
    if wish.pictured:
        source = f"drawn, {wish.image_size} pixels a side" if wish.images is None else f"from {wish.images}"
        said["pictures"] += f", {questions.pictures} different, {source}"
    return said | ({"extra fields": json.dumps(extra)} if extra else {})


def _measure(load: Load, client: Client, questions: Questions, bounds: dict[str, float], told: Told) -> None:
    import asyncio
    from dataclasses import replace

    from internvl.bench.figures import figures
    from internvl.bench.load import drive

    async def whole() -> tuple[list[str], Measured]:
        async with client:
            with waiting("a first question"):
                notes = await client.greet(questions.messages(-1), load.timeout)
            with waiting("asking") as watch:
                return notes, await drive(
                    load, lambda number, heard: client.ask(questions.messages(number), heard), watch
                )

    notes, run = asyncio.run(whole())
    found = figures(run, bounds=bounds, with_picture=questions.with_picture)
    found = replace(found, notes=(*notes, *questions.notes(), *found.notes))
    told.tell(run, found)
    if not (found.answered or found.empty):
        how = "; ".join(f"{error.count} x {error.kind} ({error.first})" for error in found.errors)
        cancelled = f"{found.cancelled} cancelled after {load.timeout:g} s" if found.cancelled else ""
        raise EndpointError(
            f"{told.asked['endpoint']}: none of {found.requests} questions was answered: "
            f"{'; '.join(filter(None, (how, cancelled)))}"
        )


def table(figures: Figures) -> str:
    """The figures for a terminal."""
    from internvl.bench.plots import shown
    from internvl.bench.report import NAMES

    counts = {"empty": figures.empty, "failed": figures.failed, "cancelled": figures.cancelled}
    lost = [f"{count} {what}" for what, count in counts.items() if count]
    ends = ", ".join(["", *lost])
    lines = [f"answered     {figures.answered} of {figures.requests} in {shown(figures.seconds)}{ends}"]
    lines += [f"  {error.kind} x {error.count}: {error.first}" for error in figures.errors]
    lines.append(
        f"throughput   {figures.answers_per_second:.3g} answers, {figures.output_tokens_per_second:.4g} output "
        f"tokens a second (tokens counted {figures.counted})"
    )
    if good := figures.goodput:
        within = ", ".join(f"{name} {shown(bound)}" for name, bound in good.bounds.items())
        lines.append(f"goodput      {good.share:.1%} of all requests kept {within}: {good.per_second:.3g} a second")
    columns = ("p50", "p90", "p99", "largest")
    lines.append(f"\n{'':34}" + "".join(f"{name:>10}" for name in columns))
    for name, spread in figures.spreads.items():
        if spread.count:
            lines.append(f"{NAMES[name]:34}" + "".join(f"{shown(getattr(spread, one)):>10}" for one in columns))
    lines += [f"\nnote: {note}" for note in figures.notes]
    return "\n".join([*lines, ""])

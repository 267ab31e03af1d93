"""`internvl eval`: benchmarks, asked and scored."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from internvl.cli.benchmarks import listing
from internvl.cli.scores import (
    AsJson,
    Compat,
    Data,
    Fallback,
    JudgeModel,
    JudgeName,
    check_needed,
    finish_run,
    rules_of,
)
from internvl.errors import InternVLError, UsageError

if TYPE_CHECKING:
    from internvl.evaluation.benchmark import Benchmark
    from internvl.evaluation.failures import Allowed
    from internvl.evaluation.planning import Change, Task
    from internvl.evaluation.ranks import Ranks
    from internvl.evaluation.responders import Responder
    from internvl.evaluation.runner import Watch

Endpoint = Annotated[
    str | None, typer.Option(metavar="URL", help="Ask an OpenAI-style server, such as http://h:8000/v1.")
]
Key = Annotated[str | None, typer.Option(metavar="TEXT", help="Of the server. Default: $OPENAI_API_KEY.")]
AtOnce = Annotated[int | None, typer.Option(help="Questions on their way to the server together. Default: 8.")]
Patience = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="For one answer of the server in all. Default: 900.")
]
Failures = Annotated[
    str | None, typer.Option(metavar="N|SHARE", help="Questions of a benchmark that may get no answer. Default: 1%.")
]
Again = Annotated[bool, typer.Option("--again", help="Ask only what got no answer; --max-tiles may be another.")]
Extensions = Annotated[
    bool, typer.Option("--extensions", help="Tell the server max_tiles and min_tokens too, which OpenAI does not know.")
]

Download = Annotated[bool, typer.Option("--download", help="Get missing data, where address and checksum are known.")]
MarkBy = Annotated[
    str | None, typer.Option(metavar="RULE", help="Open questions of a TSV file: exact, vqa, anls or relaxed.")
]


@dataclass(frozen=True, kw_only=True)
class Server:
    """What was said of a server."""

    url: str
    key: str | None
    at_once: int
    patience: float
    extensions: bool


@dataclass(frozen=True, kw_only=True)
class Who:
    """Who is to answer, as it stood on the command line."""

    model: str | None
    server: Server | None
    batch_size: int | None
    device: str | None
    dtype: str | None
    revision: str | None
    mode: Literal["C", "G"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which samples, and where from."""

    data: Path
    download: bool
    limit: int | None
    sample: int | None
    mark_by: str | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where answers go, and how many may be missing."""

    out: Path
    ranks: Ranks
    allowed: Allowed
    again: bool


def evaluate(
    context: typer.Context,
    tasks: Annotated[list[str] | None, typer.Argument(metavar="TASK...", help="Benchmarks, or a TSV file.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List all benchmarks and what data is there.")] = False,
    data: Data = None,
    download: Download = False,
    mark_by: MarkBy = None,
    model: Annotated[str | None, typer.Option(metavar="M", help="Hub id, zoo name or folder. Default: nano.")] = None,
    endpoint: Endpoint = None,
    key: Key = None,
    at_once: AtOnce = None,
    patience: Patience = None,
    extensions: Extensions = False,
    failures: Failures = None,
    again: Again = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run. Default: runs/MODEL.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples.")] = None,
    sample: Annotated[int | None, typer.Option(help="Only so many samples, drawn by chance, always the same.")] = None,
    seeds: Annotated[str, typer.Option(metavar="0,1,2", help="One answer each; needs a temperature.")] = "0",
    batch_size: Annotated[int | None, typer.Option(help="Questions answered together. Default: 8.")] = None,
    max_tiles: Annotated[int | None, typer.Option(help="Of one picture. Default: the benchmark's.")] = None,
    frames: Annotated[int | None, typer.Option(help="Of one video. Default: the benchmark's.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: the likeliest answer. Default: the benchmark's.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Of one answer. Default: the benchmark's.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message. Default: the model's.")] = None,
    compat: Compat = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    fallback: Fallback = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: what there is.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. Default: what is fast there.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="R", help="Branch, tag or commit of a hub model.")] = None,
    mode: Annotated[Literal["C", "G"], typer.Option(help="How InternVL-14B looks at pictures.")] = "C",
    as_json: AsJson = False,
) -> None:
    """Ask a model the questions of benchmarks, and score its answers.

    internvl eval chartqa-human --data data --model OpenGVLab/InternVL2_5-1B

    internvl eval my-own-table.tsv --endpoint http://localhost:8000/v1

    What was answered stays in the run's folder: the same command goes on where it was stopped.

    torchrun --nproc-per-node 8 -m internvl eval ...      (each process answers a part)
    """
    from internvl.evaluation.failures import Allowed
    from internvl.evaluation.planning import Change
    from internvl.evaluation.ranks import Ranks

    if listed:
        _alone(context)
        typer.echo(listing(data or Path("data"), as_json))
        return
    change = Change(
        max_tiles=max_tiles, frames=frames, temperature=temperature, max_new_tokens=max_new_tokens, system=system
    )
    wanted = Wanted(data=data or Path("data"), download=download, limit=limit, sample=sample, mark_by=mark_by)
    planned = _planned(tasks or [], wanted, change, _numbers(seeds))
    check_needed(judge, fallback, [task.benchmark for task in planned])
    server = None
    if endpoint is not None:
        at_once = 8 if at_once is None else at_once
        patience = 900.0 if patience is None else patience
        server = Server(url=endpoint, key=key, at_once=at_once, patience=patience, extensions=extensions)
    who = Who(
        model=model, server=server, batch_size=batch_size, device=device, dtype=dtype, revision=revision, mode=mode
    )
    if server is None and (key is not None or extensions or at_once is not None or patience is not None):
        raise UsageError("--key, --at-once, --patience and --extensions are for a server; give it with --endpoint URL")
    out = out or Path("runs") / _run_name(model or ("endpoint" if endpoint else "nano"))
    ranks = Ranks.here()
    rules = None if ranks.rank else rules_of(compat, judge, judge_model, fallback)
    allowed = Allowed() if failures is None else Allowed.parse(failures)
    _answer(planned, who, change, Run(out=out, ranks=ranks, allowed=allowed, again=again))
    if rules is not None:
        finish_run(out, rules, [task.benchmark.name for task in planned], as_json=as_json)


def _alone(context: typer.Context) -> None:
    """Refuse what is of no use beside --list."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in ("listed", "data", "as_json") and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--list shows all benchmarks and takes only --data and --json; leave out {name}")


def _run_name(model: str) -> str:
    """The last part of a hub id or path; a folder that is called `.` has a name too."""
    last = model.rstrip("/").rpartition("/")[2]
    return last if last not in ("", ".", "..") else Path(model).resolve().name or "model"


def _numbers(seeds: str) -> list[int]:
    parts = [part.strip() for part in seeds.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--seeds {seeds}: expected numbers such as 0,1,2")
    return [int(part) for part in parts]


def _planned(words: Sequence[str], wanted: Wanted, change: Change, seeds: Sequence[int]) -> list[Task]:
    """Every task with its samples, before any model is loaded."""
    from internvl.evaluation.lookup import named, spelt_out
    from internvl.evaluation.planning import Subset, plan
    from internvl.evaluation.ranks import Ranks

    if not words:
        raise UsageError("no benchmark; name one, such as `internvl eval pope`, or list them all with --list")
    if wanted.download and Ranks.here().world > 1:
        raise UsageError("--download under torchrun: every process would; get the data first, with one process")
    planned: list[Task] = []
    for word in spelt_out(words):
        benchmark, data = named(word, wanted.data, rule=wanted.mark_by)
        if wanted.download:
            _download(benchmark, data)
        subset = Subset(wanted.limit, wanted.sample)
        planned.append(plan(benchmark, data, subset=subset, change=change, seeds=seeds, rule=wanted.mark_by))
    return planned


def _download(benchmark: Benchmark, data: Path) -> None:
    from internvl.cli.terminal import waiting
    from internvl.evaluation.download import obtain
    from internvl.evaluation.folder import Folder

    with waiting(f"downloading {benchmark.name}") as advance:
        obtain(benchmark, Folder(data), report=lambda _, done, total: advance(done, total or done))


def _answer(planned: Sequence[Task], who: Who, change: Change, run: Run) -> None:
    """Ask what has no answer yet; returns when all processes are done."""
    from internvl.evaluation.manifest import begin
    from internvl.evaluation.runner import answer_all, check_failures

    out, ranks = run.out, run.ranks
    with ranks.joined():
        responder = _responder(planned, who, change, ranks)
        refused: InternVLError | OSError | None = None
        if ranks.rank == 0:
            try:
                begin(out, {task.benchmark.name: task.about for task in planned}, responder.describe(), again=run.again)
            except (InternVLError, OSError) as error:
                refused = error
        if not ranks.wait(refused is None):
            if refused is not None:
                raise refused
            raise UsageError("the first process refused to begin; it says why")
        try:
            with _watching(planned, ranks) as watch:
                answer_all(planned, responder, out, ranks=ranks, watch=watch, allowed=run.allowed, again=run.again)
        except KeyboardInterrupt:
            print(f"internvl: what was answered is in {out}; the same command goes on from there", file=sys.stderr)
            raise
        ranks.wait()
    if ranks.rank == 0:
        check_failures(planned, out, run.allowed)


def _responder(planned: Sequence[Task], who: Who, change: Change, ranks: Ranks) -> Responder:
    """Who answers; that they can answer these benchmarks is known before anything is loaded."""
    from internvl.evaluation.zeroshot import check_kind
    from internvl.models.config import PairConfig
    from internvl.weights.checkpoint import describe
    from internvl.weights.load import resolve

    path = None if who.server else resolve(who.model, revision=who.revision)
    pair = path is not None and isinstance(describe(path)[2], PairConfig)
    for task in planned:
        check_kind(task.benchmark, pair=pair)
    if who.mode != "C" and not pair:
        raise UsageError(f"--mode {who.mode} is how InternVL-14B looks at pictures; this is another model")
    unheard = ("max_tiles", "temperature", "max_new_tokens", "system") if pair else ()
    if who.server is not None and not who.server.extensions:
        unheard = ("max_tiles",)
    for name in unheard:
        if getattr(change, name) is not None:
            why = "InternVL-14B answers in one way" if pair else "a server hears of it only with --extensions"
            raise UsageError(f"--{name.replace('_', '-')} {getattr(change, name)}: {why}; leave it out")
    if path is None:
        return _elsewhere(who)
    if change.max_tiles not in (None, 1) and not pair and not _tiles(path):
        raise UsageError(
            f"--max-tiles {change.max_tiles}: this checkpoint sees every picture as one tile; leave it out, or say 1"
        )
    return _pair_here(path, who, ranks) if pair else _chat_here(path, who, ranks)


def _tiles(path: Path) -> bool:
    """Whether a checkpoint cuts pictures into tiles."""
    from internvl.weights.load import load_encoder

    return load_encoder(path).config.dynamic


def _elsewhere(who: Who) -> Responder:
    from internvl.evaluation.responders import EndpointResponder
    from internvl.inference.remote import Remote

    assert who.server is not None
    here = {"--batch-size": who.batch_size, "--device": who.device, "--dtype": who.dtype, "--revision": who.revision}
    for name, value in here.items():
        if value is not None:
            raise UsageError(f"{name} {value} is for a model on this machine, but --endpoint asks a server")
    server = who.server
    remote = Remote(server.url, model=who.model, key=server.key, at_once=server.at_once, patience=server.patience)
    return EndpointResponder(remote, extensions=who.server.extensions)


def _pair_here(path: Path, who: Who, ranks: Ranks) -> Responder:
    from internvl import Embedder
    from internvl.cli.terminal import waiting
    from internvl.evaluation.zeroshot import PairResponder

    with waiting(f"loading {who.model}"):
        mode = "InternVL-C" if who.mode == "C" else "InternVL-G"
        embedder = Embedder.load(path, mode=mode, device=who.device or _own_device(ranks), dtype=who.dtype)
    return PairResponder(embedder, name=_name(who.model), path=path, batch_size=_size(who))


def _chat_here(path: Path, who: Who, ranks: Ranks) -> Responder:
    from internvl import Chat
    from internvl.cli.terminal import waiting
    from internvl.evaluation.responders import LocalResponder

    with waiting(f"loading {who.model or 'nano'}"):
        chat = Chat.load(path, device=who.device or _own_device(ranks), dtype=who.dtype)
    return LocalResponder(chat, name=_name(who.model), path=path, batch_size=_size(who))


def _size(who: Who) -> int:
    return 8 if who.batch_size is None else who.batch_size


def _own_device(ranks: Ranks) -> str | None:
    """Of several processes each takes the GPU of its own number."""
    import torch

    return f"cuda:{ranks.local}" if ranks.world > 1 and torch.cuda.is_available() else None


def _name(model: str | None) -> str:
    """As published scores call it, where the zoo knows it."""
    from internvl import zoo
    from internvl.errors import NoSuchName

    try:
        return zoo.find(model).hub if model else "nano"
    except NoSuchName:
        return str(model)


# ---- what a person sees ----------------------------------------------------------------------------------------------


@contextmanager
def _watching(planned: Sequence[Task], ranks: Ranks) -> Generator[Watch | None]:
    """A bar a benchmark with its running score, where somebody watches."""
    if ranks.rank or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from internvl.evaluation.runner import Progress

    part = "" if ranks.world == 1 else f", part 1 of {ranks.world}"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, TextColumn("{task.fields[score]}"), console=Console(stderr=True)) as bars:
        ids = {
            task.benchmark.name: bars.add_task(
                f"{task.benchmark.name}{part}",
                total=len(ranks.part(len(task.samples))) * len(task.seeds),
                score="",
            )
            for task in planned
        }

        def watch(found: Progress) -> None:
            score = "" if found.score is None else f"{found.score:.1f} so far"
            bars.update(ids[found.task.benchmark.name], completed=found.done, total=found.total, score=score)

        yield watch

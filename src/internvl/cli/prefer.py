"""`internvl prefer`: preference pairs out of a model's own answers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from internvl.errors import InternVLError, UsageError

if TYPE_CHECKING:
    from internvl.evaluation.preference_pairs import Counts
    from internvl.evaluation.preference_samples import Ask, Sampler, Shown
    from internvl.evaluation.preferences import Question
    from internvl.evaluation.ranks import Ranks
    from internvl.inference.sampling import SamplingConfig

How = Literal["correctness", "dropout"]
FormName = Literal["plain", "final", "final-zh", "boxed", "boxed-zh"]
NOTHING = 1
"""Exit status where there is no pair."""
SHOWN = 3
"""Rows that could not be asked which are named at the end; all are in the summary."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where questions come from, and how they are put."""

    data: str
    how: How
    form: str
    samples: int
    keep: float
    limit: int | None


def prefer(
    data: Annotated[str, typer.Argument(metavar="DATA", help='Rows {"image", "question", "answer" (or "chosen")}.')],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The pairs, .jsonl; other files are put beside it.")],
    how: Annotated[How, typer.Option(help="How the worse answer is found.")] = "correctness",
    mode: Annotated[
        str | None, typer.Option(metavar="M,…", help="What is right: vqa, relaxed, anls, mc, math; any of those named.")
    ] = None,
    form: Annotated[FormName | None, typer.Option(help="How to think and answer. Default: final.")] = None,
    samples: Annotated[int | None, typer.Option(help="Answers to a question. Default: 8; dropout 1.")] = None,
    pairs: Annotated[int | None, typer.Option(help="Of one question at most. Default: 15.")] = None,
    keep: Annotated[float | None, typer.Option(help="Dropout: the share of words that is kept. Default: 0.5.")] = None,
    root: Annotated[str, typer.Option(metavar="DIR", help="Before the paths of pictures.")] = "",
    model: Annotated[str | None, typer.Option(metavar="M", help="Hub id, zoo name or folder. Default: nano.")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="Ask an OpenAI-style server instead.")] = None,
    key: Annotated[str | None, typer.Option(metavar="TEXT", help="Of the server. Default: $OPENAI_API_KEY.")] = None,
    at_once: Annotated[int | None, typer.Option(help="Questions at the server together. Default: 8.")] = None,
    extensions: Annotated[bool, typer.Option("--extensions", help="Tell the server top_k and max_tiles too.")] = False,
    temperature: Annotated[float, typer.Option(help="Of the answers.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Among the likeliest so many. Default: 50.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of one answer.")] = 2048,
    max_tiles: Annotated[int | None, typer.Option(help="Of a question's pictures. Default: 6, or the model's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the answers, and of which pairs are drawn.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Answers written together. Default: 8.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: what there is.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. Default: what is fast there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as one JSON object.")] = False,
) -> int:
    """Make preference pairs for MPO: sample answers, judge them, pair right with wrong.

    internvl prefer questions.jsonl --root pictures --mode vqa,math --out pairs.jsonl

    internvl prefer captions.jsonl --how dropout --out pairs.jsonl     (the worse answer: half of the better one,
    continued without the picture)

    Answers are kept beside the pairs, and the same command goes on where it was stopped; with another --mode it judges
    them anew. torchrun --nproc-per-node 8 -m internvl prefer ...  (each process answers a part)

    Exit status: 0 there are pairs; 1 there is none, the files are written all the same; 2 a mistake of yours.
    """
    from internvl.evaluation.preference_pairs import Counts, advice
    from internvl.evaluation.ranks import Ranks

    modes = _modes(how, mode, form, pairs, keep)
    source = Source(
        data=data, how=how, form=form or "final", samples=samples or (1 if how == "dropout" else 8),
        keep=0.5 if keep is None else keep, limit=limit,
    )  # fmt: skip
    _check(source, samples, pairs, out)
    sampling = _sampling(temperature, top_k, max_new_tokens, seed, how, remote=endpoint is not None)
    counts, ranks = Counts(), Ranks.here()
    here = {"--batch-size": batch_size, "--device": device, "--dtype": dtype}
    there = {"--key": key, "--at-once": at_once, "--extensions": extensions or None}
    with ranks.joined():
        shown = _shown(root, max_tiles, heard=endpoint is None or extensions)
        if endpoint is None:
            _refuse(there, "is for a server; give it with --endpoint URL")
            sampler = _local(model, shown, sampling, counts, here, ranks)
        else:
            _refuse(here, "is for a model on this machine, but --endpoint asks a server")
            sampler = _remote(endpoint, model, shown, sampling, counts, there, how)
        _gather(source, sampler, out, counts, ranks)
        ranks.wait()
    if ranks.rank != 0:
        return 0
    _pair(source, out, modes, pairs or 15, seed, counts)
    _tell(out, counts, how, as_json)
    if not counts.pairs:
        told = advice(counts, None if how == "dropout" else source.form)
        other = " (with another --out: these answers are kept)" if " --form plain" in told else ""
        print(f"internvl: no pair was found: {told}{other}", file=sys.stderr)
    return 0 if counts.pairs else NOTHING


# ---- what was asked for ----------------------------------------------------------------------------------------------


def _modes(how: How, mode: str | None, form: str | None, pairs: int | None, keep: float | None) -> tuple[str, ...]:
    """How to judge; what another --how would need is refused."""
    from internvl.errors import find
    from internvl.evaluation.preferences import MODES

    if how == "dropout":
        _refuse({"--mode": mode, "--form": form, "--pairs": pairs}, "judges answers; --how dropout judges none")
        return ()
    _refuse({"--keep": keep}, "is for --how dropout")
    if mode is None:
        raise UsageError(
            f"--mode: say what makes an answer right, such as --mode vqa,math; there are {', '.join(MODES)}"
        )
    modes = tuple(part.strip() for part in mode.split(","))
    for one in modes:
        find("mode", one, MODES)
    return modes


def _refuse(options: dict[str, Any], why: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{name} {'' if value is True else value}".rstrip() + f" {why}")


def _check(source: Source, samples: int | None, pairs: int | None, out: Path) -> None:
    if samples is not None and samples < 1:
        raise UsageError(f"--samples {samples}: expected at least 1")
    if source.limit is not None and source.limit < 1:
        raise UsageError(f"--limit {source.limit}: expected at least 1")
    if pairs is not None and pairs < 1:
        raise UsageError(f"--pairs {pairs}: expected at least 1")
    if not 0 < source.keep < 1:
        raise UsageError(f"--keep {source.keep}: expected a share between 0 and 1")
    if out.suffix != ".jsonl":
        raise UsageError(f"--out {out}: expected a name that ends in .jsonl")


def _sampling(
    temperature: float, top_k: int | None, max_new_tokens: int, seed: int, how: How, *, remote: bool
) -> SamplingConfig:
    from internvl.inference.sampling import SamplingConfig

    if temperature <= 0:
        raise UsageError(
            f"--temperature {temperature}: answers that are always the same make no pairs; expected above 0"
        )
    if top_k is None and not remote:
        top_k = 50
    least = 5 if how == "dropout" else 0
    return SamplingConfig(
        temperature=temperature, top_k=top_k, max_new_tokens=max_new_tokens, min_new_tokens=least, seed=seed
    )


def _shown(root: str, max_tiles: int | None, *, heard: bool) -> Shown:
    from internvl.data.image import check_tiles
    from internvl.evaluation.preference_samples import Shown

    if max_tiles is not None:
        check_tiles(max_tiles)
        if not heard:
            raise UsageError(f"--max-tiles {max_tiles}: a server hears of it only with --extensions; leave it out")
    return Shown(root=root, max_tiles=max_tiles)


def _local(
    model: str | None, shown: Shown, sampling: SamplingConfig, counts: Counts, here: dict[str, Any], ranks: Ranks
) -> Sampler:
    import torch

    from internvl import Chat
    from internvl.cli.terminal import waiting
    from internvl.evaluation.preference_samples import LocalSampler
    from internvl.evaluation.responders import fingerprint
    from internvl.weights.load import resolve

    path = resolve(model)
    own = f"cuda:{ranks.local}" if ranks.world > 1 and torch.cuda.is_available() else None
    with waiting(f"loading {model or 'nano'}"):
        chat = Chat.load(path, device=here["--device"] or own, dtype=here["--dtype"])
    size = 8 if here["--batch-size"] is None else here["--batch-size"]
    name = f"{model or 'nano'} ({fingerprint(path)[:31]})"
    return LocalSampler(chat, shown, sampling, _refusing(counts), name=name, batch_size=size)


def _remote(
    url: str, model: str | None, shown: Shown, sampling: SamplingConfig, counts: Counts, there: dict[str, Any], how: How
) -> Sampler:
    from internvl.evaluation.preference_samples import RemoteSampler
    from internvl.inference.remote import Remote

    if how == "dropout":
        raise UsageError("--how dropout continues an answer, which such a server cannot; leave out --endpoint")
    if sampling.top_k is not None and not there["--extensions"]:
        raise UsageError(f"--top-k {sampling.top_k}: a server hears of it only with --extensions")
    at_once = 8 if there["--at-once"] is None else there["--at-once"]
    remote = Remote(url, model=model, key=there["--key"], at_once=at_once)
    return RemoteSampler(remote, shown, sampling, _refusing(counts), extensions=bool(there["--extensions"]))


def _refusing(counts: Counts) -> Any:
    def refused(question: Question, error: InternVLError) -> None:
        counts.refuse(question.origin, error)

    return refused


# ---- doing it --------------------------------------------------------------------------------------------------------


def _questions(source: Source, counts: Counts | None = None) -> Iterator[Question]:
    """The questions; rows that are none are counted where they are asked."""
    from itertools import islice

    from internvl.evaluation.preferences import read_questions

    def usable() -> Iterator[Question]:
        for found in read_questions(source.data, "chosen" if source.how == "dropout" else "answer"):
            if not isinstance(found, InternVLError):
                yield found
            elif counts is not None:
                counts.refuse("", found)

    return islice(usable(), source.limit)


def _asks(source: Source, questions: Iterable[Question]) -> Iterator[Ask]:
    from internvl.evaluation.preference_pairs import dropout_asks
    from internvl.evaluation.preference_samples import Ask
    from internvl.evaluation.preferences import FORMS

    for question in questions:
        if source.how == "dropout":
            yield from dropout_asks(question, source.samples, source.keep)
        else:
            prompt = FORMS[source.form].asked(question)
            yield from (Ask(question, prompt, number) for number in range(source.samples))


def _gather(source: Source, sampler: Sampler, out: Path, counts: Counts, ranks: Ranks) -> None:
    from internvl.cli.terminal import waiting
    from internvl.evaluation.preference_samples import gather, samples_file, samples_files

    settings: dict[str, Any] = {"how": source.how}
    settings |= {"keep": source.keep} if source.how == "dropout" else {"form": source.form}
    path = samples_file(out, ranks)
    beside = [other for other in samples_files(out) if other != path]
    total = sum(1 for _ in _questions(source)) * source.samples // ranks.world
    heard = counts if ranks.rank == 0 else None
    own = (one for place, one in enumerate(_questions(source, heard)) if place % ranks.world == ranks.rank)
    with waiting("answering") as advance:
        done = 0
        try:
            new = gather(_asks(source, own), sampler, path, settings, beside=beside)
            for done, _ in enumerate(new, start=1):
                advance(done, total)
        except KeyboardInterrupt:
            print(f"internvl: {done} answers are in {path}; the same command goes on from there", file=sys.stderr)
            raise


def _pair(source: Source, out: Path, modes: tuple[str, ...], pairs: int, seed: int, counts: Counts) -> None:
    import json
    from dataclasses import asdict

    from internvl.evaluation.preference_pairs import Rules, write_dropout_pairs, write_pairs
    from internvl.evaluation.preference_samples import Responses, samples_files
    from internvl.evaluation.preferences import FORMS
    from internvl.evaluation.store import write_whole

    answers = Responses(samples_files(out))
    if source.how == "dropout":
        write_dropout_pairs(out, _questions(source), answers, source.keep, counts)
    else:
        rules = Rules(form=FORMS[source.form], modes=modes, pairs=pairs, seed=seed)
        write_pairs(out, _questions(source), answers, rules, counts)
    told = {"how": source.how, "modes": modes, **asdict(counts)}
    write_whole(out.with_name(f"{out.stem}.summary.json"), json.dumps(told, ensure_ascii=False, indent=1) + "\n")


def _tell(out: Path, counts: Counts, how: How, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps({"out": str(out), **asdict(counts)}, ensure_ascii=False))
        return
    for reason in counts.reasons[:SHOWN]:
        print(f"internvl: not asked: {' '.join(reason.split())}", file=sys.stderr)
    if counts.refused > SHOWN:
        print(f"internvl: and {counts.refused - SHOWN} more rows that cannot be asked", file=sys.stderr)
    told = f"{counts.questions} questions, {counts.responses} answers"
    if how == "correctness":
        told += f": {counts.right} right, {counts.wrong} wrong, {counts.no_form} in no form (equal ones counted once)"
        told += f"\n{counts.always_right} questions were always answered rightly, {counts.unsolved} never"
        told += f" ({out.stem}.unsolved.jsonl)"
        beside = f", {counts.format_pairs} of right answers with some in no form ({out.stem}.format.jsonl)"
        left = f"; {counts.contained} were left out, as the right answer stands in the wrong one"
        typer.echo(f"{told}\n{counts.pairs} pairs in {out}, of {counts.possible}{left}{beside}")
    else:
        short = f"; {counts.too_short} answers are too short to be cut" if counts.too_short else ""
        typer.echo(f"{told}\n{counts.pairs} pairs in {out}{short}")

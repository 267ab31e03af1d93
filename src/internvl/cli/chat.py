"""`internvl chat`: one question, or a conversation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from internvl.errors import UsageError

if TYPE_CHECKING:
    from internvl.cli.conversation import Media
    from internvl.inference.chat import Chat

WORDS_HELP = "Pictures (files or addresses), then the question in quotes. Without a question: a conversation, or the \
question is read from a pipe."


def chat(
    words: Annotated[
        list[str] | None, typer.Argument(metavar='[IMAGE]... ["QUESTION"]', help=WORDS_HELP, show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="M", help="Hub id, zoo name or folder. Default: nano.")] = None,
    video: Annotated[str | None, typer.Option(metavar="F", help="A video.")] = None,
    pdf: Annotated[str | None, typer.Option(metavar="F", help="A PDF; every page is a picture.")] = None,
    pages: Annotated[str | None, typer.Option(metavar="1-3,7", help="Of the PDF. Default: all.")] = None,
    password: Annotated[str | None, typer.Option(metavar="TEXT", help="Of a locked PDF.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole answer as one JSON object.")] = False,
    max_tiles: Annotated[int | None, typer.Option(help="Shared by pictures and pages. Default: the model's.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames read from a video.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message. Default: the model's.")] = None,
    temperature: Annotated[float, typer.Option(help="0: the likeliest answer; above: sampled.")] = 0.0,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest tokens of this probability.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among this many tokens.")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: repeat less.")] = 1.0,
    beams: Annotated[int, typer.Option(help="Above 1: beam search; the answer comes at once.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Equal seeds give equal answers.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 1024,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: what there is.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. Default: what is fast there.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="R", help="Branch, tag or commit of a hub model.")] = None,
) -> None:
    """Ask about pictures, a video or a document.

    internvl chat photo.jpg "What is this?"

    internvl chat a.jpg b.jpg "What has changed?" --json

    echo "Summarise." | internvl chat --pdf paper.pdf

    internvl chat photo.jpg      (a conversation; /help lists its commands)
    """
    from internvl.cli.words import existing_file, sort_words

    given = sort_words(words or [])
    question = _question(given.question, as_json=as_json)
    video, pdf = (None if name is None else existing_file(name) for name in (video, pdf))
    if frames is not None and question is not None and video is None:
        raise UsageError(f"--frames {frames} says how much of a video is read; give the video: --video FILE")
    if pdf is None and (pages is not None or (password is not None and question is not None)):
        raise UsageError("--pages and --password belong to a document; give it: --pdf FILE")

    from internvl.cli.conversation import Conversation, Media
    from internvl.cli.terminal import waiting

    # before the model: mistakes show at once
    media = Media.open(given.images, video=video, frames=frames, pdf=pdf, pages=pages, password=password)

    from internvl.inference.sampling import SamplingConfig
    from internvl.weights.load import resolve

    sampling = SamplingConfig(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        beams=beams,
        seed=seed,
    )
    path = resolve(model, revision=revision)  # a download shows its own progress
    with waiting(f"loading {model or 'nano'}"):
        from internvl import Chat as Talk

        talk = Talk.load(path, device=device, dtype=dtype, max_tiles=max_tiles, system=system, sampling=sampling)
    if question is None:
        Conversation(talk, media, name=model or "nano", frames=frames, password=password).run()
    elif as_json:
        _print_json(talk, question, media, model or "nano")
    else:
        _print_answer(talk, question, media)


def _question(word: str | None, *, as_json: bool) -> str | None:
    """The question from the command line or a pipe; None where a person at a terminal will ask."""
    if word is not None and word != "-":
        return word
    if word is None and sys.stdin.isatty():
        if as_json:
            raise UsageError("--json answers one question; give it as the last argument, or pipe it in")
        return None
    try:
        piped = sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise UsageError(f"the question from the pipe is no {error.encoding} text; is it a picture?") from None
    if not piped:
        raise UsageError('no question; give it in quotes as the last argument: internvl chat photo.jpg "What is this?"')
    return piped


def _print_answer(talk: Chat, question: str, media: Media) -> None:
    """The answer as it comes; one newline at its end."""
    from internvl.cli.conversation import say

    say(talk, question, media)
    print()


def _print_json(talk: Chat, question: str, media: Media, model: str) -> None:
    import json

    from internvl.cli.terminal import waiting

    with waiting("looking") as advance:
        talk.report = advance
        answer = talk.ask(question, images=media.images, video=media.video, pdf=media.pages or None)
    print(json.dumps({"model": model, **answer.as_json()}, ensure_ascii=False))

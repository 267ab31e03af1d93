"""`internvl chat`: one question, or a conversation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from internvl.errors import UsageError

if TYPE_CHECKING:
    from internvl.cli.conversation import Media, Partner

WORDS_HELP = "Pictures (files or addresses), then the question in quotes. Without a question: a conversation, or the \
question is read from a pipe."


def chat(
    words: Annotated[
        list[str] | None, typer.Argument(metavar='[IMAGE]... ["QUESTION"]', help=WORDS_HELP, show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="M", help="Hub id, zoo name or folder. Default: nano. Of a server: its name there."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask an OpenAI-style server. Its key: $OPENAI_API_KEY.")
    ] = None,
    video: Annotated[str | None, typer.Option(metavar="F", help="A video.")] = None,
    pdf: Annotated[str | None, typer.Option(metavar="F", help="A PDF; every page is a picture.")] = None,
    pages: Annotated[str | None, typer.Option(metavar="1-3,7", help="Of the PDF. Default: all.")] = None,
    password: Annotated[str | None, typer.Option(metavar="TEXT", help="Of a locked PDF.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole answer as one JSON object.")] = False,
    max_tiles: Annotated[int | None, typer.Option(help="Shared by pictures and pages. Default: the model's.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames read from a video.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message. Default: the model's.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: the likeliest answer; above: sampled. Default: 0, or the server's own.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest tokens of this probability.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among this many tokens.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1: repeat less. Default: 1.")] = None,
    beams: Annotated[int | None, typer.Option(help="Above 1: beam search; the answer comes at once.")] = None,
    seed: Annotated[int | None, typer.Option(help="Equal seeds give equal answers.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens of an answer at most. Default: 1024, or the server's own.")
    ] = None,
    extensions: Annotated[
        bool, typer.Option("--extensions", help="Tell any server --top-k, --repetition-penalty and --max-tiles.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: what there is.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. Default: what is fast there.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="R", help="Branch, tag or commit of a hub model.")] = None,
) -> None:
    """Ask about pictures, a video or a document.

    internvl chat photo.jpg "What is this?"

    internvl chat a.jpg b.jpg "What has changed?" --json

    echo "Summarise." | internvl chat --pdf paper.pdf

    internvl chat photo.jpg      (a conversation; /help lists its commands)

    internvl chat photo.jpg --endpoint http://localhost:8000/v1
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
    from internvl.cli.partners import Wanted, partner

    # before the model: mistakes show at once
    media = Media.open(
        given.images,
        video=video,
        frames=frames,
        pdf=pdf,
        pages=pages,
        password=password,
        keep_files=endpoint is not None,
    )
    wanted = Wanted(
        model=model,
        endpoint=endpoint,
        extensions=extensions,
        max_tiles=max_tiles,
        system=system,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        beams=beams,
        seed=seed,
        max_new_tokens=max_new_tokens,
        device=device,
        dtype=dtype,
        revision=revision,
    )
    whom = partner(wanted)
    if question is None:
        Conversation(whom, media, frames=frames, password=password).run()
    elif as_json:
        _print_json(whom, question, media)
    else:
        whom.say(question, media)
        print()


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


def _print_json(whom: Partner, question: str, media: Media) -> None:
    import json

    answer = whom.ask(question, media)
    print(json.dumps({"model": whom.name, **answer.as_json()}, ensure_ascii=False))

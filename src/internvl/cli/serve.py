"""`internvl serve`: the API that OpenAI's clients speak."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from internvl.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from internvl.serving.backend import Backend
    from internvl.serving.settings import Settings
    from internvl.serving.vllm_options import VllmOptions


def serve(
    model: Annotated[
        str | None, typer.Option(metavar="M", help="Hub id, zoo name or folder. Default: the embedded nano.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What requests call it. Default: the last part of --model.")
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="R", help="Branch, tag or commit of a hub model.")] = None,
    embedder: Annotated[
        str | None, typer.Option(metavar="M", help="What answers /v1/embeddings. Default: nano-c beside the nano.")
    ] = None,
    engine: Annotated[Literal["native", "vllm"], typer.Option(help="What answers.")] = "native",
    vllm: Annotated[str | None, typer.Option(metavar="CMD", help="The vllm command. Default: the one on PATH.")] = None,
    tensor_parallel_size: Annotated[int | None, typer.Option(help="GPUs that share each layer, with vLLM.")] = None,
    pipeline_parallel_size: Annotated[int | None, typer.Option(help="Groups of layers, with vLLM.")] = None,
    vllm_argument: Annotated[
        list[str] | None, typer.Option(metavar="ARG", help="More of `vllm serve`: --vllm-argument=--x=1; repeatable.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; other than this machine needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="F", help="API keys, one a line; or set INTERNVL_API_KEYS=key,key.")
    ] = None,
    no_api_key: Annotated[bool, typer.Option("--no-api-key", help="Other machines may ask without a key.")] = False,
    server_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What a proxy in front calls this server; repeatable.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Pictures may be fetched from there: a.org, *.a.org; repeatable."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Pages of this origin may ask; repeatable.")
    ] = None,
    media_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="file: addresses may name what lies in this folder.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: what there is.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. Default: what is fast there.")] = None,
    slots: Annotated[int, typer.Option(help="Answers that grow at the same time.")] = 16,
    context: Annotated[
        int | None, typer.Option(help="Tokens of a prompt and its answer. Default: the model's, at most 8192.")
    ] = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait.")] = 256,
    readers: Annotated[int, typer.Option(help="Processes that open pictures, videos and documents.")] = 2,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Answers are the same to the bit under any load. Slower.")
    ] = False,
    temperature: Annotated[float, typer.Option(help="Of requests that do not say it.")] = 0.0,
    limit: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="A limit of requests or media; repeatable. See the docs.")
    ] = None,
    request_seconds: Annotated[float, typer.Option(help="In which a request is answered.")] = 600.0,
    drain_seconds: Annotated[float, typer.Option(help="That answers may still take when told to stop.")] = 30.0,
    ui: Annotated[bool, typer.Option("--ui/--no-ui", help="The page at /ui.")] = True,
    votes: Annotated[
        Path | None, typer.Option(metavar="F", help="The page's thumbs and reports, with question and answer.")
    ] = None,
    log_content: Annotated[bool, typer.Option("--log-content", help="Logs hold what is asked and answered.")] = False,
) -> None:
    """Serve a model as OpenAI's API does: chat, completions, responses, embeddings.

    On this machine only, unless --host and a key are given. Stops on ^C or SIGTERM once all answers have ended.
    """
    try:
        from internvl.serving.settings import Settings, read_keys
    except ModuleNotFoundError as error:
        raise MissingExtra(f"serving needs {error.name}; pip install 'internvl[serve]'") from None

    request_limits, media_limits = limited(limit or [])
    settings = Settings(
        model=model, name=name, revision=revision, embedder=embedder, device=device, dtype=dtype, slots=slots,
        context=context, queue=queue, readers=readers, deterministic=deterministic, temperature=temperature, host=host,
        port=port, keys=read_keys(api_key_file), no_keys=no_api_key, server_names=tuple(server_name or ()),
        allow_hosts=tuple(allow_host or ()), origins=tuple(allow_origin or ()), media_root=media_root, ui=ui,
        votes=votes, limits=request_limits, media_limits=media_limits, request_seconds=request_seconds,
        drain_seconds=drain_seconds, log_content=log_content,
    )  # fmt: skip
    listen(settings, handed_over(engine, vllm, tensor_parallel_size, pipeline_parallel_size, vllm_argument))


def handed_over(
    engine: str, program: str | None, tensor: int | None, pipeline: int | None, arguments: list[str] | None
) -> VllmOptions | None:
    """How vLLM is started; None: the package's own engine answers."""
    from internvl.serving.vllm_options import VllmOptions

    given = {"program": program, "tensor_parallel": tensor, "pipeline_parallel": pipeline,
             "arguments": tuple(arguments) if arguments else None}  # fmt: skip
    said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if engine == "vllm":
        return VllmOptions(**said)
    if said:
        raise UsageError("--vllm and what is said of it belong to --engine vllm; add that, or leave them out")
    return None


def limited(given: list[str]) -> Any:
    """The limits of requests and of media, with those that are given in the place of the defaults.

    >>> limited(["n=2", "pages=4"])[0].n
    2
    """
    from dataclasses import fields, replace

    from internvl.errors import find
    from internvl.serving.fields import MAY_BE_NONE, RequestLimits
    from internvl.serving.readers import SERVICE

    requests: dict[str, float] = {}
    media: dict[str, float] = {}
    names = {one.name: [requests] for one in fields(RequestLimits)}
    for one in fields(SERVICE):  # frames are of both
        if isinstance(value := getattr(SERVICE, one.name), int | float) and not isinstance(value, bool):
            names.setdefault(one.name, []).append(media)
    for text in given:
        key, equals, number = text.partition("=")
        least = 0 if key in MAY_BE_NONE else 1
        found = find("limit", key, names, hint=f"There are: {', '.join(names)}.") if equals else []
        if not (found and number.isascii() and number.isdigit() and int(number[:18]) >= least):
            such = f"{key if found else 'n'}=4"
            raise UsageError(f"--limit {text!r}: expected NAME=N with a whole number from {least} on, such as {such}")
        for limits in found:
            limits[key] = int(number[:18])
    return RequestLimits(**requests), replace(SERVICE, **media)  # pyright: ignore[reportArgumentType]


def listen(settings: Settings, vllm: VllmOptions | None) -> None:
    """Serve until a signal comes."""
    from internvl.serving import listen as http
    from internvl.serving.app import create_app
    from internvl.serving.first import check
    from internvl.serving.logs import write_to

    check(settings, vllm)
    write_to()
    listener = http.bind(settings)
    try:
        app = create_app(settings, backend_of(settings, vllm))
        address = http.address_of(settings, listener)
        typer.echo(f"internvl is loading {settings.served_name} ...")

        http.serve(settings, app, listener, told=lambda: typer.echo(said(app, settings, address)))
    finally:
        listener.close()


def said(app: FastAPI, settings: Settings, address: str) -> str:
    """What is printed once the model is loaded: what is where, and how to try it."""
    import json

    facts = app.state.running.backend.facts
    asked = json.dumps({"model": facts.model, "messages": [{"role": "user", "content": "Hello"}]})
    key = " -H 'Authorization: Bearer KEY'" if settings.keys else ""
    lines = [
        f"internvl serves {facts.model} at {address}/v1 ({facts.slots} answers at a time, {facts.context} tokens each)"
    ]
    lines += [f"  vectors   {facts.embedder} at {address}/v1/embeddings"] if facts.embedder else []
    lines += [f"  the page  {address}/ui"] if app.state.has_page else []
    lines += [f"  the API   {address}/openapi.json"]
    lines += [f"  try       curl {address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{asked}'"]
    return "\n".join(lines)


def backend_of(settings: Settings, vllm: VllmOptions | None) -> Backend:
    """What stands behind the API."""
    if vllm is not None:
        from internvl.serving.vllm import VllmBackend

        return VllmBackend(settings, vllm)
    from internvl.serving.native import NativeBackend

    return NativeBackend(settings)

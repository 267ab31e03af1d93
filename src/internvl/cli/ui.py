"""`internvl ui`: the web page, with a server of its own or for one that runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from internvl.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    import socket

    from internvl.serving.page.ask import Endpoint
    from internvl.serving.settings import Settings

ANSWER_SECONDS = 5.0
"""In which a server elsewhere answers, or is said not to be there."""


def ui(
    model: Annotated[
        str | None, typer.Option(metavar="M", help="Hub id, zoo name or folder. Default: the embedded nano.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A server that runs, such as http://host:8000/v1; its key: OPENAI_API_KEY."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address of the page; other than this machine needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of the page. 0: any that is free.")] = 7860,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="F", help="Keys that sign in, one a line; or set INTERNVL_API_KEYS=key,key.")
    ] = None,
    server_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What a proxy in front calls the page; repeatable.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: what there is.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. Default: what is fast there.")] = None,
    votes: Annotated[
        Path | None, typer.Option(metavar="F", help="Thumbs and reports are written there, with question and answer.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page when it is ready.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for each request, as serve has it.")] = False,
) -> None:
    """The web page: pictures, videos and documents, asked about in a browser.

    On this machine only, unless --host and a key are given. Without --endpoint it starts `internvl serve` with it.
    """
    try:
        from internvl.serving import listen
        from internvl.serving.first import check
        from internvl.serving.logs import write_to
        from internvl.serving.settings import Settings, read_keys
    except ModuleNotFoundError as error:
        raise MissingExtra(f"the page needs {error.name}; pip install 'internvl[ui]'") from None

    if endpoint is not None and (model or device or dtype or verbose):
        raise UsageError("--endpoint is a server that runs; --model, --device, --dtype and --verbose belong to another")
    settings = Settings(
        model=model, device=device, dtype=dtype, host=host, port=port, keys=read_keys(api_key_file),
        server_names=tuple(server_name or ()), votes=votes,
    )  # fmt: skip
    if endpoint is None:
        check(settings)
    listener = listen.bind(settings)
    write_to(level=logging.INFO if verbose else logging.WARNING)
    try:
        address = listen.address_of(settings, listener)
        if endpoint is None:
            _with_server(settings, listener, address, browser)
        else:
            _alone(settings, endpoint, listener, address, browser)
    finally:
        listener.close()


def _with_server(settings: Settings, listener: socket.socket, address: str, browser: bool) -> None:
    """`internvl serve` with the page at /ui."""
    from internvl.cli.serve import backend_of
    from internvl.serving import listen
    from internvl.serving.app import create_app
    from internvl.serving.page import app as page

    app = create_app(settings, backend_of(settings, None))
    if not app.state.has_page:
        raise MissingExtra("the page needs gradio; pip install 'internvl[ui]'")
    typer.echo(f"internvl is loading {settings.served_name} ...")
    listen.serve(settings, app, listener, told=lambda: _ready(f"{address}{page.PLACE}/", browser))


def _alone(settings: Settings, endpoint: str, listener: socket.socket, address: str, browser: bool) -> None:
    """The page only; the server is elsewhere."""
    import asyncio

    import uvicorn

    from internvl.serving import listen
    from internvl.serving.page import app as page
    from internvl.serving.page.ask import endpoint_of

    server = endpoint_of(endpoint, os.environ.get("OPENAI_API_KEY", ""))
    gate = page.Gate(keys=settings.keys, names=settings.names, upload=page.SENT.bytes)
    app = page.page_app(page.Setup(endpoint=lambda _: server, gate=gate, votes=settings.votes))
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2, **listen.bounds(settings))

    async def run() -> None:
        serving = uvicorn.Server(config)
        task = asyncio.ensure_future(serving.serve([listener]))
        while not serving.started and not task.done():
            await asyncio.sleep(0.1)
        if serving.started:
            _ready(f"{address}/", browser)
            await _warn(server)
        await task

    asyncio.run(run())


async def _warn(server: Endpoint) -> None:
    """Say so where nobody is at the other end; the page is there all the same."""
    import httpx

    try:
        async with server.client() as client:
            await client.get(server.url + "/models", timeout=ANSWER_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL):
        message = (
            "internvl: nobody answers at that address yet; start the server, or stop (^C) and give another --endpoint"
        )
        typer.echo(message, err=True)


def _ready(address: str, browser: bool) -> None:
    typer.echo(f"internvl's page is at {address}  (stop with ^C)")
    if browser:
        import webbrowser

        webbrowser.open(address)

"""How fast the server is, beside what its model could do at best; everything in one run, on one machine.

    python benchmarks/serving.py            # all figures, as a table; a few minutes on two cores
    python benchmarks/serving.py --quick    # a trial: fewer requests, figures that mean little

    the model alone   ViT, prefill, a step of one row and of 16: what nothing around them can beat
    the engine        the same questions in this process, without HTTP
    the server        `internvl serve` in processes of its own, asked by `internvl.bench` over HTTP

Server and this program share the machine's cores, as they would on a laptop; while one is measured the other is idle,
but for the load that asks. Nothing else should run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from internvl.bench.client import Client
from internvl.bench.figures import Figures, figures
from internvl.bench.load import Load, Measured, drive
from internvl.bench.questions import Questions, Wish, words
from internvl.data.limits import Limits
from internvl.inference.engine import Ended, Engine, EngineConfig, Request, Spoke
from internvl.inference.sampling import SamplingConfig
from internvl.inference.seen import Features
from internvl.models.attention import KVCache
from internvl.serving.fields import understood
from internvl.serving.reading import prompt_of
from internvl.serving.schema import ChatRequest
from internvl.serving.translate import translate
from internvl.weights.load import load, load_encoder, resolve

NEW = 64
"""Tokens of an answer."""
STREAMS = 16
GOALS = {"decode": 4.0, "whole": 0.85, "turn": 5.0, "overhead": 0.005}
CONTEXT = 4096


# ---- what is asked ---------------------------------------------------------------------------------------------------


class Prompts:
    """Bodies of requests as the engine takes them, by the same code that the server reads them with."""

    def __init__(self, source: str | None) -> None:
        path = resolve(source)
        self.encoder = load_encoder(path)
        self.model: Any = load(path)
        self.source = source

    def request(self, messages: Sequence[Any], new: int) -> Request:
        order = translate(understood(ChatRequest, {"model": "m", "messages": list(messages)}))
        prompt, tiles = prompt_of(order, self.encoder, Limits(local=False, remote=False))
        ends = np.cumsum(prompt.tiles, dtype=int)[:-1]
        pictures = list(zip(prompt.digests, np.split(tiles, ends), strict=True)) if prompt.digests else []
        return Request(
            ids=prompt.ids,
            pictures=pictures,
            stop_ids=self.encoder.stop_ids,
            sampling=SamplingConfig(max_new_tokens=new, min_new_tokens=new),
        )

    def engine(self, **config: Any) -> Engine:
        return Engine(self.model, self.encoder.config.normalisation,
                      EngineConfig(**{"slots": STREAMS, "max_len": CONTEXT, **config}))  # fmt: skip


def same_picture(questions: Questions, count: int) -> list[list[dict[str, Any]]]:
    """Questions about one picture, each with other words."""
    [first] = questions.messages(0)
    picture = next(part for part in first["content"] if part["type"] == "image_url")
    return [
        [{"role": "user", "content": [picture, {"type": "text", "text": words(24, f"stream {number}")}]}]
        for number in range(count)
    ]


# ---- the model alone, and the engine ---------------------------------------------------------------------------------


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """The first two are thrown away."""
    taken: list[float] = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[2:])


@torch.inference_mode()
def model_alone(prompts: Prompts, requests: Sequence[Request], repeats: int) -> dict[str, float]:
    """Seconds of the parts of a request with a picture, each measured by itself, the machine being otherwise idle."""
    model, features = prompts.model, Features(prompts.model, prompts.encoder.config.normalisation)
    text, weight = model.config.text, next(model.parameters())
    turn = iter(range(10**9))

    def next_request() -> Request:
        return requests[next(turn) % len(requests)]

    def look() -> None:
        for _, tiles in next_request().pictures:
            for part in features.parts(tiles):
                features.encode(part)

    seen = {name: features.encode(tiles) for one in requests for name, tiles in one.pictures}

    def read() -> None:
        request = next_request()
        cache = KVCache(text, 1, len(request.ids) + 1, dtype=weight.dtype)
        filled = torch.cat([seen[name] for name, _ in request.pictures])
        model.language_model.logits(model.hidden(torch.tensor([request.ids]), filled, cache=cache)[:, -1])

    def step_of(rows: int) -> Callable[[], object]:
        held = max(len(one.ids) for one in requests) + NEW // 2
        cache = KVCache(text, rows, held + 1, dtype=weight.dtype)
        last = torch.full((rows, 1), 5)

        def step() -> None:
            cache.lengths, cache.extent = torch.full((rows,), held), held
            model.step(last, cache=cache).argmax(-1).tolist()

        return step

    return {
        "vit": median_seconds(look, repeats),
        "prefill": median_seconds(read, repeats),
        "step": median_seconds(step_of(1), repeats * 4),
        "step of many": median_seconds(step_of(STREAMS), repeats * 4),
    }


def through_engine(engine: Engine, requests: Sequence[Request]) -> tuple[float, float]:
    """Seconds until all are answered, as many at once as over HTTP, and of these those after the last had begun."""
    start = begun = time.perf_counter()
    coming, known = iter(requests), set[int]()
    for request in islice(coming, STREAMS):
        engine.submit(request)
    while engine.busy:
        for event in engine.step():
            if isinstance(event, Spoke) and event.id not in known:
                known.add(event.id)
                begun = time.perf_counter()
            elif isinstance(event, Ended) and (request := next(coming, None)) is not None:
                engine.submit(request)
    end = time.perf_counter()
    return end - start, end - begun


# ---- the server ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(source: str | None) -> Iterator[int]:
    """A server with its own defaults but for the number of slots; the port it listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    model = ["--model", source] if source else []
    command = [sys.executable, "-m", "internvl", "serve", *model, "--port", str(port), "--slots", str(STREAMS)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            if server.poll() is not None:
                raise SystemExit(f"the server ended with {server.returncode}; try: {' '.join(command)}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                break
            time.sleep(0.2)
        yield port
    finally:
        server.terminate()
        server.wait(60)


def loaded(port: int, name: str, ask: Sequence[Any], load: Load, new: int) -> Measured:
    """What becomes of these questions under a load, asked as `internvl bench serve` does."""

    async def run() -> Measured:
        extra = {"min_tokens": new, "temperature": 0}
        async with Client(f"http://127.0.0.1:{port}/v1", model=name, key="none", max_tokens=new, extra=extra) as client:
            return await drive(load, lambda number, heard: client.ask(ask[number], heard))

    measured = asyncio.run(run())
    failed = [one for one in measured.outcomes if one.state != "answered" or one.output_tokens != new]
    if failed:
        raise SystemExit(f"{len(failed)} requests were not answered with {new} tokens: {failed[0].error or failed[0]}")
    return measured


class Line:
    """One connection that stays open; what a client library costs is not part of what is measured."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def ask(self, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """Seconds to the whole answer, and the answer."""
        sent = json.dumps(body)
        start = time.perf_counter()
        self._connection.request("POST", "/v1/chat/completions", sent, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        said = answer.read()
        taken = time.perf_counter() - start
        if answer.status != 200:
            raise SystemExit(f"HTTP {answer.status}: {said[:200]!r}")
        return taken, json.loads(said)

    def first_token(self, body: dict[str, Any]) -> float:
        """Seconds to the first piece of a stream that holds text."""
        sent = json.dumps({**body, "stream": True})
        start, taken = time.perf_counter(), None
        self._connection.request("POST", "/v1/chat/completions", sent, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        for line in answer:
            if taken is None and b'"content":"' in line.replace(b" ", b"") and b'"content":""' not in line:
                taken = time.perf_counter() - start
        if taken is None:
            raise SystemExit("a stream held no text")
        return taken


# ---- the figures -----------------------------------------------------------------------------------------------------


def decode(port: int, name: str, prompts: Prompts, ask: Sequence[Any], repeats: int) -> list[tuple[str, str]]:
    """16 streams beside one, over HTTP and in the engine; the picture is known to both by then."""
    loaded(port, name, ask[:1], Load(requests=1, concurrency=1), NEW)
    one: list[float] = []
    many: list[float] = []
    for turn in range(repeats):
        at = ask[turn % STREAMS : turn % STREAMS + 1]
        one.append(loaded(port, name, at, Load(requests=1, concurrency=1), NEW).seconds)
        many.append(loaded(port, name, ask[:STREAMS], Load(requests=STREAMS, concurrency=STREAMS), NEW).seconds)
    alone, together = NEW / statistics.median(one), STREAMS * NEW / statistics.median(many)

    engine, requests = prompts.engine(), [prompts.request(messages, NEW) for messages in ask[:STREAMS]]
    through_engine(engine, requests[:1])
    within = [(through_engine(engine, requests[:1])[1], through_engine(engine, requests)[1]) for _ in range(repeats)]
    own, all_ = (statistics.median(column) for column in zip(*within, strict=True))
    return [
        ("decode, 1 stream, HTTP, whole answers", f"{alone:.0f} tokens/s"),
        (f"decode, {STREAMS} streams, HTTP, whole answers", f"{together:.0f} tokens/s"),
        (f"**{STREAMS} streams / 1 stream, HTTP**", goal(together / alone, "decode")),
        ("decode, 1 stream, engine, after the first token", f"{(NEW - 1) / own:.0f} tokens/s"),
        (
            f"decode, {STREAMS} streams, engine, after all first tokens",
            f"{STREAMS * (NEW - 1) / all_:.0f} tokens/s at least",
        ),
        (f"{STREAMS} streams / 1 stream, engine", f"{STREAMS * own / all_:.2f}"),
    ]


def whole(
    port: int, name: str, prompts: Prompts, questions: Questions, count: int, repeats: int
) -> list[tuple[str, str]]:
    """Requests that each bring a picture of their own, beside the sum of what the model needs for them."""
    ask = [questions.messages(number) for number in range(count)]
    requests = [prompts.request(messages, NEW) for messages in ask]
    before = model_alone(prompts, requests[:STREAMS], repeats)
    seconds, _ = through_engine(prompts.engine(), requests)
    run: Figures = figures(loaded(port, name, ask, Load(requests=count, concurrency=STREAMS), NEW))
    after = model_alone(prompts, requests[:STREAMS], repeats)  # the machine's own pace may have changed meanwhile
    parts = {part: (before[part] + after[part]) / 2 for part in before}
    bound = 1 / (parts["vit"] + parts["prefill"] + (NEW - 1) * parts["step of many"] / STREAMS)
    first = run.spreads["ttft"]
    return [
        ("ViT and projector, one picture", milliseconds(parts["vit"])),
        (f"prefill of {len(requests[0].ids)} tokens", milliseconds(parts["prefill"])),
        ("a step of 1 row", milliseconds(parts["step"])),
        (f"a step of {STREAMS} rows", milliseconds(parts["step of many"])),
        ("bound: requests with a picture and 64 tokens", f"{bound:.2f} /s"),
        (f"{count} requests in the engine", f"{count / seconds:.2f} /s, {count / seconds / bound:.2f} of the bound"),
        (f"{count} requests over HTTP, {STREAMS} at once", f"{run.answers_per_second:.2f} /s"),
        ("**HTTP / bound**", goal(run.answers_per_second / bound, "whole")),
        (
            "**time to first token under that load, p50 / p99**",
            f"{milliseconds(first.p50)} / {milliseconds(first.p99)}",
        ),
    ]


def second_turn(port: int, name: str, prompts: Prompts, ask: Sequence[Any], repeats: int) -> list[tuple[str, str]]:
    """The same second turn after its first one, and after a system message that nobody has sent before."""
    line, text = Line(port), ""
    while len(prompts.request([{"role": "user", "content": text or "a"}], 1).ids) < 3000:
        text += " " + words(50, f"turn {len(text)}")
    [question] = ask[0]
    picture = question["content"][0]
    kept: list[float] = []
    fresh: list[float] = []
    cached: list[int] = []
    for turn in range(repeats):
        first = {"role": "user", "content": [picture, {"type": "text", "text": f"{turn}.{text}"}]}
        _, said = line.ask({"model": name, "messages": [first], "max_tokens": 16})
        answer = said["choices"][0]["message"]["content"]
        turns = [first, {"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}]
        kept.append(line.first_token({"model": name, "messages": turns, "max_tokens": 4, "min_tokens": 4}))
        new = [{"role": "system", "content": f"{turn} is another beginning."}, *turns]
        fresh.append(line.first_token({"model": name, "messages": new, "max_tokens": 4, "min_tokens": 4}))
        _, said = line.ask({"model": name, "messages": turns, "max_tokens": 1})
        cached.append(said["usage"]["prompt_tokens_details"]["cached_tokens"])
    with_reuse, without = statistics.median(kept), statistics.median(fresh)
    return [
        (f"second turn, {said['usage']['prompt_tokens']} tokens, {min(cached)} of them held: first token",
         milliseconds(with_reuse)),
        ("the same after another beginning, nothing held but the picture", milliseconds(without)),
        ("**without reuse / with reuse**", goal(without / with_reuse, "turn")),
    ]  # fmt: skip


def overhead(port: int, name: str, prompts: Prompts, repeats: int) -> list[tuple[str, str]]:
    """One-token answers over HTTP, less what the engine takes for the same in this process. All of it is held but the
    last token, so that what is left is mostly the way there and back."""
    messages = [{"role": "user", "content": "Name a colour."}]
    line, engine, request = Line(port), prompts.engine(), prompts.request(messages, 1)
    body = {"model": name, "messages": messages, "max_tokens": 1, "min_tokens": 1, "temperature": 0}
    over_http = [line.ask(body)[0] for _ in range(repeats + 5)][5:]
    own = median_seconds(lambda: through_engine(engine, [request]), repeats)
    http_median = statistics.median(over_http)
    rows = sorted(over_http)
    return [
        (
            "one token over HTTP, median / p99",
            f"{milliseconds(http_median)} / {milliseconds(rows[int(0.99 * len(rows))])}",
        ),
        ("the same in the engine", milliseconds(own)),
        ("**overhead of HTTP and scheduling**", goal(http_median - own, "overhead", seconds=True)),
    ]


def goal(value: float, name: str, *, seconds: bool = False) -> str:
    """A figure, beside what it is to be."""
    met = value < GOALS[name] if seconds else value >= GOALS[name]
    shown = milliseconds(value) if seconds else f"{value:.2f}"
    wanted = f"under {milliseconds(GOALS[name])}" if seconds else f"at least {GOALS[name]:g}"
    return f"**{shown}** ({wanted}: {'met' if met else 'MISSED'})"


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{1000 * value:.2f} ms"


def machine() -> str:
    model = ""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "fastapi", "uvicorn", "pydantic"))
    busy = f"load of the last minute {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{platform.system()} {platform.machine()}, {model or platform.processor()}, {os.cpu_count()} cores; "
        f"{torch.get_num_threads()} threads; Python {platform.python_version()}, {packages}; {busy}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="hub id, zoo name or folder; left out: the embedded nano")
    parser.add_argument(
        "--requests", type=int, default=384, help="of the whole image requests; as few as 96 mostly come and go"
    )
    parser.add_argument("--repeats", type=int, default=9, help="of everything of which a median is taken")
    parser.add_argument("--quick", action="store_true", help="a trial: figures that mean little")
    arguments = parser.parse_args()
    count, repeats = (STREAMS, 2) if arguments.quick else (arguments.requests, arguments.repeats)

    print(f"{machine()}\n\n`python {' '.join(sys.argv)}`\n", flush=True)
    prompts = Prompts(arguments.model)
    name = Path(arguments.model).name if arguments.model else "nano"
    questions = Questions(Wish(requests=count, image_mix=1.0, input_tokens=24, image_size=224))
    streams = same_picture(questions, STREAMS)
    print("| what | figure |\n|---|---|", flush=True)
    with serving(arguments.model) as port:
        for rows in (
            lambda: overhead(port, name, prompts, 40 * repeats),
            lambda: decode(port, name, prompts, streams, repeats),
            lambda: second_turn(port, name, prompts, streams, repeats),
            lambda: whole(port, name, prompts, questions, count, 4 * repeats),
        ):
            for what, figure in rows():
                print(f"| {what} | {figure} |", flush=True)


if __name__ == "__main__":
    main()

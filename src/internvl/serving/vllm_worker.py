"""A worker whose engine is vLLM: it stands where `internvl.serving.worker` stands, and says the same words.

    API process <--wire--> this process: checkpoint, stop strings, text <--HTTP over a socket file--> vllm serve

Prompts come with ids and tiles, and go to vLLM as they are; what it draws becomes text here, by the code of the native
worker. A request that nobody waits for any more is hung up on, and vLLM drops it. Where vLLM is gone the process ends,
and `Supervisor` starts both again. Run as `python -m internvl.serving.vllm_worker DESCRIPTOR`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import numpy as np
import torch

from internvl.errors import UsageError
from internvl.inference.chat import context as context_of
from internvl.inference.constraint import Constraint
from internvl.inference.embed import Embedder
from internvl.inference.events import EngineConfig
from internvl.inference.sampling import SamplingConfig
from internvl.models.config import ChatConfig, TextConfig
from internvl.serving.backend import Facts
from internvl.serving.inbox import Come, listen
from internvl.serving.refusal import Refusal, internal, queue_full, refusal_of
from internvl.serving.saying import Saying, Speech
from internvl.serving.vectors import Embedding
from internvl.serving.vllm_model import Plan, Program, servable
from internvl.serving.vllm_options import VllmOptions
from internvl.serving.vllm_request import Chunk, Drawn, Look, body, chunk, sampled
from internvl.serving.wire import (
    Ask,
    Channel,
    Drop,
    Embed,
    Memory,
    Ping,
    Pong,
    Ready,
    Serve,
    Vectors,
    WireError,
)
from internvl.serving.worker import begun, named, unservable
from internvl.weights.checkpoint import describe, open_checkpoint
from internvl.weights.files import majority
from internvl.weights.load import DTYPES, load_encoder, resolve

log = logging.getLogger("internvl.worker")

ROUTE = "/inference/v1/generate"
JSON = {"Content-Type": "application/json"}
LOOKS = 0.5
"""Seconds between two looks at a vLLM that is loading."""
BEATS = 5.0
"""Seconds between two looks at one that serves."""
PATIENCE = 120.0
"""Seconds in which it says that it is well."""
MOST_PICTURES = EngineConfig.waiting_tiles
"""Pictures that may wait for their vectors, as with the native engine."""


@dataclass(frozen=True)
class Loaded:
    """What is known of a model whose weights are elsewhere."""

    speech: Speech
    look: Look
    facts: Facts
    plan: Plan
    text: TextConfig
    stop_ids: tuple[int, ...]
    lead_ids: tuple[int, ...]
    queue: int
    embedder: Embedder | None


def load(serve: Serve) -> Loaded:
    """The checkpoint in vLLM's layout, and what is known of it. No weights are loaded."""
    source = resolve(serve.source, revision=serve.revision)
    encoder, config = load_encoder(source), describe(source)[2]
    assert isinstance(config, ChatConfig)  # load_encoder has refused anything else
    if serve.device not in (None, "cpu", "cuda"):
        raise UsageError(f"device is {serve.device}; vLLM takes cpu or cuda: choose GPUs with CUDA_VISIBLE_DEVICES")
    cpu = serve.device == "cpu" or not torch.cuda.is_available()
    dtype = _dtype(serve.dtype, cpu, majority(open_checkpoint(source).handles.values()))
    slots = int(serve.engine["slots"])
    plan = Plan(
        folder=servable(source),
        name=serve.name,
        dtype=str(dtype).removeprefix("torch."),
        context=min(int(serve.engine["max_len"]), context_of(config.text)),
        slots=slots,
        slots_per_tile=encoder.config.slots_per_tile,
        cpu=cpu,
    )
    embedder = None if serve.embedder is None else Embedder.load(serve.embedder, device="cpu" if cpu else None)
    facts = Facts.of(serve, encoder, vocab=config.text.vocab, context=plan.context, slots=slots)
    look = Look(normalisation=encoder.config.normalisation, dtype=dtype, slot=encoder.slot_id,
                slots_per_tile=encoder.config.slots_per_tile)  # fmt: skip
    return Loaded(Speech(encoder, config.text.vocab), look, facts, plan, config.text, encoder.stop_ids,
                  encoder.lead_ids, int(serve.engine["queue"]), embedder)  # fmt: skip


def _dtype(named: str | None, cpu: bool, stored: torch.dtype) -> torch.dtype:
    """What weights are held in: what was asked for, fp32 on a CPU, or what most are stored in."""
    if named is not None:
        if named not in DTYPES:
            raise UsageError(f"dtype is {named}; choose float32, bfloat16 or float16")
        return DTYPES[named]
    return torch.float32 if cpu else stored


class VllmWorker:
    """Answers what comes over a channel with what vLLM draws. But for its threads, all is for one event loop."""

    def __init__(self, channel: Channel, loaded: Loaded, client: httpx.AsyncClient) -> None:
        self._channel, self._loaded, self._client = channel, loaded, client
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._drawing = 0
        """Requests that vLLM has."""
        self._counted: Counter[str] = Counter()
        self._embedding = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._pictures = 0
        """That wait for their vectors."""

    def hear(self, come: Come) -> None:
        """Take what has come."""
        message, pixels = come.message, come.pixels
        if isinstance(message, Ping):
            self._channel.send(Pong(id=message.id, counters=self.counters()))
        elif isinstance(message, Drop):
            if (task := self._tasks.get(message.id)) is not None:
                task.cancel()
        elif isinstance(message, Ask | Embed):
            if message.id in self._tasks:
                raise WireError(f"there is a request {message.id} already")
            work = self._answered(message, pixels)
            self._tasks[message.id] = asyncio.get_running_loop().create_task(work)
        else:
            raise WireError(f"a worker is not told {type(message).__name__}")

    def counters(self) -> dict[str, int]:
        """Those of `internvl.inference.events.Counters` that are known from outside of vLLM."""
        slots, asked = self._loaded.plan.slots, len(self._tasks)
        running = min(self._drawing, slots)
        counted = {name: self._counted[name] for name in ("reused", "generated", "ended", "failed", "cancelled")}
        return {"queued": asked - running, "running": running, "slots": slots, "free": slots - running,
                "waiting_tiles": self._pictures, **counted}  # fmt: skip

    async def _answered(self, message: Ask | Embed, pixels: np.ndarray | Exception | None) -> None:
        try:
            if isinstance(pixels, Exception):
                raise pixels
            if len(self._tasks) > self._loaded.queue + self._loaded.plan.slots:
                raise queue_full(5)
            if isinstance(message, Ask):
                await self._answer(message, pixels)
            else:
                await self._embed(message, pixels)
            self._counted["ended"] += 1
        except asyncio.CancelledError:  # nobody waits for it any more
            self._counted["cancelled"] += 1
        except Exception as error:
            self._counted["failed"] += 1
            refusal = refusal_of(error)
            if refusal.status >= 500:
                log.error("a request failed: %s", named(error))
            self._channel.send(refusal.told(message.id))
        finally:
            self._tasks.pop(message.id, None)

    async def _answer(self, ask: Ask, tiles: np.ndarray | None) -> None:
        slots = self._loaded.plan.slots
        if not 1 <= ask.n <= slots:
            raise Refusal(f"n is {ask.n}; it must be 1 to {slots}, the answers that can grow at a time", param="n",
                          code="limit_exceeded")  # fmt: skip
        content, growing = await asyncio.to_thread(self._prepared, ask, tiles)
        self._drawing += 1
        try:
            async with self._client.stream("POST", ROUTE, content=content, headers=JSON) as response:
                if response.status_code != 200:
                    raise await _refused(response)
                async for line in response.aiter_lines():
                    said = chunk(line, growing.config, logprobs=ask.logprobs)
                    if said is not None:
                        self._tell(growing, said)
                    if growing.over:
                        break
        finally:
            self._drawing -= 1
        self._finish(growing)

    def _prepared(self, ask: Ask, tiles: np.ndarray | None) -> tuple[bytes, Growing]:
        """In another thread: what vLLM is asked. Refuses what the native worker refuses, in its words."""
        loaded = self._loaded
        request = loaded.speech.request(ask, tiles)
        form = None if ask.constraint is None else Constraint(**ask.constraint)
        # What a model writes before every answer is no part of its form: it is said already.
        ids = [*ask.ids, *loaded.lead_ids] if form else list(ask.ids)
        grammar = None if form is None else form.grammar(loaded.speech.lead)
        n = 1 if request.sampling.is_greedy else ask.n  # vLLM does not draw what is the same n times
        sampling = sampled(request.sampling, loaded.stop_ids, n=n, logprobs=ask.logprobs, grammar=grammar)
        content = body(ids, request.pictures, sampling, loaded.look, ask.priority)
        return content, Growing(request.sampling, loaded.speech.answers(ask))

    def _tell(self, growing: Growing, said: Chunk) -> None:
        growing.reused = growing.reused if said.reused is None else said.reused
        for drawn in said.drawn:
            for answer in range(len(growing.sayings)) if growing.config.is_greedy else (drawn.answer,):
                self._hear(growing, answer, drawn)

    def _hear(self, growing: Growing, answer: int, drawn: Drawn) -> None:
        if answer in growing.ends:  # a stop string has ended it
            return
        saying = growing.sayings[answer]
        for token in drawn.tokens:
            self._counted["generated"] += 1
            for piece in saying.hear(token, silent=token.id in self._loaded.stop_ids):
                self._channel.send(piece)
            if saying.stopped:
                break
        if saying.stopped or drawn.finish is not None:
            growing.ends[answer] = "stop" if saying.stopped else str(drawn.finish)

    def _finish(self, growing: Growing) -> None:
        """All answers are complete; how much of the prompt was known is told at the very end."""
        if len(growing.ends) < len(growing.sayings):
            raise internal()
        reused = growing.reused or 0
        self._counted["reused"] += reused
        last = len(growing.sayings) - 1
        for number, saying in enumerate(growing.sayings):
            for one in saying.end(growing.ends[number], reused=reused, last=number == last):
                self._channel.send(one)

    async def _embed(self, message: Embed, pixels: np.ndarray | None) -> None:
        embedding = Embedding(self._loaded.embedder, message, pixels, most=MOST_PICTURES)
        if embedding.tiles > MOST_PICTURES - self._pictures:
            raise queue_full(5)

        def work() -> tuple[np.ndarray, int]:
            for _ in embedding:
                pass
            return embedding.vectors(), embedding.tokens

        self._pictures += embedding.tiles
        try:
            vectors, tokens = await asyncio.get_running_loop().run_in_executor(self._embedding, work)
        finally:
            self._pictures -= embedding.tiles
        memory = Memory.of(vectors)
        try:
            self._channel.send(Vectors(id=message.id, shape=vectors.shape, tokens=tokens), memory)
        finally:
            memory.close()


@dataclass
class Growing:
    """The answers to one request."""

    config: SamplingConfig
    sayings: list[Saying]

    def __post_init__(self) -> None:
        self.ends: dict[int, str] = {}
        self.reused: int | None = None

    @property
    def over(self) -> bool:
        """Nothing more is to be waited for: all have ended, by stop strings or with the last line."""
        return len(self.ends) == len(self.sayings) and (
            self.reused is not None or all(saying.stopped for saying in self.sayings)
        )


async def _refused(response: httpx.Response) -> Refusal:
    """What vLLM refuses was checked before, so it is our fault or vLLM's; its words go to the log alone."""
    said = (await response.aread()).decode("utf-8", "replace")
    log.error("vLLM answers %d: %s", response.status_code, " ".join(said.split())[:500])
    return internal()


# ---- the process -----------------------------------------------------------------------------------------------------


class Inbox:
    """Hands what comes to the event loop; until there is somebody to hear it, it is kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.came = loop, asyncio.Queue[Come]()

    def put(self, come: Come) -> None:
        self._loop.call_soon_threadsafe(self.came.put_nowait, come)


async def until_well(client: httpx.AsyncClient, program: Program, patience: float) -> None:
    """Returns when vLLM answers, and has the route that is needed. Raises `UsageError` if it does not come to that."""
    loop = asyncio.get_running_loop()
    last = loop.time() + patience
    while True:
        if (code := program.ended) is not None:
            words = await asyncio.to_thread(program.last_words)
            raise UsageError(f"vLLM ended with exit code {code} before it was loaded: {words}")
        if loop.time() > last:
            raise UsageError(f"vLLM was not loaded within {patience:g} s; the log may say why")
        try:
            if (await client.get("/health", timeout=BEATS)).status_code == 200:
                break
        except httpx.HTTPError:
            pass
        await asyncio.sleep(LOOKS)
    routes: Any = (await client.get("/openapi.json", timeout=PATIENCE)).json()
    if ROUTE not in routes["paths"]:
        raise UsageError(f"this vLLM has no {ROUTE}, by which it is given tokens and pixels; install 0.32 or later")


async def watch(client: httpx.AsyncClient, program: Program) -> None:
    """Returns when vLLM is gone, or has not been well for long."""
    loop = asyncio.get_running_loop()
    well = loop.time()
    while program.ended is None and loop.time() - well < PATIENCE:
        await asyncio.sleep(BEATS)
        try:
            if (await client.get("/health", timeout=BEATS)).status_code != 200:
                return
            well = loop.time()
        except httpx.HTTPError:
            pass


async def serve_all(channel: Channel, serve: Serve) -> str:
    """Serve until vLLM is gone, and why. What cannot be served is an error that says so."""
    inbox = Inbox(asyncio.get_running_loop())
    threading.Thread(target=listen, args=(channel, inbox), daemon=True).start()
    loaded = await asyncio.to_thread(load, serve)
    told: dict[str, Any] = dict(serve.vllm or {})
    told["arguments"] = tuple(told.get("arguments", ()))
    options = VllmOptions(**told)
    program = Program(loaded.plan, loaded.text, options)
    try:
        transport = httpx.AsyncHTTPTransport(uds=str(program.socket), limits=httpx.Limits(max_connections=None))
        seconds = httpx.Timeout(None, connect=PATIENCE)
        async with httpx.AsyncClient(transport=transport, base_url="http://vllm", timeout=seconds) as client:
            await until_well(client, program, options.loading)
            channel.send(Ready(facts=asdict(loaded.facts)))
            worker = VllmWorker(channel, loaded, client)
            gone = asyncio.create_task(watch(client, program))
            while not gone.done():
                coming = asyncio.create_task(inbox.came.get())
                await asyncio.wait((coming, gone), return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    worker.hear(coming.result())
            return f"vLLM is gone (exit code {program.ended})" if program.ended is not None else "vLLM is not well"
    finally:
        await asyncio.to_thread(program.end)


def main() -> None:
    """Serve what the other end says, until it is gone."""
    channel, serve = begun(logging.WARNING)  # httpx tells of every request
    try:
        log.error("%s", asyncio.run(serve_all(channel, serve)))
    except ConnectionError:
        os._exit(0)  # nobody is there any more
    except Exception as error:
        channel.send(unservable(error))
    os._exit(1)


if __name__ == "__main__":
    main()

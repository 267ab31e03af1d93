"""The package's own engine behind the API: readers write the prompt, the worker answers it.

Order --Readers.read--> prompt and tiles --Supervisor.ask--> Pieces, Dones
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from internvl.serving.backend import Counted, Facts
from internvl.serving.order import Order, Reference
from internvl.serving.reader import Bounds
from internvl.serving.readers import Readers, ReadersConfig
from internvl.serving.refusal import Refusal
from internvl.serving.settings import Settings
from internvl.serving.supervisor import Supervisor
from internvl.serving.wire import Ask, Done, Piece, Prompt, Serve

CONTEXT = 8192
"""Tokens of a prompt and its answer together, where nothing is said and the model reads that many."""


class NativeBackend:
    """One worker and some readers, as `internvl.serving.backend.Backend` has it.

    >>> backend = NativeBackend(Settings())  # doctest: +SKIP
    >>> await backend.start()                # doctest: +SKIP
    """

    def __init__(self, settings: Settings, vllm: Mapping[str, Any] | None = None) -> None:
        """vllm: the fields of `VllmOptions`, where that and not the package's own engine is to draw the answers."""
        self._embedder = settings.embedder_name
        self._longest = settings.limits.tokens
        self._supervisor = Supervisor(
            Serve(
                source=settings.source,
                name=settings.served_name,
                revision=settings.revision,
                device=settings.device,
                dtype=settings.dtype,
                engine={
                    "slots": settings.slots,
                    "max_len": settings.context or CONTEXT,
                    "queue": settings.queue,
                    "deterministic": settings.deterministic,
                },
                embedder=settings.embedder_source,
                vllm=vllm,
            )
        )
        self._readers = Readers(readers_config(settings), settings.readers)
        self._started = False

    @property
    def facts(self) -> Facts:
        return replace(self._supervisor.facts, embedder=self._embedder)  # its name: the worker knows where it lies

    @property
    def ready(self) -> bool:
        return self._started and self._supervisor.ready

    async def start(self) -> None:
        """Returns when the model is loaded and the readers are ready. Raises InternVLError if that cannot be."""
        starting = [asyncio.ensure_future(one.start()) for one in (self._readers, self._supervisor)]
        try:
            await asyncio.gather(*starting)
        except BaseException:
            for one in starting:
                one.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            await self.stop()
            raise
        self._started = True

    async def stop(self) -> None:
        await asyncio.gather(self._supervisor.stop(), self._readers.stop())

    async def count(self, order: Order) -> Counted:
        prompt, memory = await self._readers.read(order, tiles=False)
        if memory is not None:
            memory.close()
        return counted(prompt)

    async def answer(self, order: Order, *, user: str = "") -> AsyncGenerator[Counted | Piece | Done]:
        prompt, memory = await self._readers.read(order)
        try:
            yield counted(prompt)
            ask = self._ask(order, prompt, user)
        except BaseException:
            if memory is not None:
                memory.close()
            raise
        async with aclosing(self._supervisor.ask(ask, memory)) as answers:
            async for said in answers:
                yield said

    def _ask(self, order: Order, prompt: Prompt, user: str) -> Ask:
        room = self.facts.context - len(prompt.ids)
        if room < 1:
            raise Refusal(
                f"the prompt has {len(prompt.ids)} tokens, at most {self.facts.context - 1} leave room for an answer; "
                "shorten it",
                param="messages",
                code="context_length_exceeded",
            )
        return Ask(
            id=0,
            ids=prompt.ids,
            digests=prompt.digests,
            tiles=prompt.tiles,
            shape=prompt.shape,
            sampling=order.sampling.arguments(min(room, self._longest)),
            n=order.n,
            constraint=None if order.constraint is None else asdict(order.constraint),
            constraint_at=order.constraint_at,
            logprobs=order.logprobs,
            strip=not order.prompts,
            priority=order.priority,
            user=user,
        )

    async def embed(self, texts: Sequence[str] = (), images: Sequence[Reference] = ()) -> tuple[np.ndarray, int]:
        rows: list[np.ndarray] = []
        tokens = 0
        if texts:
            vectors, tokens = await self._supervisor.embed(texts)
            rows.append(vectors)
        if images:
            prompt, memory = await self._readers.look(images)
            rows.append((await self._supervisor.embed((), memory, prompt.shape))[0])
        return np.concatenate(rows), tokens

    def counters(self) -> Mapping[str, float]:
        return {
            **self._supervisor.counters(),
            "failed": self._supervisor.failed,  # a worker that dies cannot count whom it takes along
            "worker_restarts": self._supervisor.restarts,
            "reader_queue": self._readers.waiting,
            "readers": len(self._readers.pids),
            "reader_restarts": self._readers.replaced,
        }


def readers_config(settings: Settings) -> ReadersConfig:
    """What readers are told: they refuse what the worker would refuse, before it is opened."""
    return ReadersConfig(
        source=settings.source,
        revision=settings.revision,
        embedder=settings.embedder_source,
        context=settings.context or CONTEXT,
        whole_context=settings.context is not None,
        limits=settings.media,
        seconds=settings.media.seconds + Bounds.seconds,
        waiting=settings.queue,
    )


def counted(prompt: Prompt) -> Counted:
    return Counted(ids=prompt.ids, image_tokens=prompt.image_tokens, tiles=prompt.tiles,
                   sizes=[(width, height) for width, height in prompt.sizes])  # fmt: skip

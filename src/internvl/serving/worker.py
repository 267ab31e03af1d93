"""The process that owns the engine: what is asked over a socket goes into it, what it says goes back as text.

    listening thread: Channel.receive --> inbox --> main thread: take what came, step the engine, tell what came of it

Between two steps everything that has come is taken, so a request that nobody waits for any more costs one step at most.
Run as `python -m internvl.serving.worker DESCRIPTOR`, which is one end of a socket whose other end has `Supervisor`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from internvl.serving.refusal import queue_full, refusal_of
from internvl.serving.wire import (
    Ask,
    Channel,
    Done,
    Drop,
    Embed,
    Memory,
    Message,
    Piece,
    Ping,
    Pong,
    Ready,
    Refused,
    Serve,
    Vectors,
    WireError,
)

if TYPE_CHECKING:
    from internvl.inference.answer import GrowingText
    from internvl.inference.constrain import Grammars
    from internvl.inference.embed import Embedder
    from internvl.inference.engine import Engine, Event
    from internvl.inference.sampling import Token

log = logging.getLogger("internvl.worker")

Inbox = SimpleQueue[tuple[Message, Memory | None] | None]
SECONDS = 5
"""After which who finds the queue full may come again."""


@dataclass
class Growing:
    """One answer on its way: its text, and the tokens that have not been told yet."""

    text: GrowingText
    drawn: list[int] = field(default_factory=list)
    untold: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Asked:
    """A request that the engine has."""

    ask: Ask
    answers: dict[int, Growing]
    """Those that still grow."""


class Worker:
    """A model, its engine, and one client at the other end of a channel.

    >>> Worker(channel, Serve(name="nano")).run()  # doctest: +SKIP
    """

    def __init__(self, channel: Channel, serve: Serve) -> None:
        from internvl.inference.embed import Embedder
        from internvl.inference.engine import Engine, EngineConfig
        from internvl.models.chat import ChatModel
        from internvl.weights.load import load, load_encoder, resolve

        path = resolve(serve.source, revision=serve.revision)
        self._encoder = load_encoder(path)
        model = load(path, device=serve.device, dtype=serve.dtype)
        assert isinstance(model, ChatModel)  # load_encoder has refused anything else
        self._engine: Engine = Engine(model, self._encoder.config.normalisation, EngineConfig(**serve.engine))
        self._embedder: Embedder | None = Embedder.load(serve.embedder) if serve.embedder else None
        self._vocab = model.config.text.vocab
        self._channel = channel
        self._serve = serve
        self._grammars: Grammars | None = None
        self._asked: dict[int, Asked] = {}
        """By the engine's own ids."""
        self._ids: dict[int, int] = {}
        """The client's ids: the engine's."""

    def facts(self) -> dict[str, Any]:
        """See `internvl.serving.backend.Facts`."""
        config, template = self._encoder.config, self._encoder.template
        system = template.system_message if config.system_message is None else config.system_message
        return {
            "model": self._serve.name,
            "context": self._engine.max_len,
            "vocab": self._vocab,
            "system": system,
            "tool_role": template.tool is not None,
            "max_tiles": config.max_tiles if config.dynamic else None,
            "tile_size": config.tile_size,
            "slots_per_tile": config.slots_per_tile,
            "slots": self._engine.config.slots,
            "embedder": self._serve.embedder,
        }

    def run(self) -> None:
        """Serve until the other end is gone."""
        inbox: Inbox = SimpleQueue()
        threading.Thread(target=listen, args=(self._channel, inbox), daemon=True).start()
        self._channel.send(Ready(facts=self.facts()))
        while self._take(inbox):
            if self._engine.busy:
                for event in self._engine.step():
                    self._tell(event)

    # ---- what comes --------------------------------------------------------------------------------------------------

    def _take(self, inbox: Inbox) -> bool:
        """All that has come; waits for something where there is nothing to do. False: the other end is gone."""
        while True:
            try:
                got = inbox.get(block=not self._engine.busy)
            except Empty:
                return True
            if got is None:
                return False
            message, memory = got
            try:
                self._hear(message, memory)
            finally:
                if memory is not None:
                    memory.close()

    def _hear(self, message: Message, memory: Memory | None) -> None:
        if isinstance(message, Ping):
            self._channel.send(Pong(id=message.id, counters=vars(self._engine.counters())))
        elif isinstance(message, Drop):
            self._forget(message.id)
        elif isinstance(message, Ask | Embed):
            try:
                if isinstance(message, Ask):
                    self._submit(message, memory)
                else:
                    self._embed(message, memory)
            except Exception as error:
                self._refuse(message.id, error)
        else:
            raise WireError(f"a worker was sent a {type(message).__name__}")

    def _submit(self, ask: Ask, memory: Memory | None) -> None:
        from internvl.inference.answer import GrowingText
        from internvl.inference.constraint import Constraint
        from internvl.inference.sampling import SamplingConfig
        from internvl.inference.schedule import Request

        if ask.id in self._ids:
            raise WireError(f"there is a request {ask.id} already")
        options: dict[str, Any] = {**ask.sampling, "stop": tuple(ask.sampling.get("stop", ()))}
        sampling = SamplingConfig(**options)
        stop_ids = self._encoder.stop_ids
        stream, constraint = partial(self._encoder.tokenizer.stream, keep_markup=ask.markup), None
        if ask.constraint is not None:
            form: dict[str, Any] = dict(ask.constraint)
            constraint = partial(self._with_grammars().start, Constraint(**form), stop_ids)
            constraint()  # what cannot be used is said now
            stream = self._with_grammars().stream
        request = Request(
            ids=ask.ids,
            pictures=pictures_of(ask, memory),
            sampling=sampling,
            stop_ids=stop_ids,
            n=ask.n,
            priority=ask.priority,
            user=ask.user,
            constraint=constraint,
        )
        own = self._engine.submit(request)
        self._ids[ask.id] = own
        growing = {answer: Growing(GrowingText(stream(), sampling.stop)) for answer in range(ask.n)}
        self._asked[own] = Asked(ask, growing)

    def _with_grammars(self) -> Grammars:
        from internvl.inference.constrain import Grammars

        if self._grammars is None:
            self._grammars = Grammars(self._encoder.tokenizer, self._vocab)
        return self._grammars

    def _embed(self, message: Embed, memory: Memory | None) -> None:
        from PIL import Image

        from internvl.errors import UsageError

        if self._embedder is None:
            raise UsageError("no model for embeddings is served here")
        found: list[np.ndarray] = []
        tokens = 0
        if message.texts:
            found.append(self._embedder.texts(list(message.texts)).cpu().numpy())
            assert self._embedder.tokenizer is not None
            tokens = sum(len(self._embedder.tokenizer.encode(text)) for text in message.texts)
        if message.shape:
            pixels = array_of(memory, message.shape)
            found.append(self._embedder.images([Image.fromarray(one) for one in pixels]).cpu().numpy())
        vectors = np.concatenate(found).astype(np.float32) if found else np.empty((0, 1), np.float32)
        answer = Memory.of(vectors)
        try:
            self._channel.send(Vectors(id=message.id, shape=vectors.shape, tokens=tokens), answer)
        finally:
            answer.close()

    def _forget(self, id: int) -> None:
        own = self._ids.pop(id, None)
        if own is not None:
            del self._asked[own]
            self._engine.cancel(own)

    # ---- what goes back ----------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        from internvl.inference.events import Failed, Spoke

        asked = self._asked.get(event.id)
        if asked is None:
            return
        if isinstance(event, Failed):
            self._end(event.id, asked)
            self._refuse(asked.ask.id, event.error)
        elif event.answer not in asked.answers:  # a stop string has ended it in this very step
            return
        elif isinstance(event, Spoke):
            self._spoke(event.id, asked, event.answer, event.token, event.silent)
        else:
            self._over(event.id, asked, event.answer, event.finish, event.reused)

    def _spoke(self, own: int, asked: Asked, answer: int, token: Token, silent: bool) -> None:
        growing, lead = asked.answers[answer], self._encoder.lead_ids
        growing.drawn.append(token.id)
        hidden = silent or lead[: len(growing.drawn)] == tuple(growing.drawn)
        piece = "" if hidden else growing.text.push(token.id)
        if asked.ask.logprobs and not hidden:
            growing.untold.append(self._said(token))
        self._piece(asked, answer, piece)
        if growing.text.stopped:
            reused = self._engine.reused(own)
            self._engine.cancel(own, answer)
            self._over(own, asked, answer, "stop", reused)

    def _over(self, own: int, asked: Asked, answer: int, finish: str, reused: int) -> None:
        growing = asked.answers[answer]
        self._piece(asked, answer, growing.text.finish())
        del asked.answers[answer]
        last = not asked.answers
        done = Done(id=asked.ask.id, answer=answer, finish=finish, completion=len(growing.drawn), reused=reused,
                    last=last)  # fmt: skip
        if last:
            self._end(own, asked)
        self._channel.send(done)

    def _piece(self, asked: Asked, answer: int, text: str) -> None:
        growing = asked.answers[answer]
        if text or growing.untold:
            self._channel.send(Piece(id=asked.ask.id, answer=answer, text=text, tokens=growing.untold))
            growing.untold = []

    def _said(self, token: Token) -> dict[str, Any]:
        """A token for people: its text as far as its bytes are one, its bytes, how likely it was, and the others."""
        alone = self._spelt(token.id, token.logprob)
        return {**alone, "top": [self._spelt(id, logprob) for id, logprob in token.top]}

    def _spelt(self, id: int, logprob: float) -> dict[str, Any]:
        spelt = self._encoder.tokenizer.spelling(id)
        return {"text": spelt.decode("utf-8", "replace"), "bytes": list(spelt), "logprob": max(logprob, -9999.0)}

    def _end(self, own: int, asked: Asked) -> None:
        del self._asked[own]
        del self._ids[asked.ask.id]

    def _refuse(self, id: int, error: Exception) -> None:
        from internvl.inference.schedule import QueueFull

        refusal = queue_full(SECONDS) if isinstance(error, QueueFull) else refusal_of(error)
        if refusal.status >= 500:
            log.error("a request failed: %s", named(error))
        self._channel.send(Refused(id=id, message=refusal.message, status=refusal.status, param=refusal.param,
                                   code=refusal.code, retry_after=refusal.retry_after))  # fmt: skip


def listen(channel: Channel, inbox: Inbox) -> None:
    """Put what comes into the inbox; None when nothing will come any more."""
    try:
        while (got := channel.receive()) is not None:
            inbox.put(got)
    except (OSError, WireError) as error:
        log.error("the other end is not understood: %s", named(error))
    inbox.put(None)


def pictures_of(ask: Ask, memory: Memory | None) -> list[tuple[str, np.ndarray]]:
    """Digest and tiles of each picture."""
    if not ask.digests:
        return []
    if len(ask.digests) != len(ask.tiles) or any(count < 1 for count in ask.tiles):
        raise WireError(f"{len(ask.digests)} pictures came with {len(ask.tiles)} counts of tiles")
    tiles = array_of(memory, ask.shape)
    if len(tiles) != sum(ask.tiles):
        raise WireError(f"{len(tiles)} tiles came for {sum(ask.tiles)}")
    ends = np.cumsum(ask.tiles)
    return list(zip(ask.digests, np.split(tiles, ends[:-1]), strict=True))


def array_of(memory: Memory | None, shape: Sequence[int]) -> np.ndarray:
    if memory is None or len(shape) != 4:
        raise WireError("pictures came without memory, or with a wrong shape")
    return memory.array(shape)


def named(error: BaseException) -> str:
    """What went wrong and where, without what it says: that may quote a request."""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' > '.join(places[-6:])}"


def main() -> None:
    """Serve what the other end says, until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to everyone; the parent says when to end
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    channel = Channel.inherited(int(sys.argv[1]))
    got = channel.receive()
    if got is None or not isinstance(got[0], Serve):
        raise SystemExit(2)
    try:
        worker = Worker(channel, got[0])
    except Exception as error:
        refusal = refusal_of(error)
        if refusal.status >= 500:
            log.error("the model was not loaded: %s", named(error))
        channel.send(Refused(id=0, message=refusal.message if refusal.status < 500 else str(error) or named(error),
                             status=500))  # fmt: skip
        raise SystemExit(1) from None
    with contextlib.suppress(BrokenPipeError):
        worker.run()
    os._exit(0)  # torch's threads need not be waited for


if __name__ == "__main__":
    main()

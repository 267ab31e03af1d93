"""What the processes of a server say to one another: JSON in frames over a socket, pixels in memory beside.

    the process of the API (no torch) --Read-->      reader: opens media and writes prompts --Prompt | Refused-->
                                      --Ask, Drop--> worker: owns the engine                --Piece, Done | Refused-->

A frame is its length in 4 bytes and JSON. Nothing is pickled: what comes from a process that strangers' files have been
through is read as data. Pixels are in an anonymous file of memory, of which a frame carries the descriptor; it has no
name, so nothing is left of it whichever process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

from internvl.serving.memory import Memory, WireError

LONGEST = 1 << 30
"""Bytes of a frame."""
HEADER = struct.Struct(">IB")
"""Length of the JSON, and whether memory comes with it."""


# ---- to and from a reader --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Open:
    """For which model a reader reads, and within what; the first that it hears. Answered by a Pong, or by a Refused."""

    tokenizer: str
    """The folder of its files."""
    encoding: Mapping[str, Any]
    """The fields of `internvl.data.encode.EncoderConfig`."""
    context: int
    """Tokens that the model reads, its answer included."""
    limits: Mapping[str, Any]
    """The fields of `internvl.data.limits.Limits`."""
    bounds: Mapping[str, Any]
    """The fields of `internvl.serving.reader.Bounds`."""
    look: Mapping[str, Any] | None = None
    """How the model of vectors sees a picture: {"size", "fit"} of `internvl.data.pair.encode_picture`."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Open the pictures of an order for the model of vectors, as Read does for the one that answers. Answered by a
    Prompt without ids, one tile a picture; or by a Refused."""

    id: int
    order: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Read:
    """Open what an order refers to and write its prompt. Answered by a Prompt or a Refused of the same id.

    The memory beside it holds the data: addresses of the order, one after the other.
    """

    id: int
    order: Mapping[str, Any]
    """`internvl.serving.reading` says how an Order is written as JSON."""
    tiles: bool = True
    """False: tokens are counted only, nothing is cut."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt as the model takes it. The memory beside it holds the tiles (n, S, S, 3) uint8 of all pictures."""

    id: int
    ids: Sequence[int]
    digests: Sequence[str] = ()
    """Of each picture, as `internvl.inference.seen.digest` has it."""
    tiles: Sequence[int] = ()
    """Of each picture, in the order of their slots."""
    shape: Sequence[int] = ()
    """Of what the memory holds: (n, S, S, 3)."""
    sizes: Sequence[Sequence[int]] = ()
    """Width and height of each picture."""
    image_tokens: int = 0


# ---- to and from the worker ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Serve:
    """What a worker is to load; the first that it hears. Answered by Ready, or by a Refused of id 0 and its end.

    >>> Serve(source="OpenGVLab/InternVL2_5-1B", name="InternVL2_5-1B", engine={"slots": 8})  # doctest: +SKIP
    """

    source: str | None = None
    """A folder, hub id or zoo name; None: the embedded nano."""
    name: str = "nano"
    """What requests call it."""
    revision: str | None = None
    device: str | Sequence[str] | None = None
    dtype: str | None = None
    engine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The fields of `internvl.inference.events.EngineConfig`."""
    embedder: str | None = None
    """A folder, hub id or zoo name of what answers Embed, and its name; None: nothing does."""
    vllm: Mapping[str, Any] | None = None
    """The fields of `internvl.serving.vllm_options.VllmOptions`, for a worker that hands over to vLLM."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Answer a prompt. What comes: Pieces, and a Done for each of its n answers; or one Refused."""

    id: int
    ids: Sequence[int]
    digests: Sequence[str] = ()
    tiles: Sequence[int] = ()
    shape: Sequence[int] = ()
    sampling: Mapping[str, Any]
    """The fields of `SamplingConfig`; `stop` strings included: the worker watches for them."""
    n: int = 1
    constraint: Mapping[str, Any] | None = None
    """The fields of `internvl.inference.constraint.Constraint`."""
    constraint_at: Sequence[str] = ()
    """The field of the request that asks for it; of tools one each, in the order of its `anyOf`."""
    logprobs: bool = False
    """Whether Pieces say how likely their tokens were."""
    strip: bool = True
    """Whether the text loses the white space at its two ends; what continues a text, or has a form, keeps it."""
    priority: int = 0
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Nobody waits for this request any more. Nothing comes back."""

    id: int


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Vectors of texts or of pictures. Answered by Vectors or Refused."""

    id: int
    texts: Sequence[str] = ()
    shape: Sequence[int] = ()
    """Of pixels (n, S, S, 3) in the memory beside it, one a picture."""


@dataclass(frozen=True, kw_only=True)
class Ping:
    """Are you alive? Answered between two steps."""

    id: int


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The model is loaded; the first that a worker says."""

    facts: Mapping[str, Any]
    """`internvl.serving.backend.Facts` as a mapping."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some more of an answer: text that is certain now, and the tokens that were drawn since the last Piece."""

    id: int
    answer: int
    text: str
    tokens: Sequence[Mapping[str, Any]] = ()
    """Of a request with logprobs: {"text", "bytes" (a list), "logprob", "top": [the same three]} each."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """One of the answers is complete."""

    id: int
    answer: int
    finish: str
    """`stop` or `length`."""
    completion: int
    """Tokens that were drawn for it."""
    reused: int
    """Tokens of the prompt that did not have to be read."""
    last: bool
    """It was the last of its request."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """What was to be embedded: rows of float32 in the memory beside it, of this shape (n, dim)."""

    id: int
    shape: Sequence[int]
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Pong:
    """Alive; `counters` as `internvl.inference.engine.Counters` has them."""

    id: int
    counters: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A request that is not answered: what `internvl.serving.refusal.Refusal` takes."""

    id: int
    message: str
    status: int
    param: str | None = None
    code: str | None = None
    retry_after: int | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """All that came of one step of the engine, in its order: one frame wakes the other end once for all answers."""

    said: Sequence[Piece | Done | Refused]


Message = (
    Open | Look | Read | Prompt | Serve | Ask | Drop | Embed | Ping | Ready | Piece | Done | Vectors | Pong | Refused
    | Step
)  # fmt: skip
KINDS: Mapping[str, type[Message]] = {
    kind.__name__: kind
    for kind in (Open, Look, Read, Prompt, Serve, Ask, Drop, Embed, Ping, Ready, Piece, Done, Vectors, Pong, Refused,
                 Step)
}  # fmt: skip
_NAMES = {kind: frozenset(one.name for one in fields(kind)) for kind in KINDS.values()}


def encode(message: Message) -> bytes:
    """A message as JSON."""
    return json.dumps(_written(message), ensure_ascii=True, separators=(",", ":")).encode()


def _written(message: Message) -> list[Any]:
    if isinstance(message, Step):
        return ["Step", {"said": [_written(one) for one in message.said]}]
    return [type(message).__name__, vars(message)]


def decode(frame: bytes) -> Message:
    """The message of a frame. Raises WireError for anything that is none.

    >>> decode(encode(Drop(id=7)))
    Drop(id=7)
    """
    try:
        return _read(*json.loads(frame))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f"a frame is no message: {type(error).__name__}") from None


def _read(name: str, values: Any) -> Message:
    kind = KINDS[name]
    if not isinstance(values, dict):
        raise TypeError("fields have names")
    found = cast("dict[str, Any]", values)
    if unknown := found.keys() - _NAMES[kind]:
        raise TypeError(f"unknown {sorted(unknown)}")
    if type(found.get("id", 0)) is not int:
        raise TypeError("an id is a whole number")
    if kind is not Step:
        return kind(**found)
    said = [_read(*one) for one in found["said"]]
    if not all(isinstance(one, Piece | Done | Refused) for one in said):
        raise TypeError("a step has answers alone")
    return Step(said=cast("list[Piece | Done | Refused]", said))


# ---- the socket ------------------------------------------------------------------------------------------------------


class Channel:
    """One end of a socket between two processes. `send` from any thread, `receive` from one."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """This process's end, and the one to be handed to a child."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(here), there

    @classmethod
    def inherited(cls, descriptor: int) -> Channel:
        """The end that a parent handed over."""
        return cls(socket.socket(fileno=descriptor))

    def send(self, message: Message, memory: Memory | None = None) -> None:
        """Send a message; raises OSError when the other end is gone. The memory is the caller's to close."""
        body = encode(message)
        if len(body) > LONGEST:
            raise WireError(f"a frame of {len(body)} bytes, at most {LONGEST} are sent")
        header = HEADER.pack(len(body), memory is not None)
        with self._sending:
            if memory is None:
                self._socket.sendall(header + body)
            else:  # the descriptor travels with the first byte
                socket.send_fds(self._socket, [header[:1]], [memory.descriptor])
                self._socket.sendall(header[1:] + body)

    def receive(self) -> tuple[Message, Memory | None] | None:
        """The next message and the memory beside it, which is the caller's to close. None: the other end is gone."""
        descriptors: list[int] = []
        try:
            header = self._exactly(HEADER.size, descriptors)
            if header is None:
                return None
            length, has_memory = HEADER.unpack(header)
            if length > LONGEST or len(descriptors) != has_memory:
                raise WireError(f"a frame of {length} bytes with {len(descriptors)} descriptor(s)")
            body = self._exactly(length, descriptors)
            if body is None or len(descriptors) != has_memory:
                raise WireError("a frame is not whole")
            message = decode(body)
        except BaseException:
            for one in descriptors:
                os.close(one)
            raise
        return message, Memory(descriptors[0]) if descriptors else None

    def close(self) -> None:
        """Both directions; a `receive` that waits in another thread ends."""
        with contextlib.suppress(OSError):  # it may be gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _exactly(self, count: int, descriptors: list[int]) -> bytes | None:
        """So many bytes; None if there is nothing at all. Descriptors that come with them are added."""
        got = bytearray()
        while len(got) < count:
            piece, found, _, _ = socket.recv_fds(self._socket, min(count - len(got), 1 << 20), 1)
            descriptors += found
            if not piece:
                if got:
                    raise WireError("the other end went away in the middle of a frame")
                return None
            got += piece
        return bytes(got)

"""A worker without a model, which misbehaves as its name says: `Serve.name`, and the stop strings of an Ask.

Run as `internvl.serving.worker` is. It echoes ids as letters; an answer with max_new_tokens 0 never ends.
"""

import os
import signal
import sys
import time
from dataclasses import asdict

import numpy as np

from internvl.serving.backend import Facts
from internvl.serving.wire import (
    Ask,
    Channel,
    Done,
    Drop,
    Embed,
    Memory,
    Piece,
    Ping,
    Pong,
    Ready,
    Refused,
    Serve,
    Vectors,
)

COUNTED = {"asks": 0, "drops": 0, "embeds": 0, "pings": 0, "memories": 0}


def misbehave(channel: Channel, how: str, id: int) -> None:
    send = channel._socket.sendall
    match how:
        case "no json":
            send(b"\0\0\0\x04\0oops")
        case "a kind that is none":
            send(b'\0\0\0\x0b\0["Drip",{}]')
        case "an endless frame":
            send(b"\xff\xff\xff\xff\0")
        case "half a frame":
            send(b"\0\0\0\xff\0[")
            channel.close()
        case "a field that is none":
            send(b'\0\0\0\x11\0["Drop",{"it":1}]')
        case "an id that is no number":
            send(b'\0\0\0\x13\0["Drop",{"id":"1"}]')
        case "what only the other end says":
            channel.send(Ask(id=id, ids=[1], sampling={}))
        case "a piece with memory":
            channel.send(Piece(id=id, answer=0, text=""), Memory.of(np.zeros(3, np.uint8)))
        case "vectors without memory":
            channel.send(Vectors(id=id, shape=(1, 3)))
        case "vectors of another size":
            channel.send(Vectors(id=id, shape=(2, 3)), Memory.of(np.zeros(3, np.float32)))
        case "vectors of no shape":
            channel.send(Vectors(id=id, shape=(3,)), Memory.of(np.zeros(3, np.float32)))
        case "it exits":
            os._exit(7)
        case "it hangs up":
            channel.close()
            time.sleep(600)


def answer(channel: Channel, ask: Ask) -> None:
    for stop in ask.sampling.get("stop", ()):
        misbehave(channel, stop, ask.id)
    if ask.ids[:1] == [0]:
        channel.send(Refused(id=ask.id, message="a 0", status=429, param="ids", code="zero", retry_after=9))
    elif ask.sampling.get("max_new_tokens") != 0:
        for letter in map(chr, ask.ids):
            channel.send(Piece(id=ask.id, answer=0, text=letter))
        channel.send(Done(id=ask.id, answer=0, finish="stop", completion=len(ask.ids), reused=0, last=True))


def serve(channel: Channel, name: str) -> None:
    while (got := channel.receive()) is not None:
        message, memory = got
        if memory is not None:
            COUNTED["memories"] += 1
        match message:
            case Ping():
                COUNTED["pings"] += 1
                if name != "mute":
                    channel.send(Pong(id=message.id, counters=COUNTED))
            case Ask():
                COUNTED["asks"] += 1
                answer(channel, message)
            case Drop():
                COUNTED["drops"] += 1
            case Embed() if "wait" not in message.texts:
                COUNTED["embeds"] += 1
                vectors = Memory.of(np.arange(3, dtype=np.float32)[None])
                channel.send(Vectors(id=message.id, shape=(1, 3), tokens=len(message.texts)), vectors)
                vectors.close()
        if memory is not None:
            memory.close()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel.inherited(int(sys.argv[1]))
    got = channel.receive()
    assert got is not None
    assert isinstance(got[0], Serve)
    told = got[0]
    if told.source is not None and os.path.exists(told.source):  # fails to load while there is such a file
        channel.send(Refused(id=0, message="there is a file", status=500))
        return
    if told.name == "dies":
        os._exit(3)
    if told.name == "never loads":
        time.sleep(600)
    if told.name == "talks":
        print("x" * 5000, "Bearer \x1b[31m", file=sys.stderr, flush=True)
    facts = Facts(model=told.name, context=100, vocab=256, embedder=os.environ.get("INTERNVL_API_KEYS"))
    channel.send(Ready(facts=asdict(facts)))
    serve(channel, told.name)


if __name__ == "__main__":
    main()

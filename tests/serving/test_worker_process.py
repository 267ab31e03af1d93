"""The worker as a process of its own, with the embedded nano: signals, death, and answers as `Chat` gives them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from internvl.errors import InternVLError
from internvl.serving import incarnation
from internvl.serving.refusal import Refusal
from internvl.serving.supervisor import Supervisor, Watch
from internvl.serving.wire import Channel, Done, Memory, Piece, Serve
from tests.serving.working import Question, alone, picture, question

PATIENCE = 280.0
"""Seconds, for what takes some ten on an idle machine."""
SERVE = Serve(name="small", device="cpu", engine={"slots": 4, "max_len": 256}, embedder="nano-c")
HELLO, COLOUR = "Hello, who are you?", "What is in the picture?"


async def said(keeper: Supervisor, asked: Question) -> str:
    memory = None if asked.tiles is None else Memory.of(asked.tiles)
    pieces = [one async for one in keeper.ask(asked.ask, memory)]
    assert isinstance(pieces[-1], Done)
    return "".join(one.text for one in pieces if isinstance(one, Piece))


async def all_is_well(keeper: Supervisor) -> None:
    texts = await asyncio.gather(
        said(keeper, question(HELLO)), said(keeper, question(COLOUR, picture(1))), keeper.embed(["a cat"])
    )
    assert texts[:2] == [alone(HELLO), alone(COLOUR, picture(1))]
    assert texts[2][0].shape == (1, 192)


async def replaced(keeper: Supervisor, restarts: int) -> None:
    while keeper.restarts < restarts:
        await asyncio.sleep(0.1)


@pytest.mark.slow
def test_it_answers_as_chat_does_and_after_a_death_again():
    long = question(HELLO, sampling={"max_new_tokens": 200, "temperature": 2.0, "seed": 1, "min_new_tokens": 200})

    async def scenario() -> None:
        keeper = Supervisor(SERVE, Watch(heartbeat=0.5, first_delay=0.1))
        await keeper.start()
        try:
            assert (keeper.facts.model, keeper.facts.context, keeper.facts.slots) == ("small", 256, 4)
            await all_is_well(keeper)
            assert keeper.pid is not None
            os.kill(keeper.pid, signal.SIGINT)
            await all_is_well(keeper)
            growing = keeper.ask(long.ask)
            await anext(growing)
            os.kill(keeper.pid, signal.SIGTERM)  # SIGKILL, and many that wait: tests/e2e/test_soak.py
            with pytest.raises(Refusal) as caught:
                async for _ in growing:
                    pass
            assert caught.value.status == 503
            await replaced(keeper, 1)
            await all_is_well(keeper)
        finally:
            await keeper.stop()

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


@pytest.mark.slow
def test_a_frame_that_is_none_ends_it_and_it_ends_while_it_loads_when_nobody_is_there():
    codes = []
    for sent in (b"\0\0\0\x04\0oops", b""):
        channel, there = Channel.pair()
        process = subprocess.Popen([*incarnation.COMMAND, str(there.fileno())], pass_fds=[there.fileno()],
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        there.close()
        channel.send(SERVE)
        channel._socket.sendall(sent)
        if not sent:
            channel.close()
        codes.append(process.wait(PATIENCE))
        channel.close()
    assert codes == [1, 0]


@pytest.mark.slow
def test_what_cannot_be_served_is_one_clear_line(tmp_path):
    async def start(serve: Serve) -> None:
        keeper = Supervisor(serve)
        try:
            await keeper.start()
        finally:
            await keeper.stop()

    with pytest.raises(InternVLError) as caught:
        asyncio.run(asyncio.wait_for(start(Serve(source=str(tmp_path))), PATIENCE))
    assert str(caught.value).startswith("the model cannot be served: ")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_worker_is_started_in_no_folder_of_somebodys():
    """A torch.py beside the server is not imported."""
    assert incarnation.COMMAND[:2] == (sys.executable, "-P")

"""What goes over the wire comes out as it went in; what is no frame is refused, and leaves no descriptor open."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.serving import wire
from internvl.serving.wire import (
    HEADER,
    KINDS,
    Ask,
    Channel,
    Drop,
    Memory,
    Piece,
    Ping,
    Step,
    WireError,
    decode,
    encode,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def messages(draw: st.DrawFn, kinds: Sequence[str] = tuple(sorted(KINDS))) -> wire.Message:
    """Any message with any JSON in its fields: what they mean is checked by whoever reads them."""
    kind = draw(st.sampled_from(kinds))
    if kind == "Step":
        return Step(said=draw(st.lists(messages(("Piece", "Done", "Refused")), max_size=3)))
    values: dict[str, Any] = {}
    for field in fields(KINDS[kind]):
        needed = field.default is MISSING and field.default_factory is MISSING
        if field.name == "id":
            values["id"] = draw(st.integers(-(2**70), 2**70))
        elif needed or draw(st.booleans()):
            values[field.name] = draw(json_values)
    return KINDS[kind](**values)


def as_read(message: wire.Message) -> wire.Message:
    """Tuples of defaults come back as lists."""
    if isinstance(message, Step):
        return Step(said=[as_read(one) for one in message.said])
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    return type(message)(**{name: [*value] if isinstance(value, tuple) else value for name, value in values.items()})


@pytest.fixture
def pair():
    here, there = Channel.pair()
    other = Channel(there)
    yield here, other
    here.close()
    other.close()


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def descriptors() -> int:
    return sum(map(is_open, range(256)))


# ---- frames ----------------------------------------------------------------------------------------------------------


@given(messages())
def test_a_message_comes_out_as_it_went_in(message):
    assert decode(encode(message)) == as_read(message)
    assert b"\n" not in encode(message)


@settings(max_examples=30)
@given(st.lists(messages(), max_size=3), st.lists(st.integers(1, 300), min_size=1, max_size=9))
def test_messages_come_in_order_however_the_bytes_come(sent, cuts):
    here, there = socket.socketpair()
    channel, frames = Channel(there), b"".join(framed(encode(message)) for message in sent)

    def trickle() -> None:
        start = 0
        for place in range(len(frames)):
            if start >= len(frames):
                break
            here.sendall(frames[start : start + cuts[place % len(cuts)]])
            start += cuts[place % len(cuts)]
        here.close()

    thread = threading.Thread(target=trickle)
    thread.start()
    received = []
    while (got := channel.receive()) is not None:
        received.append(got)
    thread.join()
    channel.close()
    assert received == [(as_read(message), None) for message in sent]


def framed(body: bytes, *, memory: bool = False) -> bytes:
    return HEADER.pack(len(body), memory) + body


NO_MESSAGES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"oops",
    "half of it": b'["Drop",{"id":1}',
    "no text": b"\xff\xfe",
    "a number": b"1",
    "no pair": b'["Drop"]',
    "three": b'["Drop",{"id":1},2]',
    "another kind": b'["Drip",{"id":1}]',
    "a kind that is no text": b'[["Drop"],{"id":1}]',
    "fields that are none": b'["Drop",7]',
    "a list of fields": b'["Drop",["id"]]',
    "a field too many": b'["Drop",{"id":1,"it":2}]',
    "a field too few": b'["Drop",{}]',
    "a text for an id": b'["Drop",{"id":"1"}]',
    "a truth for an id": b'["Drop",{"id":true}]',
    "a step without anything": b'["Step",{}]',
    "a step of a number": b'["Step",{"said":7}]',
    "a step of a text": b'["Step",{"said":["Drop"]}]',
    "a step of what a step has not": b'["Step",{"said":[["Drop",{"id":1}]]}]',
    "a step of steps": b'["Step",{"said":[["Step",{"said":[]}]]}]',
    "deep": b"[" * 100_000,
    "a long number": b'["Drop",{"id":' + b"9" * 10_000 + b"}]",
}


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_what_is_no_message_is_refused_without_being_repeated(name, pair):
    here, there = pair
    here._socket.sendall(framed(NO_MESSAGES[name]))
    with pytest.raises(WireError) as caught:
        there.receive()
    assert len(str(caught.value)) < 100


@given(st.binary(max_size=60))
def test_no_bytes_whatever_raise_anything_else(body):
    with contextlib.suppress(WireError):
        decode(body)


@given(messages(), st.data())
def test_a_frame_that_is_cut_is_no_frame(message, data):
    frame = framed(encode(message))
    cut = data.draw(st.integers(1, len(frame) - 1))
    here, there = socket.socketpair()
    here.sendall(frame[:cut])
    here.close()
    channel = Channel(there)
    with pytest.raises(WireError):
        channel.receive()
    channel.close()


def test_the_end_between_two_frames_is_the_end(pair):
    here, there = pair
    here.send(Ping(id=1))
    here.close()
    assert there.receive() == (Ping(id=1), None)
    assert there.receive() is None


def test_a_frame_that_has_no_end_is_refused_before_it_is_read(pair):
    here, there = pair
    here._socket.sendall(HEADER.pack(wire.LONGEST + 1, False))
    with pytest.raises(WireError, match="bytes"):
        there.receive()


def test_a_frame_that_would_be_refused_is_not_sent(pair, monkeypatch):
    here, there = pair
    monkeypatch.setattr(wire, "LONGEST", 20)
    with pytest.raises(WireError):
        here.send(Piece(id=1, answer=0, text="x" * 20))
    monkeypatch.undo()
    here.send(Drop(id=2))
    assert there.receive() == (Drop(id=2), None)


def test_many_threads_may_send(pair):
    here, there = pair
    ids = [[100 * thread + number for number in range(50)] for thread in range(4)]

    def send(mine: list[int]) -> None:
        for id in mine:
            memory = Memory.of(np.full(id % 7, id % 251, np.uint8)) if id % 3 == 0 else None
            here.send(Ask(id=id, ids=list(range(id)), sampling={}), memory)
            if memory is not None:
                memory.close()

    threads = [threading.Thread(target=send, args=(mine,)) for mine in ids]
    for thread in threads:
        thread.start()
    seen = []
    for _ in range(200):
        got = there.receive()
        assert got is not None
        message, memory = got
        assert isinstance(message, Ask)
        assert list(message.ids) == list(range(message.id))
        assert (memory is not None) == (message.id % 3 == 0)
        if memory is not None:
            assert memory.array((message.id % 7,)).tolist() == [message.id % 251] * (message.id % 7)
            memory.close()
        seen.append(message.id)
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(id for mine in ids for id in mine)
    for mine in ids:
        assert [id for id in seen if id in mine] == mine, "those of one thread are in order"


def test_a_receive_that_waits_ends_when_its_channel_is_closed():
    here, there = Channel.pair()
    outcome: list[Any] = []

    def receive() -> None:
        try:
            outcome.append(here.receive())
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    here.close()
    thread.join(60)
    assert not thread.is_alive()
    there.close()


# ---- memory ----------------------------------------------------------------------------------------------------------

DTYPES = (np.uint8, np.float32)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.sampled_from(DTYPES), st.integers(0, 2**32 - 1))
def test_memory_holds_what_was_put_there(shape, dtype, seed):
    values = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    memory = Memory.of(values)
    read = memory.array(shape, dtype)
    again = memory.array(shape, dtype)
    memory.close()
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(again, values)


def test_memory_of_what_is_not_in_one_piece():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    memory = Memory.of(values)
    np.testing.assert_array_equal(memory.array(values.shape, np.float32), values)
    memory.close()


@pytest.mark.parametrize("shape", [(5,), (7,), (2, 2), (0,), (), (-1, -6), (-6,), (3, -2, -1), (2**40, 2**40), (6, 0)])
def test_memory_of_another_size_is_refused(shape):
    memory = Memory.of(np.arange(6, dtype=np.uint8))
    with pytest.raises(WireError):
        memory.array(shape)
    memory.close()


def test_memory_goes_over_and_is_there_when_the_sender_has_closed_it(pair):
    here, there = pair
    before = descriptors()
    memory = Memory.of(np.arange(100_000, dtype=np.float32))
    here.send(Ping(id=1), memory)
    memory.close()
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        _ = memory.descriptor
    got = there.receive()
    assert got is not None
    assert got[1] is not None
    assert got[1].array((100_000,), np.float32)[-1] == 99_999
    got[1].close()
    assert descriptors() == before


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_memory_that_comes_with_no_message_is_closed(name, pair):
    here, there = pair
    before, memory = descriptors(), Memory.of(np.zeros(3, np.uint8))
    frame = framed(NO_MESSAGES[name], memory=True)
    socket.send_fds(here._socket, [frame], [memory.descriptor])
    memory.close()
    with pytest.raises(WireError):
        there.receive()
    assert descriptors() == before


@pytest.mark.parametrize("said", [True, False])
def test_memory_that_was_not_announced_and_what_was_announced_but_did_not_come(said, pair):
    here, there = pair
    before = descriptors()
    frame = framed(encode(Drop(id=1)), memory=said)
    if said:
        here._socket.sendall(frame)
    else:
        memory = Memory.of(np.zeros(3, np.uint8))
        socket.send_fds(here._socket, [frame], [memory.descriptor])
        memory.close()
    with pytest.raises(WireError):
        there.receive()
    assert descriptors() == before


def test_no_more_than_one_descriptor_is_taken(pair):
    here, there = pair
    before, several = descriptors(), [Memory.of(np.zeros(1, np.uint8)) for _ in range(3)]
    socket.send_fds(here._socket, [framed(encode(Drop(id=1)), memory=True)], [one.descriptor for one in several])
    for one in several:
        one.close()
    try:
        got = there.receive()
    except WireError:
        got = None
    if got is not None and got[1] is not None:
        got[1].close()
    assert descriptors() == before


def test_what_is_written_is_json_that_others_read():
    name, values = json.loads(encode(Piece(id=3, answer=0, text="é\ud800\n")))
    assert (name, values["text"]) == ("Piece", "é\ud800\n")
    assert encode(Piece(id=3, answer=0, text="é\ud800")).isascii()

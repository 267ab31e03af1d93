"""The load tool against a server that does as a script says: real sockets, planted faults, no clock."""

import asyncio
import threading
from collections import Counter

import pytest

from internvl.bench.client import Client
from internvl.bench.figures import figures
from internvl.bench.load import Load, drive
from internvl.errors import EndpointError
from tests.bench.scripted import PATIENCE, Scripted, answer, nobody, piece, serving

HELLO = [{"role": "user", "content": "Hello"}]


def client_of(url, **options):
    return Client(url, **({"model": "tiny", "key": "sk-secret", "max_tokens": 4} | options))


def measured(scripted, load, **options):
    async def whole():
        async with client_of(scripted.url, **options) as client:
            return await drive(load, lambda number, heard: client.ask(HELLO, heard))

    return asyncio.run(whole())


def greeted(url, timeout=PATIENCE, **options):
    async def whole():
        async with client_of(url, **options) as client:
            return await client.greet(HELLO, timeout)

    return asyncio.run(whole())


# ---- loops -----------------------------------------------------------------------------------------------------------


def test_a_closed_loop_is_so_many_at_once_and_never_more():
    together = threading.Barrier(4)

    def play(handler, body, number):
        together.wait(PATIENCE)  # nobody is answered before four have asked
        answer(handler, body)

    with serving(Scripted(play)) as scripted:
        run = measured(scripted, Load(requests=12, concurrency=4))
    assert scripted.most == 4
    assert figures(run).answered == 12
    assert scripted.connections == 4  # each is used again


def test_an_open_loop_does_not_wait_for_the_server():
    everybody = threading.Barrier(12)

    def play(handler, body, number):
        everybody.wait(PATIENCE)  # nobody is answered before all have asked: a loop that waits would stand still
        answer(handler, body)

    with serving(Scripted(play)) as scripted:
        run = measured(scripted, Load(requests=12, rate=200.0))
    assert scripted.most == 12
    assert figures(run).answered == 12
    last = run.outcomes[-1].sent
    assert all(outcome.pieces[0] >= last for outcome in run.outcomes)
    assert all(outcome.first >= last - outcome.planned for outcome in run.outcomes)


# ---- what is heard ---------------------------------------------------------------------------------------------------


def test_pieces_and_tokens_are_counted():
    with serving(Scripted()) as scripted:
        [outcome] = measured(scripted, Load(requests=1, concurrency=1)).outcomes
    assert outcome.state == "answered"
    assert len(outcome.pieces) == 3  # neither the role nor the end is one
    assert (outcome.output_tokens, outcome.said.prompt_tokens) == (4, 11)
    assert list(outcome.pieces) == sorted(outcome.pieces)
    [body] = scripted.bodies
    assert body == {"model": "tiny", "messages": HELLO, "max_tokens": 4, "stream": True,
                    "stream_options": {"include_usage": True}}  # fmt: skip
    assert scripted.keys == ["Bearer sk-secret"]


def test_the_order_of_pieces_is_the_servers():
    """A piece is stamped before the next is sent."""
    heard = threading.Semaphore(0)

    def play(handler, body, number):
        handler.begin()
        for _ in range(5):
            handler.event(piece("x"))
            assert heard.acquire(timeout=PATIENCE)
        handler.event(piece("", "stop"))
        handler.end()

    async def whole(url):
        async with client_of(url) as client:
            return await client.ask(HELLO, heard.release)

    with serving(Scripted(play)) as scripted:
        assert asyncio.run(whole(scripted.url)).output_tokens is None


def test_fields_of_ones_own_are_sent():
    with serving(Scripted()) as scripted:
        measured(scripted, Load(requests=1, concurrency=1), extra={"ignore_eos": True})
    assert scripted.bodies[0]["ignore_eos"] is True


@pytest.mark.parametrize("delta", [{"reasoning_content": "hm"}, {"reasoning": "hm"}, {"tool_calls": [{"index": 0}]}])
def test_thoughts_and_calls_are_pieces_too(delta):
    def play(handler, body, number):
        handler.begin()
        handler.event({"choices": [{"delta": delta, "finish_reason": None}]})
        handler.event("[DONE]")
        handler.end()

    with serving(Scripted(play)) as scripted:
        [outcome] = measured(scripted, Load(requests=1, concurrency=1)).outcomes
    assert (outcome.state, len(outcome.pieces)) == ("answered", 1)


# ---- faults ----------------------------------------------------------------------------------------------------------


def broken(handler, body, number):
    handler.begin()
    handler.event(piece("half"))
    handler.cut()


def refusing_by_half(handler, body, number):
    handler.send_response(500)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"error": ')
    handler.cut()


def unfinished(handler, body, number):
    handler.begin()
    handler.event(piece("half"))
    handler.end()


def complaining(handler, body, number):
    handler.begin()
    handler.event(piece("half"))
    handler.event({"error": {"message": "the worker died; sk-secret"}})
    handler.end()


def babbling(handler, body, number):
    handler.begin()
    handler.event("{not json")
    handler.end()


def empty(handler, body, number):
    handler.begin()
    handler.event(piece("", "length"))
    handler.event("[DONE]")
    handler.end()


FAULTS = {
    "HTTP 500": lambda handler, body, number: handler.refuse(500, "told to fail"),
    "HTTP 429": lambda handler, body, number: handler.refuse(429, "too many", Retry_After="7"),
    "no stream": lambda handler, body, number: handler.say(200, {"choices": [{"message": {"content": "whole"}}]}),
    "no connection": lambda handler, body, number: handler.cut(),
    "cut stream": broken,
    "error in the stream": complaining,
    "unreadable event": babbling,
    "empty answer": empty,
}


def test_each_fault_is_counted_by_its_kind_and_disturbs_nobody():
    plan = [*FAULTS.values(), *FAULTS.values(), answer, unfinished, answer, refusing_by_half, FAULTS["HTTP 500"]]

    with serving(Scripted(lambda handler, body, number: plan[number](handler, body, number))) as scripted:
        run = measured(scripted, Load(requests=len(plan), concurrency=1))
    found = figures(run)
    assert len(scripted.bodies) == len(plan)  # nothing is asked twice
    expected = Counter(dict.fromkeys(FAULTS, 2)) + Counter(["cut stream", "cut stream", "HTTP 500"])
    assert {error.kind: error.count for error in found.errors} == expected
    assert (found.answered, found.failed, found.cancelled) == (2, len(plan) - 2, 0)
    said = {error.kind: error.first for error in found.errors}
    assert said["HTTP 500"] == "told to fail"
    assert said["HTTP 429"] == "too many (asks to wait 7 s)"
    assert said["error in the stream"] == "the worker died; ***"
    assert all(len(text) <= 500 and "\n" not in text for text in said.values())


def test_an_empty_answer_that_the_model_ended_is_no_fault():
    def play(handler, body, number):
        handler.begin()
        handler.event(piece("", "stop"))
        handler.event("[DONE]")
        handler.end()

    with serving(Scripted(play)) as scripted:
        run = measured(scripted, Load(requests=2, concurrency=1))
    found = figures(run)
    assert (found.empty, found.answered, found.failed, found.errors) == (2, 0, 0, ())
    assert found.spreads["e2e"].count == 0


def test_a_break_after_the_end_is_no_fault():
    def play(handler, body, number):
        handler.begin()
        handler.event(piece("x", "stop"))
        handler.event("[DONE]")
        handler.cut()

    with serving(Scripted(play)) as scripted:
        [outcome] = measured(scripted, Load(requests=1, concurrency=1)).outcomes
    assert outcome.state == "answered"


@pytest.mark.parametrize("pieces", [0, 2])
def test_a_server_sees_at_once_that_a_question_was_cancelled(pieces):
    arrived = threading.Semaphore(0)

    def play(handler, body, number):
        handler.begin()
        for _ in range(pieces):
            handler.event(piece("x"))
        arrived.release()
        handler.silence()

    async def whole(scripted):
        async with client_of(scripted.url) as client:
            asked = asyncio.create_task(client.ask(HELLO, lambda: None))
            assert await asyncio.to_thread(arrived.acquire, timeout=PATIENCE)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert await asyncio.to_thread(scripted.gone.acquire, timeout=PATIENCE)  # the client is still open

    with serving(Scripted(play)) as scripted:
        asyncio.run(whole(scripted))


def test_who_is_never_answered_is_cancelled():
    with serving(Scripted(lambda handler, body, number: handler.silence())) as scripted:
        run = measured(scripted, Load(requests=3, rate=100.0, timeout=0.5))
    assert [outcome.state for outcome in run.outcomes] == ["cancelled"] * 3
    assert all(outcome.whole >= 0.5 for outcome in run.outcomes)
    assert figures(run).cancelled == 3


# ---- the first question ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said", "key", "says"),
    [
        (404, "no model tiny", "k", r"HTTP 404, no model tiny; is the address right .* have this model\?"),
        (401, "who are you?", "none", r"HTTP 401, who are you\?; no key was sent, .*--key-env NAME"),
        (401, "bad key sk-secret", "sk-secret", r"HTTP 401, bad key \*\*\*; is the key the right one\?"),
        (400, "max_tokens is too large", "sk-secret", "HTTP 400, max_tokens is too large"),
    ],
)
def test_a_users_mistake_stops_before_anything_is_measured(status, said, key, says):
    with (
        serving(Scripted(lambda handler, body, number: handler.refuse(status, said))) as scripted,
        pytest.raises(EndpointError, match=says) as caught,
    ):
        greeted(scripted.url, key=key)
    assert caught.value.status == status
    assert len(scripted.bodies) == 1


def test_nobody_there():
    with nobody() as url, pytest.raises(EndpointError, match="is the server running, at this address"):
        greeted(url)


def test_a_server_that_never_answers_is_no_server_to_measure():
    with (
        serving(Scripted(lambda handler, body, number: handler.silence())) as scripted,
        pytest.raises(EndpointError, match=r"no answer to a first question in 0\.5 s"),
    ):
        greeted(scripted.url, timeout=0.5)


def test_what_a_server_calls_otherwise_or_lacks_is_found_out_at_once():
    def play(handler, body, number):
        if "max_tokens" in body:
            handler.refuse(400, "Unsupported parameter: use 'max_completion_tokens' instead")
        elif "stream_options" in body:
            handler.refuse(422, "extra field: stream_options")
        else:
            answer(handler, body)

    async def whole(url):
        async with client_of(url) as client:
            notes = await client.greet(HELLO, PATIENCE)
            return notes, await client.ask(HELLO, lambda: None)

    with serving(Scripted(play)) as scripted:
        notes, said = asyncio.run(whole(scripted.url))
    assert len(scripted.bodies) == 4
    assert scripted.bodies[-1]["max_completion_tokens"] == 4
    assert said.output_tokens is None
    assert notes == ["the server does not know stream_options, so it does not count tokens"]


@pytest.mark.parametrize("fault", ["HTTP 500", "HTTP 429", "cut stream"])
def test_a_server_that_fails_under_load_is_what_is_measured(fault):
    with serving(Scripted(FAULTS[fault])) as scripted:
        [note] = greeted(scripted.url)
    assert fault in note

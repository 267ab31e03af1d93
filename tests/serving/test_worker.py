"""What a worker answers is what the model says alone, whoever else asks; what cannot be answered is refused alone."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl.data.pair import encode_picture, encode_text
from internvl.data.prompts import Text
from internvl.errors import UsageError
from internvl.inference.constraint import Constraint
from internvl.inference.embed import Embedder
from internvl.inference.engine import Failed
from internvl.inference.rows import not_numbers
from internvl.inference.sampling import SamplingConfig, Token
from internvl.serving import inbox as coming
from internvl.serving import saying, worker
from internvl.serving.refusal import Refusal, refusal_of
from internvl.serving.saying import Led, Speech, Spoken
from internvl.serving.vectors import Embedding
from internvl.serving.wire import Ask, Channel, Embed, Memory, Vectors, WireError
from tests.serving.working import Client, Heard, Question, alone, at_work, nano, nano_c, picture, question

HELLO, COLOUR = "Hello, who are you?", "What is in the picture?"
LONG = {"max_new_tokens": 150, "temperature": 2.0, "seed": 5}
"""Goes on for a while."""


@pytest.fixture(scope="module")
def client():
    with at_work() as client:
        yield client


# ---- answers ---------------------------------------------------------------------------------------------------------


def check_the_same_as_alone(client: Client) -> None:
    for text, photos in ((HELLO, ()), (COLOUR, (picture(1),)), (COLOUR, (picture(2), picture(3)))):
        heard = client.says(question(text, *photos))
        assert heard.text() == alone(text, *photos)
        assert heard.done[0].finish in ("stop", "length")
        assert 1 <= heard.done[0].completion <= 12


def check_neighbours(client: Client) -> None:
    asked = [(HELLO, ()), (COLOUR, (picture(1),)), (COLOUR, (picture(4),)), ("What is 2 + 2?", ()), (HELLO, ())]
    ids = [client.ask(question(text, *photos)) for text, photos in asked]
    for id, (text, photos) in zip(ids, asked, strict=True):
        assert client.hear(id).text() == alone(text, *photos)


def check_several_answers(client: Client) -> None:
    warm = {"max_new_tokens": 8, "temperature": 1.5}
    heard = client.says(question(HELLO, sampling={**warm, "seed": 7}, n=4))
    texts = [heard.text(answer) for answer in range(4)]
    assert texts == [alone(HELLO, **warm, seed=7 + answer) for answer in range(4)]
    assert len(set(texts)) > 1
    assert sum(done.last for done in heard.done.values()) == 1
    assert sorted(heard.done) == [0, 1, 2, 3]


def check_stops(client: Client) -> None:
    whole = alone(HELLO)
    for stop in ([whole[5:9]], [whole[7:9], whole[3:6]], [whole[:1]], [whole[6:7] + "zz", whole[8:12]], ["zzz"]):
        heard = client.says(question(HELLO, sampling={"max_new_tokens": 12, "stop": stop}, n=2, logprobs=True))
        expected = alone(HELLO, stop=tuple(stop))
        for answer in range(2):
            assert heard.text(answer) == expected
            assert (
                b"".join(bytes(token["bytes"]) for token in heard.tokens(answer)).decode().strip().startswith(expected)
            )
            assert heard.done[answer].finish == "stop" or stop == ["zzz"]
    free(client)


def free(client: Client) -> None:
    found = client.counters()
    assert (found["free"], found["queued"], found["reading"], found["running"]) == (4, 0, 0, 0)
    assert found["waiting_tiles"] == 0


def check_what_tokens_are_told(client: Client) -> None:
    heard = client.says(question(HELLO, sampling={"max_new_tokens": 12, "top_logprobs": 3}, logprobs=True))
    tokens = heard.tokens()
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == heard.text()
    for token in tokens:
        assert token["text"].encode() == bytes(token["bytes"])
        assert len(token["top"]) == 3
        assert token["logprob"] == token["top"][0]["logprob"], "greedy"
        assert {"text", "bytes", "logprob"} == set(token["top"][0])
        assert token["top"][0]["logprob"] >= token["top"][1]["logprob"]
    assert all(not one.tokens for one in client.says(question(HELLO)).pieces)


def check_the_place_of_a_stop(client: Client) -> None:
    """Tokens that begin in a stop string are not told."""
    spelt = [token["text"] for token in client.says(question(HELLO, logprobs=True)).tokens()]
    assert len(spelt) > 5, "so few words prove nothing"
    for first, last in ((2, 4), (1, 2), (3, 5), (0, 2)):
        stop = "".join(spelt[first:last])
        end = "".join(spelt).find(stop)
        starts = [len("".join(spelt[:place])) for place in range(len(spelt))]
        heard = client.says(question(HELLO, sampling={"max_new_tokens": 12, "stop": [stop]}, logprobs=True))
        told = [token["text"] for token in heard.tokens()]
        assert told == [text for text, start in zip(spelt, starts, strict=True) if start < end]


def check_forms(client: Client) -> None:
    def asked(form: Constraint, **options: Any) -> str:
        value = {"kind": form.kind, "source": form.source}
        heard = client.says(question(HELLO, constraint=value, sampling={"max_new_tokens": 60}, **options))
        assert heard.done[0].finish == "stop"
        return heard.text()

    assert asked(Constraint.choice(["a dog", "a cat"])) in ("a dog", "a cat")
    assert asked(Constraint.choice([" spaced "])) == " spaced ", "a form is kept to the letter"
    assert re.fullmatch("[0-9]{3}x", asked(Constraint.regex("[0-9]{3}x")))
    schema = {
        "type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"],
        "additionalProperties": False,
    }  # fmt: skip
    assert set(json.loads(asked(Constraint.json_schema(schema), logprobs=True))) == {"n"}


def check_the_seed(client: Client) -> None:
    warm = {"max_new_tokens": 10, "temperature": 1.5}
    once, again, other = (client.says(question(HELLO, sampling={**warm, "seed": seed})).text() for seed in (3, 3, 4))
    assert once == again == alone(HELLO, **warm, seed=3)
    assert once != other


def check_the_pictures_are_those_that_came(client: Client) -> None:
    """Whatever somebody says their digests are."""
    one, other = (question(COLOUR, picture(seed)) for seed in (11, 12))
    assert one.ask.digests == other.ask.digests
    first = client.ask(replace(one, ask=replace(one.ask, logprobs=True)))
    second = client.ask(replace(other, ask=replace(other.ask, logprobs=True)))
    told = [client.hear(id).tokens()[0]["logprob"] for id in (first, second)]
    assert abs(told[0] - told[1]) > 1e-3, "not the same picture, computed in another order"
    misses = client.counters()["picture_misses"]
    client.says(one)
    assert client.counters()["picture_misses"] == misses, "and it is known again"


def check_what_is_known_is_not_read_again(client: Client) -> None:
    asked = question("Tell me something about yourself, please.")
    first, second = client.says(asked), client.says(asked)
    assert second.done[0].reused >= len(asked.ask.ids) - 1 > first.done[0].reused
    stopped = client.says(question("Tell me something about yourself, please.",
                                   sampling={"max_new_tokens": 12, "stop": [" "]}))  # fmt: skip
    assert stopped.done[0].reused >= len(asked.ask.ids) - 1


CHECKS = [
    check_the_same_as_alone, check_neighbours, check_several_answers, check_stops, check_what_tokens_are_told,
    check_the_place_of_a_stop, check_forms, check_the_seed, check_the_pictures_are_those_that_came,
    check_what_is_known_is_not_read_again,
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_answers(check, client):
    check(client)
    free(client)


def test_white_space_is_kept_or_not_as_was_asked(client):
    tokenizer = nano().encoder.tokenizer
    ids = tokenizer.encode("Where is the red circle?")
    # A prompt that is a text of its own: what continues it begins with a space, or does not.
    plain, exact = (
        client.says(Question(Ask(id=0, ids=ids, sampling={"max_new_tokens": 12}, strip=strip), None)).text()
        for strip in (True, False)
    )
    assert exact.strip() == plain


# ---- refusals --------------------------------------------------------------------------------------------------------


def changed(**changes: Any) -> Question:
    asked = question(COLOUR, picture(1))
    return replace(asked, ask=replace(asked.ask, **changes))


def tiles(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def only_text(**changes: Any) -> Question:
    asked = question(HELLO)
    return replace(asked, ask=replace(asked.ask, **changes))


COSTLY = {
    "allOf": [
        {"anyOf": [{"type": "object", "properties": {i + j: {}}, "required": [i + j]} for j in "abcd"]}
        for i in "abcdefgh"
    ]
}

BAD: dict[str, tuple[Question, int]] = {
    "an id that is none": (only_text(ids=[1, 99_999]), 400),
    "a negative id": (only_text(ids=[-1]), 400),
    "no ids": (only_text(ids=[]), 400),
    "ids that are no numbers": (only_text(ids=["1"]), 500),
    "ids that are no list": (only_text(ids=None), 500),
    "too long": (only_text(ids=[5] * 300), 400),
    "too long an answer": (only_text(sampling={"max_new_tokens": 255}), 400),
    "too many answers": (only_text(n=5), 400),
    "a huge number of answers": (only_text(n=10**12), 400),
    "no answers": (only_text(n=0), 400),
    "a temperature below 0": (only_text(sampling={"temperature": -1}), 400),
    "beams": (only_text(sampling={"beams": 2}), 400),
    "a sampling that is none": (only_text(sampling={"warmth": 1}), 500),
    "stops that are no strings": (only_text(sampling={"max_new_tokens": 5, "stop": [1]}), 500),
    "a pattern that is none": (only_text(constraint={"kind": "regular expression", "source": "(("}), 400),
    "a form that costs too much": (only_text(constraint={"kind": "JSON schema", "source": json.dumps(COSTLY)}), 400),
    "a form that is none": (only_text(constraint={"kind": "regular expression", "sauce": ""}), 500),
    "slots without pictures": (Question(replace(changed().ask, tiles=[], digests=[], shape=[]), None), 400),
    "pictures without slots": (replace(only_text(tiles=[1], shape=[1, 112, 112, 3]), tiles=tiles(1, 112, 112, 3)), 400),
    "more counts than tiles": (changed(tiles=[2]), 400),
    "no tiles in a picture": (changed(tiles=[0, 1]), 400),
    "counts that are no numbers": (changed(tiles=["x"]), 500),
    "tiles of another side": (replace(changed(shape=[1, 56, 56, 3]), tiles=tiles(1, 56, 56, 3)), 400),
    "memory of another size": (changed(shape=[2, 112, 112, 3]), 500),
    "memory of a negative shape": (changed(shape=[-1, 112, -112, 3]), 500),
    "memory of no shape": (changed(shape=[]), 500),
    "memory of a shape that is none": (changed(shape=["a", 1, 1, 3]), 500),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_and_a_good_one_in_flight_is_not_touched(name, client):
    asked, status = BAD[name]
    good = client.ask(question(HELLO, sampling={"max_new_tokens": 30}))
    client.begun(good)
    with pytest.raises(Refusal) as caught:
        client.says(asked)
    assert caught.value.status == status
    assert "\n" not in caught.value.message
    if status == 500:
        assert caught.value.message == "the server failed; its log says why"
    assert client.hear(good).text() == alone(HELLO, max_new_tokens=30)
    free(client)


def test_a_prompt_that_is_too_long_has_the_code_that_clients_know(client):
    with pytest.raises(Refusal) as caught:
        client.says(BAD["too long"][0])
    assert caught.value.code == "context_length_exceeded"


BROKEN = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)"}}, "required": ["a"]}
KIND = "JSON schema"


@pytest.mark.parametrize(
    ("form", "at", "param"),
    [
        ({"kind": "regular expression", "source": "(("}, ["guided_regex"], "guided_regex"),
        ({"kind": KIND, "source": json.dumps({"anyOf": [{"type": "object"}, BROKEN]})}, ["a", "b"], "b"),
        ({"kind": KIND, "source": json.dumps({"anyOf": [{"type": "object"}] * 2 + [BROKEN]})}, ["a"], "a"),
        ({"kind": KIND, "source": json.dumps({"anyOf": [{"type": "null"}] * 2, **BROKEN})},
         ["tools[0].b", "tools[1].b"], "tools"),
        ({"kind": KIND, "source": json.dumps(COSTLY)}, ["guided_json"], "guided_json"),
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_kept_is_told_of_the_field_that_asks_for_it(client, form, at, param):
    with pytest.raises(Refusal) as caught:
        client.says(only_text(constraint=form, constraint_at=at))
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_value", param)
    assert caught.value.message.startswith(f"{param}: ")


def test_nobody_looks_long_for_the_tool_whose_form_cannot_be_kept(monkeypatch):
    """Each of many could cost as much as the first that costs too much."""
    form = Constraint(KIND, json.dumps({"anyOf": [{"type": "null"}, BROKEN]}))
    speech, at = Speech(nano().encoder, nano().model.config.text.vocab), ["tools[0].b", "tools[1].b"]
    assert speech._at_fault(form, at) == ["tools[1].b"]
    monkeypatch.setattr(saying, "SEARCH_SECONDS", -1.0)
    assert speech._at_fault(form, at) == at


def test_a_model_that_computes_no_numbers_is_no_fault_of_the_form():
    loaded = worker.Loaded(None, None, None, None)
    ask = Ask(id=1, ids=[1], sampling={}, constraint={"kind": KIND, "source": "{}"}, constraint_at=["response_format"])
    one = worker.Worker(None, loaded, None)
    for error, status, param in (
        (not_numbers(torch.float16), 500, None),
        (UsageError("the answer cannot go on"), 400, "response_format"),
    ):
        with pytest.raises((Refusal, UsageError)) as caught:
            one._told(worker.Asked(ask, {}, 0), Failed(0, error))
        refusal = refusal_of(caught.value)
        assert (refusal.status, refusal.param) == (status, param)


def check_a_full_queue(client: Client) -> None:
    """Whoever finds it full is told when to come again; whoever is in it is answered."""
    ids = [client.ask(question(HELLO, *((picture(number),) if number % 2 else ()))) for number in range(40)]
    answered, refused = 0, []
    for id in ids:
        try:
            client.hear(id)
            answered += 1
        except Refusal as refusal:
            refused.append(refusal)
    assert answered >= 2, "those in the queue"
    assert refused, "so many cannot wait"
    assert {(one.status, one.code) for one in refused} == {(429, "queue_full")}
    assert all(1 <= (one.retry_after or 0) <= 60 for one in refused)


def test_a_full_queue():
    with at_work(queue=2) as client:
        check_a_full_queue(client)
        free(client)


def test_a_fault_in_what_is_told_of_an_answer_is_that_requests_alone(client, monkeypatch):
    hear = worker.Saying.hear

    def broken(self, token, *, silent):
        if self.name[0] == bad:
            raise ValueError("a secret")
        return hear(self, token, silent=silent)

    good = client.ask(question(HELLO, sampling={"max_new_tokens": 30}))
    bad = good + 1
    monkeypatch.setattr(worker.Saying, "hear", broken)
    assert client.ask(question(HELLO)) == bad
    with pytest.raises(Refusal) as caught:
        client.hear(bad)
    assert caught.value.status == 500
    assert client.hear(good).text() == alone(HELLO, max_new_tokens=30)
    free(client)


def test_the_log_says_what_failed_and_where_but_not_what_was_asked(client, caplog):
    with pytest.raises(Refusal):
        client.says(only_text(sampling={"a secret": 1}))
    [said] = [one for one in caplog.messages if "failed" in one]
    assert "TypeError at" in said
    assert "saying.py:" in said
    assert "secret" not in said
    assert "/" not in said, "no paths"


# ---- dropping --------------------------------------------------------------------------------------------------------


def check_drops(client: Client, requests: int = 100) -> None:
    """Wherever it is just then: on its way, being prepared, in the queue, being read, or growing."""
    free(client)
    before = client.counters()
    form = {"kind": "JSON schema", "source": '{"type": "object"}'}
    for number in range(requests):
        photos = (picture(number),) if number % 3 == 0 else ()
        id = client.ask(
            question(HELLO, *photos, sampling=LONG, n=1 + number % 2, constraint=form if number % 5 == 0 else None)
        )
        if number % 4 == 0:
            client.begun(id)
        if number % 7 == 0:
            client.counters()
        client.drop(id)
        client.drop(id)
    good = client.ask(question(HELLO))
    assert client.hear(good).text() == alone(HELLO)
    free(client)
    after = client.counters()
    assert after["failed"] == before["failed"]
    assert after["cancelled"] - before["cancelled"] > requests / 10, "those that the engine had"


def test_100_requests_that_nobody_waits_for_leave_nothing_behind(client):
    check_drops(client)


def test_a_request_that_a_stop_string_ended_counts_as_ended(client):
    before = client.counters()
    client.says(question(HELLO, sampling={"max_new_tokens": 12, "stop": [alone(HELLO)[2:4]]}, n=2))
    after = client.counters()
    assert after["ended"] - before["ended"] == 1
    assert after["cancelled"] == before["cancelled"]


def check_descriptors(client: Client, requests: int = 200) -> None:
    client.says(question(COLOUR, picture(1)))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(requests):
        asked = question(COLOUR, picture(number % 5), sampling={"max_new_tokens": 1})
        if number % 2 == 0:
            asked = replace(asked, ask=replace(asked.ask, shape=[9, 9]))
        id = client.ask(asked)
        if number % 3 == 0:
            client.drop(id)
    client.says(question(COLOUR, picture(1)))
    free(client)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_no_descriptor_is_left_after_200_requests(client):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("descriptors are counted as Linux lists them")
    check_descriptors(client)


# ---- vectors ---------------------------------------------------------------------------------------------------------


def embedded(client: Client, message: Embed, pixels: np.ndarray | None = None) -> tuple[Vectors, np.ndarray]:
    client.send(message, pixels)
    while True:
        found = next((one for one in client.other if isinstance(one[0], Vectors) and one[0].id == message.id), None)
        if found is not None:
            assert found[1] is not None
            return found[0], found[1]  # pyright: ignore[reportReturnType]
        client.one()


def test_vectors_are_those_of_the_embedder_and_answers_grow_meanwhile(client):
    texts = [f"a picture of {number} cats" for number in range(20)]
    growing = client.ask(question(HELLO, sampling={"max_new_tokens": 30}))
    message, vectors = embedded(client, Embed(id=10_001, texts=texts))
    tokenizer = nano_c().tokenizer
    assert tokenizer is not None
    assert message.tokens == sum(len(encode_text(tokenizer, text)) for text in texts)
    np.testing.assert_allclose(vectors, nano_c().texts(texts).numpy(), atol=1e-6)
    photos = [picture(seed, side=150) for seed in range(3)]
    cut = np.stack([encode_picture(photo, size=nano_c().tile_size) for photo in photos])
    _, vectors = embedded(client, Embed(id=10_002, shape=cut.shape), cut)
    np.testing.assert_allclose(vectors, nano_c().images(photos).numpy(), atol=1e-6)
    assert client.hear(growing).text() == alone(HELLO, max_new_tokens=30)


@pytest.mark.parametrize(("message", "pixels"), [
    (Embed(id=20_001), None),
    (Embed(id=20_002, shape=[1, 9, 9, 3]), np.zeros((1, 9, 9, 3), np.uint8)),
    (Embed(id=20_003, shape=[0, 112, 112, 3]), np.zeros((0, 112, 112, 3), np.uint8)),
    (Embed(id=20_004, shape=[9]), np.zeros((9,), np.uint8)),
    (Embed(id=20_005, texts=[7]), None),  # pyright: ignore[reportArgumentType]
])  # fmt: skip
def test_what_cannot_be_embedded_is_refused(client, message, pixels):
    client.send(message, pixels)
    with pytest.raises(Refusal):
        client.hear(message.id)
    assert client.says(question(HELLO)).text() == alone(HELLO)


def test_a_text_to_embed_is_not_cut(client):
    client.send(Embed(id=50_001, texts=["a", "word " * 100]))
    with pytest.raises(Refusal, match=r"this text has \d+ tokens, at most 80 are read") as caught:
        client.hear(50_001)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "texts[1]", "context_length_exceeded")
    assert embedded(client, Embed(id=50_002, texts=["a"]))[1].shape[0] == 1


def test_a_tower_without_a_text_side_says_so():
    tower = Embedder(nano().model.vision_model)
    with pytest.raises(Refusal, match="reads no texts; send pictures") as caught:
        Embedding(tower, Embed(id=1, texts=["a"]), None)
    assert (caught.value.status, caught.value.param) == (400, "input")


def test_pictures_that_wait_for_their_vectors_are_bounded():
    side = nano_c().tile_size
    cut = np.zeros((6, side, side, 3), np.uint8)
    with at_work(waiting_tiles=8) as client:
        client.send(Embed(id=40_000, shape=[9, side, side, 3]), np.zeros((9, side, side, 3), np.uint8))
        with pytest.raises(Refusal, match="found 9 pictures, at most 8 are taken") as caught:
            client.hear(40_000)
        assert caught.value.status == 400
        first, second = Embed(id=40_001, shape=cut.shape), Embed(id=40_002, shape=cut.shape)
        client.send(first, cut)
        client.send(second, cut)
        with pytest.raises(Refusal) as full:
            client.hear(second.id)
        assert (full.value.status, full.value.code) == (429, "queue_full")
        assert embedded(client, Embed(id=40_003, texts=["a"]))[1].shape[0] == 1, "texts bring no pictures"
        assert embedded(client, replace(second, id=40_004), cut)[1].shape[0] == 6, "there is room again"
        free(client)


def test_vectors_that_nobody_waits_for_are_not_computed(client):
    client.send(Embed(id=30_001, texts=["a"] * 3000))
    client.drop(30_001)
    assert client.says(question(HELLO)).text() == alone(HELLO)
    assert not any(one.id == 30_001 for one, _ in client.other if isinstance(one, Vectors))


# ---- its parts -------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=3), max_size=8),
       st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=2))  # fmt: skip
def test_the_tokens_that_are_told_are_those_before_a_stop_string(words, stop):
    """None is told that begins in a stop string, and none twice; without one, all are."""
    spoken = Spoken(lambda i: words[i].encode(), stop)
    told: list[str] = []
    text = ""
    for place, word in enumerate(words):
        text += word
        stopped = any(one in text for one in stop)
        told += [one["text"] for one in spoken.push(Token(place, -1.0), stopped=stopped)]
        if stopped:
            break
    else:
        told += [one["text"] for one in spoken.finish()]
    # the text ends with the stop string that is complete first, at the earliest place of any
    ends = [text.find(one) for one in stop if one in text]
    starts = [len("".join(words[:place])) for place in range(len(words))]
    expected = [word for word, start in zip(words, starts, strict=True) if start < min(ends, default=10**9)]
    assert told == expected


class Form:
    """Some form: `x`, then it is over."""

    def __init__(self) -> None:
        self.said: list[int] = []

    @property
    def finished(self) -> bool:
        return self.said == [1]

    def allowed(self):
        import torch

        return torch.tensor([False, True, False, False])

    def accept(self, token: int) -> None:
        self.said.append(token)


def test_what_a_model_writes_before_every_answer_comes_before_its_form():
    form = Form()
    led = Led(form, (3, 2), vocab=4)
    for token in (3, 2):
        assert led.allowed().nonzero().flatten().tolist() == [token]
        assert not led.finished
        led.accept(token)
    assert form.said == []
    assert led.allowed().nonzero().flatten().tolist() == [1]
    led.accept(1)
    assert led.finished


def test_a_lead_is_no_part_of_an_answer(monkeypatch):
    """As GPT-OSS has one: here any token stands for it, which a form does not allow by itself."""
    chat = nano()
    chat.reset()
    whole = chat.ask(Text(HELLO), sampling=SamplingConfig(max_new_tokens=12))
    lead = tuple(token.id for token in whole.logprobs[:2])
    monkeypatch.setitem(chat.encoder.__dict__, "lead_ids", lead)
    with at_work() as client:
        plain = client.says(question(HELLO, logprobs=True))
        assert whole.text.endswith(plain.text())
        assert 0 < len(plain.text()) < len(whole.text)
        assert plain.done[0].completion == len(whole.logprobs)
        assert b"".join(bytes(token["bytes"]) for token in plain.tokens()).decode().strip() == plain.text()
        form = {"kind": "list of choices", "source": "(?:yes|no)"}
        formed = client.says(question(HELLO, constraint=form))
        assert formed.text() in ("yes", "no")
        assert formed.done[0].completion > len(lead)


# ---- the process -----------------------------------------------------------------------------------------------------


class Ended(BaseException):
    """In the place of the process's end."""


@pytest.mark.parametrize(("sent", "code"), [(b"", 0), (b"\0\0\0\x02\0[]", 1), (b"\0\0", 1), (b"\xff\xff\xff\xff\0", 1)])
def test_the_process_ends_with_the_other_end(monkeypatch, sent, code):
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(worker.os, "_exit", end)
    channel, there = Channel.pair()
    there.sendall(sent)
    there.close()
    with pytest.raises(Ended):
        coming.listen(channel, coming.Inbox())
    channel.close()
    assert codes[0] == code


def test_a_second_request_of_one_id_ends_the_worker():
    def twice() -> None:
        with at_work() as client:
            asked = replace(question(HELLO, sampling=LONG).ask, id=1)
            client._heard[1] = Heard()
            client.send(asked)
            client.send(asked)
            with suppress(OSError, AssertionError, WireError):
                client.hear(1)

    with pytest.raises(AssertionError, match="the worker failed"):
        twice()


def test_pixels_are_this_processs_own():
    """Whoever sent them may change or cut the memory afterwards."""
    values = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    memory = Memory.of(values)
    other = os.dup(memory.descriptor)
    come = coming.come(Ask(id=1, ids=[], sampling={}, shape=[1, 2, 2, 3]), memory)
    os.ftruncate(other, 0)
    os.close(other)
    assert isinstance(come.pixels, np.ndarray)
    assert come.pixels.tolist() == values.tolist()
    assert memory._descriptor is None

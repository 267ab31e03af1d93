"""The API over a backend that says what it was asked: every route, all at once and piece by piece."""

from __future__ import annotations

import base64
import importlib
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from internvl.errors import UsageError
from internvl.serving import published
from internvl.serving.app import create_app
from internvl.serving.refusal import Refusal, queue_full
from internvl.serving.replies import Choice, TokenSaid, Usage
from internvl.serving.settings import Settings
from tests.serving.echo import Echo, served
from tests.serving.requests import ADD, chat, image, shown

CALL = '{"name": "add", "arguments": {"a": 1}}'


def events(text: str) -> list:
    """What a stream says, its end as a string."""
    said = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in said]


def asked(text: str = "Hi there", **fields):
    return chat(model="echo", messages=[{"role": "user", "content": text}], **fields)


# ---- chat ------------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered():
    with served() as client:
        answer = client.post("/v1/chat/completions", json=asked()).json()
    published.ChatCompletion.model_validate(answer)
    assert answer["choices"][0]["message"]["content"] == "Hi there"
    assert answer["usage"]["prompt_tokens"] == len("Hi there") == answer["usage"]["completion_tokens"]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3},
        {"max_tokens": 4},
        {"logprobs": True, "n": 2},
        {"tools": [ADD]},
        {"tools": [ADD], "tool_choice": "required"},
    ],
)
@pytest.mark.parametrize("reply", ["Just words", CALL, f"Well\n<tool_call>\n{CALL}\n</tool_call>"])
def test_a_stream_adds_up_to_the_whole(fields, reply):
    with served(Echo(reply=reply)) as client:
        whole = client.post("/v1/chat/completions", json=asked(**fields)).json()
        streamed = client.post(
            "/v1/chat/completions", json=asked(**fields, stream=True, stream_options={"include_usage": True})
        )
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *chunks, last, done = events(streamed.text)
    assert done == "[DONE]"
    assert last["usage"] == whole["usage"]
    assert last["choices"] == []
    for choice in whole["choices"]:
        pieces = [one["choices"][0] for one in chunks if one["choices"][0]["index"] == choice["index"]]
        assert pieces[0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(piece["delta"].get("content", "") for piece in pieces)
        assert text == (choice["message"]["content"] or "")
        calls = [call["function"] for piece in pieces for call in piece["delta"].get("tool_calls", [])]
        assert calls == [call["function"] for call in choice["message"].get("tool_calls", [])]
        assert [piece["finish_reason"] for piece in pieces if piece["finish_reason"]] == [choice["finish_reason"]]
        tokens = [token for piece in pieces if piece["logprobs"] for token in piece["logprobs"]["content"]]
        assert tokens == (choice["logprobs"]["content"] if choice["logprobs"] else [])


def test_the_model_must_be_served():
    with served() as client:
        for path, body in (
            ("/v1/chat/completions", chat(model="other")),
            ("/v1/embeddings", {"model": "echo", "input": "a"}),
            ("/tokenize", {"model": "other", "prompt": "a"}),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "model_not_found"


def test_an_order_is_what_was_asked():
    backend = Echo()
    with served(backend) as client:
        client.post("/v1/chat/completions", json=shown("What?", image(detail="low")) | {"model": "echo", "seed": 5})
    [(order, user)] = backend.orders
    assert order.sampling.seed == 5
    assert order.references[0].max_tiles == 1
    assert user == ""


def test_answers_are_no_more_than_there_are_slots():
    with served() as client:  # which has 4
        refused = client.post("/v1/chat/completions", json=asked(n=5))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "n"


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_a_refusal_before_the_first_word_has_its_status(path, stream):
    bodies = {"/v1/chat/completions": asked(), "/v1/completions": {"model": "echo", "prompt": "Hi"},
              "/v1/responses": {"model": "echo", "input": "Hi"}}  # fmt: skip
    with served(Echo(refuse=queue_full(7))) as client:
        refused = client.post(path, json=bodies[path] | {"stream": stream})
        health = client.get("/health")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
    published.Error.model_validate(refused.json())
    assert health.status_code == 200


@pytest.mark.parametrize("fault", [Refusal("enough", status=503, code="unavailable"), ZeroDivisionError("secret")])
def test_a_stream_that_breaks_off_says_so(fault):
    backend = Echo(refuse=fault, breaks_after=2)
    with served(backend) as client:
        chatted = client.post("/v1/chat/completions", json=asked(stream=True))
        responded = client.post("/v1/responses", json={"model": "echo", "input": "Hi there", "stream": True})
        completed = client.post("/v1/completions", json={"model": "echo", "prompt": "Hi there", "stream": True})
    for answer in (chatted, completed):
        assert answer.status_code == 200
        assert events(answer.text)[-1]["error"]["type"] == "server_error"
    last = events(responded.text)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert "secret" not in chatted.text + responded.text + completed.text
    assert backend.open == 0


def test_a_fault_is_told_to_the_log_and_not_to_the_client(caplog):
    with served(Echo(refuse=ZeroDivisionError("secret"))) as client:
        answer = client.post("/v1/chat/completions", json=asked())
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    [fault] = [record.values for record in caplog.records if record.getMessage() == "fault"]
    assert fault["kind"] == "ZeroDivisionError"
    assert fault["id"] == answer.headers["x-request-id"]
    assert any("echo.py" in place for place in fault["at"])


def test_there_must_be_something_to_continue():
    with served() as client:
        answer = client.post("/v1/completions", json={"model": "echo", "prompt": []})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ("/v1/completions", {"prompt": "a"}, "prompt"),
        ("/v1/responses", {"input": "a"}, "input"),
    ],
)
def test_what_is_refused_is_called_as_the_route_calls_it(path, body, param, stream):
    with served(Echo(refuse=Refusal("no", param="messages"))) as client:
        answer = client.post(path, json={"model": "echo", "stream": stream, **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [{"type": "function_call_output", "call_id": "a", "output": "5"}],
        [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    ],
)
def test_what_an_input_cannot_be_is_told_of_the_input(given):
    with served() as client:
        answer = client.post("/v1/responses", json={"model": "echo", "input": given})
    error = answer.json()["error"]
    assert answer.status_code in (400, 422), error
    assert re.split(r"[.\[]", error["param"])[0] == "input"
    assert "messages" not in error["message"].partition(":")[0]


def test_a_text_and_what_is_embedded_are_called_as_they_were_sent():
    class Refuses(Echo):
        async def count(self, order):
            raise Refusal("no", param="messages")

        async def embed(self, texts=(), images=()):
            raise Refusal("no", param="messages")

    for path, body, param in (
        ("/tokenize", {"model": "echo", "prompt": "a"}, "prompt"),
        ("/tokenize", {"model": "echo", "messages": [{"role": "user", "content": "a"}]}, "messages"),
        ("/v1/embeddings", {"model": "echo-c", "input": "a"}, "input"),
    ):
        with served(Refuses()) as client:
            answer = client.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_streamed_text_counts_its_letters_from_its_own_beginning():
    body = {"model": "echo", "prompt": ["abc", "de"], "logprobs": 0, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    with served() as client:
        lines = client.post("/v1/completions", json=body).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["usage"]["completion_tokens"] == 5
    offsets: dict[int, list[int]] = {0: [], 1: []}
    for [choice] in (chunk["choices"] for chunk in chunks[:-1]):
        offsets[choice["index"]] += choice["logprobs"]["text_offset"]
    assert offsets == {0: [0, 1, 2], 1: [0, 1]}


def test_the_first_bad_prompt_ends_all():
    backend = Echo(refuse=Refusal("no", param="prompt"))
    with served(backend) as client:
        answer = client.post("/v1/completions", json={"model": "echo", "prompt": ["a", "b", "c"]})
    assert answer.status_code == 400
    assert backend.open == 0


def test_a_time_is_over():
    backend = Echo(pause=60)
    with served(backend, request_seconds=0.2) as client:
        answer = client.post("/v1/chat/completions", json=asked())
    assert answer.status_code == 504
    assert backend.open == 0


# ---- completions, responses ------------------------------------------------------------------------------------------


def test_texts_are_continued_in_order():
    with served() as client:
        body = {"model": "echo", "prompt": ["one", "second", "3", "four", "fifth", "6"], "n": 2, "logprobs": 0}
        whole = client.post("/v1/completions", json=body).json()
        pieces = events(client.post("/v1/completions", json=body | {"stream": True}).text)[:-1]
    published.TextCompletion.model_validate(whole)
    assert [one["text"] for one in whole["choices"]] == [text for text in body["prompt"] for _ in "ab"]
    for choice in whole["choices"]:
        own = [piece["choices"][0] for piece in pieces if piece["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in own) == choice["text"]
        assert [piece["finish_reason"] for piece in own][-1] == "stop"


def test_responses_are_chats():
    with served(Echo(reply="Fine")) as client:
        body = {"model": "echo", "input": "Hi", "instructions": "Be kind."}
        whole = client.post("/v1/responses", json=body).json()
        streamed = events(client.post("/v1/responses", json=body | {"stream": True}).text)
    published.ResponseObject.model_validate(whole)
    assert whole["output"][0]["content"][0]["text"] == "Fine"
    last = streamed[-1]["response"]
    published.ResponseObject.model_validate(last)
    assert "".join(one["delta"] for one in streamed if one["type"].endswith("text.delta")) == "Fine"
    assert {**last, "id": 0, "created_at": 0, "output": 0} == {**whole, "id": 0, "created_at": 0, "output": 0}
    assert [one["sequence_number"] for one in streamed] == list(range(len(streamed)))


def test_responses_are_refused_in_their_own_words():
    with served(Echo(refuse=Refusal("too long", param="messages"))) as client:
        for stream in (False, True):
            answer = client.post("/v1/responses", json={"model": "echo", "input": "Hi", "stream": stream})
            assert answer.json()["error"]["param"] == "input"


# ---- lists -----------------------------------------------------------------------------------------------------------


def test_vectors_are_in_the_order_of_the_input():
    with served() as client:
        mixed = ["ab", image(), "abc"]
        numbers = client.post("/v1/embeddings", json={"model": "echo-c", "input": mixed}).json()
        packed = client.post(
            "/v1/embeddings", json={"model": "echo-c", "input": mixed, "encoding_format": "base64"}
        ).json()
    published.Embeddings.model_validate(numbers)
    vectors = np.array([one["embedding"] for one in numbers["data"]], np.float32)
    expected = np.array([2, 0.5, 3], np.float32)
    assert np.allclose(vectors, np.stack([np.cos(expected), np.sin(expected)], 1))
    assert [one["index"] for one in numbers["data"]] == [0, 1, 2]
    again = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed["data"]]
    assert np.array_equal(np.stack(again), vectors)


def test_models_and_tokens():
    with served() as client:
        listed = client.get("/v1/models").json()
        one = client.get("/v1/models/echo").json()
        none = client.get("/v1/models/some/other")
        tokens = client.post("/tokenize", json={"prompt": "abc"}).json()
        wrong = [{"return_token_strs": True}, {"add_special_tokens": False}]
        refused = [client.post("/tokenize", json={"prompt": "abc", **one}).json()["error"] for one in wrong]
    published.Models.model_validate(listed)
    published.Tokenized.model_validate(tokens)
    assert [model["id"] for model in listed["data"]] == ["echo", "echo-c"]
    assert one == listed["data"][0]
    assert none.status_code == 404
    assert tokens["tokens"] == list(b"abc")
    assert [one["param"] for one in refused] == ["return_token_strs", "add_special_tokens"]


def test_counters_tell_what_happened():
    with served() as client:
        client.post("/v1/chat/completions", json=asked())
        client.post("/v1/chat/completions", json={})
        client.get("/nowhere/1234")
        text = client.get("/metrics").text
    assert 'internvl_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'internvl_requests_total{route="/v1/chat/completions",status="400"} 1.0' in text
    assert 'internvl_tokens_total{kind="completion"} 8.0' in text
    assert 'internvl_tokens_total{kind="cached"} 3.0' in text
    assert "internvl_first_token_seconds_count 1.0" in text
    assert "internvl_backend_slots 4.0" in text
    assert "internvl_requests_in_flight 1.0" in text  # this one
    assert "1234" not in text


# ---- logs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_wanted", [False, True])
def test_what_is_said_is_logged_only_where_that_is_wanted(caplog, is_wanted):
    caplog.set_level("INFO")
    with served(log_content=is_wanted) as client:
        answer = client.post("/v1/chat/completions", json=asked("a secret"), headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    [line] = [
        record.values
        for record in caplog.records
        if record.getMessage() == "request" and record.values["id"] == "mine-1"
    ]
    assert (line["route"], line["status"], line["prompt_tokens"]) == ("/v1/chat/completions", 200, 8)
    assert ("a secret" in json.dumps(line)) == is_wanted


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_is_answered_is_logged_streamed_or_not(caplog, path, is_streamed):
    caplog.set_level("INFO")
    said = {"/v1/completions": {"prompt": "Hi"}, "/v1/responses": {"input": "Hi"}}.get(path, asked("Hi"))
    with served(Echo(reply="Good day"), log_content=True) as client:
        assert client.post(path, json={"model": "echo", **said, "stream": is_streamed}).status_code == 200
    [line] = [record.values for record in caplog.records if record.getMessage() == "request" and record.values["status"]
              == 200 and record.values["route"] == path]  # fmt: skip
    assert line["answer"] == [{"text": "Good day", "calls": []}]


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_told_where_votes_are_written_down(tmp_path, monkeypatch):
    told = []
    page = SimpleNamespace(mount=lambda app, settings: told.append(settings.votes))
    monkeypatch.setitem(sys.modules, "internvl.serving.page.app", page)
    assert create_app(Settings(votes=tmp_path / "votes.jsonl"), Echo()).state.has_page
    assert told == [tmp_path / "votes.jsonl"]


def test_votes_without_a_page_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "internvl.serving.page.app", None)
    assert not create_app(Settings(), Echo()).state.has_page
    with pytest.raises(UsageError, match=r"internvl\[ui\]"):
        create_app(Settings(votes=tmp_path / "votes.jsonl"), Echo())


# ---- the document ----------------------------------------------------------------------------------------------------


def test_the_document_knows_every_route_and_field():
    with served(keys=("sk-0123456789abcdef",), headers={"Authorization": "Bearer sk-0123456789abcdef"}) as client:
        document = client.get("/openapi.json").json()
        routes = {route.path for route in client.app.routes}
    paths = {path.replace("{model:path}", "{model}") for path in routes} - {"/openapi.json"}
    assert set(document["paths"]) == {path for path in paths if not path.startswith("/ui")}
    chatting = document["components"]["schemas"]["ChatRequest"]
    assert {"messages", "tools", "max_tiles", "audio"} <= set(chatting["properties"])
    assert chatting["additionalProperties"] is False
    assert chatting["properties"]["model"]["enum"] == ["echo"]
    text = json.dumps(document)
    for name in {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"], name
    assert document["security"] == [{"key": []}]


def test_what_replies_make_is_what_is_published():
    replies = importlib.import_module("internvl.serving.replies")
    head, usage = replies.Head("id", "m", 0), Usage(1, 2)
    token = TokenSaid("a", b"a", -0.1, (TokenSaid("b", b"b", float("-inf")),))
    choice = Choice(0, "a", "length", (), (token,))
    published.ChatCompletion.model_validate(replies.completion(head, [choice], usage))
    published.TextCompletion.model_validate(replies.text_completion(head, [choice], usage))


def test_there_is_no_page_of_documentation_from_elsewhere():
    with served() as client:
        assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_settings_say_what_is_wrong(tmp_path):
    for wrong in (
        {"host": "0.0.0.0"}, {"keys": ("a secret",)}, {"slots": 0}, {"port": 70_000}, {"media_root": tmp_path / "no"},
        {"drain_seconds": 0.0}, {"keys": ("sk-0123456789 abcdef",)}, {"temperature": 3.0},
        {"votes": tmp_path / "votes.jsonl", "ui": False},
    ):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            Settings(**wrong)
        assert "secret" not in str(caught.value)

"""A call that must be, and for which there are too few tokens: told as far as it came, at once and in pieces."""

from __future__ import annotations

import json

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from internvl.inference.constraint import Constraint
from internvl.serving import published
from internvl.serving.tools import Call, Tool, ToolUse
from tests.serving.echo import Echo, served
from tests.serving.requests import ADD, chat
from tests.serving.working import at_work, question

CALL = '{"name":"add","arguments":{"a":12}}'
NAMED = {"type": "function", "function": {"name": "add"}}
CUTS = {7: None, 12: None, 13: "", 20: "", 26: "", 27: "{", 33: '{"a":12', 34: '{"a":12}'}
"""Letters of the call that come, and what is told of its arguments; None: its name is not whole."""


def events(text: str) -> list[dict]:
    said = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(one) for one in said if one != "[DONE]"]


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@pytest.mark.parametrize("length", CUTS)
def test_a_chat_has_what_came_of_it(length, choice):
    body = chat(model="echo", tools=[ADD], tool_choice=choice, max_tokens=length, logprobs=True)
    with served(Echo(reply=CALL)) as client:
        whole = client.post("/v1/chat/completions", json=body).json()
        chunks = events(client.post("/v1/chat/completions", json=body | {"stream": True}).text)
    ChatCompletion.model_validate(whole)
    published.ChatCompletion.model_validate(whole)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    [answer], deltas = whole["choices"], [chunk["choices"][0] for chunk in chunks]
    assert answer["finish_reason"] == "length" == deltas[-1]["finish_reason"]
    assert len(answer["logprobs"]["content"]) == length
    calls = [call["function"] for call in answer["message"].get("tool_calls", [])]
    arguments = CUTS[length]
    assert calls == ([] if arguments is None else [{"name": "add", "arguments": arguments}])
    assert answer["message"]["content"] == ("" if arguments is None else None)
    assert calls == [call["function"] for one in deltas for call in one["delta"].get("tool_calls", [])]
    assert not "".join(one["delta"].get("content", "") for one in deltas)


@pytest.mark.parametrize("length", CUTS)
def test_a_response_has_what_came_of_it(length):
    tool = {"type": "function", **ADD["function"]}
    body = {"model": "echo", "input": "Hi", "tools": [tool], "tool_choice": "required", "max_output_tokens": length}
    with served(Echo(reply=CALL)) as client:
        whole = client.post("/v1/responses", json=body).json()
        seen = events(client.post("/v1/responses", json=body | {"stream": True}).text)
    openai.types.responses.Response.model_validate(whole)
    published.ResponseObject.model_validate(whole)
    adapter = TypeAdapter(openai.types.responses.ResponseStreamEvent)
    for one in seen:
        adapter.validate_python(one)
    assert seen[-1]["type"] == "response.incomplete"
    for told in (whole, seen[-1]["response"]):
        assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        [item] = told["output"]
        assert item["status"] == "incomplete"
        if CUTS[length] is None:
            assert item["content"][0]["text"] == ""
        else:
            assert (item["type"], item["name"], item["arguments"]) == ("function_call", "add", CUTS[length])


def test_a_whole_call_is_a_call_whatever_tokens_are_left():
    body = chat(model="echo", tools=[ADD], tool_choice="required", max_tokens=len(CALL))
    with served(Echo(reply=CALL)) as client:
        [answer] = client.post("/v1/chat/completions", json=body).json()["choices"]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a":12}'}
    assert all('{"a":12}'.startswith(cut or "") for cut in CUTS.values()), "what is cut is the beginning of the whole"


def test_what_a_grammar_lets_a_model_write_is_read_wherever_it_ends():
    use = ToolUse((Tool("add", None, ADD["function"]["parameters"]), Tool("add_all")), must=True)
    form = Constraint.json_schema(use.schema())
    value = {"kind": form.kind, "source": form.source}
    found: list[list[Call]] = []
    with at_work() as client:
        for most in range(1, 30):
            heard = client.says(question("Add 1 and 2.", constraint=value, sampling={"max_new_tokens": most}))
            reader = use.reader()
            assert reader.push(heard.text()) + reader.finish() == ""
            assert heard.done[0].finish == "length" or [call.whole for call in reader.calls] == [True]
            found.append(reader.calls)
    assert [] in found, "its name is not whole"
    cut = [call for calls in found for call in calls if not call.whole]
    assert {call.name for call in cut} <= {"add", "add_all"}
    assert any(call.arguments for call in cut)
    assert all(longer[0].arguments.startswith(call.arguments) for longer in found[-1:] for call in cut)
    assert not any(letter.isspace() for calls in found for call in calls for letter in call.arguments)

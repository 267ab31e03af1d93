"""OpenAI's own client against the server, with the nano behind it: everything it can ask for."""

from __future__ import annotations

import base64
import json
import re
import time

import openai
import pytest
from pydantic import BaseModel

from tests.conftest import REPOSITORY
from tests.e2e.served import PATIENCE

EXAMPLES = REPOSITORY / "src" / "internvl" / "nano" / "examples"
HELLO = [{"role": "user", "content": "Hello"}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "maximum": 9}, "b": {"type": "integer", "maximum": 9}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}


class Answer(BaseModel):
    yes: bool


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url, api_key="none", timeout=PATIENCE, max_retries=0) as one:
        yield one


def picture(name: str = "") -> str:
    [file, *_] = sorted(one for one in EXAMPLES.glob("*.png") if name in one.name)
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def shown(text: str, *urls: str):
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_models(client):
    assert [one.id for one in client.models.list()] == ["nano", "nano-c"]
    assert client.models.retrieve("nano").id == "nano"


def test_a_chat_and_its_stream_say_the_same(client):
    whole = client.chat.completions.create(model="nano", messages=HELLO)
    assert whole.choices[0].message.content
    chunks = list(client.chat.completions.create(
        model="nano", messages=HELLO, stream=True, stream_options={"include_usage": True}))  # fmt: skip
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    with client.chat.completions.stream(model="nano", messages=HELLO) as stream:
        assert stream.get_final_completion().choices[0].message.content == text


def test_the_block_of_the_page_about_serving_runs_and_ends_soon(server, capsys):
    """nano fills a number without a bound with digits until its context is full."""
    page = (REPOSITORY / "docs" / "serve.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert "http://127.0.0.1:8000/v1" in block
    begun = time.monotonic()
    exec(compile(block.replace("http://127.0.0.1:8000/v1", server.url), "serve.md", "exec", dont_inherit=True), {})
    assert time.monotonic() - begun < 20
    assert re.search(r"total=\d{1,3} currency='(EUR|USD)'\n$", capsys.readouterr().out)


def test_a_picture_is_counted(client):
    answer = client.chat.completions.create(model="nano", messages=shown("What is this?", picture()))
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens_details.to_dict()["image_tokens"] > 0


def test_a_tool_that_must_be_called(client):
    answer = client.chat.completions.create(
        model="nano", messages=[{"role": "user", "content": "What is 2 + 3?"}], tools=[ADD], tool_choice="required"
    )
    [call] = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "add"
    assert set(json.loads(call.function.arguments)) == {"a", "b"}
    followed = client.chat.completions.create(model="nano", tools=[ADD], max_tokens=8, messages=[
        {"role": "user", "content": "What is 2 + 3?"},
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "5"},
    ])  # fmt: skip
    assert followed.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_a_tool_of_the_clients_own_making_may_be_called_or_not(client):
    class Receipt(BaseModel):
        shop: str

    said = client.chat.completions.parse(model="nano", messages=[{"role": "user", "content": "Hello!"}], max_tokens=40,
                                         tools=[openai.pydantic_function_tool(Receipt)])  # fmt: skip
    [choice] = said.choices
    assert choice.message.content == choice.message.content.strip() != ""
    assert choice.finish_reason == "stop"


def test_an_answer_that_is_parsed(client):
    parsed = client.chat.completions.parse(model="nano", messages=HELLO, response_format=Answer)
    assert isinstance(parsed.choices[0].message.parsed, Answer)
    with client.chat.completions.stream(model="nano", messages=HELLO, response_format=Answer) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Answer)
    assert isinstance(client.responses.parse(model="nano", input="Hello", text_format=Answer).output_parsed, Answer)


def test_responses(client):
    whole = client.responses.create(model="nano", input="Hello")
    assert whole.output_text
    assert whole.usage.input_tokens > 0
    events = list(client.responses.create(model="nano", input="Hello", stream=True))
    assert "".join(one.delta for one in events if one.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == whole.output_text


def test_a_text_is_continued(client):
    whole = client.completions.create(model="nano", prompt=["The cat", "One, two,"], max_tokens=4, logprobs=2)
    assert [one.index for one in whole.choices] == [0, 1]
    assert len(whole.choices[0].logprobs.tokens) == len(whole.choices[0].logprobs.top_logprobs) <= 4
    pieces = list(client.completions.create(model="nano", prompt="The cat", max_tokens=4, stream=True))
    assert "".join(one.choices[0].text for one in pieces) == whole.choices[0].text


def test_vectors(client):
    texts = client.embeddings.create(model="nano-c", input=["a red circle", "two lines"])
    floats = client.embeddings.create(model="nano-c", input=["a red circle"], encoding_format="float")
    assert texts.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-5)
    assert texts.usage.prompt_tokens > 0
    seen = client.embeddings.create(
        model="nano-c", input=[], extra_body={"input": [{"type": "image_url", "image_url": {"url": picture()}}]}
    )
    assert len(seen.data[0].embedding) == len(texts.data[0].embedding)


def test_what_is_wrong_is_told_as_openai_does(client):
    with pytest.raises(openai.NotFoundError, match="other"):
        client.chat.completions.create(model="other", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="nano", messages=HELLO, n=1000)
    assert caught.value.param == "n"
    with pytest.raises(openai.BadRequestError, match="frequency_penalty"):
        client.chat.completions.create(model="nano", messages=HELLO, frequency_penalty=1)
    with pytest.raises(openai.UnprocessableEntityError):
        client.chat.completions.create(model="nano", messages=shown("What?", "data:image/png;base64,AAAA"))
    with pytest.raises(openai.BadRequestError, match="network"):
        client.chat.completions.create(model="nano", messages=shown("What?", "https://example.org/a.png"))

"""The official client sends what we take and reads what we answer, typed, streamed and refused."""

from __future__ import annotations

import base64
import json
import struct

import openai
import pytest
from openai.types import CreateEmbeddingResponse
from pydantic import BaseModel, TypeAdapter

from internvl.serving import replies
from internvl.serving.fields import understood
from internvl.serving.refusal import Refusal, queue_full, unavailable
from internvl.serving.replies import DONE, Choice, Chunks, Head, TokenSaid, Usage, event
from internvl.serving.response_events import Growing, response
from internvl.serving.responses import ResponsesRequest
from internvl.serving.tools import Call
from internvl.serving.translate import translate
from tests.serving.requests import ADD, HI, KINDS, Client, image

HEAD = Head("chatcmpl-1", "nano", 1_700_000_000)
USAGE = Usage(prompt=300, completion=4, cached=10, image=256)
A, B = TokenSaid("a", b"a", -0.5), TokenSaid("\ufffd", b"\xc3", float("-inf"))
SAID = (TokenSaid("a", b"a", -0.5, (A, B)), TokenSaid("b", b"b", -1.0))
ADDED = Call("add", '{"a": 1}')
QUESTION = [{"role": "user", "content": [image(), {"type": "text", "text": "What?"}]}]


def events_of(stream: Growing) -> list[dict]:
    return [
        *stream.begin(), *stream.words("a", SAID[:1]), *stream.words("b", SAID[1:]), *stream.call(ADDED),
        *stream.end("stop", USAGE),
    ]  # fmt: skip


def reply(path: str, body: dict) -> object:
    """A server that says "ab" to everything, and calls `add` where it must."""
    request = understood(KINDS[path], body) if path in KINDS else None
    calls = (ADDED,) if body.get("tool_choice") == "required" else ()
    if path == "/v1/models":
        return replies.models(["nano"], 1, context=4096)
    if path == "/v1/embeddings":
        as_base64 = body.get("encoding_format") == "base64"
        return replies.embeddings("nano", [[0.5, -1.0]] * len(request.inputs), 7, as_base64=as_base64)
    if path == "/v1/responses":
        growing = Growing(HEAD, request)
        if body.get("stream"):
            return b"".join(event(one, one["type"]) for one in events_of(growing))
        return response(growing, "ab", "length", USAGE, calls=calls, logprobs=SAID)
    job = translate(request)
    logprobs = SAID if job.logprobs else None
    if path == "/v1/completions":
        choices = [Choice(n, "ab", "length", logprobs=logprobs) for n in range(job.n * len(job.prompts))]
        if job.stream:
            pieces = [replies.TextChunks(HEAD).piece(Choice(0, "a", "stop"), done=False)]
            return (
                b"".join(map(event, [*pieces, replies.text_completion(HEAD, [Choice(0, "b", "stop")], USAGE)])) + DONE
            )
        return replies.text_completion(HEAD, choices, USAGE)
    if not job.stream:
        text = "" if calls else "ab"
        return replies.completion(HEAD, [Choice(n, text, "stop", calls, logprobs) for n in range(job.n)], USAGE)
    chunks = Chunks(HEAD, with_usage=job.include_usage)
    sent = [
        chunks.begin(0),
        chunks.words(0, "a", logprobs and logprobs[:1]),
        chunks.words(0, "b", logprobs and logprobs[1:]),
    ]
    sent += [chunks.calls(0, calls), chunks.end(0, "tool_calls")] if calls else [chunks.end(0, "stop")]
    return b"".join(map(event, sent + [chunks.usage(USAGE)] * job.include_usage)) + DONE


@pytest.fixture
def client():
    one = Client(reply)
    yield one
    one.close()


def test_chat(client):
    done = client.api.chat.completions.create(
        model="nano", messages=QUESTION, temperature=0, max_tokens=9, n=2, logprobs=True, top_logprobs=2, seed=1,
        stop=["x"], user="u", frequency_penalty=0, extra_body={"max_tiles": 6, "top_k": 5, "repetition_penalty": 1.1},
    )  # fmt: skip
    assert [choice.message.content for choice in done.choices] == ["ab", "ab"]
    assert done.choices[0].finish_reason == "stop"
    assert done.choices[0].logprobs.content[0].top_logprobs[1].logprob == -9999.0
    assert done.usage.total_tokens == 304
    assert done.usage.prompt_tokens_details.cached_tokens == 10
    assert done.usage.prompt_tokens_details.model_dump()["image_tokens"] == 256
    valid(done)


def valid(answer: BaseModel) -> None:
    """The client builds its objects without looking; here they are looked at."""
    type(answer).model_validate(answer.model_dump(exclude_unset=True))


def test_chat_streamed(client):
    stream = client.api.chat.completions.create(
        model="nano", messages=HI, stream=True, stream_options={"include_usage": True}, logprobs=True
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "ab"
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None, None, None, "stop"]
    assert chunks[-1].usage.prompt_tokens == 300
    assert (
        len([token for c in chunks if c.choices and c.choices[0].logprobs for token in c.choices[0].logprobs.content])
        == 2
    )
    for chunk in chunks:
        valid(chunk)


def test_the_clients_own_stream_helper(client):
    with client.api.chat.completions.stream(model="nano", messages=HI, tools=[ADD], tool_choice="required") as stream:
        for _ in stream:
            pass
        done = stream.get_final_completion()
    assert done.choices[0].finish_reason == "tool_calls"
    assert done.choices[0].message.tool_calls[0].function.name == "add"
    assert done.choices[0].message.tool_calls[0].function.arguments == '{"a": 1}'


def test_tools_there_and_back(client):
    asked = client.api.chat.completions.create(model="nano", messages=HI, tools=[ADD], tool_choice="required")
    message = asked.choices[0].message
    assert asked.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    valid(asked)
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "2"}
    for own in (message, message.model_dump(), message.model_dump(exclude_none=True)):
        done = client.api.chat.completions.create(model="nano", messages=[*HI, own, answer], tools=[ADD])
        assert done.choices[0].message.content == "ab"


class Total(BaseModel):
    total: float


def test_parsed_answers_are_asked_for_by_schema(client):
    with pytest.raises(Exception, match="JSON"):  # "ab" is no Total; what counts is that the request is taken
        client.api.chat.completions.parse(model="nano", messages=HI, response_format=Total)
    [(_, body)] = client.bodies
    form = translate(understood(KINDS["/v1/chat/completions"], body)).constraint
    assert json.loads(form.source)["properties"].keys() == {"total"}


def test_completions(client):
    done = client.api.completions.create(model="nano", prompt=["x", "y"], max_tokens=3, logprobs=2, echo=False)
    assert [choice.text for choice in done.choices] == ["ab", "ab"]
    assert done.choices[0].logprobs.text_offset == [0, 1]
    assert done.choices[0].logprobs.top_logprobs[0] == {"a": -0.5, "\ufffd": -9999.0}
    valid(done)
    stream = client.api.completions.create(model="nano", prompt="x", stream=True)
    assert [(c.choices[0].text, c.choices[0].finish_reason) for c in stream] == [("a", None), ("b", "stop")]


def test_responses(client):
    done = client.api.responses.create(
        model="nano", instructions="Be kind", max_output_tokens=3, store=False,
        tools=[{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}],
        include=["message.output_text.logprobs"], top_logprobs=2,
        input=[{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
    )  # fmt: skip
    assert done.output_text == "ab"
    assert done.status == "incomplete"
    assert done.incomplete_details.reason == "max_output_tokens"
    assert done.usage.output_tokens == 4
    assert done.output[0].content[0].logprobs[0].top_logprobs[0].token == "a"
    valid(done)
    again = client.api.responses.create(
        model="nano", input=[{"role": "user", "content": "Hi"}, *done.output, {"role": "user", "content": "And?"}]
    )
    assert again.output_text == "ab"


def test_responses_streamed(client):
    seen = list(client.api.responses.create(model="nano", input="Hi", stream=True))
    assert [one.sequence_number for one in seen] == list(range(len(seen)))
    assert seen[0].type == "response.created"
    assert seen[-1].type == "response.completed"
    assert seen[-1].response.output_text == "ab"
    assert [item.type for item in seen[-1].response.output] == ["message", "function_call"]
    assert "".join(one.delta for one in seen if one.type == "response.output_text.delta") == "ab"
    adapter = TypeAdapter(openai.types.responses.ResponseStreamEvent)
    for one in seen:
        adapter.validate_python(one.model_dump(exclude_unset=True))
    with client.api.responses.stream(model="nano", input="Hi") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "ab"


def test_events_are_numbered():
    events = events_of(Growing(HEAD, understood(ResponsesRequest, {"model": "nano", "input": "Hi"})))
    assert [one["sequence_number"] for one in events] == list(range(len(events)))


def test_streamed_and_whole_responses_are_the_same():
    request = understood(
        ResponsesRequest, {"model": "nano", "input": "Hi", "include": ["message.output_text.logprobs"]}
    )
    streamed = Growing(HEAD, request)
    events_of(streamed)
    whole = response(Growing(HEAD, request), "ab", "stop", USAGE, calls=[ADDED], logprobs=SAID)
    assert without_ids(streamed.response()) == without_ids(whole)


def without_ids(value: object) -> object:
    if isinstance(value, dict):
        return {name: without_ids(one) for name, one in value.items() if name not in ("id", "call_id")}
    return [without_ids(one) for one in value] if isinstance(value, list) else value


def test_a_response_that_breaks_off_says_so():
    growing = Growing(HEAD, understood(ResponsesRequest, {"model": "nano", "input": "Hi"}))
    [*growing.begin(), *growing.words("a")]
    [last] = growing.fail(unavailable())
    assert last["type"] == "response.failed"
    TypeAdapter(openai.types.responses.ResponseStreamEvent).validate_python(last)
    empty = Growing(HEAD, growing.request)
    assert [one["type"] for one in empty.end("stop", USAGE)][-1] == "response.completed"
    assert empty.response()["output"][0]["content"][0]["text"] == ""


def test_embeddings(client):
    done = client.api.embeddings.create(model="nano", input=["a", "b"])  # the client asks for base64, and unpacks it
    assert client.bodies[-1][1]["encoding_format"] == "base64"
    assert [one.embedding for one in done.data] == [[0.5, -1.0]] * 2
    pictures = client.api.embeddings.create(model="nano", input=[image()], encoding_format="float")
    assert pictures.data[0].embedding == [0.5, -1.0]
    CreateEmbeddingResponse.model_validate(pictures.model_dump())
    assert struct.unpack("<2f", base64.b64decode(replies.packed([0.5, -1.0]))) == (0.5, -1.0)


def test_models(client):
    [model] = client.api.models.list()
    assert model.id == "nano"
    valid(model)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refusal("no", status=404, param="model", code="model_not_found"), openai.NotFoundError),
        (Refusal("no", status=401), openai.AuthenticationError),
        (Refusal("no", status=422), openai.UnprocessableEntityError),
        (queue_full(2), openai.RateLimitError),
        (unavailable(), openai.InternalServerError),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_refusals_are_the_clients_errors(refusal, kind):
    def fail(path, body):
        raise refusal

    client = Client(fail)
    with pytest.raises(kind) as error:
        client.api.chat.completions.create(model="nano", messages=HI)
    assert error.value.code == refusal.code
    assert error.value.param == refusal.param
    assert error.value.body["message"] == refusal.message
    client.close()


def test_a_field_that_is_not_honoured_is_the_clients_bad_request(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.api.chat.completions.create(model="nano", messages=HI, logit_bias={"1": 5})
    assert error.value.param == "logit_bias"


def test_tokens():
    assert replies.tokenized([5, 6], 4096) == {
        "count": 2, "max_model_len": 4096, "tokens": [5, 6], "token_strs": None,
    }  # fmt: skip

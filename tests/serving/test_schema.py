"""What is taken and what is refused, and that a refusal names the field: one table for each."""

from __future__ import annotations

import dataclasses

import pytest

from internvl.errors import UsageError
from internvl.inference.sampling import SamplingConfig
from internvl.serving.fields import RequestLimits
from internvl.serving.order import Sampling
from internvl.serving.responses import ResponsesRequest
from internvl.serving.schema import ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest
from tests.serving.requests import ADD, HI, KINDS, PDF, PNG, chat, image, refusal, shown

CALLED = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TALK = [*HI, {"role": "assistant", "content": None, "tool_calls": [CALLED]}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
NAMED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://example.org/clip.mp4"}}
FILE = {"type": "file", "file": {"file_data": PDF, "filename": "paper.pdf"}}


def nested(depth: int) -> dict:
    schema: dict = {}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


TAKEN = [
    (ChatRequest, chat()),
    (ChatRequest, shown(image(), "What is this?")),
    (ChatRequest, shown("a", image("https://example.org/a.png", detail="low"), image(detail="high"), "b", "")),
    (ChatRequest, shown(image(max_dynamic_patch=6), image(max_dynamic_patch=None), "What?")),
    (ChatRequest, shown(VIDEO, FILE, "What?")),
    (ChatRequest, chat(messages=[{"role": "developer", "content": [{"type": "text", "text": "Be kind"}]}, *HI])),
    (ChatRequest, chat(messages=[*TALK, {"role": "tool", "tool_call_id": "c1", "content": "2", "name": "add"}])),
    (ChatRequest, chat(messages=[*TALK, {"role": "tool", "content": "2"}])),
    (ChatRequest, chat(tools=[ADD])),
    *[(ChatRequest, chat(tools=[ADD], tool_choice=choice)) for choice in ("none", "auto", "required")],
    (ChatRequest, chat(tools=[ADD], tool_choice={"type": "function", "function": {"name": "add"}})),
    (ChatRequest, chat(tools=[], parallel_tool_calls=False)),
    (ChatRequest, chat(tools=[ADD], tool_choice="none", response_format=NAMED)),
    (ChatRequest, chat(response_format={"type": "text"}, guided_choice=["yes", "no"])),
    (ChatRequest, chat(response_format={"type": "json_object"})),
    (ChatRequest, chat(guided_regex="[0-9]+")),
    (ChatRequest, chat(guided_json=SCHEMA)),
    (ChatRequest, chat(structured_outputs={"json": SCHEMA, "disable_fallback": False})),
    (ChatRequest, chat(logprobs=True, top_logprobs=20)),
    (ChatRequest, chat(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})),
    (ChatRequest, chat(stop="\n\n and then some", seed=-1, n=2, temperature=1, top_p=0.9, top_k=-1)),
    (ChatRequest, chat(stop=["a", "b", "c", "d"], max_tokens=5, max_completion_tokens=5, min_tokens=0)),
    (ChatRequest, chat(repetition_penalty=1.1, user="u", max_tiles=6, num_frames=8)),
    # What clients send by themselves: the API's own defaults.
    (ChatRequest, chat(frequency_penalty=0, presence_penalty=0.0, logit_bias={}, store=False, metadata=None)),
    *[(ChatRequest, chat(service_tier=tier)) for tier in (None, "auto", "default", "flex")],
    (CompletionRequest, {"model": "m", "prompt": "Once", "service_tier": "flex"}),
    (ResponsesRequest, {"model": "m", "input": "Hi", "service_tier": "flex"}),
    (ChatRequest, chat(service_tier="auto", parallel_tool_calls=True, modalities=["text"], functions=[], min_p=0)),
    (ChatRequest, chat(temperature=None, stop=None, n=None, tools=None, stream=None, response_format=None)),
    (CompletionRequest, {"model": "m", "prompt": "Once", "best_of": 1, "echo": False, "suffix": None, "logprobs": 5}),
    (CompletionRequest, {"model": "m", "prompt": ["a", "b"], "guided_regex": "a+"}),
    (ResponsesRequest, {"model": "m", "input": "Hi", "instructions": "Be kind", "store": False}),
    (ResponsesRequest, {"model": "m", "input": [{"role": "user", "content": "Hi"}], "truncation": "disabled"}),
    (EmbeddingRequest, {"model": "m", "input": "Hi", "encoding_format": "base64"}),
    (EmbeddingRequest, {"model": "m", "input": ["Hi", image(), {"type": "text", "text": "a"}], "user": "u"}),
    (TokenizeRequest, {"prompt": "Hi", "add_special_tokens": True, "return_token_strs": False}),
    (TokenizeRequest, {"model": "m", "messages": HI, "add_generation_prompt": True, "tools": [ADD]}),
]


@pytest.mark.parametrize(("kind", "body"), TAKEN, ids=str)
def test_taken(kind, body):
    assert refusal(kind, body) is None


def extra(*messages: dict) -> dict:
    return chat(messages=[*messages])


REFUSED = [  # the request, the field that is named, a word of what is said
    (chat(max_token=3), "max_token", "did you mean 'max_tokens'"),
    (chat(temprature=0), "temprature", "did you mean 'temperature'"),
    (chat(zzzzzz=0), "zzzzzz", "no such field"),
    (chat(**{"a\nb": 0}), "a\\nb", "no such field"),
    ({"messages": HI}, "model", "missing"),
    ({"model": "m"}, "messages", "missing"),
    (chat(messages=None), "messages", "an array"),
    (chat(messages=[]), "messages", "empty"),
    (chat(messages="Hi"), "messages", "an array"),
    (extra({"role": "usr", "content": "Hi"}), "messages[0].role", "did you mean 'user'"),
    (extra({"content": "Hi"}), "messages[0].role", "missing"),
    (extra({"role": 5, "content": "Hi"}), "messages[0].role", "string"),
    (extra(*HI, {"role": "system", "content": "Be"}), "messages[1].role", "before all others"),
    (extra(*HI, {"role": "assistant", "content": "Ho"}), "messages[1].role", "end with"),
    (extra(*HI, {"role": "assistant"}, *HI), "messages[1].content", "neither"),
    (extra({"role": "user", "content": "Hi", "name": "Ann"}), "messages[0].name", "not honoured"),
    (extra({"role": "user", "content": None}), "messages[0].content", "an array"),
    (extra({"role": "system", "content": [image()]}, *HI), "messages[0].content[0].type", "system messages take text"),
    (extra(*TALK, {"role": "tool", "tool_call_id": "c2", "content": ""}), "messages[2].tool_call_id", "no call"),
    (extra(*TALK, {"role": "tool", "tool_call_id": "c1", "content": "", "name": "sub"}), "messages[2].name", "'add'"),
    (shown({"type": "input_audio", "input_audio": {}}), "messages[0].content[0].type", "expected one of"),
    (shown(image("ftp://example.org/a")), "messages[0].content[0].image_url.url", "no address"),
    (shown(image("pictures/a.png")), "messages[0].content[0].image_url.url", "no address"),
    (shown(image("https://[")), "messages[0].content[0].image_url.url", "no address"),
    (shown(image("data:image/png;base64")), "messages[0].content[0].image_url.url", "comma"),
    (shown(image(detail="max")), "messages[0].content[0].image_url.detail", "'low'"),
    (shown(image(max_dynamic_patch=0)), "messages[0].content[0].image_url.max_dynamic_patch", "at least 1"),
    (shown(image(max_dynamic_patch=10**6)), "messages[0].content[0].image_url.max_dynamic_patch", "at most 128"),
    (shown({"type": "image_url", "image_url": PNG}), "messages[0].content[0].image_url", "an object"),
    (shown({"type": "file", "file": {"file_id": "f"}}), "messages[0].content[0].file.file_id", "not honoured"),
    (chat(max_tokens="3"), "max_tokens", "whole number, found '3'"),
    (chat(max_tokens=True), "max_tokens", "whole number, found true"),
    (chat(max_tokens=0), "max_tokens", "at least 1"),
    (chat(max_tokens=3, max_completion_tokens=4), "max_completion_tokens", "max_tokens is 3"),
    (chat(temperature=2.5), "temperature", "at most 2"),
    (chat(temperature=float("inf")), "temperature", "finite"),
    (chat(top_p=-0.1), "top_p", "at least 0"),
    (chat(n=0), "n", "at least 1"),
    (chat(stop=""), "stop", "empty"),
    (chat(stop=["a", ""]), "stop", "empty"),
    (chat(stop=["a", 5]), "stop[1]", "a string, found 5"),
    (chat(seed=2**63), "seed", "below"),
    (chat(top_logprobs=5), "top_logprobs", "logprobs: true"),
    (chat(stream_options={"include_usage": True}), "stream_options", "stream"),
    (chat(frequency_penalty=0.5), "frequency_penalty", "not honoured here; leave it out, or send 0"),
    (chat(presence_penalty=-1), "presence_penalty", "not honoured"),
    (chat(min_p=0.1), "min_p", "not honoured"),
    (chat(logit_bias={"50256": -100}), "logit_bias", "not honoured here; leave it out, or send {}"),
    (chat(num_beams=4), "num_beams", "not honoured here; leave it out, or send 1"),
    (chat(store=True), "store", "send false"),
    (chat(store=0), "store", "not honoured"),
    (chat(metadata={"a": "b"}), "metadata", "not honoured"),
    (chat(service_tier="priority"), "service_tier", "'priority' is not honoured here; leave it out, or send 'flex'"),
    (chat(service_tier=1), "service_tier", "expected 'auto', 'default' or 'flex', found 1"),
    (chat(modalities=["text", "audio"]), "modalities", "not honoured"),
    (chat(chat_template="{{ x }}"), "chat_template", "not honoured"),
    (chat(chat_template_kwargs={"tokenize": False}), "chat_template_kwargs", "not honoured"),
    (chat(guided_grammar="root ::= 'a'"), "guided_grammar", "not honoured"),
    (chat(guided_regex="a", guided_choice=["b"]), "guided_choice", "guided_regex asks for another form"),
    (chat(guided_regex="a", response_format={"type": "json_object"}), "guided_regex", "response_format"),
    (chat(structured_outputs={}), "structured_outputs", "one of json"),
    (chat(structured_outputs={"regex": "a", "choice": ["b"]}), "structured_outputs", "another form"),
    (chat(structured_outputs={"grammar": "a"}), "structured_outputs.grammar", "not honoured"),
    (chat(guided_choice=[]), "guided_choice", "at least 1"),
    (chat(guided_choice=[""]), "guided_choice[0]", "at least 1"),
    (chat(tools=[ADD], response_format=NAMED), "response_format", "tools asks for another form"),
    (chat(tools=[ADD], response_format=NAMED), "response_format", "send one of them (tools with tool_choice none)"),
    (chat(tools=[ADD, ADD]), "tools[1].function.name", "two tools"),
    (chat(tools=[{"type": "web_search"}]), "tools[0].type", "'function'"),
    (chat(tool_choice="auto"), "tool_choice", "no tools"),
    (chat(tools=[ADD], tool_choice="any"), "tool_choice", "'required'"),
    (chat(tools=[ADD], tool_choice="required", stop=["}"]), "stop", "would cut the call"),
    (chat(tools=[ADD], tool_choice={"type": "function", "function": {"name": "sub"}}), "tool_choice", "add"),
    (chat(response_format={"type": "xml"}), "response_format.type", "json_object"),
    (chat(response_format={"type": "json_schema"}), "response_format.json_schema", "missing"),
    (chat(guided_json={"$ref": "https://example.org/schema"}), "guided_json", "only references inside it"),
    (chat(guided_json=nested(30)), "guided_json", "nested deeper than 32"),
    (chat(guided_json={"enum": ["x" * 70_000]}), "guided_json", "at most 65,536"),
    (chat(user="\ud800"), "user", "Unicode"),
    ([], None, "an object, found an array"),
    (None, None, "an object, found null"),
]


@pytest.mark.parametrize(("body", "param", "word"), REFUSED, ids=[f"{p}: {w}" for _, p, w in REFUSED])
def test_refused_by_name(body, param, word):
    error = refusal(ChatRequest, body)
    assert error is not None
    assert error.param == param
    assert error.status == 400
    assert word in error.message
    assert "\n" not in error.message
    assert error.body()["error"] == {
        "message": error.message,
        "type": "invalid_request_error",
        "param": param,
        "code": error.code,
    }
    assert error.code


def asked(content: object, role: str = "user") -> dict:
    return chat(messages=[{"role": role, "content": content}, *HI])


MISSING, TYPE = "missing_required_parameter", "invalid_type"
GIVEN = "this field is missing; it must be given"
EITHER = "expected a string or an array, found"
CODED = [  # the code, and all that is said
    (ChatRequest, chat(messages=[{"content": "a"}]), MISSING, f"messages[0].role: {GIVEN}"),
    (ChatRequest, chat(messages=[{"role": 5}]), TYPE, "messages[0].role: expected a string, found 5"),
    (ChatRequest, chat(messages=["hi"]), TYPE, "messages[0]: expected an object, found 'hi'"),
    (ChatRequest, shown({"text": "a"}), MISSING, f"messages[0].content[0].type: {GIVEN}"),
    (ChatRequest, asked(["hi"]), TYPE, "messages[0].content[0]: expected an object, found 'hi'"),
    (ChatRequest, asked(5), TYPE, f"messages[0].content: {EITHER} 5"),
    (ChatRequest, asked(None), TYPE, f"messages[0].content: {EITHER} null"),
    (ChatRequest, asked({}, "assistant"), TYPE, f"messages[0].content: {EITHER} an object"),
    (ChatRequest, chat(stop=5), TYPE, f"stop: {EITHER} 5"),
    (ChatRequest, chat(tools=[ADD], tool_choice=5), TYPE, "tool_choice: expected a string or an object, found 5"),
    (ChatRequest, chat(response_format="json"), TYPE, "response_format: expected an object, found 'json'"),
    (ChatRequest, chat(response_format={}), MISSING, f"response_format.type: {GIVEN}"),
    (ChatRequest, chat(service_tier=5), TYPE, "service_tier: expected 'auto', 'default' or 'flex', found 5"),
    (ChatRequest, chat(user="u" * 600), "limit_exceeded", "user: expected at most 512 letter(s), found 600"),
    (ChatRequest, chat(response_format={"type": "xml"}), "invalid_value",
     "response_format.type: expected one of text, json_object, json_schema, found 'xml'"),
    *[(ChatRequest, asked([image()], role), "invalid_value",
       f"messages[0].content[0].type: {role} messages take text only, found 'image_url'")
      for role in ("system", "developer", "assistant", "tool")],
    (ChatRequest, chat(tools=[{"type": "custom", "custom": {}}]), "invalid_value",
     "tools[0].type: expected 'function', found 'custom'"),
    (ChatRequest, chat(tools=[ADD], tool_choice={"type": "allowed_tools", "allowed_tools": {}}), "invalid_value",
     "tool_choice.type: expected 'function', found 'allowed_tools'"),
    (ResponsesRequest, {"model": "m", "input": "a", "tools": [{"type": "web_search", "filters": {}}]}, "invalid_value",
     "tools[0].type: expected 'function', found 'web_search'"),
    (ResponsesRequest, {"model": "m", "input": 5}, TYPE, f"input: {EITHER} 5"),
    (ResponsesRequest, {"model": "m", "input": ["a"]}, TYPE, "input[0]: expected an object, found 'a'"),
    (ResponsesRequest, {"model": "m", "input": [{"type": None}]}, TYPE, "input[0].type: expected a string, found null"),
    (CompletionRequest, {"model": "m", "prompt": 5}, TYPE, f"prompt: {EITHER} 5"),
    (EmbeddingRequest, {"model": "m", "input": 5}, TYPE, f"input: {EITHER} 5"),
    (EmbeddingRequest, {"model": "m", "input": [None]}, TYPE, "input[0]: expected a string or an object, found null"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "code", "message"), CODED, ids=[said for *_, said in CODED])
def test_what_is_missing_of_another_type_or_too_long_has_its_own_code_and_says_what_was_found(
    kind, body, code, message
):
    error = refusal(kind, body)
    assert error is not None
    assert (error.code, error.message) == (code, message)
    assert error.param == message.partition(":")[0]


OTHERS_REFUSED = [
    (CompletionRequest, {"model": "m", "prompt": [1, 2, 3]}, "prompt", "token ids"),
    (CompletionRequest, {"model": "m", "prompt": "a", "echo": True}, "echo", "not honoured"),
    (CompletionRequest, {"model": "m", "prompt": "a", "messages": HI}, "messages", "no such field"),
    (CompletionRequest, {"model": "m", "prompt": "a", "service_tier": "scale"}, "service_tier", "not honoured"),
    (ResponsesRequest, {"model": "m", "input": "a", "service_tier": "priority"}, "service_tier", "not honoured"),
    (ResponsesRequest, {"model": "m", "input": "a", "store": True}, "store", "not honoured"),
    *[(ResponsesRequest, {"model": "m", "input": "a", name: 1}, name, "no such field here")
      for name in ("seed", "stop", "n", "min_tokens", "top_k", "repetition_penalty", "guided_json",
                   "structured_outputs", "num_frames")],
    (ResponsesRequest, {"model": "m", "input": "a", "tools": [{**ADD["function"], "type": "function"}],
                        "text": {"format": {"type": "json_object"}}}, "text.format", "tools with tool_choice none"),
    (ResponsesRequest, {"model": "m", "input": "a", "previous_response_id": "r"}, "previous_response_id", "not hon"),
    (ResponsesRequest, {"model": "m", "input": "a", "tools": [{"type": "web_search"}]}, "tools[0].type", "function"),
    (ResponsesRequest, {"model": "m", "input": [{"type": "item_reference", "id": "a"}]}, "input[0].type", "message"),
    (ResponsesRequest, {"model": "m", "input": [{"role": "user", "content": [{"type": "output_text", "text": "a"}]}]},
     "input[0].content[0].type", "does not hold"),
    (ResponsesRequest, {"model": "m", "input": "a", "reasoning": {"effort": "low"}}, "reasoning", "not honoured"),
    (ResponsesRequest, {"model": "m", "input": "a", "text": {"format": {"type": "json_schema"}}}, "text.format.name",
     "missing"),
    (EmbeddingRequest, {"model": "m", "input": [[1, 2]]}, "input", "token ids"),
    (EmbeddingRequest, {"model": "m", "input": "a", "dimensions": 8}, "dimensions", "not honoured"),
    (EmbeddingRequest, {"model": "m", "input": ""}, "input", "empty"),
    (EmbeddingRequest, {"model": "m", "input": [VIDEO]}, "input[0].type", "image_url"),
    (EmbeddingRequest, {"model": "m", "input": ["a", image(max_dynamic_patch=2)]},
     "input[1].image_url.max_dynamic_patch", "one view"),
    (TokenizeRequest, {"model": "m"}, "prompt", "one of them"),
    (TokenizeRequest, {"prompt": "a", "messages": HI}, "prompt", "one of them"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "param", "word"), OTHERS_REFUSED, ids=str)
def test_the_others_refuse_by_name(kind, body, param, word):
    error = refusal(kind, body)
    assert error is not None
    assert error.param == param
    assert word in error.message


@pytest.mark.parametrize(
    ("part", "kind"),
    [(image("data:text/html;base64,AA"), "text/html"), (image(PDF), "application/pdf"),
     ({"type": "file", "file": {"file_data": PNG}}, "image/png")],
)  # fmt: skip
def test_a_medium_of_another_kind_is_415(part, kind):
    error = refusal(ChatRequest, shown(part))
    assert error is not None
    assert error.status == 415
    assert kind in error.message


LIMITS = [
    ("messages", chat(messages=HI * 3), "messages"),
    ("parts", shown("a", "b", "c"), "messages[0].content"),
    ("media", shown(image(), image(), image()), "messages"),
    ("images", shown(image(), image(), image()), "messages"),
    ("tools", chat(tools=[ADD, ADD, ADD]), "tools"),
    ("stop", chat(stop=["a", "b", "c"]), "stop"),
    ("stop_letters", chat(stop=["abc"]), "stop"),
    ("n", chat(n=3), "n"),
    ("top_logprobs", chat(logprobs=True, top_logprobs=3), "top_logprobs"),
    ("pattern", chat(guided_regex="aaa"), "guided_regex"),
    ("choices", chat(guided_choice=["a", "b", "c"]), "guided_choice"),
    ("schema_depth", chat(guided_json=nested(2)), "guided_json"),
    ("schema_bytes", chat(guided_json={"a": 1}), "guided_json"),
    ("tokens", chat(max_tokens=3), "max_tokens"),
    ("tiles", chat(max_tiles=3), "max_tiles"),
    ("frames", chat(num_frames=3), "num_frames"),
    ("prompts", {"model": "m", "prompt": ["a", "b", "c"]}, "prompt"),
    ("inputs", {"model": "m", "input": ["a", "b", "c"]}, "input"),
]


@pytest.mark.parametrize(("limit", "body", "param"), LIMITS, ids=[limit for limit, _, _ in LIMITS])
def test_every_limit_is_kept_and_says_both_numbers(limit, body, param):
    kind = {"prompts": CompletionRequest, "inputs": EmbeddingRequest}.get(limit, ChatRequest)
    assert refusal(kind, body) is None or limit in ("tools", "messages")
    error = refusal(kind, body, dataclasses.replace(RequestLimits(), **{limit: 2}))
    assert error is not None
    assert error.param == param
    assert error.code == "limit_exceeded"
    assert "2" in error.message


def test_pictures_to_embed_are_media():
    body = {"model": "m", "input": ["a", *[image()] * 129]}
    error = refusal(EmbeddingRequest, body)
    assert error is not None
    assert (error.code, error.param) == ("limit_exceeded", "input")
    assert refusal(EmbeddingRequest, body, dataclasses.replace(RequestLimits(), media=129)) is None


@pytest.mark.parametrize(("limit", "what"), [("media", "pictures, videos and documents"), ("images", "pictures")])
def test_none_of_them_are_taken(limit, what):
    limits = dataclasses.replace(RequestLimits(), **{limit: 0})
    for kind, body, param in (
        (ChatRequest, shown("a", image()), "messages[0].content[1].image_url.url"),
        (EmbeddingRequest, {"model": "m", "input": ["a", image()]}, "input[1].image_url.url"),
    ):
        error = refusal(kind, body, limits)
        assert error is not None
        assert (error.param, error.code) == (param, "media_refused"), "as with frames=0 and pages=0"
        assert "taken here; send text" in error.message
    assert refusal(ChatRequest, shown("a"), limits) is None
    video = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    assert (refusal(ChatRequest, shown(video), limits) is None) == (limit == "images")
    with pytest.raises(UsageError, match="at least 0"):
        dataclasses.replace(limits, **{limit: -1})


def test_every_limit_has_a_test():
    of_bytes = {"body", "depth", "values", "text"}  # in test_fields.py
    assert {limit for limit, _, _ in LIMITS} | of_bytes == {field.name for field in dataclasses.fields(RequestLimits)}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_defaults_are_taken_and_anything_else_is_refused(kind):
    base = next(body for other, body in TAKEN if other is kind)
    for name, accepted in kind.only.items():
        bare = {field: value for field, value in base.items() if field != name}
        for value in accepted:
            assert refusal(kind, {**bare, name: value}) is None, name
        error = refusal(kind, {**bare, name: "something else"})
        assert error is not None
        assert (error.param, error.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_a_schema_can_be_published(kind):
    published = kind.model_json_schema()
    assert set(kind.only) <= set(published["properties"])
    assert published["additionalProperties"] is False


def test_sampling_says_what_sampling_can_honour():
    """Each field of ours is one of theirs, and theirs that are missing are refused or of beam search."""
    ours = {field.name for field in dataclasses.fields(Sampling)}
    theirs = {field.name for field in dataclasses.fields(SamplingConfig)}
    assert ours <= theirs
    assert theirs - ours == {"beams", "length_penalty", "early_stopping"}
    assert SamplingConfig(**Sampling(temperature=0.5, top_p=0.9).arguments(room=7)).max_new_tokens == 7

"""Bytes that strangers send: strict JSON of bounded extent, and no error but the one class."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from internvl.errors import (
    CheckpointError,
    ContextOverflow,
    MediaRefused,
    MediaUnreadable,
    PlaceholderMismatch,
    UsageError,
)
from internvl.serving import refusal as refusals
from internvl.serving.fields import RequestLimits, read_json, understood
from internvl.serving.refusal import Refusal, check_content_type, check_model, refusal_of
from internvl.serving.responses import ResponsesRequest
from internvl.serving.schema import ChatRequest, CompletionRequest, EmbeddingRequest
from internvl.serving.translate import translate
from tests.serving.requests import ADD, HI, KINDS, PNG, chat, image
from tests.serving.test_schema import TAKEN

NAMES = sorted({name for kind in KINDS.values() for name in (*kind.model_fields, *kind.only)})
INNER = ["type", "role", "content", "text", "image_url", "url", "detail", "function", "name", "parameters", "schema"]
WORDS = ["user", "system", "tool", "assistant", "text", "image_url", "json_schema", "function", "auto", "@text", PNG]

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(WORDS), st.just(HI),
    st.just([ADD]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(INNER) | st.text(), inside, max_size=3)
    ),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
@settings(max_examples=60, deadline=None)
@given(body=BODIES, whole=st.booleans())
def test_any_values_are_understood_or_refused(kind, body, whole):
    base = {"model": "m", "messages": HI, "prompt": "a", "input": "a"}
    known = {name: value for name, value in base.items() if name in kind.model_fields}
    if "prompt" in known and "messages" in known:
        del known["messages"]
    error = outcome(lambda: follow(understood(kind, {**known, **body} if whole else body)))
    if error is not None:
        assert error.status in (400, 415)
        assert "\n" not in error.message
        json.dumps(error.body(), allow_nan=False)


@settings(max_examples=150, deadline=None)
@given(taken=st.sampled_from(TAKEN), draw=st.data())
def test_a_good_request_with_one_wrong_value_is_understood_or_refused(taken, draw):
    """The wrong value reaches far inside, where one of random fields does not."""
    kind, body = taken
    body = json.loads(json.dumps(body))
    place: Any = body
    while True:
        key = draw.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not (isinstance(place[key], dict | list) and place[key]) or draw.draw(st.booleans()):
            break
        place = place[key]
    place[key] = draw.draw(VALUES)
    error = outcome(lambda: follow(understood(kind, body)))
    assert error is None or error.status in (400, 415)


def outcome(act: Callable[[], object]) -> Refusal | None:
    """The refusal that something ends with, if it does; any other error is a fault."""
    try:
        act()
    except Refusal as error:
        return error
    return None


def follow(request: Any) -> None:
    """What is done with a request that is understood."""
    if isinstance(request, EmbeddingRequest):
        assert request.inputs
    else:
        translate(request)


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=40) | st.text(alphabet='[]{}",:0123eE+-.\\untrl ', max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(body):
    error = outcome(lambda: read_json(body))
    assert error is None or error.code == "invalid_json"


@settings(max_examples=50, deadline=None)
@given(body=BODIES.filter(lambda body: "inf" not in repr(body) and "nan" not in repr(body)))
def test_what_is_json_is_read_as_it_is(body):
    assert read_json(json.dumps(body).encode()) == body


DEEP = 200_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP,
        b'{"a":' * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * 70 + b"1" + b"}" * 70,
        json.dumps(chat()).encode()[:-1] + b', "guided_json": ' + b'{"a":' * 900 + b"1" + b"}" * 901,
    ],
    ids=["open", "open objects", "closed", "a little", "in a schema"],
)
def test_depth_bombs_are_refused(body):
    with pytest.raises(Refusal, match="nested deeper than 64"):
        read_json(body)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "not proper JSON"),
        (b"\xff{}", "not proper JSON"),
        (b'{"a": NaN}', "not proper JSON"),
        (b'{"a": -Infinity}', "not proper JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not proper JSON"),
        (b"[]", "the body is an array"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
    ],
)
def test_refused_json(body, word):
    with pytest.raises(Refusal, match=word):
        read_json(body)


def test_a_number_that_overflows_is_no_number():
    body = read_json(json.dumps(chat()).encode()[:-1] + b', "temperature": 1e999}')
    with pytest.raises(Refusal, match="finite"):
        understood(ChatRequest, body)


def small(**limits: int) -> RequestLimits:
    return dataclasses.replace(RequestLimits(), **limits)


def test_the_extent_of_a_body():
    body = json.dumps(chat(messages=[{"role": "user", "content": [image(), {"type": "text", "text": "abc"}]}])).encode()
    assert read_json(body)
    with pytest.raises(Refusal) as too_large:
        read_json(body, small(body=len(body) - 1))
    assert (too_large.value.status, too_large.value.code) == (413, "body_too_large")
    with pytest.raises(Refusal, match="more than 9 values"):
        read_json(body, small(values=9))
    with pytest.raises(Refusal, match="bytes of text"):
        read_json(body, small(text=50))
    with pytest.raises(UsageError, match="must be at least 1"):
        small(text=0)


def test_a_picture_is_no_text_but_text_that_begins_like_one_is():
    long = "data:," + "a" * 5000
    shown = {"messages": [{"content": [{"image_url": {"url": long}}, {"image_url": long}, {"file_data": long}]}]}
    assert read_json(json.dumps(shown).encode(), small(text=1000))
    with pytest.raises(Refusal, match="bytes of text"):
        read_json(json.dumps({"text": long}).encode(), small(text=1000))


def test_many_names_twice_take_no_long_time():
    """A search for the first name that repeats is linear; a quadratic one would not end within the timeout."""
    body = "{" + ",".join(f'"{n}":0' for n in range(200_000)) + ',"0":1}'
    with pytest.raises(Refusal, match="'0' stands twice"):
        read_json(body.encode())


WRONG = [1] * 5000
"""Less than any limit but that of messages; each of them is a fault."""


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ChatRequest, {"messages": WRONG}),
        (ChatRequest, {"messages": HI, "tools": WRONG}),
        (ChatRequest, {"messages": [{"role": "user", "content": WRONG}]}),
        (ChatRequest, {"messages": [{"role": "system", "content": WRONG}]}),
        (ChatRequest, {"messages": [{"role": "assistant", "content": "", "tool_calls": WRONG}]}),
        (ChatRequest, {"messages": HI, "stop": WRONG}),
        (ChatRequest, {"messages": HI, "guided_choice": WRONG}),
        (ChatRequest, {"messages": HI, "structured_outputs": {"choice": WRONG}}),
        (CompletionRequest, {"prompt": [{}] * 5000}),
        (EmbeddingRequest, {"input": [None] * 5000}),
        (ResponsesRequest, {"input": WRONG}),
        (ResponsesRequest, {"input": [{"role": "user", "content": WRONG}]}),
        (ResponsesRequest, {"input": [{"type": "function_call_output", "call_id": "a", "output": WRONG}]}),
        (ResponsesRequest, {"input": "a", "include": WRONG}),
        (ResponsesRequest, {"input": "a", "tools": WRONG}),
    ],
)
@pytest.mark.parametrize("limit", [10, 100_000])
def test_a_long_list_of_wrong_values_has_few_faults(kind, fields, limit):
    """Building a fault for each would hold up everybody's request."""
    limits = small(**dict.fromkeys(("messages", "parts", "tools", "stop", "choices", "prompts", "inputs"), limit))
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({"model": "m", **fields}, context=limits)
    assert caught.value.error_count() == 1
    assert outcome(lambda: understood(kind, {"model": "m", **fields}, limits)) is not None


def test_a_list_is_counted_before_it_is_looked_at():
    error = outcome(lambda: understood(ChatRequest, {"model": "m", "messages": WRONG}))
    assert error is not None
    assert (error.code, error.param) == ("limit_exceeded", "messages")


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextOverflow("9000 tokens"), 400, "context_length_exceeded"),
        (MediaRefused("not from there"), 400, "media_refused"),
        (MediaUnreadable("damaged"), 422, "media_unreadable"),
        (PlaceholderMismatch("1 and 2"), 400, "invalid_prompt"),
        (UsageError("no"), 400, "invalid_value"),
        (refusals.queue_full(3), 429, "queue_full"),
        (refusals.unavailable(), 503, "unavailable"),
        (refusals.no_key(), 401, "invalid_api_key"),
        (CheckpointError("in /secret/place"), 500, "internal_error"),
        (RuntimeError("0x7f00 /secret/place"), 500, "internal_error"),
        (RecursionError(), 500, "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_every_error_has_a_status(error, status, code):
    found = refusal_of(error)
    assert (found.status, found.code) == (status, code)
    assert "secret" not in found.message
    assert set(found.body()["error"]) == {"message", "type", "param", "code"}


def test_headers_and_types():
    assert refusals.queue_full(0).headers() == {"Retry-After": "1"}
    assert refusals.unavailable(retry_after=7).headers() == {"Retry-After": "7"}
    assert refusals.no_key().headers() == {"WWW-Authenticate": "Bearer"}
    assert refusals.queue_full(1).type == "rate_limit_error"
    assert refusals.internal().type == "server_error"
    assert len(Refusal("x" * 5000).message) <= 600


def test_models_and_content_types():
    assert check_model(None, ["nano", "b"]) == "nano"
    assert check_model("b", ["nano", "b"]) == "b"
    with pytest.raises(Refusal, match="served here: nano") as unknown:
        check_model("gpt-4o", ["nano"])
    assert (unknown.value.status, unknown.value.code, unknown.value.param) == (404, "model_not_found", "model")
    for header in (
        "application/json",
        "application/json; charset=utf-8",
        'application/json;charset="UTF8"',
        "Application/JSON",
    ):
        check_content_type(header)
        check_content_type(header, "identity")
    for header in (None, "", "text/plain", "multipart/form-data; boundary=a",
                   "application/json; charset=latin1", 'application/json;a=b;Charset = "utf-16"'):  # fmt: skip
        with pytest.raises(Refusal) as wrong:
            check_content_type(header)
        assert wrong.value.status == 415


def test_nothing_here_loads_torch():
    names = ["fields", "messages", "refusal", "replies", "response_events", "responses", "schema", "tools", "translate"]
    code = (
        f"import sys\nfor name in {names}: __import__('internvl.serving.' + name)\n"
        "print({'torch', 'PIL', 'av'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

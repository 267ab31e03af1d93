"""What the server answers when it refuses: the tables of errors are those of the source, and places are named."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import internvl.serving
from internvl.serving import refusal
from internvl.serving.refusal import Refusal
from tests.serving.echo import FACTS, Echo, served
from tests.serving.requests import ADD, HI, PDF, chat, image

SERVING = Path(internvl.serving.__file__).parent
TABLE = Path(__file__).parents[2] / "docs" / "serve.md"

Pairs = set[tuple[int, str]]
PASSED_ON = "renamed"
"""The function that gives on what another has refused."""
BY_KIND = "of_validation"
"""The function whose codes are those of the kinds of faults."""


def refusals() -> Iterator[tuple[str, ast.Call]]:
    """Every call that makes a Refusal, and the function that it stands in."""
    for file in sorted(SERVING.rglob("*.py")):
        for function in ast.walk(ast.parse(file.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refusal":
                    yield function.name, node


def answered() -> Pairs:
    """(status, code) of all that the source can refuse."""
    kinds = {*refusal.CODES.values(), "invalid_value", "invalid_type"}
    found = {(415 if code == "unsupported_media_type" else 400, code) for code in kinds}
    for function, call in refusals():
        if function in (PASSED_ON, BY_KIND):
            continue
        said = {word.arg: word.value for word in call.keywords}
        code, status = said.get("code"), said.get("status", ast.Constant(400))
        where = f"{function}: {ast.unparse(call)}"
        assert isinstance(code, ast.Constant), f"no plain code in {where}"
        assert isinstance(status, ast.Constant), f"no plain status in {where}"
        found.add((int(str(status.value)), str(code.value)))
    return found


def in_the_docs() -> Pairs:
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \| \S.* \|$", TABLE.read_text(), re.MULTILINE)
    return {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}


def test_the_docs_have_every_error_and_no_other():
    assert in_the_docs() == answered()


def test_the_table_in_the_source_has_every_error_and_no_other():
    rows = re.findall(r"^(\d{3}) +(\w+) +\S", refusal.__doc__ or "", re.MULTILINE)
    assert {(int(status), code) for status, code in rows} == answered()


def test_the_kinds_of_faults_are_those_that_have_codes():
    """`refuse(kind=…)` with a kind that has no code would be an `invalid_value`, whatever it is."""
    for file in SERVING.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "refuse":
                for word in node.keywords:
                    if word.arg == "kind" and isinstance(word.value, ast.Constant):
                        assert word.value.value in {*refusal.CODES, "invalid_value"}


def test_the_api_tells_every_status_that_it_answers_with():
    with served() as client:
        document = client.get("/openapi.json").json()
    told = {
        (path, method): {int(status) for status in operation["responses"]} - {200}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    everything = {status for status, _ in answered()}
    for (path, method), statuses in told.items():
        assert statuses <= everything, path
        assert statuses >= {400, 401, 405, 413, 421, 431, 500, 503}, path
        if method == "post":
            assert statuses == everything, path
    assert 404 in told["/v1/models/{model}", "get"]


# ---- places ----------------------------------------------------------------------------------------------------------


class Told(Echo):
    """Refuses as the backend does: the first of the media, or the form of the answer."""

    async def answer(self, order, *, user=""):
        at = order.references[0].place if order.references else order.constraint_at[0]
        raise Refusal("no", status=422, param=at, code="media_unreadable")
        yield


def spoken(*content: dict[str, Any], role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "input": [{"role": role, "content": list(content)}], **fields}


WORDS, SEEN = {"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": image()["image_url"]["url"]}
PAPER = {"type": "input_file", "file_data": PDF}
FORM = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
TOOL = {"type": "function", **ADD["function"]}
NAMED = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}


def showing(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return chat(model="echo", messages=[*HI, {"role": "user", "content": list(parts)}], **more)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", showing({"type": "text", "text": "a"}, image()), "messages[1].content[1].image_url.url"),
        ("chat/completions", showing({"type": "file", "file": {"file_data": PDF}}),
         "messages[1].content[0].file.file_data"),
        ("chat/completions", chat(model="echo", guided_regex="a"), "guided_regex"),
        ("chat/completions", chat(model="echo", guided_choice=["a"]), "guided_choice"),
        ("chat/completions", chat(model="echo", structured_outputs={"json": {}}), "structured_outputs.json"),
        ("chat/completions", chat(model="echo", response_format=NAMED), "response_format.json_schema.schema"),
        ("chat/completions", chat(model="echo", tools=[ADD], tool_choice="required"), "tools[0].function.parameters"),
        ("completions", {"model": "echo", "prompt": "a", "guided_json": {}}, "guided_json"),
        ("responses", spoken(WORDS, SEEN), "input[0].content[1].image_url"),
        ("responses", spoken(WORDS, PAPER, instructions="b"), "input[0].content[1].file_data"),
        ("responses", {"model": "echo", "input": "a", "text": {"format": FORM}}, "text.format.schema"),
        ("responses", {"model": "echo", "input": "a", "tools": [TOOL], "tool_choice": "required"},
         "tools[0].parameters"),
    ],
)  # fmt: skip
def test_what_is_refused_has_its_place(path, body, param, stream):
    with served(Told()) as client:
        answer = client.post(f"/v1/{path}", json={**body, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text


CALLED = {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "d", "output": "5"}
USER, ANSWER, SYSTEM = ({"role": role, "content": "a"} for role in ("user", "assistant", "system"))
VIDEO = {"type": "input_image", "image_url": "data:video/mp4;base64,AAAA"}


@pytest.mark.parametrize("instructions", [None, "Be brief."])
@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([USER, SYSTEM], "input[1]"),
        ([USER, ANSWER], "input[1]"),
        ([USER, ANSWER, CALLED], "input[2]"),
        ([USER, ANSWER, CALLED, RESULT], "input[3].call_id"),
        ([USER, {"role": "user", "content": [WORDS, VIDEO]}], "input[1].content[1].image_url"),
    ],
)
def test_an_error_of_the_order_of_an_input_has_its_place(given, param, instructions):
    with served() as client:
        answer = client.post("/v1/responses", json={"model": "echo", "input": given, "instructions": instructions})
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")


def test_two_tools_of_one_name_are_told_as_responses_have_them():
    with served() as client:
        answer = client.post("/v1/responses", json={"model": "echo", "input": "a", "tools": [TOOL, TOOL]})
    assert answer.json()["error"]["param"] == "tools[1].name"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": {"format": FORM | {"schema": {"$ref": "http://a.example/b"}}}}, "text.format.schema"),
        ({"tools": [TOOL | {"parameters": {"$ref": "http://a.example/b"}}], "tool_choice": "required"},
         "tools[0].parameters"),
        ({"tools": [TOOL | {"parameters": {"description": "x" * 65_490}}], "tool_choice": "required"},
         "tools[0].parameters"),
    ],
    ids=["form", "tool", "large tool"],
)  # fmt: skip
def test_a_form_that_is_refused_at_once_is_told_as_responses_have_it(fields, param):
    with served() as client:
        error = client.post("/v1/responses", json={"model": "echo", "input": "a", **fields}).json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize("given", [{"input": "a"}, {}])
@pytest.mark.parametrize(
    ("path", "name", "value", "right"),
    [
        ("responses", "messages", HI, "input"),
        ("responses", "max_tokens", 5, "max_output_tokens"),
        ("responses", "max_completion_tokens", 5, "max_output_tokens"),
        ("responses", "response_format", {"type": "text"}, "text.format"),
        ("chat/completions", "input", "a", "messages"),
        ("chat/completions", "max_output_tokens", 5, "max_tokens"),
        ("completions", "messages", HI, "prompt"),
        ("embeddings", "prompt", "a", "input"),
    ],
)
def test_a_field_of_another_route_is_called_as_it_was_sent(path, name, value, right, given):
    """`messages` sent to /v1/responses was refused as `input`: what is said of a chat had been renamed."""
    given = given if path in ("responses", "embeddings") else {}
    with served() as client:
        error = client.post(f"/v1/{path}", json={"model": "echo", **given, name: value}).json()["error"]
    assert (error["code"], error["param"]) == ("unknown_parameter", name)
    assert error["message"] == f"{name}: no such field here; did you mean {right!r}?"


# ---- vectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("embedder", "asked", "said"),
    [
        (None, "echo", "echo is served here, which makes no vectors, and nothing else; ask a server that was "
                       "started with --embedder"),
        ("echo-c", "echo", "echo makes no vectors; ask echo-c for them"),
        ("echo-c", "other", "the model 'other' does not exist; served here: echo-c"),
    ],
)  # fmt: skip
def test_who_makes_no_vectors_says_who_does(embedder, asked, said):
    facts = FACTS.__class__(**{**vars(FACTS), "embedder": embedder})
    with served(Echo(facts=facts)) as client:
        answer = client.post("/v1/embeddings", json={"model": asked, "input": "a"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["message"] == said


@pytest.mark.parametrize(("given", "param"), [("a", "input"), (["a", image(), "b"], "input[2]")])
def test_a_text_to_embed_has_its_place(given, param):
    class Refuses(Echo):
        async def embed(self, texts=(), images=()):
            at = f"texts[{len(texts) - 1}]"
            raise Refusal(f"{at}: too long", param=at, code="context_length_exceeded")

    with served(Refuses()) as client:
        error = client.post("/v1/embeddings", json={"model": "echo-c", "input": given}).json()["error"]
    assert (error["param"], error["message"]) == (param, f"{param}: too long")

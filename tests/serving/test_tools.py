"""Tools: what a model is told, and that calls are read the same however the answer comes in pieces."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.inference.constraint import Constraint
from internvl.serving.tools import Call, Tool, ToolUse, answered

USE = ToolUse((Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}}), Tool("now")))
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
ADDED = Call("add", '{"a": 1}')


def read(text: str, use: ToolUse = USE, cuts: tuple[int, ...] = ()) -> tuple[str, list[Call]]:
    """Words and calls of an answer that comes in pieces, cut at these places."""
    reader = use.reader()
    places = [0, *sorted({min(cut, len(text)) for cut in cuts}), len(text)]
    words = "".join(reader.push(text[start:end]) for start, end in pairwise(places))
    return words + reader.finish(), reader.calls


@pytest.mark.parametrize(
    ("text", "words", "calls"),
    [
        ("Four.", "Four.", []),
        ("  Four.\n", "  Four.\n", []),
        (CALL, "", [ADDED]),
        (f"I add. \n\n{CALL}", "I add.", [ADDED]),
        (f"{CALL}\n{CALL}\n", "", [ADDED, ADDED]),
        (f"{CALL}\nDone.", "Done.", [ADDED]),
        ('<tool_call>{"name": "now"}</tool_call>', "", [Call("now", "{}")]),
        ('<tool_call>\n{"name": "now", "arguments": {}}', "", [Call("now", "{}")]),  # it stopped before the mark
        ('<tool_call>{"name": "sub", "arguments": {}}</tool_call>', None, []),  # nobody offered it
        ('<tool_call>{"name": "add", "arguments": [1]}</tool_call>', None, []),
        ("<tool_call>add(1)</tool_call>", None, []),
        ('<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>', None, []),
        (r'<tool_call>{"name": "add", "arguments": {"a": "\ud83d"}}', "", [Call("add", r'{"a": "\ud83d"}')]),
        ('<tool_call>{"name":"add","arguments":{"a":1}}', "", [Call("add", '{"a":1}')]),
        ('<tool_call>{"arguments" : {"a":\n[1.0,2e0] } , "name":"add"}', "", [Call("add", '{"a":\n[1.0,2e0] }')]),
        ('<tool_call>{"arguments":{},"name":"add","arguments": {"\\"}":"é\\u00e9"}}', "",
         [Call("add", '{"\\"}":"é\\u00e9"}')]),
        ("a < b, <tool and <tool_call", None, []),
        ("<tool_call>" + "[" * 5000, None, []),
        ("</tool_call> <tool_call>", None, []),
    ],
)  # fmt: skip
def test_words_and_calls(text, words, calls):
    assert read(text) == (text if words is None else words, calls)


PIECES = st.lists(
    st.sampled_from([CALL, "<tool_call>", "</tool_call>", "<tool", "{", "}", "\n", " ", "word", '"name"', "<"]),
    max_size=8,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=PIECES, cuts=st.lists(st.integers(0, 200), max_size=12).map(tuple))
def test_streamed_is_whole(text, cuts):
    assert read(text, cuts=cuts) == read(text)


@settings(max_examples=100, deadline=None)
@given(text=PIECES.filter(lambda text: CALL not in text))
def test_what_is_no_call_is_not_lost(text):
    """The pieces spell a call only where the whole one stands."""
    assert read(text) == (text, [])


def test_one_call_where_one_is_allowed():
    assert read(CALL + CALL, ToolUse(USE.tools, parallel=False)) == ("", [ADDED])


def test_a_call_that_must_be_is_bare():
    use = ToolUse(USE.tools, must=True)
    assert read('{"name": "add", "arguments": {"a": 1}}', use, cuts=(3, 9)) == ("", [ADDED])


MEMBERS = st.dictionaries(st.text(max_size=3), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5), max_size=3)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(members=MEMBERS, indent=st.sampled_from([None, 1]), separators=st.sampled_from([(",", ":"), (" , ", " : ")]),
       plain=st.booleans())  # fmt: skip
def test_arguments_are_what_the_model_wrote(members, indent, separators, plain):
    written = json.dumps(members, indent=indent, separators=separators, ensure_ascii=plain)
    text = '{"x":[{}],"name":"add","arguments": ' + written + ' ,"y":"}"}'
    assert read(text, ToolUse(USE.tools, must=True)) == ("", [Call("add", written)])


@pytest.mark.parametrize(
    ("text", "words", "arguments"),
    [
        ("", "", None),
        ('{"name": "ad', "", None),
        ('{"name": "add"', "", ""),
        ('{"name": "add", "argum', "", ""),
        ('{\n "name" : "add",\n "arguments" : {"a"', "", '{"a"'),
        (r'{"name": "add", "arguments": {"a": "\"}\ud8', "", r'{"a": "\"}\ud8'),
        ('{"name": "add", "arguments": {"a": "\n', "", '{"a": "\n'),
        ('{"name": "sub", "argum', '{"name": "sub", "argum', None),  # nobody offered it
        ("Sure", "Sure", None),
    ],
)
def test_a_call_that_must_be_is_read_as_far_as_it_came(text, words, arguments):
    calls = [] if arguments is None else [Call("add", arguments, whole=False)]
    assert read(text, ToolUse(USE.tools, must=True), cuts=(3, 9)) == (words, calls)
    assert read(text) == (text, []), "one that need not be is words"


def test_the_schema_of_calls_keeps_references_whole():
    parameters = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/y"}, "z": {"$ref": "#"}},
        "$defs": {"y": {"enum": [{"$ref": "#/is/data"}]}},
    }
    schema = ToolUse((Tool("now"), Tool("f", None, parameters)), must=True).schema()
    moved = schema["anyOf"][1]["properties"]["arguments"]
    assert schema["anyOf"][0]["properties"] == {"name": {"const": "now"}, "arguments": {"type": "object"}}
    assert moved["properties"]["z"] == {"$ref": "#/anyOf/1/properties/arguments"}
    assert moved["$defs"]["y"] == {"enum": [{"$ref": "#/is/data"}]}
    found = schema
    for name in moved["properties"]["x"]["$ref"].removeprefix("#/").split("/"):
        found = found[int(name)] if isinstance(found, list) else found[name]
    assert found == moved["$defs"]["y"]


def test_what_a_model_is_told():
    told = USE.told()
    assert json.loads(told.split("<tools>\n")[1].split("\n")[0])["function"]["name"] == "add"
    assert '{"name": "the function' in told
    assert "{{" not in told
    assert len(ToolUse(USE.tools, must=True).told()) > len(told)
    assert answered("4") == "<tool_response>\n4\n</tool_response>"


def test_a_mark_in_a_string_ends_no_call_that_is_held():
    strict = ToolUse((Tool("add", None, {"type": "object"}, strict=True),))
    text = '<tool_call>\n{"name":"add","arguments":{"a":"</tool_call>"}}\n</tool_call>'
    assert read(f"So.\n{text}\n{text}", strict) == ("So.", [Call("add", '{"a":"</tool_call>"}')] * 2)


def test_strict_tools_are_held_to_their_schemas_and_others_to_none():
    assert not USE.holds
    strict = ToolUse((Tool("add", None, USE.tools[0].parameters, strict=True), Tool("sub", None, {"required": ["a"]})))
    assert strict.holds
    add, other = (call["properties"]["arguments"] for call in strict.schema()["anyOf"])
    assert (add["properties"], other) == ({"a": {"type": "integer"}}, {"type": "object"})
    form = strict.form()
    assert (form.open, form.close, form.once) == ("<tool_call>", "</tool_call>", False)
    assert ToolUse(strict.tools, parallel=False).form().once
    assert not ToolUse(strict.tools, must=True).form().open, "a call that must be is bare"


@pytest.mark.parametrize("arguments", ['{"a": 1}', "{}", "not JSON", '"', "[" * 5000])
def test_earlier_calls_are_written_as_json(arguments):
    written = Call("add", arguments).written()
    inner = json.loads(written.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    assert inner["name"] == "add"
    assert inner["arguments"] in (arguments, json.loads(arguments) if arguments.startswith("{") else None)


def test_the_grammar_library_takes_the_schema_of_calls():
    """References that moved still lead where they led."""
    llguidance = pytest.importorskip("llguidance")
    parameters = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/y"}},
        "required": ["x"],
        "additionalProperties": False,
        "$defs": {"y": {"type": "integer"}},
    }
    form = Constraint.json_schema(ToolUse((Tool("f", None, parameters), Tool("now")), must=True).schema())
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))

    def fits(text: str) -> bool:
        matcher = llguidance.LLMatcher(tokenizer, form.grammar(), log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        return matcher.try_consume_tokens(list(text.encode())) == len(text) and matcher.is_accepting()

    assert fits('{"name":"f","arguments":{"x":3}}')
    assert fits('{"name":"now","arguments":{}}')
    assert not fits('{"name":"f","arguments":{"x":"a"}}')
    assert not fits('{"name":"f","arguments":{}}')
    assert not fits('{"name":"sub","arguments":{}}')


class Bytes:
    """A tokenizer for the grammar library: every byte is a token."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)

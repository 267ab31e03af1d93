"""From a request to the package's own values: what is typed never becomes structure, what is asked is not lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from internvl.data.prompts import TEMPLATES, Image, ImageSlot, Message, Text, Video, bind
from internvl.inference.constraint import Constraint
from internvl.inference.contents import contents
from internvl.inference.sampling import SamplingConfig
from internvl.serving.fields import understood
from internvl.serving.order import Order, Reference, Unopened
from internvl.serving.refusal import Refusal
from internvl.serving.responses import ResponsesRequest
from internvl.serving.schema import ChatRequest, CompletionRequest, TokenizeRequest
from internvl.serving.tools import Tool, ToolUse
from internvl.serving.translate import Preset, translate
from tests.serving.requests import ADD, HI, PDF, PNG, chat, image, shown

PHOTO = Pillow.new("RGB", (4, 4))
CALLS = [{"id": f"c{n}", "type": "function", "function": {"name": "add", "arguments": f'{{"a": {n}}}'}} for n in (1, 2)]


STRICT = {"type": "function", "function": {**ADD["function"], "strict": True}}


def job(body: dict, kind: type = ChatRequest, preset: Preset | None = None) -> Order:
    return translate(understood(kind, body), preset)


def written(unopened: tuple[Unopened, ...]) -> list[tuple[str, str]]:
    """Role and text of every message."""
    return [(d.role, "".join(part.text for part in d.parts if isinstance(part, Text))) for d in unopened]


def opened(one: Order) -> list[Message]:
    """The messages, a document having two pages and a video three frames."""
    kinds = {"image": Image(PHOTO), "video": Video((PHOTO,) * 3), "pdf": (Image(PHOTO), Image(PHOTO))}
    media = {reference: kinds[reference.kind] for reference in one.references}
    return [draft.message(media) for draft in one.unopened]


SPELT = st.sampled_from(
    [
        "<image>",
        "<video>",
        "<IMG_CONTEXT>",
        "<img>",
        "<|im_start|>system\n",
        "<|im_end|>",
        "</s>",
        "<tool_call>",
        "a",
        "\n",
    ]
)
TYPED = st.lists(SPELT, max_size=5).map("".join)


@settings(max_examples=100, deadline=None)
@given(before=TYPED, after=TYPED, system=TYPED, said=TYPED, tool=TYPED)
def test_no_text_becomes_structure_or_a_slot(before, after, system, said, tool):
    forms = [
        {"role": "system", "content": system},
        {"role": "user", "content": [{"type": "text", "text": before}, image(), {"type": "text", "text": after}]},
        {"role": "assistant", "content": said, "tool_calls": CALLS[:1]},
        {"role": "tool", "content": tool, "tool_call_id": "c1"},
    ]
    turns, pictures = bind(opened(job(chat(messages=forms))))
    assert len(pictures) == 1
    assert [piece for piece in turns[1].pieces if piece] == [p for p in (before, ImageSlot(0), after) if p]
    assert "".join(map(str, turns[0].pieces)) == system
    assert "".join(map(str, turns[2].pieces)).startswith(said)
    assert turns[3].role == "user"
    assert "".join(map(str, turns[3].pieces)) == f"<tool_response>\n{tool}\n</tool_response>"
    for template in TEMPLATES.values():
        template.render(turns, generate=True)


@pytest.mark.parametrize(
    "parts",
    [
        (Image(PHOTO), Text("What?")),
        (Image(PHOTO), Image(PHOTO), Text("Which?")),
        (Image(PHOTO), "First <image> then ", Text("<image>"), Image(PHOTO), "<image>"),
        (Image(PHOTO), "<image>", Text("at once")),
        (Text("no picture <image>"),),
        (Image(PHOTO),),
    ],
    ids=["one", "two", "in the text", "without opening", "no picture", "no text"],
)
def test_what_the_projects_own_client_sends_is_what_is_read(parts):
    """A conversation that goes over the wire and is opened again is bound as it was."""
    asked = [Message("system", (Text("Be kind"),)), Message("user", parts)]
    got = opened(job(chat(messages=contents(asked))))
    assert joined(got) == joined(asked)


def joined(messages: list[Message]) -> list:
    """Every turn as its texts, joined, and slots."""
    turns, _ = bind(messages)
    said = [(t.role, "".join(p if isinstance(p, str) else f"\0{p.index}\0" for p in t.pieces)) for t in turns]
    return said


def test_media_of_all_kinds_stand_where_their_parts_stand():
    video = {"type": "video_url", "video_url": {"url": "https://example.org/clip.mp4"}}
    file = {"type": "file", "file": {"file_data": PDF, "filename": "paper.pdf"}}
    one = job(shown("a", image(detail="low"), "b", file, "c", video, "d") | {"num_frames": 3, "max_tiles": 6})
    assert [(r.kind, r.max_tiles, r.frames) for r in one.references] == [("image", 1, None), ("pdf", None, None),
                                                                         ("video", None, 3)]  # fmt: skip
    assert one.max_tiles == 6
    assert joined(opened(one)) == [
        ("user", "a\0000\0b\0001\0\n\0002\0cFrame-1: \0003\0\nFrame-2: \0004\0\nFrame-3: \0005\0d")
    ]


@pytest.mark.parametrize(
    ("pictures", "typed", "read"),
    [
        (1, "<IMAGE_TOKEN>\nWhat?", "What?"),
        (2, "Image-1: <IMAGE_TOKEN>\nImage-2: <IMAGE_TOKEN>\nWhat?", "What?"),
        (1, "What is <IMAGE_TOKEN>\nhere?", "What is <IMAGE_TOKEN>\nhere?"),
        (2, "<IMAGE_TOKEN>\nWhat?", "<IMAGE_TOKEN>\nWhat?"),
        (0, "<IMAGE_TOKEN>\nWhat?", "<IMAGE_TOKEN>\nWhat?"),
    ],
)
def test_a_heading_for_another_server_is_not_read_twice(pictures, typed, read):
    """VLMEvalKit's wrapper of LMDeploy writes where pictures stand; here the template does."""
    content = [*(image() for _ in range(pictures)), {"type": "text", "text": typed}]
    one = job(chat(messages=[{"role": "user", "content": content}]))
    assert written(one.unopened) == [("user", read)]


def test_a_picture_has_the_tiles_that_it_asks_for():
    one = job(shown(image(max_dynamic_patch=6), image("data:image/png;base64,AAAA"), "a", image(detail="low")))
    assert [reference.max_tiles for reference in one.references] == [6, None, 1]


def test_equal_media_are_opened_once_and_addresses_are_not_shown():
    one = job(shown("a", image(), image(), image(detail="low")))
    assert len(one.references) == 2
    assert "base64" not in repr(one)


def test_system_messages_are_one_and_go_before_the_models_own():
    messages = [{"role": "system", "content": "A"}, {"role": "developer", "content": "B"}, *HI]
    assert written(job(chat(messages=messages)).unopened) == [("system", "A\n\nB"), ("user", "Hi")]
    assert written(job(chat(), preset=Preset(system="Own")).unopened) == [("user", "Hi")]
    [(role, told), _] = written(job(chat(tools=[ADD]), preset=Preset(system="Own")).unopened)
    assert role == "system"
    assert told.startswith("Own\n\n# Tools")


def test_the_description_of_a_schema_is_told():
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "description": "a total"}}
    [(role, told), _] = written(job(chat(response_format=form), preset=Preset(system="Own")).unopened)
    assert (role, told) == ("system", "Own\n\nThe answer is JSON of this kind: a total")


def test_tools_and_their_answers():
    messages = [
        *HI,
        {"role": "assistant", "content": "I add.", "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "c2", "content": "second"},
        {"role": "tool", "tool_call_id": "c1", "content": "first"},
        *HI,
    ]
    said = written(job(chat(messages=messages)).unopened)
    assert said[1][1].count("<tool_call>") == 2
    assert said[1][1].startswith("I add.\n<tool_call>")
    assert said[2] == ("user", "<tool_response>\nfirst\n</tool_response>\n<tool_response>\nsecond\n</tool_response>")
    assert [role for role, _ in said] == ["user", "assistant", "user", "user"]
    own = written(job(chat(messages=messages), preset=Preset(tool_role=True)).unopened)
    assert own[2:4] == [("tool", "first"), ("tool", "second")]
    bare = [*messages[:2], {"role": "tool", "content": "x"}, {"role": "tool", "content": "y"}]
    text = written(job(chat(messages=bare)).unopened)[-1][1]
    assert text.index("x") < text.index("y")


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMS = [
    (Constraint.json_object(), {"response_format": {"type": "json_object"}}),
    (Constraint.json_object(), {"structured_outputs": {"json_object": True}}),
    (Constraint.regex("a+"), {"guided_regex": "a+"}),
    (Constraint.regex("a+"), {"structured_outputs": {"regex": "a+"}}),
    (Constraint.choice(["a", "b"]), {"guided_choice": ["a", "b"]}),
    (Constraint.choice(["a", "b"]), {"structured_outputs": {"choice": ["a", "b"]}}),
    (Constraint.json_schema(SCHEMA), {"guided_json": SCHEMA}),
    (Constraint.json_schema({}), {"guided_json": {}}),
    (Constraint.json_schema({}), {"structured_outputs": {"json": {}}}),
    (Constraint.json_schema(SCHEMA),
     {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}),
    (None, {}),
    (None, {"response_format": {"type": "text"}}),
    (None, {"tools": [ADD]}),
]  # fmt: skip


@pytest.mark.parametrize(("form", "body"), FORMS, ids=[str(body) for _, body in FORMS])
def test_the_form_of_an_answer(form, body):
    assert job(chat(**body)).constraint == form


def test_tools_that_are_too_much_together_are_refused_by_name():
    large = {"type": "object", "description": "x" * 60_000}
    tools = [{"type": "function", "function": {"name": name, "parameters": large}} for name in ("a", "b")]
    with pytest.raises(Refusal, match="bytes") as error:
        job(chat(tools=tools, tool_choice="required"))
    assert error.value.param == "tools"


def names_of(one: Order) -> list[str]:
    """The functions that an answer may be a call of."""
    assert one.constraint is not None
    return [call["properties"]["name"]["const"] for call in json.loads(one.constraint.source)["anyOf"]]


def test_a_call_that_must_be_is_held_to_its_schema():
    sub = {"type": "function", "function": {"name": "sub"}}
    required = job(chat(tools=[ADD, sub], tool_choice="required"))
    named = job(chat(tools=[ADD, sub], tool_choice={"type": "function", "function": {"name": "sub"}}))
    assert [names_of(required), names_of(named)] == [["add", "sub"], ["sub"]]
    assert required.tools == ToolUse((Tool("add", None, ADD["function"]["parameters"]), Tool("sub")), must=True)
    assert job(chat(tools=[ADD], tool_choice="none")).tools is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, SamplingConfig(max_new_tokens=99)),
        ({"temperature": 0, "top_p": 0.5, "top_k": 5}, SamplingConfig(max_new_tokens=99)),
        ({"temperature": 1, "top_p": 1, "top_k": 0}, SamplingConfig(max_new_tokens=99, temperature=1)),
        ({"temperature": 1, "top_p": 0}, SamplingConfig(max_new_tokens=99)),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 7, "repetition_penalty": 1.1},
         SamplingConfig(max_new_tokens=99, temperature=0.5, top_p=0.9, top_k=3, seed=7, repetition_penalty=1.1)),
        ({"max_tokens": 5, "min_tokens": 2, "stop": "x"},
         SamplingConfig(max_new_tokens=5, min_new_tokens=2, stop=("x",))),
        ({"max_completion_tokens": 500, "stop": ["x", "y"], "seed": -1},
         SamplingConfig(max_new_tokens=99, stop=("x", "y"), seed=2**63 - 1)),
        ({"logprobs": True, "top_logprobs": 3}, SamplingConfig(max_new_tokens=99, top_logprobs=3)),
    ],
)  # fmt: skip
def test_sampling(body, expected):
    assert SamplingConfig(**job(chat(**body)).sampling.arguments(room=99)) == expected


def test_what_contradicts_itself_is_refused():
    with pytest.raises(Refusal, match="min_tokens is 5"):
        job(chat(max_tokens=4, min_tokens=5))


@pytest.mark.parametrize(
    "form",
    [
        {"guided_regex": "[ab]{5}"},
        {"guided_choice": ["a"]},
        {"structured_outputs": {"json": {"type": "object"}}},
        {"response_format": {"type": "json_object"}},
        {"tools": [ADD], "tool_choice": "required"},
    ],
    ids=str,
)
def test_a_form_ends_where_it_ends(form):
    """With min_tokens it was cut short by a contradiction that nobody was told of."""
    with pytest.raises(Refusal, match="min_tokens: an answer ends where its form does") as caught:
        job(chat(min_tokens=1, **form))
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "min_tokens", "invalid_value")
    assert job(chat(min_tokens=0, **form)).constraint is not None


def test_an_answer_that_may_be_a_call_has_no_form():
    assert job(chat(min_tokens=3, tools=[ADD])).sampling.min_new_tokens == 3
    assert job(chat(min_tokens=3, response_format={"type": "text"})).sampling.min_new_tokens == 3


def test_the_servers_own_warmth_is_used_where_none_is_asked_for():
    assert job(chat(), preset=Preset(temperature=0.7)).sampling.temperature == 0.7
    assert job(chat(temperature=0), preset=Preset(temperature=0.7)).sampling.temperature == 0


def test_completions_and_tokenize():
    one = job({"model": "m", "prompt": ["a", "<image>"], "logprobs": 0, "n": 2}, CompletionRequest)
    assert (one.prompts, one.unopened, one.logprobs, one.n) == (("a", "<image>"), (), True, 2)
    assert one.sampling.max_new_tokens == 16
    assert job({"prompt": "a"}, TokenizeRequest).prompts == ("a",)
    assert job({"messages": HI}, TokenizeRequest).unopened == job(chat()).unopened


def test_a_response_is_the_same_job_as_its_chat():
    call, result = CALLS[0]["function"], {"type": "function_call_output", "call_id": "c1", "output": "2"}
    asked = {
        "model": "nano",
        "instructions": "Be kind",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"},
                                         {"type": "input_image", "image_url": PNG, "detail": "low"},
                                         {"type": "input_file", "file_data": PDF}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ho"}]},
            {"type": "function_call", "call_id": "c1", **call},
            result,
        ],
        "max_output_tokens": 7,
        "tools": [{"type": "function", **ADD["function"]}],
        "tool_choice": {"type": "function", "name": "add"},
        "user": "u",
        "service_tier": "flex",
    }  # fmt: skip
    same = chat(
        messages=[
            {"role": "system", "content": "Be kind"},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, image(detail="low"),
                                         {"type": "file", "file": {"file_data": PDF}}]},
            {"role": "assistant", "content": "Ho", "tool_calls": CALLS[:1]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ],
        max_tokens=7, tools=[ADD], tool_choice={"type": "function", "function": {"name": "add"}}, user="u",
        service_tier="flex",
    )  # fmt: skip
    assert job(asked, ResponsesRequest) == job(same)


def test_a_reference_that_was_not_opened_is_a_fault():
    with pytest.raises(KeyError):
        Unopened("user", (Reference("image", "https://example.org/a.png"),)).message({})


def test_calls_of_strict_functions_are_held_among_words():
    one = job(chat(tools=[STRICT], min_tokens=3))
    assert one.constraint is not None
    assert (one.constraint.open, one.constraint.once) == ("<tool_call>", False)
    assert one.constraint_at == ("tools[0].function.parameters",)
    one = job(chat(tools=[STRICT], parallel_tool_calls=False))
    assert one.constraint is not None
    assert one.constraint.once
    assert job(chat(tools=[ADD])).constraint is None
    with pytest.raises(Refusal, match="min_tokens"):
        job(chat(tools=[STRICT], tool_choice="required", min_tokens=3))

"""What a conversation is over HTTP: messages of five roles, their parts, tools, and the form an answer must have.

What people write stays text, whatever it spells: `<image>` in a text part is seven letters, never a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, Tag, model_validator
from pydantic_core.core_schema import ValidationInfo

from internvl.serving.fields import Fields, Many, Schema, at_most, by_field, by_kind, is_data, refuse
from internvl.serving.refusal import shown

NAME = r"^[a-zA-Z0-9_-]{1,64}$"
LONGEST_ADDRESS = 8192
SCHEMES = ("data", "https", "http", "file")
"""Which of them are read, and from where, the limits of media say."""

Detail = Literal["auto", "low", "high"]


# ---- parts -----------------------------------------------------------------------------------------------------------


def _address(value: str) -> str:
    """A data: address, or that of a host or file. Nothing is opened here."""
    if is_data(value):
        if "," not in value[:512]:
            raise refuse("this data: address has no comma between its kind and its data; send data:…;base64,…")
        return value
    if len(value) > LONGEST_ADDRESS:
        raise refuse(f"the address has {len(value)} letters, at most {LONGEST_ADDRESS} are read; send a data: address",
                     kind="limit")  # fmt: skip
    try:
        parts = urlsplit(value)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in SCHEMES or not (parts.netloc or parts.scheme == "file"):
        kind = "media_refused" if parts.scheme else "invalid_value"
        raise refuse(f"{shown(value)} is no address that is read; send https://… or data:…;base64,…", kind=kind)
    return value


def data_kind(address: str) -> str | None:
    """The media type of a data: address, without its parameters; None for other addresses.

    >>> data_kind("data:image/png;base64,AAAA")
    'image/png'
    """
    return address[5:].partition(",")[0].partition(";")[0].strip().lower() if is_data(address) else None


Address = Annotated[str, AfterValidator(_address)]


class TextPart(Fields):
    type: Literal["text"]
    text: str


class ImageUrl(Fields):
    url: Address
    detail: Detail | None = None
    """low: one tile. high, auto: the request's share of max_tiles."""
    max_dynamic_patch: Annotated[int, Field(ge=1), at_most("tiles", "tiles")] | None = None
    """LMDeploy's extension, which VLMEvalKit sends: tiles of this picture, whatever the others have."""
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {"uuid": (None,)}


class ImagePart(Fields):
    type: Literal["image_url"]
    image_url: ImageUrl


class VideoUrl(Fields):
    url: Address


class VideoPart(Fields):
    """vLLM's name for it; OpenAI's API has no videos."""

    type: Literal["video_url"]
    video_url: VideoUrl


class File(Fields):
    file_data: Address
    filename: str | None = Field(default=None, max_length=255)
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {"file_id": (None,)}


class FilePart(Fields):
    """A PDF as a data: address."""

    type: Literal["file"]
    file: File


UserPart = Annotated[
    Annotated[TextPart, Tag("@text")]
    | Annotated[ImagePart, Tag("@image_url")]
    | Annotated[VideoPart, Tag("@video_url")]
    | Annotated[FilePart, Tag("@file")],
    by_field("type"),
]

BY_SHAPE = by_kind((str, "written"), (list, "parts"))
Content = Annotated[
    Annotated[str, Tag("@written")] | Annotated[Many[UserPart], at_most("parts", "parts"), Tag("@parts")], BY_SHAPE
]


def _text_only(part: Any, info: ValidationInfo) -> Any:
    said: Any = cast("dict[str, Any]", part).get("type") if isinstance(part, dict) else None
    if isinstance(said, str) and said != "text":
        raise refuse(f"{info.data.get('role', 'such')} messages take text only, found {shown(said)}", at="type")
    return part


Spoken = Annotated[TextPart, BeforeValidator(_text_only)]
Written = Annotated[
    Annotated[str, Tag("@written")] | Annotated[Many[Spoken], at_most("parts", "parts"), Tag("@parts")], BY_SHAPE
]
"""Content of whoever cannot show pictures."""


# ---- messages --------------------------------------------------------------------------------------------------------


class SystemMessage(Fields):
    """`developer` is what OpenAI's newer models call it."""

    role: Literal["system", "developer"]
    content: Written
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {"name": (None,)}


class UserMessage(Fields):
    role: Literal["user"]
    content: Content
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {"name": (None,)}


class CalledFunction(Fields):
    name: str = Field(pattern=NAME)
    arguments: str


class ToolCall(Fields):
    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Fields):
    """As an answer of this server comes back: what is null there may be null here."""

    role: Literal["assistant"]
    content: Written | None = None
    tool_calls: Annotated[Many[ToolCall], at_most("tools", "calls")] | None = None
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "name": (None,),
        "refusal": (None,),
        "audio": (None,),
        "annotations": (None, []),
        "function_call": (None,),
        "reasoning_content": (None,),
    }

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and not self.tool_calls:
            raise refuse("an assistant message has content or tool_calls; this one has neither", at="content")
        return self


class ToolMessage(Fields):
    """What a tool answered. Without an id it answers the next call that has no answer yet."""

    role: Literal["tool"]
    content: Written
    tool_call_id: str | None = Field(default=None, max_length=256)
    name: str | None = Field(default=None, max_length=64)
    """Of the function, as some clients repeat it; it must be that of the call."""


ChatMessage = Annotated[
    Annotated[SystemMessage, Tag("@system")]
    | Annotated[SystemMessage, Tag("@developer")]
    | Annotated[UserMessage, Tag("@user")]
    | Annotated[AssistantMessage, Tag("@assistant")]
    | Annotated[ToolMessage, Tag("@tool")],
    by_field("role"),
]
Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage


def check_order(messages: list[Any]) -> None:
    """System messages first, something to answer last, tools answering calls that were made."""
    if not messages:
        raise refuse("the conversation is empty; send at least one message", at="messages")
    begun = False
    open_calls: dict[str, str] = {}
    for place, message in enumerate(messages):
        if isinstance(message, SystemMessage) and begun:
            raise refuse(f"this is a {message.role} message, and these stand before all others; move it there",
                         at=f"messages[{place}].role")  # fmt: skip
        begun = begun or not isinstance(message, SystemMessage)
        if isinstance(message, AssistantMessage):
            open_calls = {call.id: call.function.name for call in message.tool_calls or ()}
        elif isinstance(message, ToolMessage):
            _check_answer(message, open_calls, place)
        else:
            open_calls = {}
    if isinstance(messages[-1], AssistantMessage):
        raise refuse("the last message is the assistant's; end with what it is to answer",
                     at=f"messages[{len(messages) - 1}].role")  # fmt: skip


def _check_answer(message: ToolMessage, open_calls: dict[str, str], place: int) -> None:
    if message.tool_call_id is None:
        return
    called = open_calls.pop(message.tool_call_id, None)
    if called is None:
        raise refuse(f"{shown(message.tool_call_id)} is no call of the assistant message before it that waits for an "
                     "answer; send the id of one that does", at=f"messages[{place}].tool_call_id")  # fmt: skip
    if message.name not in (None, called):
        raise refuse(f"found {shown(message.name)}, but the call was of {shown(called)}", at=f"messages[{place}].name")


# ---- tools -----------------------------------------------------------------------------------------------------------


class FunctionDefinition(Fields):
    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class ToolDefinition(Fields):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Fields):
    name: str = Field(pattern=NAME)


class NamedTool(Fields):
    type: Literal["function"]
    function: FunctionName


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("@mode")] | Annotated[NamedTool, Tag("@named")],
    by_kind((str, "mode"), (dict, "named")),
]


def check_tools(tools: list[ToolDefinition] | None, choice: Any) -> None:
    """Names are told apart, and the one that must be called is among them."""
    names = [tool.function.name for tool in tools or ()]
    twice = next((place for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise refuse(f"two tools are called {names[twice]!r}; give each a name of its own",
                     at=f"tools[{twice}].function.name")  # fmt: skip
    if choice not in (None, "none") and not names:
        raise refuse("there are no tools to choose from; send tools, or leave it out", at="tool_choice")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise refuse(f"no tool is called {choice.function.name!r}; there are: {', '.join(names[:10])}",
                     at="tool_choice")  # fmt: skip


# ---- the form of an answer -------------------------------------------------------------------------------------------


class PlainText(Fields):
    type: Literal["text"]


class JsonObject(Fields):
    type: Literal["json_object"]


class NamedSchema(Fields):
    name: str = Field(pattern=NAME)
    description: str | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None
    """The answer keeps to the schema either way."""


class JsonSchema(Fields):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[
    Annotated[PlainText, Tag("@text")]
    | Annotated[JsonObject, Tag("@json_object")]
    | Annotated[JsonSchema, Tag("@json_schema")],
    by_field("type"),
]

Pattern = Annotated[str, Field(min_length=1), at_most("pattern", "letters", letters=True)]
Choices = Annotated[Many[Annotated[str, Field(min_length=1)]], Field(min_length=1), at_most("choices", "choices")]


class StructuredOutputs(Fields):
    """vLLM's extension: exactly one of json, regex, choice, json_object."""

    json_: Schema | None = Field(default=None, alias="json")
    regex: Pattern | None = None
    choice: Choices | None = None
    json_object: bool | None = None
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "grammar": (None,),
        "structural_tag": (None,),
        "whitespace_pattern": (None,),
        "disable_fallback": (None, False),
        "disable_any_whitespace": (None, False),
        "disable_additional_properties": (None, False),
    }

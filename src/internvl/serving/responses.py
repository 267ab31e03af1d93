"""/v1/responses: OpenAI's newer form of a conversation, read as the chat that it is.

Nothing is kept between requests: `previous_response_id`, `conversation` and `store: true` are refused, and a client
sends the whole conversation, as with chat.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Tag, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from internvl.serving.fields import Fields, Many, Schema, at_most, by_field, by_kind, limits_of, refuse
from internvl.serving.messages import (
    NAME,
    Address,
    AssistantMessage,
    CalledFunction,
    Detail,
    File,
    FilePart,
    FunctionDefinition,
    FunctionName,
    ImagePart,
    ImageUrl,
    JsonObject,
    JsonSchema,
    Message,
    NamedSchema,
    NamedTool,
    PlainText,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    UserMessage,
    check_order,
    check_tools,
)
from internvl.serving.schema import ChatRequest, Name, Tier, check_media
from internvl.serving.unhonoured import NOT_KEPT

HOLDS = {"user": ("input_text", "input_image", "input_file"), "assistant": ("input_text", "output_text")}
"""What the messages of a role hold; the others hold text."""
LOGPROBS = "message.output_text.logprobs"


class InputText(Fields):
    type: Literal["input_text"]
    text: str


class OutputText(Fields):
    """An answer's own words, as they come back."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = Field(default=None, max_length=0)
    logprobs: list[Any] | None = None


class InputImage(Fields):
    type: Literal["input_image"]
    image_url: Address
    detail: Detail | None = None
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {"file_id": (None,)}


class InputFile(Fields):
    type: Literal["input_file"]
    file_data: Address
    filename: str | None = Field(default=None, max_length=255)
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {"file_id": (None,), "file_url": (None,), "detail": (None,)}


InputPart = Annotated[
    Annotated[InputText, Tag("@input_text")]
    | Annotated[OutputText, Tag("@output_text")]
    | Annotated[InputImage, Tag("@input_image")]
    | Annotated[InputFile, Tag("@input_file")],
    by_field("type"),
]


class InputMessage(Fields):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag("@written")] | Annotated[Many[InputPart], at_most("parts", "parts"), Tag("@parts")],
        by_kind((str, "written"), (list, "parts")),
    ]
    id: str | None = None
    """As an answer has it when it comes back; so have `status` and the ids of calls."""
    status: Literal["completed", "incomplete"] | None = None
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {"phase": (None,)}


class FunctionCall(Fields):
    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=256)
    name: str = Field(pattern=NAME)
    arguments: str
    id: str | None = None
    status: Literal["completed", "incomplete"] | None = None
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {"namespace": (None,)}


class FunctionOutput(Fields):
    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=256)
    output: Annotated[
        Annotated[str, Tag("@written")] | Annotated[Many[InputText], at_most("parts", "parts"), Tag("@parts")],
        by_kind((str, "written"), (list, "parts")),
    ]
    id: str | None = None
    status: Literal["completed", "incomplete"] | None = None


Item = Annotated[
    Annotated[InputMessage, Tag("@message")]
    | Annotated[FunctionCall, Tag("@function_call")]
    | Annotated[FunctionOutput, Tag("@function_call_output")],
    by_field("type", missing="message"),
]


class ResponseSchema(Fields):
    type: Literal["json_schema"]
    name: str = Field(pattern=NAME)
    schema_: Schema = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextConfig(Fields):
    format: (
        Annotated[
            Annotated[PlainText, Tag("@text")]
            | Annotated[JsonObject, Tag("@json_object")]
            | Annotated[ResponseSchema, Tag("@json_schema")],
            by_field("type"),
        ]
        | None
    ) = None
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {"verbosity": (None, "medium")}


class ResponseTool(Fields):
    type: Literal["function"]
    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class ResponseToolName(Fields):
    type: Literal["function"]
    name: str = Field(pattern=NAME)


class ResponsesRequest(Fields):
    """A request for one response.

    >>> understood(ResponsesRequest, {"model": "nano", "input": "Hi"}).as_chat().messages  # doctest: +SKIP
    """

    model: Name
    input: Annotated[
        Annotated[str, Tag("@written")] | Annotated[Many[Item], at_most("messages", "items"), Tag("@items")],
        by_kind((str, "written"), (list, "items")),
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1), at_most("tokens")] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_logprobs: Annotated[int, Field(ge=0), at_most("top_logprobs")] | None = None
    include: Many[Literal["message.output_text.logprobs"]] | None = None
    text: TextConfig | None = None
    tools: Annotated[Many[ResponseTool], at_most("tools", "tools")] | None = None
    tool_choice: (
        Annotated[
            Annotated[Literal["none", "auto", "required"], Tag("@mode")] | Annotated[ResponseToolName, Tag("@named")],
            by_kind((str, "mode"), (dict, "named")),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    service_tier: Tier | None = None
    max_tiles: Annotated[int, Field(ge=1), at_most("tiles", "tiles")] | None = None
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {
        **NOT_KEPT,
        "background": (None, False),
        "context_management": (None, []),
        "conversation": (None,),
        "max_tool_calls": (None,),
        "previous_response_id": (None,),
        "prompt": (None,),
        "reasoning": (None, {}),
        "stream_options": (None, {}),
        "truncation": (None, "disabled"),
    }
    instead: ClassVar[Mapping[str, str]] = {
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "max_completion_tokens": "max_output_tokens",
        "response_format": "text.format",
        "logprobs": "include",
    }

    @model_validator(mode="after")
    def _whole(self, info: ValidationInfo) -> ResponsesRequest:
        self._check_parts()
        chat = self.as_chat()
        try:
            check_order(chat.messages)
            check_tools(chat.tools, chat.tool_choice)
            check_media(chat.messages, limits_of(info))
        except PydanticCustomError as error:
            found: Any = error.context
            raise refuse(found["said"], kind=error.type, at=calling(self)(found["name"])) from None
        if len(chat.constraints()) > 1:
            raise refuse("tools ask for another form of the answer; send one of them (tools with tool_choice none)",
                         at="text.format")  # fmt: skip
        if self.top_logprobs and not self.include:
            raise refuse(f"it belongs to include: [{LOGPROBS}]; leave it out, or include them", at="top_logprobs")
        return self

    def _check_parts(self) -> None:
        """Who may say and show what."""
        for place, item in enumerate(self.input if isinstance(self.input, list) else ()):
            if not isinstance(item, InputMessage) or isinstance(item.content, str):
                continue
            for number, part in enumerate(item.content):
                if part.type not in HOLDS.get(item.role, ("input_text",)):
                    raise refuse(
                        f"a message of the {item.role} does not hold {part.type}",
                        at=f"input[{place}].content[{number}].type",
                    )

    def as_chat(self) -> ChatRequest:
        """The same request, as /v1/chat/completions puts it. It is checked already."""
        choice = self.tool_choice
        if isinstance(choice, ResponseToolName):
            choice = NamedTool(type="function", function=FunctionName(name=choice.name))
        return ChatRequest.model_construct(
            model=self.model,
            messages=[message for message, _ in self.turns()],
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            logprobs=bool(self.include),
            top_logprobs=self.top_logprobs,
            response_format=self._format(),
            tools=[
                ToolDefinition.model_construct(
                    type="function", function=FunctionDefinition.model_construct(
                        name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict),
                ) for tool in self.tools or ()
            ] or None,
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls,
            stream=self.stream,
            user=self.user,
            service_tier=self.service_tier,
            max_tiles=self.max_tiles,
        )  # fmt: skip

    def _format(self) -> PlainText | JsonObject | JsonSchema | None:
        form = self.text.format if self.text else None
        if not isinstance(form, ResponseSchema):
            return form
        named = NamedSchema.model_construct(name=form.name, description=form.description, schema_=form.schema_)
        return JsonSchema.model_construct(type="json_schema", json_schema=named)

    def turns(self) -> list[tuple[Message, str]]:
        """The messages of the chat, and what each is here: of several items the last."""
        instructed = self.instructions is not None
        system = [(SystemMessage(role="system", content=self.instructions or ""), "instructions")] * instructed
        if isinstance(self.input, str):
            return [*system, (UserMessage(role="user", content=self.input), "input")]
        turns: list[tuple[Message, str]] = [*system]
        for place, item in enumerate(self.input):
            last, at = turns[-1][0] if turns else None, f"input[{place}]"
            if isinstance(item, FunctionOutput):
                turns.append((ToolMessage.model_construct(
                    role="tool", content=_content(item.output), tool_call_id=item.call_id), at))  # fmt: skip
            elif isinstance(item, InputMessage):
                turns.append((_message(item), at))
            else:
                function = CalledFunction(name=item.name, arguments=item.arguments)
                call = ToolCall(id=item.call_id, type="function", function=function)
                if isinstance(last, AssistantMessage):  # the calls of one turn are items beside its words
                    calls = [*(last.tool_calls or ()), call]
                    turns[-1] = last.model_copy(update={"tool_calls": calls}), at
                else:
                    turns.append((AssistantMessage.model_construct(role="assistant", tool_calls=[call]), at))
        return turns


INSIDE = {
    ".role": "",  # some items have none
    ".image_url.url": ".image_url",
    ".file.file_data": ".file_data",
    ".tool_call_id": ".call_id",
    ".function": "",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
}
"""What parts of a chat's places are called here."""
PLACE = re.compile(r"messages(?:\[(\d+)\])?(.*)")


def calling(request: ResponsesRequest) -> Callable[[str], str]:
    """What a place of the chat that a request is read as is called in it.

    >>> request = ResponsesRequest(model="m", instructions="Be brief.", input=[InputMessage(role="user", content="Hi")])
    >>> calling(request)("messages[1].content[0].image_url.url"), calling(request)("tools[2].function.name")
    ('input[0].content[0].image_url', 'tools[2].name')
    """
    turns = [at for _, at in request.turns()]

    def called(place: str) -> str:
        found = PLACE.fullmatch(place)
        root = "" if found is None else "input" if found[1] is None else turns[int(found[1])]
        inside = place if found is None else found[2]
        for chat, here in INSIDE.items():
            inside = inside.replace(chat, here)
        return root if root in ("instructions", "input") else root + inside

    return called


def _message(item: InputMessage) -> Message:
    content = _content(item.content)
    if item.role == "user":
        return UserMessage.model_construct(role="user", content=content)
    if item.role == "assistant":
        return AssistantMessage.model_construct(role="assistant", content=content)
    return SystemMessage.model_construct(role=item.role, content=content)


def _content(content: str | list[Any]) -> Any:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: InputText | OutputText | InputImage | InputFile) -> TextPart | ImagePart | FilePart:
    if isinstance(part, InputImage):
        url = ImageUrl.model_construct(url=part.image_url, detail=part.detail)
        return ImagePart.model_construct(type="image_url", image_url=url)
    if isinstance(part, InputFile):
        file = File.model_construct(file_data=part.file_data, filename=part.filename)
        return FilePart.model_construct(type="file", file=file)
    return TextPart.model_construct(type="text", text=part.text)

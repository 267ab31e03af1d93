"""The requests we honour, field by field: chat, completions, embeddings, tokenize.

Responses are in `serving.responses`. Every field of OpenAI's API, and of vLLM's where it goes further, is here: as a
field, or in a table of what is not honoured. Everything else is refused with the nearest name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, Tag, model_validator
from pydantic_core.core_schema import ValidationInfo

from internvl.serving.fields import (
    Fields,
    Many,
    RequestLimits,
    Texts,
    at_most,
    by_field,
    by_kind,
    limits_of,
    refuse,
)
from internvl.serving.messages import (
    ChatMessage,
    Choices,
    FilePart,
    ImagePart,
    NamedTool,
    Pattern,
    PlainText,
    ResponseFormat,
    Schema,
    StructuredOutputs,
    TextPart,
    ToolChoice,
    ToolDefinition,
    UserMessage,
    VideoPart,
    check_order,
    check_tools,
    data_kind,
)
from internvl.serving.refusal import shown
from internvl.serving.unhonoured import NOT_KEPT, NOT_SAMPLED, NOT_TEMPLATED

FURTHEST_SEED = 2**63

Name = Annotated[str, Field(min_length=1, max_length=512)]


def _tier(value: Any) -> Any:
    if isinstance(value, str) and value not in ("auto", "default", "flex"):
        raise refuse(f"{shown(value)} is not honoured here; leave it out, or send 'flex'", kind="not_honoured")
    return value


Tier = Annotated[Literal["auto", "default", "flex"], BeforeValidator(_tier)]
"""When it is a request's turn. flex: after all that do not say so."""


def _stops(value: Any, info: ValidationInfo) -> Any:
    strings: list[str] = value if isinstance(value, list) else [value]
    if "" in strings:
        raise refuse("a stop string is empty; every answer would end at once")
    most, longest = limits_of(info).stop_letters, max(map(len, strings), default=0)
    if longest > most:
        raise refuse(f"a stop string has {longest} letters, at most {most} are taken; shorten it", kind="limit")
    return value


Stop = Annotated[Texts, at_most("stop", "strings"), AfterValidator(_stops)]


class StreamOptions(Fields):
    include_usage: bool | None = None
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "include_obfuscation": (None, False),
        "continuous_usage_stats": (None, False),
    }


class Drawn(Fields):
    """How answers are drawn, and sent."""

    model: Name
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Null: the server's default, which is 0 (the likeliest token every time)."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    """0 and -1: all tokens."""
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    seed: int | None = Field(default=None, ge=-FURTHEST_SEED, lt=FURTHEST_SEED)
    max_tokens: Annotated[int, Field(ge=1), at_most("tokens")] | None = None
    min_tokens: Annotated[int, Field(ge=0), at_most("tokens")] | None = None
    n: Annotated[int, Field(ge=1), at_most("n", "answers")] | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    """Whose request it is: turns are shared out among users."""
    service_tier: Tier | None = None
    guided_json: Schema | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _of_one_mind(self) -> Drawn:
        if self.stream_options is not None and not self.stream:
            raise refuse("it belongs to stream: true; leave it out, or stream", at="stream_options")
        asked = self.constraints()
        if len(asked) > 1:
            none = " (tools with tool_choice none)" if asked[0] == "tools" else ""
            raise refuse(f"{asked[0]} asks for another form of the answer; send one of them{none}", at=asked[1])
        inner = self.structured_outputs
        if inner is not None and "structured_outputs" not in asked:
            raise refuse("expected one of json, regex, choice, json_object", at="structured_outputs")
        return self

    def constraints(self) -> list[str]:
        """The fields that say which form an answer must have."""
        found = [name for name in ("guided_json", "guided_regex", "guided_choice") if getattr(self, name) is not None]
        inner = self.structured_outputs
        if inner is not None:
            kinds = (inner.json_ is not None, inner.regex is not None, inner.choice is not None, inner.json_object)
            found += ["structured_outputs"] * sum(map(bool, kinds))
        return found


class ChatRequest(Drawn):
    """/v1/chat/completions

    >>> understood(ChatRequest, {"model": "nano", "messages": [{"role": "user", "content": "Hi"}]})  # doctest: +SKIP
    """

    messages: Annotated[Many[ChatMessage], at_most("messages", "messages")]
    max_completion_tokens: Annotated[int, Field(ge=1), at_most("tokens")] | None = None
    """OpenAI's newer name of max_tokens."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0), at_most("top_logprobs")] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[Many[ToolDefinition], at_most("tools", "tools")] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """False: the first call of an answer is the only one."""
    max_tiles: Annotated[int, Field(ge=1), at_most("tiles", "tiles")] | None = None
    """Extension: the budget that the pictures and pages of one message share, thumbnails not counted."""
    num_frames: Annotated[int, Field(ge=1), at_most("frames", "frames")] | None = None
    """Extension: frames taken from each video."""
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {
        **NOT_SAMPLED,
        **NOT_KEPT,
        **NOT_TEMPLATED,
        "audio": (None,),
        "echo": (None, False),
        "function_call": (None,),
        "functions": (None, []),
        "modalities": (None, ["text"]),
        "prediction": (None,),
        "reasoning_effort": (None, "none"),
        "verbosity": (None, "medium"),
        "web_search_options": (None,),
    }
    instead: ClassVar[Mapping[str, str]] = {
        "input": "messages",
        "instructions": "messages",
        "prompt": "messages",
        "max_output_tokens": "max_tokens",
        "text": "response_format",
    }

    @model_validator(mode="after")
    def _whole(self, info: ValidationInfo) -> ChatRequest:
        check_order(self.messages)
        check_tools(self.tools, self.tool_choice)
        check_media(self.messages, limits_of(info))
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise refuse(f"found {self.max_completion_tokens}, but max_tokens is {self.max_tokens}; send one of them",
                         at="max_completion_tokens")  # fmt: skip
        if self.top_logprobs and not self.logprobs:
            raise refuse("it belongs to logprobs: true; leave it out, or ask for logprobs", at="top_logprobs")
        if self.must_call and self.stop:
            raise refuse("it would cut the call that tool_choice demands; leave it out, or set tool_choice to auto",
                         at="stop")  # fmt: skip
        return self

    def constraints(self) -> list[str]:
        formed = self.response_format is not None and not isinstance(self.response_format, PlainText)
        own = ["response_format"] if formed else []
        # A call is a form of its own, and with tool_choice auto the answer may be one.
        return ["tools"] * bool(self.tools and self.tool_choice != "none") + own + super().constraints()

    @property
    def must_call(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)


def check_media(messages: list[Any], limits: RequestLimits) -> None:
    """How many pictures, videos and documents there are, and that a data: address is of the kind its part says."""
    found: list[tuple[ImagePart | VideoPart | FilePart, str]] = []
    for place, message in enumerate(messages):
        content = message.content if isinstance(message, UserMessage) else ""
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, TextPart):
                continue
            found.append((part, f"messages[{place}].content[{number}]"))
            check_kind(*found[-1])
    check_number([f"{at}.{medium_of(part)[0]}" for part, at in found], limits.media, MEDIA, "messages")
    images = [f"{at}.image_url.url" for part, at in found if isinstance(part, ImagePart)]
    check_number(images, limits.images, "pictures", "messages")


MEDIA = "pictures, videos and documents"


def check_number(found: Sequence[str], most: int | None, what: str, at: str) -> None:
    """found: the place of each."""
    if most is None:
        return
    if found and not most:
        raise refuse(f"no {what} are taken here; send text", kind="media_refused", at=found[0])
    if len(found) > most:
        raise refuse(f"found {len(found)} {what}, at most {most} are taken; send fewer", kind="limit", at=at)


UNKNOWN = "application/octet-stream"


def check_kind(part: ImagePart | VideoPart | FilePart, where: str) -> None:
    """What a data: address says it holds is what its part is for."""
    name, kinds, address = medium_of(part)
    kind = data_kind(address)
    if kind and not kind.startswith(kinds):
        raise refuse(f"this is {shown(kind)}; expected {' or '.join(kinds)}, send it in a part of its own kind",
                     kind="media_type", at=f"{where}.{name}")  # fmt: skip


def medium_of(part: ImagePart | VideoPart | FilePart) -> tuple[str, tuple[str, ...], str]:
    """The field of a part's address, the kinds that it may have, and the address."""
    if isinstance(part, ImagePart):
        return "image_url.url", ("image/", UNKNOWN), part.image_url.url
    if isinstance(part, VideoPart):
        return "video_url.url", ("video/", "image/gif", UNKNOWN), part.video_url.url
    return "file.file_data", ("application/pdf",), part.file.file_data


def no_ids(value: Any) -> Any:
    """Token ids are refused: they could spell structure, and are mostly another tokenizer's."""
    if isinstance(value, list) and any(isinstance(one, int | list) for one in cast("list[object]", value)):
        raise refuse("these are token ids; send text (with LangChain: check_embedding_ctx_length=False)",
                     kind="not_honoured")  # fmt: skip
    return value


def _some(value: Any) -> Any:
    if value == []:
        raise refuse("there is nothing to continue; send at least one text")
    return value


class CompletionRequest(Drawn):
    """/v1/completions: a text, continued as it is, without roles and template."""

    prompt: Annotated[Texts, at_most("prompts", "prompts"), BeforeValidator(no_ids), AfterValidator(_some)]
    logprobs: Annotated[int, Field(ge=0), at_most("top_logprobs")] | None = None
    """How many alternatives are reported beside each token."""
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {
        **NOT_SAMPLED,
        **NOT_KEPT,
        "add_special_tokens": (None, True),
        "best_of": (None, 1),
        "echo": (None, False),
        "response_format": (None, {"type": "text"}),
        "suffix": (None, ""),
    }
    instead: ClassVar[Mapping[str, str]] = {"messages": "prompt", "input": "prompt", "max_output_tokens": "max_tokens",
                                            "max_completion_tokens": "max_tokens"}  # fmt: skip

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


SeenPart = Annotated[Annotated[TextPart, Tag("@text")] | Annotated[ImagePart, Tag("@image_url")], by_field("type")]
Seen = Annotated[
    Annotated[str, Tag("@written")] | Annotated[SeenPart, Tag("@part")], by_kind((str, "written"), (dict, "part"))
]


class EmbeddingRequest(Fields):
    """/v1/embeddings: texts, and as an extension pictures as the parts that messages have. One vector each.

    >>> understood(EmbeddingRequest, {"model": "m", "input": ["a cat", {"type": "image_url",
    ...     "image_url": {"url": "data:image/png;base64,AAAA"}}]})  # doctest: +SKIP
    """

    model: Name
    input: Annotated[
        Annotated[str, Tag("@written")]
        | Annotated[Many[Seen], Field(min_length=1), at_most("inputs", "inputs"), Tag("@list")],
        by_kind((str, "written"), (list, "list")),
        BeforeValidator(no_ids),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "dimensions": (None,),
        "truncate_prompt_tokens": (None,),
        "add_special_tokens": (None, True),
        "priority": (None, 0),
    }
    instead: ClassVar[Mapping[str, str]] = {"messages": "input", "prompt": "input"}

    @property
    def inputs(self) -> list[str | ImagePart]:
        """What is embedded: texts and pictures, in order."""
        given: list[Any] = [self.input] if isinstance(self.input, str) else self.input
        return [one.text if isinstance(one, TextPart) else one for one in given]

    @model_validator(mode="after")
    def _of_its_kind(self, info: ValidationInfo) -> EmbeddingRequest:
        if self.inputs == [""] or "" in self.inputs:
            raise refuse("a text is empty; there is nothing to embed", at="input")
        for place, one in enumerate(self.inputs):
            if isinstance(one, ImagePart):
                check_kind(one, f"input[{place}]")
                if one.image_url.max_dynamic_patch is not None:
                    raise refuse("a vector is of one view of a picture; leave it out", kind="not_honoured",
                                 at=f"input[{place}].image_url.max_dynamic_patch")  # fmt: skip
        images = [f"input[{n}].image_url.url" for n, one in enumerate(self.inputs) if isinstance(one, ImagePart)]
        for most in (limits_of(info).media, limits_of(info).images):
            check_number(images, most, "pictures", "input")
        return self


class TokenizeRequest(Fields):
    """/tokenize, in vLLM's form: a text, or a conversation as the model would read it."""

    model: Name | None = None
    prompt: str | None = None
    messages: Annotated[Many[ChatMessage], at_most("messages", "messages")] | None = None
    tools: Annotated[Many[ToolDefinition], at_most("tools", "tools")] | None = None
    max_tiles: Annotated[int, Field(ge=1), at_most("tiles", "tiles")] | None = None
    num_frames: Annotated[int, Field(ge=1), at_most("frames", "frames")] | None = None
    add_special_tokens: bool | None = None
    """Of a text, which is counted as it is continued: true. Of a conversation, whose template has them: false."""
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {
        **{name: accepted for name, accepted in NOT_TEMPLATED.items() if name != "add_special_tokens"},
        "return_token_strs": (None, False),
    }

    @model_validator(mode="after")
    def _one_of_two(self, info: ValidationInfo) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise refuse("expected prompt or messages, one of them", at="prompt")
        if self.messages is None:
            for name in ("tools", "max_tiles", "num_frames"):
                if getattr(self, name) is not None:
                    raise refuse("it belongs to messages; leave it out", at=name)
            if self.add_special_tokens is False:
                raise refuse("a text is counted as it is continued, with what every text begins with; leave it out",
                             kind="not_honoured", at="add_special_tokens")  # fmt: skip
            return self
        if self.add_special_tokens:
            raise refuse("a conversation has the template's own; leave it out", kind="not_honoured",
                         at="add_special_tokens")  # fmt: skip
        check_order(self.messages)
        check_tools(self.tools, None)
        check_media(self.messages, limits_of(info))
        return self

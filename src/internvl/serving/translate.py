"""From a checked request to what the rest of the package works with. Nothing is opened, and no model is known here.

    ChatRequest --translate--> Order: messages with references to media, sampling, the form of the answer, tools
                                 |
                                 '-- Unopened.message(opened) --> internvl.data.prompts.Message

What a person typed becomes `Text`, in which nothing is a placeholder. How pictures stand among texts follows the rule
that `internvl.inference.remote` states: before all text they are introduced in the family's way, elsewhere each stands
where its part stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from internvl.data.prompts import Text
from internvl.errors import UsageError
from internvl.inference.constraint import Constraint
from internvl.serving.messages import (
    AssistantMessage,
    ImagePart,
    JsonObject,
    JsonSchema,
    NamedTool,
    SystemMessage,
    TextPart,
    ToolDefinition,
    ToolMessage,
    UserMessage,
    VideoPart,
)
from internvl.serving.order import Order, Reference, Sampling, Unopened
from internvl.serving.refusal import Refusal, of_form
from internvl.serving.responses import ResponsesRequest, calling
from internvl.serving.schema import ChatRequest, CompletionRequest, Drawn, TokenizeRequest, medium_of
from internvl.serving.tools import Call, Tool, ToolUse, answered

COMPLETION_TOKENS = 16
"""Of an answer of /v1/completions that asks for no other number, as OpenAI has it."""
SEEDS = 2**63
LAST = -1
"""The priority of who lets all others go first."""

FORM = "The answer is JSON of this kind: "
"""What stands before the description that a request gives of its schema, in the system message."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a server adds where a request says nothing."""

    temperature: float = 0.0
    system: str = ""
    """The model's own system message. It stands before what is said of tools and forms; a request's replaces it."""
    tool_role: bool = False
    """Whether the model's template has a place of its own for what tools answered."""


def translate(
    request: ChatRequest | CompletionRequest | ResponsesRequest | TokenizeRequest, preset: Preset | None = None
) -> Order:
    """A request as a job.

    >>> from internvl.serving.fields import understood
    >>> request = understood(ChatRequest, {"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
    >>> translate(request).unopened
    (Unopened(role='user', parts=(Text(text='Hi'),)),)
    """
    preset = preset or Preset()
    if isinstance(request, ResponsesRequest):
        name = calling(request)
        try:
            return translate(request.as_chat(), preset).called(name)
        except Refusal as refusal:
            at = refusal.param or "messages"
            raise refusal.renamed({at: name(at)}) from None
    if isinstance(request, TokenizeRequest):
        if request.messages is None:
            return Order(model=request.model or "", prompts=(request.prompt or "",))
        request = ChatRequest.model_construct(
            model=request.model or "", messages=request.messages, tools=request.tools,
            max_tiles=request.max_tiles, num_frames=request.num_frames,
        )  # fmt: skip
    if isinstance(request, CompletionRequest):
        alternatives = request.logprobs or 0
        sampling = _sampling(request, preset, request.max_tokens or COMPLETION_TOKENS, alternatives)
        return Order(prompts=tuple(request.prompts), sampling=sampling, **_formed(request),
                   logprobs=request.logprobs is not None, **_sent(request))  # fmt: skip
    tools = _tools(request)
    most = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    return Order(
        unopened=tuple(_unopened(request, tools, preset)),
        sampling=_sampling(request, preset, most, request.top_logprobs or 0),
        **_formed(request, tools),
        tools=tools,
        max_tiles=request.max_tiles,
        logprobs=bool(request.logprobs),
        **_sent(request),
    )


def _sent(request: Drawn) -> dict[str, Any]:
    options = request.stream_options
    return {
        "model": request.model,
        "n": request.n or 1,
        "stream": bool(request.stream),
        "include_usage": bool(options and options.include_usage),
        "user": request.user,
        "priority": LAST if request.service_tier == "flex" else 0,
    }


def _sampling(request: Drawn, preset: Preset, most: int | None, top_logprobs: int) -> Sampling:
    """The likeliest token is among the top k and top p whatever these are: they mean nothing at temperature 0."""
    warmth = preset.temperature if request.temperature is None else request.temperature
    if request.top_p == 0:  # the likeliest token alone
        warmth = 0.0
    least = request.min_tokens or 0
    if most is not None and least > most:
        raise Refusal(f"min_tokens is {least}, more than the {most} that are asked for; lower it", param="min_tokens",
                      code="invalid_value")  # fmt: skip
    stop = request.stop or []
    return Sampling(
        max_new_tokens=most,
        temperature=warmth,
        top_k=request.top_k if warmth and request.top_k and request.top_k > 0 else None,
        top_p=request.top_p if warmth and request.top_p not in (None, 1) else None,
        repetition_penalty=request.repetition_penalty or 1.0,
        min_new_tokens=least,
        seed=None if request.seed is None else request.seed % SEEDS,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        top_logprobs=top_logprobs,
    )


def _formed(request: Drawn, tools: ToolUse | None = None) -> dict[str, Any]:
    """The form that an answer must have, and the fields that ask for it. `constraints()` has seen to one at most."""
    asked = _called_form(request, tools) if tools else _form(request)
    if asked is None:
        return {}
    at, form = asked
    if request.min_tokens and (tools is None or tools.must):  # words can go on
        raise Refusal("min_tokens: an answer ends where its form does, which may be sooner; leave it out, or say the "
                      "length in the form", param="min_tokens", code="invalid_value")  # fmt: skip
    try:
        return {"constraint": form(), "constraint_at": at}
    except UsageError as error:
        raise of_form(error, at) from None


Form = tuple[tuple[str, ...], Callable[[], Constraint]]
"""The fields that ask for it, and what makes it."""


def _called_form(request: Drawn, tools: ToolUse) -> Form | None:
    if not isinstance(request, ChatRequest) or not tools.holds:
        return None
    places = {tool.function.name: place for place, tool in enumerate(request.tools or ())}
    at = tuple(f"tools[{places[tool.name]}].function.parameters" for tool in tools.tools)
    return at, tools.form


def _form(request: Drawn) -> Form | None:
    form = request.response_format if isinstance(request, ChatRequest) else None
    if isinstance(form, JsonObject):
        return ("response_format",), Constraint.json_object
    if isinstance(form, JsonSchema):
        return ("response_format.json_schema.schema",), partial(Constraint.json_schema, form.json_schema.schema_)
    inner = request.structured_outputs
    if inner and inner.json_object:
        return ("structured_outputs.json_object",), Constraint.json_object
    before = "guided_" if inner is None else "structured_outputs."
    schema = request.guided_json if inner is None else inner.json_
    if schema is not None:
        return (f"{before}json",), partial(Constraint.json_schema, schema)
    pattern = request.guided_regex if inner is None else inner.regex
    if pattern is not None:
        return (f"{before}regex",), partial(Constraint.regex, pattern)
    choices = request.guided_choice if inner is None else inner.choice
    return None if choices is None else ((f"{before}choice",), partial(Constraint.choice, choices))


def _tools(request: ChatRequest) -> ToolUse | None:
    """The tools that the model is told. A named one is the only one that it may call, so the only one it is told."""
    choice = request.tool_choice
    if not request.tools or choice == "none":
        return None
    named = choice.function.name if isinstance(choice, NamedTool) else None
    told = [tool for tool in request.tools if named in (None, tool.function.name)]
    return ToolUse(tuple(map(_tool, told)), request.must_call, request.parallel_tool_calls is not False)


def _tool(tool: ToolDefinition) -> Tool:
    return Tool(tool.function.name, tool.function.description, tool.function.parameters, bool(tool.function.strict))


# ---- messages --------------------------------------------------------------------------------------------------------


def _system(request: ChatRequest, tools: ToolUse | None, preset: Preset) -> list[Unopened]:
    """The request's system messages as one, and after them what is told of tools and of the form of the answer."""
    system = [text_of(one.content) for one in request.messages if isinstance(one, SystemMessage)]
    form = request.response_format
    described = form.json_schema.description if isinstance(form, JsonSchema) else None
    if tools or described:
        told = [tools.told()] if tools else []
        told += [f"{FORM}{described}"] if described else []
        system = [*(system or [preset.system]), *told]
    return [Unopened("system", (Text("\n\n".join(filter(None, system))),))] if system else []


def _told(results: Sequence[str], preset: Preset) -> list[Unopened]:
    """What tools answered, together."""
    if preset.tool_role:
        return [Unopened("tool", (Text(result),)) for result in results]
    return [Unopened("user", (Text("\n".join(map(answered, results))),))]


def _unopened(request: ChatRequest, tools: ToolUse | None, preset: Preset) -> list[Unopened]:
    unopened = _system(request, tools, preset)
    waiting: list[str] = []  # ids of calls that a tool is to answer, in their order
    results: dict[str, str] = {}
    for place, message in enumerate(request.messages):
        if isinstance(message, ToolMessage):
            key = message.tool_call_id or next((one for one in waiting if one not in results), str(place))
            results[key] = text_of(message.content)
            following = request.messages[place + 1 : place + 2]
            if not following or not isinstance(following[0], ToolMessage):
                unopened += _told(
                    [results[one] for one in sorted(results, key=lambda one: _rank(one, waiting))], preset
                )
                results = {}
        elif isinstance(message, AssistantMessage):
            waiting = [call.id for call in message.tool_calls or ()]
            unopened.append(Unopened("assistant", (Text(_spoken(message)),)))
        elif isinstance(message, UserMessage):
            unopened.append(Unopened("user", tuple(_user_parts(message, request.num_frames, f"messages[{place}]"))))
    return unopened


def _rank(call: str, calls: Sequence[str]) -> int:
    """Answers are read in the order of the calls, in whatever order they came."""
    return calls.index(call) if call in calls else len(calls)


def _spoken(message: AssistantMessage) -> str:
    calls = [Call(one.function.name, one.function.arguments).written() for one in message.tool_calls or ()]
    return "\n".join(filter(None, [text_of(message.content), *calls]))


PLACE = "<IMAGE_TOKEN>"
"""Where LMDeploy, and VLMEvalKit that asks it, puts a picture into a text."""


def _user_parts(message: UserMessage, frames: int | None, at: str) -> list[Text | Reference]:
    if isinstance(message.content, str):
        return [Text(message.content)]
    parts: list[Text | Reference] = []
    alone = all(isinstance(part, ImagePart) for part in message.content[:-1])
    for number, part in enumerate(message.content):
        if isinstance(part, TextPart):
            parts.append(Text(_without_heading(part.text, pictures=len(parts) if alone else 0)))
            continue
        name, _, address = medium_of(part)
        place = f"{at}.content[{number}].{name}"
        if isinstance(part, ImagePart):
            tiles = 1 if part.image_url.detail == "low" else part.image_url.max_dynamic_patch
            parts.append(Reference("image", address, tiles, place=place))
        elif isinstance(part, VideoPart):
            parts.append(Reference("video", address, frames=frames, place=place))
        else:
            parts.append(Reference("pdf", address, place=place))
    return parts


def _without_heading(text: str, *, pictures: int) -> str:
    """A text without the line that clients of LMDeploy put before it for each picture: the family's template writes it.

    >>> _without_heading("<IMAGE_TOKEN>\\nWhat is this?", pictures=1)
    'What is this?'
    """
    one = pictures == 1
    lines = (f"{'' if one else f'Image-{number}: '}{PLACE}\n" for number in range(1, pictures + 1))
    return text.removeprefix("".join(lines))


def text_of(content: str | list[TextPart] | None) -> str:
    """The text of content that holds nothing else."""
    return content if isinstance(content, str) else "".join(part.text for part in content or ())

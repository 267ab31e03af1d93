"""What the API says of itself at /openapi.json: the fields of each request, of each answer, and the errors.

Answers are made by `replies` and `response_events`; the models here only describe them, and tests hold both together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from internvl.serving.fields import Fields
from internvl.serving.responses import ResponsesRequest
from internvl.serving.schema import ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest

Kind = Literal["chat", "completions", "responses"]
Tier = Literal["default", "flex"]
"""How a request was served; only there where the request asked for a `service_tier`."""
REQUESTS: tuple[type[Fields], ...] = (
    ChatRequest, CompletionRequest, ResponsesRequest, EmbeddingRequest, TokenizeRequest,
)  # fmt: skip
REFERENCE = "#/components/schemas/{model}"
TITLE = "internvl"


class Described(BaseModel):
    """An object of which every field is known."""

    model_config = ConfigDict(extra="forbid")


# ---- errors ----------------------------------------------------------------------------------------------------------


class Fault(Described):
    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class Error(Described):
    """Whatever is not answered."""

    error: Fault


REFUSED: Mapping[int, str] = {
    400: "A field is unknown, wrong, over a limit or not honoured; `param` names it. Or this is no proper HTTP.",
    401: "No key came with the request, or a wrong one.",
    404: "No such model, or no such path.",
    405: "The path is not asked in this way.",
    408: "The request did not arrive in time.",
    413: "More bytes than a request may have.",
    415: "No JSON, or media of a kind that is not read.",
    421: "The server is not called that.",
    422: "A picture, video or document is damaged.",
    429: "The server is busy; come again after Retry-After seconds.",
    431: "The first line and the headers are too long.",
    500: "A fault of the server.",
    503: "The model is not ready, or too many are connected; come again after Retry-After seconds.",
    504: "The answer took too long.",
}
ALWAYS = (400, 401, 405, 413, 421, 431, 500, 503)
"""What is answered before it is known which route is asked, too."""


# ---- chat and completions --------------------------------------------------------------------------------------------


class PromptDetails(Described):
    cached_tokens: int
    image_tokens: int


class TokenUsage(Described):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class SaidFunction(Described):
    name: str
    arguments: str


class SaidCall(Described):
    id: str
    type: Literal["function"]
    function: SaidFunction


class SaidMessage(Described):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[SaidCall] = []


class TokenLikely(Described):
    token: str
    logprob: float
    bytes: list[int]


class TokenChosen(TokenLikely):
    top_logprobs: list[TokenLikely]


class ChatLogprobs(Described):
    content: list[TokenChosen]
    refusal: None


class ChatChoice(Described):
    index: int
    message: SaidMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Described):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    service_tier: Tier = "default"


class TextLogprobs(Described):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Described):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(Described):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: TokenUsage
    service_tier: Tier = "default"


# ---- responses -------------------------------------------------------------------------------------------------------


class SaidText(Described):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenChosen]


class OutputMessage(Described):
    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: Literal["completed", "incomplete"]
    content: list[SaidText]


class OutputCall(Described):
    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: Literal["completed", "incomplete"]


class InputDetails(Described):
    cached_tokens: int
    cache_write_tokens: int
    image_tokens: int


class OutputDetails(Described):
    reasoning_tokens: int


class ResponseUsage(Described):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Incomplete(Described):
    reason: Literal["max_output_tokens"]


class ResponseObject(Described):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    background: Literal[False]
    error: None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputMessage | OutputCall]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: None
    service_tier: Tier = "default"
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage
    user: str | None
    metadata: dict[str, str]


# ---- lists -----------------------------------------------------------------------------------------------------------


class Model(Described):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None = None
    """Tokens of a prompt and its answer together."""


class Models(Described):
    object: Literal["list"]
    data: list[Model]


class Vector(Described):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """Numbers, or little-endian float32 in base64."""


class EmbeddingUsage(Described):
    prompt_tokens: int
    total_tokens: int


class Embeddings(Described):
    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: EmbeddingUsage


class CutPicture(Described):
    width: int
    height: int
    tiles: int = Field(description="The thumbnail is one of them.")


class Tokenized(Described):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None
    images: list[CutPicture] = Field(default=[], description="Extension: the pictures of a conversation, as seen.")


class Health(Described):
    status: Literal["ok"]


class Readiness(Described):
    status: Literal["ready"]
    model: str = Field(description="What requests call it.")


# ---- the document ----------------------------------------------------------------------------------------------------


def told(
    request: type[Fields] | None, answer: type[BaseModel], *, stream: Kind | None = None, errors: tuple[int, ...] = ()
) -> dict[str, Any]:
    """What a route's decorator takes: how it is asked and answered."""
    of_requests = (404, 408, 415, 422, 429, 504) if request else ()
    statuses = sorted({*ALWAYS, *of_requests, *errors})
    responses: dict[int, dict[str, Any]] = {200: {"model": answer, "description": "The answer."}}
    if stream:
        responses[200]["content"] = {"text/event-stream": {}}
    responses |= {status: {"model": Error, "description": REFUSED[status]} for status in statuses}
    said: dict[str, Any] = {"responses": responses, "response_model": None}
    if request:
        schema = {"$ref": REFERENCE.format(model=request.__name__)}
        said["openapi_extra"] = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    return said


def document(app: FastAPI, *, keyed: bool, served: Mapping[type[Fields], str]) -> dict[str, Any]:
    """The OpenAPI document. What bodies may hold comes from the models that check them; served: what each of them may
    call the model, once that is known."""
    whole = get_openapi(title=TITLE, version=app.version, routes=app.routes, summary=app.summary)
    _, definitions = models_json_schema([(kind, "validation") for kind in REQUESTS], ref_template=REFERENCE)
    components = whole.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions.get("$defs", {}))
    for kind, name in served.items():
        components["schemas"][kind.__name__]["properties"]["model"] = {"title": "Model", "enum": [name]}
    if keyed:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"key": []}]
        whole["paths"]["/health"]["get"]["security"] = []
    return whole

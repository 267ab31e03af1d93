"""From the bytes of a request to checked fields: limits, JSON, and what every kind of request is made of.

    bytes --read_json--> plain values --understood--> ChatRequest and its like, or a Refusal

A field is honoured, or refused by its name. A field that is known and not honoured may have the API's own default,
which changes nothing: clients send such.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, TypeVar, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo, ValidatorFunctionWrapHandler

from internvl.errors import UsageError
from internvl.inference.constraint import Constraint
from internvl.serving.refusal import MARK, Refusal, nearest, of_validation, shown

R = TypeVar("R", bound="Fields")
T = TypeVar("T")

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """How much one request may ask for and hold. What media may hold is said by `internvl.data.limits`."""

    body: int = 64 * MIB
    """Bytes of a request."""
    depth: int = 64
    """Arrays and objects inside each other."""
    values: int = 200_000
    """Values of a request, arrays and objects counted."""
    text: int = 4 * MIB
    """Bytes of all text together; data: addresses do not count."""
    messages: int = 1024
    parts: int = 512
    """Of one message."""
    media: int = 128
    """Pictures, videos and documents of one request; 0: none are taken."""
    images: int | None = None
    """Pictures of one request; None: as many as media, 0: none are taken."""
    tools: int = 128
    stop: int = 4
    stop_letters: int = 256
    """Of one stop string, which every token of an answer is compared with."""
    schema_depth: int = 32
    schema_bytes: int = 64 * KIB
    """Of one JSON schema."""
    pattern: int = 4 * KIB
    """Letters of a regular expression."""
    choices: int = 1024
    n: int = 8
    """Answers to one prompt."""
    top_logprobs: int = 20
    prompts: int = 64
    """Of one request for completions."""
    inputs: int = 512
    """Of one request for embeddings."""
    tokens: int = 131_072
    """Of one answer: that may be asked for, and where none are the answer is cut there. So does the model's context."""
    tiles: int = 128
    frames: int = 512

    def __post_init__(self) -> None:
        for one in fields(self):
            least = 0 if one.name in MAY_BE_NONE else 1
            value = getattr(self, one.name)
            if value is not None and value < least:
                raise UsageError(f"the limit {one.name} is {value}; it must be at least {least}")


MAY_BE_NONE = ("media", "images", "frames", "pages")
"""Limits of requests and media that may be 0: nothing of the kind is taken."""
DEFAULT = RequestLimits()


# ---- JSON ------------------------------------------------------------------------------------------------------------


class _Duplicate(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise _Duplicate(next(name for name, _ in pairs if name in seen or seen.add(name)))
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def read_json(body: bytes, limits: RequestLimits = DEFAULT) -> dict[str, Any]:
    """The object that a body holds: strict JSON of bounded size and depth, without duplicate names."""
    if len(body) > limits.body:
        raise Refusal(f"the request has {len(body)} bytes, at most {limits.body} are read; send less, or smaller "
                      "pictures", status=413, code="body_too_large")  # fmt: skip
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except _Duplicate as error:
        raise Refusal(f"{shown(str(error))} stands twice in one object; say it once", code="invalid_json") from None
    except RecursionError:
        raise _too_deep(limits) from None
    except ValueError as error:  # not UTF-8, not JSON, NaN, a number of more digits than are read
        place = f" at letter {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise Refusal(f"the body is not proper JSON{place}; send one JSON object", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Refusal(f"the body is {shown(value)}; send one JSON object", code="invalid_json")
    request = cast("dict[str, Any]", value)
    _check_extent(request, limits)
    return request


def _too_deep(limits: RequestLimits) -> Refusal:
    return Refusal(f"the request is nested deeper than {limits.depth}, the limit; flatten it", code="limit_exceeded")


def _check_extent(value: object, limits: RequestLimits) -> None:
    """Depth, number of values, bytes of text, and that all text is Unicode."""
    text = 0
    for values, (depth, key, one) in enumerate(walk(value), start=1):
        if depth > limits.depth:
            raise _too_deep(limits)
        if values > limits.values:
            raise Refusal(f"the request has more than {limits.values} values, the limit; send fewer",
                          code="limit_exceeded")  # fmt: skip
        for said in (key, one):
            if isinstance(said, str):
                if not is_unicode(said):
                    raise Refusal("a string holds half a surrogate pair, which is no Unicode", code="invalid_json")
                text += 0 if said is one and key in ADDRESSES and is_data(said) else len(said.encode())
    if text > limits.text:
        raise Refusal(f"the request has {text} bytes of text, at most {limits.text} are read; send less",
                      code="limit_exceeded")  # fmt: skip


ADDRESSES = ("url", "image_url", "file_data")
"""Where a data: address may stand."""


def is_data(text: str) -> bool:
    return text[:5].lower() == "data:"


def is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def walk(value: object) -> Iterator[tuple[int, str | None, object]]:
    """Every value inside a value, itself included, as (depth, name in its object, value); without recursion."""
    waiting: list[tuple[int, str | None, object]] = [(0, None, value)]
    while waiting:
        depth, key, one = waiting.pop()
        inside = depth + isinstance(one, dict | list)
        yield inside, key, one
        if isinstance(one, dict):
            waiting.extend((inside, name, below) for name, below in cast("dict[str, object]", one).items())
        elif isinstance(one, list):
            waiting.extend((inside, None, below) for below in cast("list[object]", one))


# ---- what requests are made of ---------------------------------------------------------------------------------------


def refuse(text: str, *, kind: str = "invalid_value", at: str | None = None) -> PydanticCustomError:
    """A fault found by hand; `at`: the field, where it stands inside the value that is being looked at."""
    # As a value of the context: braces of the text itself would be taken for names.
    context = {"said": text} if at is None else {"said": text, "name": at}
    return PydanticCustomError(cast(Any, kind), "{said}", context)


def _published(schema: dict[str, Any], model: type[Fields]) -> None:
    """In the published schema a field that is not honoured has its defaults."""
    known = {name: {"enum": list(accepted)} for name, accepted in sorted(model.only.items())}
    schema["properties"] = schema.get("properties", {}) | known


class Fields(BaseModel):
    """A JSON object whose fields are all known. Nothing is converted: "5" is no number."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, json_schema_extra=cast(Any, _published)
    )
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    """Fields that are not honoured, and the values with which they change nothing."""
    instead: ClassVar[Mapping[str, str]] = {}
    """Fields of other routes, and what says the same here."""

    @model_validator(mode="before")
    @classmethod
    def _all_known(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise refuse(f"expected an object, found {shown(data)}", kind="invalid_type")
        given = cast("dict[str, Any]", data)
        cls._check_type(given)
        names = [field.alias or name for name, field in cls.model_fields.items()]
        for name, value in given.items():
            if name in cls.only:
                if not any(_same(value, accepted) for accepted in cls.only[name]):
                    raise refuse(f"this field is not honoured here{_or_else(cls.only[name])}", kind="not_honoured",
                                 at=name)  # fmt: skip
            elif name not in names:
                near = f"; did you mean {cls.instead[name]!r}?" if name in cls.instead else nearest(name, names)
                raise refuse(f"no such field here{near}", kind="unknown_field", at=name)
        return {name: value for name, value in given.items() if name not in cls.only}

    @classmethod
    def _check_type(cls, given: Mapping[str, Any]) -> None:
        """An object of another type has other fields: its type is told before them."""
        types = get_args(cls.model_fields["type"].annotation) if "type" in cls.model_fields else ()
        said = given.get("type")
        if types and isinstance(said, str) and said not in types:
            raise refuse(f"expected {' or '.join(map(repr, types))}, found {shown(said)}", at="type")


def _same(value: object, accepted: object) -> bool:
    return isinstance(value, bool) == isinstance(accepted, bool) and value == accepted


def _or_else(accepted: tuple[object, ...]) -> str:
    values = [json.dumps(value) for value in accepted if value is not None]
    return "; leave it out" + (f", or send {' or '.join(values)}" if values else "")


def understood(kind: type[R], data: object, limits: RequestLimits = DEFAULT) -> R:
    """A request whose every field is checked; the first fault is a `Refusal` that names its field.

    >>> understood(ChatRequest, {"model": "nano", "messages": []})  # doctest: +SKIP
    """
    try:
        return kind.model_validate(data, context=limits)
    except ValidationError as error:
        raise of_validation(error) from None


def limits_of(info: ValidationInfo) -> RequestLimits:
    return info.context if isinstance(info.context, RequestLimits) else DEFAULT


Many = Annotated[list[T], Field(fail_fast=True)]
"""A list that is looked at up to its first fault: a request of very many wrong values costs no more than one."""


def at_most(limit: str, what: str = "", *, letters: bool = False) -> WrapValidator:
    """A bound out of `RequestLimits`: of a number, of how many there are of a list, or of the letters of a text.

    A list is counted before anything in it is looked at.
    """

    def check(value: Any, inner: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        most = getattr(limits_of(info), limit)
        checked = value if isinstance(value, list) else inner(value)
        found = len(checked) if isinstance(checked, list) or (letters and isinstance(checked, str)) else checked
        if isinstance(found, int) and found > most:
            raise refuse(f"found {found}{' ' + what if what else ''}, at most {most} are taken; send fewer",
                         kind="limit")  # fmt: skip
        return inner(value) if isinstance(value, list) else checked

    return WrapValidator(check)


JSON_TYPES = {str: "a string", list: "an array", dict: "an object"}


def by_kind(*branches: tuple[type, str]) -> Discriminator:
    """A union told apart by what JSON type a value has."""

    def tag(value: Any) -> str | None:
        return next((MARK + name for kind, name in branches if isinstance(value, kind)), None)

    tag.__name__ = MARK + " or ".join(JSON_TYPES[kind] for kind, _ in branches)  # which is what an error says of it
    return Discriminator(tag)


def by_field(name: str, *, missing: str | None = None) -> Discriminator:
    """A union told apart by what one of its fields says."""

    def tag(value: Any) -> str | None:
        if isinstance(value, Mapping):
            said = cast("Mapping[str, object]", value).get(name, missing)
        else:
            said = getattr(value, name, None)
        return MARK + said if isinstance(said, str) else None

    tag.__name__ = name  # which is what an error says of it
    return Discriminator(tag)


Texts = Annotated[
    Annotated[str, Tag("@text")] | Annotated[Many[str], Tag("@list")], by_kind((str, "text"), (list, "list"))
]
"""A string, or a list of them."""


def check_schema(schema: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """A JSON schema of bounded depth and size, which refers to nothing outside itself."""
    limits = limits_of(info)
    if any(depth > limits.schema_depth for depth, _, _ in walk(schema)):
        raise refuse(f"the schema is nested deeper than {limits.schema_depth}, the limit; flatten it", kind="limit")
    try:
        size = len(Constraint.json_schema(schema).source)
    except UsageError as error:
        raise refuse(str(error)) from None
    if size > limits.schema_bytes:
        raise refuse(f"the schema has {size} bytes, at most {limits.schema_bytes} are taken; make it smaller",
                     kind="limit")  # fmt: skip
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(check_schema)]

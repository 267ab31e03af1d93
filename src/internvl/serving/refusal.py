"""How a request is refused: one error class, and OpenAI's error shape with the right status.

status   code                         when
400      invalid_value                a field is not what it may be
400      invalid_type                 a field is of another type
400      missing_required_parameter   a field that must be given is not
400      unknown_parameter            a field that no such request has
400      unsupported_parameter        a field that is known, and not honoured here
400      limit_exceeded               a field is over a limit
400      invalid_json                 the body is no JSON object
400      invalid_http                 what came is no HTTP/1.1
400      cross_origin_refused         a web page of another origin asks whether it may ask, and may not
400      invalid_prompt               the model's template cannot write this conversation
400      context_length_exceeded      more tokens than the model reads
400      media_refused                a picture, video or document over a limit, not taken, or from elsewhere
401      invalid_api_key              no key, or a wrong one
404      model_not_found              a model that is not served, or not on this route
404      not_found                    a path that is none
405      method_not_allowed           a path that is asked in another way
408      request_timeout              the body of the request did not arrive in time
413      body_too_large               more bytes than one request may have
415      unsupported_media_type       not JSON in UTF-8, or packed; a data: address of another kind than its part
421      unknown_host                 the Host is not this server's
422      media_unreadable             a picture, video or document that is damaged
429      queue_full                   come again after Retry-After seconds
431      headers_too_large            the first line and the headers have too many bytes
500      internal_error               a fault of this server; what it was stands in its log, not in the answer
503      unavailable                  the model is starting again, or going away; come again
504      timeout                      the answer took too long
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from internvl.errors import (
    ContextOverflow,
    InternVLError,
    MediaError,
    MediaUnreadable,
    NotNumbers,
    PromptError,
    UsageError,
)
from internvl.serving.wire import Refused

LONGEST = 600
"""Letters of a message; what a client sent may be of any length."""
SHOWN = 40
"""Letters of a value that a message repeats."""
CHARSETS = ("utf-8", "utf8", "us-ascii")
"""Of bodies; the last is a part of the first."""
MARK = "@"
"""What the names of a union's branches begin with, which are no part of a field's path."""


class Refusal(InternVLError):
    """A request that is not answered, as HTTP says it.

    >>> Refusal("n is 99, at most 8 are answered; ask for fewer", param="n").body()["error"]["param"]
    'n'
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message if len(message) <= LONGEST else message[: LONGEST - 1] + "…"
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    @classmethod
    def heard(cls, said: Refused) -> Refusal:
        """What another process has refused."""
        return cls(said.message, status=said.status, param=said.param, code=said.code, retry_after=said.retry_after)

    def told(self, id: int) -> Refused:
        """As one process tells another that it refuses the request of this id."""
        return Refused(id=id, message=self.message, status=self.status, param=self.param, code=self.code,
                       retry_after=self.retry_after)  # fmt: skip

    def renamed(self, names: Mapping[str, str]) -> Refusal:
        """The same of a field that has another name on the route that was asked. Places inside it are left out, unless
        names has just this place: what a request is made into has others.

        >>> refusal = Refusal("messages[1].role: no", param="messages[1].role").renamed({"messages": "input"})
        >>> refusal.message, refusal.param
        ('input: no', 'input')
        """
        param = self.param or ""
        own = names.get(param, names.get(re.split(r"[.\[]", param)[0]))
        if own is None:
            return self
        message = own + self.message[len(param) :] if self.message.startswith(param) else self.message
        return Refusal(message, status=self.status, param=own, code=self.code, retry_after=self.retry_after)

    @property
    def type(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> dict[str, Any]:
        """What the answer's body is."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """What goes beside it."""
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, self.retry_after))}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


@contextmanager
def in_words_of(names: Mapping[str, str]) -> Generator[None]:
    """What is refused inside names the fields as its own route does: names has them as a chat calls them.

    >>> with in_words_of({"messages": "prompt"}):  # doctest: +SKIP
    ...     raise Refusal("it is empty", param="messages")
    Refusal: it is empty, of the field prompt
    """
    try:
        yield
    except Refusal as refusal:
        raise refusal.renamed(names) from None


def no_key() -> Refusal:
    return Refusal("no valid API key came with the request; send Authorization: Bearer KEY", status=401,
                   code="invalid_api_key")  # fmt: skip


def queue_full(retry_after: int) -> Refusal:
    return Refusal(f"the server is busy; come again in {max(1, retry_after)} s", status=429, code="queue_full",
                   retry_after=retry_after)  # fmt: skip


def unavailable(found: str = "the model is not ready", retry_after: int = 5) -> Refusal:
    return Refusal(f"{found}; come again in {max(1, retry_after)} s", status=503, code="unavailable",
                   retry_after=retry_after)  # fmt: skip


def stopping() -> Refusal:
    return unavailable("the server is stopping")


def internal() -> Refusal:
    return Refusal("the server failed; its log says why", status=500, code="internal_error")


def check_model(name: str | None, served: Sequence[str]) -> str:
    """The model that a request names, or the first one if it names none; 404 says which there are."""
    if name is None or name in served:
        return served[0] if name is None else name
    listed = f"; served here: {', '.join(served)}" if len(served) <= 10 else ""
    raise Refusal(f"the model {shown(name)} does not exist{listed or nearest(name, served)}", status=404,
                  param="model", code="model_not_found")  # fmt: skip


def check_content_type(header: str | None, encoding: str | None = None) -> None:
    """Bodies are JSON, in UTF-8 and as they are. encoding: what Content-Encoding says."""
    kind, *more = (part.strip().lower() for part in (header or "").split(";"))
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        found = shown(kind) if kind else "missing"
        raise Refusal(f"Content-Type is {found}; send application/json", status=415, code="unsupported_media_type")
    for name, _, value in (one.partition("=") for one in more):
        if name.strip() == "charset" and value.strip(' "') not in CHARSETS:
            raise Refusal(f"the charset is {shown(value)}; send UTF-8", status=415, code="unsupported_media_type")
    if encoding and encoding.strip().lower() != "identity":
        raise Refusal(f"Content-Encoding is {shown(encoding)}, and nothing is unpacked here; send the body as it is",
                      status=415, code="unsupported_media_type")  # fmt: skip


def refusal_of(error: BaseException) -> Refusal:
    """What any error is to a client: the user's own mistakes in their words, everything else without a word."""
    if isinstance(error, Refusal):
        return error
    message = " ".join(str(error).split())
    if isinstance(error, ContextOverflow):
        return Refusal(message, param="messages", code="context_length_exceeded")
    if isinstance(error, MediaUnreadable):
        return Refusal(message, status=422, param=error.place or "messages", code="media_unreadable")
    if isinstance(error, MediaError):
        return Refusal(message, param=error.place or "messages", code="media_refused")
    if isinstance(error, PromptError):
        return Refusal(message, param="messages", code="invalid_prompt")
    if isinstance(error, UsageError) and not isinstance(error, NotNumbers):
        return Refusal(message, code="invalid_value")
    return internal()


def of_form(error: UsageError, at: Sequence[str]) -> Refusal:
    """A form that cannot be kept, as its client is told. at: the fields that ask for it."""
    field = at[0].partition("[")[0] if len(at) > 1 else "".join(at) or None
    return Refusal(f"{field}: {error}" if field else str(error), param=field, code="invalid_value")


# ---- what pydantic found, in one line --------------------------------------------------------------------------------

EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "an array",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "string_unicode": "text that is proper Unicode",
}


def of_validation(error: ValidationError) -> Refusal:
    """The first of the faults that pydantic found, as one line that names the field."""
    fault = error.errors(include_url=False)[0]
    context = fault.get("ctx", {})
    told_by = _told_by(context) if isinstance(fault.get("input"), dict) else None
    places = [*fault["loc"], *filter(None, [context.get("name") or told_by])]
    param = path_of(places) or None
    said = _said(fault)
    status = 415 if fault["type"] == "media_type" else 400
    return Refusal(f"{param}: {said}" if param else said, status=status, param=param, code=_code(fault))


def _told_by(context: dict[str, Any]) -> str | None:
    """What tells the branches of a union apart: a field, as `internvl.serving.fields.by_field` calls it, or MARK and
    the types that `by_kind` names."""
    return str(context["discriminator"]).removesuffix("()").strip("'") if "discriminator" in context else None


def _is_missing(fault: ErrorDetails) -> bool:
    found, told_by = fault.get("input"), _told_by(fault.get("ctx", {})) or MARK
    untold = fault["type"] == "union_tag_not_found" and not told_by.startswith(MARK)
    return fault["type"] == "missing" or (untold and isinstance(found, dict) and told_by not in found)


def _said(fault: ErrorDetails) -> str:
    kind, context, found = fault["type"], fault.get("ctx", {}), fault.get("input")
    if _is_missing(fault):
        return "this field is missing; it must be given"
    if kind in EXPECTED:
        return f"expected {EXPECTED[kind]}, found {shown(found)}"
    if kind == "literal_error":
        return f"expected {context['expected']}, found {shown(found)}"
    if kind == "union_tag_invalid":
        tags = [tag.strip("' ").removeprefix(MARK) for tag in str(context["expected_tags"]).split(",")]
        tag = str(context["tag"]).removeprefix(MARK)
        return f"expected one of {', '.join(tags)}, found {shown(tag)}{nearest(tag, tags)}"
    if kind == "union_tag_not_found":
        told_by = _told_by(context) or ""
        if told_by.startswith(MARK):
            return f"expected {told_by.removeprefix(MARK)}, found {shown(found)}"
        if isinstance(found, dict):
            return f"expected a string, found {shown(cast('dict[str, object]', found)[told_by])}"
        return f"expected an object, found {shown(found)}"
    if "min_length" in context or "max_length" in context:
        bounds = [f"at {word} {context[name]}" for name, word in (("min_length", "least"), ("max_length", "most"))
                  if name in context]  # fmt: skip
        return f"expected {bounds[0]} {'letter(s)' if isinstance(found, str) else 'of them'}, found {len(found or '')}"
    if kind == "string_pattern_mismatch":
        return f"expected 1 to 64 letters, digits, _ and - only, found {shown(found)}"
    for bound, words in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
        if bound in context:
            return f"expected {words} {context[bound]:g}, found {shown(found)}"
    return fault["msg"]


CODES = {
    "missing": "missing_required_parameter",
    "union_tag_not_found": "invalid_type",
    "string_too_long": "limit_exceeded",
    "unknown_field": "unknown_parameter",
    "not_honoured": "unsupported_parameter",
    "limit": "limit_exceeded",
    "media_type": "unsupported_media_type",
    "media_refused": "media_refused",
    "invalid_type": "invalid_type",
}


def _code(fault: ErrorDetails) -> str:
    kind = "missing" if _is_missing(fault) else fault["type"]
    if kind == "literal_error" and not isinstance(fault.get("input"), str):  # all that we have are strings
        return "invalid_type"
    return "invalid_type" if kind in EXPECTED else CODES.get(kind, "invalid_value")


def path_of(places: Iterable[str | int]) -> str:
    """Where a field stands.

    >>> path_of(["messages", 2, "@user", "content", "@parts", 0, "@text", "text"])
    'messages[2].content[0].text'
    """
    path = ""
    for place in places:
        if isinstance(place, int):
            path += f"[{place}]"
        elif not place.startswith(MARK):
            plain = place if place.isprintable() else repr(place)[1:-1]
            path += ("." if path else "") + (plain if len(plain) <= SHOWN else plain[:SHOWN] + "…")
    return path


def shown(value: object) -> str:
    """A JSON value as a message names it: small ones as they are, large ones by their kind.

    >>> shown({"a": 1}), shown(None), shown(True), shown("x" * 99)[:8]
    ('an object', 'null', 'true', "'xxxxxxx")
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(value if len(value) <= SHOWN else value[:SHOWN] + "…")
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:
        return "a number of very many digits"
    if isinstance(value, int | float):
        return repr(value)
    return "an object" if isinstance(value, dict) else "an array" if isinstance(value, list) else "a value"


def nearest(name: str, names: Iterable[str]) -> str:
    """A suggestion, or nothing.

    >>> nearest("max_token", ["max_tokens", "model"])
    "; did you mean 'max_tokens'?"
    """
    near = difflib.get_close_matches(name[:SHOWN], list(names), n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""

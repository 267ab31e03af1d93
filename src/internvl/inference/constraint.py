"""What form an answer must have, as a plain value: JSON, a regular expression, one of some choices.

Everything that can be refused without a tokenizer is refused here, before the grammar library sees it: sizes, depth,
references that leave a schema. `internvl.inference.constrain` makes an answer keep the form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from internvl.errors import UsageError

MAX_SCHEMA_BYTES = 65_536
MAX_SCHEMA_DEPTH = 64
"""Objects and lists inside each other, counted in the JSON that the schema is written in."""
MAX_PATTERN = 4_096
"""Characters of a regular expression."""
MAX_CHOICES = 1_024
MAX_CHOICE = 4_096
"""Characters of one choice; all of them together have MAX_SCHEMA_BYTES."""
DATA = ("const", "enum", "default", "examples")
"""Keywords of a schema whose values are data: a "$ref" in there refers to nothing."""
NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose keys are the user's own names."""

Kind = Literal["JSON schema", "regular expression", "list of choices"]


@dataclass(frozen=True)
class Constraint:
    """What an answer must be. A value: it knows no tokenizer, and is checked against the limits when it is made.

    >>> Constraint.choice(["yes", "no"]).source
    '(?:yes|no)'
    """

    kind: Kind
    source: str
    """The schema as JSON, or the regular expression."""
    open: str = ""
    close: str = ""
    """The marks around JSON that stands among words, each on a line of its own; no marks: the JSON is the answer."""
    once: bool = False
    """Among words there is one at most, and nothing after it."""

    @classmethod
    def json_object(cls) -> Constraint:
        """Any JSON object."""
        return cls("JSON schema", '{"type": "object"}')

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Constraint:
        """JSON that fits a schema. References stay inside it; a keyword that is not honoured is refused by name."""
        _bounded(schema)
        try:
            text = json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"this JSON schema is not JSON: {error}; send plain JSON values") from None
        _at_most("the JSON schema", len(text), MAX_SCHEMA_BYTES, "bytes")
        if "x-guidance" in schema:
            raise UsageError('the JSON schema has the key "x-guidance", which is not honoured; leave it out')
        for reference in _references(schema):
            if not reference.startswith("#"):
                raise UsageError(
                    f'the JSON schema refers to {short(reference)!r}; only references inside it ("#/$defs/...") '
                    "are followed: put the definition into the schema"
                )
        return cls("JSON schema", text)

    def among_words(self, open: str, close: str, *, once: bool = False) -> Constraint:
        """An answer of words in which nothing but JSON that fits this schema stands between the marks.

        >>> Constraint.json_object().among_words("<call>", "</call>").open
        '<call>'
        """
        return replace(self, open=open, close=close, once=once)

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        r"""Text that the whole of a regular expression matches: no look-around, no references to groups.

        The syntax is that of Rust's `regex`, which for common patterns is Python's; but \d is 0 to 9 alone.
        """
        _at_most("the regular expression", len(pattern), MAX_PATTERN, "characters")
        _is_text("the regular expression", pattern)
        return cls("regular expression", pattern)

    @classmethod
    def choice(cls, options: Sequence[str]) -> Constraint:
        """Exactly one of some texts."""
        if isinstance(options, str) or not options or not all(isinstance(o, str) and o for o in options):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"the choices are {short(repr(options))}; expected a list of texts, none of them empty")
        _at_most("the list of choices", len(options), MAX_CHOICES, "choices")
        for option in options:
            _at_most(f"the choice {short(option)!r}", len(option), MAX_CHOICE, "characters")
            _is_text("a choice", option)
        _at_most("the list of choices", sum(len(o.encode()) for o in options), MAX_SCHEMA_BYTES, "bytes")
        return cls("list of choices", f"(?:{'|'.join(map(_literal, dict.fromkeys(options)))})")

    def grammar(self, lead: str = "") -> str:
        """The grammar in the library's own form; `lead` is a text that stands before the answer."""
        import llguidance

        if self.kind == "JSON schema":
            # Written out: what a schema may say about white space and separators is not left to a default. No space
            # between the parts: it would cost tokens, and a weak model can write nothing else.
            options = {
                "whitespace_flexible": False,
                "item_separator": ",",
                "key_separator": ":",
                "coerce_one_of": False,
                "lenient": False,
            }
            body = f"%json {json.dumps(json.loads(self.source) | {'x-guidance': options})}"
        else:
            body = f"/{llguidance.regex_to_lark(self.source, 'd')}/"
        # no_forcing: where one text alone can follow, any of its spellings in tokens may
        first = f"{json.dumps(lead)} answer" if lead else "answer"
        rules = [f'%llguidance {{"no_forcing": true}}\nstart: {first}', f"body: {body}"]
        if not self.open:
            return "\n".join((*rules, "answer: body\n"))
        # lazy: at the first mark the words are over, so no word holds one
        return "\n".join((
            *rules,
            "answer: words | marked" if self.once else "answer: marked* words",
            f"marked: until \"\\n\" body {json.dumps(chr(10) + self.close)}",
            f"until[lazy]: WORDS {json.dumps(self.open)}",
            "words: WORDS",
            "WORDS: /(.|\\n)*/\n",
        ))  # fmt: skip


def _at_most(what: str, found: int, limit: int, unit: str) -> None:
    if found > limit:
        raise UsageError(f"{what} has {found:,} {unit}; at most {limit:,} are accepted: make it smaller")


def _is_text(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} holds half of a surrogate pair, which is no character; leave it out") from None


def short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _literal(text: str) -> str:
    """A text as a regular expression: letters and digits as they are, the rest by number."""
    return "".join(c if c.isascii() and c.isalnum() else rf"\x{{{ord(c):X}}}" for c in text)


def _bounded(schema: object) -> None:
    """Refuse what is no object, or too deep or too large to be looked at; before anything recursive does."""
    if not isinstance(schema, Mapping):
        raise UsageError(f"the JSON schema is {short(repr(schema))}; a JSON object was expected")
    level: list[object] = [schema]
    depth = seen = 0
    while level:
        depth, seen = depth + 1, seen + len(level)
        # every value takes a byte at least, so this bounds the work; the exact size is asked afterwards
        _at_most("the JSON schema", seen, MAX_SCHEMA_BYTES, "values")
        _at_most("the JSON schema", depth, MAX_SCHEMA_DEPTH, "levels of nesting")
        level = [inner for value in level for inner in _values(value) if isinstance(inner, Mapping | list | tuple)]


def _values(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value


def _references(schema: object) -> Iterator[str]:
    """Every address that a schema refers to. Its depth is bounded by now."""
    if not isinstance(schema, Mapping):
        for inner in _values(schema):
            yield from _references(inner)
        return
    for key, value in schema.items():
        if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
            yield value
        elif key in NAMES and isinstance(value, Mapping):
            for inner in value.values():
                yield from _references(inner)
        elif key not in DATA:
            yield from _references(value)

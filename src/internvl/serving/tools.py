"""How tools are told to a model, and how its calls are read.

Most models of the family have no form of their own for tools. Their language models mostly know the one that Hermes
began and Qwen2.5 kept, so that is what is used: definitions inside `<tools>` in the system message, a call as a JSON
object inside `<tool_call>`, what a tool answered inside `<tool_response>` in a user's turn. All of these are plain
text, and no structure: a user who types them forges nothing but text, which a model may believe all the same.

    tool_choice        what the answer is                    how it is kept
    none               words; the tools are not told         -
    auto               words, and any number of calls        not at all: what is no proper call stays words;
                                                             of strict tools by a grammar, in which words have no markup
    required, named    one call, a bare JSON object          by a grammar, made of the tools' own schemas

A call that must be and that ends too soon is told as far as it came; of one whose name is not whole nothing is told.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, cast

from internvl.inference.constraint import DATA, NAMES, Constraint
from internvl.inference.pieces import overlap

OPEN, CLOSE = "<tool_call>", "</tool_call>"

TOLD = """# Tools

You may call functions that help with what the user asks. These are they, each with the JSON schema of its arguments:
<tools>
{tools}
</tools>

To call a function, write its name and arguments as a JSON object between <tool_call> and </tool_call>:
<tool_call>
{{"name": "the function's name", "arguments": {{"argument": "value"}}}}
</tool_call>"""
BARE = "Answer with one such call now, as the JSON object alone, without <tool_call>."
BEGUN = re.compile(r'\s*\{\s*"name"\s*:\s*"([\w-]+)"(?:\s*,\s*"arguments"\s*:\s*(.*))?', re.DOTALL)
"""A bare call of which at least the name is written."""


@dataclass(frozen=True)
class Tool:
    """A function that a model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """The JSON schema of its arguments; None: any object."""
    strict: bool = False
    """Calls are held to this schema wherever they stand."""

    def told(self) -> str:
        """Its definition on one line, as models were trained to read it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = self.parameters or {"type": "object", "properties": {}}
        return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


@dataclass(frozen=True)
class Call:
    """What a model asks a tool for."""

    name: str
    arguments: str
    """A JSON object, as the model wrote it."""
    whole: bool = True
    """False: the answer ended in the middle of it, and with it the arguments."""

    def written(self) -> str:
        """As it stands in a conversation."""
        return f'{OPEN}\n{{"name": {json.dumps(self.name)}, "arguments": {_proper(self.arguments)}}}\n{CLOSE}'


@dataclass(frozen=True)
class ToolUse:
    """The tools of one request, and whether the answer must be a call of one of them."""

    tools: tuple[Tool, ...]
    must: bool = False
    parallel: bool = True
    """False: the first call of an answer is the only one."""

    def told(self) -> str:
        """What the system message says of them."""
        text = TOLD.format(tools="\n".join(tool.told() for tool in self.tools))
        return f"{text}\n\n{BARE}" if self.must else text

    @property
    def holds(self) -> bool:
        """Whether calls are held to a form."""
        return self.must or any(tool.strict for tool in self.tools)

    def form(self) -> Constraint:
        """A call alone, or words among which each call fits its tool."""
        call = Constraint.json_schema(self.schema())
        return call if self.must else call.among_words(OPEN, CLOSE, once=not self.parallel)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a call of any of them. What a tool's schema defines stays reachable where it moves to."""
        held = [tool.parameters if self.must or tool.strict else None for tool in self.tools]
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": _moved(held[place], place)},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for place, tool in enumerate(self.tools)
        ]
        return {"anyOf": calls}

    def reader(self) -> CallReader:
        return CallReader(self)


def answered(text: str) -> str:
    """What a tool answered, as it stands in a user's turn."""
    return f"<tool_response>\n{text}\n</tool_response>"


def _proper(arguments: str) -> str:
    """Arguments of an earlier call; what is no JSON is written as the string that it is."""
    try:
        return _written(json.loads(arguments, parse_constant=_no_number))
    except (ValueError, RecursionError):
        return _written(arguments)


def _written(value: Any) -> str:
    """JSON that any client reads: half of a surrogate pair, which UTF-8 has not, stays an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text) else json.dumps(value)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _moved(schema: dict[str, Any] | None, place: int) -> dict[str, Any]:
    """A schema of arguments at its place inside the schema of all calls."""
    if schema is None:
        return {"type": "object"}
    root = f"#/anyOf/{place}/properties/arguments"
    return {"type": "object"} | cast("dict[str, Any]", _pointed(schema, root))


def _pointed(value: Any, root: str, *, names: bool = False) -> Any:
    """A schema whose references lead to its own parts at another place."""
    if isinstance(value, list):
        return [_pointed(one, root) for one in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    moved = dict(cast("dict[str, Any]", value))
    for key, one in moved.items():
        if not names and key in DATA:
            continue
        own = key == "$ref" and not names and isinstance(one, str) and (one == "#" or one.startswith("#/"))
        moved[key] = root + one[1:] if own else _pointed(one, root, names=not names and key in NAMES)
    return moved


class CallReader:
    """The text of an answer in, words and calls out, piece by piece.

    >>> reader = ToolUse((Tool("add"),)).reader()
    >>> reader.push('I add.\\n<tool_call>\\n{"name": "add", "arguments": {"a": 1}}'), reader.push("\\n</tool_call>")
    ('I add.', '')
    >>> reader.finish(), reader.calls
    ('', [Call(name='add', arguments='{"a": 1}', whole=True)])
    """

    def __init__(self, use: ToolUse) -> None:
        self._use = use
        self._names = {tool.name for tool in use.tools}
        self._close = f"\n{CLOSE}" if use.holds else CLOSE  # what is held has it so, and in no string of JSON
        self._held = ""
        self._after_call = False
        self.calls: list[Call] = []

    def push(self, piece: str) -> str:
        """The words that are certain now, and no part of a call."""
        self._held += piece
        words = ""
        while not self._use.must:
            if self._after_call:
                self._held = self._held.lstrip()
                self._after_call = not self._held
            start = self._held.find(OPEN)
            if start < 0:
                return words + self._take(len(self._held) - _begun(self._held))
            words += self._take(len(self._held[:start].rstrip()))
            end = self._held.find(self._close)
            if end < 0:
                return words
            words += self._read(end + len(self._close))
        return words

    def finish(self) -> str:
        """The rest of the words, when no more text comes."""
        if self._use.must:
            return self._cut_off(self._read(len(self._held)))
        # A model may stop before the closing mark.
        return self._read(len(self._held)) if OPEN in self._held else self._take(len(self._held))

    def _read(self, length: int) -> str:
        """Take a call, or the words that it turns out to be."""
        text = self._take(length)
        call = _call(text.strip().removeprefix(OPEN).removesuffix(CLOSE))
        if call is None or call.name not in self._names:
            return text
        self._after_call = True
        if self._use.parallel or not self.calls:
            self.calls.append(call)
        return ""

    def _cut_off(self, text: str) -> str:
        """Take what is written of a call that must be; the words, where it is none."""
        begun = BEGUN.match(text)
        if begun is None:
            return "" if text.lstrip().startswith("{") else text
        if begun[1] not in self._names:
            return text
        self.calls.append(Call(begun[1], begun[2] or "", whole=False))
        return ""

    def _take(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text


def _begun(text: str) -> int:
    """Letters at the end of a text that could begin a call, the white space before it included."""
    length = overlap(text, OPEN)
    before = text[: len(text) - length]
    return length + len(before) - len(before.rstrip())


def _call(text: str) -> Call | None:
    """The call that a JSON object is."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    said = cast("dict[str, Any]", value)
    arguments = said.get("arguments", {})
    if not isinstance(said.get("name"), str) or not isinstance(arguments, dict):
        return None
    return Call(said["name"], _as_written(text, "arguments") or "{}")


def _as_written(text: str, name: str) -> str | None:
    """The letters of one member of a JSON object, so that a call that is cut is the beginning of the whole one."""
    read, found = json.JSONDecoder().raw_decode, None
    at = text.index("{") + 1
    while (at := _next(text, at)) < len(text) and text[at] != "}":
        key, at = read(text, at)
        start = _next(text, _next(text, at) + 1)
        _, at = read(text, start)
        found = text[start:at] if key == name else found
        at = _next(text, at)
        at += text[at] == ","
    return found


def _next(text: str, at: int) -> int:
    """Where the next letter of JSON stands that is no white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at

"""A row of somebody's file: values that are checked when they are used, and where they stand."""

from __future__ import annotations

import ast
import json
import string
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from internvl.errors import DataError
from internvl.evaluation.material import Picture

MIB = 2**20
LARGEST_PICTURE = 256 * MIB
LONGEST_LITERAL = MIB
"""Characters of a list that is written as text."""


def shown(value: object) -> str:
    """A value as an error may print it: short, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Row(Mapping[str, Any]):
    """One row of a file: its values by key, and where it stands. What is missing or of another type is a DataError.

    >>> row = Row({"question": "Why?", "choices": "['a', 'b']"}, "test.jsonl:12")
    >>> row.text("question"), row.items_of("choices")
    ('Why?', ['a', 'b'])
    >>> row["answer"]
    Traceback (most recent call last):
    ...
    internvl.errors.DataError: test.jsonl:12: `answer` is missing; there are: question, choices
    """

    def __init__(
        self, values: Mapping[str, Any], where: str, pictures: Callable[[], tuple[Picture, ...]] | None = None
    ) -> None:
        self.where = where
        self._values, self._pictures = values, pictures

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            there = ", ".join(list(self._values)[:12]) or "none"
            raise DataError(f"{self.where}: `{key}` is missing; there are: {there}")
        value = self._values[key]
        return value.text(self.where) if isinstance(value, Late) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __repr__(self) -> str:
        return f"Row({self.where}: {', '.join(self._values)})"

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self._values else default

    def filled(self, key: str) -> bool:
        """Whether a value is there and is neither empty text nor null; nothing is read from the file for it."""
        return self._values.get(key) not in (None, "")

    def wrong(self, key: str, expected: str) -> DataError:
        """The error to raise for a value that is there but cannot be used."""
        return DataError(f"{self.where}: `{key}` is {shown(self[key])}; expected {expected}")

    def text(self, key: str) -> str:
        """A text. A number is not one: `str(row["id"])` where both occur."""
        value = self[key]
        if not isinstance(value, str):
            raise self.wrong(key, "text")
        return value

    def number(self, key: str) -> float | int:
        """A number, also one written as text, as everything in a table is."""
        value = self[key]
        if isinstance(value, str):
            for kind in (int, float):
                try:
                    return kind(value)
                except ValueError:
                    continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        return value

    def items_of(self, key: str) -> list[str]:
        """A list of texts, given as a list or as the text of one: JSON, or a Python literal as pandas writes them.

        Numbers and truth values in it become text. Code does not become anything: it is refused.
        """
        value = self[key]
        found: object = read_literal(value) if isinstance(value, str) else value
        if not isinstance(found, list | tuple):
            raise self.wrong(key, "a list of texts")
        items = cast("list[object]", list(found))
        if not all(isinstance(item, str | int | float | bool) for item in items):
            raise self.wrong(key, "a list of texts")
        return [str(item) for item in items]

    def options(self) -> dict[str, str]:
        """Columns A, B, C, … that are not empty.

        Here `None` and `NA` are options; pandas 2, and with it VLMEvalKit, reads them as empty and asks without them.
        """
        return {letter: str(self[letter]) for letter in string.ascii_uppercase if self.filled(letter)}

    def pictures(self, *keys: str) -> tuple[Picture, ...]:
        """The pictures of a table's row, or of a parquet row: of these columns, else of all, in their order."""
        if self._pictures is not None and not keys:
            return self._pictures()
        found: list[Picture] = []
        for value in [self[key] for key in keys] if keys else self._values.values():
            found += [part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, Picture)]
        return tuple(found)


class Late:
    """A value that stays in its file until it is asked for."""

    def text(self, where: str) -> str:
        raise NotImplementedError


def read_literal(text: str) -> object:
    """What a JSON or Python literal says; None where it is neither. Never evaluates anything.

    >>> read_literal('["a"]'), read_literal("['a', 'it\\\\'s']"), read_literal("__import__('os').getcwd()")
    (['a'], ['a', "it's"], None)
    """
    if len(text) > LONGEST_LITERAL:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in somebody's list is no fault of this program
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def place(row: Row | None) -> str:
    """What an error begins with."""
    return "" if row is None else f"{row.where}: "


def refuse_again(row: Row, key: str, seen: set[str]) -> None:
    """Refuse a row whose id another row had."""
    value = str(row[key])
    if value in seen:
        raise DataError(f"{row.where}: `{key}` is {shown(value)} a second time; expected each once")
    seen.add(value)

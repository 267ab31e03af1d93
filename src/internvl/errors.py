"""Everything this package raises on a user's mistake or on bad data.

    InternVLError                 one clear line: what was found, what was expected, what to do
    |-- ConfigError               a value that no model of the family can have, or two that contradict each other
    |   `-- UnknownArchitecture   a config names an architecture that this package does not know
    |-- CheckpointError           files that are not what they should be
    |   |-- KeyMismatch           tensors missing, left over or fitting no rule
    |   |-- ShapeMismatch         a tensor of another shape than the config says
    |   |-- DamagedFile           truncated, not a tensor file, an index that names a file that is not there
    |   `-- UnsafeFile            a pickle that holds more than tensors
    |-- MediaError                a picture, video or document that cannot be used
    |   |-- MediaRefused          over a limit, or from an address that is not allowed
    |   `-- MediaUnreadable       damaged, empty, encrypted or of no known format
    |-- PromptError               a conversation that cannot be rendered
    |   |-- PlaceholderMismatch   image slots and images differ in number
    |   `-- ContextOverflow       more tokens than the model can hold
    |-- DataError                 a dataset record that cannot be used
    |-- TrainingError             a run that cannot go on: gradients that are no numbers, a checkpoint of another run
    |-- UsageError                an argument or option that cannot be honoured
    |   |-- NoSuchName            a name that no table has; says the nearest one
    |   `-- NotNumbers            a model computes what is no number in the dtype that it was loaded with
    |-- EndpointError             a server that was asked does not answer, or not as it should
    `-- MissingExtra              an optional dependency is not installed; says how to get it

The command line prints the message of an `InternVLError` on one line and exits with status 2. Anything else that
escapes is a fault of this package.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

SHORT_TABLE = 15
"""Names that an error lists in full."""


class InternVLError(Exception):
    """The root of every error a user can cause."""


class ConfigError(InternVLError):
    """A value that no model of the family can have, or two that contradict each other."""


class UnknownArchitecture(ConfigError):
    """A config names an architecture that this package does not know."""


class CheckpointError(InternVLError):
    """Files that are not what they should be."""


class KeyMismatch(CheckpointError):
    """Tensors that are missing, left over, or fit no rule of the layout."""


class ShapeMismatch(CheckpointError):
    """A tensor whose shape is not the one the config asks for."""


class DamagedFile(CheckpointError):
    """A file that is truncated or is not what its name says."""


class UnsafeFile(CheckpointError):
    """A pickle that holds more than tensors; it is refused before anything in it runs."""


class MediaError(InternVLError):
    """A picture, video or document that cannot be used."""

    place: str | None = None
    """The field of a request that it came in, where that is known."""


class MediaRefused(MediaError):
    """Over a limit, or from an address that is not allowed."""


class MediaUnreadable(MediaError):
    """Damaged, empty, encrypted or of no known format."""


class PromptError(InternVLError):
    """A conversation that cannot be rendered."""


class PlaceholderMismatch(PromptError):
    """The number of image slots and the number of images (or of their features) differ."""


class ContextOverflow(PromptError):
    """More tokens than the model, or the caller's limit, can hold."""

    tokens: int | None = None
    """How many there were, where that is known."""


class DataError(InternVLError):
    """A dataset record that cannot be used."""


class TrainingError(InternVLError):
    """A training run that cannot go on."""


class UsageError(InternVLError):
    """An argument or option that cannot be honoured."""


class NoSuchName(UsageError):
    """A name that the table does not have."""


class NotNumbers(UsageError):
    """A model computes what is no number in the dtype that it was loaded with."""


class EndpointError(InternVLError):
    """A server that was asked does not answer, or not as it should."""

    status: int | None = None
    """What it answered with, where it did: 400 is a request that it refuses."""


class MissingExtra(InternVLError):
    """An optional dependency is not installed."""


def find(kind: str, name: object, table: Mapping[str, T], *, hint: str = "") -> T:
    """Look `name` up in a table; a wrong name is answered with the nearest right one.

    >>> find("template", "hermes-2", {"Hermes-2": 1})
    Traceback (most recent call last):
    ...
    internvl.errors.NoSuchName: no template is called 'hermes-2'. Did you mean 'Hermes-2'?
    """
    if isinstance(name, str) and name in table:  # what a file says in place of a name may be anything
        return table[name]
    folded = {key.casefold(): key for key in table}
    near = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.5)
    listed = f" There are: {', '.join(sorted(table))}." if len(table) <= SHORT_TABLE else ""
    did_you_mean = f" Did you mean {folded[near[0]]!r}?" if near else listed
    raise NoSuchName(f"no {kind} is called {name!r}.{did_you_mean}{' ' + hint if hint else ''}")

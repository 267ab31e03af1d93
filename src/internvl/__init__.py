"""The InternVL family in one package: load any published checkpoint, talk to it, save it again.

>>> import internvl
>>> chat = internvl.Chat.load()                                           # the embedded nano    # doctest: +SKIP
>>> chat.ask("What is the total?", images=["receipt.jpg"]).text          # doctest: +SKIP
'24.90 EUR'
>>> model = internvl.load("OpenGVLab/InternVL2_5-8B")                     # a torch module        # doctest: +SKIP

Importing this imports nothing heavy: each name below is fetched from its home when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from internvl.errors import InternVLError

if TYPE_CHECKING:
    from internvl.data.limits import Limits
    from internvl.data.prompts import Message, Text
    from internvl.inference.attached import Pdf
    from internvl.inference.chat import Chat
    from internvl.inference.embed import Embedder
    from internvl.inference.sampling import SamplingConfig
    from internvl.weights.load import load, load_encoder, save

__version__ = "0.1.0"

__all__ = [
    # checkpoints
    "load", "load_encoder", "save",
    # talking to a model
    "Chat", "SamplingConfig", "Message", "Text", "Pdf",
    # pictures and texts as vectors
    "Embedder",
    # what may be opened, and from where
    "Limits",
    # what a user can cause
    "InternVLError",
    "__version__",
]  # fmt: skip

HOMES = {
    "load": "internvl.weights.load",
    "load_encoder": "internvl.weights.load",
    "save": "internvl.weights.load",
    "Chat": "internvl.inference.chat",
    "Embedder": "internvl.inference.embed",
    "SamplingConfig": "internvl.inference.sampling",
    "Limits": "internvl.data.limits",
    "Message": "internvl.data.prompts",
    "Pdf": "internvl.inference.attached",
    "Text": "internvl.data.prompts",
}
"""Where each public name lives."""


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'internvl' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

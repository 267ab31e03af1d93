"""vLLM behind the API: readers open media and write the prompt as ever, and vLLM draws the answer.

    Order --Readers.read--> ids and tiles --Supervisor.ask--> vllm_worker --> vllm serve

A server with this engine answers the same requests in the same words: prompts, tiles, stop strings, forms and tools are
the package's own, and so is the text that tokens become. What vLLM does in its own way: the repetition penalty counts
the question too, a seed draws another answer than the native engine's, and users have no turns.
"""

from __future__ import annotations

from dataclasses import asdict

from internvl.errors import UsageError
from internvl.serving.native import NativeBackend
from internvl.serving.settings import Settings
from internvl.serving.vllm_options import VllmOptions

__all__ = ["VllmBackend", "VllmOptions"]


class VllmBackend(NativeBackend):
    """A vLLM on this machine, or on several that it has joined, as `internvl.serving.backend.Backend` has it.

    >>> settings = Settings(model="OpenGVLab/InternVL2_5-78B")             # doctest: +SKIP
    >>> backend = VllmBackend(settings, VllmOptions(tensor_parallel=4))    # doctest: +SKIP
    """

    def __init__(self, settings: Settings, options: VllmOptions | None = None) -> None:
        if settings.deterministic:
            raise UsageError("--deterministic belongs to the native engine; vLLM cannot promise it: leave it out")
        super().__init__(settings, vllm=asdict(options or VllmOptions()))

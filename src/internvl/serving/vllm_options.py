"""How vLLM is started, as whoever runs a server says it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from internvl.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class VllmOptions:
    """How vLLM is started.

    >>> VllmOptions(tensor_parallel=2).arguments
    ()
    """

    program: str = "vllm"
    """The command of a vLLM that is installed: a name or a path, of another virtual environment too."""
    tensor_parallel: int = 1
    """GPUs that share each layer."""
    pipeline_parallel: int = 1
    """Groups of layers, one after the other."""
    arguments: tuple[str, ...] = ()
    """More of `vllm serve`; the last word is theirs."""
    loading: float = 3600.0
    """Seconds until it answers; downloads are over by then."""

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "pipeline_parallel"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for one in self.arguments:
            if one.partition("=")[0].replace("_", "-") in ("--trust-remote-code", "--uds", "--model", "--port"):
                raise UsageError(f"{one.partition('=')[0]} is not passed to vLLM; leave it out")

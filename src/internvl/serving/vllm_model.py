"""A checkpoint in the layout that vLLM reads, and the program that serves it on a socket of its own.

    checkpoint --servable--> folder in the transformers layout, made once and kept
    folder ----command-----> vllm serve FOLDER --uds SOCKET ...  under a guard that ends it with the worker

vLLM is never allowed to run code that comes with a checkpoint: the transformers layout needs none.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from internvl.errors import UsageError
from internvl.models.config import TextConfig
from internvl.serving.settings import KEYS_VARIABLE
from internvl.serving.vllm_options import VllmOptions, program_of
from internvl.weights.checkpoint import describe
from internvl.weights.load import convert

LAYOUT = "hf"
KEPT_FOR_SYSTEM = 0.5
"""Of the memory of a machine without GPU: what keys and values are not given."""
BATCH = 2048
"""Tokens that vLLM reads in one step, at least."""
MOST_TOP = 64
"""Alternatives beside a token; `internvl.inference.sampling.MAX_TOP_LOGPROBS`, one more for the drawn token."""

LONGEST_LINE, KEPT_LINES = 1000, 200
"""Letters of a line of its log, and lines that are kept to say why it ended."""
TOLD_LINES, TOLD_LETTERS = 3, 200
"""Of these lines, as whoever started the server is told; and of each of them."""
ENDING = 5.0
"""Seconds in which the rest of a log is read."""
PREFIX = re.compile(r"^(?:\([\w ]+=\d+\) *)?(?:[A-Z]+ [\d-]+ [\d:]+ \[[\w./:]+\] *)?")
"""What vLLM writes before a line: its process, how grave it is, when and where."""
FAULT = re.compile(r"\w*(?:Error|Exception)\b|\berror: ")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What vLLM is to serve."""

    folder: Path
    name: str
    dtype: str
    context: int
    slots: int
    slots_per_tile: int
    cpu: bool


def servable(source: Path, cache: Path | None = None) -> Path:
    """The folder of a checkpoint in the layout that vLLM reads; made where there is none yet, whole or not at all."""
    layout = describe(source)[1]
    if layout.name == LAYOUT:
        return source
    folder = (cache or cache_folder()) / fingerprint(source if source.is_dir() else source.parent)
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            convert(source, folder, format=LAYOUT)
        except (UsageError, OSError):
            if not (folder / "config.json").is_file():  # another server was quicker
                raise
    return folder


def cache_folder() -> Path:
    """Where checkpoints of another layout are kept: ~/.cache/internvl/vllm, or under XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "internvl" / "vllm"


def fingerprint(folder: Path) -> str:
    """Changes with any file of a checkpoint: of these the names, sizes and times are looked at."""
    files = sorted(one for one in folder.iterdir() if one.is_file())
    told = [(one.name, (found := one.stat()).st_size, found.st_mtime_ns) for one in files]
    return hashlib.sha256(json.dumps([str(folder.resolve()), told]).encode()).hexdigest()[:32]


def command(plan: Plan, socket: Path, options: VllmOptions) -> list[str]:
    """What is started.

    Requests come with ids and pixels, so vLLM's own processor and its cache have nothing to do; grammars are those of
    llguidance here and there.
    """
    said = {
        "--uds": str(socket),
        "--served-model-name": plan.name,
        "--dtype": plan.dtype,
        "--max-model-len": str(plan.context),
        "--max-num-seqs": str(plan.slots),
        "--max-num-batched-tokens": str(max(plan.context, BATCH)),
        "--tensor-parallel-size": str(options.tensor_parallel),
        "--pipeline-parallel-size": str(options.pipeline_parallel),
        "--limit-mm-per-prompt": json.dumps({"image": max(1, plan.context // plan.slots_per_tile), "video": 0}),
        "--mm-processor-cache-gb": "0",
        "--generation-config": "vllm",
        "--structured-outputs-config": json.dumps({"backend": "guidance"}),
        "--max-logprobs": str(MOST_TOP + 1),
        "--scheduling-policy": "priority",
    }
    flags = ["--enable-scale-out", "--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
    flags += ["--skip-mm-profiling", "--enforce-eager"] if plan.cpu else []
    pairs = [word for pair in said.items() for word in pair]
    return [program_of(options.program), "serve", str(plan.folder), *pairs, *flags, *options.arguments]


def environment(text: TextConfig, plan: Plan, given: Mapping[str, str]) -> dict[str, str]:
    """Variables of vLLM's process: no keys of this server, nothing that it could fetch or tell, no pickles."""
    kept = {
        name: value for name, value in given.items() if name not in (KEYS_VARIABLE, "VLLM_ALLOW_INSECURE_SERIALIZATION")
    }
    kept |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    kept.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if plan.cpu:
        kept.setdefault("VLLM_CPU_KVCACHE_SPACE", str(gibibytes(text, plan)))
    return kept


def gibibytes(text: TextConfig, plan: Plan) -> int:
    """Memory that all slots fill with keys and values, but no more than is sensible on this machine; at least 1."""
    token = 2 * text.layers * text.kv_heads * text.rotary_dim * 4
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * KEPT_FOR_SYSTEM
    return max(1, math.ceil(min(token * plan.context * plan.slots, most) / (1 << 30)))


def telling(lines: Sequence[str]) -> str:
    """The few last lines of a log that name an error, or else its very last ones; printable, short, on one line.

    >>> telling(["(EngineCore pid=7) ERROR 01-02 03:04:05 [core.py:7] ValueError: no room", "at exit"])
    'ValueError: no room'
    """
    shown = ["".join(letter if letter.isprintable() else "?" for letter in PREFIX.sub("", line.strip()))
             for line in lines]  # fmt: skip
    distinct = list(dict.fromkeys(line for line in reversed(shown) if line))
    found = [line for line in distinct if FAULT.search(line)] or distinct
    return " | ".join(line[:TOLD_LETTERS] for line in reversed(found[:TOLD_LINES])) or "its log says nothing"


class Program:
    """vLLM while it runs."""

    def __init__(self, plan: Plan, text: TextConfig, options: VllmOptions) -> None:
        """Starts it. `UsageError` where it is not installed."""
        folder = Path(tempfile.mkdtemp(prefix="internvl-"))  # nobody else may look into it
        self.socket = folder / "vllm"
        try:
            words = command(plan, self.socket, options)
            self._guard = subprocess.Popen(
                [sys.executable, "-P", "-m", "internvl.serving.leash", str(folder), *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=environment(text, plan, os.environ), process_group=0,
            )  # fmt: skip
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._listening = threading.Thread(target=self._listen, name="vllm", daemon=True)
        self._listening.start()

    @property
    def pid(self) -> int:
        """Of the guard."""
        return self._guard.pid

    @property
    def ended(self) -> int | None:
        """The exit code, where it is over."""
        return self._guard.poll()

    def last_words(self) -> str:
        """What its log says of its end, on one line; once it is over."""
        self._listening.join(ENDING)
        return telling(list(self._lines))

    def _listen(self) -> None:
        """Its log goes to this process's own; the last of it is kept."""
        assert self._guard.stdout is not None
        with self._guard.stdout as stream:
            while line := stream.readline(LONGEST_LINE):
                text = line.decode("utf-8", "replace").rstrip()
                self._lines.append(text)
                print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Tell it to end, and wait until it has."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()

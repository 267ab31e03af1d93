"""Everything that whoever runs a server sets, as one value.

Settings --create_app--> who may ask, what a request may hold, how long it may take
         '-> readers: what media may be, and from where       '-> worker: which model, and how it is run
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from internvl.data.limits import Limits
from internvl.errors import UsageError
from internvl.serving.fields import DEFAULT, RequestLimits
from internvl.serving.readers import SERVICE

OWN_NAMES = ("localhost", "127.0.0.1", "::1")
KEYS_VARIABLE = "INTERNVL_API_KEYS"
BODY_SECONDS = 60.0
"""In which a request has arrived whole."""
SHORTEST_KEY = 16
"""Letters: what can be guessed is no key."""
MOST_KEYS = 10_000

HOST = r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(:[0-9]{1,5})?|\[[0-9a-fA-F:]+\](:[0-9]{1,5})?"
NAME = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*"
ORIGIN = r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?"
EXAMPLES = {
    "--allow-host": "example.org, example.org:8443 or *.example.org",
    "--server-name": "models.example.org, in small letters and without a port",
    "--allow-origin": "https://app.example.org",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server is run. What is not said is safe: this machine only, no other host and no file is read.

    >>> Settings(allow_hosts=("*.example.org",)).media.hosts
    ('*.example.org',)
    """

    # ---- what is served
    model: str | None = None
    """Hub id, zoo name or folder; None: the embedded nano."""
    name: str | None = None
    """What requests call it; None: the last part of `model`."""
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    embedder: str | None = None
    """What answers /v1/embeddings: hub id, zoo name or folder. None: nano-c beside the nano, else nothing."""
    slots: int = 16
    """Answers that grow at the same time."""
    context: int | None = None
    """Tokens of a prompt and its answer together; None: as many as the model reads, at most 8192."""
    queue: int = 256
    """Requests that may wait for a slot, and as many for a reader."""
    deterministic: bool = False
    temperature: float = 0.0
    """Of a request that does not say it."""
    readers: int = 2
    """Processes that open media and write prompts."""

    # ---- who may ask
    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = field(default=(), repr=False)
    """One of them comes with every request. Without any, only this machine may ask."""
    no_keys: bool = False
    """Another host may ask without a key: something else, such as a proxy, sees to who asks."""
    server_names: tuple[str, ...] = ()
    """Names that clients call this server by, beside those of this machine; asked of only when it listens here."""
    origins: tuple[str, ...] = ()
    """Web pages of these origins may ask from a browser."""
    ui: bool = True
    """Whether the page is at /ui, where Gradio is installed."""
    votes: Path | None = None
    """The file in which the page's thumbs and reports are written down; None: it has none."""

    # ---- what a request may hold, and how long it may take
    limits: RequestLimits = DEFAULT
    media_limits: Limits = SERVICE
    allow_hosts: tuple[str, ...] = ()
    """Hosts that pictures and videos are fetched from; none by default."""
    media_root: Path | None = None
    """The folder in which file: addresses may lie; none by default."""
    header_bytes: int = 32 * 1024
    """Of the first line and the headers of a request."""
    connections: int = 1024
    """Open at a time."""
    body_seconds: float = BODY_SECONDS
    """In which a request has arrived whole."""
    request_seconds: float = 600.0
    """In which it is answered."""
    quiet_seconds: float = 15.0
    """After which a stream that has nothing to say sends a comment, so that no proxy gives it up."""
    drain_seconds: float = 30.0
    """That answers have to end in once the server is told to stop."""

    # ---- what is written down
    log_content: bool = False
    """Whether logs hold what is asked and answered."""

    def __post_init__(self) -> None:
        for name in ("slots", "queue", "readers", "header_bytes", "connections", "context"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        for one in fields(self):
            if one.name.endswith("_seconds") and not 0 < getattr(self, one.name) < float("inf"):
                raise UsageError(f"{one.name} is {getattr(self, one.name)}; it must be above 0")
        if not 0 <= self.port <= 65_535:
            raise UsageError(f"port is {self.port}; it must be between 0 and 65535")
        if not 0 <= self.temperature <= 2:
            raise UsageError(f"temperature is {self.temperature}; it must be between 0 and 2")
        check_keys(self.keys)
        if not (self.keys or self.no_keys or self.is_loopback):
            raise UsageError(
                f"host {self.host} lets other machines ask, and there is no API key: set {KEYS_VARIABLE} or "
                "--api-key-file, or --no-api-key where something else sees to who asks"
            )
        if self.votes is not None and not self.ui:
            raise UsageError("--votes is of the page, and --no-ui says that there is none; leave one of them out")
        if self.votes is not None:
            _check_writable(self.votes)
        if self.media_root is not None and not self.media_root.is_dir():
            raise UsageError(f"media root {self.media_root} is no folder; name one that exists")
        for option, pattern, values in (
            ("--allow-host", HOST, self.allow_hosts),
            ("--server-name", NAME, self.server_names),
            ("--allow-origin", ORIGIN, self.origins),
        ):
            if wrong := next((value for value in values if not re.fullmatch(pattern, value)), None):
                raise UsageError(f"{option} {wrong!r}: expected something like {EXAMPLES[option]}")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def names(self) -> tuple[str, ...] | None:
        """What a request may call this machine in its Host header; None: anything, where others reach it."""
        return (*OWN_NAMES, self.host, *self.server_names) if self.is_loopback else None

    @property
    def source(self) -> str | None:
        """What is loaded; None: the embedded nano."""
        return None if self.model == "nano" else self.model

    @property
    def served_name(self) -> str:
        """What requests call the model."""
        return self.name or (Path(self.model).name if self.model else "nano")

    @property
    def embedder_source(self) -> str | None:
        """What answers /v1/embeddings, if anything does."""
        return self.embedder or ("nano-c" if self.source is None else None)

    @property
    def embedder_name(self) -> str | None:
        """What requests call it."""
        return Path(self.embedder_source).name if self.embedder_source else None

    @property
    def media(self) -> Limits:
        """What media may be, and where they may come from."""
        limits = replace(self.media_limits, frames=min(self.limits.frames, self.media_limits.frames))
        if self.allow_hosts:
            limits = replace(limits, hosts=self.allow_hosts)
        if self.media_root is not None:
            limits = replace(limits, local=True, root=self.media_root.resolve())
        return limits


def check_keys(keys: tuple[str, ...]) -> None:
    """Refuse keys that could be guessed, or that no header can carry; none of them is repeated in the error."""
    if len(keys) > MOST_KEYS:
        raise UsageError(f"there are {len(keys)} API keys, at most {MOST_KEYS} are taken")
    for place, key in enumerate(keys, start=1):
        if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable() and " " not in key):
            raise UsageError(
                f"API key {place} is shorter than {SHORTEST_KEY} letters or has signs that no header carries; make one "
                "with: openssl rand -hex 24"
            )


def _check_writable(file: Path) -> None:
    """That something can be written to a file, which need not exist; it is not made."""
    if file.is_dir() or not file.parent.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        found = "is a folder" if file.is_dir() else "cannot be written"
        raise UsageError(f"--votes {file} {found}; name a file in a folder that exists and is yours")


def read_keys(file: Path | None, environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """API keys, from a file (one a line, # begins a comment) and from the environment (commas between them).

    >>> read_keys(None, {"INTERNVL_API_KEYS": "sk-0123456789abcdef, sk-fedcba9876543210"})
    ('sk-0123456789abcdef', 'sk-fedcba9876543210')
    """
    found: list[str] = []
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"API keys cannot be read from {file}: {getattr(error, 'strerror', 'not text')}") from None
        found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not found:
            raise UsageError(f"{file} holds no API key; write one a line")
    said = (os.environ if environment is None else environment).get(KEYS_VARIABLE, "")
    found += [key.strip() for key in said.split(",") if key.strip()]
    keys = tuple(dict.fromkeys(found))
    check_keys(keys)
    return keys

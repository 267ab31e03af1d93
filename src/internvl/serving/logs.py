"""One line of JSON for each request, and for whatever else happens. What is asked and answered is in none of them.

{"time": "…", "event": "request", "id": "req_…", "route": "/v1/chat/completions", "status": 200, "seconds": 0.81, …}
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

log = logging.getLogger("internvl.serving")


@dataclass
class Note:
    """What is known of one request, filled in on its way."""

    id: str
    begun: float = field(default_factory=perf_counter)
    route: str = "none"
    """The pattern of its path, not the path, which may be anything."""
    client: str = ""
    """A digest of the key that came with it."""
    status: int = 0
    prompt: int | None = None
    completion: int = 0
    reused: int = 0
    image: int = 0
    first: float | None = None
    """Seconds to the first token."""
    gone: bool = False
    """The client went away."""
    code: str | None = None
    """Why it was refused."""
    content: dict[str, Any] = field(default_factory=dict[str, Any])
    """What is asked and answered; filled only where that is to be logged."""

    def line(self) -> dict[str, Any]:
        """As it is logged."""
        values: dict[str, Any] = {"id": self.id, "route": self.route, "status": self.status,
                                  "seconds": round(perf_counter() - self.begun, 4)}  # fmt: skip
        if self.client:
            values["client"] = self.client
        if self.prompt is not None:
            values |= {"prompt_tokens": self.prompt, "completion_tokens": self.completion,
                       "cached_tokens": self.reused, "image_tokens": self.image}  # fmt: skip
        if self.first is not None:
            values["first_token_seconds"] = round(self.first, 4)
        if self.gone:
            values["gone"] = True
        if self.code:
            values["code"] = self.code
        return values | self.content


def tell(event: str, *, level: int = logging.INFO, **values: Any) -> None:
    """Log an event."""
    log.log(level, event, extra={"values": values})


def tell_fault(error: BaseException, request: str | None = None) -> None:
    """Log where a fault of this program lies. Its message is left out: it may repeat what a request says."""
    frames = traceback.extract_tb(error.__traceback__)[-20:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    tell("fault", level=logging.ERROR, id=request, kind=type(error).__name__, at=places)


class Lines(logging.Formatter):
    """Records as JSON, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        values = getattr(record, "values", None)
        said: dict[str, Any] = {"time": when, "event": record.getMessage()} if values is not None else {
            "time": when, "event": "message", "from": record.name, "message": record.getMessage()}  # fmt: skip
        if record.levelno >= logging.WARNING:
            said["level"] = record.levelname.lower()
        return json.dumps(said | (values or {}), ensure_ascii=False, default=str)


def write_to(stream: TextIO | None = None, level: int = logging.INFO) -> logging.Handler:
    """Send the lines of this package and of the HTTP server somewhere: to standard error, if nothing is said."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines())
    for name, least in (("internvl", level), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)
    return handler

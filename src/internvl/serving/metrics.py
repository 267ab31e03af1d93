"""What /metrics says, in Prometheus' form. Each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from internvl.serving.logs import Note

CONTENT_TYPE = CONTENT_TYPE_LATEST

# fmt: off
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
BETWEEN = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)

BACKEND: Mapping[str, tuple[str, str]] = {  # counter of a backend: whether it only ever grows, and what it says
    "queued":          ("gauge",   "Requests that wait for a slot."),
    "reading":         ("gauge",   "Prompts that are being read."),
    "running":         ("gauge",   "Answers that grow."),
    "slots":           ("gauge",   "Answers that can grow at the same time."),
    "free":            ("gauge",   "Slots that nothing grows in."),
    "read":            ("counter", "Tokens of prompts that went through the model."),
    "reused":          ("counter", "Tokens of prompts that were known from before."),
    "generated":       ("counter", "Tokens that were drawn."),
    "waiting_tiles":   ("gauge",   "Tiles that are still to be encoded."),
    "picture_hits":    ("counter", "Pictures whose features were known from before."),
    "picture_misses":  ("counter", "Pictures that had to be encoded."),
    "kept_tiles":      ("gauge",   "Tiles whose features are remembered."),
    "ended":           ("counter", "Requests that were answered."),
    "failed":          ("counter", "Requests that a fault ended, or the end of the worker."),
    "cancelled":       ("counter", "Requests that nobody waited for any more."),
    "worker_restarts": ("counter", "Times that the worker had to be started again."),
    "reader_queue":    ("gauge",   "Requests that wait for a reader."),
    "readers":         ("gauge",   "Readers that run."),
    "reader_restarts": ("counter", "Times that a reader had to be started again."),
}
# fmt: on


class Metrics:
    """Everything that is counted.

    >>> metrics = Metrics(lambda: {"slots": 16})
    >>> b"internvl_backend_slots 16.0" in metrics.text()
    True
    """

    def __init__(self, backend: Callable[[], Mapping[str, float]]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("internvl_requests", "Requests that were answered or refused.", ["route", "status"],
                                 registry=registry)  # fmt: skip
        self.in_flight = Gauge("internvl_requests_in_flight", "Requests that are being answered.", registry=registry)
        self.ready = Gauge("internvl_ready", "Whether a request would be answered now.", registry=registry)
        self._gone = Counter("internvl_requests_gone", "Requests whose client went away.", registry=registry)
        self._seconds = Histogram("internvl_request_seconds", "From the first byte of a request to the last of its "
                                  "answer.", ["route"], buckets=SECONDS, registry=registry)  # fmt: skip
        self._first = Histogram("internvl_first_token_seconds", "From the first byte of a request to the first token.",
                                buckets=SECONDS, registry=registry)  # fmt: skip
        self._between = Histogram("internvl_token_seconds", "Between two tokens of a request, on average.",
                                  buckets=BETWEEN, registry=registry)  # fmt: skip
        self._tokens = Counter("internvl_tokens", "Tokens: prompt, and of these cached and image; completion.",
                               ["kind"], registry=registry)  # fmt: skip
        registry.register(_Backend(backend))

    def request(self, note: Note, seconds: float) -> None:
        """Count a request that is over."""
        self._requests.labels(note.route, str(note.status)).inc()
        self._seconds.labels(note.route).observe(seconds)
        if note.gone:
            self._gone.inc()
        if note.prompt is not None:
            for kind, tokens in (("prompt", note.prompt), ("cached", note.reused), ("image", note.image),
                                 ("completion", note.completion)):  # fmt: skip
                self._tokens.labels(kind).inc(tokens)
        if note.first is not None:
            self._first.observe(note.first)
            if note.completion > 1:
                self._between.observe(max(0.0, seconds - note.first) / (note.completion - 1))

    def text(self) -> bytes:
        """What /metrics answers."""
        return generate_latest(self._registry)


class _Backend(Collector):
    """The backend's own counters, read when they are asked for."""

    def __init__(self, counters: Callable[[], Mapping[str, float]]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        for name, value in sorted(self._counters().items()):
            kind, told = BACKEND.get(name, ("gauge", "Of the backend."))
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            yield family(f"internvl_backend_{name}", told, value=value)

    def describe(self) -> Iterator[Metric]:
        return iter(())

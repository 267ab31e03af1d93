"""The native backend with the embedded nano, as it is started with one setting or another."""

from __future__ import annotations

import os
import signal

from internvl.serving.fields import RequestLimits
from internvl.serving.native import NativeBackend
from internvl.serving.settings import Settings
from internvl.serving.supervisor import Watch
from tests.serving.echo import listening
from tests.serving.requests import HI
from tests.serving.test_service_tier import until

FORM = {"guided_regex": "a{100}"}


def test_who_says_no_number_gets_no_more_tokens_than_the_limit():
    limits = RequestLimits(tokens=5)
    backend = NativeBackend(Settings(slots=1, readers=1, limits=limits))
    with listening(backend, limits=limits) as server, server.client() as client:  # type: ignore[arg-type]
        until(lambda: client.get("/ready").status_code == 200)
        for path, body in (
            ("chat/completions", {"messages": HI}),
            ("chat/completions", {"messages": HI, **FORM}),
            ("completions", {"prompt": "Once upon a time there was"}),
            ("completions", {"prompt": ["Once upon", "a time"], **FORM}),
        ):
            answer = client.post(f"/v1/{path}", json={"model": "nano", **body}).json()
            choices = answer["choices"]
            assert answer["usage"]["completion_tokens"] == 5 * len(choices), answer
            assert {one["finish_reason"] for one in choices} == {"length"}, answer


def test_the_metrics_say_whom_a_worker_that_died_took_along():
    backend = NativeBackend(Settings(slots=1, readers=1))
    backend._supervisor._watch = Watch(heartbeat=0.05, first_delay=0.01)
    with listening(backend) as server, server.client() as client:  # type: ignore[arg-type]
        until(lambda: client.get("/ready").status_code == 200)
        assert "internvl_backend_failed_total 0.0" in client.get("/metrics").text
        long = {"model": "nano", "prompt": "Once", "max_tokens": 3000, "min_tokens": 3000, "stream": True}
        with client.stream("POST", "/v1/completions", json=long) as taken:
            pieces = taken.iter_text()
            next(pieces)
            assert backend._supervisor.pid is not None
            os.kill(backend._supervisor.pid, signal.SIGKILL)
            assert "unavailable" in "".join(pieces)
        assert "internvl_backend_failed_total 1.0" in client.get("/metrics").text
        until(lambda: client.get("/ready").status_code == 200)
        told = client.get("/metrics").text
        assert "internvl_backend_failed_total 1.0" in told, "it only ever grows"
        assert "internvl_backend_worker_restarts_total 1.0" in told

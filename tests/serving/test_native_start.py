"""The native backend with the embedded nano, as it is started with one setting or another."""

from __future__ import annotations

from internvl.serving.fields import RequestLimits
from internvl.serving.native import NativeBackend
from internvl.serving.settings import Settings
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

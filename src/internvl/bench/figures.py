"""Figures of a run: percentiles, throughput, goodput, and what must be known to read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from internvl.bench.load import Measured, Outcome
from internvl.errors import UsageError

BOUNDED = {
    "ttft": "time to first token",
    "itl": "longest time between tokens",
    "tpot": "mean time of a token after the first",
    "e2e": "time to the end of the answer",
}
"""What a request can be held to."""
MOST_KINDS = 12
"""Of errors, each with its name; the rest is counted together."""
LATE = 0.05
"""Seconds that this program may send late, of 99 in 100 questions, before it says so."""
BUSY = 0.8
"""Share of the time in which this program may itself compute before it says so."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Seconds of many requests; None where there are none."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    largest: float | None


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Requests that failed in one way."""

    kind: str
    count: int
    first: str
    """What was said of the first of them."""


@dataclass(frozen=True, kw_only=True)
class Goodput:
    """Requests that kept every bound, of all that were asked: an empty, failed or cancelled one kept none."""

    bounds: Mapping[str, float]
    kept: int
    share: float
    per_second: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a run shows. `spreads` by name; throughput is that of answered requests, over all seconds."""

    requests: int
    answered: int
    empty: int
    """Answers that are complete and have no text."""
    failed: int
    cancelled: int
    errors: tuple[Errors, ...]
    seconds: float
    offered_per_second: float | None
    """Open loop: requests that really arrived in a second."""
    answers_per_second: float
    output_tokens: int
    output_tokens_per_second: float
    counted: str
    """Who counted the tokens."""
    prompt_tokens_mean: float | None
    """As the server counts."""
    spreads: Mapping[str, Spread]
    goodput: Goodput | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values, between two neighbours by a straight line, as numpy does.

    >>> percentile([1.0, 2.0, 4.0], 0.75)
    3.0
    """
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def spread(values: Iterable[float | None]) -> Spread:
    """None among the values is left out."""
    found = sorted(value for value in values if value is not None)
    if not found:
        return Spread(count=0, mean=None, p50=None, p90=None, p99=None, largest=None)
    p50, p90, p99 = (percentile(found, share) for share in (0.5, 0.9, 0.99))
    return Spread(count=len(found), mean=math.fsum(found) / len(found), p50=p50, p90=p90, p99=p99, largest=found[-1])


def bounds_of(text: str) -> dict[str, float]:
    """Bounds as they stand on the command line.

    >>> bounds_of("ttft:1.0,itl:0.1")
    {'ttft': 1.0, 'itl': 0.1}
    """
    bounds: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition(":"))
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if name not in BOUNDED or name in bounds or not 0 < seconds < math.inf:
            raise UsageError(
                f"goodput {text!r}: expected each of {', '.join(BOUNDED)} at most once, with seconds: ttft:1.0,itl:0.1"
            )
        bounds[name] = seconds
    return bounds


def kept(outcome: Outcome, bounds: Mapping[str, float]) -> bool:
    """Whether a request was answered within every bound."""
    took = {
        "ttft": outcome.first,
        "itl": max(outcome.gaps, default=0.0),
        "tpot": outcome.per_token or 0.0,
        "e2e": outcome.whole,
    }
    return outcome.state == "answered" and all((took[name] or 0.0) <= bound for name, bound in bounds.items())


def figures(run: Measured, *, bounds: Mapping[str, float] | None = None, with_picture: Sequence[bool] = ()) -> Figures:
    """with_picture: for each number whether its question had a picture; without it nothing is told apart."""
    outcomes, seconds = run.outcomes, run.seconds
    answered = [outcome for outcome in outcomes if outcome.state == "answered"]
    tokens = sum(outcome.output_tokens for outcome in answered)
    prompts = [outcome.said.prompt_tokens for outcome in answered if outcome.said.prompt_tokens is not None]
    good = None
    if bounds:
        count = sum(kept(outcome, bounds) for outcome in outcomes)
        good = Goodput(bounds=dict(bounds), kept=count, share=count / len(outcomes), per_second=count / seconds)
    return Figures(
        requests=len(outcomes),
        answered=len(answered),
        empty=sum(outcome.state == "empty" for outcome in outcomes),
        failed=sum(outcome.state == "failed" for outcome in outcomes),
        cancelled=sum(outcome.state == "cancelled" for outcome in outcomes),
        errors=_errors(outcomes),
        seconds=seconds,
        offered_per_second=None if run.load.rate is None else len(outcomes) / outcomes[-1].planned,
        answers_per_second=len(answered) / seconds,
        output_tokens=tokens,
        output_tokens_per_second=tokens / seconds,
        counted=_counted(answered),
        prompt_tokens_mean=sum(prompts) / len(prompts) if prompts else None,
        spreads=_spreads(outcomes, with_picture, late=run.load.rate is not None),
        goodput=good,
        notes=tuple(_notes(run)),
    )


def _spreads(outcomes: Sequence[Outcome], with_picture: Sequence[bool], *, late: bool) -> dict[str, Spread]:
    """A failed request is in none but the last, nor is an empty answer: that a server refuses at once does not make it
    fast."""
    taken = [outcome for outcome in outcomes if outcome.is_timed]
    found = {"ttft": spread(outcome.first for outcome in taken)}
    if len(set(with_picture)) > 1:
        for name, wanted in (("ttft with a picture", True), ("ttft without", False)):
            found[name] = spread(outcome.first for outcome in taken if with_picture[outcome.number] is wanted)
    found["itl"] = spread(gap for outcome in taken for gap in outcome.gaps)
    found["tpot"] = spread(outcome.per_token for outcome in taken)
    found["e2e"] = spread(outcome.whole for outcome in taken)
    if late:
        found["sent late"] = spread(outcome.sent - outcome.planned for outcome in outcomes)
    return found


def _errors(outcomes: Sequence[Outcome]) -> tuple[Errors, ...]:
    counts: dict[str, int] = {}
    first: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.state == "failed":
            counts[outcome.kind] = counts.get(outcome.kind, 0) + 1
            first.setdefault(outcome.kind, outcome.error)
    ranked = sorted(counts, key=lambda kind: (-counts[kind], kind))
    named = [Errors(kind=kind, count=counts[kind], first=first[kind]) for kind in ranked[:MOST_KINDS]]
    if rest := ranked[MOST_KINDS:]:
        named.append(
            Errors(kind="other", count=sum(counts[kind] for kind in rest), first=f"{len(rest)} more kinds, the rarest")
        )
    return tuple(named)


def _counted(answered: Sequence[Outcome]) -> str:
    by_server = sum(outcome.said.output_tokens is not None for outcome in answered)
    if by_server == len(answered):
        return "by the server"
    pieces = "as pieces of the stream, which may hold more than one"
    return pieces if not by_server else f"by the server in {by_server} answers, in the others {pieces}"


def _notes(run: Measured) -> Iterable[str]:
    """What must be known to read the figures."""
    if cancelled := sum(outcome.state == "cancelled" for outcome in run.outcomes):
        yield (
            f"{cancelled} cancelled after {run.load.timeout:g} s stand in the times with how long was waited, which is "
            "less than what they would have taken"
        )
    if empty := sum(outcome.state == "empty" for outcome in run.outcomes):
        yield f"{empty} answers were empty, as the model decided: they stand in no time and keep no bound"
    if any(outcome.state == "failed" for outcome in run.outcomes):
        yield "failed requests stand in no time but in the counts; none of them was asked again"
    told = [outcome for outcome in run.outcomes if outcome.state == "answered" and outcome.said.output_tokens]
    tokens, pieces = sum(outcome.output_tokens for outcome in told), sum(len(outcome.pieces) for outcome in told)
    if tokens > 1.1 * pieces:
        yield (
            f"a piece of the stream held {tokens / pieces:.1f} tokens on average: times between tokens are times "
            "between pieces, tpot is the time of a token"
        )
    late = spread(outcome.sent - outcome.planned for outcome in run.outcomes).p99 or 0.0
    if late > LATE:
        yield f"this program sent late, 1 in 100 by more than {late:.2f} s; that is in the times as well"
    if run.busy > BUSY:
        yield (
            f"this program itself computed in {run.busy:.0%} of the time: it may have measured itself; take fewer "
            "requests a second, or several of it on several machines"
        )

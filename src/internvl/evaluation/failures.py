"""Questions without an answer: how many a run may have, what they are worth, and how they are told of.

    Allowed.parse("1%").of(1000)      # 10
    told([Failure("context", "…")], 1000)      # "1 of 1000 not answered: 1 over the context"

A question that overflows the model's context, or that a server refuses, is written down as failed, so that no resume
meets it again. It is worth nothing; beyond the allowed number the run stops.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from internvl.errors import UsageError
from internvl.evaluation.benchmark import Benchmark, Compat, Failure, Mark, Marked, Sample
from internvl.evaluation.store import Key

NAMES = {"context": "over the context", "refused": "refused"}
"""What people are told of each kind."""


@dataclass(frozen=True)
class Allowed:
    """So many questions of a benchmark may fail: a number, or a share of them, rounded up."""

    number: int | None = None
    share: float = 0.01

    @staticmethod
    def parse(text: str) -> Allowed:
        """From `10`, `0.02` or `2%`.

        >>> [Allowed.parse(text).of(150) for text in ("10", "2%", "0.02", "0")]
        [10, 3, 3, 0]
        """
        try:
            if text.isdecimal():
                return Allowed(int(text))
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            raise UsageError(f"--failures {text}: expected a number of questions, or a share of them such as 1%")
        return Allowed(share=share)

    def of(self, questions: int) -> int:
        """How many of so many questions."""
        return self.number if self.number is not None else math.ceil(round(self.share * questions, 9))


def told(failures: Iterable[Failure], questions: int) -> str:
    """How many have no answer, and why; nothing where all have one."""
    counts = Counter(failure.kind for failure in failures)
    kinds = ", ".join(f"{count} {NAMES[kind]}" for kind, count in counts.most_common())
    return f"{counts.total()} of {questions} not answered: {kinds}" if counts else ""


def told_of(rows: Mapping[int, Sequence[Marked]]) -> list[str]:
    """What a reader of figures must know of these rows: what has no answer, and what was asked in another way."""
    every = [row for given in rows.values() for row in given]
    found = told((row.failed for row in every if row.failed is not None), len(every))
    again = Counter(row.max_tiles for row in every if row.max_tiles is not None)
    return [
        *([f"{found}; counted as wrong"] if found else []),
        *(f"{count} of {len(every)} asked again with {tiles} tiles" for tiles, count in sorted(again.items())),
    ]


def failed_of(rows: Mapping[int, Sequence[Marked]]) -> list[dict[str, Any]]:
    """Each of them by name, for `scores.json`."""
    return [
        {"id": row.sample.id, "seed": seed, "kind": row.failed.kind, "why": row.failed.why}
        for seed, given in rows.items()
        for row in given
        if row.failed is not None
    ]


def check(name: str, failures: Mapping[Key, Failure], questions: int, allowed: Allowed) -> None:
    """Stop a run of which too much fails; names the most frequent reason, and how to go on."""
    most = allowed.of(questions)
    if len(failures) <= most:
        return
    [(kind, _)] = Counter(failure.kind for failure in failures.values()).most_common(1)
    key, first = next((key, failure) for key, failure in failures.items() if failure.kind == kind)
    fewer = "; --again --max-tiles N asks them with fewer tiles" if kind == "context" else "; --again asks them again"
    raise UsageError(
        f"{name}: {told(failures.values(), questions)}; {most} may fail. Such as {key.id}: {first.why.rstrip('.')}. "
        f"Go on with --failures {len(failures)} or more{fewer}"
    )


def worth(benchmark: Benchmark, sample: Sample, *, compat: Compat, judged: bool) -> Mark:
    """The mark of a question without an answer: wrong, whatever the rule makes of an empty text.

    A secret truth has no mark here either; the server that keeps it is sent an empty answer.
    """
    if judged and benchmark.judging is not None:
        return benchmark.judging.failed
    mark = benchmark.mark(sample, "", compat=compat)
    return Mark(None if mark.score is None else 0.0, None, mark.parts)

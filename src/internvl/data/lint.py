"""Checks a dataset before any training: `lint(sources, look)` reads its rows and says what is wrong, and how often.

    rows --Examiner, in this process or several--> Seen --Tally--> Report (findings, spreads, sources)

Memory is bounded: of each row some 64-bit digests and counts are kept (about 100 bytes), of each rule its first
examples. Every fault passes `heard`, for those who want them all.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context

from internvl.data.lint_row import Examiner, Look, Seen
from internvl.data.lint_rules import RULES, SEVERITIES, Fault, Severity
from internvl.data.lint_tally import Spread, Twice, spread
from internvl.data.mixture import Source, shares
from internvl.errors import UsageError

CHUNK = 32
"""Rows that a process is given at a time."""

Heard = Callable[[Seen, Fault], None]


@dataclass(frozen=True)
class Example:
    """A row in which a rule is broken."""

    source: int
    row: int
    """-1: it is not one row that is at fault."""
    origin: str
    text: str


@dataclass(frozen=True)
class Finding:
    """A rule that is broken, in how many rows, and in which first."""

    rule: str
    count: int
    examples: tuple[Example, ...]

    @property
    def severity(self) -> Severity:
        return RULES[self.rule].severity


@dataclass(frozen=True, kw_only=True)
class Part:
    """One source: how many rows it has, were looked at, and are at fault."""

    name: str
    annotation: str
    kind: str
    rows: int
    samples: int
    """In an epoch, after `repeat_time`; `resampling` of a run may change that."""
    looked: int = 0
    errors: int = 0
    warnings: int = 0
    tokens: int = 0
    tiles: int = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in a dataset."""

    parts: tuple[Part, ...]
    looked: int
    of: int
    findings: tuple[Finding, ...]
    """The worst first."""
    spreads: tuple[Spread, ...]
    labels: tuple[tuple[str, int], ...] = ()
    """The largest classes."""

    def count(self, severity: Severity) -> int:
        """How many findings are that bad."""
        return sum(finding.severity == severity for finding in self.findings)


def lint(
    sources: Sequence[Source],
    look: Look,
    *,
    rows: int | None = None,
    seed: int = 0,
    workers: int = 0,
    examples: int = 5,
    watch: Callable[[int, int], None] | None = None,
    heard: Heard | None = None,
) -> Report:
    """Look at all rows, or at `rows` of them drawn by chance, `workers` processes besides this one.

    watch: called with (rows done, of how many). heard: called with each row that is at fault and each of its faults.
    A file that cannot be opened at all is a `DataError`; everything else is a finding.
    """
    if rows is not None and rows < 1:
        raise UsageError(f"rows is {rows}; expected at least 1, or none for all")
    if workers < 0:
        raise UsageError(f"workers is {workers}; expected 0 (this process alone) or more")
    examiner = Examiner(sources, look)
    sizes = [len(examiner.rows(number)) for number in range(len(sources))]
    tally = Tally(examiner, sources, sizes, examples, heard)
    places = _places(sizes, rows, seed)
    if look.encoder is not None and not look.encoder.config.dynamic:
        tally.refuse_tiles()
    total = sum(sizes) if rows is None else min(rows, sum(sizes))
    seen = _alone(examiner, places) if workers == 0 else _together(sources, look, places, workers)
    for done, one in enumerate(seen, start=1):
        tally.add(one)
        if watch is not None:
            watch(done, total)
    return tally.report(look)


def _places(sizes: Sequence[int], rows: int | None, seed: int) -> Iterator[tuple[int, int]]:
    """Source and row of what is looked at, in order."""
    total = sum(sizes)
    numbers = range(total) if rows is None or rows >= total else sorted(random.Random(seed).sample(range(total), rows))
    source, before = 0, 0
    for number in numbers:
        while number >= before + sizes[source]:
            before += sizes[source]
            source += 1
        yield source, number - before


def _alone(examiner: Examiner, places: Iterator[tuple[int, int]]) -> Iterator[Seen]:
    return (examiner.examine(source, row) for source, row in places)


# ---- several processes -----------------------------------------------------------------------------------------------

_here: list[Examiner] = []
"""The examiner of a worker process."""


def _begin(sources: Sequence[Source], look: Look) -> None:
    _here[:] = [Examiner(sources, look)]


def _chunk(places: Sequence[tuple[int, int]]) -> list[Seen]:
    return [_here[0].examine(source, row) for source, row in places]


def _together(sources: Sequence[Source], look: Look, places: Iterator[tuple[int, int]], workers: int) -> Iterator[Seen]:
    """In the order of the places; no more is read ahead than keeps the processes busy."""
    chunks = iter(lambda: list(islice(places, CHUNK)), [])
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(sources, look))
    with pool:
        try:
            waiting: deque[Future[list[Seen]]] = deque()
            for chunk in chunks:
                waiting.append(pool.submit(_chunk, chunk))
                if len(waiting) > 3 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            raise UsageError(
                "a process that looked at rows was killed, as happens where memory is short; take fewer workers"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


# ---- adding up -------------------------------------------------------------------------------------------------------


class Tally:
    """Adds up what was seen."""

    def __init__(
        self, examiner: Examiner, sources: Sequence[Source], sizes: Sequence[int], most: int, heard: Heard | None
    ) -> None:
        self._examiner, self._sources, self._most, self._heard = examiner, tuple(sources), most, heard
        self._parts = [
            Part(name=source.title, annotation=source.annotation, kind=source.kind, rows=size, samples=share)
            for source, size, share in zip(sources, sizes, shares(sources, sizes), strict=True)
        ]
        self._looked = [0] * len(sources)
        self._counts: Counter[str] = Counter()
        self._by_source: Counter[tuple[int, str]] = Counter()
        self._examples: dict[str, list[Example]] = {}
        self._places = (array("q"), array("q"))
        self._twice = Twice()
        self._numbers = {name: array("q") for name in ("tokens", "learnt", "tiles", "side")}
        self._sums: Counter[tuple[int, str]] = Counter()
        self._labels: Counter[int | str] = Counter()
        self._systems: dict[int, set[bool]] = {}
        for number, size in enumerate(sizes):
            if not size:
                self._count(self._whole(number), Fault("source-empty", "no rows"))

    def refuse_tiles(self) -> None:
        """Training refuses such a source before its first row."""
        for number, source in enumerate(self._sources):
            if source.max_tiles is not None and source.max_tiles > 1:
                self._count(self._whole(number), Fault("source-tiles", f"{source.max_tiles} tiles a sample"))

    def add(self, seen: Seen) -> None:
        self._looked[seen.source] += 1
        self._places[0].append(seen.source)
        self._places[1].append(seen.row)
        self._twice.add(seen)
        for fault in seen.faults:
            self._count(seen, fault)
        if seen.tokens >= 0:
            self._numbers["tokens"].append(seen.tokens)
            self._sums[seen.source, "tokens"] += seen.tokens
        if seen.learnt >= 0:
            self._numbers["learnt"].append(round(1000 * seen.learnt / max(1, seen.tokens)))
        if seen.tiles >= 0:
            self._numbers["tiles"].append(seen.tiles)
            self._sums[seen.source, "tiles"] += seen.tiles
        self._numbers["side"].extend(max(size) for size in seen.sizes)
        if seen.system is not None:
            self._systems.setdefault(seen.source, set()).add(seen.system)
        if seen.label is not None:
            self._labels[seen.label] += 1

    def _count(self, seen: Seen, fault: Fault) -> None:
        self._counts[fault.rule] += 1
        self._by_source[seen.source, RULES[fault.rule].severity] += 1
        examples = self._examples.setdefault(fault.rule, [])
        if len(examples) < self._most:
            examples.append(Example(seen.source, seen.row, seen.origin, fault.text))
        if self._heard is not None:
            self._heard(seen, fault)

    def report(self, look: Look) -> Report:
        """What is known once all rows are seen."""
        self._compare()
        order = {severity: place for place, severity in enumerate(SEVERITIES)}
        findings = [Finding(rule, count, tuple(self._examples[rule])) for rule, count in self._counts.items() if count]
        return Report(
            parts=tuple(self._part(number) for number in range(len(self._parts))),
            looked=sum(self._looked),
            of=sum(part.rows for part in self._parts),
            findings=tuple(sorted(findings, key=lambda one: (order[one.severity], -one.count, one.rule))),
            spreads=tuple(self._spreads(look)),
            labels=tuple((str(label), count) for label, count in self._labels.most_common(30)),
        )

    def _part(self, number: int) -> Part:
        return replace(
            self._parts[number],
            looked=self._looked[number],
            errors=self._by_source[number, "error"],
            warnings=self._by_source[number, "warning"],
            tokens=self._sums[number, "tokens"],
            tiles=self._sums[number, "tiles"],
        )

    def _spreads(self, look: Look) -> Iterator[Spread]:
        told = {
            "tokens": ("tokens of a sample", 1.0, look.max_length if look.encoder else look.text_length),
            "learnt": ("share of tokens that is learnt, in percent", 0.1, None),
            "tiles": ("tiles of a sample", 1.0, None),
            "side": ("longer side of a picture, in pixels", 1.0, None),
        }
        for name, (title, unit, limit) in told.items():
            if numbers := self._numbers[name]:
                yield spread(name, title, numbers, unit=unit, limit=limit)

    # ---- what only shows when rows are laid side by side -------------------------------------------------------------

    def _compare(self) -> None:
        for rule, number, earlier in self._twice.faults():
            seen = self._at(number)
            other = "" if earlier is None else self._at(earlier).origin
            self._count(seen, Fault(rule, f"as in {other}"))
        for source, kinds in self._systems.items():
            if len(kinds) > 1:
                self._count(self._whole(source), Fault("system-mixed", "some rows have a system turn, others none"))
        if len({type(label) for label in self._labels}) > 1:
            kinds = {type(label).__name__: label for label in self._labels}
            told = ", ".join(repr(label) for label in kinds.values())
            self._count(self._whole(), Fault("label-mixed", f"labels such as {told}"))
        rare = [label for label, count in self._labels.items() if count == 1]
        if rare and len(rare) < len(self._labels):
            named = ", ".join(map(str, rare[:5]))
            self._count(self._whole(), Fault("rare-label", f"{len(rare)} of {len(self._labels)} classes: {named}"))

    def _at(self, number: int) -> Seen:
        source, row = self._places[0][number], self._places[1][number]
        return Seen(source=source, row=row, origin=self._examiner.rows(source).origin(row))

    def _whole(self, source: int | None = None) -> Seen:
        """A source, or everything, where the fault is not one row's."""
        origin = "all rows" if source is None else self._parts[source].name
        return Seen(source=source or 0, row=-1, origin=origin)

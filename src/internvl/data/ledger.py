"""What became of every row that was read: accepted, over-long, or unusable and why; and when that is too much.

A run stops when more rows are unusable than `budget` times the rows read, where the first thousand count as read from
the beginning: with a budget of 0.01 ten bad rows are never too many, an eleventh is among the first thousand. A budget
of 0 stops at the first. Over-long rows are counted, but they are no fault: `overlong` was told what to do with them.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from internvl.errors import DataError, InternVLError

GRACE = 1000
"""Rows that count as read from the beginning."""
NAMED = 50
"""Rows of one source and reason that the file names; all are counted."""
REASONS = 50
"""That are told apart; further ones are counted together."""
OTHER = "other reasons"
FATES = ("accepted", "rejected", "overlong_kept", "overlong_dropped")


class Ledger:
    """Counts of one rank, and a file (JSON lines) that names rows: {"source", "row", "reason", "message"}.

    >>> ledger = Ledger(None, budget=0.1, sources=["flags"], sizes=[2])
    >>> ledger.accepted(0)
    >>> ledger.rejected(0, "flags.jsonl:7", DataError("flags.jsonl:7: `label` is missing"))
    >>> print(ledger.summary())
    flags: 2 rows, read 2 times in all, also for batches to come: 1 accepted, 1 unusable
      1 x DataError: `label` is missing (flags.jsonl:7)
    """

    def __init__(
        self, path: Path | None, *, budget: float, sources: Sequence[str], sizes: Sequence[int] | None = None
    ) -> None:
        """`path`: where rows are named; a file that is there is written anew, unless `restore` goes on with it.

        `sizes`: how many rows each source has, so that the summary can say how often they were read.
        """
        self._path, self._budget, self._sources = path, budget, tuple(sources)
        self._sizes = None if sizes is None else tuple(sizes)
        self._counts = [Counter[str]() for _ in sources]
        self._reasons = [Counter[str]() for _ in sources]
        self._named: list[dict[str, list[str]]] = [{} for _ in sources]
        self._copies: dict[tuple[str, int], Any] = {}
        """Of what has not changed since it was copied: states share it, as one is taken for each batch."""
        self._bytes = 0
        """Of the file, as far as it is ours."""

    # ---- what happens ------------------------------------------------------------------------------------------------

    def accepted(self, source: int) -> None:
        """A row became a sample."""
        self._count(source, "accepted")

    def overlong(self, source: int, origin: str, tokens: int, kept: bool) -> None:
        """A row had too many tokens. Dropped: that is all of it; kept, with fewer tiles: it is `accepted` besides."""
        fate = "overlong_kept" if kept else "overlong_dropped"
        self._count(source, fate)
        told = "fewer tiles" if kept else "dropped"
        self._name(source, origin, f"over-long, {told}", f"{tokens} tokens: {told}")

    def rejected(self, source: int, origin: str, error: InternVLError) -> None:
        """A row cannot be used. Raises `DataError` if these are too many by now."""
        self._count(source, "rejected")
        reasons, reason = self._reasons[source], reason_of(error, origin)
        if reason not in reasons and len(reasons) >= REASONS:
            reason = OTHER
        reasons[reason] += 1
        self._copies.pop(("reasons", source), None)
        self._name(source, origin, reason, str(error))
        rejected, read = self._sum("rejected"), self.read
        if rejected > self._budget * max(read, GRACE):
            place = f"; all in {self._path}" if self._path else ""
            raise DataError(
                f"{rejected} of {read} rows read cannot be used, more than the budget of {self._budget:g} (bad_rows): "
                f"{'; '.join(self._worst(3))}{place}; mend the data (internvl lint finds all), or raise the budget"
            ) from error

    @property
    def read(self) -> int:
        """Rows read, each as often as it was."""
        return self._sum("accepted") + self._sum("rejected") + self._sum("overlong_dropped")

    def _count(self, source: int, fate: str) -> None:
        self._counts[source][fate] += 1
        self._copies.pop(("counts", source), None)

    def _sum(self, fate: str) -> int:
        return sum(counts[fate] for counts in self._counts)

    def _name(self, source: int, origin: str, reason: str, message: str) -> None:
        named = self._named[source].setdefault(reason, [])
        if len(named) >= NAMED or origin in named:
            return
        named.append(origin)
        self._copies.pop(("named", source), None)
        if self._path is None:
            return
        line = {"source": self._sources[source], "row": origin, "reason": reason, "message": message[:1000]}
        data = json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab" if self._bytes else "wb") as file:
            file.write(data)
        self._bytes += len(data)

    # ---- what is told of it ------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, dict[str, int]]:
        """By source: how many rows were accepted, rejected, over-long and kept, over-long and dropped."""
        total: dict[str, Counter[str]] = {}
        for name, counts in zip(self._sources, self._counts, strict=True):  # two sources may have one name
            total.setdefault(name, Counter()).update(counts)
        return {name: {fate: counts[fate] for fate in FATES} for name, counts in total.items()}

    def summary(self) -> str:
        """A line for each source, and its commonest reasons with one row of each.

        A row is read again in each epoch, and before its batch is complete; each reading counts.
        """
        lines: list[str] = []
        for at, name in enumerate(self._sources):
            counts = self._counts[at]
            kept, dropped = counts["overlong_kept"], counts["overlong_dropped"]
            read = counts["accepted"] + counts["rejected"] + dropped
            rows = f"{read:,} rows read" if self._sizes is None else _read_of(read, self._sizes[at])
            parts = [f"{name}: {rows}: {counts['accepted']:,} accepted", f"{counts['rejected']:,} unusable"]
            parts += [f"{kept:,} over-long and given fewer tiles"] * bool(kept)
            parts += [f"{dropped:,} over-long and dropped"] * bool(dropped)
            lines.append(", ".join(parts))
            lines += (f"  {reason}" for reason in self._worst(5, at))
        return "\n".join(lines)

    def fates(self) -> str:
        """Why rows gave no sample: how many for each reason, with one row of each."""
        dropped = "over-long, dropped"
        first = next((named[dropped][0] for named in self._named if dropped in named), "")
        overlong = [f"{self._sum('overlong_dropped')} x {dropped} ({first})"] if first else []
        place = [f"rows are named in {self._path}"] if self._path else []
        return "; ".join([*overlong, *self._worst(3), *place])

    def _worst(self, most: int, source: int | None = None) -> list[str]:
        """The commonest reasons, of one source or all: `8 x MediaUnreadable: there is no such file (a.jsonl:3)`."""
        chosen = range(len(self._sources)) if source is None else [source]
        total: Counter[str] = Counter()
        first: dict[str, str] = {}
        for at in chosen:
            total.update(self._reasons[at])
            for reason, rows in self._named[at].items():
                first.setdefault(reason, rows[0])
        return [f"{count} x {reason} ({first.get(reason, '')})" for reason, count in total.most_common(most)]

    # ---- what a checkpoint keeps -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """JSON values from which `restore` goes on. They are not to be changed: what is the same is shared."""
        every = range(len(self._sources))
        return {
            "sources": list(self._sources),
            "counts": [self._copy("counts", at, self._counts[at]) for at in every],
            "reasons": [self._copy("reasons", at, self._reasons[at]) for at in every],
            "named": [self._copy("named", at, self._named[at]) for at in every],
            "bytes": self._bytes,
        }

    def _copy(self, part: str, source: int, values: Mapping[str, Any]) -> dict[str, Any]:
        if (part, source) not in self._copies:
            copied = {key: list(value) if isinstance(value, list) else value for key, value in values.items()}
            self._copies[part, source] = copied
        return self._copies[part, source]

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; what the file says beyond it is forgotten. `DataError` if it is of other sources."""
        if list(state["sources"]) != list(self._sources):
            raise DataError(
                f"the ledger is of the sources {', '.join(state['sources'])}, but the data has "
                f"{', '.join(self._sources)}; go on with the same data, or begin in another folder"
            )
        self._counts = [Counter(cast("dict[str, int]", counts)) for counts in state["counts"]]
        self._reasons = [Counter(cast("dict[str, int]", reasons)) for reasons in state["reasons"]]
        self._named = [{reason: list(rows) for reason, rows in named.items()} for named in state["named"]]
        self._copies.clear()
        self._bytes = 0
        if self._path is not None and self._path.is_file():
            size = self._path.stat().st_size
            self._bytes = size if state["bytes"] is None else min(size, state["bytes"])
            os.truncate(self._path, self._bytes)


def _read_of(read: int, size: int) -> str:
    """A short run of few rows may read each of them hundreds of times until its packs are full."""
    times = "once" if read == 1 else f"{read:,} times in all"
    return f"{size:,} row{'' if size == 1 else 's'}, read {times}, also for batches to come"


def merged(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The states of several ranks as that of one, for a run that goes on with another number of them.

    What its file has said already stays, whatever that is.
    """
    whole: dict[str, Any] = {"sources": states[0]["sources"], "bytes": None}
    for key in ("counts", "reasons"):
        whole[key] = [
            dict(sum((Counter(one) for one in of), Counter())) for of in zip(*(s[key] for s in states), strict=True)
        ]
    whole["named"] = [
        {reason: [row for one in of for row in one.get(reason, [])][:NAMED] for one in of for reason in one}
        for of in zip(*(state["named"] for state in states), strict=True)
    ]
    return whole


def reason_of(error: InternVLError, origin: str) -> str:
    """What is wrong, without what differs from row to row: the name of the row, quoted text, paths and numbers.

    >>> reason_of(DataError("a.jsonl:7, id '12': pics/7.jpg has 3 pixels"), "a.jsonl:7")
    'DataError: FILE has # pixels'
    """
    said = str(error).replace(origin, "")
    said = re.sub(r"^(, id ('[^']*'|\"[^\"]*\"|[^\s:]+))?( \((chosen|rejected)\))?[:\s]*", "", said)
    said = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", said)
    said = re.sub(r"\S*[/\\]\S*[^\s:;,.)]|\S+\.[A-Za-z]{2,4}\b(?=[\s:;,)]|$)", "FILE", said)
    return f"{type(error).__name__}: {re.sub(r'[0-9]+', '#', said)[:200]}"

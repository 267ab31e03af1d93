"""Asking a judge about answers that no rule can mark.

    ask_judge(judging, rows, judge, folder / "judged.jsonl")                  # appends as they come, asks nothing twice
    found = read_verdicts(judging, rows, judge.name, folder / "judged.jsonl")
    found.rows, found.withheld, found.about

A verdict is kept for (sample, seed, answer, judge, version and text of the prompt); whatever of these is another is
another question. What a judge wrote is kept as it is and read again at each scoring. Verdicts that cannot be read have
no mark, are named, and withhold the score where they are more than a stated share: none is taken for right or wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from internvl.errors import DataError, UsageError
from internvl.evaluation.benchmark import Judging, Mark, Marked, Scores, Summarise
from internvl.evaluation.store import append, open_alone, whole_lines

MOST_UNREADABLE = 0.02
"""The share of verdicts that may be unreadable before the score is withheld."""
NAMED = 20
"""Unreadable verdicts that are named one by one."""

Rows = Mapping[int, Sequence[Marked]]
"""By seed, as in TaskResult."""


class Judge(Protocol):
    """Whatever answers text prompts: `responders.LocalJudge`, `responders.EndpointJudge`, or an object of yours."""

    @property
    def name(self) -> str:
        """What the report calls it: its model, and where it runs."""
        ...

    def write(self, prompts: Sequence[str], judging: Judging) -> Iterator[tuple[int, str]]:
        """(place of the prompt, text), each as soon as it is there, in any order; asked as `judging` says."""
        ...


class Key(NamedTuple):
    """What a judge is asked once."""

    id: str
    seed: int
    answer: str
    """Digest of the answer, as the prompt's below."""
    judge: str
    version: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The rows of a task with a judge's marks."""

    rows: Mapping[int, tuple[Marked, ...]]
    """All of them; those whose verdict cannot be read have no mark."""
    readable: Mapping[int, tuple[Marked, ...]]
    """The others, from which figures are made."""
    withheld: str | None
    """Why there is no score; None: there is one."""
    about: Mapping[str, Any]
    """The judge, its prompt's version, and how many of its verdicts could be read, for the report."""

    def summarise(self, summarise: Summarise, rows: Sequence[Marked], *, name: str = "score") -> Scores:
        """The figures of some of the readable rows, or why they are withheld."""
        return Scores(values={}, withheld={name: self.withheld}) if self.withheld else summarise(rows)


def key_of(judging: Judging, seed: int, row: Marked, judge: str) -> tuple[Key, str]:
    """The key of a question to the judge, and its prompt."""
    prompt = judging.prompt(row.sample, row.answer)
    return Key(row.sample.id, seed, _digest(row.answer), judge, judging.version, _digest(prompt)), prompt


def ask_judge(judging: Judging, rows: Rows, judge: Judge, file: Path) -> int:
    """Ask about every answer that has no verdict yet; how many were asked.

    An error of the judge ends this; what was written before it is kept, and the rest is asked the next time.
    """
    if not _open_questions(judging, rows, judge.name, file):
        return 0
    asked = set[int]()
    file.parent.mkdir(parents=True, exist_ok=True)
    with open_alone(file) as out:
        open_questions = _open_questions(judging, rows, judge.name, file)  # another process may have asked meanwhile
        keys = list(open_questions)
        for place, text in judge.write(list(open_questions.values()), judging):
            if not 0 <= place < len(keys) or place in asked:
                raise UsageError(f"the judge {judge.name} answered prompt {place} of {len(keys)}, which was not open")
            asked.add(place)
            append(out, file, {**keys[place]._asdict(), "verdict": text})
    return len(asked)


def _open_questions(judging: Judging, rows: Rows, judge: str, file: Path) -> dict[Key, str]:
    """The prompt of every answer that has no verdict yet."""
    known = {key for key, _ in _read(file)}
    asked = (key_of(judging, seed, row, judge) for seed, marked in rows.items() for row in marked)
    return {key: prompt for key, prompt in asked if key not in known}


def read_verdicts(
    judging: Judging, rows: Rows, judge: str, file: Path, *, most_unreadable: float = MOST_UNREADABLE
) -> Judged:
    """Marks from the verdicts on the disk; asks nobody."""
    verdicts = dict(_read(file))
    marked: dict[int, tuple[Marked, ...]] = {}
    unreadable: list[str] = []
    unasked = 0
    for seed, given in rows.items():
        found: list[Marked] = []
        for row in given:
            key, _ = key_of(judging, seed, row, judge)
            mark = Mark(None)
            if key not in verdicts:
                unasked += 1
            else:
                mark = judging.parse(row.sample, verdicts[key])
                if mark.score is None:
                    unreadable.append(row.sample.id if len(rows) == 1 else f"{row.sample.id} (seed {seed})")
            found.append(replace(row, mark=mark))
        marked[seed] = tuple(found)
    total = sum(map(len, marked.values()))
    return Judged(
        rows=marked,
        readable={seed: tuple(row for row in given if row.mark.score is not None) for seed, given in marked.items()},
        withheld=_why_withheld(judge, total, unasked, len(unreadable), most_unreadable),
        about={
            "judge": judge,
            "version": judging.version,
            "published judge": judging.published,
            "answers": total,
            "without verdict": unasked,
            "unreadable": len(unreadable),
            "unreadable, by name": unreadable[:NAMED],
            "most unreadable": most_unreadable,
        },
    )


def without_judge(judging: Judging) -> str:
    """Why a score is withheld where no judge was named."""
    usual = f" (published scores: {judging.published})" if judging.published else ""
    return f"no rule can mark these answers; name a judge with --judge{usual}, or the rule that stands in with --rules"


def _why_withheld(judge: str, total: int, unasked: int, unreadable: int, most: float) -> str | None:
    if unasked or not total:
        return f"{unasked} of {total} answers have no verdict of {judge} yet" if total else "there is no answer"
    if unreadable > most * total:
        return f"{unreadable} of {total} verdicts of {judge} cannot be read; at most {most:.0%} may be"
    return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def _read(file: Path) -> Iterator[tuple[Key, str]]:
    if not file.exists():
        return
    for where, values in whole_lines(file):
        kinds = dict.fromkeys((*Key._fields, "verdict"), str) | {"seed": int}
        wrong = [name for name, kind in kinds.items() if type(values.get(name)) is not kind]
        if wrong:
            raise DataError(
                f"{file.parent / where}: `{wrong[0]}` is {values.get(wrong[0])!r}; expected {kinds[wrong[0]].__name__} "
                "(delete the line, and the judge is asked again)"
            )
        yield Key(**{name: values[name] for name in Key._fields}), values["verdict"]

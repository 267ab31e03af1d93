"""Any table in VLMEvalKit's form that has no task of its own: `internvl eval some.tsv`.

What is asked is seen from the columns, as VLMEvalKit sees it: A and B make multiple choice, anything else is an open
question. A table whose answers are all yes or no is marked as such; for other open questions somebody must say by which
rule. The prompts are those of VLMEvalKit's wrapper for InternVL 2 and later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

from internvl.errors import DataError, UsageError, find
from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Mark,
    Marked,
    Sample,
    Scores,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row, read_literal
from internvl.evaluation.tasks.choice import FACTS, against, choice_prompt
from internvl.evaluation.tasks.instructions import SHORT, numbered
from internvl.evaluation.tasks.mmbench import summarise as summarise_circular
from internvl.metrics.choices import ROTATION, letter
from internvl.metrics.documents import anls, relaxed_match
from internvl.metrics.vqa import exact_match, soft_accuracy, stvqa_match
from internvl.metrics.yes_no import spoken

LOOKED_AT = 100
"""Rows by which yes-or-no questions are recognised."""


def vqa(answer: str, golds: Sequence[str]) -> float:
    """VQA accuracy where ten people answered, else equality of the normalised answers."""
    return soft_accuracy(answer, golds) if len(golds) == 10 else stvqa_match(answer, golds)


RULES: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "exact": exact_match,
    "vqa": vqa,
    "anls": anls,
    "relaxed": relaxed_match,
}
"""How an open question may be marked."""


def benchmark(path: Path, *, rule: str | None = None) -> Benchmark:
    """A benchmark out of a table; the data folder is the one that the table is in.

    rule: how open questions are marked, a key of `RULES`; not for other tables. Raises UsageError where it is missing
    or has no place, DataError for what is no such table.
    """
    folder = Folder(path.parent)
    first = list(islice(folder.table(path.name), LOOKED_AT))
    columns = set(first[0]) if first else set[str]()
    if "question" not in columns or "index" not in columns:
        raise DataError(
            f"{path.name}: no rows with `index` and `question`; expected a table as VLMEvalKit publishes it"
        )
    if "video" in columns and not columns & {"image", "image_path"}:
        raise DataError(f"{path.name} is a table of videos; each such benchmark needs a task of its own")
    answers = {str(row["answer"]).strip().lower() for row in first if row.filled("answer")}
    choice, polar = {"A", "B"} <= columns, bool(answers) and answers <= {"yes", "no"}
    if choice or polar:
        if rule is not None:
            kind = "multiple choice" if choice else "yes or no"
            raise UsageError(f"{path.name} is {kind}, which has a rule of its own; leave out --mark-by {rule}")
        mark = mark_choice if choice else mark_polar
    elif rule is None:
        raise UsageError(
            f"{path.name} has open questions; say by which rule they are marked (--mark-by): {', '.join(RULES)}"
        )
    else:
        mark = partial(mark_open, rule=find("rule for open questions", rule, RULES))
    return Benchmark(
        name=re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "table",
        title=path.stem,
        paper="arXiv:2407.11691",
        group="own",
        sources=(Source("vlmevalkit", (File(path.name, hint="the table"),), partial(read, name=path.name)),),
        mark=mark,
        summarise=summarise,
        settings=Settings(max_new_tokens=4096, together=64),
        note="A table without a task of its own; asked as VLMEvalKit would, "
        + ("marked as it would without a judge." if rule is None else f"marked by the rule {rule!r}."),
    )  # fmt: skip


def read(folder: Folder, *, name: str) -> Iterator[Sample]:
    """The rows as questions. Where the table has pictures, rows without one are left out, as VLMEvalKit does."""
    for row in folder.table(name):
        columns = {"image", "image_path"} & set(row)
        if columns and not any(row.filled(column) for column in columns):
            continue
        yield sample_of(row, pictured=bool(columns))


def sample_of(row: Row, *, pictured: bool) -> Sample:
    options = row.options() if "A" in row and "B" in row else {}
    pictures = row.pictures() if pictured else ()
    prompt = choice_prompt(row) if options else f"{row.text('question')}\n{SHORT}"
    facts: dict[str, object] = {fact: str(row[fact]) for fact in FACTS if row.filled(fact)}
    return Sample(
        id=str(row["index"]),
        prompt=with_places(prompt, len(pictures)),
        pictures=pictures,
        answer=str(row["answer"]) if row.filled("answer") else None,
        facts={**facts, "options": options, **rotation(row)},
    )


def with_places(prompt: str, pictures: int) -> str:
    """The places of the pictures before the text; `<image>` in the text itself becomes their names.

    >>> with_places("Is <image> the same as <image>?", 2)
    'Image-1: <image>\\nImage-2: <image>\\nIs <Image-1> the same as <Image-2>?'
    """
    for number in range(1, prompt.count("<image>") + 1):
        prompt = prompt.replace("<image>", f"<Image-{number}>", 1)
    return numbered(pictures, alone="<image>\n") + prompt


def rotation(row: Row) -> dict[str, int]:
    """Which question a row is a rotation of: by `g_index`, or by MMBench's numbers."""
    try:
        index = int(str(row["index"]))
        return {"index": index, "question": int(str(row["g_index"])) if row.filled("g_index") else index % ROTATION}
    except ValueError:
        return {}


def mark_choice(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right if the answer names the true option."""
    return against(sample, letter(answer, sample.facts["options"], compat=compat))


def mark_polar(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right if the answer says the true one of yes and no."""
    del compat
    said = spoken(answer)
    return Mark(None if sample.answer is None else float(said == sample.answer.strip().lower()), said)


def mark_open(
    sample: Sample, answer: str, *, compat: Compat, rule: Callable[[str, Sequence[str]], float]
) -> Mark:  # fmt: skip
    """By the rule that was chosen, against one answer or a list of them."""
    del compat
    if sample.answer is None:
        return Mark(None, answer)
    listed = read_literal(sample.answer)
    golds = [str(gold) for gold in cast("list[object]", listed)] if isinstance(listed, list) else [sample.answer]
    return Mark(rule(answer, golds), answer)


def summarise(rows: Sequence[Marked]) -> Scores:
    """Accuracy, by category and split; circular where the table has every question with its options rotated."""
    facts = [row.sample.facts for row in rows]
    indices = {fact.get("index") for fact in facts}
    questions = {fact.get("question") for fact in facts}
    if None not in questions and len(questions) < len(rows) and questions <= indices:
        return summarise_circular(rows)
    return mean_score(by=FACTS)(rows)

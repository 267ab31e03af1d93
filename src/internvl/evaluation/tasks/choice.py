"""What the multiple-choice benchmarks share that VLMEvalKit publishes as tables: question, sample and mark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from internvl.evaluation.benchmark import Compat, File, Mark, Sample, Source
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.instructions import LETTER, LETTER_ZH, numbered
from internvl.metrics.choices import letter

IDEOGRAPH = re.compile("[\u4e00-\u9fff]")


def table_file(name: str, md5: str, *, at: str = "VLMEval") -> File:
    """A table as VLMEvalKit downloads it, in the data folder under its own name."""
    return File(f"{name}.tsv", f"https://opencompass.openxlab.space/utils/{at}/{name}.tsv", f"md5:{md5}")


def table_source(name: str, md5: str, *, at: str = "VLMEval") -> Source:
    """A table of multiple-choice questions."""
    return Source("vlmevalkit", (table_file(name, md5, at=at),), partial(read_choices, name=f"{name}.tsv"))


def read_choices(folder: Folder, *, name: str, chinese: bool | None = None) -> Iterator[Sample]:
    for row in folder.table(name):
        yield choice_sample(row, chinese=chinese)


def choice_prompt(row: Row, *, chinese: bool | None = None) -> str:
    """Hint, question, options, instruction: a line each, as the original and VLMEvalKit's InternVL wrapper build it.

    chinese: which instruction; None: Chinese where anything before it is, the wrapper's rule.
    """
    lines = [row.text("hint")] if row.filled("hint") else []
    options = row.options()
    lines += [str(row["question"]), *(f"{key}. {text}" for key, text in options.items())]
    if chinese is None:
        chinese = IDEOGRAPH.search("\n".join(lines)) is not None
    if options:
        lines.append(LETTER_ZH if chinese else LETTER)
    else:
        lines.append("请直接回答问题。" if chinese else "Answer the question directly.")
    return "\n".join(lines)


FACTS = ("category", "l2-category", "split")


def choice_sample(row: Row, *, chinese: bool | None = None) -> Sample:
    """A row of a table as a question. Several pictures are numbered before it: `Image-1: <image>`."""
    pictures = row.pictures()
    facts = {fact: str(row[fact]) for fact in FACTS if row.filled(fact)}
    return Sample(
        id=str(row["index"]),
        prompt=numbered(len(pictures)) + choice_prompt(row, chinese=chinese),
        pictures=pictures,
        answer=str(row["answer"]) if row.filled("answer") else None,
        facts={**facts, "options": row.options()},
    )


def mark_choice(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Right if the answer names the true option. Both rules: `internvl.metrics.choices.letter`."""
    return against(sample, letter(answer, sample.facts["options"], compat=compat))


def mark_choice_always_official(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """For what the original never scored: published scores have VLMEvalKit's rule, so `compat` has no say."""
    del compat
    return against(sample, letter(answer, sample.facts["options"]))


def against(sample: Sample, parsed: str | None) -> Mark:
    """The mark of an option letter; without a score where the truth is secret."""
    return Mark(None if sample.answer is None else float(parsed == sample.answer), parsed)

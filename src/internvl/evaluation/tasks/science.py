"""School science with pictures: ScienceQA and M3CoT, answered at once or after thinking, and PuzzleVQA."""

from __future__ import annotations

import string
from collections.abc import Iterator
from functools import partial

from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Mark,
    Published,
    Sample,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.choice import FACTS, against, table_file
from internvl.evaluation.tasks.instructions import COT, LETTER
from internvl.evaluation.tasks.published import MPO, version_1_5
from internvl.evaluation.tasks.vqa import in_data
from internvl.metrics.choices import letter
from internvl.metrics.mathematics import by_letter, cot_answer, puzzlevqa_match

# ---- ScienceQA and M3CoT ---------------------------------------------------------------------------------------------


def science_prompt(hint: str, question: str, options: dict[str, str], *, cot: bool) -> str:
    """Hint, question, options, instruction, a line each; thinking first, the instruction stands around all that."""
    lines = [*([hint] if hint else []), question, *(f"{key}. {text}" for key, text in options.items())]
    text = "\n".join([*lines, "" if cot else LETTER]).strip()
    return COT.format(question=text) if cot else text


def read_lines(folder: Folder, *, name: str, cot: bool) -> Iterator[Sample]:
    """The original's JSON lines; ids are the place in the file."""
    for place, row in enumerate(folder.jsonl(name)):
        options = by_letter(row.items_of("choices"))
        answer = int(row.number("answer"))
        if not 0 <= answer < len(options):
            raise row.wrong("answer", f"the place of one of {len(options)} choices, from 0")
        hint = str(row.get("hint") or "")
        yield Sample(
            id=str(place),
            prompt=science_prompt(hint, row.text("question"), options, cot=cot),
            pictures=(folder.picture(in_data(row.text("image")), row=row),),
            answer=string.ascii_uppercase[answer],
            facts={"options": options},
        )


def read_science_table(folder: Folder, *, name: str, cot: bool) -> Iterator[Sample]:
    for row in folder.table(name):
        options = row.options()
        hint = row.text("hint") if row.filled("hint") else ""
        yield Sample(
            id=str(row["index"]),
            prompt=science_prompt(hint, str(row["question"]), options, cot=cot),
            pictures=row.pictures(),
            answer=row.text("answer"),
            facts={"options": options, **facts_of(row, *FACTS)},
        )


def read_m3cot(folder: Folder, *, cot: bool) -> Iterator[Sample]:
    """The parquet files of the hub, those rows that have a picture."""
    for row in folder.parquet("M3CoT/data/test-*.parquet"):
        pictures = row.pictures("image")
        if not pictures:
            continue
        options = by_letter(row.items_of("choices"))
        hint = str(row.get("context") or "")
        yield Sample(
            id=row.text("id"),
            prompt=science_prompt(hint, row.text("question"), options, cot=cot),
            pictures=pictures,
            answer=row.text("answer"),
            facts={"options": options, **facts_of(row, "domain", "topic")},
        )


def facts_of(row: Row, *names: str) -> dict[str, str]:
    return {name: str(row[name]) for name in names if row.filled(name)}


def mark_science(sample: Sample, answer: str, *, compat: Compat, cot: bool) -> Mark:
    said = cot_answer(answer).strip() if cot else answer
    return against(sample, letter(said, sample.facts["options"], compat=compat, bracketed=True))


def science(
    name: str, title: str, paper: str, *sources: Source, cot: bool, published: tuple[Published, ...]
) -> Benchmark:
    return Benchmark(
        name=name + ("-cot" if cot else ""),
        title=title + (", thinking first" if cot else ""),
        paper=paper,
        group="reasoning",
        sources=sources,
        mark=partial(mark_science, cot=cot),
        summarise=mean_score(by=("category", "domain", "topic")),
        settings=Settings(max_new_tokens=4096 if cot else 100),
        published=published,
        note="The questions that have a picture.",
    )


def scienceqa(cot: bool) -> Benchmark:
    lines = "scienceqa/scienceqa_test_img.jsonl"
    table = table_file("ScienceQA_TEST", "e42e9e00f9c59a80d8a5db35bc32b71f", at="benchmarks/ScienceQA")
    hint = "ofasys-wlcb.oss-cn-wulanchabu.aliyuncs.com/Qwen-VL/evaluation/" + lines
    published = (
        version_1_5("accuracy", 94.05),
        Published("InternVL-Chat-V1-2-Plus", 98.07, "accuracy", "InternVL 1.2 documentation, evaluation"),
    )
    return science(
        "scienceqa",
        "ScienceQA, test",
        "arXiv:2209.09513",
        Source("original", (File(lines, hint=hint),), partial(read_lines, name=lines, cot=cot)),
        Source("vlmevalkit", (table,), partial(read_science_table, name=table.path, cot=cot)),
        cot=cot,
        published=() if cot else published,
    )


def m3cot(cot: bool) -> Benchmark:
    lines, hub = "M3CoT/test.jsonl", "M3CoT/data/test-*.parquet"
    return science(
        "m3cot",
        "M3CoT, test",
        "arXiv:2405.16473",
        Source("original", (File(lines, hint=M3COT),), partial(read_lines, name=lines, cot=cot)),
        Source("huggingface", (File(hub, hint=M3COT),), partial(read_m3cot, cot=cot)),
        cot=cot,
        published=(Published("InternVL2-8B-MPO", 79.2, "accuracy", MPO),)
        if cot
        else (Published("InternVL2-8B", 59.3, "accuracy", MPO),),
    )


M3COT = "huggingface.co/datasets/LightChen2333/M3CoT"

# ---- PuzzleVQA -------------------------------------------------------------------------------------------------------

PUZZLE = (
    "Solve the multiple-choice question and then answer with the option letter from the given choices. The last line "
    "of your response should be of the following format:'Answer: $LETTER' (without quotes) where LETTER is one of "
    "options. Think step by step before answering."
)


def read_puzzles(folder: Folder) -> Iterator[Sample]:
    for row in folder.table("PuzzleVQA.tsv"):
        options = row.items_of("options")
        listed = "\n".join(f"({key}) {text}" for key, text in by_letter(options).items())
        yield Sample(
            id=str(row["index"]),
            prompt=f"{row.text('question')}\nOptions:\n{listed}\n{PUZZLE}",
            pictures=row.pictures(),
            answer=str(row["answer"]),
            facts={"options": options, **facts_of(row, "category")},
        )


def mark_puzzle(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat  # the original code base did not have it
    return Mark(float(puzzlevqa_match(answer, sample.answer, sample.facts["options"], strict=True)))


PUZZLES = Benchmark(
    name="puzzlevqa",
    title="PuzzleVQA",
    paper="arXiv:2403.13315",
    group="reasoning",
    sources=(Source("vlmevalkit", (table_file("PuzzleVQA", "6a4a40bd8967db728c06202e8265a49b"),), read_puzzles),),
    mark=mark_puzzle,
    summarise=mean_score(by=("category",)),
    settings=Settings(max_new_tokens=4096),
    note='An answer without "Answer:" and a letter is wrong.',
)

TASKS: tuple[Benchmark, ...] = (scienceqa(False), scienceqa(True), m3cot(False), m3cot(True), PUZZLES)

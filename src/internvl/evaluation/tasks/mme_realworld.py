"""MME-RealWorld: large pictures, five options, of which the last says that the others are wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

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
from internvl.evaluation.rows import Row
from internvl.metrics.choices import realworld_letter

LISTED, LISTED_ZH = "The choices are listed below:", "选项如下所示:"
INSTRUCTION = (
    "Select the best answer to the above multiple-choice question based on the image. "
    "Respond with only the letter (A, B, C, D, or E) of the correct option. \nThe best answer is:"
)
INSTRUCTION_ZH = "根据图像选择上述多项选择题的最佳答案。只需回答正确选项的字母（A, B, C, D 或 E）。\n最佳答案为："
INSTRUCTION_BROKEN = INSTRUCTION.replace("image. Respond", f"image. {' ' * 12}Respond")
"""As the original wrote it: a line was continued inside the text, with its indentation."""


def read_table(folder: Folder, *, name: str, chinese: bool) -> Iterator[Sample]:
    """A table. `multi-choice options` is a list, or what VLMEvalKit makes of it: one text that begins with a line."""
    for row in folder.table(name):
        written = row.text("multi-choice options")
        listed = written.startswith((LISTED, LISTED_ZH))
        options = written.split("\n")[1:] if listed else row.items_of("multi-choice options")
        subtask = row.text("category").split("/")
        sample = _sample(row, row.text("question"), options, chinese=chinese)
        facts = {**sample.facts, "task": subtask[0], "subtask": subtask[-1], "category": row.text("l2-category")}
        yield replace(sample, id=str(row["index"]), pictures=row.pictures(), answer=row.text("answer"), facts=facts)


def read_json(folder: Folder, *, swapped: bool = False) -> Iterator[Sample]:
    """The authors' JSON, as the original repository lays it out."""
    home = "InternVL-Domain-Adaptation-Data/MME-RealWorld"
    for row in folder.json_rows(f"{home}/val/MME_RealWorld.json"):
        sample = _sample(row, row.text("Text"), row.items_of("Answer choices"), chinese=False, swapped=swapped)
        facts = {
            key: row.text(name) for key, name in (("task", "Task"), ("subtask", "Subtask"), ("category", "Category"))
        }
        yield replace(
            sample,
            id=str(row["Question_id"]),
            pictures=(folder.picture(f"{home}/images/MME-RealWorld/data/{row.text('Image')}", row=row),),
            answer=row.text("Ground truth"),
            facts={**sample.facts, **facts},
        )


def _sample(row: Row, question: str, options: Sequence[str], *, chinese: bool, swapped: bool = False) -> Sample:
    """swapped: the original's prompt: the Chinese line before the options of an English question, without a space."""
    for option in options:
        if not (len(option) > 3 and option[0] == "(" and option[2] == ")"):
            raise row.wrong("Answer choices" if "Answer choices" in row else "multi-choice options", "(A) text, ...")
    opening = LISTED_ZH if chinese or swapped else LISTED
    closing = INSTRUCTION_BROKEN if swapped else INSTRUCTION_ZH if chinese else INSTRUCTION
    lines = [f"{question}{'' if swapped else ' '}{opening}", *options, closing]
    return Sample(id="", prompt="\n".join(lines), facts={"options": {option[1]: option[4:] for option in options}})


def mark(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    parsed = realworld_letter(answer, sample.facts["options"], compat=compat)
    return Mark(float(parsed == sample.answer), parsed)


def summarise(rows: Sequence[Marked]) -> Scores:
    """The mean over all questions, and by task and subtask: `Perception / Monitoring`."""
    scores = mean_score(by=("task", "subtask"))(rows)
    members: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        members[f"{row.sample.facts['task']} / {row.sample.facts['subtask']}"].append(row.mark.score or 0.0)
    both = {key: 100 * sum(found) / len(found) for key, found in sorted(members.items())}
    return replace(scores, groups={**scores.groups, "task / subtask": both})


JSON_FILES = (
    File(
        "InternVL-Domain-Adaptation-Data/MME-RealWorld/val/MME_RealWorld.json",
        hint="https://huggingface.co/datasets/OpenGVLab/InternVL-Domain-Adaptation-Data",
    ),
    File("InternVL-Domain-Adaptation-Data/MME-RealWorld/images", hint="the pictures of the same data set"),
)
PAPER = "arXiv:2408.13257"
BASE64 = "https://huggingface.co/datasets/yifanzhang114/MME-RealWorld-Base64"


def _table(name: str, *, chinese: bool) -> Source:
    hint = f"the table that VLMEvalKit makes of {BASE64}"
    return Source(
        "vlmevalkit", (File(f"{name}.tsv", hint=hint),), partial(read_table, name=f"{name}.tsv", chinese=chinese)
    )


def _benchmark(name: str, title: str, *sources: Source, tiles: int = 12, note: str = "") -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        paper=PAPER,
        group="general",
        sources=sources,
        mark=mark,
        summarise=summarise,
        settings=Settings(max_new_tokens=100, max_tiles=tiles),
        note=note,
    )


TASKS: tuple[Benchmark, ...] = (
    _benchmark(
        "mme-realworld",
        "MME-RealWorld",
        _table("MME-RealWorld", chinese=False),
        Source("original", JSON_FILES, read_json),
    ),
    _benchmark("mme-realworld-cn", "MME-RealWorld CN", _table("MME-RealWorld-CN", chinese=True)),
    _benchmark("mme-realworld-lite", "MME-RealWorld Lite", _table("MME-RealWorld-Lite", chinese=False)),
    _benchmark(
        "mme\N{EM DASH}realworld",
        "MME-RealWorld, as the original asked it",
        Source("original", JSON_FILES, partial(read_json, swapped=True)),
        tiles=6,
        note="The original's key and prompt: a Chinese line before the options of English questions, and twelve spaces "
        "inside the instruction",
    ),
)

"""Mathematics with pictures, of all kinds: MathVista and MATH-Vision, whose final answers a judge may have to find."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Judging,
    Mark,
    Marked,
    Published,
    Sample,
    Scores,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.choice import table_file
from internvl.evaluation.tasks.instructions import COT
from internvl.evaluation.tasks.published import MPO, version_1_5, version_2, version_2_5, version_2_later
from internvl.metrics.mathematics import (
    Kind,
    by_letter,
    extracted_match,
    mathvision_answer,
    mathvision_match,
    mathvista_extract,
    mathvista_normalise,
)

LONG = Settings(max_new_tokens=4096, together=64)
"""As VLMEvalKit asks: several pictures have six tiles each, while together they have no more than 64."""

# ---- asking a judge for the final answer -----------------------------------------------------------------------------

EXTRACT = """\
Below are a question and what a model wrote about it. Write only the final answer that the model gives, in the form \
that the question asks for: a number without its unit, a list in square brackets, or the letter of the option. Do not \
solve the question yourself. If there is no final answer, write: none

Question: How many apples are on the plate? Give a whole number.
Written: I count three red and two green ones, so there are five apples.
Final answer: 5

Question: Which share is shaded? (A) 1/4 (B) 1/3 (C) 1/2
Written: Two of four parts are shaded. That is one half.
Final answer: C

Question: Between which years did sales fall?
Written: They fell from 2011 to 2012.
Final answer: [2011, 2012]

Question: {question}
Written: {answer}
Final answer:"""


def ask_for_answer(sample: Sample, answer: str) -> str:
    """The question as the model read it, but for the instruction to think first."""
    return filled(EXTRACT, question=str(sample.facts.get("question", sample.prompt)), answer=answer)


def filled(template: str, **values: str) -> str:
    """Each `{name}` with its value; braces in a value are text."""
    return re.sub(r"\{([a-z]+)\}", lambda found: values.get(found[1], found[0]), template)


def said_by_judge(verdict: str) -> str:
    lines = verdict.strip().removeprefix("Final answer:").strip().splitlines()
    return lines[0].strip() if lines else ""


# ---- MathVista -------------------------------------------------------------------------------------------------------

METADATA = ("question_type", "answer_type", "language", "source", "category", "task", "context", "grade")


def read_mathvista(folder: Folder, *, split: str, cot: bool) -> Iterator[Sample]:
    for row in folder.parquet(f"MathVista/data/{split}-*.parquet"):
        about: Any = row["metadata"]
        if not isinstance(about, Mapping):
            raise row.wrong("metadata", "an object")
        yield mathvista_sample(row, row.text("query"), cast("Mapping[str, Any]", about), "decoded_image", cot=cot)


def read_mathvista_table(folder: Folder, *, cot: bool) -> Iterator[Sample]:
    for row in folder.table("MathVista_MINI.tsv"):
        yield mathvista_sample(row, row.text("question"), row, None, cot=cot)


def mathvista_sample(row: Row, query: str, about: Mapping[str, Any], image: str | None, *, cot: bool) -> Sample:
    facts: dict[str, Any] = {key: str(about[key]) for key in METADATA if about.get(key) not in (None, "")}
    facts |= {key: row.text(key) for key in ("question_type", "answer_type")}
    skills = about.get("skills")
    facts["skills"] = (row.items_of("skills") if isinstance(skills, str) else list(skills)) if skills else []
    choices = row.items_of("choices") if row.filled("choices") else []
    precision = row.number("precision") if row.filled("precision") else None
    truth = str(row["answer"]) if row.filled("answer") else None
    return Sample(
        id=str(row["pid"] if "pid" in row else row["index"]),
        prompt=COT.format(question=query) if cot else query,
        pictures=row.pictures(image) if image else row.pictures(),
        answer=truth,
        facts={**facts, "question": query, "choices": choices, "precision": precision},
    )


def marked_mathvista(sample: Sample, extracted: str) -> Mark:
    facts = sample.facts
    precision = facts["precision"]
    if precision is None and facts["answer_type"] == "float" and sample.answer:
        precision = len(sample.answer.partition(".")[2])  # VLMEvalKit's table may leave it out
    normalised = mathvista_normalise(
        extracted,
        choices=facts["choices"],
        question_type=facts["question_type"],
        answer_type=facts["answer_type"],
        precision=precision,
    )
    return Mark(None if sample.answer is None else float(normalised == sample.answer), extracted)


def mark_mathvista(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Extraction by rule, as the original had it after the instruction to think first."""
    del compat  # both are the same
    kinds = {key: sample.facts[key] for key in ("question_type", "answer_type", "choices")}
    return marked_mathvista(sample, mathvista_extract(answer, **kinds) or "")


def parse_mathvista(sample: Sample, verdict: str) -> Mark:
    return marked_mathvista(sample, said_by_judge(verdict))


def score_mathvista(rows: Sequence[Marked]) -> Scores:
    """The mean, and by every kind of metadata; a question of several skills counts for each."""
    scores = mean_score(by=METADATA)(rows)
    if scores.withheld:
        return scores
    skills: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for skill in row.sample.facts["skills"]:
            skills[str(skill)].append(row.mark.score or 0.0)
    means = {skill: 100 * sum(found) / len(found) for skill, found in sorted(skills.items())}
    return replace(scores, groups={**scores.groups, **({"skills": means} if means else {})})


def submit_mathvista(rows: Sequence[Marked]) -> bytes:
    """The file that the authors' scripts score: {pid: {response, extraction}}."""
    said = {row.sample.id: {"response": row.answer, "extraction": row.mark.parsed} for row in rows}
    return json.dumps(said, indent=4, ensure_ascii=False).encode()


TESTMINI = (
    *version_2("accuracy", 37.7, 46.4, 58.7, 58.3, 59.4, 63.7, 65.5),
    version_1_5("accuracy", 53.5),
    Published("InternVL-Chat-V1-2-Plus", 59.7, "accuracy", "InternVL 1.2 documentation, evaluation"),
    *version_2_5("accuracy", {"1B": 43.2, "2B": 51.3, "8B": 64.4, "78B": 72.3}),
)


def mathvista(split: str, *, cot: bool, published: tuple[Published, ...] = ()) -> Benchmark:
    table = table_file("MathVista_MINI", "f199b98e178e5a2a20e7048f5dcb0464")
    at = f"MathVista/data/{split}-*.parquet"
    hub = (File(at, hint="huggingface.co/datasets/AI4Math/MathVista"),)
    tables = (Source("vlmevalkit", (table,), partial(read_mathvista_table, cot=cot)),) if split == "testmini" else ()
    return Benchmark(
        name=f"mathvista-{split}" + ("-cot" if cot else ""),
        title=f"MathVista, {split}" + (", thinking first" if cot else ""),
        paper="arXiv:2310.02255",
        group="reasoning",
        sources=(Source("huggingface", hub, partial(read_mathvista, split=split, cot=cot)), *tables),
        mark=mark_mathvista,
        summarise=score_mathvista,
        settings=LONG,
        judging=None
        if cot
        else Judging(
            version="mathvista-1",
            prompt=ask_for_answer,
            parse=parse_mathvista,
            published="GPT-4-0613 in the original's documentation",
            max_new_tokens=256,
        ),
        submission=("mathvista_test.json", submit_mathvista) if split == "test" else None,
        published=published,
        note="The answer follows `Final answer:` and is found by rule."
        if cot
        else "The prompt for the judge is this project's own, shorter than the authors'.",
    )


# ---- MATH-Vision -----------------------------------------------------------------------------------------------------

BOXED = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a multiple choice '
    'question, only one letter is allowed in the "\\boxed{}".\n'
)


def read_mathvision(folder: Folder, *, split: str) -> Iterator[Sample]:
    """The lines of the authors' repository; the options are written out unless they are the bare letters."""
    for row in folder.jsonl(f"MATH-V/data/{split}.jsonl"):
        options = row.items_of("options")
        listed = "" if "".join(options) == "ABCDE" else "".join(f"({k}) {v}\n" for k, v in by_letter(options).items())
        question = f"{row.text('question')}\n{listed}"
        yield Sample(
            id=str(row["id"]),
            prompt=BOXED + question,
            pictures=(folder.picture(f"MATH-V/{row.text('image')}", row=row),),
            answer=str(row["answer"]),
            facts={
                "question": question, "options": options, "subject": row.text("subject"), "level": str(row["level"]),
            },
        )  # fmt: skip


def read_mathvision_table(folder: Folder, *, name: str) -> Iterator[Sample]:
    for row in folder.table(name):
        facts = {key: str(row[key]) for key in ("subject", "level") if row.filled(key)}
        if row.filled("category"):
            facts["subject"] = str(row["category"])
        yield Sample(
            id=str(row["index"]),
            prompt=row.text("question"),
            pictures=row.pictures(),
            answer=str(row["answer"]),
            facts={**facts, "options": row.items_of("choices") if row.filled("choices") else []},
        )


def mark_mathvision(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """The authors' scorer, which needs no judge."""
    del compat  # the original code base did not have it
    right = mathvision_match(answer, sample.answer, sample.facts["options"])
    return Mark(float(right), mathvision_answer(answer))


def parse_mathvision(sample: Sample, verdict: str) -> Mark:
    options: Sequence[str] = sample.facts["options"]
    kind: Kind = "choice" if options else "text"
    said = said_by_judge(verdict)
    return Mark(float(extracted_match(said, sample.answer, kind, options)), said)


def mathvision(name: str, *, judged: bool, published: tuple[Published, ...] = ()) -> Benchmark:
    split, table, md5 = {
        "mathvision": ("test", "MathVision", "93f6de14f7916e598aa1b7165589831e"),
        "mathvision-mini": ("testmini", "MathVision_MINI", "060fe4fa5d868987ce179307bd5f8a33"),
    }[name]
    lines = File(f"MATH-V/data/{split}.jsonl", hint="github.com/mathllm/MATH-V")
    pictures = File("MATH-V/images", hint="github.com/mathllm/MATH-V")
    file = table_file(table, md5)
    return Benchmark(
        name=name + ("-judged" if judged else ""),
        title=f"MATH-Vision, {split}" + (", judged" if judged else ""),
        paper="arXiv:2402.14804",
        group="reasoning",
        sources=(
            Source("original", (lines, pictures), partial(read_mathvision, split=split)),
            Source("vlmevalkit", (file,), partial(read_mathvision_table, name=file.path)),
        ),
        mark=mark_mathvision,
        summarise=mean_score(by=("subject", "level")),
        settings=LONG,
        judging=Judging(
            version="mathvision-1",
            prompt=ask_for_answer,
            parse=parse_mathvision,
            published="a GPT-4 of VLMEvalKit's choice",
            max_new_tokens=128,
        )
        if judged
        else None,
        published=published,
        note="Published scores have VLMEvalKit's table and judge; the prompt for the judge here is this project's own."
        if judged
        else "The authors' rule. `-judged` is nearer to what the published scores of the family were made with.",
    )


MATHVISION = (
    *version_2_later("accuracy", {"1B": 11.1, "2B": 12.1, "8B": 18.4}),
    *version_2_5("accuracy", {"1B": 14.4, "2B": 14.7, "8B": 19.7, "78B": 32.2}),
)
MATHVISION_MINI = (
    *version_2_later("accuracy", {"1B": 12.2, "2B": 15.8, "8B": 20.4}),
    Published("InternVL2-8B-MPO", 25.7, "accuracy", MPO),
    *version_2_5("accuracy", {"1B": 16.8, "2B": 13.5, "8B": 22.0, "78B": 34.9}),
)

TASKS: tuple[Benchmark, ...] = (
    mathvista("testmini", cot=False, published=TESTMINI),
    mathvista("testmini", cot=True, published=(Published("InternVL2-8B-MPO", 67.0, "accuracy", MPO),)),
    mathvista("test", cot=False),
    mathvista("test", cot=True),
    mathvision("mathvision", judged=False),
    mathvision("mathvision", judged=True, published=MATHVISION),
    mathvision("mathvision-mini", judged=False),
    mathvision("mathvision-mini", judged=True, published=MATHVISION_MINI),
)

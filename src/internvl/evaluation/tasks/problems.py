"""Problems of mathematics and physics with pictures: MathVerse, DynaMath and OlympiadBench."""

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
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.choice import table_file
from internvl.evaluation.tasks.instructions import numbered
from internvl.evaluation.tasks.mathematics import LONG, filled
from internvl.evaluation.tasks.published import version_2_5, version_2_later
from internvl.metrics.mathematics import cot_answer, dynamath_answer, dynamath_match, extracted_match
from internvl.metrics.olympiad import olympiad_answer, olympiad_match

# ---- MathVerse -------------------------------------------------------------------------------------------------------

COMPARE = """\
Below are a question, its true answer, and what a model wrote. Find the final answer that the model gives; do not \
solve the question yourself. Then say whether it is the same as the true answer. It is the same only if it agrees \
completely; another form of the same value, 0.5 m for 50 cm, agrees. An option counts by its letter, or by its whole \
text. Without a final answer it is not the same.

Write two lines, and nothing else:
Extracted: the final answer of the model
Judgement: 1 if it is the same, 0 if not

Question: {question}
True answer: {truth}
Written: {answer}
"""


def ask_to_compare(sample: Sample, answer: str) -> str:
    return filled(COMPARE, question=str(sample.facts["question"]), truth=str(sample.answer), answer=answer)


def parse_comparison(sample: Sample, verdict: str) -> Mark:
    del sample
    judged: list[str] = re.findall(r"Judge?ment:\s*([01])\b", verdict)
    extracted = re.search(r"Extracted:\s*(.*)", verdict)
    return Mark(float(judged[-1]) if judged else None, extracted[1].strip() if extracted else None)


def mark_by_rule(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """The fallback: the text after "Answer:" or in a box must be the truth, as a letter, text or formula."""
    del compat
    boxed = re.findall(r"\\boxed\{(.*)\}", answer)
    said = boxed[-1] if boxed else cot_answer(answer).strip()
    if sample.facts.get("question_type") == "multi-choice":
        found = re.match(r"\(?([A-F])\b", said)
        return Mark(float(found is not None and found[1] == sample.answer), found[1] if found else None)
    return Mark(float(extracted_match(said.strip("$. "), sample.answer, "text")), said)


def read_mathverse(folder: Folder, *, cot: bool) -> Iterator[Sample]:
    for row in folder.json_rows("MathVerse/testmini.json"):
        metadata: Any = row["metadata"]
        if not isinstance(metadata, Mapping):
            raise row.wrong("metadata", "an object")
        picture = folder.picture(f"MathVerse/images/{row.text('image')}", row=row)
        sample = mathverse_sample(row, cast("Mapping[str, Any]", metadata), "query_cot" if cot else "query_wo")
        yield replace(sample, pictures=(picture,))


def read_mathverse_table(folder: Folder, *, cot: bool) -> Iterator[Sample]:
    for row in folder.table("MathVerse_MINIV.tsv"):
        try:  # written as Python prints it
            metadata: Any = json.loads(row.text("metadata").replace("'", '"'))
        except (ValueError, RecursionError):
            metadata = None
        if not isinstance(metadata, Mapping):
            raise row.wrong("metadata", "an object")
        sample = mathverse_sample(row, cast("Mapping[str, Any]", metadata), "query_cot" if cot else "question")
        yield replace(sample, pictures=row.pictures())


def mathverse_sample(row: Row, metadata: Mapping[str, Any], key: str) -> Sample:
    """key: the column that is asked. VLMEvalKit's InternVL wrapper takes the wish for a direct answer out of it."""
    facts = {name: str(metadata[name]) for name in ("subject", "subfield") if name in metadata}
    question = row["question_for_eval"] if row.filled("question_for_eval") else row["question"]
    return Sample(
        id=str(row["sample_index"] if row.filled("sample_index") else row["index"]),
        prompt=row.text(key).replace("please directly answer the question and", "please"),
        answer=str(row["answer"]),
        facts={
            **facts,
            "problem_version": row.text("problem_version"),
            "question_type": row.text("question_type"),
            "question": question,
        },
    )


def mathverse(*, cot: bool, published: tuple[Published, ...] = ()) -> Benchmark:
    lines = File("MathVerse/testmini.json", hint=MATHVERSE)
    table = table_file("MathVerse_MINIV", "5017caca32b7fa110c350a1bea861b65", at="benchmarks/MathVerse")
    return Benchmark(
        name="mathverse" + ("-cot" if cot else ""),
        title="MathVerse, testmini" + (", thinking first" if cot else ""),
        paper="arXiv:2403.14624",
        group="reasoning",
        sources=(
            Source("original", (lines, File("MathVerse/images", hint=MATHVERSE)), partial(read_mathverse, cot=cot)),
            Source("vlmevalkit", (table,), partial(read_mathverse_table, cot=cot)),
        ),
        mark=mark_by_rule,
        summarise=mean_score(by=("problem_version", "subject", "subfield", "question_type")),
        settings=LONG,
        judging=Judging(
            version="mathverse-1",
            prompt=ask_to_compare,
            parse=parse_comparison,
            published="a GPT-4 of VLMEvalKit's choice",
            max_new_tokens=256,
        ),
        published=published,
        note="The judge finds the answer and compares it in one go, by this project's own prompt; the authors ask "
        "twice.",
    )


MATHVERSE = "huggingface.co/datasets/AI4Math/MathVerse"

# ---- DynaMath --------------------------------------------------------------------------------------------------------

GUIDE = (
    "\n## Answer Instruction Please provide an answer to the question outlined above. Your response should adhere to "
    "the following JSON format, which includes two keys: 'solution' and 'short answer'. The 'solution' key can contain "
    "detailed steps needed to solve the question, and the 'short answer' key should provide a concise response. "
)
FORM = {"solution": "[Detailed step-by-step explanation]", "short answer": "[Concise Answer]"}
WISHES = {
    "multiple choice": "Provide the corresponing choice option in the 'short answer' key, such as 'A', 'B', 'C', or "
    "'D'.",
    "float": "Format the answer as a three-digit floating-point number and provide it in the 'short answer' key.",
    "text": "Float numbers in the answer should be formatted as three-digit floating-point numbers.",
}
"""The published words, misspelling included."""


def dynamath_prompt(question: str, answer_type: str) -> str:
    wish, form = WISHES.get(answer_type, WISHES["text"]), json.dumps(FORM, indent=4)
    return f"## Question\n {question}{GUIDE}{wish}\n\nExample of expected JSON response format:\n\n{form}"


def read_dynamath(folder: Folder) -> Iterator[Sample]:
    for row in folder.table("DynaMath.tsv"):
        kind = row.text("answer_type")
        yield Sample(
            id=str(row["index"]),
            prompt=dynamath_prompt(row.text("question"), kind),
            pictures=row.pictures(),
            answer=str(row["answer"]),
            facts={"answer_type": kind, "qid": str(row["qid"]), "varid": str(row["varid"])}
            | {key: str(row[key]) for key in ("subject", "knowledge_level") if row.filled(key)},
        )


def mark_dynamath(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat  # the original code base did not have it
    kind = sample.facts["answer_type"]
    found = dynamath_answer(answer, kind)
    return Mark(float(dynamath_match(answer, sample.answer, kind)), None if found is None else str(found))


def score_dynamath(rows: Sequence[Marked]) -> Scores:
    """The average over all variants, and the worst case: a question is right if all its variants are."""
    average = mean_score("average", by=("subject", "knowledge_level"))(rows)
    if average.withheld:
        return average
    variants: dict[str, list[Marked]] = defaultdict(list)
    for row in rows:
        variants[str(row.sample.facts["qid"])].append(row)
    worst = [
        replace(found[0], mark=Mark(min(row.mark.score or 0.0 for row in found))) for found in variants.values()
    ]  # fmt: skip
    least = mean_score("worst", by=("subject", "knowledge_level"))(worst)
    groups = {**average.groups, **{f"{fact}, worst": found for fact, found in least.groups.items()}}
    return Scores(values={**average.values, **least.values}, groups=groups, means=average.means)


DYNAMATH = Benchmark(
    name="dynamath",
    title="DynaMath",
    paper="arXiv:2411.00836",
    group="reasoning",
    sources=(Source("vlmevalkit", (table_file("DynaMath", "b8425ad9a7114571fc9366e013699494"),), read_dynamath),),
    mark=mark_dynamath,
    summarise=score_dynamath,
    settings=LONG,
    note="501 questions in ten variants. What is not in the form that was asked for counts as wrong; the authors let a "
    "language model read it.",
)

# ---- OlympiadBench ---------------------------------------------------------------------------------------------------

PARTS = tuple(
    f"OE_{modality}_{field}"
    for modality in ("MM", "TO")
    for field in ("maths_en_COMP", "maths_zh_CEE", "maths_zh_COMP", "physics_en_COMP", "physics_zh_CEE")
)
"""Open-ended problems, multimodal or text only; theorems to be proved cannot be scored."""
KINDS = {"Numerical": ("a numerical value", "数值"), "Expression": ("an expression", "表达式")} | {
    "Equation": ("an equation", "方程"),
    "Interval": ("an interval", "区间"),
}


def read_olympiad(folder: Folder, *, plain: bool) -> Iterator[Sample]:
    for part in PARTS:
        for row in folder.parquet(f"OlympiadBench/{part}/*.parquet"):
            yield olympiad_sample(row, part, f"{part}-{row['id']}", plain=plain)


def read_olympiad_table(folder: Folder, *, plain: bool) -> Iterator[Sample]:
    for row in folder.table("OlympiadBench.tsv"):
        yield olympiad_sample(row, row.text("source"), str(row["index"]), plain=plain)


def olympiad_sample(row: Row, part: str, identifier: str, *, plain: bool) -> Sample:
    question = row.text("question")
    if not plain:
        about = [row.text("context")] if "physics" in part and row.filled("context") else []
        question = "\n".join([olympiad_instruction(row, part), *about, question])
    pictures = row.pictures()
    subject, language, _ = part.split("_")[2:]
    return Sample(
        id=identifier,
        prompt=numbered(len(pictures)) + question,
        pictures=pictures,
        answer=",".join(row.items_of("final_answer")),
        facts={
            "tolerances": [float(part) if part.strip() else 1e-8 for part in str(row["error"]).split(",")]
            if row.filled("error")
            else [],
            "chinese": "zh" in part,
            "part": part,
            "subject": subject,
            "language": language,
        },
    )


def olympiad_instruction(row: Row, part: str) -> str:
    """What the authors put before a problem: the field, the kind of the answer, how it must be given."""
    chinese, multiple = "zh" in part, str(row["is_multiple_answer"]) == "True"
    kind, unit = kind_of_answer(row, chinese, multiple), row.filled("unit")
    if chinese:
        field = "数学" if "maths" in part else "物理"
        box = "\\boxed{用英文逗号连接的多个答案}" if multiple else "\\boxed{答案}"
        box, last = (box + "(单位)", "，注意答案的单位不要放在\\boxed{}中") if unit else (box, "")
        return (
            f"以下是中国{field}竞赛中的解答题{kind}。请根据题目的要求和所提供的信息计算得出答案。解答过程和结果中使用的变量和"
            f'公式请使用LaTeX格式表示。请在最后以"所以最终答案是{box}。"显式给出结果{last}。'
        )
    field = "Math" if "maths" in part else "Physics"
    box = "\\boxed{multiple answers connected with commas}" if multiple else "\\boxed{answer}"
    last = ""
    if unit:
        box, last = box + "(unit)", ", note that the unit of the answer should not be included in \\boxed{}"
    return (
        f"The following is an open-ended problem from an International {field} competition. {kind}Please calculate the "
        "answer according to the given requirements and the information provided. Please use LaTeX format to represent "
        f'the variables and formulas used in the solution process and results. Please end your solution with "So the '
        f'final answer is {box}." and give the result explicitly{last}.'
    )


def kind_of_answer(row: Row, chinese: bool, multiple: bool) -> str:
    """Nothing is said of tuples and of what a person must judge."""
    said = row.text("answer_type") if row.filled("answer_type") else "Tuple"
    if "Tuple" in said or "Need_human_evaluate" in said:
        return ""
    found: list[str] = []
    for part in said.split(",") if multiple else [said]:
        name = next((name for name in KINDS if name in part.partition("-")[0]), None)
        if name is None:
            raise row.wrong("answer_type", " or ".join(KINDS))
        found.append(KINDS[name][chinese])
    if not multiple:
        return f"，答案类型为{found[0]}" if chinese else f"The answer of The problem should be {found[0]}. "
    if len(set(found)) == 1:
        if chinese:
            return f"，题目有多个答案，答案类型均为{found[0]}"
        return f"The problem has multiple answers, each of them should be {found[0]}. "
    if chinese:
        return f"，题目有多个答案，答案类型分别为{'、'.join(found)}"
    return f"The problem has multiple answers, with the answers in order being {', '.join(found)}. "


def mark_olympiad(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat  # the original code base did not have it
    chinese = bool(sample.facts["chinese"])
    right = olympiad_match(answer, sample.answer, tolerances=sample.facts["tolerances"], chinese=chinese)
    return Mark(float(right), olympiad_answer(answer, chinese=chinese))


def olympiad(*, plain: bool, published: tuple[Published, ...] = ()) -> Benchmark:
    hint = "huggingface.co/datasets/Hothan/OlympiadBench"
    hub = tuple(File(f"OlympiadBench/{part}/*.parquet", hint=hint) for part in PARTS)
    table = table_file("OlympiadBench", "9735ae0f0299eae1e7d07f5a7feab914")
    return Benchmark(
        name="olympiadbench" + ("-plain" if plain else ""),
        title="OlympiadBench" + (", the question alone" if plain else ""),
        paper="arXiv:2402.14008",
        group="reasoning",
        sources=(
            Source("huggingface", hub, partial(read_olympiad, plain=plain)),
            Source("vlmevalkit", (table,), partial(read_olympiad_table, plain=plain)),
        ),
        mark=mark_olympiad,
        summarise=mean_score(by=("part", "subject", "language")),
        settings=LONG,
        published=published,
        note="VLMEvalKit's InternVL wrapper asks the question without the authors' instruction."
        if plain
        else "With the authors' instruction; published scores of the family are under `olympiadbench-plain`.",
    )


TASKS: tuple[Benchmark, ...] = (
    mathverse(
        cot=False,
        published=(
            *version_2_later("accuracy", {"1B": 18.4, "2B": 25.3, "8B": 37.0}),
            *version_2_5("accuracy", {"1B": 28.0, "2B": 30.6, "8B": 39.5, "78B": 51.7}),
        ),
    ),
    mathverse(cot=True),
    DYNAMATH,
    olympiad(plain=False),
    olympiad(
        plain=True,
        published=(
            *version_2_later("accuracy", {"1B": 0.3, "2B": 0.4, "8B": 1.9}),
            *version_2_5("accuracy", {"1B": 1.7, "2B": 2.0, "8B": 4.9, "78B": 11.6}),
        ),
    ),
)

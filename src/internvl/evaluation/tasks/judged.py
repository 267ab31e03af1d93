"""Open questions that a judge marks: MM-Vet in both versions, LLaVA-Bench in the wild."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

from internvl.errors import DataError
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
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.choice import table_file
from internvl.evaluation.tasks.judge_prompts import LLAVA_BENCH, MM_VET, MM_VET_V2
from internvl.evaluation.tasks.published import MPO, version_1_5, version_2

# ---- MM-Vet ----------------------------------------------------------------------------------------------------------

IN_DETAIL = "Answer this question in detail."


def read_mmvet(folder: Folder) -> Iterator[Sample]:
    """The original's questions, with truth and capabilities from the authors' `mm-vet.json`. A space ends the prompt,
    as there: it put an empty instruction behind it."""
    name = "mm-vet/mm-vet.json"
    known = Row(folder.json(name), name)
    for row in folder.jsonl("mm-vet/llava-mm-vet.jsonl", unique="question_id"):
        number = str(row["question_id"])
        number = number if number.startswith("v1_") else f"v1_{number}"
        about = Row(known[number], f"{name}, {number}")
        yield Sample(
            id=number,
            prompt=f"{row.text('text')} ",
            pictures=(folder.picture(f"mm-vet/images/{row.text('image')}", row=row),),
            answer=about.text("answer"),
            facts={"question": about.text("question"), "capabilities": about.items_of("capability")},
        )


def read_mmvet_table(folder: Folder, *, name: str) -> Iterator[Sample]:
    for row in folder.table(name):
        question = row.text("question")
        yield Sample(
            id=str(row["index"]),
            prompt=question,
            pictures=row.pictures(),
            answer=row.text("answer"),
            facts={"question": question, "capabilities": row.text("category").split(",")},
        )


def read_mmvet_v2(folder: Folder, *, first_only: bool = False) -> Iterator[Sample]:
    """Text and pictures in turn, `<IMG>` between them.

    first_only: the original's way, the text before the first picture and that picture alone.
    """
    name = "mm-vet-v2/mm-vet-v2.json"
    found = folder.json(name)
    for key in found if isinstance(found, dict) else ():
        row = Row(found[key], f"{name}, {key}")
        parts = row.text("question").split("<IMG>")
        if first_only:
            parts = parts[:2]
        is_picture = [part.lower().endswith((".jpg", ".jpeg", ".png")) for part in parts]
        names = [part for part, picture in zip(parts, is_picture, strict=True) if picture]
        if not names:
            raise DataError(f"{row.where}: `question` names no picture; expected text<IMG>picture.jpg<IMG>...")
        asked = [
            "<image>" if picture else part for part, picture in zip(parts, is_picture, strict=True) if part or picture
        ]
        if len(names) == 1:
            asked = [part for part in asked if part != "<image>"]  # one picture comes first, without a placeholder
        yield Sample(
            id=key,
            prompt=f"{''.join(asked)} {IN_DETAIL}",
            pictures=tuple(folder.picture(f"mm-vet-v2/images/{picture}", row=row) for picture in names),
            answer=row.text("answer"),
            facts={"question": row.text("question"), "capabilities": row.items_of("capability")},
        )


def mmvet_prompt(sample: Sample, answer: str) -> str:
    """The authors' table of examples with one more line, whose last cell the judge fills in."""
    return "\n".join((MM_VET, " | ".join((sample.facts["question"], _spaced(sample.answer), answer, ""))))


def mmvet_v2_prompt(sample: Sample, answer: str) -> str:
    """As `mmvet_prompt`; pictures are `<image>`, lines end with `<br>`."""
    parts = sample.facts["question"].split("<IMG>")
    asked = "".join("<image>" if part.endswith((".jpg", "jpeg", ".png")) else part for part in parts)
    cells = (cell.replace("\n", "<br>") for cell in (asked, _spaced(sample.answer), answer))
    return f"{MM_VET_V2}| {' | '.join((*cells, ''))}"


def _spaced(truth: str) -> str:
    return truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")


def mmvet_verdict(sample: Sample, verdict: str) -> Mark:
    """The first word, a number from 0 to 1."""
    del sample
    word = (verdict.split() or [""])[0]
    try:
        score = float(word)
    except ValueError:
        return Mark(None, word)
    return Mark(score if 0 <= score <= 1 else None, word)


def mmvet_by_rule(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """The stand-in for the judge: the share of the truth's `<AND>` parts that stand in the answer, best of `<OR>`."""
    del compat
    said = answer.lower()
    shares: list[float] = []
    for alternative in sample.answer.split("<OR>"):
        parts = [part.strip().lower() for part in alternative.split("<AND>")]
        shares.append(sum(part in said for part in parts) / len(parts))
    return Mark(max(shares))


def summarise_mmvet(rows: Sequence[Marked]) -> Scores:
    """The mean over all questions, and by each of the capabilities that they need."""
    members: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.mark.score is None:
            return Scores(values={}, withheld={"total": "an answer has no mark"})
        for name in ("total", *row.sample.facts["capabilities"]):
            members[name].append(row.mark.score)
    if not members:
        return Scores(values={}, withheld={"total": "there is no answer"})
    means = {name: 100 * sum(found) / len(found) for name, found in sorted(members.items())}
    return Scores(values={"total": means.pop("total")}, groups={"capability": means}, means={"total": 100.0})


def answers_by_id(rows: Sequence[Marked]) -> bytes:
    """What the authors' grading page takes."""
    return json.dumps({row.sample.id: row.answer for row in rows}).encode()


def _mmvet(
    name: str,
    title: str,
    paper: str,
    judging: Judging,
    *sources: Source,
    published: tuple[Published, ...] = (),
    note: str = "",
) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        paper=paper,
        group="general",
        sources=sources,
        mark=mmvet_by_rule,
        summarise=summarise_mmvet,
        settings=Settings(max_new_tokens=1000),
        judging=judging,
        submission=(f"{name}.json", answers_by_id),
        published=published,
        note=note,
    )


# The authors let it write 3 tokens, which is enough where "0.5" is three; other judges divide it otherwise.
JUDGE_V1 = Judging(
    version="MM-Vet v1, 1", prompt=mmvet_prompt, parse=mmvet_verdict, published="gpt-4-0613", max_new_tokens=16
)
JUDGE_V2 = Judging(
    version="MM-Vet v2, 1", prompt=mmvet_v2_prompt, parse=mmvet_verdict, published="gpt-4-0613", max_new_tokens=16
)
MMVET_TABLE = table_file("MMVet", "748aa6d4aa9d4de798306a63718455e3")
RELEASES = "https://github.com/yuweihao/MM-Vet/releases/download/"
V2_FILES = (
    File("mm-vet-v2/mm-vet-v2.json", hint=f"{RELEASES}v2/mm-vet-v2.zip"),
    File("mm-vet-v2/images", hint=f"{RELEASES}v2/mm-vet-v2.zip"),
)
MMVET = (
    _mmvet(
        "mmvet",
        "MM-Vet",
        "arXiv:2308.02490",
        JUDGE_V1,
        Source(
            "original",
            (
                File("mm-vet/llava-mm-vet.jsonl", hint="https://huggingface.co/OpenGVLab/InternVL"),
                File("mm-vet/mm-vet.json", hint=f"{RELEASES}v1/mm-vet.zip"),
                File("mm-vet/images", hint=f"{RELEASES}v1/mm-vet.zip"),
            ),
            read_mmvet,
        ),
        Source("vlmevalkit", (MMVET_TABLE,), partial(read_mmvet_table, name=MMVET_TABLE.path)),
        published=(*version_2("total", 37.8, 44.6, 55.7, 60.0, 64.2, 68.5, 69.8), version_1_5("total", 62.7)),
        note="Published scores are from the authors' grading page, GPT-4-0613; GPT-4-Turbo gives several points less",
    ),
    _mmvet("mmvet-v2", "MM-Vet v2", "arXiv:2408.00765", JUDGE_V2, Source("original", V2_FILES, read_mmvet_v2)),
    _mmvet(
        "mmvet-v2-first",
        "MM-Vet v2, the first picture only",
        "arXiv:2408.00765",
        JUDGE_V2,
        Source("original", V2_FILES, partial(read_mmvet_v2, first_only=True)),
        note="As the original repository asked it: text before the first picture, and that picture",
    ),
)

# ---- LLaVA-Bench -----------------------------------------------------------------------------------------------------

WILD = "llava-bench-in-the-wild"


def read_llava(folder: Folder) -> Iterator[Sample]:
    captions = {row.text("image"): row["caption"] for row in folder.jsonl(f"{WILD}/context.jsonl")}
    references = {str(row["question_id"]): row.text("text") for row in folder.jsonl(f"{WILD}/answers_gpt4.jsonl")}
    for row in folder.jsonl(f"{WILD}/questions.jsonl", unique="question_id"):
        number, image, question = str(row["question_id"]), row.text("image"), row.text("text")
        if image not in captions or number not in references:
            missing = f"caption of {image!r}" if image not in captions else f"reference answer to {number}"
            raise DataError(f"{row.where}: there is no {missing} beside it in {WILD}; get the folder again")
        caption = captions[image]
        yield Sample(
            id=number,
            prompt=f"{question} Please give a detailed answer.",
            pictures=(folder.picture(f"{WILD}/images/{image}", row=row),),
            answer=references[number],
            facts={
                "category": row.text("category"),
                "question": question,
                "caption": caption if isinstance(caption, str) else "\n".join(caption),
            },
        )


def read_llava_table(folder: Folder, *, name: str) -> Iterator[Sample]:
    for row in folder.table(name):
        facts = {key: row.text(key) for key in ("category", "question", "caption")}
        prompt, truth = f"{facts['question']}\n{IN_DETAIL}", row.text("gpt4_ans")
        yield Sample(id=str(row["index"]), prompt=prompt, pictures=row.pictures(), answer=truth, facts=facts)


def llava_prompt(sample: Sample, answer: str) -> str:
    facts = sample.facts
    return (
        f"[Context]\n{facts['caption']}\n\n[Question]\n{facts['question']}\n\n"
        f"[Assistant 1]\n{sample.answer}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\n{answer}\n\n[End of Assistant 2]\n\n[System]\n{LLAVA_BENCH}\n\n"
    )


def llava_verdict(sample: Sample, verdict: str) -> Mark:
    """The first line: two numbers, of the reference and of the answer, each up to 10."""
    del sample
    line = verdict.split("\n")[0]
    try:
        reference, given = (float(word) for word in line.replace(",", " ").split())
    except ValueError:
        return Mark(None, line)
    if not (0 < reference <= 10 and 0 <= given <= 10):
        return Mark(None, line)
    return Mark(given / 10, line, {"reference": reference, "answer": given})


def no_rule(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """No rule stands in for this judge."""
    del sample, answer, compat
    return Mark(None)


def summarise_llava(rows: Sequence[Marked]) -> Scores:
    """100 times the sum of what the judge gave the answers, over what it gave the reference."""
    members: dict[str, list[Marked]] = defaultdict(list)
    for row in rows:
        if row.mark.score is None:
            return Scores(values={}, withheld={"relative": "an answer has no verdict"})
        members["relative"].append(row)
        members[row.sample.facts["category"]].append(row)
    if not members:
        return Scores(values={}, withheld={"relative": "there is no answer"})

    def total(found: Sequence[Marked], of: str) -> float:
        return sum(row.mark.parts[of] for row in found)

    ratios = {name: 100 * total(found, "answer") / total(found, "reference") for name, found in sorted(members.items())}
    own = {of: 10 * total(rows, of) / len(rows) for of in ("answer", "reference")}
    return Scores(values={"relative": ratios.pop("relative"), **own}, groups={"category": ratios})


LLAVA_TABLE = table_file("LLaVABench", "d382a093f749a697820d3dadd61c8428")
WILD_HINT = f"https://huggingface.co/datasets/liuhaotian/{WILD}"
LLAVA = Benchmark(
    name="llava-bench",
    title="LLaVA-Bench in the wild",
    paper="arXiv:2304.08485",
    group="general",
    sources=(
        Source(
            "original",
            tuple(
                File(f"{WILD}/{name}", hint=WILD_HINT)
                for name in ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl", "images")
            ),
            read_llava,
        ),
        Source("vlmevalkit", (LLAVA_TABLE,), partial(read_llava_table, name=LLAVA_TABLE.path)),
    ),
    mark=no_rule,
    summarise=summarise_llava,
    settings=Settings(max_new_tokens=1000),
    judging=Judging(
        version="LLaVA-Bench, 1",
        system="You are a helpful and precise assistant for checking the quality of the answer.",
        prompt=llava_prompt,
        parse=llava_verdict,
        published="gpt-4-0613",
        max_new_tokens=1024,
        temperature=0.2,
        failed=Mark(0.0, parts={"reference": 10.0, "answer": 0.0}),
    ),
    published=(
        Published("InternVL2-8B", 73.2, "relative", MPO),
        Published("InternVL2-8B-MPO", 76.7, "relative", MPO),
    ),
)

TASKS: tuple[Benchmark, ...] = (*MMVET, LLAVA)

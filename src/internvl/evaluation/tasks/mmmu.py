"""MMMU by the original's protocol and by VLMEvalKit's, and MMMU-Pro."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from internvl.errors import DataError
from internvl.evaluation.benchmark import (
    Benchmark,
    Compat,
    File,
    Mark,
    Marked,
    Picture,
    Published,
    Sample,
    Scores,
    Settings,
    Source,
    mean_score,
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.rows import Row
from internvl.evaluation.tasks.choice import choice_sample, table_file
from internvl.evaluation.tasks.instructions import LETTER, SHORT
from internvl.evaluation.tasks.published import version_1_5, version_2, version_2_5, version_2_later
from internvl.metrics.choices import letter
from internvl.metrics.mathematics import by_letter
from internvl.metrics.mmmu import SUBJECTS, choice, choice_match, domain, open_match, subject

COLUMNS = tuple(f"image_{number}" for number in range(1, 8))
SECRET = "?"
"""What the published files have as the answer of a question of the test split."""

# ---- MMMU, as the original asks --------------------------------------------------------------------------------------


def read_mmmu(folder: Folder, *, split: str) -> Iterator[Sample]:
    """The parquet files of the hub, subject by subject in alphabetical order."""
    for name in sorted(SUBJECTS):
        for row in folder.parquet(f"MMMU/{name}/{split}-*.parquet"):
            yield mmmu_sample(row)


def mmmu_sample(row: Row) -> Sample:
    """`<image 1>` stays text; the pictures come first, the first doubled in size, the others as one tile each."""
    choices = by_letter([option.strip() for option in row.items_of("options")])
    lines = [row.text("question").strip(), *(f"{key}. {text}" for key, text in choices.items())]
    multiple = row.text("question_type") == "multiple-choice"
    return Sample(
        id=row.text("id"),
        prompt="\n".join([*lines, LETTER if multiple else SHORT]).strip(),
        pictures=in_order(row),
        answer=None if row.get("answer", SECRET) in (None, "", SECRET) else truth_of(row, multiple),
        facts={**about(row), "options": choices if multiple else {}},
    )


def truth_of(row: Row, multiple: bool) -> str | list[str]:
    """An open question has one answer, or a list of them as text."""
    text = row.text("answer")
    return row.items_of("answer") if not multiple and text.startswith("[") and text.endswith("]") else text


def about(row: Row) -> dict[str, str]:
    name = subject(row.text("id"))
    facts = {"subject": name, "domain": domain(name) or "", "difficulty": str(row.get("topic_difficulty", ""))}
    return {key: value for key, value in facts.items() if value}


def in_order(row: Row) -> tuple[Picture, ...]:
    there = [column for column in COLUMNS if row.get(column) is not None]
    pictures = row.pictures(*there) if there else ()
    return tuple(
        replace(picture, enlarge=2) if place == 0 else replace(picture, max_tiles=1)
        for place, picture in enumerate(pictures)
    )


def mark_mmmu(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Guesses, which the authors' rule makes where it finds no letter, differ from question to question."""
    parsed = parsed_mmmu(sample, answer, compat)
    if sample.answer is None:
        return Mark(None, parsed)
    if sample.facts["options"]:
        return Mark(float(choice_match(parsed, sample.answer)), parsed)
    return Mark(float(open_match(answer, sample.answer)), parsed)


def parsed_mmmu(sample: Sample, answer: str, compat: Compat) -> str | None:
    options = sample.facts["options"]
    return choice(answer, options, seed=f"42 {sample.id}", compat=compat) if options else answer


def submit_mmmu(rows: Sequence[Marked]) -> bytes:
    """The file of the evaluation server: {id: letter or answer}."""
    answers = {row.sample.id: row.mark.parsed for row in rows}
    return json.dumps(answers, indent=4, ensure_ascii=False).encode()


def hub_files(split: str) -> tuple[File, ...]:
    hint = "huggingface.co/datasets/MMMU/MMMU"
    return tuple(File(f"MMMU/{name}/{split}-*.parquet", hint=hint) for name in sorted(SUBJECTS))


def mmmu(name: str, split: str, *published: Published) -> Benchmark:
    return Benchmark(
        name=f"mmmu-{name}",
        title=f"MMMU, {split}",
        paper="arXiv:2311.16502",
        group="reasoning",
        sources=(Source("huggingface", hub_files(split), partial(read_mmmu, split=split)),),
        mark=mark_mmmu,
        summarise=mean_score(by=("domain", "subject", "difficulty")),
        settings=Settings(max_new_tokens=10, together=6 * len(COLUMNS)),
        submission=("mmmu_test.json", submit_mmmu) if name == "test" else None,
        published=published,
        note="Asked, and with compat='original' marked, as the original did, whose scores are two to three points "
        "lower than VLMEvalKit's. It put all pictures of a question into one slot; here each has its own.",
    )


# ---- MMMU, as VLMEvalKit asks ----------------------------------------------------------------------------------------

OTHERS = {"B": "Other Answers"}


def read_mmmu_table(folder: Folder, *, name: str, split: str) -> Iterator[Sample]:
    """An open question is asked as such; to be marked it becomes a choice between the truth and all else."""
    for row in folder.table(name):
        if row.filled("split") and row.text("split") != split:
            continue
        sample = choice_sample(row)
        if not sample.facts["options"] and sample.answer is not None:
            sample = replace(sample, answer="A", facts={**sample.facts, "options": {"A": sample.answer, **OTHERS}})
        doubled = tuple(replace(picture, enlarge=2) for picture in sample.pictures[:1])
        yield replace(sample, pictures=doubled + sample.pictures[1:])


def mark_named(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat  # the published scores have this rule
    named = letter(answer, sample.facts["options"]) if sample.facts["options"] else answer
    secret = sample.answer in (None, SECRET)
    return Mark(None if secret else float(named == sample.answer), named)


def mmmu_table(name: str, split: str, file: File, *published: Published) -> Benchmark:
    return Benchmark(
        name=f"mmmu-{name}-vlmevalkit",
        title=f"MMMU, {split}, VLMEvalKit's protocol",
        paper="arXiv:2311.16502",
        group="reasoning",
        sources=(Source("vlmevalkit", (file,), partial(read_mmmu_table, name=file.path, split=split)),),
        mark=mark_named,
        summarise=mean_score(by=("l2-category", "category")),
        settings=Settings(max_new_tokens=4096, max_tiles=12, together=64),
        submission=("mmmu_test.json", submit_mmmu) if name == "test" else None,
        published=published,
        note="Where an answer names no option by rule, VLMEvalKit asks a language model which it means; here it is "
        "wrong.",
    )


# ---- MMMU-Pro --------------------------------------------------------------------------------------------------------

LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' (without quotes) where LETTER "
    "is one of options."
)
DIRECT = "Answer with the option letter from the given choices directly."
STEPS = "Think step by step before answering."
STANDARD = {"direct": DIRECT, "cot": f"Answer the preceding multiple choice question. {LAST_LINE} {STEPS}"}
VISION = {
    "direct": f"{DIRECT} {LAST_LINE}",
    "cot": f"Write out the multiple-choice question in the image and then solve it. {LAST_LINE} {STEPS}",
}
MENTION = re.compile(r"<image ([1-7])>")
UNREADABLE = "\0"
"""Of an option that is only in the picture: no answer contains it."""


def read_standard(folder: Folder, *, mode: str) -> Iterator[Sample]:
    for row in folder.parquet("MMMU_Pro/standard (10 options)/test-*.parquet"):
        options = by_letter(row.items_of("options"))
        text = "\n".join([row.text("question"), *(f"{key}. {said}" for key, said in options.items()), STANDARD[mode]])
        prompt, pictures = mentioned(row, text)
        yield pro_sample(row, prompt, pictures, options)


def read_vision(folder: Folder, *, mode: str) -> Iterator[Sample]:
    for row in folder.parquet("MMMU_Pro/vision/test-*.parquet"):
        try:
            options = by_letter(row.items_of("options"))
        except DataError:  # some published lists are no lists; the letters are all that the picture leaves to read
            options = dict.fromkeys("ABCDEFGHIJ", UNREADABLE)
        yield pro_sample(row, VISION[mode], row.pictures("image"), options)


def mentioned(row: Row, text: str) -> tuple[str, tuple[Picture, ...]]:
    """The pictures where the text has `<image 1>`, each time; those that it does not mention come before it."""
    there: dict[str, Picture] = {}
    for number, column in enumerate(COLUMNS, start=1):
        if row.get(column) is None:
            break
        there[str(number)] = row.pictures(column)[0]
    named: list[str] = [number for number in MENTION.findall(text) if number in there]
    first = [number for number in there if number not in named]
    prompt = MENTION.sub(lambda found: "<image>" if found[1] in there else found[0], text)
    return "<image>\n" * len(first) + prompt, tuple(there[number] for number in (*first, *named))


def pro_sample(row: Row, prompt: str, pictures: tuple[Picture, ...], options: dict[str, str]) -> Sample:
    facts = {key: str(row[key]) for key in ("subject", "topic_difficulty") if row.filled(key)}
    return Sample(
        id=row.text("id"),
        prompt=prompt,
        pictures=pictures,
        answer=row.text("answer"),
        facts={**facts, "options": options},
    )


def mark_pro(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    parsed = choice(answer, sample.facts["options"], pro=True, seed=f"42 {sample.id}", compat=compat)
    return Mark(float(choice_match(parsed, sample.answer)), parsed)


PRO = {
    # setting: (title, files, how they are read)
    "std10": ("ten options", "MMMU_Pro/standard (10 options)/test-*.parquet", read_standard),
    "vision": ("question in the picture", "MMMU_Pro/vision/test-*.parquet", read_vision),
}
GUESSED = "1730 questions a setting. An unreadable answer is a guess, as with the authors, from a seed of its own."


def pro_file(setting: str) -> File:
    return File(PRO[setting][1], hint="huggingface.co/datasets/MMMU/MMMU_Pro")


def read_both(folder: Folder, *, mode: str) -> Iterator[Sample]:
    for setting, (_, _, read) in PRO.items():
        for sample in read(folder, mode=mode):
            yield replace(sample, id=f"{setting}/{sample.id}", facts={**sample.facts, "setting": setting})


def mean_of_settings(rows: Sequence[Marked]) -> Scores:
    """What papers print of MMMU-Pro: the mean of its two settings, and each."""
    found = mean_score(by=("setting", "subject", "topic_difficulty"))(rows)
    settings = found.groups.get("setting", {})
    if set(settings) != set(PRO):
        return Scores(values=settings, withheld={"overall": "one of the two settings was not asked", **found.withheld})
    return Scores(values={"overall": sum(settings.values()) / len(settings), **settings}, groups=found.groups)


def mmmu_pro(setting: str, mode: str) -> Benchmark:
    title, _, read = PRO[setting]
    return Benchmark(
        name=f"mmmu-pro-{setting}{THINKING[mode][0]}",
        title=f"MMMU-Pro, {title}{THINKING[mode][1]}",
        paper="arXiv:2409.02813",
        group="reasoning",
        sources=(Source("huggingface", (pro_file(setting),), partial(read, mode=mode)),),
        mark=mark_pro,
        summarise=mean_score(by=("subject", "topic_difficulty")),
        settings=Settings(max_new_tokens=4096, max_tiles=12, together=12 * len(COLUMNS)),
        note=GUESSED,
    )


def mmmu_pro_overall(mode: str, *published: Published) -> Benchmark:
    return Benchmark(
        name=f"mmmu-pro{THINKING[mode][0]}",
        title=f"MMMU-Pro, mean of its two settings{THINKING[mode][1]}",
        paper="arXiv:2409.02813",
        group="reasoning",
        sources=(Source("huggingface", tuple(map(pro_file, PRO)), partial(read_both, mode=mode)),),
        mark=mark_pro,
        summarise=mean_of_settings,
        settings=Settings(max_new_tokens=4096, max_tiles=12, together=12 * len(COLUMNS)),
        published=published,
        note=GUESSED + (" The cards do not say whether the model thought first." if published else ""),
    )


THINKING = {"direct": ("", ""), "cot": ("-cot", ", thinking first")}

DEV_VAL = table_file("MMMU_DEV_VAL", "585e8ad75e73f75dcad265dfd0417d64")

TASKS: tuple[Benchmark, ...] = (
    mmmu("dev", "dev"),
    mmmu(
        "val",
        "validation",
        *version_2("accuracy", 35.4, 34.3, 47.0, 49.3, 48.3, 53.9, 55.2),
        version_1_5("accuracy", 45.2),
    ),
    mmmu("test", "test"),
    mmmu_table("dev", "dev", DEV_VAL),
    mmmu_table(
        "val",
        "validation",
        DEV_VAL,
        *version_2_later("accuracy", {"1B": 36.7, "2B": 36.3, "8B": 52.6}),
        Published("InternVL2-4B", 48.3, "accuracy", "arXiv:2410.16261, from the OpenCompass leaderboard"),
        *version_2_5("accuracy", {"1B": 40.9, "2B": 43.6, "8B": 56.0}),
    ),
    mmmu_table(
        "test",
        "test",
        table_file("MMMU_TEST", "c19875d11a2d348d07e5eb4bdf33166d"),
        *version_2_later("accuracy", {"1B": 32.8, "2B": 34.7, "8B": 44.3}),
        *version_2_5("accuracy", {"1B": 35.8, "2B": 38.2, "8B": 48.9, "78B": 61.8}),
    ),
    mmmu_pro_overall(
        "direct",
        *version_2_later("overall", {"1B": 14.8, "8B": 29.0}),
        *version_2_5("overall", {"1B": 19.4, "2B": 23.7, "8B": 34.3, "78B": 48.6}),
    ),
    mmmu_pro_overall("cot"),
    *(mmmu_pro(setting, mode) for setting in PRO for mode in THINKING),
)

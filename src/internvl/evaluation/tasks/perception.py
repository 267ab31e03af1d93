"""Perception: what people see at a glance. MMVP, BLINK, BlindTest, OCRBench and VCR."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
from internvl.evaluation.tasks.choice import (
    choice_sample,
    mark_choice,
    mark_choice_always_official,
    table_file,
    table_source,
)
from internvl.evaluation.tasks.instructions import LETTER, SHORT, numbered
from internvl.evaluation.tasks.published import DOCUMENTATION_1_5, DOCUMENTATION_2, printed, reported, version_2
from internvl.metrics.matching import BLINDTEST_KINDS, blindtest_match, ocrbench_match
from internvl.metrics.vcr import Language, vcr_match

# ---- MMVP: pairs of pictures that CLIP cannot tell apart -------------------------------------------------------------


def read_mmvp(folder: Folder) -> Iterator[Sample]:
    """Questions.csv; its options are `(a) Open (b) Closed`. Two rows that follow each other are a pair."""
    for at, row in enumerate(folder.table("MMVP/Questions.csv")):
        number = str(row["lndex"] if "lndex" in row else row["Index"])
        first, bracket, second = row.text("Options").partition("(b)")
        if not bracket:
            raise row.wrong("Options", "`(a) … (b) …`")
        options = {"A": first.replace("(a)", "").strip(), "B": second.strip()}
        listed = "\n".join(f"{key}. {text}" for key, text in options.items())
        yield Sample(
            id=number,
            prompt=f"{row.text('Question')}\n{listed}\n{LETTER}",
            pictures=(folder.picture(f"MMVP/MMVP Images/{number}.jpg", row=row),),
            answer=row.text("Correct Answer").strip().strip("()").upper(),
            facts={"options": options, "pair": at // 2},
        )


def read_mmvp_table(folder: Folder) -> Iterator[Sample]:
    for at, row in enumerate(folder.table("MMVP.tsv")):
        sample = choice_sample(row)
        yield Sample(
            id=sample.id,
            prompt=sample.prompt,
            pictures=sample.pictures,
            answer=sample.answer,
            facts={**sample.facts, "pair": at // 2},
        )


def summarise_mmvp(rows: Sequence[Marked]) -> Scores:
    """A pair counts where both of its questions are answered rightly; half a pair in a sample of rows does not."""
    single = mean_score("questions alone")(rows)
    pairs: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        pairs[row.sample.facts["pair"]].append(row.mark.score or 0.0)
    whole = [float(sum(scores) == 2) for scores in pairs.values() if len(scores) == 2]
    if not whole:
        return Scores(values={}, withheld={"accuracy": "there is no pair of which both questions were asked"})
    return Scores(
        values={"accuracy": 100 * sum(whole) / len(whole), **single.values},
        withheld=single.withheld,
        means=single.means,
    )


MMVP = Benchmark(
    name="mmvp",
    title="MMVP",
    paper="arXiv:2401.06209",
    group="perception",
    sources=(
        Source(
            "original",
            (
                File("MMVP/Questions.csv", hint="the data set MMVP/MMVP of the Hugging Face hub, whole, as MMVP/"),
                File("MMVP/MMVP Images", hint="the data set MMVP/MMVP of the Hugging Face hub, whole, as MMVP/"),
            ),
            read_mmvp,
        ),
        Source("vlmevalkit", (File("MMVP.tsv", hint="a table of VLMEvalKit"),), read_mmvp_table),
    ),
    mark=mark_choice,
    summarise=summarise_mmvp,
    settings=Settings(max_new_tokens=100, max_tiles=6),
    published=(
        *version_2("accuracy", 20.0, 35.3, 40.7, 51.3, 54.7, 58.7, 52.7, source=DOCUMENTATION_2),
        *printed("accuracy", DOCUMENTATION_1_5, {"InternVL-Chat-V1-5": 59.3, "InternVL-Chat-V1-2-Plus": 58.7}),
    ),
    note="The published scores have the original's letter rule (compat original).",
)  # fmt: skip


# ---- BLINK -----------------------------------------------------------------------------------------------------------


def read_blink(folder: Folder) -> Iterator[Sample]:
    """The authors' parquet files, one folder a task, asked as VLMEvalKit asks its table."""
    for row in folder.parquet("BLINK/*/val-*.parquet"):
        pictures = row.pictures(*(key for key in (f"image_{at}" for at in range(1, 5)) if row.get(key) is not None))
        options = dict(zip("ABCDEFGH", row.items_of("choices"), strict=False))
        listed = "".join(f"\n{key}. {text}" for key, text in options.items())
        yield Sample(
            id=row.text("idx"),
            prompt=f"{numbered(len(pictures))}{row.text('question')}{listed}\n{LETTER}",
            pictures=pictures,
            answer=row.text("answer").strip("()"),
            facts={"category": row.text("sub_task"), "options": options},
        )


BLINK = Benchmark(
    name="blink",
    title="BLINK (val)",
    paper="arXiv:2404.12390",
    group="perception",
    sources=(
        table_source("BLINK", "d5e8af148b10ac69f535ff7b23f3f989"),
        Source(
            "huggingface",
            (
                File(
                    "BLINK/*/val-*.parquet",
                    hint="the data set BLINK-Benchmark/BLINK of the Hugging Face hub, as BLINK/",
                ),
            ),
            read_blink,
        ),
    ),
    mark=mark_choice_always_official,
    summarise=mean_score(by=("category",)),
    settings=Settings(max_new_tokens=1024, max_tiles=6, together=64),
    published=reported("BLINK"),
    note="Answers that no rule can read count as wrong; VLMEvalKit may ask a judge about them.",
)


# ---- BlindTest -------------------------------------------------------------------------------------------------------


def read_blindtest_table(folder: Folder) -> Iterator[Sample]:
    for row in folder.table("VLMBlind.tsv"):
        yield _blindtest(row, str(row["index"]), row.text("question"), str(row["answers"]))


def read_blindtest(folder: Folder) -> Iterator[Sample]:
    for at, row in enumerate(folder.parquet("vlmsareblind/data/valid-*.parquet")):
        yield _blindtest(row, str(at), row.text("prompt"), str(row["groundtruth"]))


def _blindtest(row: Row, number: str, prompt: str, truth: str) -> Sample:
    if row["task"] not in BLINDTEST_KINDS:
        raise row.wrong("task", f"one of {', '.join(BLINDTEST_KINDS)}")
    return Sample(id=number, prompt=prompt, pictures=row.pictures(), answer=truth, facts={"task": row["task"]})


def mark_blindtest(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat  # the original never ran it
    return Mark(blindtest_match(sample.facts["task"], answer, sample.answer))


def summarise_blindtest(rows: Sequence[Marked]) -> Scores:
    """The mean over the tasks, as the paper prints it; beside it the mean over all questions."""
    scores = mean_score("all questions", by=("task",))(rows)
    if scores.withheld:
        return Scores(values={}, withheld={"accuracy": scores.withheld["all questions"]})
    tasks = scores.groups["task"]
    values = {"accuracy": sum(tasks.values()) / len(tasks), **scores.values}
    return replace(scores, values=values)


BLINDTEST = Benchmark(
    name="blindtest",
    title="BlindTest",
    paper="arXiv:2407.06581",
    group="perception",
    sources=(
        Source("vlmevalkit", (table_file("VLMBlind", "e0f960236afe08f9fa48e8ccc908b2a9"),), read_blindtest_table),
        Source(
            "huggingface",
            (
                File(
                    "vlmsareblind/data/valid-*.parquet",
                    hint="the data set XAI/vlmsareblind of the Hugging Face hub, as vlmsareblind/",
                ),
            ),
            read_blindtest,
        ),
    ),
    mark=mark_blindtest,
    summarise=summarise_blindtest,
    settings=Settings(max_new_tokens=512, max_tiles=6),
    note="The mean over its nine kinds of picture.",
)


# ---- OCRBench --------------------------------------------------------------------------------------------------------


def read_ocrbench_table(folder: Folder) -> Iterator[Sample]:
    for row in folder.table("OCRBench.tsv"):
        yield Sample(
            id=str(row["index"]),
            prompt=f"{row.text('question')}\n{SHORT}",
            pictures=row.pictures(),
            answer=row.items_of("answer"),
            facts={"kind": row.text("category")},
        )


def read_ocrbench(folder: Folder) -> Iterator[Sample]:
    """The authors' list; `answers` is a list or one text."""
    for row in folder.json_rows("OCRBench/OCRBench.json"):
        golds = row["answers"]
        yield Sample(
            id=str(row["id"]),
            prompt=f"{row.text('question')}\n{SHORT}",
            pictures=(folder.picture(f"OCRBench/OCRBench_Images/{row.text('image_path')}", row=row),),
            answer=[golds] if isinstance(golds, str) else row.items_of("answers"),
            facts={"kind": row.text("type")},
        )


def mark_ocrbench(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    del compat  # the published scores are VLMEvalKit's, which has the authors' rule
    return Mark(ocrbench_match(answer, sample.answer, sample.facts["kind"]))


def summarise_ocrbench(rows: Sequence[Marked]) -> Scores:
    """Of 1000 points as many as answers are right of a thousand; by kind in percent."""
    scores = mean_score("score", by=("kind",))(rows)
    points, means = ({key: 10 * value for key, value in found.items()} for found in (scores.values, scores.means))
    return replace(scores, values=points, means=means)


OCRBENCH = Benchmark(
    name="ocrbench",
    title="OCRBench",
    paper="arXiv:2305.07895",
    group="perception",
    sources=(
        Source("vlmevalkit", (table_file("OCRBench", "e953d98a987cc6e26ef717b61260b778"),), read_ocrbench_table),
        Source(
            "original",
            (
                File("OCRBench/OCRBench.json", hint="the repository Yuliang-Liu/MultimodalOCR, folder OCRBench"),
                File("OCRBench/OCRBench_Images", hint="the repository Yuliang-Liu/MultimodalOCR says where they are"),
            ),
            read_ocrbench,
        ),
    ),
    mark=mark_ocrbench,
    summarise=summarise_ocrbench,
    settings=Settings(max_new_tokens=1024, max_tiles=24),
    published=reported("OCRBench", "score"),
)


# ---- VCR -------------------------------------------------------------------------------------------------------------


def read_vcr(folder: Folder, *, name: str) -> Iterator[Sample]:
    for row in folder.table(name):
        covered = row.items_of("answer")
        if not covered:
            raise row.wrong("answer", "at least one covered text")
        yield Sample(id=str(row["index"]), prompt=row.text("question"), pictures=row.pictures(), answer=covered)


def mark_vcr(sample: Sample, answer: str, *, compat: Compat, language: Language) -> Mark:
    """Each covered text has its own exact match and Jaccard index; the mark is the share of exact ones."""
    del compat  # the published scores are VLMEvalKit's, which has the authors' rule
    found = [vcr_match(answer, covered, language) for covered in sample.answer]
    exact, alike = (sum(figures) / len(found) for figures in zip(*found, strict=True))
    return Mark(exact, parts={"exact": exact, "jaccard": alike, "blanks": float(len(found))})


def summarise_vcr(rows: Sequence[Marked]) -> Scores:
    """Means over all covered texts, however many a picture has."""
    blanks = sum(row.mark.parts["blanks"] for row in rows)
    if not blanks:
        return Scores(values={}, withheld={"exact match": "there is no answer"})
    exact, alike = (sum(row.mark.parts[key] * row.mark.parts["blanks"] for row in rows) for key in ("exact", "jaccard"))
    return Scores(values={"exact match": 100 * exact / blanks, "Jaccard": 100 * alike / blanks})


VCR_SUMS: Mapping[tuple[Language, str], str] = {
    ("en", "easy"): "fd9258db52f8685dc710619a0ea0a261",
    ("en", "hard"): "0a22a85080b6a1f52b1f95e302d43df4",
    ("zh", "easy"): "beca5fd54176adf44cf94bd9b50cf048",
    ("zh", "hard"): "617e3360f75c54455625cb0a8da5c1e7",
}  # of the tables with 500 pictures


VCR_EN_EASY = (*reported("VCR exact match", "exact match"), *reported("VCR Jaccard", "Jaccard"))


def vcr(language: Language, difficulty: str) -> Benchmark:
    table = f"VCR_{language.upper()}_{difficulty.upper()}_500.tsv"
    part = f"VCR-wiki-{language}-{difficulty}-test-500"
    url = f"https://huggingface.co/datasets/vcr-org/{part}/resolve/main/{part}.tsv"
    words = (
        "cuts words as spaCy's English tokenizer mostly does" if language == "en" else "takes each character as a word"
    )
    return Benchmark(
        name=f"vcr-{language}-{difficulty}",
        title=f"VCR {language} {difficulty} (500)",
        paper="arXiv:2406.06462",
        group="perception",
        sources=(
            Source(
                "vlmevalkit",
                (File(table, url, f"md5:{VCR_SUMS[language, difficulty]}"),),
                partial(read_vcr, name=table),
            ),
        ),
        mark=partial(mark_vcr, language=language),
        summarise=summarise_vcr,
        settings=Settings(max_new_tokens=1024, max_tiles=12),
        published=VCR_EN_EASY if (language, difficulty) == ("en", "easy") else (),
        note=f"The 500 pictures that VLMEvalKit has as a table of their own. The scorer {words}; that of the paper "
        "needs a model of spaCy.",
    )


TASKS = (MMVP, BLINK, BLINDTEST, OCRBENCH, *(vcr(language, difficulty) for language, difficulty in VCR_SUMS))

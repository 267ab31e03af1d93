"""MME: two questions a picture, one true and one false; the figures are sums, not means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from internvl.errors import DataError
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
)
from internvl.evaluation.folder import Folder
from internvl.evaluation.tasks.choice import table_file
from internvl.evaluation.tasks.instructions import SHORT
from internvl.evaluation.tasks.published import version_1_5, version_2
from internvl.metrics.yes_no import MME_ABILITIES, mme_score, mme_verdict

ROOT = "mme/MME_Benchmark_release_version"
QUESTIONS = "mme/Your_Results"
TASK_NAMES = tuple(name for names in MME_ABILITIES.values() for name in names)


def read_release(folder: Folder) -> Iterator[Sample]:
    """The authors' release: in the folder of a task, or in `questions_answers_YN`, a text file for each picture."""
    for task in TASK_NAMES:
        home = folder.path(f"{ROOT}/{task}")
        files = sorted(home.glob("*.txt")) or sorted((home / "questions_answers_YN").glob("*.txt"))
        if not files:
            raise DataError(f"{ROOT}/{task} has no text files; expected one with two questions for each picture")
        for file in files:
            where = f"{ROOT}/{file.relative_to(home.parent).as_posix()}"
            lines = list(_lines(file, where, columns=2))
            if len(lines) != 2:
                raise DataError(f"{where} has {len(lines)} questions; expected two")
            picture = _picture(home, file.stem, where)
            for question, truth in lines:
                yield _sample(folder, task, picture, question, truth)


def read_lists(folder: Folder) -> Iterator[Sample]:
    """The original repository's lists, `eval/mme/Your_Results`: a file a task, with picture, question and truth."""
    for task in TASK_NAMES:
        name = f"{QUESTIONS}/{task}.txt"
        for picture, question, truth in _lines(folder.path(name), name, columns=3):
            yield _sample(
                folder, task, _picture(folder.path(f"{ROOT}/{task}"), Path(picture).stem, name), question, truth
            )


def read_table(folder: Folder, *, name: str) -> Iterator[Sample]:
    for row in folder.table(name):
        truth = _truth(row.text("answer"), row.where)
        facts = {"task": row.text("category"), "picture": row.text("image_path")}
        prompt = f"{row.text('question')} {SHORT}"
        yield Sample(id=str(row["index"]), prompt=prompt, pictures=row.pictures(), answer=truth, facts=facts)


def _lines(file: Path, where: str, *, columns: int) -> Iterator[list[str]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.strip().split("\t")
        if len(fields) != columns:
            raise DataError(f"{where}:{number} has {len(fields)} fields; expected {columns}, separated by tabs")
        yield [*fields[:-1], _truth(fields[-1], f"{where}:{number}")]


def _truth(text: str, where: str) -> str:
    truth = text.strip().lower()
    if truth not in ("yes", "no"):
        raise DataError(f"{where}: the answer is {text!r}; expected Yes or No")
    return truth


def _picture(home: Path, stem: str, where: str) -> str:
    for place in (home, home / "images"):
        for suffix in (".jpg", ".png", ".jpeg"):
            if (place / f"{stem}{suffix}").is_file():
                return (place / f"{stem}{suffix}").relative_to(home.parent).as_posix()
    raise DataError(f"{where}: the picture {stem}.jpg is not in {ROOT}/{home.name}; put it there")


def _sample(folder: Folder, task: str, picture: str, question: str, truth: str) -> Sample:
    return Sample(
        id=f"{picture}: {question}",
        prompt=f"{question} {SHORT}",
        pictures=(folder.picture(f"{ROOT}/{picture}"),),
        answer=truth,
        facts={"task": task, "picture": picture},
    )


def mark(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    verdict = mme_verdict(answer, compat=compat)
    return Mark(float(verdict == sample.answer), verdict)


def summarise(rows: Sequence[Marked]) -> Scores:
    """Sums over the tasks of acc + acc+; withheld while a picture lacks a question, or a task all of them."""
    pictures: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        pictures[row.sample.facts["task"]][row.sample.facts["picture"]].append(row.mark.score == 1)
    groups: dict[str, dict[str, float]] = {"acc": {}, "acc+": {}, "score": {}}
    for task, found in pictures.items():
        pairs = [hits for hits in found.values() if len(hits) == 2]
        if len(pairs) == len(found):
            acc, plus = mme_score(pairs)
            groups["acc"][task], groups["acc+"][task], groups["score"][task] = acc, plus, acc + plus
    values: dict[str, float] = {}
    withheld: dict[str, str] = {}
    for ability, names in MME_ABILITIES.items():
        absent = [name for name in names if name not in groups["score"]]
        if absent:
            withheld[ability] = f"not every picture of {', '.join(absent)} has both of its questions answered"
        else:
            values[ability] = sum(groups["score"][name] for name in names)
    if withheld:
        withheld = {"total": next(iter(withheld.values())), **withheld}
    else:
        values = {"total": sum(values.values()), **values}
    return Scores(values=values, groups=groups, withheld=withheld)


RELEASE = File(ROOT, hint="https://huggingface.co/OpenGVLab/InternVL/resolve/main/MME_Benchmark_release_version.zip")
TABLE_FILE = table_file("MME", "b36b43c3f09801f5d368627fb92187c3")

TASKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="mme",
        title="MME",
        paper="arXiv:2306.13394",
        group="general",
        sources=(
            Source(
                "original",
                (RELEASE, File(QUESTIONS, hint="internvl_chat/eval/mme/Your_Results of github.com/OpenGVLab/InternVL")),
                read_lists,
            ),
            Source("original", (RELEASE,), read_release),
            Source("vlmevalkit", (TABLE_FILE,), partial(read_table, name=TABLE_FILE.path)),
        ),
        mark=mark,
        summarise=summarise,
        settings=Settings(max_new_tokens=20),
        published=(
            *version_2("total", 1794.4, 1876.8, 2064.1, 2210.3, 2260.7, 2315.0, 2414.7),
            *version_2("perception", 1346.2, 1439.7, 1532.3, 1648.1, 1720.0, 1715.4, 1731.1),
            *version_2("cognition", 448.2, 437.1, 531.8, 562.1, 540.7, 599.6, 683.6),
            version_1_5("total", 2191.9, "--max-tiles 12"),
            version_1_5("perception", 1658.4, "--max-tiles 12"),
            version_1_5("cognition", 533.6, "--max-tiles 12"),
        ),
        note="Sums of acc + acc+ in percent: at most 2000 of perception, 800 of cognition",
    ),
)

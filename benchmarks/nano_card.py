"""Every score of the card of nano, on pictures that it never learnt from, with the published figures beside them.

    python benchmarks/nano_card.py --data ../shared/data --out runs/card                # the embedded model
    python benchmarks/nano_card.py --data ../shared/data --model runs/nano_sft/model --limit 50 --out runs/quick

writes DIR/nano_card.json, DIR/table.md and DIR/failures.webp; with --card FILE also the part of that file between
`<!-- scores -->` and `<!-- /scores -->`. Answers are greedy. The project's benchmarks are asked by the runner of
`internvl eval`, in DIR/run, and go on where they were stopped; rows beyond the limit are left out by chance, always
the same. Drawn skills are asked in fonts that are not learnt, with the seed that training never uses.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from failure_sheet import Failure, contact_sheet, readable, side_by_side
from PIL import Image

from internvl.data.prompts import Image as Shown
from internvl.data.prompts import Message
from internvl.evaluation.benchmark import Sample as Question
from internvl.evaluation.failures import Allowed
from internvl.evaluation.lookup import SUITES
from internvl.evaluation.manifest import begin
from internvl.evaluation.material import Picture
from internvl.evaluation.planning import Change, Subset, plan, read_samples
from internvl.evaluation.responders import LocalResponder
from internvl.evaluation.results import TaskResult
from internvl.evaluation.runner import Progress, answer_all
from internvl.evaluation.scoring import score_run, write_scores
from internvl.evaluation.tasks import TABLE
from internvl.inference.chat import Chat
from internvl.inference.sampling import SamplingConfig
from internvl.metrics.edits import levenshtein
from internvl.metrics.statistics import wilson
from internvl.nano.fonts import UNSEEN, find_fonts
from internvl.nano.leaks import check, exact_hash
from internvl.nano.sample import Sample
from internvl.nano.world import EXAM_SEED, SKILLS, World, corpus_of
from internvl.weights.load import resolve


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure of a benchmark, what it should be, and what others printed."""

    title: str
    task: str
    figure: str = "accuracy"
    goal: str = ""
    published: str = ""


def blind(column: str, goal: float) -> Goal:
    """A column of BlindTest: at least what is published of Claude 3.5 Sonnet."""
    return Goal(title=f"BlindTest, {column}", task="blindtest-part", figure=column, goal=f"≥ {goal} %",
                published=f"{goal}, Claude 3.5 Sonnet, full set")  # fmt: skip


ENTRY = "75.6 F1, a competition entry, another split"
GOALS = (
    Goal(title="receipts, four facts", task="receipts-unseen", goal="≥ 75 %", published=ENTRY),
    *(Goal(title=f"receipts, {key}", task="receipts-unseen", figure=key)
      for key in ("total", "date", "company", "address")),
    Goal(title="lines of receipts, character errors", task="receipts-lines", figure="character error rate",
         goal="≤ 10 %"),
    Goal(title="lines of receipts, whole lines", task="receipts-lines"),
    Goal(title="lines of any length, character errors", task="receipts-lines-all", figure="character error rate"),
    blind("lines", 77.3), blind("two circles", 91.7), blind("circled letter", 89.2), blind("grids", 74.3),
    blind("paths", 50.2), blind("squares", 87.5), blind("circles", 44.2), blind("pentagons", 75.8),
    Goal(title="Sudoku photographs, whole grids", task="sudoku", goal="≥ 87.5 %", published="82.5 to 92.5"),
    Goal(title="Sudoku photographs, cells", task="sudoku", figure="cells"),
    Goal(title="Caltech-101, 97 classes", task="caltech101", goal="≥ 60 %", published="46.5 from scratch, unchecked"),
    Goal(title="TrashNet", task="trashnet", goal="≥ 80 %", published="75 from scratch, another split"),
    Goal(title="flags in another drawing", task="flags"),
    Goal(title="flags waved, photographed, blurred, cropped", task="flags-rendered", goal="≥ 95 %"),
    Goal(title="emoji in another drawing", task="emoji", goal="≥ 70 %"),
    Goal(title="NLVR, public test", task="nlvr", goal="≥ 66 %", published="56.2 majority, 66.1 NMN, unchecked"),
    Goal(title="is it there? half of the things are", task="absent", goal="≥ 90 %"),
    Goal(title="is it there? things that are not", task="absent", figure="absent", goal="≥ 90 %"),
)  # fmt: skip
TILES = {"sudoku": 4, "nlvr": 4}
"""Where nano learnt with fewer tiles than the benchmark gives."""
COLUMNS = 4
"""Of a benchmark with many tasks, so many times the rows."""
PAPERS = 4
"""Of drawn papers, which have the most tiles, the rows divided by this."""
NEAR = {"photo": "caltech101", "trash": "trashnet", "sudoku": "sudoku", "nlvr": "nlvr", "receipt": "receipts-unseen",
        "flag": "flags", "icon": "emoji"}  # fmt: skip
"""What training reads, and the benchmark whose pictures must not be among it."""


# ---- the project's benchmarks ----------------------------------------------------------------------------------------


def ask_benchmarks(chat: Chat, name: str, path: Path, data: Path, out: Path, limit: int) -> tuple[TaskResult, ...]:
    """Ask them all, and score them."""
    planned = [
        plan(
            TABLE[task],
            data,
            subset=Subset(drawn=limit * (COLUMNS if task == "blindtest-part" else 1)),
            change=Change(max_tiles=TILES.get(task)),
        )
        for task in SUITES["nano-exam"]
    ]
    responder = LocalResponder(chat, name=name, path=path)
    begin(out, {task.benchmark.name: task.about for task in planned}, responder.describe())
    started = time.perf_counter()

    def watch(found: Progress) -> None:
        if found.done == found.total:
            score = "" if found.score is None else f", {found.score:.1f} %"
            seconds = time.perf_counter() - started
            print(f"{seconds:6.0f} s  {found.task.benchmark.name}: {found.total} rows{score}", flush=True)

    answer_all(planned, responder, out, watch=watch, allowed=Allowed(share=1.0))
    result = score_run(out)
    write_scores(result)
    return result.tasks


def figures(results: Sequence[TaskResult]) -> list[dict[str, Any]]:
    """A row for each goal; a figure that the drawn rows do not have, a column without a row, has no value."""
    known = {result.benchmark.name: result for result in results}
    rows: list[dict[str, Any]] = []
    for goal in GOALS:
        row: dict[str, Any] = {**asdict(goal), "value": None, "interval": None, "rows": 0}
        if goal.figure in known[goal.task].scores.values:
            result = known[goal.task]
            row["value"] = result.scores.values[goal.figure]
            row["rows"] = rows_of(result, goal.figure)
            row["interval"] = interval(result, goal.figure, row["rows"])
        rows.append(row)
    return rows


def rows_of(result: TaskResult, figure: str) -> int:
    """How many samples a figure is of: those of its column or key, or all."""
    samples = [row.sample for row in result.rows[0]]
    part = [sample for sample in samples if figure in (sample.facts.get("column"), sample.facts.get("key"))]
    return len(part or samples)


def interval(result: TaskResult, figure: str, rows: int) -> tuple[float, float] | None:
    """95 %: that of the run; where all rows of a column agree it has none, and Wilson's is taken."""
    value = result.scores.values[figure]
    low, high = result.intervals.get(figure) or (value, value)
    if low == high and value in (0.0, 100.0):
        low, high = (100 * end for end in wilson(rows * value / 100, rows))
    most = math.inf if "error" in figure else 100.0
    return None if low == high else (max(0.0, low), min(most, high))


# ---- drawn skills ----------------------------------------------------------------------------------------------------


def ask_skill(chat: Chat, samples: Sequence[Sample], tiles: int) -> list[str]:
    """Answers to the first question of each. Longer than the longest right one no answer gets."""
    questions = [
        [Message("user", (*(Shown(picture, tiles) for picture in sample.pictures), sample.turns[0][0]))]
        for sample in samples
    ]
    longest = max(len(chat.encoder.tokenizer.encode(sample.turns[0][1])) for sample in samples)
    answers = chat.batch(questions, sampling=SamplingConfig(max_new_tokens=longest + 8))
    return [answer.text.strip() for answer in answers]


def measure_skills(chat: Chat, world: World, limit: int) -> tuple[list[dict[str, Any]], list[Failure]]:
    """Exact answers, but for case, of every drawn skill, and some that are wrong."""
    rows: list[dict[str, Any]] = []
    wrong: list[Failure] = []
    for skill, about in SKILLS.items():
        if about.draw is None:
            continue
        started = time.perf_counter()
        rows_here = max(1, limit // PAPERS) if about.max_tiles >= 12 else limit
        samples = [world.draw(skill, seed=EXAM_SEED, number=number) for number in range(rows_here)]
        answers = ask_skill(chat, samples, about.max_tiles)
        pairs = [(answer, sample.turns[0][1]) for answer, sample in zip(answers, samples, strict=True)]
        right = [answer.casefold() == wanted.casefold() for answer, wanted in pairs]
        low, high = wilson(sum(right), len(right))
        errors = sum(levenshtein(*pair) for pair in pairs) / sum(len(wanted) for _, wanted in pairs)
        rows.append({"skill": skill, "value": 100 * sum(right) / len(right), "interval": (100 * low, 100 * high),
                     "rows": len(right), "character error rate": 100 * errors})  # fmt: skip
        missed = [
            Failure(side_by_side(sample.pictures), sample.turns[0][0], answer, sample.turns[0][1])
            for sample, answer, good in zip(samples, answers, right, strict=True)
            if not good and sample.pictures
        ]
        wrong += readable(missed)[:1]
        seconds = time.perf_counter() - started
        print(f"{seconds:6.0f} s  {skill}: {len(right)} rows, {rows[-1]['value']:.1f} %", flush=True)
    return rows, wrong


# ---- time and leaks --------------------------------------------------------------------------------------------------


def first_token(chat: Chat, data: Path, *, count: int = 6) -> dict[str, float]:
    """Seconds to the first piece of an answer about a photograph, on two threads; and what one thread computes.

    On a machine that does other work the first says more of that work, the second does not.
    """
    _, samples = read_samples(TABLE["caltech101"], data)
    threads = torch.get_num_threads()
    taken: dict[int, list[float]] = {}
    try:
        for number, clock in ((2, time.perf_counter), (1, time.process_time)):
            torch.set_num_threads(number)
            first = -(number % 2)  # other photographs: what was looked at is remembered
            taken[number] = [seconds_to_answer(chat, sample, clock) for sample in spread(samples, count + 1, first)][1:]
    finally:
        torch.set_num_threads(threads)
    return {"median": statistics.median(taken[2]), "fastest": min(taken[2]), "slowest": max(taken[2]),
            "one thread": statistics.median(taken[1]), "photographs": count}  # fmt: skip


def spread(samples: Sequence[Question], count: int, first: int) -> list[Question]:
    """So many from all over."""
    return [samples[first + place * (len(samples) // count)] for place in range(count)]


def seconds_to_answer(chat: Chat, sample: Question, clock: Callable[[], float]) -> float:
    picture = sample.pictures[0].read()
    chat.reset()
    started = clock()
    next(iter(chat.stream(sample.prompt, images=[picture])), "")
    seconds = clock() - started
    chat.reset()
    return seconds


@dataclass(frozen=True)
class Asked:
    """A picture that a benchmark asks about."""

    id: str
    file: Picture

    @property
    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self.file.read())).convert("RGB")


def find_leaks(data: Path) -> dict[str, dict[str, Any]]:
    """Of each benchmark: how many of its pictures are learnt ones, pixel by pixel and nearly."""
    training = corpus_of(data).training
    found: dict[str, dict[str, Any]] = {}
    for skill, task in NEAR.items():
        if task not in TABLE:
            continue
        learnt = {item.id: item for item in training[skill]}
        _, samples = read_samples(TABLE[task], data)
        files = {picture.name: picture for sample in samples for picture in sample.pictures[:1]}
        asked = {name: Asked(name, file) for name, file in files.items()}
        pairs = check(learnt.values(), asked.values())
        pixels = {one: exact_hash(learnt[one].picture) for one in {before for before, _ in pairs}}
        shown = {one: exact_hash(asked[one].picture) for one in {after for _, after in pairs}}
        exact = {after for before, after in pairs if pixels[before] == shown[after]}
        found[task] = {"pictures": len(asked), "learnt": len(learnt), "exact": len(exact), "near": len(shown),
                       "pairs": pairs[:50]}  # fmt: skip
        print(f"leaks of {task}: {len(exact)} exact, {len(shown)} near, of {len(asked)}", flush=True)
    return found


# ---- what is written -------------------------------------------------------------------------------------------------


def table(card: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = ["| skill | goal | ours | rows | published |", "|---|---|---|---|---|"]
    for row in card["benchmarks"]:
        if row["value"] is not None:
            lines.append(f"| {row['title']} | {row['goal']} | {cell(row)} | {row['rows']:,} | {row['published']} |")
    taken = card["first token"]
    span = f"{taken['median']:.2f} s ({taken['fastest']:.2f} to {taken['slowest']:.2f})"
    span = f"{span}; {taken['one thread']:.2f} s of processor time on one thread"
    lines.append(f"| first token about a photograph, two threads | ≤ 1 s | {span} | {taken['photographs']} | |")
    missing = [row["title"] for row in card["benchmarks"] if row["value"] is None]
    lines += [f"\nNot measured: {'; '.join(missing)}."] if missing else []
    lines += ["", "Ours in percent, in brackets the 95 % interval. Drawn skills, in fonts that are not learnt, by",
              "exact answers but for case; nothing is published beside them:", ""]  # fmt: skip
    lines += ["| skill | ours | rows | character errors |", "|---|---|---|---|"]
    for row in card["drawn"]:
        lines.append(f"| {row['skill']} | {cell(row)} | {row['rows']:,} | {row['character error rate']:.1f} % |")
    if card["leaks"]:
        lines += ["", "Pictures of these benchmarks compared with those that training reads; nearly the same are also",
                  "drawings that differ in a detail. Towers of a few blocks, in NLVR, are equal by chance, under other",
                  "statements:", ""]  # fmt: skip
        lines += ["| benchmark | pictures | learnt | the same | nearly the same |", "|---|---|---|---|---|"]
        for name, leak in card["leaks"].items():
            cells = " | ".join(f"{leak[key]:,}" for key in ("pictures", "learnt", "exact", "near"))
            lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def cell(row: Mapping[str, Any]) -> str:
    bounds = "" if row["interval"] is None else " ({:.1f} to {:.1f})".format(*row["interval"])
    return f"{row['value']:.1f}{bounds}"


def failures_of(results: Sequence[TaskResult]) -> list[Failure]:
    """Wrong answers of each benchmark: two, or one of each column. Whole receipts are not shown, their lines are."""
    shown: list[Failure] = []
    for result in results:
        if result.benchmark.name.startswith("receipts") and result.benchmark.name != "receipts-lines":
            continue
        missed: dict[str, list[Failure]] = {}
        for row in result.rows[0]:
            if not row.mark.score and row.sample.pictures and len(missed.get(column(row.sample.facts), [])) < 4:
                picture = Image.open(io.BytesIO(row.sample.pictures[0].read())).convert("RGB")
                one = Failure(picture, row.sample.prompt, row.answer, str(row.sample.answer))
                missed.setdefault(column(row.sample.facts), []).extend(readable([one]))
        each = 2 if len(missed) == 1 else 1
        shown += [one for some in missed.values() for one in some[:each]]
    return shown


def column(facts: Mapping[str, Any]) -> str:
    return str(facts.get("column", ""))


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the marks."""
    start, end = "<!-- scores -->", "<!-- /scores -->"
    written = page.read_text(encoding="utf-8")
    if not 0 <= written.find(start) < written.find(end):
        raise SystemExit(f"{page} has no {start} with {end} after it")
    head, tail = written.split(start)[0], written.split(end)[1]
    page.write_text(f"{head}{start}\n\n{text}\n{end}{tail}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the real sets")
    parser.add_argument("--model", default=None, help="hub id, zoo name or folder; default: the embedded one")
    parser.add_argument("--limit", type=int, default=200, help="rows of each benchmark and drawn skill")
    parser.add_argument("--no-leaks", action="store_true", help="do not compare pictures with the learnt ones")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--card", type=Path, help="a page to put the table into")
    args = parser.parse_args()
    if not find_fonts(UNSEEN):
        raise SystemExit(f"no font of {', '.join(UNSEEN)} is installed; printed text is measured in these")
    started = time.perf_counter()
    path = resolve(args.model)
    chat = Chat.load(path, dtype="float32", device="cpu")
    taken = first_token(chat, args.data)
    print(f"first token: {taken['median']:.2f} s", flush=True)
    results = ask_benchmarks(chat, args.model or "nano", path, args.data, args.out / "run", args.limit)
    drawn, wrong = measure_skills(chat, World.of(args.data, families=UNSEEN), args.limit)
    card = {
        "model": args.model or "nano",
        "parameters": sum(weight.numel() for weight in chat.model.parameters()),
        "limit": args.limit,
        "benchmarks": figures(results),
        "drawn": drawn,
        "first token": taken,
        "leaks": {} if args.no_leaks else find_leaks(args.data),
    }
    card["seconds"], card["processor seconds"] = round(time.perf_counter() - started), round(time.process_time())
    (args.out / "nano_card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (args.out / "table.md").write_text(table(card), encoding="utf-8")
    contact_sheet([*failures_of(results), *wrong], args.out / "failures.webp")
    if args.card is not None:
        put_into(args.card, table(card))
    print(table(card))


if __name__ == "__main__":
    main()

"""What training does to nano, on a CPU in minutes: the figures and curves of docs/fine-tune.md.

python benchmarks/nano_training.py lora --data ../shared/data     # adapters learn to sort waste, three seeds
python benchmarks/nano_training.py mpo --data ../shared/data      # then preferences out of their own answers
python benchmarks/nano_training.py contrastive --data ../shared/data   # a tiny InternVL-C beside it, on drawn shapes
python benchmarks/nano_training.py small --data ../shared/data    # `internvl train nano_small`, from random weights

Each writes benchmarks/results/nano_<what>.md and docs/nano_<what>.svg. The pictures that are asked were never learnt
from: they are TrashNet's own test split, or drawn from another seed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import shutil
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import internvl
from internvl.cli.main import run
from internvl.data import media, records
from internvl.data.mixture import Mixture, read_meta
from internvl.data.packing import collate_chat
from internvl.data.prepare import PrepareChat
from internvl.data.tokenizer import Tokenizer
from internvl.evaluation.held_out import Answers, Question, question
from internvl.metrics.statistics import bootstrap_mean
from internvl.models.init import initialise
from internvl.models.pair import PairModel
from internvl.recipes.general import nano_lora
from internvl.recipes.nano import nano_small
from internvl.training.config import TrainConfig
from internvl.training.logs import read_log
from internvl.training.loop import Trainer, steps
from internvl.training.objectives import segment_sums
from internvl.training.optim import Scaler, adamw
from internvl.training.override import change
from internvl.training.pair_objectives import PairLoss
from internvl.training.reference import read
from internvl.training.run import train
from internvl.training.world import World

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
ASK = "<image>\nWhat kind of waste is this? Answer with one word."
SEEDS = (0, 1, 2)
ROWS, ASKED = 600, 150
COLOURS = ("#0b6b72", "#b3541e", "#6a4fa3")


def unpacked(data: Path, work: Path, name: str) -> tuple[Path, dict[str, list[dict[str, str]]]]:
    """The pictures of a set in a folder, and its rows by split."""
    folder = work / name
    if not folder.exists():
        with zipfile.ZipFile(data / name / "images.zip") as archive:
            archive.extractall(folder)
    splits = {}
    for split in ("train", "test"):
        with (data / name / f"{split}.jsonl").open(encoding="utf-8") as file:
            splits[split] = [json.loads(line) for line in file]
    return folder, splits


def conversation(row: Mapping[str, str], ask: str) -> dict[str, object]:
    turns = [{"from": "human", "value": ask}, {"from": "gpt", "value": row["label"]}]
    return {"id": row["id"], "image": row["image"], "conversations": turns}


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def questions(path: Path, root: Path) -> list[Question]:
    """The rows of a file as they are asked."""
    mixture = Mixture(read_meta(path), shuffle=False)
    found = [mixture.record(mixture.place(at)) for at in range(len(mixture))]
    return [
        question(one.id, records.messages(one, [media.open_image(root / image) for image in one.images]))
        for one in found
    ]


def lora(data: Path, work: Path) -> None:
    """Sorting waste: six classes that nano has never heard of."""
    folder, splits = unpacked(data, work, "trashnet")
    held = random.Random("held out").sample(splits["test"], ASKED)
    held_out = write(work / "held_out.jsonl", [conversation(row, ASK) for row in held])
    asked = Answers(questions(held_out, folder))
    curves: dict[int, list[tuple[int, float]]] = {}
    lines = []
    for seed in SEEDS:
        learnt = random.Random(seed).sample(splits["train"], ROWS)
        path = write(work / f"train{seed}.jsonl", [conversation(row, ASK) for row in learnt])
        out = work / f"lora{seed}"
        config = change(nano_lora(), {
            "data.path": str(path), "data.root": str(folder), "data.held_out": str(held_out), "run.seed": seed,
            "run.out": str(out), "run.steps": 100, "run.eval_every": 20, "run.tensorboard": False, "run.best": "exact",
        })  # fmt: skip
        before = start(config, asked)
        began = time.perf_counter()
        result = train(config, evaluate=asked)
        log = [line for line in read_log(out) if line["kind"] == "held_out"]
        curves[seed] = [(0, before), *((line["number"], line["exact"]) for line in log)]
        minutes = (time.perf_counter() - began) / 60
        lines.append(f"| {seed} | {before:.1%} | {result.held_out['exact']:.1%} | {minutes:.1f} |")
        print(lines[-1], flush=True)
    most = max(sum(row["label"] == name for row in held) for name in {row["label"] for row in held}) / len(held)
    report(
        "nano_lora",
        "Adapters of rank 16 on nano's decoder learn to sort waste (TrashNet)",
        f"{ROWS} pictures of its training split, 100 packs, asked about {ASKED} of its test split, its commonest "
        f"class {most:.1%} of them. Exact answers:",
        ["| seed | before | after | minutes |", "|---|---|---|---|", *lines],
    )
    draw("nano_lora", "exact answers on held-out pictures", curves)


def mpo(data: Path, work: Path) -> None:
    """Sorting waste further: what `lora` made answers about pictures it has not seen; right is preferred to wrong."""
    folder, splits = unpacked(data, work, "trashnet")
    curves: dict[int, list[tuple[int, float]]] = {}
    lines = []
    answers = Answers(
        questions(write(work / "named.jsonl", [conversation(row, ASK) for row in splits["test"]]), folder)
    )
    for seed in SEEDS:
        begun, out = work / f"merged{seed}", work / f"mpo{seed}"
        shutil.rmtree(begun, ignore_errors=True)
        assert run(["merge", str(work / f"lora{seed}"), str(begun)]) == 0
        known = {row["id"] for row in random.Random(seed).sample(splits["train"], ROWS)}
        unseen = [row for row in splits["train"] if row["id"] not in known]
        learnt, held = (
            pairs_of(work / f"{name}{seed}.jsonl", rows, begun, folder)
            for name, rows in (("learnt", unseen), ("held", splits["test"]))
        )
        config = change(nano_lora(), {
            "start.model": str(begun), "data.path": str(learnt), "data.root": str(folder), "data.held_out": str(held),
            "data.held_out_rows": 4 * ASKED, "objective.kind": "mpo", "objective.reference": "adapter_off",
            "learn.vision_lora": 16, "optim.lr": 3e-3,
            "run.seed": seed, "run.out": str(out), "run.steps": 100, "run.eval_every": 25,
            "run.tensorboard": False, "run.best": "right",
        })  # fmt: skip
        named, before = start(config, answers), preferred(config, held, folder, None)
        began = time.perf_counter()

        def measure(model: Any, encoder: Any, step: int) -> dict[str, float]:
            right = preferred(config, held, folder, model)  # noqa: B023  # called within this turn of the loop
            return {"exact": answers(model, encoder, step)["exact"], "right": fmean(right)}

        result = train(config, evaluate=measure)
        minutes = (time.perf_counter() - began) / 60
        after = preferred(config, held, folder, internvl.load(result.model))
        gain = [b - a for a, b in zip(before, after, strict=True)]
        low, high = bootstrap_mean(gain)
        log = [line for line in read_log(out) if line["kind"] == "held_out"]
        curves[seed] = [(0, fmean(before)), *((line["number"], line["right"]) for line in log)]
        cells = (
            f"{seed}", f"{len(gain)}", f"{fmean(before):.1%}", f"{fmean(after):.1%}",
            f"{fmean(gain):+.1%} ({low:+.1%} to {high:+.1%})",
            f"{named:.1%}", f"{result.held_out['exact']:.1%}", f"{minutes:.1f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    report(
        "nano_mpo",
        "MPO on pairs of the model's own answers (TrashNet)",
        "The models of `nano_lora`, merged, answer eight times about each training picture that they have not seen; "
        "answers are judged by the class and paired right with wrong. Held-out pairs are made so of the whole "
        "test split. `right`: the chosen answer is likelier than the rejected one; the gain has a 95 % interval over "
        f"pairs. `named`: greedy answers to all {len(splits['test'])} test pictures that are exact.",
        [
            "| seed | pairs | right before | after | gain | named before | after | minutes |",
            "|---|---|---|---|---|---|---|---|",
            *lines,
        ],
    )
    draw("nano_mpo", "chosen likelier than rejected, held-out pairs", curves)


def contrastive(data: Path, work: Path) -> None:
    """A tiny InternVL-C finds captions that it never saw, of drawn pictures; the same little world as in its test."""
    del data, work
    from tests.training.test_contrastive_learns import OPTIM, STEPS, WAYS, prepared, recall

    config, aim = WAYS["InternVL-C"]
    tokenizer = Tokenizer.from_folder(HERE.parent / "tests" / "golden" / "checkpoints" / "internvl-14b")
    curves: dict[int, list[tuple[int, float]]] = {}
    lines = []
    for seed in SEEDS:
        batches, held_out = prepared(tokenizer, seed)
        model = PairModel(config)
        initialise(model, seed=seed)
        one = Trainer(
            model=model,
            objective=PairLoss(aim, World()),
            optimizer=adamw(model, OPTIM),
            optim=OPTIM,
            scaler=Scaler(1.0),
        )
        found = recall(model, held_out, "InternVL-C")
        curves[seed], before = [(0, fmean(found))], found
        for step in steps(one, islice(batches, STEPS), lambda number: number / STEPS):
            if step.number % 10 == 0:
                found = recall(model, held_out, "InternVL-C")
                curves[seed].append((step.number, fmean(found)))
        shown = (f"{seed}", *(f"{share:.0%}" for share in (*before, *found)))
        lines.append(f"| {' | '.join(shown)} |")
        print(lines[-1], flush=True)
    report(
        "nano_contrastive",
        "A tiny InternVL-C learns to find captions it never saw",
        f"Coloured shapes on coloured grounds, 90 captions to learn from, 30 held out (chance: 3 %), {STEPS} steps of "
        "32 pairs. Recall at 1 of held-out pictures and texts:",
        [
            "| seed | picture to text, before | text to picture | after | after |",
            "|---|---|---|---|---|",
            *lines,
        ],
    )
    draw("nano_contrastive", "recall at 1 of captions never seen", curves)


def pairs_of(path: Path, rows: Sequence[Mapping[str, str]], model: Path, pictures: Path) -> Path:
    """Preference pairs out of a model's answers, as `internvl prefer` makes them."""
    asked = [{"id": row["id"], "image": row["image"], "question": ASK, "answer": row["label"]} for row in rows]
    pairs = path.with_name(f"{path.stem}-pairs.jsonl")
    command = [
        "prefer", str(write(path, asked)), "--root", str(pictures), "--model", str(model), "--out", str(pairs),
        "--mode", "vqa", "--form", "plain", "--samples", "8", "--pairs", "2", "--max-new-tokens", "8",
    ]  # fmt: skip
    assert run(command) == 0
    return pairs


def preferred(config: TrainConfig, pairs: Path, root: Path, model: Any) -> list[float]:
    """1 for every pair of which the model finds the chosen answer likelier, 0 for the others."""
    from internvl.training.start import begin

    begun = begin(config.start)
    model = begun.model if model is None else model
    mixture = Mixture(read_meta(pairs, root=str(root), kind="preference"), shuffle=False)
    prepare = PrepareChat(begun.encoder, max_length=1024)
    right: list[float] = []
    with torch.no_grad():
        for first in range(0, len(mixture), 16):
            places = range(first, min(first + 16, len(mixture)))
            samples = [
                prepare(mixture.record(mixture.place(at)), mixture.sources[0], at, index=0, seed=0) for at in places
            ]
            batch = collate_chat(samples, packed=True)
            sums = segment_sums(read(model.eval(), batch), batch.lengths).unflatten(0, (-1, 2))
            right += (sums[:, 0] > sums[:, 1]).float().tolist()
    return right


def small(data: Path, work: Path) -> None:
    """The recipe as anybody runs it, drawing included: held-out answers on the way, and how long it took."""
    del data
    started = time.perf_counter()
    with contextlib.chdir(work):
        if run(["train", "nano_small"]):
            raise SystemExit("it did not train")
        minutes = (time.perf_counter() - started) / 60
        held = [line for line in read_log(Path(nano_small().run.out)) if line["kind"] == "held_out"]
    curve = [(line["number"], line["exact"]) for line in held]
    report(
        "nano_small",
        "A small nano learns from random weights to say what a shape is",
        f"One shape, its colour, its kind, whether it is there. {minutes:.1f} minutes in all, drawing and {len(curve)} "
        f"evaluations included, on {torch.get_num_threads()} threads. Exact answers on drawings of another seed:",
        ["| step | exact |", "|---|---|", *(f"| {step} | {share:.0%} |" for step, share in curve)],
    )
    draw("nano_small", "exact answers on drawings never seen", {0: curve})


def start(config: TrainConfig, asked: Answers) -> float:
    """What the model answers before it learns."""
    from internvl.training.start import begin

    begun = begin(config.start)
    assert begun.encoder is not None
    return asked(begun.model.eval(), begun.encoder, 0)["exact"]


def report(name: str, title: str, text: str, table: Sequence[str]) -> None:
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    lines = [f"# {title}", "", text, "", *table, "", f"`python benchmarks/nano_training.py {name[5:]}`, {machine}.", ""]
    (HERE / "results" / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")


def draw(name: str, title: str, curves: Mapping[int, Sequence[tuple[int, float]]]) -> None:
    """Curves from 0 to 100 % as an SVG that is legible on light and dark pages."""
    width, height, last = 480, 180, max(x for points in curves.values() for x, _ in points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-44 -26 {width + 70} {height + 56}" width="600" '
        f'font-family="sans-serif" font-size="12" fill="#777" role="img" aria-label="{title}">',
        f'<text x="0" y="-10" font-weight="bold">{title}</text>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = height * (1 - share)
        parts.append(f'<line x1="0" y1="{y}" x2="{width}" y2="{y}" stroke="#999" stroke-opacity="0.35"/>')
        parts.append(f'<text x="-6" y="{y + 4}" text-anchor="end">{share:.0%}</text>')
    for seed, points in curves.items():
        text = " ".join(f"{x / last * width:.1f},{height * (1 - y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{text}" fill="none" stroke="{COLOURS[seed]}" stroke-width="2"/>')
        parts.append(f'<text x="{60 * seed}" y="{height + 26}" fill="{COLOURS[seed]}">seed {seed}</text>')
    parts.append(f'<text x="{width}" y="{height + 26}" text-anchor="end">step {last}</text></svg>')
    (HERE.parent / "docs" / f"{name}.svg").write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lora", "mpo", "contrastive", "small"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/nano_training"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    {"lora": lora, "mpo": mpo, "contrastive": contrastive, "small": small}[args.what](args.data, args.work)

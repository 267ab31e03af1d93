"""Training on packs, beside padded batches of transformers' InternVL, on the same samples, interleaved in one run.

    python benchmarks/packing.py speed --repeats 5     # trained tokens a second, forward, backward and optimiser;
                                                       # by the clock, and by processor time
    python benchmarks/packing.py memory                # the growth of memory while training, each in a fresh process
    python benchmarks/packing.py wait                  # the share of a step that waits for data, with one worker

A small shape with the proportions of InternVL2.5-8B (decoder 25 times the tower, 16 slots a tile), random fp32 weights
from one seed, no recomputation. The mixture is fixed: half dialogues, the rest one picture, several, or a video; see
`write_rows`. Padded batches have 8 rows in the order of the mixture, grouped ones 8 of similar length, packs as many
tokens as a padded batch has on average. Needs `pip install internvl[parity]`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from speed import transformers_model

import internvl
from internvl.data.batch import ChatBatch
from internvl.data.image import normalise
from internvl.data.ledger import Ledger
from internvl.data.mixture import Mixture, Source
from internvl.data.packing import Former, LengthGroups, Packer, Plain, collate_chat
from internvl.data.prepare import PrepareChat
from internvl.data.stream import Stream
from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig
from internvl.models.init import initialise
from internvl.training.chat_objectives import Sft
from internvl.training.config import Aim, Optim
from internvl.training.loop import Step, Trainer, steps
from internvl.training.optim import Scaler, adamw
from internvl.weights.load import load_encoder

SAMPLES, ROWS, TOKENS, TILES = 64, 8, 2048, 48
LONGEST = 1536
WORDS = (
    "the",
    "small",
    "red",
    "car",
    "is",
    "on",
    "a",
    "table",
    "beside",
    "two",
    "green",
    "boxes",
    "what",
    "does",
    "it",
    "say",
)
FORMERS: dict[str, Callable[[], Former]] = {
    "packed": lambda: Packer(TOKENS, TILES),
    "grouped": lambda: LengthGroups(ROWS, SAMPLES // ROWS),
    "padded": lambda: Plain(ROWS),
}


def config() -> ChatConfig:
    """nano's tokens and slots, with a decoder that outweighs the tower as that of InternVL2.5-8B does."""
    nano = internvl.load().config
    assert isinstance(nano, ChatConfig)
    vision = replace(nano.vision, dim=96, layers=2, heads=3, mlp_dim=384)
    text = replace(nano.text, vocab=6144, dim=256, layers=6, heads=4, kv_heads=2, mlp_dim=768)
    return replace(nano, vision=vision, text=text)


def write_rows(folder: Path) -> None:
    """Half dialogues of 20 to 1000 words (log-normal), a third one picture, a tenth 2 to 4 of them, some 8 frames."""
    draw = np.random.default_rng(0)

    def words(middle: float) -> str:
        count = int(np.clip(draw.lognormal(np.log(middle), 0.9), 5, 700))
        return " ".join(draw.choice(WORDS, count))

    def picture(name: str) -> str:
        width, height = (int(side) for side in draw.integers(120, 900, 2))
        coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((width, height)).save(folder / name, quality=90)
        return name

    rows: list[dict[str, object]] = []
    for at in range(SAMPLES):
        kind = draw.choice(["text", "one", "several", "frames"], p=[0.5, 0.35, 0.1, 0.05])
        media: dict[str, object] = {}
        if kind == "one":
            media["image"] = picture(f"{at}.jpg")
        elif kind == "several":
            media["image"] = [picture(f"{at}-{n}.jpg") for n in range(int(draw.integers(2, 5)))]
        elif kind == "frames":
            (folder / f"{at}").mkdir()
            for n in range(8):
                picture(f"{at}/{n}.jpg")
            media["video"] = f"{at}"
        answer = words(80 if kind == "text" else 25)
        said = [{"from": "human", "value": words(12)}, {"from": "gpt", "value": answer}]
        rows.append({"id": at, "conversations": said, **media})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def stream(folder: Path, former: str, *, workers: int = 0, end: int = SAMPLES) -> Stream:
    source = Source(annotation=str(folder / "rows.jsonl"), name="rows", root=str(folder))
    prepare = PrepareChat(
        load_encoder().changed(max_tiles=12), max_length=LONGEST, frames=(8, 8), overlong="fewer_tiles"
    )
    collate = partial(collate_chat, packed=former == "packed")
    ledger = Ledger(None, budget=0.0, sources=["rows"])
    return Stream(
        Mixture([source], seed=0), prepare, FORMERS[former](), collate, ledger, workers=workers, end=end,
    )  # fmt: skip


class Ours:
    """Our model in our loop."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = ChatModel(config())
        initialise(self.model)
        optim = Optim(lr=1e-4)
        self.trainer = Trainer(self.model, Sft(Aim()), adamw(self.model, optim), optim, Scaler(1.0))

    def train(self, batches: Sequence[ChatBatch] | Stream) -> list[Step]:
        return list(steps(self.trainer, iter(batches), lambda _: 0.5))


class Theirs:
    """transformers' model in the usual loop: loss, backward, clip, step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = transformers_model(config()).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.05)

    def train(self, batches: Sequence[ChatBatch]) -> None:
        for batch in batches:
            pixels = {"pixel_values": normalise(batch.tiles)} if len(batch.tiles) else {}
            out = self.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.targets, **pixels
            )
            self.optimizer.zero_grad(set_to_none=True)
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()


def sides(folder: Path) -> dict[str, tuple[Callable[[], object], list[ChatBatch]]]:
    """Name -> what trains on all samples once, and its batches, all of them in memory."""
    ours, theirs = Ours(), Theirs()
    made = {name: [b for b in stream(folder, name) if isinstance(b, ChatBatch)] for name in FORMERS}
    return {
        "ours, packed": (lambda: ours.train(made["packed"]), made["packed"]),
        "ours, grouped": (lambda: ours.train(made["grouped"]), made["grouped"]),
        "transformers, padded": (lambda: theirs.train(made["padded"]), made["padded"]),
    }


def speed(folder: Path, repeats: int) -> None:
    found = sides(folder)
    learnt = {name: sum(batch.learnt for batch in batches) for name, (_, batches) in found.items()}
    assert len(set(learnt.values())) == 1, "every side learns the same tokens"
    seconds: dict[str, list[float]] = {name: [] for name in found}
    processor: dict[str, list[float]] = {name: [] for name in found}
    for repeat in range(repeats + 1):
        for name in list(found) if repeat % 2 else list(found)[::-1]:
            start, used = time.perf_counter(), time.process_time()
            found[name][0]()
            if repeat:  # the first of each is thrown away
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - used)
    packed = statistics.median(seconds["ours, packed"])
    print(
        "| side | batches | places with padding | trained tokens/s | packed is faster by | each round | by processor |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (_, batches) in found.items():
        places = sum(batch.input_ids.numel() for batch in batches)
        middle = statistics.median(seconds[name])
        rounds = sorted(b / a for a, b in zip(seconds["ours, packed"], seconds[name], strict=True))
        print(
            f"| {name} | {len(batches)} | {places} | {learnt[name] / middle:.0f} | {middle / packed:.2f} "
            f"| {rounds[0]:.2f} to {rounds[-1]:.2f} "
            f"| {statistics.median(processor[name]) / statistics.median(processor['ours, packed']):.2f} |"
        )


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grown(folder: Path, side: str) -> None:
    """Print by how many bytes memory grew at most while training once on everything."""
    batches = [b for b in stream(folder, "padded" if side == "transformers" else side) if isinstance(b, ChatBatch)]
    train = Theirs().train if side == "transformers" else Ours().train
    before = resident()
    train(batches)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def memory(folder: Path, repeats: int) -> None:
    print("| side | memory above model and data, MiB |\n|---|---|")
    for side in ("packed", "grouped", "transformers"):
        command = [sys.executable, __file__, "grown", "--side", side, "--folder", str(folder)]
        found = [int(subprocess.check_output(command, text=True).split()[-1]) / 2**20 for _ in range(repeats)]
        print(f"| {side} | {min(found):.0f} to {max(found):.0f} |", flush=True)


def wait(folder: Path, repeats: int) -> None:
    """The whole way, from files to steps, with one process that prepares; the first step waits for it to start."""
    for _ in range(repeats):
        done = Ours().train(stream(folder, "packed", workers=1, end=2 * SAMPLES))
        share = sum(step.waited for step in done[1:]) / sum(step.seconds for step in done[1:])
        print(
            f"{len(done)} steps, {sum(step.samples for step in done)} samples: {share:.1%} of the time was waiting for "
            f"data; the first step waited {done[0].waited:.2f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["speed", "memory", "wait", "grown"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", default="packed")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what == "grown":
        grown(given.folder, given.side)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder))
        {"speed": speed, "memory": memory, "wait": wait}[given.what](Path(folder), given.repeats)


if __name__ == "__main__":
    main()

"""Train nano: a plain fine-tuning loop on answers, by the clock, from random weights or from a checkpoint.

    python -m internvl.nano.train --data ../shared/data --minutes 65 --out /tmp/nano

Every step learns from a mixture of tasks. Besides the answers, two small heads that are thrown away afterwards are
taught on the image features: what the picture shows, and which character stands where in a drawn line. For the first
part of the time they are all there is: tower and projector learn alone, which costs half as much a picture. A decoder
that meets features without meaning learns to answer without looking, and unlearns it slowly.

The folder holds `tokenizer/`, `state/` (all that is needed to go on after an interruption; replaced whole),
`checkpoint/` (a published checkpoint, rewritten at every evaluation) and `log.jsonl`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from internvl.data.encode import Encoder
from internvl.data.image import normalise
from internvl.data.tokenizer import Tokenizer
from internvl.models.chat import ChatModel
from internvl.models.init import initialise
from internvl.nano import form, vocab
from internvl.nano.corpus import Corpus, ask
from internvl.nano.exam import held_out_samples, score
from internvl.nano.fonts import LEARNT, UNSEEN, find_fonts
from internvl.nano.lessons import CHARACTERS, PLACES, Batch, Stream
from internvl.nano.optim import Muon, is_matrix
from internvl.nano.world import COUNT, READ, TALK, Sample, draw_scene

MATRIX_RATE, OTHER_RATE = 0.015, 1.5e-3
NAMING_WEIGHT, READING_WEIGHT = 1.0, 3.0
BLANK = 0.1
"""What a place without a character weighs in reading: they are many and soon known."""
LOOKING = 0.35
"""Share of the time in which only tower, projector and the helping heads learn."""


class Heads(nn.Module):
    """Thrown away after training: name of the picture from the mean slot, characters from each column of slots."""

    def __init__(self, dim: int, names: int) -> None:
        super().__init__()
        self.name = nn.Linear(dim, names)
        side = form.TILE // form.PATCH // 2
        self.characters = nn.Linear(side * dim, PLACES // side * (len(CHARACTERS) + 1))

    def losses(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """features (tiles, slots, dim), slots row by row."""
        named = self.name(features[batch.last_tile].mean(1))
        side = math.isqrt(features.shape[1])
        columns = (
            features[batch.line_tiles].unflatten(1, (side, side)).transpose(1, 2).flatten(2)
        )  # (n, columns, side * dim)
        read = self.characters(columns).flatten(1).unflatten(1, (PLACES, -1))
        places = batch.line_characters.flatten()
        return (
            mean_loss(named, batch.names, torch.ones(len(batch.names))),
            mean_loss(read.flatten(0, 1), places, torch.where(places == 0, BLANK, 1.0)),
        )


def mean_loss(logits: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy, 0 where a part of a batch has nothing of this kind."""
    losses = F.cross_entropy(logits.float(), wanted, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1.0)


def answer_losses(model: ChatModel, batch: Batch, features: Tensor) -> tuple[Tensor, dict[str, list[float]]]:
    """Mean cross-entropy over answer tokens, and its parts by task."""
    hidden = model.hidden(batch.input_ids, features)
    rows, columns = (batch.targets != -100).nonzero(as_tuple=True)
    logits = model.language_model.logits(hidden[rows, columns - 1]).float()
    losses = F.cross_entropy(logits, batch.targets[rows, columns], reduction="none")
    parts: dict[str, list[float]] = defaultdict(list)
    for row, loss in zip(rows.tolist(), losses.tolist(), strict=True):
        parts[batch.tasks[row]].append(loss)
    return losses.mean(), parts


def rate_at(progress: float, step: int) -> float:
    """Warm-up over 150 steps, flat to 40 % of the time, then down to zero along a straight line."""
    return min(1.0, (step + 1) / 150) * min(1.0, max(0.0, 1.0 - progress) / 0.6)


class Trainer:
    """Weights, optimisers and clock; `save` and `resume` keep all of them."""

    def __init__(
        self, image_token: int, names: int, *, seed: int, minutes: float, threads: int = 2, start: Path | None = None
    ) -> None:
        self.model = ChatModel(form.chat_config(image_token))
        initialise(self.model, seed=seed)
        if start is not None:
            self.model.load_state_dict(load_file(start / "model.safetensors"))
        self.heads = Heads(form.TEXT["hidden_size"], names)
        self.all = nn.ModuleDict({"model": self.model, "heads": self.heads})
        self.fast_model, self.fast_heads = copy.deepcopy(self.model).bfloat16(), copy.deepcopy(self.heads).bfloat16()
        self.fast = nn.ModuleDict({"model": self.fast_model, "heads": self.fast_heads})
        """The same in bf16, which is multiplied four times as fast; the weights that learn stay in fp32."""
        named = [(n.partition(".")[2] if n.startswith("model.") else n, p) for n, p in self.all.named_parameters()]
        self.muon = Muon([(n, p) for n, p in named if is_matrix(n, p)], momentum=0.95, decay=0.04)
        self.adam = torch.optim.AdamW(
            [p for n, p in named if not is_matrix(n, p)], lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.rest = [p for n, p in named if not is_matrix(n, p)]
        self.seconds, self.number, self.budget = 0.0, 0, minutes * 60
        self.pool = ThreadPoolExecutor(threads)

    @property
    def looking(self) -> bool:
        return self.seconds < LOOKING * self.budget

    def step(self, batches: Sequence[Batch]) -> dict[str, Any]:
        """Learn from all `batches` at once; each is computed by one thread, whichever is free."""
        began = time.monotonic()
        for fast, exact in zip(self.fast.parameters(), self.all.parameters(), strict=True):
            fast.data.copy_(exact.data)
        rate = rate_at(self.seconds / self.budget, self.number)
        results = list(self.pool.map(self.gradients, batches))
        for parameter, *parts in zip(self.all.parameters(), *(gradients for gradients, _ in results), strict=True):
            learns = parts[0] is not None  # the same in all parts: it is a matter of time
            parameter.grad = torch.stack([part.float() for part in parts]).mean(0) if learns else None
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = OTHER_RATE * rate
        self.adam.step()
        self.muon.step(MATRIX_RATE * rate, self.pool)
        self.number += 1
        self.seconds += time.monotonic() - began
        found: dict[str, list[float]] = defaultdict(list)
        for _, losses in results:
            for name, values in losses.items():
                found[name] += values
        return found

    def gradients(self, batch: Batch) -> tuple[Sequence[Tensor | None], dict[str, list[float]]]:
        """Of every parameter that learns now, in bf16, without touching its `grad`: threads share the weights."""
        features = self.fast_model.image_features(normalise(batch.tiles, "imagenet"))
        naming, reading = self.fast_heads.losses(features, batch)
        losses: dict[str, list[float]] = {"naming": [naming.item()], "reading": [reading.item()]}
        loss = NAMING_WEIGHT * naming + READING_WEIGHT * reading
        if not self.looking:
            answers, by_task = answer_losses(self.fast_model, batch, features)
            loss = loss + answers
            losses |= by_task | {"answers": [answers.item()]}
        return torch.autograd.grad(loss, list(self.fast.parameters()), allow_unused=True), losses

    def save(self, folder: Path) -> None:
        """Replace `folder` by the present state, whole or not at all."""
        new = folder.with_name(folder.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in self.all.state_dict().items()}, new / "model.safetensors")
        moments = {f"muon.{r}.{c}": b for (r, c), b in self.muon.buffers.items()}
        for i, p in enumerate(self.rest):
            moments |= {f"adam.{i}.{k}": v.contiguous() for k, v in self.adam.state[p].items()}
        save_file(moments, new / "optimiser.safetensors")
        form.write_json(new / "state.json", {"seconds": self.seconds, "number": self.number})
        old = folder.with_name(folder.name + ".old")
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
        shutil.rmtree(old, ignore_errors=True)

    def resume(self, folder: Path) -> None:
        self.all.load_state_dict(load_file(folder / "model.safetensors"))
        moments = load_file(folder / "optimiser.safetensors")
        self.muon.buffers = {(r, c): moments[f"muon.{r}.{c}"] for r, c in self.muon.buffers}
        for i, p in enumerate(self.rest):
            if f"adam.{i}.step" in moments:  # what has not learnt yet has none
                self.adam.state[p] = {k: moments[f"adam.{i}.{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        self.seconds, self.number = state["seconds"], state["number"]


# --- the run ------------------------------------------------------------------------------------------------------


def vocabulary_texts(corpus: Corpus) -> Iterator[str]:
    """What the merges are learnt from: questions, answers and talk; drawn text is left to single letters."""
    rng = random.Random("vocabulary")
    choices = {task: sorted({i.name for i in items}) for task, items in corpus.training.items()}
    for task in ("photo", "icon", "flag"):
        for item in corpus.training[task]:
            yield from (part for turn in ask(rng, item, choices[task]).turns for part in turn)
    for _ in range(500):
        yield from (part for turn in draw_scene(rng).turns for part in turn)
    for questions, reply in TALK:
        yield from [*questions, reply] * 20
    yield from [*READ, *COUNT, form.SYSTEM_MESSAGE, "user\n", "assistant\n", "system\n"] * 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with caltech101, emoji, flags and sroie")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=65)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from: its weights and its tokenizer")
    args = parser.parse_args()

    corpus = Corpus.read(args.data)
    if not (args.out / "tokenizer").exists() and args.start:
        shutil.copytree(args.start, args.out / "tokenizer", ignore=shutil.ignore_patterns(*form.NOT_TOKENIZER))
    elif not (args.out / "tokenizer").exists():
        vocab.build(vocabulary_texts(corpus), args.out / "tokenizer", size=form.VOCAB)
    encoder = Encoder(Tokenizer.from_folder(args.out / "tokenizer"), form.ENCODING)
    stream = Stream(corpus, encoder, find_fonts(LEARNT), parts=2 * args.threads, seed=args.seed)
    torch.set_num_threads(1)  # the threads are ours: each takes parts of the batch, so that they wait once a step
    trainer = Trainer(
        encoder.tokenizer.special("<IMG_CONTEXT>").id, len(stream.names), seed=args.seed, minutes=args.minutes,
        threads=args.threads, start=args.start,
    )  # fmt: skip
    if (args.out / "state").exists():
        trainer.resume(args.out / "state")
        stream.first = trainer.number
    held_out = held_out_samples(corpus, find_fonts(UNSEEN), limit=150)
    with sdpa_kernel(SDPBackend.MATH):  # short rows: plain products were measured faster than the fused kernel
        run(trainer, stream, encoder, held_out, args.out)


def run(trainer: Trainer, stream: Stream, encoder: Encoder, held_out: dict[str, list[Sample]], out: Path) -> None:
    """Step until the time is used up; every fifteen minutes measure, save and write a checkpoint."""
    batches = iter(DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=8))
    recent: dict[str, list[float]] = defaultdict(list)
    next_measure = trainer.seconds + 300
    while trainer.seconds < trainer.budget:
        losses = trainer.step(next(batches))
        for name, values in losses.items():
            recent[name] += values
        if trainer.number % 100 == 0:
            log(out, trainer, {k: round(sum(v) / len(v), 4) for k, v in sorted(recent.items())})
            recent.clear()
        if trainer.seconds >= min(next_measure, trainer.budget):
            next_measure += 900
            trainer.save(out / "state")
            form.write_checkpoint(trainer.model.state_dict(), out / "tokenizer", out / "checkpoint")
            log(out, trainer, {"held_out": score(trainer.model.eval(), encoder, held_out)})
            trainer.model.train()


def log(out: Path, trainer: Trainer, values: dict[str, Any]) -> None:
    line = json.dumps({"step": trainer.number, "seconds": round(trainer.seconds), **values})
    with (out / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


if __name__ == "__main__":
    main()

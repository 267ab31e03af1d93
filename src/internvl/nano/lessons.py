"""What a step of training learns from: samples drawn from a mixture of tasks, as tensors.

stream = Stream(corpus, encoder, fonts, parts=2, seed=0)
next(iter(stream))      # [Batch, Batch]: step 0
"""

from __future__ import annotations

import math
import random
import string
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from internvl.data.encode import Encoder
from internvl.data.prompts import Image, Message, Text
from internvl.nano import form
from internvl.nano.corpus import Corpus, Item, ask
from internvl.nano.fonts import PLAIN
from internvl.nano.world import MAX_SHAPES, Sample, Style, count_name, draw_line, draw_scene, echo, talk

MIXTURE = {"photo": 0.1, "icon": 0.3, "flag": 0.11, "count": 0.09, "read": 0.36, "receipt": 0.02, "echo": 0.01,
           "talk": 0.01}  # fmt: skip
BATCH = 64
LONG_LINES_AFTER = 8000
"""Steps until drawn lines may have 12 characters; they begin with 2."""
PLACES = 2 * form.TILE // form.PATCH
"""Columns of a tile in which training says which character stands there: two a patch."""
CHARACTERS = {c: i for i, c in enumerate(string.printable[:94], start=1)}


def messages(sample: Sample, *, turns: int | None = None) -> list[Message]:
    """The conversation of a sample; the picture comes with the first question. `turns`: only so many questions, and
    no answer to the last."""
    asked = sample.turns[:turns]
    found = []
    for number, (question, answer) in enumerate(asked):
        picture = (Image(sample.picture),) if sample.picture is not None and number == 0 else ()
        found.append(Message("user", (*picture, Text(question))))
        found.append(Message("assistant", (Text(answer),)))
    return found[:-1] if turns is not None else found


@dataclass(frozen=True)
class Batch:
    """Tensors of one step; rows are right padded."""

    input_ids: Tensor  # (B, T)
    targets: Tensor  # (B, T), -100 where nothing is learnt
    tiles: Tensor  # (tiles of all rows, S, S, 3) uint8
    last_tile: Tensor  # (named rows,) the one that shows the whole picture
    names: Tensor  # (named rows,)
    line_tiles: Tensor  # (tiles of drawn lines,)
    line_characters: Tensor  # (tiles of drawn lines, PLACES): 0 for none
    tasks: tuple[str, ...]


class Stream(IterableDataset[list[Batch]]):
    """The batches of step after step, each a function of (seed, number): going on at a number draws new ones."""

    def __init__(self, corpus: Corpus, encoder: Encoder, fonts: Sequence[Path], *, parts: int, seed: int) -> None:
        self.corpus, self.encoder, self.fonts, self.parts, self.seed = corpus, encoder, tuple(fonts), parts, seed
        self.plain_fonts = tuple(path for path in self.fonts if path.stem in PLAIN)
        self.first = 0
        self.choices = {task: sorted({i.name for i in items}) for task, items in corpus.training.items()}
        known = {name for task, names in self.choices.items() if task != "receipt" for name in names}
        counts = [count_name(count) for count in range(MAX_SHAPES + 1)]
        self.names = {name: i for i, name in enumerate([*sorted(known), *counts])}
        self.weights = {task: np.cumsum(weights(items)).tolist() for task, items in corpus.training.items()}

    def __iter__(self) -> Iterator[list[Batch]]:
        torch.set_num_threads(1)
        number = self.first
        while True:
            rng = random.Random(f"{self.seed} {number}")
            tasks = rng.choices(list(MIXTURE), list(MIXTURE.values()), k=BATCH)
            samples = sorted((self.sample(rng, task, number) for task in tasks), key=written)
            size = -(-BATCH // self.parts)  # rows of one length go together: less padding
            yield [self.collate(samples[start : start + size]) for start in range(0, BATCH, size)]
            number += 1

    def sample(self, rng: random.Random, task: str, number: int) -> Sample:
        if task == "count":
            return draw_scene(rng)
        longest = rng.randint(1, 2 + round(10 * min(1.0, number / LONG_LINES_AFTER)))
        if task == "echo":
            return echo(rng, self.corpus.words, longest)
        if task == "read":
            fonts = self.plain_fonts if rng.random() < 0.7 else self.fonts
            return draw_line(rng, Style(fonts, longest, clean=rng.random() < 0.8), words=self.corpus.words)
        if task == "talk":
            return talk(rng)
        item: Item = rng.choices(self.corpus.training[task], cum_weights=self.weights[task])[0]
        return ask(rng, item, self.choices[task])

    def collate(self, samples: Sequence[Sample]) -> Batch:
        encoded = [self.encoder.encode(messages(sample), generate=False) for sample in samples]
        longest = max(len(e.input_ids) for e in encoded)
        input_ids = torch.zeros(len(samples), longest, dtype=torch.long)
        targets = torch.full((len(samples), longest), -100)
        last_tile: list[int] = []
        names: list[int] = []
        line_tiles: list[int] = []
        characters: list[list[int]] = []
        tile = 0
        for row, (sample, e) in enumerate(zip(samples, encoded, strict=True)):
            input_ids[row, : len(e.input_ids)] = torch.tensor(e.input_ids)
            targets[row, : len(e.targets)] = torch.tensor(e.targets)
            if sample.name is not None:
                last_tile.append(tile + len(e.tiles) - 1)
                names.append(self.names[sample.name])
            if sample.letters and sample.picture is not None and sample.picture.width >= sample.picture.height:
                across = max(1, len(e.tiles) - 1)
                line_tiles += range(tile, tile + across)
                characters += places(sample.letters, across)
            tile += len(e.tiles)
        return Batch(
            input_ids, targets, torch.from_numpy(np.concatenate([e.tiles for e in encoded])),
            torch.tensor(last_tile, dtype=torch.long), torch.tensor(names, dtype=torch.long),
            torch.tensor(line_tiles, dtype=torch.long), torch.tensor(characters, dtype=torch.long).view(-1, PLACES),
            tuple(sample.task for sample in samples),
        )  # fmt: skip


def written(sample: Sample) -> int:
    """Characters of a sample's conversation, which its tokens grow with."""
    return sum(len(question) + len(answer) + 30 for question, answer in sample.turns)


def weights(items: Sequence[Item]) -> list[float]:
    """Items of a large class are drawn less often, by the root of its size."""
    sizes: dict[str, int] = defaultdict(int)
    for item in items:
        sizes[item.name] += 1
    return [item.weight / math.sqrt(sizes[item.name]) for item in items]


def places(letters: Sequence[tuple[str, float, float]], across: int) -> list[list[int]]:
    """The character over the middle of each of `PLACES` columns, tile by tile; 0 where there is none."""
    found = [0] * (across * PLACES)
    for character, left, right in letters:
        for column in range(len(found)):
            if left <= (column + 0.5) / len(found) < right:
                found[column] = CHARACTERS.get(character, 0)
    return [found[i : i + PLACES] for i in range(0, len(found), PLACES)]

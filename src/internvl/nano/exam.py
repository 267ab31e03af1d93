"""What nano is measured on: questions about pictures that training never reads.

python -m internvl.nano.exam --data ../shared/data      # the table of the card, from the embedded checkpoint
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from internvl.data.encode import Encoder
from internvl.data.image import normalise
from internvl.data.tokenizer import Tokenizer
from internvl.metrics.edits import levenshtein
from internvl.models.attention import KVCache
from internvl.models.chat import ChatModel
from internvl.nano import form
from internvl.nano.corpus import Corpus, plain
from internvl.nano.fonts import UNSEEN, find_fonts
from internvl.nano.lessons import messages
from internvl.nano.world import TALK, Sample, Style, draw_line, draw_scene

EXACT = ("read", "short", "receipt")
"""Tasks where upper and lower case matter."""


@torch.no_grad()
def answer(model: ChatModel, encoder: Encoder, samples: Sequence[Sample], *, longest: int = 28) -> list[str]:
    """The greedy answer to the first question about each sample, at most `longest` tokens; fifty at a time."""
    answers: list[str] = []
    for start in range(0, len(samples), 50):
        encoded = [encoder.encode(messages(sample, turns=1)) for sample in samples[start : start + 50]]
        lengths = torch.tensor([len(e.input_ids) for e in encoded])
        input_ids = torch.zeros(len(encoded), int(lengths.max()), dtype=torch.long)
        for row, e in enumerate(encoded):
            input_ids[row, : len(e.input_ids)] = torch.tensor(e.input_ids)
        tiles = np.concatenate([e.tiles for e in encoded])
        features = model.image_features(normalise(tiles, "imagenet")) if len(tiles) else None
        cache = KVCache(model.config.text, len(encoded), input_ids.shape[1] + longest)
        token = model.prefill(input_ids, features, cache=cache, lengths=lengths).argmax(-1)
        tokens = [token]
        for _ in range(longest - 1):
            token = model.step(token[:, None], cache=cache).argmax(-1)
            tokens.append(token)
        for row in torch.stack(tokens, 1).tolist():
            ends = [i for i, token in enumerate(row) if token in encoder.stop_ids]
            answers.append(encoder.tokenizer.decode(row[: ends[0] if ends else None]).strip())
    return answers


def held_out_samples(corpus: Corpus, fonts: Sequence[Path], *, limit: int) -> dict[str, list[Sample]]:
    """Samples that are never trained on, the same at every call, at most `limit` a task."""
    rng = random.Random("held out")
    found = {}
    for task, items in corpus.held_out.items():
        found[task] = [plain(item) for item in sorted(rng.sample(items, min(limit, len(items))), key=lambda i: i.id)]
    found["count"] = [draw_scene(rng) for _ in range(limit)]
    found["read"] = [draw_line(rng, Style(tuple(fonts), 10, clean=True), words=corpus.words) for _ in range(limit)]
    found["talk"] = [Sample("talk", None, ((q[0], a),)) for q, a in TALK]
    found["short"] = [draw_line(rng, Style(tuple(fonts), 4, clean=True), words=corpus.words) for _ in range(limit)]
    return found


def score(model: ChatModel, encoder: Encoder, samples: dict[str, list[Sample]]) -> dict[str, float]:
    """Share of right answers by task; case counts only in reading, which also has its character error rate."""
    shares: dict[str, float] = {}
    for task, members in samples.items():
        pairs = [(given, s.turns[0][1]) for given, s in zip(answer(model, encoder, members), members, strict=True)]
        shares[task] = sum(is_right(task, given, wanted) for given, wanted in pairs) / len(pairs)
        if task in EXACT:
            shares[f"{task}_cer"] = sum(levenshtein(*pair) for pair in pairs) / sum(len(wanted) for _, wanted in pairs)
    return shares


def is_right(task: str, given: str, wanted: str) -> bool:
    return given == wanted if task in EXACT else given.casefold() == wanted.casefold()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a checkpoint of nano on what it never saw.")
    parser.add_argument("--data", type=Path, required=True, help="the folder with caltech101, emoji, flags and sroie")
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).parent / "checkpoint")
    parser.add_argument("--limit", type=int, default=3000, help="pictures a task")
    parser.add_argument("--failures", type=int, default=0, help="print so many wrong answers a task")
    args = parser.parse_args()
    encoder = Encoder(Tokenizer.from_folder(args.checkpoint), form.ENCODING)
    model = ChatModel(form.chat_config(encoder.tokenizer.special("<IMG_CONTEXT>").id)).eval()
    model.load_state_dict(load_file(args.checkpoint / "model.safetensors"))
    samples = held_out_samples(Corpus.read(args.data), find_fonts(UNSEEN), limit=args.limit)
    for task, members in samples.items():
        shares = score(model, encoder, {task: members})
        print(f"{task:8} {len(members):5} rows", " ".join(f"{key} {value:.3f}" for key, value in shares.items()))
        wrong = 0
        for sample, given in zip(members, answer(model, encoder, members[: 5 * args.failures]), strict=False):
            question, wanted = sample.turns[0]
            if wrong < args.failures and not is_right(task, given, wanted):
                print(f"    {question} -> {given!r}, expected {wanted!r}")
                wrong += 1


if __name__ == "__main__":
    main()

"""A small benchmark, and a program that asks it: what tests start under torchrun, and kill.

python -m tests.evaluation.asker RUN [SECONDS_BETWEEN_ANSWERS]
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from internvl import Chat
from internvl.evaluation.benchmark import Benchmark, Compat, Mark, Picture, Sample, Settings, Source, mean_score
from internvl.evaluation.folder import Folder
from internvl.evaluation.manifest import begin
from internvl.evaluation.planning import Task, plan
from internvl.evaluation.ranks import Ranks
from internvl.evaluation.responders import LocalResponder
from internvl.evaluation.runner import Progress, answer_all
from tests.conftest import golden

COUNT = 13
QUESTIONS = ("What is this?", "Which of <image> and <image> is larger?", "Name it.", "2 + 2?")
SIZES = ((60, 50), (224, 112), (112, 224), (300, 120))


def png(seed: int) -> bytes:
    """A picture of noise, of one of four sizes."""
    width, height = SIZES[seed % len(SIZES)]
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Pillow.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def samples(folder: Folder) -> Iterator[Sample]:
    del folder  # they are drawn
    for number in range(COUNT):
        prompt = QUESTIONS[number % len(QUESTIONS)]
        count = (1, 2, 1, 0)[number % len(QUESTIONS)]
        pictures = tuple(Picture(f"{number}-{i}.png", partial(png, 10 * number + i)) for i in range(count))
        yield Sample(id=f"q{number}", prompt=prompt, pictures=pictures, answer="a", facts={"kind": number % 2})


def mark(sample: Sample, answer: str, *, compat: Compat) -> Mark:
    """Whether a letter occurs; "original" counts it in capitals too."""
    text = answer.lower() if compat == "original" else answer
    return Mark(float(sample.answer in text), answer)


BENCHMARK = Benchmark(
    name="noise",
    title="Noise",
    paper="none",
    group="own",
    sources=(Source("shared", (), samples),),
    mark=mark,
    summarise=mean_score(by=("kind",)),
    settings=Settings(max_new_tokens=8, max_tiles=3),
)


def tiny() -> Chat:
    return Chat.load(golden("checkpoints/qwen2-v2_5-bf16"), device="cpu", dtype="float32")


def ask(task: Task, chat: Chat, out: Path, *, batch_size: int = 3, pause: float = 0.0) -> int:
    """Ask a task into a run; how many answers came."""

    def watch(progress: Progress) -> None:
        time.sleep(pause)

    ranks = Ranks.here()
    responder = LocalResponder(chat, name="tiny", batch_size=batch_size)
    with ranks.joined():
        if ranks.rank == 0:
            begin(out, {task.benchmark.name: task.about}, responder.describe())
        ranks.wait()
        came = answer_all([task], responder, out, ranks=ranks, watch=watch)
        ranks.wait()
    return came


if __name__ == "__main__":
    pause = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    print(ask(plan(BENCHMARK, Path.cwd()), tiny(), Path(sys.argv[1]), pause=pause))

"""The stages that make nano, the embedded model: tower, projector, fine-tuning, preferences.

    internvl world runs/nano_world --data ../shared/data        its training data, drawn
    internvl train nano_tower                                   what pictures show, as classes
    internvl train nano_align                                   projector and decoder meet the tower
    internvl train nano_sft                                     everything learns from conversations, packed
    internvl train nano_mpo                                     right answers beside wrong ones

Each stage begins with the model of the one before; `nano_align` takes its decoder from the nano inside, whose weights
came another way (benchmarks/results/nano.md). How far it goes is one dial, `run.steps`: the steps here are what two CPU
cores do in some hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from internvl.recipes.recipe import Recipe, finished
from internvl.training.config import Aim, Data, Learn, Optim, Parallel, Run, Start, TrainConfig

WORLD = "runs/nano_world"
PLAIN = Parallel(checkpoint_language=False, checkpoint_vision=False)
"""Nothing is recomputed: the model is small."""


def nano_tower() -> TrainConfig:
    """The tower of nano learns what pictures of the world show, as classes: the supervised start.

    A decoder that meets features without meaning learns to answer without looking, and unlearns it slowly; so the tower
    is first. The head is thrown away.
    """
    return TrainConfig(
        start=Start(),
        data=Data(
            path=f"{WORLD}/labels.json", classes=f"{WORLD}/classes.txt", batching="plain", rows=64, workers=1,
            bad_rows=0.001,
        ),
        objective=Aim(kind="classify", label_smoothing=0.05),
        optim=Optim(lr=1e-3, weight_decay=0.05, decay_all=False, betas=(0.9, 0.98), warmup=200, floor=0.05),
        run=Run(out="runs/nano_tower", steps=4000, batch=64, save_every=500, keep=1, log_every=20),
        parallel=PLAIN,
    )  # fmt: skip


def nano_align() -> TrainConfig:
    """Projector and decoder of nano meet the tower of `nano_tower`, which stays as it is.

    350 steps of one pack brought the loss of an answer's token from 3.6 to 1.2 where the decoder was grown out of a
    smaller one; twelve minutes on one core of an x86 machine with avx512_bf16.
    """
    return TrainConfig(
        start=Start(model="nano", vision=finished("nano_tower")),
        learn=Learn(vision=False),
        data=_conversations(),
        optim=Optim(lr=2e-3, weight_decay=0.02, decay_all=False, betas=(0.9, 0.98), warmup=100, floor=0.2),
        run=Run(out="runs/nano_align", steps=1000, batch=2, save_every=500, keep=1, log_every=10),
        parallel=PLAIN,
    )


def nano_sft() -> TrainConfig:
    """All of nano learns from the conversations of the world, in packs, with dynamic tiles.

    The tower learns at less than half the rate of the rest. A step of two packs, some 68 samples and 130 tiles, takes
    about 4 s on one core of an x86 machine with avx512_bf16; under torchrun every rank has packs of its own.
    """
    return TrainConfig(
        start=Start(model=finished("nano_align")),
        data=_conversations(),
        optim=Optim(
            lr=7e-4, vision_lr=3e-4, weight_decay=0.05, decay_all=False, betas=(0.9, 0.98), warmup=200, floor=0.02
        ),
        run=Run(out="runs/nano_sft", steps=5000, batch=2, save_every=500, keep=1, log_every=10),
        parallel=PLAIN,
    )


def nano_mpo() -> TrainConfig:
    """nano learns to prefer the right answers of the world to plausible wrong ones: MPO, all weights.

    The reference is the model that it began with.
    """
    return TrainConfig(
        start=Start(model=finished("nano_sft")),
        data=Data(path=f"{WORLD}/preference.json", max_length=2048, pack_tokens=4096, pack_tiles=64, workers=1),
        objective=Aim(kind="mpo"),
        optim=Optim(lr=2e-5, weight_decay=0.0, betas=(0.9, 0.98), warmup=30, floor=0.1),
        run=Run(out="runs/nano_mpo", steps=300, batch=2, save_every=100, keep=1, log_every=10),
        parallel=PLAIN,
    )


SMALL = "runs/nano_small"
SMALL_SCALE = 2.0
SMALL_SKILLS = ("shape",)


def nano_small() -> TrainConfig:
    """A small sibling of nano learns from random weights, on a CPU in a quarter of an hour: a first run of the whole.

    It draws what it learns from: one shape, and which colour and kind it has. Held-out rows of another seed are asked
    at every evaluation; the curve is in `runs/nano_small/report.html`.
    """
    return TrainConfig(
        start=Start(model=f"{SMALL}_start"),
        data=Data(
            path=f"{SMALL}_world/chat.json", held_out=f"{SMALL}_held_out/chat.json", held_out_rows=128,
            max_length=512, max_tiles=1, pack_tokens=2048, pack_tiles=32, workers=1,
        ),
        optim=Optim(lr=1.5e-3, weight_decay=0.05, decay_all=False, betas=(0.9, 0.98), warmup=50, floor=0.02),
        run=Run(out=SMALL, steps=2000, batch=1, save_every=500, keep=1, eval_every=200, log_every=20),
        parallel=PLAIN,
    )  # fmt: skip


def prepare_small(config: TrainConfig) -> None:
    """Its world, held-out rows of another seed, and a model of random weights; what is there stays.

    Where the run was told to read something else, that is not drawn.
    """
    from internvl.nano import form
    from internvl.nano.world import World
    from internvl.nano.write import write

    own, world = nano_small(), World.of()
    if config.data.path == own.data.path:
        write(Path(own.data.path).parent, world, scale=SMALL_SCALE, skills=SMALL_SKILLS, in_tiles=False)
    if config.data.held_out == own.data.held_out:
        folder = Path(own.data.held_out).parent
        write(folder, world, scale=SMALL_SCALE / 60, seed=2, skills=SMALL_SKILLS, in_tiles=False)
    start = Path(str(own.start.model))
    if config.start.model == own.start.model and not start.exists():
        form.write_fresh(form.EMBEDDED, start, form.SMALL, seed=config.run.seed)


def _conversations() -> Data:
    return Data(path=f"{WORLD}/chat.json", max_length=2048, pack_tokens=4096, pack_tiles=64, workers=1, bad_rows=0.001)


TABLE: Mapping[str, Recipe] = {
    "nano_tower": Recipe(make=nano_tower),
    "nano_align": Recipe(make=nano_align),
    "nano_sft": Recipe(make=nano_sft),
    "nano_mpo": Recipe(make=nano_mpo),
    "nano_small": Recipe(make=nano_small, prepare=prepare_small),
}

"""nano-c, the embedded sibling that searches: an InternVL-C of small sizes learns by contrast from nano's world.

    internvl world runs/nano_world --data ../shared/data
    internvl train nano_tower
    internvl train nano_c                           runs/nano_c/model

What it begins with is written when it is not there: the vocabulary is made of the world's captions, the tower is that
of nano after its classes were learnt, without its last block, or random where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from internvl.recipes.recipe import Recipe, finished
from internvl.training.config import Aim, Data, Optim, Parallel, Run, Start, TrainConfig


def nano_c() -> TrainConfig:
    """Pictures and captions of the world meet: contrast alone, and all captions of one thing are right.

    Two rows of a batch often show the same thing; the targets of `retrieval` share what is right among them, by their
    `image_id`. Most of each picture is seen, and never its mirror image: captions count, read and speak of sides.
    """
    return TrainConfig(
        start=Start(model="runs/nano_c_start"),
        data=Data(
            path="runs/nano_world/pairs.json", batching="plain", rows=128, text_length=40, part=0.7, mirror=0.0,
            workers=1, bad_rows=0.001,
        ),
        objective=Aim(kind="retrieval", matching=0.0, captioning=0.0),
        optim=Optim(lr=1e-3, weight_decay=0.1, decay_all=False, betas=(0.9, 0.98), warmup=100, floor=0.02),
        run=Run(out="runs/nano_c", steps=2000, batch=128, save_every=200, keep=2, log_every=10),
        parallel=Parallel(checkpoint_language=False, checkpoint_vision=False),
    )  # fmt: skip


def prepare(config: TrainConfig) -> None:
    """Write the untrained model that the run begins with, if it is not there."""
    from internvl.nano import form_c

    start, tower, world = Path(str(config.start.model)), Path(finished("nano_tower")), Path(config.data.path).parent
    if config.start.model == nano_c().start.model and world.is_dir() and not start.exists():
        form_c.begin(start, world, tower=tower if tower.exists() else None, seed=config.run.seed)


TABLE: Mapping[str, Recipe] = {"nano_c": Recipe(make=nano_c, prepare=prepare)}

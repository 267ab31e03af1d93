"""Fine-tuning a released model on one's own data, whole or by adapters, with the published values of every size.

Versions 1.2, 1.5, 2.0, 2.5 and 3. A size is a row of `SIZES`; what all sizes share stands in the functions. To change
something, copy this file and run `internvl train COPY.py:internvl2_5_8b_lora`, or say it on the command line:

    internvl train internvl2_5_8b_lora data.path=mine.jsonl data.max_tiles=12 optim.lr=2e-5

What is different here, for all of them:
    - The loss is one mean over the learnt tokens of a step. The original takes the mean of each micro-batch on each
      GPU and then the mean of these, so that a token in a short batch weighs more.
    - A sample that is longer than `data.max_length` is left out and counted; the original cut its end off.
    - No drop path, because the tower is frozen; the original's trainer left it at work on the frozen tower: 0.1 below
      26B, 0.4 from there on; of version 3 none below 14B, 0.2 for 38B; none for 1.2. Who lets the tower learn too sets
      `start.drop_path` beside `learn.vision`.
    - Original weight decay is on everything that learns, adapters and norms too; so it is here (`optim.decay_all`).
None of these was run here at its full size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from internvl.recipes.recipe import Recipe
from internvl.training.config import Data, Learn, Optim, Run, Start, TrainConfig

MIXTURE = "data/internvl_1_2_finetune_custom.json"
"""The original's meta file to copy and edit: yours stands in its place."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What differs between sizes."""

    script: str
    model: str
    gpus: int = 8
    lora_gpus: int = 2
    rows: int = 4
    """Of one micro-batch on one GPU."""
    lr: float
    decay: float
    length: int
    tiles: int
    """1: a picture is one tile."""
    lora: bool = True
    """Whether a LoRA variant was published."""


def full(size: Size, name: str) -> TrainConfig:
    """Projector and language model learn, the tower is frozen.

    Original: 8 GPUs (16 or 32 for the large ones, see `SIZES`), 128 samples a step, one epoch, DeepSpeed ZeRO 1 or 3.
    On fewer GPUs the batch stays 128 and the rest is accumulated. Time and scores are not published.
    """
    tiled = size.tiles > 1
    return TrainConfig(
        start=Start(model=f"OpenGVLab/{size.model}"),
        learn=Learn(vision=False),
        data=Data(
            path=MIXTURE,
            max_length=size.length,
            max_tiles=size.tiles,
            dynamic=tiled,
            thumbnail=tiled,
            batching="grouped",
            rows=size.rows,
        ),
        optim=Optim(lr=size.lr, weight_decay=size.decay, warmup=0.03),
        run=Run(out=f"runs/{name}", batch=128, save_every=200),
    )


def lora(size: Size, name: str) -> TrainConfig:
    """Only adapters of rank 16 on the language model learn; alpha is twice the rank.

    Original: 2 GPUs (8 for 76B and 78B), 16 samples a step, one epoch. Time and scores are not published.
    """
    whole = full(size, name)
    return TrainConfig(
        start=Start(model=whole.start.model),
        learn=Learn(vision=False, projector=False, language_lora=16),
        data=whole.data,
        optim=whole.optim,
        run=Run(out=f"runs/{name}", batch=16, save_every=200),
    )


def lora_coco(size: Size, name: str) -> TrainConfig:
    """Captions of COCO, by adapters of rank 128 on the language model.

    Original: 8 GPUs, 512 samples a step, one epoch over 566,747 captions (Karpathy's training split). Scores are not
    among the published facts.
    """
    small = lora(size, name)
    return TrainConfig(
        start=small.start,
        learn=Learn(vision=False, projector=False, language_lora=128),
        data=Data(
            path="data/coco_caption.json",
            max_length=size.length,
            max_tiles=size.tiles,
            dynamic=True,
            thumbnail=True,
            batching="grouped",
            rows=size.rows,
        ),
        optim=small.optim,
        run=Run(out=f"runs/{name}", batch=512, save_every=200),
    )


# fmt: off
SIZES: Mapping[str, Size] = {
    "internvl1_2_plus": Size(script="v1_2_hermes2_yi34b_448_res", model="InternVL-Chat-V1-2-Plus", gpus=16,
                             lr=1e-5, decay=0.05, length=2048, tiles=1),

    "internvl1_5_2b":  Size(script="v1_5_internlm2_1_8b", model="Mini-InternVL-Chat-2B-V1-5",
                            lr=4e-5, decay=0.01, length=4096, tiles=12),
    "internvl1_5_4b":  Size(script="v1_5_phi3_3_8b", model="Mini-InternVL-Chat-4B-V1-5",
                            lr=4e-5, decay=0.05, length=4096, tiles=12),
    "internvl1_5_26b": Size(script="v1_5_internlm2_20b", model="InternVL-Chat-V1-5", rows=2,
                            lr=2e-5, decay=0.05, length=4096, tiles=12),

    "internvl2_1b":  Size(script="internvl2_1b_qwen2_0_5b", model="InternVL2-1B",
                          lr=4e-5, decay=0.01, length=4096, tiles=6),
    "internvl2_2b":  Size(script="internvl2_2b_internlm2_1_8b", model="InternVL2-2B",
                          lr=4e-5, decay=0.01, length=4096, tiles=6),
    "internvl2_4b":  Size(script="internvl2_4b_phi3_3_8b", model="InternVL2-4B",
                          lr=4e-5, decay=0.01, length=4096, tiles=6),
    "internvl2_8b":  Size(script="internvl2_8b_internlm2_7b", model="InternVL2-8B",
                          lr=4e-5, decay=0.05, length=4096, tiles=6),
    "internvl2_26b": Size(script="internvl2_26b_internlm2_20b", model="InternVL2-26B", rows=2,
                          lr=2e-5, decay=0.05, length=4096, tiles=6),
    "internvl2_40b": Size(script="internvl2_40b_hermes2_yi_34b", model="InternVL2-40B", gpus=16, rows=2,
                          lr=2e-5, decay=0.05, length=4096, tiles=6),
    "internvl2_76b": Size(script="internvl2_76b_hermes2_llama3_70b", model="InternVL2-Llama3-76B", gpus=32,
                          lora_gpus=8, rows=1, lr=2e-5, decay=0.05, length=4096, tiles=6),

    "internvl2_5_1b":  Size(script="internvl2_5_1b", model="InternVL2_5-1B",
                            lr=4e-5, decay=0.01, length=8192, tiles=6),
    "internvl2_5_2b":  Size(script="internvl2_5_2b", model="InternVL2_5-2B",
                            lr=4e-5, decay=0.01, length=8192, tiles=6),
    "internvl2_5_4b":  Size(script="internvl2_5_4b", model="InternVL2_5-4B",
                            lr=4e-5, decay=0.01, length=8192, tiles=6),
    "internvl2_5_8b":  Size(script="internvl2_5_8b", model="InternVL2_5-8B",
                            lr=4e-5, decay=0.05, length=8192, tiles=6),
    "internvl2_5_26b": Size(script="internvl2_5_26b", model="InternVL2_5-26B", rows=2,
                            lr=2e-5, decay=0.05, length=8192, tiles=6),
    "internvl2_5_38b": Size(script="internvl2_5_38b", model="InternVL2_5-38B", gpus=16, rows=2,
                            lr=2e-5, decay=0.05, length=8192, tiles=6),
    "internvl2_5_78b": Size(script="internvl2_5_78b", model="InternVL2_5-78B", gpus=32, lora_gpus=8, rows=1,
                            lr=2e-5, decay=0.05, length=8192, tiles=6),

    "internvl3_1b":  Size(script="internvl3_1b", model="InternVL3-1B", lora=False,
                          lr=1e-5, decay=0.05, length=16384, tiles=12),
    "internvl3_2b":  Size(script="internvl3_2b", model="InternVL3-2B", lora=False,
                          lr=2e-5, decay=0.05, length=16384, tiles=12),
    "internvl3_8b":  Size(script="internvl3_8b", model="InternVL3-8B", lora=False,
                          lr=2e-5, decay=0.05, length=16384, tiles=12),
    "internvl3_9b":  Size(script="internvl3_9b", model="InternVL3-9B", lora=False,
                          lr=2e-5, decay=0.05, length=16384, tiles=12),
    "internvl3_14b": Size(script="internvl3_14b", model="InternVL3-14B", lora=False,
                          lr=2e-5, decay=0.05, length=16384, tiles=12),
    "internvl3_38b": Size(script="internvl3_38b", model="InternVL3-38B", gpus=16, rows=2, lora=False,
                          lr=2e-5, decay=0.05, length=16384, tiles=12),
    "internvl3_78b": Size(script="internvl3_78b", model="InternVL3-78B", gpus=32, rows=2, lora=False,
                          lr=2e-5, decay=0.05, length=16384, tiles=12),
}
# fmt: on

TABLE: Mapping[str, Recipe] = {
    **{
        (name := f"{model}_finetune"): Recipe(
            make=partial(full, size, name), script=f"{size.script}_2nd_finetune_full", gpus=size.gpus
        )
        for model, size in SIZES.items()
    },
    **{
        (name := f"{model}_lora"): Recipe(
            make=partial(lora, size, name), script=f"{size.script}_2nd_finetune_lora", gpus=size.lora_gpus
        )
        for model, size in SIZES.items()
        if size.lora
    },
    **{
        (name := f"{model}_lora_coco"): Recipe(
            make=partial(lora_coco, SIZES[model], name), script=f"{SIZES[model].script}_2nd_finetune_lora_coco", gpus=8
        )
        for model in ("internvl2_2b", "internvl2_5_2b")
    },
}

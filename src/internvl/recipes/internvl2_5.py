"""InternVL 2.5 from its parts: stage 1 (projector), 1.5 (tower too, 8B and 26B only), 2 (everything).

    internvl2_5_8b_stage1 -> internvl2_5_8b_stage1_5 -> internvl2_5_8b_stage2

All are packed: 16384 tokens and 48 tiles a pack, one pack on each GPU at a time, 20 open packs, every token weighted by
one over the square root of its answer's length. What is different here: a pack's gradient is normalised over the whole
step, accumulation included (the original: over ranks alone); what waits in open packs is kept by a checkpoint and goes
on from there; the order depends on the seed alone, not on the number of GPUs. The data were not released: give your own
meta file with data.path=…. None was run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from internvl.recipes.recipe import Recipe, finished
from internvl.training.config import Aim, Data, Learn, Optim, Run, Start, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Size:
    """What differs between sizes."""

    script: str
    vision: str
    language: str
    decay: float
    lr: float
    """Of stage 2."""
    drop_path: float
    """Of stages 1.5 and 2."""
    steps: int
    """Of stage 2."""
    mixture: str = "mixture.json"
    """Of stage 2; `2x` and `4x` hold each sample so often."""
    tower_learns_early: bool = False
    """Whether there is a stage 1.5."""


def packed(path: str) -> Data:
    """How all stages are fed."""
    return Data(
        path=f"data/{path}",
        max_length=16384,
        max_tiles=12,
        dynamic=True,
        thumbnail=True,
        batching="packed",
        pack_tokens=16384,
        pack_tiles=48,
        pack_buffers=20,
        workers=8,
    )


def stage1(size: Size, name: str) -> TrainConfig:
    """The projector learns from nothing between a tower and a language model that stay.

    Original: 512 GPUs, 512 packs a step, 100,000 steps at most, 100 steps of warm-up.
    """
    return TrainConfig(
        start=Start(
            vision=f"OpenGVLab/{size.vision}", language=size.language, template="internvl2_5", pixel_shuffle="v2"
        ),
        learn=Learn(vision=False, language=False),
        data=packed("mixture.json"),
        objective=Aim(weighting="square"),
        optim=Optim(lr=2e-4, weight_decay=size.decay, warmup=100),
        run=Run(out=f"runs/{name}", steps=100_000, batch=512, save_every=100),
    )


def stage1_5(size: Size, name: str) -> TrainConfig:
    """Tower and projector learn, the language model stays.

    Original: 512 GPUs, 1024 packs a step, 100,000 steps at most, 100 steps of warm-up.
    """
    before = stage1(size, name)
    return replace(
        before,
        start=Start(model=finished(name.replace("_stage1_5", "_stage1")), drop_path=size.drop_path),
        learn=Learn(language=False),
        optim=replace(before.optim, lr=1e-5),
        run=replace(before.run, batch=1024),
    )


def stage2(size: Size, name: str) -> TrainConfig:
    """Everything learns on instructions.

    Original: 512 GPUs, 512 packs a step; 5,500 steps, of the small models 11,000 or 22,000, whose
    meta files hold the data 2 or 4 times.
    """
    model = name.removesuffix("_stage2")
    early = f"{model}_stage1_5" if size.tower_learns_early else f"{model}_stage1"
    return TrainConfig(
        start=Start(model=finished(early), drop_path=size.drop_path),
        data=packed(size.mixture),
        objective=Aim(weighting="square"),
        optim=Optim(lr=size.lr, weight_decay=size.decay, warmup=0.03),
        run=Run(out=f"runs/{name}", steps=size.steps, batch=512, save_every=100),
    )


# fmt: off
SIZES: Mapping[str, Size] = {
    "internvl2_5_1b":  Size(script="internvl2_5_1b_qwen2_5_0_5b",
                            vision="InternViT-300M-448px-V2_5", language="Qwen/Qwen2.5-0.5B-Instruct",
                            decay=0.01, lr=4e-5, drop_path=0.1, steps=22_000, mixture="mixture_4x.json"),
    "internvl2_5_2b":  Size(script="internvl2_5_2b_internlm2_5_1_8b",
                            vision="InternViT-300M-448px-V2_5", language="internlm/internlm2_5-1_8b-chat",
                            decay=0.01, lr=4e-5, drop_path=0.1, steps=22_000, mixture="mixture_4x.json"),
    "internvl2_5_4b":  Size(script="internvl2_5_4b_qwen2_5_3b",
                            vision="InternViT-300M-448px-V2_5", language="Qwen/Qwen2.5-3B-Instruct",
                            decay=0.01, lr=4e-5, drop_path=0.1, steps=11_000, mixture="mixture_2x.json"),
    "internvl2_5_8b":  Size(script="internvl2_5_8b_internlm2_5_7b",
                            vision="InternViT-300M-448px", language="internlm/internlm2_5-7b-chat",
                            decay=0.05, lr=4e-5, drop_path=0.1, steps=5_500, tower_learns_early=True),
    "internvl2_5_26b": Size(script="internvl2_5_26b_internlm2_5_20b",
                            vision="InternViT-6B-448px-V1-5", language="internlm/internlm2_5-20b-chat",
                            decay=0.05, lr=2e-5, drop_path=0.4, steps=5_500, tower_learns_early=True),
    "internvl2_5_38b": Size(script="internvl2_5_38b_qwen2_5_32b",
                            vision="InternViT-6B-448px-V2_5", language="Qwen/Qwen2.5-32B-Instruct",
                            decay=0.05, lr=2e-5, drop_path=0.4, steps=5_500),
    "internvl2_5_78b": Size(script="internvl2_5_78b_qwen2_5_72b",
                            vision="InternViT-6B-448px-V2_5", language="Qwen/Qwen2.5-72B-Instruct",
                            decay=0.05, lr=2e-5, drop_path=0.4, steps=5_500),
}
# fmt: on

TABLE: Mapping[str, Recipe] = {
    (name := f"{model}_{stage.__name__}"): Recipe(
        make=partial(stage, size, name), script=f"{size.script}_{stage.__name__}", gpus=512
    )
    for model, size in SIZES.items()
    for stage in (stage1, stage1_5, stage2)
    if stage is not stage1_5 or size.tower_learns_early
}

"""InternVL 3.5: SFT and MPO of the Qwen3 sizes, and all four stages of the one with GPT-OSS.

    internvl3_5_gpt_oss_warmup -> _pretrain -> _sft -> _mpo

Packs of 32768 tokens and 96 tiles, weighted by one over the square root of an answer's length. The facts name no number
of GPUs, no interval of saving and no meta file: `run.batch` is the published one, saving every 200 steps and the paths
are ours. What is different here: the load-balance term of mixtures of experts is off, because its published weight is
not known to us (`objective.router` sets one); an exhausted source begins again when all are, not alone; else as for
2.5. None was run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from internvl.recipes.mpo import MPO
from internvl.recipes.recipe import Recipe, finished
from internvl.training.config import Aim, Data, Learn, Optim, Run, Start, TrainConfig

PACKED = Data(
    path="data/mixture.json",
    max_length=32768,
    max_tiles=12,
    dynamic=True,
    thumbnail=True,
    batching="packed",
    pack_tokens=32768,
    pack_tiles=96,
    pack_buffers=20,
    workers=16,
)
PAIRS = Data(
    path="data/MMPR-v1.2/meta.json",
    max_length=16384,
    max_tiles=12,
    dynamic=True,
    thumbnail=True,
    batching="plain",
    workers=16,
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """What differs between sizes; SFT begins with `-Pretrained`, MPO with `-Instruct`."""

    model: str
    drop_path: float
    lr: float = 8e-5
    """Of SFT."""


def sft(size: Size, name: str) -> TrainConfig:
    """Everything learns on instructions, from the published `-Pretrained` weights.

    Original: 512 packs a step, 8,000 steps.
    """
    return TrainConfig(
        start=Start(model=f"OpenGVLab/{size.model}-Pretrained", drop_path=size.drop_path),
        data=PACKED,
        objective=Aim(weighting="square"),
        optim=Optim(lr=size.lr, weight_decay=0.05, warmup=0.03),
        run=Run(out=f"runs/{name}", steps=8_000, batch=512),
    )


def mpo(size: Size, name: str) -> TrainConfig:
    """Everything learns from pairs of answers, from the published `-Instruct` weights.

    Original: 256 pairs a step, one epoch. The pairs are those of MMPR; which version is not among the facts.
    """
    return TrainConfig(
        start=Start(model=f"OpenGVLab/{size.model}-Instruct", drop_path=size.drop_path),
        data=PAIRS,
        objective=MPO,
        optim=Optim(lr=2e-7, weight_decay=0.05, warmup=0.03),
        run=Run(out=f"runs/{name}", batch=256),
    )


def gpt_oss_warmup() -> TrainConfig:
    """Stage 0 with GPT-OSS 20B: the projector learns from nothing between a tower and a language model that stay.

    Original: 256 packs a step, 5,000 steps, samples of at most 16384 tokens, seed 22110. The size of its packs is
    not given apart; that of the later stages is taken. Its drop path of 0.1 is left out, the tower being frozen.
    """
    return TrainConfig(
        start=Start(
            vision="OpenGVLab/InternViT-300M-448px-V2_5",
            language="openai/gpt-oss-20b",
            template="internvl3_5_gpt_oss",
            pixel_shuffle="v2",
        ),
        learn=Learn(vision=False, language=False),
        data=replace(PACKED, max_length=16384),
        objective=Aim(weighting="square"),
        optim=Optim(lr=1e-3, weight_decay=0.05, warmup=0.01),
        run=Run(out="runs/internvl3_5_gpt_oss_warmup", steps=5_000, batch=256, seed=22110),
    )


def gpt_oss_pretrain() -> TrainConfig:
    """Stage 1 with GPT-OSS 20B: everything learns.

    Original: 512 packs a step, 15,000 steps.
    """
    return TrainConfig(
        start=Start(model=finished("internvl3_5_gpt_oss_warmup"), drop_path=0.1),
        data=PACKED,
        objective=Aim(weighting="square"),
        optim=Optim(lr=2e-5, weight_decay=0.05, warmup=0.03),
        run=Run(out="runs/internvl3_5_gpt_oss_pretrain", steps=15_000, batch=512),
    )


def gpt_oss_sft() -> TrainConfig:
    """Stage 2 with GPT-OSS 20B: everything learns on instructions.

    Original: 512 packs a step, 8,000 steps.
    """
    before = gpt_oss_pretrain()
    return replace(
        before,
        start=replace(before.start, model=finished("internvl3_5_gpt_oss_pretrain")),
        optim=replace(before.optim, lr=8e-5),
        run=replace(before.run, out="runs/internvl3_5_gpt_oss_sft", steps=8_000),
    )


def gpt_oss_mpo() -> TrainConfig:
    """Stage 3 with GPT-OSS 20B: everything learns from pairs of answers.

    Original: 256 pairs a step, one epoch.
    """
    return TrainConfig(
        start=Start(model=finished("internvl3_5_gpt_oss_sft"), drop_path=0.1),
        data=PAIRS,
        objective=MPO,
        optim=Optim(lr=2e-7, weight_decay=0.05, warmup=0.03),
        run=Run(out="runs/internvl3_5_gpt_oss_mpo", batch=256),
    )


# fmt: off
SIZES: Mapping[str, Size] = {
    "internvl3_5_1b":   Size(model="InternVL3_5-1B",        drop_path=0.0),
    "internvl3_5_2b":   Size(model="InternVL3_5-2B",        drop_path=0.0),
    "internvl3_5_4b":   Size(model="InternVL3_5-4B",        drop_path=0.0),
    "internvl3_5_8b":   Size(model="InternVL3_5-8B",        drop_path=0.1),
    "internvl3_5_14b":  Size(model="InternVL3_5-14B",       drop_path=0.1),
    "internvl3_5_30b":  Size(model="InternVL3_5-30B-A3B",   drop_path=0.1),
    "internvl3_5_38b":  Size(model="InternVL3_5-38B",       drop_path=0.4),
    "internvl3_5_241b": Size(model="InternVL3_5-241B-A28B", drop_path=0.4, lr=2e-5),
}
# fmt: on

TABLE: Mapping[str, Recipe] = {
    "internvl3_5_gpt_oss_warmup": Recipe(make=gpt_oss_warmup),
    "internvl3_5_gpt_oss_pretrain": Recipe(make=gpt_oss_pretrain),
    "internvl3_5_gpt_oss_sft": Recipe(make=gpt_oss_sft),
    "internvl3_5_gpt_oss_mpo": Recipe(make=gpt_oss_mpo),
    **{(name := f"{model}_sft"): Recipe(make=partial(sft, size, name)) for model, size in SIZES.items()},
    **{(name := f"{model}_mpo"): Recipe(make=partial(mpo, size, name)) for model, size in SIZES.items()},
}

"""InternVL 1.2 and 1.5 from their parts: pre-training of the projector (and the tower), then SFT of everything.

    internvl1_5_26b_pretrain  ->  runs/internvl1_5_26b_pretrain/model  ->  internvl1_5_26b_sft

`data/…json` stands for the original's meta file: give your own with data.path=…. What is different here, for all of
them: the loss is one mean over the learnt tokens of a step, not a mean of the means of micro-batches; a sample that is
too long is left out and counted instead of cut; no drop path while the tower is frozen. None was run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from internvl.recipes.recipe import Recipe, finished
from internvl.training.config import Data, Learn, Optim, Run, Start, TrainConfig

YI_PROJECTOR = "mlp_projector/hermes_2_yi_34b.pth"
"""Published beside the first code base; a file of `mlp1` weights."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What differs between sizes of version 1.5."""

    script: str
    parts: Start
    pretrain_vision: bool
    """Whether the tower learns in pre-training too."""
    pretrain_rows: int
    pretrain_lr: float
    pretrain_drop_path: float
    gpus: int
    lr: float
    decay: float
    drop_path: float
    length: int = 4096
    """Of SFT; pre-training has 4096 tokens."""


def internvl1_2_sft() -> TrainConfig:
    """InternVL 1.2: everything learns on instructions, from InternViT-6B, Nous-Hermes-2-Yi-34B and a given projector.

    Original: 64 GPUs, 512 samples a step (8 on each), one epoch, DeepSpeed ZeRO 3. A picture is one tile of 448 px. The
    original script names no pixel shuffle and would today train v2, while the released weights are v1: here it is v1.
    """
    return TrainConfig(
        start=Start(
            vision="OpenGVLab/InternViT-6B-448px-V1-2",
            language="NousResearch/Nous-Hermes-2-Yi-34B",
            projector=YI_PROJECTOR,
            template="Hermes-2",
            pixel_shuffle="v1",
            drop_path=0.4,
        ),
        data=Data(
            path="data/internvl_1_2_finetune.json",
            max_length=2048,
            max_tiles=1,
            dynamic=False,
            thumbnail=False,
            batching="grouped",
            rows=8,
        ),
        optim=Optim(lr=1e-5, weight_decay=0.05, warmup=0.03),
        run=Run(out="runs/internvl1_2_sft", batch=512, save_every=200),
    )


def pretrain(size: Size, name: str) -> TrainConfig:
    """InternVL 1.5, first stage: the projector learns, with the tower where the language model is InternLM2.

    Original: 2048 samples a step on 128 or 256 GPUs, one epoch, 100 steps of warm-up. The data were not released.
    """
    return TrainConfig(
        start=replace(size.parts, drop_path=size.pretrain_drop_path),
        learn=Learn(vision=size.pretrain_vision, language=False),
        data=Data(
            path="data/pretrain.json",
            max_length=4096,
            max_tiles=12,
            dynamic=True,
            thumbnail=True,
            batching="plain",
            rows=size.pretrain_rows,
        ),
        optim=Optim(lr=size.pretrain_lr, weight_decay=size.decay, warmup=100),
        run=Run(out=f"runs/{name}", batch=2048, save_every=200),
    )


def sft(size: Size, name: str) -> TrainConfig:
    """InternVL 1.5, second stage: everything learns on instructions.

    Original: 1024 samples a step (4 on each of 128 or 256 GPUs), one epoch. The data were not released. The original's
    script for Phi-3 begins with its own output, which is not there yet; here, like the others, with the first stage's.
    """
    return TrainConfig(
        start=Start(model=finished(name.replace("_sft", "_pretrain")), drop_path=size.drop_path),
        data=Data(
            path="data/finetune.json",
            max_length=size.length,
            max_tiles=12,
            dynamic=True,
            thumbnail=True,
            batching="grouped",
            rows=4,
        ),
        optim=Optim(lr=size.lr, weight_decay=size.decay, warmup=0.03),
        run=Run(out=f"runs/{name}", batch=1024, save_every=200),
    )


def _parts(vision: str, language: str, template: Literal["Hermes-2", "internlm2-chat", "phi3-chat"]) -> Start:
    return Start(vision=f"OpenGVLab/{vision}", language=language, template=template, pixel_shuffle="v2")


# fmt: off
SIZES: Mapping[str, Size] = {
    "internvl1_5_2b": Size(
        script="v1_5_internlm2_1_8b",
        parts=_parts("InternViT-300M-448px", "internlm/internlm2-chat-1_8b", "internlm2-chat"),
        pretrain_vision=True, pretrain_rows=8, pretrain_lr=2e-5, pretrain_drop_path=0.1,
        gpus=128, lr=4e-5, decay=0.01, drop_path=0.1, length=8192),
    "internvl1_5_4b": Size(
        script="v1_5_phi3_3_8b",
        parts=_parts("InternViT-300M-448px", "microsoft/Phi-3-mini-128k-instruct", "phi3-chat"),
        pretrain_vision=False, pretrain_rows=8, pretrain_lr=2e-4, pretrain_drop_path=0.0,
        gpus=128, lr=4e-5, decay=0.05, drop_path=0.1, length=8192),
    "internvl1_5_26b": Size(
        script="v1_5_internlm2_20b",
        parts=_parts("InternViT-6B-448px-V1-5", "internlm/internlm2-chat-20b", "internlm2-chat"),
        pretrain_vision=True, pretrain_rows=4, pretrain_lr=1e-5, pretrain_drop_path=0.2,
        gpus=256, lr=2e-5, decay=0.05, drop_path=0.4),
    "internvl1_5_40b": Size(
        script="v1_5_hermes2_yi34b",
        parts=replace(_parts("InternViT-6B-448px-V1-5", "NousResearch/Nous-Hermes-2-Yi-34B", "Hermes-2"),
                      projector=YI_PROJECTOR),
        pretrain_vision=False, pretrain_rows=2, pretrain_lr=1e-4, pretrain_drop_path=0.0,
        gpus=256, lr=2e-5, decay=0.05, drop_path=0.4),
}
# fmt: on

TABLE: Mapping[str, Recipe] = {
    "internvl1_2_sft": Recipe(make=internvl1_2_sft, script="v1_2_hermes2_yi34b_448_res_finetune", gpus=64),
    **{
        (name := f"{model}_pretrain"): Recipe(
            make=partial(pretrain, size, name), script=f"{size.script}_pretrain", gpus=size.gpus
        )
        for model, size in SIZES.items()
    },
    **{
        (name := f"{model}_sft"): Recipe(
            make=partial(sft, size, name), script=f"{size.script}_finetune", gpus=size.gpus
        )
        for model, size in SIZES.items()
    },
}

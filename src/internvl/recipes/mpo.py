"""Mixed preference optimisation (Wang et al. 2024, arXiv:2411.10442): 0.8 DPO + 0.2 BCO + 1.0 SFT on pairs.

Versions 2.0, 2.5 and 3; those of 3.5 are in `internvl3_5`. What is different here: each picture is encoded once for
both answers; BCO's running mean is kept by a checkpoint and left alone by evaluation; the SFT term is one mean over the
chosen tokens of a step; drop path works in the policy alone, as it did. The original's copy of the model as reference
can be replaced: `objective.reference=cache` computes it once before, and with LoRA `adapter_off` needs no second model.
None was run here at its full size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from internvl.recipes.recipe import Recipe
from internvl.training.config import Aim, Data, Optim, Parallel, Run, Start, TrainConfig

MPO = Aim(kind="mpo", beta=0.1, preference=0.8, quality=0.2, generation=1.0)


@dataclass(frozen=True, kw_only=True)
class Size:
    """What differs between sizes."""

    script: str
    model: str
    lr: float
    drop_path: float
    length: int
    pairs: str
    batch: int = 256
    save_every: int = 200
    offload: bool = False


def mpo(size: Size, name: str) -> TrainConfig:
    """Everything learns from pairs of a chosen and a rejected answer; the reference is the model it begins with.

    Original: one pair on each of 256 GPUs (512 for 38B and 78B of 2.5 and 3), one epoch over MMPR, about three million
    pairs of which about 400,000 are active. Time and scores were not measured here.
    """
    return TrainConfig(
        start=Start(model=f"OpenGVLab/{size.model}", drop_path=size.drop_path),
        data=Data(
            path=f"data/{size.pairs}/meta.json",
            max_length=size.length,
            max_tiles=12,
            dynamic=True,
            thumbnail=True,
            batching="plain",
            workers=8,
        ),
        objective=MPO,
        optim=Optim(lr=size.lr, weight_decay=0.05, warmup=0.03),
        run=Run(out=f"runs/{name}", batch=size.batch, save_every=size.save_every),
        parallel=Parallel(offload=size.offload),
    )


# fmt: off
SIZES: Mapping[str, Size] = {
    "internvl2_8b":    Size(script="internvl2_8b_internlm2_7b_mpo_full", model="InternVL2-8B", pairs="MMPR",
                            lr=5e-6, drop_path=0.1, length=6144, save_every=100),

    "internvl2_5_1b":  Size(script="internvl2_5_1b_qwen2_5_0_5b_mpo", model="InternVL2_5-1B", pairs="MMPR-v1.1",
                            lr=1e-6, drop_path=0.1, length=8192, save_every=100),
    "internvl2_5_2b":  Size(script="internvl2_5_2b_internlm2_5_1_8b_mpo", model="InternVL2_5-2B", pairs="MMPR-v1.1",
                            lr=1e-6, drop_path=0.1, length=8192, save_every=100),
    "internvl2_5_4b":  Size(script="internvl2_5_4b_qwen2_5_3b_mpo", model="InternVL2_5-4B", pairs="MMPR-v1.1",
                            lr=1e-6, drop_path=0.1, length=8192, save_every=100),
    "internvl2_5_8b":  Size(script="internvl2_5_8b_internlm2_5_7b_mpo", model="InternVL2_5-8B", pairs="MMPR-v1.1",
                            lr=1e-6, drop_path=0.1, length=8192, save_every=100),
    "internvl2_5_26b": Size(script="internvl2_5_26b_internlm2_5_20b_mpo", model="InternVL2_5-26B", pairs="MMPR-v1.1",
                            lr=1e-6, drop_path=0.4, length=8192, save_every=100),
    "internvl2_5_38b": Size(script="internvl2_5_38b_qwen2_5_32b_mpo", model="InternVL2_5-38B", pairs="MMPR-v1.1",
                            lr=1e-6, drop_path=0.4, length=8192, batch=512),
    "internvl2_5_78b": Size(script="internvl2_5_78b_qwen2_5_72b_mpo", model="InternVL2_5-78B", pairs="MMPR-v1.1",
                            lr=1e-6, drop_path=0.4, length=8192, batch=512),

    "internvl3_1b":    Size(script="internvl3_1b_mpo", model="InternVL3-1B-Instruct", pairs="MMPR-v1.2",
                            lr=2e-7, drop_path=0.1, length=12288),
    "internvl3_2b":    Size(script="internvl3_2b_mpo", model="InternVL3-2B-Instruct", pairs="MMPR-v1.2",
                            lr=2e-7, drop_path=0.1, length=12288),
    "internvl3_8b":    Size(script="internvl3_8b_mpo", model="InternVL3-8B-Instruct", pairs="MMPR-v1.2",
                            lr=2e-7, drop_path=0.1, length=12288),
    "internvl3_9b":    Size(script="internvl3_9b_mpo", model="InternVL3-9B-Instruct", pairs="MMPR-v1.2",
                            lr=2e-7, drop_path=0.1, length=12288),
    "internvl3_14b":   Size(script="internvl3_14b_mpo", model="InternVL3-14B-Instruct", pairs="MMPR-v1.2",
                            lr=2e-7, drop_path=0.1, length=12288),
    "internvl3_38b":   Size(script="internvl3_38b_mpo", model="InternVL3-38B-Instruct", pairs="MMPR-v1.2",
                            lr=2e-7, drop_path=0.4, length=8192, batch=512, offload=True),
    "internvl3_78b":   Size(script="internvl3_78b_mpo", model="InternVL3-78B-Instruct", pairs="MMPR-v1.2",
                            lr=2e-7, drop_path=0.4, length=8192, batch=512, offload=True),
}
# fmt: on

TABLE: Mapping[str, Recipe] = {
    (name := f"{model}_mpo"): Recipe(make=partial(mpo, size, name), script=size.script, gpus=size.batch)
    for model, size in SIZES.items()
}

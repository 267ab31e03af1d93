"""Mini-InternVL (Gao et al. 2024, arXiv:2410.16261): InternVL2 1B, 2B and 4B on four domains.

Driving (BDD; DriveLM), medicine and remote sensing. Everything learns. What is different here: as for InternVL 2.5, a
step is normalised as a whole, and what waits in open packs survives a checkpoint. The number of steps governs, and
epochs are not asked for. None was run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from internvl.recipes.recipe import Recipe
from internvl.training.config import Aim, Data, Optim, Run, Start, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What differs between domains."""

    steps: int
    batch: int = 64
    save_every: int = 700
    other_saves: Mapping[str, int]
    """Sizes that save at another interval."""
    meta: str


def adapt(domain: Domain, size: str, name: str) -> TrainConfig:
    """Everything learns on one domain, in packs of 16384 tokens and 48 tiles.

    Original: 8 GPUs, one pack on each at a time; 64 packs a step (DriveLM: 8).
    """
    return TrainConfig(
        start=Start(model=f"OpenGVLab/InternVL2-{size}", drop_path=0.1),
        data=Data(
            path=f"data/{domain.meta}",
            max_length=8192,
            max_tiles=12,
            dynamic=True,
            thumbnail=True,
            batching="packed",
            pack_tokens=16384,
            pack_tiles=48,
            pack_buffers=20,
            workers=8,
        ),
        objective=Aim(weighting="square"),
        optim=Optim(lr=1e-5, weight_decay=0.01, warmup=0.03),
        run=Run(
            out=f"runs/{name}",
            steps=domain.steps,
            batch=domain.batch,
            save_every=domain.other_saves.get(size, domain.save_every),
        ),
    )


# fmt: off
DOMAINS: Mapping[str, Domain] = {
    "bdd":     Domain(steps=240, other_saves={"2B": 72},        meta="internvl_1_2_finetune_bdd.json"),
    "drivelm": Domain(steps=15_100, batch=8, other_saves={},    meta="internvl_1_2_finetune_drivelm.json"),
    "medical": Domain(steps=2_200, other_saves={},              meta="internvl_1_2_finetune_medical.json"),
    "remote":  Domain(steps=2_500, other_saves={"1B": 500},     meta="internvl_1_2_finetune_remote.json"),
}
# fmt: on

TABLE: Mapping[str, Recipe] = {
    (name := f"mini_internvl_{size.lower()}_{domain}"): Recipe(make=partial(adapt, DOMAINS[domain], size, name), gpus=8)
    for size in ("1B", "2B", "4B")
    for domain in DOMAINS
}

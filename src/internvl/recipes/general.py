"""Short recipes for any model and any data; copy one and go on from there.

internvl train lora start.model=OpenGVLab/InternVL2_5-2B data.path=mine.jsonl
internvl train nano_lora data.path=mine.jsonl
"""

from __future__ import annotations

from collections.abc import Mapping

from internvl.recipes.recipe import Recipe
from internvl.training.config import Aim, Data, Learn, Optim, Run, Start, TrainConfig


def finetune() -> TrainConfig:
    """Projector and language model of any model learn from your conversations; the tower stays.

    Rate, decay and batch of the published fine-tunes of 8B and smaller, in packs, so that short samples waste nothing.
    """
    return TrainConfig(
        learn=Learn(vision=False),
        data=Data(path="data/train.jsonl", max_length=4096),
        optim=Optim(lr=4e-5, weight_decay=0.05),
        run=Run(out="runs/finetune", batch=8),
    )


def lora() -> TrainConfig:
    """Adapters of rank 16 on the language model of any model learn from your conversations.

    Rate and decay are those of the published LoRA fine-tunes, in packs. `internvl merge` makes one model of the result.
    """
    return TrainConfig(
        learn=Learn(vision=False, projector=False, language_lora=16),
        data=Data(path="data/train.jsonl", max_length=4096),
        optim=Optim(lr=4e-5, weight_decay=0.05),
        run=Run(out="runs/lora", batch=4),
    )


def mpo() -> TrainConfig:
    """Adapters of any model learn from pairs of a chosen and a rejected answer; without them it is the reference.

    Terms and their weights are those of MPO; the rate is a tenth of the LoRA fine-tunes'. No second model is held.
    """
    return TrainConfig(
        learn=Learn(vision=False, projector=False, language_lora=16),
        data=Data(path="data/pairs.jsonl", max_length=4096),
        objective=Aim(kind="mpo", reference="adapter_off"),
        optim=Optim(lr=4e-6, weight_decay=0.05),
        run=Run(out="runs/mpo", batch=4),
    )


def nano_lora() -> TrainConfig:
    """Adapters on the embedded nano learn from your conversations, on a CPU in minutes.

    nano is small: a higher rate than a large model needs. 20 steps over 64 short questions, text alone, took 45 s on
    one busy core and brought the loss from 9.2 to 1.7; the process needed 0.6 GiB, most of it for PyTorch itself.
    """
    return TrainConfig(
        start=Start(),
        learn=Learn(vision=False, projector=False, language_lora=16),
        data=Data(path="data/train.jsonl", max_length=1024, pack_tokens=2048, pack_tiles=32, workers=0),
        optim=Optim(lr=1e-3, weight_decay=0.0),
        run=Run(out="runs/nano_lora", steps=100, batch=1, dtype="fp32", device="cpu", save_every=50),
    )


def linear_probe() -> TrainConfig:
    """A head learns classes from what a tower sees; the tower stays. Rows are a picture and its label.

    Epochs, warm-up and clipping are those of the published probes of InternViT-6B on ImageNet-1k, whose 1024 rows were
    on many GPUs: set data.rows to what fits. They used SGD (rate 0.1 for 512 rows), Mixup and CutMix; here it is AdamW
    with a rate of ours, and label smoothing alone. start.pooling=attention learns an attention pool too. With
    held-out rows (data.held_out, run.eval_every), run.best=top1 keeps what is right most often.
    """
    return TrainConfig(
        start=Start(model="OpenGVLab/InternViT-300M-448px-V2_5"),
        learn=Learn(vision=False),
        data=Data(path="data/labels.jsonl", batching="plain", rows=64),
        objective=Aim(kind="classify", label_smoothing=0.1),
        optim=Optim(lr=1e-3, weight_decay=0.0, warmup=0.1, clip=5.0),
        run=Run(out="runs/linear_probe", epochs=10, batch=64),
    )


def classify() -> TrainConfig:
    """A tower and its head learn classes together; the lower a block, the slower. Rows are a picture and its label.

    Rate (5e-4 for 512 rows) and its least (a hundredth), decays, drop path, warm-up, clipping and smoothing are the
    defaults of the first code base, which shipped no recipe and no result; its 300 epochs are for ImageNet, ten are a
    beginning. Positions and class tokens decayed there and do not here; its Mixup, CutMix, random augmentation and
    average of weights are not here. With held-out rows, run.best=top1 keeps what is right most often.
    """
    probe = linear_probe()
    return TrainConfig(
        start=Start(model="OpenGVLab/InternViT-300M-448px-V2_5", drop_path=0.1),
        data=probe.data,
        objective=probe.objective,
        optim=Optim(
            lr=6.25e-5,
            weight_decay=0.05,
            decay_all=False,
            vision_layer_decay=0.875,
            warmup=0.07,
            floor=0.01,
            clip=5.0,
        ),
        run=Run(out="runs/classify", epochs=10, batch=64),
    )


TABLE: Mapping[str, Recipe] = {
    "finetune": Recipe(make=finetune),
    "lora": Recipe(make=lora),
    "mpo": Recipe(make=mpo),
    "nano_lora": Recipe(make=nano_lora),
    "linear_probe": Recipe(make=linear_probe),
    "classify": Recipe(make=classify),
}

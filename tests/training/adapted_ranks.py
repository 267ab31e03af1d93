"""What each of two ranks does for `test_adapters_in_shards.py`: steps with adapters, and a checkpoint on the way."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from internvl.models.chat import ChatModel
from internvl.training.checkpoint import Saver, latest, restore
from internvl.training.config import Learn, Optim, Parallel
from internvl.training.learn import choose
from internvl.training.optim import adamw
from internvl.training.parallel import World, parallelise, reduce_gradients, start_world
from internvl.weights.load import load
from tests.conftest import golden
from tests.models.tiny import random_ids

KINDS = {"shared": {}, "dora": {"dora": True, "lora_alpha": 5.0}, "int4": {"quantize": "int4"}}


def begun(how: str, world: World) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = load(golden("checkpoints/internlm2-v2_5"), dtype="float32", device="cpu")
    learn = Learn(vision=False, language=False, vision_lora=3, language_lora=4, lora_dropout=0.0, **KINDS[how])
    choose(model, learn, seed=1)
    model = parallelise(model, Parallel(), world, dtype="fp32")
    return model.train(), adamw(model, Optim(lr=1e-2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> float:
    """One step on four rows, divided over the ranks."""
    assert isinstance(model, ChatModel)
    rows = torch.arange(4) % world.size == world.rank
    ids = random_ids(4, 12, seed=3)[rows]
    loss = -model.token_logprobs(ids, ids).sum() / 44
    optimizer.zero_grad()
    loss.backward()
    reduce_gradients(model, world)
    optimizer.step()
    return world.sum({"loss": loss.item()})["loss"]


def run(out: Path, world: World) -> dict[str, list[float]]:
    """Losses of three steps; then those of two steps more, twice: going on, and restored."""
    found: dict[str, list[float]] = {}
    for how in KINDS:
        model, optimizer = begun(how, world)
        found[how] = [step(model, optimizer, world) for _ in range(3)]
        Saver(out / how, keep=1, world=world).save(3, model, optimizer, {}, wait=True)
        found[f"{how} on"] = [step(model, optimizer, world) for _ in range(2)]
        again, other = begun(how, world)
        folder = latest(out / how)
        assert folder is not None
        restore(folder, again, other, world)
        found[f"{how} again"] = [step(again, other, world) for _ in range(2)]
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with start_world("cpu") as here:
        losses = run(place, here)
        if here.rank == 0:
            (place / "losses.json").write_text(json.dumps(losses))

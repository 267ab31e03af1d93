"""What each rank does for `test_preferences_on_ranks.py`: MPO of a sharded model with each kind of reference."""

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from internvl.data.packing import collate_chat
from internvl.training.chat_objectives import Preferences
from internvl.training.config import Aim, Parallel
from internvl.training.model_folder import reshard, whole_tensors
from internvl.training.parallel import last_backward, parallelise, reduce_gradients
from internvl.training.reference import CachedReference, ModelReference, OwnReference, Reference
from internvl.training.world import World, start_world
from tests.models.tiny import chat_model
from tests.training.chats import preference

PAIRS = [
    preference(0, tiles=2),
    preference(1, tiles=0, asked=8, answered=(2, 9)),
    preference(2, tiles=1, answered=(11, 1)),
    preference(3, tiles=0, asked=1, answered=(4, 4)),
]
"""Two ranks that take every second one: one has all pictures, the other only text."""
FULL = Parallel(checkpoint_language=False, checkpoint_vision=False)


def stepped(model: nn.Module, reference: Reference, world: World) -> dict[str, list[float]]:
    """Three steps of plain descent; losses, rewards and delta of each."""
    objective = Preferences(Aim(kind="mpo", beta=0.5), reference, world=world)
    batch = collate_chat(PAIRS[world.rank :: world.size], packed=True)
    told: dict[str, list[float]] = {"loss": [], "margins": [], "delta": []}
    for _ in range(3):
        totals = world.sum(objective.totals(batch))
        with last_backward(model, world, last=True):
            loss = objective.loss(model, batch, totals)
            loss.value.backward()
        reduce_gradients(model, world)
        sums = {"loss": float(loss.value.detach()), "margins": float(loss.metrics["rewards/margins"])}
        for name, value in {**world.sum(sums), "delta": objective.delta.mean}.items():
            told[name].append(value)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-3 * (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
                parameter.grad = None
    return told


def run(out: Path, world: World) -> None:
    """With a second model, and with a cache that the model fills before it learns: one rank has read its part."""

    def model(seed: int) -> nn.Module:
        return parallelise(chat_model(seed=seed), FULL, world, dtype="fp32")

    def cached(learner: nn.Module) -> Reference:
        folder = out / f"cache-of-{world.size}"
        batch = collate_chat(PAIRS[world.rank :: world.size], packed=True)
        if world.rank == 0:  # known already, but the other rank needs it to compute what is not
            CachedReference(folder, identity="seed 0").fill(chat_model(), [batch], OwnReference())
        world.barrier()
        cache = CachedReference(folder, identity="seed 0", world=world)
        known = cache.fill(learner, [batch] * (1 + world.rank), OwnReference())
        assert known == (8 if world.size == 1 or world.rank == 1 else 4)  # its own, and what rank 0 had written before
        return cache

    ways: dict[str, Callable[[nn.Module], Reference]] = {
        "model": lambda _: ModelReference(model(0)),
        "cache": cached,
    }
    for name, way in ways.items():
        learner = model(0)
        told = stepped(learner, way(learner), world)
        reshard(learner)
        weights = whole_tensors(learner, keep=True)
        if world.rank == 0:
            save_file(weights, out / f"{name}-of-{world.size}.safetensors")
            (out / f"{name}-of-{world.size}.json").write_text(json.dumps(told))


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with start_world("cpu", patience=timedelta(seconds=60)) as world:
        run(out, world)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What each of two ranks does for `test_two_ranks.py`; what it found is written for the test to judge."""

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from internvl.errors import CheckpointError
from internvl.models.attention import KVCache
from internvl.training import parallel
from internvl.training.checkpoint import Saver, latest, restore
from internvl.training.config import Parallel
from internvl.training.parallel import World, gathered, parallelise, start_world
from tests.training.steps import EAGER, Ran, optimizer_of, pair_trained, tiny, train, trained

FULL = Parallel()


def note(out: Path, name: str, world: World, ran: Ran) -> None:
    """The numbers of every rank; the weights of every rank for whom they need not be equal."""
    save_file(ran.weights, out / f"{name}-{world.rank}.safetensors")
    told = {"losses": ran.losses, "norms": ran.norms}
    (out / f"{name}-{world.rank}.json").write_text(json.dumps(told))


def trainings(out: Path, world: World) -> None:
    """The same steps, divided in every way."""
    node = replace(world, node_size=1)
    ways: dict[str, Callable[[], Ran]] = {
        "none": lambda: trained("qwen2", EAGER, world),
        "full": lambda: trained("qwen2", FULL, world),
        "hybrid": lambda: trained("qwen2", Parallel(shard="hybrid"), node),
        "adapters": lambda: trained("llama", FULL, world, rank=4),
        "experts": lambda: trained("qwen3-moe", FULL, world),
        "bf16": lambda: trained("qwen2", FULL, world, dtype="bf16"),
        "pair": lambda: pair_trained(FULL, world),
        "pair-none": lambda: pair_trained(EAGER, world),
    }
    for name, way in ways.items():
        note(out, name, world, way())
    parallel.POSTPONED_BYTES = -1
    note(out, "exchanged-each-time", world, trained("qwen2", FULL, world))
    note(out, "hybrid-each-time", world, trained("qwen2", Parallel(shard="hybrid"), node))


def sharded(seed: int, world: World) -> tuple[nn.Module, torch.optim.AdamW]:
    model = parallelise(tiny("llama", drop=0.3, seed=seed), FULL, world, dtype="fp32")
    return model, optimizer_of(model)


def resuming(out: Path, world: World) -> None:
    """Saved and restored on two ranks; and what one rank saved, restored here and saved again."""
    torch.manual_seed(world.rank)
    model, optimizer = sharded(0, world)
    train(model, optimizer, world)
    saver = Saver(out / "two", keep=2, world=world)
    saver.save(3, model, optimizer, {"rows": world.gather_json(world.rank)})
    note(out, "went-on", world, train(model, optimizer, world))
    saver.wait()
    model, optimizer = sharded(1, world)
    state = restore(out / "two" / "step-000003", model, optimizer, world)
    assert state == {"rows": [0, 1]}
    note(out, "resumed", world, train(model, optimizer, world))

    found = latest(out / "one")
    assert found is not None
    model, optimizer = sharded(2, world)
    restore(found, model, optimizer, world)
    Saver(out / "one-two", keep=2, world=world).save(3, model, optimizer, {}, wait=True)

    node = replace(world, node_size=1)
    model = parallelise(tiny("llama", seed=2), Parallel(shard="hybrid"), node, dtype="fp32")
    optimizer = optimizer_of(model)
    restore(found, model, optimizer, world)
    Saver(out / "one-copies", keep=2, world=world).save(3, model, optimizer, {}, wait=True)


def failing(out: Path, world: World) -> None:
    """One rank's disk is full; both hear of it, and a later save is whole."""
    model, optimizer = sharded(0, world)
    train(model, optimizer, world, steps=(0,))
    saver = Saver(out / "full-disk", keep=2, world=world)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    saver.save(1, model, optimizer, {})
    try:
        saver.wait()
        fault = ""
    except CheckpointError as error:
        fault = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (out / f"failing-{world.rank}.json").write_text(json.dumps(fault))
    saver.save(2, model, optimizer, {}, wait=True)


def telling(out: Path, world: World) -> None:
    """What ranks tell each other."""
    torch.manual_seed(world.rank)
    rows = torch.full((2 + world.rank, 3), float(world.rank), requires_grad=True)
    seen = world.gather(rows)
    ((world.rank + 1) * seen.cumsum(0)).sum().backward()
    assert rows.grad is not None
    found: dict[str, Any] = {
        "json": world.gather_json({"rank": world.rank, "text": "ä" * (10 * world.rank)}),
        "sum": world.sum({"both": 0.1 + world.rank, f"only {world.rank}": 1.0}),
        "mean": world.mean(float(world.rank)),
        "any": [world.any(world.rank == 1), world.any(False)],
        "gather": seen.tolist(),
        "grad": rows.grad.tolist(),
        "world": {key: str(value) for key, value in asdict(world).items()},
    }
    world.barrier()
    (out / f"telling-{world.rank}.json").write_text(json.dumps(found))


def answering(out: Path, world: World) -> None:
    """Ranks answer with different lengths between two steps of training; nobody waits for anybody."""
    torch.manual_seed(0)
    model, optimizer = sharded(0, world)
    first = train(model, optimizer, world, steps=(0,))
    alone = tiny("llama").eval()
    alone.load_state_dict(first.weights)
    with torch.no_grad(), gathered(model.eval()):
        answers = [greedy(each, 3 + 4 * world.rank) for each in (model, alone)]
    assert answers[0] == answers[1]
    torch.manual_seed(0)
    note(out, "answered", world, train(model.train(), optimizer, world, steps=(1,)))
    torch.manual_seed(0)
    model, optimizer = sharded(0, world)
    train(model, optimizer, world, steps=(0,))
    torch.manual_seed(0)
    note(out, "did-not-answer", world, train(model, optimizer, world, steps=(1,)))


def greedy(model: nn.Module, count: int) -> list[int]:
    cache = KVCache(model.config.text, slots=1, max_len=32)
    found = [int(model.prefill(torch.tensor([[5, 6, 7]]), cache=cache).argmax())]
    while len(found) < count:
        found.append(int(model.step(torch.tensor([found[-1:]]), cache=cache).argmax()))
    return found


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with start_world("cpu", patience=timedelta(seconds=120)) as world:
        for work in (telling, trainings, resuming, failing, answering):
            work(out, world)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

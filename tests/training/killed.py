"""Saves in a loop, in a child that is killed at a random moment, again and again; checks what is left each time."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from internvl.training.checkpoint import Saver, latest, restore
from tests.training.steps import optimizer_of, tiny

KEEP = 2


def fill(model, optimizer, step: int) -> None:
    """Weights and moments that tell which step they are of."""
    for parameter in model.parameters():
        parameter.data.fill_(step)
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step)),
            "exp_avg": torch.full_like(parameter, step + 0.5),
            "exp_avg_sq": torch.full_like(parameter, step + 0.25),
        }


def check(folder: Path, model, optimizer, promised: int) -> int:
    """The newest checkpoint is whole, all of one step, and not older than what was promised."""
    found = latest(folder)
    if found is None:
        assert promised == 0, f"step {promised} was whole, and nothing is left"
        return 0
    step = restore(found, model, optimizer)["step"]
    assert found.name == f"step-{step:06}"
    assert promised <= step <= promised + 1, f"{found} after step {promised} was whole"
    for parameter in model.parameters():
        moments = optimizer.state[parameter]
        assert bool((parameter == step).all())
        assert float(moments["step"]) == step
        assert bool((moments["exp_avg"] == step + 0.5).all())
        assert bool((moments["exp_avg_sq"] == step + 0.25).all())
    return step


def save_forever(folder: Path, model, optimizer, step: int, told: int) -> None:
    saver = Saver(folder, keep=KEEP)
    while True:
        step += 1
        fill(model, optimizer, step)
        saver.save(step, model, optimizer, {"step": step})
        saver.wait()
        os.write(told, f"{step}\n".encode())


def main(folder: Path, kills: int) -> None:
    torch.set_num_threads(1)
    model = tiny()
    optimizer = optimizer_of(model)
    draw, promised, unfinished = random.Random(), 0, 0
    for _ in range(kills):
        ear, mouth = os.pipe()
        child = os.fork()
        if child == 0:
            save_forever(folder, model, optimizer, promised, mouth)
        os.close(mouth)
        time.sleep(draw.uniform(0.02, 0.6))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(ear) as lines:
            said = lines.read().split()
        unfinished += any(folder.glob("step-*.tmp"))
        promised = check(folder, model, optimizer, int(said[-1]) if said else promised)
    print(json.dumps({"kills": kills, "unfinished": unfinished, "step": promised}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

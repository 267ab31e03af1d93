"""Ten million rows: what a process holds of them, and that workers hold no copies."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

ROWS = 10_000_000

PROGRAM = """
import json, random, sys
from pathlib import Path
import torch
from torch.utils.data import DataLoader, Dataset
from internvl.data.mixture import Mixture, Source
from internvl.data.rows import open_rows

def own():
    '''KiB that this process alone holds: without pages of files, which all share and the system may drop.'''
    kept = ("Private_Dirty:", "Swap:")
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kept))

def rss():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmRSS"))

class Places(Dataset):
    def __init__(self, mixture): self.mixture = mixture
    def __len__(self): return 500
    def __getitem__(self, index):
        place = self.mixture.place(index * 7919)
        row = self.mixture.rows[0][place.row]
        return own(), row["n"] == place.row

if __name__ == "__main__":
    path = sys.argv[1]
    before, own_before = rss(), own()
    rows = open_rows(path)
    chosen = [random.Random(0).randrange(len(rows)) for _ in range(1000)]
    right = all(rows[index]["n"] == index for index in chosen)
    mixture = Mixture([Source(annotation=path, kind="pair")])
    right &= len({mixture.place(position).row for position in range(1000)}) == 1000
    grown, own_grown = rss() - before, own() - own_before
    torch.set_num_threads(1)
    answers = [a for context in ("fork", "spawn")
               for a in DataLoader(Places(mixture), batch_size=None, num_workers=2, multiprocessing_context=context)]
    print(json.dumps({"rows": len(rows), "right": right and all(ok for _, ok in answers), "grown": grown,
                      "own_grown": own_grown, "worker": max(held for held, _ in answers), "base": own_before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="reads Linux's account of a process")
def test_memory_is_flat(tmp_path):
    """An index of ten million places has 80 MB, and a list of ten million lines would have 600 MB."""
    path = tmp_path / "many.jsonl"
    width = len(str(ROWS - 1))
    template = np.frombuffer(b'{"n":' + b" " * width + b"}\n", np.uint8)
    with path.open("wb") as out:
        for start in range(0, ROWS, 1_000_000):
            numbers = np.arange(start, start + 1_000_000)
            lines = np.tile(template, (len(numbers), 1))
            for digit in range(width):
                power = 10 ** (width - 1 - digit)
                figures = (numbers // power % 10 + ord("0")).astype(np.uint8)
                lines[:, 5 + digit] = np.where((numbers >= power) | (power == 1), figures, ord(" "))
            out.write(lines.tobytes())
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(program), str(path)], env=environment, capture_output=True, text=True)
    for file in (path, *(tmp_path / "cache" / "internvl").iterdir()):
        file.unlink()  # 220 MB
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"] == ROWS
    assert found["right"]
    assert found["grown"] < 32 * 1024, "KiB; 2.3 MB were seen, and an index in memory would have 80"
    assert found["worker"] < found["base"] + 16 * 1024, "KiB; what a worker holds is torch: 1 MB more was seen"
